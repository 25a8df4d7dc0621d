"""RFC 6960, the Online Certificate Status Protocol: what a responder must do with messages (§2, §4).

The profile of RFC 9919 (which replaced 5019) is at the end. `cryptography` reads what we write, unless the test says so.
"""

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose

from acmeca.pki import der
from acmeca.pki.ocsp_request import CertId, MalformedRequestError, UnsupportedCertId, parse_request
from acmeca.pki.ocsp_responder import Responder, ResponderError, check_responder
from acmeca.pki.ocsp_response import (
    UNSUCCESSFUL,
    CertStatus,
    Good,
    ResponseStatus,
    Revoked,
    SingleAnswer,
    Unknown,
    sign_response,
)
from tests.support import ocsp_requests as requests
from tests.support.status_issuers import (
    CRL_POINTS,
    KEY_KINDS,
    NOW,
    OCSP_ACCESS,
    key_usage,
    make_issuer,
    make_key,
    make_responder_certificate,
    shared_issuer,
)

SERIAL = 0x7F00000000000000000000000000000000000001
NEXT_UPDATE = NOW + timedelta(hours=12)


@pytest.fixture(scope="module")
def responder() -> Responder:
    key = make_key()
    return Responder(shared_issuer().issuer, make_responder_certificate(shared_issuer(), key), key)


def respond(
    responder: Responder, request_der: bytes, status: CertStatus, *, next_update: datetime = NEXT_UPDATE
) -> bytes:
    request = parse_request(request_der)
    answers = [SingleAnswer(cert_id, status, NOW, next_update) for cert_id in request.cert_ids]
    return sign_response(responder=responder, answers=answers, produced_at=NOW, nonce=request.nonce)


def simple(serial: int = SERIAL, hash_name: str = "sha1") -> bytes:
    return requests.simple(shared_issuer().certificate, serial, hash_name)


REASONS = {
    1: x509.ReasonFlags.key_compromise,
    2: x509.ReasonFlags.ca_compromise,
    3: x509.ReasonFlags.affiliation_changed,
    4: x509.ReasonFlags.superseded,
    5: x509.ReasonFlags.cessation_of_operation,
    9: x509.ReasonFlags.privilege_withdrawn,
    10: x509.ReasonFlags.aa_compromise,
}


# --- §4.1 requests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hash_name", requests.KNOWN_HASHES)
@pytest.mark.parametrize("kind", ["P-256", "RSA", "Ed25519"])
def test_4_1_1_hashes(hash_name: str, kind: str) -> None:
    """§4.1.1: issuerNameHash "shall be calculated over the DER encoding of the issuer's name field in the certificate
    being checked", issuerKeyHash "over the value (excluding tag and length) of the subject public key field in the
    issuer's certificate".
    """
    issuer = shared_issuer(kind)
    (cert_id,) = parse_request(requests.simple(issuer.certificate, SERIAL, hash_name)).cert_ids
    assert isinstance(cert_id, CertId)
    assert cert_id.hash_algorithm.hashlib_name == hash_name
    assert cert_id.serial == SERIAL
    assert cert_id.matches(issuer.issuer)
    assert not cert_id.matches(shared_issuer("P-384").issuer)


@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_4_1_1_requests_of_another_implementation(algorithm: hashes.HashAlgorithm) -> None:
    """§4.1.1, as `cryptography` builds it."""
    issuer = shared_issuer()
    leaf = x509.load_der_x509_certificate(issuer.make_leaf(SERIAL))
    built = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer.certificate, algorithm).build()
    request = parse_request(built.public_bytes(serialization.Encoding.DER))
    (cert_id,) = request.cert_ids
    assert isinstance(cert_id, CertId)
    assert cert_id.matches(issuer.issuer)
    assert (cert_id.serial, request.nonce) == (SERIAL, None)


def test_4_1_1_hash_of_the_name_is_not_enough() -> None:
    """§4.1.1: "the primary reason to use the hash of the CA's public key in addition to the hash of the CA's name to
    identify the issuer is that it is possible that two CAs may choose to use the same Name".
    """
    first, second = make_issuer(common_name="Twin"), make_issuer(common_name="Twin")
    (cert_id,) = parse_request(requests.simple(first.certificate, SERIAL)).cert_ids
    assert isinstance(cert_id, CertId)
    assert cert_id.matches(first.issuer)
    assert not cert_id.matches(second.issuer)


def test_4_1_1_hash_of_the_key_is_not_enough() -> None:
    """§4.1.1, the other way: one key under two names is two issuers."""
    first = make_issuer(common_name="First")
    second = make_issuer(common_name="Second", key=first.key)
    (cert_id,) = parse_request(requests.simple(first.certificate, SERIAL)).cert_ids
    assert isinstance(cert_id, CertId)
    assert not cert_id.matches(second.issuer)


def test_4_1_1_version() -> None:
    """§4.1.1: "version indicates the version of the protocol, which for this document is v1(0)"."""
    issuer = shared_issuer().certificate
    for version, accepted in ((0, True), (1, False), (2, False), (-1, False)):
        field = der.encode(der.explicit(0), der.integer(version))
        request_der = requests.simple(issuer, SERIAL, version=field)
        if accepted:
            assert parse_request(request_der).cert_ids == parse_request(simple()).cert_ids
        else:
            with pytest.raises(MalformedRequestError, match="version"):
                parse_request(request_der)


@pytest.mark.parametrize(
    "name",
    [
        der.encode(0xA4, der.sequence()),  # directoryName
        der.encode(0x82, b"client.test"),
        der.encode(0x86, b"urn:client"),
        der.encode(0xA0, der.oid(requests.UNHEARD_OF), der.encode(0xA0, der.null())),  # otherName
    ],
)
def test_4_1_1_requestor_name(name: bytes) -> None:
    """§4.1.1: "requestorName is OPTIONAL and indicates the name of the OCSP requestor"; RFC 9919 §3.1.2: responders "MUST
    handle unsigned OCSP requests that contain the requestorName field, as if the requestorName field were absent".
    """
    request_der = requests.simple(shared_issuer().certificate, SERIAL, requestor_name=name)
    assert parse_request(request_der) == parse_request(simple())


@pytest.mark.parametrize(
    "name", [b"", der.integer(1), der.encode(0x84, b"x"), der.encode(0x82, b"a") * 2, b"\x82\x05a"]
)
def test_4_1_1_requestor_name_is_a_general_name(name: bytes) -> None:
    """§4.1.1: requestorName [1] EXPLICIT GeneralName."""
    with pytest.raises(MalformedRequestError):
        parse_request(requests.simple(shared_issuer().certificate, SERIAL, requestor_name=name))


@pytest.mark.parametrize("certificates", [(), (der.sequence(),), (der.sequence(), der.sequence())])
def test_4_1_2_signed_request(certificates: tuple[bytes, ...]) -> None:
    """§4.1.2: "The requestor MAY choose to sign the OCSP request"; RFC 9919 §3.1.2: "Responders MAY ignore the signature"."""
    signature = requests.signature(certificates=certificates)
    request_der = requests.simple(shared_issuer().certificate, SERIAL, signature=signature)
    assert parse_request(request_der) == parse_request(simple())


@pytest.mark.parametrize(
    "signature",
    [
        der.encode(der.explicit(0)),
        der.encode(der.explicit(0), der.sequence()),
        der.encode(der.explicit(0), der.sequence(der.sequence())),
        der.encode(der.explicit(0), der.sequence(der.sequence(), der.bit_string(b""), der.null())),
        der.encode(der.explicit(0), der.sequence(der.sequence(), der.bit_string(b"")), der.null()),
        der.encode(der.explicit(0), der.sequence(der.sequence(), der.bit_string(b""), der.encode(0xA0, der.integer(1)))),
        der.encode(der.explicit(0), der.sequence(der.sequence(), der.bit_string(b""), der.encode(0xA0, der.sequence(der.null())))),
        der.encode(der.explicit(1), der.sequence(der.sequence(), der.bit_string(b""))),
    ],
)  # fmt: skip
def test_4_1_2_a_signature_is_well_formed(signature: bytes) -> None:
    """§4.1.1: Signature ::= SEQUENCE { signatureAlgorithm, signature, certs [0] EXPLICIT SEQUENCE OF Certificate OPTIONAL }."""
    with pytest.raises(MalformedRequestError):
        parse_request(requests.simple(shared_issuer().certificate, SERIAL, signature=signature))


def test_4_1_2_unrecognized_extensions() -> None:
    """§4.1.2: "Unrecognized extensions MUST be ignored (unless they have the critical flag set and are not understood)"."""
    issuer = shared_issuer().certificate
    for oid in (requests.UNHEARD_OF, requests.SERVICE_LOCATOR, "1.3.6.1.5.5.7.48.1.8"):
        for critical in (None, False):
            extension = requests.extension(oid, b"\x05\x00", critical=critical)
            assert parse_request(requests.simple(issuer, SERIAL, extensions=[extension])) == parse_request(simple())
        with pytest.raises(MalformedRequestError, match="critical"):
            parse_request(
                requests.simple(issuer, SERIAL, extensions=[requests.extension(oid, b"\x05\x00", critical=True)])
            )


def test_4_1_2_unrecognized_extensions_of_a_single_request() -> None:
    """§4.1.2, for singleRequestExtensions, where a nonce means nothing either."""
    cert_id = requests.cert_id(shared_issuer().certificate, SERIAL)
    for oid in (requests.UNHEARD_OF, requests.SERVICE_LOCATOR, requests.NONCE):
        ignored = requests.extension(oid, b"\x05\x00")
        assert parse_request(requests.request(requests.single(cert_id, extensions=[ignored]))) == parse_request(
            simple()
        )
        refused = requests.extension(oid, b"\x05\x00", critical=True)
        with pytest.raises(MalformedRequestError, match="critical"):
            parse_request(requests.request(requests.single(cert_id, extensions=[refused])))


def test_4_4_3_acceptable_responses() -> None:
    """§4.4.3: AcceptableResponses ::= SEQUENCE OF OBJECT IDENTIFIER, which we understand and so may be critical."""
    issuer = shared_issuer().certificate
    for types in ((), ("1.3.6.1.5.5.7.48.1.1",), ("1.3.6.1.5.5.7.48.1.1", requests.UNHEARD_OF)):
        for critical in (None, True):
            value = der.sequence(*map(der.oid, types))
            extension = requests.extension(requests.ACCEPTABLE_RESPONSES, value, critical=critical)
            assert parse_request(requests.simple(issuer, SERIAL, extensions=[extension])) == parse_request(simple())
    for value in (b"", der.null(), der.sequence(der.null()), der.sequence() + der.null()):
        extension = requests.extension(requests.ACCEPTABLE_RESPONSES, value)
        with pytest.raises(MalformedRequestError):
            parse_request(requests.simple(issuer, SERIAL, extensions=[extension]))


@pytest.mark.parametrize(
    ("name", "extensions"),
    [
        ("no extension in the list", []),
        ("not an extension", [der.null()]),
        ("no value", [der.sequence(der.oid(requests.UNHEARD_OF))]),
        ("a boolean that is neither", [der.sequence(der.oid(requests.UNHEARD_OF), b"\x01\x01\x01", der.octet_string(b""))]),
        ("something after the value", [der.sequence(der.oid(requests.UNHEARD_OF), der.octet_string(b""), der.null())]),
        ("an identifier that is none", [der.sequence(b"\x06\x01\x80", der.octet_string(b""))]),
        ("two of a kind", [requests.extension(requests.UNHEARD_OF, b"a"), requests.extension(requests.UNHEARD_OF, b"b")]),
        ("two nonces", [requests.nonce(b"a" * 16), requests.nonce(b"a" * 16)]),
    ],
)  # fmt: skip
def test_4_1_1_extensions_are_well_formed(name: str, extensions: list[bytes]) -> None:
    """§4.1.1: Extensions as in RFC 5280 §4.1.2.9 (`SIZE (1..MAX)`), at most one of a kind (§4.2)."""
    issuer = shared_issuer().certificate
    with pytest.raises(MalformedRequestError):
        parse_request(requests.simple(issuer, SERIAL, extensions=extensions))
    with pytest.raises(MalformedRequestError):
        parse_request(
            requests.request(requests.single(requests.cert_id(issuer, SERIAL), extensions=extensions)),
        )


def test_4_1_1_hash_parameters() -> None:
    """RFC 4055 §2.1: of SHA algorithms implementations "MUST accept" parameters "that are NULL and … absent"."""
    issuer = shared_issuer().certificate
    for hash_name in requests.KNOWN_HASHES:
        for parameters in (der.null(), b""):
            encoding = requests.cert_id(issuer, SERIAL, hash_name, parameters=parameters)
            (cert_id,) = parse_request(requests.request(requests.single(encoding))).cert_ids
            assert isinstance(cert_id, CertId)
            assert cert_id.encoding == encoding
        for parameters in (der.integer(1), der.sequence(), der.null() * 2, b"\x05\x01\x00"):
            encoding = requests.cert_id(issuer, SERIAL, hash_name, parameters=parameters)
            with pytest.raises(MalformedRequestError):
                parse_request(requests.request(requests.single(encoding)))


@pytest.mark.parametrize("hash_name", ["md5", "sha224"])
def test_2_3_hash_that_we_do_not_compute(hash_name: str) -> None:
    """§2.3: malformedRequest is for what "does not conform to the OCSP syntax". A CertID by MD5 does, so it is carried
    through; who answers says `unauthorized`, or unknown among others.
    """
    encoding = requests.cert_id(shared_issuer().certificate, SERIAL, hash_name)
    (cert_id,) = parse_request(requests.request(requests.single(encoding))).cert_ids
    assert isinstance(cert_id, UnsupportedCertId)
    assert cert_id.encoding == encoding


def test_4_1_1_several_certificates() -> None:
    """§4.1.1: requestList is a SEQUENCE OF Request; each keeps its place and its hash."""
    issuer = shared_issuer().certificate
    encodings = [requests.cert_id(issuer, serial, name) for serial, name in enumerate(requests.KNOWN_HASHES, 1)]
    encodings.insert(2, requests.cert_id(issuer, 9, "md5"))
    request = parse_request(requests.request(*map(requests.single, encodings)))
    assert [cert_id.encoding for cert_id in request.cert_ids] == encodings


# --- §2.3 and §4.2 responses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "value"),
    [
        (ResponseStatus.MALFORMED_REQUEST, 1),
        (ResponseStatus.INTERNAL_ERROR, 2),
        (ResponseStatus.TRY_LATER, 3),
        (ResponseStatus.UNAUTHORIZED, 6),
    ],
)
def test_4_2_1_unsuccessful(status: ResponseStatus, value: int) -> None:
    """§4.2.1: "If the value of responseStatus is one of the error conditions, the responseBytes field is not set"."""
    assert UNSUCCESSFUL[status] == bytes((0x30, 3, 0x0A, 1, value))
    assert ocsp.load_der_ocsp_response(UNSUCCESSFUL[status]).response_status.value == value


@pytest.mark.parametrize("hash_name", requests.KNOWN_HASHES)
def test_2_2_good(responder: Responder, hash_name: str) -> None:
    """§2.2, §4.2.1: a definitive answer is about the certificate that was asked for, with its CertID."""
    request_der = simple(hash_name=hash_name)
    response = ocsp.load_der_ocsp_response(respond(responder, request_der, Good()))
    assert response.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
    assert response.certificate_status is ocsp.OCSPCertStatus.GOOD
    asked = ocsp.load_der_ocsp_request(request_der)
    assert response.serial_number == asked.serial_number == SERIAL
    assert response.issuer_name_hash == asked.issuer_name_hash
    assert response.issuer_key_hash == asked.issuer_key_hash
    assert response.hash_algorithm.name == hash_name
    assert (response.this_update_utc, response.next_update_utc, response.produced_at_utc) == (NOW, NEXT_UPDATE, NOW)
    assert list(response.extensions) == []
    assert list(response.single_extensions) == []


def test_2_2_unknown(responder: Responder) -> None:
    """§2.2: "unknown" says that the responder does not know the certificate."""
    response = ocsp.load_der_ocsp_response(respond(responder, simple(), Unknown()))
    assert response.certificate_status is ocsp.OCSPCertStatus.UNKNOWN
    assert response.revocation_time_utc is None


@pytest.mark.parametrize("reason", REASONS)
def test_4_2_1_revoked_with_reason(responder: Responder, reason: int) -> None:
    """§4.2.1: RevokedInfo ::= SEQUENCE { revocationTime, revocationReason [0] EXPLICIT CRLReason OPTIONAL }."""
    revoked_at = NOW - timedelta(days=3, seconds=5)
    response = ocsp.load_der_ocsp_response(respond(responder, simple(), Revoked(revoked_at, reason)))
    assert response.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert response.revocation_time_utc == revoked_at
    assert response.revocation_reason is REASONS[reason]


@pytest.mark.parametrize("reason", [None, 0])
def test_4_2_1_revoked_without_reason(responder: Responder, reason: int | None) -> None:
    """RFC 5280 §5.3.1: the reason code "SHOULD be absent instead of using the unspecified (0) reasonCode value"."""
    response = ocsp.load_der_ocsp_response(respond(responder, simple(), Revoked(NOW, reason)))
    assert response.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert response.revocation_reason is None


def test_4_2_1_answers_keep_their_order(responder: Responder) -> None:
    """§4.2.1: a SingleResponse for each certificate in a request."""
    issuer = shared_issuer().certificate
    encodings = [requests.cert_id(issuer, serial, name) for serial, name in enumerate(requests.KNOWN_HASHES, 1)]
    unsupported = requests.cert_id(issuer, 5, "md5")
    request = parse_request(requests.request(*map(requests.single, [*encodings, unsupported])))
    statuses = [Good(), Revoked(NOW, 1), Unknown(), Good(), Unknown()]
    answers = [
        SingleAnswer(cert_id, status, NOW, NEXT_UPDATE)
        for cert_id, status in zip(request.cert_ids, statuses, strict=True)
    ]
    response_der = sign_response(responder=responder, answers=answers, produced_at=NOW, nonce=None)
    assert [encoding in response_der for encoding in [*encodings, unsupported]] == [True] * 5
    singles = list(ocsp.load_der_ocsp_response(response_der).responses)
    assert [each.serial_number for each in singles] == [1, 2, 3, 4, 5]
    assert [each.certificate_status.name for each in singles] == ["GOOD", "REVOKED", "UNKNOWN", "GOOD", "UNKNOWN"]


@pytest.mark.parametrize("parameters", [der.null(), b""])
def test_3_2_cert_id_is_echoed_byte_for_byte(responder: Responder, parameters: bytes) -> None:
    """§3.2: "The certificate identified in a received response corresponds to the certificate that was identified in the
    corresponding request"; clients compare the encoding, parameters included.
    """
    encoding = requests.cert_id(shared_issuer().certificate, SERIAL, "sha256", parameters=parameters)
    response_der = respond(responder, requests.request(requests.single(encoding)), Good())
    assert response_der.count(encoding) == 1


@pytest.mark.parametrize("issuer_kind", ["P-256", "RSA"])
@pytest.mark.parametrize("kind", KEY_KINDS)
def test_4_2_1_signature(kind: str, issuer_kind: str) -> None:
    """§4.2.1: "The value for signature SHALL be computed on the hash of the DER encoding of ResponseData"."""
    issuer = shared_issuer(issuer_kind)
    key = make_key(kind)
    responder = Responder(issuer.issuer, make_responder_certificate(issuer, key), key)
    response_der = respond(responder, requests.simple(issuer.certificate, SERIAL), Good())
    response = ocsp.load_der_ocsp_response(response_der)
    (certificate,) = response.certificates
    public_key = certificate.public_key()
    match kind:
        case "RSA":
            public_key.verify(
                response.signature, response.tbs_response_bytes, padding.PKCS1v15(), response.signature_hash_algorithm
            )
        case "Ed25519":
            public_key.verify(response.signature, response.tbs_response_bytes)
        case _:
            public_key.verify(
                response.signature, response.tbs_response_bytes, ec.ECDSA(response.signature_hash_algorithm)
            )


# --- §4.2.2.2 authorized responders ------------------------------------------------------------------------------------


def test_4_2_2_2_a_right_responder() -> None:
    """§4.2.2.2: the certificate is "issued directly by the CA that is identified in the request"."""
    for kind in KEY_KINDS:
        issuer = shared_issuer(kind)
        certificate = x509.load_der_x509_certificate(make_responder_certificate(issuer, make_key()))
        check_responder(certificate, issuer.issuer, NOW)


WRONG_RESPONDERS = {
    "no extended key usage": {"extended_key_usage": None},
    "another purpose": {"extended_key_usage": (x509.ExtendedKeyUsage([Purpose.SERVER_AUTH]), False)},
    "a further purpose": {
        "extended_key_usage": (x509.ExtendedKeyUsage([Purpose.OCSP_SIGNING, Purpose.SERVER_AUTH]), False)
    },
    "any purpose": {"extended_key_usage": (x509.ExtendedKeyUsage([Purpose.ANY_EXTENDED_KEY_USAGE]), False)},
    "no key usage": {"key_usage": None},
    "another key usage": {"key_usage": (key_usage("key_encipherment"), True)},
    "a further key usage": {"key_usage": (key_usage("digital_signature", "crl_sign"), True)},
    "a CA": {"basic_constraints": (x509.BasicConstraints(ca=True, path_length=None), True)},
    "no nocheck": {"no_check": None},
    "an OCSP URL": {"access": (OCSP_ACCESS, False)},
    "a CRL URL": {"points": (CRL_POINTS, False)},
    "an empty subject": {"subject": x509.Name([])},
}


@pytest.mark.parametrize("name", WRONG_RESPONDERS)
def test_4_2_2_2_wrong_certificates(name: str) -> None:
    """§4.2.2.2: delegation "SHALL be designated by the inclusion of id-kp-OCSPSigning"; and our profile (RULES §5)."""
    issuer, key = shared_issuer(), make_key()
    certificate_der = make_responder_certificate(issuer, key, **WRONG_RESPONDERS[name])  # type: ignore[arg-type]
    with pytest.raises(ResponderError):
        check_responder(x509.load_der_x509_certificate(certificate_der), issuer.issuer, NOW)
    with pytest.raises(ResponderError):
        Responder(issuer.issuer, certificate_der, key)


def test_4_2_2_2_responder_of_another_issuer() -> None:
    """§4.2.2.2: the issuer must be "the CA that issued the certificate in question"."""
    issuer, other, key = shared_issuer(), shared_issuer("P-384"), make_key()
    twin = make_issuer(common_name="Test CA P-256")
    for certificate_der in (
        make_responder_certificate(other, key),
        make_responder_certificate(other, key, issuer_name=issuer.certificate.subject),
        make_responder_certificate(twin, key),
        make_responder_certificate(issuer, key, signing_key=twin.key),
    ):
        with pytest.raises(ResponderError, match=r"not (issued|signed) by"):
            Responder(issuer.issuer, certificate_der, key)


def test_4_2_2_2_the_issuers_own_key_is_not_delegated() -> None:
    """RULES §5: answers are signed by a delegated key."""
    issuer = shared_issuer()
    with pytest.raises(ResponderError, match="issuer's own"):
        Responder(issuer.issuer, make_responder_certificate(issuer, issuer.key), issuer.key)


def test_4_2_2_2_validity() -> None:
    """RFC 5280 §4.1.2.5: the validity is "the period of time from notBefore through notAfter, inclusive"."""
    issuer = shared_issuer()
    start, end = NOW - timedelta(hours=1), NOW + timedelta(days=14)
    certificate = x509.load_der_x509_certificate(make_responder_certificate(issuer, make_key()))
    for now in (start, end):
        check_responder(certificate, issuer.issuer, now)
    for now in (start - timedelta(seconds=1), end + timedelta(seconds=1)):
        with pytest.raises(ResponderError, match="valid from"):
            check_responder(certificate, issuer.issuer, now)


# --- RFC 9919, the profile for high volume -----------------------------------------------------------------------------


def test_rfc9919_3_2_2_by_key(responder: Responder) -> None:
    """RFC 9919 §3.2.2: responders "MUST use the byKey field"; RFC 6960 §4.2.1: KeyHash is the "SHA-1 hash of responder's
    public key (excluding the tag and length fields)".
    """
    response = ocsp.load_der_ocsp_response(respond(responder, simple(), Good()))
    bits = responder.certificate.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    assert response.responder_name is None
    assert response.responder_key_hash == hashlib.sha1(bits).digest()


def test_rfc9919_3_2_2_certificate_is_embedded(responder: Responder) -> None:
    """RFC 9919 §3.2.2: for a delegate, "a valid responder certificate MUST be referenced in the BasicOCSPResponse.certs"."""
    response = ocsp.load_der_ocsp_response(respond(responder, simple(), Good()))
    assert [each.public_bytes(serialization.Encoding.DER) for each in response.certificates] == [
        responder.certificate_der
    ]


def test_rfc9919_3_2_4_times(responder: Responder) -> None:
    """RFC 9919 §3.2.4: GeneralizedTime "MUST include seconds", even zero, and "MUST NOT include fractional seconds"; nextUpdate
    "MUST be included".
    """
    produced_at = datetime(2026, 11, 1, 13, 0, 0, 900_000, tzinfo=UTC)
    (cert_id,) = parse_request(simple()).cert_ids
    answer = SingleAnswer(cert_id, Good(), produced_at, produced_at + timedelta(hours=1))
    response_der = sign_response(responder=responder, answers=[answer], produced_at=produced_at, nonce=None)
    assert response_der.count(b"\x18\x0f20261101130000Z") == 2
    assert response_der.count(b"\xa0\x11\x18\x0f20261101140000Z") == 1
