"""A way to a server that can be cut at a moment of a test's choice: before a COMMIT arrives, before its answer does, or dumb."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from enum import Enum, auto


class Cut(Enum):
    """What becomes of the next COMMIT."""

    NEVER = auto()
    BEFORE_COMMIT = auto()  # it does not arrive
    BEFORE_ANSWER = auto()  # it does, but nobody hears of it


class Proxy:
    """Made by `open_proxy`. `cut` is used up by the COMMIT it strikes; while `is_dumb`, nothing passes and nothing ends."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._tasks: set[asyncio.Task[None]] = set()
        self.cut = Cut.NEVER
        self.cuts = 0
        self.is_dumb = False
        self.port = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
            back = asyncio.create_task(self._pass(server_reader, writer))
            try:
                await self._pass_requests(reader, server_writer, back)
            finally:
                back.cancel()
                for end in (writer, server_writer):
                    end.transport.abort()
        except (OSError, asyncio.CancelledError):  # the end of the test, or of one of the two
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pass_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: asyncio.Task[None]
    ) -> None:
        while data := await reader.read(1 << 16):
            if self.is_dumb:
                await asyncio.Event().wait()
            if b"COMMIT\0" in data and self.cut is not Cut.NEVER:
                cut, self.cut = self.cut, Cut.NEVER
                self.cuts += 1
                if cut is Cut.BEFORE_ANSWER:
                    back.cancel()
                    writer.write(data)
                    await writer.drain()
                    await asyncio.sleep(0.05)
                return
            writer.write(data)
            await writer.drain()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if self.is_dumb:
                    await asyncio.Event().wait()
                writer.write(data)
                await writer.drain()
            writer.transport.abort()


@contextlib.asynccontextmanager
async def open_proxy(upstream: int) -> AsyncIterator[Proxy]:
    """A proxy on a port of loopback, in front of the server on the port `upstream`."""
    proxy = Proxy(upstream)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
