"""A bounded load generator for any OCSP responder (RFC 6960): `python -m benchmarks.ocsp --help`.

Rule 1: it costs less than the server. Requests are built before the clock, sent over raw kept-alive connections, and
answers are looked at by a search, not a parse; a share of them is verified in full after the clock.
Rule 2: it is bounded: seconds or a number of requests, a limit for each answer, an end after many failures in a row.
Rule 3: the client is `_ocsp_client`, the figures are made in `_measure`; here stand the command line, the run and the
report.
"""

import argparse
import asyncio
import contextlib
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from benchmarks import _measure as measure
from benchmarks._ocsp_client import (
    HASHES,
    Connection,
    Query,
    Record,
    Target,
    build_queries,
    lint_answer,
    read_certificate_serials,
    read_serials,
)

FAILURES_IN_A_ROW: Final = 100  # requests; then the server is broken and more load teaches nothing
SAMPLES_MOST: Final = 2000  # answers kept for the full check
WATCH_INTERVAL: Final = 0.25  # seconds between two looks for answers that never come
METHODS: Final[Mapping[str, tuple[str, ...]]] = {"GET": ("GET",), "POST": ("POST",), "both": ("GET", "POST")}


# --- settings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The command line, checked. `requests` and `seconds` exclude each other."""

    url: str
    issuer: Path
    serials: Path | None = None
    certificates: Path | None = None
    distinct: int | None = None
    method: str = "POST"
    hash_name: str = "sha1"
    nonce: bool = False
    clients: int = 1
    seconds: float | None = None
    requests: int | None = None
    warm_up: int = 200
    check_every: int = 100
    timeout: float = 5.0
    server_pids: tuple[int, ...] = ()
    json_path: Path | None = None
    i_own_this_server: bool = False


DESCRIPTION: Final = """\
Measure how many OCSP requests a responder answers in a second, how long an answer takes, and what it costs the server in
CPU time.

Each client keeps one connection, sends a request, waits for the answer and sends the next: a closed loop, so there are
never more than --clients requests under way. A server that closes after each answer is connected to again, and that is
inside the time. Serials are asked round and round in a shuffled order (the same in every run), each by GET, POST or both.

Every answer must be HTTP 200, application/ocsp-response, successful, and hold the serial that was asked. Of every
--check-every answers one is kept and verified in full afterwards: CertID, dates, signature, delegation, nonce.
"""

EPILOG: Final = """\
examples:
  # acmeca: 4 connections for 10 seconds, the certificates of a folder, GET and POST in turn
  python -m benchmarks.ocsp --url http://localhost:8080/ocsp/ISSUER_ID --issuer issuer.pem --certificates certs/ \\
      --method both --clients 4 --seconds 10 --server-pid "$(pidof -s acmeca)" --json ocsp-4.json

  # openssl as the responder: one process, one request at a time
  openssl ocsp -port 2560 -index index.txt -CA issuer.pem -rsigner issuer.pem -rkey issuer.key -ndays 1 &
  python -m benchmarks.ocsp --url http://127.0.0.1:2560 --issuer issuer.pem --serials serials.txt --server-pid $!

  # the price of a signature for each answer: a nonce cannot be pre-signed
  python -m benchmarks.ocsp ... --nonce

limits:
  One thread: at more than about 85 % of a core (the report says so) the rate is the generator's own; the server's CPU
  time for each answer still holds. Plain http only. Only loopback, unless you say --i-own-this-server.

exit status: 0 all answers good, 1 some failed, 2 the run could not start or was stopped.
"""


def _argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ocsp",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    server = parser.add_argument_group("the server")
    server.add_argument("--url", required=True, help="the responder, http")
    server.add_argument("--issuer", type=Path, required=True, metavar="FILE", help="PEM certificate of the issuer")
    server.add_argument(
        "--server-pid",
        type=measure.positive,
        action="append",
        default=[],
        metavar="PID",
        help="measure the CPU time and memory of this process and all it starts; may be given several times",
    )
    server.add_argument("--i-own-this-server", action="store_true", help="allow a server that is not on loopback")

    asked = parser.add_argument_group("what is asked")
    source = asked.add_mutually_exclusive_group(required=True)
    source.add_argument("--serials", type=Path, metavar="FILE", help="serials in hexadecimal, one a line")
    source.add_argument("--certificates", type=Path, metavar="DIR", help="a folder of certificates of this issuer")
    asked.add_argument("--distinct", type=measure.positive, metavar="N", help="ask for N of them (default: all)")
    asked.add_argument("--method", choices=tuple(METHODS), default="POST", help="GET, POST (default) or both in turn")
    asked.add_argument(
        "--hash", choices=tuple(HASHES), default="sha1", help="of the CertID: sha1, which most clients send (default)"
    )
    asked.add_argument("--nonce", action="store_true", help="a fresh nonce of 32 octets in each request")

    load = parser.add_argument_group("the load")
    load.add_argument("--clients", type=measure.positive, default=1, metavar="N", help="connections (default 1)")
    amount = load.add_mutually_exclusive_group()
    amount.add_argument(
        "--seconds", type=measure.positive_seconds, metavar="S", help="send no request after S seconds (default 10)"
    )
    amount.add_argument("--requests", type=measure.positive, metavar="N", help="stop after N requests")
    load.add_argument(
        "--warmup", type=measure.not_negative, default=200, metavar="N", help="requests before the clock (default 200)"
    )
    load.add_argument(
        "--check-every", type=measure.positive, default=100, metavar="N", help="verify 1 in N answers (default 100)"
    )
    load.add_argument(
        "--timeout", type=measure.positive_seconds, default=5.0, metavar="S", help="for one answer (default 5)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here as well")
    return parser


def parse_settings(argv: Sequence[str]) -> Settings:
    """The settings of a command line; ends the program with a message when it is wrong, as argparse does."""
    options = _argument_parser().parse_args(argv)
    return Settings(
        url=options.url,
        issuer=options.issuer,
        serials=options.serials,
        certificates=options.certificates,
        distinct=options.distinct,
        method=options.method,
        hash_name=options.hash,
        nonce=options.nonce,
        clients=options.clients,
        seconds=options.seconds if options.requests is not None else options.seconds or 10.0,
        requests=options.requests,
        warm_up=options.warmup,
        check_every=options.check_every,
        timeout=options.timeout,
        server_pids=tuple(options.server_pid),
        json_path=options.json,
        i_own_this_server=options.i_own_this_server,
    )


# --- the run ---------------------------------------------------------------------------------------------------------


class Load:
    """Hands out queries while the budget lasts, and reconnects what was closed."""

    def __init__(
        self, settings: Settings, queries: Sequence[Query], *, requests: int | None, seconds: float | None
    ) -> None:
        self._settings = settings
        self._queries = itertools.cycle(queries)
        self._left = requests
        self._deadline = None if seconds is None else time.perf_counter() + seconds
        self._answers = itertools.count()
        self._open: set[Connection] = set()
        self.record = Record(times={method: measure.empty_samples() for method in METHODS[settings.method]})

    def next_query(self) -> Query | None:
        """The next query, or None when the budget is spent or the server is broken."""
        if self._is_over():
            return None
        if self._left is not None:
            self._left -= 1
        return next(self._queries)

    def _is_over(self) -> bool:
        if self._left is not None and self._left <= 0:
            return True
        if self._deadline is not None and time.perf_counter() >= self._deadline:
            return True
        return self.record.failures_in_a_row >= FAILURES_IN_A_ROW

    def keep_sample(self) -> bool:
        """Whether this answer is kept for the full check: the first, and one in `check_every`."""
        return next(self._answers) % self._settings.check_every == 0 and len(self.record.samples) < SAMPLES_MOST

    async def run(self, target: Target) -> Record:
        """Drive all clients to the end of the budget."""
        watch = asyncio.create_task(self._watch())
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._settings.clients):
                    group.create_task(self._run_client(target))
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
        return self.record

    async def _run_client(self, target: Target) -> None:
        while (query := self.next_query()) is not None:
            try:
                async with asyncio.timeout(self._settings.timeout):
                    connection = await self._connect(target, query)
            except OSError as error:  # TimeoutError is one
                self.record.add_failure("cannot connect", str(error) or type(error).__name__)
                continue
            self._open.add(connection)
            await connection.closed
            self._open.discard(connection)

    async def _connect(self, target: Target, first: Query) -> Connection:
        connection = Connection(
            first=first,
            next_query=self.next_query,
            nonce=self._settings.nonce,
            keep_sample=self.keep_sample,
            record=self.record,
            started=time.perf_counter(),
        )
        await asyncio.get_running_loop().create_connection(lambda: connection, target.host, target.port)
        return connection

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            for connection in list(self._open):
                connection.abort_when_older(self._settings.timeout)


def read_queries(settings: Settings, target: Target, issuer: x509.Certificate) -> list[Query]:
    """All queries of a run, serials shuffled with a fixed seed. Raises `BenchmarkError` when there are too few."""
    try:
        if settings.serials is not None:
            serials = read_serials(settings.serials)
        elif settings.certificates is not None:
            serials = read_certificate_serials(settings.certificates, issuer)
        else:
            serials = []
    except (OSError, ValueError) as error:
        raise measure.BenchmarkError(f"no serials: {error}") from None
    random.Random(6960).shuffle(serials)
    if not serials or len(serials) < (settings.distinct or 1):
        raise measure.BenchmarkError(f"{len(serials)} serials of this issuer, {settings.distinct or 1} are needed")
    return build_queries(
        target=target,
        issuer=issuer,
        serials=serials[: settings.distinct],
        methods=METHODS[settings.method],
        algorithm=HASHES[settings.hash_name](),
        nonce=settings.nonce,
    )


async def run(settings: Settings) -> dict[str, Any]:
    """Run the benchmark and return the report. Raises `BenchmarkError` when it cannot run."""
    measure.require_loopback(settings.url, i_own_this_server=settings.i_own_this_server)
    target = Target.parse(settings.url)
    issuer = measure.read_certificates(settings.issuer)[0]
    queries = read_queries(settings, target, issuer)
    target = await asyncio.to_thread(target.resolved, queries[0].wire, timeout=settings.timeout)
    if settings.warm_up:
        warm = await Load(settings, queries, requests=settings.warm_up, seconds=None).run(target)
        if not warm.good:
            raise measure.BenchmarkError(
                "no request of the warm-up was answered:\n" + measure.format_failures(warm.failures.as_json())
            )
    async with measure.running_clock(settings.server_pids) as clock:
        load = Load(settings, queries, requests=settings.requests, seconds=settings.seconds)
        record = await load.run(target)
    statuses: Counter[str] = Counter()
    for sample in record.samples:
        status, findings = lint_answer(sample, issuer=issuer, now=datetime.now(UTC))
        statuses[status] += 1
        for finding in findings:
            record.failures.add("bad answer", f"{sample.query.serial:x}: {finding}")
    return build_report(settings, record, clock.window, queries=len(queries), statuses=statuses)


# --- the report ------------------------------------------------------------------------------------------------------


def build_report(
    settings: Settings, record: Record, window: measure.Window, *, queries: int, statuses: Mapping[str, int]
) -> dict[str, Any]:
    """All figures as JSON values; times in microseconds."""
    good = record.good
    by_method = {method: measure.summarise(times) for method, times in record.times.items()}
    everything = measure.summarise(itertools.chain.from_iterable(record.times.values()))
    return {
        "benchmark": "ocsp",
        "url": settings.url,
        "load": {
            "clients": settings.clients,
            "seconds": settings.seconds,
            "requests": settings.requests,
            "warm_up": settings.warm_up,
            "method": settings.method,
            "hash": settings.hash_name,
            "nonce": settings.nonce,
            "distinct_requests": queries,
        },
        "environment": measure.environment(),
        "good_answers": good,
        "failures": record.failures.as_json(),
        "wall_seconds": round(window.wall_seconds, 3),
        "answers_per_second": round(good / window.wall_seconds, 1) if window.wall_seconds else 0.0,
        "connections": record.connections,
        "octets_per_answer": round(record.wire_octets / good, 1) if good else None,
        "body_octets_per_answer": round(record.body_octets / good, 1) if good else None,
        "nonces_echoed": record.nonces_echoed,
        "verified_answers": len(record.samples),
        "statuses_of_verified": dict(statuses),
        "answer": None if everything is None else everything.scaled(1e6).as_json("us"),
        "methods": {
            method: distribution.scaled(1e6).as_json("us")
            for method, distribution in by_method.items()
            if distribution is not None
        },
        "server": measure.server_figures(window, done=good),
        "generator": {
            "cpu_us_per_answer": round(window.generator_cpu_seconds * 1e6 / good, 2) if good else None,
            "share_of_a_core": round(window.generator_share, 3),
            "saturated": window.generator_saturated,
        },
    }


HOW: Final = (
    "Rate: good answers divided by the wall time from the first request to the last answer, warm-up excluded.",
    (
        "Time: from handing the request to the socket until the answer is read and whole; with a new connection, from "
        "connecting. p50, p95 and p99 are nearest-rank: times that were measured."
    ),
    "Octets: the whole HTTP response, and the DER in it.",
    *measure.HOW_CPU,
)


def format_report(report: Mapping[str, Any]) -> str:
    """The report for a person."""
    load, server, generator = report["load"], report["server"], report["generator"]
    failed = sum(entry["count"] for entry in report["failures"].values())
    lines = [
        (
            f"OCSP load on {report['url']}: {load['clients']} connections, {load['method']}, {load['hash']}, "
            f"{'a nonce each' if load['nonce'] else 'no nonce'}, {load['distinct_requests']} distinct requests"
        ),
        f"  answers    {report['good_answers']} good, {failed} failures, {report['wall_seconds']:.2f} s",
        f"  rate       {report['answers_per_second']:.0f} answers/s",
    ]
    if report["good_answers"]:
        statuses = ", ".join(f"{count} {status}" for status, count in report["statuses_of_verified"].items())
        lines += [
            (
                f"  answer     {report['octets_per_answer']:.0f} octets, {report['body_octets_per_answer']:.0f} of them "
                f"DER; {report['connections']} connections made"
            ),
            f"  verified   {report['verified_answers']} in full: {statuses}",
            (
                f"  generator  {generator['cpu_us_per_answer']:.1f} µs CPU an answer, "
                f"{generator['share_of_a_core']:.0%} of a core"
            ),
        ]
    if load["nonce"]:
        lines.append(f"  nonce      echoed in {report['nonces_echoed']} of {report['good_answers']} answers")
    if server is not None:
        lines.append(
            f"  server     {server['cpu_us_each']:.1f} µs CPU an answer, {server['cores_used']:.2f} cores, peak RSS "
            f"{server['peak_rss_mib']:.1f} MiB in {server['processes']} processes"
        )
    if generator["saturated"]:
        lines.append("  NOTE       the generator used nearly a whole core: the rate may be its own, not the server's")
    lines += ["", _time_table(report)]
    if report["failures"]:
        lines += ["", "failures", measure.format_failures(report["failures"])]
    lines += ["", "how it was measured", *(f"  {text}" for text in HOW)]
    return "\n".join(lines)


def _time_table(report: Mapping[str, Any]) -> str:
    timed = {"all": report["answer"]} if report["answer"] is not None else {}
    rows = [
        [
            name,
            str(figures["count"]),
            *(f"{figures[member]:.0f}" for member in ("mean_us", "p50_us", "p95_us", "p99_us", "max_us")),
        ]
        for name, figures in {**timed, **report["methods"]}.items()
    ]
    return measure.format_table(["", "count", "mean µs", "p50 µs", "p95 µs", "p99 µs", "max µs"], rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    settings = parse_settings(sys.argv[1:] if argv is None else argv)
    return measure.run_and_print(
        run(settings), format_report=format_report, done="good_answers", json_path=settings.json_path
    )


if __name__ == "__main__":
    sys.exit(main())
