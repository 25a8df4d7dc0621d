"""Readiness fails while there is still time to do something (RULES §5), and tells what."""

from collections.abc import AsyncIterator

import pytest

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
