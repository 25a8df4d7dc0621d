"""What clients send inside a verified request (RFC 8555 §7): bytes in, frozen values out.

Rule 1: members that are not named here are ignored (§7.3: the server "MUST ignore" them); ACMEv1 clients still send
`resource`, others `keyAuthorization`. A member that is null counts as absent: some clients print what they do not set.
Rule 2: what is named is checked for its type and bounded before it is used. A problem's detail names the member.
Rule 3: no policy. Whether the account may have the names is asked later.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from acmeca.acme import base64url, strict_json
from acmeca.acme.identifiers import Identifier, IdentifierType, canonical_dns_name, canonical_ip
from acmeca.acme.problem import Problem, ProblemType, join_problems
from acmeca.quoting import quote_input

MAX_CONTACTS: Final = 10
MAX_IDENTIFIERS: Final = 100
_MAX_IDN: Final = (
    50  # A-labels, or names that are not ASCII: each walks the Unicode tables, and no request may take 50 ms
)
_MAX_SHOWN_NAME: Final = 253  # characters; a longer one is quoted and cut in the detail
_MAX_TEXT: Final = 256  # characters of a profile's name, or of a certificate's identifier
_MAX_CONTACT_LENGTH: Final = (
    261  # characters: "mailto:" and the longest address that SMTP can carry (RFC 5321 §4.5.3.1.3)
)

# RFC 5280 §5.3.1. A client cannot know that a CA is compromised (2, 10) or what only the CA decides (6, 8).
_REVOCATION_REASONS: Final = (0, 1, 3, 4, 5, 9)

# RFC 6068 §2: addr-spec, with octets that a URL has no place for as %xx. No quoted strings, no domain literals.
_LOCAL_PART: Final = re.compile(r"(?:[A-Za-z0-9!$&'*+/=^_`{|}~.-]|%[0-9A-Fa-f]{2}){1,64}\Z")
# RFC 3339 §5.6; leap seconds aside, which no certificate can name.
_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})\Z"
)
_PEM_START: Final = "-----BEGIN"


@dataclass(frozen=True, slots=True)
class NewAccount:
    """A newAccount request (§7.3). §7.3.1: for a key that has an account, none of its fields matters.

    `external_account_binding` is the inner JWS (§7.3.4), so far unread.
    """

    contact: tuple[str, ...]
    only_return_existing: bool
    terms_of_service_agreed: bool = False
    external_account_binding: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class AccountUpdate:
    """A POST to an account (§7.3.2, §7.3.3, §7.3.6). `contact` is None when it shall stay as it is."""

    contact: tuple[str, ...] | None
    deactivate: bool
    terms_of_service_agreed: bool = False


@dataclass(frozen=True, slots=True)
class NewOrder:
    """A newOrder request (§7.4): canonical identifiers, each once, in the client's order.

    `not_before` and `not_after` are in UTC; `profile` is the name of one (draft-ietf-acme-profiles §4); `replaces` is the
    identifier of a certificate (RFC 9773 §5), so far unread. None is what was not asked for.
    """

    identifiers: tuple[Identifier, ...]
    not_before: datetime | None = None
    not_after: datetime | None = None
    profile: str | None = None
    replaces: str | None = None


@dataclass(frozen=True, slots=True)
class NewAuthorization:
    """A newAuthz request (§7.4.1): one canonical identifier."""

    identifier: Identifier


@dataclass(frozen=True, slots=True)
class Finalize:
    """A finalize request (§7.4). `csr_der` is what the client sent, so far unread."""

    csr_der: bytes


@dataclass(frozen=True, slots=True)
class Revocation:
    """A revokeCert request (§7.6). `reason` is a CRLReason of RFC 5280 §5.3.1; None is "no reason", as is 0."""

    certificate_der: bytes
    reason: int | None


@dataclass(frozen=True, slots=True)
class AuthorizationUpdate:
    """A POST to an authorization (§7.5.2)."""

    deactivate: bool


@dataclass(frozen=True, slots=True)
class ChallengeResponse:
    """A POST to a challenge (§7.5.1): the client is ready. Nothing in it is read."""


def parse_new_account(payload: bytes) -> NewAccount:
    """Raises Problem: `malformed`, `unsupportedContact`, `invalidContact`."""
    members = _parse_members(payload)
    only_return_existing = members.get("onlyReturnExisting", False)
    if not isinstance(only_return_existing, bool):
        raise _malformed("onlyReturnExisting", "has to be true or false")
    agreed = members.get("termsOfServiceAgreed", False)
    if not isinstance(agreed, bool):
        raise _malformed("termsOfServiceAgreed", "has to be true or false")
    binding = members.get("externalAccountBinding")
    if binding is not None and not isinstance(binding, dict):
        raise _malformed("externalAccountBinding", "has to be a JWS, which is a JSON object (RFC 8555 §7.3.4)")
    return NewAccount(
        contact=_parse_contacts(members) or (),
        only_return_existing=only_return_existing,
        terms_of_service_agreed=agreed,
        external_account_binding=binding,
    )


def parse_account_update(payload: bytes) -> AccountUpdate:
    """Raises Problem: `malformed`, `unsupportedContact`, `invalidContact`.

    §7.3.2: the server "MUST ignore any updates to … the 'status' field (except as allowed by" deactivation), so that a client
    may send the account back as it got it.
    """
    members = _parse_members(payload)
    return AccountUpdate(
        contact=_parse_contacts(members),
        deactivate=members.get("status") == "deactivated",
        terms_of_service_agreed=members.get("termsOfServiceAgreed") is True,
    )


def parse_new_order(payload: bytes) -> NewOrder:
    """Raises Problem: `malformed` or `unsupportedIdentifier`, with a subproblem for each identifier that is not acceptable."""
    members = _parse_members(payload)
    entries = members.get("identifiers")
    if not isinstance(entries, list) or not entries:
        raise _malformed("identifiers", "has to be a list of at least one identifier")
    if len(entries) > MAX_IDENTIFIERS:
        raise _malformed("identifiers", f"has {len(entries)} entries; one order can have {MAX_IDENTIFIERS}")
    _require_few_idn(entries)

    identifiers: dict[Identifier, None] = {}  # a set that keeps the order
    problems: list[Problem] = []
    for index, entry in enumerate(entries):
        try:
            identifiers[_parse_entry(entry)] = None
        except Problem as problem:
            problems.append(_located(problem, f"identifiers[{index}]"))
    if problems:
        raise join_problems(
            tuple(problems), detail=f"{len(problems)} of {len(entries)} identifiers cannot be ordered: see subproblems"
        )
    return NewOrder(
        identifiers=tuple(identifiers),
        not_before=_parse_time(members, "notBefore"),
        not_after=_parse_time(members, "notAfter"),
        profile=_parse_text(members, "profile"),
        replaces=_parse_text(members, "replaces"),
    )


def parse_new_authorization(payload: bytes) -> NewAuthorization:
    """Raises Problem: `malformed` or `unsupportedIdentifier`."""
    entry = _parse_members(payload).get("identifier")
    try:
        return NewAuthorization(_parse_entry(entry))
    except Problem as problem:
        raise join_problems((_located(problem, "identifier"),), detail="") from None


def parse_finalize(payload: bytes) -> Finalize:
    """Raises Problem `malformed`. Whether the octets are a CSR is asked by `pki/csr.py`."""
    return Finalize(csr_der=_parse_der(_parse_members(payload), "csr"))


def parse_revocation(payload: bytes) -> Revocation:
    """Raises Problem: `malformed`, `badRevocationReason`."""
    members = _parse_members(payload)
    reason = members.get("reason")
    if reason is not None and (not isinstance(reason, int) or isinstance(reason, bool)):
        raise _malformed("reason", "has to be an integer")
    if reason is not None and reason not in _REVOCATION_REASONS:
        # §7.6: "The problem document detail SHOULD indicate which reasonCodes are allowed."
        allowed = ", ".join(map(str, _REVOCATION_REASONS))
        raise Problem(ProblemType.BAD_REVOCATION_REASON, f"reason: {reason} is not allowed; use one of {allowed}")
    return Revocation(certificate_der=_parse_der(members, "certificate"), reason=reason or None)


def parse_authorization_update(payload: bytes) -> AuthorizationUpdate:
    """Raises Problem `malformed`."""
    status = _parse_members(payload).get("status")
    if status is not None and status != "deactivated":
        raise _malformed("status", "can only be set to 'deactivated'")
    return AuthorizationUpdate(deactivate=status is not None)


def parse_challenge_response(payload: bytes) -> ChallengeResponse:
    """Raises Problem `malformed` when the payload is no JSON object."""
    _parse_members(payload)
    return ChallengeResponse()


def parse_identifier(members: Mapping[str, object]) -> Identifier:
    """The canonical identifier that a client's `{"type": …, "value": …}` means; other members are ignored.

    Raises Problem: `unsupportedIdentifier` for another type, `malformed` for a value that is no such name. The problem
    carries the identifier as it was sent where that is plain text, so that the client can tell which one is meant (§6.7.1).
    """
    type_text, value = members.get("type"), members.get("value")
    if not isinstance(type_text, str) or not isinstance(value, str):
        raise Problem(ProblemType.MALFORMED, "an identifier has to have the strings 'type' and 'value'")
    try:
        type_ = IdentifierType(type_text)
    except ValueError:
        raise Problem(
            ProblemType.UNSUPPORTED_IDENTIFIER,
            f"identifiers of type {quote_input(type_text)} are not supported; use 'dns' or 'ip'",
        ) from None
    canonicalise = canonical_dns_name if type_ is IdentifierType.DNS else canonical_ip
    try:
        return Identifier(type_, canonicalise(value))
    except ValueError as error:
        is_plain = len(value) <= _MAX_SHOWN_NAME and value.isascii() and value.isprintable()
        raise Problem(
            ProblemType.MALFORMED,
            f"{quote_input(value)}: {error}",
            identifier=Identifier(type_, value) if is_plain else None,
        ) from None


def _parse_members(payload: bytes) -> dict[str, object]:
    """The payload's members that are not null."""
    if not payload:
        raise Problem(
            ProblemType.MALFORMED, "the payload is empty, which is a POST-as-GET; it has to be a JSON object here"
        )
    try:
        members = strict_json.parse_object(payload)
    except ValueError as error:
        raise Problem(ProblemType.MALFORMED, f"the payload cannot be read: {error}") from None
    return {name: value for name, value in members.items() if value is not None}


def _parse_entry(entry: object) -> Identifier:
    if not isinstance(entry, dict):
        raise Problem(ProblemType.MALFORMED, "an identifier is a JSON object with 'type' and 'value'")
    return parse_identifier(entry)


def _parse_text(members: Mapping[str, object], name: str) -> str | None:
    text = members.get(name)
    if text is not None and (not isinstance(text, str) or not 0 < len(text) <= _MAX_TEXT):
        raise _malformed(name, f"has to be a string of 1 to {_MAX_TEXT} characters")
    return text


def _parse_time(members: Mapping[str, object], name: str) -> datetime | None:
    """§7.1.3: "optional, string … in the date format defined in [RFC3339]". Whole seconds are all that a certificate knows."""
    text = members.get(name)
    if text is None:
        return None
    if not isinstance(text, str) or _RFC3339.match(text) is None:
        raise _malformed(name, "has to be a time as RFC 3339 has it, like 2026-01-31T12:00:00Z")
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC).replace(microsecond=0)
    except (ValueError, OverflowError):
        raise _malformed(name, f"{quote_input(text)} is no time that there is") from None


def _require_few_idn(entries: list[object]) -> None:
    values = [entry.get("value") for entry in entries if isinstance(entry, dict)]
    names = [value.lower() for value in values if isinstance(value, str)]
    a_labels = {label for name in names for label in name.split(".") if label.startswith("xn--")}
    count = len(a_labels) + sum(not name.isascii() for name in names)
    if count > _MAX_IDN:
        raise _malformed("identifiers", f"has {count} internationalised labels; one order can have {_MAX_IDN}")


def _parse_der(members: Mapping[str, object], name: str) -> bytes:
    text = members.get(name)
    if not isinstance(text, str) or not text:
        raise _malformed(name, "has to be a string, the DER in base64url")
    if text.lstrip().startswith(_PEM_START):  # §7.4: "it is different from PEM"
        raise _malformed(name, "is PEM: send the DER in base64url without padding")
    try:
        der = base64url.decode(text)
    except ValueError as error:
        raise _malformed(name, f"is {error}") from None
    if der.lstrip().startswith(_PEM_START.encode()):
        raise _malformed(name, "is PEM inside base64url: encode the DER")
    return der


def _parse_contacts(members: Mapping[str, object]) -> tuple[str, ...] | None:
    contacts = members.get("contact")
    if contacts is None:
        return None
    if not isinstance(contacts, list):
        raise _malformed("contact", "has to be a list of URLs")
    if len(contacts) > MAX_CONTACTS:
        raise Problem(ProblemType.INVALID_CONTACT, f"contact: more than {MAX_CONTACTS} entries")
    return tuple(_parse_contact(contact, f"contact[{index}]") for index, contact in enumerate(contacts))


def _parse_contact(contact: object, path: str) -> str:
    if not isinstance(contact, str):
        raise _malformed(path, "has to be a string")
    scheme, colon, address = contact.partition(":")
    if not colon or scheme.lower() != "mailto":
        raise Problem(ProblemType.UNSUPPORTED_CONTACT, f"{path}: {quote_input(contact)} is no 'mailto:' URL")
    if reason := _why_no_address(contact, address):
        raise Problem(ProblemType.INVALID_CONTACT, f"{path}: {quote_input(contact)} {reason}")
    return contact


def _why_no_address(contact: str, address: str) -> str | None:
    """§7.3: no hfields, one addr-spec. Returns what is wrong."""
    if len(contact) > _MAX_CONTACT_LENGTH:
        return "is too long"
    if "?" in address:
        return "has header fields, which are not allowed"
    if "," in address:
        return "has several addresses: send one in each URL"
    local_part, at, domain = address.rpartition("@")
    if not at or _LOCAL_PART.match(local_part) is None:
        return "is no mail address"
    try:
        canonical_dns_name(domain)
    except ValueError as error:
        return f"has no host name after the @: {error}"
    return "has a wildcard after the @" if domain.startswith("*") else None


def _located(problem: Problem, path: str) -> Problem:
    """The same problem, its detail led by where in the payload it is."""
    return Problem(problem.type, f"{path}: {problem.detail}", identifier=problem.identifier)


def _malformed(path: str, reason: str) -> Problem:
    return Problem(ProblemType.MALFORMED, f"{path}: {reason}")
