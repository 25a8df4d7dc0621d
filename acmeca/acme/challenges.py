"""Challenges: what all types have in common (RFC 8555 §8): tokens, key authorizations, and which type suits which identifier.

Rule 1: each type has a module of its own, with its observation and its judgement: `http01.py` and its like.
Rule 2: which types suit an identifier is a table of this module, asked when challenges are offered and again when one is
validated. Which of them are offered is the operator's choice (`policy/challenges.py`).
"""

import base64
import re
from typing import Final

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.objects import ChallengeType

TOKEN_BYTES: Final = 16  # §8.3: "This value MUST have at least 128 bits of entropy"

# §8.3: "It MUST NOT contain any characters outside the base64url alphabet and MUST NOT include base64 padding".
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+\Z")

# RFC 8555 §8.3 and RFC 8737 §3 show control of one host, which says nothing of the names below it.
_WILDCARD: Final = frozenset({ChallengeType.DNS_01, ChallengeType.DNS_ACCOUNT_01})
# RFC 8738 §7: "The existing "dns-01" challenge MUST NOT be used to validate IP identifiers"; dns-account-01 is its like.
_ADDRESS: Final = frozenset({ChallengeType.HTTP_01, ChallengeType.TLS_ALPN_01})
_NAME: Final = frozenset(ChallengeType)


def suitable_types(identifier: Identifier) -> frozenset[ChallengeType]:
    """The types that can show control of an identifier, which is a wildcard if it was asked for as one."""
    if identifier.is_wildcard:
        return _WILDCARD
    return _ADDRESS if identifier.type is IdentifierType.IP else _NAME


def new_token(entropy: bytes) -> str:
    """The token of a new challenge: `entropy` in base64url without padding (§8.3).

    Raises ValueError for less than 16 bytes. The caller brings them from the system's random source.
    """
    if len(entropy) < TOKEN_BYTES:
        raise ValueError(f"a token needs {TOKEN_BYTES} bytes of entropy, got {len(entropy)}")
    return base64.urlsafe_b64encode(entropy).rstrip(b"=").decode("ascii")


def key_authorization(token: str, thumbprint: str) -> str:
    """§8.1: token || "." || base64url(Thumbprint(accountKey)). `thumbprint` is base64url already.

    Raises ValueError when a part is not base64url: neither ever comes from a client in any other form.
    """
    if not _BASE64URL.match(token) or not _BASE64URL.match(thumbprint):
        raise ValueError("token and thumbprint are base64url without padding")
    return f"{token}.{thumbprint}"
