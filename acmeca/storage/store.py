"""The store: every table of one database, and nothing else."""

from datetime import datetime

from acmeca.audit import Event
from acmeca.storage.accounts import Accounts
from acmeca.storage.audit import append, fetch_newest
from acmeca.storage.certificates import Certificates
from acmeca.storage.crls import Crls
from acmeca.storage.database import Database, Transaction
from acmeca.storage.issuers import Issuers
from acmeca.storage.orders import Orders


class Store:
    """What the services keep. `writer` names this process's chain in the audit."""

    def __init__(self, database: Database, *, writer: str) -> None:
        self.database = database
        self._writer = writer
        self.accounts = Accounts(database, writer=writer)
        self.orders = Orders(database, writer=writer)
        self.certificates = Certificates(database, writer=writer)
        self.issuers = Issuers(database, writer=writer)
        self.crls = Crls(database, writer=writer)

    async def note(self, event: Event, *, at: datetime) -> None:
        """Write down an event that changes no other table."""

        async def body(tx: Transaction) -> None:
            await append(tx, writer=self._writer, at=at, event=event)

        await self.database.write(body)

    async def newest_record(self) -> datetime | None:
        """When this process's chain of the audit was last added to; None before its first record."""
        return await fetch_newest(self.database, self._writer)

    async def close(self) -> None:
        """Finish what is queued and close the database."""
        await self.database.close()
