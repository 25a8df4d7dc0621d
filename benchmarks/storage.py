"""What a database of a million certificates costs: `python -m benchmarks.storage`.

Makes CAs in a temporary directory, fills one with certificates and one with pending orders, and compares each with an empty one in
alternate rounds: start-up, CPU time of an order, the time of newOrder; says how many bytes a certificate takes.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `python benchmarks/storage.py` finds the package, too

from benchmarks import _storage_fill, acme, run


@dataclass(slots=True)
class Ca:
    """A CA of its own, stopped or running, and what was measured of it."""

    folder: Path
    acme_port: int
    status_port: int
    http_port: int
    cpu_ms: list[float] = field(default_factory=list)
    new_order_ms: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)

    @classmethod
    def make(cls, folder: Path) -> "Ca":
        """With ten certificates in it, stopped."""
        folder.mkdir()
        ca = cls(folder, *run.free_ports(3))
        ca.config.write_text(
            f"""
[server]
demo = true
base_url = "https://localhost:{ca.acme_port}"
status_url = "http://localhost:{ca.status_port}"
data_dir = "data"
acme_listen = "localhost:{ca.acme_port}"
status_listen = "localhost:{ca.status_port}"
[policy]
allowed_names = ["*.localhost"]
[validation]
allowed_networks = ["127.0.0.0/8", "::1/128"]
http_port = {ca.http_port}
"""
        )
        with ca.served() as pid:
            ca.load(pid, clients=1, orders=10)
        return ca

    @property
    def config(self) -> Path:
        return self.folder / "acmeca.toml"

    @property
    def database(self) -> Path:
        return self.folder / "data" / "acmeca.db"

    @contextmanager
    def served(self) -> Iterator[int]:
        """The server, and its process id."""
        process = run.start(self.config, self.folder, f"http://localhost:{self.status_port}")
        self.starts.append(process.seconds)
        try:
            yield process.popen.pid
        finally:
            process.stop()

    def load(self, pid: int, *, clients: int, orders: int) -> dict[str, Any]:
        settings = acme.Settings(
            directory=f"https://localhost:{self.acme_port}/acme/directory",
            ca_bundle=self.folder / "data" / "root.pem",
            clients=clients,
            orders=orders,
            http_port=self.http_port,
            server_pids=(pid,),
        )
        report: dict[str, Any] = asyncio.run(acme.run(settings))
        if report["failures"]:
            raise SystemExit(f"orders failed: {report['failures']}")
        return report


def compare(one: Ca, other: Ca, *, rounds: int, orders: int, clients: int) -> None:
    """Alternate rounds on two running servers."""
    with one.served() as first, other.served() as second:
        for _ in range(rounds):
            for ca, pid in ((one, first), (other, second)):
                report = ca.load(pid, clients=clients, orders=orders)
                ca.cpu_ms.append(report["server"]["cpu_us_each"] / 1000)
                ca.new_order_ms.append(report["requests"]["newOrder"]["p99_ms"])


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    empty, full, pending = (Ca.make(folder / name) for name in ("empty", "full", "pending"))
    begun = time.monotonic()
    _storage_fill.fill(
        full.database, certificates=arguments.certificates, note=lambda text: print(text, file=sys.stderr)
    )
    filled = time.monotonic() - begun
    _storage_fill.fill_pending(pending.database, orders=arguments.pending)
    bytes_by_table = _storage_fill.table_bytes(full.database)
    size = full.database.stat().st_size
    for ca in (empty, full, pending):
        with ca.served():  # a CRL of what was filled in as revoked: once, and not what a start is measured by
            pass
        ca.starts.clear()
    for _ in range(3):
        for ca in (empty, full):
            with ca.served():
                pass
    starts = {"empty": sorted(empty.starts)[1], "full": sorted(full.starts)[1]}
    shape = {"rounds": arguments.rounds, "orders": arguments.orders, "clients": arguments.clients}
    compare(empty, full, **shape)
    cpu_ms = {"empty": list(empty.cpu_ms), "full": list(full.cpu_ms)}
    empty.new_order_ms.clear()
    compare(empty, pending, **shape)
    p99_ms = {"empty": empty.new_order_ms, "pending": pending.new_order_ms}
    return {
        "benchmark": "storage",
        "certificates": arguments.certificates,
        "pending_orders": arguments.pending,
        "load_average": os.getloadavg()[0],
        "fill_seconds": round(filled, 1),
        "database_bytes": size,
        "bytes_by_table": bytes_by_table,
        "bytes_per_certificate": round(size / arguments.certificates),
        "start_seconds": {name: round(seconds, 2) for name, seconds in starts.items()},
        "cpu_ms_per_order": cpu_ms | {"ratio": _ratio(cpu_ms["full"], cpu_ms["empty"])},
        "new_order_p99_ms": p99_ms | {"ratio": _ratio(p99_ms["pending"], p99_ms["empty"])},
    }


def format_report(report: dict[str, Any]) -> str:
    cpu, p99, starts = report["cpu_ms_per_order"], report["new_order_p99_ms"], report["start_seconds"]
    count = report["certificates"]
    lines = [
        (
            f"{count:,} certificates in {report['fill_seconds']:.0f} s; {report['database_bytes'] / 1e6:,.0f} MB,"
            f" {report['bytes_per_certificate']:,} bytes a certificate"
        ),
        *(
            f"  {table:<22}{size / 1e6:>10,.1f} MB  {size / count:>8,.0f} bytes a certificate"
            for table, size in report["bytes_by_table"].items()
            if size > 1e6
        ),
        f"start-up            {starts['empty']:.2f} s empty, {starts['full']:.2f} s full",
        f"CPU of an order     {_spread(cpu['empty'])} ms empty, {_spread(cpu['full'])} ms full: x {cpu['ratio']}",
        (
            f"p99 of newOrder     {_spread(p99['empty'])} ms empty, {_spread(p99['pending'])} ms with"
            f" {report['pending_orders']:,} pending orders: x {p99['ratio']}"
        ),
        f"load average        {report['load_average']:.1f}",
    ]
    return "\n".join(lines)


def _ratio(values: list[float], base: list[float]) -> float:
    return round(statistics.median(values) / statistics.median(base), 3)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--certificates", type=int, default=1_000_000, help="in the full database (%(default)s)")
    parser.add_argument("--pending", type=int, default=10_000, help="orders in the other one (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="on each server, in turn (%(default)s)")
    parser.add_argument("--orders", type=int, default=200, help="in each round (%(default)s)")
    parser.add_argument("--clients", type=int, default=4, help="at once (%(default)s)")
    parser.add_argument("--keep", type=Path, help="make the CAs in this directory, and leave them there")
    parser.add_argument("--json", type=Path, dest="json_path", help="write the figures to this file, too")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = arguments.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="acmeca-bench-")))
        folder.mkdir(parents=True, exist_ok=True)
        report = measure(arguments, folder)
    print(format_report(report))
    if arguments.json_path is not None:
        arguments.json_path.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
