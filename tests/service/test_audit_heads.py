"""Heads are signed when the chain has moved, by a key of their own; what hinders that hinders nothing else."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from acmeca.audit import SignedHead, fingerprint, is_genuine, parse_signed_head, raw_public_key
from acmeca.keystore.pem import KeystoreError, load_key, write_key
from acmeca.service import jobs
from acmeca.storage import audit, audit_heads
from acmeca.storage.errors import StorageError
from tests.support.server import RunningCa, Site, ca_site, until


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with ca_site() as site:
        await site.init()
        yield site


def heads(ca: RunningCa) -> list[SignedHead]:
    lines = (ca.data_dir / "audit-heads.jsonl").read_text().splitlines()
    return [parse_signed_head(json.loads(line)) for line in lines]


def key_id(data_dir: Path) -> str:
    key = load_key(data_dir / "keys" / "audit.pem")
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    return fingerprint(raw_public_key(key.public_key()))


async def test_a_server_signs_at_its_start_when_it_moved_and_at_its_end(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_HEAD_SECONDS", 0.01)
    async with site.running() as ca:
        (first,) = heads(ca)
        client = await ca.client()
        await until(lambda: len(heads(ca)) > 1, what="a head after newAccount")
        assert client.account_url
        settled = len(heads(ca))
        end = await audit.fetch_head(ca.store.database, ca.store.writer.name)
        assert heads(ca)[-1].head == end
        await ca.opened.audit_heads.sign()
        assert len(heads(ca)) == settled, "it has not moved"
    after = heads(ca)
    assert len(after) == settled + 1
    assert all(is_genuine(signed) for signed in after)
    assert {fingerprint(signed.public_key) for signed in after} == {key_id(ca.data_dir)}
    async with site.running() as ca:
        assert heads(ca)[0] == first
        assert [row["sequence"] for row in await ca.rows("SELECT sequence FROM audit_heads ORDER BY sequence")] == [
            signed.head.sequence for signed in heads(ca)
        ]
        rows = await ca.rows("SELECT subject FROM audit WHERE kind = 'audit.key_created'")
        assert [row["subject"] for row in rows] == [key_id(ca.data_dir)]


async def test_a_command_signs_what_it_wrote_and_makes_no_key(site: Site) -> None:
    async with site.opened() as ca:
        pass
    assert not (ca.data_dir / "keys" / "audit.pem").exists()
    async with site.running():
        pass
    before = heads(ca)
    async with site.opened():
        pass
    assert heads(ca) == before, "nothing was written"
    async with site.opened() as ca:
        await ca.services.certificates.note_refusal("admin:test", "01", "no")
    assert len(heads(ca)) == len(before) + 1


@pytest.mark.parametrize("place", ["file", "table"])
async def test_a_head_that_cannot_be_kept_stops_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    """Rule 2: it is signed as soon as it can be, and issuance goes on meanwhile."""

    async def fail(*_: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(jobs, "_HEAD_SECONDS", 0.01)
    monkeypatch.setattr(jobs, "_FAILED_SECONDS", 0.01)
    async with site.running() as ca:
        with monkeypatch.context() as patch:
            if place == "file":
                patch.setattr(audit_heads.HeadsFile, "append", fail)
            else:
                patch.setattr(audit_heads.AuditHeads, "add", fail)
            issued = await (await ca.client()).issue("a.localhost")
            assert issued.serial
            await until(lambda: "audit heads: failed" in caplog.text, what="a log line")
        await until(lambda: "audit heads: done at last" in caplog.text, what="a head")
        end = await audit.fetch_head(ca.store.database, ca.store.writer.name)
        assert heads(ca)[-1].head == end
        assert await ca.store.audit_heads.newest(ca.store.writer.name) == end
    assert len({signed.head for signed in heads(ca)}) == len(heads(ca)), "none was written twice"


async def test_a_start_and_an_end_without_heads(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: OCSP and CRLs are served all the same."""

    async def fail(*_: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(audit_heads.HeadsFile, "append", fail)
    async with site.running() as ca:
        assert await ca.services.readiness.faults() == []
    assert not (ca.data_dir / "audit-heads.jsonl").exists()


async def test_a_key_that_is_lost_gets_a_successor_that_the_audit_names(site: Site) -> None:
    async with site.running() as ca:
        first = key_id(ca.data_dir)
    (ca.data_dir / "keys" / "audit.pem").unlink()
    async with site.running() as ca:
        second = key_id(ca.data_dir)
        rows = await ca.rows("SELECT subject FROM audit WHERE kind = 'audit.key_created' ORDER BY sequence")
        assert [row["subject"] for row in rows] == [first, second]
    assert {fingerprint(signed.public_key) for signed in heads(ca)} == {first, second}


async def test_a_key_of_another_kind_is_refused(site: Site) -> None:
    path = None
    async with site.opened() as ca:
        path = ca.data_dir / "keys" / "audit.pem"
        write_key(path, ec.generate_private_key(ec.SECP256R1()))
        with pytest.raises(KeystoreError, match="is no Ed25519 key; move it away"):
            await ca.opened.audit_heads.sign_with_new_key()
    async with site.running() as ca:
        assert not (ca.data_dir / "audit-heads.jsonl").exists()
