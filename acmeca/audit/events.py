"""Audit events: what was done or refused, and by whom.

Rule 1: every issuance, revocation, key use, refusal and change of configuration is one event (CA/Browser Forum Baseline
Requirements §5.4.1 lists the like). The record is written in the transaction of what it tells; when it cannot be written,
nothing is issued.
Rule 2: an event holds no secret: no key, no MAC, no token, no bytes a peer sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
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


def key_actor(thumbprint: str) -> str:
    """The holder of a key that is no account's: a certificate's own (RFC 8555 §7.6), or one that asks for an account."""
    return f"key:{thumbprint}"


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
    """newAccount made an account, by the grant `grant_id` if there was a binding; its holder agreed to `terms_of_service`."""

    kind = "account.created"
    about = "account_id"

    account_id: str
    thumbprint: str
    contact: tuple[str, ...]
    grant_id: str | None = None
    terms_of_service: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountUpdated(Event):
    """An account's contacts were replaced."""

    kind = "account.updated"
    about = "account_id"

    account_id: str
    contact: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TermsAgreed(Event):
    """An account's holder agreed to the terms of service at this URL, after it had been made (RFC 8555 §7.3.3)."""

    kind = "account.terms_agreed"
    about = "account_id"

    account_id: str
    terms_of_service: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountKeyChanged(Event):
    """An account has a new key, and its old one does nothing any more (RFC 8555 §7.3.5). Thumbprints are those of RFC 7638."""

    kind = "account.key_changed"
    about = "account_id"

    account_id: str
    old_thumbprint: str
    thumbprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountDeactivated(Event):
    """An account was given up by its key, or shut by an administrator. It never works again."""

    kind = "account.deactivated"
    about = "account_id"

    account_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRefused(Event):
    """newOrder or newAuthz was refused by policy. `reasons` says for the first names what the client was told, `refused` how many were; a
    refusal of the whole (its profile, the times that were asked for) stands there as that of `order`.
    """

    kind = "order.refused"
    about = "account_id"

    account_id: str
    refused: int
    reasons: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitReached(Event):
    """A request was refused because a rate limit had no room until `free_at`. `limit` says which limit, and whose.

    One record stands for all refusals up to then: a client that asks on and on must not fill the audit.
    """

    kind = "limit.reached"
    about = "limit"

    limit: str
    free_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitReset(Event):
    """An administrator made a rate limit whole again before its time."""

    kind = "limit.reset"
    about = "limit"

    limit: str


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
class AuthorizationGranted(Event):
    """An authorization was valid from the beginning, without a challenge, by the grant `grant_id` of its account."""

    kind = "authorization.granted"
    about = "authorization_id"

    authorization_id: str
    identifier: str
    grant_id: str


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
class ProfileRecorded(Event):
    """A profile is about to be used for the first time: what certificates that name its digest are made by."""

    kind = "profile.recorded"
    about = "profile_id"

    profile_id: str
    name: str
    document: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRecorded(Event):
    """A certificate is about to be signed: this stands before the issuer's key is used.

    `order_id` and `profile_id`, the digest of the profile's document, are None for what the CA makes for itself (responders, its
    own TLS). `tbs_sha256` ties the record to the bytes that were signed.
    """

    kind = "certificate.recorded"
    about = "serial_hex"

    serial_hex: str
    issuer_id: str
    profile: str
    profile_id: str | None
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
class RenewalSet(Event):
    """An administrator set when certificates are to be renewed (RFC 9773 §4.2), and which.

    `selection` says which (what is left out is not asked about), `certificates` how many there were at that moment.
    """

    kind = "renewal.set"
    about = "override_id"

    override_id: str
    selection: Mapping[str, object]
    certificates: int
    renew_from: str
    renew_until: str
    explanation_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalCleared(Event):
    """An administrator took back when certificates are to be renewed: they have windows of their own again."""

    kind = "renewal.cleared"
    about = "override_id"

    override_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificatesForgotten(Event):
    """Retention deleted certificates that expired long ago, as configured: from now on they are unknown here.

    `count` says how many, `revoked` how many of them had been revoked; they expired between the two moments, which are counted
    in. What they were stands in the records of their issuance.
    """

    kind = "certificates.forgotten"
    about = "last_not_after"

    count: int
    revoked: int
    first_not_after: str
    last_not_after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationRefused(Event):
    """Somebody asked for a revocation and was refused. `serial_hex` is "unknown" for what is no certificate of ours."""

    kind = "revocation.refused"
    about = "serial_hex"

    serial_hex: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRefused(Event):
    """A key was refused: a new account's or an account's new one, because it is bad, blocked or certified, or what it was sent with
    does not do (a binding to an external account, agreement to the terms); or one of an account that is shut.

    `thumbprint` is the key's (RFC 7638).
    """

    kind = "account.refused"
    about = "thumbprint"

    thumbprint: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantCreated(Event):
    """An administrator made a grant: what the accounts of an external account binding may have (RFC 8555 §7.3.4).

    `names`, `networks` and `profiles` are what it lists, `lifetime_seconds` the longest life of a certificate, `quota` so many orders
    in a time. `preauthorized` says that what it lists needs no validation.
    """

    kind = "grant.created"
    about = "grant_id"

    grant_id: str
    owner: str
    names: tuple[str, ...]
    networks: tuple[str, ...]
    profiles: tuple[str, ...]
    lifetime_seconds: int | None
    quota: str | None
    single_use: bool
    preauthorized: bool
    expires_at: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantDisabled(Event):
    """An administrator stopped a grant, and all its accounts with it."""

    kind = "grant.disabled"
    about = "grant_id"

    grant_id: str
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantEnabled(Event):
    """An administrator let a grant and its accounts go on, until `expires_at`."""

    kind = "grant.enabled"
    about = "grant_id"

    grant_id: str
    owner: str
    expires_at: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CrlRecorded(Event):
    """A CRL is about to be signed: this stands before the issuer's key is used."""

    kind = "crl.recorded"
    about = "issuer_id"

    issuer_id: str
    number: int
    entries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyBlocked(Event):
    """A public key was put on the block list and is never certified again.

    `serial_hex` is the certificate by whose compromise, `why` an administrator's reason.
    """

    kind = "key.blocked"
    about = "spki_sha256"

    spki_sha256: str
    serial_hex: str | None
    why: str | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRestored(Event):
    """The store was restored from a backup, and what journals say was done since was done again.

    `backup_sha256` is the digest of the backup, `backup_at` when it was made, `replayed` how many commits were replayed.
    `complete` is "yes" when nothing is known to be missing, otherwise "no": `losses` says for the first of them what is.
    """

    kind = "store.restored"
    about = "backup_sha256"

    backup_sha256: str
    backup_at: str
    complete: str
    replayed: int
    losses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditKeyCreated(Event):
    """A key was made that signs the heads of the audit's chains, and nothing else.

    `sha256` is the digest of its SubjectPublicKeyInfo (RFC 8410), as `heads.fingerprint` has it.
    """

    kind = "audit.key_created"
    about = "sha256"

    sha256: str


KINDS: Final = tuple(sorted({event.kind for event in Event.__subclasses__()}))
"""Every kind of event that there is."""
