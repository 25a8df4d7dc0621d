"""The composition root: the only place where concrete classes meet.

Rule 1: what is opened here is closed here, in the opposite order.
Rule 2: `opened` is the CA without its listeners (the command line works on that when no server runs); `serve` adds them.
"""

import asyncio
import hashlib
import logging
import os
import signal
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from aiohttp import web

from acmeca import __version__, audit
from acmeca.config import Config, ConfigError
from acmeca.errors import AcmecaError
from acmeca.keystore import pem
from acmeca.pki.signing import PrivateKey
from acmeca.policy.keys import parse_weak_keys
from acmeca.policy.names import NamePolicy
from acmeca.service.accounts import Accounts
from acmeca.service.administration import Administration
from acmeca.service.ambient import Ambient
from acmeca.service.audit_heads import AuditHeads
from acmeca.service.certificates import Certificates
from acmeca.service.challenges import Challenges
from acmeca.service.issuers import Hierarchy, HierarchyNames, Issuers, create_hierarchy, to_pem
from acmeca.service.jobs import Jobs
from acmeca.service.leadership import Leadership
from acmeca.service.orders import Orders
from acmeca.service.own_certificates import OwnCertificates
from acmeca.service.readiness import Readiness
from acmeca.service.requests import Nonces, Requests
from acmeca.service.services import Services
from acmeca.service.status import Status, StatusSettings
from acmeca.storage.errors import FencedError
from acmeca.storage.issuers import StoredIssuer
from acmeca.storage.journal import Journal
from acmeca.storage.lock import StoreLock
from acmeca.storage.node import node_name
from acmeca.storage.nonce_file import FileNonces
from acmeca.storage.sqlite import SqliteDatabase
from acmeca.storage.store import Store
from acmeca.storage.writers import CommitSeal, Others, Writer
from acmeca.validation.http01 import Http01Validator
from acmeca.validation.networks import Endpoint
from acmeca.validation.resolver import build_resolver
from acmeca.web.acme import MAX_BODY, AcmeResources
from acmeca.web.control import SOCKET_NAME, build_control_app
from acmeca.web.front_page import CertificateCard, FrontPageModel, add_front_page, build_certificate_card
from acmeca.web.limits import ConnectionLimits, raise_descriptor_limit
from acmeca.web.listener import Listener
from acmeca.web.middleware import acme_middleware, build_refusal
from acmeca.web.status import StatusResources, status_middleware

log = logging.getLogger(__name__)

_NONCE_FILE = "nonces"


def real_ambient() -> Ambient:
    """The machine's clock and its random source."""
    return Ambient(clock=lambda: datetime.now(UTC), entropy=os.urandom)


@dataclass(slots=True)
class _Endpoints:
    """Where our own listeners are bound: http-01 never connects there (RULES §3)."""

    listeners: list[Listener] = field(default_factory=list)

    def __call__(self) -> frozenset[Endpoint]:
        return frozenset(
            (ip_address(address), port) for listener in self.listeners for address, port in listener.endpoints
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A CA that is open: its services, what administrators use, and its duties."""

    config: Config
    store: Store
    services: Services
    administration: Administration
    jobs: Jobs
    audit_heads: AuditHeads
    endpoints: _Endpoints
    tls: ssl.SSLContext


@asynccontextmanager
async def opened_store(config: Config, *, ambient: Ambient | None = None) -> AsyncIterator[Store]:
    """The store of a data directory, under its lock. Raises `LockedError` while another process works in it."""
    ambient = ambient or real_ambient()
    data_dir = config.server.data_dir
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    _require_own(data_dir)
    with StoreLock(data_dir):
        pem.remove_leftovers(data_dir)
        name = node_name(data_dir, entropy=ambient.entropy)
        async with _claimed_store(config, Writer(name, ambient.new_id()), ambient=ambient, alone=True) as store:
            yield store


@asynccontextmanager
async def _claimed_store(config: Config, writer: Writer, *, ambient: Ambient, alone: bool) -> AsyncIterator[Store]:
    """The store, open for `writer`. `alone` says that nobody else can be writing to it."""
    journal = Journal(config.journal_dir, writer=writer.name, instance=writer.instance, clock=ambient.now)
    store = Store(
        await SqliteDatabase.open(config.database_path, seal=CommitSeal(writer, journal)),
        writer=writer,
    )
    try:
        await store.writers.claim(alone=alone)
        yield store
        try:
            await store.writers.release()
        except AcmecaError as error:  # a full disk: others see that it is gone a little later
            log.warning("the end of this process is not written down: %s", error)
    finally:
        await store.close()
        journal.close()


async def init(config: Config, *, actor: str, ambient: Ambient | None = None) -> Hierarchy:
    """Make a CA: root, root CRL, intermediate. Raises `Conflict` when there is one."""
    async with opened_store(config, ambient=ambient) as store:
        hierarchy = await create_hierarchy(
            store,
            names=HierarchyNames(config.ca.organization, config.ca.common_name),
            urls=config.urls,
            data_dir=config.server.data_dir,
            ambient=ambient or real_ambient(),
            actor=actor,
        )
        _write_root(config, to_pem(hierarchy.root.certificate_der))
        return hierarchy


@asynccontextmanager
async def opened(
    config: Config,
    *,
    ambient: Ambient | None = None,
    open_key: Callable[[Path], PrivateKey] = pem.load_key,
) -> AsyncIterator[Opened]:
    """Open the CA of a configuration. `open_key` loads an issuer's key from its path below the data directory."""
    ambient = ambient or real_ambient()
    async with opened_store(config, ambient=ambient) as store:
        nonces = FileNonces.open(config.server.data_dir / _NONCE_FILE, entropy=ambient.entropy)
        try:
            ca = await _compose(config, store, nonces=nonces, ambient=ambient, open_key=open_key)
            _write_root(config, ca.services.issuers.roots_pem())
            yield ca
            await _sign_if_possible(ca.audit_heads.sign)
        finally:
            nonces.close()


async def _compose(
    config: Config, store: Store, *, nonces: Nonces, ambient: Ambient, open_key: Callable[[Path], PrivateKey]
) -> Opened:
    data_dir = config.server.data_dir
    urls = config.urls
    issuers = Issuers(await store.issuers.all(), open_key=lambda reference: open_key(data_dir / reference))
    names = NamePolicy(config.policy.allowed_names, config.policy.allowed_networks)
    endpoints = _Endpoints()
    others = Others(store.writers, own=store.writer, clock=time.monotonic)

    weak_keys = _weak_keys(config)

    accounts = Accounts(store, ambient=ambient, weak_keys=weak_keys)
    status = Status(
        store,
        issuers=issuers,
        settings=StatusSettings(
            ocsp_lifetime=config.status.ocsp_lifetime,
            crl_lifetime=config.status.crl_lifetime,
            crl_interval=config.status.crl_interval,
        ),
        ambient=ambient,
    )
    certificates = Certificates(
        store,
        others=others,
        issuers=issuers,
        status=status,
        names=names,
        lifetime=config.policy.lifetime,
        ambient=ambient,
        weak_keys=weak_keys,
    )
    orders = Orders(store, certificates=certificates, names=names, ambient=ambient)
    challenges = Challenges(
        store,
        others=others,
        accounts=accounts,
        validator=Http01Validator(
            resolver=build_resolver(config.validation.resolvers),
            allowed_networks=config.validation.allowed_networks,
            own_endpoints=endpoints,
            own_urls=(urls.base, urls.status),
            user_agent=f"acmeca/{__version__} (http-01 validation)",
            http_port=config.validation.http_port,
        ),
        ambient=ambient,
    )
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    own_certificates = OwnCertificates(
        certificates=certificates,
        issuers=issuers,
        status=status,
        base_url=config.server.base_url,
        data_dir=data_dir,
        ambient=ambient,
        on_listener=tls.load_cert_chain,  # on a context in use: new connections get the new certificate
    )
    audit_heads = AuditHeads(store, data_dir=data_dir, ambient=ambient)
    return Opened(
        config=config,
        store=store,
        services=Services(
            ambient=ambient,
            urls=urls,
            nonces=nonces,
            requests=Requests(accounts=accounts, nonces=nonces, urls=urls),
            accounts=accounts,
            orders=orders,
            challenges=challenges,
            certificates=certificates,
            issuers=issuers,
            status=status,
            readiness=Readiness(store, issuers=issuers, status=status, ambient=ambient),
        ),
        administration=Administration(
            store, certificates=certificates, issuers=issuers, status=status, ambient=ambient
        ),
        jobs=Jobs(
            store,
            leadership=Leadership(store, others=others),
            orders=orders,
            challenges=challenges,
            certificates=certificates,
            own_certificates=own_certificates,
            status=status,
            audit_heads=audit_heads,
        ),
        audit_heads=audit_heads,
        endpoints=endpoints,
        tls=tls,
    )


def _weak_keys(config: Config) -> frozenset[bytes]:
    """The keys of every list that is configured. Raises `ConfigError` for one that cannot be read."""
    keys: frozenset[bytes] = frozenset()
    for path in config.policy.weak_key_lists:
        try:
            keys |= parse_weak_keys(path.read_text(encoding="ascii"))
        except OSError as error:
            raise ConfigError("policy.weak_key_lists", [f"{path} cannot be read: {error.strerror}"]) from None
        except ValueError as error:
            raise ConfigError("policy.weak_key_lists", [f"{path} is no list of weak keys: {error}"]) from None
    return keys


def build_acme_app(opened: Opened) -> web.Application:
    """The application of the ACME listener."""
    app = web.Application(middlewares=[acme_middleware(opened.services)], client_max_size=MAX_BODY)
    AcmeResources(opened.services).add_routes(app)
    add_front_page(app, lambda: front_page_model(opened))
    return app


def build_status_app(opened: Opened) -> web.Application:
    """The application of the status listener."""
    app = web.Application(middlewares=[status_middleware], client_max_size=MAX_BODY)
    StatusResources(opened.services).add_routes(app)
    add_front_page(app, lambda: front_page_model(opened))
    return app


@asynccontextmanager
async def serving(opened: Opened) -> AsyncIterator[None]:
    """The listeners and duties of an open CA, from ready to stopped."""
    config = opened.config
    acme_host, acme_port = config.server.acme_listen
    status_host, status_port = config.server.status_listen
    limits = ConnectionLimits.from_descriptors(raise_descriptor_limit())
    status = Listener(build_status_app(opened), host=status_host, port=status_port, max_connections=limits.status)
    acme = Listener(
        build_acme_app(opened),
        host=acme_host,
        port=acme_port,
        tls=opened.tls,
        max_connections=limits.acme,
        refusal=build_refusal,
    )
    control = Listener(build_control_app(opened.administration), host="", port=0, max_connections=limits.control)
    socket_path = config.server.data_dir / SOCKET_NAME
    async with AsyncExitStack() as stack:
        await opened.jobs.prepare()
        # Pushed in the opposite order of what a stop does: requests may begin validations, so they are finished first.
        stack.push_async_callback(opened.services.challenges.stop)
        stack.callback(socket_path.unlink, missing_ok=True)
        stack.push_async_callback(_stop_all, (status, acme, control))
        await status.start()
        await acme.start()
        opened.endpoints.listeners.extend((status, acme))
        await control.start_on_socket(socket_path)
        await _note_if_possible(
            opened, audit.ServerStarted(actor=audit.SYSTEM, version=__version__, config_sha256=config_sha256(config))
        )
        await _sign_if_possible(opened.audit_heads.sign_with_new_key)
        jobs = asyncio.create_task(opened.jobs.run(), name="jobs")
        try:
            yield
        finally:
            jobs.cancel()
            with suppress(asyncio.CancelledError):
                await jobs
    await _note_if_possible(opened, audit.ServerStopped(actor=audit.SYSTEM, version=__version__))


async def _stop_all(listeners: Sequence[Listener]) -> None:
    """All at once: each may wait for requests under way, and a service manager waits for all of them."""
    await asyncio.gather(*(listener.stop() for listener in listeners))


async def serve(config: Config, *, on_ready: Callable[[Opened], None]) -> None:
    """Run until SIGINT or SIGTERM; what is in flight then is finished."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with opened(config) as ca:
        async with serving(ca):
            on_ready(ca)
            fenced = asyncio.create_task(ca.jobs.fenced.wait())
            asked = asyncio.create_task(stop.wait())
            await asyncio.wait({fenced, asked}, return_when=asyncio.FIRST_COMPLETED)
            log.info("stopping: requests in flight are finished")
            for task in (fenced, asked):
                task.cancel()
        if ca.jobs.fenced.is_set():
            raise FencedError(
                f"another process writes as {ca.store.writer.name} now; if both are meant to run, the data directory of one is "
                "a copy: delete the file node in it"
            )


def root_path(config: Config) -> Path:
    """Where the roots are written as PEM, for clients on this machine."""
    return config.server.data_dir / "root.pem"


async def _note_if_possible(opened: Opened, event: audit.Event) -> None:
    """Starts and stops: on a full disk nothing is issued, but OCSP and the CRLs have to be served all the same."""
    try:
        await opened.store.note(event, at=opened.services.ambient.now())
    except AcmecaError:
        log.exception("%s is not in the audit", event.kind)


async def _sign_if_possible(sign: Callable[[], Awaitable[None]]) -> None:
    """Heads at a start and an end: a full disk, or a key that cannot be read, hinders neither."""
    try:
        await sign()
    except (AcmecaError, OSError) as error:
        log.warning("the audit's head is not signed: %s", error)


def _write_root(config: Config, roots_pem: bytes) -> None:
    """The roots for clients on this machine, when they are not there already."""
    path = root_path(config)
    if not path.exists() or path.read_bytes() != roots_pem:
        pem.write_durably(path, roots_pem, mode=0o644)


def _require_own(data_dir: Path) -> None:
    """RULES §6: whoever can write to the data directory can take its keys' place, so that is the owner alone."""
    found = data_dir.stat()
    if found.st_uid != os.geteuid():
        raise AcmecaError(f"{data_dir} belongs to another user; run this as that user (uid {found.st_uid})")
    if found.st_mode & 0o022:
        raise AcmecaError(f"others can write to {data_dir}, and to the keys in it; run: chmod 700 {data_dir}")


def config_sha256(config: Config) -> str:
    """The digest of the checked values, in hex: what `server.started` says of its configuration. It holds no secret."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()


def front_page_model(opened: Opened) -> FrontPageModel:
    """What the front page says of this CA."""
    config, issuers, urls = opened.config, opened.services.issuers, opened.services.urls
    root, *_ = issuers.roots

    def card(item: StoredIssuer) -> CertificateCard:
        issuer = item.issuer
        return build_certificate_card(
            issuer.certificate,
            pem_url=urls.issuer_pem(issuer.id),
            der_url=urls.issuer_der(issuer.id),
            crl_url=issuer.crl_url,
            ocsp_url=None if item.is_root else issuer.ocsp_url,
        )

    return FrontPageModel(
        ca_name=config.ca.common_name,
        organization=config.ca.organization,
        demo=config.server.demo,
        version=__version__,
        directory_url=urls.directory,
        status_url=urls.status,
        roots_url=urls.roots,
        bundle_url=urls.bundle,
        root=card(root),
        issuers=tuple(card(item) for item in issuers.all if not item.is_root),
        allowed_names=config.policy.allowed_names,
        allowed_networks=tuple(str(network) for network in config.policy.allowed_networks),
        http_port=config.validation.http_port,
    )
