"""dns-01 and dns-account-01: where a record shows control, and the judgement of what the DNS said.

RFC 8555 §8.4 and draft-ietf-acme-dns-account-label-03, which differ in the name alone: the draft puts a label before it that
belongs to the account, so that several accounts can show control of a name side by side.

Rule 1: `validation/` observes and this module judges. A judgement is a pure function of an observation.
Rule 2: valid is a TXT record whose strings, joined, are exactly the digest of the key authorization; others beside it do no harm.
Rule 3: a problem says which name was asked of whom, what came back, and what to check.
Rule 4: what a peer sent us stands in a problem only escaped and cut to 64 bytes.
Rule 5: whoever answers for an identifier can make the name an alias of any other, and must not read by us what they could
not read themselves (§10.4). So a problem shows nothing of what an alias led to, and hints at nothing in it.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.problem import Problem, ProblemType
from acmeca.quoting import escape

PREFIX: Final = "_acme-challenge"
SHOWN_VALUES: Final = 3
_LABEL_BYTES: Final = 10

_DIGEST: Final = re.compile(rb"[A-Za-z0-9_-]{43}\Z")  # SHA-256 in base64url, whatever was digested


@dataclass(frozen=True, slots=True)
class TxtObservation:
    """What the DNS said of the TXT records of `name`. It judges nothing.

    `values` are the records, the strings of each joined. `server` is the `address:port` that answered. `exists` is false when
    there is no such name. `alias` is the name that `name` is an alias of, as its zone has it (a peer's choice). `failure` is
    None when there was an answer, whatever it says; else a phrase in printable ASCII that says why there was none.
    """

    name: str
    server: str | None = None
    values: tuple[bytes, ...] = ()
    exists: bool = True
    alias: str | None = None
    failure: str | None = None


def dns01_name(identifier: Identifier) -> str:
    """§8.4: "prepending the label "_acme-challenge" to the domain name being validated".

    `identifier` is a name without its `*.` (§7.1.4). Raises ValueError for an address: there is no such challenge for one.
    """
    if identifier.type is not IdentifierType.DNS or identifier.is_wildcard:
        raise ValueError(f"a TXT record shows control of a name, without '*.' before it, got {identifier}")
    return f"{PREFIX}.{identifier.value}"


def dns_account01_name(identifier: Identifier, account_url: str) -> str:
    """draft-ietf-acme-dns-account-label §3.2: `"_" || base32(SHA-256(<ACCOUNT_URL>)[0:10]) || "._acme-challenge"` before the name.

    `account_url` is the account's URL to the letter, as its `Location` was. Raises ValueError as `dns01_name` does.
    """
    label = base64.b32encode(hashlib.sha256(account_url.encode("ascii")).digest()[:_LABEL_BYTES])
    return f"_{label.decode('ascii').lower()}.{dns01_name(identifier)}"


def txt_value(key_authorization: str) -> str:
    """What the record has to hold (§8.4): the SHA-256 digest of the key authorization in base64url without padding."""
    digest = hashlib.sha256(key_authorization.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def judge_txt(observation: TxtObservation, *, key_authorization: str, account_url: str | None = None) -> Problem | None:
    """Judge a TXT observation: None when it proves control, else the problem to show.

    `account_url` is for dns-account-01: "If the server is unable to find a TXT record for the validation domain name, it
    SHOULD include the account URL it used to construct the validation domain name in the problem document" (§3.4 there).

    1. Without an answer, the failure says why.
    2. Without a record there is nothing to compare.
    3. One record that is exactly the digest is enough.
    4. Any other is told as far as Rule 5 lets us.
    """
    made_for = f" (the label is made from the account URL {account_url})" if account_url is not None else ""
    asked = f"TXT {observation.name}{made_for}"
    # Step 1
    if observation.failure is not None:
        return Problem(ProblemType.DNS, f"{asked}: {observation.failure}. {_CHECK_SERVERS}")
    if observation.server is not None:
        asked += f" at {observation.server}"
    if observation.alias is not None:
        asked += f', an alias (CNAME) of "{escape(observation.alias.encode("ascii", "backslashreplace"))}"'
    # Step 2
    if not observation.values:
        missing = "there is no TXT record" if observation.exists else "the name does not exist"
        return Problem(ProblemType.DNS, f"{asked}: {missing}. {_CHECK_RECORD}")
    # Step 3: §8.4: "Verify that the contents of one of the TXT records match the digest value"
    wanted = txt_value(key_authorization)
    if wanted.encode("ascii") in observation.values:
        return None
    # Step 4
    if observation.alias is not None:
        return Problem(
            ProblemType.INCORRECT_RESPONSE,
            f'{asked}: no record there is the expected "{wanted}"; what an alias leads to is not shown. {_CHECK_VALUE}',
        )
    shown = [f'"{escape(value)}"' for value in observation.values[:SHOWN_VALUES]]
    more = len(observation.values) - len(shown)
    came_back = ", ".join(shown) + (f" and {more} more" if more else "")
    hint = next(filter(None, (_hint(value, wanted, key_authorization) for value in observation.values)), _CHECK_VALUE)
    return Problem(ProblemType.INCORRECT_RESPONSE, f'{asked}: expected "{wanted}", found {came_back}. {hint}')


_CHECK_SERVERS: Final = (
    "Check that the zone's name servers answer, and that the resolvers of this CA can reach them (validation.resolvers, "
    "validation.zones)"
)
_CHECK_RECORD: Final = (
    "Check that the ACME client published the record under this name, in the zone that the resolvers of this CA see, and "
    "that it waited until every name server of the zone had it"
)
_CHECK_VALUE: Final = (
    "Check that the ACME client publishes the digest for this challenge, and waits until every name server has it"
)


def _hint(value: bytes, wanted: str, key_authorization: str) -> str | None:
    """What is probably wrong with a value that is not the digest."""
    bare = value.strip(b" \t\r\n\"'")
    if bare == key_authorization.encode("ascii"):
        return "The value is the key authorization itself: publish its SHA-256 digest in base64url"
    digest = hashlib.sha256(key_authorization.encode("ascii")).digest()
    if bare.rstrip(b"=") == wanted.encode("ascii"):
        return "The digest has to stand alone: without quotation marks, white space and padding"
    if bare.rstrip(b"=") == base64.b64encode(digest).rstrip(b"=") or bare.lower() == digest.hex().encode("ascii"):
        return "The digest is right, but written in another way: it has to be base64url"
    if _DIGEST.match(bare):
        return (
            "A value of this form was made for another challenge or by another account key: check that the record was "
            "replaced and had time to reach every name server, and that the ACME client that ordered is the one that answers"
        )
    return None
