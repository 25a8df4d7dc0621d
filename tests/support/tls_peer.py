"""A TLS server on loopback that answers tls-alpn-01 as an ACME client's own server does, and certificates good and bad for it.

Rule 1: it counts: the server name of every handshake is kept.
Rule 2: it cleans up: when the `async with` ends, its listener, connections and tasks are gone.
"""

import asyncio
import contextlib
import datetime as dt
import hashlib
import ssl
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.pki import der

ACME_TLS = "acme-tls/1"
SUBJECT_ALT_NAME = x509.ObjectIdentifier("2.5.29.17")
ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")

_KEY = ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True)
class Extension:
    """An extension to put into a certificate, its value as it shall stand."""

    oid: x509.ObjectIdentifier
    critical: bool
    value: bytes


def general_name(identifier: Identifier) -> bytes:
    """A dNSName or an iPAddress (RFC 5280 §4.2.1.6)."""
    if identifier.type is IdentifierType.IP:
        return der.encode(0x87, ip_address(identifier.value).packed)
    return der.encode(0x82, identifier.value.encode("ascii"))


def san(*names: bytes, critical: bool = False) -> Extension:
    return Extension(SUBJECT_ALT_NAME, critical, der.sequence(*names))


def acme_identifier(key_authorization: str, *, critical: bool = True) -> Extension:
    """RFC 8737 §3."""
    digest = hashlib.sha256(key_authorization.encode("ascii")).digest()
    return Extension(ACME_IDENTIFIER, critical, der.octet_string(digest))


def certificate_der(*extensions: Extension) -> bytes:
    """A self-signed certificate that ran out yesterday, with these extensions and no others."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "not asked")])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(_KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=2))
        .not_valid_after(now - dt.timedelta(days=1))
    )
    for extension in extensions:
        builder = builder.add_extension(
            x509.UnrecognizedExtension(extension.oid, extension.value), critical=extension.critical
        )
    return builder.sign(_KEY, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def challenge_der(identifier: Identifier, key_authorization: str) -> bytes:
    """The certificate that RFC 8737 §3 and RFC 8738 §6 ask for."""
    return certificate_der(san(general_name(identifier)), acme_identifier(key_authorization))


def showing(*chain: bytes, protocols: Sequence[str] = (ACME_TLS,)) -> ssl.SSLContext:
    """A server's TLS that shows these certificates and knows these protocols."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "pair.pem")
        path.touch(mode=0o600)
        path.write_bytes(
            _KEY.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + b"".join(ssl.DER_cert_to_PEM_cert(certificate).encode() for certificate in chain)
        )
        context.load_cert_chain(path)
    return context


@dataclass
class TlsPeer:
    """The running server. Who asks for a name of `shown` gets its certificate, anybody else one without meaning."""

    port: int = 0
    server_names: list[str | None] = field(default_factory=list)
    shown: dict[str, ssl.SSLContext] = field(default_factory=dict)
    received: bytes = b""  # application data, of which there should be none
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    def provision(self, identifier: Identifier, key_authorization: str) -> None:
        """Answer a challenge (RFC 8737 §3)."""
        name = identifier.value
        if identifier.type is IdentifierType.IP:
            name = ip_address(name).reverse_pointer
        self.shown[name] = showing(challenge_der(identifier, key_authorization))

    def _choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        self.server_names.append(name)
        if name in self.shown:
            connection.context = self.shown[name]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.received += await reader.read()
        except (OSError, asyncio.CancelledError):
            pass  # the client has gone, or the test is over
        finally:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def tls_peer(
    default: ssl.SSLContext | None = None, *, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[TlsPeer]:
    """Run a peer; `default` is what it shows where nothing is provisioned. `port` 0 takes a free one."""
    peer = TlsPeer()
    context = default or showing(certificate_der())
    context.sni_callback = peer._choose
    server = await asyncio.start_server(peer._accept, host, port, ssl=context)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()
        await asyncio.sleep(0)
        for task in tuple(peer._tasks):
            task.cancel()
        await asyncio.gather(*peer._tasks, return_exceptions=True)
        await server.wait_closed()
        context.sni_callback = None


@dataclass(frozen=True)
class ClientHello:
    """What a client says first (RFC 8446 §4.1.2), as far as a test looks: its extensions by number."""

    extensions: dict[int, bytes]

    @property
    def server_names(self) -> list[tuple[int, bytes]]:
        """RFC 6066 §3: type and name of each entry."""
        return [(entry[0], entry[3:]) for entry in _vectors(self.extensions[0][2:], prefix=1)]

    @property
    def protocols(self) -> list[bytes]:
        """RFC 7301 §3.1."""
        return [entry[1:] for entry in _vectors(self.extensions[16][2:], prefix=0, length=1)]

    @property
    def groups(self) -> list[int]:
        """RFC 8446 §4.2.7."""
        content = self.extensions[10][2:]
        return [int.from_bytes(content[at : at + 2]) for at in range(0, len(content), 2)]

    @property
    def versions(self) -> list[int]:
        """RFC 8446 §4.2.1."""
        content = self.extensions[43][1:]
        return [int.from_bytes(content[at : at + 2]) for at in range(0, len(content), 2)]


def parse_client_hello(record: bytes) -> ClientHello:
    """The ClientHello in the first record of a connection."""
    assert (record[0], record[5]) == (22, 1), "a handshake record with a ClientHello"
    at = 5 + 4 + 2 + 32  # record, handshake header, version, random
    at += 1 + record[at]  # legacy_session_id
    at += 2 + int.from_bytes(record[at : at + 2])  # cipher_suites
    at += 1 + record[at]  # legacy_compression_methods
    end = at + 2 + int.from_bytes(record[at : at + 2])
    at += 2
    extensions = {}
    while at < end:
        kind, length = int.from_bytes(record[at : at + 2]), int.from_bytes(record[at + 2 : at + 4])
        extensions[kind] = record[at + 4 : at + 4 + length]
        at += 4 + length
    return ClientHello(extensions)


def _vectors(content: bytes, *, prefix: int, length: int = 2) -> list[bytes]:
    """Entries of `prefix` octets, a length of `length` octets, and as many."""
    found = []
    at = 0
    while at < len(content):
        end = at + prefix + length + int.from_bytes(content[at + prefix : at + prefix + length])
        found.append(content[at:end])
        at = end
    return found
