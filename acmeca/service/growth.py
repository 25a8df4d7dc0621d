"""What a certificate costs on the disk, and what the database will be in a year: pure figures from counted and measured ones.

Rule 1: three parts of a certificate live for different times: its order until `retention.orders` after its end, the certificate
itself until `retention.certificates` after its expiry (or for ever), its audit records for ever.
Rule 2: a young CA says little about its own certificates; below `_ENOUGH` of them the figures are those of benchmarks/storage.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from acmeca.storage.sizes import TableSize

YEAR: Final = timedelta(days=365)
_ORDER_LIFETIME: Final = timedelta(days=1)
_DAY: Final = timedelta(days=1)
_ENOUGH: Final = 1000
_RECORDS: Final = 3  # in the audit: validated, recorded, issued; the records of forgotten certificates are there, too
_ORDER_TABLES: Final = frozenset({"orders", "authorizations", "order_authorizations", "validation_jobs"})
_CERTIFICATE_TABLES: Final = frozenset({"certificates", "certificate_names"})


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes of one certificate in the database, indexes included. `is_measured`: in this database."""

    certificate: int
    order: int
    audit: int
    is_measured: bool = False

    @property
    def total(self) -> int:
        return self.certificate + self.order + self.audit


TYPICAL: Final = Cost(certificate=1530, order=810, audit=1840)


@dataclass(frozen=True, slots=True)
class Kept:
    """For how long things are kept: `lifetime` is a certificate's, `certificates` is None for ever."""

    lifetime: timedelta
    orders: timedelta
    certificates: timedelta | None


@dataclass(frozen=True, slots=True)
class Database:
    """What there is now: the bytes in use, and of them those of orders and certificates."""

    used: int
    orders: int
    certificates: int
    cost: Cost

    @classmethod
    def of(cls, tables: Iterable[TableSize], *, used: int) -> "Database":
        found = {table.name: table for table in tables}
        orders = sum(found[name].bytes for name in _ORDER_TABLES & found.keys())
        certificates = sum(found[name].bytes for name in _CERTIFICATE_TABLES & found.keys())
        cost = TYPICAL
        made, ordered, noted = (
            found[name].rows if name in found else 0 for name in ("certificates", "orders", "audit")
        )
        if min(made, noted) >= _ENOUGH:
            cost = Cost(
                certificate=certificates // made,
                order=orders // ordered if ordered >= _ENOUGH else TYPICAL.order,
                audit=_RECORDS * found["audit"].bytes // noted,
                is_measured=True,
            )
        return cls(used=used, orders=orders, certificates=certificates, cost=cost)

    def after_a_year(self, rate: float, kept: Kept) -> int:
        """The bytes in use a year from now, with `rate` certificates a day."""
        others = self.used - self.orders - self.certificates
        return round(
            others
            + rate * (YEAR / _DAY) * self.cost.audit
            + _kept_after_a_year(self.orders, rate * self.cost.order, _ORDER_LIFETIME + kept.orders)
            + _kept_after_a_year(
                self.certificates,
                rate * self.cost.certificate,
                None if kept.certificates is None else kept.lifetime + kept.certificates,
            )
        )


def _kept_after_a_year(now: int, daily: float, life: timedelta | None) -> float:
    """Of bytes that are there now, and that come in each day, those that are still there in a year."""
    if life is None:
        return now + daily * (YEAR / _DAY)
    return now * max(0.0, 1 - YEAR / life) + daily * (min(YEAR, life) / _DAY)
