"""RFC 8555 §7.4: orders, finalize and the certificate, as a client sees them."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from acmeca.keystore.pem import load_key
from acmeca.pki import der
from tests.support import csrs
from tests.support.acme_client import AcmeClient, ClientOrder, assert_alike
from tests.support.csrs import build_csr, forge_csr
from tests.support.jose import encode
from tests.support.server import CountingKey, RunningCa, running_ca

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


@pytest_asyncio.fixture(loop_scope="module")
async def client(ca: RunningCa) -> AcmeClient:
    return await ca.client()


def signatures(ca: RunningCa) -> int:
    """How many signatures the issuer's key has made so far."""
    return len(ca.site.issuer_key.signed)


class TestSection74NewOrder:
    async def test_created(self, client: AcmeClient) -> None:
        """§7.4: "If the server is willing to issue the requested certificate, it responds with a 201 (Created) response. The body
        of this response is an order object reflecting the client's request and any authorizations the client must complete
        before the certificate will be issued."
        """
        answer = (await client.order_answer("a.localhost", "b.localhost")).ok(201)
        assert answer.content_type == "application/json"
        assert (await client.post(answer.location)).ok().json == answer.json
        for url in answer.json["authorizations"]:
            assert (await client.authorization(url))["status"] == "pending"

    async def test_each_identifier_once(self, client: AcmeClient) -> None:
        """§7.4: an order is a set of identifiers; DNS names are compared without case (RFC 5280 §7.2)."""
        order = await client.new_order("twice.localhost", "TWICE.localhost", "twice.localhost")
        assert order.names == ["twice.localhost"]
        assert len(order.authorizations) == 1

    @pytest.mark.parametrize(
        "payload",
        [
            {},
            {"identifiers": []},
            {"identifiers": {}},
            {"identifiers": "a.localhost"},
            {"identifiers": ["a.localhost"]},
            {"identifiers": [{"type": "dns"}]},
            {"identifiers": [{"type": 1, "value": "a.localhost"}]},
            {"identifiers": [{"type": "dns", "value": "a.localhost"}] * 101},
            b"[]",
            b"null",
            b"{",
            b'{"identifiers": [], "identifiers": []}',
        ],
    )
    async def test_malformed(self, ca: RunningCa, client: AcmeClient, payload: dict[str, Any] | bytes) -> None:
        before = await ca.counts()
        (await client.post(client.directory["newOrder"], payload)).refused("malformed", 400)
        assert await ca.counts() == before

    @pytest.mark.parametrize(
        "name",
        [
            "127.0.0.1",
            "127.1",
            "0x7f.1",
            "2130706433",
            "a.localhost.",
            "a..localhost",
            ".localhost",
            "a_b.localhost",
            "-a.localhost",
            "a.localhost\n",
            "a.localhost\u0000.evil.example",
            "b\u00fccher.localhost",
            "xn--a.localhost",
            "a" * 64 + ".localhost",
            "a.b/../c.localhost",
            "a.localhost:80",
            "*.*.localhost",
            "a.*.localhost",
        ],
    )
    async def test_no_host_names(self, client: AcmeClient, name: str) -> None:
        """§7.1.3, RULES §3: names are canonical host names, and an address in any spelling is none. §7.1.4: "The domain name
        MUST be encoded in the form in which it would appear in a certificate. That is, it MUST be encoded according to the
        rules in Section 7 of [RFC5280]. Servers MUST verify any identifier values that begin with the ASCII-Compatible Encoding
        prefix "xn--" as defined in [RFC5890] are properly encoded."
        """
        (await client.order_answer(name)).refused("malformed", 400)

    @pytest.mark.parametrize("name", ["example.com", "localhost", "evil-localhost", "a.localhost.example.com", "local"])
    async def test_names_that_are_not_allowed(self, ca: RunningCa, client: AcmeClient, name: str) -> None:
        """§7.4: "The server MUST return an error if it cannot fulfill the request as specified"; RULES §3: "the allow-list … is
        mandatory".
        """
        before = await ca.counts()
        answer = (await client.order_answer("fine.localhost", name)).refused("rejectedIdentifier", 403)
        assert name in answer.json["subproblems"][0]["detail"]
        assert "*.localhost" in answer.detail
        after = await ca.counts()
        # the refusal, which counts as an order, and nothing else
        assert after == before | {"audit": before["audit"] + 1, "limits": after["limits"]}

    async def test_every_name_is_asked_about(self, client: AcmeClient) -> None:
        """RULES §3: "Prove that all N were checked": one bad name in any place is found, and it is that one."""
        names = [f"n{number}.localhost" for number in range(20)]
        for place in (0, 7, 19):
            asked = [*names[:place], "evil.example", *names[place:]]
            answer = (await client.order_answer(*asked)).refused("rejectedIdentifier", 403)
            assert [item["identifier"]["value"] for item in answer.json["subproblems"]] == ["evil.example"]

    @pytest.mark.parametrize("address", ["10.0.0.1", "::1", "fd00::1"])
    async def test_addresses_that_are_not_allowed(self, client: AcmeClient, address: str) -> None:
        (await client.order_answer(ips=(address,))).refused("rejectedIdentifier", 403)

    @pytest.mark.parametrize("address", ["127.1", "0127.0.0.1", "127.0.0.1 ", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1"])
    async def test_addresses_that_are_not_canonical(self, client: AcmeClient, address: str) -> None:
        """RFC 8738 §3: the text is what RFC 1123 §2.1 and RFC 5952 §4 say."""
        (await client.order_answer(ips=(address,))).refused("malformed", 400)

    async def test_another_type(self, client: AcmeClient) -> None:
        """§6.7: "unsupportedIdentifier: An identifier is of an unsupported type"."""
        identifiers = [{"type": "email", "value": "a@b.example"}]
        answer = await client.post(client.directory["newOrder"], {"identifiers": identifiers})
        answer.refused("unsupportedIdentifier", 400)

    async def test_another_account(self, ca: RunningCa, client: AcmeClient) -> None:
        """RULES §2: for another account the order is not there, whatever is asked of it."""
        other = await ca.client()
        order = await other.ready_order("private.localhost")
        missing = ClientOrder(ca.urls.order("AAAAAAAAAAAAAAAAAAAAAA"), order.document)
        assert_alike(await client.post(order.url), await client.post(missing.url))
        csr = {"csr": encode(order.csr())}
        assert_alike(
            await client.post(order.finalize, csr), await client.post(ca.urls.finalize("AAAAAAAAAAAAAAAAAAAAAA"), csr)
        )
        assert (await other.order(order.url)).status == "ready"


class TestSection74Finalize:
    async def test_valid_at_once(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.4: "A valid request to finalize an order will return the order to be finalized." """
        order = await client.ready_order("now.localhost")
        before = signatures(ca)
        answer = (await client.finalize(order)).ok()
        assert answer.location == order.url
        assert answer.json["status"] == "valid"
        assert answer.json == (await client.order(order.url)).document
        assert signatures(ca) == before + 1

    async def test_not_pending(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.4: "A request to finalize an order will result in error if the order is not in the "ready" state. In such cases, the
        server MUST return a 403 (Forbidden) error with a problem document of type "orderNotReady"."
        """
        order = await client.new_order("p.localhost")
        before = signatures(ca)
        (await client.finalize(order)).refused("orderNotReady", 403)
        assert (await client.order(order.url)).status == "pending"
        assert signatures(ca) == before

    async def test_not_half_done(self, ca: RunningCa, client: AcmeClient) -> None:
        order = await client.new_order("h1.localhost", "h2.localhost")
        await client.authorize_one(order.authorizations[0])
        (await client.finalize(order)).refused("orderNotReady", 403)

    async def test_not_twice(self, ca: RunningCa, client: AcmeClient) -> None:
        issued = await client.issue("t.localhost")
        before = signatures(ca)
        (await client.finalize(issued.order)).refused("orderNotReady", 403)
        (await client.finalize(issued.order, issued.order.csr(issued.key))).refused("orderNotReady", 403)
        assert signatures(ca) == before
        assert (await client.order(issued.order.url)).document == issued.order.document

    async def test_not_invalid(self, client: AcmeClient) -> None:
        order = await client.ready_order("i.localhost")
        (await client.post(order.authorizations[0], {"status": "deactivated"})).ok()
        assert (await client.order(order.url)).status == "invalid"
        (await client.finalize(order)).refused("orderNotReady", 403)

    @pytest.mark.parametrize("payload", [{}, {"csr": 1}, {"csr": ""}, {"csr": None}, {"csr": "!!"}, {"csr": "AA=="}])
    async def test_no_csr(self, client: AcmeClient, payload: dict[str, object]) -> None:
        """§7.4: "The POST body MUST include a CSR: csr (required, string)" in base64url."""
        order = await client.ready_order("n.localhost")
        (await client.post(order.finalize, payload)).refused("malformed", 400)
        assert (await client.order(order.url)).status == "ready"

    async def test_pem(self, client: AcmeClient) -> None:
        """§7.4: "Note: Because this field uses base64url, and does not include headers, it is different from PEM." """
        order = await client.ready_order("pem.localhost")
        pem = "-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n"
        for text in (pem, encode(pem.encode())):
            assert "PEM" in (await client.post(order.finalize, {"csr": text})).refused("malformed", 400).detail


KEY = csrs.shared_key()
Csr = Callable[[ClientOrder], bytes]


def san(*names: bytes) -> bytes:
    """A CSR with a subjectAltName of these GeneralNames as they are."""
    return forge_csr(KEY, attributes=[csrs.extension_request(csrs.subject_alt_name(*names))])


def common_name(value: bytes, *, tag: int = 0x0C) -> bytes:
    """A Name with a common name whose octets are these."""
    return csrs.name((csrs.COMMON_NAME, der.encode(tag, value)))


def weak_rsa(bits: int, exponent: int = 65537) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(exponent, bits)


# What each CSR is, and how it is made for an order of a.localhost and b.localhost.
BAD_CSRS: dict[str, Csr] = {
    "junk": lambda _: b"junk",
    "something behind it": lambda order: order.csr(KEY) + b"\0",
    "a certificate": lambda _: csrs.der.sequence(b"\x30\x00", b"\x30\x00", b"\x03\x01\x00"),
    "signed by another key": lambda order: forge_csr(
        KEY,
        spki_der=csrs.spki(csrs.shared_key("P-256", 1)),
        attributes=[csrs.extension_request(csrs.subject_alt_name(*map(dns, order.names)))],
    ),
    "a broken signature": lambda order: order.csr(KEY)[:-1] + b"\x00",
    "no names": lambda order: order.csr(KEY, dns_names=()),
    "a name missing": lambda order: order.csr(KEY, dns_names=order.names[:1]),
    "a name more": lambda order: order.csr(KEY, dns_names=[*order.names, "c.localhost"]),
    "another name": lambda order: order.csr(KEY, dns_names=[order.names[0], "evil.example"]),
    "a wildcard": lambda order: order.csr(KEY, dns_names=[*order.names, "*.localhost"]),
    "a wildcard of an ordered name": lambda order: order.csr(KEY, dns_names=["*.a.localhost", "b.localhost"]),
    "another name in the CN": lambda order: order.csr(KEY, common_name="evil.example"),
    "a person in the CN": lambda order: order.csr(KEY, common_name="Web Server"),
    "an empty CN": lambda order: with_subject(order, common_name(b"")),
    "NUL in the CN": lambda order: with_subject(order, common_name(b"a.localhost\0.evil.example")),
    "a newline behind the CN": lambda order: with_subject(order, common_name(b"a.localhost\n")),
    "white space around the CN": lambda order: with_subject(order, common_name(b" a.localhost")),
    "a dot behind the CN": lambda order: with_subject(order, common_name(b"a.localhost.")),
    "a number as the CN": lambda order: with_subject(order, common_name(b"\x01", tag=0x02)),
    "two CNs, one of them another's": lambda order: with_subject(
        order, csrs.name((csrs.COMMON_NAME, utf8(b"a.localhost")), (csrs.COMMON_NAME, utf8(b"evil.example")))
    ),
    "a fullwidth CN": lambda order: with_subject(order, common_name("\uff41.localhost".encode())),
    "NUL in a dNSName": lambda _: san(dns("a.localhost"), csrs.dns_name(b"b.localhost\0.evil.example")),
    "a newline behind a dNSName": lambda _: san(dns("a.localhost"), csrs.dns_name(b"b.localhost\n")),
    "a dot behind a dNSName": lambda _: san(dns("a.localhost"), csrs.dns_name(b"b.localhost.")),
    "an empty dNSName": lambda _: san(dns("a.localhost"), dns("b.localhost"), csrs.dns_name(b"")),
    "UTF-8 in a dNSName": lambda _: san(dns("a.localhost"), csrs.dns_name("\u0431.localhost".encode())),
    "an address as a dNSName": lambda order: order.csr(KEY, dns_names=[*order.names, "127.0.0.1"]),
    "a short address as a dNSName": lambda order: order.csr(KEY, dns_names=[*order.names, "127.1"]),
    "an iPAddress": lambda order: order.csr(KEY, ip_addresses=["127.0.0.1"]),
    "an iPAddress of 5 octets": lambda _: san(
        dns("a.localhost"), dns("b.localhost"), csrs.general_name(0x87, bytes(5))
    ),
    "a mail address": lambda order: order.csr(KEY, other_names=[x509.RFC822Name("admin@example.com")]),
    "a URI": lambda order: order.csr(KEY, other_names=[x509.UniformResourceIdentifier("https://a.localhost")]),
    "a directory name": lambda order: order.csr(KEY, other_names=[x509.DirectoryName(x509.Name([]))]),
    "an otherName": lambda order: order.csr(
        KEY, other_names=[x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x01a")]
    ),
    "an empty subjectAltName": lambda _: san(),
    "a subjectAltName twice": lambda order: forge_csr(
        KEY,
        attributes=[
            csrs.extension_request(
                csrs.subject_alt_name(*map(dns, order.names)), csrs.subject_alt_name(dns("evil.example"))
            )
        ],
    ),
    "two extension requests": lambda order: forge_csr(
        KEY,
        attributes=[
            csrs.extension_request(csrs.subject_alt_name(*map(dns, order.names))),
            csrs.extension_request(csrs.subject_alt_name(dns("evil.example"))),
        ],
    ),
    "RSA-1024": lambda order: build_csr(weak_rsa(1024), dns_names=order.names),
    "RSA with e = 3": lambda order: build_csr(weak_rsa(2048, 3), dns_names=order.names),
    "P-192": lambda order: build_csr(ec.generate_private_key(ec.SECP192R1()), dns_names=order.names),
    "secp256k1": lambda order: build_csr(ec.generate_private_key(ec.SECP256K1()), dns_names=order.names),
    "20 KiB": lambda order: order.csr(
        KEY, extensions=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), bytes(20_000)), False)]
    ),
}


def dns(name: str) -> bytes:
    return csrs.dns_name(name.encode())


def utf8(value: bytes) -> bytes:
    return der.encode(0x0C, value)


def with_subject(order: ClientOrder, subject: bytes) -> bytes:
    """A CSR for the order's names with this subject."""
    names = csrs.subject_alt_name(*map(dns, order.names))
    return forge_csr(KEY, subject=subject, attributes=[csrs.extension_request(names)])


class TestCsrs:
    @pytest.mark.parametrize("what", BAD_CSRS)
    async def test_bad(self, ca: RunningCa, client: AcmeClient, what: str) -> None:
        """§7.4: "The CSR MUST indicate the exact same set of requested identifiers as the initial newOrder request." §6.7:
        "badCSR: The CSR is unacceptable (e.g., due to a short key)". The order stays ready, and nothing is signed. §7.4: "the
        problem document returned by the server SHOULD use error code "badCSR" and describe specific reasons the CSR was
        rejected in its "detail" field. After returning such an error, the server SHOULD leave the order in the "ready" state".
        """
        order = await client.ready_order("a.localhost", "b.localhost")
        certificates = await ca.scalar("SELECT COUNT(*) AS n FROM certificates")
        before = signatures(ca)
        answer = (await client.finalize(order, BAD_CSRS[what](order))).refused("badCSR", 400)
        assert answer.detail
        assert (await client.order(order.url)).status == "ready"
        assert signatures(ca) == before
        assert await ca.scalar("SELECT COUNT(*) AS n FROM certificates") == certificates
        # "… and the order stays ready": the same order is finalized by a good one.
        (await client.finalize(order)).ok()

    @pytest.mark.parametrize(
        "parts",
        [
            {"common_name": "a.localhost"},
            {"common_name": "A.LOCALHOST"},
            {"common_name": "a.localhost", "dns_names": ("b.localhost",)},
            {"dns_names": ("B.localhost", "a.LOCALHOST")},
            {"challenge_password": b"secret"},
        ],
    )
    async def test_good(self, client: AcmeClient, parts: dict[str, Any]) -> None:
        """§7.4: "… either in the commonName portion of the requested subject name or in an extensionRequest attribute [RFC2985]
        requesting a subjectAltName extension, or both."
        """
        order = await client.ready_order("a.localhost", "b.localhost")
        (await client.finalize(order, order.csr(KEY, **parts))).ok()
        leaf, *_ = await client.download(await client.order(order.url))
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["a.localhost", "b.localhost"]
        assert leaf.subject == x509.Name([])

    async def test_requested_extensions_are_not_copied(self, client: AcmeClient) -> None:
        """RULES §4: "All other requested extensions are ignored (basicConstraints CA:TRUE, EKU, policies …)": two CVEs in
        well-known CAs "were exactly this".
        """
        asked: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=True, path_length=9), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.OCSP_SIGNING]), False),
            (x509.OCSPNoCheck(), False),
            (x509.SubjectKeyIdentifier(b"x" * 20), False),
            (x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("2.23.140.1.1"), None)]), False),
            (x509.NameConstraints(permitted_subtrees=[x509.DNSName("example.com")], excluded_subtrees=None), True),
            (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True),
        ]
        issued = await client.issue("ca.localhost", extensions=asked)
        plain = await client.issue("ca.localhost")
        kinds = [[(item.oid, item.critical) for item in one.leaf.extensions] for one in (issued, plain)]
        assert kinds[0] == kinds[1]
        found = issued.leaf.extensions
        assert found.get_extension_for_class(x509.BasicConstraints).value.ca is False
        assert list(found.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
        assert found.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest != b"x" * 20

    async def test_the_account_key(self, ca: RunningCa, client: AcmeClient) -> None:
        """§11.1: "ACME clients and servers MUST verify that a CSR submitted in a finalize request does not contain a public key
        for any known account key pair." RULES §1: it "is never certified".
        """
        order = await client.ready_order("own.localhost")
        other = await ca.client()
        for key in (client.key.private, other.key.private):
            answer = (await client.finalize(order, order.csr(key))).refused("badCSR", 400)
            assert "account" in answer.detail
        (await other.deactivate_account()).ok()
        (await client.finalize(order, order.csr(other.key.private))).refused("badCSR", 400)
        assert (await client.order(order.url)).status == "ready"

    async def test_the_cas_own_keys(self, ca: RunningCa, client: AcmeClient) -> None:
        """RULES §1: "an issuer's key or the OCSP responder's key is never certified"."""
        order = await client.ready_order("ca-key.localhost")
        (root_key,) = (ca.data_dir / "root").glob("*.key.pem")
        (responder_key,) = (ca.data_dir / "keys").glob("*.ocsp.pem")
        keys = [private_key(path) for path in (root_key, responder_key, ca.data_dir / "listener.pem")]
        issuer_key = ca.site.issuer_key
        assert isinstance(issuer_key, CountingKey)
        for key in [*keys, issuer_key._key]:
            (await client.finalize(order, order.csr(key))).refused("badCSR", 400)
        assert (await client.order(order.url)).status == "ready"

    async def test_a_blocked_key(self, client: AcmeClient) -> None:
        """RULES §1: a blocked key is certified never again, for nobody."""
        issued = await client.issue("blocked.localhost")
        (await client.revoke(issued.der, reason=1)).ok()
        order = await client.ready_order("blocked.localhost")
        answer = (await client.finalize(order, order.csr(issued.key))).refused("badCSR", 400)
        assert "compromised" in answer.detail
        assert (await client.order(order.url)).status == "ready"


def private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = load_key(path)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


class TestTheCertificate:
    @pytest.mark.parametrize("kind", csrs.KEY_KINDS)
    async def test_what_it_says(self, ca: RunningCa, client: AcmeClient, kind: str) -> None:
        """§7.4: "… MUST NOT issue a certificate with contents other than those requested": the key of the CSR, the names of the
        order, and the profile's all else.
        """
        ca.clock.advance(minutes=10)  # the issuer was made just now, and nothing is valid before it
        issued = await client.issue("y.localhost", "x.localhost", ips=("127.0.0.1",), key=csrs.shared_key(kind, 7))
        leaf = issued.leaf
        assert leaf.public_key() == issued.key.public_key()
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        assert set(names.value.get_values_for_type(x509.DNSName)) == {"x.localhost", "y.localhost"}
        assert [str(item) for item in names.value.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
        assert names.critical  # RFC 5280 §4.1.2.6: the subject is empty
        assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(days=90, seconds=-1)
        assert ca.clock() - leaf.not_valid_before_utc == timedelta(minutes=5)
        leaf.verify_directly_issued_by(ca.issuer.certificate)
        access = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
        assert {item.access_location.value for item in access} == {ca.issuer.ocsp_url, ca.issuer.issuer_url}
        (point,) = leaf.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        assert [name.value for name in point.full_name or ()] == [ca.issuer.crl_url]

    async def test_serials(self, client: AcmeClient) -> None:
        """RULES §4: "Serial: ≥ 128 random bits, positive, ≤ 20 octets, unique in the database"."""
        serials = [(await client.issue("s.localhost")).serial for _ in range(4)]
        assert len(set(serials)) == 4
        assert all(1 << 128 <= serial < 1 << 160 for serial in serials)


class TestSection742:
    async def test_the_chain(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.4.2: "The default format of the certificate is application/pem-certificate-chain (see Section 9)." §9.1: "The
        textual encoding of certificates in this file MUST use the strict encoding and MUST NOT include explanatory text." "the
        first certificate MUST be an end-entity certificate. Each following certificate SHOULD directly certify the one
        preceding it."
        """
        issued = await client.issue("chain.localhost")
        answer = (await client.post(issued.order.certificate)).ok()
        assert answer.content_type == "application/pem-certificate-chain"
        leaf, intermediate = x509.load_pem_x509_certificates(answer.body)
        leaf.verify_directly_issued_by(intermediate)
        intermediate.verify_directly_issued_by(ca.root.certificate)
        assert answer.body.count(b"-----BEGIN CERTIFICATE-----") == 2
        # RFC 7468 §2: no text before the first boundary, lines of 64 characters
        assert answer.body.startswith(b"-----BEGIN CERTIFICATE-----\n")
        assert max(map(len, answer.body.splitlines())) == 64

    async def test_another_format(self, client: AcmeClient) -> None:
        """§7.4.2: "Clients MAY include an Accept header field"; we have one format, and RFC 9110 §12.4.1 lets us send it."""
        issued = await client.issue("accept.localhost")
        body = await client.sign(issued.order.certificate)
        answer = await client.send(issued.order.certificate, body, headers={"Accept": "application/pkix-cert"})
        assert answer.ok().content_type == "application/pem-certificate-chain"

    async def test_for_its_account_only(self, ca: RunningCa, client: AcmeClient) -> None:
        """RULES §2: for another account the certificate is not there."""
        issued = await (await ca.client()).issue("mine.localhost")
        missing = ca.urls.certificate("AAAAAAAAAAAAAAAAAAAAAA")
        assert_alike(await client.post(issued.order.certificate), await client.post(missing))

    async def test_it_does_not_change(self, client: AcmeClient) -> None:
        """§7.4.2: "A certificate resource represents a single, immutable certificate." Also after its revocation."""
        issued = await client.issue("same.localhost")
        before = (await client.post(issued.order.certificate)).ok().body
        (await client.revoke(issued.der)).ok()
        assert (await client.post(issued.order.certificate)).ok().body == before
