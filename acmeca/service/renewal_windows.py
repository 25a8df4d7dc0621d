"""What an operator orders about renewals: a window for certificates that are to be replaced, and how far that has come.

Rule 1: what was typed is resolved when it is said: a serial to its certificate, a duration to a moment. What is kept means the same
tomorrow.
Rule 2: nothing is set that is about no certificate: that was a slip.
Rule 3: how many certificates a window is about stands in the audit with it.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from acmeca import audit
from acmeca.acme.objects import format_time
from acmeca.acme.renewal import CertificateId, Window
from acmeca.errors import AcmecaError, NotFound
from acmeca.policy.renewals import Override, Selection
from acmeca.service.ambient import Ambient
from acmeca.service.arguments import Json, Operation, cut, find_certificate, number, parse_search_name, text, texts
from acmeca.service.issuers import Issuers
from acmeca.service.renewals import Renewals
from acmeca.storage.certificates import Certificate
from acmeca.storage.renewals import Census, Progress
from acmeca.storage.store import Store

MAX_SERIALS: Final = 1000  # of one window; more have something else in common
_PAGE: Final = 100_000  # serials told at a time: what a page costs is to find them all
_SHORTEST: Final = timedelta(minutes=1)
_LONGEST: Final = timedelta(days=366)
_DEFAULT: Final = timedelta(days=1)
_OVER: Final = timedelta(hours=1)  # how long a window lasted that is over when it is set
_LATEST: Final = timedelta(days=825)  # the longest life of a certificate
_MAX_URL: Final = 500  # characters
_SHA256_DIGITS: Final = 64
_HEX: Final = frozenset("0123456789abcdef")


class RenewalWindows:
    """The operations about renewals, by name (`operations`), for `administration.py`."""

    def __init__(self, store: Store, *, renewals: Renewals, issuers: Issuers, ambient: Ambient) -> None:
        self._store = store
        self._renewals = renewals
        self._issuers = issuers
        self._ambient = ambient
        self.operations: Mapping[str, Operation] = {
            "renewal_preview": self._preview,
            "renewal_set": self._set,
            "renewal_list": self._list,
            "renewal_progress": self._progress,
            "renewal_serials": self._serials,
            "renewal_clear": self._clear,
        }

    async def shown(self, certificate: Certificate) -> Json:
        """When a certificate is to be renewed, and what it replaces and was replaced by, as far as clients said so."""
        shown: Json = dict.fromkeys(("renew_from", "renew_until", "renew_why", "renewal", "replaces", "replaced_by"))
        if certificate.account_id is not None and certificate.order_id is not None:
            order = await self._store.orders.by_id(certificate.account_id, certificate.order_id)
            if order is not None and order.replaces is not None:
                shown["replaces"] = CertificateId.parse(order.replaces).serial_hex
        found = await self._store.renewals.by_serial(certificate.serial)
        if found is None:
            return shown
        override = await self._renewals.override_for(found)
        info = await self._renewals.info_of(found)
        shown |= {
            "renew_from": format_time(info.window.start),
            "renew_until": format_time(info.window.end),
            "renew_why": info.explanation_url,
            "renewal": None if override is None else override.id,
        }
        if found.replaced_by is not None:
            shown["replaced_by"] = await self._store.renewals.serial_of(found.replaced_by) or "forgotten"
        return shown

    async def _preview(self, arguments: Json, _: str) -> Json:
        """What `renewal_set` would be about, with the same arguments."""
        override = await self._read(arguments)
        return _word(override) | _counted(await self._census(override))

    async def _set(self, arguments: Json, user: str) -> Json:
        """Arguments: those of a selection (`_select`), `from` (Unix seconds; now) and `within` (seconds; a day), or `at_once`; `why`
        (a URL).
        """
        override = await self._read(arguments)
        census = await self._census(override)
        if census.left + census.replaced + census.renewed == 0:  # rule 2
            raise NotFound("no certificate fits that is neither expired nor revoked; nothing was set")
        await self._store.renewals.set(override, certificates=census.certificates, actor=audit.admin_actor(user))
        self._renewals.forget()
        return _word(override) | _counted(census)

    async def _list(self, arguments: Json, _: str) -> Json:
        """The windows in force, the newest first; with `all` those that were cleared too."""
        everything = arguments.get("all") is True
        found = await (self._store.renewals.all() if everything else self._store.renewals.in_force())
        return {"renewals": [_word(override) for override in found]}

    async def _progress(self, arguments: Json, _: str) -> Json:
        """How many certificates the window `id` is about, and how many of them were replaced since."""
        override = await self._store.renewals.by_id(text(arguments, "id") or "")
        return _word(override) | _counted(await self._census(override))

    async def _serials(self, arguments: Json, _: str) -> Json:
        """Arguments: `id`, `state` (a `Progress`), `after`: the serials that are in that state, behind that one, a page of them."""
        override = await self._store.renewals.by_id(text(arguments, "id") or "")
        state = text(arguments, "state") or ""
        try:
            progress = Progress(state)
        except ValueError:
            raise AcmecaError(f"state: {cut(state)!r} is none; one of {', '.join(Progress)} is") from None
        serials = await self._store.renewals.serials(
            override.selection,
            progress,
            set_at=override.set_at,
            now=self._ambient.now(),
            after=text(arguments, "after") or "",
            limit=_PAGE,
        )
        return {"serials": serials, "after": serials[-1] if len(serials) == _PAGE else None}

    async def _clear(self, arguments: Json, user: str) -> Json:
        override = await self._store.renewals.by_id(text(arguments, "id") or "")
        await self._store.renewals.clear(override.id, actor=audit.admin_actor(user), at=self._ambient.now())
        self._renewals.forget()
        return _word(await self._store.renewals.by_id(override.id))

    async def _census(self, override: Override) -> Census:
        return await self._store.renewals.census(
            override.selection, set_at=override.set_at, until=override.window.end, now=self._ambient.now()
        )

    # --- what was typed ---------------------------------------------------------------------------------------------

    async def _read(self, arguments: Json) -> Override:
        now = self._ambient.now()
        return Override(
            id=self._ambient.new_id(),
            selection=await self._select(arguments, now),
            window=_window(arguments, now),
            explanation_url=_url(text(arguments, "why")),
            set_at=now,
        )

    async def _select(self, arguments: Json, now: datetime) -> Selection:
        """Arguments: `serials`, `name`, `issuer`, `profile`, `account`, `grant`, `key`, `issued_after`, `issued_before` (Unix
        seconds), `expires_within` (seconds); or `all`, when none of them is given.
        """
        typed = texts(arguments, "serials")
        if len(typed) > MAX_SERIALS:
            raise AcmecaError(f"serials: {MAX_SERIALS} at the most; say what the certificates have in common instead")
        name, issuer_id = text(arguments, "name"), text(arguments, "issuer")
        if issuer_id is not None and self._issuers.stored(issuer_id) is None:
            raise NotFound(f"there is no issuer {cut(issuer_id)}; acmeca crl lists them")
        expires_within = number(arguments, "expires_within")
        selection = Selection(
            serials=frozenset([(await find_certificate(self._store, item)).serial for item in typed]),
            name=None if name is None else parse_search_name(name),
            issuer_id=issuer_id,
            profile=text(arguments, "profile"),
            account_id=text(arguments, "account"),
            grant_id=text(arguments, "grant"),
            spki_sha256=_digest(text(arguments, "key")),
            issued_after=_moment(arguments, "issued_after"),
            issued_before=_moment(arguments, "issued_before"),
            expires_before=None if expires_within is None else _later(now, expires_within, "expires_within"),
        )
        if selection.is_everything is not (arguments.get("all") is True):
            raise AcmecaError(
                "say which certificates: by serial, name, issuer, profile, account, grant, key or date; or all"
            )
        return selection


def _window(arguments: Json, now: datetime) -> Window:
    """RFC 9773 §4.2: a client for which the moment that it chose "is in the past" renews immediately."""
    within = number(arguments, "within")
    if arguments.get("at_once") is True:
        if within is not None or arguments.get("from") is not None:
            raise AcmecaError("at_once: a window that is over takes no from and no within")
        return Window(now - _OVER, now)
    duration = _DEFAULT if within is None else timedelta(seconds=min(within, 10**9))
    if not _SHORTEST <= duration <= _LONGEST:
        raise AcmecaError("within: from a minute to a year is allowed")
    start = _moment(arguments, "from") or now
    if not now < start + duration or start > now + _LATEST:
        raise AcmecaError("from: the window is over already, or begins when no certificate of today is valid any more")
    return Window(start, start + duration)


def _moment(arguments: Json, name: str) -> datetime | None:
    seconds = number(arguments, name)
    if seconds is None:
        return None
    return _later(datetime.fromtimestamp(0, UTC), seconds, name)


def _later(moment: datetime, seconds: int, name: str) -> datetime:
    try:
        return moment + timedelta(seconds=seconds)
    except OverflowError:
        raise AcmecaError(f"{name}: that is beyond any calendar") from None


def _digest(typed: str | None) -> str | None:
    """SHA-256 of a SubjectPublicKeyInfo in hex, as `acmeca show` prints it."""
    if typed is None:
        return None
    digits = typed.strip().lower().replace(":", "")
    if len(digits) != _SHA256_DIGITS or not _HEX.issuperset(digits):
        raise AcmecaError(f"key: {cut(typed)!r} is no SHA-256 in hex; acmeca show prints a key's")
    return digits


def _url(typed: str | None) -> str | None:
    """The URL of a page for people (`explanationURL`): clients show it to those who run them."""
    if typed is None:
        return None
    try:
        parts = urlsplit(typed)
        is_page = parts.scheme in {"https", "http"} and bool(parts.hostname)
    except ValueError:
        is_page = False
    if not is_page or len(typed) > _MAX_URL or not typed.isascii() or not typed.isprintable() or " " in typed:
        raise AcmecaError(f"why: {cut(typed)!r} is no URL of a page, like https://wiki.corp.internal/ca/2026-11")
    return typed


def _word(override: Override) -> Json:
    return {
        "id": override.id,
        "selection": override.selection.to_json(),
        "from": format_time(override.window.start),
        "until": format_time(override.window.end),
        "why": override.explanation_url,
        "set_at": format_time(override.set_at),
        "cleared_at": None if override.cleared_at is None else format_time(override.cleared_at),
    }


def _counted(census: Census) -> Json:
    return {
        "certificates": census.certificates,
        "revoked": census.revoked,
        "replaced": census.replaced,
        "renewed": census.renewed,
        "left": census.left,
        "ending": census.ending,
    }
