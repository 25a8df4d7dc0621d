"""Issuance as it is kept: a certificate recorded before it is signed, completed once, or given up.

Rule 1: serial and to-be-signed bytes are durable before the key is used (RULES §4); the signature joins them in a second
transaction. The certificate that is served is assembled from exactly these two.
Rule 2: the order moves in the same transaction as its certificate, by compare-and-swap.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from acmeca import audit
from acmeca.acme.identifiers import Identifier
from acmeca.acme.problem import Problem
from acmeca.acme.states import ORDER_MOVES, OrderStatus, require_move
from acmeca.policy.limits import Taking
from acmeca.storage.accounts import may_act
from acmeca.storage.audit import append
from acmeca.storage.certificates import COLUMNS, Certificate, names_digest, read_certificate, reverse_labels
from acmeca.storage.database import Database, Entry, Transaction
from acmeca.storage.errors import KeyRefusedError, StaleError
from acmeca.storage.grants import has_ended
from acmeca.storage.limits import take, without_renewals
from acmeca.storage.orders import close_order, parse_identifiers
from acmeca.storage.replacements import complete_replacing
from acmeca.storage.times import from_seconds, to_seconds


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A certificate that was recorded and not signed, and what its order asks for: the names in their order, and a notAfter."""

    certificate: Certificate
    identifiers: tuple[Identifier, ...]
    not_after: datetime | None


class Issuance:
    """The tables `certificates` and `certificate_names`, and the status of `orders`, from the claim to the signature."""

    def __init__(self, database: Database, *, writer: str, instance: str) -> None:
        self._database = database
        self._writer = writer
        self._instance = instance

    async def record(
        self, certificate: Certificate, *, thumbprint: str, at: datetime, takings: Sequence[Taking] = ()
    ) -> None:
        """Write down what is about to be signed and claim its order (ready → processing), in one transaction.

        The claim looks once more at everything the issuance rests on: the account may act (`may_act`), the order
        ready and unexpired, each of its authorizations valid and unexpired; `StaleError` otherwise. `thumbprint` is the RFC 7638
        digest of the key to be certified: an account's key or a blocked one raises `KeyRefusedError` (RFC 8555 §11.1).
        `takings` are the limits that it uses, unless it is a renewal; `LimitReachedError` when one has no room.
        """

        async def body(tx: Transaction) -> None:
            if certificate.order_id is not None:
                await _claim_order(tx, certificate.order_id, at=at)
            await _require_certifiable(tx, certificate.spki_sha256, thumbprint)
            await self._take(tx, certificate, takings, at=at)
            await _insert(tx, certificate, instance=self._instance)
            event = audit.CertificateRecorded(
                actor=_actor(certificate),
                serial_hex=certificate.serial,
                issuer_id=certificate.issuer_id,
                order_id=certificate.order_id,
                profile=certificate.profile,
                profile_id=certificate.profile_id,
                names=certificate.names,
                spki_sha256=certificate.spki_sha256.hex(),
                tbs_sha256=hashlib.sha256(certificate.tbs).hexdigest(),
            )
            await append(tx, writer=self._writer, at=at, event=event)

        await self._database.write(body)

    async def _take(
        self, tx: Transaction, certificate: Certificate, takings: Sequence[Taking], *, at: datetime
    ) -> None:
        if not takings or certificate.account_id is None:  # the server's own
            return
        order = await tx.fetch_one("SELECT replaces FROM orders WHERE id = $1", certificate.order_id)
        counted = await without_renewals(
            tx,
            takings,
            account_id=certificate.account_id,
            names=certificate.names,
            replaces=None if order is None else order["replaces"],
        )
        await take(tx, counted, at=at)

    async def complete(self, certificate: Certificate, signature: bytes, *, sha256: str, at: datetime) -> None:
        """Store the signature and make the order valid, in one transaction; `StaleError` when it was completed before."""
        require_move(ORDER_MOVES, OrderStatus.PROCESSING, OrderStatus.VALID)

        async def body(tx: Transaction) -> None:
            changed = await tx.execute(
                "UPDATE certificates SET signature = $1, issued_at = $2 WHERE id = $3 AND signature IS NULL",
                signature,
                to_seconds(at),
                certificate.id,
            )
            if changed != 1:
                raise StaleError(f"certificate {certificate.serial} was completed meanwhile")
            tx.journal(Entry("signature", {"id": certificate.id, "signature": signature, "issued_at": to_seconds(at)}))
            if certificate.order_id is not None:
                changed = await tx.execute(
                    "UPDATE orders SET status = 'valid', certificate_id = $1 WHERE id = $2 AND status = 'processing'"
                    " AND replaces IS NULL",
                    certificate.id,
                    certificate.order_id,
                )
                if changed != 1 and not await complete_replacing(tx, certificate.order_id, certificate.id):
                    raise StaleError(f"order {certificate.order_id} is processing no longer")
            event = audit.CertificateIssued(
                actor=_actor(certificate),
                serial_hex=certificate.serial,
                issuer_id=certificate.issuer_id,
                order_id=certificate.order_id,
                sha256=sha256,
            )
            await append(tx, writer=self._writer, at=at, event=event)

        await self._database.write(body)

    async def abandon(self, certificate: Certificate, problem: Problem, *, at: datetime) -> None:
        """Fail the order of a certificate that was recorded and will not be signed; the record stays."""

        async def body(tx: Transaction) -> None:
            if certificate.order_id is not None:
                await close_order(tx, certificate.order_id, OrderStatus.PROCESSING, problem)
            event = audit.IssuanceRefused(
                actor=_actor(certificate),
                subject_id=certificate.order_id or certificate.serial,
                reason=problem.detail,
            )
            await append(tx, writer=self._writer, at=at, event=event)

        await self._database.write(body)

    async def unfinished(self) -> list[Unfinished]:
        """Recorded certificates without a signature whose orders are still processing: a process died between the two."""
        rows = await self._database.fetch_all(
            f"SELECT {COLUMNS}, o.identifiers, o.not_after AS asked FROM orders o JOIN certificates c ON c.order_id = o.id"
            " WHERE o.status = 'processing' AND c.signature IS NULL"
        )
        return [
            Unfinished(
                certificate=await read_certificate(self._database, row),
                identifiers=parse_identifiers(row["identifiers"]),
                not_after=from_seconds(row["asked"]),
            )
            for row in rows
        ]

    async def obstacle(self, certificate: Certificate, *, thumbprint: str, at: datetime) -> str | None:
        """What forbids the signature of a recorded certificate now, though it was allowed when it was recorded; or None.

        Everything that `record` asked, asked again: the certified key and the account's key are not blocked, the account
        and each authorization of the order are valid, the account's grant is not over, the certificate was not revoked meanwhile.
        """
        row = await self._database.fetch_one(
            "SELECT c.revoked_at IS NOT NULL AS is_revoked,"
            " EXISTS (SELECT 1 FROM blocked_keys b WHERE b.spki_sha256 = c.spki_sha256 OR b.thumbprint = $2) AS is_key_blocked,"
            " EXISTS (SELECT 1 FROM accounts a WHERE a.id = c.account_id AND (a.status <> 'valid'"
            " OR a.thumbprint IN (SELECT thumbprint FROM blocked_keys))) AS is_account_shut,"
            f" EXISTS (SELECT 1 FROM accounts a WHERE a.id = c.account_id AND {has_ended('a.grant_id', '$3')}) AS has_grant_ended,"
            " EXISTS (SELECT 1 FROM order_authorizations oa JOIN authorizations a ON a.id = oa.authorization_id"
            " WHERE oa.order_id = c.order_id AND (a.status <> 'valid' OR a.expires_at <= $3)) AS is_unauthorized"
            " FROM certificates c WHERE c.id = $1",
            certificate.id,
            thumbprint,
            to_seconds(at),
        )
        if row is None:
            return "the record is gone"
        obstacles = {
            "is_revoked": "the certificate was revoked before it was finished",
            "is_key_blocked": "the key was reported as compromised",
            "is_account_shut": "the account was shut meanwhile",
            "has_grant_ended": "the account's grant has ended meanwhile",
            "is_unauthorized": "an authorization was given up or has expired meanwhile",
        }
        return next((reason for column, reason in obstacles.items() if row[column]), None)


async def _claim_order(tx: Transaction, order_id: str, *, at: datetime) -> None:
    require_move(ORDER_MOVES, OrderStatus.READY, OrderStatus.PROCESSING)
    changed = await tx.execute(
        "UPDATE orders SET status = 'processing' WHERE id = $1 AND status = 'ready' AND expires_at > $2"
        f" AND EXISTS (SELECT 1 FROM accounts WHERE accounts.id = orders.account_id AND {may_act('$2')})"
        " AND NOT EXISTS (SELECT 1 FROM order_authorizations oa JOIN authorizations a ON a.id = oa.authorization_id"
        " WHERE oa.order_id = orders.id AND (a.status <> 'valid' OR a.expires_at <= $2))",
        order_id,
        to_seconds(at),
    )
    if changed != 1:
        raise StaleError(f"order {order_id} is not ready")


async def _require_certifiable(tx: Transaction, spki_sha256: bytes, thumbprint: str) -> None:
    if await tx.fetch_one("SELECT 1 FROM accounts WHERE thumbprint = $1", thumbprint) is not None:
        raise KeyRefusedError("the key is the key of an ACME account; make a new key for the certificate")
    if await tx.fetch_one(
        "SELECT 1 FROM certificates WHERE spki_sha256 = $1 AND account_id IS NULL", spki_sha256
    ):  # RULES §1: neither an account's key nor the server's own is certified for anybody
        raise KeyRefusedError("the key is one of this CA's own; make a new key for the certificate")
    if await tx.fetch_one("SELECT 1 FROM blocked_keys WHERE spki_sha256 = $1", spki_sha256) is not None:
        raise KeyRefusedError("the key was reported as compromised; make a new key for the certificate")


async def _insert(tx: Transaction, certificate: Certificate, *, instance: str) -> None:
    await tx.execute(
        "INSERT INTO certificates (id, serial, issuer_id, account_id, order_id, profile, profile_id, spki_sha256, not_before,"
        " not_after, tbs, recorded_at, recorded_by, names_digest)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        certificate.id,
        certificate.serial,
        certificate.issuer_id,
        certificate.account_id,
        certificate.order_id,
        certificate.profile,
        certificate.profile_id,
        certificate.spki_sha256,
        to_seconds(certificate.not_before),
        to_seconds(certificate.not_after),
        certificate.tbs,
        to_seconds(certificate.recorded_at),
        instance,
        names_digest(certificate.names),
    )
    await insert_names(tx, certificate.id, certificate.names)
    tx.journal(
        Entry(
            "certificate",
            {
                "id": certificate.id,
                "serial": certificate.serial,
                "issuer_id": certificate.issuer_id,
                "account_id": certificate.account_id,
                "order_id": certificate.order_id,
                "profile": certificate.profile,
                "profile_id": certificate.profile_id,
                "names": json.dumps(certificate.names),
                "spki_sha256": certificate.spki_sha256,
                "not_before": to_seconds(certificate.not_before),
                "not_after": to_seconds(certificate.not_after),
                "tbs": certificate.tbs,
                "recorded_at": to_seconds(certificate.recorded_at),
            },
        )
    )


async def insert_names(tx: Transaction, certificate_id: str, names: Sequence[str]) -> None:
    """Make a certificate findable by its names."""
    for name in names:
        await tx.execute(
            "INSERT INTO certificate_names (certificate_id, name, reversed_name) VALUES ($1, $2, $3)",
            certificate_id,
            name,
            reverse_labels(name),
        )


def _actor(certificate: Certificate) -> str:
    return audit.SYSTEM if certificate.account_id is None else audit.account_actor(certificate.account_id)
