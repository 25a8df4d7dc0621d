r"""What others sent us, as it may stand in a problem, a log or an audit record (RULES §3: escaped, and cut to 64 bytes).

Rule 1: nothing that a client or a peer chose goes into a text of ours in any other way.
Rule 2: what comes out is printable ASCII, without a quote that could end the quotation it stands in.
"""

from typing import Final

SHOWN: Final = 64  # characters


def quote_input(text: str) -> str:
    """A client's text in single quotes, escaped, at most 64 characters of it."""
    escaped = ascii(text[: SHOWN + 1])[1:-1]
    return f"'{escaped}'" if len(escaped) <= SHOWN else f"'{escaped[:SHOWN]}...'"


def escape(data: bytes) -> str:
    r"""A peer's bytes as printable ASCII of at most 64 characters, with `...` behind it when something was cut.

    What is not printable ASCII, the backslash and the double quote become `\xNN`, so that the text can be quoted.
    """
    shown: list[str] = []
    room = SHOWN
    for byte in data[:SHOWN]:
        text = chr(byte) if 0x20 <= byte <= 0x7E and byte not in b'"\\' else f"\\x{byte:02x}"
        if len(text) > room:
            break
        shown.append(text)
        room -= len(text)
    return "".join(shown) + ("..." if len(shown) < len(data) else "")
