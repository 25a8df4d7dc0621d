"""Issuers: the CA certificates of this server, from the root down."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from acmeca import audit
from acmeca.pki.issuer import Issuer
from acmeca.storage.audit import append
from acmeca.storage.crls import Crl, insert_published
from acmeca.storage.database import Database, Entry, Transaction
from acmeca.storage.errors import StaleError
from acmeca.storage.times import to_seconds


class IssuerState(StrEnum):
    """Where an issuer stands in its life: it signs, it only answers for what it signed, or its last leaf has expired."""

    ACTIVE = "active"
    DRAINING = "draining"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class StoredIssuer:
    """An issuer with what the certificate does not say. A root has no `parent_id`.

    `key_reference` is where the keystore finds its key, relative to the data directory; None for a root, whose key the
    server never opens.
    """

    issuer: Issuer
    parent_id: str | None
    state: IssuerState
    key_reference: str | None

    @property
    def is_root(self) -> bool:
        return self.parent_id is None


class Issuers:
    """The table `issuers`."""

    def __init__(self, database: Database, *, writer: str) -> None:
        self._database = database
        self._writer = writer

    async def all(self) -> list[StoredIssuer]:
        """Every issuer, the oldest first, so that a parent stands before its children."""
        rows = await self._database.fetch_all(
            "SELECT id, parent_id, state, certificate, key_reference, ocsp_url, crl_url, issuer_url FROM issuers"
            " ORDER BY created_at, parent_id IS NOT NULL, id"
        )
        return [
            StoredIssuer(
                issuer=Issuer(
                    id=row["id"],
                    certificate_der=row["certificate"],
                    ocsp_url=row["ocsp_url"],
                    crl_url=row["crl_url"],
                    issuer_url=row["issuer_url"],
                ),
                parent_id=row["parent_id"],
                state=IssuerState(row["state"]),
                key_reference=row["key_reference"],
            )
            for row in rows
        ]

    async def create(
        self,
        issuers: Sequence[StoredIssuer],
        crls: Sequence[Crl],
        *,
        actor: str,
        at: datetime,
        is_first: bool = False,
    ) -> None:
        """Store a new hierarchy with the CRLs its roots signed, whole or not at all.

        `StaleError` when it was to be the first one (`is_first`) and is not: another host was faster.
        """

        async def body(tx: Transaction) -> None:
            if is_first and await tx.fetch_one("SELECT 1 FROM issuers LIMIT 1") is not None:
                raise StaleError("there is a CA already")
            for stored in issuers:
                await tx.execute(
                    "INSERT INTO issuers (id, parent_id, state, certificate, key_reference, ocsp_url, crl_url, issuer_url,"
                    " created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                    stored.issuer.id,
                    stored.parent_id,
                    stored.state.value,
                    stored.issuer.certificate_der,
                    stored.key_reference,
                    stored.issuer.ocsp_url,
                    stored.issuer.crl_url,
                    stored.issuer.issuer_url,
                    to_seconds(at),
                )
                tx.journal(
                    Entry(
                        "issuer",
                        {
                            "id": stored.issuer.id,
                            "parent_id": stored.parent_id,
                            "state": stored.state.value,
                            "certificate": stored.issuer.certificate_der,
                            "key_reference": stored.key_reference,
                            "ocsp_url": stored.issuer.ocsp_url,
                            "crl_url": stored.issuer.crl_url,
                            "issuer_url": stored.issuer.issuer_url,
                            "created_at": to_seconds(at),
                        },
                    )
                )
                event = audit.IssuerCreated(
                    actor=actor,
                    issuer_id=stored.issuer.id,
                    name=stored.issuer.certificate.subject.rfc4514_string(),
                    sha256=hashlib.sha256(stored.issuer.certificate_der).hexdigest(),
                )
                await append(tx, writer=self._writer, at=at, event=event)
            for crl in crls:
                await insert_published(tx, crl, writer=self._writer, at=at)

        await self._database.write(body)
