"""Issuance: recorded before signed, signed once, finished or failed after a crash (RULES §4)."""

import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from acmeca.pki.signing import split_signed
from acmeca.pki.template import SERVER_AUTH
from acmeca.storage import audit
from acmeca.storage.certificates import CertificateStatus, Search
from acmeca.storage.errors import StorageError
from tests.support.acme_client import AcmeClient, ClientOrder
from tests.support.server import CountingKey, RunningCa, Site, ca_site, running_ca


@pytest.fixture
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with ca_site() as site:
        await site.init()
        yield site


class TokenError(RuntimeError):
    """What a key in a token raises when the token is away."""


async def processing(ca: RunningCa, client: AcmeClient, *names: str, **members: object) -> ClientOrder:
    """An order whose certificate is recorded and not signed."""
    order = await client.ready_order(*names, **members)
    ca.site.issuer_key.broken = TokenError("the token is away")
    answer = (await client.finalize(order)).ok()
    ca.site.issuer_key.broken = None
    assert answer.json["status"] == "processing"
    assert answer.headers["Retry-After"] == "1"
    assert answer.location == order.url
    return ClientOrder(order.url, answer.json)


def signed_tbs(key: CountingKey) -> set[str]:
    return {hashlib.sha256(data).hexdigest() for data in key.signed}


class TestRecordFirst:
    async def test_the_record_is_there_when_the_key_signs(self, ca: RunningCa, monkeypatch: pytest.MonkeyPatch) -> None:
        """RULES §4: "serial and to-be-signed bytes are durably committed before the key is used"."""
        client = await ca.client()
        order = await client.ready_order("a.localhost")
        seen: list[list[dict[str, Any]]] = []
        sign = CountingKey.sign

        def look(key: CountingKey, data: Any, algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
            rows = ca.store.database._reader.execute(  # type: ignore[attr-defined]  # SQLite's, from this very thread
                "SELECT tbs, signature, (SELECT status FROM orders WHERE id = order_id) AS status FROM certificates"
                " WHERE signature IS NULL"
            ).fetchall()
            seen.append([dict(row) for row in rows])
            return sign(key, data, algorithm)

        monkeypatch.setattr(CountingKey, "sign", look)
        (await client.finalize(order)).ok()
        (rows,) = seen
        assert [row["status"] for row in rows] == ["processing"]
        assert rows[0]["tbs"] == ca.site.issuer_key.signed[-1]

    async def test_what_is_served_is_what_was_recorded(self, ca: RunningCa) -> None:
        """RULES §4: "the tbs of what is served equals what was recorded"."""
        client = await ca.client()
        issued = await client.issue("a.localhost")
        tbs, signature = split_signed(issued.der)
        (row,) = await ca.rows("SELECT tbs, signature FROM certificates WHERE serial = $1", f"{issued.serial:034x}")
        assert (row["tbs"], row["signature"]) == (tbs, signature)
        (recorded,) = [event for event in await ca.events("certificate.recorded") if '"server"' in event]
        assert hashlib.sha256(tbs).hexdigest() in recorded
        assert hashlib.sha256(issued.der).hexdigest() in (await ca.events("certificate.issued"))[-1]

    async def test_every_signature_has_its_record(self, ca: RunningCa) -> None:
        client = await ca.client()
        for number in range(3):
            await client.issue(f"n{number}.localhost")
        recorded = {hashlib.sha256(row["tbs"]).hexdigest() for row in await ca.rows("SELECT tbs FROM certificates")}
        crls = [x509.load_der_x509_crl(row["der"]) for row in await ca.rows("SELECT der FROM crls")]
        lists = {hashlib.sha256(crl.tbs_certlist_bytes).hexdigest() for crl in crls}
        assert signed_tbs(ca.site.issuer_key) <= recorded | lists
        assert recorded <= signed_tbs(ca.site.issuer_key)

    async def test_a_finding_stops_it(self, ca: RunningCa, monkeypatch: pytest.MonkeyPatch) -> None:
        """RULES §4: "a finding stops the issuance": nothing is recorded, nothing signed, and the order stays ready."""
        client = await ca.client()
        order = await client.ready_order("a.localhost")
        signed = len(ca.site.issuer_key.signed)
        certificates = await ca.scalar("SELECT COUNT(*) AS n FROM certificates")

        def too_long(not_before: Any, lifetime: timedelta, _: object) -> Any:
            return not_before + lifetime  # one second more than the profile allows

        monkeypatch.setattr("acmeca.pki.validity.last_second", too_long)
        answer = (await client.finalize(order)).refused("serverInternal", 500)
        assert "our own checks" in answer.detail
        assert len(ca.site.issuer_key.signed) == signed
        assert await ca.scalar("SELECT COUNT(*) AS n FROM certificates") == certificates
        assert (await client.order(order.url)).status == "ready"
        monkeypatch.undo()
        (await client.finalize(order)).ok()

    async def test_an_issuer_past_its_life(self, ca: RunningCa) -> None:
        """RULES §4: a certificate is "never beyond the issuer's notAfter"; with a clock behind that, none is made."""
        client = await ca.client()
        ca.clock.advance(days=5 * 365 - 10)
        issued = await client.issue("a.localhost")
        assert issued.leaf.not_valid_after_utc == ca.issuer.certificate.not_valid_after_utc
        order = await client.ready_order("b.localhost")
        ca.clock.moment = ca.issuer.certificate.not_valid_after_utc + timedelta(seconds=1)
        await ca.execute("UPDATE orders SET expires_at = expires_at + 864000")
        (await client.finalize(order)).refused("serverInternal", 503)


ADVANCED: Final[dict[str, dict[str, float]]] = {
    "too old": {"hours": 1, "seconds": 1},
    "a time that is over": {"minutes": 2},
}
"""How much later the server is started again."""

RECONFIGURED: Final[dict[str, dict[str, dict[str, object]]]] = {
    "policy": {"policy": {"allowed_names": ["a.localhost"]}},
    "profile": {"profiles": {"web": {}, "server": {"enabled": False}}, "policy": {"default_profile": "web"}},
    "profile's names": {"profiles": {"server": {"allowed_names": ["a.localhost"]}}},
    "profile's keys": {"profiles": {"server": {"key_types": ["rsa2048"]}}},
}
"""What an operator may have changed between the record and the restart."""


class TestUnfinished:
    async def test_finished_when_the_token_is_back(self, ca: RunningCa) -> None:
        """Rule 2 of service/issuance.py: the recorded bytes are signed; none are made a second time."""
        client = await ca.client()
        order = await processing(ca, client, "a.localhost")
        recorded = await ca.scalar("SELECT tbs FROM certificates WHERE signature IS NULL")
        (await client.finalize(order)).refused("orderNotReady", 403)
        assert await ca.services.issuance.finish_unfinished() == 1
        leaf, *_ = await client.download(await client.order(order.url))
        assert leaf.tbs_certificate_bytes == recorded
        assert await ca.services.issuance.finish_unfinished() == 0

    async def test_one_bad_record_does_not_hold_up_the_others(
        self, ca: RunningCa, caplog: pytest.LogCaptureFixture
    ) -> None:
        client = await ca.client()
        orders = [await processing(ca, client, f"n{number}.localhost") for number in range(3)]
        second = await ca.scalar(
            "SELECT tbs FROM certificates c JOIN orders o ON o.id = c.order_id WHERE o.identifiers LIKE '%n1%'"
        )
        sign = ca.site.issuer_key.sign

        def fail_for_one(data: Any, algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
            if bytes(data) == second:
                raise TokenError("not this one")
            return sign(data, algorithm)

        vars(ca.site.issuer_key)["sign"] = fail_for_one
        assert await ca.services.issuance.finish_unfinished() == 2
        assert [(await client.order(order.url)).status for order in orders] == ["valid", "processing", "valid"]
        assert "cannot be finished now" in caplog.text
        del vars(ca.site.issuer_key)["sign"]
        assert await ca.services.issuance.finish_unfinished() == 1

    async def test_not_stored_after_it_was_signed(self, ca: RunningCa, monkeypatch: pytest.MonkeyPatch) -> None:
        """The signature was made and its write failed: the same bytes are signed again, and nothing else."""
        client = await ca.client()
        order = await client.ready_order("a.localhost")

        async def fail(*_: object, **__: object) -> None:
            raise StorageError("the disk is full")

        monkeypatch.setattr(ca.store.issuance, "complete", fail)
        assert (await client.finalize(order)).ok().json["status"] == "processing"
        monkeypatch.undo()
        first = ca.site.issuer_key.signed[-1]
        assert await ca.services.issuance.finish_unfinished() == 1
        assert ca.site.issuer_key.signed[-1] == first
        leaf, *_ = await client.download(await client.order(order.url))
        assert leaf.tbs_certificate_bytes == first

    async def test_what_is_being_signed_is_left_alone(self, ca: RunningCa, monkeypatch: pytest.MonkeyPatch) -> None:
        """The sweep meets a finalize in its middle and does not sign for it."""
        client = await ca.client()
        order = await client.ready_order("a.localhost")
        complete = ca.store.issuance.complete
        swept: list[int] = []

        async def slow(*arguments: Any, **keywords: Any) -> None:
            swept.append(await ca.services.issuance.finish_unfinished())
            await complete(*arguments, **keywords)

        monkeypatch.setattr(ca.store.issuance, "complete", slow)
        signed = len(ca.site.issuer_key.signed)
        assert (await client.finalize(order)).ok().json["status"] == "valid"
        assert swept == [0]
        assert len(ca.site.issuer_key.signed) == signed + 1

    async def test_after_a_restart(self, site: Site) -> None:
        async with site.running() as ca:
            client = await ca.client()
            order = await processing(ca, client, "a.localhost", "b.localhost")
        site.clock.advance(minutes=59)
        async with site.running() as ca:
            again = await ca.client(client.key)
            assert (await again.order(order.url)).status == "valid"
            leaf, *_ = await again.download(await again.order(order.url))
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert names.get_values_for_type(x509.DNSName) == ["a.localhost", "b.localhost"]

    @pytest.mark.parametrize(
        ("what", "problem"),
        [
            ("too old", "serverInternal"),
            ("policy", "rejectedIdentifier"),
            ("profile", "invalidProfile"),
            ("profile's names", "rejectedIdentifier"),
            ("profile's keys", "badCSR"),
            ("what was asked for", "serverInternal"),
            ("a time that is over", "serverInternal"),
            ("account", "unauthorized"),
            ("revoked", "unauthorized"),
            ("tampered", "serverInternal"),
            ("blocked", "unauthorized"),
            ("blocked account", "unauthorized"),
            ("authorization", "unauthorized"),
        ],
    )
    async def test_abandoned_after_a_restart(self, site: Site, what: str, problem: str) -> None:
        """Whatever forbids the signature now fails the order, with a reason its client can read; nothing is signed."""
        async with site.running() as ca:
            client = await ca.client()
            soon = (ca.clock() + timedelta(minutes=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
            members = {"notAfter": soon} if what == "a time that is over" else {}
            order = await processing(ca, client, "a.localhost", "b.localhost", **members)
            serial = await ca.scalar("SELECT serial FROM certificates WHERE signature IS NULL")
            other_tbs = await ca.scalar("SELECT tbs FROM certificates WHERE profile = 'listener'")
            match what:
                case "account":
                    (await client.deactivate_account()).ok()
                case "revoked":
                    await ca.services.certificates.revoke_for_admin(serial, reason=None, user="test")
                case "blocked":
                    await ca.execute(
                        "INSERT INTO blocked_keys (spki_sha256, thumbprint, blocked_at)"
                        " SELECT spki_sha256, 'x', 0 FROM certificates WHERE serial = $1",
                        serial,
                    )
                case "blocked account":
                    await ca.execute(
                        "INSERT INTO blocked_keys (spki_sha256, thumbprint, blocked_at) VALUES ($1, $2, 0)",
                        bytes(32),
                        client.key.thumbprint,
                    )
                case "authorization":
                    (await client.post(order.authorizations[0], {"status": "deactivated"})).ok()
                case "what was asked for":
                    await ca.execute("UPDATE orders SET not_after = 1 WHERE status = 'processing'")
                case "tampered":
                    await ca.execute("UPDATE certificates SET tbs = $1 WHERE serial = $2", other_tbs, serial)
        site.clock.advance(**ADVANCED.get(what, {}))
        site.reconfigure(**RECONFIGURED.get(what, {}))
        signed = len(site.issuer_key.signed)
        async with site.running() as ca:
            row = await ca.rows("SELECT status, error FROM orders WHERE id = $1", order.url.rpartition("/")[2])
            assert row[0]["status"] == "invalid"
            assert f"urn:ietf:params:acme:error:{problem}" in row[0]["error"]
            leaf = await ca.rows("SELECT tbs, signature FROM certificates WHERE serial = $1", serial)
            assert leaf[0]["signature"] is None
            assert leaf[0]["tbs"] not in site.issuer_key.signed[signed:]
            assert len(await ca.events("issuance.refused")) == 1
            assert await audit.verify(ca.store.database) == []
            if what not in {"account", "blocked account"}:
                again = await ca.client(client.key)
                shown = await again.order(order.url)
                assert shown.document["error"]["type"].endswith(problem)
                (await again.finalize(order)).refused("orderNotReady", 403)
                if what != "profile's keys":
                    await again.issue("a.localhost")

    async def test_it_is_finished_as_it_was_ordered(self, site: Site) -> None:
        """Rule 4: by the profile that its order was made with, for the times and with the common name that it asked for, though
        that profile has another lifetime now, and nothing of the old one stands in the configuration.
        """
        site.reconfigure(profiles={"web": {"lifetime": "30d", "maximum_lifetime": "60d", "common_name": True}})
        async with site.running() as ca:
            client = await ca.client()
            until = (ca.clock() + timedelta(days=45)).strftime("%Y-%m-%dT%H:%M:%SZ")
            order = await processing(ca, client, "b.localhost", "a.localhost", profile="web", notAfter=until)
            asked = await ca.scalar("SELECT not_after FROM orders")
        site.reconfigure(profiles={"web": {"lifetime": "1d", "usages": ["client"]}})
        async with site.running() as ca:
            again = await ca.client(client.key)
            leaf, *_ = await again.download(await again.order(order.url))
            assert leaf.not_valid_after_utc.timestamp() == asked
            assert [attribute.value for attribute in leaf.subject] == ["b.localhost"]
            usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            assert [usage.dotted_string for usage in usages] == [SERVER_AUTH]

    async def test_one_from_before_profiles_were_kept(self, site: Site) -> None:
        """Its order and its record name no document: it is finished by today's profile of the name, if that is as it was."""
        async with site.running() as ca:
            client = await ca.client()
            orders = [await processing(ca, client, name) for name in ("a.localhost", "b.localhost")]
            await ca.execute("UPDATE orders SET profile_id = NULL")
            await ca.execute("UPDATE certificates SET profile_id = NULL")
            assert await ca.services.issuance.finish_unfinished() == 2
            assert [(await client.order(order.url)).status for order in orders] == ["valid", "valid"]
            order = await processing(ca, client, "c.localhost")
            await ca.execute("UPDATE orders SET profile_id = NULL")
            await ca.execute("UPDATE certificates SET profile_id = NULL")
        site.reconfigure(policy={"lifetime": "30d"})
        async with site.running() as ca:
            assert (await (await ca.client(client.key)).order(order.url)).status == "invalid"

    async def test_it_is_tried_for_an_hour(self, ca: RunningCa) -> None:
        client = await ca.client()
        order = await processing(ca, client, "a.localhost")
        ca.site.issuer_key.broken = TokenError("still away")
        ca.clock.advance(hours=1)
        assert await ca.services.issuance.finish_unfinished() == 0
        assert (await client.order(order.url)).status == "processing"
        ca.clock.advance(seconds=1)
        assert await ca.services.issuance.finish_unfinished() == 1
        assert (await client.order(order.url)).status == "invalid"
        ca.site.issuer_key.broken = None
        assert await ca.services.issuance.finish_unfinished() == 0

    async def test_an_administrator_sees_it(self, ca: RunningCa) -> None:
        client = await ca.client()
        await processing(ca, client, "a.localhost")
        (found,) = await ca.services.certificates.search(Search(status=CertificateStatus.UNSIGNED))
        assert found.names == ("a.localhost",)
        assert found.status(ca.clock()) is CertificateStatus.UNSIGNED


async def test_a_name_that_ends_in_a_digit() -> None:
    """… so that its certificate is finished after a crash, and revoked by whoever holds the name."""
    async with ca_site(policy={"allowed_names": ["*.localhost", "*.corp.host1"]}) as site:
        await site.init()
        async with site.running() as ca:
            client = await ca.client()
            await make_ready(ca, client, "a.corp.host1")
            order = await processing_ready(ca, client)
            assert await ca.services.issuance.finish_unfinished() == 1
            leaf, *_ = await client.download(await client.order(order.url))
            other = await ca.client()
            await make_ready(ca, other, "a.corp.host1")
            (await other.revoke(leaf.public_bytes(Encoding.DER))).ok()


async def make_ready(ca: RunningCa, client: AcmeClient, name: str) -> ClientOrder:
    """An order for a name that no resolver knows, made ready in the database."""
    order = await client.new_order(name)
    await ca.execute(
        "UPDATE authorizations SET status = 'valid', challenges = REPLACE(challenges, 'pending', 'valid') WHERE identifier_value = $1",
        name,
    )
    await ca.execute("UPDATE orders SET status = 'ready' WHERE id = $1", order.url.rpartition("/")[2])
    return order


async def processing_ready(ca: RunningCa, client: AcmeClient) -> ClientOrder:
    """The one ready order of the client, recorded and not signed."""
    (order_id,) = [row["id"] for row in await ca.rows("SELECT id FROM orders WHERE status = 'ready'")]
    order = await client.order(ca.urls.order(order_id))
    ca.site.issuer_key.broken = TokenError("the token is away")
    (await client.finalize(order)).ok()
    ca.site.issuer_key.broken = None
    return order
