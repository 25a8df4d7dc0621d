"""JSON as a signature's input needs it: one text, one meaning (RFC 8259; RFC 8555 §5 asks for UTF-8).

Rule 1: what two parsers could read differently is refused: duplicate members, NaN and Infinity, lone surrogates, numbers
beyond what others keep exactly.
Rule 2: no input costs more than its length: nesting and digits are bounded before anything is built from them.
"""

import json
import math
import re
from collections import Counter
from typing import Final, NoReturn

from acmeca.quoting import quote_input

MAX_DEPTH: Final = 16
_MAX_NUMBER_LENGTH: Final = 32  # characters; the only number that ACME clients send is a revocation's reason

# All that is no bracket: strings (closed or not, so that a match never has to be given up) and the rest. Possessive: linear
# on every input.
_NO_BRACKET: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[^"\[\]{}]++', re.DOTALL)
_SURROGATE_ESCAPE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def parse_object(data: bytes) -> dict[str, object]:
    """The members of the one JSON object in `data`. Raises ValueError with a sentence that may be shown to the sender."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    _require_depth(text)
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg.removesuffix(' at')} at character {error.pos}") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004  (one exception type for whatever is wrong with it)
    _require_no_lone_surrogate(text, value)
    return value


def _require_depth(text: str) -> None:
    if text.count("{") + text.count("[") <= MAX_DEPTH:  # nearly every request: no need to look where they stand
        return
    depth = 0
    for bracket in _NO_BRACKET.sub("", text):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")


def _require_no_lone_surrogate(text: str, value: object) -> None:
    """RFC 8259 §8.2: a string with an unpaired surrogate is "unpredictable"; UTF-8 cannot hold one, an escape can."""
    if _SURROGATE_ESCAPE.search(text) is None:
        return
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("a string holds half of a surrogate pair") from None


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """RFC 7515 §4: "The Header Parameter names within the JOSE Header MUST be unique"; here: in every object."""
    members = dict(pairs)
    if len(members) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"the member {quote_input(twice)} stands twice in one object")
    return members


def _integer(digits: str) -> int:
    if len(digits) > _MAX_NUMBER_LENGTH:
        raise ValueError(f"a number has more than {_MAX_NUMBER_LENGTH} characters")
    return int(digits)


def _real(digits: str) -> float:
    if len(digits) > _MAX_NUMBER_LENGTH:
        raise ValueError(f"a number has more than {_MAX_NUMBER_LENGTH} characters")
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=_integer, parse_float=_real, parse_constant=_constant
)
