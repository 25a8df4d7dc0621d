"""A certificate from its order to its revocation, on real parts: acmeca, certbot and openssl. `make demo` runs it.

Rule 1: every command is shown as it is run, and works when it is typed in the same directory.
Rule 2: every result is checked. When one is not as told, the demo says so with all that was said, and exits 1.
Rule 3: everything lies in a temporary directory and listens on loopback; when it ends, nothing is left of it.
"""

import re
import shlex
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

# `python tests/interop/demo.py` finds the kit where pytest finds it.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.installations import READY, find_tool, make_installation
from tests.support.processes import Finished, Process, ProcessError, clean_environment, run

NAME: Final = "db1.localhost"
_WIDTH: Final = 100


class DemoError(Exception):
    """Something was not as told."""


@dataclass
class Story:
    """Tells what happens, runs the commands, and checks what came out. `directory` is where commands are typed."""

    directory: Path
    tools: Mapping[str, Sequence[str]]
    steps: int = 0
    _env: dict[str, str] = field(default_factory=clean_environment)

    def step(self, text: str) -> None:
        """The next step, in words."""
        self.steps += 1
        head = f"{self.steps}. "
        self._say("")
        self._say(textwrap.fill(text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head)))

    def command(
        self,
        words: Sequence[str],
        *,
        show: str,
        expect: str,
        code: int = 0,
        env: Mapping[str, str] | None = None,
    ) -> Finished:
        """Run a command, print the lines of its output in which `show` is found, require `expect` and the exit code."""
        self._show(words, env or {})
        try:
            finished = run(
                [*self.tools[words[0]], *words[1:]], env={**self._env, **(env or {})}, cwd=self.directory, code=None
            )
        except ProcessError as error:
            raise DemoError(str(error)) from None
        lines = [line.rstrip() for line in (finished.stdout + finished.stderr).splitlines()]
        for line in lines:
            if re.search(show, line):
                self._say(f"     {line.strip()}")
        if finished.code != code or not re.search(expect, finished.said):
            raise DemoError(f"expected /{expect}/ and exit code {code}, but got:\n{finished!r}")
        return finished

    def start(self, words: Sequence[str], *, expect: str) -> Process:
        """Start a command that keeps running, and wait for the line `expect`."""
        self._show(words, {})
        process = Process([*self.tools[words[0]], *words[1:]], env=self._env, cwd=self.directory)
        try:
            process.wait_for_line(expect)
        except ProcessError as error:
            process.close()
            raise DemoError(str(error)) from None
        return process

    def result(self, text: str) -> None:
        """What the step has shown."""
        self._say(f"   => {text}")

    def _show(self, words: Sequence[str], env: Mapping[str, str]) -> None:
        text = " ".join([*(f"{name}={shlex.quote(value)}" for name, value in env.items()), shlex.join(words)])
        self._say(f"   $ {text}")

    @staticmethod
    def _say(text: str) -> None:
        print(text, flush=True)  # noqa: T201  (telling is what it is for)


def tell(story: Story) -> None:
    """The whole story; raises `DemoError` where it is not as told."""
    installation = make_installation(story.directory)
    acmeca = ("acmeca", "--config", installation.config_path.name)
    live = Path("certbot", "config", "live", NAME)
    certificate, chain, root = str(live / "cert.pem"), str(live / "chain.pem"), "ca/root.pem"

    story.step(
        "A CA is made and served: a root, an intermediate, an OCSP responder, a CRL. "
        f"ACME is at {installation.directory_url}, OCSP and CRLs are at {installation.status_url}. "
        "It keeps running in a terminal of its own."
    )
    with story.start([*acmeca, "serve", "--init"], expect=READY) as server:
        try:
            fingerprint = server.wait_for_line(r"^SHA-256\s+(\S+)").group(1)
            story.command(
                ["openssl", "x509", "-in", root, "-noout", "-subject", "-fingerprint", "-sha256"],
                show=r"^subject|Fingerprint",
                expect=rf"Fingerprint={re.escape(fingerprint)}",
            )
            story.result("the root that clients will trust, and the fingerprint that the server printed")
            _issue(story, installation.directory_url, installation.http_port, root)
            serial = _look(story, certificate, chain, root)
            ocsp_url = _ask(story, certificate, chain, root, url=None, status="good")
            _revoke(story, acmeca, serial)
            _ask(story, certificate, chain, root, url=ocsp_url, status="revoked")
            _refuse(story, certificate, chain, root)
            story.step("The server is asked to stop. It finishes what is in flight and goes.")
            story.result(f"it stopped with exit code {_stop(server)}")
        except DemoError as error:
            raise DemoError(f"{error}\n\nThe server said:\n{server.output}") from None


def _issue(story: Story, directory_url: str, http_port: int, root: str) -> None:
    story.step(
        f"certbot orders a certificate for {NAME} over ACME. It proves that it controls the name by http-01: the CA "
        f"fetches a token from port {http_port}, where certbot answers for a moment."
    )
    story.command(
        [
            *("certbot", "certonly", "--standalone", "--non-interactive", "--server", directory_url),
            *("--http-01-port", str(http_port), "--agree-tos", "--register-unsafely-without-email", "-d", NAME),
            *("--config-dir", "certbot/config", "--work-dir", "certbot/work", "--logs-dir", "certbot/logs"),
        ],
        env={"REQUESTS_CA_BUNDLE": root},
        show=r"^(Account|Requesting|Successfully|This certificate)",
        expect="Successfully received certificate",
    )


def _look(story: Story, certificate: str, chain: str, root: str) -> str:
    """The certificate, and that it leads to the root; returns its serial as openssl prints it."""
    story.step("What came back: its name, who signed it, how long it lasts, and that it leads to the root.")
    shown = story.command(
        ["openssl", "x509", "-in", certificate, "-noout", "-serial", "-issuer", "-dates", "-ext", "subjectAltName"],
        show=r"^(serial|issuer|not)|DNS:",
        expect=rf"DNS:{re.escape(NAME)}\b",
    )
    story.command(
        ["openssl", "verify", "-CAfile", root, "-untrusted", chain, "-crl_check", "-crl_download", certificate],
        show="OK$|error",
        expect=r"cert\.pem: OK",
    )
    match = re.search(r"^serial=([0-9A-F]+)$", shown.stdout, re.MULTILINE)
    if match is None:
        raise DemoError(f"openssl shows no serial:\n{shown!r}")
    return match[1]


def _ask(story: Story, certificate: str, chain: str, root: str, *, url: str | None, status: str) -> str:
    """Ask OCSP and require `status`; returns the responder's URL, taken from the certificate when it is not given."""
    if url is None:
        story.step("Is it good? The certificate says where to ask; openssl asks there and checks the signed answer.")
        shown = story.command(
            ["openssl", "x509", "-in", certificate, "-noout", "-ocsp_uri"], show="^http://", expect="^http://"
        )
        url = shown.stdout.strip()
    else:
        story.step("The same question, a moment later.")
    story.command(
        ["openssl", "ocsp", "-issuer", chain, "-cert", certificate, "-CAfile", root, "-url", url],
        show=r"^Response|cert\.pem:|Reason|Revocation Time",
        expect=rf"cert\.pem: {status}\b.*Response verify OK",
    )
    story.result(f"OCSP says: {status}")
    return url


def _revoke(story: Story, acmeca: Sequence[str], serial: str) -> None:
    story.step("The administrator revokes it, by the serial that openssl printed.")
    story.command(
        [*acmeca, "revoke", serial, "--reason", "superseded", "--yes"], show=r"\S", expect=rf"(?i)revoked {serial}"
    )


def _refuse(story: Story, certificate: str, chain: str, root: str) -> None:
    story.step(
        "The CRL tells the same: openssl fetches it from the URL in the certificate, and refuses the certificate."
    )
    story.command(
        ["openssl", "verify", "-CAfile", root, "-untrusted", chain, "-crl_check", "-crl_download", certificate],
        show=r"^error",
        expect="error 23 at 0 depth lookup: certificate revoked",
        code=2,
    )
    story.result("the certificate is refused")


def _stop(server: Process) -> int:
    try:
        code = server.terminate()
    except ProcessError as error:
        raise DemoError(str(error)) from None
    if code != 0:
        raise DemoError(f"the server stopped with exit code {code}")
    return code


def _tools() -> dict[str, Sequence[str]]:
    """How each program is called here. The CA's own command is run by this interpreter, whatever is on the PATH."""
    tools: dict[str, Sequence[str]] = {"acmeca": (sys.executable, "-P", "-m", "acmeca")}
    for name, hint in (("certbot", "pip install --group demo"), ("openssl", "apt-get install openssl")):
        path = find_tool(name)
        if path is None:
            raise DemoError(f"{name} is not on this machine: {hint}")
        tools[name] = (str(path),)
    return tools


def main() -> int:
    """Tell the story; 0 when all of it was as told."""
    started = time.monotonic()
    signal.signal(signal.SIGTERM, _interrupt)
    print("acmeca: a certificate from its order to its revocation, on real parts")  # noqa: T201
    try:
        with tempfile.TemporaryDirectory(prefix="acmeca-demo-") as directory:
            print(f"Commands are typed in {directory}, which is removed at the end.")  # noqa: T201
            tell(Story(Path(directory), _tools()))
    except DemoError as error:
        print(f"\ndemo: not as told: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; everything it started is gone", file=sys.stderr)  # noqa: T201
        return 130
    print(f"\nAll of it took {time.monotonic() - started:.1f} seconds.")  # noqa: T201
    return 0


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
