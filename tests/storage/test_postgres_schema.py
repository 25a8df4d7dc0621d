"""The schema's steps on PostgreSQL: what SQLite's tests show (`test_schema.py`), and many processes that start at once."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence

import pytest

from acmeca.storage.errors import StorageError
from acmeca.storage.postgres import PostgresDatabase
from acmeca.storage.postgres_schema import translate
from acmeca.storage.postgres_session import Limits
from acmeca.storage.schema import Step
from tests.support.databases import start_python
from tests.support.postgres import administer, make_database, require_programs, shared_server

FIRST = Step(1, "first", "CREATE TABLE a (id TEXT PRIMARY KEY);")
SECOND = Step(2, "second", "CREATE TABLE b (id TEXT REFERENCES a (id)); INSERT INTO a (id) VALUES ('x;y');")


@pytest.fixture
async def name() -> AsyncIterator[str]:
    """An empty database."""
    require_programs()
    name = await make_database(shared_server())
    yield name
    await administer(shared_server(), f"DROP DATABASE {name} WITH (FORCE)", "SELECT 1")


async def migrate(name: str, steps: Sequence[Step], *, patience: float = 15) -> None:
    database = await PostgresDatabase.open(
        shared_server().url(name), steps=steps, limits=Limits(patience=patience, lock=30)
    )
    await database.close()


async def standing(name: str) -> tuple[list[str], int, int]:
    """The tables that the steps made, the version and the minimum; one row, whatever happened."""
    tables = "SELECT array_agg(tablename::text ORDER BY tablename) FROM pg_tables WHERE schemaname = 'public'"
    row = "SELECT array_agg(ARRAY[version, minimum]) FROM schema_version"
    found = await administer(shared_server(), tables, database=name)
    ((version, minimum),) = await administer(shared_server(), row, database=name)
    return [table for table in found if table != "schema_version"], version, minimum


async def test_steps_are_taken_once_each(name: str) -> None:
    await migrate(name, [FIRST])
    await migrate(name, [FIRST])
    assert await standing(name) == (["a"], 1, 1)
    await migrate(name, [FIRST, SECOND])
    await migrate(name, [FIRST, SECOND])
    assert await standing(name) == (["a", "b"], 2, 1)
    assert await administer(shared_server(), "SELECT id FROM a", database=name) == "x;y"


async def test_a_program_works_on_a_newer_database_while_the_steps_it_lacks_are_additive(name: str) -> None:
    await migrate(name, [FIRST, SECOND])
    await migrate(name, [FIRST])
    assert await standing(name) == (["a", "b"], 2, 1)


async def test_a_newer_database_is_not_touched(name: str) -> None:
    await migrate(name, [FIRST, dataclasses.replace(SECOND, is_additive=False)])
    with pytest.raises(StorageError, match=r"newer acmeca \(its schema is 2, this program knows 1\)"):
        await migrate(name, [FIRST])
    assert await standing(name) == (["a", "b"], 2, 2)


async def test_somebody_elses_database_is_not_touched(name: str) -> None:
    await administer(shared_server(), "CREATE TABLE theirs (id text)", "SELECT 1", database=name)
    with pytest.raises(StorageError, match="not acmeca's"):
        await migrate(name, [FIRST])
    tables = "SELECT COUNT(*) FROM pg_tables WHERE schemaname = 'public'"
    assert await administer(shared_server(), tables, database=name) == 1


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("CREATE TABLE b (id TEXT); INSERT INTO nowhere VALUES (1); CREATE TABLE c (id TEXT);", "nowhere"),
        ("CREATE TABLE b (id TEXT); COMMIT; CREATE TABLE c (id TEXT);", "ends its transaction by itself"),
        ("CREATE TABLE b (id TEXT REFERENCES a (id)); INSERT INTO b VALUES ('nobody');", "FOREIGN KEY"),
    ],
)
async def test_a_step_that_fails_leaves_the_one_before(name: str, script: str, told: str) -> None:
    with pytest.raises(StorageError, match=told):
        await migrate(name, [FIRST, Step(2, "broken", script)])
    tables, *versions = await standing(name)
    assert (versions, "c" in tables) == ([1, 1], False)
    if "COMMIT" not in script:
        await migrate(name, [FIRST, SECOND])


async def test_a_backend_killed_in_a_step_leaves_the_one_before(name: str) -> None:
    fatal = Step(2, "fatal", "CREATE TABLE b (id TEXT); SELECT pg_terminate_backend(pg_backend_pid());")
    with pytest.raises(StorageError, match="cannot be reached"):
        await migrate(name, [FIRST, fatal], patience=0.3)
    assert await standing(name) == (["a"], 1, 1)
    await migrate(name, [FIRST, SECOND])
    assert await standing(name) == (["a", "b"], 2, 1)


async def test_a_process_killed_in_a_step_leaves_the_one_before(name: str) -> None:
    code = (
        "import asyncio, sys; from acmeca.storage.postgres import PostgresDatabase; from acmeca.storage.schema import Step\n"
        "first = Step(1, 'first', 'CREATE TABLE a (id TEXT PRIMARY KEY);')\n"
        "slow = Step(2, 'slow', 'CREATE TABLE b (id TEXT); SELECT pg_sleep(60);')\n"
        "asyncio.run(PostgresDatabase.open(sys.argv[1], steps=[first, slow]))\n"
    )
    asleep = f"SELECT COUNT(*) FROM pg_stat_activity WHERE datname = '{name}' AND wait_event = 'PgSleep'"
    with start_python(code, shared_server().url(name)) as process:
        while not await administer(shared_server(), asleep):
            assert process.poll() is None
            await asyncio.sleep(0.02)
        process.kill()
        process.wait(timeout=10)
    # The server finds the client gone within two seconds, ends the step and lets go of the lock.
    await migrate(name, [FIRST, SECOND])
    assert await standing(name) == (["a", "b"], 2, 1)


async def test_many_processes_at_once_take_each_step_once(name: str) -> None:
    steps = [FIRST, SECOND, *(Step(n, f"s{n}", f"CREATE TABLE t{n:02} (id TEXT);") for n in range(3, 8))]
    await asyncio.gather(*(migrate(name, steps[: 3 + index]) for index in range(5)))
    tables, *versions = await standing(name)
    assert (len(tables), versions) == (7, [7, 1])


@pytest.mark.parametrize(
    ("common", "translated"),
    [
        ("CREATE TABLE a (id TEXT PRIMARY KEY)", 'CREATE TABLE a (id TEXT COLLATE "C" PRIMARY KEY)'),
        ("CREATE TABLE a (b BLOB NOT NULL, text_id BIGINT)", "CREATE TABLE a (b BYTEA NOT NULL, text_id BIGINT)"),
        ("SELECT 'TEXT', \"TEXT\" -- TEXT\n/* BLOB */", "SELECT 'TEXT', \"TEXT\" -- TEXT\n/* BLOB */"),
        ("SELECT CAST(a AS TEXT), CAST(a AS  blob)", "SELECT CAST(a AS TEXT), CAST(a AS  BYTEA)"),
        ("alter table a add column b text", 'alter table a add column b TEXT COLLATE "C"'),
    ],
)
def test_only_types_are_translated(common: str, translated: str) -> None:
    assert translate(common) == translated
