"""Readiness fails while there is still time to do something (RULES §5), and tells what. Each probe is in test_probes.py."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from acmeca.service.probes import FaultKind
from acmeca.storage.errors import StorageError
from tests.support.acme_client import Answer
from tests.support.server import RunningCa, running_ca


@pytest.fixture
async def ca() -> AsyncIterator[RunningCa]:
    """Without duties, so that what is due stays undone."""
    async with running_ca(duties=False) as ca:
        yield ca


async def asked(ca: RunningCa) -> Answer:
    return await ca.relying_party().fetch(ca.urls.status + "/health/ready")


async def test_ready(ca: RunningCa) -> None:
    answer = await asked(ca)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert await ca.services.readiness.faults() == []


async def test_a_crl_that_was_not_made_anew(ca: RunningCa) -> None:
    """ "What is stale makes readiness fail well before nextUpdate": six hours before, of twenty-four."""
    ca.clock.advance(hours=18)
    assert await ca.services.readiness.faults() == []
    ca.clock.advance(seconds=1)
    (fault,) = await ca.services.readiness.faults()
    assert fault.startswith(f"crl of {ca.issuer.id}: it was made at")
    answer = await asked(ca)
    assert answer.status == 503
    assert answer.headers["Cache-Control"] == "no-store"
    await ca.services.status.publish_due_crls()
    assert (await asked(ca)).status == 200


async def test_a_revocation_that_waits(ca: RunningCa) -> None:
    """RULES §5: a revocation shows "in the CRL within a minute"."""
    client = await ca.client()
    issued = await client.issue("a.localhost")
    (await client.revoke(issued.der)).ok()
    ca.clock.advance(minutes=1)
    assert await ca.services.readiness.faults() == []
    ca.clock.advance(seconds=1)
    (fault,) = await ca.services.readiness.faults()
    assert "is not in it yet" in fault
    await ca.services.status.publish_due_crls()
    assert await ca.services.readiness.faults() == []


async def test_a_responder_that_was_not_rotated(ca: RunningCa) -> None:
    ca.clock.advance(days=11, hours=23)
    await ca.services.status.publish_due_crls()
    assert await ca.services.readiness.faults() == []
    ca.clock.advance(hours=1)
    (fault,) = await ca.services.readiness.faults()
    assert fault.startswith(f"ocsp responder of {ca.issuer.id}: its certificate ends at")
    await ca.opened.jobs.prepare()
    assert await ca.services.readiness.faults() == []


async def test_the_roots_crl(ca: RunningCa) -> None:
    """Nobody renews it but a person: a week is the last call."""
    ca.clock.advance(days=396 - 7)
    await ca.opened.jobs.prepare()
    assert await ca.services.readiness.faults() == []
    ca.clock.advance(seconds=1)
    (fault,) = await ca.services.readiness.faults()
    assert "acmeca crl --root-key" in fault


async def test_a_clock_that_went_back(ca: RunningCa) -> None:
    ca.clock.advance(days=-1)
    faults = await ca.services.readiness.faults()
    assert len([fault for fault in faults if "is the clock right?" in fault]) == 2


async def test_it_changes_nothing(ca: RunningCa) -> None:
    """Rule 2 of service/readiness.py."""
    ca.clock.advance(days=30)
    before, signed = await ca.counts(), len(ca.site.issuer_key.signed)
    for _ in range(3):
        assert (await asked(ca)).status == 503
    assert await ca.counts() == before
    assert len(ca.site.issuer_key.signed) == signed


class TestWhatItStandsOn:
    """The probes are asked, and what they find is told."""

    @pytest.fixture(autouse=True)
    def _patient(self, ca: RunningCa) -> None:
        ca.services.readiness.moment = 10.0  # of what does not hang, on a busy machine

    async def test_a_database_that_keeps_nothing(self, ca: RunningCa, monkeypatch: pytest.MonkeyPatch) -> None:
        async def fail(_: object) -> None:
            raise StorageError("the disk is full")

        monkeypatch.setattr(ca.store.database, "write", fail)
        (fault,) = await ca.services.readiness.faults()
        assert fault.startswith("database: it keeps no writes (the disk is full), since ")
        assert (await asked(ca)).status == 503
        monkeypatch.undo()
        ca.clock.advance(seconds=5)
        assert await ca.services.readiness.faults() == []

    async def test_a_key_that_does_not_sign(self, ca: RunningCa) -> None:
        ca.site.issuer_key.broken = RuntimeError("CKR_DEVICE_REMOVED")
        (fault,) = await ca.services.readiness.found()
        assert fault.kind is FaultKind.KEY
        assert fault.text.startswith(f"key of {ca.issuer.id}: it cannot sign (RuntimeError), since ")

    async def test_a_clock_that_leapt(self, ca: RunningCa) -> None:
        ca.clock.leap(minutes=10)
        (fault,) = await ca.services.readiness.faults()
        assert fault.startswith("clock: it leapt 600 s ahead, at ")

    async def test_a_clock_before_the_audit(self, ca: RunningCa) -> None:
        """Here it leapt while the server was down."""
        ca.clock.advance(seconds=-30)
        faults = await ca.services.readiness.faults()
        assert [fault for fault in faults if "it stands 30 s before the newest audit record" in fault]


async def test_a_disk_that_hangs_does_not_hang_the_answer(ca: RunningCa, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 3: it waits for a moment, tells what it knows, and asks once however often it is asked."""
    begun = 0

    async def hang(_: object) -> None:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()

    monkeypatch.setattr(ca.store.database, "write", hang)
    for _ in range(20):
        await ca.services.readiness.faults()
    ca.clock.advance(seconds=3)
    started = time.perf_counter()
    (fault,) = await ca.services.readiness.faults()
    assert time.perf_counter() - started < 1  # 30 ms, on a machine that does nothing else
    assert fault.startswith("database: a write has not ended, since ")
    assert begun == 1
