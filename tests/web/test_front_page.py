"""The front page: what it says, how it is served, and that no value can become markup or a command."""

import asyncio
import base64
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, make_mocked_request
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca import resources
from acmeca.urls import Paths
from acmeca.web.front_page import FrontPageModel, FrontPageSource, _show_page, add_front_page, build_certificate_card
from tests.support.front_page import BASE, STATUS, SampleChain, make_chain, make_demo_model, make_model

Client = TestClient[web.Request, web.Application]
StartClient = Callable[[web.Application], Awaitable[Client]]

CHAIN = make_chain()
MODEL = make_model(CHAIN)
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Document(HTMLParser):
    """A page taken apart strictly: every tag is closed in order, and there is no stray `<` or `&`."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=False)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), attrs
        self.tags.append((tag, dict(attrs)))
        if tag in {"figure", "p", "pre"} and self._open and self._open[-1] == "code":
            raise AssertionError(f"<{tag}> inside <code>")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        assert "<" not in data
        assert "&" not in data
        self._add(data)

    def handle_entityref(self, name: str) -> None:
        self._add({"lt": "<", "gt": ">", "amp": "&"}[name])

    def handle_charref(self, name: str) -> None:
        self._add(chr(int(name)))

    def text(self, *path: str) -> list[str]:
        """The whole text of each element of that kind (`h1`, or `figure`, `code` for one inside the other)."""
        found: list[str] = []
        inside = False
        for open_tags, data in self.texts:
            here = all(tag in open_tags for tag in path)
            if here and inside:
                found[-1] += data
            elif here:
                found.append(data)
            inside = here
        return found

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.tags if name in attributes]

    @property
    def shape(self) -> list[str]:
        return [tag for tag, _ in self.tags]

    @property
    def commands(self) -> list[str]:
        return self.text("pre", "code")

    def _add(self, data: str) -> None:
        self.texts.append((tuple(self._open), data))


def make_app(source: FrontPageSource) -> web.Application:
    app = web.Application()
    add_front_page(app, source)
    return app


_SHOWN: list[FrontPageModel] = []
_APP = make_app(lambda: _SHOWN[-1])  # one for all renderings: reading the template is the slow part


async def render(model: FrontPageModel) -> Document:
    """The page without a socket."""
    _SHOWN[:] = [model]
    request = make_mocked_request("GET", Paths.FRONT_PAGE, app=_APP)
    request._match_info = cast("Any", _MatchInfo(_APP))
    body = (await _show_page(request)).body
    assert isinstance(body, bytes)
    return Document(body.decode())


def render_now(model: FrontPageModel) -> Document:
    """The same for a test that starts processes and waits for them."""
    return asyncio.run(render(model))


class _MatchInfo:
    """What aiohttp hangs on a request that was routed: just the application."""

    def __init__(self, app: web.Application) -> None:
        self.current_app = app
        self.apps = (app,)


def split_shell(command: str) -> list[str]:
    """The words that a shell would see; `shlex` alone does not join continued lines."""
    return shlex.split(command.replace("\\\n", " "))


def require(program: str) -> str:
    """The program's path; the test is skipped without it, or fails where nothing may be skipped."""
    found = shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))
    if found is None:
        reason = f"no {program} on this machine"
        if os.environ.get("ACMECA_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


class TestServing:
    @pytest.fixture
    async def client(self, aiohttp_client: StartClient) -> Client:
        return await aiohttp_client(make_app(lambda: MODEL))

    async def test_the_page_comes_with_a_strict_policy(self, client: Client) -> None:
        """CSP 3 §6.1: base-uri, form-action and frame-ancestors do not fall back to default-src, so they are named."""
        response = await client.get(Paths.FRONT_PAGE)
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        policy = dict(part.strip().split(" ", 1) for part in response.headers["Content-Security-Policy"].split(";"))
        assert policy == {
            "default-src": "'none'",
            "style-src": "'self'",
            "img-src": "data:",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["Cache-Control"] == "public, max-age=60"
        assert "Set-Cookie" not in response.headers

    @pytest.mark.parametrize("path", [Paths.FRONT_PAGE, Paths.STYLESHEET])
    async def test_head_is_get_without_the_body(self, client: Client, path: str) -> None:
        """RFC 9110 §9.3.2: HEAD "is identical to GET except that the server MUST NOT send content in the response"."""
        get, head = await client.get(path), await client.head(path)
        assert (await head.read()) == b""
        assert {name: value for name, value in get.headers.items() if name != "Date"} == {
            name: value for name, value in head.headers.items() if name != "Date"
        }
        assert int(head.headers["Content-Length"]) == len(await get.read()) > 1000

    @pytest.mark.parametrize("path", [Paths.FRONT_PAGE, Paths.STYLESHEET])
    async def test_a_known_etag_is_answered_304(self, client: Client, path: str) -> None:
        """RFC 9110 §15.4.5: a 304 "MUST generate any of the following header fields that would have been sent in a 200": among
        them Cache-Control and ETag. §13.1.2: If-None-Match is compared weakly, and `*` matches what exists."""
        etag = (await client.get(path)).headers["ETag"]
        for known in (etag, f'"other", {etag}', f"W/{etag}", "*"):
            response = await client.get(path, headers={"If-None-Match": known})
            assert response.status == 304, known
            assert response.headers["ETag"] == etag
            assert response.headers["Cache-Control"] == "public, max-age=60"
            assert await response.read() == b""
        assert (await client.get(path, headers={"If-None-Match": '"other"'})).status == 200

    async def test_the_stylesheet_is_ours_and_asks_for_nothing(self, client: Client) -> None:
        response = await client.get(Paths.STYLESHEET)
        text = await response.text()
        assert response.headers["Content-Type"] == "text/css; charset=utf-8"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert text.encode() == (resources.find("templates") / "style.css").read_bytes()
        assert not re.search(r"url\(|@import|https?:|expression\(", text)

    async def test_other_methods_are_refused(self, client: Client) -> None:
        """RFC 9110 §15.5.6: "The origin server MUST generate an Allow header field in a 405 response"."""
        for path in (Paths.FRONT_PAGE, Paths.STYLESHEET):
            response = await client.post(path)
            assert response.status == 405
            assert set(response.headers["Allow"].split(",")) == {"GET", "HEAD"}

    async def test_the_model_is_asked_each_time(self, aiohttp_client: StartClient) -> None:
        """A new issuer shows without a restart, and with a new ETag."""
        models = iter([MODEL, replace(MODEL, ca_name="Another name")])
        client = await aiohttp_client(make_app(lambda: next(models)))
        first, second = await client.get("/"), await client.get("/")
        assert "Another name" not in await first.text()
        assert "Another name" in await second.text()
        assert first.headers["ETag"] != second.headers["ETag"]

    async def test_the_model_may_be_awaited(self, aiohttp_client: StartClient) -> None:
        async def read_model() -> FrontPageModel:
            return MODEL

        client = await aiohttp_client(make_app(read_model))
        assert MODEL.ca_name in await (await client.get("/")).text()

    async def test_two_listeners_serve_the_same_page(self, aiohttp_client: StartClient) -> None:
        acme, status = [await aiohttp_client(make_app(lambda: MODEL)) for _ in range(2)]
        assert await (await acme.get("/")).read() == await (await status.get("/")).read()


class TestContent:
    async def test_it_says_which_ca_this_is(self) -> None:
        page = await render(MODEL)
        assert page.text("h1") == ["Example Internal CA"]
        everything = "".join(text for _, text in page.texts)
        for value in (
            "Internal certificate authority",
            "Example Corporation",
            "*.corp.internal",
            "*.lab.corp.internal",
            "intranet",
            f"{BASE}/acme/directory",
            f"{STATUS}/ocsp/a1b2c3",
            f"{STATUS}/crl/a1b2c3.crl",
            "CN=Example Internal CA Root 2026, O=Example Corporation",
            "CN=Example Internal CA Issuer 1, O=Example Corporation",
            "2026-11-02 09:30 UTC",
            "2036-10-30 09:29 UTC",
            "0.1.0",
        ):
            assert value in everything, value

    async def test_it_warns_that_it_may_have_come_over_http(self) -> None:
        """RFC 5280 §6.1.1 (d): trust anchor information is trusted because it was delivered "by some trustworthy out-of-band
        procedure"."""
        everything = " ".join("".join(text for _, text in (await render(MODEL)).texts).split())
        assert "Compare the fingerprint before you trust the root." in everything
        assert "plain http" in everything
        assert "in another way" in everything

    async def test_links_lead_to_the_servers_own_urls_only(self) -> None:
        page = await render(MODEL)
        ids = page.attributes("id")
        assert len(ids) == len(set(ids))
        links = page.attributes("href")
        assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
        assert set(page.attributes("aria-labelledby")) <= set(ids)
        elsewhere = {link for link in links if not link.startswith(("#", "data:image/svg+xml,"))}
        assert elsewhere == {
            Paths.STYLESHEET,
            f"{STATUS}/issuer/root1.pem",
            f"{STATUS}/issuer/root1.der",
            f"{STATUS}/crl/root1.crl",
            f"{STATUS}/issuer/a1b2c3.pem",
            f"{STATUS}/issuer/a1b2c3.der",
            f"{STATUS}/crl/a1b2c3.crl",
            f"{STATUS}/roots.pem",
            f"{STATUS}/bundle.pem",
        }

    async def test_there_is_no_script_and_no_inline_style(self) -> None:
        page = await render(MODEL)
        assert not {"script", "style", "iframe", "img", "object", "embed", "form", "base", "svg"} & set(page.shape)
        names = {name for _, attributes in page.tags for name in attributes}
        assert not [name for name in names if name == "style" or name.startswith("on")]
        assert not {"src", "srcset", "action", "ping"} & names

    async def test_the_contents_list_every_section(self) -> None:
        page = await render(MODEL)
        sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
        assert len(sections) == 5
        assert [link for link in page.attributes("href") if link[1:] in sections][:5] == [f"#{id_}" for id_ in sections]
        assert {"header", "nav", "main", "footer"} <= set(page.shape)
        assert page.shape.count("main") == page.shape.count("h1") == 1

    async def test_every_platform_has_its_commands(self) -> None:
        page = await render(MODEL)
        assert [summary.strip() for summary in page.text("summary")] == [
            "Debian and Ubuntu",
            "Fedora, RHEL and their kin",
            "Alpine",
            "Arch Linux",
            "openSUSE and SLES",
            "macOS",
            "Windows",
            "Firefox",
            "Chrome and Chromium on Linux",
            "curl",
            "Python: requests, httpx, certifi",
            "Node.js",
            "Java",
            "Container images",
            "Kubernetes",
            "Remove the root",
            "certbot",
            "lego",
            "acme.sh",
            "Caddy",
            "cert-manager",
            "Staple the answer with nginx",
        ]
        everything = "\n".join(page.commands)
        for part in (
            "sudo update-ca-certificates",
            "sudo update-ca-trust",
            "apk add ca-certificates",
            "trust anchor --store example-internal-ca-root.pem",
            "security add-trusted-cert -d -r trustRoot",
            "certutil -addstore -f Root example-internal-ca-root.crt",
            "Import-Certificate -FilePath 'example-internal-ca-root.crt'",
            "keytool -importcert",
            "REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt",
            "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
            'NODE_EXTRA_CA_CERTS="$PWD"/example-internal-ca-root.pem',
            f"curl --cacert example-internal-ca-root.pem {BASE}/acme/directory",
            f"curl -fsS -o example-internal-ca-root.pem {STATUS}/issuer/root1.pem",
            "caBundle: $(base64 < example-internal-ca-root.pem | tr -d '\\n')",
            "&& update-ca-certificates",
        ):
            assert part in everything, part

    async def test_every_client_is_given_the_directory_and_the_example(self) -> None:
        page = await render(MODEL)
        for client, example in (
            ("certbot certonly", "-d demo.corp.internal"),
            ("lego run", "--domains demo.corp.internal"),
            ("lego --accept-tos", "--domains demo.corp.internal"),
            ("acme.sh --issue", "-d demo.corp.internal"),
            ("issuer acme", "demo.corp.internal {"),
            ("kind: ClusterIssuer", "server: "),
            ("certbot revoke", "--reason keycompromise"),
        ):
            commands = [command for command in page.commands if client in command]
            assert commands, client
            assert all(f"{BASE}/acme/directory" in command for command in commands), client
            assert any(example in command for command in commands), client

    @pytest.mark.parametrize(
        ("option", "client"),
        [
            ("--http-01-port {}", "certbot certonly"),
            ("--http.address :{}", "lego run"),
            ("--http.port :{}", "lego --accept-tos"),
            ("--httpport {}", "acme.sh --issue"),
            ("http_port {}", "issuer acme"),
        ],
    )
    async def test_clients_are_told_of_a_port_that_is_not_80(self, option: str, client: str) -> None:
        """RFC 8555 §8.3 has http-01 on port 80; where a server is configured for another, its clients have to know."""
        there = [command for command in (await render(replace(MODEL, http_port=5002))).commands if client in command]
        assert there
        assert all(option.format(5002) in command for command in there)
        usual = [command for command in (await render(MODEL)).commands if client in command]
        assert usual
        assert not any(option.format("") in command for command in usual)

    async def test_the_banner_is_for_the_demonstration(self) -> None:
        demo, real = await render(make_demo_model()), await render(MODEL)
        assert "demo" in demo.attributes("class")
        assert "demo" not in real.attributes("class")
        assert any("demo.localhost" in command for command in demo.commands)

    async def test_it_renders_with_the_least_that_there_can_be(self) -> None:
        """Before its first issuer, with no names allowed and nothing optional: the page says so and does not fail."""
        card = replace(MODEL.root, crl_url=None, ocsp_url=None)
        page = await render(replace(MODEL, root=card, issuers=(), allowed_names=(), organization=""))
        everything = "".join(text for _, text in page.texts)
        assert "no names yet" in everything
        assert "openssl ocsp" not in everything
        assert "ssl_stapling" not in everything

    async def test_networks_are_shown_beside_names(self) -> None:
        page = await render(replace(MODEL, allowed_networks=("10.0.0.0/8", "fd00::/8")))
        everything = "".join(text for _, text in page.texts)
        assert "10.0.0.0/8" in everything
        assert "fd00::/8" in everything

    async def test_what_a_new_account_needs_is_told(self) -> None:
        usual = "".join((await render(MODEL)).text())
        assert "HMAC key" not in usual
        assert "terms of service" not in usual
        url = "https://pki.corp.internal/terms?a=<&b"
        asked = "".join((await render(replace(MODEL, external_account_required=True, terms_of_service=url))).text())
        assert "--eab-kid" in asked
        assert url in asked

    async def test_profiles_are_listed_the_default_first(self) -> None:
        page = await render(MODEL)
        told = [" ".join(text.split()) for text in page.text("li")]
        assert "server TLS server, 90d (for whoever asks for none)" in told
        assert "client TLS client, 90d" in told
        alone = await render(replace(MODEL, profiles=(("server", "TLS server, 90d"),)))
        assert "Profiles" not in alone.text("dt"), "there is nothing to choose from"

    async def test_nginx_gets_a_resolver_only_for_a_host_name(self) -> None:
        """nginx resolves the OCSP host by its own `resolver`, and needs none for an address."""
        named = "\n".join((await render(MODEL)).commands)
        issuer = MODEL.issuers[0]
        for ocsp_url in ("http://192.0.2.7:8080/ocsp/a", "http://[2001:db8::7]:8080/ocsp/a"):
            model = replace(MODEL, issuers=(replace(issuer, ocsp_url=ocsp_url),))
            assert "resolver" not in "\n".join((await render(model)).commands)
        assert "resolver  " in named


class TestHostileValues:
    @settings(max_examples=40, deadline=None)
    @given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60))
    async def test_no_text_becomes_markup(self, text: str) -> None:
        """Whatever a CA, a subject or a pattern is called, the page has the same elements and shows the very text."""
        hostile = replace(
            MODEL,
            ca_name=text,
            organization=f"{text}.",
            version=text,
            allowed_names=(text, "*.corp.internal"),
            profiles=(("server", text), ("client", f"{text}.")),
            root=replace(MODEL.root, subject=text),
        )
        plain = replace(MODEL, allowed_names=("plain", "*.corp.internal"))
        page = await render(hostile)
        assert page.shape == (await render(plain)).shape
        assert page.text("h1") == [text]
        assert page.attributes("href") == (await render(plain)).attributes("href")

    @pytest.mark.parametrize(
        "text",
        [
            "<script>alert(1)</script>",
            '"><img src=x onerror=alert(1)>',
            "'; rm -rf / #",
            "$(reboot)",
            "`reboot`",
            "{{ 7 * 7 }}",
        ],
    )
    async def test_no_text_becomes_a_command(self, text: str) -> None:
        """Free text reaches no command at all: what stands there is derived, in plain characters."""
        hostile = replace(
            MODEL,
            ca_name=text,
            organization=text,
            version=text,
            allowed_names=(f"*.{text}", text, f"x.{text}"),
            allowed_networks=(text,),
            profiles=(("server", text), ("client", text)),
            root=replace(MODEL.root, subject=text),
            issuers=(replace(MODEL.issuers[0], subject=text),),
        )
        page = await render(hostile)
        assert not [command for command in page.commands if text in command]
        assert any("-d demo.example" in command for command in page.commands)
        assert text in "".join(data for _, data in page.texts)

    @settings(max_examples=200, deadline=None)
    @given(name=st.text(max_size=80), patterns=st.lists(st.text(max_size=30), max_size=4))
    def test_what_goes_into_commands_is_plain(self, name: str, patterns: list[str]) -> None:
        model = replace(MODEL, ca_name=name, allowed_names=tuple(patterns))
        assert re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?-root", model.file_name)
        assert re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", model.example_name)
        assert len(model.example_name) <= 253

    @pytest.mark.parametrize(
        ("patterns", "example"),
        [
            (("*.localhost",), "demo.localhost"),
            (("ca.corp.internal", "*.corp.internal"), "demo.corp.internal"),
            (("intranet",), "intranet"),
            (("*.-bad", "*.good"), "demo.good"),
            (("*.a\n", "10.0.0.0/8", "*.UPPER", "*." + "a" * 64), "demo.example"),
            (("*." + ".".join(["a" * 60] * 5),), "demo.example"),
            ((), "demo.example"),
        ],
    )
    def test_the_example_comes_from_the_allow_list(self, patterns: tuple[str, ...], example: str) -> None:
        assert replace(MODEL, allowed_names=patterns).example_name == example

    @pytest.mark.parametrize(
        "url",
        [
            "javascript:alert(1)",
            "JAVASCRIPT:alert(1)",
            "data:text/html,x",
            "ftp://ca/x",
            "//ca/x",
            "/x",
            "",
            "http://",
            "http://ca/x y",
            "http://ca/x\n",
            "http://ca/'",
            'http://ca/"',
            "http://ca/$(reboot)",
            "http://ca/`x`",
            "http://ca/x;y",
            "http://ca/x&y",
            "http://ca/{x}",
            "http://ca/x\\",
            "http://user@ca/x",
            "http://ca/x?y",
            "http://ca/x#y",
            "http://-ca/x",
        ],
    )
    def test_a_url_that_is_not_plain_is_refused(self, url: str) -> None:
        """Escaping for HTML does not stop a `javascript:` link, nor `$(…)` in a command: such a model cannot be built."""
        for field in ("directory_url", "status_url", "roots_url", "bundle_url"):
            change: dict[str, Any] = {field: url}
            with pytest.raises(ValueError, match="plain http or https"):
                replace(MODEL, **change)
        for field in ("pem_url", "der_url", "crl_url", "ocsp_url"):
            change = {field: url}
            with pytest.raises(ValueError, match="plain http or https"):
                replace(MODEL.root, **change)

    @pytest.mark.parametrize(
        "url",
        ["http://ca", "https://ca.corp.internal:8443/x/y.pem", "http://[2001:db8::1]:8080/x", "http://127.0.0.1/"],
    )
    async def test_a_plain_url_is_taken_and_quoted_where_needed(self, url: str) -> None:
        page = await render(replace(MODEL, directory_url=url))
        command = next(command for command in page.commands if "certbot certonly" in command)
        assert url in split_shell(command)

    @pytest.mark.parametrize("port", [0, -1, 65536])
    def test_a_port_out_of_range_is_refused(self, port: int) -> None:
        with pytest.raises(ValueError, match="1 to 65535"):
            replace(MODEL, http_port=port)

    def test_a_fingerprint_is_32_bytes(self) -> None:
        with pytest.raises(ValueError, match="32 bytes"):
            replace(MODEL.root, sha256_fingerprint=b"\x00" * 20)

    def test_validity_carries_its_zone(self) -> None:
        naive = datetime(2026, 1, 1)  # noqa: DTZ001  (what must be refused)
        with pytest.raises(ValueError, match="time zone"):
            replace(MODEL.root, not_before=naive)
        with pytest.raises(ValueError, match="time zone"):
            replace(MODEL.root, not_after=naive)


class TestCommandsReally:
    """The commands that can be run here are run."""

    def test_openssl_prints_the_fingerprint_that_the_page_shows(self, tmp_path: Path) -> None:
        openssl = require("openssl")
        pem = tmp_path / f"{MODEL.file_name}.pem"
        pem.write_bytes(CHAIN.root.public_bytes(serialization.Encoding.PEM))
        page = render_now(MODEL)
        lines = "\n".join(page.commands).splitlines()
        line = next(line for line in lines if line.startswith("openssl x509"))
        shown = subprocess.run(
            [openssl, *shlex.split(line)[1:]], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        printed = re.search(r"ingerprint=([0-9A-F:]+)", shown.stdout)
        assert printed is not None
        assert "".join(MODEL.root.fingerprint_groups) == printed[1]
        assert [printed[1]] * 2 == [text for text in _fingerprints(page) if text == printed[1]]

    def test_openssl_accepts_an_answer_of_a_delegated_responder(self, tmp_path: Path) -> None:
        """RFC 6960 §4.2.2.2: the answer is signed by a key that the issuer certified; root and issuer are all that the
        command is given."""
        openssl = require("openssl")
        chain, cert, answer = _make_answer()
        pem = serialization.Encoding.PEM
        (tmp_path / f"{MODEL.file_name}.pem").write_bytes(chain.root.public_bytes(pem))
        (tmp_path / "issuer.pem").write_bytes(chain.issuer.public_bytes(pem))
        (tmp_path / "cert.pem").write_bytes(cert.public_bytes(pem))
        (tmp_path / "answer.der").write_bytes(answer)
        command = next(command for command in render_now(MODEL).commands if "openssl ocsp" in command)
        words = split_shell(command.split("openssl ocsp", 1)[1])
        assert words[:2] == ["-url", f"{STATUS}/ocsp/a1b2c3"]
        shown = subprocess.run(
            [openssl, "ocsp", "-respin", "answer.der", *words[2:]],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
        assert "cert.pem: revoked" in shown.stdout
        assert "Response verify OK" in shown.stderr

    @pytest.mark.parametrize("number", range(4))
    def test_certbot_takes_the_commands(self, number: int, tmp_path: Path) -> None:
        """certbot understands every option and gets as far as the server, which is not there."""
        certbot = require("certbot")
        page = render_now(make_demo_model(base="https://127.0.0.1:1"))
        commands = [split_shell(command) for command in page.commands if "certbot " in command]
        assert len(commands) == 4
        words = commands[number][commands[number].index("certbot") + 1 :]
        for name in ("cert.pem", "privkey.pem"):
            (tmp_path / name).write_text("no certificate")
        own = ["--config-dir", "c", "--work-dir", "w", "--logs-dir", "l", "--non-interactive"]
        ran = subprocess.run([certbot, *words, *own], cwd=tmp_path, check=False, capture_output=True, text=True)
        said = ran.stdout + ran.stderr
        assert ran.returncode == 1, said  # argparse exits with 2
        assert "unrecognized arguments" not in said
        stopped = ["Connection refused", "Connection refused", "No certificate found with name demo.localhost", "PEM"]
        assert stopped[number] in said, said

    def test_the_cluster_issuer_carries_the_root(self, tmp_path: Path) -> None:
        """`caBundle` is filled in by the shell: the PEM file in base64, on one line."""
        shell = require("sh")
        pem = CHAIN.root.public_bytes(serialization.Encoding.PEM)
        (tmp_path / f"{MODEL.file_name}.pem").write_bytes(pem)
        command = next(command for command in render_now(MODEL).commands if "kubectl apply" in command)
        ran = subprocess.run(
            [shell, "-e"],
            input=f"kubectl() {{ cat; }}\n{command}\n",
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
        document = dict(re.findall(r"^ *(\w+): (\S+)$", ran.stdout, re.MULTILINE))
        assert base64.b64decode(document["caBundle"], validate=True) == pem
        assert document["server"] == f"{BASE}/acme/directory"
        assert "EOF" not in ran.stdout

    def test_shell_commands_are_whole(self) -> None:
        """Every shell block parses: quotes are closed, and no line ends in a stray backslash."""
        shell = require("sh")
        page = render_now(make_demo_model())
        captions = [caption.strip() for caption in page.text("figcaption")]
        for caption, command in zip(captions, page.commands, strict=True):
            if re.search(r"Dockerfile|PowerShell|command prompt|policies\.json|Pod:|Caddyfile|nginx, in", caption):
                continue
            subprocess.run([shell, "-n"], input=command, text=True, check=True)
            assert not re.search(r"\\(\s*\Z|[ \t]+\n|\n\s*\n)", command), caption


def test_a_card_repeats_the_certificate() -> None:
    card = build_certificate_card(CHAIN.issuer, pem_url=f"{STATUS}/i.pem", der_url=f"{STATUS}/i.der")
    assert card.subject == "CN=Example Internal CA Issuer 1, O=Example Corporation"
    assert card.sha256_fingerprint == CHAIN.issuer.fingerprint(hashes.SHA256())
    assert (card.not_before, card.not_after) == (CHAIN.issuer.not_valid_before_utc, CHAIN.issuer.not_valid_after_utc)
    assert (card.crl_url, card.ocsp_url) == (None, None)
    assert [len(group) for group in card.fingerprint_groups] == [24, 24, 24, 23]


def _fingerprints(page: Document) -> list[str]:
    """The fingerprints as a person would copy them: the groups of each, joined."""
    return [text for text in page.text("code") if re.fullmatch(r"(?:[0-9A-F]{2}:){31}[0-9A-F]{2}", text)]


def _make_answer() -> tuple[SampleChain, x509.Certificate, bytes]:
    """A chain, a certificate of its issuer, and a delegated responder's answer that it is revoked."""
    now = datetime.now(UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(4)]
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("root", "issuer", "responder", "leaf")
    ]

    def sign(subject: int, issuer: int, *, extended: x509.ObjectIdentifier | None = None) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(names[subject])
            .issuer_name(names[issuer])
            .public_key(keys[subject].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=subject < 2, path_length=None), critical=True)
        )
        if extended is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([extended]), critical=False)
        return builder.sign(keys[issuer], hashes.SHA256())

    root, issuer, leaf = sign(0, 0), sign(1, 0), sign(3, 1)
    responder = sign(2, 1, extended=ExtendedKeyUsageOID.OCSP_SIGNING)
    answer = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=leaf,
            issuer=issuer,
            algorithm=hashes.SHA1(),
            cert_status=ocsp.OCSPCertStatus.REVOKED,
            this_update=now - timedelta(minutes=1),
            next_update=now + timedelta(hours=12),
            revocation_time=now - timedelta(minutes=5),
            revocation_reason=None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, responder)
        .certificates([responder])
        .sign(keys[2], hashes.SHA256())
    )
    return SampleChain(root, issuer), leaf, answer.public_bytes(serialization.Encoding.DER)
