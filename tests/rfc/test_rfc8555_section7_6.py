"""RFC 8555 §7.6: revocation, on its three lawful paths and on no other."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from acmeca.pki.signing import assemble_signed, split_signed
from tests.support import csrs
from tests.support.acme_client import AcmeClient, Issued, certificate_key
from tests.support.jose import SigningKey, encode, new_key
from tests.support.server import RunningCa, running_ca

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


@pytest_asyncio.fixture(loop_scope="module")
async def client(ca: RunningCa) -> AcmeClient:
    return await ca.client()


async def status(ca: RunningCa, issued: Issued) -> tuple[bool, int | None]:
    """Whether it is revoked, and the reason that is kept."""
    (row,) = await ca.rows(
        "SELECT revoked_at, revocation_reason FROM certificates WHERE serial = $1", f"{issued.serial:034x}"
    )
    return row["revoked_at"] is not None, row["revocation_reason"]


class TestWho:
    async def test_the_account_that_issued_it(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.6: "The server MUST consider at least the following accounts authorized for a given certificate: … the account
        that issued the certificate." "If the revocation succeeds, the server responds with status code 200 (OK)." "If this
        field is not set, the server SHOULD omit the reasonCode CRL entry extension when generating OCSP responses and CRLs."
        """
        issued = await client.issue("a.localhost")
        answer = (await client.revoke(issued.der)).ok()
        assert answer.body == b""
        assert await status(ca, issued) == (True, None)

    async def test_an_account_with_authorizations_for_all(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.6: "o an account that holds authorizations for all of the identifiers in the certificate."""
        issued = await client.issue("b1.localhost", "b2.localhost", ips=("127.0.0.1",))
        other = await ca.client()
        await other.ready_order("b1.localhost", "b2.localhost", "b3.localhost", ips=("127.0.0.1",))
        (await other.revoke(issued.der)).ok()
        assert await status(ca, issued) == (True, None)

    async def test_the_certificates_key(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.6: "The server MUST also consider a revocation request valid if it is signed with the private key corresponding to the
        public key in the certificate." It needs no account.
        """
        issued = await client.issue("c.localhost")
        stranger = await ca.client(register=False)
        (await stranger.revoke(issued.der, key=certificate_key(issued))).ok()
        assert await status(ca, issued) == (True, None)

    async def test_a_stranger(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.6: "Before revoking a certificate, the server MUST verify that the key used to sign the request is authorized to
        revoke the certificate."
        """
        issued = await client.issue("d.localhost")
        (await (await ca.client()).revoke(issued.der)).refused("unauthorized", 403)
        (await client.revoke(issued.der, key=new_key())).refused("unauthorized", 403)
        (await client.revoke(issued.der, key=client.key)).refused("unauthorized", 403)
        another = await client.issue("d.localhost")
        (await client.revoke(issued.der, key=certificate_key(another))).refused("unauthorized", 403)
        assert await status(ca, issued) == (False, None)

    async def test_an_account_with_authorizations_for_some(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.6: "all of the identifiers"."""
        issued = await client.issue("e1.localhost", "e2.localhost")
        other = await ca.client()
        order = await other.new_order("e1.localhost", "e2.localhost")
        await other.authorize_one(order.authorizations[0])
        (await other.revoke(issued.der)).refused("unauthorized", 403)
        await other.authorize_one(order.authorizations[1])
        (await other.post(order.authorizations[0], {"status": "deactivated"})).ok()
        (await other.revoke(issued.der)).refused("unauthorized", 403)
        assert await status(ca, issued) == (False, None)

    async def test_authorizations_that_ran_out(self, ca: RunningCa, client: AcmeClient) -> None:
        issued = await client.issue("f.localhost")
        other = await ca.client()
        await other.ready_order("f.localhost")
        ca.clock.advance(days=2)
        (await other.revoke(issued.der)).refused("unauthorized", 403)
        assert await status(ca, issued) == (False, None)

    async def test_a_blocked_key_revokes_itself(self, ca: RunningCa, client: AcmeClient) -> None:
        """RULES §1: "A blocked key … is refused everywhere except when it signs its own revocation"."""
        key = ec.generate_private_key(ec.SECP256R1())
        one, two = await client.issue("g1.localhost", key=key), await client.issue("g2.localhost", key=key)
        (await client.revoke(one.der, reason=1, key=certificate_key(one))).ok()
        (await client.revoke(two.der, reason=1, key=certificate_key(two))).ok()
        assert await status(ca, two) == (True, 1)


class TestWhat:
    async def test_twice(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.6: "If the certificate has already been revoked, the server returns an error response with status code 400 (Bad
        Request) and type "urn:ietf:params:acme:error:alreadyRevoked"."
        """
        issued = await client.issue("h.localhost")
        (await client.revoke(issued.der, reason=4)).ok()
        for reason in (None, 0, 4, 5):
            (await client.revoke(issued.der, reason=reason)).refused("alreadyRevoked", 400)
            (await client.revoke(issued.der, reason=reason, key=certificate_key(issued))).refused("alreadyRevoked", 400)
        assert await status(ca, issued) == (True, 4)

    async def test_a_stranger_learns_nothing(self, ca: RunningCa, client: AcmeClient) -> None:
        """Who may not revoke is not told whether it is revoked already."""
        issued = await client.issue("i.localhost")
        (await client.revoke(issued.der)).ok()
        (await (await ca.client()).revoke(issued.der)).refused("unauthorized", 403)

    async def test_raised_to_key_compromise_by_the_key(self, ca: RunningCa, client: AcmeClient) -> None:
        """RULES §5: "only an upgrade to keyCompromise, proven by the certificate's key or made by an administrator, changes a
        reason".
        """
        issued = await client.issue("j.localhost")
        (await client.revoke(issued.der, reason=4)).ok()
        (await client.revoke(issued.der, reason=1)).refused("alreadyRevoked", 400)
        assert await status(ca, issued) == (True, 4)
        at = await ca.scalar("SELECT revoked_at FROM certificates WHERE serial = $1", f"{issued.serial:034x}")
        ca.clock.advance(minutes=1)
        (await client.revoke(issued.der, reason=1, key=certificate_key(issued))).ok()
        assert await status(ca, issued) == (True, 1)
        assert at == await ca.scalar("SELECT revoked_at FROM certificates WHERE serial = $1", f"{issued.serial:034x}")
        for reason in (1, 4, None):
            (await client.revoke(issued.der, reason=reason, key=certificate_key(issued))).refused("alreadyRevoked", 400)
        assert await status(ca, issued) == (True, 1)

    @pytest.mark.parametrize("reason", [0, 1, 3, 4, 5, 9])
    async def test_reasons(self, ca: RunningCa, client: AcmeClient, reason: int) -> None:
        """§7.6: "reason (optional, int): One of the revocation reasonCodes defined in Section 5.3.1 of [RFC5280] to be used
        when generating OCSP responses and CRLs." RULES §5: "Reason 0 is stored as no reason".
        """
        issued = await client.issue("k.localhost")
        (await client.revoke(issued.der, reason=reason)).ok()
        assert await status(ca, issued) == (True, reason or None)

    @pytest.mark.parametrize("reason", [2, 6, 7, 8, 10, 11, -1, 1 << 70])
    async def test_reasons_that_are_not_allowed(self, ca: RunningCa, client: AcmeClient, reason: int) -> None:
        """§7.6: "If a request contains a disallowed reasonCode, then the server MUST reject it with the error type
        "urn:ietf:params:acme:error:badRevocationReason". The problem document detail SHOULD indicate which reasonCodes are
        allowed."
        """
        issued = await client.issue("l.localhost")
        answer = (await client.revoke(issued.der, reason=reason)).refused("badRevocationReason", 400)
        assert "0, 1, 3, 4, 5, 9" in answer.detail
        assert await status(ca, issued) == (False, None)

    @pytest.mark.parametrize("reason", ["1", 1.0, True, [1], {}])
    async def test_no_reason_at_all(self, ca: RunningCa, client: AcmeClient, reason: object) -> None:
        issued = await client.issue("m.localhost")
        (await client.revoke(issued.der, reason=reason)).refused("malformed", 400)
        assert await status(ca, issued) == (False, None)

    @pytest.mark.parametrize(
        "certificate", [None, 1, "", "!", "AAAA", encode(b"-----BEGIN CERTIFICATE-----"), "-----BEGIN CERTIFICATE-----"]
    )
    async def test_no_certificate(self, client: AcmeClient, certificate: object) -> None:
        """§7.6: "certificate (required, string): The certificate to be revoked, in the base64url-encoded version of the DER
        format."
        """
        answer = await client.post(client.directory["revokeCert"], {"certificate": certificate})
        answer.refused("malformed", 400)

    async def test_the_whole_certificate_is_compared(self, ca: RunningCa, client: AcmeClient) -> None:
        """RULES §5: "Compare the full DER, not just the serial": another certificate with the serial is not ours."""
        issued = await client.issue("n.localhost")
        key = ec.generate_private_key(ec.SECP256R1())
        forged = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(ca.issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(issued.serial)
            .not_valid_before(issued.leaf.not_valid_before_utc)
            .not_valid_after(issued.leaf.not_valid_after_utc)
            .sign(key, hashes.SHA256())
            .public_bytes(Encoding.DER)
        )
        tbs, _ = split_signed(issued.der)
        resigned = assemble_signed(tbs, ca.issuer.signature_algorithm_der, key.sign(tbs, ec.ECDSA(hashes.SHA256())))
        stranger = await ca.client(register=False)
        (await stranger.revoke(forged, key=SigningKey(key, "ES256"))).refused("malformed", 404)
        (await client.revoke(forged)).refused("malformed", 404)
        (await client.revoke(resigned)).refused("malformed", 404)
        (await client.revoke(issued.der + b"\0")).refused("malformed", 400)
        assert await status(ca, issued) == (False, None)

    async def test_a_serial_that_cannot_be(self, ca: RunningCa, client: AcmeClient) -> None:
        """Serials that are zero, negative or very long are nobody's of ours, and no failure either (RULES §1, step 8)."""
        for serial in (b"\x00", b"\xff", b"\x80" + bytes(30), b"\x7f" * 400):
            key = csrs.shared_key()
            tbs = csrs.der.sequence(
                b"\xa0\x03\x02\x01\x02",
                csrs.der.encode(csrs.der.INTEGER, serial),
                csrs.ECDSA_SHA256,
                ca.issuer.subject_der,
                csrs.der.sequence(b"\x17\x0d260101000000Z", b"\x17\x0d270101000000Z"),
                csrs.der.sequence(),
                csrs.spki(key),
            )
            certificate = csrs.der.sequence(tbs, csrs.ECDSA_SHA256, csrs.der.bit_string(b"\x30\x00"))
            answer = await client.revoke(certificate)
            assert (answer.status, answer.problem) in {(404, "malformed"), (400, "malformed")}

    async def test_the_cas_own_certificates(self, ca: RunningCa, client: AcmeClient) -> None:
        """Neither an issuer's certificate nor the listener's can be revoked by anybody's account."""
        listener = (await ca.served_certificate()).public_bytes(Encoding.DER)
        (await client.revoke(listener)).refused("unauthorized", 403)
        for issuer in (ca.issuer, ca.root):
            (await client.revoke(issuer.certificate_der)).refused("malformed", 404)
        assert (
            await ca.scalar("SELECT COUNT(*) AS n FROM certificates WHERE account_id IS NULL AND revoked_at > 0") == 0
        )

    async def test_an_expired_certificate(self, client: AcmeClient, ca: RunningCa) -> None:
        """Expired is not revoked: whoever kept the key may want it on record."""
        issued = await client.issue("o.localhost")
        ca.clock.advance(days=91)
        try:
            (await client.revoke(issued.der, reason=1, key=certificate_key(issued))).ok()
            assert await status(ca, issued) == (True, 1)
        finally:
            ca.clock.advance(days=-91)
