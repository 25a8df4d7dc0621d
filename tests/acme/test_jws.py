"""acmeca.acme.jws: the envelope, step by step; what josepy takes and we do not; two thousand malformed requests."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping

import josepy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme import jws
from acmeca.acme.jwk import SUPPORTED_ALGORITHMS, parse_jwk
from acmeca.acme.problem import Problem, ProblemType
from tests.support.jose import KEY_KINDS, KeyKind, SigningKey, decode, encode, new_key, shared_key, sign
from tests.support.malformed import malformed_requests
from tests.support.stopwatch import takes_less_than

PROPERTY = settings(deadline=None, max_examples=200)
URL = "https://ca.example/acme/new-order"
KID = "https://ca.example/acme/account/evOfKhNU60wg"
NONCE = "ax5RnthDqp_Yf4_HZnFLmA"


def request(key: SigningKey | None = None, **changes: object) -> bytes:
    arguments: dict[str, object] = {"url": URL, "nonce": NONCE, "kid": KID, "payload": {"a": 1}} | changes
    return sign(key or shared_key("P-256"), **arguments)  # type: ignore[arg-type]  # the changes are `sign`'s keywords


def parsed(**changes: object) -> jws.UnverifiedRequest:
    return jws.parse(request(None, **changes), url=URL)


def refusal(body: bytes, type_: ProblemType = ProblemType.MALFORMED, status: int = 400) -> Problem:
    with pytest.raises(Problem) as caught:
        jws.parse(body, url=URL)
    assert (caught.value.type, caught.value.status) == (type_, status)
    return caught.value


@pytest.mark.parametrize("kind", KEY_KINDS)
class TestGoodRequests:
    def test_by_account(self, kind: KeyKind) -> None:
        key = parse_jwk(shared_key(kind).jwk)
        unverified = jws.parse(request(shared_key(kind)), url=URL)
        assert (unverified.kid, unverified.jwk, unverified.algorithm) == (KID, None, key.algorithms[0])
        assert (unverified.nonce, unverified.url, json.loads(unverified.payload)) == (NONCE, URL, {"a": 1})
        verified = jws.verify(unverified, key)
        assert (verified.kid, verified.key, verified.nonce, verified.url) == (KID, key, NONCE, URL)
        assert verified.payload == unverified.payload

    def test_by_embedded_key(self, kind: KeyKind) -> None:
        key = parse_jwk(shared_key(kind).jwk)
        unverified = jws.parse(request(shared_key(kind), kid=None), url=URL)
        assert (unverified.kid, unverified.jwk) == (None, key)
        assert jws.verify(unverified, key).key == key


@pytest.mark.parametrize("kind", [kind for kind in KEY_KINDS if kind != "Ed25519"])
def test_josepy_agrees_that_a_good_request_is_good(kind: KeyKind) -> None:
    """The oracle reads the same payload. It knows no Ed25519."""
    body = request(shared_key(kind))
    assert josepy_verifies(body, shared_key(kind))
    assert josepy.jws.JWS.json_loads(body.decode()).payload == jws.parse(body, url=URL).payload


class TestStep1Body:
    def test_at_most_64_kibibytes(self) -> None:
        body = request()
        padded = body[:-1] + b" " * (jws.MAX_BODY_LENGTH - len(body)) + b"}"
        assert len(padded) == 64 * 1024
        assert jws.parse(padded, url=URL).payload == b'{"a": 1}'
        refusal(padded + b" ", status=413)

    @pytest.mark.parametrize("body", [b"", b"x", b"[]", b"null", b"\xff", b"{}x", b"\xef\xbb\xbf{}", b"[" * 65_536])
    def test_strict_json(self, body: bytes) -> None:
        assert "the request body cannot be read" in refusal(body).detail

    def test_no_member_twice(self) -> None:
        assert "'payload' stands twice" in refusal(request()[:-1] + b',"payload":""}').detail


class TestStep2Members:
    @pytest.mark.parametrize("name", ["protected", "payload", "signature"])
    @pytest.mark.parametrize("value", [None, True, 1, [], {}, ["AA"]])
    def test_three_strings(self, name: str, value: object) -> None:
        assert name in refusal(request(without_members=[name])).detail
        assert name in refusal(request(members={name: value})).detail

    @pytest.mark.parametrize("name", ["header", "signatures"])
    @pytest.mark.parametrize("value", [None, {}, [], "", {"alg": "ES256"}, [{}]])
    def test_no_unprotected_header_and_one_signature(self, name: str, value: object) -> None:
        assert name in refusal(request(members={name: value})).detail

    def test_other_members_are_ignored(self) -> None:
        """RFC 7515 §7.2.1: "Additional members can be present …; if not understood …, they MUST be ignored."."""
        unverified = parsed(members={"resource": "new-order", "Header": {}, "x": [1]})
        assert jws.verify(unverified, parse_jwk(shared_key("P-256").jwk)).payload == unverified.payload


class TestStep3Base64url:
    @pytest.mark.parametrize("name", ["protected", "payload", "signature"])
    @pytest.mark.parametrize("change", ["{}=", "{}==", "{} ", "{}\n", "+{}", "{}\u00e9", "{}.", "\x00{}"])
    def test_strictly(self, name: str, change: str) -> None:
        text = json.loads(request())[name]
        assert name in refusal(request(members={name: change.format(text)})).detail


class TestStep4ProtectedHeader:
    @pytest.mark.parametrize(
        "header", [b"", b"[]", b"{", b'"x"', b"\xff", b'{"alg":"ES256","alg":"ES256"}', b'{"a":NaN}']
    )
    def test_strict_json(self, header: bytes) -> None:
        assert "the protected header cannot be read" in refusal(request(protected=header)).detail

    @pytest.mark.parametrize("algorithm", [1, [], {}, True, ["ES256"]])
    def test_alg_is_a_string(self, algorithm: object) -> None:
        assert "'alg'" in refusal(request(alg=algorithm)).detail
        assert "'alg'" in refusal(request(without=["alg"])).detail

    @pytest.mark.parametrize(
        "algorithm",
        ["none", "NONE", "HS256", "HS384", "HS512", "PS256", "RS512", "ES256K", "Ed25519", "es256", "", "\ud83d"],
    )
    @pytest.mark.parametrize("kid", [KID, None])
    def test_unsupported_algorithms(self, algorithm: str, kid: str | None) -> None:
        if algorithm == "\ud83d":
            refusal(request(alg=algorithm, kid=kid))  # half a surrogate pair is no JSON of ours
            return
        problem = refusal(request(alg=algorithm, kid=kid), ProblemType.BAD_SIGNATURE_ALGORITHM)
        assert problem.algorithms == SUPPORTED_ALGORITHMS == ("ES256", "ES384", "ES512", "RS256", "EdDSA")
        assert problem.to_json()["algorithms"] == list(SUPPORTED_ALGORITHMS)

    @pytest.mark.parametrize("name", ["crit", "b64"])
    @pytest.mark.parametrize("value", [None, [], ["url"], True, False])
    def test_nothing_critical(self, name: str, value: object) -> None:
        assert name in refusal(request(header={name: value})).detail

    def test_pointers_to_keys_are_not_looked_at(self) -> None:
        pointers = {
            "jku": "https://a.example/",
            "x5u": "https://a.example/",
            "x5c": ["AA"],
            "x5t": "AA",
            "typ": "JOSE",
            "cty": 1,
        }
        key = parse_jwk(shared_key("P-256").jwk)
        assert jws.verify(parsed(header=pointers), key).key == key


class TestStep5Key:
    def test_exactly_one_of_jwk_and_kid(self) -> None:
        headers: list[dict[str, object]] = [{"jwk": shared_key("P-256").jwk}, {"jwk": None}, {"jwk": {}}]
        for header in headers:
            assert "exactly one" in refusal(request(header=header)).detail
        assert "exactly one" in refusal(request(without=["kid"])).detail

    @pytest.mark.parametrize("kid", [1, None, [], {}, True])
    def test_kid_is_a_string(self, kid: object) -> None:
        assert "'kid'" in refusal(request(header={"kid": kid})).detail

    @pytest.mark.parametrize("key", [None, 1, "x", [], True])
    def test_jwk_is_an_object(self, key: object) -> None:
        assert "'jwk'" in refusal(request(kid=None, header={"jwk": key})).detail

    def test_jwk_is_a_public_key(self) -> None:
        private = shared_key("P-256").jwk | {"d": encode(bytes(32))}
        refusal(request(kid=None, header={"jwk": private}), ProblemType.BAD_PUBLIC_KEY)
        refusal(request(kid=None, header={"jwk": {}}), ProblemType.BAD_PUBLIC_KEY)

    @pytest.mark.parametrize(
        ("algorithm", "kind"), [("ES256", "P-384"), ("RS256", "P-256"), ("EdDSA", "RSA-2048"), ("ES384", "Ed25519")]
    )
    def test_alg_is_the_keys(self, algorithm: str, kind: KeyKind) -> None:
        detail = refusal(request(shared_key(kind), kid=None, alg=algorithm), ProblemType.BAD_PUBLIC_KEY).detail
        assert algorithm in detail
        assert shared_key(kind).algorithm in detail


class TestStep6Url:
    @pytest.mark.parametrize(
        "url",
        [
            "",
            URL + "/",
            URL + "?",
            URL[:-1],
            URL + "\n",
            URL.replace("https", "http"),
            URL.replace("ca.example", "CA.example"),
            URL.replace("ca.example", "ca.example:443"),
            URL.replace("new-order", "new%2Dorder"),
            URL.replace("/acme", "/x/../acme"),
            "x" * 40_000,
        ],
    )
    def test_another_url_is_unauthorized(self, url: str) -> None:
        problem = refusal(request(url=url), ProblemType.UNAUTHORIZED, 403)
        assert URL in problem.detail
        assert len(problem.detail) < 400

    @pytest.mark.parametrize("url", [None, 1, [], {}, [URL]])
    def test_no_url_is_malformed(self, url: object) -> None:
        assert "'url'" in refusal(request(header={"url": url})).detail
        assert "'url'" in refusal(request(without=["url"])).detail


class TestStep7Nonce:
    def test_none_is_a_bad_nonce(self) -> None:
        refusal(request(nonce=None), ProblemType.BAD_NONCE)

    @pytest.mark.parametrize("nonce", [None, 1, [], {}, "=", "AA==", "a", "A B", "\n", "AB", "\u00e9\u00e9", "+/+/"])
    def test_no_base64url_is_malformed(self, nonce: object) -> None:
        assert "nonce" in refusal(request(header={"nonce": nonce})).detail

    @pytest.mark.parametrize("nonce", ["", "AAAA", "A" * 1_000, NONCE])
    def test_whose_it_is_is_not_asked_here(self, nonce: str) -> None:
        assert parsed(nonce=nonce).nonce == nonce


class TestStep8Signature:
    def test_a_signature_of_another_key(self) -> None:
        for signer in (new_key("P-256"), shared_key("P-384"), shared_key("Ed25519")):
            with pytest.raises(Problem, match="signature") as caught:
                jws.verify(parsed(signer=signer), parse_jwk(shared_key("P-256").jwk))
            assert (caught.value.type, caught.value.status) == (ProblemType.MALFORMED, 400)

    @pytest.mark.parametrize("change", [{"payload": encode(b"{}")}, {"payload": ""}, {"signature": ""}])
    def test_a_signature_of_something_else(self, change: Mapping[str, object]) -> None:
        with pytest.raises(Problem, match="signature"):
            jws.verify(parsed(members=change), parse_jwk(shared_key("P-256").jwk))

    def test_another_header(self) -> None:
        """The signature covers the header's octets as they were sent, white space and all."""
        header = decode(json.loads(request())["protected"])
        with pytest.raises(Problem, match="signature"):
            jws.verify(parsed(members={"protected": encode(header + b" ")}), parse_jwk(shared_key("P-256").jwk))

    def test_every_bit_of_the_signature_counts(self) -> None:
        key, unverified = parse_jwk(shared_key("P-256").jwk), parsed()
        for bit in range(0, 512, 7):
            signature = (int.from_bytes(unverified.signature) ^ 1 << bit).to_bytes(64)
            with pytest.raises(Problem):
                jws.verify(dataclasses.replace(unverified, signature=signature), key)

    @pytest.mark.parametrize("algorithm", ["ES384", "ES512", "RS256", "EdDSA"])
    def test_an_algorithm_that_the_accounts_key_does_not_have(self, algorithm: str) -> None:
        with pytest.raises(Problem) as caught:
            jws.verify(parsed(alg=algorithm), parse_jwk(shared_key("P-256").jwk))
        assert caught.value.type is ProblemType.BAD_SIGNATURE_ALGORITHM
        assert caught.value.algorithms == ("ES256",)

    def test_an_embedded_key_verifies_its_own_request_only(self) -> None:
        """A caller that brings another key has a bug: it would trust the wrong one."""
        with pytest.raises(ValueError, match="jwk"):
            jws.verify(parsed(kid=None), parse_jwk(new_key("P-256").jwk))


class TestVerifiedSignature:
    def test_only_verify_makes_one(self) -> None:
        key = parse_jwk(shared_key("P-256").jwk)
        for token in (None, True, object()):
            with pytest.raises(TypeError, match="verify"):
                jws.VerifiedSignature(payload=b"{}", key=key, kid=KID, url=URL, nonce=NONCE, checked=token)

    def test_none_is_made_from_another(self) -> None:
        verified = jws.verify(parsed(), parse_jwk(shared_key("P-256").jwk))
        with pytest.raises((TypeError, ValueError)):
            dataclasses.replace(verified, payload=b"{}")  # type: ignore[call-arg]  # it has to be refused at run time too
        with pytest.raises(AttributeError):
            verified.payload = b"{}"  # type: ignore[misc]  # what a frozen value has to refuse


@pytest.mark.parametrize(("payload", "expected"), [(b"", True), (b"{}", False), (b" ", False), (b"null", False)])
def test_post_as_get_has_no_octets(payload: bytes, expected: bool) -> None:  # noqa: FBT001  (a table's column)
    assert jws.is_post_as_get(payload) is expected
    assert jws.is_post_as_get(parsed(payload=payload).payload) is expected


def josepy_verifies(body: bytes, key: SigningKey | None = None) -> bool:
    """What a server would do that leaves the envelope to josepy: its own key, or the one that the request brings."""
    known = None if key is None else josepy.jwk.JWK.from_json(key.jwk)
    assert known is None or isinstance(known, josepy.jwk.JWK)
    return bool(josepy.jws.JWS.json_loads(body.decode()).verify(known))


def _padded(body: bytes) -> bytes:
    envelope = json.loads(body)
    return json.dumps(
        envelope | {"signature": envelope["signature"] + "=" * (-len(envelope["signature"]) % 4)}
    ).encode()


def _unprotected_algorithm_and_key() -> bytes:
    key = shared_key("P-256")
    return json.dumps(
        {
            "header": {"alg": "ES256", "jwk": key.jwk},
            "payload": encode(b"{}"),
            "signature": encode(key.sign(b"." + encode(b"{}").encode())),
        }
    ).encode()


def _mac_with_an_embedded_key() -> bytes:
    secret = josepy.jwk.JWKOct(key=b"known to everybody")
    signed = josepy.jws.JWS.sign(payload=b"{}", key=secret, alg=josepy.jwa.HS256, protect=frozenset({"alg"}))
    return signed.json_dumps().encode()


@pytest.mark.parametrize(
    ("make", "key"),
    [
        pytest.param(lambda: b'{"payload":"e30","signatures":[]}', "P-256", id="no signature at all"),
        pytest.param(_unprotected_algorithm_and_key, None, id="alg and jwk that nobody signed"),
        pytest.param(_mac_with_an_embedded_key, None, id="a MAC with a key that the request brings"),
        pytest.param(lambda: _padded(request()), "P-256", id="padding"),
    ],
)
def test_what_josepy_accepts_and_we_refuse(make: Callable[[], bytes], key: KeyKind | None) -> None:
    """Why the envelope is read by us (RULES §1). When josepy learns to refuse one of these, this test says so."""
    body = make()
    assert josepy_verifies(body, key and shared_key(key))
    refusal(body)


def test_josepy_takes_a_key_of_another_curve_and_we_do_not() -> None:
    """ES256 made with a key of P-384: R and S of 48 octets each, SHA-256."""
    key = shared_key("P-384")
    oracle_key = josepy.jwk.JWKEC(key=key.private)
    signed = josepy.jws.JWS.sign(payload=b"{}", key=oracle_key, alg=josepy.jwa.ES256, protect=frozenset({"alg"}))
    assert signed.verify()
    header = {"alg": "ES256", "jwk": key.jwk, "url": URL, "nonce": NONCE}
    refusal(request(key, kid=None, protected=json.dumps(header).encode()), ProblemType.BAD_PUBLIC_KEY)


def test_two_thousand_malformed_requests_raise_problems_and_nothing_else() -> None:
    """RULES §1: "No input of any shape gives a 500, takes over 50 ms, or changes state before the signature is verified"."""
    account = parse_jwk(shared_key("P-256").jwk)
    counter = itertools.count()
    requests = malformed_requests(
        8555, 2_000, url=URL, nonce_source=lambda: encode(next(counter).to_bytes(16)), key=shared_key("P-256"), kid=KID
    )
    accepted: list[tuple[str, bytes]] = []
    slow: list[str] = []
    unclear: list[tuple[str, str]] = []
    for name, body in requests:

        def answer(body: bytes = body) -> Problem | None:
            try:
                unverified = jws.parse(body, url=URL)
                jws.verify(unverified, unverified.jwk or account)
            except Problem as raised:
                return raised
            return None

        problem = answer()
        if problem is None:
            accepted.append((name, body))
            continue
        document = json.dumps(problem.to_json())
        if problem.status not in {400, 403, 413} or len(document) > 700 or not problem.detail.isprintable():
            unclear.append((name, document))
        if not takes_less_than(0.05, answer):
            slow.append(name)
    assert not accepted
    assert not unclear
    assert not slow


def test_the_malformed_requests_are_many_kinds_and_repeatable() -> None:
    """The names and order are the seed's. (ECDSA signs differently each time, so the bytes are not all the same.)"""

    def names(seed: int) -> list[str]:
        made = malformed_requests(seed, 60, url=URL, nonce_source=lambda: NONCE, key=shared_key("P-256"), kid=KID)
        return [name for name, _ in made]

    assert names(1) == names(1)
    assert len(set(names(1))) > 30


@PROPERTY
@given(st.binary(max_size=300))
def test_random_bytes_raise_problems_and_nothing_else(body: bytes) -> None:
    with pytest.raises(Problem):
        jws.parse(body, url=URL)


_HEADER = st.dictionaries(
    st.sampled_from(["alg", "jwk", "kid", "url", "nonce", "crit", "b64", "x"]),
    st.none()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["ES256", "RS256", "EdDSA", "none", URL, KID, NONCE])
    | st.dictionaries(st.sampled_from(["kty", "crv", "x", "y", "n", "e"]), st.text(max_size=4) | st.none(), max_size=4),
    max_size=6,
)


@PROPERTY
@given(_HEADER)
def test_random_headers_raise_problems_and_nothing_else(header: dict[str, object]) -> None:
    body = request(protected=json.dumps(header).encode())
    try:
        unverified: jws.UnverifiedRequest | None = jws.parse(body, url=URL)
    except Problem:
        unverified = None
    assert unverified is None or (unverified.url == URL and (unverified.jwk is None) != (unverified.kid is None))
