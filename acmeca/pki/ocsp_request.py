"""OCSP requests, read strictly (RFC 6960 §4.1; nonces by RFC 9654).

Rule 1: any bytes give an `OcspRequest` or a `MalformedRequestError`, in linear time; nothing else comes out.
Rule 2: whatever an answer echoes (CertIDs, the nonce) has been checked and bounded here first. CertIDs are kept byte for
byte as they were sent, because clients compare them with what they asked.
Rule 3: a request never changes what the answer says about a certificate, only which certificates it is about.

Where the standard leaves a choice:

- A signature on a request (§4.1.2) is read and not verified (RFC 9919 §3.1.2: "Responders MAY ignore the signature").
  Every requestor gets the same answers, so it has nothing to prove, and verifying it would spend our time on strangers'
  keys. `requestorName` is likewise read and ignored.
- An extension we do not know is ignored, or makes the request malformed when it is critical (§4.1.2: unrecognised
  extensions "MUST be ignored (unless they have the critical flag set and are not understood)"). No status fits better.
- A DEFAULT value that is spelt out (version v1, critical FALSE) is no DER and accepted all the same: it says nothing else
  than leaving it out, and no answer repeats it.
- A CertID with a hash we do not compute (MD5, SHA-224, …) or with a serial that RFC 5280 §4.1.2.2 forbids (negative, or
  more than 20 octets) is well-formed, but cannot be one of ours: it becomes an `UnsupportedCertId`. The verifier is
  served as for an unknown issuer, `unauthorized`, or `unknown` among others, rather than told that its syntax is wrong.
  Serial 0 is looked up like any other, and not found.
"""

import hashlib
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final, TypeAlias

from acmeca.pki import der
from acmeca.pki.errors import PkiError
from acmeca.pki.issuer import Issuer

MAX_REQUEST_BYTES: Final = 16 * 1024
MAX_CERT_IDS: Final = 64
MAX_CERT_ID_BYTES: Final = 256  # with SHA-512 and a serial of 20 octets it takes 171
MAX_SERIAL_OCTETS: Final = 20  # RFC 5280 §4.1.2.2
MAX_NONCE_OCTETS: Final = 128  # RFC 9654 §2.1

NONCE_OID_DER: Final = der.oid("1.3.6.1.5.5.7.48.1.2")  # id-pkix-ocsp-nonce
_NONCE: Final = NONCE_OID_DER[2:]
_ACCEPTABLE_RESPONSES: Final = der.oid("1.3.6.1.5.5.7.48.1.4")[2:]  # id-pkix-ocsp-response
# GeneralName (RFC 5280 §4.2.1.6): [0] otherName to [8] registeredID; constructed where the type below is.
_GENERAL_NAME_TAGS: Final = frozenset({0xA0, 0x81, 0x82, 0xA3, 0xA4, 0xA5, 0x86, 0x87, 0x88})


class MalformedRequestError(PkiError):
    """The bytes are no OCSP request that can be answered: `malformedRequest` (RFC 6960 §2.3)."""


class HashAlgorithm(Enum):
    """The hashes a CertID may be made with: SHA-1 and the SHA-2 family (RFC 6960 §4.3, RFC 9919 §3.1.1)."""

    SHA1 = ("1.3.14.3.2.26", "sha1", 20)
    SHA256 = ("2.16.840.1.101.3.4.2.1", "sha256", 32)
    SHA384 = ("2.16.840.1.101.3.4.2.2", "sha384", 48)
    SHA512 = ("2.16.840.1.101.3.4.2.3", "sha512", 64)

    def __init__(self, oid: str, hashlib_name: str, digest_size: int) -> None:
        self.oid = oid
        self.hashlib_name = hashlib_name
        self.digest_size = digest_size

    def digest(self, data: bytes) -> bytes:
        return hashlib.new(self.hashlib_name, data, usedforsecurity=False).digest()


# RFC 4055 §2.1: implementations "MUST accept" parameters that are NULL and parameters that are absent, as equals.
_ALGORITHMS: Final = {
    der.sequence(der.oid(algorithm.oid), parameters): algorithm
    for algorithm in HashAlgorithm
    for parameters in (b"", der.null())
}
_KNOWN_OIDS: Final = frozenset(der.oid(algorithm.oid)[2:] for algorithm in HashAlgorithm)


@dataclass(frozen=True, slots=True)
class CertId:
    """The name of one certificate: its issuer by two hashes, and its serial (§4.1.1).

    The hashes have the algorithm's length; 0 <= serial < 2**159 (20 octets). `encoding` is the CertID as it was sent.
    """

    hash_algorithm: HashAlgorithm
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial: int
    encoding: bytes

    def matches(self, issuer: Issuer) -> bool:
        """Whether this names a certificate of `issuer`: both hashes, because two issuers may share a name or a key."""
        return (self.issuer_name_hash, self.issuer_key_hash) == _issuer_hashes(
            issuer.subject_der, issuer.public_key_bits, self.hash_algorithm
        )


@dataclass(frozen=True, slots=True)
class UnsupportedCertId:
    """A well-formed CertID that cannot name a certificate of ours. `reason` says why, `encoding` is as it was sent."""

    reason: str
    encoding: bytes


AnyCertId: TypeAlias = CertId | UnsupportedCertId


@dataclass(frozen=True, slots=True)
class OcspRequest:
    """What a request asks: at least one CertID, in the order sent, and the nonce to echo (1 to 128 octets) or None."""

    cert_ids: tuple[AnyCertId, ...]
    nonce: bytes | None


def issuer_hashes(issuer: Issuer, algorithm: HashAlgorithm) -> tuple[bytes, bytes]:
    """The issuerNameHash and issuerKeyHash of CertIDs for certificates of `issuer` (§4.1.1)."""
    return _issuer_hashes(issuer.subject_der, issuer.public_key_bits, algorithm)


def build_cert_id(issuer: Issuer, serial: int, algorithm: HashAlgorithm = HashAlgorithm.SHA1) -> CertId:
    """The CertID of a certificate of `issuer`, with NULL hash parameters as nearly all clients send them.

    For answers that are signed before anybody has asked. Raises `ValueError` for a serial that no CertId may hold.
    """
    serial_der = der.integer(serial)
    if serial < 0 or len(serial_der) - 2 > MAX_SERIAL_OCTETS:
        raise ValueError(f"serial {serial:#x}: 0 to {MAX_SERIAL_OCTETS} octets are allowed")
    name_hash, key_hash = issuer_hashes(issuer, algorithm)
    encoding = der.sequence(
        der.sequence(der.oid(algorithm.oid), der.null()),
        der.octet_string(name_hash),
        der.octet_string(key_hash),
        serial_der,
    )
    return CertId(algorithm, name_hash, key_hash, serial, encoding)


def parse_request(request_der: bytes) -> OcspRequest:
    """Reads an OCSPRequest (§4.1.1). Raises `MalformedRequestError`, for any bytes, and nothing else.

    1. It is not larger than `MAX_REQUEST_BYTES`.
    2. It is one SEQUENCE of a TBSRequest and an optional signature, which is read and not verified.
    3. The version is v1, and a requestor's name is a GeneralName.
    4. It names 1 to `MAX_CERT_IDS` certificates; each CertID is checked before anything echoes it.
    5. Extensions occur once each, and none that we do not understand is critical.
    6. A nonce is an OCTET STRING of 1 to 128 octets (RFC 9654 §2.1).

    Whose certificates these are is the caller's question (`CertId.matches`).
    """
    # Step 1.
    if len(request_der) > MAX_REQUEST_BYTES:
        raise MalformedRequestError(f"a request of {len(request_der)} bytes; at most {MAX_REQUEST_BYTES} are read")
    try:
        return _parse_request(request_der)
    except der.DerError as error:
        raise MalformedRequestError(f"not an OCSP request: {error}") from None


def _parse_request(request_der: bytes) -> OcspRequest:
    # Step 2.
    reader = der.Reader(request_der)
    request = reader.read_sequence()
    reader.finish()
    tbs = request.read_sequence()
    signature = request.read_optional(der.explicit(0))
    request.finish()
    if signature is not None:
        _skim_signature(signature)

    # Step 3.
    version = tbs.read_optional(der.explicit(0))
    if version is not None:
        _check_version(version)
    requestor_name = tbs.read_optional(der.explicit(1))
    if requestor_name is not None:
        _skim_general_name(requestor_name)

    # Step 4.
    requests = tbs.read_sequence()
    cert_ids: list[AnyCertId] = []
    while requests.peek() is not None:
        if len(cert_ids) == MAX_CERT_IDS:
            raise MalformedRequestError(f"a request for more than {MAX_CERT_IDS} certificates")
        cert_ids.append(_parse_single(requests.read_sequence()))
    if not cert_ids:
        raise MalformedRequestError("a request for no certificate")

    # Steps 5 and 6.
    extensions = tbs.read_optional(der.explicit(2))
    tbs.finish()
    if extensions is None:
        return OcspRequest(tuple(cert_ids), None)
    return OcspRequest(tuple(cert_ids), _parse_request_extensions(extensions))


def _skim_signature(content: bytes) -> None:
    """Signature ::= SEQUENCE { signatureAlgorithm, signature BIT STRING, certs [0] EXPLICIT SEQUENCE OF OPTIONAL }."""
    outer = der.Reader(content)
    signature = outer.read_sequence()
    outer.finish()
    signature.read(der.SEQUENCE)
    signature.read(der.BIT_STRING)
    certificates = signature.read_optional(der.explicit(0))
    signature.finish()
    if certificates is not None:
        outer = der.Reader(certificates)
        each = outer.read_sequence()
        outer.finish()
        while each.peek() is not None:
            each.read(der.SEQUENCE)


def _check_version(content: bytes) -> None:
    reader = der.Reader(content)
    version = der.parse_integer(reader.read(der.INTEGER))
    reader.finish()
    if version != 0:
        raise MalformedRequestError("a request of another version than v1")


def _skim_general_name(content: bytes) -> None:
    reader = der.Reader(content)
    if reader.read_any().tag not in _GENERAL_NAME_TAGS:
        raise MalformedRequestError("the requestor's name is no GeneralName")
    reader.finish()


def _parse_single(request: der.Reader) -> AnyCertId:
    """Request ::= SEQUENCE { reqCert CertID, singleRequestExtensions [0] EXPLICIT Extensions OPTIONAL }."""
    element = request.read_any()
    if element.tag != der.SEQUENCE:
        raise MalformedRequestError(f"tag 0x{element.tag:02x} stands where a CertID is expected")
    if len(element.encoding) > MAX_CERT_ID_BYTES:
        raise MalformedRequestError(f"a CertID of {len(element.encoding)} bytes; at most {MAX_CERT_ID_BYTES} are read")
    cert_id = _parse_cert_id(element)
    extensions = request.read_optional(der.explicit(0))
    request.finish()
    if extensions is not None:
        # Nothing defined for a single request concerns us: serviceLocator (§4.4.6) asks to be routed elsewhere.
        _parse_extensions(extensions, understood=frozenset())
    return cert_id


def _parse_cert_id(element: der.Element) -> AnyCertId:
    """CertID ::= SEQUENCE { hashAlgorithm, issuerNameHash, issuerKeyHash OCTET STRING, serialNumber INTEGER }."""
    reader = der.Reader(element.content)
    algorithm_der = reader.read_any()
    name_hash = reader.read(der.OCTET_STRING)
    key_hash = reader.read(der.OCTET_STRING)
    serial_content = reader.read(der.INTEGER)
    reader.finish()
    serial = der.parse_integer(serial_content)

    algorithm = _ALGORITHMS.get(algorithm_der.encoding)
    if algorithm is None:
        _check_unknown_algorithm(algorithm_der)
        return UnsupportedCertId("its hash algorithm is not SHA-1, SHA-256, SHA-384 or SHA-512", element.encoding)
    if len(name_hash) != algorithm.digest_size or len(key_hash) != algorithm.digest_size:
        raise MalformedRequestError(f"a CertID whose hashes are not of {algorithm.digest_size} octets")
    # RFC 5280 §4.1.2.2: a serial "MUST be a positive integer", and CAs "MUST NOT use serialNumber values longer than
    # 20 octets"; but users "SHOULD be prepared to gracefully handle" certificates of CAs that do.
    if serial < 0 or len(serial_content) > MAX_SERIAL_OCTETS:
        return UnsupportedCertId("its serial is negative or longer than 20 octets", element.encoding)
    return CertId(algorithm, name_hash, key_hash, serial, element.encoding)


def _check_unknown_algorithm(element: der.Element) -> None:
    """AlgorithmIdentifier ::= SEQUENCE { algorithm OID, parameters ANY OPTIONAL }, and no hash that we know."""
    if element.tag != der.SEQUENCE:
        raise MalformedRequestError(f"tag 0x{element.tag:02x} stands where a hash algorithm is expected")
    reader = der.Reader(element.content)
    oid = reader.read(der.OBJECT_IDENTIFIER)
    der.parse_oid(oid)
    if reader.peek() is not None:
        reader.read_any()
    reader.finish()
    if oid in _KNOWN_OIDS:
        raise MalformedRequestError("the parameters of a hash algorithm are neither NULL nor absent")


def _parse_request_extensions(content: bytes) -> bytes | None:
    """The nonce among the requestExtensions, or None."""
    extensions = _parse_extensions(content, understood=frozenset({_NONCE, _ACCEPTABLE_RESPONSES}))
    acceptable = extensions.get(_ACCEPTABLE_RESPONSES)
    if acceptable is not None:
        # §4.4.3 lists the types a client takes; whichever they are, it has to take id-pkix-ocsp-basic (§4.2.1).
        reader = der.Reader(acceptable)
        types = reader.read_sequence()
        reader.finish()
        while types.peek() is not None:
            der.parse_oid(types.read(der.OBJECT_IDENTIFIER))
    value = extensions.get(_NONCE)
    return None if value is None else _parse_nonce(value)


def _parse_nonce(value: bytes) -> bytes:
    # Step 6. RFC 9654 §2.1: "Nonce ::= OCTET STRING(SIZE(1..128))", itself encoded inside extnValue; a server "MUST
    # reject any OCSP request having a nonce in the Nonce extension with a length of either 0 octets or more than 128
    # octets with the malformedRequest OCSPResponseStatus".
    reader = der.Reader(value)
    nonce = reader.read(der.OCTET_STRING)
    reader.finish()
    if not 1 <= len(nonce) <= MAX_NONCE_OCTETS:
        raise MalformedRequestError(f"a nonce of {len(nonce)} octets; 1 to {MAX_NONCE_OCTETS} are allowed")
    return nonce


def _parse_extensions(content: bytes, *, understood: frozenset[bytes]) -> dict[bytes, bytes]:
    """Extensions (RFC 5280 §4.1.2.9, §4.2), as extnID content to extnValue content.

    Raises `MalformedRequestError` for none at all (`SIZE (1..MAX)`), for two of a kind ("MUST NOT include more than one
    instance"), and for a critical one that is not in `understood`.
    """
    # Step 5.
    outer = der.Reader(content)
    reader = outer.read_sequence()
    outer.finish()
    extensions: dict[bytes, bytes] = {}
    while reader.peek() is not None:
        extension = reader.read_sequence()
        oid = extension.read(der.OBJECT_IDENTIFIER)
        critical = extension.read_optional(der.BOOLEAN)
        value = extension.read(der.OCTET_STRING)
        extension.finish()
        is_critical = critical is not None and der.parse_boolean(critical)
        if oid in extensions:
            raise MalformedRequestError("two extensions of a kind")
        if oid not in understood:
            dotted = der.parse_oid(oid)
            if is_critical:
                raise MalformedRequestError(f"the critical extension {dotted} is not understood")
        extensions[oid] = value
    if not extensions:
        raise MalformedRequestError("an empty list of extensions")
    return extensions


@lru_cache(maxsize=1024)
def _issuer_hashes(subject_der: bytes, public_key_bits: bytes, algorithm: HashAlgorithm) -> tuple[bytes, bytes]:
    return algorithm.digest(subject_der), algorithm.digest(public_key_bits)
