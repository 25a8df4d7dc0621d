"""Certificate status: OCSP answers and CRLs, from the same rows (RFC 6960, RFC 9919, RFC 5280 §5).

Rule 1: an answer is signed when it is first asked for and kept until half of its life; what was revoked is dropped in the
step that learns of the revocation, before the next request is read.
Rule 2: an answer is never "good" for a serial that we did not record and sign (RULES §5).
Rule 3: a CRL takes its number and fixes its content before it is signed (`storage/crls.py`).
Rule 4: what another process revoked or published is seen by the numbers that moved (`follow`, several times a second).
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from acmeca import audit
from acmeca.errors import NotFound
from acmeca.pki.crl import build_tbs_crl, encode_entry, sign_crl
from acmeca.pki.errors import PkiError
from acmeca.pki.issuer import Issuer
from acmeca.pki.ocsp import (
    UNSUCCESSFUL,
    AnswerError,
    AnyCertId,
    CertId,
    CertStatus,
    Good,
    MalformedRequestError,
    OcspRequest,
    Responder,
    ResponseStatus,
    Revoked,
    SingleAnswer,
    Unknown,
    parse_request,
    sign_response,
)
from acmeca.service.ambient import Ambient
from acmeca.service.issuers import Issuers, SigningIssuer
from acmeca.service.observation import Observer
from acmeca.storage.certificates import SerialStatus
from acmeca.storage.crls import Crl, CrlDraft
from acmeca.storage.errors import StaleError
from acmeca.storage.leases import Lease
from acmeca.storage.store import Store

log = logging.getLogger(__name__)

_KEPT_ANSWERS: Final = 100_000  # serials of ours, some 1.5 KiB each
_KEPT_ENCODINGS: Final = 8
_KEPT_REQUESTS: Final = 100_000  # each about a certificate of ours by its issuer and hashes, some 0.5 KiB
_KEPT_REQUEST_BYTES: Final = 256  # what ordinary clients send takes less than 150
_FOLLOWED_ONE_BY_ONE: Final = 10_000  # revocations at a time; of more, all answers are dropped
_MAX_AGE: Final = timedelta(minutes=5)  # how long a cache may hold an answer (DESIGN §6)


@dataclass(frozen=True, slots=True)
class StatusSettings:
    """How long status information lives: an OCSP answer, a CRL, and how often a CRL is made anew."""

    ocsp_lifetime: timedelta
    crl_lifetime: timedelta
    crl_interval: timedelta


@dataclass(frozen=True, slots=True)
class OcspAnswer:
    """An OCSPResponse as DER, and what HTTP says about it (RFC 9919 §7.2).

    `is_authoritative` is False for error responses, which are not signed and must not be cached. `is_private` marks an
    answer with a nonce: it is of use to one client once. `is_known` says that no certificate in it is unknown. `etag` is a quoted strong validator.
    `told` is the most alarming status in it, for the count of answers.
    """

    body: bytes
    is_authoritative: bool
    is_private: bool
    is_known: bool
    told: str
    this_update: datetime
    next_update: datetime
    refresh_at: datetime
    etag: str

    def max_age(self, now: datetime) -> int:
        """Seconds for which a cache may serve it: at most five minutes, never past nextUpdate."""
        return max(0, int(min(_MAX_AGE, self.next_update - now).total_seconds()))


class Status:
    """Answers about the certificates of every issuer that this server signs for."""

    def __init__(
        self,
        store: Store,
        *,
        issuers: Issuers,
        settings: StatusSettings,
        ambient: Ambient,
        observer: Observer,
    ) -> None:
        self._store = store
        self._issuers = issuers
        self._settings = settings
        self._ambient = ambient
        self._observer = observer
        self._responders: dict[str, Responder] = {}
        # By issuer and serial, then by the CertID as it was sent: an answer echoes its encoding.
        self._answers: OrderedDict[tuple[str, int], dict[bytes, OcspAnswer]] = OrderedDict()
        self._requests: OrderedDict[tuple[str, bytes], OcspRequest] = OrderedDict()
        self._generation = 0  # rises with each revocation: what was read before is not kept afterwards
        self._crls: dict[str, Crl] = {}
        self._followed: int | None = None  # the last revocation that was seen
        self._not_followed_since: datetime | None = None
        self._publishing: dict[str, asyncio.Lock] = {}
        self.crl_due = asyncio.Event()

    # --- OCSP ---------------------------------------------------------------------------------------------------

    def use_responder(self, issuer_id: str, responder: Responder) -> None:
        """Sign this issuer's answers with a new delegated key from now on; answers of the old one are dropped."""
        self._responders[issuer_id] = responder
        self._generation += 1
        for key in [key for key in self._answers if key[0] == issuer_id]:
            del self._answers[key]

    def responder_not_after(self, issuer_id: str) -> datetime | None:
        """When the issuer's responder certificate ends; None while it has none."""
        responder = self._responders.get(issuer_id)
        return None if responder is None else responder.not_after

    def forget(self, issuer_id: str, serial: int) -> None:
        """A certificate was revoked: drop what was signed of it, and ask for a new CRL."""
        self._generation += 1
        self._answers.pop((issuer_id, serial), None)
        self.crl_due.set()

    @property
    def not_followed_since(self) -> datetime | None:
        """Since when the database has not told of others' revocations; None while it does."""
        return self._not_followed_since

    async def follow(self) -> None:
        """Take note of what any process has revoked and published since the last call."""
        try:
            await self._follow()
        except BaseException:
            self._not_followed_since = self._not_followed_since or self._ambient.now()
            raise
        self._not_followed_since = None

    async def _follow(self) -> None:
        last = await self._store.certificates.last_revocation()
        # A number that fell: a standby took over that did not have the last revocations. The next ones bear their numbers.
        if self._followed is None or not 0 <= last - self._followed <= _FOLLOWED_ONE_BY_ONE:
            self._generation += 1
            self._answers.clear()
            self._followed = last
            self.crl_due.set()
        elif last > self._followed:
            for revocation in await self._store.certificates.revoked_since(self._followed):
                self.forget(revocation.issuer_id, int(revocation.serial, 16))
                self._followed = revocation.sequence
        for issuer_id, number in (await self._store.crls.latest_numbers()).items():
            kept = self._crls.get(issuer_id)
            if kept is not None and kept.number < number:
                newest = await self._store.crls.latest(issuer_id)
                if newest is not None:
                    self.use_crl(newest)

    async def ocsp(self, issuer_id: str, request_der: bytes) -> OcspAnswer:
        """The answer to an OCSP request that was sent to this issuer's URL. Never raises for what a client sent.

        Step 1: the request is read, strictly. Step 2: an issuer that is not ours, or none of whose certificates is asked
        about, is `unauthorized` (RFC 9919 §3.2.1). Step 3: a request for one certificate without a nonce is answered with
        what was signed before, while that is fresh. Step 4: everything else is signed now.
        """
        now = self._ambient.now()
        # Steps 1 and 2
        signer = self._issuers.signer(issuer_id)
        try:
            request = self._parse(signer, request_der)
        except MalformedRequestError as error:
            log.debug("malformed OCSP request: %s", error)
            return self._unsuccessful(ResponseStatus.MALFORMED_REQUEST, now)
        if signer is None or not any(_is_about(cert_id, signer) for cert_id in request.cert_ids):
            return self._unsuccessful(ResponseStatus.UNAUTHORIZED, now)
        responder = self._responders.get(issuer_id)
        if responder is None:
            log.error("issuer %s has no OCSP responder", issuer_id)
            return self._unsuccessful(ResponseStatus.TRY_LATER, now)
        try:
            return await self._answer(signer, responder, request, now)
        except AnswerError as error:  # the clock jumped, and the responder's certificate is renewed in a moment
            log.error("issuer %s cannot answer now: %s", issuer_id, error)  # noqa: TRY400  (the message is all there is)
            return self._unsuccessful(ResponseStatus.TRY_LATER, now)

    async def _answer(
        self, signer: SigningIssuer, responder: Responder, request: OcspRequest, now: datetime
    ) -> OcspAnswer:
        """Steps 3 and 4 of `ocsp`."""
        # Step 3
        cert_id = request.cert_ids[0]
        if request.nonce is not None or len(request.cert_ids) > 1 or not isinstance(cert_id, CertId):
            return await self._sign(signer, responder, request, now)
        kept = self._answers.get((signer.id, cert_id.serial), {}).get(cert_id.encoding)
        if kept is not None and kept.this_update <= now < kept.refresh_at:
            self._observer.ocsp_answered(kept.told, kept=True)
            return kept
        # Step 4
        generation = self._generation
        answer = await self._sign(signer, responder, request, now)
        # Kept when nothing was revoked between the reading and here. "unknown" is not: it may become good in a moment
        # (recorded, not yet signed), and nobody shall fill our memory with serials that do not exist.
        if generation == self._generation and answer.is_known:
            self._keep(signer.id, cert_id, answer)
        return answer

    def _keep(self, issuer_id: str, cert_id: CertId, answer: OcspAnswer) -> None:
        encodings = self._answers.setdefault((issuer_id, cert_id.serial), {})
        if len(encodings) >= _KEPT_ENCODINGS:  # one CertID has few honest spellings: four hashes, parameters or none
            encodings.clear()
        encodings[cert_id.encoding] = answer
        if len(self._answers) > _KEPT_ANSWERS:
            self._answers.popitem(last=False)

    def _parse(self, signer: SigningIssuer | None, request_der: bytes) -> OcspRequest:
        """The request, as it was read before if it is an ordinary one about a certificate of this issuer."""
        key = ("" if signer is None else signer.id, request_der)
        request = self._requests.get(key)
        if request is None:
            request = parse_request(request_der)
            if signer is not None and len(request_der) <= _KEPT_REQUEST_BYTES and _is_ordinary(request, signer):
                self._requests[key] = request
                if len(self._requests) > _KEPT_REQUESTS:
                    self._requests.popitem(last=False)
        return request

    async def _sign(
        self, signer: SigningIssuer, responder: Responder, request: OcspRequest, now: datetime
    ) -> OcspAnswer:
        next_update = min(now + self._settings.ocsp_lifetime, responder.not_after)
        answers = [
            SingleAnswer(cert_id, await self._status(signer, cert_id, now), this_update=now, next_update=next_update)
            for cert_id in request.cert_ids
        ]
        body = sign_response(responder=responder, answers=answers, produced_at=now, nonce=request.nonce)
        told = _told(answers)
        self._observer.ocsp_answered(told, kept=False)
        return OcspAnswer(
            body=body,
            is_authoritative=True,
            is_private=request.nonce is not None,
            is_known=not any(isinstance(answer.status, Unknown) for answer in answers),
            told=told,
            this_update=now,
            next_update=next_update,
            refresh_at=now + (next_update - now) / 2,
            etag=_etag(body),
        )

    async def _status(self, signer: SigningIssuer, cert_id: AnyCertId, now: datetime) -> CertStatus:
        if not isinstance(cert_id, CertId) or not cert_id.matches(signer.issuer):
            return Unknown()
        found = await self._store.certificates.status_of(signer.id, format_serial(cert_id.serial))
        return _cert_status(found, now)

    def _unsuccessful(self, status: ResponseStatus, now: datetime) -> OcspAnswer:
        body = UNSUCCESSFUL[status]
        self._observer.ocsp_answered(status, kept=True)
        return OcspAnswer(
            body=body,
            is_authoritative=False,
            is_private=False,
            is_known=False,
            told=status,
            this_update=now,
            next_update=now,
            refresh_at=now,
            etag=_etag(body),
        )

    # --- CRLs ---------------------------------------------------------------------------------------------------

    async def crl(self, issuer_id: str) -> Crl:
        """The newest published CRL of an issuer or a root. Raises `NotFound`."""
        crl = self._crls.get(issuer_id)
        if crl is None:
            crl = await self._store.crls.latest(issuer_id)
            if crl is None:
                raise NotFound(f"issuer {issuer_id} has no CRL")
            self.use_crl(crl)
        return crl

    def use_crl(self, crl: Crl) -> None:
        """Serve a published CRL from now on, unless a newer one is served already: a read may end after a newer one came."""
        kept = self._crls.get(crl.issuer_id)
        if kept is None or kept.number < crl.number:
            self._crls[crl.issuer_id] = crl

    async def publish_crl(self, issuer_id: str, *, actor: str = audit.SYSTEM) -> Crl:
        """Make, check and publish a CRL of everything revoked so far; `actor` is who asked for it. Raises `NotFound` for an issuer without a key here."""
        signer = self._issuers.signer(issuer_id)
        if signer is None:
            raise NotFound(
                f"there is no issuer {issuer_id} whose key is here; a root's CRL is made where its key is, with: "
                "acmeca crl --root-key FILE"
            )
        async with self._lock(issuer_id):
            return await self._publish(signer, actor=actor)

    async def publish_if_due(self, issuer_id: str, *, lease: Lease | None = None) -> Crl:
        """Publish when revocations wait or the interval is over; else the newest one, which somebody else just made.

        With a `lease`, `StaleError` when that was lost.
        """
        signer = self._issuers.signer(issuer_id)
        async with self._lock(issuer_id):
            if signer is not None and await self._is_crl_due(issuer_id):
                return await self._publish(signer, actor=audit.SYSTEM, lease=lease)
            return await self.crl(issuer_id)

    async def _publish(self, signer: SigningIssuer, *, actor: str, lease: Lease | None = None) -> Crl:
        issuer_id = signer.id
        now = self._ambient.now()
        next_update = min(now + self._settings.crl_lifetime, signer.issuer.not_after)
        if next_update <= now:  # before a number is taken for what cannot be signed
            raise PkiError(f"issuer {issuer_id} has expired at {signer.issuer.not_after:%Y-%m-%d}: it signs no CRL")
        draft = await self._store.crls.begin(
            issuer_id, this_update=now, next_update=next_update, actor=actor, lease=lease
        )
        der = await asyncio.to_thread(_sign_crl, signer, draft)  # long with many entries
        try:
            crl = await self._store.crls.publish(draft, der, at=now, actor=actor, lease=lease)
        except StaleError:  # a newer one, which holds all that this one does, was published, or the lease was lost
            self._crls.pop(issuer_id, None)
            return await self.crl(issuer_id)
        self.use_crl(crl)
        log.info("published CRL %d of issuer %s with %d entries", crl.number, issuer_id, crl.entries)
        return crl

    async def publish_due_crls(self, *, lease: Lease | None = None) -> None:
        """Publish the CRL of each issuer that has revocations waiting, or whose CRL was begun and not published, or is older
        than the interval.
        """
        self.crl_due.clear()
        try:
            for signer in self._issuers.signing:
                await self.publish_if_due(signer.id, lease=lease)
        except BaseException:
            self.crl_due.set()  # a full disk, a token that is gone: what was due is due still
            raise

    async def seconds_to_next_crl(self) -> float:
        """When `publish_due_crls` has something to do at the latest."""
        now = self._ambient.now()
        due = []
        for signer in self._issuers.signing:
            try:
                due.append((await self.crl(signer.id)).this_update + self._settings.crl_interval)
            except NotFound:  # the first one is being made, perhaps by another worker
                due.append(now)
        return max(0.0, (min(due, default=now + self._settings.crl_interval) - now).total_seconds())

    def _lock(self, issuer_id: str) -> asyncio.Lock:
        return self._publishing.setdefault(issuer_id, asyncio.Lock())

    async def _is_crl_due(self, issuer_id: str) -> bool:
        latest = await self._store.crls.latest(issuer_id)
        if latest is None or await self._store.crls.pending_revocations(issuer_id):
            return True
        if await self._store.crls.has_unpublished(issuer_id):
            return True
        now = self._ambient.now()
        # A thisUpdate in the future means that the clock was wrong then; a CRL that nobody believes is no CRL.
        return not latest.this_update <= now < latest.this_update + self._settings.crl_interval


def format_serial(serial: int) -> str:
    """A serial as the store keeps it: lower-case hex of its octets, two digits each."""
    return serial.to_bytes(max(1, (serial.bit_length() + 7) // 8), "big").hex()


def _is_ordinary(request: OcspRequest, signer: SigningIssuer) -> bool:
    """One certificate of this issuer, and no nonce: the same bytes will come again."""
    return request.nonce is None and len(request.cert_ids) == 1 and _is_about(request.cert_ids[0], signer)


def _is_about(cert_id: AnyCertId, signer: SigningIssuer) -> bool:
    return isinstance(cert_id, CertId) and cert_id.matches(signer.issuer)


def _cert_status(status: SerialStatus | None, now: datetime) -> CertStatus:
    """A revocation is never dated after the answer: Java takes one in the future for none, after the clock was set back."""
    if status is None:
        return Unknown()
    if status.revoked_at is not None:
        return Revoked(min(status.revoked_at, now), status.reason)
    return Good() if status.is_signed else Unknown()


def _told(answers: Sequence[SingleAnswer]) -> str:
    """The most alarming status among answers: most often there is one."""
    kinds = {type(answer.status) for answer in answers}
    return "revoked" if Revoked in kinds else "unknown" if Unknown in kinds else "good"


def build_drafted_tbs(draft: CrlDraft, issuer: Issuer) -> bytes:
    """The TBSCertList of a draft: every draft has one, so that what comes back signed can be compared with it."""
    # No entry is dated after the CRL itself, for the reason of `_cert_status`.
    entries = b"".join(
        encode_entry(int(serial, 16), min(at, draft.this_update), reason) for serial, at, reason in draft.revoked
    )
    return build_tbs_crl(
        issuer=issuer,
        number=draft.number,
        this_update=draft.this_update,
        next_update=draft.next_update,
        entries=entries,
    )


def _sign_crl(signer: SigningIssuer, draft: CrlDraft) -> bytes:
    return sign_crl(build_drafted_tbs(draft, signer.issuer), signer.issuer, signer.key)


def _etag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'
