"""RFC 9654, the nonce extension of OCSP (it replaced RFC 8954 and §4.4.1 of RFC 6960)."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.pki import der
from acmeca.pki.ocsp_request import MalformedRequestError, parse_request
from acmeca.pki.ocsp_responder import Responder
from acmeca.pki.ocsp_response import AnswerError, Good, SingleAnswer, sign_response
from tests.support import ocsp_requests as requests
from tests.support.status_issuers import NOW, make_key, make_responder_certificate, shared_issuer


@pytest.fixture(scope="module")
def responder() -> Responder:
    key = make_key()
    return Responder(shared_issuer().issuer, make_responder_certificate(shared_issuer(), key), key)


def with_extensions(*extensions: bytes) -> bytes:
    return requests.simple(shared_issuer().certificate, 7, extensions=extensions)


def respond(responder: Responder, nonce: bytes | None) -> bytes:
    (cert_id,) = parse_request(with_extensions(requests.nonce(b"n"))).cert_ids
    answer = SingleAnswer(cert_id, Good(), NOW, NOW + timedelta(hours=1))
    return sign_response(responder=responder, answers=[answer], produced_at=NOW, nonce=nonce)


@pytest.mark.parametrize("length", [1, 15, 16, 31, 32, 33, 127, 128])
def test_2_1_lengths_that_are_accepted(responder: Responder, length: int) -> None:
    """§2.1: "If the Nonce extension is present, then the length of the nonce MUST be at least 1 octet and can be up to 128
    octets".
    """
    nonce = bytes(range(length))
    assert parse_request(with_extensions(requests.nonce(nonce))).nonce == nonce
    response = ocsp.load_der_ocsp_response(respond(responder, nonce))
    assert response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == nonce


@pytest.mark.parametrize("length", [0, 129, 130, 1000])
def test_2_1_lengths_that_are_rejected(responder: Responder, length: int) -> None:
    """§2.1: a server "MUST reject any OCSP request having a nonce in the Nonce extension with a length of either 0 octets or
    more than 128 octets with the malformedRequest OCSPResponseStatus".
    """
    with pytest.raises(MalformedRequestError, match=f"a nonce of {length} octets"):
        parse_request(with_extensions(requests.nonce(bytes(length))))
    with pytest.raises(AnswerError, match="nonce"):
        respond(responder, bytes(length))


@pytest.mark.parametrize(
    "value",
    [b"", b"sixteen raw octets"[:16], b"\x04", b"\x04\x02a", b"\x04\x01ab", der.integer(1), der.octet_string(b"a") * 2],
)
def test_2_1_encoding(value: bytes) -> None:
    """§2.1: "Nonce ::= OCTET STRING(SIZE(1..128))", so extnValue holds the encoding of an OCTET STRING and nothing else."""
    with pytest.raises(MalformedRequestError):
        parse_request(with_extensions(requests.extension(requests.NONCE, value)))


def test_2_1_a_critical_nonce_is_understood() -> None:
    """RFC 6960 §4.1.2: only critical extensions that are not understood stand in the way."""
    for critical in (None, False, True):
        assert parse_request(with_extensions(requests.nonce(b"abc", critical=critical))).nonce == b"abc"


def test_2_1_one_nonce_among_other_extensions() -> None:
    """§2.1: the nonce "is included as one of the requestExtensions"."""
    other = requests.extension(requests.UNHEARD_OF, b"")
    for extensions in ([requests.nonce(b"abc"), other], [other, requests.nonce(b"abc")]):
        assert parse_request(with_extensions(*extensions)).nonce == b"abc"
    assert parse_request(with_extensions(other)).nonce is None


def test_2_1_no_nonce_unasked(responder: Responder) -> None:
    """RFC 9919 §3.2.1: the responder "SHOULD NOT include responseExtensions"; so only a nonce that was asked for."""
    assert list(ocsp.load_der_ocsp_response(respond(responder, None)).extensions) == []


@given(st.binary(min_size=1, max_size=128))
@settings(max_examples=50, deadline=None)
def test_2_1_another_implementation_agrees(nonce: bytes) -> None:
    """§2.1, as `cryptography` encodes it."""
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(b"n" * 20, b"k" * 20, 5, hashes.SHA1())
    built = builder.add_extension(x509.OCSPNonce(nonce), critical=False).build()
    assert parse_request(built.public_bytes(serialization.Encoding.DER)).nonce == nonce
