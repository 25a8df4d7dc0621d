"""An operator's word on when certificates are to be renewed: which certificates, which window, and why.

Rule 1: a word is about certificates that were there when it was given, never about those that replace them: they would be renewed
again and again.
Rule 2: which certificates are meant is decided here, for one at a time, and in SQL for all (`storage/renewals.py`); a test holds the
two together.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from acmeca.acme.objects import format_time
from acmeca.acme.renewal import Window

_TEXTS: Final = ("name", "issuer_id", "profile", "account_id", "grant_id", "spki_sha256")
_MOMENTS: Final = ("issued_after", "issued_before", "expires_before")


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewable:
    """What a selection looks at. `serial` and `spki_sha256` are in hex; the names of a certificate are asked for apart."""

    serial: str
    issuer_id: str
    profile: str
    account_id: str | None
    grant_id: str | None
    spki_sha256: str
    recorded_at: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Certificates that fit everything that is given; without anything, all.

    `name` is exact, or `*.suffix` for everything below a suffix. `issued_after` is counted in, the other moments are not.
    """

    serials: frozenset[str] = frozenset()
    name: str | None = None
    issuer_id: str | None = None
    profile: str | None = None
    account_id: str | None = None
    grant_id: str | None = None
    spki_sha256: str | None = None
    issued_after: datetime | None = None
    issued_before: datetime | None = None
    expires_before: datetime | None = None

    @property
    def is_everything(self) -> bool:
        return self == Selection()

    def fits(self, certificate: Renewable) -> bool:
        """Whether a certificate fits, its names aside (`fits_names`)."""
        return (
            (not self.serials or certificate.serial in self.serials)
            and self.issuer_id in {None, certificate.issuer_id}
            and self.profile in {None, certificate.profile}
            and self.account_id in {None, certificate.account_id}
            and self.grant_id in {None, certificate.grant_id}
            and self.spki_sha256 in {None, certificate.spki_sha256}
            and (self.issued_after is None or self.issued_after <= certificate.recorded_at)
            and (self.issued_before is None or certificate.recorded_at < self.issued_before)
            and (self.expires_before is None or certificate.not_after < self.expires_before)
        )

    def fits_names(self, names: Iterable[str]) -> bool:
        """Whether one of a certificate's names fits."""
        if self.name is None:
            return True
        if self.name.startswith("*."):
            return any(name.endswith(self.name[1:]) for name in names)
        return self.name in names

    def to_json(self) -> dict[str, Any]:
        """What is given, and nothing else."""
        document: dict[str, Any] = {"serials": sorted(self.serials)} if self.serials else {}
        for name in _TEXTS:
            if (text := getattr(self, name)) is not None:
                document[name] = text
        for name in _MOMENTS:
            if (moment := getattr(self, name)) is not None:
                document[name] = format_time(moment)
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Selection":
        """What `to_json` made. Raises ValueError for anything else."""
        unknown = document.keys() - {"serials", *_TEXTS, *_MOMENTS}
        serials = document.get("serials", [])
        if unknown or not isinstance(serials, list):
            raise ValueError("a selection that acmeca never wrote")
        texts = {name: document[name] for name in (*_TEXTS, *_MOMENTS) if name in document}
        if not all(isinstance(text, str) for text in (*serials, *texts.values())):
            raise ValueError("a selection that acmeca never wrote")
        values: dict[str, Any] = {
            name: datetime.fromisoformat(text) if name in _MOMENTS else text for name, text in texts.items()
        }
        return cls(serials=frozenset(serials), **values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A window that an operator set, and the URL of a page that says why. `cleared_at` is set when it is in force no longer."""

    id: str
    selection: Selection
    window: Window
    explanation_url: str | None
    set_at: datetime
    cleared_at: datetime | None = None

    def fits(self, certificate: Renewable, *, now: datetime) -> bool:
        """Whether it is about this certificate, its names aside (rule 1).

        What was set by a clock that was ahead waits until its time has come: it would be about certificates that replace others.
        """
        return certificate.recorded_at <= self.set_at <= now and self.selection.fits(certificate)
