"""Which instance has the duties that are enough to be done once: CRLs on schedule, sweeps, retention.

Rule 1: the lease is taken from an instance that ended or is gone (`storage/leases.py`). Nothing rests on there being one leader
only: what a duty changes is changed by compare-and-swap, and what is signed by duty asks for the lease in its transaction.
"""

import logging
from typing import Final

from acmeca.storage.leases import Lease
from acmeca.storage.store import Store
from acmeca.storage.writers import Others

log = logging.getLogger(__name__)

_DUTIES: Final = "duties"


class Leadership:
    """Whether this instance has the duties. `campaign` is called every few seconds."""

    def __init__(self, store: Store, *, others: Others) -> None:
        self._store = store
        self._others = others
        self._lease: Lease | None = None

    @property
    def lease(self) -> Lease | None:
        """The lease as it was seen last; None for one who does not lead."""
        return self._lease

    async def campaign(self) -> None:
        """Take the duties when nobody alive has them, and see whether we still do."""
        current = await self._store.leases.current(_DUTIES)
        if current is not None and current.instance == self._store.writer.instance:
            self._lease = current
            return
        if self._lease is not None:
            log.warning("the duties are another process's now: this one stood still for too long")
            self._lease = None
        if current is None or current.instance not in await self._others.living():
            self._lease = await self._store.leases.take(_DUTIES, over=current)
            if self._lease is not None:
                log.info("this process has the duties from now on (CRLs, sweeps, retention)")
