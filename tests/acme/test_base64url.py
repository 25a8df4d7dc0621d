"""acmeca.acme.base64url: one text, one meaning."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme import base64url

PROPERTY = settings(deadline=None, max_examples=200)


@PROPERTY
@given(st.binary(max_size=200))
def test_what_is_encoded_decodes_to_itself(octets: bytes) -> None:
    assert base64url.decode(base64url.encode(octets)) == octets


@PROPERTY
@given(st.text(alphabet="AQgwBZ-_+/= \n\u00e9", max_size=12))
def test_a_text_that_decodes_is_the_only_one_for_its_octets(text: str) -> None:
    try:
        octets = base64url.decode(text)
    except ValueError:
        return
    assert base64url.encode(octets) == text


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("", b""),
        ("Zg", b"f"),
        ("Zm8", b"fo"),
        ("Zm9v", b"foo"),
        ("-_-_", b"\xfb\xff\xbf"),
        ("A-z_4ME", bytes([3, 236, 255, 224, 193])),  # RFC 7515 Appendix C
    ],
)
def test_known_texts(text: str, octets: bytes) -> None:
    assert base64url.decode(text) == octets


@pytest.mark.parametrize(
    "text",
    [
        "Zg==",  # padding
        "Zg=",
        "Zm9v=",
        "=",
        "+/+/",  # the other alphabet
        "Zm 9v",  # white space
        "Zm9v\n",
        "\tZm9v",
        "Zh",  # trailing bits that are not zero
        "Zm9",
        "Z",  # no octets have five bits
        "Zm9vZ",
        "Zm9v.",
        "Zm9v,Zm9v",
        "\u00e9\u00e9",  # not ASCII
        "\uff21\uff21",  # full-width letters
        "\ud800",  # half a surrogate pair
        "\0\0",
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        base64url.decode(text)
