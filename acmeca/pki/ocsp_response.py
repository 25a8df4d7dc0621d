"""OCSP responses, signed by a delegated responder (RFC 6960 §4.2, in the profile of RFC 9919 §3.2).

Rule 1: what must not be signed cannot be: an answer that would be good or revoked for another issuer's certificate, that
would outlive the responder's certificate, or whose times contradict each other raises before the key is used.
Rule 2: the answer repeats each CertID byte for byte and the nonce octet for octet.

The responder is named by its key (RFC 9919 §3.2.2: responders "MUST use the byKey field"), and its certificate is always
embedded, without which GnuTLS and Java cannot find the key. A signature is not verified again after it is made: the
answer is public and short-lived, a wrong one fails at every verifier, and the check would cost three times the signature.
That the key is the certificate's has been proven when the `Responder` was made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias

from acmeca.pki import der, signing
from acmeca.pki.crl import encode_reason
from acmeca.pki.errors import PkiError
from acmeca.pki.ocsp_request import MAX_NONCE_OCTETS, NONCE_OID_DER, AnyCertId, CertId
from acmeca.pki.ocsp_responder import Responder

_BASIC: Final = der.oid("1.3.6.1.5.5.7.48.1.1")  # id-pkix-ocsp-basic
_SUCCESSFUL: Final = der.enumerated(0)
_ONE_SECOND: Final = timedelta(seconds=1)


class AnswerError(PkiError):
    """An answer that must not be signed. The caller made a mistake; the client gets `internalError`."""


class ResponseStatus(StrEnum):
    """The unsuccessful outcomes we answer with (§2.3); sigRequired is not among them, as no signature is asked for."""

    MALFORMED_REQUEST = "malformedRequest"
    INTERNAL_ERROR = "internalError"
    TRY_LATER = "tryLater"
    UNAUTHORIZED = "unauthorized"


# §4.2.1: OCSPResponse ::= SEQUENCE { responseStatus }; without responseBytes, and so without a signature.
UNSUCCESSFUL: Final[Mapping[ResponseStatus, bytes]] = MappingProxyType(
    {
        ResponseStatus.MALFORMED_REQUEST: der.sequence(der.enumerated(1)),
        ResponseStatus.INTERNAL_ERROR: der.sequence(der.enumerated(2)),
        ResponseStatus.TRY_LATER: der.sequence(der.enumerated(3)),
        ResponseStatus.UNAUTHORIZED: der.sequence(der.enumerated(6)),
    }
)


@dataclass(frozen=True, slots=True)
class Good:
    """Issued by us, and not revoked."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """Revoked at `at`, for `reason` (RFC 5280 §5.3.1), which is left out of the answer when it is None or 0."""

    at: datetime
    reason: int | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """No certificate that we have recorded and signed."""


CertStatus: TypeAlias = Good | Revoked | Unknown


@dataclass(frozen=True, slots=True)
class SingleAnswer:
    """What is said about one certificate, known to be right at `this_update`, to be asked again by `next_update`."""

    cert_id: AnyCertId
    status: CertStatus
    this_update: datetime
    next_update: datetime


def sign_response(
    *, responder: Responder, answers: Sequence[SingleAnswer], produced_at: datetime, nonce: bytes | None
) -> bytes:
    """A successful OCSPResponse (§4.2.1), DER, with the answers in the order given.

    Times are cut to whole seconds (RFC 9919 §3.2.4 allows no fractions). Raises `AnswerError` for what must not be signed:

    1. no answers at all, or a nonce that is not of 1 to 128 octets;
    2. `produced_at` before the responder's certificate is valid, or an answer's `this_update` that differs from it (so that
       both readings of Last-Modified agree);
    3. a `next_update` less than a second after `this_update`, or after the responder's certificate has expired;
    4. good or revoked for a CertID that does not name a certificate of the responder's issuer.
    """
    # Step 1.
    if not answers:
        raise AnswerError("a response needs at least one answer")
    if nonce is not None and not 1 <= len(nonce) <= MAX_NONCE_OCTETS:
        raise AnswerError(f"a nonce of {len(nonce)} octets; 1 to {MAX_NONCE_OCTETS} are echoed")
    # Step 2.
    if produced_at < responder.not_before:
        raise AnswerError(f"produced at {produced_at}, before the responder's certificate ({responder.not_before})")
    for answer in answers:
        _check_answer(answer, responder, produced_at)

    tbs = der.sequence(
        responder.responder_id_der,
        der.generalized_time(produced_at),
        der.sequence(*map(_encode_answer, answers)),
        b"" if nonce is None else _encode_nonce(nonce),
    )
    basic = der.sequence(
        tbs,
        responder.signature_algorithm_der,
        der.bit_string(signing.sign_with(responder.key, tbs)),
        responder.certificates_der,
    )
    return der.sequence(_SUCCESSFUL, der.encode(der.explicit(0), der.sequence(_BASIC, der.octet_string(basic))))


def _check_answer(answer: SingleAnswer, responder: Responder, produced_at: datetime) -> None:
    # Step 2.
    if answer.this_update != produced_at:
        raise AnswerError(f"thisUpdate {answer.this_update} differs from producedAt {produced_at}")
    # Step 3.
    if answer.next_update - answer.this_update < _ONE_SECOND or answer.next_update > responder.not_after:
        raise AnswerError(
            f"nextUpdate {answer.next_update} is not after thisUpdate {answer.this_update} "
            f"and by the end of the responder's certificate ({responder.not_after})"
        )
    # Step 4.
    if not isinstance(answer.status, Unknown) and not (
        isinstance(answer.cert_id, CertId) and answer.cert_id.matches(responder.issuer)
    ):
        raise AnswerError(f"a CertID that names no certificate of {responder.issuer.id} can only be unknown")


def _encode_answer(answer: SingleAnswer) -> bytes:
    """SingleResponse ::= SEQUENCE { certID, certStatus, thisUpdate, nextUpdate [0] EXPLICIT }."""
    return der.sequence(
        answer.cert_id.encoding,
        _encode_status(answer.status),
        der.generalized_time(answer.this_update),
        der.encode(der.explicit(0), der.generalized_time(answer.next_update)),
    )


def _encode_status(status: CertStatus) -> bytes:
    """CertStatus ::= CHOICE { good [0] IMPLICIT NULL, revoked [1] IMPLICIT RevokedInfo, unknown [2] IMPLICIT NULL }."""
    match status:
        case Good():
            return b"\x80\x00"
        case Unknown():
            return b"\x82\x00"
        case Revoked(at, reason):
            reason_der = encode_reason(reason)
            # RevokedInfo ::= SEQUENCE { revocationTime, revocationReason [0] EXPLICIT CRLReason OPTIONAL }
            reason_field = der.encode(der.explicit(0), reason_der) if reason_der else b""
            return der.encode(der.explicit(1), der.generalized_time(at), reason_field)


def _encode_nonce(nonce: bytes) -> bytes:
    """The responseExtensions field with the nonce alone (RFC 9654 §2.1: an OCTET STRING inside extnValue)."""
    extension = der.sequence(NONCE_OID_DER, der.octet_string(der.octet_string(nonce)))
    return der.encode(der.explicit(1), der.sequence(extension))
