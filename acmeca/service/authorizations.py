"""What an order rests on: authorizations that the account holds already, and new ones (RFC 8555 §7.1.3, §7.1.4).

Rule 1: a valid authorization counts for another order of the same account and the same identifier, unexpired, not given up, and
only if its challenge type is still allowed (RULES §3). A wildcard's is no base name's, nor the other way round. The store asks all
of that again in the transaction that makes the order.
Rule 2: a pending one is never taken. Two orders would hang on one challenge, and whoever fails or gives up the one ends the other;
that is no good for hosts that share an account.
Rule 3: what a grant gave is not taken either: the grant is asked anew for each order, and makes a new one valid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from acmeca.acme.challenges import new_token
from acmeca.acme.identifiers import Identifier
from acmeca.acme.objects import Authorization, Challenge
from acmeca.acme.states import AuthorizationStatus, ChallengeStatus
from acmeca.policy.challenges import ChallengePolicy
from acmeca.policy.grants import Grant
from acmeca.policy.lifetimes import Lifetimes
from acmeca.service.ambient import Ambient
from acmeca.storage.store import Store

_TOKEN_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Basis:
    """An authorization for each identifier of an order, in their order. `new` are those among them that are not stored yet."""

    authorizations: tuple[Authorization, ...]
    new: tuple[Authorization, ...]
    expires_at: datetime

    @property
    def is_complete(self) -> bool:
        """§7.1.6: "all of the authorizations … are in the "valid" state"."""
        return all(item.status is AuthorizationStatus.VALID for item in self.authorizations)


class Authorizations:
    """Chooses and makes them. The `challenges` that are offered and taken are those of the order's profile."""

    def __init__(self, store: Store, *, lifetimes: Lifetimes, ambient: Ambient) -> None:
        self._store = store
        self._lifetimes = lifetimes
        self._ambient = ambient

    @property
    def count_beforehand(self) -> bool:
        """Whether one that was not made for an order may be the ground of one: without that there is no pre-authorization (§7.4.1)."""
        return self._lifetimes.is_control_kept

    async def for_order(
        self,
        account_id: str,
        identifiers: Sequence[Identifier],
        *,
        challenges: ChallengePolicy,
        grant: Grant | None,
        now: datetime,
    ) -> Basis:
        """What an order for these identifiers rests on if it is made now: what the account holds, and the rest anew.

        `grant` is the one that the account is bound to.
        """
        wanted = [item for item in identifiers if not _is_granted(grant, item, now)]
        held = {}
        if self.count_beforehand and wanted:
            held = await self._held(account_id, wanted, challenges=challenges, now=now)
        return self._basis(account_id, identifiers, held, challenges=challenges, grant=grant, now=now)

    def anew(
        self,
        account_id: str,
        identifiers: Sequence[Identifier],
        *,
        challenges: ChallengePolicy,
        grant: Grant | None,
        now: datetime,
    ) -> Basis:
        """The same with new authorizations only."""
        return self._basis(account_id, identifiers, {}, challenges=challenges, grant=grant, now=now)

    def new(
        self,
        account_id: str,
        identifier: Identifier,
        *,
        challenges: ChallengePolicy,
        grant: Grant | None,
        now: datetime,
    ) -> Authorization:
        """A pending authorization with the challenges that are offered for the identifier (§7.1.4), or a valid one by the grant.

        §7.1.4 has a valid authorization show "the challenge that was validated", and clients read its token: so one by a grant shows
        one, of a type that would have been offered.
        """
        if grant is not None and _is_granted(grant, identifier, now):
            return self._granted(account_id, identifier, challenges, grant, now)
        return Authorization(
            id=self._ambient.new_id(),
            account_id=account_id,
            identifier=identifier.base,
            wildcard=identifier.is_wildcard,
            status=AuthorizationStatus.PENDING,
            expires_at=now + self._lifetimes.order,
            challenges=tuple(
                Challenge(
                    type=type_, token=new_token(self._ambient.entropy(_TOKEN_BYTES)), status=ChallengeStatus.PENDING
                )
                for type_ in challenges.offered(identifier)
            ),
        )

    def _granted(
        self, account_id: str, identifier: Identifier, challenges: ChallengePolicy, grant: Grant, now: datetime
    ) -> Authorization:
        challenge = Challenge(
            type=challenges.offered(identifier)[0],
            token=new_token(self._ambient.entropy(_TOKEN_BYTES)),
            status=ChallengeStatus.VALID,
            validated_at=now,
        )
        return Authorization(
            id=self._ambient.new_id(),
            account_id=account_id,
            identifier=identifier.base,
            wildcard=identifier.is_wildcard,
            status=AuthorizationStatus.VALID,
            expires_at=now + self._lifetimes.order,
            challenges=(challenge,),
            grant_id=grant.id,
        )

    def _basis(
        self,
        account_id: str,
        identifiers: Sequence[Identifier],
        held: dict[Identifier, Authorization],
        *,
        challenges: ChallengePolicy,
        grant: Grant | None,
        now: datetime,
    ) -> Basis:
        new = {
            item: self.new(account_id, item, challenges=challenges, grant=grant, now=now)
            for item in identifiers
            if item not in held
        }
        expires_at = self._lifetimes.expiry_of_order(held.values(), at=now)
        if grant is not None and grant.expires_at is not None:  # what it promises ends with the grant
            expires_at = min(expires_at, grant.expires_at)
        return Basis(
            authorizations=tuple(held.get(item) or new[item] for item in identifiers),
            new=tuple(new.values()),
            expires_at=expires_at,
        )

    async def _held(
        self, account_id: str, identifiers: Sequence[Identifier], *, challenges: ChallengePolicy, now: datetime
    ) -> dict[Identifier, Authorization]:
        """Rule 1; of several for one identifier the one that counts longest."""
        wanted, least = set(identifiers), now + self._lifetimes.least
        found = await self._store.authorizations.valid(account_id, identifiers, at=now)
        usable = [
            item
            for item in found
            if item.ordered in wanted
            and item.grant_id is None  # rule 3
            and challenges.accepts(item)
            and self._lifetimes.counts_until(item) >= least
        ]
        return {item.ordered: item for item in sorted(usable, key=self._lifetimes.counts_until)}


def _is_granted(grant: Grant | None, identifier: Identifier, now: datetime) -> bool:
    return grant is not None and grant.authorizes(identifier, now)
