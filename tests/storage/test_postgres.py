"""What PostgreSQL alone has to show: several writers, lost connections, standbys, stopped processes, and bounded waits.

What both engines promise is in `tests/contract/`.
"""

import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from acmeca.audit import SYSTEM, ServerStarted
from acmeca.errors import Busy
from acmeca.storage.audit import append, verify
from acmeca.storage.database import Database, Entry, Transaction
from acmeca.storage.errors import StorageError
from acmeca.storage.postgres import PostgresDatabase
from acmeca.storage.postgres_schema import WRITERS_LOCK
from acmeca.storage.postgres_session import Limits
from tests.support.databases import NOTES, start_python
from tests.support.postgres import (
    PostgresServer,
    administer,
    lend_database,
    make_database,
    make_server,
    make_standby,
    open_postgres,
    require_programs,
    shared_server,
    wait_for,
)
from tests.support.processes import reserve_ports
from tests.support.seals import SEALED_NOTES, TableSeal
from tests.support.tcp_proxy import Cut, Proxy, open_proxy

INSERT = "INSERT INTO notes (id, body) VALUES ($1, $2)"
COUNT = "SELECT COUNT(*) AS n FROM notes"
QUICK = Limits(connect=1, idle=1, lock=1.5, statement=2, answer=2, scan=5, patience=3)

Body = Callable[[Transaction], Awaitable[str]]


def note(name: str) -> Body:
    async def body(tx: Transaction) -> str:
        await tx.execute(INSERT, name, "text")
        tx.journal(Entry("note", {"id": name}))
        return name

    return body


async def names(database: Database) -> list[str]:
    return [row["id"] for row in await database.fetch_all("SELECT id FROM notes ORDER BY id")]


@pytest.fixture
async def database() -> AsyncIterator[PostgresDatabase]:
    async with open_postgres(steps=NOTES) as database:
        yield database


@pytest.fixture
async def seal() -> TableSeal:
    return TableSeal()


@pytest.fixture
async def sealed(seal: TableSeal) -> AsyncIterator[PostgresDatabase]:
    async with open_postgres(steps=SEALED_NOTES, seal=seal) as database:
        yield database


def journalled(seal: TableSeal) -> list[object]:
    return [entry.values["id"] for entries in seal.kept.values() for entry in entries]


async def pid_of_writer(database: Database) -> int:
    row = await database.write(lambda tx: tx.fetch_one("SELECT pg_backend_pid() AS pid"))
    assert row is not None
    pid: int = row["pid"]
    return pid


async def test_a_commit_that_the_database_rolls_back_is_withdrawn() -> None:
    """After a failed statement COMMIT rolls back, and the server calls that a success."""

    class CarelessSeal(TableSeal):
        async def number(self, tx: Transaction) -> int:
            number = await super().number(tx)
            with suppress(StorageError):
                await tx.execute("INSERT INTO seals (number) VALUES (NULL)")
            return number

    seal = CarelessSeal()
    async with open_postgres(steps=SEALED_NOTES, seal=seal) as database:
        with pytest.raises(StorageError, match="rolled a commit back"):
            await database.write(note("a"))
        assert seal.calls == ["number", "append", "withdraw"]
        assert await names(database) == []


class TestSeveralWriters:
    async def test_two_writers_make_one_chain_without_a_gap(self) -> None:
        """Read, add one, write: only because bodies of different writers never interleave does that hold."""
        async with lend_database() as name, AsyncExitStack() as stack:
            databases = []
            for _ in range(3):
                databases.append(await PostgresDatabase.open(shared_server().url(name)))
                stack.push_async_callback(databases[-1].close)

            async def add(database: Database, number: int) -> None:
                async def body(tx: Transaction) -> None:
                    event = ServerStarted(actor=SYSTEM, version=str(number), config_sha256="")
                    await append(tx, writer="shared", at=datetime(2026, 11, 25, tzinfo=UTC), event=event)

                await database.write(body)

            for _ in range(3):
                await asyncio.gather(*(add(database, number) for database in databases for number in range(15)))
            assert await verify(databases[0]) == []
            row = await databases[1].fetch_one("SELECT COUNT(*) AS n, MAX(sequence) AS last FROM audit")
            assert row is not None
            assert (row["n"], row["last"]) == (135, 135)

    async def test_what_one_acknowledged_the_other_reads(self) -> None:
        async with lend_database(steps=NOTES) as name, AsyncExitStack() as stack:
            first = await PostgresDatabase.open(shared_server().url(name), steps=NOTES)
            stack.push_async_callback(first.close)
            second = await PostgresDatabase.open(shared_server().url(name), steps=NOTES)
            stack.push_async_callback(second.close)
            for number in range(20):
                await first.write(note(f"n{number:02}"))
                assert len(await names(second)) == number + 1

    async def test_a_stopped_process_that_holds_the_lock_is_thrown_out(self) -> None:
        """SIGSTOP in the middle of a body: the others go on after `idle` seconds, and the stopped one later repeats it."""
        async with lend_database(steps=NOTES) as name:
            url = shared_server().url(name)
            code = (
                "import asyncio, sys; from tests.storage.test_postgres import stop_in_a_body;"
                "asyncio.run(stop_in_a_body(sys.argv[1]))"
            )
            with start_python(code, url) as process:
                assert process.stdout is not None
                assert await asyncio.to_thread(process.stdout.readline) == "stops\n"
                while _state_of(process.pid) != "T":  # noqa: ASYNC110  (it tells nobody by itself)
                    await asyncio.sleep(0.01)
                database = await PostgresDatabase.open(
                    url, steps=NOTES, limits=Limits(lock=30, statement=30, answer=32)
                )
                try:
                    await database.write(note("other"))
                    process.send_signal(signal.SIGCONT)
                    assert await asyncio.to_thread(process.stdout.readline) == "stops\n"  # the second run
                    assert await asyncio.to_thread(process.stdout.readline) == "done\n"
                    assert await names(database) == ["other", "stopped"]
                finally:
                    await database.close()

    async def test_a_lock_that_is_held_for_long_is_busy(self) -> None:
        async with open_postgres(steps=NOTES, limits=Limits(lock=0.2)) as database:
            name = await database.fetch_one("SELECT CAST(current_database() AS TEXT) AS name")
            assert name is not None
            async with _held_lock(name["name"]):
                results = await asyncio.gather(*(database.write(note(n)) for n in "abc"), return_exceptions=True)
                assert [type(result) for result in results] == [Busy] * 3
                assert await names(database) == []  # reads go on
            await database.write(note("later"))
            assert await names(database) == ["later"]


def _state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123  (a moment in a test)
        return file.read().rpartition(")")[2].split()[0]


@asynccontextmanager
async def _held_lock(database: str) -> AsyncIterator[None]:
    """Somebody else has the writers' lock."""
    task = asyncio.create_task(
        administer(
            shared_server(), f"SELECT pg_advisory_lock({WRITERS_LOCK})", "SELECT pg_sleep(60)", database=database
        )
    )
    await wait_for(shared_server(), "SELECT COUNT(*) > 0 FROM pg_locks WHERE locktype = 'advisory'")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await wait_for(shared_server(), "SELECT COUNT(*) = 0 FROM pg_locks WHERE locktype = 'advisory'")


async def stop_in_a_body(url: str) -> None:
    """Stop this process in the middle of a write, the first time, and say so."""
    database = await PostgresDatabase.open(url, steps=NOTES, limits=Limits(idle=1))
    runs = itertools.count()

    async def body(tx: Transaction) -> None:
        await tx.execute(INSERT, "stopped", "text")
        os.write(1, b"stops\n")
        if next(runs) == 0:
            os.kill(os.getpid(), signal.SIGSTOP)

    await database.write(body)
    os.write(1, b"done\n")
    await database.close()


class TestLostConnections:
    async def test_a_backend_killed_in_a_body_has_the_batch_run_again(
        self, sealed: PostgresDatabase, seal: TableSeal
    ) -> None:
        runs = itertools.count(1)

        async def die_once(tx: Transaction) -> int:
            await tx.execute(INSERT, "victim", "text")
            run = next(runs)
            if run < 3:
                await tx.fetch_one("SELECT pg_terminate_backend(pg_backend_pid())")
            return run

        results = await asyncio.gather(sealed.write(note("a")), sealed.write(die_once), sealed.write(note("b")))
        assert results == ["a", 3, "b"]
        assert await names(sealed) == ["a", "b", "victim"]
        assert journalled(seal) == ["a", "b"]
        assert seal.calls == ["number", "append"]

    async def test_a_backend_killed_while_it_was_idle_is_not_noticed(self, database: PostgresDatabase) -> None:
        pid = await pid_of_writer(database)
        await administer(shared_server(), f"SELECT pg_terminate_backend({pid})")
        assert await database.write(note("a")) == "a"

    async def test_a_backend_killed_between_the_journal_and_the_commit_is_withdrawn_and_repeated(
        self, sealed: PostgresDatabase, seal: TableSeal
    ) -> None:
        pid = await pid_of_writer(sealed)
        loop = asyncio.get_running_loop()

        def kill_once() -> None:
            seal.trouble = lambda: None
            kill = administer(shared_server(), f"SELECT pg_terminate_backend({pid}, 5000)")
            asyncio.run_coroutine_threadsafe(kill, loop).result(10)

        seal.calls.clear()
        seal.trouble = kill_once
        assert await sealed.write(note("a")) == "a"
        # Whether the loss was seen before COMMIT was sent or after it, it is withdrawn once, and only the second run counts.
        assert [call for call in seal.calls if call != "has_number"] == [
            "number", "append", "withdraw", "number", "append"
        ]  # fmt: skip
        assert await names(sealed) == ["a"]
        assert journalled(seal) == ["a"]

    async def test_a_backend_killed_in_its_commit_is_asked_about_and_repeated(
        self, sealed: PostgresDatabase, seal: TableSeal
    ) -> None:
        """A deferred trigger ends the backend inside COMMIT, once: a sequence counts also what is rolled back."""
        row = await sealed.fetch_one("SELECT CAST(current_database() AS TEXT) AS name")
        assert row is not None
        await administer(
            shared_server(),
            "CREATE SEQUENCE deaths",
            "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF nextval('deaths') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN NULL; END $$",
            "CREATE CONSTRAINT TRIGGER dies AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION die()",
            "SELECT 1",
            database=row["name"],
        )
        try:
            assert await sealed.write(note("a")) == "a"
        finally:
            await administer(
                shared_server(),
                "DROP TRIGGER dies ON notes",
                "DROP FUNCTION die",
                "DROP SEQUENCE deaths",
                "SELECT 1",
                database=row["name"],
            )
        assert seal.calls == ["number", "append", "has_number", "withdraw", "number", "append"]
        assert await names(sealed) == ["a"]
        assert journalled(seal) == ["a"]

    async def test_reads_go_on_when_every_connection_was_killed(self, database: PostgresDatabase) -> None:
        await database.write(note("a"))
        await asyncio.gather(*(database.fetch_one(COUNT) for _ in range(10)), database.scan(COUNT))
        for _ in range(2):
            await administer(
                shared_server(),
                "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'acmeca'",
            )
            rows = await asyncio.gather(*(database.fetch_one(COUNT) for _ in range(10)))
            assert {row["n"] for row in rows if row is not None} == {1}
            assert (await database.scan(COUNT))[0]["n"] == 1

    async def test_a_read_whose_backend_dies_each_time_ends(self, database: PostgresDatabase) -> None:
        with pytest.raises(StorageError, match="does not hold its connections"):
            await database.fetch_one("SELECT pg_terminate_backend(pg_backend_pid())")
        assert await database.fetch_one(COUNT) is not None

    async def test_a_write_whose_backend_dies_each_time_ends(self) -> None:
        async def die(tx: Transaction) -> None:
            await tx.fetch_one("SELECT pg_terminate_backend(pg_backend_pid())")

        async with open_postgres(steps=NOTES, limits=Limits(patience=0.3)) as database:
            with pytest.raises(StorageError, match="does not hold its connections"):
                await database.write(die)
            await database.write(note("a"))

    async def test_a_backend_that_hangs_is_given_up(self) -> None:
        async with open_postgres(steps=NOTES, limits=QUICK) as database:
            pid = await pid_of_writer(database)
            os.kill(pid, signal.SIGSTOP)
            try:
                assert await database.write(note("a")) == "a"
            finally:
                os.kill(pid, signal.SIGCONT)
            assert await names(database) == ["a"]


class TestLostAnswers:
    """The network is cut at the COMMIT: between us and a server that is well."""

    @pytest.fixture
    async def proxy(self) -> AsyncIterator[Proxy]:
        require_programs()
        async with open_proxy(shared_server().port) as proxy:
            yield proxy

    @asynccontextmanager
    async def _open(
        self, proxy: Proxy, seal: TableSeal | None, limits: Limits = QUICK
    ) -> AsyncIterator[PostgresDatabase]:
        async with lend_database(steps=SEALED_NOTES) as name:
            url = shared_server().tcp_url(name).replace(f":{shared_server().port}/", f":{proxy.port}/")
            database = await PostgresDatabase.open(url, steps=SEALED_NOTES, seal=seal, limits=limits)
            try:
                yield database
            finally:
                await database.close()

    async def test_what_was_kept_is_answered_and_not_repeated(self, proxy: Proxy, seal: TableSeal) -> None:
        async with self._open(proxy, seal) as database:
            proxy.cut = Cut.BEFORE_ANSWER
            assert await asyncio.gather(*(database.write(note(name)) for name in "abc")) == ["a", "b", "c"]
            assert proxy.cuts == 1
            assert await names(database) == ["a", "b", "c"]
            assert seal.calls == ["number", "append", "has_number"]
            assert journalled(seal) == ["a", "b", "c"]

    async def test_what_was_not_kept_is_repeated(self, proxy: Proxy, seal: TableSeal) -> None:
        async with self._open(proxy, seal) as database:
            proxy.cut = Cut.BEFORE_COMMIT
            assert await asyncio.gather(*(database.write(note(name)) for name in "abc")) == ["a", "b", "c"]
            assert proxy.cuts == 1
            assert await names(database) == ["a", "b", "c"]
            assert seal.calls == ["number", "append", "has_number", "withdraw", "number", "append"]
            assert journalled(seal) == ["a", "b", "c"]

    @pytest.mark.parametrize("cut", [Cut.BEFORE_COMMIT, Cut.BEFORE_ANSWER])
    async def test_without_a_seal_nobody_is_told_a_guess(self, proxy: Proxy, cut: Cut) -> None:
        async with self._open(proxy, None) as database:
            proxy.cut = cut
            results = await asyncio.gather(*(database.write(note(name)) for name in "ab"), return_exceptions=True)
            assert all("may have been kept" in str(result) for result in results)
            await database.write(note("c"))
            assert await names(database) in (["a", "b", "c"], ["c"])

    async def test_a_database_that_is_dumb_is_told_in_time_and_found_again(self, proxy: Proxy, seal: TableSeal) -> None:
        limits = Limits(connect=0.3, idle=0.5, lock=0.5, statement=0.5, answer=0.5, scan=0.5, patience=0.5)
        async with self._open(proxy, seal, limits) as database:
            await database.write(note("a"))
            await names(database)
            proxy.is_dumb = True
            begun = time.monotonic()
            attempts = [database.write(note("b")), names(database), database.scan(COUNT)]
            results = await asyncio.gather(*attempts, return_exceptions=True)
            assert [type(result) for result in results] == [StorageError] * 3
            assert time.monotonic() - begun < 20
            with pytest.raises(StorageError, match="cannot be reached"):
                await database.write(note("c"))
            proxy.is_dumb = False
            await database.write(note("d"))
            assert await names(database) == ["a", "d"]

    async def test_no_message_holds_the_password(self, proxy: Proxy) -> None:
        async with self._open(proxy, None, Limits(connect=0.3, statement=0.3, answer=0.3, patience=0)) as database:
            proxy.is_dumb = True
            await asyncio.gather(*(_told(database.write(note(name))) for name in "ab"))


async def _told(write: Awaitable[object]) -> None:
    with pytest.raises(StorageError) as caught:
        await write
    assert "word" not in str(caught.value)


# --- servers of their own -----------------------------------------------------------------------------------------


class Load:
    """Tasks that write without a pause, and what they were told."""

    def __init__(self, database: Database, tasks: int = 6) -> None:
        self._database = database
        self._numbers = itertools.count()
        self._stopping = False
        self.acknowledged: set[str] = set()
        self.errors: list[str] = []
        self._tasks = [asyncio.create_task(self._run()) for _ in range(tasks)]

    async def _run(self) -> None:
        while not self._stopping:
            name = f"n{next(self._numbers)}"
            try:
                await self._database.write(note(name))
            except (StorageError, Busy) as error:
                self.errors.append(str(error))
                await asyncio.sleep(0.1)
            else:
                self.acknowledged.add(name)

    async def more(self, count: int = 30) -> None:
        """Wait for so many more acknowledged writes."""
        goal = len(self.acknowledged) + count
        async with asyncio.timeout(60):
            while len(self.acknowledged) < goal:  # noqa: ASYNC110  (nobody sets an event for it)
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)


async def _kept(url: str, steps: Sequence[object] = SEALED_NOTES) -> set[str]:
    database = await PostgresDatabase.open(url, steps=SEALED_NOTES)
    try:
        return {row["id"] for row in await database.scan("SELECT id FROM notes")}
    finally:
        await database.close()


async def test_a_server_that_crashes_and_comes_back_is_not_noticed() -> None:
    """SIGQUIT under load, as a crash would, and a new start: every write is answered, each is there, none twice."""
    with make_server() as server:
        name = await make_database(server)
        seal = TableSeal()
        database = await PostgresDatabase.open(
            server.url(name), steps=SEALED_NOTES, seal=seal, limits=Limits(patience=60)
        )
        load = Load(database)
        for _ in range(2):
            await load.more()
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
        await load.more()
        await load.stop()
        assert load.errors == []
        assert {row["id"] for row in await database.scan("SELECT id FROM notes")} == load.acknowledged
        assert set(journalled(seal)) == load.acknowledged
        await database.close()


async def test_a_failover_to_a_synchronous_standby_loses_no_acknowledged_write() -> None:
    with make_server() as primary, make_standby(primary) as standby:
        name = await make_database(primary)
        await administer(primary, "ALTER SYSTEM SET synchronous_standby_names = 'standby'", "SELECT pg_reload_conf()")
        seal = TableSeal()
        url = primary.tcp_url(name, standby)
        database = await PostgresDatabase.open(url, steps=SEALED_NOTES, seal=seal, limits=Limits(patience=60))
        load = Load(database)
        await load.more()
        assert load.errors == []
        await asyncio.to_thread(primary.stop)
        await administer(standby, "SELECT pg_promote()")
        await load.more()
        await load.stop()
        assert load.errors == []
        kept = {row["id"] for row in await database.scan("SELECT id FROM notes")}
        assert kept == load.acknowledged
        assert set(journalled(seal)) == kept
        await database.close()
        assert await _kept(standby.url(name)) == kept


async def test_a_commit_that_no_standby_confirms_is_no_success() -> None:
    """Neither when the wait is cancelled (the server then says COMMIT, with a warning) nor when it does not end."""
    with make_server("synchronous_standby_names = 'nobody'\n") as server:
        name = await make_database_locally(server)
        limits = Limits(idle=1, lock=1, statement=2, answer=4, patience=1)
        database = await PostgresDatabase.open(server.url(name), steps=NOTES, limits=limits)
        try:
            task = asyncio.create_task(database.write(note("a")))
            waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            await wait_for(server, f"SELECT COUNT(*) > 0 {waiting}")
            await administer(server, f"SELECT COUNT(pg_cancel_backend(pid)) {waiting}")
            with pytest.raises(StorageError, match="a standby did not confirm it"):
                await task
            with pytest.raises(StorageError, match="may have been kept"):
                await database.write(note("b"))
        finally:
            await database.close()


async def make_database_locally(server: PostgresServer) -> str:
    """A database with the notes' tables, on a server without the standby that it shall wait for."""
    name = f"local_{server.port}"
    await administer(server, "SET synchronous_commit = local", f"CREATE DATABASE {name}", "SELECT 1")
    await administer(
        server,
        "SET synchronous_commit = local",
        "CREATE TABLE notes (id TEXT PRIMARY KEY, body TEXT NOT NULL)",
        "CREATE TABLE schema_version (version BIGINT NOT NULL, minimum BIGINT NOT NULL)",
        "INSERT INTO schema_version VALUES (1, 1)",
        "SELECT 1",
        database=name,
    )
    return name


# --- opening ------------------------------------------------------------------------------------------------------


class TestOpen:
    async def test_the_writer_runs_with(self, database: PostgresDatabase) -> None:
        expected = {
            "synchronous_commit": "on",
            "TimeZone": "UTC",
            "client_min_messages": "warning",
            "transaction_isolation": "read committed",
            "transaction_read_only": "off",
            "idle_in_transaction_session_timeout": "5s",
            "lock_timeout": "8s",
            "statement_timeout": "10s",
            "application_name": "acmeca",
            "client_connection_check_interval": "2s",
        }

        async def body(tx: Transaction) -> dict[str, str]:
            rows = [(await tx.fetch_one("SELECT current_setting($1) AS value", name)) for name in expected]
            return {name: row["value"] for name, row in zip(expected, rows, strict=True) if row is not None}

        assert await database.write(body) == expected

    async def test_tcp_sessions_notice_a_peer_that_is_gone(self) -> None:
        async with lend_database(steps=NOTES) as name:
            database = await PostgresDatabase.open(shared_server().tcp_url(name), steps=NOTES)
            try:
                settings = ("tcp_keepalives_idle", "tcp_user_timeout")

                async def body(tx: Transaction) -> list[str]:
                    rows = [await tx.fetch_one("SELECT current_setting($1) AS value", setting) for setting in settings]
                    return [row["value"] for row in rows if row is not None]

                assert await database.write(body) == ["10", "15000"]
            finally:
                await database.close()

    @pytest.mark.parametrize(
        ("configured", "used"),
        [("off", "on"), ("local", "on"), ("remote_write", "on"), ("on", "on"), ("remote_apply", "remote_apply")],
    )
    async def test_a_commit_waits_for_the_disk_whatever_the_server_says(self, configured: str, used: str) -> None:
        async with lend_database(steps=NOTES) as name:
            alter = f"ALTER DATABASE {name}"
            await administer(shared_server(), f"{alter} SET synchronous_commit = {configured}", "SELECT 1")
            try:
                database = await PostgresDatabase.open(shared_server().url(name), steps=NOTES)
                show = "SELECT current_setting('synchronous_commit') AS value"
                row = await database.write(lambda tx: tx.fetch_one(show))
                assert row is not None
                assert row["value"] == used
                await database.close()
            finally:
                await administer(shared_server(), f"{alter} RESET synchronous_commit", "SELECT 1")

    async def test_a_wrong_password_and_a_missing_database_are_told_at_once(self) -> None:
        require_programs()
        server = shared_server()
        begun = time.monotonic()
        with pytest.raises(StorageError, match="password authentication failed") as caught:
            await PostgresDatabase.open(f"postgresql://acmeca:secret@127.0.0.1:{server.port}/postgres")
        assert "secret" not in str(caught.value)
        with pytest.raises(StorageError, match="CREATE DATABASE"):
            await PostgresDatabase.open(server.url("nowhere"))
        assert time.monotonic() - begun < 10

    async def test_where_nobody_answers_every_host_is_named_and_the_password_is_not(self) -> None:
        ports = reserve_ports(2)
        url = f"postgresql://acmeca:secret@127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}/acmeca"
        with pytest.raises(StorageError, match="cannot be reached") as caught:
            await PostgresDatabase.open(url, limits=Limits(patience=0.2))
        assert all(str(port) in str(caught.value) for port in ports)
        assert "secret" not in str(caught.value)

    async def test_the_password_may_stand_in_a_file(self, tmp_path: Path) -> None:
        async with lend_database(steps=NOTES) as name:
            path = tmp_path / "pgpass"
            path.touch(mode=0o600)
            path.write_text("127.0.0.1:*:*:acmeca:p@ss/word\n")
            url = shared_server().tcp_url(name).replace(":p%40ss%2Fword", "") + f"?passfile={path}"
            database = await PostgresDatabase.open(url, steps=NOTES)
            await database.write(note("a"))
            await database.close()

    async def test_a_host_that_is_down_or_a_standby_is_passed_over(self) -> None:
        async with lend_database(steps=NOTES) as name:
            url = shared_server().tcp_url(name).replace("@127", f"@127.0.0.1:{reserve_ports(1)[0]},127")
            database = await PostgresDatabase.open(url, steps=NOTES)
            await database.write(note("a"))
            await database.close()

    async def test_a_server_that_does_not_sync_is_refused(self) -> None:
        with make_server("fsync = off\n") as server, pytest.raises(StorageError, match="fsync = off"):
            await PostgresDatabase.open(server.url("postgres"), steps=NOTES)

    async def test_another_encoding_is_refused(self) -> None:
        require_programs()
        await administer(
            shared_server(),
            "CREATE DATABASE latin ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0",
            "SELECT 1",
        )
        with pytest.raises(StorageError, match="ENCODING 'UTF8'"):
            await PostgresDatabase.open(shared_server().url("latin"), steps=NOTES)


class TestText:
    async def test_a_nul_is_refused_and_not_shown(self, database: PostgresDatabase) -> None:
        """The one text that SQLite keeps and PostgreSQL does not."""
        with pytest.raises(StorageError, match="a value cannot be kept") as caught:
            await database.write(note("secret\0"))
        assert "secret" not in str(caught.value)

    async def test_a_wrong_type_is_refused_and_not_shown(self, database: PostgresDatabase) -> None:
        with pytest.raises(StorageError, match="a value cannot be kept") as caught:
            await database.fetch_all("SELECT id FROM notes WHERE number = $1", "secret")
        assert "secret" not in str(caught.value)
        with pytest.raises(StorageError, match="a value cannot be kept") as caught:
            await database.fetch_all("SELECT CAST(id AS BIGINT) FROM notes UNION SELECT CAST($1 AS BIGINT)", "secret")
        assert "secret" not in str(caught.value)

    async def test_a_statement_that_takes_too_long_ends(self) -> None:
        async with open_postgres(steps=NOTES, limits=Limits(statement=0.2)) as database:
            for attempt in (
                database.fetch_one("SELECT pg_sleep(30)"),
                database.write(lambda tx: tx.fetch_one("SELECT pg_sleep(30)")),
            ):
                with pytest.raises(StorageError, match="took too long"):
                    await attempt
            await database.write(note("a"))
