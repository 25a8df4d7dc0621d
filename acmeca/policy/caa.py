"""CAA: may this CA issue for a name, by the records that its zone publishes (RFC 8659, RFC 8657)?

Rule 1: `validation/` observes and this module judges. A judgement is a pure function of an observation.
Rule 2: what could not be looked up, or is not understood, authorizes nothing: a failed lookup refuses, a value that breaks
the grammar stands for no issuer, a parameter that we do not know is a condition that is not met.
Rule 3: CAA is not looked at unless the operator names the issuer domain names that mean this CA, and then in the zones they
name, or everywhere (decision 0016).
Rule 4: what a peer sent us stands in a problem only escaped and cut to 64 bytes; of records that an alias led to, nothing does.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.problem import Problem, ProblemType
from acmeca.quoting import escape

SHOWN_RECORDS: Final = 4

_CRITICAL: Final = 0x80  # RFC 8659 §4.1: bit 0 of the flags, the most significant
_ISSUE: Final = "issue"
_ISSUEWILD: Final = "issuewild"
_UNDERSTOOD: Final = frozenset({_ISSUE, _ISSUEWILD, "iodef"})

# RFC 8659 §4.2:
#   issue-value = *WSP [issuer-domain-name *WSP] [";" *WSP [parameters *WSP]]
#   issuer-domain-name = label *("." label)
#   label = (ALPHA / DIGIT) *( *("-") (ALPHA / DIGIT))
#   parameters = (parameter *WSP ";" *WSP parameters) / parameter
#   parameter = tag *WSP "=" *WSP value
#   tag = (ALPHA / DIGIT) *( *("-") (ALPHA / DIGIT))
#   value = *(%x21-3A / %x3C-7E)
_WSP: Final = " \t"
_LABEL: Final = r"[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*"
_ISSUER: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*)?\Z")
_PARAMETER: Final = re.compile(rf"({_LABEL})[ \t]*=[ \t]*([\x21-\x3A\x3C-\x7E]*)\Z")
# RFC 8657 §4: value = [*(label ",") label], label = 1*(ALPHA / DIGIT / "-")
_METHODS: Final = re.compile(r"(?:[A-Za-z0-9-]+(?:,[A-Za-z0-9-]+)*)?\Z")

_ACCOUNT_URI: Final = "accounturi"
_VALIDATION_METHODS: Final = "validationmethods"


@dataclass(frozen=True, slots=True)
class CaaRecord:
    """A CAA record as it came (RFC 8659 §4.1): flags, property tag, property value."""

    flags: int
    tag: bytes
    value: bytes

    @property
    def is_critical(self) -> bool:
        """The other flag bits are reserved: "Applications that interpret CAA records MUST ignore the value of" them."""
        return bool(self.flags & _CRITICAL)

    @property
    def property(self) -> str:
        """The tag for comparison: "Matching of tags is case insensitive"."""
        return self.tag.decode("latin-1").lower()

    def __str__(self) -> str:
        return f'{self.flags} {escape(self.tag)} "{escape(self.value)}"'


@dataclass(frozen=True, slots=True)
class CaaObservation:
    """What the search for CAA records found, or why it came to no end. It judges nothing.

    `asked` are the names in the order of the search; the records, if there are any, are those of the last of them, and
    `server` (`address:port`) gave them. `is_alias` says that they belong to a name that it is an alias of. `failure` is a
    phrase in printable ASCII that says why nothing is known of the last name, and None otherwise.
    """

    asked: tuple[str, ...]
    records: tuple[CaaRecord, ...] = ()
    server: str | None = None
    is_alias: bool = False
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class CaaPolicy:
    """Whether and where CAA counts, and who we are in it.

    `identities` are the issuer domain names that mean this CA, in lower case; without one, CAA is not looked at. `zones` are
    the zones whose records count, with everything below them; none means all names.
    """

    identities: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()

    def search(self, identifier: Identifier) -> tuple[str, ...]:
        """The names to ask for, in turn, until one has CAA records; none when CAA does not count for this identifier.

        RFC 8659 §3: "The search for a CAA RRset climbs the DNS name tree from the specified label up to, but not including,
        the DNS root "." until a CAA RRset is found", for X and for `*.X` from X on. Where zones are configured, it ends at
        the outermost of them that the name lies in. An address has no CAA records.
        """
        if not self.identities or identifier.type is not IdentifierType.DNS:
            return ()
        names = tuple(_climb(identifier.base.value))
        if not self.zones:
            return names
        inside = [index for index, name in enumerate(names) if name in self.zones]
        return names[: inside[-1] + 1] if inside else ()

    def refusal(
        self, observation: CaaObservation, identifier: Identifier, *, account_url: str, method: str | None
    ) -> Problem | None:
        """Why the account may not have a certificate for this identifier, or None when CAA has nothing against it.

        `identifier` is that of the order, with its `*.`. `method` is the label of the validation method that showed control
        (RFC 8657 §4: the challenge type), or None where none was used.

        1. A search that came to no end refuses (Rule 2).
        2. Without records there is no restriction.
        3. A critical property that we do not understand refuses.
        4. issuewild records count for a wildcard, and instead of issue records there; for other names issue records alone.
        5. Without such records there is no restriction; of several, one that authorizes us is enough.
        """
        name = observation.asked[-1]
        # Step 1
        if observation.failure is not None:
            return Problem(
                ProblemType.DNS,
                f"{identifier}: whether CAA records forbid a certificate is not known, so there is none: CAA {name}: "
                f"{observation.failure}. Check that the name servers of {name} answer questions for CAA, also when there is no "
                "such record",
            )
        # Step 2
        if not observation.records:
            return None
        # Step 3: "A CA MUST NOT issue certificates for any FQDN if the Relevant RRset for that FQDN contains a CAA critical
        # Property for an unknown or unsupported Property Tag"
        if any(record.is_critical and record.property not in _UNDERSTOOD for record in observation.records):
            return _forbidden(
                observation,
                identifier,
                "a critical property is one that this CA does not understand",
                f"Take the flag 128 from it, or the property away, or give {identifier} records of its own",
            )
        # Step 4
        tag = _ISSUEWILD
        counting = [record for record in observation.records if record.property == _ISSUEWILD]
        if not identifier.is_wildcard or not counting:
            tag = _ISSUE
            counting = [record for record in observation.records if record.property == _ISSUE]
        # Step 5: "CAA authorizations are additive"
        if not counting:
            return None
        reasons = [self._reason(record, account_url, method) for record in counting]
        if None in reasons:
            return None
        # What stands against a record that names us says more than that others do not.
        told = next(filter(None, reasons), f"none of the {tag} records names {' or '.join(self.identities)}")
        return _forbidden(
            observation, identifier, told, f'To allow it, publish: {name}. CAA 0 {tag} "{self.identities[0]}"'
        )

    def _reason(self, record: CaaRecord, account_url: str, method: str | None) -> str | None:
        """Why an issue or issuewild record does not authorize; None when it does, "" when it names others or nobody.

        1. the grammar, 2. the issuer, 3. the parameters
        """
        # Step 1: "An issue Property Tag where the issue-value does not match the ABNF grammar MUST be treated the same as one
        # specifying an empty issuer-domain-name"
        parsed = parse_issue_value(record.value)
        if parsed is None:
            return "a value breaks the grammar of RFC 8659, section 4.2, and so stands for no issuer"
        # Step 2
        issuer, parameters = parsed
        if issuer not in self.identities:
            return ""
        # Step 3
        tags = [tag for tag, _ in parameters]
        for tag, value in parameters:
            if tag == _ACCOUNT_URI:
                # RFC 8657 §3: "A property with multiple "accounturi" parameters is unsatisfiable"
                if tags.count(tag) > 1 or value != account_url:
                    return f"the record for {issuer} is for another account than {account_url} ({_ACCOUNT_URI})"
            elif tag == _VALIDATION_METHODS:
                methods = value.split(",") if _METHODS.match(value) else []
                if tags.count(tag) > 1 or method not in methods:
                    used = "without a validation" if method is None else f"by {method}"
                    return f"the record for {issuer} does not allow it {used} ({_VALIDATION_METHODS})"
            else:  # §4.2: "The semantics of parameters … are determined by the Issuer alone"
                return f"the record for {issuer} has a parameter that this CA does not know"
        return None


def parse_issue_value(value: bytes) -> tuple[str, tuple[tuple[str, str], ...]] | None:
    """The issuer domain name and the parameters of an issue or issuewild value; None when it breaks the grammar (§4.2).

    The issuer and the parameters' tags are in lower case, as they are compared; an empty issuer authorizes nobody.
    """
    if not value.isascii():
        return None
    issuer, semicolon, rest = value.decode("ascii").partition(";")
    issuer = issuer.strip(_WSP)
    if not _ISSUER.match(issuer):
        return None
    parameters: list[tuple[str, str]] = []
    if semicolon and rest.strip(_WSP):
        for text in rest.split(";"):
            match = _PARAMETER.match(text.strip(_WSP))
            if match is None:
                return None
            parameters.append((match[1].lower(), match[2]))
    return issuer.lower(), tuple(parameters)


def _climb(name: str) -> Iterator[str]:
    """A name and those above it, without the root."""
    while name:
        yield name
        name = name.partition(".")[2]


def _forbidden(observation: CaaObservation, identifier: Identifier, reason: str, advice: str) -> Problem:
    shown = [str(record) for record in observation.records[:SHOWN_RECORDS]]
    more = len(observation.records) - len(shown)
    found = ", ".join(shown) + (f" and {more} more" if more else "")
    if observation.is_alias:
        found = "what an alias (CNAME) leads to, which is not shown"
    at = f" at {observation.server}" if observation.server is not None else ""
    return Problem(
        ProblemType.CAA,
        f"{identifier}: CAA records forbid a certificate: {reason}. CAA {observation.asked[-1]}{at}: {found}. {advice}",
    )
