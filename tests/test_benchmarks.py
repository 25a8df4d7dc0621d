"""The benchmarks are programs that people quote figures from: they have to drive the whole protocol, notice a wrong answer,
count the CPU time of a whole process tree, and stop.

A small ACME server and a small OCSP responder in this file stand in for the real ones. They check what they are sent
(signatures, nonces, URLs), for a generator that is let through by accident measures nothing. No time is asserted.
"""

import ast
import asyncio
import base64
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509 import ocsp as x509_ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.storage import audit
from benchmarks import (
    _acme_client,
    _measure,
    _ocsp_client,
    _servers,
    _storage_fill,
    acme,
    commits,
    compare,
    ocsp,
    storage,
)
from tests.support.databases import connect
from tests.support.server import ca_site

BENCHMARKS = Path(_measure.__file__).parent
NOW = datetime.now(UTC)
PEM = serialization.Encoding.PEM
DER = serialization.Encoding.DER


# --- a small CA ------------------------------------------------------------------------------------------------------


class SmallIssuer:
    """A self-signed issuer with a P-256 key."""

    def __init__(self, name: str = "Small Issuer") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self.sign_certificate(
            self.key.public_key(), subject=self.subject, extensions=[x509.BasicConstraints(ca=True, path_length=None)]
        )

    def sign_certificate(
        self,
        public_key: Any,
        *,
        subject: x509.Name | None = None,
        extensions: list[x509.ExtensionType] | None = None,
        lifetime: timedelta = timedelta(days=1),
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject if subject is not None else x509.Name([]))
            .issuer_name(self.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=2))
            .not_valid_after(NOW + lifetime)
        )
        for extension in extensions or []:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def sign_names(self, public_key: Any, names: list[str], **options: Any) -> x509.Certificate:
        san = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        return self.sign_certificate(public_key, extensions=[san], **options)


def chain_of(*certificates: x509.Certificate) -> str:
    return b"".join(certificate.public_bytes(PEM) for certificate in certificates).decode()


# --- a small ACME server ---------------------------------------------------------------------------------------------


def decode_base64url(text: str) -> bytes:
    assert "=" not in text, "RFC 8555 §6.1: trailing '=' characters MUST be stripped"
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class RefusedError(Exception):
    """A problem (RFC 8555 §6.7) to be answered."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@dataclass
class SmallAcme:
    """RFC 8555 as far as one order goes; strict about what it is sent, wrong in what it answers where a test asks."""

    http_port: int
    issuer: SmallIssuer = field(default_factory=SmallIssuer)
    base: str = ""
    nonces: set[str] = field(default_factory=set)
    jwks: dict[str, dict[str, str]] = field(default_factory=dict)
    orders: list[dict[str, Any]] = field(default_factory=list)
    posts: list[str] = field(default_factory=list)
    eab_key: bytes | None = None
    bad_nonces: int = 0  # good nonces still to be refused
    bad_nonces_per_order: int = 0  # refused after each newOrder
    slow: bool = False  # validate in the background and say "processing" at finalize
    refuse_orders: bool = False
    refuse_certificates: bool = False
    fetch_token: str | None = None  # fetch this instead of the real token
    names: list[str] | None = None  # certify these instead of the ordered ones
    finalize_host: str | None = None
    authorization_valid: bool = False

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/dir", self.directory)
        application.router.add_route("HEAD", "/nonce", self.new_nonce)
        for path, endpoint in {
            "/account": self.new_account,
            "/order": self.new_order,
            "/order/{n}": self.order,
            "/authorization/{n}": self.authorization,
            "/challenge/{n}": self.challenge,
            "/finalize/{n}": self.finalize,
            "/certificate/{n}": self.certificate,
        }.items():
            application.router.add_post(path, self.signed(endpoint))
        return application

    def fresh_nonce(self) -> str:
        nonce = secrets.token_urlsafe(12)
        self.nonces.add(nonce)
        return nonce

    async def directory(self, _: web.Request) -> web.Response:
        urls = {"newNonce": "/nonce", "newAccount": "/account", "newOrder": "/order"}
        return web.json_response({name: self.base + path for name, path in urls.items()})

    async def new_nonce(self, _: web.Request) -> web.Response:
        return web.Response(headers={"Replay-Nonce": self.fresh_nonce()})

    def signed(
        self, endpoint: Callable[[dict[str, Any], int, Any], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            self.posts.append(request.path.split("/")[1])
            try:
                header, payload = self.verify(request, json.loads(await request.text()))
                response = await endpoint(header, int(request.match_info.get("n", 0)), payload)
            except RefusedError as refusal:
                problem = {"type": f"urn:ietf:params:acme:error:{refusal.kind}", "detail": str(refusal)}
                response = web.json_response(problem, status=400, content_type="application/problem+json")
            response.headers["Replay-Nonce"] = self.fresh_nonce()
            return response

        return answer

    def verify(self, request: web.Request, envelope: dict[str, str]) -> tuple[dict[str, Any], Any]:
        if request.headers["Content-Type"] != "application/jose+json" or "User-Agent" not in request.headers:
            raise RefusedError("malformed", "headers")
        header = json.loads(decode_base64url(envelope["protected"]))
        if (
            header["url"] != self.base + request.path
            or header["alg"] != "ES256"
            or ("jwk" in header) == ("kid" in header)
        ):
            raise RefusedError("malformed", f"protected header {header}")
        jwk = header["jwk"] if "jwk" in header else self.jwks[header["kid"]]
        x, y = (int.from_bytes(decode_base64url(jwk[member])) for member in "xy")
        signature = decode_base64url(envelope["signature"])
        assert len(signature) == 64, "RFC 7518 §3.4"
        try:
            ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key().verify(
                encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:])),
                f"{envelope['protected']}.{envelope['payload']}".encode(),
                ec.ECDSA(hashes.SHA256()),
            )
        except InvalidSignature:
            raise RefusedError("malformed", "signature") from None
        if header["nonce"] not in self.nonces or self.bad_nonces:
            self.bad_nonces = max(0, self.bad_nonces - 1)
            raise RefusedError("badNonce", "try again")
        self.nonces.discard(header["nonce"])
        payload = decode_base64url(envelope["payload"])
        return header, json.loads(payload) if payload else None

    async def new_account(self, header: dict[str, Any], _: int, payload: Any) -> web.Response:
        assert payload["termsOfServiceAgreed"] is True
        if self.eab_key is not None:
            binding = payload["externalAccountBinding"]
            mac = hmac.HMAC(self.eab_key, hashes.SHA256())
            mac.update(f"{binding['protected']}.{binding['payload']}".encode())
            mac.verify(decode_base64url(binding["signature"]))
            inner = json.loads(decode_base64url(binding["protected"]))
            assert inner == {"alg": "HS256", "kid": "bench", "url": header["url"]}, "§7.3.4"
            assert json.loads(decode_base64url(binding["payload"])) == header["jwk"], "§7.3.4"
        kid = f"{self.base}/account/{len(self.jwks)}"
        self.jwks[kid] = header["jwk"]
        return web.json_response({"status": "valid"}, status=201, headers={"Location": kid})

    async def new_order(self, header: dict[str, Any], _: int, payload: Any) -> web.Response:
        if self.refuse_orders:
            raise RefusedError("rateLimited", "not\x1b[31m today")
        self.bad_nonces = self.bad_nonces_per_order
        number = len(self.orders)
        status = "valid" if self.authorization_valid else "pending"
        self.orders.append(
            {
                "names": [identifier["value"] for identifier in payload["identifiers"]],
                "kid": header["kid"],
                "payload": payload,
                "token": secrets.token_urlsafe(16),
                "authorization": status,
                "polls": 0,
            }
        )
        body = {
            "status": "pending",
            "authorizations": [f"{self.base}/authorization/{number}"],
            "finalize": f"{self.finalize_host or self.base}/finalize/{number}",
        }
        return web.json_response(body, status=201, headers={"Location": f"{self.base}/order/{number}"})

    async def authorization(self, _: dict[str, Any], number: int, payload: Any) -> web.Response:
        assert payload is None, "§6.3: POST-as-GET has a zero-length payload"
        order = self.orders[number]
        if order["authorization"] == "processing":
            order["polls"] += 1
            if order["polls"] == 2:
                order["authorization"] = await self.validate(order)
        status = "pending" if order["authorization"] == "processing" else order["authorization"]
        body = {
            "status": status,
            "challenges": [
                {"type": "dns-01", "url": f"{self.base}/none", "status": "pending", "token": "x"},
                {
                    "type": "http-01",
                    "url": f"{self.base}/challenge/{number}",
                    "status": status,
                    "token": order["token"],
                },
            ],
        }
        return web.json_response(body, headers={"Retry-After": "0"})

    async def challenge(self, _: dict[str, Any], number: int, payload: Any) -> web.Response:
        assert payload == {}, "§7.5.1"
        order = self.orders[number]
        order["authorization"] = "processing" if self.slow else await self.validate(order)
        headers = {"Retry-After": "3600"} if self.slow else None
        return web.json_response({"type": "http-01", "status": order["authorization"]}, headers=headers)

    async def validate(self, order: dict[str, Any]) -> str:
        token = self.fetch_token or order["token"]
        url = f"http://127.0.0.1:{self.http_port}/.well-known/acme-challenge/{token}"
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, headers={"Host": order["names"][0]}) as response,
        ):
            body = await response.read()
        members = {name: self.jwks[order["kid"]][name] for name in ("crv", "kty", "x", "y")}
        digest = hashes.Hash(hashes.SHA256())
        digest.update(json.dumps(members, separators=(",", ":"), sort_keys=True).encode())
        thumbprint = base64.urlsafe_b64encode(digest.finalize()).rstrip(b"=").decode()
        return "valid" if response.status == 200 and body == f"{order['token']}.{thumbprint}".encode() else "invalid"

    async def finalize(self, _: dict[str, Any], number: int, payload: Any) -> web.Response:
        order = self.orders[number]
        if order["authorization"] != "valid":
            raise RefusedError("orderNotReady", "no")
        csr = x509.load_der_x509_csr(decode_base64url(payload["csr"]))
        assert csr.is_signature_valid
        san = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert san.get_values_for_type(x509.DNSName) == order["names"], "§7.4"
        order["leaf"] = self.issuer.sign_names(csr.public_key(), self.names or order["names"])
        order["processing"] = 2 if self.slow else 0
        return self.render_order(number)

    async def order(self, _: dict[str, Any], number: int, payload: Any) -> web.Response:
        assert payload is None
        self.orders[number]["processing"] -= 1
        return self.render_order(number)

    def render_order(self, number: int) -> web.Response:
        if self.orders[number]["processing"]:
            return web.json_response({"status": "processing"}, headers={"Retry-After": "1"})
        return web.json_response({"status": "valid", "certificate": f"{self.base}/certificate/{number}"})

    async def certificate(self, _: dict[str, Any], number: int, payload: Any) -> web.Response:
        assert payload is None
        if self.refuse_certificates:
            raise RefusedError("serverInternal", "lost")
        chain = chain_of(self.orders[number]["leaf"], self.issuer.certificate)
        return web.Response(text=chain, content_type="application/pem-certificate-chain")


@pytest.fixture
def http_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
async def small_acme(http_port: int) -> AsyncIterator[SmallAcme]:
    small = SmallAcme(http_port)
    async with TestServer(small.application()) as server:
        small.base = str(server.make_url("")).rstrip("/")
        yield small


@pytest.fixture
def acme_settings(small_acme: SmallAcme) -> acme.Settings:
    return acme.Settings(
        directory=f"{small_acme.base}/dir",
        http_port=small_acme.http_port,
        http_addresses=("127.0.0.1",),
        orders=4,
        warm_up=1,
        polling=_acme_client.Polling(interval=0.001, max_retry_after=0.001),
    )


# --- acme: the flow --------------------------------------------------------------------------------------------------


async def test_an_order_is_driven_whole(small_acme: SmallAcme, acme_settings: acme.Settings) -> None:
    """newOrder, each authorization, its challenge, a poll, finalize, the certificate: six requests when nothing waits."""
    report = await acme.run(replace(acme_settings, clients=2, server_pids=(os.getpid(),)))
    assert (report["valid_orders"], report["failures"], report["bad_nonces"]) == (4, {}, 0)
    counts = {name: figures["count"] for name, figures in report["requests"].items()}
    order = ("newOrder", "authorization", "challenge", "authorization poll", "finalize", "certificate")
    assert {name: counts[name] for name in order} == dict.fromkeys(order, 4)
    assert "order poll" not in counts
    assert "set-up" not in counts
    assert report["validation_fetches_per_order"] == 1
    assert report["order"]["count"] == 4
    assert len(small_acme.orders) == 5, "one of them warmed up"
    assert len({name for placed in small_acme.orders for name in placed["names"]}) == 5
    assert len(small_acme.jwks) == 1
    assert report["server"]["processes"] >= 1
    assert report["server"]["peak_rss_mib"] > 1


async def test_a_slow_server_is_polled_and_retry_after_is_capped(
    small_acme: SmallAcme, acme_settings: acme.Settings
) -> None:
    """§7.5.1, §7.4: "clients SHOULD … poll"; a Retry-After of an hour is cut to the cap, or this test would not end."""
    small_acme.slow = True
    report = await acme.run(replace(acme_settings, orders=2, warm_up=0))
    counts = {name: figures["count"] for name, figures in report["requests"].items()}
    assert (report["valid_orders"], report["failures"]) == (2, {})
    assert (counts["authorization poll"], counts["order poll"]) == (4, 4)
    assert report["waited_ms_per_order"] > 0


@pytest.mark.parametrize(
    ("retry_after", "cap", "expected"),
    [
        ("3", 5.0, 3.0),
        ("3600", 5.0, 5.0),
        ("0", 5.0, 0.0),
        ("3", 0.0, 0.5),
        (None, 5.0, 0.5),
        ("-1", 5.0, 0.5),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 5.0, 0.5),
        ("\u0661", 5.0, 0.5),
    ],
)
def test_retry_after(retry_after: str | None, cap: float, expected: float) -> None:
    assert _acme_client.Polling(interval=0.5, max_retry_after=cap).wait_seconds(retry_after) == expected


async def test_bad_nonce_is_tried_again(small_acme: SmallAcme, acme_settings: acme.Settings) -> None:
    """§6.5: "a client SHOULD retry the request with the new nonce"."""
    small_acme.bad_nonces_per_order = 2
    report = await acme.run(replace(acme_settings, warm_up=0))
    assert (report["valid_orders"], report["failures"], report["bad_nonces"]) == (4, {}, 8)


async def test_a_nonce_that_is_never_good_ends_the_run(small_acme: SmallAcme, acme_settings: acme.Settings) -> None:
    small_acme.bad_nonces = 1_000_000
    with pytest.raises(_measure.BenchmarkError, match="badNonce"):
        await acme.run(acme_settings)
    assert len(small_acme.posts) == _acme_client.NONCE_ATTEMPTS


async def test_valid_authorizations_are_not_answered_again(small_acme: SmallAcme, acme_settings: acme.Settings) -> None:
    small_acme.authorization_valid = True
    report = await acme.run(acme_settings)
    assert report["valid_orders"] == 4
    assert "challenge" not in report["requests"]


async def test_load_is_shaped_by_the_settings(small_acme: SmallAcme, acme_settings: acme.Settings) -> None:
    """An account for each client, several names an order from a small set, a profile, RSA keys."""
    await acme.run(
        replace(
            acme_settings,
            clients=3,
            account_per_client=True,
            identifiers=2,
            distinct=4,
            profile="short",
            key_type="rsa",
            name_template="x{n:03}.localhost",
            warm_up=0,
        )
    )
    assert len(small_acme.jwks) == 3
    assert [placed["names"] for placed in small_acme.orders] == [
        ["x000.localhost", "x001.localhost"],
        ["x002.localhost", "x003.localhost"],
    ] * 2
    assert {placed["payload"]["profile"] for placed in small_acme.orders} == {"short"}


async def test_external_account_binding(small_acme: SmallAcme, acme_settings: acme.Settings) -> None:
    """§7.3.4: the inner JWS is verified by the server in this file."""
    small_acme.eab_key = secrets.token_bytes(32)
    account = _acme_client.ExternalAccount(kid="bench", mac_key=small_acme.eab_key)
    assert repr(small_acme.eab_key) not in repr(account)
    report = await acme.run(replace(acme_settings, external_account=account))
    assert report["valid_orders"] == 4


async def test_seconds_bound_the_run(acme_settings: acme.Settings) -> None:
    report = await acme.run(replace(acme_settings, orders=None, seconds=0.3))
    assert report["valid_orders"] >= 1
    assert report["failures"] == {}


# --- acme: what goes wrong is noticed --------------------------------------------------------------------------------


async def test_a_wrong_certificate_is_a_failure(small_acme: SmallAcme, acme_settings: acme.Settings) -> None:
    small_acme.names = ["other.localhost"]
    report = await acme.run(acme_settings)
    assert report["failures"]["bad certificate"]["count"] == 4
    assert "other.localhost" in report["failures"]["bad certificate"]["first_detail"]


async def test_refusals_are_counted_by_kind_and_end_the_run(
    small_acme: SmallAcme, acme_settings: acme.Settings
) -> None:
    """A broken server is not hammered: the run ends after a number of failures in a row; details come out escaped."""
    small_acme.refuse_orders = True
    report = await acme.run(replace(acme_settings, orders=10_000, warm_up=0))
    failure = report["failures"]["newOrder: rateLimited"]
    assert failure == {"count": acme.FAILURES_IN_A_ROW, "first_detail": "not\\x1b[31m today"}
    assert report["valid_orders"] == 0


async def test_a_failed_validation_is_a_failure(small_acme: SmallAcme, acme_settings: acme.Settings) -> None:
    """The responder holds no other token, so the server finds none and calls the authorization invalid."""
    small_acme.fetch_token = "another"
    report = await acme.run(replace(acme_settings, warm_up=0))
    assert report["failures"]["authorization not valid"]["count"] == 4
    assert report["valid_orders"] == 0


async def test_an_order_that_takes_too_long_is_given_up(small_acme: SmallAcme, acme_settings: acme.Settings) -> None:
    small_acme.slow = True
    polling = _acme_client.Polling(interval=30, max_retry_after=3600)
    report = await acme.run(replace(acme_settings, orders=1, warm_up=0, order_timeout=0.2, polling=polling))
    assert report["failures"]["order timed out"]["count"] == 1


async def test_a_warm_up_without_success_stops(small_acme: SmallAcme, acme_settings: acme.Settings) -> None:
    small_acme.refuse_certificates = True
    with pytest.raises(_measure.BenchmarkError, match="serverInternal: lost"):
        await acme.run(acme_settings)


async def test_a_url_on_another_server_is_not_followed(small_acme: SmallAcme, acme_settings: acme.Settings) -> None:
    small_acme.finalize_host = "http://192.0.2.1"
    report = await acme.run(replace(acme_settings, orders=1, warm_up=0))
    assert report["failures"]["strange URL"]["count"] == 1


async def test_a_directory_that_points_away_from_loopback_is_refused(acme_settings: acme.Settings) -> None:
    async def directory(_: web.Request) -> web.Response:
        return web.json_response(dict.fromkeys(("newNonce", "newAccount", "newOrder"), "http://192.0.2.1/x"))

    application = web.Application()
    application.router.add_get("/dir", directory)
    async with TestServer(application) as server:
        with pytest.raises(_measure.BenchmarkError, match="not loopback"):
            await acme.run(replace(acme_settings, directory=str(server.make_url("/dir"))))


async def test_no_server_is_one_line(acme_settings: acme.Settings, http_port: int) -> None:
    with pytest.raises(_measure.BenchmarkError, match=r"[Cc]onnect"):
        await acme.run(replace(acme_settings, directory=f"http://127.0.0.1:{http_port}/dir", responder=False))


async def test_a_taken_http_port_is_one_line(acme_settings: acme.Settings) -> None:
    with (
        socket.create_server(("127.0.0.1", acme_settings.http_port)),
        pytest.raises(_measure.BenchmarkError, match="cannot listen"),
    ):
        await acme.run(acme_settings)


def test_certificates_are_compared_with_the_order() -> None:
    """Names, key, dates, chain, anchor: each alone is found."""
    issuer, stranger = SmallIssuer(), SmallIssuer()
    key, other_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    plan = _acme_client.build_plan(("a.localhost", "b.localhost"), key, profile=None)
    names = ["b.localhost", "a.localhost"]
    good = issuer.sign_names(key.public_key(), names)

    def lint(*chain: x509.Certificate, issuers: tuple[x509.Certificate, ...] = ()) -> str:
        return " ".join(_acme_client.lint_certificate(plan, chain_of(*chain), issuers=issuers, now=NOW))

    assert lint(good, issuer.certificate) == ""
    assert lint(good, issuer.certificate, issuers=(issuer.certificate,)) == ""
    assert lint(good, issuers=(issuer.certificate,)) == ""
    assert "leaf alone" in lint(good)
    assert "does not lead" in lint(good, issuer.certificate, issuers=(stranger.certificate,))
    assert "not signed by the next" in lint(good, stranger.certificate)
    assert "another key" in lint(issuer.sign_names(other_key.public_key(), names), issuer.certificate)
    assert "names" in lint(issuer.sign_names(key.public_key(), names[:1]), issuer.certificate)
    expired = issuer.sign_names(key.public_key(), names, lifetime=timedelta(hours=-1))
    assert "valid from" in lint(expired, issuer.certificate)
    assert "does not parse" in lint(issuer.certificate)
    assert "does not parse" in " ".join(_acme_client.lint_certificate(plan, "junk", issuers=(), now=NOW))


@pytest.mark.parametrize(
    "head",
    [
        b"GET /.well-known/acme-challenge/other HTTP/1.1\r\n\r\n",
        b"POST /.well-known/acme-challenge/token HTTP/1.1\r\n\r\n",
        b"GET /token HTTP/1.1\r\n\r\n",
        b"GET\r\n\r\n",
        b"\r\n\r\n",
    ],
)
def test_the_responder_answers_tokens_only(head: bytes) -> None:
    board = _acme_client.ChallengeBoard()
    board.key_authorizations[b"token"] = b"token.thumbprint"
    assert board.answer(head).startswith(b"HTTP/1.1 404 ")
    assert board.fetches == 0
    good = board.answer(b"GET /.well-known/acme-challenge/token HTTP/1.1\r\nHost: x\r\n\r\n")
    assert good.startswith(b"HTTP/1.1 200 ")
    assert good.endswith(b"\r\n\r\ntoken.thumbprint")


# --- acme: the command line ------------------------------------------------------------------------------------------


async def test_the_acme_program(small_acme: SmallAcme, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints a table and how each figure was measured, writes JSON, and exits 0, 1 or 2."""
    report_path = tmp_path / "report.json"
    arguments = ["--directory", f"{small_acme.base}/dir", "--http-port", str(small_acme.http_port)]
    arguments += ["--http-address", "127.0.0.1", "--orders", "3", "--clients", "2", "--json", str(report_path)]
    arguments += ["--server-pid", str(os.getpid()), "--warmup", "1"]
    assert await asyncio.to_thread(acme.main, arguments) == 0
    text = capsys.readouterr().out
    for word in ("orders/s", "p50 ms", "p95 ms", "p99 ms", "ms CPU an order", "how it was measured", "newOrder"):
        assert word in text
    report = json.loads(report_path.read_text())
    assert report["valid_orders"] == 3
    assert report["environment"]["cores"] == os.cpu_count()

    small_acme.names = ["other.localhost"]
    assert await asyncio.to_thread(acme.main, arguments) == 1
    assert "bad certificate" in capsys.readouterr().out
    small_acme.refuse_orders = True
    assert await asyncio.to_thread(acme.main, arguments) == 2
    assert "warm-up" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--orders", "0"],
        ["--orders", "1", "--seconds", "1"],
        ["--seconds", "-1"],
        ["--seconds", "0"],
        ["--seconds", "nan"],
        ["--http-port", "0"],
        ["--clients", "x"],
        ["--name-template", "same.localhost"],
        ["--name-template", "{other}.localhost"],
        ["--name-template", "{n"],
        ["--eab-kid", "k"],
        ["--eab-kid", "k", "--eab-key-file", "/nonexistent"],
        ["--identifiers", "3", "--distinct", "2"],
        ["--key-type", "dsa"],
    ],
)
def test_wrong_acme_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    directory = ["--directory", "http://localhost/dir"] if arguments else []
    with pytest.raises(SystemExit) as ended:
        acme.parse_settings([*directory, *arguments])
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_eab_keys_are_read_from_a_file(tmp_path: Path) -> None:
    """CLIENTS 16: keys are printed as base64url without padding; padding is no harm."""
    secret = bytes(range(240, 251))
    for text in ("8PHy8_T19vf4-fo", "8PHy8_T19vf4-fo=\n"):
        (tmp_path / "key").write_text(text)
        parsed = acme.parse_settings(
            ["--directory", "http://localhost/", "--eab-kid", "k", "--eab-key-file", str(tmp_path / "key")]
        )
        assert parsed.external_account == _acme_client.ExternalAccount(kid="k", mac_key=secret)
    with pytest.raises(ValueError, match=r"base64|character"):
        _acme_client.parse_mac_key("not base64!")


@pytest.mark.parametrize("program", [acme, ocsp])
def test_help_teaches(program: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.parse_settings(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for word in ("Measure", "examples:", "limits:", "exit status:", "--server-pid", "--i-own-this-server"):
        assert word in text


# --- compare ---------------------------------------------------------------------------------------------------------


async def test_two_servers_are_compared_in_alternating_rounds(
    small_acme: SmallAcme, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, stopped = [], []

    @contextmanager
    def contender(folder: Path) -> Iterator[_servers.Server]:
        started.append(folder)
        yield _servers.Server(
            pid=os.getpid(),
            directory=f"{small_acme.base}/dir",
            ca_bundle=folder,
            http_port=small_acme.http_port,
            http_addresses=("127.0.0.1",),
        )
        stopped.append(folder)

    monkeypatch.setattr(_servers, "CONTENDERS", {"acmeca": contender, "small": contender})
    settings = compare.Settings(peer="small", clients=(1, 2), rounds=2, orders=20)
    report = await compare.run(settings)
    assert len(started) == len(set(started)) == 2  # each has a folder of its own
    assert sorted(stopped) == sorted(started)
    assert [(row["clients"], row["round"]) for row in report["rounds"]] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert all(row["subject_ms"] > 0 and row["peer_ms"] > 0 for row in report["rounds"])
    text = compare.format_report(report)
    for word in ("acmeca against small", "20 orders a round", "median", "ratio"):
        assert word in text

    small_acme.refuse_certificates = True
    with pytest.raises(_measure.BenchmarkError):
        await compare.run(settings)


def test_the_figure_of_a_comparison_is_the_median_ratio() -> None:
    settings = compare.Settings(clients=(4,), rounds=3)
    rows = [compare.row(4, number, *figures) for number, figures in enumerate([(4.0, 4.0), (9.0, 6.0), (4.0, 5.0)], 1)]
    assert [row["ratio"] for row in rows] == [1.0, 1.5, 0.8]
    assert compare.build_report(settings, rows)["medians"] == [
        {"clients": 4, "subject_ms": 4.0, "peer_ms": 5.0, "ratio": 1.0}
    ]


def test_the_command_line_of_a_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--peer", "acmeca@/tmp", "--clients", "1,8", "--rounds", "2", "--orders", "9", "--json", "x.json"]
    assert compare.parse_settings(arguments) == compare.Settings(
        peer="acmeca@/tmp", clients=(1, 8), rounds=2, orders=9, json_path=Path("x.json")
    )
    for wrong in ("0", "", "1,x"):
        with pytest.raises(SystemExit):
            compare.parse_settings(["--clients", wrong])
    capsys.readouterr()
    assert compare.main(["--peer", "none"]) == 2
    assert "acmeca@DIRECTORY" in capsys.readouterr().err


def test_a_contender_is_a_name_or_a_checkout(tmp_path: Path) -> None:
    assert _servers.find_contender("pebble") is _servers.pebble
    assert callable(_servers.find_contender(f"acmeca@{BENCHMARKS.parent}"))
    for name in ("none", f"acmeca@{tmp_path}", f"pebble@{BENCHMARKS.parent}"):
        with pytest.raises(_measure.BenchmarkError, match="acmeca@DIRECTORY"):
            _servers.find_contender(name)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", "raise SystemExit('no such thing')"]
    with (
        pytest.raises(_measure.BenchmarkError, match="no such thing"),
        _servers.running(command, log=log, cwd=tmp_path, ready="http://127.0.0.1:1/"),
    ):
        pass
    with (
        pytest.raises(_measure.BenchmarkError, match="cannot be started"),
        _servers.running([str(log / "none")], log=log, cwd=tmp_path),
    ):
        pass


# --- a small OCSP responder ------------------------------------------------------------------------------------------


@dataclass
class SmallOcsp:
    """Answers "good" by GET and POST, or what a test asks for."""

    issuer: SmallIssuer = field(default_factory=SmallIssuer)
    signer: SmallIssuer | None = None
    close: bool = False
    spoil: str = ""
    requests: list[str] = field(default_factory=list)
    nonces: list[bytes] = field(default_factory=list)

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/ocsp/{encoded:.*}", self.answer)
        application.router.add_post("/ocsp", self.answer)
        return application

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(request.method)
        if request.method == "GET":
            asked_der = base64.b64decode(request.match_info["encoded"], validate=True)
        else:
            assert request.content_type == "application/ocsp-request", "RFC 6960 §A.1"
            asked_der = await request.read()
        if self.spoil == "silent":
            await asyncio.Event().wait()
        if self.spoil == "status":
            return web.Response(status=503, text="busy")
        content_type = "text/plain" if self.spoil == "type" else "application/ocsp-response"
        response = web.Response(body=self.sign_answer(asked_der), content_type=content_type)
        if self.close:
            response.force_close()
        return response

    def sign_answer(self, asked_der: bytes) -> bytes:
        if self.spoil == "later":
            later = x509_ocsp.OCSPResponseBuilder.build_unsuccessful(x509_ocsp.OCSPResponseStatus.TRY_LATER)
            return later.public_bytes(DER)
        if self.spoil == "junk":
            return b"<html>"
        asked = x509_ocsp.load_der_ocsp_request(asked_der)
        serial = asked.serial_number + (1 if self.spoil == "serial" else 0)
        age = timedelta(days=-2) if self.spoil == "stale" else timedelta(0)
        builder = x509_ocsp.OCSPResponseBuilder().add_response_by_hash(
            asked.issuer_name_hash,
            asked.issuer_key_hash,
            serial,
            asked.hash_algorithm,
            x509_ocsp.OCSPCertStatus.GOOD,
            NOW - timedelta(minutes=1) + age,
            NOW + timedelta(hours=1) + age,
            None,
            None,
        )
        for extension in asked.extensions:
            if isinstance(extension.value, x509.OCSPNonce):
                self.nonces.append(extension.value.nonce)
                nonce = b"another" if self.spoil == "nonce" else extension.value.nonce
                builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
        signer = self.signer or self.issuer
        return (
            builder.responder_id(x509_ocsp.OCSPResponderEncoding.HASH, signer.certificate)
            .certificates([signer.certificate])
            .sign(signer.key, hashes.SHA256())
            .public_bytes(DER)
        )


@pytest.fixture
async def small_ocsp() -> AsyncIterator[tuple[SmallOcsp, str]]:
    small = SmallOcsp()
    async with TestServer(small.application()) as server:
        yield small, str(server.make_url("/ocsp"))


@pytest.fixture
def ocsp_settings(small_ocsp: tuple[SmallOcsp, str], tmp_path: Path) -> ocsp.Settings:
    small, url = small_ocsp
    (tmp_path / "issuer.pem").write_bytes(small.issuer.certificate.public_bytes(PEM))
    (tmp_path / "serials").write_text("# three\n0x7f\n00:80\nFFFFFFFFFFFFFFFFFFFF # one of ten octets\n7F\n")
    return ocsp.Settings(
        url=url,
        issuer=tmp_path / "issuer.pem",
        serials=tmp_path / "serials",
        requests=12,
        warm_up=2,
        check_every=1,
        timeout=2.0,
    )


# --- ocsp: the load --------------------------------------------------------------------------------------------------


async def test_requests_by_get_and_post(small_ocsp: tuple[SmallOcsp, str], ocsp_settings: ocsp.Settings) -> None:
    """RFC 6960 §A.1: both ways; every answer good, every one verified, one connection kept."""
    report = await ocsp.run(replace(ocsp_settings, method="both", server_pids=(os.getpid(),)))
    assert (report["good_answers"], report["failures"]) == (12, {})
    assert {method: figures["count"] for method, figures in report["methods"].items()} == {"GET": 6, "POST": 6}
    assert (report["verified_answers"], report["statuses_of_verified"]) == (12, {"good": 12})
    assert report["connections"] == 1
    assert report["octets_per_answer"] > report["body_octets_per_answer"] > 100
    assert report["server"]["peak_rss_mib"] > 1


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("hash_name", ["sha1", "sha256"])
async def test_nonces_are_fresh(
    small_ocsp: tuple[SmallOcsp, str], ocsp_settings: ocsp.Settings, method: str, hash_name: str
) -> None:
    """RFC 9654 §2.1: a nonce of 32 octets, another in each request, and the request still parses."""
    small, _ = small_ocsp
    report = await ocsp.run(
        replace(ocsp_settings, method=method, nonce=True, hash_name=hash_name, requests=5, warm_up=0)
    )
    assert (report["good_answers"], report["failures"], report["nonces_echoed"]) == (5, {}, 5)
    assert {len(nonce) for nonce in small.nonces} == {32}
    assert len(set(small.nonces)) == len(small.nonces)


async def test_several_connections_and_closing_servers(
    small_ocsp: tuple[SmallOcsp, str], ocsp_settings: ocsp.Settings
) -> None:
    """A server that closes after each answer is connected to again, never without a request to send."""
    small, _ = small_ocsp
    report = await ocsp.run(replace(ocsp_settings, clients=3))
    assert (report["good_answers"], report["connections"]) == (12, 3)
    small.close = True
    small.requests.clear()
    report = await ocsp.run(replace(ocsp_settings, clients=3, warm_up=0))
    assert (report["good_answers"], report["failures"], report["connections"]) == (12, {}, 12)
    assert len(small.requests) == 13, "and the first that finds the address"


async def test_ocsp_seconds_bound_the_run(ocsp_settings: ocsp.Settings) -> None:
    report = await ocsp.run(replace(ocsp_settings, requests=None, seconds=0.2, distinct=1))
    assert report["good_answers"] >= 1
    assert report["failures"] == {}
    assert report["load"]["distinct_requests"] == 1


# --- ocsp: what goes wrong is noticed --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        ("status", "HTTP 503"),
        ("type", "content type"),
        ("later", "OCSP tryLater"),
        ("junk", "no OCSP response"),
        ("serial", "another serial"),
    ],
)
async def test_bad_answers_are_counted(
    small_ocsp: tuple[SmallOcsp, str], ocsp_settings: ocsp.Settings, spoil: str, kind: str
) -> None:
    small_ocsp[0].spoil = spoil
    report = await ocsp.run(replace(ocsp_settings, warm_up=0))
    assert report["failures"][kind]["count"] == 12
    assert report["good_answers"] == 0
    with pytest.raises(_measure.BenchmarkError, match="warm-up"):
        await ocsp.run(ocsp_settings)


async def test_failures_in_a_row_end_an_ocsp_run(
    small_ocsp: tuple[SmallOcsp, str], ocsp_settings: ocsp.Settings
) -> None:
    small_ocsp[0].spoil = "status"
    report = await ocsp.run(replace(ocsp_settings, warm_up=0, requests=10_000))
    assert report["failures"]["HTTP 503"]["count"] == ocsp.FAILURES_IN_A_ROW


@pytest.mark.parametrize(
    ("spoil", "finding"), [("stale", "valid from"), ("nonce", "nonce is not"), ("signer", "neither the issuer")]
)
async def test_verified_answers_are_verified(
    small_ocsp: tuple[SmallOcsp, str], ocsp_settings: ocsp.Settings, spoil: str, finding: str
) -> None:
    small, _ = small_ocsp
    small.spoil = spoil
    small.signer = SmallIssuer() if spoil == "signer" else None
    report = await ocsp.run(replace(ocsp_settings, nonce=True))
    assert report["failures"]["bad answer"]["count"] == 12
    assert finding in report["failures"]["bad answer"]["first_detail"]


@pytest.mark.parametrize(("usage", "failures"), [("OCSP_SIGNING", set()), ("SERVER_AUTH", {"bad answer"})])
async def test_a_delegated_responder_needs_the_key_usage(
    small_ocsp: tuple[SmallOcsp, str], ocsp_settings: ocsp.Settings, usage: str, failures: set[str]
) -> None:
    """RFC 6960 §4.2.2.2: delegation is "id-kp-OCSPSigning in an extended key usage" of a certificate by the same CA."""
    small, _ = small_ocsp
    delegate = SmallIssuer("Responder")
    purposes = x509.ExtendedKeyUsage([getattr(ExtendedKeyUsageOID, usage)])
    delegate.certificate = small.issuer.sign_certificate(
        delegate.key.public_key(), subject=delegate.subject, extensions=[purposes]
    )
    small.signer = delegate
    report = await ocsp.run(ocsp_settings)
    assert set(report["failures"]) == failures


async def test_a_silent_server_is_given_up(small_ocsp: tuple[SmallOcsp, str], ocsp_settings: ocsp.Settings) -> None:
    small_ocsp[0].spoil = "silent"
    with pytest.raises(_measure.BenchmarkError, match="does not answer"):
        await ocsp.run(replace(ocsp_settings, timeout=0.2))
    target = _ocsp_client.Target.parse(ocsp_settings.url)
    queries = ocsp.read_queries(ocsp_settings, target, small_ocsp[0].issuer.certificate)
    load = ocsp.Load(replace(ocsp_settings, timeout=0.2), queries, requests=2, seconds=None)
    record = await load.run(target)
    assert record.failures.as_json()["timed out"]["count"] == 2


async def test_a_server_that_hangs_up_is_a_failure(ocsp_settings: ocsp.Settings) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        report = await ocsp.run(replace(ocsp_settings, url=url, warm_up=0, requests=3))
    assert report["failures"]["connection lost"]["count"] == 3


# --- ocsp: requests and responses ------------------------------------------------------------------------------------


def test_get_is_the_percent_encoded_base64() -> None:
    """RFC 6960 §A.1: "GET {url}/{url-encoding of base-64 encoding of the DER encoding of the OCSPRequest}"."""
    target = _ocsp_client.Target.parse("http://localhost:8080/ocsp/x/")
    wire = target.build_wire("GET", b"\xfb\xff\xfe\xff")
    assert wire == b"GET /ocsp/x/%2B%2F%2F%2B%2Fw%3D%3D HTTP/1.1\r\nHost: localhost:8080\r\n\r\n"
    post = _ocsp_client.Target.parse("http://localhost:8080").build_wire("POST", b"abc")
    assert post.startswith(b"POST / HTTP/1.1\r\n")
    assert post.endswith(b"Content-Length: 3\r\n\r\nabc")


@pytest.mark.parametrize("url", ["https://localhost/", "localhost", "ftp://localhost/", ""])
def test_ocsp_is_plain_http(url: str) -> None:
    with pytest.raises(_measure.BenchmarkError):
        _ocsp_client.Target.parse(url)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, (1 << 159) - 1))
def test_serials_are_searched_for_as_they_are_encoded(serial: int) -> None:
    encoded = (
        x509_ocsp.OCSPRequestBuilder().add_certificate_by_hash(b"n" * 20, b"k" * 20, serial, hashes.SHA1()).build()
    )
    assert _ocsp_client.encode_serial(serial) in encoded.public_bytes(DER)


def test_certificates_of_the_issuer_are_found(tmp_path: Path, ocsp_settings: ocsp.Settings) -> None:
    issuer, stranger = SmallIssuer("One"), SmallIssuer("Two")
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    folder = tmp_path / "certificates"
    folder.mkdir()
    ours = [issuer.sign_names(key, ["a.localhost"]) for _ in range(2)]
    (folder / "a.pem").write_text(chain_of(ours[0], issuer.certificate))
    (folder / "b.der").write_bytes(ours[1].public_bytes(DER))
    (folder / "c.crt").write_text(chain_of(stranger.sign_names(key, ["c.localhost"])))
    (folder / "notes.txt").write_text("no certificate")
    found = _ocsp_client.read_certificate_serials(folder, issuer.certificate)
    assert found == [certificate.serial_number for certificate in ours]
    target = _ocsp_client.Target.parse("http://localhost/")
    asked = replace(ocsp_settings, serials=None, certificates=folder, method="both")
    assert len(ocsp.read_queries(asked, target, issuer.certificate)) == 4
    with pytest.raises(_measure.BenchmarkError, match="2 serials of this issuer, 3"):
        ocsp.read_queries(replace(asked, distinct=3), target, issuer.certificate)
    with pytest.raises(_measure.BenchmarkError, match="0 serials"):
        ocsp.read_queries(asked, target, SmallIssuer("Three").certificate)
    (folder / "d.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    with pytest.raises(_measure.BenchmarkError, match=r"d\.pem"):
        ocsp.read_queries(asked, target, issuer.certificate)


@pytest.mark.parametrize("line", ["xyz", "0", "-1", "1" + "0" * 40])
def test_serials_that_are_none(line: str, tmp_path: Path) -> None:
    (tmp_path / "serials").write_text(line)
    with pytest.raises(_measure.BenchmarkError, match="line 1"):
        _ocsp_client.read_serials(tmp_path / "serials")


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/ocsp-response\r\n"
RESPONSES = {
    "length": (OK + b"CONTENT-length: 5\r\n\r\n" + b"abcde", False, True),
    "chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", False, True),
    "closing": (OK + b"Content-Length: 5\r\nConnection: close\r\n\r\nabcde", False, False),
    "http/1.0": (OK.replace(b"1.1", b"1.0") + b"Content-Length: 5\r\n\r\nabcde", False, False),
    "http/1.0 kept": (
        OK.replace(b"1.1", b"1.0") + b"Connection: Keep-Alive\r\nContent-Length: 5\r\n\r\nabcde",
        False,
        True,
    ),
    "until the end": (OK + b"Connection: close\r\n\r\nabcde", True, False),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_responses_are_delimited(name: str) -> None:
    """RFC 9112 §6.3: by length, by chunks, or by the end of the connection; a part is not a response."""
    data, at_eof, keep_alive = RESPONSES[name]
    response = _ocsp_client.parse_response(data, at_eof=at_eof)
    assert response is not None
    assert (response.status, response.body, response.length) == (200, b"abcde", len(data))
    assert (response.content_type, response.keep_alive) == (b"application/ocsp-response", keep_alive)
    for cut in range(len(data)):
        assert _ocsp_client.parse_response(data[:cut], at_eof=False) is None
    if not at_eof:
        followed = _ocsp_client.parse_response(data + b"HTTP/1.1 200", at_eof=False)
        assert followed == response


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        OK + b"Content-Length: -5\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"H" * 70_000,
    ],
)
def test_no_responses(data: bytes) -> None:
    with pytest.raises(_ocsp_client.MalformedResponseError):
        _ocsp_client.parse_response(data, at_eof=False)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=40))
def test_any_octets_have_a_status_or_none(body: bytes) -> None:
    status = _ocsp_client.response_status(body)
    assert status is None or 0 <= status <= 255


@pytest.mark.parametrize("status", list(x509_ocsp.OCSPResponseStatus))
def test_ocsp_response_status(status: x509_ocsp.OCSPResponseStatus) -> None:
    if status is not x509_ocsp.OCSPResponseStatus.SUCCESSFUL:
        body = x509_ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(DER)
        assert _ocsp_client.response_status(body) == status.value


# --- ocsp: the command line ------------------------------------------------------------------------------------------


async def test_the_ocsp_program(
    small_ocsp: tuple[SmallOcsp, str],
    ocsp_settings: ocsp.Settings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report_path = tmp_path / "report.json"
    arguments = ["--url", ocsp_settings.url, "--issuer", str(ocsp_settings.issuer), "--requests", "20"]
    arguments += ["--serials", str(ocsp_settings.serials), "--method", "both", "--json", str(report_path), "--nonce"]
    arguments += ["--server-pid", str(os.getpid()), "--warmup", "1", "--clients", "2", "--check-every", "5"]
    assert await asyncio.to_thread(ocsp.main, arguments) == 0
    text = capsys.readouterr().out
    for word in ("answers/s", "p50 µs", "p99 µs", "µs CPU an answer", "echoed in 20 of 20", "how it was measured"):
        assert word in text
    report = json.loads(report_path.read_text())
    assert (report["good_answers"], report["verified_answers"]) == (20, 4)

    small_ocsp[0].signer = SmallIssuer()
    assert await asyncio.to_thread(ocsp.main, arguments) == 1
    assert "bad answer" in capsys.readouterr().out
    assert await asyncio.to_thread(ocsp.main, [*arguments, "--server-pid", str(2**22 + 1)]) == 2
    assert "not there" in capsys.readouterr().err


# --- measure: percentiles --------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.integers(1, 100))
def test_a_percentile_is_the_smallest_sample_that_enough_are_not_above(samples: list[float], percent: int) -> None:
    ordered = sorted(samples)
    value = _measure.percentile(ordered, percent)
    assert value in ordered
    assert 100 * sum(sample <= value for sample in ordered) >= percent * len(ordered)
    assert 100 * sum(sample < value for sample in ordered) < percent * len(ordered)


def test_percentiles_of_a_hundred() -> None:
    distribution = _measure.summarise(float(n) for n in range(100, 0, -1))
    assert distribution == _measure.Distribution(count=100, mean=50.5, p50=50, p95=95, p99=99, maximum=100)
    assert distribution.scaled(2).p95 == 190
    assert distribution.as_json("ms")["p99_ms"] == 99
    assert _measure.percentile([float(n) for n in range(1, 21)], 95) == 19


def test_no_samples() -> None:
    assert _measure.summarise([]) is None
    for percent in (0, 101, -1):
        with pytest.raises(ValueError, match="percentile"):
            _measure.percentile([1.0], percent)
    with pytest.raises(ValueError, match="no samples"):
        _measure.percentile([], 50)


# --- measure: the process tree ---------------------------------------------------------------------------------------


def write_process(
    proc: Path, pid: int, *, parent: int, cpu: int, reaped: int = 0, started: int = 1, rss: int = 0
) -> None:
    """A /proc/PID as proc(5) describes it, with a command name that tries to look like fields."""
    (proc / str(pid)).mkdir(parents=True, exist_ok=True)
    fields = ["S", str(parent), *["0"] * 9, str(cpu), "0", str(reaped), "0", *["0"] * 4, str(started), "0", "0"]
    (proc / str(pid) / "stat").write_text(f"{pid} (a) R 9 (b) {' '.join(fields)}\n")
    (proc / str(pid) / "status").write_text(f"Name:\tx\nVmHWM:\t{rss} kB\n" if rss else "Name:\tx\n")


def remove_process(proc: Path, pid: int) -> None:
    for name in ("stat", "status"):
        (proc / str(pid) / name).unlink()
    (proc / str(pid)).rmdir()


def ticks(usage: _measure.ProcessUsage) -> int:
    return round(usage.cpu_seconds * os.sysconf("SC_CLK_TCK"))


def test_stat_is_parsed_past_any_command_name(tmp_path: Path) -> None:
    write_process(tmp_path, 7, parent=3, cpu=11, reaped=5, started=99)
    stat = _measure.parse_stat((tmp_path / "7" / "stat").read_text())
    assert stat == _measure.ProcessStat(pid=7, parent_pid=3, started_ticks=99, cpu_ticks=16)


def test_descendants_count_and_strangers_do_not(tmp_path: Path) -> None:
    write_process(tmp_path, 1, parent=0, cpu=1000)
    write_process(tmp_path, 10, parent=1, cpu=5, rss=100)
    write_process(tmp_path, 11, parent=10, cpu=7, rss=200)
    write_process(tmp_path, 12, parent=11, cpu=9)
    (tmp_path / "version").write_text("not a process")
    tree = _measure.ProcessTree([10], proc=tmp_path)
    usage = tree.sample()
    assert (ticks(usage), usage.processes, usage.peak_rss_bytes) == (21, 3, 300 * 1024)


def test_a_reaped_child_is_counted_once(tmp_path: Path) -> None:
    """Its time moves into its parent's cutime, wherever in the tree the parent stands."""
    write_process(tmp_path, 10, parent=1, cpu=5)
    write_process(tmp_path, 11, parent=10, cpu=0)
    write_process(tmp_path, 12, parent=11, cpu=9)
    tree = _measure.ProcessTree([10], proc=tmp_path)
    assert ticks(tree.sample()) == 14
    remove_process(tmp_path, 12)
    remove_process(tmp_path, 11)
    write_process(tmp_path, 10, parent=1, cpu=5, reaped=9)
    usage = tree.sample()
    assert (ticks(usage), usage.processes) == (14, 3)


def test_a_child_that_came_and_went_unseen_is_counted(tmp_path: Path) -> None:
    write_process(tmp_path, 10, parent=1, cpu=5)
    tree = _measure.ProcessTree([10], proc=tmp_path)
    tree.sample()
    write_process(tmp_path, 10, parent=1, cpu=6, reaped=30)
    assert ticks(tree.sample()) == 36


def test_an_orphan_is_followed_and_kept(tmp_path: Path) -> None:
    """A child whose parent has ended belongs to process 1, but its work was the server's."""
    write_process(tmp_path, 10, parent=1, cpu=5)
    write_process(tmp_path, 11, parent=10, cpu=3)
    tree = _measure.ProcessTree([10], proc=tmp_path)
    tree.sample()
    write_process(tmp_path, 11, parent=1, cpu=8)
    assert ticks(tree.sample()) == 13
    remove_process(tmp_path, 11)
    assert ticks(tree.sample()) == 13
    write_process(tmp_path, 11, parent=1, cpu=500, started=77)  # the pid is used again by a stranger
    assert ticks(tree.sample()) == 13


def test_a_server_that_is_gone_is_an_error(tmp_path: Path) -> None:
    write_process(tmp_path, 10, parent=1, cpu=5)
    tree = _measure.ProcessTree([10, 11], proc=tmp_path)
    with pytest.raises(_measure.BenchmarkError, match="11 is not there"):
        tree.sample()


BURN = """
import os, sys, time
def burn():
    while time.process_time() < 0.15:
        pass
sys.stdin.readline()
if (child := os.fork()) == 0:
    burn()
    os._exit(0)
burn()
os.waitpid(child, 0)
print("done", flush=True)
sys.stdin.readline()
"""


async def test_the_kernels_figures_hold_threads_and_children() -> None:
    """A real process burns 0.15 s and so does a child that it forks: 0.3 s less what the clock's ticks round off."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", BURN, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with _measure.running_clock([process.pid]) as clock:
        with pytest.raises(_measure.BenchmarkError, match="still running"):
            _ = clock.window
        process.stdin.write(b"go\n")
        assert await process.stdout.readline() == b"done\n"
    process.stdin.write(b"end\n")
    assert await process.wait() == 0
    assert clock.window.server is not None
    assert clock.window.server.cpu_seconds >= 0.25
    assert clock.window.server.peak_rss_bytes > 1 << 20
    assert clock.window.generator_share >= 0


# --- measure: the loopback rule, failures, tables --------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "https://[::1]:8443/x", "http://localhost:8080", "http://127.9.9.9"]
)
def test_loopback_is_allowed(url: str) -> None:
    _measure.require_loopback(url, i_own_this_server=False)


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1/", "https://[2001:db8::1]/", "http://0.0.0.0/", "http://169.254.169.254/"]
)
def test_others_are_allowed_to_their_owner_only(url: str) -> None:
    with pytest.raises(_measure.BenchmarkError, match="not loopback"):
        _measure.require_loopback(url, i_own_this_server=False)
    _measure.require_loopback(url, i_own_this_server=True)


@pytest.mark.parametrize("url", ["", "localhost", "ftp://localhost/", "http://", "http://[::1/", "http://localhost:x/"])
def test_what_is_no_url_is_refused_even_to_the_owner(url: str) -> None:
    with pytest.raises(_measure.BenchmarkError):
        _measure.require_loopback(url, i_own_this_server=True)


def test_failures_keep_the_first_detail_of_each_kind() -> None:
    failures = _measure.Failures()
    failures.add("rare", "x" * 1000)
    for n in range(3):
        failures.add("often", f"detail {n}\n\x1b[2J")
    assert failures.total == 4
    assert list(failures.as_json()) == ["often", "rare"]
    assert failures.as_json()["often"] == {"count": 3, "first_detail": "detail 0\\n\\x1b[2J"}
    assert len(str(failures.as_json()["rare"]["first_detail"])) == 300
    assert _measure.format_failures(failures.as_json()).splitlines()[0] == "  3 x often: detail 0\\n\\x1b[2J"


def test_a_saturated_generator_says_so() -> None:
    """Rule 5: near a whole core the rate may be the generator's."""
    window = _measure.Window(wall_seconds=10, generator_cpu_seconds=9, server=None)
    assert window.generator_saturated
    assert not replace(window, generator_cpu_seconds=5).generator_saturated
    assert _measure.server_figures(window, done=5) is None
    usage = _measure.ProcessUsage(cpu_seconds=2.0, peak_rss_bytes=3 << 20, processes=2)
    figures = _measure.server_figures(replace(window, server=usage), done=1000)
    assert figures == {
        "cpu_seconds": 2.0,
        "cpu_us_each": 2000.0,
        "cores_used": 0.2,
        "peak_rss_mib": 3.0,
        "processes": 2,
    }


def test_tables_are_aligned() -> None:
    table = _measure.format_table(["", "n"], [["order", "1"], ["x", "100"]])
    assert table.splitlines() == ["           n", "  order    1", "  x      100"]


@pytest.mark.parametrize(
    "path",
    sorted({*BENCHMARKS.glob("*.py")} - {BENCHMARKS / "_storage_fill.py", BENCHMARKS / "commits.py"}),
    ids=lambda path: path.name,
)
def test_a_benchmark_is_an_outside_client(path: Path) -> None:
    """Rule 1 of `_measure`: nothing of acmeca is imported; what fills a database is no client."""
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not [module for module in modules if module.partition(".")[0] == "acmeca"]


# --- commits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
async def test_orders_are_written_with_and_without_sharing(tmp_path: Path, *, shared: bool) -> None:
    figures = await commits.measure(tmp_path, clients=4, seconds=0.2, shared=shared)
    assert figures.rate > 0
    with connect(tmp_path / "acmeca.db") as connection:
        (orders,) = connection.execute("SELECT COUNT(*) FROM orders").fetchone()
        (numbers,) = connection.execute("SELECT MAX(last_commit) FROM writers").fetchone()
    assert orders % commits.WRITES_OF_AN_ORDER == 0
    assert (numbers - 1 == orders) is not shared  # the first commit is the writer's claim


# --- a large database -----------------------------------------------------------------------------------------------


async def test_what_is_filled_in_is_as_if_it_had_been_issued(monkeypatch: pytest.MonkeyPatch) -> None:
    """The filled rows fit together, the audit's chain is whole, and a server works on them."""
    monkeypatch.setattr(_storage_fill, "_REVOKED", 0.2)
    monkeypatch.setattr(_storage_fill, "A_DAY", 1)
    async with ca_site() as site:
        await site.init()
        async with site.running() as ca:
            await (await ca.client()).issue("a.localhost")
        path = site.config.database_path
        _storage_fill.fill(path, certificates=100)
        _storage_fill.fill_pending(path, orders=5)
        with connect(path) as connection:
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        async with site.running() as ca:
            assert await audit.verify(ca.store.database) == []
            found = await ca.opened.administration.call("list", {"name": "*.corp.localhost", "limit": 200}, user="test")
            assert len(found["certificates"]) == 100
            assert {item["status"] for item in found["certificates"]} == {"valid", "revoked", "expired"}
            assert await ca.scalar("SELECT COUNT(*) AS n FROM orders WHERE status = 'pending'") == 5
            assert 30 <= await ca.scalar("SELECT COUNT(*) AS n FROM orders WHERE status = 'valid'") <= 34
            client = await ca.client()
            (await client.revoke((await client.issue("b.localhost")).der)).ok()
            assert await audit.verify(ca.store.database) == []


def test_the_storage_report() -> None:
    report = {
        "certificates": 1000,
        "pending_orders": 10,
        "fill_seconds": 1.0,
        "database_bytes": 5_000_000,
        "bytes_by_table": {"audit": 3_000_000, "crls": 10},
        "bytes_per_certificate": 5000,
        "start_seconds": {"empty": 1.0, "full": 2.0},
        "cpu_ms_per_order": {"empty": [1.0, 2.0, 3.0], "full": [4.0], "ratio": 2.0},
        "new_order_p99_ms": {"empty": [1.0], "pending": [1.0], "ratio": 1.0},
        "load_average": 0.5,
    }
    text = storage.format_report(report)
    assert "audit" in text
    assert "crls" not in text
    assert "2.00 (1.00 to 3.00) ms empty, 4.00 (4.00 to 4.00) ms full: x 2.0" in text
