"""A full disk: what would have to be kept is refused, OCSP and CRLs are served, and with room again all goes on without a restart.

Rule 1: a disk is full in two ways: a small file system of its own (where we may mount one), on which nothing has room, and a
limit on the size of files (RLIMIT_FSIZE), which meets the database's log and spares small files.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from acmeca.app import NONCE_FILE
from acmeca.storage import nonce_file
from acmeca.storage.journal import read_segment, segments
from tests.support.crash_server import FULL_DISK
from tests.support.installations import Installation, short_directory
from tests.support.persistent_client import Answer, Obtained, PersistentClient
from tests.support.stages import (
    Client,
    Stage,
    check,
    clients_of,
    crl_listing,
    fetch_crl,
    identifiers,
    is_revoked,
    ocsp_answer,
    revocation,
    served,
    stopped,
    until,
)

PAGE: Final = 8 * (4096 - nonce_file._BITS_AT)  # nonces whose bits stand in the file's first page
BLOCK: Final = nonce_file._BLOCK
ROOM_IN_A_BLOCK: Final = 8  # commits that may fit behind the last one in the journal's last block
DISK: Final = 24 << 20  # octets of the small file system; a CA that has run once takes some six


class Disk:
    """A small file system that can be filled, and emptied again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ballast = directory / "ballast"

    def fill(self) -> None:
        """Nothing has room any more."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                with suppress(OSError):  # `is_full` tells
                    while file.write(bytes(size)):
                        pass

    @property
    def is_full(self) -> bool:
        return shutil.disk_usage(self.directory).free == 0

    def make_room(self) -> None:
        self._ballast.unlink()


@contextmanager
def small_disk() -> Iterator[Disk]:
    """A tmpfs of its own; skips the test where we may not mount one."""
    with short_directory() as directory:
        mount = shutil.which("mount")
        command = [str(mount), "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "tmpfs", str(directory)]
        if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
            reason = "only who may mount has a small disk; the limit on files is tested all the same"
            if os.environ.get("ACMECA_REQUIRE_ALL") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        try:
            yield Disk(directory)
        finally:
            subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.fixture
def disk() -> Iterator[Disk]:
    with small_disk() as disk:
        yield disk


@pytest.fixture
def stage_on_disk(disk: Disk, template: Installation) -> Stage:
    shutil.copytree(template.directory, disk.directory, dirs_exist_ok=True)
    return Stage(replace(template, directory=disk.directory))


async def require_refusals(account: PersistentClient, known: Obtained) -> None:
    """A clear 503 that says when to come again, for an order and for a revocation (RFC 8555 §6.7)."""
    asked = (
        (account.directory["newOrder"], identifiers("full.localhost")),
        (account.directory["revokeCert"], revocation(known)),
    )
    for url, payload in asked:
        answer = await account.post(url, payload, once=True)
        require_refusal(answer)


def require_refusal(answer: Answer) -> None:
    assert answer.status == 503, answer
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.document["type"] == "urn:ietf:params:acme:error:serverInternal"
    assert int(answer.headers["Retry-After"]) > 0


# --- a small disk -------------------------------------------------------------------------------------------------


async def test_nothing_has_room(disk: Disk, stage_on_disk: Stage) -> None:
    """Not one octet is left for the database's log, the journal, a file of nonces or a key: writes are 503 and change nothing, reads
    and OCSP and CRL are served, new nonces come; a backup says why it cannot be; and when room was made, everything goes on
    without a restart."""
    stage = stage_on_disk
    nonces = stage.config.server.data_dir / NONCE_FILE
    nonces.unlink()  # made anew by the start: a copy of the template's would have no holes
    async with clients_of(stage.installation) as client, served(stage.plan(journal_path=None)) as server:
        account = client.account()
        known = await account.obtain("before.localhost")
        tables = await asyncio.to_thread(stage.rows, "SELECT COUNT(*) FROM audit")
        use_up_nonces(nonces, PAGE)  # the next block's bits lie where nothing was written yet
        disk.fill()
        assert disk.is_full
        await require_refusals(account, known)
        await asyncio.gather(*(require_no_account(client.account()) for _ in range(3)))
        assert not await is_revoked(client, known)
        await fetch_crl(client, known)
        assert (await account.post(known.order_url)).document["status"] == "valid"
        for _ in range(BLOCK + 1):  # beyond the page of the file that was in use
            async with client.session.get(account.directory["newNonce"]) as response:
                assert response.status == 204
        ordering = client.start(account.obtain("full.localhost"))
        await until(lambda: account.seen["503 serverInternal"] >= 3, what="the client has met the full disk")
        assert disk.is_full
        assert stage.rows("SELECT COUNT(*) FROM audit") == tables
        backup = await asyncio.to_thread(stage.installation.cli, "backup", str(backup_path(disk)), code=None)
        assert backup.code == 1, backup
        assert "Traceback" not in backup.said
        assert list(backup_path(disk).parent.iterdir()) == []
        disk.make_room()
        after = await ordering
        await account.revoke(known)
        assert await is_revoked(client, known)
        await crl_listing(client, known)
        await asyncio.to_thread(stage.installation.cli, "backup", str(backup_path(disk)))
        await stopped(server)
        assert account.failed_orders == []
    await check(stage, [known, after])


async def require_no_account(account: PersistentClient) -> None:
    """The same for somebody who has no account yet."""
    require_refusal(await new_account(account))


async def new_account(account: PersistentClient) -> Answer:
    """The answer to one newAccount."""
    async with account._session.get(account._directory_url) as response:
        account.directory = await response.json()
    return await account.post(account.directory["newAccount"], {"termsOfServiceAgreed": True}, once=True)


def use_up_nonces(path: Path, counter: int) -> None:
    """Have the file of nonces go on from `counter`, as if so many had been minted."""
    with path.open("r+b") as file:
        file.seek(nonce_file._END.start)
        file.write(counter.to_bytes(8, sys.byteorder))


def backup_path(disk: Disk) -> Path:
    directory = disk.directory / "backups"
    directory.mkdir(exist_ok=True)
    return directory / "backup.acmeca"


async def test_the_journal_has_no_room(disk: Disk, stage: Stage, client: Client) -> None:
    """The journal stands on a disk of its own, and that is full: nothing is committed without it; whatever was begun is finished
    when there is room, and no torn line is left."""
    shutil.move(stage.config.journal_dir, disk.directory / "journal")
    with stage.installation.config_path.open("a") as file:
        file.write(f'\n[storage]\njournal = "{disk.directory / "journal"}"\n')
    async with served(stage.plan()) as server:
        account = client.account()
        known = await account.obtain("before.localhost")
        disk.fill()
        for _ in range(ROOM_IN_A_BLOCK):
            await new_account(client.account())
        await require_no_account(client.account())
        require_refusal(await account.post(account.directory["revokeCert"], revocation(known), once=True))
        assert "the journal in" in server.log
        assert not await is_revoked(client, known)
        ordering = client.start(account.obtain("full.localhost"))
        told = server.log.count("the journal in")  # the outcome of a validation is in the audit, and so in the journal
        await until(lambda: server.log.count("the journal in") > told, what="the order has met the full disk")
        assert disk.is_full
        disk.make_room()
        after = await ordering
        await account.revoke(known)
        await crl_listing(client, known)
        await stopped(server)
    assert account.failed_orders == []
    for segment in segments(stage.config.journal_dir):
        assert segment.path.read_bytes().endswith(b"\n")
        assert list(read_segment(segment))
    await check(stage, [known, after])


async def test_own_certificates_cannot_be_renewed(disk: Disk, stage_on_disk: Stage) -> None:
    """The responder's certificate is due and the disk is full: the old one answers on, and nothing is signed; with room it is
    renewed without a restart."""
    stage = stage_on_disk
    signed = Path(f"{disk.directory}.signed")  # what the test writes has to have room
    log_path = Path(f"{disk.directory}.log")
    plan = stage.plan(journal_path=signed, log_path=log_path, leap=timedelta(days=10), renewal_seconds=0.2)
    async with clients_of(stage.installation) as client, served(plan) as server:
        known = await client.account().obtain("own.localhost")
        old = (await ocsp_answer(client, known)).certificates
        disk.fill()
        before = signed.read_bytes()
        server.send(signal.SIGUSR1)
        await until(lambda: "cannot be renewed now" in server.log, what="a renewal was tried")
        assert (await ocsp_answer(client, known)).certificates == old
        await fetch_crl(client, known)
        assert signed.read_bytes() == before
        disk.make_room()
        await until(lambda: "issued the ocsp-responder certificate" in server.log, what="it was renewed")
        assert (await ocsp_answer(client, known)).certificates != old
        await stopped(server)
    signed.unlink()
    log_path.unlink()
    await check(stage, [known])


# --- a limit on files ---------------------------------------------------------------------------------------------


async def test_no_file_can_grow(stage: Stage, client: Client) -> None:
    """The database's log cannot grow: everything that would have to be kept is a 503 problem, OCSP and the CRL still answer,
    nothing is lost or invented; with room again, all goes on without a restart."""
    account = client.account()
    async with served(stage.plan(journal_path=None)) as server:
        before = await account.obtain("before.localhost")
        assert stage.log_of_database.stat().st_size > FULL_DISK
        server.allow_files_of(FULL_DISK)
        await require_refusals(account, before)
        assert not await is_revoked(client, before)
        await fetch_crl(client, before)
        ordering = client.start(account.obtain("full.localhost"))
        await until(lambda: account.seen["503 serverInternal"] >= 3, what="the client has met the full disk")
        server.allow_files_of(None)
        after = await ordering
        await account.revoke(before)
        assert await is_revoked(client, before)
        await stopped(server)
    assert account.failed_orders == []
    assert len(stage.rows("SELECT 1 FROM certificates WHERE account_id IS NOT NULL")) == 2
    await check(stage, [before, after])


@pytest.mark.parametrize("step", ["after commit of record", "after commit of crl begun"])
async def test_the_disk_fills_up_in_the_middle(stage: Stage, client: Client, step: str) -> None:
    """The disk fills up between a record and its signature, or between a CRL's number and the CRL: both are finished once there
    is room, and the client waits meanwhile on an order that is `processing`."""
    account = client.account()
    async with served(stage.plan(at=step, happen="full")) as server:
        ordering = client.start(obtain_and_revoke(account))
        await until(lambda: "the database refused" in server.log, what="a write has failed")
        if step == "after commit of record":
            assert not ordering.done()
            assert [row["status"] for row in stage.rows("SELECT status FROM orders")] == ["processing"]
        server.allow_files_of(None)
        obtained = await ordering
        await crl_listing(client, obtained)
        await stopped(server)
    assert account.failed_orders == []
    await check(stage, [obtained])


async def obtain_and_revoke(account: PersistentClient) -> Obtained:
    obtained = await account.obtain("filled.localhost")
    await account.revoke(obtained)
    return obtained
