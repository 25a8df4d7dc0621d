"""acmeca.storage.nonce_file: one window of nonces for all processes of a machine, which outlives each of them."""

import asyncio
import itertools
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from acmeca.acme.nonces import CAPACITY
from acmeca.storage.errors import StorageError
from acmeca.storage.nonce_file import FileNonces
from tests.support.databases import REPOSITORY, start_python
from tests.support.processes import open_descriptors

BOOT = "8b1f6a0e-5a52-4b36-9a0f-1d2f7f0f6c11"

Open = Callable[..., FileNonces]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nonces"


@pytest.fixture
def open_nonces(path: Path) -> Iterator[Open]:
    """Opens the file as often as a test likes, each time as another process would."""
    with ExitStack() as stack:

        def open_(*, boot_id: str = BOOT, capacity: int = CAPACITY) -> FileNonces:
            nonces = FileNonces.open(path, entropy=os.urandom, capacity=capacity, boot_id=boot_id)
            stack.callback(nonces.close)
            return nonces

        yield open_


class TestOne:
    async def test_once(self, open_nonces: Open) -> None:
        nonces = open_nonces()
        nonce = await nonces.mint()
        assert [await nonces.redeem(nonce) for _ in range(5)] == [True, False, False, False, False]
        assert not await nonces.redeem("A" * 22)

    async def test_every_nonce_is_another(self, open_nonces: Open) -> None:
        """Several openers, minting in turns over many blocks: no counter is allotted twice."""
        openers = [open_nonces() for _ in range(3)]
        minted = [await one.mint() for _, one in itertools.product(range(300), openers)]
        assert len(set(minted)) == len(minted)
        assert all([await openers[0].redeem(nonce) for nonce in minted])

    def test_for_its_owner_alone(self, open_nonces: Open, path: Path) -> None:
        """Who knows the key can make nonces."""
        mask = os.umask(0)
        try:
            open_nonces()
        finally:
            os.umask(mask)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [found.name for found in path.parent.iterdir()] == [path.name]

    def test_the_file_has_no_holes(self, open_nonces: Open, path: Path) -> None:
        """A page that the disk has no room for would end the process at the first nonce in it."""
        open_nonces()
        assert path.stat().st_blocks * 512 >= path.stat().st_size >= CAPACITY // 8

    @pytest.mark.parametrize("capacity", [0, -64, 64, 100, 129, 1000])
    def test_a_capacity_that_blocks_do_not_fit_in(self, open_nonces: Open, capacity: int) -> None:
        with pytest.raises(ValueError, match="capacity"):
            open_nonces(capacity=capacity)

    def test_no_descriptor_is_left(self, path: Path) -> None:
        before = open_descriptors()
        for boot in (BOOT, "other", BOOT):
            FileNonces.open(path, entropy=os.urandom, boot_id=boot).close()
        with pytest.raises(StorageError):
            FileNonces.open(path / "below", entropy=os.urandom)
        assert open_descriptors() == before

    def test_a_link_is_not_followed(self, path: Path, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").write_bytes(b"")
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StorageError, match="cannot use"):
            FileNonces.open(path, entropy=os.urandom)

    def test_the_kernel_is_asked_for_the_boot(self, path: Path) -> None:
        FileNonces.open(path, entropy=os.urandom).close()
        before = path.read_bytes()
        FileNonces.open(path, entropy=os.urandom).close()
        assert path.read_bytes() == before


class TestWindow:
    async def test_the_last_capacity_can_be_redeemed(self, open_nonces: Open) -> None:
        nonces = open_nonces(capacity=256)
        minted = [await nonces.mint() for _ in range(640)]
        assert [await nonces.redeem(nonce) for nonce in minted] == [False] * 384 + [True] * 256
        assert not any([await nonces.redeem(nonce) for nonce in minted])

    async def test_the_ring_goes_round(self, open_nonces: Open) -> None:
        nonces = open_nonces(capacity=128)
        for _ in range(500):
            nonce = await nonces.mint()
            assert await nonces.redeem(nonce)
            assert not await nonces.redeem(nonce)

    async def test_what_an_idle_process_mints_is_good(self, open_nonces: Open) -> None:
        """CLIENTS 10: "a good nonce is never refused": a block that others left far behind is not minted from."""
        idle, busy = open_nonces(capacity=256), open_nonces(capacity=256)
        assert await busy.redeem(await idle.mint())
        for _ in range(1000):
            await busy.mint()
            nonce = await idle.mint()
            assert await busy.redeem(nonce)
            for _ in range(20):
                await busy.mint()


class TestRestart:
    async def test_what_was_minted_is_good_and_what_was_spent_is_not(self, open_nonces: Open) -> None:
        """Rule 1: "over restarts and kills of the processes"."""
        before = open_nonces()
        old, spent = await before.mint(), await before.mint()
        assert await before.redeem(spent)
        before.close = lambda: None  # type: ignore[method-assign]  # killed: nothing is said good-bye to
        after = open_nonces()
        assert not await after.redeem(spent)
        assert await after.redeem(old)
        assert not await after.redeem(old)
        assert await after.mint() not in {old, spent}

    async def test_another_boot_begins_anew(self, open_nonces: Open) -> None:
        """The last writes before a loss of power may be lost, so what was minted before it is not taken any more."""
        before = open_nonces()
        old = await before.mint()
        after = open_nonces(boot_id="7a1f6a0e-5a52-4b36-9a0f-1d2f7f0f6c11")
        await after.mint()
        assert not await after.redeem(old)

    @pytest.mark.parametrize("boot_id", ["", " "])
    async def test_a_boot_without_a_name_is_always_another(self, open_nonces: Open, boot_id: str) -> None:
        old = await open_nonces(boot_id=boot_id).mint()
        assert not await open_nonces(boot_id=boot_id).redeem(old)

    async def test_another_capacity_begins_anew(self, open_nonces: Open) -> None:
        old = await open_nonces(capacity=128).mint()
        after = open_nonces(capacity=256)
        assert not await after.redeem(old)
        assert await after.redeem(await after.mint())

    @pytest.mark.parametrize("what", ["empty", "short", "long", "magic", "zeros", "text"])
    async def test_a_file_that_is_not_as_it_should_be_is_begun_anew(
        self, open_nonces: Open, path: Path, what: str
    ) -> None:
        old = await open_nonces().mint()
        whole = path.read_bytes()
        damaged = {
            "empty": b"",
            "short": whole[:-1],
            "long": whole + b"\0",
            "magic": b"x" + whole[1:],
            "zeros": bytes(len(whole)),
            "text": b"something else",
        }[what]
        path.unlink()
        path.write_bytes(damaged)
        nonces = open_nonces()
        assert not await nonces.redeem(old)
        assert await nonces.redeem(await nonces.mint())
        assert path.stat().st_size == len(whole)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    async def test_what_a_crash_left_half_begun_is_no_hindrance(self, open_nonces: Open, path: Path) -> None:
        path.with_name("nonces.new").write_bytes(b"half")
        nonces = open_nonces()
        assert await nonces.redeem(await nonces.mint())
        assert not path.with_name("nonces.new").exists()

    async def test_whoever_still_has_the_old_file_goes_on_with_it(self, open_nonces: Open) -> None:
        before = open_nonces()
        open_nonces(boot_id="other")
        nonce = await before.mint()
        assert await before.redeem(nonce)
        assert not await before.redeem(nonce)


# --- several processes --------------------------------------------------------------------------------------------

# Waits for a line with nonces, redeems each, prints which it got.
REDEEM = """
import asyncio, json, os, sys
from pathlib import Path
from acmeca.storage.nonce_file import FileNonces

async def main():
    nonces = FileNonces.open(Path(sys.argv[1]), entropy=os.urandom, boot_id=sys.argv[2])
    print("ready", flush=True)
    print(json.dumps([await nonces.redeem(nonce) for nonce in json.loads(sys.stdin.readline())]), flush=True)

asyncio.run(main())
"""

# Opens a file of another boot when told to; prints a nonce, then redeems those of all.
BEGIN = """
import asyncio, json, os, sys
from pathlib import Path
from acmeca.storage.nonce_file import FileNonces

async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    nonces = FileNonces.open(Path(sys.argv[1]), entropy=os.urandom, boot_id=sys.argv[2])
    print(await nonces.mint(), flush=True)
    print(json.dumps([await nonces.redeem(nonce) for nonce in json.loads(sys.stdin.readline())]), flush=True)

asyncio.run(main())
"""

# For each number, a process that dies at the line of that number among those it runs while it mints past a block's end; then
# the invariants are looked at by another. Prints how many died, and what was found wrong.
KILLED = """
import asyncio, json, os, sys
from pathlib import Path
from acmeca.acme import nonces as acme_nonces
from acmeca.storage import nonce_file
from acmeca.storage.nonce_file import FileNonces

path, boot, CAPACITY = Path(sys.argv[1]), sys.argv[2], 128
FILES = {nonce_file.__file__, acme_nonces.__file__}

def open_():
    return FileNonces.open(path, entropy=os.urandom, capacity=CAPACITY, boot_id=boot)

async def mint(nonces, count):
    return [await nonces.mint() for _ in range(count)]

async def redeem(nonces, texts):
    return [await nonces.redeem(text) for text in texts]

def die_at(number):
    left = number
    def trace(frame, event, _):
        nonlocal left
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), 9)
        return trace
    sys.settrace(trace)

wrong, died = [], 0
for number in range(1, 200):
    path.unlink(missing_ok=True)
    before = open_()
    minted = asyncio.run(mint(before, CAPACITY))
    assert all(asyncio.run(redeem(before, minted)))
    child = os.fork()
    if child == 0:
        nonces = open_()
        loop = asyncio.new_event_loop()
        die_at(number)
        loop.run_until_complete(nonces.mint())
        sys.settrace(None)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    died += 1
    after = open_()
    if any(asyncio.run(redeem(after, minted))):
        wrong.append(["spent and good again", number])
    fresh = asyncio.run(mint(after, 64))
    if set(fresh) & set(minted) or not all(asyncio.run(redeem(after, fresh))):
        wrong.append(["minted and not good", number])
print(json.dumps([died, wrong]))
"""


def read_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def say(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


class TestProcesses:
    async def test_fifty_parallel_redemptions_in_several_processes(self, open_nonces: Open, path: Path) -> None:
        """RULES §1, step 7: "single use under 50 parallel replays, and across workers"."""
        nonces = open_nonces()
        minted = [await nonces.mint() for _ in range(40)]
        texts = json.dumps([nonce for nonce in minted for _ in range(17)])  # three times 17 each
        with ExitStack() as stack:
            processes = [stack.enter_context(start_python(REDEEM, str(path), BOOT)) for _ in range(3)]
            assert [read_line(process) for process in processes] == ["ready"] * 3
            for process in processes:
                say(process, texts)
            got = [json.loads(read_line(process)) for process in processes]
        for number in range(len(minted)):
            assert sum(sum(each[17 * number : 17 * number + 17]) for each in got) == 1
        assert not any([await nonces.redeem(nonce) for nonce in minted])

    def test_two_that_find_a_stale_file_at_once_share_one(self, open_nonces: Open, path: Path) -> None:
        open_nonces(boot_id="an earlier one")
        with ExitStack() as stack:
            processes = [stack.enter_context(start_python(BEGIN, str(path), BOOT)) for _ in range(3)]
            assert [read_line(process) for process in processes] == ["ready"] * 3
            for process in processes:
                say(process, "")
            minted = [read_line(process) for process in processes]
            assert len(set(minted)) == 3
            got = []
            for process in processes:  # the first one gets them all: they have one key and one window
                say(process, json.dumps(minted))
                got.append(json.loads(read_line(process)))
        assert got == [[True] * 3, [False] * 3, [False] * 3]

    def test_a_kill_at_any_line(self, path: Path) -> None:
        """Rule 4: whatever the line at which a process that mints dies, no spent nonce is good again, none is minted twice."""
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(path), BOOT],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        died, wrong = json.loads(done.stdout)
        assert died > 10
        assert wrong == []

    def test_a_full_disk_is_told_in_plain_words(self, path: Path) -> None:
        code = (
            "import os, resource, sys; from pathlib import Path; from acmeca.storage.nonce_file import FileNonces;"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY));"
            "FileNonces.open(Path(sys.argv[1]), entropy=os.urandom)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert "StorageError: cannot use" in done.stderr

    async def test_fifty_at_once_of_two_openers(self, open_nonces: Open) -> None:
        """Rule 2: looking and spending are one step."""
        one, other = open_nonces(), open_nonces()
        nonce = await one.mint()
        results = await asyncio.gather(*(each.redeem(nonce) for each in (one, other) for _ in range(25)))
        assert sorted(results) == [False] * 49 + [True]
