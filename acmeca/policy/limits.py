"""Rate limits (RFC 8555 §6.6): what "500/week" means, how far it is used up, and what a client is told.

Rule 1: "N/period" is never more than N in any period, wherever that begins. N at once is allowed.
Rule 2: a use is given back one period after it at the earliest, and a sixtieth of the period (`Rate.grain`) later at the latest:
uses are kept added up by grains, so that a limit takes a bounded room however large N is.
Rule 3: a use that lies in the future counts as one of now: a clock that was ahead and is right again shuts nobody out for longer
than one period.
Rule 4: nothing is looked up or kept here; `storage/limits.py` does.
"""

import ipaddress
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeAlias

from acmeca.acme.identifiers import Identifier
from acmeca.acme.objects import format_time

_RATE: Final = re.compile(
    r"(?P<count>[1-9][0-9]{0,8})/"
    r"(?:(?P<number>[1-9][0-9]{0,7})(?P<unit>[smhd])|(?P<word>second|minute|hour|day|week))\Z"
)
_WORDS: Final = {"week": 604_800, "day": 86_400, "hour": 3_600, "minute": 60, "second": 1}
_UNITS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_UNIT_WORDS: Final = {"d": "day", "h": "hour", "m": "minute", "s": "second"}
_LONGEST: Final = 366 * 86_400
_GRAINS: Final = 60
_IPV6_HOST_BITS: Final = 64

Uses: TypeAlias = tuple[tuple[int, int], ...]
"""How far a limit is used up: the end of a grain in Unix seconds, and how many uses fell into it; the oldest first."""


class Limit(StrEnum):
    """What is limited; the value is its key in `[limits]` where it has one."""

    NEW_ACCOUNTS_PER_ADDRESS = "new_accounts_per_address"
    NEW_ORDERS_PER_ACCOUNT = "new_orders_per_account"
    CERTIFICATES_PER_NAME = "certificates_per_name"
    FAILED_VALIDATIONS = "failed_validations_per_account_and_name"
    GRANT_QUOTA = "grant_quota"  # of the grant's own terms


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` in any `seconds` (rule 1)."""

    count: int
    seconds: int

    @property
    def grain(self) -> int:
        """By how many seconds a use may be given back later than rule 1 asks for."""
        return -(-self.seconds // _GRAINS)

    def __str__(self) -> str:
        """What `parse_rate` reads."""
        unit, size = self._unit
        return f"{self.count}/{self.seconds // size}{unit}"

    @property
    def period(self) -> str:
        """For people: `3 hours`, `7 days`."""
        unit, size = self._unit
        number = self.seconds // size
        return f"{number} {_UNIT_WORDS[unit]}{'' if number == 1 else 's'}"

    @property
    def _unit(self) -> tuple[str, int]:
        return next((unit, size) for unit, size in _UNITS.items() if self.seconds % size == 0)


@dataclass(frozen=True, slots=True)
class Taking:
    """A wish to use `count` of a limit. With a `count` of 0 it is only asked whether one use is left.

    `subject` is whose limit it is: an account's or a grant's id, a network address, or nothing where the identifier says it all.
    """

    limit: Limit
    subject: str
    rate: Rate
    count: int = 1
    identifier: Identifier | None = None

    @property
    def key(self) -> str:
        """The name of this limit and of whose it is: `new_orders_per_account:ID`."""
        parts = (self.limit.value, self.subject, "" if self.identifier is None else str(self.identifier))
        return ":".join(part for part in parts if part)


def parse_rate(text: str) -> Rate:
    """`500/week`, `300/3h`: a number, and a period as a duration (s, m, h, d) or a word. Raises ValueError with what is allowed."""
    match = _RATE.match(text)
    if match is None:
        raise ValueError('write a number and a period, like "500/week", "300/3h" or "10/day"')
    seconds = _WORDS[match["word"]] if match["word"] else int(match["number"]) * _UNITS[match["unit"]]
    if seconds > _LONGEST:
        raise ValueError(f"a period of at most {_LONGEST // 86_400}d is allowed")
    return Rate(int(match["count"]), seconds)


def address_subject(address: str | None) -> str | None:
    """Whose limit an IP address has: itself, or for IPv6 its /64, which is one host's to choose from; v4-mapped ones are IPv4.

    None for one whose limit is nobody's: a loopback address (a proxy on this machine stands for all its clients), or no address.
    """
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    if parsed.is_loopback:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(parsed) >> _IPV6_HOST_BITS << _IPV6_HOST_BITS, 128 - _IPV6_HOST_BITS)))
    return str(parsed)


# --- how far it is used up ------------------------------------------------------------------------------------------


def counted(uses: Uses, rate: Rate, now: int) -> Uses:
    """The uses that still count at `now`, those from the future as uses of now (rule 3)."""
    end = _grain_end(rate, now)
    if not uses or (uses[0][0] + rate.seconds > now and uses[-1][0] <= end):  # as nearly always
        return uses
    kept: dict[int, int] = {}
    for at, count in uses:
        moment = min(at, end)
        if moment + rate.seconds > now:
            kept[moment] = kept.get(moment, 0) + count
    return tuple(sorted(kept.items()))


def free_at(uses: Uses, rate: Rate, wanted: int, now: int) -> int | None:
    """None when `wanted` more can be used at `now`, otherwise the moment when they can. `uses` come from `counted`."""
    missing = sum(count for _, count in uses) + wanted - rate.count
    if missing <= 0:
        return None
    for at, count in uses:
        missing -= count
        if missing <= 0:
            return at + rate.seconds
    return now + rate.seconds  # more than the limit ever has


def used(uses: Uses, rate: Rate, count: int, now: int) -> Uses:
    """The uses with `count` more at `now`. `uses` come from `counted`."""
    end = _grain_end(rate, now)
    if uses and uses[-1][0] == end:  # the last one: `counted` leaves nothing behind it
        return (*uses[:-1], (end, uses[-1][1] + count))
    return (*uses, (end, count))


def whole_at(uses: Uses, rate: Rate) -> int:
    """When nothing of the limit is used up any more; 0 for one that is unused."""
    return uses[-1][0] + rate.seconds if uses else 0


def _grain_end(rate: Rate, now: int) -> int:
    """Rule 1 rests on it: the end of a grain is later than every use in it."""
    return (now // rate.grain + 1) * rate.grain


# --- what is said of it ---------------------------------------------------------------------------------------------


def detail(taking: Taking, free: datetime) -> str:
    """For the client: which limit, and when the same request can succeed (§6.6)."""
    count, period = taking.rate.count, taking.rate.period
    what = {
        Limit.NEW_ACCOUNTS_PER_ADDRESS: f"newAccount: {count} accounts can be made from one address in {period}",
        Limit.NEW_ORDERS_PER_ACCOUNT: f"newOrder: this account may make {count} orders in {period}",
        Limit.CERTIFICATES_PER_NAME: f"{taking.identifier}: {count} certificates are issued for one name in {period}, renewals aside",
        Limit.FAILED_VALIDATIONS: f"{taking.identifier}: {count} validations of it may fail for this account in {period}",
        Limit.GRANT_QUOTA: f"the grant that this account is bound to allows {count} orders in {period}",
    }[taking.limit]
    return f"{what}; the next one at {format_time(free)}"
