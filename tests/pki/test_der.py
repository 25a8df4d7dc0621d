"""`pki/der.py`: one value, one encoding (ITU-T X.690)."""

import subprocess
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.pki import der

PROPERTY = settings(max_examples=100, deadline=None)


# --- reading -----------------------------------------------------------------------------------------------------------


def test_reads_a_structure() -> None:
    reader = der.Reader(der.sequence(der.integer(5), der.octet_string(b"x" * 300), der.boolean(True)))
    inner = reader.read_sequence()
    assert inner.peek() == der.INTEGER
    assert der.parse_integer(inner.read(der.INTEGER)) == 5
    assert inner.read_optional(der.INTEGER) is None
    assert inner.read_any() == der.Element(0x04, b"x" * 300, b"\x04\x82\x01\x2c" + b"x" * 300)
    assert inner.read_optional(der.BOOLEAN) == b"\xff"
    assert inner.peek() is None
    assert inner.read_optional(der.BOOLEAN) is None
    inner.finish()
    reader.finish()


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("§10.1: indefinite lengths are not allowed", "0480000000"),
        ("§8.1.3.5 c: the length octet 0xff is reserved", "04ff" + "00" * 127),
        ("§10.1: the short form where it suffices", "04810161"),
        ("§10.1: the short form up to 127", "04817f" + "61" * 127),
        ("§10.1: no leading zero octet in the long form", "04820080" + "61" * 128),
        ("§10.1: no leading zero octet in a longer long form", "0483000100" + "61" * 256),
        ("five octets of length", "04850000000001" + "61"),
        ("five octets of length, minimal", "04850100000000"),
        ("a content that is not there", "040261"),
        ("a huge content that is not there", "0484ffffffff61"),
        ("a length that is not there", "04"),
        ("a long length that is not there", "0482"),
        ("half a long length", "048201"),
        ("nothing at all", ""),
    ],
)
def test_refuses_lengths(name: str, encoding: str) -> None:
    for read in (lambda reader: reader.read(0x04), lambda reader: reader.read_any()):
        reader = der.Reader(bytes.fromhex(encoding))
        with pytest.raises(der.DerError):
            read(reader)


def test_a_failed_read_does_not_move() -> None:
    reader = der.Reader(der.integer(7))
    with pytest.raises(der.DerError, match="0x02 stands where 0x04"):
        reader.read(der.OCTET_STRING)
    assert der.parse_integer(reader.read(der.INTEGER)) == 7


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("§8.1.2.4: a tag of several octets", "1f8101020161"),
        ("§8.1.2.4: one of a context-specific class", "bf2a020161"),
        ("§8.1.5: end-of-contents", "0000"),
        ("§8.9.1: a sequence is constructed", "1000"),
        ("§8.11.1: a set is constructed", "1100"),
        ("§10.2: a string is primitive", "2403040161"),
        ("§10.2: a bit string is primitive", "2304030200ff"),
        ("§8.3.1: an integer is primitive", "2203020105"),
    ],
)
def test_refuses_tags(name: str, encoding: str) -> None:
    with pytest.raises(der.DerError):
        der.Reader(bytes.fromhex(encoding)).read_any()


def test_read_compares_the_whole_tag() -> None:
    """§8.9.1: the constructed bit is part of what is asked for."""
    with pytest.raises(der.DerError):
        der.Reader(b"\x10\x00").read(der.SEQUENCE)


def test_context_tags_may_have_either_form() -> None:
    assert der.Reader(b"\x80\x00").read_any().tag == der.implicit(0)
    assert der.Reader(b"\xa1\x00").read_any().tag == der.explicit(1)


def test_finish_refuses_what_nobody_read() -> None:
    reader = der.Reader(der.null() + b"\x00")
    reader.read(der.NULL)
    with pytest.raises(der.DerError, match="1 bytes follow"):
        reader.finish()


@PROPERTY
@given(st.binary(max_size=64))
def test_any_bytes_are_an_element_or_an_error(data: bytes) -> None:
    """Rule 1: what is read encodes to the same bytes; everything else is a DerError."""
    reader = der.Reader(data)
    read = b""
    try:
        while reader.peek() is not None:
            element = reader.read_any()
            assert der.encode(element.tag, element.content) == element.encoding
            read += element.encoding
    except der.DerError:
        assert data.startswith(read)
    else:
        assert read == data


@PROPERTY
@given(st.integers(0, 70_000), st.sampled_from([0x04, 0x30, 0xA0, 0x80]))
def test_every_length_is_read_back(length: int, tag: int) -> None:
    encoding = der.encode(tag, b"\x00" * length)
    reader = der.Reader(encoding)
    assert len(reader.read(tag)) == length
    reader.finish()


@pytest.mark.parametrize(
    ("length", "header"),
    [(0, "0400"), (127, "047f"), (128, "048180"), (255, "0481ff"), (256, "04820100"), (65536, "0483010000")],
)
def test_lengths_are_minimal(length: int, header: str) -> None:
    assert der.encode(0x04, b"a" * length) == bytes.fromhex(header) + b"a" * length


# --- integers, booleans, object identifiers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "content"),
    [
        (0, "00"), (1, "01"), (127, "7f"), (128, "0080"), (255, "00ff"), (256, "0100"),
        (-1, "ff"), (-128, "80"), (-129, "ff7f"), (2**159 - 1, "7f" + "ff" * 19), (2**159, "00" + "80" + "00" * 19),
    ],
)  # fmt: skip
def test_integers(value: int, content: str) -> None:
    """X.690 §8.3.3: two's complement in as few octets as there are."""
    assert der.integer(value)[2:].hex() == content
    assert der.parse_integer(bytes.fromhex(content)) == value
    assert der.enumerated(value)[0] == der.ENUMERATED
    assert der.enumerated(value)[1:] == der.integer(value)[1:]


@pytest.mark.parametrize("content", ["", "0000", "007f", "ffff", "ff80", "00000080"])
def test_refuses_integers(content: str) -> None:
    """X.690 §8.3.2: the first nine bits shall not be all ones nor all zero."""
    with pytest.raises(der.DerError):
        der.parse_integer(bytes.fromhex(content))


@PROPERTY
@given(st.integers(-(2**170), 2**170))
def test_integers_round_trip(value: int) -> None:
    assert der.parse_integer(der.Reader(der.integer(value)).read(der.INTEGER)) == value


@PROPERTY
@given(st.binary(min_size=1, max_size=4))
def test_an_integer_content_has_one_value(content: bytes) -> None:
    try:
        value = der.parse_integer(content)
    except der.DerError:
        return
    assert der.integer(value)[2:] == content


def test_booleans() -> None:
    """X.690 §11.1: "all eight bits of the single contents octet shall be set to one"."""
    assert der.boolean(True) == b"\x01\x01\xff"
    assert der.boolean(False) == b"\x01\x01\x00"
    assert der.parse_boolean(b"\xff") is True
    assert der.parse_boolean(b"\x00") is False
    for content in (b"", b"\x01", b"\xff\xff"):
        with pytest.raises(der.DerError):
            der.parse_boolean(content)


@pytest.mark.parametrize(
    ("dotted", "content"),
    [
        ("1.2.840.113549", "2a864886f70d"),  # X.690 §8.19.5 and RSA's arc
        ("2.999.3", "883703"),  # the example of X.690 §8.19.5
        ("0.0", "00"),
        ("1.39", "4f"),
        ("2.0", "50"),
        ("2.47", "7f"),
        ("2.48", "8100"),
        ("2.5.29.20", "551d14"),
    ],
)
def test_object_identifiers(dotted: str, content: str) -> None:
    assert der.oid(dotted) == bytes((6, len(content) // 2)) + bytes.fromhex(content)
    assert der.parse_oid(bytes.fromhex(content)) == dotted


@pytest.mark.parametrize("content", ["", "80", "8001", "2a80", "2a8001", "2a86", "2a" + "01" * 128])
def test_refuses_object_identifier_contents(content: str) -> None:
    """X.690 §8.19.2: an arc has no leading 0x80 and ends; and a bound on the length."""
    with pytest.raises(der.DerError):
        der.parse_oid(bytes.fromhex(content))


@pytest.mark.parametrize(
    "dotted",
    [
        "",
        "1",
        "3.1",
        "1.40",
        "0.40",
        "1.2.",
        "1..2",
        "1.-2",
        "1.02",
        "a.b",
        "1.²",
        "2." + "9" * 500,
        "2." + "9" * 5000,
        "1" * 6000,
    ],
)
def test_refuses_dotted_identifiers(dotted: str) -> None:
    with pytest.raises(der.DerError):
        der.oid(dotted)


@PROPERTY
@given(st.integers(0, 2), st.integers(0, 39), st.lists(st.integers(0, 2**128 - 1), max_size=5))
def test_object_identifiers_round_trip(first: int, second: int, rest: list[int]) -> None:
    dotted = ".".join(map(str, (first, second, *rest)))
    assert der.parse_oid(der.Reader(der.oid(dotted)).read(der.OBJECT_IDENTIFIER)) == dotted


@PROPERTY
@given(st.binary(min_size=1, max_size=12))
def test_an_identifier_content_has_one_dotted_form(content: bytes) -> None:
    try:
        dotted = der.parse_oid(content)
    except der.DerError:
        return
    assert der.oid(dotted)[2:] == content


# --- strings and sets ------------------------------------------------------------------------------------------------------


def test_bit_strings_fill_their_octets() -> None:
    assert der.bit_string(b"\xaa") == b"\x03\x02\x00\xaa"
    assert der.parse_bit_string(b"\x00\xaa") == b"\xaa"
    assert der.parse_bit_string(b"\x00") == b""
    for content in (b"", b"\x01\xaa", b"\x08\xaa"):
        with pytest.raises(der.DerError):
            der.parse_bit_string(content)


def test_sets_are_sorted() -> None:
    """X.690 §11.6: "The encodings of the component values of a set-of value shall appear in ascending order"."""
    assert der.set_(der.integer(2), der.null(), der.integer(1)) == b"\x31\x08\x02\x01\x01\x02\x01\x02\x05\x00"


# --- times -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "encoding"),
    [
        (datetime(1950, 1, 1, tzinfo=UTC), b"\x17\x0d500101000000Z"),
        (datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC), b"\x17\x0d991231235959Z"),
        (datetime(2000, 1, 1, tzinfo=UTC), b"\x17\x0d000101000000Z"),
        (datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), b"\x17\x0d491231235959Z"),
        (datetime(2050, 1, 1, tzinfo=UTC), b"\x18\x0f20500101000000Z"),
        (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), b"\x18\x0f99991231235959Z"),
        (datetime(2050, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=1))), b"\x17\x0d491231233000Z"),
        (datetime(2026, 3, 4, 5, 6, 7, 999_999, tzinfo=UTC), b"\x17\x0d260304050607Z"),
    ],
)
def test_times(at: datetime, encoding: bytes) -> None:
    """RFC 5280 §4.1.2.5: UTCTime through 2049, GeneralizedTime in 2050 or later; in UTC, with seconds, no fractions."""
    assert der.time(at) == encoding
    assert der.parse_time(der.Reader(encoding).read_any()) == at.replace(microsecond=0)


def test_generalized_time_has_four_digits_of_year() -> None:
    assert der.generalized_time(datetime(987, 6, 5, tzinfo=UTC)) == b"\x18\x0f09870605000000Z"


def test_times_without_an_encoding() -> None:
    with pytest.raises(der.DerError, match="1950"):
        der.time(datetime(1949, 12, 31, tzinfo=UTC))
    for encode in (der.time, der.generalized_time):
        with pytest.raises(der.DerError, match="zone"):
            encode(datetime(2026, 1, 1))  # noqa: DTZ001  (that is what is refused)


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        (der.UTC_TIME, b"2601010000Z"),  # no seconds
        (der.UTC_TIME, b"260101000000+0000"),
        (der.UTC_TIME, b"20260101000000Z"),
        (der.UTC_TIME, b"260101000000"),
        (der.UTC_TIME, b"260230000000Z"),
        (der.UTC_TIME, b"260101000060Z"),
        (der.UTC_TIME, b"26010100000 Z"),
        (der.GENERALIZED_TIME, b"20260101000000.5Z"),
        (der.GENERALIZED_TIME, b"20260101000000z"),
        (der.GENERALIZED_TIME, b"00000101000000Z"),
        (der.INTEGER, b"260101000000Z"),
    ],
)
def test_refuses_times(tag: int, text: bytes) -> None:
    with pytest.raises(der.DerError):
        der.parse_time(der.Reader(der.encode(tag, text)).read_any())


@PROPERTY
@given(st.datetimes(min_value=datetime(1950, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001  (the strategy adds it)
def test_times_round_trip(at: datetime) -> None:
    whole = at.replace(microsecond=0)
    assert der.parse_time(der.Reader(der.time(at)).read_any()) == whole
    assert der.parse_time(der.Reader(der.generalized_time(at)).read_any()) == whole


def test_openssl_reads_what_we_write() -> None:
    """The same values, through another reader."""
    encoding = der.sequence(
        der.integer(-129),
        der.integer(2**64),
        der.oid("2.16.840.1.101.3.4.2.1"),
        der.null(),
        der.boolean(True),
        der.enumerated(9),
        der.octet_string(b"o" * 200),
        der.bit_string(b"\x0f"),
        der.time(datetime(2026, 11, 1, 1, 2, 3, tzinfo=UTC)),
        der.time(datetime(2051, 1, 1, tzinfo=UTC)),
        der.set_(der.integer(1)),
    )
    command = ["openssl", "asn1parse", "-inform", "DER"]
    text = subprocess.run(command, input=encoding, capture_output=True, check=True).stdout.decode()
    values = [line.rsplit("prim:", 1)[1].split() for line in text.splitlines() if "prim:" in line]
    assert values == [
        ["INTEGER", ":-81"],
        ["INTEGER", ":010000000000000000"],
        ["OBJECT", ":sha256"],
        ["NULL"],
        ["BOOLEAN", ":255"],
        ["ENUMERATED", ":09"],
        ["OCTET", "STRING", ":" + "o" * 200],
        ["BIT", "STRING"],
        ["UTCTIME", ":261101010203Z"],
        ["GENERALIZEDTIME", ":20510101000000Z"],
        ["INTEGER", ":01"],
    ]
