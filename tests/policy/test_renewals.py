"""Which certificates an operator's word is about (policy/renewals.py)."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from acmeca.acme.renewal import Window
from acmeca.policy.renewals import Override, Renewable, Selection

NOW = datetime(2026, 11, 26, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)

CERTIFICATE = Renewable(
    serial="01ab",
    issuer_id="issuer",
    profile="server",
    account_id="account",
    grant_id="grant",
    spki_sha256="ab" * 32,
    recorded_at=NOW,
    not_after=NOW + 90 * DAY,
)

FITTING = [
    Selection(),
    Selection(serials=frozenset({"01ab", "02"})),
    Selection(issuer_id="issuer"),
    Selection(profile="server", account_id="account", grant_id="grant"),
    Selection(spki_sha256="ab" * 32),
    Selection(issued_after=NOW, issued_before=NOW + timedelta(seconds=1)),
    Selection(expires_before=NOW + 90 * DAY + timedelta(seconds=1)),
]
OTHERS = [
    Selection(serials=frozenset({"02"})),
    Selection(issuer_id="other"),
    Selection(profile="client", account_id="account"),
    Selection(profile="server", account_id="other"),
    Selection(grant_id="other"),
    Selection(spki_sha256="cd" * 32),
    Selection(issued_after=NOW + timedelta(seconds=1)),
    Selection(issued_before=NOW),
    Selection(expires_before=NOW + 90 * DAY),
]


@pytest.mark.parametrize("selection", FITTING)
def test_what_fits(selection: Selection) -> None:
    assert selection.fits(CERTIFICATE)


@pytest.mark.parametrize("selection", OTHERS)
def test_what_does_not(selection: Selection) -> None:
    assert not selection.fits(CERTIFICATE)


def test_an_account_without_a_grant_is_of_none() -> None:
    assert not Selection(grant_id="grant").fits(replace(CERTIFICATE, grant_id=None))


@pytest.mark.parametrize(
    ("name", "names", "fits"),
    [
        (None, (), True),
        ("db.corp.internal", ("www.corp.internal", "db.corp.internal"), True),
        ("db.corp.internal", ("x.db.corp.internal",), False),
        ("*.corp.internal", ("a.b.corp.internal",), True),
        ("*.corp.internal", ("*.corp.internal",), True),
        ("*.corp.internal", ("corp.internal",), False),
        ("*.corp.internal", ("evilcorp.internal",), False),
        ("10.0.0.1", ("10.0.0.1",), True),
    ],
)
def test_names(name: str | None, names: tuple[str, ...], *, fits: bool) -> None:
    assert Selection(name=name).fits_names(names) is fits


@pytest.mark.parametrize("selection", [*FITTING, *OTHERS, Selection(name="*.corp.internal")])
def test_it_is_kept_as_it_was(selection: Selection) -> None:
    assert Selection.from_json(selection.to_json()) == selection


@pytest.mark.parametrize(
    "document",
    [{"serial": "01"}, {"serials": "01"}, {"serials": [1]}, {"name": 5}, {"issued_after": 1}, {"issued_after": "x"}],
)
def test_what_was_never_kept(document: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"never wrote|isoformat"):
        Selection.from_json(document)


def override(set_at: datetime) -> Override:
    return Override(id="o", selection=Selection(), window=Window(NOW, NOW + DAY), explanation_url=None, set_at=set_at)


def test_it_is_about_what_was_there() -> None:
    """Rule 1: what replaces a certificate is not to be replaced in its turn."""
    assert override(NOW).fits(CERTIFICATE, now=NOW)
    assert not override(NOW).fits(replace(CERTIFICATE, recorded_at=NOW + timedelta(seconds=1)), now=NOW + DAY)


def test_a_clock_that_was_ahead_renews_nothing_again_and_again() -> None:
    ahead = override(NOW + 400 * DAY)
    assert not ahead.fits(CERTIFICATE, now=NOW)
    assert ahead.fits(CERTIFICATE, now=NOW + 400 * DAY)
