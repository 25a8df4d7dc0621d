"""The forecast, by hand."""

from datetime import timedelta

import pytest

from acmeca.service.growth import TYPICAL, Cost, Database, Kept
from acmeca.storage.sizes import TableSize

DAY = timedelta(days=1)
FOR_EVER = Kept(lifetime=90 * DAY, orders=30 * DAY, certificates=None)


def table(name: str, rows: int, size: int) -> TableSize:
    return TableSize(name, rows, size, is_estimate=False)


def test_the_cost_is_measured_where_there_is_enough() -> None:
    tables = [
        table("certificates", 2000, 2_000_000),
        table("certificate_names", 2500, 500_000),
        table("orders", 1000, 300_000),
        table("authorizations", 1000, 400_000),
        table("order_authorizations", 1000, 100_000),
        table("audit", 9000, 4_500_000),
    ]
    found = Database.of(tables, used=8_000_000)
    assert found.cost == Cost(certificate=1250, order=800, audit=1500, is_measured=True)
    assert (found.orders, found.certificates) == (800_000, 2_500_000)
    assert found.cost.total == 3550


def test_a_young_ca_is_told_what_is_typical() -> None:
    found = Database.of([table("certificates", 999, 10), table("audit", 5000, 10)], used=100_000)
    assert found.cost == TYPICAL
    assert not found.cost.is_measured


def test_an_old_ca_with_few_orders_left() -> None:
    tables = [table("certificates", 5000, 5_000_000), table("audit", 15_000, 15_000), table("orders", 3, 9000)]
    assert Database.of(tables, used=1).cost == Cost(1000, TYPICAL.order, 3, is_measured=True)


COST = Cost(certificate=1000, order=500, audit=100)


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        # audit for ever, orders for 31 days, certificates for ever
        (FOR_EVER, 365 * 100 + 31 * 500 + 365 * 1000),
        # certificates for the 90 days of their life and 30 more
        (Kept(90 * DAY, 30 * DAY, 30 * DAY), 365 * 100 + 31 * 500 + 120 * 1000),
        # kept for longer than the year that is looked at
        (Kept(90 * DAY, 400 * DAY, 400 * DAY), 365 * (100 + 500 + 1000)),
    ],
)
def test_an_empty_one_in_a_year(kept: Kept, expected: int) -> None:
    assert Database(used=0, orders=0, certificates=0, cost=COST).after_a_year(1, kept) == expected


def test_what_is_there_already() -> None:
    """What has a time goes with it, the rest stays; a year without a certificate adds nothing."""
    present = Database(used=1000, orders=300, certificates=400, cost=COST)
    assert present.after_a_year(0, FOR_EVER) == 700
    assert present.after_a_year(0, Kept(90 * DAY, 30 * DAY, 30 * DAY)) == 300
    assert present.after_a_year(0, Kept(30 * DAY, 30 * DAY, 700 * DAY)) == 300 + 400 / 2
