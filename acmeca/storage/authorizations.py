"""Authorizations as rows, and those that do not come with an order.

Rule 1: every read for a client carries the account; what belongs to another account does not exist (RULES §2).
Rule 2: whether an authorization is still what somebody read is asked in the transaction that rests on it (`link_valid`).

How they move (`begin_validation`, `record_outcome`, …) stands with the orders that move with them (`orders.py`).
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from acmeca import audit
from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.objects import Authorization, Challenge, ChallengeType, format_time
from acmeca.acme.states import AuthorizationStatus, ChallengeStatus
from acmeca.policy.limits import Taking
from acmeca.storage.accounts import may_act
from acmeca.storage.audit import append
from acmeca.storage.database import Database, Row, Transaction
from acmeca.storage.errors import StaleError
from acmeca.storage.limits import take
from acmeca.storage.times import from_seconds, to_seconds

_READ_PER_NAME: Final = 4
_NAMES_AT_ONCE: Final = 10  # PostgreSQL plans a statement about a hundred for longer than it takes to make the order

COLUMNS = "a.id, a.account_id, a.identifier_type, a.identifier_value, a.wildcard, a.status, a.challenges, a.expires_at, a.grant_id"
"""What `load_authorization` reads, of `authorizations a`."""


class Authorizations:
    """The table `authorizations`, as far as no order moves with it."""

    def __init__(self, database: Database, *, writer: str) -> None:
        self._database = database
        self._writer = writer

    async def create(self, authorization: Authorization, *, at: datetime, takings: Sequence[Taking] = ()) -> None:
        """Store a new authorization of its own (§7.4.1); `StaleError` when the account may act no longer (`may_act`).

        `takings` are the limits that it uses; `LimitReachedError` when one has no room.
        """

        async def body(tx: Transaction) -> None:
            await take(tx, takings, at=at)
            owner = await tx.fetch_one(
                f"SELECT 1 FROM accounts WHERE id = $1 AND {may_act('$2')}",
                authorization.account_id,
                to_seconds(at),
            )
            if owner is None:
                raise StaleError(f"account {authorization.account_id} is not valid")
            await insert_authorization(tx, authorization, writer=self._writer, at=at)

        await self._database.write(body)

    async def of_order(self, order_id: str) -> list[Authorization]:
        """Those that an order rests on, in the order of its identifiers."""
        rows = await self._database.fetch_all(
            f"SELECT {COLUMNS} FROM order_authorizations oa JOIN authorizations a ON a.id = oa.authorization_id"
            " WHERE oa.order_id = $1 ORDER BY oa.position",
            order_id,
        )
        return [load_authorization(row) for row in rows]

    async def valid(self, account_id: str, identifiers: Sequence[Identifier], *, at: datetime) -> list[Authorization]:
        """The account's valid, unexpired authorizations for these identifiers; a wildcard's are its own.

        Of several for one those that expire last: an account can have any number of them, and each takes some time to read.
        """
        found: list[Authorization] = []
        for begin in range(0, len(identifiers), _NAMES_AT_ONCE):
            part = identifiers[begin : begin + _NAMES_AT_ONCE]
            rows = await self._database.fetch_all(
                " UNION ALL ".join(_longest(place) for place in range(3, 3 * len(part) + 3, 3)),
                account_id,
                to_seconds(at),
                *(value for each in part for value in (each.base.value, each.type.value, int(each.is_wildcard))),
            )
            found += map(load_authorization, rows)
        return found


def _longest(place: int) -> str:
    """Some authorizations for the identifier whose value, type and wildcard stand at `$place` and behind it. An index has their order."""
    return (
        f"SELECT * FROM (SELECT {COLUMNS} FROM authorizations a WHERE a.account_id = $1 AND a.identifier_value = ${place}"
        f" AND a.identifier_type = ${place + 1} AND a.wildcard = ${place + 2} AND a.status = 'valid' AND a.expires_at > $2"
        f" ORDER BY a.expires_at DESC LIMIT {_READ_PER_NAME}) AS longest"
    )


async def insert_authorization(tx: Transaction, authorization: Authorization, *, writer: str, at: datetime) -> None:
    """Store one of an account that is known to be valid in this transaction. That it is valid by a grant stands in the audit."""
    await tx.execute(
        "INSERT INTO authorizations (id, account_id, identifier_type, identifier_value, wildcard, status, challenges, expires_at,"
        " grant_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        authorization.id,
        authorization.account_id,
        authorization.identifier.type.value,
        authorization.identifier.value,
        int(authorization.wildcard),
        authorization.status.value,
        dump_challenges(authorization.challenges),
        to_seconds(authorization.expires_at),
        authorization.grant_id,
    )
    if authorization.grant_id is not None:
        event = audit.AuthorizationGranted(
            actor=audit.account_actor(authorization.account_id),
            authorization_id=authorization.id,
            identifier=str(authorization.ordered),
            grant_id=authorization.grant_id,
        )
        await append(tx, writer=writer, at=at, event=event)


async def link_valid(
    tx: Transaction,
    order_id: str,
    position: int,
    authorization_id: str,
    *,
    owner: str,
    ordered: Identifier,
    until: datetime,
) -> None:
    """Let an order rest on an authorization that was there before.

    It is the `owner`'s, for exactly this identifier, valid, and does not end before the order (`until`); `StaleError` otherwise.
    """
    linked = await tx.execute(
        "INSERT INTO order_authorizations (order_id, position, authorization_id) SELECT $1, $2, id FROM authorizations"
        " WHERE id = $3 AND account_id = $4 AND identifier_type = $5 AND identifier_value = $6 AND wildcard = $7"
        " AND status = 'valid' AND expires_at >= $8",
        order_id,
        position,
        authorization_id,
        owner,
        ordered.type.value,
        ordered.base.value,
        int(ordered.is_wildcard),
        to_seconds(until),
    )
    if linked != 1:
        raise StaleError(f"authorization {authorization_id} is no ground for an order any more")


def dump_challenges(challenges: Sequence[Challenge]) -> str:
    """Canonical JSON, so that a compare-and-swap may compare it. Put together by hand: an order writes it five times, and the
    library takes three times as long. Only an error needs escaping: tokens are base64url (§8.3).
    """
    return f"[{','.join(map(_dump_challenge, challenges))}]"


def _dump_challenge(challenge: Challenge) -> str:
    validated_at = "null" if challenge.validated_at is None else f'"{format_time(challenge.validated_at)}"'
    error = "null" if challenge.error is None else json.dumps(dict(challenge.error), separators=(",", ":"))
    return (
        f'{{"type":"{challenge.type.value}","token":"{challenge.token}","status":"{challenge.status.value}",'
        f'"validated_at":{validated_at},"error":{error}}}'
    )


def load_authorization(row: Row) -> Authorization:
    return Authorization(
        id=row["id"],
        account_id=row["account_id"],
        identifier=Identifier(IdentifierType(row["identifier_type"]), row["identifier_value"]),
        wildcard=bool(row["wildcard"]),
        status=AuthorizationStatus(row["status"]),
        expires_at=from_seconds(row["expires_at"]),
        challenges=_load_challenges(row["challenges"]),
        grant_id=row["grant_id"],
    )


def _load_challenges(text: str) -> tuple[Challenge, ...]:
    return tuple(
        Challenge(
            type=ChallengeType(item["type"]),
            token=item["token"],
            status=ChallengeStatus(item["status"]),
            validated_at=None if item["validated_at"] is None else datetime.fromisoformat(item["validated_at"]),
            error=item["error"],
        )
        for item in json.loads(text)
    )
