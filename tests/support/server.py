"""The real CA, whole, in this process: its listeners on free loopback ports, its data in a directory of its own.

Rule 1: nothing of the CA is replaced but what `acmeca.app.opened` takes as a parameter (clock, entropy, the opening of keys)
and, where a test asks for it, the validations.
Rule 2: a `Site` is where a CA lives: ports, directory, configuration and clock. It can be started, stopped and started again
on the same data, with another configuration, as an administrator would.
Rule 3: the clock stands still until a test moves it.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from acmeca import app
from acmeca.acme.objects import ChallengeType
from acmeca.config import Config
from acmeca.keystore import pem
from acmeca.pki.issuer import Issuer
from acmeca.pki.signing import PrivateKey
from acmeca.service.ambient import Ambient
from acmeca.service.issuers import SigningIssuer
from acmeca.service.probes import PROOF
from acmeca.service.services import Services
from acmeca.service.validations import Outcome, Target, Validation
from acmeca.storage.store import Store
from acmeca.urls import Urls
from tests.support.acme_client import AcmeClient, Provisioned
from tests.support.http_peer import Connection, HttpPeer, http_peer, tokens
from tests.support.jose import SigningKey
from tests.support.status_client import StatusClient

_MEMORY: Final = Path("/dev/shm")  # a file system in memory, where there is one: commits wait for no disk
_TURN: Final = 0.005  # seconds between two looks at a condition
_PATIENCE: Final = 15.0  # seconds until a condition counts as never true; a busy machine takes one at the most

# X509_V_FLAG_NO_CHECK_TIME: a CA whose clock was moved shows certificates that are not valid by ours.
_NO_CHECK_TIME: Final = 0x200000


@dataclass
class Clock:
    """The time that a CA sees, and how long the machine is up."""

    moment: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    uptime: float = 0.0

    def __call__(self) -> datetime:
        return self.moment

    def advance(self, **duration: float) -> datetime:
        """Let `timedelta(**duration)` go by, which may be negative; returns the new time."""
        self.uptime += timedelta(**duration).total_seconds()
        return self.leap(**duration)

    def leap(self, **duration: float) -> datetime:
        """Set the clock by `timedelta(**duration)`, in no time; returns the new time."""
        self.moment += timedelta(**duration)
        return self.moment


class CountingKey(ec.EllipticCurvePrivateKey):
    """An issuer's P-256 key that keeps what it was made to sign, and fails when it is told to.

    `signed` holds the to-be-signed bytes of every signature, in order, but not readiness' text. While `broken` is an exception, it is raised instead.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.signed: list[bytes] = []
        self.broken: Exception | None = None

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        if self.broken is not None:
            raise self.broken
        if data != PROOF:
            self.signed.append(bytes(data))
        return self._key.sign(data, signature_algorithm)

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._key.curve

    @property
    def key_size(self) -> int:
        return self._key.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._key.public_key()

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        return self._key.exchange(algorithm, peer_public_key)

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        return self._key.private_numbers()

    def private_bytes(self, *arguments: Any) -> bytes:
        return self._key.private_bytes(*arguments)

    def __copy__(self) -> "CountingKey":
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> "CountingKey":
        return self


class GatedValidation:
    """A validation that waits at a gate, so that a test can look at what is under way.

    `begun` counts the validations that were asked for. Behind the open `gate`, `inner` validates.
    """

    def __init__(self, inner: Validation) -> None:
        self.inner = inner
        self.begun = 0
        self.gate = asyncio.Event()

    async def validate(self, target: Target) -> Outcome:
        self.begun += 1
        await self.gate.wait()
        return await self.inner.validate(target)


Validations: TypeAlias = Mapping[ChallengeType, Validation]


def http01(wrap: Callable[[Validation], Validation]) -> Callable[[Validations], Validations]:
    """A change of the table of validations: http-01's goes through `wrap`."""
    return lambda table: {**table, ChallengeType.HTTP_01: wrap(table[ChallengeType.HTTP_01])}


class Site:
    """Where a CA lives, running or not. Made by `ca_site`."""

    def __init__(
        self, sections: Mapping[str, dict[str, object]], *, clock: Clock, responder: HttpPeer, provisioned: Provisioned
    ) -> None:
        self._sections = dict(sections)
        self.clock = clock
        self.responder = responder
        self.provisioned = provisioned
        self.config = Config.model_validate(self._sections)
        self.keys: dict[Path, CountingKey] = {}
        self.entropy: Callable[[int], bytes] = os.urandom

    @property
    def ambient(self) -> Ambient:
        return Ambient(clock=self.clock, entropy=self.entropy, uptime=lambda: self.clock.uptime)

    async def init(self) -> None:
        """Make root and intermediate."""
        await app.init(self.config, actor="admin:test", ambient=self.ambient)

    def reconfigure(self, **sections: Mapping[str, object]) -> None:
        """Change the configuration for the next start: `reconfigure(policy={"allowed_names": ["*.test"]})`."""
        for section, changes in sections.items():
            self._sections[section] = self._sections.get(section, {}) | dict(changes)
        self.config = Config.model_validate(self._sections)

    def open_key(self, path: Path) -> PrivateKey:
        """Loads an issuer's key as the CA does, and counts its signatures from then on."""
        key = self.keys.get(path)
        if key is None:
            loaded = pem.load_key(path)
            assert isinstance(loaded, ec.EllipticCurvePrivateKey)
            key = self.keys[path] = CountingKey(loaded)
        return key

    @property
    def issuer_key(self) -> CountingKey:
        """The key of the one issuer, once the CA was opened."""
        (key,) = self.keys.values()
        return key

    @contextlib.asynccontextmanager
    async def opened(
        self, *, validations: Callable[[Validations], Validations] | None = None
    ) -> AsyncIterator["RunningCa"]:
        """The CA without its listeners and duties. `validations` makes another table of the real one."""
        async with app.opened(self.config, ambient=self.ambient, open_key=self.open_key) as opened:
            if validations is not None:
                challenges = opened.services.challenges
                challenges._validations = validations(challenges._validations)
            yield RunningCa(self, opened)

    @contextlib.asynccontextmanager
    async def running(
        self, *, validations: Callable[[Validations], Validations] | None = None, duties: bool = True
    ) -> AsyncIterator["RunningCa"]:
        """The CA, serving. Stopped as by SIGTERM at the end.

        Without `duties` nothing happens by itself after the start, so that a test with a moving clock decides when.
        """
        async with self.opened(validations=validations) as ca:
            if not duties:
                vars(ca.opened.jobs)["run"] = asyncio.Event().wait
            async with app.serving(ca.opened):
                try:
                    yield ca
                finally:
                    await ca._close_sessions()


@dataclass
class RunningCa:
    """A CA that is open, and what a test does with it."""

    site: Site
    opened: app.Opened
    _sessions: list[aiohttp.ClientSession] = field(default_factory=list)

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        return self.opened.config

    @property
    def clock(self) -> Clock:
        return self.site.clock

    @property
    def provisioned(self) -> Provisioned:
        """What the http-01 responder serves: token to key authorization. The clients of `client` write it."""
        return self.site.provisioned

    @property
    def services(self) -> Services:
        return self.opened.services

    @property
    def store(self) -> Store:
        return self.opened.store

    @property
    def urls(self) -> Urls:
        return self.opened.services.urls

    @property
    def directory_url(self) -> str:
        return self.urls.directory

    @property
    def data_dir(self) -> Path:
        return self.config.server.data_dir

    @property
    def root_path(self) -> Path:
        """The root as PEM."""
        return app.root_path(self.config)

    @property
    def signer(self) -> SigningIssuer:
        return self.services.issuers.active

    @property
    def issuer(self) -> Issuer:
        """The intermediate."""
        return self.signer.issuer

    @property
    def root(self) -> Issuer:
        return self.services.issuers.roots[0].issuer

    @property
    def hostname(self) -> str:
        """The ACME listener's host, as its certificate names it."""
        return urlsplit(self.config.server.base_url).hostname or ""

    @property
    def acme_port(self) -> int:
        return self.config.server.acme_listen[1]

    @property
    def status_port(self) -> int:
        return self.config.server.status_listen[1]

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.config.server.admin_listen[1]}"

    # --- HTTP ---------------------------------------------------------------------------------------------------------

    def tls(self, *, check_time: bool = True) -> ssl.SSLContext:
        """TLS of a client that trusts this root and nothing else."""
        context = ssl.create_default_context(cadata=self.root.certificate.public_bytes(Encoding.PEM).decode())
        if not check_time:
            context.verify_flags |= _NO_CHECK_TIME
        return context

    def session(self, *, check_time: bool = False) -> aiohttp.ClientSession:
        """An HTTP client; closed with the CA."""
        connector = aiohttp.TCPConnector(ssl=self.tls(check_time=check_time), family=socket.AF_INET, limit=0)
        session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=30), auto_decompress=False
        )
        self._sessions.append(session)
        return session

    async def client(self, key: SigningKey | None = None, *, register: bool = True) -> AcmeClient:
        """An ACME client, with an account unless `register` is False."""
        client = await AcmeClient.connect(self.session(), self.directory_url, provisioned=self.provisioned, key=key)
        if register:
            await client.register()
        return client

    async def grant(self, **arguments: object) -> dict[str, Any]:
        """A grant, as `acmeca eab create` makes it: with its `kid` and its `hmac_key`."""
        return await self.opened.administration.call("eab_create", {"owner": "team-a"} | arguments, user="test")

    async def bound_client(self, grant: Mapping[str, Any]) -> AcmeClient:
        """A client with an account of this grant."""
        client = await self.client(register=False)
        (await client.register(externalAccountBinding=client.binding(grant))).ok(201)
        return client

    def relying_party(self, issuer: Issuer | None = None) -> StatusClient:
        """Asks for the status of what the intermediate (or another issuer) signed."""
        return StatusClient(self.session(), issuer or self.issuer)

    async def raw(self, data: bytes, *, status: bool = False, eof: bool = False) -> bytes:
        """Send bytes to the ACME listener (to the status listener when `status`) and read until it closes.

        The bytes should ask for `Connection: close`, or be such that the server closes. `eof` ends our half behind them.
        """
        port, tls = (self.status_port, None) if status else (self.acme_port, self.tls(check_time=False))
        hostname = None if status else self.hostname
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=hostname)
        try:
            writer.write(data)
            await writer.drain()
            if eof and writer.can_write_eof():
                writer.write_eof()
            async with asyncio.timeout(_PATIENCE):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    async def served_certificate(self) -> x509.Certificate:
        """The certificate that a new TLS connection is shown."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.acme_port, ssl=self.tls(check_time=False), server_hostname=self.hostname
        )
        del reader
        try:
            return x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        finally:
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    # --- the database -------------------------------------------------------------------------------------------------

    async def rows(self, sql: str, *values: str | int | bytes | None) -> list[dict[str, Any]]:
        """Rows of the database, read as the CA reads them."""
        found = await self.store.database.fetch_all(sql, *values)
        return [{name: row[name] for name in row.keys()} for row in found]  # noqa: SIM118  (a Row is no mapping)

    async def scalar(self, sql: str, *values: str | int | bytes | None) -> Any:
        """The one value of a query."""
        ((value,),) = [row.values() for row in await self.rows(sql, *values)]
        return value

    async def execute(self, sql: str, *values: str | int | bytes | None) -> int:
        """Change the database behind the CA's back, to make a state that is hard to come by."""
        return await self.store.database.write(lambda tx: tx.execute(sql, *values))

    async def counts(self) -> dict[str, int]:
        """How many rows each table has: what must not change when a request is refused."""
        tables = [row["name"] for row in await self.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {table: await self.scalar(f"SELECT COUNT(*) AS n FROM {table}") for table in tables}

    async def events(self, kind: str | None = None) -> list[str]:
        """The audit's events as JSON text, in order."""
        return [
            row["event"]
            for row in await self.rows("SELECT kind, event FROM audit ORDER BY writer, sequence")
            if kind is None or row["kind"] == kind
        ]

    async def _close_sessions(self) -> None:
        for session in self._sessions:
            await session.close()
        self._sessions.clear()


async def until(condition: Callable[[], Any], *, what: str = "the condition", patience: float = _PATIENCE) -> Any:
    """Look again and again until `condition` (a function, or a coroutine function) gives something true; returns that."""
    deadline = asyncio.get_running_loop().time() + patience
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"{what} did not come true within {patience:g} s")
        await asyncio.sleep(_TURN)


@contextlib.contextmanager
def held_answers(ca: RunningCa) -> Iterator[asyncio.Event]:
    """While inside, the http-01 responder keeps the CA waiting; the event lets it answer sooner."""
    gate = asyncio.Event()
    answers = ca.site.responder.answers
    answer = tokens(ca.provisioned)

    async def wait(connection: Connection) -> None:
        await gate.wait()
        await answer(connection)

    ca.site.responder.answers = [wait]
    try:
        yield gate
    finally:
        ca.site.responder.answers = answers
        gate.set()


@contextlib.asynccontextmanager
async def ca_site(*, clock: Clock | None = None, **sections: Mapping[str, object]) -> AsyncIterator[Site]:
    """A place for a CA, not made yet. `sections` go over the configuration, as in `Site.reconfigure`.

    The CA issues for `*.localhost`, which is this machine by definition (RFC 6761 §6.3), and asks our responder.
    """
    provisioned: Provisioned = {}
    with contextlib.ExitStack() as stack:
        acme_port, status_port, admin_port = (stack.enter_context(reserved_port()) for _ in range(3))
        data_dir = stack.enter_context(temporary_directory())
        async with http_peer(tokens(provisioned)) as responder:
            base: dict[str, dict[str, object]] = {
                "server": {
                    "base_url": f"https://localhost:{acme_port}",
                    "status_url": f"http://localhost:{status_port}",
                    "data_dir": data_dir,
                    "acme_listen": f"127.0.0.1:{acme_port}",
                    "status_listen": f"127.0.0.1:{status_port}",
                    "admin_listen": f"127.0.0.1:{admin_port}",
                },
                "ca": {"organization": "Example", "common_name": "Example CA"},
                "policy": {"allowed_names": ["*.localhost"], "allowed_networks": ["127.0.0.0/8"]},
                "validation": {"allowed_networks": ["127.0.0.0/8"], "http_port": responder.port},
            }
            site = Site(base, clock=clock or Clock(), responder=responder, provisioned=provisioned)
            site.reconfigure(**sections)
            yield site


@contextlib.asynccontextmanager
async def running_ca(
    *,
    clock: Clock | None = None,
    validations: Callable[[Validations], Validations] | None = None,
    duties: bool = True,
    **sections: Mapping[str, object],
) -> AsyncIterator[RunningCa]:
    """A new CA, serving; gone at the end."""
    async with ca_site(clock=clock, **sections) as site:
        await site.init()
        async with site.running(validations=validations, duties=duties) as ca:
            yield ca


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A port of 127.0.0.1 that nobody else is given while the block runs, and that we can listen on again and again.

    The socket that holds it never listens. Linux lets another one with SO_REUSEADDR bind and listen beside it, and hands
    the port out to nobody who asks for any.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    """A directory of mode 0700, in memory where that is possible."""
    path = Path(tempfile.mkdtemp(prefix="acmeca-test-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None))
    try:
        yield path
    finally:
        shutil.rmtree(path)
