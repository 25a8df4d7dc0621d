"""What an administrator asks and orders, as plain values: one code path for the command line and the admin socket.

Rule 1: every operation takes and returns JSON values, so that it is the same over a socket and in the process.
Rule 2: a serial is taken in every form that tools print (hex with or without colons, `0x…`, decimal) and never guessed: a
form that fits two certificates is refused.
"""

import ipaddress
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from cryptography import x509

from acmeca import audit
from acmeca.acme.identifiers import canonical_dns_name
from acmeca.acme.objects import format_time
from acmeca.errors import AcmecaError, Conflict, NotFound
from acmeca.pki.issuer import Issuer
from acmeca.service.ambient import Ambient
from acmeca.service.certificates import Certificates
from acmeca.service.issuers import ROOT_CRL_LIFETIME, Issuers, fingerprint, to_pem
from acmeca.service.root_crls import RootCrls
from acmeca.service.status import Status, format_serial
from acmeca.storage.certificates import Certificate, CertificateStatus, Search
from acmeca.storage.issuers import StoredIssuer
from acmeca.storage.store import Store

log = logging.getLogger(__name__)

Json: TypeAlias = dict[str, object]

# RFC 5280 §5.3.1, those that an administrator may give (RULES §5). 0 is kept as "no reason".
REASONS: Final[Mapping[str, int | None]] = {
    "unspecified": None,
    "keyCompromise": 1,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
    "privilegeWithdrawn": 9,
}
_REASON_NAMES: Final = {number: name for name, number in REASONS.items()}

_HEX: Final = re.compile(r"[0-9a-f]+\Z")
_MAX_SERIAL_DIGITS: Final = 60  # characters; 20 octets (RFC 5280 §4.1.2.2) take 49 in decimal
_DEFAULT_LISTED: Final = 100
_MAX_LISTED: Final = 10_000
_MAX_NUMBER: Final = 2**63 - 1  # what the store's column holds
_SHOWN: Final = 64  # characters of what was typed


class Administration:
    """The operations, by name. `call` is the one way in."""

    def __init__(
        self, store: Store, *, certificates: Certificates, issuers: Issuers, status: Status, ambient: Ambient
    ) -> None:
        self._store = store
        self._certificates = certificates
        self._issuers = issuers
        self._status = status
        self._ambient = ambient
        self._root_crls = RootCrls(store, issuers=issuers, status=status, ambient=ambient)
        self._operations: dict[str, Callable[[Json, str], Awaitable[Json]]] = {
            "list": self._list,
            "show": self._show,
            "revoke": self._revoke,
            "crl": self._crl,
            "issuers": self._list_issuers,
            "root_crl_begin": self._begin_root_crl,
            "root_crl_publish": self._publish_root_crl,
        }

    async def call(self, operation: str, arguments: Json, *, user: str) -> Json:
        """Run an operation for `user` (the operating system's name). Raises `AcmecaError` with a line for that user."""
        run = self._operations.get(operation)
        if run is None:
            raise NotFound(f"there is no operation {operation!r}; is the command newer than the running server?")
        return await run(arguments, user)

    async def _list(self, arguments: Json, _: str) -> Json:
        expires_within = _number(arguments, "expires_within")
        limit = _number(arguments, "limit")
        limit = _DEFAULT_LISTED if limit is None else limit
        if not 0 < limit <= _MAX_LISTED:
            raise AcmecaError(f"limit: 1 to {_MAX_LISTED} is allowed")
        now = self._ambient.now()
        status = parse_status(_text(arguments, "status"))
        if expires_within is not None and status is None:
            status = CertificateStatus.VALID  # what has ended, or was revoked, needs no renewal
        name = _text(arguments, "name")
        found = await self._certificates.search(
            Search(
                name=None if name is None else parse_search_name(name),
                status=status,
                expires_before=None if expires_within is None else _later(now, expires_within),
                limit=limit + 1,
            )
        )
        return {
            "certificates": [_summary(certificate, now) for certificate in found[:limit]],
            "is_cut": len(found) > limit,
        }

    async def _show(self, arguments: Json, _: str) -> Json:
        certificate = await self._find(_text(arguments, "serial") or "")
        shown = _summary(certificate, self._ambient.now())
        stored = self._issuers.stored(certificate.issuer_id)
        if stored is not None:
            shown |= _issuer(stored.issuer) | {
                "issuer_url": stored.issuer.issuer_url,
                "ocsp_url": stored.issuer.ocsp_url,
                "crl_url": stored.issuer.crl_url,
            }
        account = None if certificate.account_id is None else await self._store.accounts.by_id(certificate.account_id)
        shown |= {
            "account": certificate.account_id,
            "contact": [] if account is None else list(account.contact),
            "order": certificate.order_id,
            "recorded_at": format_time(certificate.recorded_at),
            "issued_at": _time_or_none(certificate.issued_at),
            "spki_sha256": certificate.spki_sha256.hex(),
            "subject": None,
            "sha256_fingerprint": None,
            "pem": None,
        }
        if certificate.signature is not None:
            x509_certificate = x509.load_der_x509_certificate(certificate.der)
            shown |= {
                "subject": x509_certificate.subject.rfc4514_string(),
                "sha256_fingerprint": fingerprint(certificate.der),
                "pem": to_pem(certificate.der).decode(),
            }
        return shown

    async def _revoke(self, arguments: Json, user: str) -> Json:
        reason = _text(arguments, "reason") or "unspecified"
        if reason not in REASONS:
            raise AcmecaError(f"reason: {reason!r} is none; one of {', '.join(REASONS)} is")
        serial = _text(arguments, "serial") or ""
        try:
            certificate = await self._find(serial)
        except (NotFound, Conflict) as refusal:
            await self._certificates.note_refusal(audit.admin_actor(user), serial, str(refusal))
            raise
        revoked = await self._certificates.revoke_for_admin(certificate.serial, reason=REASONS[reason], user=user)
        # The revocation stands from here on, whatever becomes of the CRL: OCSP tells of it, and the next CRL will.
        crl_number: int | None = None
        try:
            crl_number = (await self._status.publish_if_due(revoked.issuer_id)).number
        except AcmecaError:
            log.exception("%s is revoked, but the CRL could not be made now; it is tried again", revoked.serial)
        return _summary(revoked, self._ambient.now()) | {"crl_number": crl_number}

    async def _crl(self, arguments: Json, user: str) -> Json:
        """Arguments: `issuer` (an id; all without it), `publish` (make new ones first), `with_der` (the CRLs themselves)."""
        wanted = _text(arguments, "issuer")
        chosen = [stored for stored in self._issuers.all if wanted in {None, stored.issuer.id}]
        if not chosen:
            raise NotFound(f"there is no issuer {wanted}; acmeca crl without --issuer lists them")
        if arguments.get("publish") is True:
            for stored in chosen:
                if wanted is not None or self._issuers.signer(stored.issuer.id) is not None:
                    await self._status.publish_crl(stored.issuer.id, actor=audit.admin_actor(user))
        return {"crls": [await self._shown_crl(stored, with_der=bool(arguments.get("with_der"))) for stored in chosen]}

    async def _list_issuers(self, _: Json, __: str) -> Json:
        """Every issuer with its certificate, roots and retired ones included."""
        return {
            "issuers": [
                _issuer(stored.issuer)
                | {
                    "is_root": stored.is_root,
                    "state": stored.state.value,
                    "certificate": to_pem(stored.issuer.certificate_der).decode(),
                    "ocsp_url": stored.issuer.ocsp_url,
                    "crl_url": stored.issuer.crl_url,
                    "issuer_url": stored.issuer.issuer_url,
                }
                for stored in self._issuers.all
            ]
        }

    async def _begin_root_crl(self, arguments: Json, user: str) -> Json:
        """Arguments: `issuer`, `lifetime` (seconds), `clock_is_right`. The draft is for the root's key, which is elsewhere."""
        lifetime = _number(arguments, "lifetime")
        draft = await self._root_crls.begin(
            _text(arguments, "issuer") or "",
            lifetime=ROOT_CRL_LIFETIME if lifetime is None else _duration(lifetime),
            clock_is_right=arguments.get("clock_is_right") is True,
            actor=audit.admin_actor(user),
        )
        return {
            "issuer": draft.issuer_id,
            "number": draft.number,
            "this_update": format_time(draft.this_update),
            "next_update": format_time(draft.next_update),
            "revoked": [[serial, format_time(at), reason] for serial, at, reason in draft.revoked],
        }

    async def _publish_root_crl(self, arguments: Json, user: str) -> Json:
        """Arguments: `issuer` and `number` of the draft, `der` (hex of the signed CRL). No key, in any form."""
        issuer_id = _text(arguments, "issuer") or ""
        try:
            crl_der = bytes.fromhex(_text(arguments, "der") or "")
        except ValueError:
            raise AcmecaError("der: the CRL is expected in hex") from None
        number = _number(arguments, "number")
        if number is None or number > _MAX_NUMBER:
            raise AcmecaError("number: the draft's number is expected")
        await self._root_crls.publish(issuer_id, number, crl_der, actor=audit.admin_actor(user))
        (stored,) = [stored for stored in self._issuers.roots if stored.issuer.id == issuer_id]
        return await self._shown_crl(stored, with_der=False)

    async def _shown_crl(self, stored: StoredIssuer, *, with_der: bool) -> Json:
        """A CRL for people; its members are None for an issuer that has none yet, as before the first start."""
        issuer = stored.issuer
        shown = _issuer(issuer) | {
            "is_root": stored.is_root,
            "url": issuer.crl_url,
            "pending": await self._store.crls.pending_revocations(issuer.id),
        }
        try:
            crl = await self._status.crl(issuer.id)
        except NotFound:
            return shown | dict.fromkeys(("number", "this_update", "next_update", "entries"))
        shown |= {
            "number": crl.number,
            "this_update": format_time(crl.this_update),
            "next_update": format_time(crl.next_update),
            "entries": crl.entries,
        }
        return shown | ({"der": crl.der.hex()} if with_der else {})

    async def _find(self, text: str) -> Certificate:
        found = [
            certificate
            for serial in parse_serial(text)
            if (certificate := await self._store.certificates.by_serial(serial)) is not None
        ]
        if len(found) > 1:
            raise Conflict(
                f"{text} is one certificate's serial in hex and another's in decimal; write "
                + " or ".join(f"0x{certificate.serial}" for certificate in found)
            )
        if not found:
            raise NotFound(f"no certificate with serial {text} was ever issued here; find it with: acmeca list")
        return found[0]


def parse_serial(text: str) -> tuple[str, ...]:
    """The serials, as the store keeps them, that `text` can mean: one, or two when it is all digits.

    Hex with or without colons, blanks and `0x`, in either case (as openssl and browsers print it, `serial=` before it
    too), or decimal (as some libraries do). Leading zeros say nothing. Raises `AcmecaError` for what is neither.
    """
    # Windows' certificate dialog puts a left-to-right mark before what is copied from it.
    plain = text.strip().strip("\u200e").lower().removeprefix("serial=")
    digits = plain.removeprefix("0x").replace(":", "").replace(" ", "")
    if not _HEX.match(digits) or len(digits) > _MAX_SERIAL_DIGITS:
        raise AcmecaError(f"{_cut(text)!r} is no serial; write it in hex (with or without colons) or in decimal")
    candidates = [int(digits, 16)]
    if digits == plain and digits.isdecimal():
        candidates.append(int(digits))
    return tuple(dict.fromkeys(format_serial(number) for number in candidates))


def parse_search_name(text: str) -> str:
    """What `list` looks for: a canonical name or address, or `*.suffix` for everything below it. Raises `AcmecaError`."""
    for canonical in (canonical_dns_name, lambda value: str(ipaddress.ip_address(value))):
        try:
            return canonical(text.strip().removesuffix("."))
        except ValueError:
            continue
    raise AcmecaError(
        f"name: {_cut(text)!r} is none; a whole name or address is looked for, or what is below one, like *.corp.internal"
    )


def parse_status(text: str | None) -> CertificateStatus | None:
    """Raises `AcmecaError` for a status that there is not."""
    try:
        return None if text is None else CertificateStatus(text)
    except ValueError:
        raise AcmecaError(f"status: {_cut(text or '')!r} is none; one of {', '.join(CertificateStatus)} is") from None


def _summary(certificate: Certificate, now: datetime) -> Json:
    return {
        "serial": certificate.serial,
        "status": certificate.status(now).value,
        "names": list(certificate.names),
        "profile": certificate.profile,
        "not_before": format_time(certificate.not_before),
        "not_after": format_time(certificate.not_after),
        "revoked_at": _time_or_none(certificate.revoked_at),
        "reason": None if certificate.revoked_at is None else _REASON_NAMES.get(certificate.revocation_reason),
    }


def _issuer(issuer: Issuer) -> Json:
    return {"issuer": issuer.id, "issuer_name": issuer.certificate.subject.rfc4514_string()}


def _time_or_none(moment: datetime | None) -> str | None:
    return None if moment is None else format_time(moment)


def _duration(seconds: int) -> timedelta:
    try:
        return timedelta(seconds=seconds)
    except OverflowError:
        raise AcmecaError("lifetime: that is longer than any CRL lasts") from None


def _later(now: datetime, seconds: int) -> datetime:
    try:
        return now + timedelta(seconds=seconds)
    except OverflowError:
        raise AcmecaError("expires_within: that is longer than any certificate lives") from None


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _number(arguments: Json, name: str) -> int | None:
    value = arguments.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise AcmecaError(f"{name}: a whole number is expected")
    return value


def _text(arguments: Json, name: str) -> str | None:
    value = arguments.get(name)
    if value is not None and not isinstance(value, str):
        raise AcmecaError(f"{name}: a text is expected")
    return value
