"""A change of an account's key: the JWS inside the request, signed by the new key (RFC 8555 §7.3.5).

Rule 1: `verify_key_change` alone makes a `KeyChange`, so whoever has one knows that the holder of the new key asked for it, for
this account and in the place of this old key.
Rule 2: the inner JWS is read by the same steps as the outer one (`jws.py`); a problem with it says that it is the inner one.
Rule 3: what is not asked here is asked of the store, in one transaction: that the account has the old key still, and nobody the
new one.

The steps have the RFC's numbers. 1 (who sent the outer JWS) is the caller's; 2 to 6 are `verify_key_change`'s, 7 and 8
`require_own`'s; 9 is the store's.
"""

from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Final

from acmeca.acme import jws, strict_json
from acmeca.acme.jwk import PublicKey, parse_jwk, verify_signature
from acmeca.acme.objects import Account
from acmeca.acme.problem import Problem, ProblemType
from acmeca.quoting import quote_input

_CHECKED: Final = object()  # what only `verify_key_change` hands to a KeyChange


@dataclass(frozen=True, slots=True)
class KeyChange:
    """What the owner of `new_key` asked for: to be the key of the account with this URL, which has `old_key` now."""

    account_url: str
    old_key: PublicKey
    new_key: PublicKey
    checked: InitVar[object]

    def __post_init__(self, checked: object) -> None:
        if checked is not _CHECKED:
            raise TypeError("a KeyChange comes from acmeca.acme.key_change.verify_key_change")


def verify_key_change(payload: bytes, *, url: str) -> KeyChange:
    """Steps 2 to 6 on the payload of a keyChange request, the resource's URL being `url`.

    Raises Problem: `malformed`, `badSignatureAlgorithm`, `badPublicKey`.
    """
    try:
        return _verify(payload, url)
    except Problem as problem:
        raise Problem(
            problem.type, f"the inner JWS: {problem.detail}", status=problem.status, algorithms=problem.algorithms
        ) from None


def require_own(change: KeyChange, account: Account, *, account_url: str) -> None:
    """Steps 7 and 8: the change is one of this account, and of the key that it has. Raises Problem `malformed`."""
    # Step 7: "the "account" field … contains the URL for the account matching the old key (i.e., the "kid" field in the outer JWS)"
    if change.account_url != account_url:
        raise _malformed(
            f"the 'account' of the key change is {quote_input(change.account_url)}, but {account_url} signed the request"
        )
    # Step 8: "the "oldKey" field … is the same as the account key for the account in question"
    if change.old_key.jwk != account.jwk:
        raise _malformed("the 'oldKey' of the key change is not the key of the account")


def _verify(payload: bytes, url: str) -> KeyChange:
    # Step 2: "the payload of the JWS is a well-formed JWS object"
    envelope = jws.open_envelope(_parse_members(payload, "it"))
    algorithm = jws.require_algorithm(envelope.header)
    jws.require_nothing_critical(envelope.header)
    # Step 3: "has a "jwk" field". Of jwk and kid there is one (§6.2), and the nonce is the outer one's alone.
    for name in ("kid", "nonce"):
        if name in envelope.header:
            raise _malformed(f"the protected header has {name!r}, which only the outer one has (RFC 8555 §7.3.5)")
    if "jwk" not in envelope.header:
        raise _malformed("the protected header has no 'jwk': the new key has to stand there (RFC 8555 §7.3.5)")
    new_key = jws.parse_key(envelope.header["jwk"], algorithm)
    # Step 4: "verifies using the key in its "jwk" field"
    if not verify_signature(new_key, algorithm, envelope.signature, envelope.signed):
        raise _malformed("its signature is not valid for the new key")
    # Step 5: "a well-formed keyChange object"; other members are ignored (rule 1 of payloads.py)
    members = _parse_members(envelope.payload, "its payload")
    account_url, old_key = members.get("account"), members.get("oldKey")
    if not isinstance(account_url, str):
        raise _malformed("its payload has no string 'account'")
    if not isinstance(old_key, dict):
        raise _malformed("its payload has no 'oldKey' that is a JWK")
    # Step 6: "the "url" parameters of the inner and outer JWSs are the same": the outer one was compared with ours
    if jws.require_header_text(envelope.header, "url") != url:
        raise _malformed(
            f"its 'url' is {quote_input(str(envelope.header['url']))}; it has to be the outer one's, {url} (RFC 8555 §7.3.5)"
        )
    return KeyChange(account_url, _parse_old_key(old_key), new_key, checked=_CHECKED)


def _parse_old_key(members: Mapping[str, object]) -> PublicKey:
    try:
        return parse_jwk(members)
    except Problem as problem:  # nothing is signed with it here
        raise _malformed(f"'oldKey' in its payload: {problem.detail}") from None


def _parse_members(data: bytes, what: str) -> dict[str, object]:
    try:
        return strict_json.parse_object(data)
    except ValueError as error:
        raise _malformed(f"{what} cannot be read: {error}") from None


def _malformed(detail: str) -> Problem:
    return Problem(ProblemType.MALFORMED, detail)
