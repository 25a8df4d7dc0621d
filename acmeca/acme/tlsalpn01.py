"""tls-alpn-01: what a validation saw, and its judgement (RFC 8737, RFC 8738 §6).

Rule 1: `validation/tlsalpn01.py` observes and this module judges. A judgement is a pure function of an observation.
Rule 2: valid only if the server selected `acme-tls/1` over TLS 1.2 or later and showed a certificate whose only
subjectAltName is the identifier and whose acmeIdentifier is critical and holds the digest of the key authorization. Who
signed the certificate, and when it is valid, is not asked: "it does not use the authentication method described in
[RFC5280]" (§4).
Rule 3: a problem says what was asked of whom, what came back, and what to check.
Rule 4: what a peer sent us stands in a problem only escaped and cut to 64 bytes. Of a server that did not select
`acme-tls/1` nothing is shown: it did not mean to answer us.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from types import MappingProxyType
from typing import Final

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.observations import UNREACHED, Attempt, FailureKind, ObservedFailure, RefusedAddress
from acmeca.acme.problem import Problem, ProblemType
from acmeca.quoting import escape

PROTOCOL: Final = "acme-tls/1"  # §6.2
SUBJECT_ALT_NAME: Final = "2.5.29.17"  # RFC 5280 §4.2.1.6
ACME_IDENTIFIER: Final = "1.3.6.1.5.5.7.1.31"  # §6.1, id-pe-acmeIdentifier

DNS_NAME: Final = 0x82  # the identifier octets of two GeneralNames (RFC 5280 §4.2.1.6)
IP_ADDRESS: Final = 0x87

# §4: "MUST only negotiate TLS 1.2 [RFC5246] or higher".
_VERSIONS: Final = frozenset({"TLSv1.2", "TLSv1.3"})
# §3: "Authorization ::= OCTET STRING (SIZE (32))", whose DER has one form.
_OCTET_STRING_OF_32: Final = b"\x04\x20"


@dataclass(frozen=True, slots=True)
class ShownName:
    """A GeneralName as it stood: its identifier octet and its content."""

    tag: int
    value: bytes


@dataclass(frozen=True, slots=True)
class ShownAcmeIdentifier:
    """An acmeIdentifier extension as it stood: `value` is its extnValue's content, the DER of an Authorization (§3) or not."""

    critical: bool
    value: bytes


@dataclass(frozen=True, slots=True)
class ShownCertificate:
    """What counts of the certificate that a server showed. None: the extension is not there."""

    names: tuple[ShownName, ...] | None = None
    acme_identifier: ShownAcmeIdentifier | None = None


@dataclass(frozen=True, slots=True)
class TlsAlpn01Observation:
    """What a tls-alpn-01 validation asked of whom, and what came back (§3). It judges nothing.

    `server_name` went out as SNI to `port`. `version`, `protocol` (None: the server selected none) and `certificate` are of a
    handshake that was completed; the certificate is that of a server which selected `acme-tls/1`. `failure` says why there is none.
    """

    identifier: Identifier
    server_name: str
    port: int
    refused: tuple[RefusedAddress, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    version: str | None = None
    protocol: str | None = None
    certificate: ShownCertificate | None = None
    failure: ObservedFailure | None = None

    @property
    def endpoint(self) -> str | None:
        """The `address:port` that took the connection, or None when none did."""
        return next((attempt.endpoint for attempt in self.attempts if attempt.failure is None), None)


def server_name(identifier: Identifier) -> str:
    """What goes out as SNI. RFC 8738 §6: for an address "the server MUST instead use the IN-ADDR.ARPA [RFC1034] or IP6.ARPA
    [RFC3596] reverse mapping of the IP address as the HostName field value".
    """
    return ip_address(identifier.value).reverse_pointer if identifier.type is IdentifierType.IP else identifier.value


def authorization_digest(key_authorization: str) -> bytes:
    """§3: "the SHA-256 digest [FIPS180-4] of the key authorization"."""
    return hashlib.sha256(key_authorization.encode("ascii")).digest()


def judge_tlsalpn01(observation: TlsAlpn01Observation, *, expected: str) -> Problem | None:
    """Judge a tls-alpn-01 observation (§3): None when it proves control, else the problem to show.

    `expected` is the key authorization of the challenge and the account.

    1. Without a completed handshake, the failure says why.
    2. The protocol and the version of TLS (§3 step 4, §4).
    3. One subjectAltName, the identifier (§3 step 5, RFC 8738 §6).
    4. One acmeIdentifier, critical, with the digest (§3 step 5).
    """
    # Step 1
    failure = observation.failure
    if failure is not None:
        type_, check = _FAILURES[failure.kind]
        return Problem(type_, f"{_asked(observation)}: {failure.detail}. {check}")
    # Step 2
    if observation.protocol != PROTOCOL:
        return _incorrect(observation, f"the server did not select the protocol {PROTOCOL}", _CHECK_SERVER)
    if observation.version not in _VERSIONS:
        return _incorrect(observation, "the server speaks an older TLS than 1.2", "Switch TLS 1.2 or 1.3 on there")
    certificate = observation.certificate or ShownCertificate()
    # Steps 3 and 4
    return _judge_names(observation, certificate.names) or _judge_digest(
        observation, certificate.acme_identifier, expected
    )


def _judge_names(observation: TlsAlpn01Observation, names: tuple[ShownName, ...] | None) -> Problem | None:
    """§3: "a subjectAltName extension containing the dNSName being validated and no other entries"; RFC 8738 §6: "a single
    iPAddress that matches the address being validated".
    """
    identifier = observation.identifier
    if names is None:
        return _incorrect(observation, "the certificate has no subjectAltName", _CHECK_CERTIFICATE)
    if len(names) == 1 and _is(names[0], identifier):
        return None
    shown = _shown(names[0]) if names else "nothing"
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    kind = "iPAddress" if identifier.type is IdentifierType.IP else "dNSName"
    return _incorrect(
        observation,
        f"the certificate's subjectAltName is {shown}{more}, and not the {kind} {identifier} alone",
        f"{_CHECK_CERTIFICATE}, and that no other server answers for this name",
    )


def _is(name: ShownName, identifier: Identifier) -> bool:
    if identifier.type is IdentifierType.IP:
        return name == ShownName(IP_ADDRESS, ip_address(identifier.value).packed)
    # §3: "The comparison of dNSNames MUST be case insensitive [RFC4343]", which is about ASCII letters.
    return name.tag == DNS_NAME and name.value.lower() == identifier.value.encode("ascii")


def _shown(name: ShownName) -> str:
    """With its kind: clients have shown an address as a dNSName, which reads the same."""
    if name.tag == IP_ADDRESS and len(name.value) in {4, 16}:
        return f'the iPAddress "{ip_address(name.value)}"'
    kind = {DNS_NAME: "the dNSName ", IP_ADDRESS: "the iPAddress "}.get(name.tag, "")
    return f'{kind}"{escape(name.value)}"'


def _judge_digest(
    observation: TlsAlpn01Observation, found: ShownAcmeIdentifier | None, expected: str
) -> Problem | None:
    """§3: "a critical acmeIdentifier extension containing the expected SHA-256 digest"."""
    if found is None:
        return _incorrect(observation, "the certificate has no acmeIdentifier extension", _CHECK_CERTIFICATE)
    if not found.critical:
        return _incorrect(
            observation,
            "the certificate's acmeIdentifier extension is not critical",
            "The ACME client has to mark it as critical (RFC 8737, section 3)",
        )
    if found.value == _OCTET_STRING_OF_32 + authorization_digest(expected):
        return None
    if len(found.value) != 34 or not found.value.startswith(_OCTET_STRING_OF_32):
        return _incorrect(
            observation,
            "the certificate's acmeIdentifier extension is not an OCTET STRING of 32 bytes",
            "It has to hold the SHA-256 digest of the key authorization, as the DER of an OCTET STRING (RFC 8737, section 3)",
        )
    token, _, _ = expected.partition(".")
    if found.value == _OCTET_STRING_OF_32 + authorization_digest(token):
        check = (
            "It is the digest of the token alone: the key authorization is token, dot, thumbprint of the account key"
        )
    else:
        check = (
            "Check that the ACME client that ordered is the one that answers, and that the certificate is not one of an "
            "earlier challenge"
        )
    return _incorrect(
        observation, "the certificate's acmeIdentifier extension holds another digest than this challenge's", check
    )


_CHECK_SERVER: Final = (
    "Check that the server which the ACME client prepared answers at this port itself, and that nothing in front of it "
    "ends TLS"
)
_CHECK_CERTIFICATE: Final = "Check that the ACME client's own certificate for the challenge is shown"

# §6.7 of RFC 8555, as for http-01.
_FAILURES: Final[Mapping[FailureKind, tuple[ProblemType, str]]] = MappingProxyType(
    {
        **UNREACHED,
        FailureKind.CONNECT: (
            ProblemType.CONNECTION,
            "Check that a TLS server listens there and that no firewall stands between it and this CA",
        ),
        FailureKind.TLS: (ProblemType.TLS, _CHECK_SERVER),
        FailureKind.CLOSED: (ProblemType.CONNECTION, _CHECK_SERVER),
        FailureKind.RESPONSE: (ProblemType.INCORRECT_RESPONSE, _CHECK_CERTIFICATE),
    }
)


def _incorrect(observation: TlsAlpn01Observation, came_back: str, check: str) -> Problem:
    return Problem(ProblemType.INCORRECT_RESPONSE, f"{_asked(observation)}: {came_back}. {check}")


def _asked(observation: TlsAlpn01Observation) -> str:
    """What was asked of whom: `acme-tls/1 for SNI a.corp.internal at 10.0.0.5:443`."""
    where = f" at {observation.endpoint}" if observation.endpoint is not None else f" port {observation.port}"
    return f"{PROTOCOL} with SNI {observation.server_name}{where}"
