"""The store's lock, against a real second process."""

import asyncio
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from acmeca.storage.errors import LockedError, StorageError, WorkersLeftError
from acmeca.storage.lock import FileTurn, StoreLock
from tests.support.databases import start_python
from tests.support.processes import open_descriptors

HOLDER = (
    "import sys; from pathlib import Path; from acmeca.storage.lock import StoreLock\n"
    "with StoreLock(Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


def test_the_second_process_is_told_who_has_it_and_what_to_do(tmp_path: Path) -> None:
    with start_python(HOLDER, str(tmp_path)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"in use by process {holder.pid}: stop it first") as caught:
            StoreLock(tmp_path).acquire()
        assert caught.value.pid == holder.pid
        holder.communicate(timeout=10)  # its standard input ends, and so does it
        assert holder.returncode == 0
    with StoreLock(tmp_path):
        assert (tmp_path / "acmeca.lock").read_text() == f"{os.getpid()}\n"


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    with start_python(HOLDER, str(tmp_path)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
        holder.wait(timeout=10)
        with StoreLock(tmp_path):
            pass


def test_the_same_process_has_it_once(tmp_path: Path) -> None:
    lock = StoreLock(tmp_path)
    with lock:
        for other in (lock, StoreLock(tmp_path)):
            with pytest.raises(LockedError) as caught:
                other.acquire()
            assert caught.value.pid == os.getpid()
    lock.release()
    with StoreLock(tmp_path), pytest.raises(LockedError):
        lock.acquire()


def test_a_program_it_starts_does_not_inherit_it(tmp_path: Path) -> None:
    """A child that outlives the server must not keep the next server out."""
    lock = StoreLock(tmp_path)
    lock.acquire()
    with start_python("import sys; print('up', flush=True); sys.stdin.read()") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        lock.release()
        with StoreLock(tmp_path):
            pass


@pytest.mark.parametrize("text", [b"", b"nonsense", b"\xff" * 100])
def test_a_holder_that_cannot_be_read_is_another_process(tmp_path: Path, text: bytes) -> None:
    with StoreLock(tmp_path):
        (tmp_path / "acmeca.lock").write_bytes(text)
        with pytest.raises(LockedError, match="in use by another process") as caught:
            StoreLock(tmp_path).acquire()
    assert caught.value.pid is None


def test_the_file_is_private_and_stays(tmp_path: Path) -> None:
    with StoreLock(tmp_path):
        pass
    file = tmp_path / "acmeca.lock"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes() == b""


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "acmeca.lock").symlink_to(target)
    with pytest.raises(StorageError, match="cannot open"):
        StoreLock(tmp_path).acquire()
    assert target.read_text() == "precious"


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing"):
        StoreLock(tmp_path / "missing").acquire()


# --- turns --------------------------------------------------------------------------------------------------------

TURN_HOLDER = (
    "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX);"
    "print('held', flush=True); sys.stdin.read()"
)


async def test_turns_are_taken_one_after_another(tmp_path: Path) -> None:
    path, inside, said = tmp_path / "turns", 0, []

    async def take(number: int) -> None:
        nonlocal inside
        async with FileTurn(path):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            inside -= 1
            said.append(number)

    await asyncio.gather(*(take(number) for number in range(5)))
    assert sorted(said) == list(range(5))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_turn_is_waited_for_until_its_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "turns"
    with start_python(TURN_HOLDER, str(path)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"

        async def take() -> None:
            async with FileTurn(path):
                pass

        taking = asyncio.create_task(take())
        done, _ = await asyncio.wait({taking}, timeout=0.1)
        assert not done
        holder.kill()
        await taking


async def test_a_turn_that_nobody_gives_back(tmp_path: Path) -> None:
    path = tmp_path / "turns"
    async with FileTurn(path):
        with pytest.raises(StorageError, match=r"another process holds .*turns for 0\.05 s"):
            async with FileTurn(path, patience=0.05):
                pass
    async with FileTurn(path, patience=0.05):
        pass


async def test_waiting_for_a_turn_can_be_cancelled(tmp_path: Path) -> None:
    """No descriptor and no thread is left that would take the turn later."""
    path = tmp_path / "turns"

    async def take() -> None:
        async with FileTurn(path):
            raise AssertionError("it has the turn")

    async with FileTurn(path):
        before = open_descriptors(), threading.active_count()
        waiting = [asyncio.create_task(take()) for _ in range(3)]
        await asyncio.wait(waiting, timeout=0.05)
        for task in waiting:
            task.cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 3
        assert (open_descriptors(), threading.active_count()) == before
    async with FileTurn(path, patience=0.05):
        pass


async def test_a_turn_ends_with_an_error_too(tmp_path: Path) -> None:
    path = tmp_path / "turns"
    with pytest.raises(LookupError):
        async with FileTurn(path):
            raise LookupError
    async with FileTurn(path, patience=0.05):
        pass


async def test_a_turn_where_no_file_can_be(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot lock"):
        async with FileTurn(tmp_path / "missing" / "turns"):
            pass
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="cannot lock"):
        async with FileTurn(tmp_path / "link"):
            pass


def test_workers_of_a_server_that_is_gone_are_waited_for(tmp_path: Path) -> None:
    """A server was killed and its workers live on: what they inherited keeps others away until the last one has ended."""
    lock = StoreLock(tmp_path)
    lock.acquire()
    worker = subprocess.Popen([sys.executable, "-Sc", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.workers_file])
    lock.note_workers([worker.pid])
    lock.release()
    with pytest.raises(WorkersLeftError, match=f"workers of a server that was killed \\(processes {worker.pid}\\)"):
        StoreLock(tmp_path).acquire()
    assert (tmp_path / "acmeca.lock").read_text() == ""
    worker.communicate(b"\n")
    with StoreLock(tmp_path):
        assert (tmp_path / "acmeca.workers.lock").read_text() == ""


def test_workers_are_nobodys_without_the_lock(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        _ = StoreLock(tmp_path).workers_file
