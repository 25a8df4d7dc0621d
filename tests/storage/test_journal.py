"""acmeca.storage.journal: what was appended is read back, whatever cut it short; what was damaged is told apart from that."""

import dataclasses
import errno
import itertools
import json
import os
import shutil
import stat
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.storage.database import Entry, Value
from acmeca.storage.journal import Commit, Journal, JournalError, read_segment, segments
from tests.support.databases import start_python
from tests.support.processes import open_descriptors

NOW = datetime(2026, 11, 1, 12, 0, 0, tzinfo=UTC)
AT = int(NOW.timestamp())

VALUES: st.SearchStrategy[Value] = (
    st.none() | st.integers() | st.text() | st.binary() | st.sampled_from([2**63 - 1, -(2**63), 2**4096])
)
ENTRIES = st.lists(
    st.builds(Entry, st.text(max_size=12), st.dictionaries(st.text(max_size=8), VALUES, max_size=4)), max_size=3
)

REVOCATION = Entry("revocation", {"id": "ä", "revoked_at": AT, "revocation_reason": None, "tbs": b"\0\xff\n"})


class FakeClock:
    def __init__(self) -> None:
        self.moment = NOW

    def __call__(self) -> datetime:
        return self.moment


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def journal(directory: Path, *, writer: str = "node", instance: str = "i-1", **options: int) -> Journal:
    return Journal(directory, writer=writer, instance=instance, clock=lambda: NOW, **options)


def commits(directory: Path) -> list[Commit]:
    return [commit for segment in segments(directory) for commit in read_segment(segment)]


def line_of(document: dict[str, object]) -> bytes:
    text = json.dumps(document).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


class TestAppend:
    @settings(deadline=None, max_examples=40)
    @given(st.lists(ENTRIES, max_size=3))
    def test_what_is_appended_is_read_back(
        self, tmp_path_factory: pytest.TempPathFactory, batches: list[list[Entry]]
    ) -> None:
        directory = tmp_path_factory.mktemp("journal")
        writing = journal(directory)
        for number, entries in enumerate(batches, start=1):
            writing.append(number, entries)
        writing.close()
        assert commits(directory) == [
            Commit("node", number, AT, tuple(entries)) for number, entries in enumerate(batches, start=1)
        ]

    def test_no_file_without_an_entry(self, directory: Path) -> None:
        assert segments(directory) == []
        journal(directory).close()
        assert files(directory) == []

    def test_for_its_owner_alone(self, directory: Path) -> None:
        """What stands in it is no secret, but whoever could write to it could invent revocations."""
        mask = os.umask(0)
        try:
            journal(directory).append(1, [REVOCATION])
        finally:
            os.umask(mask)
        (path,) = files(directory)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_a_line_can_be_read_by_people(self, directory: Path) -> None:
        """Rule 2: a CRC-32 in hex, a blank, and a JSON object; octets are {"b64": "…"}."""
        journal(directory).append(7, [REVOCATION])
        (path,) = files(directory)
        _, line = path.read_bytes().splitlines()
        assert json.loads(line[9:]) == {
            "commit": 7,
            "at": AT,
            "entries": [
                ["revocation", {"id": "ä", "revoked_at": AT, "revocation_reason": None, "tbs": {"b64": "AP8K"}}]
            ],
        }
        assert line[8:9] == b" "
        assert line.isascii()

    def test_withdrawn(self, directory: Path) -> None:
        writing = journal(directory)
        writing.append(5, [REVOCATION])
        writing.withdraw(5)
        writing.append(5, [])
        assert commits(directory) == [
            Commit("node", 5, AT, (REVOCATION,)),
            Commit("node", 5, AT, (), withdrawn=True),
            Commit("node", 5, AT, ()),
        ]

    def test_every_line_is_synced_before_the_append_returns(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Durable means: the file's content at the time of its last sync is what it holds now, and its name was synced too."""
        synced: dict[str, bytes] = {}
        directories: list[bool] = []

        def fdatasync(file: int) -> None:
            path = Path(f"/proc/self/fd/{file}").resolve()
            synced[path.name] = path.read_bytes()

        monkeypatch.setattr(os, "fdatasync", fdatasync)
        monkeypatch.setattr(os, "fsync", lambda file: directories.append(stat.S_ISDIR(os.fstat(file).st_mode)))
        writing = journal(directory, segment_bytes=300)
        for number in range(1, 6):
            writing.append(number, [REVOCATION])
            assert {path.name: path.read_bytes() for path in files(directory)} == synced
        assert directories == [True] * (1 + len(files(directory)))  # the directory's own name, and each file's


class TestSegments:
    def test_a_segment_is_ended_by_its_size(self, directory: Path) -> None:
        writing = journal(directory, segment_bytes=1000)
        for number in range(1, 21):
            writing.append(number, [REVOCATION])
        assert len(files(directory)) > 2
        assert all(path.stat().st_size <= 1000 for path in files(directory))
        assert [segment.part for segment in segments(directory)] == list(range(1, len(files(directory)) + 1))
        assert [commit.number for commit in commits(directory)] == list(range(1, 21))

    def test_a_commit_that_is_longer_than_a_segment_has_one_of_its_own(self, directory: Path) -> None:
        writing = journal(directory, segment_bytes=500)
        long = Entry("crl.published", {"der": bytes(2000)})
        for number, entry in enumerate([REVOCATION, long, REVOCATION], start=1):
            writing.append(number, [entry])
        assert [commit.number for commit in commits(directory)] == [1, 2, 3]
        assert len(files(directory)) == 3

    def test_after_close_a_new_one_is_begun(self, directory: Path) -> None:
        """Rule 1: a segment is "never opened for writing again"."""
        writing = journal(directory)
        writing.append(1, [REVOCATION])
        before = files(directory)[0].read_bytes()
        writing.close()
        writing.append(2, [REVOCATION])
        assert files(directory)[0].read_bytes() == before
        assert [commit.number for commit in commits(directory)] == [1, 2]

    def test_processes_never_meet_in_one(self, directory: Path) -> None:
        """The same moment, the same name: each instance has segments of its own."""
        writing = [journal(directory, instance=f"i{number}") for number in range(4)]
        for number, one in itertools.product(range(3), writing):
            one.append(number, [REVOCATION])
        assert len(files(directory)) == 4
        assert len(commits(directory)) == 12

    def test_what_is_there_already_is_not_written_to(self, directory: Path) -> None:
        """Should an instance's name come twice after all, the second one is refused, and the file stays."""
        journal(directory).append(1, [REVOCATION])
        with pytest.raises(JournalError, match=os.strerror(errno.EEXIST)):
            journal(directory).append(2, [REVOCATION])
        assert [commit.number for commit in commits(directory)] == [1]

    def test_order(self, directory: Path) -> None:
        """By writer, then by instance in the order in which they began, then by part: also when the clock went back."""
        clock = FakeClock()
        first = Journal(directory, writer="b", instance="zz", clock=clock, segment_bytes=1)
        first.append(1, [])
        clock.moment -= timedelta(hours=1)
        first.append(2, [])
        clock.moment += timedelta(hours=2)
        Journal(directory, writer="b", instance="aa", clock=clock).append(3, [])
        Journal(directory, writer="a", instance="x", clock=clock).append(4, [])
        assert [(commit.writer, commit.number) for commit in commits(directory)] == [
            ("a", 4),
            ("b", 1),
            ("b", 2),
            ("b", 3),
        ]

    @pytest.mark.parametrize("instance", ["-", "a-0001", "0123456789-b", "__-9"])
    @pytest.mark.parametrize("writer", ["n", "n-1.corp_x", "1234567890-a"])
    def test_a_name_is_read_as_it_was_written(self, directory: Path, writer: str, instance: str) -> None:
        journal(directory, writer=writer, instance=instance).append(1, [])
        (segment,) = segments(directory)
        assert (segment.writer, segment.instance, segment.opened_at, segment.part) == (writer, instance, AT, 1)

    def test_other_files_are_none(self, directory: Path) -> None:
        journal(directory)
        for name in ("notes.txt", "a@1-b-1.journal", "node@0000000001-i-0001.journal.gz", ".journal"):
            (directory / name).write_text("x")
        assert segments(directory) == []


class TestDamage:
    @pytest.fixture
    def path(self, directory: Path) -> Path:
        writing = journal(directory)
        for number in (1, 2, 3):
            writing.append(number, [REVOCATION])
        writing.close()
        (path,) = files(directory)
        return path

    def test_a_torn_tail_is_left_out(self, directory: Path, path: Path) -> None:
        """A crash may cut the last line at every octet; what is before it is read as if nothing had happened."""
        whole = path.read_bytes()
        *before, last = whole.splitlines(keepends=True)
        expected = commits(directory)[:2]
        for length in range(len(last)):
            path.write_bytes(b"".join(before) + last[:length])
            assert commits(directory) == expected

    def test_a_torn_first_line_is_an_empty_segment(self, directory: Path, path: Path) -> None:
        first = path.read_bytes().splitlines()[0]
        for length in (0, 1, len(first)):
            path.write_bytes(first[:length])
            assert commits(directory) == []

    @pytest.mark.parametrize("line", [1, 2, 3, 4])
    @pytest.mark.parametrize("place", ["crc", "blank", "middle", "end"])
    def test_a_damaged_line_is_named(self, directory: Path, path: Path, line: int, place: str) -> None:
        lines = path.read_bytes().splitlines(keepends=True)
        damaged = bytearray(lines[line - 1])
        damaged[{"crc": 0, "blank": 8, "middle": len(damaged) // 2, "end": len(damaged) - 2}[place]] ^= 1
        lines[line - 1] = bytes(damaged)
        path.write_bytes(b"".join(lines))
        with pytest.raises(JournalError, match=f"line {line} of .*{path.name} is damaged"):
            commits(directory)

    def test_a_line_that_is_missing_its_end_in_the_middle(self, directory: Path, path: Path) -> None:
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(lines[0] + lines[1][:-5] + lines[2] + lines[3])
        with pytest.raises(JournalError, match="line 2"):
            commits(directory)

    def test_what_was_read_before_the_damage_is_handed_out(self, directory: Path, path: Path) -> None:
        path.write_bytes(path.read_bytes() + b"00000000 {}\n")
        reading = read_segment(segments(directory)[0])
        assert [next(reading).number for _ in range(3)] == [1, 2, 3]
        with pytest.raises(JournalError, match="line 5"):
            next(reading)

    @pytest.mark.parametrize("format_", [2, 0, None, "1"])
    def test_another_format_is_refused(self, directory: Path, path: Path, format_: object) -> None:
        _, *rest = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(line_of({"journal": format_}) + b"".join(rest))
        with pytest.raises(JournalError, match="use the version of acmeca that wrote it"):
            commits(directory)

    @pytest.mark.parametrize(
        "document",
        [
            {},
            {"commit": 1},
            {"commit": "x", "at": 1, "entries": []},
            {"commit": 1, "at": 1, "entries": [1]},
            {"commit": 1, "at": 1, "entries": [["kind"]]},
            {"commit": 1, "at": 1, "entries": [["kind", ["no columns"]]]},
            {"commit": 1, "at": 1, "entries": [["kind", {"a": 1.5}]]},
            {"commit": 1, "at": 1, "entries": [["kind", {"a": {}}]]},
            {"commit": 1, "at": 1, "entries": [["kind", {"a": {"b64": "!"}}]]},
            {"withdrawn": 1},
        ],
    )
    def test_what_acmeca_never_wrote(self, directory: Path, path: Path, document: dict[str, object]) -> None:
        """A sum that is right says nothing of the meaning: no exception but `JournalError` comes out."""
        path.write_bytes(path.read_bytes() + line_of(document))
        with pytest.raises(JournalError, match="never wrote"):
            commits(directory)

    def test_a_file_that_is_gone(self, directory: Path, path: Path) -> None:
        (segment,) = segments(directory)
        path.unlink()
        with pytest.raises(JournalError, match="cannot be read"):
            list(read_segment(segment))


# Appends until no file may grow beyond a limit, lifts the limit, appends again; prints what became of it.
FULL = """
import json, resource, sys
from datetime import UTC, datetime
from pathlib import Path
from acmeca.storage.database import Entry
from acmeca.storage.journal import Journal, JournalError

directory, limit, segment_bytes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
journal = Journal(directory, writer="node", instance="i", clock=lambda: datetime.now(UTC), segment_bytes=segment_bytes)
kept = []

def append(number):
    try:
        journal.append(number, [Entry("x", {"b": bytes(1000)})])
        kept.append(number)
    except JournalError as error:
        return str(error)

resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
errors = [append(number) for number in range(1, 21)]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
files = len(list(directory.iterdir()))
append(21)
print(json.dumps([kept, [error for error in errors if error], files]))
"""


class TestTrouble:
    @pytest.mark.parametrize(
        ("limit", "segment_bytes"), [(5000, 1 << 20), (50, 1 << 20), (1600, 1000)], ids=["middle", "first", "each"]
    )
    def test_a_full_disk(self, directory: Path, limit: int, segment_bytes: int) -> None:
        """Rule 4: what was told to be appended is there, what failed is not, with room again it goes on; and however often
        it is tried in vain, no files pile up."""
        with start_python(FULL, str(directory), str(limit), str(segment_bytes)) as process:
            output, _ = process.communicate(timeout=30)
        kept, errors, file_count = json.loads(output)
        assert kept[-1] == 21
        assert [commit.number for commit in commits(directory)] == kept
        if limit < 1000 or segment_bytes > limit:
            assert len(kept) + len(errors) == 21
            assert errors
            assert all("make room" in error for error in errors)
            assert file_count <= 1

    def test_a_directory_that_is_a_file(self, directory: Path) -> None:
        directory.write_text("")
        with pytest.raises(JournalError, match="cannot be made"):
            journal(directory)

    def test_a_directory_that_anybody_can_write_to(self, directory: Path) -> None:
        """What stands in it is done at a restore."""
        directory.mkdir()
        directory.chmod(0o777)
        with pytest.raises(JournalError, match="chmod o-w"):
            journal(directory)
        directory.chmod(0o770)
        journal(directory)

    def test_a_directory_that_goes_away_and_comes_back(self, directory: Path) -> None:
        """A file system of its own, unmounted for a while."""
        writing = journal(directory)
        directory.rmdir()
        with pytest.raises(JournalError, match="cannot be written"):
            writing.append(1, [REVOCATION])
        directory.mkdir()
        writing.append(2, [REVOCATION])
        assert [commit.number for commit in commits(directory)] == [2]

    def test_a_segment_that_is_removed_is_followed_by_a_new_one(self, directory: Path) -> None:
        """Somebody moves the journal to another disk, or deletes too much: what comes later is journalled all the same."""
        writing = journal(directory)
        writing.append(1, [REVOCATION])
        next(directory.iterdir()).unlink()
        writing.append(2, [REVOCATION])
        writing.append(3, [REVOCATION])
        assert [commit.number for commit in commits(directory)] == [2, 3]
        shutil.rmtree(directory)
        with pytest.raises(JournalError, match="cannot be written"):
            writing.append(4, [REVOCATION])

    def test_a_sync_that_fails_ends_the_segment(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rule 4: what the kernel still has of a file whose sync failed may be lost, and a later sync would not say so."""
        writing = journal(directory)
        writing.append(1, [REVOCATION])
        before = files(directory)[0].read_bytes()

        def fail(_: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(JournalError, match="nothing was changed"):
                writing.append(2, [REVOCATION])
        assert files(directory)[0].read_bytes() == before
        writing.append(3, [REVOCATION])
        assert [path.name[-12:-8] for path in files(directory)] == ["0001", "0002"]
        assert [commit.number for commit in commits(directory)] == [1, 3]

    @pytest.mark.parametrize("call", ["fdatasync", "fsync", "write"])
    def test_a_segment_that_cannot_be_begun_is_not_there(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        def fail(*_: object) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        writing = journal(directory)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            for number in range(5):
                with pytest.raises(JournalError):
                    writing.append(number, [REVOCATION])
        assert files(directory) == []
        writing.append(5, [REVOCATION])
        assert [commit.number for commit in commits(directory)] == [5]

    def test_a_withdrawal_that_fails_says_nothing(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rule 3: then the commit counts, which makes the CA more careful, never less."""

        def fail(*_: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        writing = journal(directory)
        writing.append(1, [REVOCATION])
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", fail)
            writing.withdraw(1)
        assert [dataclasses.astuple(commit)[1] for commit in commits(directory)] == [1]

    def test_no_descriptor_is_left(self, directory: Path) -> None:
        before = open_descriptors()
        writing = journal(directory, segment_bytes=1)
        for number in range(10):
            writing.append(number, [REVOCATION])
        assert len(commits(directory)) == 10
        writing.close()
        writing.close()
        assert open_descriptors() == before
