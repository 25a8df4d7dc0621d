"""Certificates as they are kept: found by everything an administrator knows of them, revoked for good.

How they come here is `issuance.py`.

Rule 1: revoked never becomes good again: the UPDATE that revokes only touches a row that is not revoked, and the one that
raises a reason to keyCompromise keeps time and sequence moving forward.
Rule 2: each revocation takes the next number of one sequence; OCSP and CRL read the same rows.
"""

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from acmeca import audit
from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.pki.signing import PublicKey, certificate_from_tbs
from acmeca.pki.spki import parse_public_key
from acmeca.pki.tbs import parse_tbs
from acmeca.storage.audit import append
from acmeca.storage.database import Database, Entry, Reader, Row, Transaction, Value
from acmeca.storage.errors import StaleError
from acmeca.storage.keys import BlockedKey, block
from acmeca.storage.times import from_seconds, to_seconds

KEY_COMPROMISE = 1  # RFC 5280 §5.3.1
_DIGEST_OCTETS: Final = 16
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
    None while it is recorded and not yet signed; `profile` is the name of what it was made by and `profile_id` the digest of that
    profile's document, None for the server's own; `revocation_reason` is a CRLReason or None for "no reason".
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
    profile_id: str | None = None
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

    @property
    def identifiers(self) -> tuple[Identifier, ...]:
        """The names as identifiers. No host name is the text of an address (`canonical_dns_name`, step 6)."""
        return tuple(
            Identifier(IdentifierType.IP if _is_address(name) else IdentifierType.DNS, name) for name in self.names
        )

    @property
    def public_key(self) -> PublicKey:
        """The certified key."""
        return parse_public_key(parse_tbs(self.tbs).spki_der)

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
    """What `list` filters by; None means anything. `name` is exact, or `*.suffix` for everything below a suffix.

    `grant_id` is for what the accounts of a grant have.
    """

    name: str | None = None
    grant_id: str | None = None
    status: CertificateStatus | None = None
    expires_before: datetime | None = None
    limit: int = 100


class Certificates:
    """The tables `certificates` and `certificate_names`, once a certificate is recorded."""

    def __init__(self, database: Database, *, writer: str) -> None:
        self._database = database
        self._writer = writer

    async def by_id(self, account_id: str, certificate_id: str) -> Certificate | None:
        """A signed certificate of this account."""
        row = await self._database.fetch_one(
            f"SELECT {COLUMNS} FROM certificates c WHERE c.id = $1 AND c.account_id = $2 AND c.signature IS NOT NULL",
            certificate_id,
            account_id,
        )
        return None if row is None else await read_certificate(self._database, row)

    async def by_serial(self, serial: str) -> Certificate | None:
        row = await self._database.fetch_one(f"SELECT {COLUMNS} FROM certificates c WHERE c.serial = $1", serial)
        return None if row is None else await read_certificate(self._database, row)

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
            f"SELECT {COLUMNS} FROM certificates c{where} ORDER BY c.recorded_at DESC, c.id LIMIT ${len(values) + 1}",
            *values,
            search.limit,
        )
        return [await read_certificate(self._database, row) for row in rows]

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
                key = BlockedKey(certificate.spki_sha256, thumbprint, blocked_at=at, serial=certificate.serial)
                await block(tx, key, actor=actor, writer=self._writer, at=at)
            event = audit.CertificateRevoked(
                actor=actor, serial_hex=certificate.serial, issuer_id=certificate.issuer_id, reason=reason, how=how
            )
            await append(tx, writer=self._writer, at=at, event=event)
            revoked = await tx.fetch_one(
                f"SELECT {COLUMNS}, c.revocation_sequence FROM certificates c WHERE c.id = $1", certificate.id
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
            return await read_certificate(tx, revoked)

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

    async def by_key(self, spki_sha256: bytes, *, limit: int) -> list[Certificate]:
        """The certificates with this key, the newest first, at most `limit`."""
        rows = await self._database.fetch_all(
            f"SELECT {COLUMNS} FROM certificates c WHERE c.spki_sha256 = $1 ORDER BY c.recorded_at DESC, c.id LIMIT $2",
            spki_sha256,
            limit,
        )
        return [await read_certificate(self._database, row) for row in rows]


COLUMNS: Final = (
    "c.id, c.serial, c.issuer_id, c.account_id, c.order_id, c.profile, c.profile_id, c.spki_sha256, c.not_before, c.not_after, c.tbs,"
    " c.signature, c.recorded_at, c.recorded_by, c.issued_at, c.revoked_at, c.revocation_reason"
)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def reverse_labels(name: str) -> str:
    """`db.corp.internal` → `internal.corp.db.`, so that everything below a suffix shares a prefix."""
    return "".join(label + "." for label in reversed(name.split(".")))


def names_digest(names: Iterable[str]) -> bytes:
    """What two certificates for the same names have in common."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).digest()[:_DIGEST_OCTETS]


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
    if search.grant_id is not None:
        conditions.append(f"c.account_id IN (SELECT id FROM accounts WHERE grant_id = {value(search.grant_id)})")
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


async def read_certificate(reader: Reader, row: Row) -> Certificate:
    """The certificate of a row of `COLUMNS`, with its names."""
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
        profile_id=row["profile_id"],
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
