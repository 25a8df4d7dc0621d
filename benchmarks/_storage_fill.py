"""Fills the database of a stopped CA with certificates, as if it had issued them over months.

Rule 1: rows are copies of one real order's, with new ids, serials, names and times, in every table that the order is in. So they
are as long as real ones, and a column that the schema gains is copied with the rest.
Rule 2: the audit's chain is real: `acmeca doctor` finds no fault in it.
Rule 3: memory is bounded: rows go in by the thousand.
"""

import base64
import json
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from acmeca.audit import FIRST_PREVIOUS, record_hash

A_DAY: Final = 10_000  # certificates
KEPT_DAYS: Final = 31  # of orders: retention's 30 days after their end
_ORDER_SECONDS: Final = 86_400
_REVOKED: Final = 0.01
_CHUNK: Final = 2_000
_WRITER: Final = "benchmark"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Template:
    """One real order, in rows."""

    order: Row
    authorization: Row
    link: Row
    certificate: Row
    name: Row
    audit: tuple[Row, ...]


@dataclass(slots=True)
class _Chain:
    """The audit chain of the filler."""

    sequence: int = 0
    head: bytes = FIRST_PREVIOUS

    def append(self, row: Row) -> Row:
        self.sequence += 1
        self.head = record_hash(self.head, _WRITER, self.sequence, row["at"], row["event"])
        return row | {"writer": _WRITER, "sequence": self.sequence, "hash": self.head}


@dataclass(slots=True)
class _Batch:
    """Rows by table, in the order in which they may go in."""

    rows: dict[str, list[Row]] = field(default_factory=dict)

    def add(self, table: str, row: Row) -> None:
        self.rows.setdefault(table, []).append(row)

    def insert(self, connection: sqlite3.Connection) -> None:
        for table, rows in self.rows.items():
            columns = list(rows[0])
            connection.executemany(
                f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
                [tuple(row[column] for column in columns) for row in rows],
            )


def fill(path: Path, *, certificates: int, note: Callable[[str], None] = print) -> None:
    """Add that many certificates, `A_DAY` of them a day up to now, with their audit records, and the orders of the last days.

    The database has to hold a finished order already; nobody else may have it open.
    """
    begun = time.monotonic()
    with closing(_connect(path)) as connection:
        template = read_template(connection)
        chain = _Chain()
        made = _histories(template, chain, certificates, now=int(time.time()), sequence=_last_sequence(connection))
        done = 0
        while chunk := list(islice(made, _CHUNK)):
            batch = _Batch()
            for history in chunk:
                for table, row in history:
                    batch.add(table, row)
            with connection:
                batch.insert(connection)
            done += len(chunk)
            if done % 100_000 == 0:
                note(f"{done:,} certificates after {time.monotonic() - begun:.0f} s")
        _finish(connection)


def fill_pending(path: Path, *, orders: int) -> None:
    """Add pending orders, each with its authorization, of the last hours."""
    with closing(_connect(path)) as connection:
        template, now = read_template(connection), int(time.time())
        batch = _Batch()
        for number in range(orders):
            at = now - number % 3600
            for table, row in _order(template, f"p{number}.localhost", at, is_final=False):
                batch.add(table, row)
        with connection:
            batch.insert(connection)
        _finish(connection)


def table_bytes(path: Path) -> dict[str, int]:
    """The bytes of each table with its indexes; empty where SQLite cannot say."""
    with closing(sqlite3.connect(path)) as connection:
        try:
            return dict(
                connection.execute(
                    "SELECT s.tbl_name, SUM(d.pgsize) FROM dbstat d JOIN sqlite_schema s ON s.name = d.name"
                    " WHERE d.aggregate = 1 GROUP BY s.tbl_name ORDER BY 2 DESC"
                )
            )
        except sqlite3.OperationalError:
            return {}


def read_template(connection: sqlite3.Connection) -> Template:
    """The newest finished order with one name."""
    connection.row_factory = sqlite3.Row

    def rows(sql: str, *values: object) -> list[Row]:
        return [dict(row) for row in connection.execute(sql, values)]

    (order,) = rows("SELECT * FROM orders WHERE status = 'valid' ORDER BY rowid DESC LIMIT 1")
    (link,) = rows("SELECT * FROM order_authorizations WHERE order_id = ?", order["id"])
    (authorization,) = rows("SELECT * FROM authorizations WHERE id = ?", link["authorization_id"])
    (certificate,) = rows("SELECT * FROM certificates WHERE order_id = ?", order["id"])
    (name,) = rows("SELECT * FROM certificate_names WHERE certificate_id = ?", certificate["id"])
    audit = rows(
        "SELECT * FROM audit WHERE subject IN (?, ?, ?) ORDER BY writer, sequence",
        authorization["id"],
        certificate["serial"],
        order["id"],
    )
    return Template(order, authorization, link, certificate, name, tuple(audit))


def _histories(
    template: Template, chain: _Chain, certificates: int, *, now: int, sequence: int
) -> Iterator[Sequence[tuple[str, Row]]]:
    """The rows of each certificate, the oldest first."""
    chance = random.Random(1)
    lifetime = template.certificate["not_after"] - template.certificate["not_before"]
    for number in range(certificates):
        at = now - (certificates - number) * 86_400 // A_DAY
        name = f"host{number}.service{number % 977}.corp.localhost"
        rows = _order(template, name, at, is_final=True) if now - at < KEPT_DAYS * 86_400 else []
        old = template.certificate
        serial = "01" + os.urandom(16).hex()
        certificate = old | {
            "id": _id(),
            "serial": serial,
            "order_id": None,
            "spki_sha256": os.urandom(32),
            "not_before": at,
            "not_after": at + lifetime,
            "recorded_at": at,
            "issued_at": at,
            "tbs": old["tbs"].replace(bytes.fromhex(old["serial"]), bytes.fromhex(serial)),
        }
        if rows:
            order = rows[-1][1]
            order["certificate_id"], certificate["order_id"] = certificate["id"], order["id"]
            rows = [*rows[:-1], ("orders", order)]
        if chance.random() < _REVOKED:
            sequence += 1
            certificate |= {"revoked_at": at + 60, "revocation_reason": 4, "revocation_sequence": sequence}
        rows.append(("certificates", certificate))
        rows.append(("certificate_names", _name(template, certificate["id"], name)))
        rows.extend(("audit", row) for row in _audit(template, chain, certificate, name, at))
        yield _sorted(rows)


def _sorted(rows: Iterable[tuple[str, Row]]) -> list[tuple[str, Row]]:
    """Parents before their children."""
    order = ("orders", "authorizations", "order_authorizations", "certificates", "certificate_names", "audit")
    return sorted(rows, key=lambda item: order.index(item[0]))


def _order(template: Template, name: str, at: int, *, is_final: bool) -> list[tuple[str, Row]]:
    order_id, authorization_id = _id(), _id()
    times = {"expires_at": at + _ORDER_SECONDS}
    status = "valid" if is_final else "pending"
    authorization_status = "expired" if is_final and at + _ORDER_SECONDS < time.time() else status
    return [
        (
            "authorizations",
            template.authorization
            | times
            | {"id": authorization_id, "identifier_value": name, "status": authorization_status},
        ),
        ("order_authorizations", template.link | {"order_id": order_id, "authorization_id": authorization_id}),
        (
            "orders",
            template.order
            | times
            | {
                "id": order_id,
                "status": status,
                "identifiers": json.dumps([["dns", name]]),
                "created_at": at,
                "certificate_id": None,
            },
        ),
    ]


def _name(template: Template, certificate_id: str, name: str) -> Row:
    reversed_name = "".join(label + "." for label in reversed(name.split(".")))
    return template.name | {"certificate_id": certificate_id, "name": name, "reversed_name": reversed_name}


def _audit(template: Template, chain: _Chain, certificate: Row, name: str, at: int) -> Iterator[Row]:
    changed = {
        template.certificate["serial"]: certificate["serial"],
        template.authorization["id"]: _id(),
        template.order["id"]: certificate["order_id"] or _id(),
        template.authorization["identifier_value"]: name,
    }
    for row in template.audit:
        event = row["event"]
        for old, new in changed.items():
            event = event.replace(old, new)
        yield chain.append(row | {"at": at, "subject": changed.get(row["subject"], row["subject"]), "event": event})


def _id() -> str:
    return base64.urlsafe_b64encode(os.urandom(16)).rstrip(b"=").decode()


def _last_sequence(connection: sqlite3.Connection) -> int:
    (last,) = connection.execute("SELECT COALESCE(MAX(revocation_sequence), 0) FROM certificates").fetchone()
    return int(last)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    for pragma in ("synchronous = OFF", "cache_size = -600000", "foreign_keys = OFF", "wal_autocheckpoint = 20000"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _finish(connection: sqlite3.Connection) -> None:
    """What the filler did without a check is checked, and is in the database and not in its log."""
    connection.row_factory = None
    if connection.execute("PRAGMA foreign_key_check").fetchall():
        raise RuntimeError("the filled rows do not fit together")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
