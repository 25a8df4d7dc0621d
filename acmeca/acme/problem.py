"""Problem documents: what an ACME client is told when something is wrong (RFC 8555 §6.7, RFC 9457).

Rule 1: whoever knows what is wrong raises a `Problem`; `web/middleware.py` alone renders it.
Rule 2: the detail tells a person what to change. It never holds a secret, a stack trace or a peer's raw bytes.
Rule 3: only types that acmeca really sends are listed here.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from acmeca.acme.identifiers import Identifier

_NAMESPACE: Final = "urn:ietf:params:acme:error:"
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class ProblemType(StrEnum):
    """The error types of RFC 8555 §6.7 and its extensions that acmeca sends."""

    ACCOUNT_DOES_NOT_EXIST = "accountDoesNotExist"
    ALREADY_REPLACED = "alreadyReplaced"  # RFC 9773 §7.4
    ALREADY_REVOKED = "alreadyRevoked"
    BAD_CSR = "badCSR"
    BAD_NONCE = "badNonce"
    BAD_PUBLIC_KEY = "badPublicKey"
    BAD_REVOCATION_REASON = "badRevocationReason"
    BAD_SIGNATURE_ALGORITHM = "badSignatureAlgorithm"
    CAA = "caa"
    COMPOUND = "compound"
    CONNECTION = "connection"
    DNS = "dns"
    EXTERNAL_ACCOUNT_REQUIRED = "externalAccountRequired"
    INCORRECT_RESPONSE = "incorrectResponse"
    INVALID_CONTACT = "invalidContact"
    INVALID_PROFILE = "invalidProfile"  # draft-ietf-acme-profiles §6.3
    MALFORMED = "malformed"
    ORDER_NOT_READY = "orderNotReady"
    RATE_LIMITED = "rateLimited"
    REJECTED_IDENTIFIER = "rejectedIdentifier"
    SERVER_INTERNAL = "serverInternal"
    TLS = "tls"
    UNAUTHORIZED = "unauthorized"
    UNSUPPORTED_CONTACT = "unsupportedContact"
    UNSUPPORTED_IDENTIFIER = "unsupportedIdentifier"
    USER_ACTION_REQUIRED = "userActionRequired"

    @property
    def urn(self) -> str:
        """The value of a problem's `type` member."""
        return _NAMESPACE + self.value


# RFC 8555 leaves most status codes to the server; 400 unless the type says whose fault it is.
_STATUS: Final[Mapping[ProblemType, int]] = MappingProxyType(
    {
        ProblemType.ALREADY_REPLACED: 409,  # RFC 9773 §5: "it MUST return an HTTP 409 (Conflict)"
        ProblemType.CAA: 403,  # §6.7 "CAA records forbid the CA from issuing a certificate"
        ProblemType.ORDER_NOT_READY: 403,  # §7.4: "the server MUST return a 403 (Forbidden) error"
        ProblemType.RATE_LIMITED: 429,  # RFC 6585 §4; §6.6 leaves the code open
        ProblemType.REJECTED_IDENTIFIER: 403,
        ProblemType.SERVER_INTERNAL: 500,
        ProblemType.UNAUTHORIZED: 403,
        ProblemType.USER_ACTION_REQUIRED: 403,  # §7.3.3: "an error response with status code 403 (Forbidden)"
    }
)


class Problem(Exception):  # noqa: N818  (the field's word for it)
    """One problem document, raised where it is known and rendered in one place.

    `identifier` says which name a subproblem is about (§6.7.1); `algorithms` is the list that goes with
    `badSignatureAlgorithm` (§6.2); `instance` is the URL that a person should visit for `userActionRequired` (§7.3.3); `headers`
    are sent with the response (`Location` of a conflict, `Retry-After`).
    Two problems are equal when they render to the same document.
    """

    def __init__(
        self,
        type: ProblemType,  # noqa: A002  (the member's name in RFC 9457)
        detail: str,
        *,
        status: int | None = None,
        identifier: "Identifier | None" = None,
        subproblems: tuple["Problem", ...] = (),
        algorithms: tuple[str, ...] = (),
        instance: str | None = None,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> None:
        super().__init__(detail)
        self.type = type
        self.detail = detail
        self.status = status if status is not None else _STATUS.get(type, 400)
        self.identifier = identifier
        self.subproblems = subproblems
        self.algorithms = algorithms
        self.instance = instance
        self.headers = headers

    def to_json(self) -> dict[str, object]:
        """The document's members, ready for `json.dumps`."""
        document: dict[str, object] = {"type": self.type.urn, "detail": self.detail, "status": self.status}
        if self.identifier is not None:
            document["identifier"] = self.identifier.to_json()
        if self.subproblems:
            document["subproblems"] = [problem.to_json() for problem in self.subproblems]
        if self.algorithms:
            document["algorithms"] = list(self.algorithms)
        if self.instance is not None:
            document["instance"] = self.instance
        return document

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Problem) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.type, self.detail, self.status))

    def __repr__(self) -> str:
        return f"Problem({self.type.value}, {self.detail!r}, status={self.status})"


def join_problems(problems: tuple[Problem, ...], *, detail: str) -> Problem:
    """One problem for several identifiers (§6.7.1).

    A single problem keeps its own detail. Several of one type keep that type; several types become `compound`. "The
    'identifier' field MUST NOT be present at the top level", so a problem that has one is always a subproblem.
    """
    if len(problems) == 1:
        only = problems[0]
        if only.identifier is None:
            return only
        return Problem(only.type, only.detail, status=only.status, subproblems=problems, headers=only.headers)
    types = {problem.type for problem in problems}
    type_ = types.pop() if len(types) == 1 else ProblemType.COMPOUND
    return Problem(type_, detail, subproblems=problems)
