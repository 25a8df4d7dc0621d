"""Revocation: by whom, once, and never undone (RFC 8555 §7.6)."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from acmeca.errors import Conflict, NotFound
from acmeca.service.status import format_serial
from acmeca.storage import audit
from tests.support.acme_client import certificate_key
from tests.support.server import RunningCa, running_ca


@pytest.fixture
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


class TestRevocation:
    async def test_fifty_at_once(self, ca: RunningCa) -> None:
        """§7.6: one revokes, the others are told that it is done, whoever asks."""
        client = await ca.client()
        issued = await client.issue("a.localhost")
        key = certificate_key(issued)
        answers = await asyncio.gather(
            *(client.revoke(issued.der, reason=4, key=key if number % 2 else None) for number in range(50))
        )
        assert sorted(answer.status for answer in answers) == [200] + [400] * 49
        for answer in answers:
            if answer.status != 200:
                answer.refused("alreadyRevoked", 400)
        assert len(await ca.events("certificate.revoked")) == 1

    async def test_a_race_for_the_reason(self, ca: RunningCa) -> None:
        """keyCompromise by the certificate's key wins in the end, whatever came first."""
        client = await ca.client()
        for _ in range(5):
            issued = await client.issue("a.localhost")
            await asyncio.gather(
                client.revoke(issued.der, reason=4), client.revoke(issued.der, reason=1, key=certificate_key(issued))
            )
            serial = f"{issued.serial:034x}"
            assert await ca.scalar("SELECT revocation_reason FROM certificates WHERE serial = $1", serial) == 1

    async def test_by_an_administrator(self, ca: RunningCa) -> None:
        client = await ca.client()
        issued = await client.issue("a.localhost")
        serial = f"{issued.serial:034x}"
        certificates = ca.services.certificates
        revoked = await certificates.revoke_for_admin(serial, reason=5, user="alice")
        assert revoked.revocation_reason == 5
        with pytest.raises(Conflict, match="revoked stays revoked"):
            await certificates.revoke_for_admin(serial, reason=None, user="alice")
        raised = await certificates.revoke_for_admin(serial, reason=1, user="alice")
        assert raised.revocation_reason == 1
        with pytest.raises(Conflict):
            await certificates.revoke_for_admin(serial, reason=1, user="alice")
        with pytest.raises(NotFound):
            await certificates.revoke_for_admin("00", reason=1, user="alice")
        events = await ca.events("certificate.revoked")
        assert [("admin:alice" in event, '"administrator"' in event) for event in events] == [(True, True)] * 2

    async def test_refusals_are_written_down(self, ca: RunningCa) -> None:
        """RULES §6: every refusal is in the audit: by whom, of what, why."""
        client, stranger = await ca.client(), await ca.client()
        issued = await client.issue("a.localhost")
        (await stranger.revoke(issued.der)).refused("unauthorized", 403)
        (await client.revoke(issued.der)).ok()
        (await client.revoke(issued.der)).refused("alreadyRevoked", 400)
        with pytest.raises(Conflict):
            await ca.services.certificates.revoke_for_admin(format_serial(issued.serial), reason=None, user="jo")
        with pytest.raises(NotFound):
            await ca.services.certificates.revoke_for_admin("00ff", reason=None, user="jo")
        refused = [json.loads(event) for event in await ca.events("revocation.refused")]
        ids = [one.kid.rpartition("/")[2] for one in (stranger, client)]
        assert [event["actor"] for event in refused] == [
            f"account:{ids[0]}",
            f"account:{ids[1]}",
            "admin:jo",
            "admin:jo",
        ]
        assert [event["serial_hex"] for event in refused] == [format_serial(issued.serial)] * 3 + ["00ff"]
        assert await audit.verify(ca.store.database) == []

    async def test_who_did_it(self, ca: RunningCa) -> None:
        """RULES §6: the audit tells the path that allowed it."""
        client, other = await ca.client(), await ca.client()
        issued = [await client.issue("a.localhost") for _ in range(3)]
        await other.ready_order("a.localhost")
        (await client.revoke(issued[0].der)).ok()
        (await other.revoke(issued[1].der)).ok()
        (await client.revoke(issued[2].der, key=certificate_key(issued[2]))).ok()
        events = await ca.events("certificate.revoked")
        for event, how in zip(events, ("account", "authorizations", "certificate key"), strict=True):
            assert f'"how":"{how}"' in event

    async def test_nothing_but_revocation_blocks(self, ca: RunningCa) -> None:
        """Only keyCompromise blocks a key: a superseded one may be certified again."""
        client = await ca.client()
        issued = await client.issue("a.localhost")
        (await client.revoke(issued.der, reason=4)).ok()
        await client.issue("a.localhost", key=issued.key)
        assert await ca.scalar("SELECT COUNT(*) AS n FROM blocked_keys") == 0

    async def test_blocked_beside_a_finalize(self, ca: RunningCa) -> None:
        """A key is certified or blocked first, never certified after it was blocked."""
        client = await ca.client()
        for number in range(6):
            issued = await client.issue("a.localhost")
            order = await client.ready_order(f"b{number}.localhost")
            revoked, finalized = await asyncio.gather(
                client.revoke(issued.der, reason=1), client.finalize(order, order.csr(issued.key))
            )
            revoked.ok()
            assert finalized.status == 200 or finalized.problem == "badCSR"
            late = await client.ready_order("c.localhost")
            (await client.finalize(late, late.csr(issued.key))).refused("badCSR", 400)
