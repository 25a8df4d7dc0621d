"""Identifiers of type `dns` (RFC 8555 §9.7.7) and `ip` (RFC 8738), canonicalised once, at entry.

Rule 1: everything behind the `canonical_` functions sees lower-case A-labels and canonical addresses only, so that comparing
names is comparing strings.
Rule 2: what is not a host name is refused here; whether an account may have the name is `policy/names.py`'s question.
"""

import functools
import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import idna

from acmeca.quoting import quote_input

_MAX_NAME_LENGTH: Final = 253  # octets of a name without its trailing dot (RFC 1035 §2.3.4, less the lengths' overhead)
_MAX_HINT_LENGTH: Final = 32  # characters; converting a longer U-label only for a hint would cost too much
_MAX_ADDRESS_LENGTH: Final = 45  # characters of the longest IPv6 text

# RFC 952 and RFC 1123 §2.1: letters, digits, hyphens, no hyphen at an end; RFC 1035 §2.3.4: at most 63 octets.
# `\Z`, since `$` would let a trailing newline through.
_LDH_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
# What a resolver may take for an IPv4 address (inet_aton, WHATWG URL): the last label is a decimal, octal or hex number.
_NUMERIC_LABEL: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")


class IdentifierType(StrEnum):
    """What kind of name an identifier holds."""

    DNS = "dns"
    IP = "ip"


@dataclass(frozen=True, slots=True, order=True)
class Identifier:
    """A canonical identifier. A wildcard's value keeps its `*.` in an order and loses it in an authorization (§7.1.4)."""

    type: IdentifierType
    value: str

    @property
    def is_wildcard(self) -> bool:
        return self.value.startswith("*.")

    @property
    def base(self) -> "Identifier":
        """The identifier whose control has to be shown: itself, or the name below which a wildcard stands."""
        return Identifier(self.type, self.value[2:]) if self.is_wildcard else self

    def to_json(self) -> dict[str, str]:
        return {"type": self.type.value, "value": self.value}

    def __str__(self) -> str:
        return self.value


def canonical_dns_name(text: str) -> str:
    """The name in lower-case A-labels, `*.` before it if it is a wildcard. Raises ValueError with the reason.

    1. length and ASCII, 2. the labels, 3. a wildcard, 4. LDH, 5. IDNA, 6. no address in disguise
    """
    # Step 1: length and ASCII. RFC 8555 §7.1.4: a name comes "in the form in which it would appear in a certificate".
    if len(text) > _MAX_NAME_LENGTH:
        raise ValueError(f"the name has more than {_MAX_NAME_LENGTH} characters")
    if not text.isascii():
        raise ValueError(f"the name is not ASCII{_a_label_hint(text)}")

    # Step 2: the labels.
    name = text.lower()
    labels = name.split(".")
    if len(labels) > 1 and not labels[-1]:
        raise ValueError("the name ends in a dot: leave it out")

    # Step 3: RFC 8555 §7.1.3: a wildcard is a single "*" as the whole leftmost label, with a name below it.
    if labels[0] == "*":
        del labels[0]
        if not labels:
            raise ValueError("a wildcard needs a name after '*.'")

    for label in labels:
        # Step 4: LDH.
        if _LDH_LABEL.match(label) is None:
            raise ValueError(_why_not_ldh(label))
        # Step 5: RFC 5890 §2.3.1: with hyphens in the third and fourth place a label is an A-label, or reserved.
        # RFC 8555 §7.1.4: "Servers MUST verify" that A-labels "are properly encoded".
        if label[2:4] == "--" and not _is_a_label(label):
            raise ValueError(f"the label {quote_input(label)} is not a valid A-label (IDNA 2008)")

    # Step 6: `127.1`, `0x7f.1`, `2130706433`: names that some resolvers and browsers read as addresses.
    if _NUMERIC_LABEL.match(labels[-1]):
        raise ValueError(
            "its last label is a number, so that it could be taken for an IP address: use type 'ip' for one"
        )
    return name


def canonical_ip(text: str) -> str:
    """The address, if `text` is its canonical form. Raises ValueError with the reason.

    RFC 8738 §3: an IPv4 address as RFC 1123 §2.1 has it, an IPv6 address as RFC 5952 §4 has it. Other spellings are refused
    and not corrected: what the client signed is what the certificate says.
    """
    if len(text) > _MAX_ADDRESS_LENGTH:
        raise ValueError("it is not an IP address")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError("it is not an IP address, or not written in its canonical form") from None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise ValueError("an address with a zone means something on one host only")
        if address.ipv4_mapped is not None:
            raise ValueError(f"it is an IPv4 address in an IPv6 form: write {address.ipv4_mapped}")
    canonical = str(address)
    if canonical != text:
        raise ValueError(f"it is not in canonical form: write {canonical}")
    return canonical


def _why_not_ldh(label: str) -> str:
    if not label:
        return "the name has an empty label"
    if "*" in label:
        return "a wildcard is '*' alone, as the whole leftmost label"
    if "_" in label:
        return "a host name has no underscore"
    if ":" in label:
        return "a host name has no colon: neither a port nor an IPv6 address belongs here"
    if len(label) > 63:
        return "a label has more than 63 characters"
    return f"the label {quote_input(label)} has to be letters, digits and inner hyphens only"


@functools.lru_cache(maxsize=4096)  # the names of one company share their labels, and the Unicode tables are slow
def _is_a_label(label: str) -> bool:
    """RFC 5891 §5.4: an A-label decodes to a valid U-label, which encodes to that A-label and no other."""
    if not label.startswith("xn--"):
        return False
    try:
        return "xn--" + idna.ulabel(label).encode("punycode").decode("ascii") == label
    except ValueError:  # IDNAError, and what Python's Unicode tables raise for code points that they do not know
        return False


def _a_label_hint(text: str) -> str:
    if len(text) > _MAX_HINT_LENGTH:
        return ": write it in A-labels (xn--…)"
    try:
        return f": write {idna.encode(text, uts46=True).decode('ascii')}"
    except ValueError:
        return ""
