"""The admin socket (web/control.py): who may open it, who they are, and what they are told."""

import contextlib
import os
import pwd
import socket
import stat
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from acmeca.errors import AcmecaError, Busy, Conflict, NotFound
from acmeca.service.arguments import Json
from acmeca.web.control import build_control_app, user_name
from acmeca.web.listener import Listener
from tests.support.server import temporary_directory

ME = pwd.getpwuid(os.getuid()).pw_name


class Operations:
    """Stands where `Administration` does: tells what it was asked, or raises."""

    def __init__(self) -> None:
        self.failure: Exception | None = None

    async def call(self, operation: str, arguments: Json, *, user: str) -> Json:
        if self.failure is not None:
            raise self.failure
        return {"operation": operation, "arguments": arguments, "user": user}


@contextlib.asynccontextmanager
async def control_socket() -> AsyncIterator[tuple[Path, Operations]]:
    operations = Operations()
    with temporary_directory() as directory:
        path = directory / "acmeca.sock"
        listener = Listener(build_control_app(operations), host="", port=0)  # type: ignore[arg-type]  # it has what is asked
        await listener.start_on_socket(path)
        try:
            yield path, operations
        finally:
            await listener.stop()


async def post(path: Path, operation: str, body: bytes) -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(path))) as session,
        session.post(f"http://acmeca/{operation}", data=body) as response,
    ):
        return response.status, await response.json()


async def test_only_its_owner_can_open_the_socket() -> None:
    """Rule 1: who may open the socket may administer (the file's mode is the check)."""
    async with control_socket() as (path, _):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_ISSOCK(path.stat().st_mode)


async def test_an_operation_is_called_with_its_arguments_in_the_name_of_the_peer() -> None:
    """Rule 1: "who it was is read from the kernel, not from the request"."""
    async with control_socket() as (path, _):
        status, answer = await post(path, "show", b'{"serial": "01", "user": "mallory"}')
    assert status == 200
    assert answer["result"] == {"operation": "show", "arguments": {"serial": "01", "user": "mallory"}, "user": ME}


async def test_no_body_is_no_argument() -> None:
    async with control_socket() as (path, _):
        assert (await post(path, "crl", b""))[1]["result"]["arguments"] == {}


@pytest.mark.parametrize(
    "body",
    [b"[]", b"null", b"{", b"\xff", b'{"a": 1, "a": 2}', b'{"a": NaN}', b"[" * 60_000, b'{"a": "\\ud800"}', b'"x"'],
    ids=repr,
)
async def test_a_body_that_is_no_object_is_refused_with_a_sentence(body: bytes) -> None:
    async with control_socket() as (path, _):
        status, answer = await post(path, "list", body)
    assert status == 400
    assert answer["error"].startswith("the request cannot be read: ")


async def test_a_body_that_is_too_long() -> None:
    async with control_socket() as (path, _):
        status, answer = await post(path, "list", b" " * 65_537)
    assert status == 413
    assert "65536 bytes" in answer["error"]


@pytest.mark.parametrize(
    ("failure", "status"),
    [(AcmecaError("no"), 400), (NotFound("no"), 404), (Conflict("no"), 409), (Busy("no"), 503)],
    ids=lambda value: type(value).__name__,
)
async def test_a_failure_with_a_message_is_told(failure: Exception, status: int) -> None:
    async with control_socket() as (path, operations):
        operations.failure = failure
        assert await post(path, "list", b"{}") == (status, {"error": "no"})


@pytest.mark.parametrize("failure", [RuntimeError("secret"), KeyError("secret"), TypeError("secret")], ids=repr)
async def test_what_nobody_foresaw_is_told_without_detail_and_logged_whole(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async with control_socket() as (path, operations):
        operations.failure = failure
        status, answer = await post(path, "list", b"{}")
    assert status == 500
    assert answer == {"error": "the server failed; its log says more"}
    assert "secret" in caplog.text


@pytest.mark.parametrize("target", ["/", "/a/b", "/show?x"])
async def test_there_is_nothing_but_operations(target: str) -> None:
    async with (
        control_socket() as (path, _),
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(path))) as session,
        session.get(f"http://acmeca{target}") as response,
    ):
        assert response.status in {404, 405}


async def test_the_socket_of_a_killed_server_is_replaced() -> None:
    with temporary_directory() as directory:
        path = directory / "acmeca.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
            stale.bind(str(path))
        listener = Listener(build_control_app(Operations()), host="", port=0)  # type: ignore[arg-type]  # as above
        await listener.start_on_socket(path)
        try:
            assert (await post(path, "crl", b"{}"))[0] == 200
        finally:
            await listener.stop()


def test_a_user_is_named_as_the_system_names_it() -> None:
    assert user_name(os.getuid()) == ME
    assert user_name(4_123_456) == "uid 4123456"


def test_the_kernel_says_who_the_peer_is() -> None:
    """What `_peer` reads: pid, uid, gid of whoever connected."""
    here, there = socket.socketpair(socket.AF_UNIX)
    with here, there:
        data = here.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    assert struct.unpack("3i", data) == (os.getpid(), os.getuid(), os.getgid())
