"""External account binding: the JWS inside a newAccount request by which the holder of a MAC key approves an account key
(RFC 8555 §7.3.4).

Rule 1: `parse_binding` makes an `UnverifiedBinding`, `verify_binding` alone makes a `VerifiedBinding` of that.
Rule 2: a `kid` that nobody has and a wrong MAC are one case. The caller brings a MAC key for every `kid`, known or not, so that
both take the same steps, and get the same answer, in text and in time (RULES §2).
Rule 3: the inner JWS is read by the same steps as the outer one (`jws.py`); a problem with it says that it is the inner one.
Rule 4: what is wrong with the form is `malformed`, what the MAC does not approve is `unauthorized`. RFC 8555 names neither: "If
any of these checks fail, then the CA MUST reject the newAccount request."

The steps are numbered as §7.3.4 has them:

1. "Verify that the value of the field is a well-formed JWS"
2. "Verify that the JWS protected field meets the above criteria": a MAC's `alg`, a `kid`, no `nonce`, the outer `url`
3. "Retrieve the MAC key corresponding to the key identifier in the "kid" field"
4. "Verify that the MAC on the JWS verifies using that MAC key"
5. "Verify that the payload of the JWS represents the same key as was used to verify the outer JWS"

`parse_binding` takes steps 1 and 2, the caller step 3, `verify_binding` steps 4 and 5. Whether the grant may still be used is
asked behind them, by who knows it.
"""

import hmac
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import InitVar, dataclass
from types import MappingProxyType
from typing import Final

from acmeca.acme import jws, strict_json
from acmeca.acme.jwk import PublicKey, parse_jwk
from acmeca.acme.problem import Problem, ProblemType
from acmeca.quoting import quote_input

_CHECKED: Final = object()  # what only `verify_binding` hands to a VerifiedBinding

# RFC 7518 §3.2. No other MAC is registered for JWS.
_DIGESTS: Final = MappingProxyType({"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"})
MAC_ALGORITHMS: Final = tuple(_DIGESTS)


@dataclass(frozen=True, slots=True)
class UnverifiedBinding:
    """A well-formed binding whose MAC nobody has checked: good for finding the MAC key by its `kid`, no more."""

    algorithm: str
    kid: str
    payload: bytes
    mac: bytes
    signed: bytes


@dataclass(frozen=True, slots=True)
class VerifiedBinding:
    """That the holder of the MAC key `kid` approves the account key of this `thumbprint`. Made by `verify_binding` alone."""

    kid: str
    thumbprint: str
    checked: InitVar[object]

    def __post_init__(self, checked: object) -> None:
        if checked is not _CHECKED:
            raise TypeError("a VerifiedBinding comes from acmeca.acme.binding.verify_binding")


def parse_binding(members: Mapping[str, object], *, url: str) -> UnverifiedBinding:
    """Steps 1 and 2 on the members of an `externalAccountBinding`; `url` is the one that the outer JWS was signed for.

    Raises Problem: `malformed`, or `unauthorized` for another URL.
    """
    with _told():
        # Step 1: a flattened JWS, read as the outer one is.
        envelope = jws.open_envelope(members)
        jws.require_nothing_critical(envelope.header)

        # Step 2. "The "alg" field MUST indicate a MAC-based algorithm"
        algorithm = jws.require_header_text(envelope.header, "alg")
        if algorithm not in _DIGESTS:
            raise _malformed(f"the algorithm {quote_input(algorithm)} is no MAC; use {' or '.join(MAC_ALGORITHMS)}")
        # "The "kid" field MUST contain the key identifier provided by the CA"; "The key identifier MUST be an ASCII string."
        kid = jws.require_header_text(envelope.header, "kid")
        if not kid.isascii():
            raise _malformed("the 'kid' is not ASCII")
        # "The "nonce" field MUST NOT be present"
        if "nonce" in envelope.header:
            raise _malformed("the protected header has a 'nonce', which only the outer one has")
        # "The "url" field MUST be set to the same value as the outer JWS". For the outer one §6.4 names the type.
        if jws.require_header_text(envelope.header, "url") != url:
            raise Problem(
                ProblemType.UNAUTHORIZED,
                f"its 'url' is {quote_input(str(envelope.header['url']))}; it has to be the outer one's, {url}",
            )
        return UnverifiedBinding(
            algorithm=algorithm,
            kid=kid,
            payload=envelope.payload,
            mac=envelope.signature,
            signed=envelope.signed,
        )


def verify_binding(binding: UnverifiedBinding, mac_key: bytes, account_key: PublicKey) -> VerifiedBinding:
    """Steps 4 and 5: the MAC by the key that belongs to the binding's `kid`, and the account key that it approves.

    Raises Problem: `unauthorized`, or `malformed` for a payload that is no JWK.
    """
    # Step 4. Rule 2: the key of a `kid` that was never given out makes another MAC than any that a client has.
    expected = hmac.digest(mac_key, binding.signed, _DIGESTS[binding.algorithm])
    if not hmac.compare_digest(expected, binding.mac):
        raise wrong_mac()
    # Step 5
    with _told():
        try:
            approved = parse_jwk(strict_json.parse_object(binding.payload))
        except ValueError as error:
            raise _malformed(f"its payload is no JWK: {error}") from None
        except Problem as problem:
            raise _malformed(f"its payload is no account key: {problem.detail}") from None
        if approved.thumbprint != account_key.thumbprint:
            raise Problem(
                ProblemType.UNAUTHORIZED, "it approves another account key than the one that signed the request"
            )
    return VerifiedBinding(kid=binding.kid, thumbprint=approved.thumbprint, checked=_CHECKED)


def wrong_mac() -> Problem:
    """What a client is told whose MAC is wrong, or whose `kid` nobody has (rule 2)."""
    return Problem(
        ProblemType.UNAUTHORIZED,
        "externalAccountBinding: the MAC is not valid: the key identifier or the HMAC key is not one that this CA gave out (the HMAC "
        "key is base64url, to be decoded before it is used)",
    )


@contextmanager
def _told() -> Iterator[None]:
    """Has each problem say that it is about the inner JWS."""
    try:
        yield
    except Problem as problem:
        raise Problem(problem.type, f"externalAccountBinding: {problem.detail}") from None


def _malformed(detail: str) -> Problem:
    return Problem(ProblemType.MALFORMED, detail)
