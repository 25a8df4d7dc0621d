"""limits: who has reached one, and the way out of it; with a running server and with a stopped one."""

import asyncio
import json

import pytest

from acmeca import app
from acmeca.config import load_config
from acmeca.policy.limits import Limit, Rate, Taking
from acmeca.storage.limits import take
from tests.cli.conftest import Acmeca
from tests.support.installations import Installation


@pytest.fixture
def taken(stopped: Installation) -> Installation:
    """A CA of which one account has reached its limit, and two have not."""

    async def work() -> None:
        async with app.opened(load_config(stopped.config_path, {})) as ca:
            takings = [
                Taking(Limit.NEW_ORDERS_PER_ACCOUNT, subject, Rate(10, 3600), number)
                for subject, number in (("full", 10), ("half", 5), ("hardly", 1))
            ]
            await ca.store.database.write(lambda tx: take(tx, takings, at=ca.services.ambient.now()))

    asyncio.run(work())
    return stopped


def test_the_fullest_first(taken: Installation, acmeca: Acmeca) -> None:
    said = acmeca(taken, "limits", "list")
    assert (said.code, said.stderr) == (0, "")
    heading, full, half, hardly = said.stdout.splitlines()
    assert heading.split() == ["used", "in", "room", "limit"]
    assert full.startswith("10 of 10")
    assert " at 20" in full
    assert full.endswith("new_orders_per_account:full")
    assert half.split() == ["5", "of", "10", "1", "hour", "yes", "new_orders_per_account:half"]
    assert hardly.startswith("1 of 10")
    (only,) = acmeca(taken, "limits", "list", "half").stdout.splitlines()[1:]
    assert only.split() == half.split()


def test_for_programs(taken: Installation, acmeca: Acmeca) -> None:
    document = json.loads(acmeca(taken, "limits", "list", "--json", "--limit", "1").stdout)
    assert document["is_cut"] is True
    (full,) = document["limits"]
    assert full["name"] == "new_orders_per_account:full"
    assert (full["used"], full["of"], full["period"]) == (10, 10, "1 hour")
    assert full["free_at"] == full["whole_at"]
    cut = acmeca(taken, "limits", "list", "--limit", "1")
    assert "more than 1" in cut.stderr


def test_reset(taken: Installation, acmeca: Acmeca) -> None:
    said = acmeca(taken, "limits", "reset", "new_orders_per_account:full")
    assert (said.code, said.stdout) == (0, "Nothing of new_orders_per_account:full is used up any more.\n")
    assert "full" not in acmeca(taken, "limits", "list").stdout
    again = acmeca(taken, "limits", "reset", "new_orders_per_account:full")
    assert again.code == 1
    assert "acmeca limits list" in again.stderr
    assert json.loads(acmeca(taken, "limits", "reset", "new_orders_per_account:half", "--json").stdout) == {
        "name": "new_orders_per_account:half"
    }


def test_a_running_server(running: Installation, acmeca: Acmeca) -> None:
    said = acmeca(running, "limits", "list")
    assert (said.code, said.stdout, said.stderr) == (0, "", "Nothing of any limit is used up.\n")
    assert acmeca(running, "limits", "reset", "x" * 100).code == 1


@pytest.mark.parametrize("number", ["0", "10001", "x"])
def test_how_many(stopped: Installation, acmeca: Acmeca, number: str) -> None:
    assert acmeca(stopped, "limits", "list", "--limit", number).code == 2
