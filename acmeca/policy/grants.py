"""Grants: what the accounts of an external account binding may have (RFC 8555 §7.3.4).

Rule 1: a grant narrows what the configuration allows and never widens it: both are asked, about every identifier.
Rule 2: a grant without names and networks narrows neither. One that has either allows what it lists, and nothing else.
Rule 3: only a grant that lists what it is for can make authorizations valid from the beginning: there is no switch that leaves
validation out for everything (RULES §2).
Rule 4: what a grant allows is fixed when it is made. Later it can be disabled and enabled, and be given another end.
Rule 5: a grant that is disabled, or over, is of no use to anybody: neither to a new account nor to those that it has.
"""

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.objects import dump_json, format_time
from acmeca.acme.problem import Problem, ProblemType
from acmeca.policy.limits import Limit, Rate, Taking, parse_rate
from acmeca.policy.names import Network, matches_address, matches_name, parse_name_pattern, show_allowed

MAX_OWNER: Final = 64  # characters
MAX_LISTED: Final = 100  # names, networks or profiles of one grant
_SHORTEST_LIFETIME: Final = timedelta(minutes=10)  # as policy.lifetime has it


class GrantStatus(StrEnum):
    """Whether an administrator lets a grant be used."""

    ACTIVE = "active"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A grant. Raises ValueError, with what is allowed, for one that cannot be.

    `id` is the `kid` of the binding; `owner` says to people whose it is. `names` come from `parse_name_pattern`. Of `profiles`
    the first is the default; empty means all that there are. `lifetime` is the longest that its certificates live, `quota` how many
    orders its accounts can make together. With `single_use` it makes one account, and with `preauthorized` authorizations for what it lists are valid from the beginning.
    `expires_at` is None for a grant without an end.
    """

    id: str
    owner: str
    names: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    profiles: tuple[str, ...] = ()
    lifetime: timedelta | None = None
    quota: Rate | None = None
    single_use: bool = False
    preauthorized: bool = False
    status: GrantStatus = GrantStatus.ACTIVE
    created_at: datetime
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.owner) <= MAX_OWNER or not self.owner.isprintable() or self.owner != self.owner.strip():
            raise ValueError(f"owner: 1 to {MAX_OWNER} printable characters are allowed, without blanks at either end")
        if max(len(self.names), len(self.networks), len(self.profiles)) > MAX_LISTED:
            raise ValueError(f"at most {MAX_LISTED} names, networks and profiles are allowed")
        if self.preauthorized and not (self.names or self.networks):
            raise ValueError(
                "preauthorized: list the names or networks that need no validation; there is no grant for everything"
            )
        if self.lifetime is not None and self.lifetime < _SHORTEST_LIFETIME:
            raise ValueError("lifetime: at least 10m is allowed")
        if self.expires_at is not None and self.expires_at <= self.created_at:
            raise ValueError("expires: the end has to come after the beginning")

    def obstacle(self, now: datetime) -> str | None:
        """Why the grant is of no use now, or None (rule 5)."""
        return describe_end(self.status, self.expires_at, now)

    def refusal(self, identifier: Identifier) -> str | None:
        """Why the grant does not allow an identifier, or None when it does. Whether the configuration does is another question."""
        if not self.names and not self.networks:  # rule 2
            return None
        if identifier.type is IdentifierType.IP:
            if matches_address(self.networks, identifier.value):
                return None
            what, allowed = "addresses", show_allowed(self.networks)
        else:
            if matches_name(self.names, identifier.value):
                return None
            what, allowed = "names", show_allowed(self.names)
        return f"the account's grant ({self.owner}) does not cover it; of {what} it covers {allowed or 'none'}"

    def refusals(self, identifiers: Sequence[Identifier]) -> tuple[Problem, ...]:
        """A problem for each identifier that is refused: every one is asked about, once (RULES §3)."""
        return tuple(
            Problem(ProblemType.REJECTED_IDENTIFIER, f"{identifier}: {reason}", identifier=identifier)
            for identifier in identifiers
            if (reason := self.refusal(identifier)) is not None
        )

    @property
    def takings(self) -> tuple[Taking, ...]:
        """The limits that an order of one of its accounts uses."""
        return () if self.quota is None else (Taking(Limit.GRANT_QUOTA, self.id, self.quota),)

    def authorizes(self, identifier: Identifier, now: datetime) -> bool:
        """Whether an authorization for the identifier is valid without a challenge (rule 3)."""
        return self.preauthorized and self.obstacle(now) is None and self.refusal(identifier) is None


def describe_end(status: GrantStatus, expires_at: datetime | None, now: datetime) -> str | None:
    """Why a grant of this status and end is of no use now, or None."""
    if status is GrantStatus.DISABLED:
        return "it was disabled by the administrators of this CA; ask them"
    if expires_at is not None and expires_at <= now:
        return f"it ended {format_time(expires_at)}; ask the administrators of this CA for a longer one"
    return None


def dump_terms(grant: Grant) -> str:
    """What a grant allows, as canonical JSON text: what is kept of it beside its own columns."""
    return dump_json(
        {
            "names": list(grant.names),
            "networks": [str(network) for network in grant.networks],
            "profiles": list(grant.profiles),
            "lifetime": None if grant.lifetime is None else int(grant.lifetime.total_seconds()),
            "quota": None if grant.quota is None else str(grant.quota),
            "preauthorized": grant.preauthorized,
        }
    ).decode()


def load_grant(
    text: str,
    *,
    id_: str,
    owner: str,
    single_use: bool,
    status: str,
    created_at: datetime,
    expires_at: datetime | None,
) -> Grant:
    """The grant whose terms `dump_terms` wrote. Raises ValueError when it did not: the store is damaged, and nothing is guessed."""
    try:
        terms: dict[str, Any] = json.loads(text)
        lifetime, quota = terms["lifetime"], terms["quota"]
        grant = Grant(
            id=id_,
            owner=owner,
            names=tuple(parse_name_pattern(name) for name in terms["names"]),
            networks=tuple(ipaddress.ip_network(network) for network in terms["networks"]),
            profiles=tuple(terms["profiles"]),
            lifetime=None if lifetime is None else timedelta(seconds=lifetime),
            quota=None if quota is None else parse_rate(quota),
            single_use=single_use,
            preauthorized=terms["preauthorized"] is True,
            status=GrantStatus(status),
            created_at=created_at,
            expires_at=expires_at,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the terms of grant {id_} are not what acmeca wrote: {error}") from error
    if dump_terms(grant) != text:
        raise ValueError(f"the terms of grant {id_} are not as acmeca writes them")
    return grant
