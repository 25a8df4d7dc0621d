"""Renewal information as pure functions (acme/renewal.py): identifiers of certificates, and windows for whole fleets."""

import base64
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acmeca.acme.renewal import (
    CertificateId,
    Life,
    RenewalInfo,
    Window,
    own_window,
    suggest_window,
    wait_before_next,
)
from acmeca.pki.issuance import random_serial
from acmeca.service.status import format_serial

NOW = datetime(2026, 11, 26, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


def life(usable: timedelta = 90 * DAY, *, serial: str = "01ab", backdate: timedelta = timedelta(minutes=5)) -> Life:
    """A certificate that was signed at NOW, with notBefore in the past."""
    return Life(serial=serial, not_before=NOW - backdate, not_after=NOW + usable, issued_at=NOW)


# --- identifiers --------------------------------------------------------------------------------------------------


def unpadded(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).decode().rstrip("=")


@given(st.binary(min_size=1, max_size=64), st.integers(min_value=1, max_value=2**159 - 1))
def test_an_identifier_is_read_as_it_is_written(key_identifier: bytes, serial: int) -> None:
    identifier = CertificateId(key_identifier, serial)
    assert CertificateId.parse(str(identifier)) == identifier
    assert identifier.serial_hex == format_serial(serial)


@given(st.text(alphabet="AQgwZz09-_.=+/ \n", max_size=40) | st.text(max_size=40))
def test_a_text_that_is_taken_is_the_one_that_is_written(text: str) -> None:
    """Rule 1: nothing has two names."""
    try:
        identifier = CertificateId.parse(text)
    except ValueError:
        return
    assert str(identifier) == text


@given(st.binary(min_size=1, max_size=32), st.binary(max_size=24))
def test_of_all_octets_only_a_positive_der_integer_is_a_serial(key_identifier: bytes, octets: bytes) -> None:
    """X.690 §8.3: as few octets as possible; RFC 5280 §4.1.2.2: positive, and at most 20 of them."""
    value = int.from_bytes(octets, "big", signed=True) if octets else 0
    is_serial = value > 0 and len(octets) <= 20 and (octets[0] != 0 or (len(octets) > 1 and octets[1] >= 0x80))
    text = f"{unpadded(key_identifier)}.{unpadded(octets)}"
    if is_serial:
        assert CertificateId.parse(text) == CertificateId(key_identifier, value)
    else:
        with pytest.raises(ValueError, match="second part has to be the content of a DER INTEGER"):
            CertificateId.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "AQID",
        "AQID.",
        ".AQID",
        "AQID.AQID.AQID",
        "AQID=.AQID",
        "AQID.AQ==",
        "AQID.AR",  # stray bits
        "AQ ID.AQ",
        "AQID.AQ\n",
        "AQ+/.AQ",
        "AQID.AA",  # zero
        "AQID.gA",  # negative
        "AQID.AAE",  # a leading zero that nothing asks for
        "AQID." + unpadded(bytes([1] * 21)),
        f"{unpadded(b'x' * 65)}.AQ",
        "é.AQ",
    ],
)
def test_what_is_no_identifier(text: str) -> None:
    with pytest.raises(ValueError, match="part"):
        CertificateId.parse(text)


# --- windows ------------------------------------------------------------------------------------------------------

usables = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=825))
serials = st.integers(min_value=1, max_value=2**159 - 1).map(format_serial)


@given(usables, serials, st.timedeltas(min_value=-timedelta(hours=1), max_value=timedelta(days=30)))
def test_a_window_lies_in_the_life(usable: timedelta, serial: str, backdate: timedelta) -> None:
    """Also where notBefore was asked for in the future, and where the issuer's end leaves a certificate a second."""
    certificate = Life(serial=serial, not_before=NOW - backdate, not_after=NOW + usable, issued_at=NOW)
    window = own_window(certificate)
    assert window.start < window.end
    assert certificate.begin <= window.start
    assert window.end <= max(certificate.not_after, certificate.begin + 2 * SECOND)
    assert window.start.microsecond == window.end.microsecond == 0 or usable.microseconds
    assert own_window(certificate) == window, "rule 2"


@pytest.mark.parametrize(
    ("usable", "earliest", "latest"),
    [
        (825 * DAY, 0.60, 0.74),
        (90 * DAY, 0.60, 0.74),
        (10 * DAY, 0.60, 0.74),
        (10 * DAY - SECOND, 0.43, 0.57),
        (DAY, 0.43, 0.57),
        (timedelta(hours=1), 0.42, 0.58),
        (timedelta(minutes=5), 0.30, 0.70),
    ],
)
def test_about_when(usable: timedelta, earliest: float, latest: float) -> None:
    for number in range(300):
        window = own_window(life(usable, serial=f"{number:04x}"))
        assert earliest <= (window.start - NOW) / usable
        assert (window.end - NOW) / usable <= latest


def test_how_wide() -> None:
    """A window is wide enough for a client that looks twice a day, and minutes wide for a life of minutes."""
    assert own_window(life(90 * DAY)).end - own_window(life(90 * DAY)).start == timedelta(hours=43, minutes=12)
    assert own_window(life(DAY)).end - own_window(life(DAY)).start == timedelta(minutes=28, seconds=48)
    assert own_window(life(timedelta(minutes=5))).end - own_window(life(timedelta(minutes=5))).start == 75 * SECOND


@pytest.mark.parametrize("usable", [90 * DAY, DAY])
def test_a_fleet_spreads(usable: timedelta) -> None:
    """Ten thousand certificates of one moment: whether clients renew at the start of a window or at random in it, no twentieth of the
    time over which they spread takes more than a tenth of them.
    """
    chance = random.Random(9773)
    windows = [
        own_window(life(usable, serial=format_serial(random_serial(chance.randbytes(16))))) for _ in range(10_000)
    ]
    first, last = min(window.start for window in windows), max(window.end for window in windows)
    assert (last - first) / usable == pytest.approx(0.12, abs=0.002)
    for moments in (
        [window.start for window in windows],
        [window.start + (window.end - window.start) * chance.random() for window in windows],
    ):
        shares = [0] * 20
        for moment in moments:
            shares[int((moment - first) / (last - first) * 20)] += 1
        assert max(shares) < 1000, shares


def test_of_a_revoked_certificate_it_is_over() -> None:
    """Also by a clock that is behind: whoever finds the certificate valid finds its window over."""
    certificate = life()
    revoked = replace(certificate, revoked_at=NOW + 60 * SECOND)
    for asked in (None, Window(NOW + DAY, NOW + 2 * DAY)):
        window = suggest_window(revoked, asked=asked)
        assert window.end <= certificate.not_before
        assert window.end - window.start == timedelta(hours=1)


def test_of_one_that_was_revoked_before_it_began() -> None:
    revoked = Life(serial="01", not_before=NOW + DAY, not_after=NOW + 9 * DAY, issued_at=NOW, revoked_at=NOW + SECOND)
    assert suggest_window(revoked).end == NOW + SECOND


def test_of_an_expired_certificate_it_is_over() -> None:
    assert suggest_window(life(DAY)).end < NOW + DAY


def test_an_operator_goes_before_the_lifetime() -> None:
    asked = Window(NOW + DAY, NOW + 2 * DAY)
    assert suggest_window(life(), asked=asked) == asked
    past = Window(NOW - 2 * DAY, NOW - DAY)
    assert suggest_window(life(), asked=past) == past


def test_but_not_beyond_the_certificates_end() -> None:
    """Somebody who draws a moment behind the end would let it expire."""
    certificate = life(3 * DAY)
    for asked in (Window(NOW, NOW + 3 * DAY + SECOND), Window(NOW + 4 * DAY, NOW + 5 * DAY)):
        assert suggest_window(certificate, asked=asked) == own_window(certificate)
    to_the_end = Window(NOW, NOW + 3 * DAY)
    assert suggest_window(certificate, asked=to_the_end) == to_the_end


@pytest.mark.parametrize("end", [NOW, NOW - SECOND])
def test_there_is_no_window_that_ends_before_it_starts(end: datetime) -> None:
    with pytest.raises(ValueError, match="end after it starts"):
        Window(NOW, end)


# --- when to ask again --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usable", "wait"),
    [(90 * DAY, 6 * 3600), (6 * DAY, 6 * 3600), (DAY, 3600), (timedelta(hours=1), 150), (timedelta(minutes=5), 60)],
)
def test_a_short_life_is_looked_at_more_often(usable: timedelta, wait: int) -> None:
    """At least two dozen times in a life, and no more than once a minute."""
    assert wait_before_next(life(usable), longest=timedelta(hours=6)) == wait


@pytest.mark.parametrize(
    ("width", "wait"), [(7 * DAY, 6 * 3600), (timedelta(hours=2), 1800), (timedelta(minutes=1), 60)]
)
def test_a_window_of_an_operator_too(width: timedelta, wait: int) -> None:
    asked = Window(NOW, NOW + width)
    assert wait_before_next(life(), longest=timedelta(hours=6), asked=asked) == wait


def test_no_longer_than_configured() -> None:
    assert wait_before_next(life(), longest=timedelta(minutes=1)) == 60


def test_the_document() -> None:
    window = Window(NOW, NOW + DAY)
    assert RenewalInfo(window, 60).to_json() == {
        "suggestedWindow": {"start": "2026-11-26T12:00:00Z", "end": "2026-11-27T12:00:00Z"}
    }
    assert RenewalInfo(window, 60, "https://wiki.test/").to_json()["explanationURL"] == "https://wiki.test/"
