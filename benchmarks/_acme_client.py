"""The outside ACME client of the benchmark: JWS, http-01 answers, one order by the book, and the check of what came back.

Rule 1: every URL comes from the directory or a response, none is spelt here, and all must lie on the directory's server.
Rule 2: the whole order is driven, nothing skipped that a careful client would do: newOrder, each authorization fetched,
its challenge answered and polled, finalize, the certificate fetched. Retry-After is honoured up to a stated cap.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, TypeAlias, cast

import aiohttp
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from benchmarks import _measure as measure

NONCE_ATTEMPTS: Final = 4  # RFC 8555 §6.5: a client SHOULD retry at badNonce; the server decides how often we must
HEAD_LIMIT: Final = 8192  # octets of an http-01 request that we read
CHALLENGE_PREFIX: Final = b"/.well-known/acme-challenge/"  # §8.3

CertificateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Kind(StrEnum):
    """The kinds of requests that are told apart, in the order in which an order makes them."""

    NEW_NONCE = "newNonce"
    NEW_ORDER = "newOrder"
    AUTHORIZATION = "authorization"
    CHALLENGE = "challenge"
    AUTHORIZATION_POLL = "authorization poll"
    FINALIZE = "finalize"
    ORDER_POLL = "order poll"
    CERTIFICATE = "certificate"
    SET_UP = "set-up"  # directory and newAccount: never inside the clock


class OrderError(Exception):
    """One order failed: what kind of failure, and what the server or the socket said."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


# --- JWS (RFC 7515 flattened JSON, as RFC 8555 §6.2 asks) ------------------------------------------------------------


def base64url(data: bytes) -> str:
    """RFC 8555 §6.1: "trailing '=' characters MUST be stripped"."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _compact_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("utf-8")


class AccountKey:
    """A P-256 account key that signs requests with ES256."""

    def __init__(self) -> None:
        self._private_key = ec.generate_private_key(ec.SECP256R1())
        public = self._private_key.public_key().public_numbers()
        # RFC 7518 §6.2.1.2: the coordinates have the full size of the curve's field, 32 octets.
        self.jwk = {
            "crv": "P-256",
            "kty": "EC",
            "x": base64url(public.x.to_bytes(32, "big")),
            "y": base64url(public.y.to_bytes(32, "big")),
        }
        # RFC 7638 §3: the required members in lexicographic order, without whitespace.
        self.thumbprint = base64url(hashlib.sha256(_compact_json(self.jwk)).digest())
        self._algorithm = ec.ECDSA(hashes.SHA256())

    def sign_jws(self, *, url: str, nonce: str, payload: bytes, kid: str | None) -> bytes:
        """The request body. `payload` is b"" for POST-as-GET (§6.3); without `kid` the key itself is sent (§6.2)."""
        by = {"jwk": self.jwk} if kid is None else {"kid": kid}
        protected = base64url(_compact_json({"alg": "ES256", **by, "nonce": nonce, "url": url}))
        encoded_payload = base64url(payload)
        r, s = decode_dss_signature(
            self._private_key.sign(f"{protected}.{encoded_payload}".encode("ascii"), self._algorithm)
        )
        signature = base64url(r.to_bytes(32, "big") + s.to_bytes(32, "big"))  # RFC 7518 §3.4: r‖s
        return b'{"protected":"%b","payload":"%b","signature":"%b"}' % (
            protected.encode("ascii"),
            encoded_payload.encode("ascii"),
            signature.encode("ascii"),
        )


@dataclass(frozen=True, slots=True)
class ExternalAccount:
    """A credential for external account binding (§7.3.4)."""

    kid: str
    mac_key: bytes = field(repr=False)

    def sign_binding(self, *, url: str, jwk: Mapping[str, str]) -> dict[str, str]:
        """The inner JWS: HS256, `kid` and `url` in its header, no nonce, the account key as its payload."""
        protected = base64url(_compact_json({"alg": "HS256", "kid": self.kid, "url": url}))
        payload = base64url(_compact_json(jwk))
        mac = hmac.digest(self.mac_key, f"{protected}.{payload}".encode("ascii"), "sha256")
        return {"protected": protected, "payload": payload, "signature": base64url(mac)}


def parse_mac_key(text: str) -> bytes:
    """A base64url HMAC key, padded or not, as CAs print them; `ValueError` when it is something else."""
    stripped = text.strip().rstrip("=")
    return base64.b64decode(stripped + "=" * (-len(stripped) % 4), altchars=b"-_", validate=True)


# --- what is ordered -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OrderPlan:
    """One order before it is made: its names, its CSR, and the public key that the certificate must carry."""

    names: tuple[str, ...]
    new_order_payload: bytes
    finalize_payload: bytes
    spki_der: bytes


def build_plan(names: tuple[str, ...], key: CertificateKey, *, profile: str | None) -> OrderPlan:
    """The plan of one order; the CSR has an empty subject and the names as SAN dNSNames (§7.4)."""
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    new_order: dict[str, Any] = {"identifiers": [{"type": "dns", "value": name} for name in names]}
    if profile is not None:
        new_order["profile"] = profile
    return OrderPlan(
        names=names,
        new_order_payload=_compact_json(new_order),
        finalize_payload=_compact_json({"csr": base64url(csr.public_bytes(serialization.Encoding.DER))}),
        spki_der=_spki_der(key.public_key()),
    )


def _spki_der(public_key: Any) -> bytes:
    encoded: bytes = public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def lint_certificate(
    plan: OrderPlan, chain_pem: str, *, issuers: Iterable[x509.Certificate], now: datetime
) -> list[str]:
    """What is wrong with an issued certificate; nothing when it is what was ordered.

    1. The chain parses. 2. The leaf carries exactly the names and 3. the key of the order, and 4. is valid now.
    5. Each certificate is signed by the next (§9.1: "Each following certificate SHOULD directly certify the one preceding
    it"). 6. The last one leads to one of `issuers`, when there are any; a leaf alone needs one.
    """
    # Step 1.
    try:
        chain = x509.load_pem_x509_certificates(chain_pem.encode("ascii"))
        names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        return [f"the chain does not parse: {error}"]
    leaf, last = chain[0], chain[-1]
    findings = []
    # Step 2.
    if sorted(names.get_values_for_type(x509.DNSName)) != sorted(plan.names) or len(names) != len(plan.names):
        findings.append(f"ordered {plan.names}, the certificate names {list(names)}")
    # Step 3.
    if _spki_der(leaf.public_key()) != plan.spki_der:
        findings.append("the certificate has another key than the CSR")
    # Step 4.
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        findings.append(f"valid from {leaf.not_valid_before_utc} to {leaf.not_valid_after_utc}")
    # Step 5.
    findings.extend(
        f"{certificate.subject.rfc4514_string()!r} is not signed by the next in the chain"
        for certificate, issuer in itertools.pairwise(chain)
        if not _issued_by(certificate, issuer)
    )
    # Step 6.
    anchors = list(issuers)
    if anchors and not any(last == anchor or _issued_by(last, anchor) for anchor in anchors):
        findings.append("the chain does not lead to --issuer")
    if not anchors and len(chain) == 1:
        findings.append("the chain is a leaf alone; say --issuer to check it")
    return findings


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


# --- http-01 ---------------------------------------------------------------------------------------------------------


class ChallengeBoard:
    """Key authorizations by token, and how often the server came to fetch one."""

    def __init__(self) -> None:
        self.key_authorizations: dict[bytes, bytes] = {}
        self.fetches = 0

    def answer(self, request_head: bytes) -> bytes:
        """The response to one request head; 404 for everything that is no token we hold."""
        words = request_head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) == 3 and words[0] == b"GET" and words[1].startswith(CHALLENGE_PREFIX):
            key_authorization = self.key_authorizations.get(words[1][len(CHALLENGE_PREFIX) :])
            if key_authorization is not None:
                self.fetches += 1
                return (
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n"
                    b"Content-Length: %d\r\n\r\n%b" % (len(key_authorization), key_authorization)
                )
        return b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class ChallengeProtocol(asyncio.Protocol):
    """Answers one request and closes; a head of more than 8 KiB is dropped."""

    def __init__(self, board: ChallengeBoard) -> None:
        self._board = board
        self._head = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by behaviour, not by class

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._transport.write(self._board.answer(self._head))
            self._transport.close()
        elif len(self._head) > HEAD_LIMIT:
            self._transport.close()


@contextlib.asynccontextmanager
async def challenge_responder(board: ChallengeBoard, *, addresses: Sequence[str], port: int) -> AsyncIterator[None]:
    """Listen while the block runs. An address of a family that this machine lacks is left out; none left is an error."""
    servers: list[asyncio.Server] = []
    refusals: list[str] = []
    loop = asyncio.get_running_loop()
    for address in addresses:
        try:
            servers.append(await loop.create_server(lambda: ChallengeProtocol(board), address, port, backlog=512))
        except OSError as error:
            refusals.append(f"{address}: {error.strerror or error}")
    try:
        if not servers:
            raise measure.BenchmarkError(f"cannot listen on port {port}: {'; '.join(refusals)}")
        yield
    finally:
        for server in servers:
            server.close()
            await server.wait_closed()


# --- the client ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; `OrderError` when it is none."""
        try:
            value = json.loads(self.body)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise OrderError("no JSON object", repr(self.body[:100]))
        return value

    def location(self) -> str:
        """The Location header; `OrderError` when there is none."""
        location = self.headers.get("Location")
        if not location:
            raise OrderError("no Location", f"HTTP {self.status} without a Location header")
        return location


@dataclass(slots=True)
class Record:
    """What the clients measured, in seconds."""

    orders: Any = field(default_factory=measure.empty_samples)
    requests: dict[Kind, Any] = field(default_factory=dict)
    failures: measure.Failures = field(default_factory=measure.Failures)
    finished: list[tuple[OrderPlan, str]] = field(default_factory=list)
    waited: float = 0.0
    bad_nonces: int = 0
    failures_in_a_row: int = 0

    def add_request(self, kind: Kind, seconds: float) -> None:
        """One request, from its first byte sent to its last byte read."""
        self.requests.setdefault(kind, measure.empty_samples()).append(seconds)


@dataclass(frozen=True, slots=True)
class Directory:
    """The three URLs of §7.1.1 that an order needs; all of one server."""

    new_nonce: str
    new_account: str
    new_order: str
    origins: frozenset[str]


async def fetch_directory(session: aiohttp.ClientSession, directory_url: str, *, i_own_this_server: bool) -> Directory:
    """The directory (§7.1.1). Rule 4 of `_measure` holds for the URLs in it too."""
    try:
        async with session.get(directory_url, allow_redirects=False) as response:
            answer = Answer(status=response.status, headers=response.headers, body=await response.read())
    except (aiohttp.ClientError, TimeoutError) as error:
        raise measure.BenchmarkError(f"{directory_url}: {str(error) or type(error).__name__}") from error
    if answer.status != 200:
        raise measure.BenchmarkError(f"{directory_url}: HTTP {answer.status}")
    try:
        document = answer.json()
        new_nonce, new_account, new_order = (
            _member(document, name, str) for name in ("newNonce", "newAccount", "newOrder")
        )
    except OrderError as error:
        raise measure.BenchmarkError(f"{directory_url}: {error}") from None
    urls = (directory_url, new_nonce, new_account, new_order)
    for url in urls:
        measure.require_loopback(url, i_own_this_server=i_own_this_server)
    return Directory(
        new_nonce=new_nonce,
        new_account=new_account,
        new_order=new_order,
        origins=frozenset(measure.origin_of(url) for url in urls),
    )


@dataclass(frozen=True, slots=True)
class Polling:
    """How long to wait between two polls, in seconds."""

    interval: float = 0.02
    max_retry_after: float = 5.0

    def wait_seconds(self, retry_after: str | None) -> float:
        """Retry-After in whole seconds (RFC 9110 §10.2.3), at most the cap.

        Without one, with an HTTP-date, or when the cap is 0, it is the interval.
        """
        if retry_after is None or self.max_retry_after == 0 or not retry_after.isascii() or not retry_after.isdigit():
            return self.interval
        return min(float(retry_after), self.max_retry_after)


class Client:
    """One account's client: one request at a time, its own nonces, a connection from the shared pool."""

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        directory: Directory,
        polling: Polling,
        key: AccountKey,
        board: ChallengeBoard,
    ) -> None:
        self._session = session
        self._polling = polling
        self._directory = directory
        self._key = key
        self._board = board
        self._nonces: list[str] = []
        self._kid: str | None = None
        self.record = Record()

    def with_same_account(self) -> "Client":
        """Another client for the same account, with nonces of its own."""
        other = Client(
            session=self._session,
            directory=self._directory,
            polling=self._polling,
            key=self._key,
            board=self._board,
        )
        other._kid = self._kid
        return other

    async def register(self, external_account: ExternalAccount | None) -> None:
        """Create the account (§7.3), with an external account binding when there is one."""
        payload: dict[str, Any] = {"termsOfServiceAgreed": True}
        if external_account is not None:
            payload["externalAccountBinding"] = external_account.sign_binding(
                url=self._directory.new_account, jwk=self._key.jwk
            )
        answer = await self._post(Kind.SET_UP, self._directory.new_account, _compact_json(payload))
        self._kid = answer.location()

    async def complete_order(self, plan: OrderPlan) -> str:
        """Drive one order by the book and return its certificate chain in PEM.

        1. newOrder (§7.4). 2. Each authorization (§7.5) and 3. its challenge (§7.5.1), polled until it is valid.
        4. finalize (§7.4). 5. The order is polled while it is processing. 6. The certificate (§7.4.2).
        Raises `OrderError` with what the server said.
        """
        # Step 1: newOrder.
        created = await self._post(Kind.NEW_ORDER, self._directory.new_order, plan.new_order_payload)
        order, order_url = created.json(), created.location()
        # Steps 2 and 3: authorizations.
        for authorization_url in _member(order, "authorizations", list):
            await self._authorize(authorization_url)
        # Step 4: finalize.
        answer = await self._post(Kind.FINALIZE, _member(order, "finalize", str), plan.finalize_payload)
        # Step 5: §7.4: "processing": … "Send a POST-as-GET request after the time given in the Retry-After header".
        while (order := answer.json()).get("status") == "processing":
            await self._wait(answer)
            answer = await self._post(Kind.ORDER_POLL, order_url, b"")
        if order.get("status") != "valid":
            raise OrderError("order not valid", f"{order.get('status')}: {order.get('error')}")
        # Step 6: the certificate.
        certificate = await self._post(Kind.CERTIFICATE, _member(order, "certificate", str), b"")
        return certificate.body.decode("ascii", errors="replace")

    async def _authorize(self, url: str) -> None:
        answer = await self._post(Kind.AUTHORIZATION, url, b"")
        authorization = answer.json()
        if authorization.get("status") == "valid":  # reused from an earlier order
            return
        challenge = _http01_challenge(authorization)
        token = _member(challenge, "token", str)
        self._board.key_authorizations[token.encode("utf-8")] = f"{token}.{self._key.thumbprint}".encode()
        try:
            # §7.5.1: the response to a challenge of this type is the empty object.
            answer = await self._post(Kind.CHALLENGE, _member(challenge, "url", str), b"{}")
            # A challenge that is already valid leaves nothing to wait for before the first poll.
            settled = answer.json().get("status") in {"valid", "invalid"}
            while True:
                if not settled:
                    await self._wait(answer)
                answer = await self._post(Kind.AUTHORIZATION_POLL, url, b"")
                authorization = answer.json()
                if authorization.get("status") != "pending":
                    break
                settled = False
        finally:
            self._board.key_authorizations.pop(token.encode("utf-8"), None)
        if authorization.get("status") != "valid":
            problem = next((entry["error"] for entry in authorization.get("challenges", ()) if "error" in entry), None)
            raise OrderError("authorization not valid", f"{authorization.get('status')}: {problem}")

    async def _wait(self, answer: Answer) -> None:
        seconds = self._polling.wait_seconds(answer.headers.get("Retry-After"))
        self.record.waited += seconds
        await asyncio.sleep(seconds)

    async def _post(self, kind: Kind, url: str, payload: bytes) -> Answer:
        """A signed request (§6.2); badNonce is answered by another attempt (§6.5), all else by `OrderError`."""
        if measure.origin_of(url) not in self._directory.origins:
            raise OrderError("strange URL", f"{url} is not on the server of the directory")
        problem = ("badNonce", "")
        for _ in range(NONCE_ATTEMPTS):
            nonce = self._nonces.pop() if self._nonces else await self._new_nonce()
            body = self._key.sign_jws(url=url, nonce=nonce, payload=payload, kid=self._kid)
            answer = await self._request(kind, "POST", url, body)
            if answer.status < 300:
                return answer
            problem = _problem(answer)
            if problem[0] != "badNonce":
                break
            self.record.bad_nonces += 1
        raise OrderError(f"{kind.value}: {problem[0]}", problem[1])

    async def _new_nonce(self) -> str:
        await self._request(Kind.NEW_NONCE, "HEAD", self._directory.new_nonce, None)
        if not self._nonces:
            raise OrderError("no nonce", "newNonce answered without a Replay-Nonce header")
        return self._nonces.pop()

    async def _request(self, kind: Kind, method: str, url: str, body: bytes | None) -> Answer:
        headers = None if body is None else {"Content-Type": "application/jose+json"}
        started = time.perf_counter()
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, allow_redirects=False
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OrderError(f"{kind.value}: {type(error).__name__}", str(error) or repr(error)) from error
        self.record.add_request(kind, time.perf_counter() - started)
        nonce = response.headers.get("Replay-Nonce")
        if nonce:
            self._nonces.append(nonce)
        return Answer(status=response.status, headers=response.headers, body=content)


def _member(document: Mapping[str, Any], name: str, expected: type) -> Any:
    value = document.get(name)
    if not isinstance(value, expected):
        raise OrderError("bad document", f"member {name!r} is {value!r}")
    return value


def _http01_challenge(authorization: Mapping[str, Any]) -> Mapping[str, Any]:
    challenges = _member(authorization, "challenges", list)
    for challenge in challenges:
        if isinstance(challenge, dict) and challenge.get("type") == "http-01":
            return challenge
    raise OrderError(
        "no http-01", f"the authorization is {authorization.get('status')} and offers no http-01 challenge"
    )


def _problem(answer: Answer) -> tuple[str, str]:
    """The last part of a problem's type, and its detail; the HTTP status when the body is no problem (RFC 9457)."""
    try:
        document = answer.json()
    except OrderError as error:
        return f"HTTP {answer.status}", error.detail
    return str(document.get("type", f"HTTP {answer.status}")).rpartition(":")[2], str(document.get("detail", document))
