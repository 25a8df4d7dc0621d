"""The Online Certificate Status Protocol: what services import (RFC 6960, RFC 9919, RFC 9654).

Requests are read in `ocsp_request`, answers are signed in `ocsp_response` by an `ocsp_responder`; each has its rules.
"""

from acmeca.pki.ocsp_request import (
    MAX_CERT_IDS,
    MAX_REQUEST_BYTES,
    AnyCertId,
    CertId,
    HashAlgorithm,
    MalformedRequestError,
    OcspRequest,
    UnsupportedCertId,
    build_cert_id,
    issuer_hashes,
    parse_request,
)
from acmeca.pki.ocsp_responder import Responder, ResponderError, check_responder
from acmeca.pki.ocsp_response import (
    UNSUCCESSFUL,
    AnswerError,
    CertStatus,
    Good,
    ResponseStatus,
    Revoked,
    SingleAnswer,
    Unknown,
    sign_response,
)

__all__ = [
    "MAX_CERT_IDS",
    "MAX_REQUEST_BYTES",
    "UNSUCCESSFUL",
    "AnswerError",
    "AnyCertId",
    "CertId",
    "CertStatus",
    "Good",
    "HashAlgorithm",
    "MalformedRequestError",
    "OcspRequest",
    "Responder",
    "ResponderError",
    "ResponseStatus",
    "Revoked",
    "SingleAnswer",
    "Unknown",
    "UnsupportedCertId",
    "build_cert_id",
    "check_responder",
    "issuer_hashes",
    "parse_request",
    "sign_response",
]
