"""RFC 8555 §8: challenges, clause by clause, as far as http-01 goes. The tests of RFC 8737 and RFC 8738 stand apart."""

import base64
import hashlib
import json
import string
from collections.abc import Collection
from ipaddress import IPv4Address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme.challenges import key_authorization, new_token
from acmeca.acme.http01 import Hop, Http01Observation, judge_http01
from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.observations import Attempt
from acmeca.acme.problem import ProblemType
from acmeca.validation.dialler import Dialler
from acmeca.validation.http01 import Http01Validator
from acmeca.validation.networks import Endpoint, IPAddress
from acmeca.validation.targets import build_target
from tests.support.http_peer import http_peer, ok, redirect

# §8.3, the example of a challenge.
CHALLENGE = json.loads("""
{
  "type": "http-01",
  "url": "https://example.com/acme/chall/prV_B7yEyA4",
  "status": "pending",
  "token": "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
}
""")
# §8.3, the example of a request and its response.
REQUEST = """\
GET /.well-known/acme-challenge/LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0
Host: example.org
"""
RESPONSE = b"""\
HTTP/1.1 200 OK\r
Content-Type: application/octet-stream\r
\r
LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"""

# RFC 7638 §3.1: the canonical JSON of the example key, and its thumbprint.
RFC7638_JSON = '{"e":"AQAB","kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"}'
RFC7638_THUMBPRINT = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"

TOKEN: str = CHALLENGE["token"]
EXPECTED = key_authorization(TOKEN, "9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI")
BASE64URL = frozenset(string.ascii_letters + string.digits + "-_")
NAME = Identifier(IdentifierType.DNS, "example.org")


class Loopback:
    async def addresses(self, name: str) -> tuple[IPAddress, ...]:
        return (IPv4Address("127.0.0.1"),)


def nobody() -> Collection[Endpoint]:
    return ()


def validator(port: int) -> Http01Validator:
    dialler = Dialler(
        resolver=Loopback(),
        allowed_networks=(ip_network("127.0.0.1/32"), ip_network("::1/128")),
        own_endpoints=nobody,
        own_urls=(),
    )
    return Http01Validator(dialler, user_agent="test", http_port=port)


def seen(body: bytes, status: int = 200) -> Http01Observation:
    hop = Hop(
        "http://example.org/", "http://example.org", NAME, attempts=(Attempt("192.0.2.1:80", None),), status=status
    )
    return Http01Observation(NAME, (hop,), body=body, body_complete=True)


class TestSection8_1:  # noqa: N801  (the section's number)
    def test_key_authorization_is_token_dot_thumbprint(self) -> None:
        """keyAuthorization = token || '.' || base64url(Thumbprint(accountKey))"""
        digest = hashlib.sha256(RFC7638_JSON.encode("utf-8")).digest()
        thumbprint = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        assert thumbprint == RFC7638_THUMBPRINT
        text = key_authorization("evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA", thumbprint)
        assert text == f"evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA.{RFC7638_THUMBPRINT}"


class TestSection8_3:  # noqa: N801  (the section's number)
    @settings(deadline=None, max_examples=50)
    @given(st.binary(min_size=16, max_size=48))
    def test_token_alphabet(self, entropy: bytes) -> None:
        """It MUST NOT contain any characters outside the base64url alphabet and MUST NOT include base64 padding
        characters ("=")."""
        token = new_token(entropy)
        assert set(token) <= BASE64URL
        assert base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)) == entropy

    def test_token_entropy(self) -> None:
        """This value MUST have at least 128 bits of entropy."""
        with pytest.raises(ValueError, match="entropy"):
            new_token(bytes(15))
        assert len(new_token(bytes(16))) * 6 >= 128

    def test_path(self) -> None:
        """The path at which the resource is provisioned is comprised of the fixed prefix
        "/.well-known/acme-challenge/", followed by the "token" value in the challenge."""
        request_line, host = REQUEST.splitlines()
        target = build_target(NAME, TOKEN, port=80)
        assert f"GET {target.path}" == request_line
        assert f"Host: {target.authority}" == host

    def test_url_and_port(self) -> None:
        """Construct a URL by populating the URL template "http://{domain}/.well-known/acme-challenge/{token}" … This
        request MUST be sent to TCP port 80 on the HTTP server."""
        target = build_target(NAME, TOKEN, port=80)
        assert target.url == f"http://example.org/.well-known/acme-challenge/{TOKEN}"
        assert (target.scheme, target.port) == ("http", 80)
        assert Http01Validator(validator(1)._dialler, user_agent="test")._http_port == 80

    async def test_the_example(self) -> None:
        """Dereference the URL using an HTTP GET request."""
        async with http_peer(RESPONSE) as peer:
            observation = await validator(peer.port).observe(NAME, TOKEN)
            assert judge_http01(observation, expected=EXPECTED) is None
            (request,) = peer.requests
            assert request.method == "GET"
            assert request.path == f"/.well-known/acme-challenge/{TOKEN}"

    @pytest.mark.parametrize("end", [b"\n", b"\r\n", b" \t \r\n\r\n"])
    async def test_white_space_at_the_end(self, end: bytes) -> None:
        """The server SHOULD ignore whitespace characters at the end of the body."""
        async with http_peer(ok(EXPECTED.encode() + end)) as peer:
            assert judge_http01(await validator(peer.port).observe(NAME, TOKEN), expected=EXPECTED) is None

    @pytest.mark.parametrize(
        "body", [b"", b"\n" + EXPECTED.encode(), EXPECTED.encode() + b"x", EXPECTED.upper().encode(), TOKEN.encode()]
    )
    def test_the_body_has_to_match(self, body: bytes) -> None:
        """Verify that key authorization provided by the HTTP server matches the key authorization stored by the server. The
        value of the resource MUST be the ASCII representation of the key authorization.
        """
        problem = judge_http01(seen(body), expected=EXPECTED)
        assert problem is not None
        assert problem.type is ProblemType.INCORRECT_RESPONSE

    def test_another_account_key(self) -> None:
        """§10.1: the key authorization binds the challenge to the account key that answers it."""
        problem = judge_http01(seen(f"{TOKEN}.{RFC7638_THUMBPRINT}".encode()), expected=EXPECTED)
        assert problem is not None
        assert "another account key" in problem.detail

    async def test_redirects(self) -> None:
        """The server SHOULD follow redirects when dereferencing the URL."""
        async with http_peer(redirect("/central"), RESPONSE) as peer:
            assert judge_http01(await validator(peer.port).observe(NAME, TOKEN), expected=EXPECTED) is None
            assert [request.path for request in peer.requests][1] == "/central"

    @pytest.mark.parametrize("status", [404, 500, 302, 100])
    def test_a_failed_request_fails(self, status: int) -> None:
        """If the request fails, or the body does not pass these checks, then it has failed."""
        assert judge_http01(seen(EXPECTED.encode(), status), expected=EXPECTED) is not None

    def test_never_a_wildcard(self) -> None:
        """§7.1.3: a wildcard stands for names that no single HTTP server proves; http-01 refuses it."""
        with pytest.raises(ValueError, match="wildcard"):
            build_target(Identifier(IdentifierType.DNS, "*.example.org"), TOKEN, port=80)
