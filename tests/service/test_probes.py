"""Probes: what they find, in exact words, and that what hangs hangs nobody."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from acmeca.errors import Busy
from acmeca.pki import der
from acmeca.pki.signing import PrivateKey
from acmeca.service import probes
from acmeca.service.ambient import Ambient
from acmeca.service.issuers import SigningIssuer
from acmeca.service.probes import (
    PROOF,
    ClockWatch,
    Disks,
    FaultKind,
    Probe,
    Seen,
    WriteWatch,
    in_thread,
    judge_record_time,
    probe_disks,
    probe_keys,
    probe_writes,
)
from acmeca.storage.database import Database
from acmeca.storage.errors import StorageError
from tests.support.server import Clock, CountingKey
from tests.support.status_issuers import make_issuer, shared_issuer
from tests.support.stored import stored_issuer

STUCK = Seen("thing", "it does not end", "look at it")


@pytest.fixture
def clock() -> Clock:
    return Clock(datetime(2026, 11, 1, 12, 0, tzinfo=UTC))


@pytest.fixture
def ambient(clock: Clock) -> Ambient:
    return Ambient(clock=clock, entropy=bytes, uptime=lambda: clock.uptime)


async def told(probe: Probe) -> list[str]:
    """What it tells after a look, if one is due."""
    task = probe.begin()
    if task is not None:
        await task
    return [fault.text for fault in probe.faults()]


class TestProbe:
    """Rules 1 and 2."""

    async def test_a_result_is_kept(self, clock: Clock, ambient: Ambient) -> None:
        looks = 0

        async def look() -> Sequence[Seen]:
            nonlocal looks
            looks += 1
            return [Seen("thing", "it is bad", "mend it")] if looks < 3 else []

        probe = Probe(FaultKind.DISK, look, ambient=ambient, every=10, patience=2, stuck=STUCK)
        bad = "thing: it is bad, since 2026-11-01 12:00 UTC; mend it"
        assert probe.faults() == []
        assert await told(probe) == [bad]
        clock.advance(seconds=9)
        assert await told(probe) == [bad]
        assert looks == 1
        clock.advance(minutes=5)
        assert await told(probe) == [bad]  # since when it is so, not since when it was seen again
        assert looks == 2
        clock.advance(seconds=10)
        assert await told(probe) == []

    async def test_what_hangs_hangs_once(self, clock: Clock, ambient: Ambient) -> None:
        looks, gate = 0, asyncio.Event()

        async def look() -> Sequence[Seen]:
            nonlocal looks
            looks += 1
            await gate.wait()
            return []

        probe = Probe(FaultKind.DISK, look, ambient=ambient, every=10, patience=2, stuck=STUCK)
        first = probe.begin()
        await asyncio.sleep(0)
        clock.advance(seconds=2)
        assert probe.faults() == []
        clock.advance(minutes=1)
        assert probe.begin() is first
        assert [fault.text for fault in probe.faults()] == [
            "thing: it does not end, since 2026-11-01 12:00 UTC; look at it"
        ]
        gate.set()
        assert await told(probe) == []
        assert looks == 1

    async def test_one_that_fails_is_a_fault(self, ambient: Ambient) -> None:
        async def look() -> Sequence[Seen]:
            raise RuntimeError("secret")

        probe = Probe(FaultKind.DISK, look, ambient=ambient, every=10, patience=2, stuck=STUCK)
        assert await told(probe) == [
            "thing: it cannot be looked at (RuntimeError), since 2026-11-01 12:00 UTC; the log says why"
        ]

    async def test_a_stop_gives_up(self, ambient: Ambient) -> None:
        async def look() -> Sequence[Seen]:
            await asyncio.Event().wait()
            return []

        probe = Probe(FaultKind.DISK, look, ambient=ambient, every=10, patience=2, stuck=STUCK)
        await probe.stop()  # before it ever looked
        task = probe.begin()
        assert task is not None
        await probe.stop()
        assert task.cancelled()


class TestThread:
    async def test_values_and_failures(self) -> None:
        assert await in_thread(lambda: 5) == 5
        with pytest.raises(ZeroDivisionError):
            await in_thread(lambda: 1 // 0)

    async def test_a_thread_that_hangs_is_waited_for_by_nobody(self) -> None:
        gate = threading.Event()
        task = asyncio.create_task(in_thread(gate.wait))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert all(thread.daemon for thread in threading.enumerate() if thread.name == "acmeca-probe")
        gate.set()


@dataclass
class FakeDatabase:
    """Keeps writes, or fails, or hangs."""

    error: Exception | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    writes: int = 0

    async def write(self, body: Callable[[Any], Awaitable[object]]) -> object:
        await self.gate.wait()
        self.writes += 1
        if self.error is not None:
            raise self.error
        return await body(None)


class TestWrites:
    def probe(self, database: FakeDatabase, ambient: Ambient) -> Probe:
        return probe_writes(cast("Database", database), ambient=ambient)

    @pytest.mark.parametrize("error", [StorageError("the disk\nis full"), Busy("the disk is full")])
    async def test_refused(self, clock: Clock, ambient: Ambient, error: Exception) -> None:
        database = FakeDatabase(error)
        database.gate.set()
        probe = self.probe(database, ambient)
        assert await told(probe) == [
            (
                "database: it keeps no writes (the disk is full), since 2026-11-01 12:00 UTC;"
                " nothing is issued or revoked until that is mended"
            )
        ]
        database.error = None
        clock.advance(seconds=5)
        assert await told(probe) == []

    async def test_cheap(self, clock: Clock, ambient: Ambient) -> None:
        """Its outcome is kept for five seconds, however often it is asked for."""
        database = FakeDatabase()
        database.gate.set()
        probe = self.probe(database, ambient)
        for _ in range(50):
            await told(probe)
        assert database.writes == 1
        clock.advance(seconds=5)
        await told(probe)
        assert database.writes == 2

    async def test_stuck(self, clock: Clock, ambient: Ambient) -> None:
        probe = self.probe(FakeDatabase(), ambient)
        probe.begin()
        clock.advance(seconds=3)
        (fault,) = probe.faults()
        assert fault.kind is FaultKind.DATABASE
        assert fault.text == (
            "database: a write has not ended, since 2026-11-01 12:00 UTC;"
            " look at its disk; nothing is issued or revoked meanwhile"
        )
        await probe.stop()


class Heard:
    """A `CommitObserver`."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def committed(self, *, writes: int, seconds: float) -> None:
        self.said.append((writes, seconds))

    def failed(self, error: StorageError, *, writes: int) -> None:
        self.said.append((str(error), writes))


def test_commits_that_failed(clock: Clock, ambient: Ambient) -> None:
    """What the driver tells counts at once, and for a minute: a write of nothing may pass where a journal is full."""
    heard = Heard()
    watch = WriteWatch(ambient=ambient, then=heard)
    assert watch.fault() is None
    watch.failed(StorageError("the journal is full"), writes=3)
    watch.committed(writes=1, seconds=0.5)
    fault = watch.fault()
    assert fault is not None
    assert fault.text == (
        "database: a commit failed at 2026-11-01 12:00 UTC (the journal is full); what it held was not done"
    )
    clock.advance(minutes=1)
    assert watch.fault() == fault
    clock.advance(seconds=1)
    assert watch.fault() is None
    assert heard.said == [("the journal is full", 3), (1, 0.5)]


class TestKeys:
    def signer(self, key: PrivateKey | None = None) -> SigningIssuer:
        shared = shared_issuer()
        return SigningIssuer(stored_issuer(), shared.key if key is None else key)

    async def test_good(self, ambient: Ambient) -> None:
        assert await told(probe_keys([self.signer()], ambient=ambient)) == []

    async def test_another_key(self, ambient: Ambient) -> None:
        (said,) = await told(probe_keys([self.signer(make_issuer().key)], ambient=ambient))
        assert said == (
            "key of issuer: it is not its certificate's (the signature is not by this key over this data),"
            " since 2026-11-01 12:00 UTC; put the right key there, from a backup"
        )

    async def test_a_token_that_is_gone(self, clock: Clock, ambient: Ambient) -> None:
        key = CountingKey(cast("ec.EllipticCurvePrivateKey", shared_issuer().key))
        key.broken = RuntimeError("CKR_DEVICE_REMOVED, PIN 1234")
        probe = probe_keys([self.signer(key)], ambient=ambient)
        gone = "key of issuer: it cannot sign (RuntimeError), since 2026-11-01 12:00 UTC; nothing is issued; the log says more"
        assert await told(probe) == [gone]
        key.broken = None
        clock.advance(seconds=59)
        assert await told(probe) == [gone]  # once a minute
        clock.advance(seconds=1)
        assert await told(probe) == []
        assert not key.signed

    async def test_a_token_that_hangs(self, clock: Clock, ambient: Ambient, monkeypatch: pytest.MonkeyPatch) -> None:
        gate = threading.Event()

        def hang(*_: object) -> bytes:
            gate.wait()
            return b""

        monkeypatch.setattr(probes, "sign_with", hang)
        probe = probe_keys([self.signer()], ambient=ambient)
        probe.begin()
        await asyncio.sleep(0)  # the event loop turns all the while
        clock.advance(seconds=11)
        assert [fault.text for fault in probe.faults()] == [
            (
                "keys of the issuers: a signature has not ended, since 2026-11-01 12:00 UTC;"
                " look at the token that holds the key"
            )
        ]
        gate.set()
        await probe.stop()

    def test_what_is_signed_is_no_certificate(self) -> None:
        """Rule 3: a TBSCertificate, a TBSCertList and a ResponseData are SEQUENCEs, and this is no DER at all."""
        assert PROOF[0] != der.SEQUENCE
        with pytest.raises(der.DerError):
            der.Reader(PROOF).read(der.SEQUENCE)


@dataclass
class Space:
    total: int
    free: int


class TestDisks:
    @pytest.mark.parametrize(
        ("total", "free", "said"),
        [
            (1 << 30, 64 << 20, None),  # of a small disk 64 MiB
            (1 << 30, (64 << 20) - 1, "64 MiB of 1024 MiB are left, less than 64 MiB"),
            (100 << 30, 2048 << 20, None),  # of a large one 2 %
            (100 << 30, 2000 << 20, "2000 MiB of 102400 MiB are left, less than 2048 MiB"),
        ],
    )
    async def test_what_is_left(self, ambient: Ambient, total: int, free: int, said: str | None) -> None:
        disks = Disks((Path("/var/lib/acmeca"),), usage_of=lambda _: Space(total, free))
        expected = (
            []
            if said is None
            else [
                (
                    f"disk of /var/lib/acmeca: {said}, since 2026-11-01 12:00 UTC;"
                    " make room: on a full disk nothing is issued or revoked"
                )
            ]
        )
        assert await told(probe_disks(disks, ambient=ambient)) == expected

    async def test_each_directory_has_its_own(self, ambient: Ambient) -> None:
        usage = {Path("/a"): Space(1 << 30, 0), Path("/b"): Space(1 << 30, 1 << 30), Path("/c"): Space(1 << 30, 1)}
        disks = Disks(tuple(usage), usage_of=usage.__getitem__)
        said = await told(probe_disks(disks, ambient=ambient))
        assert [line.partition(":")[0] for line in said] == ["disk of /a", "disk of /c"]
        assert disks.usage == usage

    async def test_one_that_is_gone(self, ambient: Ambient) -> None:
        (said,) = await told(probe_disks(Disks((Path("/nowhere/at/all"),)), ambient=ambient))
        assert said == "disk: it cannot be looked at (FileNotFoundError), since 2026-11-01 12:00 UTC; the log says why"


class TestClock:
    def test_time_that_goes_by_is_no_leap(self, clock: Clock, ambient: Ambient) -> None:
        watch = ClockWatch(ambient)
        clock.advance(days=400)
        assert watch.fault() is None
        clock.leap(seconds=10)  # what is slewed, and an uptime that is read a little later
        assert watch.fault() is None

    @pytest.mark.parametrize(
        ("seconds", "said"),
        [
            (3600, "it leapt 3600 s ahead, at 2026-11-01 13:00 UTC"),
            (-11, "it leapt 11 s back, at 2026-11-01 11:59 UTC"),
        ],
    )
    def test_leaps(self, clock: Clock, ambient: Ambient, seconds: int, said: str) -> None:
        watch = ClockWatch(ambient)
        clock.leap(seconds=seconds)
        fault = watch.fault()
        assert fault is not None
        assert fault.kind is FaultKind.CLOCK
        assert fault.text == (
            f"clock: {said} by its new time; see that NTP keeps it: what is signed by a wrong clock is refused elsewhere"
        )
        clock.advance(hours=1)
        assert watch.fault() == fault
        clock.advance(seconds=1)
        assert watch.fault() is None

    def test_a_leap_back_is_a_leap(self, clock: Clock, ambient: Ambient) -> None:
        watch = ClockWatch(ambient)
        clock.leap(hours=2)
        assert watch.fault() is not None
        clock.leap(hours=-2)
        fault = watch.fault()
        assert fault is not None
        assert "leapt 7200 s back" in fault.text

    def test_before_what_was_written_by_it(self, clock: Clock) -> None:
        now = clock()
        assert judge_record_time(None, now) is None
        assert judge_record_time(now + timedelta(seconds=2), now) is None
        fault = judge_record_time(now + timedelta(minutes=2), now)
        assert fault is not None
        assert fault.text == (
            "clock: it stands 120 s before the newest audit record, of 2026-11-01 12:02 UTC;"
            " set it by NTP before anything is signed"
        )
