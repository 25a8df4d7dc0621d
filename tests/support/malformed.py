"""Requests that no server may accept, made from good ones by one change at a time.

Every body is refused by a server that keeps RFC 8555 §6, whatever its accounts and orders: the change is in the bytes, the
JSON, the members, the base64, the protected header, the key or the signature. The same seed gives the same changes.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.jose import SigningKey, decode, encode, encode_integer, new_key, shared_key, sign

_PAYLOAD: Final = {"identifiers": [{"type": "dns", "value": "a.example"}]}
_WRONG_TYPES: Final[tuple[object, ...]] = (None, True, 0, -1, 1.5, [], ["x"], {}, {"a": 1}, [[[]]])


@dataclass(frozen=True)
class Draft:
    """What a change starts from."""

    random: random.Random
    key: SigningKey
    url: str
    kid: str
    nonce: str

    def good(self, **changes: object) -> bytes:
        """A good request by the account, but for the changes that `sign` takes."""
        arguments: dict[str, object] = {"url": self.url, "nonce": self.nonce, "payload": _PAYLOAD, "kid": self.kid}
        return sign(self.key, **(arguments | changes))  # type: ignore[arg-type]  # the changes are `sign`'s keywords

    def envelope(self) -> dict[str, str]:
        envelope: dict[str, str] = json.loads(self.good())
        return envelope


Change = Callable[[Draft], bytes]
_CHANGES: Final[list[tuple[str, Change]]] = []


def _change(function: Change) -> Change:
    _CHANGES.append((function.__name__.replace("_", " ").strip(), function))
    return function


def malformed_requests(
    seed: int, count: int, *, url: str, nonce_source: Callable[[], str], key: SigningKey, kid: str
) -> Iterator[tuple[str, bytes]]:
    """`count` pairs of what was changed and the body; `key` has to be of P-256 and the account's that `kid` names."""
    source = random.Random(seed)
    for index in range(count):
        name, change = _CHANGES[index % len(_CHANGES)]
        yield name, change(Draft(random.Random(source.getrandbits(64)), key, url, kid, nonce_source()))


# The bytes.


@_change
def bit_flipped(draft: Draft) -> bytes:
    body = bytearray(draft.good())
    body[draft.random.randrange(len(body))] ^= 1 << draft.random.randrange(8)
    return bytes(body)


@_change
def truncated(draft: Draft) -> bytes:
    body = draft.good()
    return body[: draft.random.randrange(len(body))]


@_change
def byte_inserted(draft: Draft) -> bytes:
    body = draft.good()
    at = draft.random.randrange(1, len(body))
    return (
        body[:at]
        + draft.random.choice([b"\0", b"\xff", b"\x80", b"\xc3", b"\xed\xa0\x80", b"}", b'"', b"\\"])
        + body[at:]
    )


@_change
def random_bytes(draft: Draft) -> bytes:
    return draft.random.randbytes(draft.random.randrange(600))


@_change
def another_encoding(draft: Draft) -> bytes:
    return draft.good().decode().encode(draft.random.choice(["utf-16", "utf-16-le", "utf-32", "utf-8-sig"]))


@_change
def more_than_64_kibibytes(draft: Draft) -> bytes:
    return draft.good(payload=draft.random.randbytes(50_000))


@_change
def something_after_it(draft: Draft) -> bytes:
    return draft.good() + draft.random.choice([b"x", b"{}", b"\0", b",", b"]", draft.good()])


# The JSON.


@_change
def not_an_object(draft: Draft) -> bytes:
    text = draft.good().decode()
    return draft.random.choice([f"[{text}]", json.dumps(text), "null", "true", "0", "[]", "{}", '""', ""]).encode()


@_change
def deeply_nested(draft: Draft) -> bytes:
    depth = draft.random.choice([17, 100, 2_000, 30_000])
    opening, closing = draft.random.choice([("[", "]"), ('{"a":', "}")])
    nested = opening * depth + draft.random.choice(["", "1" + closing * depth])
    return draft.good()[:-1] + f',"extra":{nested}'.encode()[:60_000] + b"}"


@_change
def member_twice(draft: Draft) -> bytes:
    name = draft.random.choice(["protected", "payload", "signature", "signature"])
    value = draft.random.choice([draft.envelope()[name], ""])
    return draft.good()[:-1] + f',"{name}":"{value}"}}'.encode()


@_change
def not_json(draft: Draft) -> bytes:
    body = draft.good()
    return draft.random.choice(
        [
            body.replace(b'"', b"'"),
            body[:-1] + b",}",
            body.replace(b":", b"=", 1),
            b"// comment\n" + body,
            body[:-1] + b',"a":NaN}',
            body[:-1] + b',"a":-Infinity}',
            body[:-1] + b',"a":1e999}',
            body[:-1] + b',"a":01}',
            body[:-1] + b',"a":' + b"9" * 5_000 + b"}",
            body[:-1] + b',"a":"\\ud800"}',
            body[:-1] + b',"\\udfff":1}',
            body[:-1] + b',"a":"\n"}',
        ]
    )


# The members.


@_change
def member_missing(draft: Draft) -> bytes:
    return draft.good(without_members=[draft.random.choice(["protected", "payload", "signature"])])


@_change
def member_of_another_type(draft: Draft) -> bytes:
    name = draft.random.choice(["protected", "payload", "signature"])
    return draft.good(members={name: draft.random.choice(_WRONG_TYPES)})


@_change
def unprotected_header(draft: Draft) -> bytes:
    return draft.good(members={"header": draft.random.choice([{}, {"alg": "ES256"}, {"kid": draft.kid}, None, "x"])})


@_change
def signatures(draft: Draft) -> bytes:
    one = draft.envelope()
    choices: list[object] = [[], [one], [one, one], {}, None]
    several = draft.random.choice(choices)
    return draft.random.choice(
        [
            draft.good(members={"signatures": several}),
            json.dumps({"payload": one["payload"], "signatures": several}).encode(),
        ]
    )


# The base64.


@_change
def bad_base64url(draft: Draft) -> bytes:
    envelope = draft.envelope()
    name = draft.random.choice(list(envelope))
    text = envelope[name]
    at = draft.random.randrange(1, len(text))
    envelope[name] = draft.random.choice(
        [
            text + "=" * (-len(text) % 4 or 4),
            text[:at] + draft.random.choice(" \n\t\r=+/.,*\u00e9\u0410\uff21") + text[at:],
            text[: (len(text) - 1) // 4 * 4 + 1],
            text[: len(text) // 4 * 4] + "AB",
            text[: len(text) // 4 * 4] + "AAB",
            "\ud83d\ude00",
        ]
    )
    return json.dumps(envelope).encode()


# The protected header.


@_change
def header_not_an_object(draft: Draft) -> bytes:
    header = draft.random.choice(
        [b"", b"[]", b"null", b'"x"', b"{", b"\xff", b"{}{}", b"[" * 40_000, b'{"alg":"ES256"}']
    )
    return draft.good(protected=header)


@_change
def header_member_twice(draft: Draft) -> bytes:
    names = {"alg": "ES256", "kid": draft.kid, "nonce": draft.nonce, "url": draft.url}
    name = draft.random.choice(list(names))
    return draft.good(protected=json.dumps(names)[:-1].encode() + f',"{name}":"{names[name]}"}}'.encode())


@_change
def header_member_missing(draft: Draft) -> bytes:
    return draft.good(without=[draft.random.choice(["alg", "kid", "nonce", "url"])])


@_change
def header_member_of_another_type(draft: Draft) -> bytes:
    name = draft.random.choice(["alg", "kid", "nonce", "url"])
    return draft.good(header={name: draft.random.choice(_WRONG_TYPES)})


@_change
def another_algorithm(draft: Draft) -> bytes:
    algorithms = [
        "none",
        "None",
        "",
        "HS256",
        "HS384",
        "HS512",
        "PS256",
        "RS384",
        "ES256K",
        "Ed448",
        "es256",
        "ES256 ",
        "\0",
    ]
    fitting_another_key = ["ES384", "ES512", "RS256", "EdDSA"]
    return draft.good(alg=draft.random.choice(algorithms + fitting_another_key))


@_change
def unsigned(draft: Draft) -> bytes:
    return draft.good(alg="none", signature=b"")


@_change
def mac_with_the_public_key(draft: Draft) -> bytes:
    jwk = {"kty": "oct", "k": encode(draft.random.randbytes(32))}
    return draft.good(kid=None, alg="HS256", header={"jwk": jwk}, signature=draft.random.randbytes(32))


@_change
def extension(draft: Draft) -> bytes:
    extensions = [
        {"crit": ["exp"], "exp": 1},
        {"crit": []},
        {"crit": ["b64"], "b64": False},
        {"b64": False},
        {"b64": True},
    ]
    return draft.good(header=draft.random.choice(extensions))


@_change
def key_and_its_name(draft: Draft) -> bytes:
    return draft.good(header={"jwk": draft.random.choice([draft.key.jwk, {}, None])})


@_change
def neither_key_nor_name(draft: Draft) -> bytes:
    pointer = dict.fromkeys(draft.random.sample(["jku", "x5u", "x5c", "x5t"], 2), "https://keys.example/jwk")
    return draft.good(without=["kid"], header=pointer)


@_change
def another_url(draft: Draft) -> bytes:
    url = draft.url
    urls = [
        url + "/",
        url + "?",
        url + "#",
        url[:-1],
        url.upper(),
        url.replace("https:", "http:", 1),
        " " + url,
        "",
        "/",
    ]
    others = [other for other in (*urls, url.replace("://", "://user@", 1), "https://other.example/") if other != url]
    return draft.good(header={"url": draft.random.choice(others)})


@_change
def bad_nonce_text(draft: Draft) -> bytes:
    nonces = [
        draft.nonce + "=",
        draft.nonce + "==",
        " ",
        "a",
        "\0",
        draft.nonce[:-1] + "+",
        "\u00fc",
        draft.nonce + "\n",
    ]
    return draft.good(header={"nonce": draft.random.choice(nonces)})


# The key.


@_change
def bad_key(draft: Draft) -> bytes:
    good: dict[str, object] = dict(draft.key.jwk)
    x = str(good["x"])
    other = shared_key("P-384").jwk
    bad: list[object] = [
        *_WRONG_TYPES,
        "x",
        *({name: value for name, value in good.items() if name != missing} for missing in good),
        *(good | {name: draft.random.choice(_WRONG_TYPES)} for name in good),
        good | {"crv": "P-384"},
        good | {"crv": "P-192"},
        good | {"crv": "secp256k1"},
        good | {"kty": "RSA"},
        good | {"kty": "ec"},
        good | {"x": good["y"], "y": x},
        good | {"x": encode(bytes(32))},
        good | {"x": encode(b"\xff" * 32)},
        good | {"x": encode(decode(x)[1:])},
        good | {"x": encode(b"\0" + decode(x))},
        good | {"x": x + "="},
        good | {"x": x[:-1] + "\u00e9"},
        good | {"x": "A" * 40_000},
        good | {"d": encode(bytes(32))},
        good | {"k": "AA"},
        good | {"use": "enc"},
        good | {"alg": "ES384"},
        {"kty": "oct", "k": encode(bytes(32))},
        {"kty": "OKP", "crv": "Ed25519", "x": x[:-3]},
        {"kty": "OKP", "crv": "Ed448", "x": encode(bytes(57))},
        {"kty": "OKP", "crv": "X25519", "x": x},
        other,
    ]
    return draft.good(kid=None, header={"jwk": draft.random.choice(bad)})


@_change
def bad_rsa_key(draft: Draft) -> bytes:
    bits = draft.random.choice([0, 1, 8, 512, 1024, 2047, 2049, 4097, 8192, 16_384])
    n = encode_integer(draft.random.getrandbits(bits) | 1 << bits - 1 if bits else 0)
    modulus = encode_integer(draft.random.getrandbits(2048) | 1 << 2047)
    good: dict[str, object] = {"kty": "RSA", "e": "AQAB", "n": modulus}
    bad: list[dict[str, object]] = [
        good | {"n": n},
        good | {"e": draft.random.choice(["Aw", "AQ", "AAEAAQ", "", "AQAB=", "AQABAA", 65537])},
        good | {"n": encode(b"\0" + decode(modulus))},
        good | {"n": modulus + "="},
        good | {"d": "AQ"},
        {"kty": "RSA", "n": modulus},
        {"kty": "RSA", "e": "AQAB"},
    ]
    algorithm = draft.random.choice(["RS256", "RS256", "ES256"])
    return draft.good(kid=None, alg=algorithm, header={"jwk": draft.random.choice(bad)}, signature=bytes(256))


@_change
def embedded_key_of_someone_else(draft: Draft) -> bytes:
    return draft.good(kid=None, signer=new_key("P-256"))


# The signature.


@_change
def bad_signature(draft: Draft) -> bytes:
    good = decode(draft.envelope()["signature"])
    half = len(good) // 2
    private = draft.key.private
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    signatures = [
        b"",
        good,
        good[:-1],
        good + b"\0",
        good[half:] + good[:half],
        bytes(half) + good[half:],
        good[:half] + bytes(half),
        bytes(len(good)),
        b"\xff" * len(good),
        private.sign(b"something", ec.ECDSA(hashes.SHA256())),
        draft.random.randbytes(len(good)),
    ]
    # The payload is another than the one that `good` signs.
    return draft.good(signature=draft.random.choice(signatures), payload={"identifiers": []})


@_change
def signed_by_someone_else(draft: Draft) -> bytes:
    return draft.good(signer=draft.random.choice([new_key("P-256"), shared_key("P-384"), shared_key("Ed25519")]))


@_change
def signed_another_text(draft: Draft) -> bytes:
    envelope = draft.envelope()
    name = draft.random.choice(["payload", "protected"])
    if name == "payload":
        envelope[name] = encode(draft.random.choice([b"", b"{}", b'{"status":"deactivated"}']))
    else:
        header = json.loads(decode(envelope[name])) | draft.random.choice([{"nonce": "AAAA"}, {"extra": 1}])
        envelope[name] = encode(json.dumps(header).encode())
    return json.dumps(envelope).encode()
