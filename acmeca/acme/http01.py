"""http-01: what a validation saw, and its judgement (RFC 8555 §8.3, RFC 8738 §4).

Rule 1: `validation/http01.py` observes and this module judges. A judgement is a pure function of an observation.
Rule 2: http-01 is valid only by a 2xx whose body, white space at its end aside, is exactly the key authorization.
Rule 3: a problem says what was asked of whom, what came back, and what to check.
Rule 4: what a peer sent us stands in a problem only escaped and cut to 64 bytes; that goes for the URLs of redirects too.
Rule 5: whoever answers for an identifier may send us anywhere by a redirect, and must not read by us what they could not
read themselves (RFC 8555 §10.4). So a problem shows nothing of an answer, and hints at nothing in it, unless it came from
the identifier's own host, at the address that we asked first: beyond that, the status and no more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from acmeca.acme.identifiers import Identifier
from acmeca.acme.observations import UNREACHED, Attempt, FailureKind, ObservedFailure, RefusedAddress
from acmeca.acme.problem import Problem, ProblemType
from acmeca.quoting import escape

_WHITE_SPACE: Final = b" \t\r\n\v\f"


@dataclass(frozen=True, slots=True)
class Hop:
    """One request of a validation: the first, or the one that a redirect led to.

    `url` is printable ASCII and begins with `origin` (`http://host`, with a port where it is not the scheme's own); `host` is
    the host in them. From the second hop on a peer chose all three. `status` is None without an answer.
    """

    url: str
    origin: str
    host: Identifier
    refused: tuple[RefusedAddress, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    status: int | None = None

    @property
    def endpoint(self) -> str | None:
        """The `address:port` that took the connection, or None when none did."""
        return next((attempt.endpoint for attempt in self.attempts if attempt.failure is None), None)

    @property
    def address(self) -> str | None:
        """The address of `endpoint`."""
        return None if self.endpoint is None else self.endpoint.rpartition(":")[0]


@dataclass(frozen=True, slots=True)
class Http01Observation:
    """What an http-01 validation asked of whom, and what came back (§8.3). It judges nothing.

    `hops` holds every request in turn, one at least. `body` is what the last one answered, without its framing and cut;
    `body_complete` says that nothing is missing from it. `failure` is None when a complete answer came, whatever it says.
    """

    identifier: Identifier
    hops: tuple[Hop, ...]
    body: bytes = b""
    body_complete: bool = False
    failure: ObservedFailure | None = None

    @property
    def url(self) -> str:
        """The URL that was asked first."""
        return self.hops[0].url

    @property
    def status(self) -> int | None:
        """The status code of the last answer, or None without one."""
        return self.hops[-1].status

    @property
    def redirects(self) -> tuple[str, ...]:
        """The URLs that redirects led to, in turn. Peers chose them: `escape` before showing."""
        return tuple(hop.url for hop in self.hops[1:])

    @property
    def endpoints_tried(self) -> tuple[str, ...]:
        """Every `address:port` that a connection was tried to, in turn."""
        return tuple(attempt.endpoint for hop in self.hops for attempt in hop.attempts)

    def is_own(self, hop: Hop) -> bool:
        """Did this answer come from the identifier's own host (Rule 5)? Its name alone does not say so: whoever holds the
        name can point it elsewhere between two requests.
        """
        return hop.host == self.identifier and hop.address == self.hops[0].address


def judge_http01(observation: Http01Observation, *, expected: str) -> Problem | None:
    """Judge an http-01 observation (§8.3): None when it proves control, else the problem to show.

    `expected` is the key authorization of the challenge and the account.

    1. An answer with another status than 2xx is told as such, whatever became of its body.
    2. Without a complete answer, the failure says why.
    3. A complete body, white space at its end aside, that is exactly the key authorization is valid.
    4. Any other is told as far as Rule 5 lets us.
    """
    # Step 1
    status = observation.status
    failure = observation.failure
    is_own = observation.is_own(observation.hops[-1])
    if (
        status is not None
        and not 200 <= status <= 299
        and (failure is None or failure.kind is not FailureKind.REDIRECT)
    ):
        rest = f" and {_shown_body(observation.body)}" if is_own else f"; {_NOT_SHOWN}"
        return _incorrect(observation, f"answered with status {status}{rest}", _CHECK_STATUS.get(status, _CHECK_SERVER))
    # Step 2
    if failure is not None:
        type_, check = _FAILURES[failure.kind]
        quoted = f': "{escape(failure.quoted)}"' if failure.quoted and is_own else ""
        return Problem(type_, f"{_asked(observation)}: {failure.detail}{quoted}. {check}")
    # Step 3: "The server SHOULD ignore whitespace characters at the end of the body."
    body = observation.body.rstrip(_WHITE_SPACE)
    wanted = expected.encode("ascii")
    if observation.body_complete and body == wanted:
        return None
    # Step 4
    if not is_own:
        return _incorrect(
            observation,
            f"answered with status {status}, but not with the key authorization; {_NOT_SHOWN}",
            _CHECK_SERVER,
        )
    if not observation.body_complete:
        return _incorrect(
            observation,
            f"answered with more than {len(observation.body)} bytes, beginning with {_shown_body(observation.body)}",
            _CHECK_SERVER,
        )
    return _incorrect(observation, f"answered with {_shown_body(observation.body)}", _check_body(body, wanted))


_NOT_SHOWN: Final = "what a redirect to another host or address brings is not shown"
_CHECK_SERVER: Final = (
    "Check that the web server answers this URL with the text that the ACME client prepared: the right directory, the "
    "right virtual host, and no login page or catch-all in front of it"
)
_CHECK_STATUS: Final[Mapping[int, str]] = MappingProxyType(
    {
        303: "Only redirects by 301, 302, 307 and 308 are followed",
        401: "Check that /.well-known/acme-challenge/ needs no login",
        403: "Check that /.well-known/acme-challenge/ is open to everyone and that the web server may read the files",
        404: (
            "Check that the ACME client writes to the directory that the web server serves for this name, and that no "
            "other server or virtual host answers"
        ),
    }
)

# §6.7 gives `dns`, `connection` and `tls` their meaning; `incorrectResponse` is "Response received didn't match the
# challenge's requirements".
_FAILURES: Final[Mapping[FailureKind, tuple[ProblemType, str]]] = MappingProxyType(
    {
        **UNREACHED,
        FailureKind.CONNECT: (
            ProblemType.CONNECTION,
            "Check that a web server listens there and that no firewall stands between it and this CA",
        ),
        FailureKind.TLS: (
            ProblemType.TLS,
            "Check that the server speaks TLS 1.2 or later there, or serve the challenge without a redirect to https",
        ),
        FailureKind.CLOSED: (ProblemType.CONNECTION, "Check the web server's error log"),
        FailureKind.RESPONSE: (ProblemType.INCORRECT_RESPONSE, "Check that a plain HTTP server listens there"),
        FailureKind.REDIRECT: (
            ProblemType.INCORRECT_RESPONSE,
            "Check the redirect, or serve /.well-known/acme-challenge/ without one",
        ),
    }
)


def _incorrect(observation: Http01Observation, came_back: str, check: str) -> Problem:
    return Problem(ProblemType.INCORRECT_RESPONSE, f"{_asked(observation)}: {came_back}. {check}")


def _asked(observation: Http01Observation) -> str:
    """What was asked of whom: `GET http://… at 10.0.0.5:80`, and by how many redirects we came there.

    The path that a redirect names is a part of the answer which named it (Rule 5).
    """
    *before, hop = observation.hops
    endpoint = f" at {hop.endpoint}" if hop.endpoint is not None else ""
    if not before:
        return f"GET {hop.url}{endpoint}"
    url = hop.url if observation.is_own(before[-1]) else f"{hop.origin}/..."
    after = f" (after {len(before)} redirect{'s' if len(before) > 1 else ''} from {observation.url})"
    return f'GET "{escape(url.encode("ascii", "backslashreplace"))}"{endpoint}{after}'


def _shown_body(body: bytes) -> str:
    return f'the body "{escape(body)}"' if body else "an empty body"


def _check_body(body: bytes, expected: bytes) -> str:
    """What to check about a body that is not the key authorization."""
    token, _, _ = expected.partition(b".")
    if body.startswith(b"\x1f\x8b"):  # RFC 1952 §2.3.1: the magic bytes of gzip
        return "The answer is compressed although identity was asked for: switch compression off for this path"
    if body == token:
        return "The answer is the token alone: the key authorization is token, dot, thumbprint of the account key"
    if body.startswith(token + b"."):
        return (
            "The answer was made with another account key: check that the ACME client that ordered is the one that "
            "answers"
        )
    if expected in body:
        return "The key authorization has to stand alone: nothing before it, only white space behind it"
    return _CHECK_SERVER
