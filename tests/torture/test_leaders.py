"""Who signs CRLs: a leader that stands still for too long, and two that lead at once.

Two servers share one data directory, as the workers of `acmeca serve --workers 2` do, but without the supervisor that would end
one which stands still. How long an instance may be silent (20 s, `storage/writers.py`) is shorter here.
"""

import asyncio
import fcntl
import itertools
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from acmeca import app
from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.policy.own_templates import listener_template
from acmeca.workers.seat import Seat
from tests.support.crash_server import CrashServer, noun_of
from tests.support.persistent_client import Obtained
from tests.support.server import ca_site
from tests.support.stages import (
    PATIENCE,
    Stage,
    check,
    chosen,
    clients_of,
    count,
    crl_number,
    served,
    stopped,
    until,
    with_a_signature,
)

NAMES: Final = (Identifier(IdentifierType.DNS, "race.localhost"),)
GONE_AFTER: Final = 2.0
BEAT: Final = 0.3
RACES: Final = count("ACMECA_RACES", tested=5, tortured=50)


def second(stage: Stage, empty: Stage) -> Stage:
    """Another server of the same data directory, with ports of its own."""
    empty.installation.data_dir.symlink_to(stage.installation.data_dir)
    return empty


def holds_a_turn(stage: Stage) -> bool:
    """Whether somebody is in the middle of a commit."""
    path = Path(f"{stage.installation.database_path}-turns")
    file = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


async def stand_still(stage: Stage, server: CrashServer) -> None:
    """SIGSTOP, not in the middle of a commit: one that stands still there holds everybody up, until its supervisor ends it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            server.send(signal.SIGSTOP)
            await asyncio.sleep(0.02)
            if not holds_a_turn(stage):
                return
            server.send(signal.SIGCONT)
            await asyncio.sleep(0.02)


STEPS: Final = (None, "before signature of crl", "after signature of crl", "after commit of crl begun")


@pytest.mark.parametrize("step", chosen(STEPS, tested=("before signature of crl",)))
async def test_the_leader_stands_still(stage: Stage, step: str | None, empty_stage: Stage) -> None:
    """SIGSTOP of the leader past its lease, at a quiet moment or in the middle of making a CRL; meanwhile something is revoked. The
    other process takes the duties and publishes it; the first one wakes up, steps down, and publishes nothing; CRL numbers are
    unique and rise all the time."""
    other_stage = second(stage, empty_stage)
    options: dict[str, Any] = {"gone_after": GONE_AFTER, "beat": BEAT}
    first_plan = stage.plan(seat=0, at=step, happen="stop", **options)
    second_plan = other_stage.plan(seat=1, journal_path=other_stage.signed_path, **options)
    async with served(first_plan) as leader, served(second_plan) as other:
        assert "this process has the duties" in leader.log
        assert "this process has the duties" not in other.log
        async with clients_of(other_stage.installation) as client:  # they know the second server alone
            account = client.account()
            one, two, three = [await account.obtain(f"leader{number}.localhost") for number in range(3)]
            status = Published(stage)
            if step is None:
                await account.revoke(one)
                await status.listing(one)
                await stand_still(stage, leader)
            else:
                await account.revoke(one)  # the leader hears of it, begins a CRL, and stops there by itself
                await until(lambda: is_stopped(leader), what="the leader stands still")
            await account.revoke(two)
            await until(lambda: "this process has the duties" in other.log, what="the duties were taken over")
            # Not with the next look at the schedule (30 s), but at once: RULES §5, "in the CRL within a minute".
            await status.listing(two, seconds=20)
            begun = status.numbers[-1]
            leader.send(signal.SIGCONT)
            await until(lambda: "the duties are another process's now" in leader.log, what="the first one stepped down")
            await account.revoke(three)
            await status.listing(three)
            assert status.numbers[-1] > begun
            assert "Traceback" not in other.log
            obtained = [one, two, three]
        await stopped(other)
        await stopped(leader)
    numbers = [row["number"] for row in stage.rows("SELECT number FROM crls WHERE der IS NOT NULL ORDER BY number")]
    assert numbers[-1] == status.numbers[-1]
    published = [
        row["event"] for row in stage.rows("SELECT event FROM audit WHERE kind = 'crl.signed' ORDER BY at, sequence")
    ]
    assert len(published) == len(set(published))
    await check(stage, obtained, others=[other_stage])


def is_stopped(server: CrashServer) -> bool:
    """By the kernel's word (proc(5): state T)."""
    return Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


class Published:
    """The CRLs of the intermediate, as they are published one after another."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.numbers: list[int] = []

    async def listing(self, obtained: Obtained, *, seconds: float = PATIENCE) -> None:
        """Wait until the newest CRL has a certificate. Numbers rise meanwhile."""
        serial = obtained.certificate.serial_number

        def has() -> bool:
            (row,) = self._stage.rows(
                "SELECT der FROM crls WHERE der IS NOT NULL AND issuer_id IN"
                " (SELECT id FROM issuers WHERE parent_id IS NOT NULL) ORDER BY number DESC LIMIT 1"
            )
            crl = x509.load_der_x509_crl(row["der"])
            if crl_number(crl) not in self.numbers[-1:]:
                assert not self.numbers or crl_number(crl) > self.numbers[-1]
                self.numbers.append(crl_number(crl))
            return crl.get_revoked_certificate_by_serial_number(serial) is not None

        await until(has, what=f"the CRL lists {serial:x}", seconds=seconds)


# --- two at once --------------------------------------------------------------------------------------------------


async def test_two_leaders() -> None:
    """Two processes that both hold the lease (forced: a lease has one holder) make CRLs at the same moments, again and again, after
    revocations: no number comes twice, numbers rise, and the last CRL has every revocation."""
    async with ca_site() as site, AsyncExitStack() as stack:
        await site.init()
        both = [
            await stack.enter_async_context(
                app.opened(site.config, ambient=site.ambient, open_key=site.open_key, seat=seat(place))
            )
            for place in range(2)
        ]
        first, other = both
        await first.jobs.prepare()
        lease = first.jobs._leadership.lease
        assert lease is not None
        other.jobs._leadership._lease = lease
        issuer_id = first.services.issuers.active.id
        seen: list[int] = []
        for race in range(RACES):
            if race % 2:
                site.clock.advance(seconds=1)
            serial = await issued(first)
            await both[race % 2].services.certificates.revoke_for_admin(serial, reason=None, user="test")
            crls = await asyncio.gather(
                *(ca.services.status.publish_if_due(issuer_id, lease=lease) for ca in both),
                *(ca.services.status.publish_crl(issuer_id) for ca in both),
                *(ca.services.status.publish_if_due(issuer_id, lease=lease) for ca in both),
            )
            newest = await first.store.crls.latest(issuer_id)
            assert newest is not None
            assert newest.number == max(crl.number for crl in crls)
            seen.append(newest.number)
            listed = x509.load_der_x509_crl(newest.der)
            assert listed.get_revoked_certificate_by_serial_number(int(serial, 16)) is not None
        assert all(one < next_ for one, next_ in itertools.pairwise(seen))
        signed = [
            crl_number(x509.load_der_x509_crl(with_a_signature(tbs)))
            for tbs in site.issuer_key.signed
            if noun_of(tbs) == "crl"
        ]
        assert len(signed) == len(set(signed)) > RACES, "two leaders were to sign more than one would"


def seat(place: int) -> Seat:
    return Seat(slot=place, of=2, place=place, lifeline=-1, lock=-1, sockets={})


async def issued(ca: app.Opened) -> str:
    """The serial of a certificate that nobody asked for."""
    key = ec.generate_private_key(ec.SECP256R1())
    signer = ca.services.issuers.active
    certificate = await ca.services.issuance.issue_own(listener_template(), NAMES, key.public_key(), signer=signer)
    return certificate.serial
