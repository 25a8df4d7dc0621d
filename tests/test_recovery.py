"""The worst day: the database is gone, and the CA says afterwards what it said before.

Rule 1: what is proven is what outsiders see: OCSP, the CRL, ACME. A server is a process that was killed, not stopped.
Rule 2: a restore that does not hold everything says so, and waits for somebody to decide.
"""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from acmeca import app
from acmeca.cli.main import run
from acmeca.config import load_config
from acmeca.storage import audit as stored_audit
from tests.support.crash_server import CrashServer, Plan, crash_server
from tests.support.databases import connect
from tests.support.http_peer import http_peer
from tests.support.installations import Installation, make_installation, short_directory
from tests.support.mishaps import KILLED, command, killed_at
from tests.support.persistent_client import Board, Obtained, PersistentClient, RefusedError, _csr, client_session
from tests.support.status_client import crl_number, entries


@pytest.fixture
def installation() -> Iterator[Installation]:
    with short_directory() as directory:
        made = make_installation(directory)
        asyncio.run(app.init(load_config(made.config_path, {}), actor="admin:test"))
        yield made


@dataclass
class World:
    """A CA, its clients, and what they were told."""

    installation: Installation
    session: aiohttp.ClientSession
    board: Board
    starts: int = 0
    issuer: x509.Certificate | None = None
    crl_url: str = ""
    obtained: list[Obtained] = field(default_factory=list)

    @property
    def backup(self) -> Path:
        return self.installation.directory / "ca.backup"

    def account(self) -> PersistentClient:
        return PersistentClient(
            self.session, self.installation.directory_url, self.board, deadline=time.monotonic() + 30
        )

    @asynccontextmanager
    async def served(self) -> AsyncIterator[CrashServer]:
        self.starts += 1
        plan = Plan(self.installation.config_path, self.installation.directory / f"log.{self.starts}")
        context = crash_server(plan)
        server = await asyncio.to_thread(context.__enter__)
        try:
            yield server
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)

    async def cli(self, *arguments: str, code: int = 0) -> None:
        config = ["--config", str(self.installation.config_path)]
        assert await asyncio.to_thread(run, [*config, *arguments]) == code

    async def obtain(self, client: PersistentClient, name: str) -> Obtained:
        obtained = await client.obtain(name)
        leaf = obtained.certificate
        self.issuer = x509.load_pem_x509_certificates(obtained.chain_pem.encode())[1]
        (point,) = leaf.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        self.crl_url = point.full_name[0].value  # type: ignore[index]
        self.obtained.append(obtained)
        return obtained

    async def said(self) -> dict[str, tuple[str, str | None, datetime | None]]:
        """What OCSP says of every certificate."""
        found = {}
        assert self.issuer is not None
        for obtained in self.obtained:
            leaf = obtained.certificate
            access = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
            url = next(item.access_location.value for item in access if item.access_method._name == "OCSP")
            request = ocsp.OCSPRequestBuilder().add_certificate(leaf, self.issuer, hashes.SHA256()).build()
            async with self.session.post(
                url,
                data=request.public_bytes(Encoding.DER),
                headers={"Content-Type": "application/ocsp-request"},
            ) as response:
                answer = ocsp.load_der_ocsp_response(await response.read())
            reason = answer.revocation_reason
            found[obtained.serial] = (
                answer.certificate_status.name,
                None if reason is None else reason.name,
                answer.revocation_time_utc,
            )
        return found

    async def crl(self, *, lists: int) -> x509.CertificateRevocationList:
        """The CRL, once it lists so many."""
        deadline = time.monotonic() + 30
        while True:
            async with self.session.get(self.crl_url) as response:
                crl = x509.load_der_x509_crl(await response.read())
            if len(list(crl)) >= lists:
                return crl
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)

    def lose_the_database(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.installation.database_path}{suffix}").unlink(missing_ok=True)

    async def faults(self) -> list[Any]:
        async with app.opened_store(load_config(self.installation.config_path, {})) as store:
            return await stored_audit.verify(store.database)

    def events(self, kind: str) -> list[dict[str, Any]]:
        with connect(self.installation.database_path) as connection:
            rows = connection.execute("SELECT event FROM audit WHERE kind = ? ORDER BY at", (kind,)).fetchall()
        return [json.loads(event) for (event,) in rows]


@pytest.fixture
async def world(installation: Installation) -> AsyncIterator[World]:
    board = Board()
    async with (
        http_peer(board.script, port=installation.http_port),
        client_session(installation.root_path.read_bytes()) as session,
    ):
        yield World(installation, session, board)


async def refused_key(client: PersistentClient, obtained: Obtained, name: str) -> str:
    """What a client is told that orders a certificate for a key it had before."""
    order_url = await client.new_order(name)
    while (order := (await client.post(order_url)).document)["status"] == "pending":
        for url in order["authorizations"]:
            await client._answer_challenge(url)
    with pytest.raises(RefusedError) as refused:
        await client._finalize(order["finalize"], _csr(obtained.key, (name,)))
    return refused.value.type


async def test_the_database_is_lost_and_nothing_is_forgotten(world: World) -> None:
    before_it, shut, after_it = world.account(), world.account(), world.account()
    async with world.served() as server:
        await world.obtain(before_it, "one.localhost")
        await shut.register()
        await world.cli("backup", str(world.backup))
        # What comes now is in no backup.
        revoked = await world.obtain(before_it, "two.localhost")
        compromised = await world.obtain(before_it, "three.localhost")
        await world.obtain(after_it, "four.localhost")
        await before_it.revoke(revoked, reason=4)
        await before_it.revoke(compromised, reason=1)
        await shut.post(shut._kid or "", {"status": "deactivated"})
        said, crl = await world.said(), await world.crl(lists=2)
        assert sorted(status for status, _, _ in said.values()) == ["GOOD", "GOOD", "REVOKED", "REVOKED"]
        assert await asyncio.to_thread(server.kill) == KILLED
    world.lose_the_database()

    await world.cli("restore", str(world.backup))

    async with world.served() as server:
        assert await world.said() == said
        fresh = await world.crl(lists=2)
        assert crl_number(fresh) > crl_number(crl)
        assert entries(fresh) == entries(crl)
        # Accounts: those that worked work, whenever they were made; the one that was shut is shut.
        await world.obtain(before_it, "five.localhost")
        await world.obtain(after_it, "six.localhost")
        with pytest.raises(RefusedError) as refused:
            await shut.new_order("seven.localhost")
        assert refused.value.type == "unauthorized"
        assert await refused_key(after_it, compromised, "eight.localhost") == "badCSR"
        assert await asyncio.to_thread(server.terminate) == 0
    assert await world.faults() == []
    (event,) = world.events("store.restored")
    assert (event["complete"], event["losses"]) == ("yes", [])
    assert event["replayed"] > 0


async def test_without_journals_somebody_has_to_decide(
    world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    client = world.account()
    async with world.served() as server:
        await world.obtain(client, "one.localhost")
        await world.cli("backup", str(world.backup))
        await client.revoke(world.obtained[0], reason=4)
        crl = await world.crl(lists=1)
        assert await asyncio.to_thread(server.kill) == KILLED
    world.lose_the_database()
    shutil.move(world.installation.data_dir / "journal", tmp_path / "journal")

    await world.cli("restore", str(world.backup), code=1)
    said = capsys.readouterr().err
    assert "there is no journal" in said
    assert "a forgotten revocation makes it good again" in said
    assert "--accept-loss" in said
    assert not world.installation.database_path.exists(), "nothing was changed"

    await world.cli("restore", str(world.backup), "--accept-loss")
    assert "goes on under a new name" in capsys.readouterr().out
    async with world.served() as server:
        ((status, _, _),) = (await world.said()).values()
        assert status == "GOOD", "it was forgotten"
        assert crl_number(await world.crl(lists=0)) > crl_number(crl), "numbers rise all the same"
        assert await asyncio.to_thread(server.terminate) == 0
    (event,) = world.events("store.restored")
    assert event["complete"] == "no"

    # Found after all: what happened since stays, and what was forgotten is known again.
    await world.cli("restore", str(world.backup), "--journal", str(tmp_path / "journal"))
    async with world.served() as server:
        ((status, reason, _),) = (await world.said()).values()
        assert (status, reason) == ("REVOKED", "superseded")
        assert await asyncio.to_thread(server.terminate) == 0
    assert await world.faults() == []


async def test_a_server_that_runs_is_not_restored_under(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    async with world.served():
        await world.cli("backup", str(world.backup))
        await world.cli("restore", str(world.backup), code=1)
        assert "is in use by process" in capsys.readouterr().err
        await world.cli("restore", "--trial", str(world.backup))
        assert "nothing was changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("step", "is_restored"),
    [
        ("before acmeca.storage.restore.replay", False),
        ("after acmeca.storage.restore._find_losses", False),
        ("after acmeca.recovery._finish", False),
        ("before acmeca.storage.placement.finish", True),
        ("after pathlib.Path.rename", True),
        ("after acmeca.storage.placement.decide", True),
    ],
)
async def test_a_restore_that_is_killed(
    world: World, capsys: pytest.CaptureFixture[str], step: str, *, is_restored: bool
) -> None:
    """It leaves the former database or the restored one, and run again it says what is to be done."""
    await world.cli("backup", str(world.backup))
    await world.cli("crl", "--publish")
    with connect(world.installation.database_path) as connection:
        connection.execute("DELETE FROM audit WHERE sequence = 1")  # so that the former one is known again
    config = world.installation.config_path
    code = await asyncio.to_thread(killed_at, step, command, config, "restore", str(world.backup))
    assert code == KILLED
    if step.endswith("decide"):
        assert len(await world.faults()) == 0
        return
    if not is_restored:
        assert len(await world.faults()) == 1
        await world.cli("restore", str(world.backup))
    else:
        await world.cli("restore", str(world.backup), code=1)
        assert "was interrupted and is finished now" in capsys.readouterr().err
    assert await world.faults() == []
    assert world.events("store.restored")
    left = sorted(path.name for path in world.installation.data_dir.iterdir() if "resto" in path.name)
    assert [name for name in left if ".before-" not in name] == []


async def test_the_next_start_finishes_a_restore(world: World) -> None:
    await world.cli("backup", str(world.backup))
    step, config = "after pathlib.Path.rename", world.installation.config_path
    assert await asyncio.to_thread(killed_at, step, command, config, "restore", str(world.backup)) == KILLED
    assert not world.installation.database_path.exists()
    async with world.served() as server:
        assert "a restore was interrupted and is finished now" in server.log
        assert await asyncio.to_thread(server.terminate) == 0
    assert world.events("store.restored")
