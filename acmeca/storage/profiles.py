"""Profiles as orders were made with them: documents, named by their digests.

Rule 1: a document is written once and never changed or deleted: certificates are finished by it after a crash, and are explained by
it for as long as the audit is kept.
"""

from datetime import datetime

from acmeca import audit
from acmeca.policy.profiles import Profile, parse_profile
from acmeca.storage.audit import append
from acmeca.storage.database import Database, Entry, Transaction
from acmeca.storage.errors import StorageError


class Profiles:
    """The table `profiles`."""

    def __init__(self, database: Database, *, writer: str) -> None:
        self._database = database
        self._writer = writer

    async def keep(self, profile: Profile, *, at: datetime) -> None:
        """Have its document kept; nothing is written when it is already."""

        async def body(tx: Transaction) -> None:
            inserted = await tx.execute(
                "INSERT INTO profiles (id, name, document) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING",
                profile.id,
                profile.name,
                profile.document,
            )
            if inserted != 1:
                return
            tx.journal(
                Entry("profile", {"id": profile.id, "name": profile.name, "document": profile.document}),
            )
            event = audit.ProfileRecorded(
                actor=audit.SYSTEM, profile_id=profile.id, name=profile.name, document=profile.document
            )
            await append(tx, writer=self._writer, at=at, event=event)

        await self._database.write(body)

    async def ids(self) -> frozenset[str]:
        """Those that are kept."""
        return frozenset(row["id"] for row in await self._database.fetch_all("SELECT id FROM profiles"))

    async def by_id(self, profile_id: str) -> Profile | None:
        """A profile that is kept. Raises `StorageError` for one that this program cannot read."""
        row = await self._database.fetch_one("SELECT document FROM profiles WHERE id = $1", profile_id)
        if row is None:
            return None
        try:
            return parse_profile(row["document"])
        except ValueError as error:
            raise StorageError(
                f"the profile {profile_id}: {error}: a newer acmeca wrote it, run that version"
            ) from None
