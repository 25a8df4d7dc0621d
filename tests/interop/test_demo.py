"""`make demo`, as a person runs it: it tells the truth, it is quick, it leaves nothing, and it fails when something is wrong."""

import os
import re
import signal
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import RequireTool
from tests.support.installations import CHECKOUT, find_tool, short_directory
from tests.support.processes import Process, clean_environment, run

pytestmark = pytest.mark.interop

DEMO = [sys.executable, str(CHECKOUT / "tests" / "interop" / "demo.py")]


@pytest.fixture(autouse=True)
def _tools(require_tool: RequireTool) -> None:
    require_tool("certbot", "certbot")
    require_tool("openssl", "openssl")


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Where the demo makes its directory."""
    with short_directory() as directory:
        yield directory


def test_the_whole_story(tmp_path: Path, temporary: Path) -> None:
    """Served, issued, shown, good, revoked, revoked, refused, stopped: in under a minute, from any directory."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    started = time.monotonic()
    told = run(DEMO, env=clean_environment(TMPDIR=str(temporary)), cwd=elsewhere, seconds=60)
    assert time.monotonic() - started < 60
    expected = [
        r"\$ acmeca --config acmeca\.toml serve --init",
        r"\$ REQUESTS_CA_BUNDLE=ca/root\.pem certbot certonly",
        r"Successfully received certificate",
        r"DNS:db1\.localhost",
        r"cert\.pem: OK",
        r"cert\.pem: good",
        r"Response verify OK",
        r"\$ acmeca --config acmeca\.toml revoke [0-9A-F]{34} --reason superseded --yes",
        r"cert\.pem: revoked",
        r"Reason: superseded",
        r"error 23 at 0 depth lookup: certificate revoked",
        r"exit code 0",
        r"All of it took \d+\.\d seconds",
    ]
    position = 0
    for pattern in expected:
        match = re.compile(pattern).search(told.stdout, position)
        assert match is not None, f"{pattern} does not come after what was before it:\n{told!r}"
        position = match.end()
    assert told.stderr == ""
    assert list(elsewhere.iterdir()) == []
    assert list(temporary.iterdir()) == []
    assert not any(_listens(int(port)) for port in set(re.findall(r"localhost:(\d+)", told.stdout)))


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [("$2: good", r"expected /cert\.pem: revoked"), ("$2: revoked", r"expected /cert\.pem: good")],
    ids=["always good", "always revoked"],
)
def test_a_wrong_answer_makes_it_fail(tmp_path: Path, temporary: Path, answer: str, complaint: str) -> None:
    """An OCSP status that is not as told ends the demo with exit code 1 and the reason, with everything cleaned up."""
    openssl = find_tool("openssl")
    assert openssl is not None
    fake = tmp_path / "bin" / "openssl"
    fake.parent.mkdir()
    # `openssl ocsp -issuer CHAIN -cert CERTIFICATE …`: the certificate is the fifth word. Everything else is the real one's.
    fake.write_text(
        f'#!/bin/sh\nif [ "$1" = ocsp ]; then echo "Response verify OK" >&2; set -- "$1" "$5"; echo "{answer}"; exit 0; fi\n'
        f'exec {openssl} "$@"\n'
    )
    fake.chmod(stat.S_IRWXU)
    env = clean_environment(TMPDIR=str(temporary))
    env["PATH"] = f"{fake.parent}{os.pathsep}{env['PATH']}"
    told = run(DEMO, env=env, code=1)
    assert "demo: not as told" in told.stderr
    assert complaint in told.stderr
    assert "All of it took" not in told.stdout
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_takes_everything_along(temporary: Path, number: signal.Signals) -> None:
    """Ctrl-C in the middle: the server is gone, and so is the directory."""
    with Process(DEMO, env=clean_environment(TMPDIR=str(temporary))) as demo:
        port = int(demo.wait_for_line(r"--server https://localhost:(\d+)/").group(1))
        assert _listens(port)
        demo.send(number)
        assert demo.wait() == 130
        assert "interrupted" in demo.output
        assert "Traceback" not in demo.output
    assert not _listens(port)
    assert list(temporary.iterdir()) == []


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
