"""What an administrator asks and orders, as plain values: one code path for the command line and the admin socket.

Rule 1: every operation takes and returns JSON values, so that it is the same over a socket and in the process.
Rule 2: what is asked for is read by `arguments.py`. Operations of another subject are modules of their own, and are given to this one.
"""

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509

from acmeca import audit
from acmeca.acme.objects import format_time
from acmeca.errors import AcmecaError, Conflict, NotFound
from acmeca.pki.issuer import Issuer
from acmeca.service.ambient import Ambient
from acmeca.service.arguments import Json, Operation, find_certificate, parse_search_name
from acmeca.service.arguments import cut as _cut
from acmeca.service.arguments import number as _number
from acmeca.service.arguments import text as _text
from acmeca.service.certificates import Certificates
from acmeca.service.grants import GrantAdministration
from acmeca.service.issuers import ROOT_CRL_LIFETIME, Issuers, fingerprint, to_pem
from acmeca.service.keys import KeyAdministration
from acmeca.service.limit_administration import LimitAdministration
from acmeca.service.renewal_windows import RenewalWindows
from acmeca.service.root_crls import RootCrls
from acmeca.service.status import Status
from acmeca.storage.certificates import Certificate, CertificateStatus, Search
from acmeca.storage.issuers import StoredIssuer
from acmeca.storage.store import Store

log = logging.getLogger(__name__)

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

_DEFAULT_LISTED: Final = 100
_MAX_LISTED: Final = 10_000
_GRANT_SHOWN: Final = 20  # certificates; `acmeca list --grant` has all of them
_MAX_NUMBER: Final = 2**63 - 1  # what the store's column holds


class Administration:
    """The operations, by name. `call` is the one way in."""

    def __init__(
        self,
        store: Store,
        *,
        certificates: Certificates,
        windows: RenewalWindows,
        grants: GrantAdministration,
        limits: LimitAdministration,
        keys: KeyAdministration,
        issuers: Issuers,
        status: Status,
        ambient: Ambient,
    ) -> None:
        self._store = store
        self._certificates = certificates
        self._windows = windows
        self._issuers = issuers
        self._status = status
        self._grants = grants
        self._ambient = ambient
        self._root_crls = RootCrls(store, issuers=issuers, status=status, ambient=ambient)
        self._operations: dict[str, Operation] = {
            **windows.operations,
            **grants.operations,
            **limits.operations,
            **keys.operations,
            "list": self._list,
            "show": self._show,
            "revoke": self._revoke,
            "crl": self._crl,
            "issuers": self._list_issuers,
            "root_crl_begin": self._begin_root_crl,
            "root_crl_publish": self._publish_root_crl,
            "eab_show": self._show_grant,
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
                grant_id=_text(arguments, "grant"),
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
            "grant": None if account is None else account.grant_id,
            "owner": None if account is None else await self._grants.owner(account),
            "order": certificate.order_id,
            "recorded_at": format_time(certificate.recorded_at),
            "issued_at": _time_or_none(certificate.issued_at),
            "spki_sha256": certificate.spki_sha256.hex(),
            "subject": None,
            "sha256_fingerprint": None,
            "pem": None,
            **await self._windows.shown(certificate),
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

    async def _show_grant(self, arguments: Json, _: str) -> Json:
        """A grant, its accounts, and what was issued to them, the newest first."""
        shown = await self._grants.show(arguments)
        issued = await self._certificates.search(Search(grant_id=str(shown["kid"]), limit=_GRANT_SHOWN))
        return shown | {"issued": [_summary(certificate, self._ambient.now()) for certificate in issued]}

    async def _find(self, typed: str) -> Certificate:
        return await find_certificate(self._store, typed)


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
