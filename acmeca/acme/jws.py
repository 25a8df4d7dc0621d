"""The envelope of every ACME request: a flattened JWS (RFC 8555 §6.2 to §6.5, RFC 7515 §7.2.2).

Rule 1: `parse` makes an `UnverifiedRequest` of a body, `verify` alone makes a `VerifiedSignature` of that. What acts on a
payload asks for the second.
Rule 2: the envelope is read by us. Libraries made for clients take headers that nobody signed, several signatures or none,
and keys that do not fit their algorithm.
Rule 3: `jku`, `x5u`, `x5c` and all other pointers to keys are never looked at (RFC 7515 §10.2 tells why).

The steps are numbered as they are taken:

1. the body: length, UTF-8, strict JSON
2. the members `protected`, `payload`, `signature`
3. their base64url
4. the protected header: `alg`, nothing critical
5. exactly one of `jwk` and `kid`
6. `url`
7. `nonce`, its syntax
8. the signature

`parse` takes steps 1 to 7, `verify` step 8. The caller's steps: `Content-Type` and `Content-Encoding` (415) before 1; whether
this resource wants `jwk` or `kid`, and which account the `kid` names, between 7 and 8; `Nonces.redeem` after 8 and before
anything is changed.
"""

from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Final

from acmeca.acme import base64url, strict_json
from acmeca.acme.jwk import SUPPORTED_ALGORITHMS, PublicKey, parse_jwk, verify_signature
from acmeca.acme.problem import Problem, ProblemType
from acmeca.quoting import quote_input

MAX_BODY_LENGTH: Final = 64 * 1024  # octets

_CHECKED: Final = object()  # what only `verify` hands to a VerifiedSignature


@dataclass(frozen=True, slots=True)
class UnverifiedRequest:
    """A well-formed request whose signature nobody has checked: good for finding the key to check it with, no more.

    Exactly one of `jwk` and `kid` is set. `signed` are the octets that the signature covers.
    """

    algorithm: str
    jwk: PublicKey | None
    kid: str | None
    url: str
    nonce: str
    payload: bytes
    signature: bytes
    signed: bytes


@dataclass(frozen=True, slots=True)
class VerifiedSignature:
    """What the owner of `key` signed for `url`. Made by `verify` alone. The nonce is still to be redeemed."""

    payload: bytes
    key: PublicKey
    kid: str | None
    url: str
    nonce: str
    checked: InitVar[object]

    def __post_init__(self, checked: object) -> None:
        if checked is not _CHECKED:
            raise TypeError("a VerifiedSignature comes from acmeca.acme.jws.verify")


def parse(body: bytes, *, url: str) -> UnverifiedRequest:
    """Steps 1 to 7 on the `body` of a POST to the resource whose URL, built from the configured base, is `url`.

    Raises Problem: `malformed`, `badSignatureAlgorithm`, `badPublicKey`, `unauthorized` (another URL) or `badNonce` (none).
    """
    # Step 1: the body.
    if len(body) > MAX_BODY_LENGTH:
        raise _malformed(f"the request body has more than {MAX_BODY_LENGTH} bytes", status=413)
    members = _parse_object(body, "the request body")

    # Steps 2 and 3
    envelope = open_envelope(members)
    header = envelope.header

    # Step 4: the protected header.
    algorithm = require_algorithm(header)
    require_nothing_critical(header)

    # Step 5: the key or its name. RFC 8555 §6.2: "Servers MUST reject requests that contain both."
    if ("jwk" in header) == ("kid" in header):
        raise _malformed("the protected header has to have exactly one of 'jwk' and 'kid'")
    jwk = parse_key(header["jwk"], algorithm) if "jwk" in header else None
    kid = require_header_text(header, "kid") if "kid" in header else None

    # Step 6: the URL. RFC 8555 §6.4: "The server MUST reject the request as unauthorized if the string equality check fails."
    if require_header_text(header, "url") != url:
        raise Problem(
            ProblemType.UNAUTHORIZED,
            f"the 'url' in the protected header is {quote_input(str(header['url']))}, but this resource is {url}: "
            "sign the URL exactly as the server gave it",
        )

    # Step 7: the nonce's syntax. §6.5: not present is `badNonce`; §6.5.2: not base64url is `malformed`.
    if "nonce" not in header:
        raise Problem(ProblemType.BAD_NONCE, "the protected header has no 'nonce'")
    nonce = require_header_text(header, "nonce")
    _decode(nonce, "nonce")

    return UnverifiedRequest(
        algorithm=algorithm,
        jwk=jwk,
        kid=kid,
        url=url,
        nonce=nonce,
        payload=envelope.payload,
        signature=envelope.signature,
        signed=envelope.signed,
    )


def verify(request: UnverifiedRequest, key: PublicKey) -> VerifiedSignature:
    """Step 8: the signature, by `key`, which is the request's own `jwk` or the key of the account that its `kid` names.

    Raises Problem: `badSignatureAlgorithm` when the account's key has another algorithm, `malformed` when the signature is
    not the key's. ValueError when the caller brings another key than the `jwk` that the request is about.
    """
    if request.jwk is not None and request.jwk != key:
        raise ValueError("a request with a jwk is verified by that key")
    if request.algorithm not in key.algorithms:
        raise _bad_algorithm(f"the account's key does not sign with {request.algorithm}", key.algorithms)
    if not verify_signature(key, request.algorithm, request.signature, request.signed):
        # RFC 8555 names no type for this. A JWS that does not verify is an invalid JWS (RFC 7515 §5.2), and no more is
        # known about who sent it; so it is `malformed`, as clients know it from other servers. `unauthorized` is kept for
        # an account that is known and may not.
        raise _malformed("the JWS signature is not valid for the key")
    return VerifiedSignature(
        payload=request.payload, key=key, kid=request.kid, url=request.url, nonce=request.nonce, checked=_CHECKED
    )


def is_post_as_get(payload: bytes) -> bool:
    """RFC 8555 §6.3: a request to fetch has a payload of no octets. `{}` is not one: it answers a challenge (§7.5.1)."""
    return payload == b""


# --- parts, for the JWS inside a payload too ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Envelope:
    """A flattened JWS taken apart. `header` is its protected header, `signed` what the signature covers; nothing was verified."""

    header: Mapping[str, object]
    payload: bytes
    signature: bytes
    signed: bytes


def open_envelope(members: Mapping[str, object]) -> Envelope:
    """Steps 2 and 3, and the protected header as JSON. Raises Problem `malformed`."""
    # Step 2: the members. RFC 8555 §6.2: flattened, one signature, no unprotected header, no detached payload.
    # RFC 7515 §7.2.1: other members "MUST be ignored".
    for name, meaning in (("header", "an unprotected header"), ("signatures", "several signatures")):
        if name in members:
            raise _malformed(f"the JWS has a member {name!r}: {meaning} must not be used (RFC 8555 §6.2)")
    protected = _require_text(members, "protected", "the JWS")
    payload = _require_text(members, "payload", "the JWS")
    signature = _require_text(members, "signature", "the JWS")

    # Step 3: base64url. RFC 8555 §6.1 forbids padding.
    header_json = _decode(protected, "protected")
    return Envelope(
        payload=_decode(payload, "payload"),
        signature=_decode(signature, "signature"),
        header=_parse_object(header_json, "the protected header"),
        signed=f"{protected}.{payload}".encode("ascii"),  # RFC 7515 §5.2, step 8
    )


def require_header_text(header: Mapping[str, object], name: str) -> str:
    """A member of the protected header that has to be there, a string. Raises Problem `malformed`."""
    return _require_text(header, name, "the protected header")


def require_algorithm(header: Mapping[str, object]) -> str:
    """The `alg` of a public key's signature; `none` and MACs are not supported, as §6.2 demands."""
    algorithm = require_header_text(header, "alg")
    if algorithm not in SUPPORTED_ALGORITHMS:
        raise _bad_algorithm(f"the algorithm {quote_input(algorithm)} is not supported", SUPPORTED_ALGORITHMS)
    return algorithm


def require_nothing_critical(header: Mapping[str, object]) -> None:
    """RFC 7515 §4.1.11: members that are critical and unknown; RFC 7797 is forbidden by RFC 8555 §6.2."""
    for name in ("crit", "b64"):
        if name in header:
            raise _malformed(f"the protected header has {name!r}: no such extension is understood")


def parse_key(members: object, algorithm: str) -> PublicKey:
    """The key in a protected header's `jwk`, which has to sign with `algorithm`. Raises Problem `malformed`, `badPublicKey`."""
    if not isinstance(members, dict):
        raise _malformed("the protected header's 'jwk' is not a JSON object")
    key = parse_jwk(members)
    # §6.2's own example of badPublicKey: '"alg" is "ES256" but "jwk" does not contain a valid P-256 public key'
    if algorithm not in key.algorithms:
        raise Problem(
            ProblemType.BAD_PUBLIC_KEY, f"'alg' is {algorithm}, but the key in 'jwk' signs with {key.algorithms[0]}"
        )
    return key


# --- common -------------------------------------------------------------------------------------------------------


def _parse_object(data: bytes, what: str) -> dict[str, object]:
    try:
        return strict_json.parse_object(data)
    except ValueError as error:
        raise _malformed(f"{what} cannot be read: {error}") from None


def _require_text(members: Mapping[str, object], name: str, what: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise _malformed(f"{what} has no string {name!r}")
    return value


def _decode(text: str, name: str) -> bytes:
    try:
        return base64url.decode(text)
    except ValueError as error:
        raise _malformed(f"{name!r} is {error}") from None


def _bad_algorithm(detail: str, algorithms: tuple[str, ...]) -> Problem:
    return Problem(
        ProblemType.BAD_SIGNATURE_ALGORITHM, f"{detail}; use {' or '.join(algorithms)}", algorithms=algorithms
    )


def _malformed(detail: str, *, status: int | None = None) -> Problem:
    return Problem(ProblemType.MALFORMED, detail, status=status)
