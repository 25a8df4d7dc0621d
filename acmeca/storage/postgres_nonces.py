"""The nonces of several hosts: what was spent is in PostgreSQL, so that each nonce is good at every replica, once.

Rule 1: the tables are unlogged: they cost no log and no wait for a disk. After a crash of the database server, or on a standby that
took over, they are empty, and with them is the epoch with its key; whoever finds none begins another. So no spent nonce is ever
taken for a fresh one.
Rule 2: a nonce is spent by one statement that inserts its counter, if the epoch is still the one of its key. Where the answer
is lost it counts as spent: the client repeats with a fresh one (RFC 8555 §6.5).
Rule 3: counters are allotted in blocks, and what is below the window is pruned whenever one has come so far: a bounded step. What has
just left the window stays: a statement that began before (its server was slow) still takes it for a part of the window, and finds
that it was spent.
Rule 4: with a connection the epoch is read anew. A server that crashed has begun another, and what we minted in the old one is
refused.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Self

from acmeca.acme.nonces import CAPACITY, KEY_BYTES, NonceCipher
from acmeca.storage.errors import StorageError
from acmeca.storage.postgres_schema import WRITERS_LOCK
from acmeca.storage.postgres_session import Limits, LostConnectionError, Session, UnreachableError, connect
from acmeca.storage.postgres_url import PostgresUrl

_BLOCK: Final = 256  # counters that a process takes at a time
_PRUNED_EVERY: Final = 64  # blocks
_UNPRUNED: Final = _BLOCK * _PRUNED_EVERY  # counters below the window that are remembered
_LOOK_SECONDS: Final = 1.0  # between two looks for another epoch, when a nonce is none of ours

_TABLES: Final = f"""\
BEGIN; SELECT pg_advisory_xact_lock({WRITERS_LOCK});
CREATE UNLOGGED TABLE IF NOT EXISTS nonce_epoch (
    id BIGINT PRIMARY KEY CHECK (id = 1), epoch BIGINT NOT NULL, key BYTEA NOT NULL,
    next BIGINT NOT NULL, floor BIGINT NOT NULL);
CREATE UNLOGGED TABLE IF NOT EXISTS spent_nonces (counter BIGINT PRIMARY KEY);
COMMIT"""
_SPEND: Final = (
    "INSERT INTO spent_nonces (counter) SELECT CAST($1 AS BIGINT) FROM nonce_epoch"
    " WHERE epoch = $2 AND CAST($1 AS BIGINT) >= floor AND CAST($1 AS BIGINT) < next ON CONFLICT DO NOTHING"
)


@dataclass(frozen=True, slots=True)
class _Epoch:
    number: int
    cipher: NonceCipher


class PostgresNonces:
    """Mints and redeems. Made by `open`. For one event loop; other processes share the tables."""

    def __init__(self, session: Session, url: PostgresUrl, *, entropy: Callable[[int], bytes], limits: Limits) -> None:
        self._session = session
        self._url = url
        self._entropy = entropy
        self._limits = limits
        self._turn = asyncio.Lock()  # a session takes one statement at a time
        self._epoch: _Epoch | None = None
        self._next = 0
        self._block_end = 0
        self._looked_at = 0.0

    @classmethod
    async def open(cls, url: str, *, entropy: Callable[[int], bytes], limits: Limits | None = None) -> Self:
        """Connect, and make the tables where they are not there. Raises `StorageError`."""
        limits = limits or Limits()
        parsed = PostgresUrl.parse(url)
        nonces = cls(await _session(parsed, limits), parsed, entropy=entropy, limits=limits)
        await nonces._begin()
        return nonces

    async def mint(self) -> str:
        """A fresh nonce. Raises `StorageError` when the database cannot be reached and no counters are left."""
        epoch = self._epoch
        while epoch is None or self._next == self._block_end:
            await self._take_block()
            epoch = self._epoch
        counter = self._next
        self._next = counter + 1
        return epoch.cipher.seal(counter)

    async def redeem(self, nonce: str) -> bool:
        """True the first time, at whatever replica, for a nonce of ours that is recent enough; False ever after and for all else."""
        async with self._turn:
            counter = self._open(nonce)
            if counter is None and self._may_look():
                await self._with_session(self._read_epoch)
                counter = self._open(nonce)
            epoch = self._epoch
            if counter is None or epoch is None:
                return False
            number = epoch.number
            try:
                session = await self._connected()
                return await session.execute(_SPEND, (counter, number)) == 1
            except LostConnectionError:  # Rule 2
                return False

    async def close(self) -> None:
        """Take leave of the server. What was minted stays good at the others."""
        await self._session.close()

    def _open(self, nonce: str) -> int | None:
        return None if self._epoch is None else self._epoch.cipher.open(nonce)

    def _may_look(self) -> bool:
        """Whether another epoch may be looked for: now and then, for anybody can send what is no nonce."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at < _LOOK_SECONDS:
            return False
        self._looked_at = now
        return True

    async def _take_block(self) -> None:
        async with self._turn:
            if self._epoch is None or self._next == self._block_end:  # nobody took one while we waited
                await self._with_session(self._take)

    async def _take(self) -> None:
        rows = await self._session.fetch(
            "UPDATE nonce_epoch SET next = next + $1, floor = GREATEST(floor, next + $1 - $2) RETURNING epoch, next, floor",
            (_BLOCK, CAPACITY),
        )
        if not rows or self._epoch is None or rows[0]["epoch"] != self._epoch.number:
            await self._read_epoch()
            self._next = self._block_end = 0
            return
        self._block_end = rows[0]["next"]
        self._next = self._block_end - _BLOCK
        if self._block_end // _BLOCK % _PRUNED_EVERY == 0:
            await self._session.execute("DELETE FROM spent_nonces WHERE counter < $1", (rows[0]["floor"] - _UNPRUNED,))

    async def _begin(self) -> None:
        """What a new session begins with (rule 4). The tables may be new, and lost with the crash."""
        try:
            await self._session.run(_TABLES)
            await self._read_epoch()
        except BaseException:
            self._session.drop()
            raise

    async def _read_epoch(self) -> None:
        """The epoch that all replicas share; begun here when there is none."""
        await self._session.execute(
            "INSERT INTO nonce_epoch (id, epoch, key, next, floor) VALUES (1, $1, $2, 0, 0) ON CONFLICT DO NOTHING",
            (int.from_bytes(self._entropy(7)), self._entropy(KEY_BYTES)),
        )
        (row,) = await self._session.fetch("SELECT epoch, key FROM nonce_epoch", ())
        if self._epoch is None or self._epoch.number != row["epoch"]:
            self._epoch = _Epoch(row["epoch"], NonceCipher(row["key"]))
            self._next = self._block_end = 0

    async def _with_session(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something that may be done twice, on a new session when this one is lost."""
        await self._connected()
        try:
            await work()
        except LostConnectionError:
            await self._connected()
            try:
                await work()
            except LostConnectionError as error:
                raise StorageError(f"the database does not hold its connections: {error}") from None

    async def _connected(self) -> Session:
        if self._session.is_lost:
            self._session = await _session(self._url, self._limits)
            await self._begin()
        return self._session


async def _session(url: PostgresUrl, limits: Limits) -> Session:
    try:
        session = await connect(url, limits, unique={}, is_writer=True, statement=limits.statement)
        await session.run("SET synchronous_commit = off")  # nothing here has to survive a crash
    except (UnreachableError, LostConnectionError) as error:
        raise StorageError(f"the database cannot be reached: {error}") from None
    return session
