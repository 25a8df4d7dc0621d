"""The front page in a real browser: Chromium without a window, driven over the DevTools protocol on loopback.

Rule 1: the page itself has no script, so all questions are asked from outside (`Runtime.evaluate`, `Emulation.*`).
Rule 2: without Chromium the tests are skipped with a reason, and fail where ACMECA_REQUIRE_ALL=1.
"""

import asyncio
import base64
import itertools
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import pytest
from aiohttp import web

from acmeca.urls import Paths
from acmeca.web.front_page import FrontPageModel, add_front_page
from tests.support.front_page import make_demo_model, make_model
from tests.support.server import running_ca

pytestmark = pytest.mark.interop

SCHEMES = ("light", "dark")
WIDTHS = (360, 1280)

# Every element that shows text of its own: its colour, what lies behind it, its size and weight.
TEXT_COLOURS = """
(() => {
  const painted = [];
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility()) continue;
    let behind = element;
    while (behind && /^rgba\\(.*, 0\\)$|^transparent$/.test(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
    painted.push([element.tagName + "." + element.className, getComputedStyle(element).color,
                  behind ? getComputedStyle(behind).backgroundColor : "none"]);
  }
  return painted;
})()
"""

TOO_WIDE = """
[...document.body.querySelectorAll("*")]
  .filter(e => e.checkVisibility() && !e.matches(".skip") && e.getBoundingClientRect().right > innerWidth + 0.5)
  .map(e => e.tagName + "." + e.className + " " + e.textContent.trim().slice(0, 60))
"""


# A client in a page: nothing of ours but the directory's URL. A key that no script can read signs (WebCrypto gives r and s as JWS wants).
ACME_CLIENT = """
async directoryUrl => {
  const encode = bytes => btoa(String.fromCharCode(...new Uint8Array(bytes)))
    .replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  const utf8 = text => new TextEncoder().encode(text);
  const directory = await (await fetch(directoryUrl)).json();
  const keys = await crypto.subtle.generateKey({name: "ECDSA", namedCurve: "P-256"}, false, ["sign"]);
  const {kty, crv, x, y} = await crypto.subtle.exportKey("jwk", keys.publicKey);
  let nonce = (await fetch(directory.newNonce, {method: "HEAD"})).headers.get("Replay-Nonce");
  const post = async (url, signer, payload) => {
    const header = encode(utf8(JSON.stringify({alg: "ES256", nonce, url, ...signer})));
    const body = payload === null ? "" : encode(utf8(JSON.stringify(payload)));
    const signature = await crypto.subtle.sign({name: "ECDSA", hash: "SHA-256"}, keys.privateKey, utf8(header + "." + body));
    const answer = await fetch(url, {
      method: "POST",
      headers: {"Content-Type": "application/jose+json"},
      body: JSON.stringify({protected: header, payload: body, signature: encode(signature)}),
    });
    nonce = answer.headers.get("Replay-Nonce");
    return {status: answer.status, location: answer.headers.get("Location"), json: await answer.json()};
  };
  const made = await post(directory.newAccount, {jwk: {kty, crv, x, y}}, {contact: ["mailto:page@example.org"]});
  const read = await post(made.location, {kid: made.location}, null);
  const refused = await post(directory.newOrder, {kid: made.location}, {});
  return {made, read, refused};
}
"""


@dataclass(frozen=True)
class Chromium:
    """A running browser: where its DevTools listen, and the lines that it has logged."""

    devtools_url: str
    log: list[str]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    command = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if command is None:
        reason = "no chromium on this machine: apt-get install chromium"
        if os.environ.get("ACMECA_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    process = subprocess.Popen(
        [
            command,
            "--headless",
            "--no-sandbox",  # containers run the tests as root, where Chromium's sandbox does not start
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--no-proxy-server",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            "--remote-debugging-port=0",
            f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
            "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that its children go with it
    )
    log: list[str] = []
    found: queue.Queue[str | None] = queue.Queue()

    def read_log() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            log.append(line)
            if match := re.search(r"DevTools listening on (ws://\S+)", line):
                found.put(match[1])
        found.put(None)

    reader = threading.Thread(target=read_log, daemon=True)
    reader.start()
    try:
        url = found.get(timeout=60)
        assert url is not None, "".join(log)
        yield Chromium(url, log)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join(timeout=30)
        assert process.stderr is not None
        process.stderr.close()


@dataclass
class Tab:
    """One tab: commands that wait for their answers, and all events that it has sent."""

    socket: aiohttp.ClientWebSocketResponse
    session_id: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _pending: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    _watchers: dict[str, asyncio.Event] = field(default_factory=dict)

    async def read(self) -> None:
        async for message in self.socket:
            document = json.loads(message.data)
            if "id" in document:
                self._pending.pop(document["id"]).set_result(document)
            else:
                self.events.append(document)
                self._watchers.setdefault(document["method"], asyncio.Event()).set()

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._pending[number] = asyncio.get_running_loop().create_future()
        await self.socket.send_json({"id": number, "method": method, "params": params} | self._session())
        async with asyncio.timeout(60):
            document = await answer
        assert "error" not in document, (method, document)
        result: dict[str, Any] = document["result"]
        return result

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression; of a promise, what it comes to."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def open(self, url: str) -> None:
        loaded = self._watchers["Page.loadEventFired"] = asyncio.Event()
        await self.call("Page.navigate", url=url)
        async with asyncio.timeout(60):
            await loaded.wait()

    async def emulate(self, *, width: int, scheme: str, media: str = "screen") -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", media=media, features=features)

    async def screenshot(self) -> bytes:
        answer = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def complaints(self) -> list[dict[str, Any]]:
        """What a person would see in red: console errors, exceptions, CSP violations, requests that failed."""
        bad = {
            "Runtime.exceptionThrown",
            "Runtime.consoleAPICalled",
            "Log.entryAdded",
            "Audits.issueAdded",
            "Network.loadingFailed",
        }
        return [event for event in self.events if event["method"] in bad]

    def requested(self) -> list[str]:
        sent = (event for event in self.events if event["method"] == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent]

    def _session(self) -> dict[str, str]:
        return {"sessionId": self.session_id} if self.session_id else {}


OpenTab: TypeAlias = Callable[[], Any]


@pytest.fixture
def open_tab(chromium: Chromium) -> OpenTab:
    """A fresh tab in a profile of its own, with every domain enabled that complains about pages."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Tab]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(chromium.devtools_url, max_msg_size=64 * 2**20) as socket,
        ):
            tab = Tab(socket)
            reader = asyncio.create_task(tab.read())
            context = (await tab.call("Target.createBrowserContext"))["browserContextId"]
            target = (await tab.call("Target.createTarget", url="about:blank", browserContextId=context))["targetId"]
            tab.session_id = (await tab.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Audits", "Network"):
                await tab.call(f"{domain}.enable")
            yield tab
            tab.session_id = ""
            await tab.call("Target.disposeBrowserContext", browserContextId=context)
            await socket.close()
            await reader

    return opened


@asynccontextmanager
async def serving(model: FrontPageModel) -> AsyncIterator[str]:
    """The page on a loopback port; yields its origin."""
    app = web.Application()
    add_front_page(app, lambda: model)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def blank_page() -> AsyncIterator[str]:
    """An empty page on a loopback port, which is a secure context; yields its origin."""

    async def show(_: web.Request) -> web.Response:
        return web.Response(
            text="<!doctype html><title>empty</title><link rel=icon href=data:,>", content_type="text/html"
        )

    app = web.Application()
    app.router.add_get("/", show)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2.2, "relative luminance", between two opaque `rgb(r, g, b)` colours."""

    def luminance(colour: str) -> float:
        match = re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", colour)
        assert match is not None, colour
        parts = [int(part) / 255 for part in match.groups()]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_the_ratio_of_wcag() -> None:
    """Black on white is 21:1, a colour on itself 1:1; #767676 on white is the well-known edge of AA."""
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(9, 9, 9)", "rgb(9, 9, 9)") == pytest.approx(1)
    assert contrast("rgb(118, 118, 118)", "rgb(255, 255, 255)") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("make", [make_model, make_demo_model])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_the_page_shows_without_a_complaint(
    open_tab: OpenTab, make: Callable[[], FrontPageModel], width: int, scheme: str, tmp_path: Path
) -> None:
    """It renders in light and dark, wide and narrow: no console error, no CSP violation, nothing fetched from elsewhere,
    no sideways scrolling with every section open, and text that keeps WCAG AA."""
    model = make()
    async with serving(model) as origin, open_tab() as tab:
        await tab.emulate(width=width, scheme=scheme)
        await tab.open(origin + Paths.FRONT_PAGE)

        text = await tab.evaluate("document.body.innerText")
        assert model.ca_name in text
        assert model.directory_url in text
        assert "".join(model.root.fingerprint_groups) in re.sub(r"\s", "", text)

        await tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert await tab.evaluate("innerWidth") == width
        assert await tab.evaluate("document.documentElement.scrollWidth") <= width, await tab.evaluate(TOO_WIDE)
        assert await tab.evaluate(TOO_WIDE) == []

        painted = await tab.evaluate(TEXT_COLOURS)
        assert len(painted) > 60
        faint = [entry for entry in painted if contrast(entry[1], entry[2]) < 4.5]
        assert faint == []

        picture = await tab.screenshot()
        assert picture.startswith(b"\x89PNG")
        (tmp_path / f"front-{scheme}-{width}.png").write_bytes(picture)

        assert [url for url in tab.requested() if not url.startswith((origin + "/", "data:image/svg+xml"))] == []
        assert origin + Paths.STYLESHEET in tab.requested()
        assert tab.complaints() == []


async def test_light_and_dark_are_two_looks(open_tab: OpenTab) -> None:
    """`prefers-color-scheme` decides: a dark page has a dark background, a light one a light background."""
    background = "getComputedStyle(document.body).backgroundColor"
    async with serving(make_model()) as origin, open_tab() as tab:
        await tab.emulate(width=1280, scheme="light")
        await tab.open(origin)
        light = await tab.evaluate(background)
        await tab.emulate(width=1280, scheme="dark")
        dark = await tab.evaluate(background)
    assert contrast(light, "rgb(0, 0, 0)") > 15
    assert contrast(dark, "rgb(255, 255, 255)") > 15


async def test_paper_shows_what_is_folded_on_the_screen(open_tab: OpenTab) -> None:
    """Printed, every command is there, though nobody can unfold a sheet of paper."""
    folded = "[...document.querySelectorAll('details:not([open]) pre')].map(pre => pre.checkVisibility() && pre.offsetHeight > 10)"
    async with serving(make_model()) as origin, open_tab() as tab:
        await tab.emulate(width=800, scheme="light")
        await tab.open(origin)
        on_screen = await tab.evaluate(folded)
        await tab.emulate(width=800, scheme="light", media="print")
        on_paper = await tab.evaluate(folded)
    assert len(on_paper) > 10
    assert not any(on_screen)
    assert all(on_paper)


async def test_the_keyboard_reaches_everything(open_tab: OpenTab) -> None:
    """The first stop is the skip link, each stop shows where it is, and summaries open with the keyboard."""
    async with serving(make_model()) as origin, open_tab() as tab:
        await tab.emulate(width=1280, scheme="light")
        await tab.open(origin)
        stops: list[str] = []
        for _ in range(80):
            await _press(tab, "Tab", 9)
            where = await tab.evaluate(
                "document.activeElement.tagName + ' ' + document.activeElement.textContent.trim()"
            )
            if where.startswith("BODY"):
                break
            outline = await tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid", where
            stops.append(where)
        assert stops[0] == "A Skip to the content"
        assert "SUMMARY Debian and Ubuntu" in stops
        await tab.evaluate("[...document.querySelectorAll('summary')].find(s => s.textContent === 'macOS').focus()")
        assert await tab.evaluate("document.activeElement.parentElement.open") is False
        await _press(tab, "Enter", 13, text="\r")
        assert await tab.evaluate("document.activeElement.parentElement.open") is True


async def test_hostile_values_stay_text(open_tab: OpenTab) -> None:
    """A CA named like a script is shown like a script and runs nowhere."""
    name = "<script>window.owned = 1</script><img src=x onerror='window.owned = 2'>"
    hostile = make_model(ca_name=name, organization=name, allowed_names=(name,), version=name)
    async with serving(hostile) as origin, open_tab() as tab:
        await tab.emulate(width=360, scheme="light")
        await tab.open(origin)
        assert await tab.evaluate("document.querySelector('h1').textContent") == name
        assert await tab.evaluate("typeof window.owned") == "undefined"
        assert await tab.evaluate("document.querySelectorAll('script, img, iframe').length") == 0
        assert await tab.evaluate("document.documentElement.scrollWidth") <= 360
        assert tab.complaints() == []


async def test_the_policy_stops_what_the_page_never_does(open_tab: OpenTab) -> None:
    """The Content-Security-Policy is in force, and `complaints` would see a violation: an inline style is refused."""
    async with serving(make_model()) as origin, open_tab() as tab:
        await tab.open(origin)
        assert tab.complaints() == []
        await tab.evaluate("document.body.insertAdjacentHTML('beforeend', '<p id=late style=\"color: red\">late</p>')")
        assert await tab.evaluate("getComputedStyle(document.getElementById('late')).color") != "rgb(255, 0, 0)"
        await tab.evaluate("0")
        assert any("Content Security Policy" in json.dumps(event) for event in tab.complaints())


async def test_an_acme_client_in_a_page(open_tab: OpenTab) -> None:
    """RFC 8555 §6.1: "ACME servers … need to use Cross-Origin Resource Sharing (CORS) in order to be accessible from browser-based
    clients": a page of another origin reads the directory, gets nonces, makes an account and reads a problem.
    """
    async with running_ca() as ca, blank_page() as origin, open_tab() as tab:
        await tab.call("Security.setIgnoreCertificateErrors", ignore=True)  # our root is in nobody's trust store
        await tab.open(origin)
        result = await tab.evaluate(f"({ACME_CLIENT})({json.dumps(ca.directory_url)})")
        assert result["made"]["status"] == 201
        assert result["made"]["location"].startswith(ca.urls.account(""))
        assert result["made"]["json"]["contact"] == ["mailto:page@example.org"]
        assert result["read"] == {"status": 200, "location": None, "json": result["made"]["json"]}
        assert (result["refused"]["status"], result["refused"]["json"]["type"].rpartition(":")[2]) == (400, "malformed")
        assert await ca.scalar("SELECT COUNT(*) AS n FROM accounts") == 1
        assert not any("CORS" in json.dumps(event) for event in tab.complaints())


async def test_a_page_that_is_not_let_in(open_tab: OpenTab) -> None:
    """`server.cors = false`, and the proof that the browser above would not have read anything without those headers."""
    async with running_ca(server={"cors": False}) as ca, blank_page() as origin, open_tab() as tab:
        await tab.call("Security.setIgnoreCertificateErrors", ignore=True)
        await tab.open(origin)
        url = json.dumps(ca.directory_url)
        assert await tab.evaluate(f"fetch({url}).then(() => 'read', error => error.name)") == "TypeError"
        assert any("CORS" in json.dumps(event) for event in tab.complaints())


async def _press(tab: Tab, key: str, code: int, *, text: str = "") -> None:
    for kind in ("keyDown", "keyUp"):
        await tab.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)
