"""The standards' own examples: RFC 7515 (JWS), RFC 7638 (thumbprints), RFC 8037 (Ed25519)."""

import json

import pytest

from acmeca.acme import base64url, jws
from acmeca.acme.jwk import parse_jwk, verify_signature
from acmeca.acme.problem import Problem, ProblemType
from tests.support.jose import shared_key, sign

URL = "https://ca.example/acme/new-order"

# RFC 7515 Appendix A.2.1, A.3.1 and A.4.1, the public members.
KEYS = {
    "RS256": {
        "kty": "RSA",
        "n": (
            "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMs"
            "D1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdV"
            "MTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
        ),
        "e": "AQAB",
    },
    "ES256": {
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    },
    "ES512": {
        "kty": "EC",
        "crv": "P-521",
        "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
        "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2",
    },
    "EdDSA": {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},  # RFC 8037 A.2
}
CLAIMS = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
EXAMPLES = {
    "RS256": (  # A.2.1
        "eyJhbGciOiJSUzI1NiJ9",
        CLAIMS,
        (
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQ"
            "jbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqt"
            "FZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
        ),
    ),
    "ES256": (  # A.3.1
        "eyJhbGciOiJFUzI1NiJ9",
        CLAIMS,
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
    ),
    "ES512": (  # A.4.1
        "eyJhbGciOiJFUzUxMiJ9",
        "UGF5bG9hZA",
        (
            "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpR"
            "wcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn"
        ),
    ),
    "EdDSA": (  # RFC 8037 A.4
        "eyJhbGciOiJFZERTQSJ9",
        "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
    ),
}


@pytest.mark.parametrize("algorithm", EXAMPLES)
class TestExamples:
    def test_the_signature_is_valid(self, algorithm: str) -> None:
        protected, payload, signature = EXAMPLES[algorithm]
        key = parse_jwk(KEYS[algorithm])
        assert json.loads(base64url.decode(protected)) == {"alg": algorithm}
        assert verify_signature(key, algorithm, base64url.decode(signature), f"{protected}.{payload}".encode())

    def test_it_is_valid_for_nothing_else(self, algorithm: str) -> None:
        protected, payload, signature = EXAMPLES[algorithm]
        octets = base64url.decode(signature)
        for other in set(EXAMPLES) - {algorithm}:
            key = parse_jwk(KEYS[other])
            assert not verify_signature(key, algorithm, octets, f"{protected}.{payload}".encode())
            assert not verify_signature(key, other, octets, f"{protected}.{payload}".encode())
        key = parse_jwk(KEYS[algorithm])
        for signed in (
            f"{payload}.{protected}",
            f"{protected}{payload}",
            f"{protected}.{payload}.",
            f"{protected}.{payload}=",
        ):
            assert not verify_signature(key, algorithm, octets, signed.encode())

    def test_it_is_no_acme_request(self, algorithm: str) -> None:
        """None of them names a key, a URL or a nonce."""
        protected, payload, signature = EXAMPLES[algorithm]
        body = json.dumps({"protected": protected, "payload": payload, "signature": signature}).encode()
        with pytest.raises(Problem, match="exactly one of 'jwk' and 'kid'"):
            jws.parse(body, url=URL)


def test_appendix_a_1_a_mac_is_refused() -> None:
    """RFC 7515 A.1.1, HS256. RFC 8555 §6.2: "This field MUST NOT contain "none" or a Message Authentication Code"."""
    body = {
        "protected": "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
        "payload": CLAIMS,
        "signature": "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
    }
    with pytest.raises(Problem) as caught:
        jws.parse(json.dumps(body).encode(), url=URL)
    assert caught.value.type is ProblemType.BAD_SIGNATURE_ALGORITHM


def test_appendix_a_5_an_unsecured_jws_is_refused() -> None:
    """RFC 7515 A.5, "none"."""
    body = json.dumps({"protected": "eyJhbGciOiJub25lIn0", "payload": CLAIMS, "signature": ""}).encode()
    with pytest.raises(Problem) as caught:
        jws.parse(body, url=URL)
    assert caught.value.type is ProblemType.BAD_SIGNATURE_ALGORITHM


def test_appendix_a_6_several_signatures_are_refused() -> None:
    """RFC 7515 A.6.4, the general serialization. RFC 8555 §6.2: "The JWS MUST NOT have multiple signatures"."""
    entries = [
        {"protected": EXAMPLES["RS256"][0], "header": {"kid": "2010-12-29"}, "signature": EXAMPLES["RS256"][2]},
        {
            "protected": EXAMPLES["ES256"][0],
            "header": {"kid": "e9bc097a-ce51-4036-9562-d2ade882db0d"},
            "signature": EXAMPLES["ES256"][2],
        },
    ]
    with pytest.raises(Problem, match="signatures"):
        jws.parse(json.dumps({"payload": CLAIMS, "signatures": entries}).encode(), url=URL)


def test_appendix_a_7_an_unprotected_header_is_refused() -> None:
    """RFC 7515 A.7, flattened. RFC 8555 §6.2: "The JWS Unprotected Header MUST NOT be used"."""
    protected, payload, signature = EXAMPLES["ES256"]
    body = {
        "payload": payload,
        "protected": protected,
        "header": {"kid": "e9bc097a-ce51-4036-9562-d2ade882db0d"},
        "signature": signature,
    }
    with pytest.raises(Problem, match="unprotected header"):
        jws.parse(json.dumps(body).encode(), url=URL)


def test_appendix_c_base64url_without_padding() -> None:
    """RFC 7515 Appendix C: the octets 3 236 255 224 193 are "A-z_4ME"."""
    assert base64url.encode(bytes([3, 236, 255, 224, 193])) == "A-z_4ME"
    assert base64url.decode("A-z_4ME") == bytes([3, 236, 255, 224, 193])


@pytest.mark.parametrize("algorithm", ["none", "ES256"])
def test_appendix_e_a_critical_member_that_is_not_understood(algorithm: str) -> None:
    """RFC 7515 Appendix E, the negative test case for "crit"; once as it stands there, once with nothing else wrong."""
    header = {
        "alg": algorithm,
        "crit": ["http://example.invalid/UNDEFINED"],
        "http://example.invalid/UNDEFINED": True,
    }
    body = sign(shared_key("P-256"), url=URL, nonce="AAAA", payload=b"FAIL", header=header)
    with pytest.raises(Problem, match="'crit'" if algorithm == "ES256" else "'none'"):
        jws.parse(body, url=URL)


def test_rfc_7638_section_3_1_thumbprint() -> None:
    """RFC 7638 §3.1: the key with `alg` and `kid`, its canonical text and its thumbprint."""
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_"
        "2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbIS"
        "D08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    key = parse_jwk({"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"})
    assert key.jwk == '{"e":"AQAB","kty":"RSA","n":"' + n + '"}'
    assert key.thumbprint == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_rfc_8037_appendix_a_3_thumbprint() -> None:
    """RFC 8037 A.3."""
    key = parse_jwk(KEYS["EdDSA"])
    assert key.jwk == '{"crv":"Ed25519","kty":"OKP","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}'
    assert key.thumbprint == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
