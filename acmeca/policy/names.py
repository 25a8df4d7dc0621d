"""Which names this CA issues for.

Rule 1: nothing is allowed that the configuration does not name. There is no pattern for "everything".
Rule 2: a refusal names the rule and what would be allowed, so that the reader can act on it.
"""

import ipaddress
from collections.abc import Callable, Iterable, Sequence
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
    one label below x, and `*.x` or `*.` with an end of x allows those; a pattern that is one name allows no wildcard. `section` is
    where in the configuration the list stands, for refusals.
    """

    allowed_names: tuple[str, ...]
    allowed_networks: tuple[Network, ...] = ()
    wildcards: bool = False
    section: str = "policy"

    def refusal(self, identifier: Identifier) -> str | None:
        """Why this identifier is not issued for, or None when it is."""
        if identifier.type is IdentifierType.IP:
            return self._refusal_of_address(identifier.value)
        if identifier.is_wildcard and not self.wildcards:
            return "wildcard names are not issued for: policy.wildcards is false; order the names one by one"
        if matches_name(self.allowed_names, identifier.value):
            return None
        if not self.allowed_names:
            return f"names are not issued for: {self.section}.allowed_names is empty"
        return f"the name is not in {self.section}.allowed_names, which allows {show_allowed(self.allowed_names)}"

    def refusals(self, identifiers: Sequence[Identifier]) -> tuple[Problem, ...]:
        """A problem for each identifier that is refused: every one is asked about, once (RULES §3)."""
        return tuple(
            Problem(ProblemType.REJECTED_IDENTIFIER, f"{identifier}: {reason}", identifier=identifier)
            for identifier in identifiers
            if (reason := self.refusal(identifier)) is not None
        )

    def refusal_of_pattern(self, pattern: str) -> str | None:
        """Why not every name that a pattern allows is issued for, or None when each is."""
        if matches_name(self.allowed_names, pattern):
            return None
        return f"it reaches beyond policy.allowed_names, which allows {show_allowed(self.allowed_names)}"

    def refusal_of_network(self, network: Network) -> str | None:
        """Why not every address of a network is issued for, or None when each is."""
        if any(_contains(allowed, network) for allowed in self.allowed_networks):
            return None
        if not self.allowed_networks:
            return "policy.allowed_networks is empty"
        return f"it reaches beyond policy.allowed_networks, which allows {show_allowed(self.allowed_networks)}"

    def _refusal_of_address(self, value: str) -> str | None:
        if matches_address(self.allowed_networks, value):
            return None
        if not self.allowed_networks:
            return f"IP addresses are not issued for: {self.section}.allowed_networks is empty"
        return (
            f"the address is not in {self.section}.allowed_networks, which allows {show_allowed(self.allowed_networks)}"
        )


def first_refusals(
    asked: Iterable[Callable[[Sequence[Identifier]], tuple[Problem, ...]]], identifiers: Sequence[Identifier]
) -> tuple[Problem, ...]:
    """What several policies refuse, each asked about what none before it has: an identifier has one problem at the most."""
    problems: list[Problem] = []
    left = list(identifiers)
    for refusals in asked:
        problems += refusals(left)
        told = {problem.identifier for problem in problems}
        left = [identifier for identifier in left if identifier not in told]
    return tuple(problems)


def matches_name(patterns: Iterable[str], name: str) -> bool:
    """Whether one of the patterns allows a name, or every name that a wildcard stands for."""
    # Every name that `*.a.x` stands for ends as it does, with a label in the place of the asterisk.
    return any(name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern for pattern in patterns)


def matches_address(networks: Iterable[Network], value: str) -> bool:
    """Whether one of the networks holds an address, given as canonical text."""
    address = ipaddress.ip_address(value)
    return any(address in network for network in networks if network.version == address.version)


def _contains(network: Network, other: Network) -> bool:
    match network, other:
        case (ipaddress.IPv4Network(), ipaddress.IPv4Network()) | (ipaddress.IPv6Network(), ipaddress.IPv6Network()):
            return other.subnet_of(network)  # type: ignore[arg-type]  # both are of one version here
        case _:
            return False


def show_allowed(allowed: Sequence[str | Network]) -> str:
    """What an allow-list holds, for a refusal: the first few."""
    listed = ", ".join(map(str, allowed[:_SHOWN]))
    return listed if len(allowed) <= _SHOWN else f"{listed} and {len(allowed) - _SHOWN} more"
