"""What an administrator asks and orders (service/administration.py), on a whole CA without its listeners."""

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.errors import AcmecaError, Conflict, NotFound
from acmeca.service.administration import REASONS
from acmeca.service.arguments import parse_search_name, parse_serial
from acmeca.service.status import format_serial
from acmeca.storage.certificates import Certificate
from tests.support.profiles import make_profile
from tests.support.server import RunningCa, ca_site, running_ca

USER = "alice"


@contextlib.asynccontextmanager
async def opened_ca() -> AsyncIterator[RunningCa]:
    async with ca_site() as site:
        await site.init()
        async with site.opened() as ca:
            yield ca


async def issue(
    ca: RunningCa, *names: str, days: int = 90, key: ec.EllipticCurvePrivateKey | None = None
) -> Certificate:
    """A certificate of profile `server`; the account is left out, as it is not what is looked at here."""
    identifiers = tuple(Identifier(IdentifierType.DNS, name) for name in names)
    key = key or ec.generate_private_key(ec.SECP256R1())
    return await ca.services.issuance.issue_own(
        make_profile(lifetime=timedelta(days=days)).template, identifiers, key.public_key(), signer=ca.signer
    )


async def call(ca: RunningCa, operation: str, **arguments: object) -> dict[str, Any]:
    return await ca.opened.administration.call(operation, arguments, user=USER)


async def serials(ca: RunningCa, **arguments: object) -> list[str]:
    return [item["serial"] for item in (await call(ca, "list", **arguments))["certificates"]]


# --- serials ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("0139389270d3818df3300661cbf43fcee7", ("0139389270d3818df3300661cbf43fcee7",)),
        ("139389270d3818df3300661cbf43fcee7", ("0139389270d3818df3300661cbf43fcee7",)),
        ("01:39:38:92:70:D3:81:8D:F3:30:06:61:CB:F4:3F:CE:E7", ("0139389270d3818df3300661cbf43fcee7",)),
        ("serial=0139389270D3818DF3300661CBF43FCEE7", ("0139389270d3818df3300661cbf43fcee7",)),
        ("\u200e01 39 38 92 70 d3 81 8d f3 30 06 61 cb f4 3f ce e7", ("0139389270d3818df3300661cbf43fcee7",)),
        ("0x1001", ("1001",)),
        ("0X1001", ("1001",)),
        (" abc\n", ("0abc",)),
        ("00ab", ("ab",)),
        ("4097", ("4097", "1001")),
        ("7", ("07",)),
        ("0", ("00",)),
        ("0x4097", ("4097",)),
        ("40:97", ("4097",)),
        # all digits: it may be hex, or the decimal form of another
        ("5249928095", ("5249928095", "0138eb8b9f")),
    ],
)
def test_a_serial_is_read_in_every_form_that_tools_print(text: str, meant: tuple[str, ...]) -> None:
    """Rule 2: hex with or without colons, `0x…`, decimal."""
    assert parse_serial(text) == meant


@pytest.mark.parametrize(
    "text", ["", "0x", "::", "xyz", "12g4", "-5", "1.5", "1_000", "٣", "serial=", "f" * 61, "0x0x1"]
)
def test_what_is_no_serial(text: str) -> None:
    with pytest.raises(AcmecaError, match="is no serial; write it in hex"):
        parse_serial(text)


def test_a_refusal_quotes_no_more_than_a_line() -> None:
    with pytest.raises(AcmecaError) as caught:
        parse_serial("z" * 100_000)
    assert len(str(caught.value)) < 200


@given(st.integers(min_value=1, max_value=2**159 - 1))
def test_every_serial_is_found_by_each_of_its_forms(number: int) -> None:
    kept = format_serial(number)
    colons = ":".join(kept[place : place + 2] for place in range(0, len(kept), 2))
    for form in (kept, kept.upper(), f"0x{kept}", f"{number:x}", colons, colons.upper(), str(number), f"00{kept}"):
        assert kept in parse_serial(form)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("DB1.Corp.Internal", "db1.corp.internal"),
        (" db1.corp.internal. ", "db1.corp.internal"),
        ("*.corp.internal", "*.corp.internal"),
        ("10.0.0.1", "10.0.0.1"),
        ("FD00:0::1", "fd00::1"),
    ],
)
def test_a_name_is_looked_for_in_its_canonical_form(text: str, meant: str) -> None:
    assert parse_search_name(text) == meant


@pytest.mark.parametrize("text", ["", "*", "db*", "a..b", "db_1", "a b", "x" * 300])
def test_what_cannot_be_looked_for(text: str) -> None:
    with pytest.raises(AcmecaError, match=r"a whole name or address is looked for"):
        parse_search_name(text)


# --- list ---------------------------------------------------------------------------------------------------------


async def test_a_refused_revocation_is_in_the_audit() -> None:
    """RULES §6: every refusal, also of a serial that is nobody's; and only `true` publishes a CRL."""
    async with running_ca(duties=False) as ca:
        call = ca.opened.administration.call
        with pytest.raises(NotFound):
            await call("revoke", {"serial": "0xabcd"}, user="jo")
        (refused,) = await ca.events("revocation.refused")
        assert '"actor":"admin:jo"' in refused
        assert '"serial_hex":"0xabcd"' in refused
        before = await ca.events("crl.signed")
        await call("crl", {"publish": "no"}, user="jo")
        assert await ca.events("crl.signed") == before


async def test_list_finds_by_name_status_and_end() -> None:
    async with opened_ca() as ca:
        one = await issue(ca, "db1.corp.localhost", days=10)
        two = await issue(ca, "db2.corp.localhost", "www.localhost", days=60)
        await call(ca, "revoke", serial=two.serial)
        assert set(await serials(ca)) == {one.serial, two.serial}
        assert await serials(ca, name="DB1.corp.localhost") == [one.serial]
        assert set(await serials(ca, name="*.corp.localhost")) == {one.serial, two.serial}
        assert await serials(ca, name="corp.localhost") == []
        assert await serials(ca, status="revoked") == [two.serial]
        assert await serials(ca, status="valid") == [one.serial]
        assert await serials(ca, expires_within=86400 * 11) == [one.serial]
        assert await serials(ca, expires_within=86400 * 5) == []
        assert await serials(ca, expires_within=86400 * 90, status="revoked") == [two.serial]


async def test_list_of_what_ends_soon_leaves_out_what_has_ended() -> None:
    async with opened_ca() as ca:
        await issue(ca, "old.localhost", days=1)
        ca.clock.advance(days=2)
        young = await issue(ca, "young.localhost", days=1)
        assert await serials(ca, expires_within=86400 * 30) == [young.serial]
        assert len(await serials(ca, status="expired")) == 1


async def test_list_says_when_there_is_more() -> None:
    async with opened_ca() as ca:
        await issue(ca, "first.localhost")
        await issue(ca, "second.localhost")
        ca.clock.advance(seconds=1)
        last = await issue(ca, "last.localhost")
        cut, whole = await call(ca, "list", limit=2), await call(ca, "list", limit=3)
    assert (len(cut["certificates"]), cut["is_cut"]) == (2, True)
    assert cut["certificates"][0]["serial"] == last.serial, "the newest first"
    assert (len(whole["certificates"]), whole["is_cut"]) == (3, False)


@pytest.mark.parametrize(
    "arguments",
    [
        {"limit": 0},
        {"limit": 10_001},
        {"limit": "5"},
        {"limit": True},
        {"status": "lost"},
        {"status": 5},
        {"expires_within": "30d"},
        {"expires_within": -1},
        {"expires_within": 10**12},
        {"name": "*"},
        {"name": ["x"]},
    ],
)
async def test_list_refuses_what_it_cannot_look_for(arguments: dict[str, object]) -> None:
    async with opened_ca() as ca:
        with pytest.raises(AcmecaError) as caught:
            await call(ca, "list", **arguments)
    assert next(iter(arguments)) in str(caught.value)


# --- show ---------------------------------------------------------------------------------------------------------


async def test_show_tells_who_signed_it_and_where_its_status_is() -> None:
    async with opened_ca() as ca:
        certificate = await issue(ca, "db1.localhost", "www.localhost")
        shown = await call(ca, "show", serial=certificate.serial.upper())
        issuer = ca.issuer
    parsed = x509.load_pem_x509_certificate(shown["pem"].encode())
    assert format_serial(parsed.serial_number) == shown["serial"] == certificate.serial
    assert shown["names"] == ["db1.localhost", "www.localhost"]
    assert shown["status"] == "valid"
    assert shown["issuer"] == issuer.id
    assert shown["issuer_name"] == parsed.issuer.rfc4514_string()
    assert (shown["ocsp_url"], shown["crl_url"], shown["issuer_url"]) == (
        issuer.ocsp_url,
        issuer.crl_url,
        issuer.issuer_url,
    )
    assert shown["sha256_fingerprint"].replace(":", "").lower() == parsed.fingerprint(hashes.SHA256()).hex()
    assert (shown["account"], shown["order"], shown["contact"]) == (None, None, [])


@pytest.mark.parametrize("serial", ["00ff", "ff:ff", "12345678901234567890"])
async def test_a_serial_that_was_never_issued_is_an_error(serial: str) -> None:
    async with opened_ca() as ca:
        for operation in ("show", "revoke"):
            with pytest.raises(NotFound, match=rf"no certificate with serial {serial} was ever issued here"):
                await call(ca, operation, serial=serial)


async def test_a_serial_that_fits_two_certificates_is_refused() -> None:
    """Rule 2: "a form that fits two certificates is refused", and the answer says how to name each."""
    async with opened_ca() as ca:
        certificate = await issue(ca, "one.localhost")
        await ca.execute("UPDATE certificates SET serial = '10' WHERE serial = $1", certificate.serial)
        other = await issue(ca, "two.localhost")
        await ca.execute("UPDATE certificates SET serial = '0a' WHERE serial = $1", other.serial)
        with pytest.raises(Conflict, match="write 0x10 or 0x0a"):
            await call(ca, "show", serial="10")
        assert (await call(ca, "show", serial="0x10"))["names"] == ["one.localhost"]
        assert (await call(ca, "show", serial="0x0a"))["names"] == ["two.localhost"]
        assert (await call(ca, "show", serial="0a"))["names"] == ["two.localhost"]


# --- revoke -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", list(REASONS))
async def test_revoke_is_on_the_crl_at_once_with_its_reason(reason: str) -> None:
    async with opened_ca() as ca:
        certificate = await issue(ca, "db1.localhost")
        result = await call(ca, "revoke", serial=certificate.serial, reason=reason)
        crl = x509.load_der_x509_crl((await ca.services.status.crl(ca.issuer.id)).der)
        events = await ca.events("certificate.revoked")
    entry = crl.get_revoked_certificate_by_serial_number(int(certificate.serial, 16))
    assert entry is not None
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == result["crl_number"]
    assert (result["status"], result["reason"]) == ("revoked", reason)
    assert len(events) == 1
    assert '"actor":"admin:alice"' in events[0]
    assert '"how":"administrator"' in events[0]


async def test_revoked_stays_revoked() -> None:
    async with opened_ca() as ca:
        certificate = await issue(ca, "db1.localhost")
        first = await call(ca, "revoke", serial=certificate.serial, reason="superseded")
        with pytest.raises(Conflict, match="revoked stays revoked"):
            await call(ca, "revoke", serial=certificate.serial, reason="superseded")
        raised = await call(ca, "revoke", serial=certificate.serial, reason="keyCompromise")
        assert raised["reason"] == "keyCompromise"
        assert raised["revoked_at"] == first["revoked_at"]
        with pytest.raises(Conflict):
            await call(ca, "revoke", serial=certificate.serial, reason="superseded")


async def test_a_revocation_stands_when_its_crl_cannot_be_made() -> None:
    """RULES §5: revoked never becomes good again; the administrator is told that it is, and that the CRL is not made yet."""
    async with opened_ca() as ca:
        certificate = await issue(ca, "db1.localhost")
        ca.site.issuer_key.broken = AcmecaError("the token is away")
        result = await call(ca, "revoke", serial=certificate.serial)
        assert result["status"] == "revoked"
        assert result["crl_number"] is None
        ca.site.issuer_key.broken = None
        await ca.services.status.publish_due_crls()
        assert (await ca.services.status.crl(ca.issuer.id)).entries == 1


@pytest.mark.parametrize("reason", ["keycompromise", "cACompromise", "certificateHold", "removeFromCRL", "1", ""])
async def test_reasons_that_an_administrator_may_not_give(reason: str) -> None:
    """RULES §5: "Reasons allowed from users: 0, 1, 3, 4, 5, 9"."""
    async with opened_ca() as ca:
        certificate = await issue(ca, "db1.localhost")
        if not reason:
            assert (await call(ca, "revoke", serial=certificate.serial, reason=reason))["reason"] == "unspecified"
            return
        with pytest.raises(AcmecaError, match="is none; one of unspecified, keyCompromise"):
            await call(ca, "revoke", serial=certificate.serial, reason=reason)
        assert (await call(ca, "show", serial=certificate.serial))["status"] == "valid"


# --- CRLs ---------------------------------------------------------------------------------------------------------


async def test_crl_before_the_first_start_has_none_of_the_intermediate() -> None:
    async with opened_ca() as ca:
        root, intermediate = (await call(ca, "crl"))["crls"]
    assert root["is_root"]
    assert root["number"] > 0
    assert not intermediate["is_root"]
    assert intermediate["number"] is None
    assert "der" not in root


async def test_crl_publishes_and_gives_the_crl_itself() -> None:
    async with opened_ca() as ca:
        await issue(ca, "db1.localhost")
        (first,) = (await call(ca, "crl", issuer=ca.issuer.id, publish=True, with_der=True))["crls"]
        (second,) = (await call(ca, "crl", issuer=ca.issuer.id, publish=True))["crls"]
        crl = x509.load_der_x509_crl(bytes.fromhex(first["der"]))
        assert crl.is_signature_valid(ca.issuer.public_key)
        everything = await call(ca, "crl", publish=True)
    assert second["number"] > first["number"]
    assert len(everything["crls"]) == 2, "the root's is shown, as its key is elsewhere"


async def test_crl_of_a_root_is_made_where_its_key_is() -> None:
    async with opened_ca() as ca:
        with pytest.raises(NotFound, match="a root's CRL is made where its key is"):
            await call(ca, "crl", issuer=ca.root.id, publish=True)
        with pytest.raises(NotFound, match="there is no issuer nobody"):
            await call(ca, "crl", issuer="nobody")


async def test_crl_tells_what_waits_for_the_next() -> None:
    async with opened_ca() as ca:
        certificate = await issue(ca, "db1.localhost")
        await call(ca, "crl", publish=True)
        await ca.services.certificates.revoke_for_admin(certificate.serial, reason=None, user=USER)
        (shown,) = (await call(ca, "crl", issuer=ca.issuer.id))["crls"]
    assert (shown["entries"], shown["pending"]) == (0, 1)


async def test_an_unknown_operation() -> None:
    async with opened_ca() as ca:
        with pytest.raises(NotFound, match="is the command newer than the running server"):
            await call(ca, "explode")
