"""Values for the stores, each with ids of its own, and a store in a database of its own."""

import contextlib
import dataclasses
import itertools
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.objects import Account, Authorization, Challenge, ChallengeType, Order
from acmeca.acme.renewal import CertificateId, Window
from acmeca.acme.states import AccountStatus, AuthorizationStatus, ChallengeStatus, OrderStatus
from acmeca.pki.issuer import Issuer
from acmeca.policy.grants import Grant
from acmeca.policy.renewals import Override, Selection
from acmeca.storage.certificates import Certificate
from acmeca.storage.crls import Crl
from acmeca.storage.database import Database, Seal
from acmeca.storage.grants import StoredGrant
from acmeca.storage.issuers import IssuerState, StoredIssuer
from acmeca.storage.schema import Engine, Step
from acmeca.storage.sqlite import SqliteDatabase
from acmeca.storage.store import Store
from acmeca.storage.writers import Writer
from tests.support.postgres import open_postgres
from tests.support.server import temporary_directory
from tests.support.status_issuers import shared_issuer

NOW = datetime(2026, 11, 1, 12, 0, 0, tzinfo=UTC)
WRITER = Writer("test", "instance")
_numbers = itertools.count(1)


@contextlib.asynccontextmanager
async def open_engine(
    engine: Engine, *, steps: Sequence[Step] | None = None, queue_limit: int = 2000, seal: Seal | None = None
) -> AsyncIterator[Database]:
    """An empty database of an engine; the program's own schema unless `steps` are given."""
    if engine == "postgresql":
        async with open_postgres(steps=steps, queue_limit=queue_limit, seal=seal) as database:
            yield database
        return
    with temporary_directory() as directory:
        database = await SqliteDatabase.open(directory / "acmeca.db", steps=steps, queue_limit=queue_limit, seal=seal)
        try:
            yield database
        finally:
            await database.close()


@contextlib.asynccontextmanager
async def open_store(engine: Engine = "sqlite") -> AsyncIterator[Store]:
    """A store with one root and one issuer, `root` and `issuer`."""
    async with open_engine(engine) as database:
        store = Store(database, writer=WRITER)
        await store.issuers.create([stored_root(), stored_issuer()], [root_crl()], actor="admin:test", at=NOW)
        yield store


def pki_issuer(id_: str) -> Issuer:
    return dataclasses.replace(shared_issuer().issuer, id=id_)


def stored_root(id_: str = "root") -> StoredIssuer:
    return StoredIssuer(pki_issuer(id_), parent_id=None, state=IssuerState.ACTIVE, key_reference=None)


def stored_issuer(id_: str = "issuer", *, parent_id: str = "root") -> StoredIssuer:
    return StoredIssuer(
        pki_issuer(id_), parent_id=parent_id, state=IssuerState.ACTIVE, key_reference=f"keys/{id_}.key.pem"
    )


def root_crl(issuer_id: str = "root") -> Crl:
    return Crl(
        issuer_id=issuer_id,
        number=int(NOW.timestamp()),
        this_update=NOW,
        next_update=NOW + timedelta(days=396),
        through_sequence=0,
        entries=0,
        der=b"crl",
    )


def account(**changes: Any) -> Account:
    number = next(_numbers)
    defaults: dict[str, Any] = {
        "id": f"account-{number}",
        "thumbprint": f"thumbprint-{number}",
        "jwk": "{}",
        "status": AccountStatus.VALID,
        "contact": ("mailto:a@example.org",),
        "created_at": NOW,
    }
    return Account(**(defaults | changes))


def stored_grant(**changes: Any) -> StoredGrant:
    """A grant as it is kept; `mac_sha256` among the changes is the digest of its MAC key."""
    number = next(_numbers)
    mac_sha256 = changes.pop("mac_sha256", number.to_bytes(32))
    defaults: dict[str, Any] = {"id": f"grant-{number}", "owner": "team-a", "created_at": NOW}
    return StoredGrant(Grant(**(defaults | changes)), mac_sha256)


async def kept_grant(store: Store, **changes: Any) -> Grant:
    made = stored_grant(**changes)
    await store.grants.create(made, actor="admin:test", at=NOW, fits=lambda _: True)
    return made.grant


def authorization(owner: Account, name: str = "a.example.org", **changes: Any) -> Authorization:
    defaults: dict[str, Any] = {
        "id": f"authorization-{next(_numbers)}",
        "account_id": owner.id,
        "identifier": Identifier(IdentifierType.DNS, name),
        "wildcard": False,
        "status": AuthorizationStatus.PENDING,
        "expires_at": NOW + timedelta(days=1),
        "challenges": (Challenge(ChallengeType.HTTP_01, "token", ChallengeStatus.PENDING),),
    }
    return Authorization(**(defaults | changes))


def order(owner: Account, *authorizations: Authorization, **changes: Any) -> Order:
    defaults: dict[str, Any] = {
        "id": f"order-{next(_numbers)}",
        "account_id": owner.id,
        "status": OrderStatus.PENDING,
        "identifiers": tuple(item.identifier for item in authorizations),
        "authorization_ids": tuple(item.id for item in authorizations),
        "created_at": NOW,
        "expires_at": NOW + timedelta(days=1),
    }
    return Order(**(defaults | changes))


def certificate(owner: Account | None = None, for_order: Order | None = None, **changes: Any) -> Certificate:
    number = next(_numbers)
    defaults: dict[str, Any] = {
        "id": f"certificate-{number}",
        "serial": f"01{number:032x}",
        "issuer_id": "issuer",
        "account_id": None if owner is None else owner.id,
        "order_id": None if for_order is None else for_order.id,
        "profile": "server",
        "names": ("a.example.org",),
        "spki_sha256": number.to_bytes(32),
        "not_before": NOW,
        "not_after": NOW + timedelta(days=90, seconds=-1),
        "tbs": b"tbs %d" % number,
        "recorded_at": NOW,
    }
    return Certificate(**(defaults | changes))


def identifier(made: Certificate) -> str:
    """A certificate's identifier (RFC 9773 §4.1), as an order has it that replaces it."""
    return str(CertificateId(shared_issuer().issuer.key_identifier, int(made.serial, 16)))


def override(**changes: Any) -> Override:
    defaults: dict[str, Any] = {
        "id": f"override-{next(_numbers)}",
        "selection": Selection(name="*.example.org"),
        "window": Window(NOW, NOW + timedelta(hours=4)),
        "explanation_url": "https://wiki.example.org/42",
        "set_at": NOW,
    }
    return Override(**(defaults | changes))


async def kept_account(store: Store, **changes: Any) -> Account:
    return await store.accounts.create(account(**changes), spki_sha256=bytes(32))


async def kept_order(
    store: Store, owner: Account, *names: str, **changes: Any
) -> tuple[Order, tuple[Authorization, ...]]:
    """An order with its authorizations, pending and stored."""
    authorizations = tuple(authorization(owner, name) for name in names or ("a.example.org",))
    made = order(owner, *authorizations, **changes)
    await store.orders.create(made, authorizations)
    return made, authorizations


async def ready_order(
    store: Store, owner: Account, *names: str, **changes: Any
) -> tuple[Order, tuple[Authorization, ...]]:
    """The same, with every challenge validated."""
    made, authorizations = await kept_order(store, owner, *names, **changes)
    validated = []
    for item in authorizations:
        begun = await store.orders.begin_validation(item, ChallengeType.HTTP_01, at=NOW)
        validated.append(
            await store.orders.record_outcome(begun, ChallengeType.HTTP_01, problem=None, evidence="seen", at=NOW)
        )
    kept = await store.orders.by_id(owner.id, made.id)
    assert kept is not None
    assert kept.status is OrderStatus.READY
    return kept, tuple(validated)


async def issued_certificate(
    store: Store, *, owner: Account | None = None, for_order: Order | None = None, **changes: Any
) -> Certificate:
    """A signed certificate; the server's own unless it has an owner."""
    made = certificate(owner, for_order, **changes)
    await store.issuance.record(made, thumbprint=made.id, at=NOW)
    await store.issuance.complete(made, b"signature", sha256="00", at=NOW)
    return made


async def recorded_certificate(store: Store, **changes: Any) -> tuple[Account, Order, Certificate]:
    """A certificate of an order that is processing, recorded and not signed; with its account and its order."""
    owner = await kept_account(store)
    made, _ = await ready_order(store, owner)
    kept = certificate(owner, made, **changes)
    await store.issuance.record(kept, thumbprint="certificate key", at=NOW)
    return owner, made, dataclasses.replace(kept, recorded_by=store.writer.instance)


async def rows(store: Store, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    found: list[Any] = await store.database.fetch_all(sql, *values)
    return [tuple(row) for row in found]


async def change(store: Store, sql: str, *values: Any) -> None:
    """Change a row behind the store's back."""
    await store.database.write(lambda tx: tx.execute(sql, *values))


async def issuance_tables(store: Store) -> list[list[tuple[Any, ...]]]:
    """Every row that issuance and revocation write: to show that nothing changed."""
    tables = ("orders", "certificates", "certificate_names", "blocked_keys", "audit")
    return [await rows(store, f"SELECT * FROM {table}") for table in tables]
