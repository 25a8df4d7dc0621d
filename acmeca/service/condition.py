"""The condition of a CA in figures: CRLs, certificates, disk, database, faults. What is graphed, as it was seen last.

Rule 1: it changes nothing, and whoever asks waits for `_MOMENT` at most: what blocks leaves the last figures standing.
Rule 2: figures are the store's and the machine's, so that it does not matter which worker is asked.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from acmeca.errors import NotFound
from acmeca.service.ambient import Ambient
from acmeca.service.issuers import Issuers
from acmeca.service.own_certificates import OwnCertificates
from acmeca.service.probes import Disks, FaultKind, Usage
from acmeca.service.readiness import Readiness
from acmeca.service.status import Status
from acmeca.storage.crls import Crl
from acmeca.storage.store import Store

_MOMENT: Final = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class CrlFigures:
    """The newest CRL of an issuer, how many revocations it lacks, and for how many seconds the oldest of them has waited."""

    crl: Crl
    waiting: int
    waited: float


@dataclass(frozen=True, slots=True)
class CertificateFigures:
    """When a certificate of ours ends: "root", "issuer", "responder" or "listener"."""

    purpose: str
    issuer_id: str
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """`database_bytes` is None where it could not be told yet."""

    crls: Sequence[CrlFigures] = ()
    certificates: Sequence[CertificateFigures] = ()
    usage: Mapping[Path, Usage]
    database_bytes: int | None = None
    faults: Mapping[FaultKind, int]


class Condition:
    """Gathers the figures. `database_bytes` measures the database, beside the event loop."""

    def __init__(
        self,
        store: Store,
        *,
        issuers: Issuers,
        status: Status,
        own_certificates: OwnCertificates,
        readiness: Readiness,
        disks: Disks,
        database_bytes: Callable[[], Awaitable[int]],
        ambient: Ambient,
    ) -> None:
        self._store = store
        self._issuers = issuers
        self._status = status
        self._own_certificates = own_certificates
        self._readiness = readiness
        self._disks = disks
        self._database_bytes = database_bytes
        self._ambient = ambient
        self._task: asyncio.Task[None] | None = None
        self._crls: Sequence[CrlFigures] = ()
        self._size: int | None = None

    async def figures(self) -> Figures:
        """What is known now."""
        faults = Counter(fault.kind for fault in await self._readiness.found())
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look(), name="condition")
        await asyncio.wait([self._task], timeout=_MOMENT)
        if self._task.done() and (error := self._task.exception()) is not None:
            raise error
        return Figures(
            crls=self._crls,
            certificates=tuple(self._certificates()),
            usage=self._disks.usage,
            database_bytes=self._size,
            faults={kind: faults[kind] for kind in FaultKind},
        )

    async def stop(self) -> None:
        """Let go of what is under way."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._task

    async def _look(self) -> None:
        crls = []
        for stored in self._issuers.all:
            with suppress(NotFound):
                crls.append(await self._crl_figures(await self._status.crl(stored.issuer.id)))
        self._crls = crls
        self._size = await self._database_bytes()

    async def _crl_figures(self, crl: Crl) -> CrlFigures:
        waiting = await self._store.crls.pending_revocations(crl.issuer_id)
        oldest = await self._store.crls.oldest_pending_revocation(crl.issuer_id) if waiting else None
        waited = 0.0 if oldest is None else max(0.0, (self._ambient.now() - oldest).total_seconds())
        return CrlFigures(crl, waiting, waited)

    def _certificates(self) -> Iterator[CertificateFigures]:
        for stored in self._issuers.all:
            purpose = "root" if stored.is_root else "issuer"
            yield CertificateFigures(purpose, stored.issuer.id, stored.issuer.not_after)
        for signer in self._issuers.signing:
            not_after = self._status.responder_not_after(signer.id)
            if not_after is not None:
                yield CertificateFigures("responder", signer.id, not_after)
        not_after = self._own_certificates.listener_not_after
        if not_after is not None:
            yield CertificateFigures("listener", self._issuers.active.id, not_after)
