"""Killed at every step that matters: an order, a new CA, a start and an end, the responder's rotation, a revocation and its CRL.

Rule 1: each test proves that the process died at that step (exit code -9), so a step that moved makes it fail.
Rule 2: in `make test` the steps around the journal are a few of those in `make torture` (`IN_TORTURE`).
Rule 3: after the next start everything in `support/stages.py` holds.
"""

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from acmeca import app
from acmeca.errors import Conflict
from acmeca.keystore.pem import load_key
from tests.support.crash_server import CrashServer
from tests.support.http_peer import Connection
from tests.support.stages import (
    KILLED,
    PATIENCE,
    Client,
    Stage,
    check,
    chosen,
    crl_listing,
    crl_number,
    der_of,
    died_at_start,
    fetch_crl,
    ocsp_answer,
    serial_of,
    served,
    stopped,
)

IN_TORTURE: Final = frozenset(
    {
        "before journalling certificate",
        "before sync of certificate",
        "before sync of signature",
        "after sync of signature",
        "before nonce block",
        "after nonce block",
        "before journalling revocation",
        "before sync of revocation",
        "before sync of crl",
        "after sync of crl",
        "before commit of claim",
        "before commit of lease",
        "before turn",
    }
)


def steps(all_of_them: Sequence[str]) -> Sequence[str]:
    """Those that are run here."""
    return chosen(all_of_them, tested=[step for step in all_of_them if step not in IN_TORTURE])


# --- a certificate -------------------------------------------------------------------------------------------------

STEPS_OF_AN_ORDER: Final = (
    "before commit of account",
    "after commit of account",
    "before commit of order",
    "after commit of order",
    "before commit of validation",
    "after commit of validation",
    "before commit of outcome",
    "after commit of outcome",
    "before commit of record",
    "after commit of record",
    "before journalling certificate",
    "before sync of certificate",
    "after sync of certificate",  # in the journal, and not committed
    "before signature of certificate",
    "after signature of certificate",
    "before commit of signature",
    "before journalling signature",
    "before sync of signature",
    "after sync of signature",
    "after commit of signature",
    "before nonce block",
    "in nonce block",  # cleared, and not allotted
    "after nonce block",
)


@pytest.mark.parametrize("step", steps(STEPS_OF_AN_ORDER))
async def test_a_crash_in_an_order(stage: Stage, client: Client, step: str) -> None:
    """The server dies at a step of an order. The client sees a broken connection and no answer; after the next start it
    comes to exactly one certificate, and no order had to be given up."""
    account = client.account()
    async with served(stage.plan(at=step)) as server:
        ordering = client.start(account.obtain("crash.localhost"))
        assert await asyncio.to_thread(server.wait) == KILLED
        assert not ordering.done()
    async with served(stage.plan()) as server:
        obtained = await ordering
        await stopped(server)
    assert account.failed_orders == []
    names = stage.rows(
        "SELECT c.serial FROM certificates c JOIN certificate_names n ON n.certificate_id = c.id"
        " WHERE n.name = 'crash.localhost'"
    )
    assert [row["serial"] for row in names] == [obtained.serial]
    await check(stage, [obtained])


async def test_nobody_comes_back_for_the_certificate(stage: Stage, client: Client) -> None:
    """The server finishes by itself what it had recorded, before it takes the first request."""
    account = client.account()
    async with served(stage.plan(at="after commit of record")) as server:
        ordering = client.start(account.obtain("alone.localhost"))
        assert await asyncio.to_thread(server.wait) == KILLED
        ordering.cancel()
    assert [row["status"] for row in stage.rows("SELECT status FROM orders")] == ["processing"]
    async with served(stage.plan()) as server:
        assert [row["status"] for row in stage.rows("SELECT status FROM orders")] == ["valid"]
        await stopped(server)
    await check(stage)


async def test_a_crash_while_a_host_is_asked(stage: Stage, client: Client) -> None:
    """Killed while the host that is validated has not answered yet: the validation is taken up at the next start."""
    account, asked = client.account(), asyncio.Event()

    async def silent(connection: Connection) -> None:
        asked.set()
        await connection.until_closed()

    client.peer.answers = [silent, client.board.script]
    async with served(stage.plan()) as server:
        ordering = client.start(account.obtain("slow.localhost"))
        async with asyncio.timeout(PATIENCE):
            await asked.wait()
        assert await asyncio.to_thread(server.kill) == KILLED
    async with served(stage.plan()) as server:
        obtained = await ordering
        await stopped(server)
    assert account.failed_orders == []
    await check(stage, [obtained])


# --- a new CA ------------------------------------------------------------------------------------------------------

STEPS_OF_INIT: Final = (
    "before replacing root",  # the root's key lies there under a temporary name
    "after replacing root",
    "before replacing keys",  # the intermediate's
    "after replacing keys",
    "before commit of hierarchy",
    "after commit of hierarchy",
)


@pytest.mark.parametrize("step", STEPS_OF_INIT)
async def test_a_crash_in_init(empty_stage: Stage, step: str) -> None:
    """`init` dies anywhere: a CA is there whole or not at all, a second `init` makes it or says that it is there, and no
    key file is readable by others."""
    stage = empty_stage
    server = CrashServer(stage.plan(verb="init", at=step))
    try:
        assert await asyncio.to_thread(server.wait) == KILLED, server.log
    finally:
        server.close()
    if step == "after commit of hierarchy":
        with pytest.raises(Conflict):
            await app.init(stage.config, actor="system")
    else:
        await app.init(stage.config, actor="system")
    issuers = stage.rows("SELECT * FROM issuers ORDER BY parent_id IS NOT NULL")
    root, intermediate = (x509.load_der_x509_certificate(row["certificate"]) for row in issuers)
    intermediate.verify_directly_issued_by(root)
    key = load_key(stage.installation.data_dir / issuers[1]["key_reference"])
    assert key.public_key() == intermediate.public_key()
    root_key = load_key(stage.installation.data_dir / "root" / f"{issuers[0]['id']}.key.pem")
    assert root_key.public_key() == root.public_key()
    (crl,) = stage.rows("SELECT der FROM crls WHERE issuer_id = ?", issuers[0]["id"])
    assert x509.load_der_x509_crl(crl["der"]).is_signature_valid(root.public_key())  # type: ignore[arg-type]
    for path in stage.installation.data_dir.rglob("*"):
        if path.is_file() and path != stage.installation.root_path:
            assert path.stat().st_mode & 0o077 == 0, path
    async with served(stage.plan()) as server:
        await stopped(server)
    await check(stage)


# --- a start and an end --------------------------------------------------------------------------------------------

STEPS_OF_A_START: Final = (
    "before commit of claim",
    "after commit of claim",
    "before commit of lease",
    "after commit of lease",
)


@pytest.mark.parametrize("step", steps(STEPS_OF_A_START))
async def test_a_crash_at_the_start(stage: Stage, client: Client, step: str) -> None:
    """Killed while it takes its writer's name or the duties: the next start takes them from the dead one at once, and serves."""
    await died_at_start(stage.plan(at=step))
    async with served(stage.plan()) as server:
        assert "this process has the duties" in server.log
        obtained = await client.account().obtain("start.localhost")
        await stopped(server)
    await check(stage, [obtained])


async def test_a_crash_at_the_end(stage: Stage, client: Client) -> None:
    """Killed in a stop, before it says that it ends: nothing is missing, and the next start waits for nobody."""
    async with served(stage.plan(at="before commit of release")) as server:
        obtained = await client.account().obtain("end.localhost")
        assert await asyncio.to_thread(server.terminate) == KILLED
    async with served(stage.plan()) as server:
        assert "this process has the duties" in server.log
        await stopped(server)
    await check(stage, [obtained])


# --- the responder's key -------------------------------------------------------------------------------------------

TEN_DAYS: Final = timedelta(days=10)  # two thirds of the responder's life are over, of the listener's they are not

STEPS_OF_A_ROTATION: Final = (
    "before turn",
    "after turn",
    "before commit of record",
    "after commit of record",
    "before signature of certificate",
    "after signature of certificate",
    "before commit of signature",
    "after commit of signature",
    "before replacing keys",
    "after replacing keys",
)


@pytest.mark.parametrize("step", steps(STEPS_OF_A_ROTATION))
async def test_a_crash_while_the_responder_is_rotated(stage: Stage, client: Client, step: str) -> None:
    """RULES §5: the delegated key is rotated by itself. Killed at any step of that, the next start has a responder whose
    certificate is fresh, was recorded, and answers for what was issued before."""
    async with served(stage.plan()) as server:
        obtained = await client.account().obtain("rotated.localhost")
        await stopped(server)
    await died_at_start(stage.plan(at=step, clock=TEN_DAYS))
    async with served(stage.plan(clock=TEN_DAYS)) as server:
        answer = await ocsp_answer(client, obtained)
        await stopped(server)
    assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD
    (responder,) = answer.certificates
    assert responder.not_valid_before_utc > obtained.certificate.not_valid_before_utc + timedelta(days=9)
    (recorded,) = stage.rows("SELECT * FROM certificates WHERE serial = ?", serial_of(responder))
    assert der_of(recorded) == responder.public_bytes(Encoding.DER)
    await check(stage, [obtained])


# --- revocation and CRLs -------------------------------------------------------------------------------------------

STEPS_OF_A_REVOCATION: Final = (
    "before commit of revocation",
    "before journalling revocation",
    "before sync of revocation",
    "after sync of revocation",
    "after commit of revocation",
    "before commit of crl begun",
    "before journalling crl",
    "before sync of crl",
    "after sync of crl",
    "after commit of crl begun",
    "before signature of crl",
    "after signature of crl",
    "before commit of crl published",
    "after commit of crl published",
)


@pytest.mark.parametrize("step", steps(STEPS_OF_A_REVOCATION))
async def test_a_crash_between_a_revocation_and_its_crl(stage: Stage, client: Client, step: str) -> None:
    """Killed anywhere between the request and the CRL: in the end the certificate is revoked, once; OCSP says so, and a CRL
    with a higher number than every one before lists it."""
    account = client.account()
    async with served(stage.plan()) as server:
        obtained = await account.obtain("revoked.localhost")
        kept = await account.obtain("kept.localhost")
        await stopped(server)
    async with served(stage.plan(at=step)) as server:
        before = await fetch_crl(client, obtained)
        revoking = client.start(account.revoke(obtained, reason=4))
        assert await asyncio.to_thread(server.wait) == KILLED
    is_committed = step == "after commit of revocation" or "crl" in step
    (row,) = stage.rows("SELECT revoked_at, revocation_reason FROM certificates WHERE serial = ?", obtained.serial)
    assert (row["revoked_at"] is not None) == is_committed
    async with served(stage.plan()) as server:
        await revoking
        crl = await crl_listing(client, obtained)
        assert crl_number(crl) > crl_number(before)
        assert crl.get_revoked_certificate_by_serial_number(kept.certificate.serial_number) is None
        assert (await ocsp_answer(client, obtained)).certificate_status is ocsp.OCSPCertStatus.REVOKED
        assert (await ocsp_answer(client, kept)).certificate_status is ocsp.OCSPCertStatus.GOOD
        await stopped(server)
    events = stage.rows("SELECT event FROM audit WHERE kind = 'certificate.revoked'")
    assert [json.loads(item["event"])["serial_hex"] for item in events] == [obtained.serial]
    await check(stage, [obtained, kept])
