"""An ACME client for tests: well-behaved unless it is told otherwise, following the URLs that the server gives.

Rule 1: nothing of acmeca is used here but what `tests/support` makes, so that a mistake in acmeca cannot hide in its tests.
Rule 2: the verbs (`register`, `new_order`, `authorize`, `issue`, …) expect success and return what was made; `post` and the
verbs that return an `Answer` expect nothing, for tests of refusals.
Rule 3: no URL is spelt here but the directory's: each comes from the directory, a Location or a document.
"""

import asyncio
import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from multidict import CIMultiDictProxy

from tests.support import jose
from tests.support.csrs import PrivateKey, build_csr
from tests.support.jose import SigningKey

JOSE_JSON: Final = "application/jose+json"
ERROR_NAMESPACE: Final = "urn:ietf:params:acme:error:"
_POLLS: Final = 2000
_PAUSE: Final = 0.005  # seconds; the server says 1, but it is on this machine

Provisioned: TypeAlias = dict[str, str]
"""What the client's own web server answers: token to key authorization."""

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """A response, read."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Json:
        document = json.loads(self.body)
        assert isinstance(document, dict), document
        return document

    @property
    def content_type(self) -> str:
        return self.headers["Content-Type"]

    @property
    def location(self) -> str:
        return self.headers["Location"]

    @property
    def nonce(self) -> str | None:
        return self.headers.get("Replay-Nonce")

    @property
    def problem(self) -> str | None:
        """The type of the problem document without its namespace, or None when this is none."""
        if self.content_type != "application/problem+json":
            return None
        type_ = self.json["type"]
        assert type_.startswith(ERROR_NAMESPACE), type_
        return str(type_).removeprefix(ERROR_NAMESPACE)

    @property
    def detail(self) -> str:
        return str(self.json["detail"])

    def links(self, relation: str) -> list[str]:
        """The targets of the `Link` header lines with this relation."""
        lines = [line.partition(">") for line in self.headers.getall("Link", [])]
        return [target.removeprefix("<") for target, _, rest in lines if f'rel="{relation}"' in rest.split(";")]

    def refused(self, type_: str, status: int) -> "Answer":
        """Itself, when it is a problem of this type and status, with a link to what is said of that type."""
        assert (self.status, self.problem) == (status, type_), self
        assert self.json["status"] == status
        assert [target.rpartition("#")[2] for target in self.links("help")] == [type_], self
        return self

    def ok(self, status: int = 200) -> "Answer":
        """Itself, when it has this status and is no problem."""
        assert self.status == status, self
        return self

    def __str__(self) -> str:
        return f"{self.status} {dict(self.headers)} {self.body[:2000]!r}"

    __repr__ = __str__


@dataclass(frozen=True)
class ClientOrder:
    """An order as the server described it last."""

    url: str
    document: Json

    @property
    def status(self) -> str:
        return str(self.document["status"])

    @property
    def authorizations(self) -> list[str]:
        return list(self.document["authorizations"])

    @property
    def finalize(self) -> str:
        return str(self.document["finalize"])

    @property
    def certificate(self) -> str:
        return str(self.document["certificate"])

    @property
    def names(self) -> list[str]:
        return [identifier["value"] for identifier in self.document["identifiers"]]

    @property
    def dns_names(self) -> list[str]:
        return [item["value"] for item in self.document["identifiers"] if item["type"] == "dns"]

    @property
    def ip_addresses(self) -> list[str]:
        return [item["value"] for item in self.document["identifiers"] if item["type"] == "ip"]

    def csr(self, key: PrivateKey | None = None, **parts: Any) -> bytes:
        """A CSR for exactly these names, with a new key unless one is given."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        return build_csr(key, **({"dns_names": self.dns_names, "ip_addresses": self.ip_addresses} | parts))


@dataclass(frozen=True)
class Issued:
    """A certificate and how it was come by."""

    key: PrivateKey
    chain: list[x509.Certificate]
    order: ClientOrder

    @property
    def leaf(self) -> x509.Certificate:
        return self.chain[0]

    @property
    def der(self) -> bytes:
        return self.leaf.public_bytes(Encoding.DER)

    @property
    def serial(self) -> int:
        return self.leaf.serial_number


@dataclass
class AcmeClient:
    """One account key and its account, once `register` was called. Made by `connect`."""

    session: aiohttp.ClientSession
    directory: Json
    key: SigningKey
    provisioned: Provisioned
    kid: str | None = None
    _nonces: list[str] = field(default_factory=list)

    @classmethod
    async def connect(
        cls,
        session: aiohttp.ClientSession,
        directory_url: str,
        *,
        provisioned: Provisioned | None = None,
        key: SigningKey | None = None,
    ) -> "AcmeClient":
        async with session.get(directory_url) as response:
            assert response.status == 200, response
            directory = await response.json()
        return cls(session, directory, key or jose.new_key(), {} if provisioned is None else provisioned)

    # --- requests -----------------------------------------------------------------------------------------------------

    async def nonce(self) -> str:
        """A nonce that was not used yet: one that came with an answer, or a new one."""
        return self._nonces.pop() if self._nonces else await self.new_nonce()

    async def new_nonce(self) -> str:
        """A nonce from newNonce (§7.2)."""
        async with self.session.head(self.directory["newNonce"]) as response:
            assert response.status == 200, response
            return response.headers["Replay-Nonce"]

    async def send(
        self,
        url: str,
        body: Any = None,
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        content_type: str | None = JOSE_JSON,
    ) -> Answer:
        """Send bytes as they are. An async iterator as `body` goes in chunks."""
        sent = {} if content_type is None else {"Content-Type": content_type}
        sent.update(headers or {})
        skip = ["Content-Type"] if content_type is None else []
        async with self.session.request(
            method, url, data=body, headers=sent, skip_auto_headers=skip, allow_redirects=False
        ) as response:
            answer = Answer(response.status, response.headers, await response.read())
        if answer.nonce is not None:
            self._nonces.append(answer.nonce)
        return answer

    async def sign(self, url: str, payload: Mapping[str, object] | bytes = b"", **changes: Any) -> bytes:
        """The body of a request by the account (by the key, while there is none), with what `jose.sign` changes.

        `key` signs with another key, `kid=None` embeds the key.
        """
        arguments: Json = {"url": url, "payload": payload, "kid": self.kid} | changes
        key = arguments.pop("key", self.key)
        if "nonce" not in arguments:
            arguments["nonce"] = await self.nonce()
        return jose.sign(key, **arguments)

    async def post(self, url: str, payload: Mapping[str, object] | bytes = b"", **changes: Any) -> Answer:
        """POST what `sign` makes; without a payload a POST-as-GET (§6.3)."""
        return await self.send(url, await self.sign(url, payload, **changes))

    async def get(self, url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        """A request without a body or a signature."""
        return await self.send(url, method=method, headers=headers, content_type=None)

    # --- accounts -----------------------------------------------------------------------------------------------------

    async def new_account(self, **members: object) -> Answer:
        """newAccount with this client's key (§7.3)."""
        return await self.post(self.directory["newAccount"], members, kid=None)

    async def register(self, **members: object) -> Answer:
        """Make the account, or find it."""
        answer = await self.new_account(**members)
        assert answer.status in {200, 201}, answer
        self.kid = answer.location
        return answer

    def binding(self, grant: Mapping[str, Any], **changes: Any) -> Json:
        """An external account binding for this client's key (§7.3.4), by a `kid` and an `hmac_key`, with what `jose.bind` changes."""
        arguments = {"url": self.directory["newAccount"], "kid": grant["kid"], "hmac_key": grant["hmac_key"]} | changes
        return jose.bind(self.key, **arguments)

    @property
    def account_url(self) -> str:
        assert self.kid is not None, "no account yet"
        return self.kid

    def key_change(
        self, key: SigningKey, *, payload: Mapping[str, object] | bytes | None = None, **changes: Any
    ) -> bytes:
        """The inner JWS of a change to `key` (§7.3.5), with what `jose.sign` changes."""
        members = {"account": self.kid, "oldKey": self.key.jwk} if payload is None else payload
        return jose.sign(key, **({"url": self.directory["keyChange"], "nonce": None, "payload": members} | changes))

    async def change_key(self, key: SigningKey) -> Answer:
        """keyChange; once it was taken, this client signs with the new key."""
        answer = await self.post(self.directory["keyChange"], self.key_change(key))
        if answer.status == 200:
            self.key = key
        return answer

    async def deactivate_account(self) -> Answer:
        return await self.post(self.account_url, {"status": "deactivated"})

    # --- orders -------------------------------------------------------------------------------------------------------

    async def order_answer(self, *names: str, ips: tuple[str, ...] = (), **members: object) -> Answer:
        """newOrder (§7.4)."""
        identifiers = [{"type": "dns", "value": name} for name in names]
        identifiers += [{"type": "ip", "value": address} for address in ips]
        return await self.post(self.directory["newOrder"], {"identifiers": identifiers, **members})

    async def new_order(self, *names: str, ips: tuple[str, ...] = (), **members: object) -> ClientOrder:
        answer = (await self.order_answer(*names, ips=ips, **members)).ok(201)
        return ClientOrder(answer.location, answer.json)

    async def order(self, url: str) -> ClientOrder:
        """The order as it is now."""
        return ClientOrder(url, (await self.post(url)).ok().json)

    async def authorization(self, url: str) -> Json:
        return (await self.post(url)).ok().json

    async def challenge(self, authorization_url: str, type_: str = "http-01") -> Json:
        """The challenge of that type."""
        (found,) = [
            item for item in (await self.authorization(authorization_url))["challenges"] if item["type"] == type_
        ]
        return dict(found)

    def provision(self, challenge: Mapping[str, Any]) -> None:
        """Let our web server answer for the challenge (§8.3)."""
        token = challenge["token"]
        self.provisioned[token] = f"{token}.{self.key.thumbprint}"

    def txt_record(self, challenge: Mapping[str, Any], name: str) -> tuple[str, str]:
        """The name and the value of the TXT record that answers a dns-01 or dns-account-01 challenge for `name` (§8.4)."""
        label = "_acme-challenge"
        if challenge["type"] == "dns-account-01":
            account = hashlib.sha256(self.account_url.encode()).digest()[:10]
            label = f"_{base64.b32encode(account).decode().lower()}.{label}"
        digest = hashlib.sha256(f"{challenge['token']}.{self.key.thumbprint}".encode()).digest()
        return f"{label}.{name}", jose.encode(digest)

    async def respond(self, challenge: Mapping[str, Any]) -> Answer:
        """Say that we are ready (§7.5.1)."""
        return await self.post(challenge["url"], {})

    async def final(self, authorization_url: str) -> Json:
        """Poll the authorization until it is pending no longer."""
        for _ in range(_POLLS):
            document = await self.authorization(authorization_url)
            if document["status"] != "pending":
                return document
            await asyncio.sleep(_PAUSE)
        raise AssertionError(f"{authorization_url} stays pending")

    async def authorize_one(self, authorization_url: str) -> Json:
        """Show control of one identifier."""
        challenge = await self.challenge(authorization_url)
        self.provision(challenge)
        (await self.respond(challenge)).ok()
        document = await self.final(authorization_url)
        assert document["status"] == "valid", document
        return document

    async def ready_order(self, *names: str, ips: tuple[str, ...] = (), **members: object) -> ClientOrder:
        """An order whose authorizations are all valid."""
        order = await self.new_order(*names, ips=ips, **members)
        for url in order.authorizations:
            await self.authorize_one(url)
        order = await self.order(order.url)
        assert order.status == "ready", order
        return order

    async def finalize(self, order: ClientOrder, csr_der: bytes | None = None, **changes: Any) -> Answer:
        """finalize (§7.4), with a good CSR unless one is given."""
        csr = order.csr() if csr_der is None else csr_der
        return await self.post(order.finalize, {"csr": jose.encode(csr)}, **changes)

    async def issue(
        self,
        *names: str,
        ips: tuple[str, ...] = (),
        key: PrivateKey | None = None,
        replaces: Issued | None = None,
        members: Mapping[str, object] | None = None,
        **csr_parts: Any,
    ) -> Issued:
        """The whole walk, from newOrder (with more `members`) to the download; with `replaces` in the place of another certificate."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        replacing = {} if replaces is None else {"replaces": renewal_identifier(replaces.leaf)}
        order = await self.ready_order(*names, ips=ips, **replacing, **(members or {}))
        answer = (await self.finalize(order, order.csr(key, **csr_parts))).ok()
        order = ClientOrder(order.url, answer.json)
        for _ in range(_POLLS):
            if order.status != "processing":
                break
            await asyncio.sleep(_PAUSE)
            order = await self.order(order.url)
        assert order.status == "valid", order
        return Issued(key, await self.download(order), order)

    # --- certificates -------------------------------------------------------------------------------------------------

    async def download(self, order: ClientOrder) -> list[x509.Certificate]:
        """The chain (§7.4.2)."""
        return x509.load_pem_x509_certificates((await self.post(order.certificate)).ok().body)

    async def revoke(
        self, certificate_der: bytes, *, reason: object = None, key: SigningKey | None = None, **changes: Any
    ) -> Answer:
        """revokeCert (§7.6): by the account, or by the certificate's own `key`."""
        payload: Json = {"certificate": jose.encode(certificate_der)}
        if reason is not None:
            payload["reason"] = reason
        if key is not None:
            changes = {"key": key, "kid": None} | changes
        return await self.post(self.directory["revokeCert"], payload, **changes)


def renewal_identifier(certificate: x509.Certificate) -> str:
    """The identifier of a certificate in renewalInfo's URL and in `replaces` (RFC 9773 §4.1)."""
    authority = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert authority.key_identifier is not None
    serial = certificate.serial_number
    octets = serial.to_bytes(serial.bit_length() // 8 + 1, "big")  # as in DER: a sign bit of 0 before a positive number
    return f"{jose.encode(authority.key_identifier)}.{jose.encode(octets)}"


def certificate_key(issued: Issued) -> SigningKey:
    """The certificate's own key, for signing a revocation with it."""
    assert isinstance(issued.key, ec.EllipticCurvePrivateKey)
    return SigningKey(issued.key, "ES256")


def assert_alike(one: Answer, other: Answer) -> None:
    """Two refusals that nothing tells apart but what is new in each answer."""

    def told(answer: Answer) -> tuple[object, ...]:
        headers = {name: value for name, value in answer.headers.items() if name not in {"Replay-Nonce", "Date"}}
        return answer.status, headers, answer.body

    assert one.status >= 400, one
    assert told(one) == told(other)
