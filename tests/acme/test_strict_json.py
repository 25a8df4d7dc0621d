"""acmeca.acme.strict_json: one text, one meaning, and no input that costs more than its length."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme.strict_json import MAX_DEPTH, parse_object
from tests.support.stopwatch import takes_less_than

PROPERTY = settings(deadline=None, max_examples=100)
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


@PROPERTY
@given(value=st.dictionaries(_TEXT, _VALUES, max_size=5), ascii_only=st.booleans())
def test_every_object_that_python_prints_is_read_back(*, value: dict[str, object], ascii_only: bool) -> None:
    assert parse_object(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@PROPERTY
@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\u0dDe1 -.', max_size=60).map(str.encode))
def test_nothing_but_value_error_is_raised_and_its_text_is_plain(data: bytes) -> None:
    reason = ""
    try:
        assert isinstance(parse_object(data), dict)
    except ValueError as error:
        reason = str(error)
    assert reason.isascii()
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'"{}"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"1", "not a JSON object"),
        (b"{} {}", "Extra data"),
        (b"{}\0", "Extra data"),
        (b"\xef\xbb\xbf{}", "not JSON"),  # a byte order mark: RFC 8259 §8.1 lets a parser refuse it
        ("{}".encode("utf-16"), "not UTF-8"),
        ("{}".encode("utf-16-le"), "not JSON"),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),  # a surrogate in UTF-8's clothes
        (b'{"a":"\xc0\xaf"}', "not UTF-8"),  # an overlong form
        (b'{"a":1,}', "not JSON"),
        (b"{'a':1}", "not JSON"),
        (b'{"a":01}', "not JSON"),
        (b'{"a":+1}', "not JSON"),
        (b'{"a":.5}', "not JSON"),
        (b'{"a":0x1}', "not JSON"),
        (b'{"a":"\n"}', "control character"),
        (b'{"a":"\\x"}', "not JSON"),
        (b'{"a":NaN}', "NaN is not JSON"),
        (b'{"a":Infinity}', "Infinity is not JSON"),
        (b'{"a":[-Infinity]}', "-Infinity is not JSON"),
        (b'{"a":1e999}', "too large"),
        (b'{"a":-1e999}', "too large"),
        (b'{"a":' + b"9" * 33 + b"}", "more than 32 characters"),
        (b'{"a":' + b"9" * 60_000 + b"}", "more than 32 characters"),
        (b'{"a":0.' + b"1" * 60_000 + b"}", "more than 32 characters"),
        (b'{"a":1,"a":1}', "'a' stands twice"),
        (b'{"a":{"b":1,"c":2,"b":3}}', "'b' stands twice"),
        (b'{"a":1,"\\u0061":2}', "'a' stands twice"),  # compared as read, not as spelt
        (b'{"\\ud800":1,"\\ud800":2}', r"'\\ud800' stands twice"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"a":"\\udc00\\ud800"}', "surrogate"),
        (b'{"\\uDBFF":1}', "surrogate"),
        (b'{"a":[{"b":"x\\ud83dx"}]}', "surrogate"),
    ],
)
def test_what_is_refused_and_why(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_object(data)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b" \t\r\n{ } ", {}),
        (b'{"a":"\\ud83d\\ude00"}', {"a": "\U0001f600"}),  # a whole pair
        (b'{"a":"\\\\ud800"}', {"a": "\\ud800"}),  # an escaped backslash and four letters
        (b'{"a":"\\u0000"}', {"a": "\0"}),
        (b'{"a":' + b"9" * 32 + b"}", {"a": int("9" * 32)}),
        (b'{"a":1.5e3,"b":-0}', {"a": 1500.0, "b": 0}),
        (b'{"a":true,"A":false,"":null}', {"a": True, "A": False, "": None}),
    ],
)
def test_what_is_accepted(data: bytes, value: object) -> None:
    assert parse_object(data) == value


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_is_counted_from_the_outer_object(opening: bytes, closing: bytes) -> None:
    levels = MAX_DEPTH - 1
    deepest = b'{"a":' + opening * levels + b"1" + closing * levels + b"}"
    assert "a" in parse_object(deepest)
    with pytest.raises(ValueError, match="nested deeper than 16"):
        parse_object(b'{"a":' + opening * (levels + 1) + b"1" + closing * (levels + 1) + b"}")


def test_brackets_in_strings_and_siblings_are_no_nesting() -> None:
    brackets = "[" * 100 + '"{\\' * 100
    assert parse_object(json.dumps({"a": brackets, brackets: [[]] * 100}).encode()) == {
        "a": brackets,
        brackets: [[]] * 100,
    }


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 65_536,
        b'{"a":' * 13_107,
        b'{"a":' + b"[" * 65_000,
        b'{"a":[' + b"[]," * 21_800 + b"1]}",
        b'{"a":[' + b"{}," * 21_800 + b"1]}",
        b'{"a":[' + b"1," * 32_700 + b"1]}",
        b'"' * 65_536,
        b'\\"' * 32_768,
        b'{"' + b'\\"' * 32_700,
        b'{"' + b"\\u0022" * 10_900 + b"[" * 20,
        b'{"a":"' + b"\\ud83d\\ude00" * 5_400 + b'"}',
        b'{"a":' + b"-" * 65_000,
        b'{"a":1' + b"e" * 65_000,
        b"{" + b",".join(b'"%d":1' % number for number in range(6_500)) + b"}",
        b"{" + b",".join(b'"%d":1' % number for number in range(6_500)) + b',"6499":1}',
        b"{" + b" " * 65_000,
        b"\xff" * 65_536,
    ],
    ids=lambda data: repr(data[:12]),
)
def test_no_input_of_64_kibibytes_takes_50_ms(data: bytes) -> None:
    """RULES: "No input of any shape … takes over 50 ms"."""

    def parse() -> None:
        with contextlib.suppress(ValueError):
            parse_object(data)

    assert takes_less_than(0.05, parse)
