"""Blocked keys: refused everywhere, but when one signs the revocation of its own certificate (RULES §1; rules of service/keys.py)."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from acmeca.config import ConfigError
from acmeca.errors import AcmecaError, Conflict, NotFound
from acmeca.service.caa import Caa, Shown
from acmeca.storage.errors import StaleError
from tests.support.acme_client import AcmeClient, certificate_key
from tests.support.csrs import spki
from tests.support.instances import journalled
from tests.support.jose import SigningKey, new_key, shared_key
from tests.support.server import RunningCa, ca_site, running_ca


@pytest.fixture
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


async def call(ca: RunningCa, operation: str, **arguments: object) -> dict[str, Any]:
    return await ca.opened.administration.call(operation, arguments, user="alice")


def sha256(key: SigningKey) -> str:
    return hashlib.sha256(spki(key.private)).hexdigest()


async def block(ca: RunningCa, key: SigningKey, *, by: str = "spki") -> dict[str, Any]:
    named = {"spki": spki(key.private).hex()} if by == "spki" else {"sha256": sha256(key)}
    return await call(ca, "key_block", why="it leaked", **named)


async def finalize_with(client: AcmeClient, key: SigningKey, name: str) -> Any:
    order = await client.ready_order(name)
    return await client.finalize(order, order.csr(key.private))


@pytest.mark.parametrize("by", ["spki", "sha256"])
class TestAKeyThatNobodyHasYet:
    """Also when nothing but its digest is known, from which no thumbprint can be told."""

    async def test_it_is_refused_everywhere(self, ca: RunningCa, by: str) -> None:
        client, key = await ca.client(), new_key()
        result = await block(ca, key, by=by)
        assert result["new"]
        assert (result["account"], result["certificates"]) == (None, [])
        # newAccount, also to find one
        fresh = await ca.client(key, register=False)
        (await fresh.new_account()).refused("badPublicKey", 400)
        (await fresh.new_account(onlyReturnExisting=True)).refused("badPublicKey", 400)
        # keyChange
        (await client.change_key(key)).refused("badPublicKey", 400)
        # finalize
        (await finalize_with(client, key, "a.localhost")).refused("badCSR", 400)
        assert await ca.scalar("SELECT COUNT(*) AS n FROM accounts") == 1

    async def test_it_is_written_down(self, ca: RunningCa, by: str) -> None:
        key = new_key()
        await block(ca, key, by=by)
        (event,) = [json.loads(text) for text in await ca.events("key.blocked")]
        assert (event["actor"], event["subject"], event["why"]) == ("admin:alice", sha256(key), "it leaked")
        assert event["serial_hex"] is None
        entries = [entry for commit in journalled(ca.data_dir) for entry in commit.entries if "blocked" in entry.kind]
        assert [entry.kind for entry in entries] == ["blocked_key", "blocked_key.why"]

    async def test_twice(self, ca: RunningCa, by: str) -> None:
        key = new_key()
        first = await block(ca, key, by=by)
        ca.clock.advance(hours=1)
        again = await block(ca, key, by="sha256")
        assert not again["new"]
        assert again["blocked"] == first["blocked"]
        assert len(await ca.events("key.blocked")) == 1


@pytest.mark.parametrize("by", ["spki", "sha256"])
async def test_an_accounts_key(ca: RunningCa, by: str) -> None:
    """Its account can do nothing any more, and is told why; others are as they were."""
    client, other = await ca.client(), await ca.client()
    issued, ready = await client.issue("a.localhost"), await client.ready_order("b.localhost")
    result = await block(ca, client.key, by=by)
    account_id = client.account_url.rpartition("/")[2]
    assert result["account"] == {"id": account_id, "status": "valid", "contact": []}
    for answer in (
        await client.post(client.account_url),
        await client.order_answer("c.localhost"),
        await client.finalize(ready),
        await client.change_key(new_key()),
        await client.revoke(issued.der),
        await client.deactivate_account(),
    ):
        answer.refused("unauthorized", 403)
        assert "compromised" in answer.detail
    (await client.new_account()).refused("badPublicKey", 400)
    await other.issue("d.localhost")
    shown = await call(ca, "key_show", sha256=sha256(client.key))
    assert shown["thumbprint"] == client.key.thumbprint
    assert shown["blocked"]["why"] == "it leaked"


async def test_a_certificates_key(ca: RunningCa) -> None:
    """It stays good until it is revoked: by the key itself, which may ask for nothing else, or by whoever blocked it."""
    client = await ca.client()
    key = ec.generate_private_key(ec.SECP256R1())
    one, two, three = [await client.issue(f"{name}.localhost", key=key) for name in ("a", "b", "c")]
    (await client.revoke(three.der, reason=4)).ok()
    result = await call(ca, "key_block", serial=f"0x{one.serial:x}", why="it leaked")
    assert {item["status"] for item in result["certificates"]} == {"valid", "revoked"}
    assert len(result["certificates"]) == 3
    assert await ca.relying_party().status(one.serial) == "GOOD"
    (await finalize_with(client, SigningKey(key, "ES256"), "d.localhost")).refused("badCSR", 400)
    (await client.revoke(one.der, reason=1, key=certificate_key(one))).ok()
    revoked = await call(ca, "key_revoke", sha256=sha256(SigningKey(key, "ES256")))
    assert revoked == {"revoked": [f"{two.serial:034x}"]}
    assert [await ca.relying_party().status(item.serial) for item in (one, two, three)] == ["REVOKED"] * 3
    assert await call(ca, "key_revoke", serial=f"0x{one.serial:x}") == {"revoked": []}
    assert len(await ca.events("key.blocked")) == 1, "keyCompromise of a key that is blocked blocks nothing new"


async def test_an_order_that_was_recorded_is_not_finished(ca: RunningCa) -> None:
    """What was recorded for the key before, and not signed, is given up (`obstacle`)."""
    client = await ca.client()
    key = ec.generate_private_key(ec.SECP256R1())
    order = await client.ready_order("a.localhost")
    ca.site.issuer_key.broken = RuntimeError("no token")
    (await client.finalize(order, order.csr(key))).ok()
    ca.site.issuer_key.broken = None
    await block(ca, SigningKey(key, "ES256"))
    await ca.services.issuance.finish_unfinished()
    after = await client.order(order.url)
    assert after.status == "invalid"
    assert "compromised" in after.document["error"]["detail"]


async def test_accounts_race_with_the_block(ca: RunningCa) -> None:
    """Whoever was first: afterwards no account with that key can do anything, though only its digest was given."""
    for _ in range(5):
        key = new_key()
        clients = [await ca.client(key, register=False) for _ in range(4)]
        answers, _ = await asyncio.gather(
            asyncio.gather(*(clients[number % 4].new_account() for number in range(12))), block(ca, key, by="sha256")
        )
        made = [answer for answer in answers if answer.status in {200, 201}]
        if made:
            clients[0].kid = made[0].location
            (await clients[0].order_answer("a.localhost")).refused("unauthorized", 403)
        (await clients[0].new_account()).refused("badPublicKey", 400)


@pytest.mark.parametrize("by", ["spki", "sha256"])
async def test_a_request_under_way(ca: RunningCa, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """RULES §1: "A blocked key … is refused everywhere". A finalize may wait for name servers for seconds, between the question who
    sent it and the claim of its order; what was not claimed before the block is not signed.
    """
    client = await ca.client()
    order = await client.ready_order("a.localhost")
    waits, goes_on = asyncio.Event(), asyncio.Event()
    problems = Caa.problems

    async def slow(caa: Caa, account_id: str, shown: Sequence[Shown]) -> Any:
        waits.set()
        await goes_on.wait()
        return await problems(caa, account_id, shown)

    monkeypatch.setattr(Caa, "problems", slow)
    finalizing = asyncio.create_task(client.finalize(order))
    await waits.wait()
    await block(ca, client.key, by=by)
    goes_on.set()
    (await finalizing).refused("orderNotReady", 403)
    assert await ca.scalar("SELECT COUNT(*) AS n FROM certificates WHERE order_id IS NOT NULL") == 0
    assert await ca.scalar("SELECT status FROM orders") == "ready"


async def test_what_is_no_key(ca: RunningCa) -> None:
    good = spki(new_key().private).hex()
    for arguments in (
        {},
        {"spki": good, "sha256": "ab" * 32},
        {"spki": "zz"},
        {"spki": "3000"},
        {"spki": ""},
        {"sha256": "AB" * 32},
        {"sha256": "ab" * 31},
        {"sha256": ""},
        {"spki": 5},
    ):
        with pytest.raises(AcmecaError):
            await call(ca, "key_show", **arguments)
    with pytest.raises(NotFound):
        await call(ca, "key_show", serial="abcdef01")
    for why in ("", " ", "x" * 201, "a\nb", None):
        with pytest.raises(AcmecaError, match="why"):
            await call(ca, "key_block", spki=good, why=why)
    assert await ca.rows("SELECT * FROM blocked_keys") == []


async def test_an_issuers_key_is_not_blocked(ca: RunningCa) -> None:
    """Rule 3."""
    for issuer in (ca.issuer, ca.root):
        with pytest.raises(Conflict, match="has to be replaced"):
            await call(ca, "key_block", spki=issuer.spki_der.hex(), why="x")
    assert await ca.rows("SELECT * FROM blocked_keys") == []


async def test_the_newest_first(ca: RunningCa) -> None:
    keys = [new_key() for _ in range(3)]
    for key in keys:
        ca.clock.advance(minutes=1)
        await block(ca, key)
    listed = await call(ca, "key_list", limit=2)
    assert [item["sha256"] for item in listed["keys"]] == [sha256(keys[2]), sha256(keys[1])]
    assert listed["is_cut"]
    assert not (await call(ca, "key_list"))["is_cut"]
    with pytest.raises(AcmecaError, match="limit"):
        await call(ca, "key_list", limit=0)


async def test_a_revocation_that_is_overtaken(ca: RunningCa, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody revokes one of several certificates meanwhile: the command says so, and is simply run again."""
    issued = await (await ca.client()).issue("a.localhost")

    async def overtaken(*_: object, **__: object) -> None:
        raise StaleError("revoked meanwhile")

    monkeypatch.setattr(ca.store.certificates, "revoke", overtaken)
    with pytest.raises(Conflict, match="meanwhile"):
        await call(ca, "key_revoke", serial=f"0x{issued.serial:x}")


class TestWeakKeyLists:
    """RULES §1: "not on the Debian weak-key list where one is configured", for accounts and certificates alike."""

    KEY = shared_key("RSA-2048")

    def entry(self) -> str:
        """As openssl-blacklist has it: the last 20 digits of the SHA-1 of what openssl prints of the modulus."""
        public = self.KEY.private.public_key()
        assert isinstance(public, rsa.RSAPublicKey)
        text = f"Modulus={public.public_numbers().n:X}\n".encode()
        return hashlib.sha1(text, usedforsecurity=False).hexdigest()[20:]

    async def test_a_key_on_a_list(self, tmp_path: Path) -> None:
        lists = [tmp_path / "empty", tmp_path / "known"]
        lists[0].write_text("# nothing\n")
        lists[1].write_text(f"# known\n{self.entry()}\n")
        async with running_ca(policy={"weak_key_lists": [str(path) for path in lists]}) as ca:
            client = await ca.client()
            answers = [
                await (await ca.client(self.KEY, register=False)).new_account(),
                await client.change_key(self.KEY),
                await finalize_with(client, self.KEY, "a.localhost"),
            ]
            for answer, type_ in zip(answers, ("badPublicKey", "badPublicKey", "badCSR"), strict=True):
                answer.refused(type_, 400)
                assert "CVE-2008-0166" in answer.detail

    async def test_without_a_list(self, ca: RunningCa) -> None:
        (await (await ca.client(self.KEY, register=False)).new_account()).ok(201)

    @pytest.mark.parametrize("text", [None, "not a list\n", "\xff"])
    async def test_a_list_that_cannot_be_read(self, tmp_path: Path, text: str | None) -> None:
        """It must not look like one that is."""
        path = tmp_path / "list"
        if text is not None:
            path.write_bytes(text.encode("latin-1"))
        async with ca_site(policy={"weak_key_lists": [str(path)]}) as site:
            await site.init()
            with pytest.raises(ConfigError, match="weak_key_lists"):
                async with site.opened():
                    pass
