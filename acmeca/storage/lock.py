"""Locks between processes: the store's, for one server at a time works in a data directory, and turns among its workers.

A server may be several processes. The one that starts the others holds the lock; beside it stands a second one, on a file of
its own, which the others inherit: when the first is killed, nobody begins anything here before they have ended as well.

Rule 1: a lock is the kernel's (`flock`), not the file: it is gone when its holder is, however it ended. The file stays,
because deleting it would let two processes hold two files of one name.
Rule 2: the process id inside is for people. Nothing is decided by it.
"""

import asyncio
import fcntl
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from acmeca.storage.errors import LockedError, StorageError, WorkersLeftError

LOCK_NAME: Final = "acmeca.lock"
WORKERS_LOCK_NAME: Final = "acmeca.workers.lock"

_LOOK_SECONDS: Final = 0.02  # between two looks at a turn that another process has
_PATIENCE: Final = 60.0


class StoreLock:
    """The lock on one data directory, taken by `acquire` or `with`. A process forked while it is held shares it."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._file: int | None = None
        self._workers_file: int | None = None

    def acquire(self) -> None:
        """Take the lock now, or raise `LockedError`; `StorageError` when the directory or its file system forbids.

        While workers of a server live that is gone itself, `WorkersLeftError`.
        """
        file, holder = _take(self._data_dir / LOCK_NAME)
        if file is None:
            raise LockedError(self._data_dir, next(iter(holder), None))
        try:
            workers_file, workers = _take(self._data_dir / WORKERS_LOCK_NAME)
            if workers_file is None:
                raise WorkersLeftError(self._data_dir, workers)
        except BaseException:
            _let_go(file)
            raise
        _write_pids(file, [os.getpid()])
        _write_pids(workers_file, [])
        self._file, self._workers_file = file, workers_file

    @property
    def workers_file(self) -> int:
        """The descriptor for workers to inherit: as long as one of them lives, nobody else gets the lock."""
        if self._workers_file is None:
            raise RuntimeError("the lock is not held")
        return self._workers_file

    def note_workers(self, pids: Iterable[int]) -> None:
        """Write down who the workers are (rule 2)."""
        _write_pids(self.workers_file, pids)

    def release(self) -> None:
        """Let go of the lock; harmless when it is not held."""
        if self._file is not None and self._workers_file is not None:
            file, self._file = self._file, None
            workers_file, self._workers_file = self._workers_file, None
            os.close(workers_file)
            _let_go(file)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class FileTurn:
    """A turn among the processes that share a file, for what is rare and takes its time: `async with FileTurn(path)`.

    Raises `StorageError` when the file cannot be locked, or nobody lets go of it for `patience` seconds.
    """

    def __init__(self, path: Path, *, patience: float = _PATIENCE) -> None:
        self._path = path
        self._patience = patience
        self._file: int | None = None

    async def __aenter__(self) -> None:
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            async with asyncio.timeout(self._patience):
                # Looked at again and again: a thread that waits in the kernel could not be told to stop, and would take
                # the lock of whatever file has this descriptor's number by then.
                while not _is_locked_now(self._file):  # noqa: ASYNC110  (no event tells of another process)
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError as error:
            self._let_go()
            raise StorageError(f"another process holds {self._path} for {self._patience:g} s already") from error
        except OSError as error:
            self._let_go()
            raise StorageError(f"cannot lock {self._path}: {error.strerror}") from error
        except BaseException:
            self._let_go()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._let_go()

    def _let_go(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)


def _is_locked_now(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _take(path: Path) -> tuple[int | None, list[int]]:
    """The descriptor of the file once it is locked, or None and what its holder wrote down. Raises `StorageError`."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StorageError(f"cannot open {path}: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pids = _read_pids(file)
        os.close(file)
        return None, pids
    except OSError as error:
        os.close(file)
        raise StorageError(f"cannot lock {path}: {error.strerror}") from error
    return file, []


def _let_go(file: int) -> None:
    os.ftruncate(file, 0)
    os.close(file)


def _write_pids(file: int, pids: Iterable[int]) -> None:
    """Rule 2: on a full disk nobody is told, and that is all."""
    with suppress(OSError):
        os.ftruncate(file, 0)
        os.pwrite(file, "".join(f"{pid}\n" for pid in pids).encode("ascii"), 0)


def _read_pids(file: int) -> list[int]:
    words = os.pread(file, 4096, 0).split()
    return [int(word) for word in words] if all(word.isdigit() for word in words) else []
