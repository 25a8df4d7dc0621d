"""What an administrator asks and orders, as plain values: one code path for the command line and the admin socket.

Rule 1: every operation takes and returns JSON values, so that it is the same over a socket and in the process.
Rule 2: a serial is taken in every form that tools print (hex with or without colons, `0x…`, decimal) and never guessed: a
form that fits two certificates is refused.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from cryptography import x509

from acmeca.acme.objects import format_time
from acmeca.errors import AcmecaError, Conflict, NotFound
from acmeca.pki.issuer import Issuer
from acmeca.service.ambient import Ambient
from acmeca.service.certificates import Certificates
from acmeca.service.issuers import Issuers, fingerprint, to_pem
from acmeca.service.status import Status
from acmeca.storage.certificates import Certificate, CertificateStatus, Search
from acmeca.storage.store import Store

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
_MAX_LISTED: Final = 10_000


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
        self._operations: dict[str, Callable[[Json, str], Awaitable[Json]]] = {
            "list": self._list,
            "show": self._show,
            "revoke": self._revoke,
            "crl": self._crl,
        }

    async def call(self, operation: str, arguments: Json, *, user: str) -> Json:
        """Run an operation for `user` (the operating system's name). Raises `AcmecaError` with a line for that user."""
        run = self._operations.get(operation)
        if run is None:
            raise NotFound(f"there is no operation {operation!r}; is the command newer than the running server?")
        return await run(arguments, user)

    async def _list(self, arguments: Json, _: str) -> Json:
        status = _text(arguments, "status")
        expires_within = arguments.get("expires_within")
        limit = arguments.get("limit", 100)
        if not isinstance(limit, int) or not 0 < limit <= _MAX_LISTED:
            raise AcmecaError(f"limit: 1 to {_MAX_LISTED} is allowed")
        now = self._ambient.now()
        found = await self._certificates.search(
            Search(
                name=_text(arguments, "name"),
                status=None if status is None else CertificateStatus(status),
                expires_before=now + timedelta(seconds=expires_within) if isinstance(expires_within, int) else None,
                limit=limit + 1,
            )
        )
        return {
            "certificates": [_summary(certificate, now) for certificate in found[:limit]],
            "is_cut": len(found) > limit,
        }

    async def _show(self, arguments: Json, _: str) -> Json:
        certificate = await self._find(_text(arguments, "serial") or "")
        now = self._ambient.now()
        shown = _summary(certificate, now)
        stored = self._issuers.stored(certificate.issuer_id)
        if stored is not None:
            shown |= _issuer(stored.issuer)
        account = None if certificate.account_id is None else await self._store.accounts.by_id(certificate.account_id)
        shown |= {
            "account": certificate.account_id,
            "contact": [] if account is None else list(account.contact),
            "order": certificate.order_id,
            "recorded_at": format_time(certificate.recorded_at),
            "spki_sha256": certificate.spki_sha256.hex(),
        }
        if certificate.signature is not None:
            x509_certificate = x509.load_der_x509_certificate(certificate.der)
            shown |= {
                "sha256_fingerprint": fingerprint(certificate.der),
                "subject": x509_certificate.subject.rfc4514_string(),
                "pem": to_pem(certificate.der).decode(),
            }
        return shown

    async def _revoke(self, arguments: Json, user: str) -> Json:
        reason = _text(arguments, "reason") or "unspecified"
        if reason not in REASONS:
            raise AcmecaError(f"reason: {reason!r} is none; one of {', '.join(REASONS)} is")
        certificate = await self._find(_text(arguments, "serial") or "")
        revoked = await self._certificates.revoke_for_admin(certificate.serial, reason=REASONS[reason], user=user)
        crl = await self._status.publish_if_due(revoked.issuer_id)
        return _summary(revoked, self._ambient.now()) | {"crl_number": crl.number}

    async def _crl(self, arguments: Json, _: str) -> Json:
        wanted = _text(arguments, "issuer")
        shown = []
        for stored in self._issuers.all:
            if wanted is not None and stored.issuer.id != wanted:
                continue
            if arguments.get("publish") and not stored.is_root:
                await self._status.publish_crl(stored.issuer.id)
            crl = await self._status.crl(stored.issuer.id)
            shown.append(
                _issuer(stored.issuer)
                | {
                    "is_root": stored.is_root,
                    "url": stored.issuer.crl_url,
                    "number": crl.number,
                    "this_update": format_time(crl.this_update),
                    "next_update": format_time(crl.next_update),
                    "entries": crl.entries,
                    "pending": await self._store.crls.pending_revocations(stored.issuer.id),
                    "der": crl.der.hex(),
                }
            )
        if not shown:
            raise NotFound(f"there is no issuer {wanted}; acmeca crl without --issuer lists them")
        return {"crls": shown}

    async def _find(self, text: str) -> Certificate:
        found = [
            certificate
            for serial in parse_serial(text)
            if (certificate := await self._store.certificates.by_serial(serial)) is not None
        ]
        if len(found) > 1:
            raise Conflict(
                f"{text} is one certificate's serial in hex and another's in decimal; write 0x{text} for the first"
            )
        if not found:
            raise NotFound(f"no certificate with serial {text} was ever issued here; find it with: acmeca list")
        return found[0]


def parse_serial(text: str) -> tuple[str, ...]:
    """The serials, as the store keeps them, that `text` can mean: one, or two when it is all digits.

    Hex with or without colons and `0x` (as openssl and browsers print it), or decimal (as some libraries do). Raises
    `AcmecaError` for what is neither.
    """
    plain = text.strip().lower()
    digits = plain.removeprefix("0x").replace(":", "").replace(" ", "")
    if not _HEX.match(digits) or len(digits) > 60:  # noqa: PLR2004  (20 octets in decimal take 49)
        raise AcmecaError(f"{text!r} is no serial; write it in hex (with or without colons) or in decimal")
    candidates = [int(digits, 16)]
    if digits == plain and digits.isdecimal():
        candidates.append(int(digits))
    return tuple(
        dict.fromkeys(f"{number:x}" if len(f"{number:x}") % 2 == 0 else f"0{number:x}" for number in candidates)
    )


def _summary(certificate: Certificate, now: datetime) -> Json:
    return {
        "serial": certificate.serial,
        "status": certificate.status(now).value,
        "names": list(certificate.names),
        "profile": certificate.profile,
        "not_before": format_time(certificate.not_before),
        "not_after": format_time(certificate.not_after),
        "revoked_at": None if certificate.revoked_at is None else format_time(certificate.revoked_at),
        "reason": None if certificate.revoked_at is None else _REASON_NAMES.get(certificate.revocation_reason),
    }


def _issuer(issuer: Issuer) -> Json:
    return {"issuer": issuer.id, "issuer_name": issuer.certificate.subject.rfc4514_string()}


def _text(arguments: Json, name: str) -> str | None:
    value = arguments.get(name)
    if value is not None and not isinstance(value, str):
        raise AcmecaError(f"{name}: a text is expected")
    return value
