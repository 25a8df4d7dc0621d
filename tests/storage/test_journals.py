"""The journals of several writers, read as one: in order, without what never happened, and past what is damaged."""

import itertools
import shutil
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from acmeca.storage.database import Entry
from acmeca.storage.journal import Commit, Journal, JournalError, read_segment, segments
from acmeca.storage.journals import gather
from acmeca.storage.pruning import summarize

_instances = itertools.count(1)


def record(writer: str, sequence: int, mark: str = "") -> Entry:
    return Entry(
        "audit",
        {"writer": writer, "sequence": sequence, "at": 1, "event": mark, "hash": b"%d" % sequence + mark.encode()},
    )


class Author:
    """Writes the journal of one instance; `commit(number, sequence)` is a commit with that place in the audit."""

    def __init__(
        self, directory: Path, writer: str = "w", *, at: int = 1_793_534_400, segment_bytes: int = 1 << 20
    ) -> None:
        self.writer = writer
        self.journal = Journal(
            directory,
            writer=writer,
            instance=f"i{next(_instances)}",
            clock=lambda: datetime.fromtimestamp(at, UTC),
            segment_bytes=segment_bytes,
        )

    def commit(self, number: int, *sequences: int, mark: str = "") -> "Author":
        self.journal.append(number, [record(self.writer, sequence, mark) for sequence in sequences])
        return self

    def close(self) -> None:
        self.journal.close()


def told(commits: Sequence[Commit]) -> list[tuple[str, int, str]]:
    return [
        (commit.writer, commit.number, "".join(str(entry.values["event"]) for entry in commit.entries))
        for commit in commits
    ]


def read(*directories: Path) -> list[tuple[str, int, str]]:
    return told(list(gather(directories).commits()))


class TestOrder:
    def test_numbers_of_all_writers(self, tmp_path: Path) -> None:
        first, second = Author(tmp_path, "a"), Author(tmp_path, "b")
        for number in range(1, 9):
            author = first if number % 3 else second
            author.commit(number, number)
        journals = gather([tmp_path])
        assert [commit.number for commit in journals.commits()] == list(range(1, 9))
        assert journals.last_numbers == {"a": 8, "b": 6}
        assert journals.writers == {"a", "b"}

    def test_parts_of_an_instance_and_instances_of_a_writer(self, tmp_path: Path) -> None:
        """The clock leapt back between the two instances, and decides nothing."""
        first = Author(tmp_path, at=1_793_534_400, segment_bytes=200)
        for number in range(1, 6):
            first.commit(number, number)
        Author(tmp_path, at=1_700_000_000).commit(6, 6).commit(7, 7)
        assert len(segments(tmp_path)) == 6
        assert [number for _, number, _ in read(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]

    def test_no_directory_and_nothing_in_it(self, tmp_path: Path) -> None:
        assert read(tmp_path / "none") == []
        (tmp_path / "other.txt").write_text("no journal")
        assert read(tmp_path) == []


class TestWhatNeverHappened:
    def test_withdrawn(self, tmp_path: Path) -> None:
        author = Author(tmp_path, segment_bytes=1)  # a segment for each line: the withdrawal stands in another one
        author.commit(1, 1).commit(2, 2, mark="no")
        author.journal.withdraw(2)
        author.commit(2, 2, mark="yes")
        journals = gather([tmp_path])
        assert told(list(journals.commits())) == [("w", 1, ""), ("w", 2, "yes")]
        assert journals.left_out == 1

    def test_its_place_was_taken_by_the_next(self, tmp_path: Path) -> None:
        """The process died between journal and commit, and the next one took number and place."""
        Author(tmp_path).commit(1, 1).commit(2, 2, 3, mark="no")
        Author(tmp_path).commit(4, 2, mark="yes").commit(5, 3)
        journals = gather([tmp_path])
        assert told(list(journals.commits())) == [("w", 1, ""), ("w", 4, "yes"), ("w", 5, "")]
        assert journals.left_out == 1

    def test_its_number_was_taken_by_another_writer(self, tmp_path: Path) -> None:
        Author(tmp_path, "a").commit(1, 1).commit(2, 2, mark="no")
        Author(tmp_path, "b").commit(2, 1, mark="yes").commit(3, 2)
        assert read(tmp_path) == [("a", 1, ""), ("b", 2, "yes"), ("b", 3, "")]

    def test_the_last_one_is_in_doubt_and_stays(self, tmp_path: Path) -> None:
        """journal.py, rule 3: "It is replayed all the same"."""
        Author(tmp_path, "a").commit(1, 1).commit(2, 2, mark="doubt")
        Author(tmp_path, "b").commit(3, 1)
        assert ("a", 2, "doubt") in read(tmp_path)


class TestDamage:
    def test_a_line_that_was_cut_short_was_never_committed(self, tmp_path: Path) -> None:
        Author(tmp_path).commit(1, 1).commit(2, 2)
        (segment,) = segments(tmp_path)
        whole = segment.path.read_bytes()
        third = whole.index(b"\n", whole.index(b"\n") + 1) + 1
        for length in range(third, len(whole)):
            segment.path.write_bytes(whole[:length])
            journals = gather([tmp_path])
            assert [commit.number for commit in journals.commits()] == [1]
            assert journals.damages == []

    def test_any_octet_that_was_changed_is_told_and_the_rest_is_read(self, tmp_path: Path) -> None:
        Author(tmp_path).commit(1, 1).commit(2, 2).commit(3, 3)
        (segment,) = segments(tmp_path)
        whole = segment.path.read_bytes()
        second = whole.index(b"\n", whole.index(b"\n") + 1) + 1
        end = whole.index(b"\n", second)
        for position in range(second, end, 7):
            segment.path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x04]) + whole[position + 1 :])
            journals = gather([tmp_path])
            assert [commit.number for commit in journals.commits()] == [1, 3]
            assert [damage.line for damage in journals.damages] == [3]
            assert str(segment.path) in str(journals.damages[0])
            with pytest.raises(JournalError, match="damaged"):
                list(read_segment(segment))

    @pytest.mark.parametrize(
        "text",
        [
            "{}",
            "[]",
            '{"commit": 1}',
            '{"commit": 1, "at": 1, "entries": [["x", 1]]}',
            '{"commit": "x"}',
            "x",
            "1" * 5000,
        ],
    )
    def test_a_line_that_acmeca_never_wrote(self, tmp_path: Path, text: str) -> None:
        Author(tmp_path).commit(1, 1)
        (segment,) = segments(tmp_path)
        with segment.path.open("ab") as file:
            file.write(b"%08x %s\n" % (zlib.crc32(text.encode()), text.encode()))
        journals = gather([tmp_path])
        assert [commit.number for commit in journals.commits()] == [1]
        assert len(journals.damages) == 1

    def test_a_newer_format_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("acmeca.storage.journal._FORMAT", 2)
        Author(tmp_path).commit(1, 1)
        monkeypatch.undo()
        with pytest.raises(JournalError, match="format 2, this program reads 1"):
            read(tmp_path)

    def test_a_file_of_another_name_is_somebody_else_s(self, tmp_path: Path) -> None:
        Author(tmp_path, "a").commit(1, 1)
        (segment,) = segments(tmp_path)
        segment.path.rename(segment.path.with_name(segment.path.name.replace("a@", "b@")))
        journals = gather([tmp_path])
        list(journals.commits())
        assert "another journal" in str(journals.damages[0])

    def test_one_that_cannot_be_read(self, tmp_path: Path) -> None:
        Author(tmp_path).commit(1, 1)
        (segment,) = segments(tmp_path)
        segment.path.unlink()
        segment.path.mkdir()
        journals = gather([tmp_path])
        assert list(journals.commits()) == []
        assert "cannot be read" in str(journals.damages[0])


class TestCopies:
    def test_a_segment_in_two_directories_is_read_once_where_it_is_best(self, tmp_path: Path) -> None:
        own, copy = tmp_path / "own", tmp_path / "copy"
        author = Author(own).commit(1, 1)
        shutil.copytree(own, copy)
        author.commit(2, 2)
        assert [number for _, number, _ in read(copy, own, own)] == [1, 2]
        (segment,) = segments(own)
        segment.path.write_bytes(segment.path.read_bytes()[:100] + b"?" + segment.path.read_bytes()[101:])
        journals = gather([own, copy])
        assert [commit.number for commit in journals.commits()] == [1]
        assert journals.damages == []

    def test_a_summary(self, tmp_path: Path) -> None:
        author = Author(tmp_path).commit(3, 1).commit(5, 2)
        author.journal.withdraw(5)
        (segment,) = segments(tmp_path)
        summary = summarize(segment)
        assert (summary.commits, summary.first_number, summary.last_number) == (2, 3, 5)
        assert summary.length == segment.path.stat().st_size
