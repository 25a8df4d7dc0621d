"""What an administrator's operations are given: JSON values, read strictly, and the certificates that they name.

Rule 1: a value of another type than is asked for is a mistake of the caller's, told with the argument's name.
Rule 2: a serial is taken in every form that tools print (hex with or without colons, `0x…`, decimal) and never guessed: a
form that fits two certificates is refused.
"""

import ipaddress
import re
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from acmeca.acme.identifiers import canonical_dns_name
from acmeca.errors import AcmecaError, Conflict, NotFound
from acmeca.service.status import format_serial
from acmeca.storage.certificates import Certificate
from acmeca.storage.store import Store

Json: TypeAlias = dict[str, object]
Operation: TypeAlias = Callable[[Json, str], Awaitable[Json]]
"""Arguments and the user's name in, a result out. Raises `AcmecaError` with a line for that user."""

_HEX: Final = re.compile(r"[0-9a-f]+\Z")
_MAX_SERIAL_DIGITS: Final = 60  # characters; 20 octets (RFC 5280 §4.1.2.2) take 49 in decimal
_SHOWN: Final = 64  # characters of what was typed


def number(arguments: Json, name: str) -> int | None:
    """A whole number that is not negative, or None when it is not given. Raises `AcmecaError`."""
    value = arguments.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise AcmecaError(f"{name}: a whole number is expected")
    return value


def text(arguments: Json, name: str) -> str | None:
    """A text, or None when it is not given. Raises `AcmecaError`."""
    value = arguments.get(name)
    if value is not None and not isinstance(value, str):
        raise AcmecaError(f"{name}: a text is expected")
    return value


def texts(arguments: Json, name: str) -> list[str]:
    """A list of texts, empty when it is not given. Raises `AcmecaError`."""
    value = arguments.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise AcmecaError(f"{name}: a list of texts is expected")
    return value


def flag(arguments: Json, name: str) -> bool:
    """Whether it is given and true. Raises `AcmecaError`."""
    value = arguments.get(name)
    if value is not None and not isinstance(value, bool):
        raise AcmecaError(f"{name}: true or false is expected")
    return value is True


def cut(typed: str) -> str:
    """What was typed, as far as it fits into a line."""
    return typed if len(typed) <= _SHOWN else f"{typed[:_SHOWN]}…"


async def find_certificate(store: Store, typed: str) -> Certificate:
    """The certificate with this serial. Raises `NotFound`, or `Conflict` for a form that fits two (rule 2)."""
    found = [
        certificate
        for serial in parse_serial(typed)
        if (certificate := await store.certificates.by_serial(serial)) is not None
    ]
    if len(found) > 1:
        raise Conflict(
            f"{typed} is one certificate's serial in hex and another's in decimal; write "
            + " or ".join(f"0x{certificate.serial}" for certificate in found)
        )
    if not found:
        raise NotFound(f"no certificate with serial {typed} was ever issued here; find it with: acmeca list")
    return found[0]


def parse_serial(typed: str) -> tuple[str, ...]:
    """The serials, as the store keeps them, that `typed` can mean: one, or two when it is all digits.

    Hex with or without colons, blanks and `0x`, in either case (as openssl and browsers print it, `serial=` before it
    too), or decimal (as some libraries do). Leading zeros say nothing. Raises `AcmecaError` for what is neither.
    """
    # Windows' certificate dialog puts a left-to-right mark before what is copied from it.
    plain = typed.strip().strip("\u200e").lower().removeprefix("serial=")
    digits = plain.removeprefix("0x").replace(":", "").replace(" ", "")
    if not _HEX.match(digits) or len(digits) > _MAX_SERIAL_DIGITS:
        raise AcmecaError(f"{cut(typed)!r} is no serial; write it in hex (with or without colons) or in decimal")
    candidates = [int(digits, 16)]
    if digits == plain and digits.isdecimal():
        candidates.append(int(digits))
    return tuple(dict.fromkeys(format_serial(candidate) for candidate in candidates))


def parse_search_name(typed: str) -> str:
    """What is looked for: a canonical name or address, or `*.suffix` for everything below it. Raises `AcmecaError`."""
    for canonical in (canonical_dns_name, lambda value: str(ipaddress.ip_address(value))):
        try:
            return canonical(typed.strip().removesuffix("."))
        except ValueError:
            continue
    raise AcmecaError(
        f"name: {cut(typed)!r} is none; a whole name or address is looked for, or what is below one, like *.corp.internal"
    )
