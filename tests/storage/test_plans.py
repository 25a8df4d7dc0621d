"""How SQLite finds rows: no statement of requests and duties walks over a table that grows.

SQLite plans by the schema alone (nobody runs ANALYZE), so an empty database plans as one with a million certificates does.
"""

import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from acmeca.service import jobs
from acmeca.storage import sqlite
from acmeca.storage.database import Value
from acmeca.storage.statements import parse_statement
from tests.support.acme_client import renewal_identifier
from tests.support.databases import connect
from tests.support.server import RunningCa, running_ca, until

GROWING = frozenset(
    {
        "orders",
        "authorizations",
        "order_authorizations",
        "certificates",
        "certificate_names",
        "audit",
        "accounts",
        "limits",
    }
)
SHORT = frozenset({"orders_open", "orders_processing", "certificates_unsigned"})  # indexes of what is under way
LISTED = "certificates_by_recording"  # `acmeca list` without a name: from the newest on, until enough are found
_PLACES = re.compile(r"\?\d+")
_SCAN = re.compile(r"SCAN (?P<name>\w+)(?: USING (?:COVERING )?INDEX (?P<index>\w+))?")


def walks(path: Path, sql: str) -> list[str]:
    """The parts of a statement's plan that walk over a growing table."""
    statement = parse_statement(sql)
    aliases = dict(re.findall(r"(?:FROM|JOIN|UPDATE) (\w+) (?:AS )?(\w)\b(?! ?=)", statement))
    names = {alias: table for table, alias in aliases.items()}
    with connect(path) as connection:
        values = [1] * len(set(_PLACES.findall(statement)))
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    found = []
    for part in plan:
        match = _SCAN.match(part)
        if match and names.get(match["name"], match["name"]) in GROWING and match["index"] not in SHORT:
            found.append(part)
    return found


async def walk_everywhere(ca: RunningCa) -> None:
    """Requests of every kind, and every duty at least once."""
    client, party = await ca.client(), ca.relying_party()
    issued = await client.issue("a.localhost")
    (await client.post(client.account_url, {"contact": ["mailto:a@example.org"]})).ok()
    (await client.post((await client.post(client.account_url)).json["orders"])).ok()
    await party.status(issued.serial)
    for arguments in ({"all": True}, {"name": "*.localhost"}):
        await ca.opened.administration.call("renewal_set", dict(arguments), user="test")
    (await client.get(f"{client.directory['renewalInfo']}/{renewal_identifier(issued.leaf)}")).ok()
    await client.issue("a.localhost", replaces=issued)
    (await client.revoke(issued.der)).ok()
    await client.order_answer("a.example.com")
    grant = await ca.grant(names=["*.localhost"], quota="9/day", single_use=True, preauthorized=True)
    bound = await ca.bound_client(grant)
    await bound.finalize(await bound.new_order("g.localhost"))
    for operation in ("eab_list", "eab_show", "eab_disable", "eab_enable"):
        await ca.opened.administration.call(operation, {"kid": grant["kid"]}, user="test")
    (await bound.post(bound.account_url, {"status": "deactivated"})).ok()
    await client.new_order("c.localhost")
    for arguments in (
        {},
        {"name": "*.localhost"},
        {"name": "a.localhost"},
        *({"status": status} for status in ("valid", "revoked", "expired", "unsigned")),
        {"expires_within": 86400},
        {"grant": grant["kid"]},
    ):
        await ca.opened.administration.call("list", dict(arguments), user="test")
    await ca.opened.administration.call("show", {"serial": f"{issued.serial:x}"}, user="test")
    await ca.opened.administration.call("crl", {"publish": True}, user="test")
    await ca.services.readiness.faults()
    (await client.post(client.account_url, {"status": "deactivated"})).ok()
    ca.clock.advance(days=40)

    def is_over() -> bool:
        with connect(ca.config.database_path) as connection:
            marks = connection.execute("SELECT * FROM retention").fetchall()
            return bool(marks) and connection.execute("SELECT * FROM orders").fetchall() == []

    await until(is_over, what="retention")


async def test_no_statement_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    run = sqlite._run

    def noted(connection: sqlite3.Connection, sql: str, args: Sequence[Value]) -> tuple[list[Any], int]:
        seen.add(sql)
        return run(connection, sql, args)

    monkeypatch.setattr(sqlite, "_run", noted)
    for name in vars(jobs):
        if name.endswith("_SECONDS"):
            monkeypatch.setattr(jobs, name, 0.02)
    async with running_ca(retention={"certificates": "30d"}) as ca:
        await walk_everywhere(ca)
        walking = {sql: found for sql in seen if (found := walks(ca.config.database_path, sql))}
    assert len(seen) > 60
    listing = {sql for sql, found in walking.items() if all(LISTED in part for part in found)}
    assert {sql: found for sql, found in walking.items() if sql not in listing} == {}
    assert all("LIMIT" in sql for sql in listing)
