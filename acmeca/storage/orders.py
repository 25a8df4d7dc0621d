"""Orders, their authorizations and the validations under way.

Rule 1: a status moves by compare-and-swap only: the UPDATE names the status it moves from, and no changed row means that
somebody else was faster (`StaleError`).
Rule 2: a challenge, its authorization and every order that waits for it move in one transaction with the audit event.
Rule 3: every read for a client carries the account; what belongs to another account does not exist (RULES §2).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Final

from acmeca import audit
from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.objects import Authorization, Challenge, ChallengeType, Order
from acmeca.acme.problem import Problem
from acmeca.acme.states import (
    AUTHORIZATION_MOVES,
    CHALLENGE_MOVES,
    ORDER_MOVES,
    AuthorizationStatus,
    ChallengeStatus,
    OrderStatus,
    require_move,
)
from acmeca.policy.limits import Taking
from acmeca.storage.accounts import may_act
from acmeca.storage.audit import append
from acmeca.storage.authorizations import COLUMNS as AUTHORIZATION_COLUMNS
from acmeca.storage.authorizations import dump_challenges, insert_authorization, link_valid, load_authorization
from acmeca.storage.database import Database, Reader, Transaction
from acmeca.storage.errors import StaleError
from acmeca.storage.limits import count, require_room, take, without_renewals
from acmeca.storage.replacements import require_unreplaced
from acmeca.storage.times import from_seconds, to_seconds

_NOTED_REFUSALS: Final = 6
_EXPIRED_AT_ONCE: Final = 200
_CURSOR_DIGITS: Final = 12
_NOWHERE: Final = (2**62, "")  # behind every order


@dataclass(frozen=True, slots=True)
class ValidationJob:
    """A validation begun and not yet judged: what a restarted server takes up again."""

    authorization: Authorization
    challenge: Challenge
    instance: str | None  # which has it in hand, unless it is gone


@dataclass(frozen=True, slots=True)
class OrderPage:
    """One page of an account's orders (§7.1.2.1); `cursor` asks for the next page, None on the last."""

    order_ids: tuple[str, ...]
    cursor: str | None


class Orders:
    """The tables `orders`, `authorizations`, `order_authorizations` and `validation_jobs`.

    `on_invalid` is told how many orders a write made invalid, once it is durable.
    """

    def __init__(self, database: Database, *, writer: str, instance: str) -> None:
        self._database = database
        self._writer = writer
        self._instance = instance
        self.on_invalid: Callable[[int], None] = _tell_nobody

    async def create(self, order: Order, new: Sequence[Authorization], *, takings: Sequence[Taking] = ()) -> None:
        """Store a new order with its new authorizations, or nothing. Those that it names besides were there before.

        `takings` are the limits that it uses. Raises `StaleError` when the account may act no longer (`may_act`), or one of the
        old authorizations is no ground for the order (`link_valid`), `AlreadyReplacedError` when another order replaces the
        certificate that this one is to replace, `LimitReachedError` when a limit has no room.
        """

        async def body(tx: Transaction) -> int:
            invalidated = 0
            if order.replaces is not None:
                invalidated = await require_unreplaced(tx, order.replaces, at=order.created_at)
            names = [identifier.value for identifier in order.identifiers]
            counted = await without_renewals(
                tx, takings, account_id=order.account_id, names=names, replaces=order.replaces
            )
            await take(tx, counted, at=order.created_at)
            inserted = await tx.execute(
                "INSERT INTO orders (id, account_id, status, identifiers, created_at, expires_at, profile, profile_id,"
                " not_before, not_after, replaces) SELECT $1, id, $3, $4, $5, $6, $7, $8, $9, $10, $11"
                f" FROM accounts WHERE id = $2 AND {may_act('$5')}",
                order.id,
                order.account_id,
                order.status.value,
                json.dumps([[identifier.type.value, identifier.value] for identifier in order.identifiers]),
                to_seconds(order.created_at),
                to_seconds(order.expires_at),
                order.profile,
                order.profile_id,
                _seconds_or_none(order.not_before),
                _seconds_or_none(order.not_after),
                order.replaces,
            )
            if inserted != 1:
                raise StaleError(f"account {order.account_id} is not valid")
            of_its_own = {authorization.id: authorization for authorization in new}
            grounds = zip(order.authorization_ids, order.identifiers, strict=True)
            for position, (id_, identifier) in enumerate(grounds):
                authorization = of_its_own.get(id_)
                if authorization is None:
                    await link_valid(
                        tx, order.id, position, id_, owner=order.account_id, ordered=identifier, until=order.expires_at
                    )
                    continue
                await insert_authorization(tx, authorization, writer=self._writer, at=order.created_at)
                await tx.execute(
                    "INSERT INTO order_authorizations (order_id, position, authorization_id) VALUES ($1, $2, $3)",
                    order.id,
                    position,
                    id_,
                )
            return invalidated

        self.on_invalid(await self._database.write(body))

    async def record_refusal(
        self, account_id: str, reasons: Mapping[str, str], *, at: datetime, takings: Sequence[Taking] = ()
    ) -> None:
        """Write down that an order was refused, and why, for the first names: one request must not fill the disk.

        Nor must many: it uses the limits `takings`, and nothing is written (`LimitReachedError`) when one has no room.
        """
        event = audit.OrderRefused(
            actor=audit.account_actor(account_id),
            account_id=account_id,
            refused=len(reasons),
            reasons=dict(islice(reasons.items(), _NOTED_REFUSALS)),
        )

        async def body(tx: Transaction) -> None:
            await take(tx, takings, at=at)
            await append(tx, writer=self._writer, at=at, event=event)

        await self._database.write(body)

    async def by_id(self, account_id: str, order_id: str) -> Order | None:
        return await _order(self._database, account_id, order_id)

    async def page(self, account_id: str, *, cursor: str | None, limit: int) -> OrderPage:
        """Ids of an account's orders, oldest first; invalid ones are left out, as §7.1.2.1 asks.

        A cursor is a place in that order and not an order, which may have been deleted meanwhile (`retention.py`); one that
        was not given out yields an empty page.
        """
        created_at, order_id = _parse_cursor(cursor)
        rows = await self._database.fetch_all(
            "SELECT id, created_at FROM orders WHERE account_id = $1 AND status <> 'invalid'"
            " AND (created_at, id) > ($2, $3) ORDER BY created_at, id LIMIT $4",
            account_id,
            created_at,
            order_id,
            limit + 1,
        )
        ids = tuple(row["id"] for row in rows[:limit])
        return OrderPage(ids, f"{rows[limit - 1]['created_at']}-{ids[-1]}" if len(rows) > limit else None)

    async def authorization(self, account_id: str, authorization_id: str) -> Authorization | None:
        row = await self._database.fetch_one(
            f"SELECT {AUTHORIZATION_COLUMNS} FROM authorizations a WHERE a.id = $1 AND a.account_id = $2",
            authorization_id,
            account_id,
        )
        return None if row is None else load_authorization(row)

    async def begin_validation(
        self,
        authorization: Authorization,
        challenge_type: ChallengeType,
        *,
        at: datetime,
        failure: Taking | None = None,
    ) -> Authorization:
        """Move a pending challenge to processing and leave a job for it.

        `StaleError` when it moved meanwhile, or another challenge of the authorization is under way: one outcome decides it.
        `failure` is the limit that a failure would use: it has to have room for this one and for all that are under way, as each
        of them may fail; `LimitReachedError` otherwise.
        """
        if any(challenge.status is ChallengeStatus.PROCESSING for challenge in authorization.challenges):
            raise StaleError(f"another challenge of authorization {authorization.id} is under way")
        moved = _with_challenge(authorization, challenge_type, ChallengeStatus.PROCESSING)

        async def body(tx: Transaction) -> None:
            await _swap_authorization(tx, authorization, moved)
            if failure is not None:
                await require_room(tx, failure, besides=await _count_under_way(tx, authorization), at=at)
            await tx.execute(
                "INSERT INTO validation_jobs (authorization_id, challenge_type, created_at, instance, account_id)"
                " VALUES ($1, $2, $3, $4, $5)",
                authorization.id,
                challenge_type.value,
                to_seconds(at),
                self._instance,
                authorization.account_id,
            )

        await self._database.write(body)
        return moved

    async def validation_jobs(self, *, limit: int = 1000) -> list[ValidationJob]:
        """The oldest validations that were begun and have no outcome, at most `limit`."""
        rows = await self._database.fetch_all(
            f"SELECT {AUTHORIZATION_COLUMNS}, j.challenge_type, j.instance FROM validation_jobs j"
            " CROSS JOIN authorizations a WHERE a.id = j.authorization_id ORDER BY j.created_at, a.id LIMIT $1",
            limit,
        )
        jobs = []
        for row in rows:
            authorization = load_authorization(row)
            challenge = authorization.challenge(row["challenge_type"])
            if challenge is not None:
                jobs.append(ValidationJob(authorization, challenge, row["instance"]))
        return jobs

    async def adopt_validation(self, job: ValidationJob) -> bool:
        """Take a validation in hand that an instance left which is gone; False when another one was faster."""

        async def body(tx: Transaction) -> bool:
            changed = await tx.execute(
                "UPDATE validation_jobs SET instance = $1 WHERE authorization_id = $2 AND COALESCE(instance, '') = $3",
                self._instance,
                job.authorization.id,
                job.instance or "",
            )
            return changed == 1

        return await self._database.write(body)

    async def record_outcome(
        self,
        authorization: Authorization,
        challenge_type: ChallengeType,
        *,
        problem: Problem | None,
        evidence: str,
        at: datetime,
        expires_at: datetime | None = None,
        failure: Taking | None = None,
    ) -> Authorization:
        """Judge a processing challenge: valid without a problem, invalid with one, and roll it up (§7.1.6).

        `expires_at` is when the authorization expires if it becomes valid; None leaves that as it is (§7.5.1).
        `evidence` is what the audit keeps of how control was shown. `StaleError` when the authorization moved meanwhile
        (it was deactivated, or another process judged it). `failure` is the limit that a problem uses.
        """
        status = ChallengeStatus.VALID if problem is None else ChallengeStatus.INVALID
        moved = replace(
            _with_challenge(
                authorization,
                challenge_type,
                status,
                validated_at=at if problem is None else None,
                error=None if problem is None else problem.to_json(),
            ),
            status=AuthorizationStatus.VALID if problem is None else AuthorizationStatus.INVALID,
            expires_at=expires_at if problem is None and expires_at is not None else authorization.expires_at,
        )
        require_move(AUTHORIZATION_MOVES, authorization.status, moved.status)

        async def body(tx: Transaction) -> int:
            invalidated = 0
            await tx.execute("DELETE FROM validation_jobs WHERE authorization_id = $1", authorization.id)
            await _swap_authorization(tx, authorization, moved)
            if problem is None:
                await _make_orders_ready(tx, authorization.id)
            else:
                invalidated = await _invalidate_orders(tx, authorization.id, error=problem.to_json())
                if failure is not None:
                    await count(tx, failure, at=at)
            event_type = audit.AuthorizationValidated if problem is None else audit.AuthorizationFailed
            event = event_type(
                actor=audit.account_actor(authorization.account_id),
                authorization_id=authorization.id,
                identifier=authorization.identifier.value,
                challenge_type=challenge_type.value,
                evidence=evidence,
            )
            await append(tx, writer=self._writer, at=at, event=event)
            return invalidated

        self.on_invalid(await self._database.write(body))
        return moved

    async def drop_validation_job(self, authorization_id: str) -> None:
        """Forget a job whose authorization is pending no longer."""

        async def body(tx: Transaction) -> None:
            await tx.execute("DELETE FROM validation_jobs WHERE authorization_id = $1", authorization_id)

        await self._database.write(body)

    async def deactivate_authorization(self, authorization: Authorization, *, at: datetime) -> Authorization:
        """§7.5.2: give an authorization up. Orders that still wait for it can never become valid, so they are invalid."""
        require_move(AUTHORIZATION_MOVES, authorization.status, AuthorizationStatus.DEACTIVATED)
        moved = replace(authorization, status=AuthorizationStatus.DEACTIVATED)

        async def body(tx: Transaction) -> int:
            await _swap_authorization(tx, authorization, moved)
            await tx.execute("DELETE FROM validation_jobs WHERE authorization_id = $1", authorization.id)
            invalidated = await _invalidate_orders(tx, authorization.id, error=None)
            event = audit.AuthorizationDeactivated(
                actor=audit.account_actor(authorization.account_id),
                authorization_id=authorization.id,
                identifier=authorization.identifier.value,
            )
            await append(tx, writer=self._writer, at=at, event=event)
            return invalidated

        self.on_invalid(await self._database.write(body))
        return moved

    async def expire(self, *, at: datetime) -> int:
        """Turn what nobody finished in time into `invalid` orders and `expired` authorizations; returns how many orders.

        A few hundred in each write: after a standstill there may be many, and requests wait for the same writer.
        """
        require_move(ORDER_MOVES, OrderStatus.PENDING, OrderStatus.INVALID)
        require_move(ORDER_MOVES, OrderStatus.READY, OrderStatus.INVALID)

        async def body(tx: Transaction) -> tuple[int, int]:
            authorizations = await tx.execute(
                "UPDATE authorizations SET status = 'expired' WHERE id IN (SELECT id FROM authorizations"
                " WHERE status IN ('pending', 'valid') AND expires_at <= $1 ORDER BY expires_at LIMIT $2)",
                to_seconds(at),
                _EXPIRED_AT_ONCE,
            )
            orders = await tx.execute(
                "UPDATE orders SET status = 'invalid' WHERE id IN (SELECT id FROM orders"
                " WHERE status IN ('pending', 'ready') AND expires_at <= $1 ORDER BY expires_at LIMIT $2)",
                to_seconds(at),
                _EXPIRED_AT_ONCE,
            )
            return authorizations, orders

        total = 0
        while True:
            changed = await self._database.write(body)
            self.on_invalid(changed[1])
            total += changed[1]
            if max(changed) < _EXPIRED_AT_ONCE:
                return total


def _parse_cursor(cursor: str | None) -> tuple[int, str]:
    """The place that a cursor names: behind it the page begins."""
    if cursor is None:
        return -1, ""
    created_at, _, order_id = cursor.partition("-")
    if "\0" in order_id or not (created_at.isascii() and created_at.isdecimal() and len(created_at) <= _CURSOR_DIGITS):
        return _NOWHERE
    return int(created_at), order_id


async def _order(reader: Reader, account_id: str, order_id: str) -> Order | None:
    row = await reader.fetch_one(
        "SELECT id, account_id, status, identifiers, error, certificate_id, created_at, expires_at, profile, profile_id,"
        " not_before, not_after, replaces FROM orders WHERE id = $1 AND account_id = $2",
        order_id,
        account_id,
    )
    if row is None:
        return None
    authorizations = await reader.fetch_all(
        "SELECT authorization_id FROM order_authorizations WHERE order_id = $1 ORDER BY position", order_id
    )
    return Order(
        id=row["id"],
        account_id=row["account_id"],
        status=OrderStatus(row["status"]),
        identifiers=parse_identifiers(row["identifiers"]),
        authorization_ids=tuple(item["authorization_id"] for item in authorizations),
        created_at=from_seconds(row["created_at"]),
        expires_at=from_seconds(row["expires_at"]),
        certificate_id=row["certificate_id"],
        error=None if row["error"] is None else json.loads(row["error"]),
        profile=row["profile"],
        profile_id=row["profile_id"],
        not_before=from_seconds(row["not_before"]),
        not_after=from_seconds(row["not_after"]),
        replaces=row["replaces"],
    )


def parse_identifiers(text: str) -> tuple[Identifier, ...]:
    """The identifiers of an order, in the client's order."""
    return tuple(Identifier(IdentifierType(type_), value) for type_, value in json.loads(text))


async def close_order(tx: Transaction, order_id: str, old: OrderStatus, problem: Problem) -> None:
    """Move an order to invalid with the reason its client will read; `StaleError` when it is not in `old` any more."""
    require_move(ORDER_MOVES, old, OrderStatus.INVALID)
    changed = await tx.execute(
        "UPDATE orders SET status = 'invalid', error = $1 WHERE id = $2 AND status = $3",
        json.dumps(problem.to_json()),
        order_id,
        old.value,
    )
    if changed != 1:
        raise StaleError(f"order {order_id} changed meanwhile")


async def _swap_authorization(tx: Transaction, old: Authorization, new: Authorization) -> None:
    changed = await tx.execute(
        "UPDATE authorizations SET status = $1, challenges = $2, expires_at = $3"
        " WHERE id = $4 AND status = $5 AND challenges = $6",
        new.status.value,
        dump_challenges(new.challenges),
        to_seconds(new.expires_at),
        old.id,
        old.status.value,
        dump_challenges(old.challenges),
    )
    if changed != 1:
        raise StaleError(f"authorization {old.id} changed meanwhile")


async def _count_under_way(tx: Transaction, authorization: Authorization) -> int:
    """How many validations of the same identifier this account has under way.

    From the validations, which are few, to their authorizations: of those the account may have any number that wait.
    """
    row = await tx.fetch_one(
        "SELECT COUNT(*) AS n FROM validation_jobs j CROSS JOIN authorizations a"
        " WHERE j.account_id = $1 AND a.id = j.authorization_id"
        " AND a.identifier_value = $2 AND a.identifier_type = $3 AND a.status = 'pending'",
        authorization.account_id,
        authorization.identifier.value,
        authorization.identifier.type.value,
    )
    return 0 if row is None else int(row["n"])


async def _make_orders_ready(tx: Transaction, authorization_id: str) -> None:
    """§7.1.6: an order is ready once "all of the authorizations … are valid"."""
    require_move(ORDER_MOVES, OrderStatus.PENDING, OrderStatus.READY)
    await tx.execute(
        "UPDATE orders SET status = 'ready' WHERE status = 'pending'"
        " AND id IN (SELECT order_id FROM order_authorizations WHERE authorization_id = $1)"
        " AND NOT EXISTS (SELECT 1 FROM order_authorizations oa JOIN authorizations a ON a.id = oa.authorization_id"
        " WHERE oa.order_id = orders.id AND a.status <> 'valid')",
        authorization_id,
    )


def _seconds_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else to_seconds(moment)


def _tell_nobody(_: int) -> None:
    """What `on_invalid` is for a program that counts nothing."""


async def _invalidate_orders(tx: Transaction, authorization_id: str, *, error: Mapping[str, object] | None) -> int:
    """§7.1.6: an order is invalid once "one of its authorizations enters a final state other than valid". Returns how many are."""
    require_move(ORDER_MOVES, OrderStatus.PENDING, OrderStatus.INVALID)
    require_move(ORDER_MOVES, OrderStatus.READY, OrderStatus.INVALID)
    return await tx.execute(
        "UPDATE orders SET status = 'invalid', error = $1 WHERE status IN ('pending', 'ready')"
        " AND id IN (SELECT order_id FROM order_authorizations WHERE authorization_id = $2)",
        None if error is None else json.dumps(error),
        authorization_id,
    )


def _with_challenge(
    authorization: Authorization,
    challenge_type: ChallengeType,
    status: ChallengeStatus,
    *,
    validated_at: datetime | None = None,
    error: Mapping[str, object] | None = None,
) -> Authorization:
    old = authorization.challenge(challenge_type)
    if old is None:
        raise StaleError(f"authorization {authorization.id} has no {challenge_type.value} challenge")
    require_move(CHALLENGE_MOVES, old.status, status)
    new = replace(old, status=status, validated_at=validated_at, error=error)
    return replace(authorization, challenges=tuple(new if item is old else item for item in authorization.challenges))
