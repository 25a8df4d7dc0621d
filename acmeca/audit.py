"""Audit events, and the chain of hashes that shows whether their records were touched.

Rule 1: every issuance, revocation, key use, refusal and change of configuration is one event (CA/Browser Forum Baseline
Requirements §5.4.1 lists the like). The record is written in the transaction of what it tells; when it cannot be written,
nothing is issued.
Rule 2: an event holds no secret: no key, no MAC, no token, no bytes a peer sent.
Rule 3: each writer has a chain of its own, numbered from 1. A record's hash covers the hash before it, so that an edited,
deleted, inserted or reordered record shows. A chain cut off at its end is whole in itself: that shows only against a head
(the last number and hash) that was kept elsewhere.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import ClassVar, Final

# --- who did it ---------------------------------------------------------------------------------------------------

SYSTEM: Final = "system"
"""The actor of what the server does by itself: validations, CRLs, responder keys."""


def account_actor(account_id: str) -> str:
    """An ACME account, as an actor."""
    return f"account:{account_id}"


def admin_actor(user: str) -> str:
    """An administrator, by the name the operating system gives, as an actor."""
    return f"admin:{user}"


def key_actor(spki_sha256: str) -> str:
    """The holder of a certificate's own key (RFC 8555 §7.6), as an actor."""
    return f"key:{spki_sha256}"


# --- what happened ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that was done or refused. `actor` says by whom.

    Digests and serials are lower-case hexadecimal, names are canonical identifiers, moments RFC 3339.
    """

    kind: ClassVar[str]
    about: ClassVar[str]  # the field that holds the subject

    actor: str

    @property
    def subject(self) -> str:
        """The id, serial or digest the event is about: what a person searches the log for."""
        return str(getattr(self, self.about))

    def to_json(self) -> dict[str, object]:
        """The members of the event, `kind` and `subject` among them (what is hashed must say everything)."""
        members: dict[str, object] = {"kind": self.kind, "subject": self.subject}
        for field in fields(self):
            value = getattr(self, field.name)
            members[field.name] = dict(value) if isinstance(value, Mapping) else value
        return members


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountCreated(Event):
    """newAccount made an account."""

    kind = "account.created"
    about = "account_id"

    account_id: str
    thumbprint: str
    contact: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountUpdated(Event):
    """An account's contacts were replaced."""

    kind = "account.updated"
    about = "account_id"

    account_id: str
    contact: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountDeactivated(Event):
    """An account was given up by its key, or shut by an administrator. It never works again."""

    kind = "account.deactivated"
    about = "account_id"

    account_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRefused(Event):
    """newOrder was refused by policy. `reasons` says for each name what the client was told."""

    kind = "order.refused"
    about = "account_id"

    account_id: str
    reasons: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationValidated(Event):
    """An account showed control of an identifier. `evidence` says how: the addresses asked, the redirects followed."""

    kind = "authorization.validated"
    about = "authorization_id"

    authorization_id: str
    identifier: str
    challenge_type: str
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationFailed(Event):
    """An account did not show control of an identifier. `evidence` says what was found instead."""

    kind = "authorization.failed"
    about = "authorization_id"

    authorization_id: str
    identifier: str
    challenge_type: str
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationDeactivated(Event):
    """An account gave up its authorization for an identifier (RFC 8555 §7.5.2)."""

    kind = "authorization.deactivated"
    about = "authorization_id"

    authorization_id: str
    identifier: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuanceRefused(Event):
    """A certificate was not made: policy on the final names, a finding of the linter, a process that died.

    `subject_id` is the order's id, or the serial of what the CA makes for itself.
    """

    kind = "issuance.refused"
    about = "subject_id"

    subject_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRecorded(Event):
    """A certificate is about to be signed: this stands before the issuer's key is used.

    `order_id` is None for what the CA makes for itself (responders, its own TLS). `tbs_sha256` ties the record to the
    bytes that were signed.
    """

    kind = "certificate.recorded"
    about = "serial_hex"

    serial_hex: str
    issuer_id: str
    profile: str
    names: tuple[str, ...]
    order_id: str | None
    spki_sha256: str
    tbs_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateIssued(Event):
    """A recorded certificate was signed. `sha256` is the digest of its DER."""

    kind = "certificate.issued"
    about = "serial_hex"

    serial_hex: str
    issuer_id: str
    order_id: str | None
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRevoked(Event):
    """A certificate was revoked, or its reason was raised to keyCompromise.

    `reason` is the CRLReason's number (RFC 5280 §5.3.1), None for no reason. `how` is the path of RFC 8555 §7.6 that
    allowed it ("account", "authorizations", "certificate key"), or "administrator".
    """

    kind = "certificate.revoked"
    about = "serial_hex"

    serial_hex: str
    issuer_id: str
    reason: int | None
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyBlocked(Event):
    """A public key was put on the block list and is never certified again; `serial_hex` is the certificate it was in."""

    kind = "key.blocked"
    about = "spki_sha256"

    spki_sha256: str
    serial_hex: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CrlSigned(Event):
    """An issuer's key signed a CRL. `number` is its cRLNumber, `entries` how many certificates it lists."""

    kind = "crl.signed"
    about = "issuer_id"

    issuer_id: str
    number: int
    entries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerCreated(Event):
    """A root or an intermediate was made or taken in. `name` is its subject as RFC 4514 text, `sha256` its DER's digest."""

    kind = "issuer.created"
    about = "issuer_id"

    issuer_id: str
    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStarted(Event):
    """A server opened the store, with this configuration (`config_sha256` is the digest of its checked values)."""

    kind = "server.started"
    about = "version"

    version: str
    config_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStopped(Event):
    """A server ended as it should. A start without a stop before it means that the process was killed."""

    kind = "server.stopped"
    about = "version"

    version: str


# --- the chain ----------------------------------------------------------------------------------------------------

FIRST_PREVIOUS: Final = bytes(32)
"""What stands for the hash before a chain's first record."""

_DOMAIN: Final = b"acmeca audit record 1"


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it is kept. `at` is in Unix seconds; `kind`, `actor`, `subject` repeat members of `event` for search."""

    writer: str
    sequence: int
    at: int
    kind: str
    actor: str
    subject: str
    event: str
    hash: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a writer's chain at some moment, kept where who can write to the store cannot."""

    writer: str
    sequence: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the record at, or next to, `sequence` in the chain of `writer`."""

    writer: str
    sequence: int
    detail: str

    def __str__(self) -> str:
        return f"{self.writer} {self.sequence}: {self.detail}"


def dump_event(event: Event) -> str:
    """The event as canonical JSON: sorted members, no white space, ASCII only. These characters are what is hashed."""
    return json.dumps(event.to_json(), sort_keys=True, separators=(",", ":"), allow_nan=False)


def record_hash(previous: bytes, writer: str, sequence: int, at: int, event_json: str) -> bytes:
    """SHA-256 over a record and the hash before it.

    Every field goes in behind its length (8 octets, big-endian), so that no two records have the same encoding.
    `at` is in Unix seconds.
    """
    digest = hashlib.sha256()
    for field in (
        _DOMAIN,
        previous,
        writer.encode(),
        sequence.to_bytes(8, "big"),
        at.to_bytes(8, "big", signed=True),
        event_json.encode(),
    ):
        digest.update(len(field).to_bytes(8, "big"))
        digest.update(field)
    return digest.digest()


def build_record(previous: Head | None, *, writer: str, at: datetime, event: Event) -> Record:
    """The record that follows `previous`, or a writer's first one. `at` is cut to whole seconds.

    Raises ValueError for a moment without a time zone: it would be read differently on another machine.
    """
    if at.tzinfo is None:
        raise ValueError(f"an audit record needs a moment with a time zone, got {at.isoformat()}")
    sequence = 1 if previous is None else previous.sequence + 1
    before = FIRST_PREVIOUS if previous is None else previous.hash
    seconds = int(at.timestamp())
    text = dump_event(event)
    return Record(
        writer=writer,
        sequence=sequence,
        at=seconds,
        kind=event.kind,
        actor=event.actor,
        subject=event.subject,
        event=text,
        hash=record_hash(before, writer, sequence, seconds, text),
    )


class ChainVerifier:
    """Takes records one by one, each writer's in order of `sequence`, and gathers the faults. Holds no record.

    After a fault it goes on from what the record itself says, so that one fault is told once.
    """

    def __init__(self, heads: Iterable[Head] = ()) -> None:
        self._expected = {head.writer: head for head in heads}
        self._last: dict[str, Head] = {}
        self._faults: list[Fault] = []

    def add(self, record: Record) -> None:
        """Check one record in numbered steps; a record may have several faults."""
        last = self._last.get(record.writer)
        last_sequence = 0 if last is None else last.sequence
        # Step 1: its place. Numbers run from 1 without a gap.
        if record.sequence <= last_sequence:
            self._fault(record, f"out of order: it comes after {last_sequence}")
            return
        gap = record.sequence - last_sequence - 1
        if gap:
            self._fault(record, f"{gap} {'record is' if gap == 1 else 'records are'} missing before it")
        # Step 2: its hash, over what it says and the hash before it. Behind a gap that hash is not known.
        before = FIRST_PREVIOUS if last is None else last.hash
        if not gap and record.hash != _hash_or_none(before, record):
            self._fault(record, "its hash does not fit: it, or the one before it, was changed")
        # Step 3: the columns say what the hashed text says.
        if not _agrees(record):
            self._fault(record, "its columns do not say what its event says")
        # Step 4: a head that was kept elsewhere.
        head = self._expected.get(record.writer)
        if head is not None and head.sequence == record.sequence and head.hash != record.hash:
            self._fault(record, "it is not the record whose hash was kept: the chain was written anew")
        self._last[record.writer] = Head(record.writer, record.sequence, record.hash)

    def finish(self) -> list[Fault]:
        """All faults, with those that only the end of the records shows."""
        cut = [
            Fault(
                head.writer, head.sequence, f"the chain ends at {last}, but this record was there once: it was cut off"
            )
            for head in self._expected.values()
            if (last := self._last_sequence(head.writer)) < head.sequence
        ]
        return [*self._faults, *cut]

    def _last_sequence(self, writer: str) -> int:
        last = self._last.get(writer)
        return 0 if last is None else last.sequence

    def _fault(self, record: Record, detail: str) -> None:
        self._faults.append(Fault(record.writer, record.sequence, detail))


def verify_chain(records: Iterable[Record], heads: Iterable[Head] = ()) -> list[Fault]:
    """What is wrong with the chains that `records` form, each writer's in order of `sequence`; empty when all is well.

    Without `heads` a chain whose last records were deleted looks whole.
    """
    verifier = ChainVerifier(heads)
    for record in records:
        verifier.add(record)
    return verifier.finish()


def _hash_or_none(before: bytes, record: Record) -> bytes | None:
    """The hash the record should have, or None when its values cannot be hashed at all."""
    try:
        return record_hash(before, record.writer, record.sequence, record.at, record.event)
    except (OverflowError, UnicodeEncodeError):
        return None


def _agrees(record: Record) -> bool:
    try:
        members = json.loads(record.event)
    except (ValueError, RecursionError):
        return False
    if not isinstance(members, dict):
        return False
    said = (members.get("kind"), members.get("actor"), members.get("subject"))
    return said == (record.kind, record.actor, record.subject)
