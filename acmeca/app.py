"""The composition root: the only place where concrete classes meet.

Rule 1: what is opened here is closed here, in the opposite order.
Rule 2: `opened` is the CA without its listeners (the command line works on that when no server runs); `serve` adds them.
"""

import asyncio
import hashlib
import json
import logging
import os
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from aiohttp import web

from acmeca import __version__, audit
from acmeca.acme.states import OrderStatus
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
from acmeca.service.condition import Condition
from acmeca.service.issuers import Hierarchy, HierarchyNames, Issuers, create_hierarchy, to_pem
from acmeca.service.jobs import Jobs
from acmeca.service.leadership import Leadership
from acmeca.service.orders import Orders
from acmeca.service.own_certificates import OwnCertificates
from acmeca.service.probes import Disks, WriteWatch, in_thread
from acmeca.service.readiness import Readiness
from acmeca.service.requests import Nonces, Requests
from acmeca.service.retention import Retention
from acmeca.service.services import Services
from acmeca.service.status import Status, StatusSettings
from acmeca.storage import placement
from acmeca.storage.database import Database, Seal
from acmeca.storage.errors import FencedError
from acmeca.storage.issuers import StoredIssuer
from acmeca.storage.journal import Journal
from acmeca.storage.lock import StoreLock
from acmeca.storage.node import node_name
from acmeca.storage.nonce_file import FileNonces
from acmeca.storage.observation import CommitObserver
from acmeca.storage.postgres import PostgresDatabase
from acmeca.storage.postgres_nonces import PostgresNonces
from acmeca.storage.schema import read_steps
from acmeca.storage.sqlite import SqliteDatabase
from acmeca.storage.store import Store
from acmeca.storage.writers import CommitSeal, Others, Writer
from acmeca.validation.http01 import Http01Validator
from acmeca.validation.networks import Endpoint
from acmeca.validation.resolver import build_resolver
from acmeca.web.acme import MAX_BODY, AcmeResources
from acmeca.web.admin import Load, build_admin_app, keep_sampling
from acmeca.web.control import SOCKET_NAME, build_control_app
from acmeca.web.front_page import CertificateCard, FrontPageModel, add_front_page, build_certificate_card
from acmeca.web.limits import ConnectionLimits, raise_descriptor_limit
from acmeca.web.listener import Listener, ListenerError, bind_address, bind_socket_file
from acmeca.web.metrics import Metrics, observing
from acmeca.web.middleware import acme_middleware, build_refusal
from acmeca.web.status import StatusResources, status_middleware
from acmeca.workers.seat import Seat

log = logging.getLogger(__name__)

NONCE_FILE = "nonces"


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
    metrics: Metrics
    condition: Condition
    load: Load


async def holds_ca(config: Config) -> bool:
    """Whether there is a CA in the database. Nothing is made by looking at one that is a file and not there."""
    path = config.database_path
    if path is not None and not path.exists():
        return False
    async with opened_store(config) as store:
        return bool(await store.issuers.all())


@contextmanager
def locked(config: Config) -> Iterator[StoreLock]:
    """The data directory, ours alone. Raises `LockedError` while another process works in it."""
    data_dir = config.server.data_dir
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    require_own(data_dir)
    with StoreLock(data_dir) as lock:
        pem.remove_leftovers(data_dir)
        if config.database_path is not None and placement.is_decided(config.database_path):
            aside = placement.finish(config.database_path)
            log.warning("a restore was interrupted and is finished now; the database that was there is %s", aside)
        yield lock


@asynccontextmanager
async def opened_store(
    config: Config, *, ambient: Ambient | None = None, observer: CommitObserver | None = None
) -> AsyncIterator[Store]:
    """The store of a data directory, under its lock. Raises `LockedError` while another process works in it."""
    with locked(config):
        async with _only_store(config, ambient=ambient or real_ambient(), observer=observer) as store:
            yield store


def is_database_there(config: Config) -> bool:
    """Whether there is something to open: the file, a restored one that waits to take its place (`opened_store` sees to that),
    or a server, which alone can say.
    """
    path = config.database_path
    return path is None or path.exists() or placement.is_decided(path)


@asynccontextmanager
async def _only_store(
    config: Config, *, ambient: Ambient, observer: CommitObserver | None = None
) -> AsyncIterator[Store]:
    """The store, for the only one who works in the data directory: its lock is held, and there are no workers."""
    writer = Writer(node_name(config.server.data_dir, entropy=ambient.entropy), ambient.new_id())
    alone = config.database_path is not None  # a database server has other hosts' processes too
    async with claimed_store(config, writer, ambient=ambient, observer=observer, alone=alone) as store:
        yield store


@asynccontextmanager
async def _worker_store(
    config: Config, seat: Seat, *, ambient: Ambient, observer: CommitObserver
) -> AsyncIterator[Store]:
    """The store, for a worker: its supervisor holds the lock and has prepared it (`prepare`)."""
    writer = Writer(seat.writer(node_name(config.server.data_dir, entropy=ambient.entropy)), ambient.new_id())
    async with claimed_store(config, writer, ambient=ambient, observer=observer, alone=False) as store:
        yield store


async def prepare(config: Config) -> tuple[bytes, ...]:
    """Before the workers of a server start: bring the store up to date, and shut out whoever wrote to it before.

    The lock is held. Returns the roots' certificates (DER).
    """
    async with _only_store(config, ambient=real_ambient()) as store:
        return tuple(item.issuer.certificate_der for item in await store.issuers.all() if item.is_root)


@asynccontextmanager
async def claimed_store(
    config: Config,
    writer: Writer,
    *,
    ambient: Ambient,
    alone: bool,
    observer: CommitObserver | None = None,
    path: Path | None = None,
) -> AsyncIterator[Store]:
    """The store, open for `writer`. `alone` says that nobody else can be writing to it; `path` is an SQLite file in its place."""
    journal = Journal(config.journal_dir, writer=writer.name, instance=writer.instance, clock=ambient.now)
    seal = CommitSeal(writer, journal, schema=len(read_steps()))
    store = Store(
        await open_database(config, seal, observer=observer, path=path),
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


async def open_database(
    config: Config, seal: Seal, *, observer: CommitObserver | None = None, path: Path | None = None
) -> Database:
    """The database of a configuration, or the SQLite file at `path`."""
    path = path or config.database_path
    if path is not None:
        return await SqliteDatabase.open(path, seal=seal, observer=observer)
    return await PostgresDatabase.open(config.storage.url, seal=seal, observer=observer)


@asynccontextmanager
async def _opened_nonces(config: Config, ambient: Ambient) -> AsyncIterator[Nonces]:
    """Where the database is a file, all processes are on this machine, and share a file of nonces too."""
    if config.database_path is not None:
        file_nonces = FileNonces.open(config.server.data_dir / NONCE_FILE, entropy=ambient.entropy)
        try:
            yield file_nonces
        finally:
            file_nonces.close()
    else:
        nonces = await PostgresNonces.open(config.storage.url, entropy=ambient.entropy)
        try:
            yield nonces
        finally:
            await nonces.close()


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
    seat: Seat | None = None,
) -> AsyncIterator[Opened]:
    """Open the CA of a configuration. `open_key` loads an issuer's key from its path below the data directory.

    With a `seat` as one of a server's workers, without as the only process.
    """
    ambient = ambient or real_ambient()
    metrics = Metrics()
    writes = WriteWatch(ambient=ambient, then=metrics)
    if seat is None:
        opening = opened_store(config, ambient=ambient, observer=writes)
    else:
        opening = _worker_store(config, seat, ambient=ambient, observer=writes)
    async with opening as store, _opened_nonces(config, ambient) as nonces:
        ca = await _compose(
            config, store, nonces=nonces, metrics=metrics, writes=writes, ambient=ambient, open_key=open_key
        )
        _write_root(config, ca.services.issuers.roots_pem())
        try:
            yield ca
            await _sign_if_possible(ca.audit_heads.sign)
        finally:
            await ca.condition.stop()
            await ca.services.readiness.stop()


async def _compose(
    config: Config,
    store: Store,
    *,
    nonces: Nonces,
    metrics: Metrics,
    writes: WriteWatch,
    ambient: Ambient,
    open_key: Callable[[Path], PrivateKey],
) -> Opened:
    data_dir = config.server.data_dir
    urls = config.urls
    issuers = Issuers(await store.issuers.all(), open_key=lambda reference: open_key(data_dir / reference))
    names = NamePolicy(config.policy.allowed_names, config.policy.allowed_networks)
    endpoints = _Endpoints()
    others = Others(store.writers, own=store.writer, clock=time.monotonic)
    store.orders.on_invalid = lambda count: metrics.orders_closed(OrderStatus.INVALID, count)
    disks = Disks(_written_directories(config))

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
        observer=metrics,
    )
    certificates = Certificates(
        store,
        others=others,
        issuers=issuers,
        status=status,
        names=names,
        lifetime=config.policy.lifetime,
        ambient=ambient,
        observer=metrics,
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
        observer=metrics,
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
    readiness = Readiness(
        store,
        issuers=issuers,
        status=status,
        writes=writes,
        disks=disks,
        ambient=ambient,
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
            readiness=readiness,
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
            retention=Retention(
                store,
                orders=config.retention.orders,
                certificates=config.retention.certificates,
                ambient=ambient,
            ),
            audit_heads=audit_heads,
        ),
        audit_heads=audit_heads,
        endpoints=endpoints,
        tls=tls,
        metrics=metrics,
        condition=Condition(
            store,
            issuers=issuers,
            status=status,
            own_certificates=own_certificates,
            readiness=readiness,
            disks=disks,
            database_bytes=lambda: _database_bytes(config, store.database),
            ambient=ambient,
        ),
        load=Load(writes_waiting=lambda: store.database.waiting_writes),
    )


async def _database_bytes(config: Config, database: Database) -> int:
    """The database's file and its log, or what the database server says."""
    path = config.database_path
    if path is None:
        row = await database.fetch_one("SELECT pg_database_size(current_database()) AS size")
        return 0 if row is None else int(row["size"])
    files = (path, path.with_name(f"{path.name}-wal"))
    return await in_thread(lambda: sum(file.stat().st_size for file in files if file.exists()))


def _written_directories(config: Config) -> tuple[Path, ...]:
    """Those that need room. What lies below the data directory is told with it, unless it is a file system of its own."""
    data_dir = config.server.data_dir
    others = [config.journal_dir]
    if config.database_path is not None:
        others.append(config.database_path.parent)
    return (data_dir, *(path for path in others if not path.is_relative_to(data_dir) or path.is_mount()))


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
    middleware = observing(opened.metrics, acme_middleware(opened.services))
    app = web.Application(middlewares=[middleware], client_max_size=MAX_BODY)
    AcmeResources(opened.services).add_routes(app)
    add_front_page(app, lambda: front_page_model(opened))
    return app


def build_status_app(opened: Opened) -> web.Application:
    """The application of the status listener."""
    app = web.Application(middlewares=[status_middleware], client_max_size=MAX_BODY)
    StatusResources(opened.services).add_routes(app)
    add_front_page(app, lambda: front_page_model(opened))
    return app


def build_operations_app(opened: Opened) -> web.Application:
    """The application of the admin listener."""
    return build_admin_app(
        metrics=opened.metrics,
        condition=opened.condition,
        readiness=opened.services.readiness,
        load=opened.load,
    )


def bind_sockets(config: Config, *, workers: int) -> list[dict[str, list[socket.socket]]]:
    """For each worker the sockets that it serves on, by the names of the listeners. Raises `ListenerError`."""
    shares: list[dict[str, list[socket.socket]]] = [{} for _ in range(workers)]
    for name, (host, port) in (
        ("acme", config.server.acme_listen),
        ("status", config.server.status_listen),
        ("admin", config.server.admin_listen),
    ):
        try:
            bound = bind_address(host, port, shares=workers)
        except ListenerError as error:
            if name != "admin" or config.server.is_admin_listen_asked_for:
                raise
            _log_without_metrics(error)
            continue
        for share, sockets in zip(shares, bound, strict=True):
            share[name] = sockets
    shares[0]["control"] = [bind_socket_file(config.server.data_dir / SOCKET_NAME)]
    return shares


@asynccontextmanager
async def serving(opened: Opened, *, seat: Seat | None = None) -> AsyncIterator[None]:
    """The listeners and duties of an open CA, from ready to stopped. With a `seat`, on the sockets that it gives."""
    config = opened.config
    sockets = {} if seat is None else seat.take()
    acme_host, acme_port = config.server.acme_listen
    status_host, status_port = config.server.status_listen
    limits = ConnectionLimits.from_descriptors(raise_descriptor_limit()).shared_by(1 if seat is None else seat.of)
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
    admin_host, admin_port = config.server.admin_listen
    admin = Listener(build_operations_app(opened), host=admin_host, port=admin_port, max_connections=limits.admin)
    opened.load.listeners.update(acme=acme, status=status, control=control, admin=admin)
    socket_path = config.server.data_dir / SOCKET_NAME
    async with AsyncExitStack() as stack:
        await opened.jobs.prepare()
        # Pushed in the opposite order of what a stop does: requests may begin validations, so they are finished first.
        stack.push_async_callback(opened.services.challenges.stop)
        if seat is None:
            stack.callback(socket_path.unlink, missing_ok=True)
        stack.push_async_callback(_stop_all, (status, acme, control, admin))
        await status.start(sockets.get("status"))
        await acme.start(sockets.get("acme"))
        if seat is None:
            await _start_admin(admin, config)
            await control.start_on_socket(socket_path)
        else:
            for listener, name in ((admin, "admin"), (control, "control")):
                if name in sockets:
                    await listener.start(sockets[name])
        opened.endpoints.listeners.extend((status, acme, admin))
        await _note_if_possible(
            opened, audit.ServerStarted(actor=audit.SYSTEM, version=__version__, config_sha256=config_sha256(config))
        )
        await _sign_if_possible(opened.audit_heads.sign_with_new_key)
        jobs = asyncio.create_task(opened.jobs.run(), name="jobs")
        sampling = asyncio.create_task(
            keep_sampling(metrics=opened.metrics, readiness=opened.services.readiness, load=opened.load),
            name="sampling",
        )
        try:
            yield
        finally:
            for task in (jobs, sampling):
                task.cancel()
            for task in (sampling, jobs):
                with suppress(asyncio.CancelledError):
                    await task
    await _note_if_possible(opened, audit.ServerStopped(actor=audit.SYSTEM, version=__version__))


async def _start_admin(admin: Listener, config: Config) -> None:
    """What was asked for has to be there. A port that nobody chose may be taken: no CA is down for want of its metrics."""
    try:
        await admin.start()
    except ListenerError as error:
        if config.server.is_admin_listen_asked_for:
            raise
        _log_without_metrics(error)


def _log_without_metrics(error: ListenerError) -> None:
    log.warning("no metrics are served: %s. It is server.admin_listen that says where", error)


async def _stop_all(listeners: Sequence[Listener]) -> None:
    """All at once: each may wait for requests under way, and a service manager waits for all of them."""
    await asyncio.gather(*(listener.stop() for listener in listeners))


async def serve(config: Config, *, on_ready: Callable[[Opened], None], seat: Seat | None = None) -> None:
    """Run until SIGINT or SIGTERM; what is in flight then is finished. With a `seat`, as one of a server's workers."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with opened(config, seat=seat) as ca:
        async with serving(ca, seat=seat):
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


def require_own(data_dir: Path) -> None:
    """RULES §6: whoever can write to the data directory can take its keys' place, so that is the owner alone."""
    found = data_dir.stat()
    if found.st_uid != os.geteuid():
        raise AcmecaError(f"{data_dir} belongs to another user; run this as that user (uid {found.st_uid})")
    if found.st_mode & 0o022:
        raise AcmecaError(f"others can write to {data_dir}, and to the keys in it; run: chmod 700 {data_dir}")


def config_sha256(config: Config) -> str:
    """The digest of the checked values, in hex: what `server.started` says of its configuration. It holds no secret."""
    document = config.model_dump(mode="json")
    document["storage"]["url"] = (
        config.storage.url if config.storage.postgres is None else config.storage.postgres.redacted
    )
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


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
