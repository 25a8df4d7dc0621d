"""The composition root: the only place where concrete classes meet.

Rule 1: what is opened here is closed here, in the opposite order.
Rule 2: `opened` is the CA without its listeners (the command line works on that when no server runs); `listeners.py` adds them.
"""

import hashlib
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from acmeca import __version__
from acmeca.acme.states import OrderStatus
from acmeca.app.stores import opened_nonces, opened_store, real_ambient, worker_store
from acmeca.app.validations import build_caa, build_dns_client, build_validations
from acmeca.config import Config, ConfigError
from acmeca.errors import AcmecaError
from acmeca.keystore import pem
from acmeca.pki.signing import PrivateKey
from acmeca.policy.challenges import ChallengePolicy
from acmeca.policy.keys import parse_weak_keys
from acmeca.policy.lifetimes import Lifetimes
from acmeca.policy.names import NamePolicy
from acmeca.policy.terms import TermsOfService
from acmeca.service.accounts import Accounts
from acmeca.service.administration import Administration
from acmeca.service.ambient import Ambient
from acmeca.service.audit_heads import AuditHeads
from acmeca.service.authorizations import Authorizations
from acmeca.service.bindings import Bindings, MacKeys
from acmeca.service.certificates import Certificates
from acmeca.service.challenges import Challenges
from acmeca.service.condition import Condition
from acmeca.service.grants import GrantAdministration
from acmeca.service.issuance import Issuance
from acmeca.service.issuers import Hierarchy, HierarchyNames, Issuers, create_hierarchy, to_pem
from acmeca.service.jobs import Jobs
from acmeca.service.keys import KeyAdministration
from acmeca.service.leadership import Leadership
from acmeca.service.limit_administration import LimitAdministration
from acmeca.service.limits import Limits
from acmeca.service.orders import Orders
from acmeca.service.own_certificates import OwnCertificates
from acmeca.service.probes import Disks, WriteWatch, in_thread
from acmeca.service.profiles import Profiles
from acmeca.service.readiness import Readiness
from acmeca.service.renewal_windows import RenewalWindows
from acmeca.service.renewals import Renewals
from acmeca.service.requests import Nonces, Requests
from acmeca.service.retention import Retention
from acmeca.service.services import Services
from acmeca.service.status import Status, StatusSettings
from acmeca.storage.database import Database
from acmeca.storage.issuers import StoredIssuer
from acmeca.storage.store import Store
from acmeca.storage.writers import Others
from acmeca.urls import Paths
from acmeca.validation.networks import Endpoint
from acmeca.web.admin import Load
from acmeca.web.front_page import CertificateCard, FrontPageModel, build_certificate_card
from acmeca.web.listener import Listener
from acmeca.web.metrics import Metrics
from acmeca.workers.seat import Seat

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Endpoints:
    """Where our own listeners are bound: validations never connect there (RULES §3)."""

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
        opening = worker_store(config, seat, ambient=ambient, observer=writes)
    async with opening as store, opened_nonces(config, ambient) as nonces:
        ca = await _compose(
            config, store, nonces=nonces, metrics=metrics, writes=writes, ambient=ambient, open_key=open_key
        )
        _write_root(config, ca.services.issuers.roots_pem())
        try:
            yield ca
            await sign_if_possible(ca.audit_heads.sign)
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
    names = NamePolicy(config.policy.allowed_names, config.policy.allowed_networks, wildcards=config.policy.wildcards)
    challenge_policy = ChallengePolicy(config.validation.challenges)
    lifetimes = Lifetimes(config.policy.authorization_lifetime)
    endpoints = _Endpoints()
    others = Others(store.writers, own=store.writer, clock=time.monotonic)
    store.orders.on_invalid = lambda count: metrics.orders_closed(OrderStatus.INVALID, count)
    disks = Disks(_written_directories(config))

    weak_keys = _weak_keys(config)
    client = build_dns_client(config)
    caa = build_caa(config, client)

    mac_keys = MacKeys(data_dir, entropy=ambient.entropy)
    terms = TermsOfService(config.server.terms_of_service, config.server.terms_must_be_agreed_again)
    limits = Limits(store, rates=config.limits.rates, ambient=ambient, observer=metrics)
    accounts = Accounts(
        store,
        bindings=Bindings(store, keys=mac_keys),
        binding_required=config.policy.external_account_required,
        terms=terms,
        urls=urls,
        limits=limits,
        ambient=ambient,
        weak_keys=weak_keys,
    )
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
        store, issuers=issuers, challenges=challenge_policy, status=status, ambient=ambient, observer=metrics
    )
    profiles = Profiles(store, offer=config.profiles, ambient=ambient)
    issuance = Issuance(
        store,
        others=others,
        issuers=issuers,
        names=names,
        caa=caa,
        limits=limits,
        profiles=profiles,
        ambient=ambient,
        observer=metrics,
        weak_keys=weak_keys,
    )
    renewals = Renewals(store, issuers=issuers, longest_wait=config.renewal.retry_after, ambient=ambient)
    orders = Orders(
        store,
        issuance=issuance,
        profiles=profiles,
        renewals=renewals,
        authorizations=Authorizations(store, lifetimes=lifetimes, ambient=ambient),
        names=names,
        challenges=challenge_policy,
        terms=terms,
        limits=limits,
        ambient=ambient,
    )
    challenges = Challenges(
        store,
        others=others,
        accounts=accounts,
        validations=build_validations(config, client, own_endpoints=endpoints),
        further=caa,
        policy=challenge_policy,
        lifetimes=lifetimes,
        limits=limits,
        urls=urls,
        ambient=ambient,
        observer=metrics,
    )
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    own_certificates = OwnCertificates(
        certificates=certificates,
        issuance=issuance,
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
            profiles=profiles,
            orders=orders,
            challenges=challenges,
            issuance=issuance,
            certificates=certificates,
            renewals=renewals,
            issuers=issuers,
            status=status,
            readiness=readiness,
        ),
        administration=Administration(
            store,
            certificates=certificates,
            windows=RenewalWindows(store, renewals=renewals, issuers=issuers, ambient=ambient),
            grants=GrantAdministration(
                store, keys=mac_keys, names=names, offer=config.profiles, urls=urls, ambient=ambient
            ),
            limits=LimitAdministration(store, ambient=ambient),
            keys=KeyAdministration(store, issuers=issuers, certificates=certificates, status=status, ambient=ambient),
            issuers=issuers,
            status=status,
            ambient=ambient,
        ),
        jobs=Jobs(
            store,
            leadership=Leadership(store, others=others),
            profiles=profiles,
            orders=orders,
            challenges=challenges,
            issuance=issuance,
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


async def sign_if_possible(sign: Callable[[], Awaitable[None]]) -> None:
    """Heads at a start and an end: a full disk, or a key that cannot be read, hinders neither."""
    try:
        await sign()
    except (AcmecaError, OSError) as error:
        log.warning("the audit's head is not signed: %s", error)


def root_path(config: Config) -> Path:
    """Where the roots are written as PEM, for clients on this machine."""
    return config.server.data_dir / "root.pem"


def _write_root(config: Config, roots_pem: bytes) -> None:
    """The roots for clients on this machine, when they are not there already."""
    path = root_path(config)
    if not path.exists() or path.read_bytes() != roots_pem:
        pem.write_durably(path, roots_pem, mode=0o644)


def config_sha256(config: Config) -> str:
    """The digest of the checked values, in hex: what `server.started` says of its configuration. It holds no secret."""
    document = config.model_dump(mode="json")
    document["storage"]["url"] = (
        config.storage.url if config.storage.postgres is None else config.storage.postgres.redacted
    )
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def directory_meta(config: Config) -> dict[str, object]:
    """What the directory says of this CA (RFC 8555 §7.1.1)."""
    meta: dict[str, object] = {
        "website": config.urls.base + Paths.FRONT_PAGE,
        "externalAccountRequired": config.policy.external_account_required,
        # draft-ietf-acme-profiles §3: "A map of profile names to human-readable descriptions of those profiles"
        "profiles": {name: profile.description for name, profile in config.profiles.profiles.items()},
    }
    if config.server.terms_of_service is not None:
        meta["termsOfService"] = config.server.terms_of_service
    if config.policy.caa_identities:
        meta["caaIdentities"] = list(config.policy.caa_identities)
    return meta


def front_page_model(opened: Opened) -> FrontPageModel:
    """What the front page says of this CA."""
    config, issuers, urls = opened.config, opened.services.issuers, opened.services.urls
    root, *_ = issuers.roots
    offer = config.profiles

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
        profiles=tuple(
            (profile.name, profile.description)
            for profile in sorted(offer.profiles.values(), key=lambda profile: profile.name != offer.default)
        ),
        http_port=config.validation.http_port,
        external_account_required=config.policy.external_account_required,
        terms_of_service=config.server.terms_of_service,
    )
