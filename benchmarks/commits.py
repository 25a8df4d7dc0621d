"""Group commit against a commit for each write: `python -m benchmarks.commits`.

Rule 1: what is measured is the real driver with its journal and `synchronous = FULL`, on the disk of --directory; only how many
writes may share a commit differs.
Rule 2: a write is of the size of an ACME order's: rows in two tables and an audit record, which is journalled. An order makes
five of them, one after another, as a client does.
Rule 3: rounds alternate, and ratios are taken within a round.
"""

import argparse
import asyncio
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from acmeca import audit
from acmeca.storage.audit import append
from acmeca.storage.database import Transaction
from acmeca.storage.journal import Journal
from acmeca.storage.schema import read_steps
from acmeca.storage.sqlite import SqliteDatabase
from acmeca.storage.writers import CommitSeal, Writer, Writers

WRITES_OF_AN_ORDER: Final = 5


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run gave: orders a second, and the process's CPU time for each in milliseconds."""

    rate: float
    cpu_ms: float


async def measure(directory: Path, *, clients: int, seconds: float, shared: bool) -> Figures:
    """Let `clients` write orders for `seconds`; `shared` says whether writes that wait may share a commit."""
    writer = Writer("benchmark", "1")
    journal = Journal(directory / "journal", writer=writer.name, instance=writer.instance, clock=now)
    seal = CommitSeal(writer, journal, schema=len(read_steps()))
    database = await SqliteDatabase.open(directory / "acmeca.db", seal=seal)
    try:
        await Writers(database, writer=writer).claim(alone=True)
        if not shared:
            database._queue._batch_limit = 1  # noqa: SLF001  (the one thing that is compared)
        begun, cpu = time.monotonic(), time.process_time()
        done = await asyncio.gather(*(_order_until(database, begun + seconds) for _ in range(clients)))
        orders = sum(done)
        return Figures(orders / (time.monotonic() - begun), (time.process_time() - cpu) / max(orders, 1) * 1000)
    finally:
        await database.close()
        journal.close()


async def _order_until(database: SqliteDatabase, end: float) -> int:
    orders = 0
    while time.monotonic() < end:
        for _ in range(WRITES_OF_AN_ORDER):
            await database.write(_write)
        orders += 1
    return orders


async def _write(tx: Transaction) -> None:
    id_ = secrets.token_urlsafe(16)
    await tx.execute(
        "INSERT INTO accounts (id, thumbprint, jwk, status, contact, created_at) VALUES ($1, $1, $2, 'valid', '[]', 0)",
        id_,
        "x" * 400,
    )
    await tx.execute(
        "INSERT INTO orders (id, account_id, status, identifiers, created_at, expires_at)"
        " VALUES ($1, $1, 'pending', '[]', 0, 0)",
        id_,
    )
    event = audit.AccountDeactivated(actor=audit.account_actor(id_), account_id=id_)
    await append(tx, writer="benchmark", at=now(), event=event)


def now() -> datetime:
    return datetime.now(UTC)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rounds and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commits", description=__doc__)
    parser.add_argument("--clients", default="1,64", help="how many write at once, for example 1,64")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each run")
    parser.add_argument("--directory", type=Path, default=None, help="on the disk to measure; default: a temporary one")
    options = parser.parse_args(arguments)
    print(f"{'clients':>7} {'shared':>16} {'a commit each':>16} {'orders':>8} {'CPU, shared':>12} {'CPU, each':>12}")
    for clients in map(int, options.clients.split(",")):
        ratios = []
        for _ in range(options.rounds):
            figures = []
            for shared in (True, False):
                with tempfile.TemporaryDirectory(dir=options.directory, prefix="acmeca-commits-") as name:
                    os.chmod(name, 0o700)  # noqa: PTH101
                    run = measure(Path(name), clients=clients, seconds=options.seconds, shared=shared)
                    figures.append(asyncio.run(run))
            one, other = figures
            ratios.append(one.rate / other.rate)
            print(
                f"{clients:>7} {one.rate:>10.0f} ord/s {other.rate:>10.0f} ord/s {ratios[-1]:>6.1f} x"
                f" {one.cpu_ms:>9.2f} ms {other.cpu_ms:>9.2f} ms"
            )
        print(f"{clients:>7} median ratio {statistics.median(ratios):.1f} x")


if __name__ == "__main__":
    main()
