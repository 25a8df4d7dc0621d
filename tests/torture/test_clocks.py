"""The clock leaps while the server serves: an hour back, a day ahead, ten years ahead, and back again.

Rule 1: what time decides wrongly for a moment is refused or retried, and is right again when the clock is; nothing that was
decided by a wrong clock stays: no revocation is undone, no CRL number comes twice, no certificate outlives its issuer.
Rule 2: what does not hang on the wall clock (nonces, leases, the order of the audit) does not notice.
"""

import asyncio
import itertools
import signal
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from cryptography import x509

from acmeca.storage import audit as audit_storage
from tests.support.acme_client import AcmeClient, Issued
from tests.support.persistent_client import Obtained
from tests.support.server import RunningCa, running_ca
from tests.support.stages import (
    Client,
    Stage,
    check,
    chosen,
    crl_listing,
    crl_number,
    fetch_crl,
    is_revoked,
    serial_of,
    served,
    stopped,
    until,
)
from tests.support.status_client import response_status

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
TEN_YEARS: Final = timedelta(days=3653)
LEAPS: Final = [-HOUR, DAY, TEN_YEARS]


class Witness:
    """What a relying party has seen of a CA, and what may never be taken back."""

    def __init__(self, ca: RunningCa) -> None:
        self._ca = ca
        self.numbers: list[int] = []
        self.revoked: list[Issued] = []

    async def look(self) -> x509.CertificateRevocationList:
        """The CRL now: its number is no lower than any before, and every revocation that was listed stands in it."""
        published = await self._ca.services.status.crl(self._ca.signer.id)
        crl = x509.load_der_x509_crl(published.der)
        number = crl_number(crl)
        assert not self.numbers or number >= self.numbers[-1]
        self.numbers.append(number)
        for issued in self.revoked:
            entry = crl.get_revoked_certificate_by_serial_number(issued.serial)
            assert entry is not None
            assert entry.revocation_date_utc <= crl.last_update_utc
        return crl

    async def revoke(self, client: AcmeClient, issued: Issued) -> None:
        """RULES §5: a new entry's date does not precede the thisUpdate of the CRL before, whatever the clock says."""
        before = await self.look()
        (await client.revoke(issued.der)).ok()
        await do_duties(self._ca)
        self.revoked.append(issued)
        after = await self.look()
        assert self.numbers[-1] > self.numbers[-2]
        row = await self._ca.rows("SELECT revoked_at FROM certificates WHERE serial = $1", serial_of(issued.leaf))
        (revoked_at,) = [item["revoked_at"] for item in row]
        assert revoked_at >= int(min(before.last_update_utc, after.last_update_utc).timestamp())


async def do_duties(ca: RunningCa) -> None:
    """Everything that the server does by itself, once."""
    jobs = ca.opened.jobs
    duties = (
        jobs._beat,
        jobs._status.follow,
        jobs._sweep,
        jobs._expire,
        jobs._own_certificates.refresh,
        jobs._drop_orders,
        jobs._forget_certificates,
        jobs._publish_due_crls,
    )
    for duty in duties:
        try:
            await duty()
        except Exception as error:  # noqa: BLE001  (rule 2 of jobs.py: a duty that fails is tried again)
            failed.append(f"{duty.__name__}: {error}")


failed: list[str] = []


@pytest.mark.parametrize("leap", chosen(LEAPS, tested=[TEN_YEARS]), ids=lambda leap: f"{leap.total_seconds():+.0f}s")
async def test_the_clock_leaps_and_comes_back(leap: timedelta) -> None:  # noqa: PLR0915  (one story)
    """With an account, an order under way and revocations: OCSP never says good of what was revoked, numbers rise, the lease and the
    nonces stay; what cannot be done at that time is a clear refusal; and with the right time it all works as before."""
    failed.clear()
    async with running_ca(duties=False) as ca:
        ca.clock.advance(days=30)  # a CA that has been there for a while
        await do_duties(ca)
        client, party, witness = await ca.client(), ca.relying_party(), Witness(ca)
        first, second, third = [await client.issue(f"n{number}.localhost") for number in range(3)]
        await witness.revoke(client, first)
        under_way = await client.new_order("underway.localhost")
        lease = ca.opened.jobs._leadership.lease
        assert lease is not None
        nonces = [await client.new_nonce() for _ in range(2)]
        spent = await client.new_nonce()
        (await client.post(client.account_url, nonce=spent)).ok()
        real = ca.clock.moment
        # The clock leaps.
        ca.clock.leap(days=leap.days, seconds=leap.seconds)
        found = await ca.services.readiness.faults()
        assert any(fault.startswith("clock:") for fault in found), found
        await do_duties(ca)
        assert ca.opened.jobs._leadership.lease == lease
        (await client.post(client.account_url, nonce=nonces[0])).ok()
        (await client.post(client.account_url, nonce=spent)).refused("badNonce", 400)
        await witness.look()
        is_issuer_alive = ca.issuer.not_after > ca.clock.moment
        order = await client.order_answer("leapt.localhost")
        if is_issuer_alive:
            await client.issue("leapt.localhost")
            assert await party.status(first.serial) == "REVOKED"
            await witness.revoke(client, second)
        else:
            # No responder of today can be had: "try later" is an answer, "good" is none.
            assert response_status(await party.post(party.request(first.serial))) == "TRY_LATER"
            # The order can be made; what the issuer would sign cannot (RULES §4: never beyond the issuer's notAfter).
            ready = await client.ready_order("leapt.localhost") if order.status == 201 else None
            if ready is not None:
                refused = await client.finalize(ready)
                assert refused.status == 503, refused
            (await client.revoke(second.der)).ok()
        # It comes back.
        ca.clock.leap(days=-leap.days, seconds=-leap.seconds)
        assert ca.clock.moment == real
        assert any(fault.startswith("clock:") for fault in await ca.services.readiness.faults())
        await do_duties(ca)
        failed.clear()
        await do_duties(ca)
        assert failed == []
        witness.revoked = [first, second]
        crl = await witness.look()
        assert crl.last_update_utc <= ca.clock.moment < crl.next_update_utc
        assert await party.status(first.serial) == "REVOKED"
        assert await party.status(second.serial) == "REVOKED"
        assert await party.status(third.serial) == "GOOD"
        (await client.post(client.account_url, nonce=nonces[1])).ok()
        (await client.post(client.account_url, nonce=spent)).refused("badNonce", 400)
        assert ca.opened.jobs._leadership.lease == lease
        # The order that was under way has expired, if time went past its end, and says so; a new one works.
        # (Retention may have deleted it, of which nothing but a new order comes.)
        answer = await client.post(under_way.url)
        if leap < TEN_YEARS:
            assert answer.ok().json["status"] == ("pending" if leap < DAY else "invalid")
        else:
            answer.refused("malformed", 404)
        again = await client.issue("back.localhost")
        assert again.leaf.not_valid_before_utc <= ca.clock.moment
        served_now = await ca.served_certificate()
        assert served_now.not_valid_before_utc <= ca.clock.moment < served_now.not_valid_after_utc
        await witness.revoke(client, third)
        rows = await ca.rows("SELECT number FROM crls WHERE issuer_id = $1 ORDER BY number", ca.signer.id)
        assert len({row["number"] for row in rows}) == len(rows)
        assert await audit_storage.verify(ca.store.database) == []
        ca.clock.advance(hours=2)
        await do_duties(ca)
        assert await ca.services.readiness.faults() == []


async def test_the_clock_of_a_server_under_load_leaps(stage: Stage, client: Client) -> None:
    """A process with all its timers: its clock leaps a day ahead and back while clients order and revoke; numbers rise, a revocation
    shows in OCSP and in the CRL at either time, and nobody's order fails."""
    async with served(stage.plan(leap=DAY, renewal_seconds=0.2)) as server:
        obtained: list[Obtained] = []
        numbers = [0]
        for turn, number in enumerate([None, signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR2]):
            if number is not None:
                server.send(number)
            accounts = [client.account() for _ in range(3)]
            obtained += await asyncio.gather(
                *(account.obtain(f"c{turn}-{i}.localhost") for i, account in enumerate(accounts))
            )
            await accounts[0].revoke(obtained[-3])
            assert await is_revoked(client, obtained[-3])
            numbers.append(crl_number(await crl_listing(client, obtained[-3])))
            assert all(account.failed_orders == [] for account in accounts)
        assert all(one < next_ for one, next_ in itertools.pairwise(numbers))
        for index, item in enumerate(obtained):
            assert await is_revoked(client, item) == (index % 3 == 0)
        final = await fetch_crl(client, obtained[0])
        await until(lambda: stage.rows("SELECT 1 FROM crls WHERE der IS NOT NULL"), what="a CRL")
        assert abs(final.last_update_utc - datetime.now(UTC)) < timedelta(minutes=10)
        await stopped(server)
    await check(stage, obtained)
