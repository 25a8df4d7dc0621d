"""What is journalled: the kinds of entries, each with its columns, and what an entry of an earlier program means.

Rule 1: an entry of a kind, or with a column, that this program does not know is refused: a newer acmeca wrote it, and what it meant
must not be lost.
Rule 2: an entry of an earlier program lacks the columns that came later (`ADDED`). What that meant then is written beside them.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

from acmeca.storage.database import Entry, Value
from acmeca.storage.journal import Commit, JournalError
from acmeca.storage.journals import AUDIT

_TEXT: Final = (str,)
_NUMBER: Final = (int,)
_OCTETS: Final = (bytes,)
_TEXT_OR_NONE: Final = (str, type(None))
_NUMBER_OR_NONE: Final = (int, type(None))

Columns: TypeAlias = Mapping[str, tuple[type, ...]]

KINDS: Final[Mapping[str, Columns]] = MappingProxyType(
    {
        "issuer": {
            **dict.fromkeys(("id", "state", "ocsp_url", "crl_url", "issuer_url"), _TEXT),
            "parent_id": _TEXT_OR_NONE,
            "key_reference": _TEXT_OR_NONE,
            "certificate": _OCTETS,
            "created_at": _NUMBER,
        },
        "account": {
            **dict.fromkeys(("id", "thumbprint", "jwk", "status", "contact"), _TEXT),
            "created_at": _NUMBER,
        },
        "account.grant": {"id": _TEXT, "grant_id": _TEXT},
        "account.terms": {"id": _TEXT, "terms_of_service": _TEXT},
        "contact": {"id": _TEXT, "contact": _TEXT},
        "account.key": dict.fromkeys(("id", "old_thumbprint", "thumbprint", "jwk"), _TEXT),
        "account.deactivated": {"id": _TEXT},
        "profile": dict.fromkeys(("id", "name", "document"), _TEXT),
        "certificate": {
            **dict.fromkeys(("id", "serial", "issuer_id", "profile", "names"), _TEXT),
            "profile_id": _TEXT_OR_NONE,
            "account_id": _TEXT_OR_NONE,
            "order_id": _TEXT_OR_NONE,
            "spki_sha256": _OCTETS,
            "tbs": _OCTETS,
            **dict.fromkeys(("not_before", "not_after", "recorded_at"), _NUMBER),
        },
        "grant": {
            **dict.fromkeys(("id", "owner", "terms", "status"), _TEXT),
            "mac_sha256": _OCTETS,
            "single_use": _NUMBER,
            "created_at": _NUMBER,
            "expires_at": _NUMBER_OR_NONE,
        },
        "grant.standing": {"id": _TEXT, "status": _TEXT, "expires_at": _NUMBER_OR_NONE, "changes": _NUMBER},
        "signature": {"id": _TEXT, "signature": _OCTETS, "issued_at": _NUMBER},
        "revocation": {
            "id": _TEXT,
            "revoked_at": _NUMBER,
            "revocation_reason": _NUMBER_OR_NONE,
            "revocation_sequence": _NUMBER,
        },
        "replacement": {"serial": _TEXT, "replaced_by": _TEXT},
        "renewal": {
            **dict.fromkeys(("id", "selection"), _TEXT),
            "explanation_url": _TEXT_OR_NONE,
            **dict.fromkeys(("sequence", "renew_from", "renew_until", "set_at"), _NUMBER),
        },
        "renewal.cleared": {"id": _TEXT, "cleared_at": _NUMBER},
        "blocked_key": {
            "spki_sha256": _OCTETS,
            "thumbprint": _TEXT,
            "blocked_at": _NUMBER,
            "serial": _TEXT_OR_NONE,
        },
        "blocked_key.why": {"spki_sha256": _OCTETS, "why": _TEXT},
        "crl": {
            "issuer_id": _TEXT,
            **dict.fromkeys(("number", "this_update", "next_update", "through_sequence", "entries"), _NUMBER),
        },
        "crl.published": {"issuer_id": _TEXT, "number": _NUMBER, "der": _OCTETS},
        AUDIT: {"writer": _TEXT, "sequence": _NUMBER, "at": _NUMBER, "event": _TEXT, "hash": _OCTETS},
    }
)
"""What is journalled: the kinds of entries, each with its columns and what may stand in them."""

ADDED: Final[Mapping[str, Mapping[str, Value]]] = MappingProxyType(
    {
        "certificate": {"profile_id": None},  # profiles had no documents
    }
)
"""The columns that came to a kind later, each with what an entry without it means (rule 2)."""


def known(entry: Entry, commit: Commit) -> Entry:
    """The entry with every column of its kind (rule 2). Raises `JournalError` (rule 1)."""
    columns = KINDS.get(entry.kind)
    unknown = set() if columns is None else entry.values.keys() - columns.keys()
    if columns is None or unknown:
        what = f"entries of the kind {entry.kind!r}" if columns is None else f"{entry.kind} with {min(unknown)!r}"
        raise JournalError(
            f"the journal of {commit.writer} has {what}, which this program does not know: a newer acmeca wrote it, restore with that"
        )
    values = {**ADDED.get(entry.kind, {}), **entry.values}
    for name, types in columns.items():
        if name not in values or type(values[name]) not in types:
            raise JournalError(
                f"commit {commit.number} in the journal of {commit.writer} holds a {entry.kind} that acmeca never wrote ({name})"
            )
    return Entry(entry.kind, values)
