"""DER, read strictly and written plainly (ITU-T X.690; RFC 5280 §4.1.2.5 for times).

Rule 1: one value has one encoding. Whatever X.690 §8 (BER) allows and §10 and §11 (DER) do not is refused: indefinite
lengths, lengths longer than they need to be, padded integers, primitive sequences, constructed strings.
Rule 2: reading never recurses and never allocates by a length that has not been compared with what is there, so any
bytes give either a value or a `DerError`, in linear time.
Rule 3: nothing here knows a certificate. Callers walk their structure by tags; an element nobody asked for stops them
at `finish`.

A tag is the whole identifier octet (class, constructed bit, number), so that `read(SEQUENCE)` refuses 0x10. Numbers above
30, whose tags take several octets (X.690 §8.1.2.4), occur in no structure a CA reads and are refused.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
NULL: Final = 0x05
OBJECT_IDENTIFIER: Final = 0x06
ENUMERATED: Final = 0x0A
UTF8_STRING: Final = 0x0C
PRINTABLE_STRING: Final = 0x13
IA5_STRING: Final = 0x16
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31

_CONSTRUCTED: Final = 0x20
_CLASS: Final = 0xC0
_NUMBER: Final = 0x1F
_MAX_LENGTH_OCTETS: Final = 4  # 4 GiB; what is read here is bounded in kilobytes long before
_MAX_OID_OCTETS: Final = 128  # keeps arithmetic on arcs small; the longest in use (a UUID below 2.25) takes 20


class DerError(ValueError):
    """The bytes are not the DER that was asked for, or the value has no DER encoding."""


def explicit(number: int) -> int:
    """The tag of `[number] EXPLICIT`, or of `[number] IMPLICIT` on a constructed type (X.690 §8.14)."""
    return 0xA0 | number


def implicit(number: int) -> int:
    """The tag of `[number] IMPLICIT` on a primitive type (X.690 §8.14)."""
    return 0x80 | number


@dataclass(frozen=True, slots=True)
class Element:
    """One value as it stood: its identifier octet, its content, and both with the length between them."""

    tag: int
    content: bytes
    encoding: bytes


class Reader:
    """A cursor over consecutive DER elements.

    Every read either returns and moves past one element, or raises `DerError` and stays. A constructed element is walked
    by another `Reader` over its content (`read_sequence` for the usual case). Call `finish` when the structure ends:
    bytes that nobody read are an error.
    """

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._end = len(data)

    def peek(self) -> int | None:
        """The next element's tag, or None at the end."""
        return self._data[self._at] if self._at < self._end else None

    def read(self, tag: int) -> bytes:
        """The content of the next element, which has to carry `tag`."""
        data, at = self._data, self._at
        if at >= self._end:
            raise DerError(f"the data end where tag 0x{tag:02x} is expected")
        if data[at] != tag:
            raise DerError(f"tag 0x{data[at]:02x} stands where 0x{tag:02x} is expected")
        start, end = self._bounds(at + 1)
        self._at = end
        return data[start:end]

    def read_optional(self, tag: int) -> bytes | None:
        """The content of the next element if it carries `tag`; otherwise None, and nothing is read."""
        if self._at >= self._end or self._data[self._at] != tag:
            return None
        return self.read(tag)

    def read_sequence(self) -> "Reader":
        """A reader over the content of the next element, which has to be a SEQUENCE."""
        return Reader(self.read(SEQUENCE))

    def read_any(self) -> Element:
        """The next element, whatever its tag, with its encoding as it stood."""
        data, at = self._data, self._at
        if at >= self._end:
            raise DerError("the data end where an element is expected")
        tag = data[at]
        _check_tag(tag)
        start, end = self._bounds(at + 1)
        self._at = end
        return Element(tag, data[start:end], data[at:end])

    def finish(self) -> None:
        """Nothing may be left; trailing bytes are where two parsers start to disagree."""
        if self._at != self._end:
            raise DerError(f"{self._end - self._at} bytes follow where the structure ends")

    def _bounds(self, at: int) -> tuple[int, int]:
        """Where the content starts and ends, for a length that starts at `at` (X.690 §8.1.3, §10.1)."""
        data = self._data
        if at >= self._end:
            raise DerError("the data end where a length is expected")
        length = data[at]
        start = at + 1
        if length >= 0x80:  # the long form; the low bits count the octets that follow
            octets = length & 0x7F
            # §10.1: "The definite form of length encoding shall be used"; §8.1.3.5 c reserves 0xff.
            if not 1 <= octets <= _MAX_LENGTH_OCTETS:
                raise DerError(f"length octet 0x{length:02x}: indefinite, or more than {_MAX_LENGTH_OCTETS} octets")
            start += octets
            if start > self._end:
                raise DerError("the data end within a length")
            length = int.from_bytes(data[at + 1 : start])
            # §10.1: "encoded in the minimum number of octets".
            if length < 0x80 or length >> (8 * (octets - 1)) == 0:
                raise DerError(f"length {length} takes more octets than it needs")
        end = start + length
        if end > self._end:
            raise DerError(f"an element of {length} bytes stands where {self._end - start} are left")
        return start, end


def _check_tag(tag: int) -> None:
    """Refuses tags of several octets, and universal types in the wrong form (X.690 §8.9, §8.11, §10.2)."""
    number = tag & _NUMBER
    if number == _NUMBER:
        raise DerError(f"tag 0x{tag:02x} takes several octets")
    if tag & _CLASS == 0:
        if number == 0:
            raise DerError("tag 0 marks the end of an indefinite length")
        # §10.2: strings are primitive in DER; only sequences and sets (and types nobody uses here) are constructed.
        if bool(tag & _CONSTRUCTED) != (number in {0x10, 0x11}):
            raise DerError(f"tag 0x{tag:02x} is a universal type in the wrong form")


# --- contents to values ----------------------------------------------------------------------------------------------


def parse_integer(content: bytes) -> int:
    """A signed integer from an INTEGER's or ENUMERATED's content (X.690 §8.3)."""
    if not content:
        raise DerError("an integer has no content")
    # §8.3.2: the first nine bits "shall not all be ones" and "shall not all be zero".
    if len(content) > 1 and content[0] in {0x00, 0xFF} and (content[0] ^ content[1]) < 0x80:
        raise DerError("an integer is longer than it needs to be")
    return int.from_bytes(content, signed=True)


def parse_boolean(content: bytes) -> bool:
    """A truth value; true is 0xff and nothing else (X.690 §11.1)."""
    if content == b"\xff":
        return True
    if content == b"\x00":
        return False
    raise DerError("a boolean is neither 00 nor ff")


def parse_oid(content: bytes) -> str:
    """The dotted form of an OBJECT IDENTIFIER's content (X.690 §8.19)."""
    if not content or len(content) > _MAX_OID_OCTETS:
        raise DerError(f"an object identifier of {len(content)} bytes; 1 to {_MAX_OID_OCTETS} are read")
    if content[-1] & 0x80:
        raise DerError("an object identifier ends within an arc")
    arcs: list[int] = []
    arc, starts = 0, True
    for octet in content:
        # §8.19.2: "the leading octet of the subidentifier shall not have the value 80".
        if starts and octet == 0x80:
            raise DerError("an arc of an object identifier is longer than it needs to be")
        arc = arc << 7 | octet & 0x7F
        starts = not octet & 0x80
        if starts:
            arcs.append(arc)
            arc = 0
    # §8.19.4: the first two arcs share one number, 40 times the first plus the second.
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))


def parse_bit_string(content: bytes) -> bytes:
    """The octets of a BIT STRING that fills them (keys and signatures do; unused bits are refused)."""
    if not content or content[0] != 0:
        raise DerError("a bit string does not fill its octets")
    return content[1:]


def parse_time(element: Element) -> datetime:
    """A UTCTime or GeneralizedTime in the form RFC 5280 §4.1.2.5 asks for: seconds, `Z`, no fraction, the right type."""
    text = element.content
    digits = {UTC_TIME: 12, GENERALIZED_TIME: 14}.get(element.tag)
    if digits is None:
        raise DerError(f"tag 0x{element.tag:02x} stands where a time is expected")
    if len(text) != digits + 1 or not text[:-1].isdigit() or text[-1:] != b"Z":
        raise DerError(f"a time that is not {digits} digits and Z")
    if element.tag == UTC_TIME:  # §4.1.2.5.1: 50 and above are 19YY, below are 20YY
        year, rest = int(text[:2]), text[2:-1]
        year += 1900 if year >= 50 else 2000
    else:
        year, rest = int(text[:4]), text[4:-1]
    month, day, hour, minute, second = (int(rest[at : at + 2]) for at in range(0, 10, 2))
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise DerError(f"no such time: {error}") from None


# --- values to encodings ---------------------------------------------------------------------------------------------


def encode(tag: int, *parts: bytes) -> bytes:
    """An element with `tag` whose content is the joined `parts`."""
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | octets)) + length.to_bytes(octets) + content


def sequence(*parts: bytes) -> bytes:
    """A SEQUENCE of encoded elements."""
    return encode(SEQUENCE, *parts)


def set_(*parts: bytes) -> bytes:
    """A SET OF encoded elements, in the ascending order that DER asks for (X.690 §11.6)."""
    return encode(SET, *sorted(parts))


def integer(value: int) -> bytes:
    """An INTEGER."""
    return encode(INTEGER, _integer_content(value))


def enumerated(value: int) -> bytes:
    """An ENUMERATED."""
    return encode(ENUMERATED, _integer_content(value))


def boolean(value: bool) -> bytes:  # noqa: FBT001  (the value itself, not a switch)
    """A BOOLEAN."""
    return b"\x01\x01\xff" if value else b"\x01\x01\x00"


def null() -> bytes:
    """The NULL."""
    return b"\x05\x00"


def octet_string(value: bytes) -> bytes:
    """An OCTET STRING."""
    return encode(OCTET_STRING, value)


def bit_string(value: bytes) -> bytes:
    """A BIT STRING that fills its octets, as keys and signatures do."""
    return encode(BIT_STRING, b"\x00", value)


@lru_cache(maxsize=256)
def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER from its dotted form."""
    texts = dotted.split(".")
    # An octet of content takes at most four characters ("127."), so what is longer is too long before it is a number.
    if (
        len(dotted) > 4 * _MAX_OID_OCTETS
        or len(texts) < 2
        or not all(text.isascii() and text.isdigit() and str(int(text)) == text for text in texts)
    ):
        raise DerError(f"{dotted!r} is no object identifier")
    first, second, *rest = map(int, texts)
    if first > 2 or (first < 2 and second > 39):
        raise DerError(f"{dotted!r} is no object identifier: the first arcs are 0.0-39, 1.0-39 or 2.*")
    content = b"".join(map(_arc, (40 * first + second, *rest)))
    if len(content) > _MAX_OID_OCTETS:
        raise DerError(f"an object identifier of {len(content)} bytes; {_MAX_OID_OCTETS} are written at most")
    return encode(OBJECT_IDENTIFIER, content)


def generalized_time(at: datetime) -> bytes:
    """A GeneralizedTime as RFC 5280 §4.1.2.5.2 has it: UTC, with seconds, without fractions (they are cut off)."""
    at = _utc(at)
    text = f"{at.year:04}{at.month:02}{at.day:02}{at.hour:02}{at.minute:02}{at.second:02}Z"
    return b"\x18\x0f" + text.encode("ascii")


def time(at: datetime) -> bytes:
    """A Time of a certificate or CRL (RFC 5280 §4.1.2.5): UTCTime through 2049, GeneralizedTime from 2050 on.

    Fractions of a second are cut off. Years before 1950 have no encoding that a verifier reads rightly and are refused.
    """
    at = _utc(at)
    if at.year >= 2050:
        return generalized_time(at)
    if at.year < 1950:
        raise DerError(f"the year {at.year} is before 1950, where UTCTime begins")
    text = f"{at.year % 100:02}{at.month:02}{at.day:02}{at.hour:02}{at.minute:02}{at.second:02}Z"
    return b"\x17\x0d" + text.encode("ascii")


def _utc(at: datetime) -> datetime:
    if at.tzinfo is UTC:
        return at
    if at.utcoffset() is None:
        raise DerError("a time without a zone has no encoding")
    return at.astimezone(UTC)


def _integer_content(value: int) -> bytes:
    # `~value` is the positive number with as many bits; one more bit is the sign's.
    bits = (value if value >= 0 else ~value).bit_length() + 1
    return value.to_bytes((bits + 7) // 8, signed=True)


def _arc(value: int) -> bytes:
    octets = [value & 0x7F]
    while value := value >> 7:
        octets.append(0x80 | value & 0x7F)
    return bytes(reversed(octets))
