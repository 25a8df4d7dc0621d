"""RFC 8555 §6, "Message Transport": the MUSTs that the request envelope keeps. What HTTP shows is asked in tests/web."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from acmeca.acme import jws
from acmeca.acme.jwk import parse_jwk
from acmeca.acme.problem import Problem, ProblemType
from acmeca.storage.nonce_file import FileNonces
from tests.support.jose import decode, encode, new_key, shared_key, sign

URL = "https://example.com/acme/new-order"
KID = "https://example.com/acme/acct/evOfKhNU60wg"
KEY = shared_key("P-256")
ACCOUNT_KEY = parse_jwk(KEY.jwk)
NONCE = "5XJ1L3lEkMG7tR6pA00clA"


@pytest.fixture
def nonces(tmp_path: Path) -> Iterator[FileNonces]:
    nonces = FileNonces.open(tmp_path / "nonces", entropy=os.urandom)
    yield nonces
    nonces.close()


@pytest.fixture
def other_nonces(tmp_path: Path) -> Iterator[FileNonces]:
    """Those of another server, whose key is another."""
    nonces = FileNonces.open(tmp_path / "others", entropy=os.urandom)
    yield nonces
    nonces.close()


def verified(body: bytes) -> jws.VerifiedSignature:
    request = jws.parse(body, url=URL)
    return jws.verify(request, request.jwk or ACCOUNT_KEY)


def refused(body: bytes) -> Problem:
    with pytest.raises(Problem) as caught:
        verified(body)
    return caught.value


class TestSection5:
    def test_utf_8(self) -> None:
        """§5: "All requests and responses … MUST be encoded using the UTF-8 character set"."""
        body = sign(KEY, url=URL, nonce=NONCE, kid=KID).decode()
        assert refused(body.encode("utf-16")).type is ProblemType.MALFORMED
        assert refused(body.replace("protected", "prot\u00e9cted").encode("latin-1")).type is ProblemType.MALFORMED


class TestSection61:
    @pytest.mark.parametrize("name", ["protected", "payload", "signature"])
    def test_padding(self, name: str) -> None:
        """§6.1: "Encoded values that include trailing '=' characters MUST be rejected as improperly encoded."."""
        envelope = json.loads(sign(KEY, url=URL, nonce=NONCE, kid=KID, payload={"a": 1}))
        envelope[name] += "=" * (-len(envelope[name]) % 4 or 4)
        assert refused(json.dumps(envelope).encode()).type is ProblemType.MALFORMED


class TestSection62:
    @pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"junk", b'{"identifiers": []}', b'{"payload": "e30"}'])
    def test_a_body_that_is_no_jws(self, body: bytes) -> None:
        """§6.2: "All ACME requests with a non-empty body MUST encapsulate their payload in a JSON Web Signature (JWS) [RFC7515]
        object".
        """
        assert refused(body).type is ProblemType.MALFORMED

    def test_flattened_serialization(self) -> None:
        """§6.2: "The JWS MUST be in the Flattened JSON Serialization"."""
        envelope = json.loads(sign(KEY, url=URL, nonce=NONCE, kid=KID))
        compact = f"{envelope['protected']}.{envelope['payload']}.{envelope['signature']}"
        assert refused(compact.encode()).type is ProblemType.MALFORMED
        general = {
            "payload": envelope["payload"],
            "signatures": [{"protected": envelope["protected"], "signature": envelope["signature"]}],
        }
        assert refused(json.dumps(general).encode()).type is ProblemType.MALFORMED

    def test_one_signature(self) -> None:
        """§6.2: "The JWS MUST NOT have multiple signatures"."""
        envelope = json.loads(sign(KEY, url=URL, nonce=NONCE, kid=KID))
        entry = {"protected": envelope["protected"], "signature": envelope["signature"]}
        for signatures in ([], [entry], [entry, entry]):
            body = json.dumps(envelope | {"signatures": signatures}).encode()
            assert refused(body).type is ProblemType.MALFORMED

    def test_unencoded_payload(self) -> None:
        """§6.2: "The JWS Unencoded Payload Option [RFC7797] MUST NOT be used"."""
        header = {"b64": False, "crit": ["b64"]}
        assert refused(sign(KEY, url=URL, nonce=NONCE, kid=KID, header=header)).type is ProblemType.MALFORMED
        assert refused(sign(KEY, url=URL, nonce=NONCE, kid=KID, header={"b64": True})).type is ProblemType.MALFORMED

    def test_unprotected_header(self) -> None:
        """§6.2: "The JWS Unprotected Header [RFC7515] MUST NOT be used"."""
        body = sign(KEY, url=URL, nonce=NONCE, kid=KID, members={"header": {}})
        assert refused(body).type is ProblemType.MALFORMED

    def test_detached_payload(self) -> None:
        """§6.2: "The JWS Payload MUST NOT be detached"."""
        body = sign(KEY, url=URL, nonce=NONCE, kid=KID, without_members=["payload"])
        assert refused(body).type is ProblemType.MALFORMED

    @pytest.mark.parametrize("name", ["alg", "url", "kid"])
    def test_required_members(self, name: str) -> None:
        """§6.2: "The JWS Protected Header MUST include" alg, nonce, url, and either jwk or kid. (For the nonce see §6.5.)"""
        body = sign(KEY, url=URL, nonce=NONCE, kid=KID, without=[name])
        assert refused(body).type is ProblemType.MALFORMED

    @pytest.mark.parametrize("algorithm", ["none", "HS256", "HS384", "HS512"])
    def test_none_and_macs(self, algorithm: str) -> None:
        """§6.2: alg "MUST NOT contain "none" or a Message Authentication Code (MAC) algorithm"."""
        for kid in (KID, None):
            problem = refused(sign(KEY, url=URL, nonce=NONCE, kid=kid, alg=algorithm))
            assert problem.type is ProblemType.BAD_SIGNATURE_ALGORITHM

    def test_es256_and_ed25519(self) -> None:
        """§6.2: "MUST implement the "ES256" signature algorithm … and SHOULD implement the "EdDSA" signature algorithm"."""
        for kind in ("P-256", "Ed25519"):
            assert verified(sign(shared_key(kind), url=URL, nonce=NONCE)).payload == b""

    def test_jwk_and_kid(self) -> None:
        """§6.2: "The "jwk" and "kid" fields are mutually exclusive. Servers MUST reject requests that contain both."."""
        body = sign(KEY, url=URL, nonce=NONCE, kid=KID, header={"jwk": KEY.jwk})
        assert refused(body).type is ProblemType.MALFORMED

    def test_jwk_is_the_key_that_signed(self) -> None:
        """§6.2: jwk "MUST contain the public key corresponding to the private key used to sign the JWS"."""
        body = sign(KEY, url=URL, nonce=NONCE, signer=new_key("P-256"))
        assert refused(body).type is ProblemType.MALFORMED

    def test_unsupported_algorithm(self) -> None:
        """§6.2: "status code 400 … badSignatureAlgorithm … MUST include an "algorithms" field with an array of supported "alg""."""
        problem = refused(sign(KEY, url=URL, nonce=NONCE, kid=KID, alg="ES256K"))
        document = problem.to_json()
        assert document["type"] == "urn:ietf:params:acme:error:badSignatureAlgorithm"
        assert document["status"] == 400
        assert document["algorithms"] == ["ES256", "ES384", "ES512", "RS256", "EdDSA"]

    @pytest.mark.parametrize(
        ("algorithm", "key", "reason"),
        [
            ("RS256", {"kty": "RSA", "e": "AQAB", "n": encode(b"\x80" + bytes(62) + b"\x01")}, "512 bits"),
            ("ES256", shared_key("P-384").jwk, "ES256"),
            ("EdDSA", {"kty": "OKP", "crv": "Ed448", "x": encode(bytes(57))}, "Ed25519"),
        ],
    )
    def test_rejected_keys(self, algorithm: str, key: dict[str, str], reason: str) -> None:
        """§6.2: "status code 400 … badPublicKey. The problem document detail SHOULD describe the reason": its own examples."""
        problem = refused(sign(KEY, url=URL, nonce=NONCE, alg=algorithm, header={"jwk": key}))
        assert (problem.type, problem.status) == (ProblemType.BAD_PUBLIC_KEY, 400)
        assert reason in problem.detail


class TestSection63:
    def test_post_as_get(self) -> None:
        """§6.3: "the payload of the JWS is a zero-length octet string"; the member is there and is ""."""
        body = sign(KEY, url=URL, nonce=NONCE, kid=KID, payload=b"")
        assert json.loads(body)["payload"] == ""
        assert jws.is_post_as_get(verified(body).payload)

    def test_an_empty_object_is_no_post_as_get(self) -> None:
        """§7.5.1: "{}" answers a challenge."""
        body = sign(KEY, url=URL, nonce=NONCE, kid=KID, payload={})
        assert not jws.is_post_as_get(verified(body).payload)

    def test_it_is_authenticated(self) -> None:
        """§6.3: "the server MUST authenticate the sender"."""
        body = sign(KEY, url=URL, nonce=NONCE, kid=KID, payload=b"", signer=new_key("P-256"))
        assert refused(body).type is ProblemType.MALFORMED


class TestSection64:
    @pytest.mark.parametrize(
        "url", ["https://example.com/acme/new-orde", "https://example.com/acme/new-order/", "/acme/new-order", ""]
    )
    def test_url(self, url: str) -> None:
        """§6.4: "The server MUST reject the request as unauthorized if the string equality check fails."."""
        assert refused(sign(KEY, url=url, nonce=NONCE, kid=KID)).type is ProblemType.UNAUTHORIZED

    @pytest.mark.parametrize("url", [None, 1, True, [URL], {"href": URL}])
    def test_url_is_a_string(self, url: object) -> None:
        """§6.4.1: "The value of the "url" header parameter MUST be a string representing the target URL." """
        body = sign(KEY, url=URL, nonce=NONCE, kid=KID, header={"url": url})
        assert refused(body).type is ProblemType.MALFORMED

    def test_url_in_the_protected_header(self) -> None:
        """§6.4.1: "The "url" header parameter MUST be carried in the protected header of the JWS."."""
        body = sign(KEY, url=URL, nonce=NONCE, kid=KID, without=["url"], members={"header": {"url": URL}})
        assert refused(body).type is ProblemType.MALFORMED
        body = sign(KEY, url=URL, nonce=NONCE, kid=KID, without=["url"], members={"url": URL})
        assert refused(body).type is ProblemType.MALFORMED


class TestSection65:
    def test_no_nonce(self) -> None:
        """§6.5: "because its nonce value was unacceptable (or not present), it MUST provide HTTP status code 400 … badNonce"."""
        problem = refused(sign(KEY, url=URL, nonce=None, kid=KID))
        assert (problem.type, problem.status) == (ProblemType.BAD_NONCE, 400)

    async def test_once(self, nonces: FileNonces) -> None:
        """§6.5: "Once a nonce value has appeared in an ACME request, the server MUST consider it invalid"."""
        body = sign(KEY, url=URL, nonce=await nonces.mint(), kid=KID)
        assert await nonces.redeem(verified(body).nonce)
        assert not await nonces.redeem(verified(body).nonce)

    async def test_ours(self, nonces: FileNonces, other_nonces: FileNonces) -> None:
        """§6.5: "a value that the server previously provided in a Replay-Nonce header field"."""
        await nonces.mint()
        assert not await nonces.redeem("oFvnlFP1wIhRlYS2jTaXbA")
        assert not await nonces.redeem(await other_nonces.mint())

    async def test_replay_nonce_is_base64url(self, nonces: FileNonces) -> None:
        """§6.5.1: "an octet string encoded according to the base64url encoding"; Replay-Nonce = 1*base64url."""
        nonce = await nonces.mint()
        assert encode(decode(nonce)) == nonce

    @pytest.mark.parametrize(
        "nonce", ["5XJ1L3lEkMG7tR6pA00clA==", "a", "+/+/", " ", "\n", "5XJ1L3lEkMG7tR6pA00clB", "\u00e9"]
    )
    def test_a_nonce_that_is_not_base64url(self, nonce: str) -> None:
        """§6.5.2: "not valid according to this encoding, then the verifier MUST reject the JWS as malformed"."""
        assert refused(sign(KEY, url=URL, nonce=nonce, kid=KID)).type is ProblemType.MALFORMED

    def test_the_nonce_in_the_protected_header(self) -> None:
        """§6.5.2: "The "nonce" header parameter MUST be carried in the protected header of the JWS."."""
        body = sign(KEY, url=URL, nonce=None, kid=KID, members={"nonce": NONCE})
        assert refused(body).type is ProblemType.BAD_NONCE
