"""The store: every table of one database, and nothing else."""

from collections.abc import Sequence
from datetime import datetime

from acmeca.audit import Event
from acmeca.policy.limits import Taking
from acmeca.storage.accounts import Accounts
from acmeca.storage.audit import append, fetch_newest
from acmeca.storage.audit_heads import AuditHeads
from acmeca.storage.authorizations import Authorizations
from acmeca.storage.certificates import Certificates
from acmeca.storage.crls import Crls
from acmeca.storage.database import Database, Transaction
from acmeca.storage.grants import Grants
from acmeca.storage.issuance import Issuance
from acmeca.storage.issuers import Issuers
from acmeca.storage.keys import BlockedKeys
from acmeca.storage.leases import Leases
from acmeca.storage.limits import Limits, take
from acmeca.storage.orders import Orders
from acmeca.storage.profiles import Profiles
from acmeca.storage.renewals import Renewals
from acmeca.storage.retention import Retention
from acmeca.storage.writers import Writer, Writers


class Store:
    """What the services keep. `writer` is this process: its chain in the audit, and what it has in hand."""

    def __init__(self, database: Database, *, writer: Writer) -> None:
        self.database = database
        self.writer = writer
        self.accounts = Accounts(database, writer=writer.name)
        self.authorizations = Authorizations(database, writer=writer.name)
        self.grants = Grants(database, writer=writer.name)
        self.profiles = Profiles(database, writer=writer.name)
        self.orders = Orders(database, writer=writer.name, instance=writer.instance)
        self.issuance = Issuance(database, writer=writer.name, instance=writer.instance)
        self.certificates = Certificates(database, writer=writer.name)
        self.renewals = Renewals(database, writer=writer.name)
        self.issuers = Issuers(database, writer=writer.name)
        self.crls = Crls(database, writer=writer.name)
        self.limits = Limits(database, writer=writer.name)
        self.blocked_keys = BlockedKeys(database, writer=writer.name)
        self.retention = Retention(database, writer=writer.name)
        self.writers = Writers(database, writer=writer)
        self.audit_heads = AuditHeads(database)
        self.leases = Leases(database, instance=writer.instance)

    async def note(self, event: Event, *, at: datetime, takings: Sequence[Taking] = ()) -> None:
        """Write down an event that changes no other table but `limits`. Raises `LimitReachedError`, and then it is not there."""

        async def body(tx: Transaction) -> None:
            await take(tx, takings, at=at)
            await append(tx, writer=self.writer.name, at=at, event=event)

        await self.database.write(body)

    async def newest_record(self) -> datetime | None:
        """When this process's chain of the audit was last added to; None before its first record."""
        return await fetch_newest(self.database, self.writer.name)

    async def close(self) -> None:
        """Finish what is queued and close the database."""
        await self.database.close()
