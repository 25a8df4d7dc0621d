"""CPU time an ACME order, acmeca against a peer or another checkout: `python -m benchmarks.compare --help`.

Rule 1: both servers run all the while, and rounds alternate: a machine's speed drifts by more than most differences. So the
figure is the ratio within a round, and the median of these.
Rule 2: both get the same load from the same generator (`benchmarks/acme.py`), and a run with a failure has no figure.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import _measure as measure
from benchmarks import acme
from benchmarks._acme_client import Polling
from benchmarks._servers import CONTENDERS, Server, find_contender

POLL_INTERVAL: Final = 0.005  # seconds; who answers a challenge before it is judged has two polls in each order

_FIGURES: Final = ("subject_ms", "peer_ms", "ratio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The command line, checked."""

    subject: str = "acmeca"
    peer: str = "pebble"
    clients: tuple[int, ...] = (1, 2, 4)
    rounds: int = 3
    orders: int = 300
    json_path: Path | None = None


EPILOG: Final = f"""\
contenders:
  {", ".join(CONTENDERS)}, acmeca@DIRECTORY (another checkout of acmeca, run in this environment)

examples:
  python -m benchmarks.compare --peer pebble --clients 1,2,4 --rounds 3 --orders 300
  git worktree add /tmp/before HEAD~3 && python -m benchmarks.compare --peer acmeca@/tmp/before --clients 4

limits:
  The kernel counts a process in steps of 10 ms: 300 orders of 4 ms are 1.2 s. A machine that others use at the same time makes
  every figure larger, and not in proportion: repeat until the ratios of the rounds agree.

exit status: 0 measured, 2 a server did not start or failed an order.
"""


def parse_settings(argv: Sequence[str]) -> Settings:
    """The settings of a command line; ends the program with a message when it is wrong, as argparse does."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description="Compare the CPU time that an ACME order costs two servers, started here, in alternating rounds.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--subject", default="acmeca", metavar="NAME", help="what is measured (acmeca)")
    parser.add_argument("--peer", default="pebble", metavar="NAME", help="what it is compared with (pebble)")
    parser.add_argument(
        "--clients", type=_numbers, default=(1, 2, 4), metavar="N,N", help="orders under way at once (1,2,4)"
    )
    parser.add_argument("--rounds", type=measure.positive, default=3, metavar="N", help="rounds for each of them (3)")
    parser.add_argument("--orders", type=measure.positive, default=300, metavar="N", help="orders in each round (300)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here as well")
    options = parser.parse_args(argv)
    return Settings(
        subject=options.subject,
        peer=options.peer,
        clients=options.clients,
        rounds=options.rounds,
        orders=options.orders,
        json_path=options.json,
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(measure.positive(part) for part in text.split(","))


async def run(settings: Settings) -> dict[str, Any]:
    """Start both servers, measure, and return the report. Raises `BenchmarkError` when that cannot be done."""
    with contextlib.ExitStack() as stack:
        subject, peer = (_started(stack, name) for name in (settings.subject, settings.peer))
        rows = []
        for clients in settings.clients:
            for number in range(1, settings.rounds + 1):
                figures = [await _order_ms(server, clients, settings.orders) for server in (subject, peer)]
                rows.append(row(clients, number, *figures))
    return build_report(settings, rows)


def _started(stack: contextlib.ExitStack, name: str) -> Server:
    contender = find_contender(name)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="acme-compare-"))
    return stack.enter_context(contender(Path(folder)))


async def _order_ms(server: Server, clients: int, orders: int) -> float:
    """The CPU time that one order costs the server, in milliseconds."""
    report = await acme.run(
        acme.Settings(
            directory=server.directory,
            ca_bundle=server.ca_bundle,
            clients=clients,
            orders=orders,
            http_port=server.http_port,
            http_addresses=server.http_addresses,
            polling=Polling(interval=POLL_INTERVAL),
            server_pids=(server.pid,),
        )
    )
    if report["failures"]:
        raise measure.BenchmarkError(
            f"{server.directory} failed orders:\n{measure.format_failures(report['failures'])}"
        )
    milliseconds = float(report["server"]["cpu_us_each"]) / 1000
    if not milliseconds:
        raise measure.BenchmarkError(f"{orders} orders took less CPU time than the kernel counts: take more")
    return milliseconds


def row(clients: int, number: int, subject_ms: float, peer_ms: float) -> dict[str, Any]:
    """The figures of a round."""
    return {
        "clients": clients,
        "round": number,
        "subject_ms": round(subject_ms, 3),
        "peer_ms": round(peer_ms, 3),
        "ratio": round(subject_ms / peer_ms, 3),
    }


def build_report(settings: Settings, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All figures as JSON values: each round, and for each number of clients the medians of its rounds."""
    medians = []
    for clients in settings.clients:
        of_clients = [each for each in rows if each["clients"] == clients]
        members = {name: round(statistics.median(each[name] for each in of_clients), 3) for name in _FIGURES}
        medians.append({"clients": clients, **members})
    return {
        "benchmark": "compare",
        "subject": settings.subject,
        "peer": settings.peer,
        "orders": settings.orders,
        "environment": measure.environment(),
        "rounds": list(rows),
        "medians": medians,
        "failures": {},  # Rule 2
    }


def format_report(report: Mapping[str, Any]) -> str:
    """The report for a person."""
    rows = [
        [str(each["clients"]), str(each["round"]), *(f"{each[name]:.2f}" for name in _FIGURES)]
        for each in report["rounds"]
    ]
    rows += [
        [str(each["clients"]), "median", *(f"{each[name]:.2f}" for name in _FIGURES)] for each in report["medians"]
    ]
    return "\n".join(
        (
            f"CPU time an order: {report['subject']} against {report['peer']}, {report['orders']} orders a round",
            "",
            measure.format_table(
                ["clients", "round", f"{report['subject']} ms", f"{report['peer']} ms", "ratio"], rows
            ),
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    settings = parse_settings(sys.argv[1:] if argv is None else argv)
    return measure.run_and_print(
        run(settings), format_report=format_report, done="rounds", json_path=settings.json_path
    )


if __name__ == "__main__":
    sys.exit(main())
