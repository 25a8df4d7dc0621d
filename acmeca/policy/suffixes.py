"""Which suffixes can be a company's own, decided without asking the network or carrying a list that grows old.

Rule 1: `*.suffix` is refused where the suffix is, or may be, a public registry's: nearly every name below it belongs to
somebody else, and an entry like `*.com` is a slip of the pen (RULES §3: public names are refused by default).
Rule 2: a single label is allowed when a standard keeps it out of the public DNS (`PRIVATE_TOP_LEVEL`), or when the
configuration names it as its own (`policy.private_top_level`), which is possible for none that is surely public.
Rule 3: this guards against slips, not against intent: `*.example.com` is taken, whoever owns it. There is no complete list of
public suffixes here, so that two-label ones (`co.uk`) are told by their form alone.
"""

import re
from collections.abc import Collection
from typing import Final

PRIVATE_TOP_LEVEL: Final = frozenset(
    {
        # RFC 6761 §6.2 to §6.5
        "example",
        "invalid",
        "localhost",
        "test",
        # RFC 6762 §3, and appendix G: "private use" top-level names seen in the field
        "local",
        "corp",
        "home",
        "internal",  # also reserved by ICANN's board for private use, in July 2024
        "intranet",
        "lan",
        "private",
        # RFC 9476
        "alt",
        # what most /etc/hosts files hold; never delegated
        "localdomain",
    }
)

_GENERIC: Final = frozenset(
    {"aero", "arpa", "asia", "biz", "cat", "com", "coop", "edu", "gov", "info", "int", "jobs", "mil", "mobi"}
    | {"museum", "name", "net", "org", "post", "pro", "tel", "travel", "xxx"}
    | {"app", "blog", "cloud", "club", "dev", "online", "page", "shop", "site", "store", "tech", "top", "xyz"}
)
"""Top-level names that are surely public: those before 2012, and the newer ones that are taken for private most easily."""

_REGISTRY_LABELS: Final = frozenset({"ac", "co", "com", "edu", "gov", "mil", "net", "org"})
"""What country registries sell names below: `co.uk`, `com.au`, `ac.jp`."""

_COUNTRY: Final = re.compile(r"[a-z]{2}\Z")  # RFC 1591 §2, ISO 3166-1: two letters are a country's, given out or not


def refuse_suffix(pattern: str, own_top_level: Collection[str] = ()) -> str | None:
    """Why an entry of the allow-list is not taken, or None when it is.

    `pattern` comes from `parse_name_pattern`; `own_top_level` from `parse_own_top_level`. An exact name of one label is a
    host in a search domain and is taken, unless it is surely a registry's.
    """
    suffix = pattern.removeprefix("*.")
    labels = suffix.split(".")
    if len(labels) == 1:
        if suffix in PRIVATE_TOP_LEVEL or suffix in own_top_level:
            return None
        if pattern == suffix:
            return f'"{suffix}" is a public top-level domain, not a host' if suffix in _GENERIC else None
        return f'"{suffix}" {_why_public(suffix)}; write what is yours below it, like "*.yourcompany.{suffix}"' + (
            "" if _is_surely_public(suffix) else f', or, if nobody else has it, private_top_level = ["{suffix}"]'
        )
    if pattern != suffix and len(labels) == 2 and _is_registry(*labels):
        return f'"{suffix}" looks like a public registry\'s suffix; write what is yours below it, like "*.yourcompany.{suffix}"'
    return None


def parse_own_top_level(text: str) -> str:
    """Check one entry of `policy.private_top_level`: a canonical single label that is not surely public. Raises ValueError."""
    if "." in text or "*" in text:
        raise ValueError('write a single label without "*", like "consul"')
    if _is_surely_public(text):
        raise ValueError(f'"{text}" {_why_public(text)}; it cannot be your own')
    return text


def _is_surely_public(label: str) -> bool:
    return label in _GENERIC or label.startswith("xn--") or _COUNTRY.match(label) is not None


def _why_public(label: str) -> str:
    if _COUNTRY.match(label):
        return "is a country's top-level domain"
    return "is a public top-level domain" if _is_surely_public(label) else "may be a public top-level domain"


def _is_registry(second: str, top: str) -> bool:
    if top == "arpa":  # RFC 3172: infrastructure; RFC 8375 gives home.arpa to everybody's home
        return second != "home"
    return second in _REGISTRY_LABELS and _COUNTRY.match(top) is not None
