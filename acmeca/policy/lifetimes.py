"""How long orders and authorizations last.

Rule 1: no order outlives an authorization that it rests on (RFC 8555 §7.4: the order "represents a promise that if the client
fulfills the server's requirements before the "expires" time, then the server will be willing to finalize the order").
Rule 2: control that was shown counts for as long as the configuration says now, not when it was shown.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from acmeca.acme.objects import Authorization
from acmeca.acme.states import ChallengeStatus

DEFAULT_CONTROL: Final = timedelta(days=1)
_ORDER: Final = timedelta(days=1)  # from newOrder to finalize; a record in DNS may take hours to be seen
_LEAST: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """`control` is how long control that an account has shown counts; 0: for the order that it was shown for, and no other."""

    control: timedelta = DEFAULT_CONTROL

    @property
    def is_control_kept(self) -> bool:
        """Whether what was shown once counts for a second order."""
        return bool(self.control)

    @property
    def order(self) -> timedelta:
        """How long a client has from newOrder to finalize, and to complete a pending authorization."""
        return min(_ORDER, self.control) if self.control else _ORDER

    @property
    def least(self) -> timedelta:
        """How long an authorization has to count still to be taken for another order, whose client has as much time then."""
        return min(_LEAST, self.order / 2)

    def expiry_when_valid(self, authorization: Authorization, *, at: datetime) -> datetime:
        """When a pending authorization expires that becomes valid `at` (§7.5.1: the server "may modify the "expires" field")."""
        return max(authorization.expires_at, at + self.control)  # rule 1: never before its order

    def counts_until(self, authorization: Authorization) -> datetime:
        """Until when a valid authorization may be the ground of another order (rule 2)."""
        shown = [
            challenge.validated_at + self.control
            for challenge in authorization.challenges
            if challenge.status is ChallengeStatus.VALID and challenge.validated_at is not None
        ]
        return min([authorization.expires_at, *shown])

    def expiry_of_order(self, reused: Iterable[Authorization], *, at: datetime) -> datetime:
        """When an order expires that is made `at` and rests on these, besides new ones (rule 1)."""
        return min([at + self.order, *map(self.counts_until, reused)])
