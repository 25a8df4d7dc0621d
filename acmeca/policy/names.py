"""Which names this CA issues for.

Rule 1: nothing is allowed that the configuration does not name. There is no pattern for "everything".
Rule 2: a refusal names the rule and what would be allowed, so that the reader can act on it.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from acmeca.acme.identifiers import Identifier, IdentifierType, canonical_dns_name
from acmeca.acme.problem import Problem, ProblemType

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_SHOWN: Final = 6  # patterns named in a refusal; a long list helps nobody


def parse_name_pattern(text: str) -> str:
    """Check one entry of `policy.allowed_names`: `name` or `*.suffix`, in canonical form.

    `*.x` matches any depth below x and never x; `x` matches itself. Raises `ValueError` with what is allowed.
    """
    if text == "*":
        raise ValueError('"*" would allow every name there is; write the suffixes you own, like "*.corp.internal"')
    suffix = text.removeprefix("*.")
    if "*" in suffix:
        raise ValueError('a "*" may only stand at the start, like "*.corp.internal"')
    return text[: len(text) - len(suffix)] + canonical_dns_name(suffix)


@dataclass(frozen=True, slots=True)
class NamePolicy:
    """The allow-list. `allowed_names` come from `parse_name_pattern`; `allowed_networks` are for `ip` identifiers.

    With `wildcards` a wildcard is issued for when a pattern allows every name that it stands for. `*.x` stands for the names
    one label below x, and `*.x` or `*.` with an end of x allows those; a pattern that is one name allows no wildcard.
    """

    allowed_names: tuple[str, ...]
    allowed_networks: tuple[Network, ...] = ()
    wildcards: bool = False

    def refusal(self, identifier: Identifier) -> str | None:
        """Why this identifier is not issued for, or None when it is."""
        if identifier.type is IdentifierType.IP:
            return self._refusal_of_address(identifier.value)
        if identifier.is_wildcard and not self.wildcards:
            return "wildcard names are not issued for: policy.wildcards is false; order the names one by one"
        if any(_matches(pattern, identifier.value) for pattern in self.allowed_names):
            return None
        return f"the name is not in policy.allowed_names, which allows {_shown(self.allowed_names)}"

    def refusals(self, identifiers: Sequence[Identifier]) -> tuple[Problem, ...]:
        """A problem for each identifier that is refused: every one is asked about, once (RULES §3)."""
        return tuple(
            Problem(ProblemType.REJECTED_IDENTIFIER, f"{identifier}: {reason}", identifier=identifier)
            for identifier in identifiers
            if (reason := self.refusal(identifier)) is not None
        )

    def _refusal_of_address(self, value: str) -> str | None:
        address = ipaddress.ip_address(value)
        if any(address in network for network in self.allowed_networks if network.version == address.version):
            return None
        if not self.allowed_networks:
            return "IP addresses are not issued for: policy.allowed_networks is empty"
        return (
            "the address is not in policy.allowed_networks, which allows "
            f"{_shown(tuple(str(network) for network in self.allowed_networks))}"
        )


def _matches(pattern: str, name: str) -> bool:
    # Of a wildcard too: every name that `*.a.x` stands for ends as it does, with a label in the place of the asterisk.
    return name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern


def _shown(allowed: tuple[str, ...]) -> str:
    listed = ", ".join(allowed[:_SHOWN])
    return listed if len(allowed) <= _SHOWN else f"{listed} and {len(allowed) - _SHOWN} more"
