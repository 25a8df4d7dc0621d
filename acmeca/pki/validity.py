"""The validity of a certificate: what its template gives, and what is asked for instead (RFC 5280 §4.1.2.5, RFC 8555 §7.4).

Rule 1: what is asked for is given to the second, or refused: §7.4: "The server MUST return an error if it cannot fulfill the
request as specified". Nothing that was asked for is cut or moved.
Rule 2: what is not asked for is chosen: the template's lifetime, never beyond the issuer's end.
Rule 3: both ends are inclusive, so that a lifetime ends a second before its full length after notBefore.
Rule 4: a refusal names what was asked for and the bound.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from acmeca.pki.errors import IssuanceError, IssuerNotValidError, PkiError, ValidityError
from acmeca.pki.issuer import Issuer
from acmeca.pki.template import MAX_BACKDATE, Template

# A certificate for later is made under the rules of today, so that it must not be for much later.
MAX_POSTDATE: Final = timedelta(hours=48)

_SECOND: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Validity:
    """The first and the last second of a certificate, in UTC."""

    not_before: datetime
    not_after: datetime


def choose_validity(
    template: Template,
    issuer: Issuer,
    *,
    now: datetime,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> Validity:
    """The validity of a certificate that is made now; `not_before` and `not_after` are what was asked for, in whole seconds.

    1. The issuer is valid now. 2. notBefore: as asked, within an hour back and two days ahead, and within the issuer's life;
    else a little before now (`Template.backdate`), later where a notAfter at the very end of the longest lifetime needs it.
    3. notAfter: as asked, in the future, no longer than the template's longest lifetime, and not beyond the issuer's end; else
    the lifetime's last second, or the issuer's where that comes first.

    Raises `IssuerNotValidError` for step 1, `ValidityError` for what is asked for, and `PkiError` for times without an encoding.
    """
    if now.utcoffset() != timedelta():
        raise IssuanceError("now has to be in UTC")
    now = now.replace(microsecond=0)
    # Step 1
    if not issuer.not_before <= now <= issuer.not_after:
        raise IssuerNotValidError(
            f"the issuer {issuer.id} is valid from {issuer.not_before} to {issuer.not_after}, and now it is {now}"
        )
    # Step 2
    if not_before is not None:
        _check_beginning(not_before, issuer, now)
        first = not_before
    else:
        first = max(now - template.backdate, issuer.not_before)
    if not_after is None:
        return Validity(first, last_second(first, template.lifetime, issuer))
    # Step 3
    latest = now + template.longest if not_before is None else not_before + template.longest - _SECOND
    _check_end(not_after, earliest=max(first, now + _SECOND), latest=latest, template=template, issuer=issuer)
    if not_before is None:
        first = max(first, not_after + _SECOND - template.longest)
    return Validity(first, not_after)


def last_second(not_before: datetime, lifetime: timedelta, issuer: Issuer | None) -> datetime:
    """The notAfter of a certificate: the last second of its lifetime, or of its issuer's where that comes first.

    Raises `PkiError` beyond the year 9999, which has no encoding.
    """
    try:
        last = not_before + lifetime - _SECOND
    except OverflowError:
        raise PkiError(f"a lifetime of {lifetime.days} days from {not_before} ends after the year 9999") from None
    return last if issuer is None else min(last, issuer.not_after)


def _check_beginning(not_before: datetime, issuer: Issuer, now: datetime) -> None:
    for bound, what in (
        (now - MAX_BACKDATE, "an hour before now, and no certificate is dated back further"),
        (issuer.not_before, "the beginning of its issuer's life"),
    ):
        if not_before < bound:
            raise ValidityError(f"notBefore: {_show(not_before)} is before {_show(bound)}, {what}")
    for bound, what in (
        (now + MAX_POSTDATE, "48 hours from now, and no certificate is made for later"),
        (issuer.not_after, "the end of its issuer's life"),
    ):
        if not_before > bound:
            raise ValidityError(f"notBefore: {_show(not_before)} is after {_show(bound)}, {what}")


def _check_end(
    not_after: datetime, *, earliest: datetime, latest: datetime, template: Template, issuer: Issuer
) -> None:
    if not_after < earliest:
        raise ValidityError(
            f"notAfter: {_show(not_after)} is before {_show(earliest)}, and a certificate ends after now and after its notBefore"
        )
    for bound, what in (
        (latest, f"the end of the longest lifetime that the profile {template.name} has"),
        (issuer.not_after, "the end of its issuer's life"),
    ):
        if not_after > bound:
            raise ValidityError(f"notAfter: {_show(not_after)} is after {_show(bound)}, {what}")


def _show(moment: datetime) -> str:
    """RFC 3339, as it was asked for; `strftime` would leave out the zeros of a year before 1000."""
    return moment.isoformat().replace("+00:00", "Z")
