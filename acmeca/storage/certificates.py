"""Certificates: recorded before they are signed, found by everything an administrator knows of them, revoked for good.

Rule 1: serial and to-be-signed bytes are durable before the key is used (RULES §4); the signature joins them in a second
transaction. The certificate that is served is assembled from exactly these two.
Rule 2: revoked never becomes good again: the UPDATE that revokes only touches a row that is not revoked, and the one that
raises a reason to keyCompromise keeps time and sequence moving forward.
Rule 3: each revocation takes the next number of one sequence; OCSP and CRL read the same rows.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from acmeca import audit
from acmeca.acme.problem import Problem
from acmeca.acme.states import ORDER_MOVES, OrderStatus, require_move
from acmeca.pki.signing import certificate_from_tbs
from acmeca.storage.audit import append
from acmeca.storage.database import Database, Entry, Reader, Row, Transaction, Value
from acmeca.storage.errors import KeyRefusedError, StaleError
from acmeca.storage.orders import close_order
from acmeca.storage.times import from_seconds, to_seconds

KEY_COMPROMISE = 1  # RFC 5280 §5.3.1
_CLOCK_STEP = 3600  # seconds; a CRL from further ahead was made with a wrong clock


class CertificateStatus(StrEnum):
    """What a certificate is to an administrator at one moment."""

    VALID = "valid"
    REVOKED = "revoked"
    EXPIRED = "expired"
    UNSIGNED = "unsigned"  # recorded, and the server stopped before the signature was stored


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate as it is kept.

    `serial` is lower-case hex of its octets; `account_id` and `order_id` are None for the server's own; `signature` is
    None while it is recorded and not yet signed; `revocation_reason` is a CRLReason or None for "no reason".
    """

    id: str
    serial: str
    issuer_id: str
    account_id: str | None
    order_id: str | None
    profile: str
    names: tuple[str, ...]
    spki_sha256: bytes
    not_before: datetime
    not_after: datetime
    tbs: bytes
    recorded_at: datetime
    recorded_by: str | None = None  # the instance that has its signature in hand
    signature: bytes | None = None
    issued_at: datetime | None = None
    revoked_at: datetime | None = None
    revocation_reason: int | None = None

    @property
    def der(self) -> bytes:
        """The whole certificate; only for one that is signed."""
        if self.signature is None:
            raise StaleError(f"certificate {self.serial} was recorded and never signed")
        return certificate_from_tbs(self.tbs, self.signature)

    def status(self, now: datetime) -> CertificateStatus:
        if self.revoked_at is not None:
            return CertificateStatus.REVOKED
        if self.signature is None:
            return CertificateStatus.UNSIGNED
        return CertificateStatus.EXPIRED if self.not_after < now else CertificateStatus.VALID


@dataclass(frozen=True, slots=True)
class SerialStatus:
    """What OCSP asks for: one row, three columns."""

    is_signed: bool
    revoked_at: datetime | None
    reason: int | None


@dataclass(frozen=True, slots=True)
class Revocation:
    """That a certificate was revoked: its issuer, its serial in hex, and the revocation's number among all of them."""

    issuer_id: str
    serial: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Search:
    """What `list` filters by; None means anything. `name` is exact, or `*.suffix` for everything below a suffix."""

    name: str | None = None
    status: CertificateStatus | None = None
    expires_before: datetime | None = None
    limit: int = 100


class Certificates:
    """The tables `certificates`, `certificate_names` and `blocked_keys`."""

    def __init__(self, database: Database, *, writer: str, instance: str) -> None:
        self._database = database
        self._writer = writer
        self._instance = instance

    async def record(self, certificate: Certificate, *, thumbprint: str, at: datetime) -> None:
        """Write down what is about to be signed and claim its order (ready → processing), in one transaction.

        The claim looks once more at everything the issuance rests on: the account is valid, the order ready and
        unexpired, each of its authorizations valid and unexpired; `StaleError` otherwise. `thumbprint` is the RFC 7638
        digest of the key to be certified: an account's key or a blocked one raises `KeyRefusedError` (RFC 8555 §11.1).
        """

        async def body(tx: Transaction) -> None:
            if certificate.order_id is not None:
                await _claim_order(tx, certificate.order_id, at=at)
            await _require_certifiable(tx, certificate.spki_sha256, thumbprint)
            await _insert(tx, certificate, instance=self._instance)
            event = audit.CertificateRecorded(
                actor=_actor(certificate),
                serial_hex=certificate.serial,
                issuer_id=certificate.issuer_id,
                order_id=certificate.order_id,
                profile=certificate.profile,
                names=certificate.names,
                spki_sha256=certificate.spki_sha256.hex(),
                tbs_sha256=hashlib.sha256(certificate.tbs).hexdigest(),
            )
            await append(tx, writer=self._writer, at=at, event=event)

        await self._database.write(body)

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
                    "UPDATE orders SET status = 'valid', certificate_id = $1 WHERE id = $2 AND status = 'processing'",
                    certificate.id,
                    certificate.order_id,
                )
                if changed != 1:
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

    async def unfinished(self) -> list[Certificate]:
        """Recorded certificates without a signature whose orders are still processing: a process died between the two."""
        rows = await self._database.fetch_all(
            f"SELECT {_COLUMNS} FROM orders o JOIN certificates c ON c.order_id = o.id"
            " WHERE o.status = 'processing' AND c.signature IS NULL"
        )
        return [await _certificate(self._database, row) for row in rows]

    async def obstacle(self, certificate: Certificate, *, thumbprint: str, at: datetime) -> str | None:
        """What forbids the signature of a recorded certificate now, though it was allowed when it was recorded; or None.

        Everything that `record` asked, asked again: the certified key and the account's key are not blocked, the account
        and each authorization of the order are valid, the certificate was not revoked meanwhile.
        """
        row = await self._database.fetch_one(
            "SELECT c.revoked_at IS NOT NULL AS is_revoked,"
            " EXISTS (SELECT 1 FROM blocked_keys b WHERE b.spki_sha256 = c.spki_sha256 OR b.thumbprint = $2) AS is_key_blocked,"
            " EXISTS (SELECT 1 FROM accounts a WHERE a.id = c.account_id AND (a.status <> 'valid'"
            " OR a.thumbprint IN (SELECT thumbprint FROM blocked_keys))) AS is_account_shut,"
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
            "is_unauthorized": "an authorization was given up or has expired meanwhile",
        }
        return next((reason for column, reason in obstacles.items() if row[column]), None)

    async def by_id(self, account_id: str, certificate_id: str) -> Certificate | None:
        """A signed certificate of this account."""
        row = await self._database.fetch_one(
            f"SELECT {_COLUMNS} FROM certificates c WHERE c.id = $1 AND c.account_id = $2 AND c.signature IS NOT NULL",
            certificate_id,
            account_id,
        )
        return None if row is None else await _certificate(self._database, row)

    async def by_serial(self, serial: str) -> Certificate | None:
        row = await self._database.fetch_one(f"SELECT {_COLUMNS} FROM certificates c WHERE c.serial = $1", serial)
        return None if row is None else await _certificate(self._database, row)

    async def status_of(self, issuer_id: str, serial: str) -> SerialStatus | None:
        """What OCSP needs to know of a serial of this issuer; None for one that was never recorded."""
        row = await self._database.fetch_one(
            "SELECT signature IS NOT NULL AS is_signed, revoked_at, revocation_reason FROM certificates"
            " WHERE serial = $1 AND issuer_id = $2",
            serial,
            issuer_id,
        )
        if row is None:
            return None
        return SerialStatus(bool(row["is_signed"]), from_seconds(row["revoked_at"]), row["revocation_reason"])

    async def search(self, search: Search, *, now: datetime) -> list[Certificate]:
        """Certificates that fit, the newest first, at most `search.limit`."""
        where, values = _conditions(search, now)
        rows = await self._database.scan(
            f"SELECT {_COLUMNS} FROM certificates c{where} ORDER BY c.recorded_at DESC, c.id LIMIT ${len(values) + 1}",
            *values,
            search.limit,
        )
        return [await _certificate(self._database, row) for row in rows]

    async def revoke(
        self,
        certificate: Certificate,
        *,
        reason: int | None,
        may_raise: bool,
        thumbprint: str,
        actor: str,
        how: str,
        at: datetime,
    ) -> Certificate:
        """Revoke, or, if that is allowed (`may_raise`), raise the reason of a revoked certificate to keyCompromise.

        `StaleError` when neither is possible. The time is `at`, but not before the newest CRL's thisUpdate: a relying party
        that holds that CRL could otherwise read a revocation into its past (RULES §5). A CRL from further in the future does
        not count: the clock was wrong then, and a revocation dated after now is no revocation to many verifiers. `how` is
        the path that allowed it, for the audit. keyCompromise blocks the key in the same transaction.
        """

        async def body(tx: Transaction) -> Certificate:
            row = await tx.fetch_one(
                "SELECT COALESCE(MAX(this_update), 0) AS floor FROM crls WHERE issuer_id = $1 AND this_update <= $2",
                certificate.issuer_id,
                to_seconds(at) + _CLOCK_STEP,
            )
            revoked_at = max(to_seconds(at), row["floor"] if row is not None else 0)
            await _set_revoked(tx, certificate.id, reason, revoked_at, may_raise=may_raise)
            if reason == KEY_COMPROMISE:
                await tx.execute(
                    "INSERT INTO blocked_keys (spki_sha256, thumbprint, blocked_at, serial) VALUES ($1, $2, $3, $4)"
                    " ON CONFLICT (spki_sha256) DO NOTHING",
                    certificate.spki_sha256,
                    thumbprint,
                    to_seconds(at),
                    certificate.serial,
                )
                tx.journal(
                    Entry(
                        "blocked_key",
                        {
                            "spki_sha256": certificate.spki_sha256,
                            "thumbprint": thumbprint,
                            "blocked_at": to_seconds(at),
                            "serial": certificate.serial,
                        },
                    )
                )
                blocked = audit.KeyBlocked(
                    actor=actor, spki_sha256=certificate.spki_sha256.hex(), serial_hex=certificate.serial
                )
                await append(tx, writer=self._writer, at=at, event=blocked)
            event = audit.CertificateRevoked(
                actor=actor, serial_hex=certificate.serial, issuer_id=certificate.issuer_id, reason=reason, how=how
            )
            await append(tx, writer=self._writer, at=at, event=event)
            revoked = await tx.fetch_one(
                f"SELECT {_COLUMNS}, c.revocation_sequence FROM certificates c WHERE c.id = $1", certificate.id
            )
            if revoked is None:
                raise StaleError(f"certificate {certificate.serial} is gone")
            tx.journal(
                Entry(
                    "revocation",
                    {
                        "id": certificate.id,
                        "revoked_at": revoked["revoked_at"],
                        "revocation_reason": revoked["revocation_reason"],
                        "revocation_sequence": revoked["revocation_sequence"],
                    },
                )
            )
            return await _certificate(tx, revoked)

        return await self._database.write(body)

    async def revoked_since(self, sequence: int) -> list[Revocation]:
        """What was revoked after the revocation of this number, or had its reason raised, in that order."""
        rows = await self._database.fetch_all(
            "SELECT issuer_id, serial, revocation_sequence FROM certificates WHERE revocation_sequence > $1"
            " ORDER BY revocation_sequence",
            sequence,
        )
        return [Revocation(row["issuer_id"], row["serial"], row["revocation_sequence"]) for row in rows]

    async def last_revocation(self) -> int:
        """The number of the last revocation; 0 when there was none."""
        row = await self._database.fetch_one("SELECT COALESCE(MAX(revocation_sequence), 0) AS last FROM certificates")
        return 0 if row is None else int(row["last"])

    async def is_blocked(self, thumbprint: str) -> bool:
        """Whether this key was blocked, in whatever certificate it stood."""
        row = await self._database.fetch_one("SELECT 1 FROM blocked_keys WHERE thumbprint = $1", thumbprint)
        return row is not None


_COLUMNS = (
    "c.id, c.serial, c.issuer_id, c.account_id, c.order_id, c.profile, c.spki_sha256, c.not_before, c.not_after, c.tbs,"
    " c.signature, c.recorded_at, c.recorded_by, c.issued_at, c.revoked_at, c.revocation_reason"
)


def reverse_labels(name: str) -> str:
    """`db.corp.internal` → `internal.corp.db.`, so that everything below a suffix shares a prefix."""
    return "".join(label + "." for label in reversed(name.split(".")))


async def _claim_order(tx: Transaction, order_id: str, *, at: datetime) -> None:
    require_move(ORDER_MOVES, OrderStatus.READY, OrderStatus.PROCESSING)
    changed = await tx.execute(
        "UPDATE orders SET status = 'processing' WHERE id = $1 AND status = 'ready' AND expires_at > $2"
        " AND EXISTS (SELECT 1 FROM accounts WHERE accounts.id = orders.account_id AND accounts.status = 'valid')"
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
        "INSERT INTO certificates (id, serial, issuer_id, account_id, order_id, profile, spki_sha256, not_before,"
        " not_after, tbs, recorded_at, recorded_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        certificate.id,
        certificate.serial,
        certificate.issuer_id,
        certificate.account_id,
        certificate.order_id,
        certificate.profile,
        certificate.spki_sha256,
        to_seconds(certificate.not_before),
        to_seconds(certificate.not_after),
        certificate.tbs,
        to_seconds(certificate.recorded_at),
        instance,
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


async def _set_revoked(
    tx: Transaction, certificate_id: str, reason: int | None, revoked_at: int, *, may_raise: bool
) -> None:
    condition = "revoked_at IS NULL"
    if may_raise and reason == KEY_COMPROMISE:  # the one lawful change of a reason
        condition = "(revoked_at IS NULL OR revocation_reason IS NULL OR revocation_reason <> 1)"
    changed = await tx.execute(
        "UPDATE certificates SET revoked_at = COALESCE(revoked_at, $1), revocation_reason = $2,"
        " revocation_sequence = (SELECT COALESCE(MAX(revocation_sequence), 0) + 1 FROM certificates)"
        f" WHERE id = $3 AND {condition}",
        revoked_at,
        reason,
        certificate_id,
    )
    if changed != 1:
        raise StaleError("the certificate is revoked already")


def _conditions(search: Search, now: datetime) -> tuple[str, list[Value]]:
    """The WHERE clause and its values."""
    conditions: list[str] = []
    values: list[Value] = []

    def value(item: Value) -> str:
        values.append(item)
        return f"${len(values)}"

    if search.name is not None and search.name.startswith("*."):
        prefix = reverse_labels(search.name[2:])
        low, high = value(prefix), value(prefix[:-1] + "/")  # "/" is the character after "."
        conditions.append(
            f"c.id IN (SELECT certificate_id FROM certificate_names WHERE reversed_name > {low} AND reversed_name < {high})"
        )
    elif search.name is not None:
        conditions.append(f"c.id IN (SELECT certificate_id FROM certificate_names WHERE name = {value(search.name)})")
    if search.status is CertificateStatus.REVOKED:
        conditions.append("c.revoked_at IS NOT NULL")
    elif search.status is CertificateStatus.UNSIGNED:
        conditions.append("c.signature IS NULL AND c.revoked_at IS NULL")
    elif search.status is CertificateStatus.EXPIRED:
        conditions.append(
            f"c.signature IS NOT NULL AND c.revoked_at IS NULL AND c.not_after < {value(to_seconds(now))}"
        )
    elif search.status is CertificateStatus.VALID:
        conditions.append(
            f"c.signature IS NOT NULL AND c.revoked_at IS NULL AND c.not_after >= {value(to_seconds(now))}"
        )
    if search.expires_before is not None:
        conditions.append(f"c.not_after < {value(to_seconds(search.expires_before))}")
    return (" WHERE " + " AND ".join(conditions) if conditions else ""), values


def _actor(certificate: Certificate) -> str:
    return audit.SYSTEM if certificate.account_id is None else audit.account_actor(certificate.account_id)


async def _certificate(reader: Reader, row: Row) -> Certificate:
    names: Sequence[Row] = await reader.fetch_all(
        "SELECT name FROM certificate_names WHERE certificate_id = $1 ORDER BY name", row["id"]
    )
    return Certificate(
        id=row["id"],
        serial=row["serial"],
        issuer_id=row["issuer_id"],
        account_id=row["account_id"],
        order_id=row["order_id"],
        profile=row["profile"],
        names=tuple(item["name"] for item in names),
        spki_sha256=row["spki_sha256"],
        not_before=from_seconds(row["not_before"]),
        not_after=from_seconds(row["not_after"]),
        tbs=row["tbs"],
        recorded_at=from_seconds(row["recorded_at"]),
        recorded_by=row["recorded_by"],
        signature=row["signature"],
        issued_at=from_seconds(row["issued_at"]),
        revoked_at=from_seconds(row["revoked_at"]),
        revocation_reason=row["revocation_reason"],
    )
