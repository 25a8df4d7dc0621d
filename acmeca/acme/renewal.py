"""Renewal information (RFC 9773): which certificate is meant, and when its holder should renew it.

Rule 1: a certificate has one identifier (§4.1), and an identifier means one certificate: whatever does not come out of
`CertificateId` in the same form is refused, so that no cache and no index holds two names for one thing.
Rule 2: a window follows from what was recorded of the certificate and from an operator's word, never from the present moment or a
die: the same question has the same answer, at every worker and in every cache.
Rule 3: the certificates of a fleet that were made in one moment have windows at different times, by their serials, which are random.
Many clients renew as soon as a window begins: certbot draws its moment anew at each run.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from acmeca.acme import base64url
from acmeca.acme.objects import format_time

_MAX_KEY_IDENTIFIER: Final = 64  # octets; the longest digest that anybody makes one of
_MAX_SERIAL: Final = 20  # octets (RFC 5280 §4.1.2.2)

# Shares of the time for which a certificate can be used.
_RENEWED_AT: Final = 2 / 3
_SHORT_RENEWED_AT: Final = 1 / 2
_SPREAD: Final = 0.10  # over which the windows of a fleet lie
_WIDTH: Final = 0.02  # of each of them
_WIDEST_SHARE: Final = 0.25
_CHECKS: Final = 24  # of a client in a certificate's life, at the least

_SHORT: Final = timedelta(days=10)
_SHORTEST_WINDOW: Final = timedelta(minutes=2)
_CLOCK_ERROR: Final = timedelta(hours=1)  # how wide a window in the past is
_SHORTEST_WAIT: Final = 60  # seconds. §4.3.2: "values under one minute could be treated as if they were one minute"
_LOOKS_AT_A_WORD: Final = 4  # how often a client looks within the window that an operator set


@dataclass(frozen=True, slots=True)
class CertificateId:
    """The identifier of a certificate (§4.1): its authority key identifier's `keyIdentifier`, and its serial, which is positive."""

    key_identifier: bytes
    serial: int

    @classmethod
    def parse(cls, text: str) -> "CertificateId":
        """Read `base64url(keyIdentifier).base64url(serial)`. Raises ValueError with the reason.

        "All trailing "=" characters MUST be stripped from both parts".
        """
        first, period, second = text.partition(".")
        if not period:
            raise ValueError("it has two parts with a period between them (RFC 9773 §4.1)")
        try:
            key_identifier, octets = base64url.decode(first), base64url.decode(second)
        except ValueError:
            raise ValueError("its parts have to be base64url without padding (RFC 9773 §4.1)") from None
        if not 0 < len(key_identifier) <= _MAX_KEY_IDENTIFIER:
            raise ValueError(f"its first part has to be a key identifier of 1 to {_MAX_KEY_IDENTIFIER} octets")
        serial = int.from_bytes(octets, "big")
        if serial == 0 or len(octets) > _MAX_SERIAL or _der_content(serial) != octets:
            raise ValueError(
                f"its second part has to be the content of a DER INTEGER that is positive, of at most {_MAX_SERIAL} octets"
            )
        return cls(key_identifier, serial)

    @property
    def serial_hex(self) -> str:
        """The serial as it is kept: lower-case hex of its octets, without the zero octet that keeps a DER INTEGER positive."""
        return _der_content(self.serial).lstrip(b"\0").hex()

    def __str__(self) -> str:
        return f"{base64url.encode(self.key_identifier)}.{base64url.encode(_der_content(self.serial))}"


@dataclass(frozen=True, slots=True)
class Window:
    """When the CA "recommends renewing the certificate" (§4.2).

    "A RenewalInfo object in which the end timestamp equals or precedes the start timestamp is invalid. Servers MUST NOT serve such
    a response": there is no such window. Raises ValueError.
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise ValueError("a window has to end after it starts")


@dataclass(frozen=True, slots=True)
class Life:
    """What a window follows from. `serial` is in hex; `issued_at` is when the certificate was signed."""

    serial: str
    not_before: datetime
    not_after: datetime
    issued_at: datetime
    revoked_at: datetime | None = None

    @property
    def begin(self) -> datetime:
        """From when on it can be used: notBefore lies in the past where clocks differ, and in the future where that was asked for."""
        return max(self.not_before, self.issued_at)

    @property
    def usable(self) -> timedelta:
        """For how long it can be used; at least two seconds, so that a window fits in."""
        return max(self.not_after - self.begin, timedelta(seconds=2))


@dataclass(frozen=True, slots=True)
class RenewalInfo:
    """The answer (§4.2). `retry_after` is when a client should ask again, in whole seconds (§4.3)."""

    window: Window
    retry_after: int
    explanation_url: str | None = None

    def to_json(self) -> dict[str, object]:
        window = {"start": format_time(self.window.start), "end": format_time(self.window.end)}
        document: dict[str, object] = {"suggestedWindow": window}
        if self.explanation_url is not None:
            document["explanationURL"] = self.explanation_url
        return document


def own_window(life: Life) -> Window:
    """The window that follows from the lifetime: around two thirds of it, or half of it for less than ten days.

    What counts is how long a CA or a network may be out of order before certificates expire: the last third of ninety days is a
    month, the last third of a day is a night. certbot and Let's Encrypt divide at ten days too.
    """
    usable = life.usable
    width = max(usable * _WIDTH, _SHORTEST_WINDOW)
    width = max(_whole(min(width, usable * _WIDEST_SHARE)), timedelta(seconds=1))
    renewed_at = _RENEWED_AT if usable >= _SHORT else _SHORT_RENEWED_AT
    first = usable * renewed_at - (usable * _SPREAD + width) / 2
    start = min(_whole(first + usable * (_SPREAD * _place(life.serial))), _whole(usable) - width)
    return Window(life.begin + start, life.begin + start + width)


def suggest_window(life: Life, *, asked: Window | None = None) -> Window:
    """The window to tell. `asked` is what an operator set for this certificate.

    1. A certificate that was revoked should be renewed now. Its window ends at notBefore, so that it is over by every clock by which
    the certificate is valid at all (the RFC's security considerations speak of clocks that are slow).
    2. What an operator asked for, unless the certificate ends before that does: then its own window is the earlier one.
    3. The one that follows from its lifetime; of one that has expired it is long over.
    """
    if life.revoked_at is not None:
        end = min(life.not_before, life.revoked_at)
        return Window(end - _CLOCK_ERROR, end)
    if asked is not None and asked.end <= life.not_after:
        return asked
    return own_window(life)


def wait_before_next(life: Life, *, longest: timedelta, asked: Window | None = None) -> int:
    """`Retry-After` in whole seconds (§4.3.1): `longest`, but for a short life or an operator's window often enough to be in time."""
    waits = [longest, life.usable / _CHECKS]
    if asked is not None:
        waits.append((asked.end - asked.start) / _LOOKS_AT_A_WORD)
    return max(int(min(waits).total_seconds()), _SHORTEST_WAIT)


def _place(serial: str) -> float:
    """Where a certificate stands in its fleet, from 0 to 1: alike for every question, and even over all serials."""
    digest = hashlib.sha256(serial.encode("ascii")).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)


def _whole(duration: timedelta) -> timedelta:
    """The duration in whole seconds, the finest grain that ACME knows."""
    return timedelta(seconds=duration // timedelta(seconds=1))


def _der_content(serial: int) -> bytes:
    """The content octets of a positive DER INTEGER: as few as hold it and a sign bit of 0 (X.690 §8.3)."""
    return serial.to_bytes(serial.bit_length() // 8 + 1, "big")
