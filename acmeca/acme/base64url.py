"""base64url as RFC 7515 §2 profiles it (RFC 4648 §5 without padding), strictly.

Rule 1: a text has one meaning and a meaning one text. What does not re-encode to itself is refused: padding, the other
alphabet, white space, and trailing bits that are not zero. Python's own decoder takes all of these.
"""

import base64
import binascii


def decode(text: str) -> bytes:
    """The octets that `text` encodes, or ValueError.

    RFC 8555 §6.1: "Encoded values that include trailing '=' characters MUST be rejected as improperly encoded."
    """
    try:
        octets = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("not base64url") from None
    if encode(octets) != text:  # RFC 4648 §3.5: the pad bits have to be zero, or several texts mean the same octets
        raise ValueError("not base64url without padding, or its last character has stray bits")
    return octets


def encode(octets: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")
