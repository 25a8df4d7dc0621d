"""What a validation saw of connections, whatever was spoken over them: addresses refused, connections tried, why it failed.

Rule 1: `validation/` observes and the judges of `acme/` judge (`http01.py` and its like). A judgement is a pure function of an observation.
Rule 2: a phrase of ours holds nothing of what a peer sent. What a peer sent stands apart, as the bytes that came.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from acmeca.acme.problem import ProblemType


class FailureKind(StrEnum):
    """Why an observation has no complete answer in it."""

    RESOLUTION = "resolution"  # the name has no address that we could learn
    NOT_ALLOWED = "notAllowed"  # it has addresses, and we may connect to none of them
    CONNECT = "connect"  # no address took a TCP connection
    TLS = "tls"  # TLS was to be spoken, and the handshake failed
    TIMEOUT = "timeout"  # the time for the whole validation is over
    CLOSED = "closed"  # the peer ended the connection before the end of its answer
    RESPONSE = "response"  # the answer is not what the protocol asks for, or breaks our bounds
    REDIRECT = "redirect"  # the answer is a redirect that we do not follow


UNREACHED: Final[Mapping[FailureKind, tuple[ProblemType, str]]] = MappingProxyType(
    {
        FailureKind.RESOLUTION: (
            ProblemType.DNS,
            "Check that the name has an A or AAAA record, and that the resolvers of this CA can see it",
        ),
        FailureKind.NOT_ALLOWED: (
            ProblemType.CONNECTION,
            "Check the name's A and AAAA records; the operator allows networks in validation.allowed_networks",
        ),
        FailureKind.TIMEOUT: (
            ProblemType.CONNECTION,
            "Check that the server answers quickly and that no firewall drops packets between it and this CA",
        ),
    }
)
"""The problem (RFC 8555 §6.7), and what to check, where it does not matter what was to be spoken."""


@dataclass(frozen=True, slots=True)
class ObservedFailure:
    """Why there is no complete answer.

    `detail` is a phrase in printable ASCII that holds nothing of an answer; `quoted` are the bytes of the answer that it is
    about, as they came.
    """

    kind: FailureKind
    detail: str
    quoted: bytes = b""


@dataclass(frozen=True, slots=True)
class RefusedAddress:
    """An address that we did not connect to, and why not."""

    address: str
    reason: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """A TCP connection tried: `endpoint` is `address:port`, `failure` what the connection failed with, or None."""

    endpoint: str
    failure: str | None
