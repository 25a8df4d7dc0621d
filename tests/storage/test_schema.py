"""The schema's steps: in order, whole or not at all, never backwards."""

import dataclasses
import re
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.storage.errors import StorageError
from acmeca.storage.schema import (
    Standing,
    Step,
    choose_steps,
    migrate,
    missing_steps,
    order_steps,
    read_steps,
    split_statements,
)
from tests.support.databases import connect, start_python

FIRST = Step(1, "first", "CREATE TABLE a (id TEXT PRIMARY KEY);")
SECOND = Step(2, "second", "CREATE TABLE b (id TEXT REFERENCES a (id)); INSERT INTO a (id) VALUES ('x;y');")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "acmeca.db"


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("PRAGMA foreign_keys = ON")
        yield connection


def tables(connection: sqlite3.Connection) -> list[str]:
    """The tables that the steps made."""
    found = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
    return [row[0] for row in found if row[0] != "schema_version"]


def standing(connection: sqlite3.Connection) -> tuple[int, int]:
    """What the table says; one row, whatever happened."""
    (row,) = connection.execute("SELECT version, minimum FROM schema_version")
    return row[0], row[1]


def version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


class TestOwnSteps:
    def test_they_make_a_database(self, connection: sqlite3.Connection) -> None:
        steps = read_steps()
        assert migrate(connection, steps) == len(steps) == version(connection)
        assert {"accounts", "orders", "authorizations", "certificates", "crls", "audit"} <= set(tables(connection))
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    def test_the_audit_table_is_what_the_chain_needs(self, connection: sqlite3.Connection) -> None:
        migrate(connection, read_steps())
        columns = connection.execute("SELECT name, \"notnull\", pk FROM pragma_table_info('audit')").fetchall()
        assert [column[0] for column in columns] == [
            "writer", "sequence", "at", "kind", "actor", "subject", "event", "hash"
        ]  # fmt: skip
        assert all(not_null for _, not_null, _ in columns)
        assert [name for name, _, key in columns if key] == ["writer", "sequence"]

    @pytest.mark.parametrize("step", read_steps(), ids=lambda step: step.name)
    def test_none_has_what_a_shared_commit_cannot_bear(self, step: Step) -> None:
        """A deferred check would fail at COMMIT, and with it every write of the batch; pragmas are the driver's."""
        code = re.sub(r"--[^\n]*|'[^']*'", " ", step.script).upper()
        assert not re.search(r"\b(DEFERRABLE|DEFERRED|PRAGMA|COMMIT|ROLLBACK|VACUUM|ATTACH)\b", code)


class TestMigrate:
    def test_steps_are_taken_once_each(self, connection: sqlite3.Connection) -> None:
        assert migrate(connection, [FIRST]) == 1
        assert migrate(connection, [FIRST]) == 1
        assert migrate(connection, [FIRST, SECOND]) == 2
        assert migrate(connection, [FIRST, SECOND]) == 2
        assert tables(connection) == ["a", "b"]
        assert connection.execute("SELECT id FROM a").fetchall() == [("x;y",)]

    def test_foreign_keys_are_on_afterwards(self, connection: sqlite3.Connection) -> None:
        migrate(connection, [FIRST, SECOND])
        assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)

    def test_a_program_works_on_a_newer_database_while_the_steps_it_lacks_are_additive(
        self, connection: sqlite3.Connection
    ) -> None:
        """Servers are renewed one by one: the old ones start and run beside the first new one."""
        migrate(connection, [FIRST, SECOND])
        assert migrate(connection, [FIRST]) == 2
        assert standing(connection) == (2, 1)
        assert not connection.in_transaction

    def test_a_database_from_before_there_was_a_minimum_goes_on(self, connection: sqlite3.Connection) -> None:
        connection.executescript("CREATE TABLE a (id TEXT PRIMARY KEY); PRAGMA user_version = 1")
        assert migrate(connection, [FIRST]) == 1
        assert migrate(connection, [FIRST, SECOND]) == 2
        assert standing(connection) == (2, 1)

    def test_a_newer_database_is_not_touched(self, connection: sqlite3.Connection) -> None:
        migrate(connection, [FIRST, dataclasses.replace(SECOND, is_additive=False)])
        with pytest.raises(StorageError, match=r"newer acmeca \(its schema is 2, this program knows 1\)"):
            migrate(connection, [FIRST])
        assert version(connection) == 2
        assert standing(connection) == (2, 2)
        assert not connection.in_transaction

    def test_somebody_elses_database_is_not_touched(self, connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE theirs (id)")
        with pytest.raises(StorageError, match="not acmeca's"):
            migrate(connection, [FIRST])
        assert tables(connection) == ["theirs"]

    def test_a_step_that_fails_leaves_the_one_before(self, connection: sqlite3.Connection) -> None:
        broken = Step(2, "broken", "CREATE TABLE b (id); INSERT INTO nowhere VALUES (1); CREATE TABLE c (id);")
        with pytest.raises(StorageError, match="nowhere"):
            migrate(connection, [FIRST, broken])
        assert (tables(connection), version(connection)) == (["a"], 1)
        assert migrate(connection, [FIRST, SECOND]) == 2

    def test_a_step_may_rebuild_a_table_that_others_point_to(self, connection: sqlite3.Connection) -> None:
        rebuild = Step(
            3,
            "rebuild",
            "INSERT INTO b (id) VALUES ('x;y'); CREATE TABLE a_new (id TEXT PRIMARY KEY, more TEXT);"
            " INSERT INTO a_new (id) SELECT id FROM a; DROP TABLE a; ALTER TABLE a_new RENAME TO a;",
        )
        assert migrate(connection, [FIRST, SECOND, rebuild]) == 3
        assert connection.execute("SELECT id, more FROM a").fetchall() == [("x;y", None)]

    def test_a_step_that_leaves_orphans_is_undone(self, connection: sqlite3.Connection) -> None:
        orphan = Step(3, "orphan", "INSERT INTO b (id) VALUES ('nobody');")
        with pytest.raises(StorageError, match=r"step 3 \(orphan\) leaves 1 rows without their parent"):
            migrate(connection, [FIRST, SECOND, orphan])
        assert version(connection) == 2
        assert connection.execute("SELECT COUNT(*) FROM b").fetchone() == (0,)

    def test_a_step_that_ends_its_transaction_is_found(self, connection: sqlite3.Connection) -> None:
        with pytest.raises(StorageError, match="ends its transaction by itself"):
            migrate(connection, [Step(1, "rash", "CREATE TABLE a (id); COMMIT; CREATE TABLE b (id);")])
        assert version(connection) == 0
        assert "b" not in tables(connection)

    def test_a_process_killed_in_a_step_leaves_the_one_before(self, path: Path) -> None:
        code = (
            "import os, signal, sqlite3, sys\n"
            "from acmeca.storage.schema import Step, migrate\n"
            "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "connection.execute('PRAGMA journal_mode = WAL').fetchall()\n"
            "connection.create_function('die', 0, lambda: os.kill(os.getpid(), signal.SIGKILL))\n"
            "first = Step(1, 'first', 'CREATE TABLE a (id TEXT PRIMARY KEY);')\n"
            "fatal = Step(2, 'fatal', 'CREATE TABLE b (id); INSERT INTO a VALUES (1); SELECT die();')\n"
            "migrate(connection, [first, fatal])\n"
        )
        with start_python(code, str(path)) as process:
            assert process.wait(timeout=30) == -9
        with connect(path) as connection:
            assert (tables(connection), version(connection)) == (["a"], 1)
            assert migrate(connection, [FIRST, SECOND]) == 2

    def test_two_processes_at_once_take_each_step_once(self, path: Path) -> None:
        steps = [FIRST, SECOND, *(Step(n, f"s{n}", f"CREATE TABLE t{n} (id);") for n in range(3, 12))]

        def run(_: int) -> int:
            with connect(path) as connection:
                return migrate(connection, steps)

        with connect(path) as connection:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(run, range(4))) == [11] * 4


class TestOrder:
    @pytest.mark.parametrize("numbers", [[], [0], [2], [1, 3], [1, 1], [1, 2, 2], [0, 1]])
    def test_a_gap_or_a_double_is_refused(self, numbers: list[int]) -> None:
        with pytest.raises(ValueError, match=r"numbered 1, 2, 3"):
            order_steps([Step(number, "x", "") for number in numbers])

    def test_the_order_of_the_files_does_not_matter(self) -> None:
        assert order_steps([SECOND, FIRST]) == (FIRST, SECOND)


class TestStanding:
    """Who may work with what: the whole decision, which both engines ask."""

    STEPS = (FIRST, SECOND, Step(3, "third", "", is_additive=False), Step(4, "fourth", ""))

    @pytest.mark.parametrize(("version", "minimum"), [(1, 1), (2, 1), (3, 3), (4, 3)])
    def test_the_minimum_is_the_last_step_that_bars_older_programs(self, version: int, minimum: int) -> None:
        reached = Standing(0, 0)
        for step in self.STEPS[:version]:
            reached = reached.after(step)
        assert reached == Standing(version, minimum)

    @pytest.mark.parametrize("known", [1, 2, 3, 4])
    @pytest.mark.parametrize(("version", "minimum"), [(0, 0), (1, 1), (2, 1), (3, 3), (4, 3)])
    def test_a_program_takes_what_is_missing_or_nothing_or_is_refused(
        self, known: int, version: int, minimum: int
    ) -> None:
        steps = self.STEPS[:known]
        if known < minimum:
            with pytest.raises(StorageError, match=rf"its schema is {version}, this program knows {known}"):
                missing_steps(Standing(version, minimum), steps)
        else:
            assert missing_steps(Standing(version, minimum), steps) == self.STEPS[version:known]


class TestFiles:
    FILES = {  # noqa: RUF012  (read only)
        "0001_a.sql": "CREATE TABLE a (id TEXT);",
        "0002_b.sql": "common",
        "0002_b.postgresql.sql": "-- incompatible\nPostgreSQL's",
        "README.md": "no step",
    }

    def test_an_engines_own_file_takes_the_place_of_the_common_one(self) -> None:
        assert [step.script for step in choose_steps(self.FILES, "sqlite")] == ["CREATE TABLE a (id TEXT);", "common"]
        assert choose_steps(self.FILES, "postgresql")[1] == Step(
            2, "b", "-- incompatible\nPostgreSQL's", is_additive=False
        )

    def test_a_step_bars_older_programs_only_where_its_first_line_says_so(self) -> None:
        scripts = {
            "0001_a.sql": "-- incompatible\n",
            "0002_b.sql": "-- this is incompatible\n",
            "0003_c.sql": "\n-- incompatible\n",
        }
        assert [step.is_additive for step in choose_steps(scripts, "sqlite")] == [False, True, True]

    def test_both_engines_take_the_same_steps(self) -> None:
        own, other = read_steps("sqlite"), read_steps("postgresql")
        assert [(step.number, step.name, step.is_additive) for step in own] == [
            (step.number, step.name, step.is_additive) for step in other
        ]


STATEMENTS = [
    "SELECT 1;",
    "SELECT ';';",
    "SELECT 'it''s; ok', \"a;b\";",
    "-- a comment; with a semicolon\nSELECT 2;",
    "/* one; two; */ SELECT 3;",
    "CREATE TRIGGER t AFTER INSERT ON a BEGIN UPDATE a SET x = 1; DELETE FROM a; END;",
]


class TestSplit:
    @given(
        st.lists(st.sampled_from(STATEMENTS), max_size=8), st.sampled_from(["", "\n", "\n-- end; of file", " /* ; */ "])
    )
    @settings(max_examples=100, deadline=None)
    def test_a_script_is_its_statements(self, statements: list[str], rest: str) -> None:
        assert split_statements("\n\n".join(statements) + rest) == tuple(statements)

    @pytest.mark.parametrize(
        "script", ["SELECT 1", "SELECT 1; SELECT 2", "SELECT 1; SELECT ';", "CREATE TRIGGER t BEGIN x;"]
    )
    def test_a_statement_without_its_end_is_refused(self, script: str) -> None:
        """Left alone, the last one would silently never run."""
        with pytest.raises(ValueError, match="not ended by a semicolon"):
            split_statements(script)
