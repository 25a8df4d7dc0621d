"""An ACME client that does not give up: what a crash looks like from outside, and whether one gets over it.

Rule 1: every request is repeated, with a fresh nonce, until the server answers it or the time is over. A connection that
breaks says nothing about what the server did, so the next thing is always to read the order.
Rule 2: every answer is kept count of; what a client must never see is a mistake right away (`ClientError`).
Rule 3: nothing of acmeca is used here.
"""

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support import jose
from tests.support.http_peer import PREFIX, Connection

REQUEST_SECONDS: Final = 20.0  # for one request; a server that lives answers in milliseconds
_PAUSE: Final = 0.03  # seconds between two attempts, and between two looks at an order


class ClientError(Exception):
    """The server answered in a way that no client should meet."""


class RefusedError(Exception):
    """The server refused with a 4xx problem. `type` is its last part, like "orderNotReady"."""

    def __init__(self, status: int, document: Mapping[str, Any]) -> None:
        super().__init__(f"{status}: {document}")
        self.status = status
        self.type = str(document.get("type")).rpartition(":")[2]


@dataclass
class Board:
    """The key authorizations of all clients of a test; `script` answers for them as an `HttpPeer` does."""

    key_authorizations: dict[str, str] = field(default_factory=dict)
    fetched: "asyncio.Queue[str]" = field(default_factory=asyncio.Queue)

    async def script(self, connection: Connection) -> None:
        token = connection.request.path.removeprefix(PREFIX)
        body = self.key_authorizations.get(token)
        self.fetched.put_nowait(token)
        if body is None:
            await connection.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        else:
            await connection.send(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


@dataclass(frozen=True)
class Answer:
    """A whole response."""

    status: int
    headers: Mapping[str, str]
    document: Mapping[str, Any]  # empty when the body is no JSON
    body: bytes


@dataclass(frozen=True)
class Obtained:
    """What an order came to: the chain as PEM, the key, and the order's URL."""

    chain_pem: str
    key: ec.EllipticCurvePrivateKey
    order_url: str

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.chain_pem.encode())

    @property
    def serial(self) -> str:
        """As the store and openssl print it: lower-case hex of the octets."""
        number = self.certificate.serial_number
        return number.to_bytes((number.bit_length() + 7) // 8).hex()


class PersistentClient:
    """One account. Not for two tasks at once."""

    def __init__(self, session: aiohttp.ClientSession, directory_url: str, board: Board, *, deadline: float) -> None:
        self._session = session
        self._directory_url = directory_url
        self._board = board
        self._deadline = deadline  # of time.monotonic(); no request is begun after it
        self._key = jose.new_key()
        self.directory: Mapping[str, Any] = {}  # once registered
        self._kid: str | None = None
        self._nonces: list[str] = []
        self.seen: Counter[str] = Counter()  # broken connections, problems, answers with 5xx
        self.obtained: list[Obtained] = []
        self.failed_orders: list[Mapping[str, Any]] = []
        self.spent: list[str] = []  # nonces of requests that were answered with 2xx

    async def register(self) -> None:
        """newAccount; a second time it finds the account of the key."""
        while not self.directory:
            answer = await self._exchange("GET", self._directory_url, None)
            if answer is not None and answer.status == 200:
                self.directory = answer.document
        answer = await self.post(self.directory["newAccount"], {"termsOfServiceAgreed": True})
        self._kid = answer.headers["Location"]

    async def obtain(self, *names: str) -> Obtained:
        """Order until there is a certificate. An order that failed is kept in `failed_orders` and made anew."""
        if self._kid is None:
            await self.register()
        while True:
            order_url = await self.new_order(*names)
            obtained = await self.complete(order_url, names)
            if obtained is not None:
                self.obtained.append(obtained)
                return obtained

    async def new_order(self, *names: str) -> str:
        payload = {"identifiers": [{"type": "dns", "value": name} for name in names]}
        return (await self.post(self.directory["newOrder"], payload)).headers["Location"]

    async def complete(self, order_url: str, names: tuple[str, ...]) -> Obtained | None:
        """Read the order and do what its status asks for, until it is valid (the certificate) or invalid (None)."""
        key = ec.generate_private_key(ec.SECP256R1())
        while True:
            order = (await self.post(order_url)).document
            match order["status"]:
                case "pending":
                    for url in order["authorizations"]:
                        await self._answer_challenge(url)
                case "ready":
                    await self._finalize(order["finalize"], _csr(key, names))
                case "processing":
                    await asyncio.sleep(_PAUSE)
                case "valid":
                    chain = (await self.post(order["certificate"])).body.decode("ascii")
                    return self._checked(Obtained(chain, key, order_url), names)
                case "invalid":
                    if "error" not in order:
                        raise ClientError(f"an order failed and does not say why: {order}")
                    self.failed_orders.append(order)
                    return None
                case other:
                    raise ClientError(f"an order is {other!r}")

    async def revoke(self, obtained: Obtained, *, reason: int | None = None) -> None:
        """revokeCert by the account; "alreadyRevoked" is what a repeated request is told, and as good."""
        payload: dict[str, object] = {"certificate": jose.encode(obtained.certificate.public_bytes(Encoding.DER))}
        if reason is not None:
            payload["reason"] = reason
        try:
            await self.post(self.directory["revokeCert"], payload)
        except RefusedError as refused:
            if refused.type != "alreadyRevoked":
                raise

    async def post(self, url: str, payload: Mapping[str, object] | None = None, *, once: bool = False) -> Answer:
        """A signed request, repeated until there is an answer below 500. `once`: 5xx is an answer too.

        Raises `RefusedError` for a 4xx problem other than badNonce.
        """
        while True:
            answer = await self._signed(url, payload)
            if answer is None:
                await asyncio.sleep(_PAUSE)
            elif answer.status < 300 or (once and answer.status >= 500):
                return answer
            else:
                self._note(url, answer)
                if answer.status < 500 and self._type(answer) != "badNonce":
                    raise RefusedError(answer.status, answer.document)
                if answer.status >= 500:
                    await asyncio.sleep(_PAUSE)

    async def _signed(self, url: str, payload: Mapping[str, object] | None) -> Answer | None:
        if not self._nonces:
            await self._exchange("HEAD", self.directory["newNonce"], None)
        if not self._nonces:
            return None
        nonce = self._nonces.pop()
        answer = await self._exchange("POST", url, self._body(url, nonce, payload))
        if answer is not None and answer.status < 300:
            self.spent.append(nonce)
        return answer

    async def is_refused(self, nonce: str) -> bool:
        """Whether a request with this nonce is answered with badNonce; repeated until there is an answer below 500."""
        assert self._kid is not None
        while True:
            answer = await self._exchange("POST", self._kid, self._body(self._kid, nonce, None))
            if answer is not None and answer.status < 500:
                return answer.status == 400 and self._type(answer) == "badNonce"

    def _body(self, url: str, nonce: str, payload: Mapping[str, object] | None) -> bytes:
        return jose.sign(self._key, url=url, nonce=nonce, payload=b"" if payload is None else payload, kid=self._kid)

    async def _exchange(self, method: str, url: str, body: bytes | None) -> Answer | None:
        """One request; None when the connection broke or was refused."""
        if time.monotonic() > self._deadline:
            raise ClientError(f"no end before the time was over; seen: {dict(self.seen)}")
        headers = None if body is None else {"Content-Type": "application/jose+json"}
        try:
            async with self._session.request(method, url, data=body, headers=headers) as response:
                content = await response.read()
                document = await response.json(content_type=None) if "json" in response.content_type else {}
        except (aiohttp.ClientError, OSError) as error:
            self.seen[type(error).__name__] += 1
            self._nonces.clear()
            await asyncio.sleep(_PAUSE)
            return None
        except TimeoutError:
            raise ClientError(f"{method} {url} was not answered in {REQUEST_SECONDS:g} s") from None
        nonce = response.headers.get("Replay-Nonce")
        if nonce is not None:
            self._nonces.append(nonce)
        return Answer(response.status, response.headers, document, content)

    def _note(self, url: str, answer: Answer) -> None:
        """Every refusal is a problem document (RFC 8555 §6.7)."""
        if answer.headers.get("Content-Type", "").partition(";")[0] != "application/problem+json":
            raise ClientError(f"{url}: {answer.status} without a problem document: {answer.body[:200]!r}")
        self.seen[f"{answer.status} {self._type(answer)}"] += 1

    @staticmethod
    def _type(answer: Answer) -> str:
        return str(answer.document.get("type")).rpartition(":")[2]

    async def _answer_challenge(self, url: str) -> None:
        authorization = (await self.post(url)).document
        if authorization["status"] != "pending":
            return
        challenge = next(item for item in authorization["challenges"] if item["type"] == "http-01")
        self._board.key_authorizations[challenge["token"]] = f"{challenge['token']}.{self._key.thumbprint}"
        if challenge["status"] == "pending":
            await self.post(challenge["url"], {})
        else:
            await asyncio.sleep(_PAUSE)

    async def _finalize(self, url: str, csr_der: bytes) -> None:
        """`orderNotReady` may mean that an earlier attempt was heard: the order says which."""
        try:
            await self.post(url, {"csr": jose.encode(csr_der)})
        except RefusedError as refused:
            if refused.type != "orderNotReady":
                raise

    @staticmethod
    def _checked(obtained: Obtained, names: tuple[str, ...]) -> Obtained:
        """What was downloaded is what was ordered."""
        certificate = obtained.certificate
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if sorted(san.get_values_for_type(x509.DNSName)) != sorted(names):
            raise ClientError(f"{names} were ordered, {san} came back")
        if certificate.public_key() != obtained.key.public_key():
            raise ClientError(f"the certificate for {names} has another key than its CSR")
        return obtained


def _csr(key: ec.EllipticCurvePrivateKey, names: tuple[str, ...]) -> bytes:
    san = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(san, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@asynccontextmanager
async def client_session(root_pem: bytes) -> AsyncIterator[aiohttp.ClientSession]:
    """A session that trusts one root, follows no proxy, and opens as many connections as it is asked to."""
    tls = ssl.create_default_context(cadata=root_pem.decode())
    connector = aiohttp.TCPConnector(ssl=tls, limit=0)
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
        yield session
