"""A bounded load generator for any ACME server (RFC 8555): `python -m benchmarks.acme --help`.

Rule 1: what can be made before the clock starts is: keys, CSRs, accounts, connections. What can be checked after it has
stopped is: every certificate is parsed, compared with its order and verified against its issuer.
Rule 2: it is bounded. A number of orders or of seconds, a limit for each order and each request, and an end after many
failures in a row.
Rule 3: the client is `_acme_client`, the figures are made in `_measure`; here stand the command line, the run and the
report.
"""

import argparse
import asyncio
import contextlib
import itertools
import ssl
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from benchmarks import _measure as measure
from benchmarks._acme_client import (
    AccountKey,
    CertificateKey,
    ChallengeBoard,
    Client,
    Directory,
    ExternalAccount,
    Kind,
    OrderError,
    OrderPlan,
    Polling,
    Record,
    build_plan,
    challenge_responder,
    fetch_directory,
    lint_certificate,
    parse_mac_key,
)

REQUEST_TIMEOUT: Final = 30.0  # seconds for one request
FAILURES_IN_A_ROW: Final = 20  # orders; then the server is broken and more load teaches nothing
PREBUILT_PER_SECOND: Final = 400  # CSRs made ahead for each second of a --seconds run
PREBUILT_MOST: Final = 50_000
RSA_KEYS: Final = 8  # an RSA key takes a tenth of a second to make, so CSRs share a few


# --- settings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The command line, checked. Seconds are seconds; `orders` and `seconds` exclude each other."""

    directory: str
    ca_bundle: Path | None = None
    clients: int = 1
    orders: int | None = None
    seconds: float | None = None
    warm_up: int = 10
    identifiers: int = 1
    distinct: int | None = None
    name_template: str = "b{n}.localhost"
    key_type: str = "ec"
    account_per_client: bool = False
    external_account: ExternalAccount | None = None
    profile: str | None = None
    http_port: int = 5002
    http_addresses: tuple[str, ...] = ("127.0.0.1", "::1")
    responder: bool = True
    polling: Polling = field(default_factory=Polling)
    order_timeout: float = 60.0
    issuer: Path | None = None
    server_pids: tuple[int, ...] = ()
    json_path: Path | None = None
    i_own_this_server: bool = False


DESCRIPTION: Final = """\
Measure how many certificates an ACME server issues in a second, how long each step takes, and what an order costs the
server in CPU time.

Each client takes the next order, drives it to the downloaded certificate, and takes the next one: a closed loop, so there
are never more than --clients requests under way. Challenges are http-01 and answered by this program on --http-port; the
server must find every name of --name-template at a loopback address and fetch from that port.

An order is: newOrder, each authorization, its challenge, a poll of the authorization, finalize, a poll of the order if it
says "processing", the certificate. All of it is inside the order's time, waiting for Retry-After included.
"""

EPILOG: Final = """\
examples:
  # 500 orders by 4 clients against acmeca's demo, with the server's CPU time
  python -m benchmarks.acme --directory https://localhost:8443/acme/directory --ca-bundle roots.pem \\
      --clients 4 --orders 500 --server-pid "$(pidof -s acmeca)" --json acmeca-4.json

  # the same load for 20 seconds against Pebble, whose names a resolver of its own points to loopback
  pebble-challtestsrv -defaultIPv6 "" -http01 "" -https01 "" -tlsalpn01 "" &
  PEBBLE_VA_NOSLEEP=1 PEBBLE_WFE_NONCEREJECT=0 pebble -config pebble.json -dnsserver 127.0.0.1:8053 &
  python -m benchmarks.acme --directory https://localhost:14000/dir --ca-bundle pebble-tls.pem \\
      --clients 4 --seconds 20 --server-pid $!

  # renewals: the same 50 names again and again, so that a server may reuse its authorizations
  python -m benchmarks.acme ... --orders 1000 --distinct 50

limits:
  One thread: at more than about 85 % of a core (the report says so) the rate is the generator's own; the server's CPU
  time for each order still holds. Generator and server share the machine: keep a core for each. Revocation, key change
  and other challenges are not measured. Only loopback, unless you say --i-own-this-server.

exit status: 0 all orders valid, 1 some failed, 2 the run could not start or was stopped.
"""


def _argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.acme",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    server = parser.add_argument_group("the server")
    server.add_argument("--directory", required=True, metavar="URL", help="the ACME directory, https or http")
    server.add_argument("--ca-bundle", type=Path, metavar="FILE", help="PEM certificates to trust for its TLS")
    server.add_argument(
        "--server-pid",
        type=measure.positive,
        action="append",
        default=[],
        metavar="PID",
        help="measure the CPU time and memory of this process and all it starts; may be given several times",
    )
    server.add_argument("--i-own-this-server", action="store_true", help="allow a server that is not on loopback")
    server.add_argument(
        "--issuer", type=Path, metavar="FILE", help="PEM the last certificate of each chain must lead to"
    )
    server.add_argument("--eab-kid", metavar="KID", help="external account binding: the key's id (§7.3.4)")
    server.add_argument("--eab-key-file", type=Path, metavar="FILE", help="… a file with its HMAC key in base64url")
    server.add_argument("--profile", metavar="NAME", help="ask for this profile in each newOrder")

    load = parser.add_argument_group("the load")
    load.add_argument(
        "--clients", type=measure.positive, default=1, metavar="N", help="orders under way at once (default 1)"
    )
    amount = load.add_mutually_exclusive_group()
    amount.add_argument("--orders", type=measure.positive, metavar="N", help="stop after N orders (default 100)")
    amount.add_argument("--seconds", type=measure.positive_seconds, metavar="S", help="begin no order after S seconds")
    load.add_argument(
        "--warmup",
        type=measure.not_negative,
        default=10,
        metavar="N",
        help="orders before the clock starts (default 10)",
    )
    load.add_argument("--account-per-client", action="store_true", help="an account for each client, not one for all")
    load.add_argument("--name-template", default="b{n}.localhost", help="names to order; {n} counts (b{n}.localhost)")
    load.add_argument(
        "--identifiers", type=measure.positive, default=1, metavar="N", help="names in each order (default 1)"
    )
    load.add_argument(
        "--distinct", type=measure.positive, metavar="N", help="use N names over and over (default: all differ)"
    )
    load.add_argument(
        "--key-type",
        choices=("ec", "rsa"),
        default="ec",
        help=f"certificate keys: P-256, one for each order (default), or RSA-2048, {RSA_KEYS} shared; accounts use P-256",
    )

    challenge = parser.add_argument_group("challenges and polling")
    challenge.add_argument(
        "--http-port", type=measure.port, default=5002, metavar="PORT", help="answer http-01 here (5002)"
    )
    challenge.add_argument(
        "--http-address",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="listen here; may be given several times (default 127.0.0.1 and ::1)",
    )
    challenge.add_argument("--no-responder", action="store_true", help="do not listen: the server validates trivially")
    challenge.add_argument(
        "--poll-interval",
        type=measure.positive_seconds,
        default=0.02,
        metavar="S",
        help="without Retry-After (default 0.02)",
    )
    challenge.add_argument(
        "--max-retry-after",
        type=measure.seconds,
        default=5.0,
        metavar="S",
        help="wait at most S seconds for a Retry-After (default 5); 0 ignores it and polls at --poll-interval",
    )
    challenge.add_argument(
        "--order-timeout",
        type=measure.positive_seconds,
        default=60.0,
        metavar="S",
        help="give an order up (default 60)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here as well")
    return parser


def parse_settings(argv: Sequence[str]) -> Settings:
    """The settings of a command line; ends the program with a message when it is wrong, as argparse does."""
    parser = _argument_parser()
    options = parser.parse_args(argv)
    if (options.eab_kid is None) != (options.eab_key_file is None):
        parser.error("--eab-kid and --eab-key-file belong together")
    if options.distinct is not None and options.distinct < options.identifiers:
        parser.error("--distinct must be at least --identifiers: the names of one order differ")
    try:
        names = {options.name_template.format(n=n) for n in (0, 1)}
    except (IndexError, KeyError, ValueError) as error:
        parser.error(f"--name-template: {error!r}")
    if len(names) != 2:
        parser.error("--name-template needs {n}, so that names differ")
    return Settings(
        directory=options.directory,
        ca_bundle=options.ca_bundle,
        clients=options.clients,
        orders=options.orders if options.seconds is not None else options.orders or 100,
        seconds=options.seconds,
        warm_up=options.warmup,
        identifiers=options.identifiers,
        distinct=options.distinct,
        name_template=options.name_template,
        key_type=options.key_type,
        account_per_client=options.account_per_client,
        external_account=_read_external_account(parser, options.eab_kid, options.eab_key_file),
        profile=options.profile,
        http_port=options.http_port,
        http_addresses=tuple(options.http_address) or ("127.0.0.1", "::1"),
        responder=not options.no_responder,
        polling=Polling(interval=options.poll_interval, max_retry_after=options.max_retry_after),
        order_timeout=options.order_timeout,
        issuer=options.issuer,
        server_pids=tuple(options.server_pid),
        json_path=options.json,
        i_own_this_server=options.i_own_this_server,
    )


def _read_external_account(
    parser: argparse.ArgumentParser, kid: str | None, key_file: Path | None
) -> ExternalAccount | None:
    if kid is None or key_file is None:
        return None
    try:
        return ExternalAccount(kid=kid, mac_key=parse_mac_key(key_file.read_text(encoding="ascii")))
    except (OSError, ValueError) as error:
        parser.error(f"--eab-key-file {key_file}: {error}")


# --- what is ordered ----------------------------------------------------------------------------------------------------


class PlanSource:
    """Plans in order, made ahead as far as `prebuild` was asked to; the rest as they are taken."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._numbers = self._name_numbers(settings)
        self._keys = self._certificate_keys(settings)
        self._ahead: deque[OrderPlan] = deque()
        self.made_inside_clock = 0

    @staticmethod
    def _name_numbers(settings: Settings) -> Iterator[int]:
        return itertools.count() if settings.distinct is None else itertools.cycle(range(settings.distinct))

    @staticmethod
    def _certificate_keys(settings: Settings) -> Iterator[CertificateKey]:
        if settings.key_type == "rsa":
            keys = [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(RSA_KEYS)]
            return itertools.cycle(keys)
        return iter(lambda: ec.generate_private_key(ec.SECP256R1()), None)

    def prebuild(self, count: int) -> None:
        """Have `count` plans ready."""
        while len(self._ahead) < count:
            self._ahead.append(self._build())

    def take(self) -> OrderPlan:
        """The next plan."""
        if self._ahead:
            return self._ahead.popleft()
        self.made_inside_clock += 1
        return self._build()

    def _build(self) -> OrderPlan:
        settings = self._settings
        names = tuple(
            settings.name_template.format(n=number) for number in itertools.islice(self._numbers, settings.identifiers)
        )
        return build_plan(names, next(self._keys), profile=settings.profile)


# --- the run ---------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def open_session(settings: Settings) -> AsyncIterator[aiohttp.ClientSession]:
    """A session with at most one kept-alive connection for each client; no cookies, no proxy, no redirects."""
    context: ssl.SSLContext | bool = True
    if settings.directory.startswith("https:"):
        try:
            context = ssl.create_default_context(cafile=settings.ca_bundle)
        except OSError as error:
            raise measure.BenchmarkError(f"--ca-bundle {settings.ca_bundle}: {error}") from None
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=settings.clients, ssl=context, keepalive_timeout=60),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT),
        headers={"User-Agent": "acme-benchmark/1"},  # RFC 8555 §6.1: a client MUST send one
        skip_auto_headers=("Accept-Encoding",),
    ) as session:
        yield session


async def open_clients(
    session: aiohttp.ClientSession, directory: Directory, board: ChallengeBoard, settings: Settings
) -> list[Client]:
    """Registered clients: one account for all, or one each."""

    def build_client() -> Client:
        return Client(session=session, directory=directory, polling=settings.polling, key=AccountKey(), board=board)

    try:
        first = build_client()
        await first.register(settings.external_account)
        clients = [first]
        for _ in range(settings.clients - 1):
            client = build_client() if settings.account_per_client else first.with_same_account()
            if settings.account_per_client:
                await client.register(settings.external_account)
            clients.append(client)
    except OrderError as error:
        raise measure.BenchmarkError(f"no account: {error}") from None
    return clients


class Budget:
    """How many orders may still begin: a number, or all until a moment."""

    def __init__(self, *, orders: int | None, seconds: float | None) -> None:
        self._left = orders
        self._deadline = None if seconds is None else time.perf_counter() + seconds

    def take(self) -> bool:
        """Whether one more order may begin; counts it."""
        if self._deadline is not None and time.perf_counter() >= self._deadline:
            return False
        if self._left is not None:
            self._left -= 1
            return self._left >= 0
        return True


async def run_load(clients: Sequence[Client], plans: PlanSource, budget: Budget, settings: Settings) -> Record:
    """All clients take orders until the budget is spent; returns what they measured."""
    record = Record()
    for client in clients:
        client.record = record
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(_run_client(client, plans, budget, settings))
    return record


async def _run_client(client: Client, plans: PlanSource, budget: Budget, settings: Settings) -> None:
    record = client.record
    while record.failures_in_a_row < FAILURES_IN_A_ROW and budget.take():
        plan = plans.take()
        started = time.perf_counter()
        try:
            async with asyncio.timeout(settings.order_timeout):
                chain_pem = await client.complete_order(plan)
        except TimeoutError:
            record.failures.add("order timed out", f"{plan.names[0]} after {settings.order_timeout} s")
            record.failures_in_a_row += 1
        except OrderError as error:
            record.failures.add(error.kind, error.detail)
            record.failures_in_a_row += 1
        else:
            record.orders.append(time.perf_counter() - started)
            record.finished.append((plan, chain_pem))
            record.failures_in_a_row = 0


async def run(settings: Settings) -> dict[str, Any]:
    """Run the benchmark and return the report. Raises `BenchmarkError` when it cannot run."""
    measure.require_loopback(settings.directory, i_own_this_server=settings.i_own_this_server)
    issuers = [] if settings.issuer is None else measure.read_certificates(settings.issuer)
    board = ChallengeBoard()
    plans = PlanSource(settings)
    planned = settings.orders or min(int((settings.seconds or 0) * PREBUILT_PER_SECOND), PREBUILT_MOST)
    plans.prebuild(min(planned, PREBUILT_MOST) + settings.warm_up)
    async with contextlib.AsyncExitStack() as stack:
        if settings.responder:
            await stack.enter_async_context(
                challenge_responder(board, addresses=settings.http_addresses, port=settings.http_port)
            )
        session = await stack.enter_async_context(open_session(settings))
        directory = await fetch_directory(session, settings.directory, i_own_this_server=settings.i_own_this_server)
        clients = await open_clients(session, directory, board, settings)
        if settings.warm_up:
            warm = await run_load(clients, plans, Budget(orders=settings.warm_up, seconds=None), settings)
            if not warm.orders:
                raise measure.BenchmarkError(
                    "no order of the warm-up came through:\n" + measure.format_failures(warm.failures.as_json())
                )
        board.fetches = 0
        plans.made_inside_clock = 0
        async with measure.running_clock(settings.server_pids) as clock:
            record = await run_load(clients, plans, Budget(orders=settings.orders, seconds=settings.seconds), settings)
    for plan, chain_pem in record.finished:
        for finding in lint_certificate(plan, chain_pem, issuers=issuers, now=datetime.now(UTC)):
            record.failures.add("bad certificate", f"{plan.names[0]}: {finding}")
    return build_report(settings, record, clock.window, board=board, plans=plans)


# --- the report ------------------------------------------------------------------------------------------------------


def build_report(
    settings: Settings, record: Record, window: measure.Window, *, board: ChallengeBoard, plans: PlanSource
) -> dict[str, Any]:
    """All figures as JSON values; times in milliseconds."""
    valid = len(record.orders)
    order_times = measure.summarise(record.orders)
    kinds = {kind: measure.summarise(record.requests[kind]) for kind in Kind if kind in record.requests}
    requests = sum(distribution.count for distribution in kinds.values() if distribution is not None)
    return {
        "benchmark": "acme",
        "directory": settings.directory,
        "load": {
            "clients": settings.clients,
            "orders": settings.orders,
            "seconds": settings.seconds,
            "warm_up": settings.warm_up,
            "identifiers": settings.identifiers,
            "distinct": settings.distinct,
            "key_type": settings.key_type,
            "account_per_client": settings.account_per_client,
            "max_retry_after": settings.polling.max_retry_after,
            "poll_interval": settings.polling.interval,
        },
        "environment": {**measure.environment(), "aiohttp": aiohttp.__version__},
        "valid_orders": valid,
        "failures": record.failures.as_json(),
        "wall_seconds": round(window.wall_seconds, 3),
        "orders_per_second": round(valid / window.wall_seconds, 2) if window.wall_seconds else 0.0,
        "requests_per_order": round(requests / valid, 2) if valid else None,
        "waited_ms_per_order": round(record.waited * 1000 / valid, 2) if valid else None,
        "bad_nonces": record.bad_nonces,
        "validation_fetches_per_order": round(board.fetches / valid, 2) if valid and settings.responder else None,
        "csrs_made_inside_the_clock": plans.made_inside_clock,
        "order": None if order_times is None else order_times.scaled(1000).as_json("ms"),
        "requests": {
            kind.value: distribution.scaled(1000).as_json("ms")
            for kind, distribution in kinds.items()
            if distribution is not None
        },
        "server": measure.server_figures(window, done=valid),
        "generator": {
            "cpu_ms_per_order": round(window.generator_cpu_seconds * 1000 / valid, 3) if valid else None,
            "share_of_a_core": round(window.generator_share, 3),
            "saturated": window.generator_saturated,
        },
    }


HOW: Final = (
    "Rate: valid orders divided by the wall time from the first newOrder to the last certificate, warm-up excluded.",
    "Order: from sending newOrder to the last byte of the certificate, this program's own work and all waits included.",
    (
        "Request: from sending to the last byte of the body, a new connection included; signing is outside. p50, p95 and p99 "
        "are nearest-rank: times that were measured."
    ),
    "Checked after the clock: each certificate's names, key, dates and signature.",
    *measure.HOW_CPU,
    "The generator's CPU time includes answering the server's http-01 fetches.",
)


def format_report(report: Mapping[str, Any]) -> str:
    """The report for a person."""
    load, server, generator = report["load"], report["server"], report["generator"]
    failed = sum(entry["count"] for entry in report["failures"].values())
    lines = [
        (
            f"ACME load on {report['directory']}: {load['clients']} clients, {load['key_type']} keys, "
            f"{load['identifiers']} names an order"
        ),
        f"  orders     {report['valid_orders']} valid, {failed} failures, {report['wall_seconds']:.2f} s",
        f"  rate       {report['orders_per_second']:.2f} orders/s",
    ]
    if report["valid_orders"]:
        lines.append(
            f"  per order  {report['requests_per_order']:.2f} requests, {report['waited_ms_per_order']:.1f} ms waited for "
            f"polls, {_optional(report['validation_fetches_per_order'])} validation fetches"
        )
        lines.append(
            f"  generator  {generator['cpu_ms_per_order']:.2f} ms CPU an order, "
            f"{generator['share_of_a_core']:.0%} of a core"
        )
    if server is not None:
        lines.append(
            f"  server     {server['cpu_us_each'] / 1000:.2f} ms CPU an order, {server['cores_used']:.2f} cores, peak RSS "
            f"{server['peak_rss_mib']:.1f} MiB in {server['processes']} processes"
        )
    if generator["saturated"]:
        lines.append("  NOTE       the generator used nearly a whole core: the rate may be its own, not the server's")
    if report["bad_nonces"]:
        lines.append(f"  NOTE       {report['bad_nonces']} requests were repeated after badNonce")
    lines.extend(["", _request_table(report)])
    if report["failures"]:
        lines.extend(["", "failures", measure.format_failures(report["failures"])])
    lines.extend(["", "how it was measured", *(f"  {text}" for text in HOW)])
    return "\n".join(lines)


def _optional(value: float | None) -> str:
    return "no" if value is None else f"{value:.2f}"


def _request_table(report: Mapping[str, Any]) -> str:
    rows = []
    timed = {"order": report["order"]} if report["order"] is not None else {}
    for name, figures in {**timed, **report["requests"]}.items():
        times = [f"{figures[member]:.2f}" for member in ("mean_ms", "p50_ms", "p95_ms", "p99_ms", "max_ms")]
        rows.append([name, str(figures["count"]), *times])
    return measure.format_table(["", "count", "mean ms", "p50 ms", "p95 ms", "p99 ms", "max ms"], rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    settings = parse_settings(sys.argv[1:] if argv is None else argv)
    return measure.run_and_print(
        run(settings), format_report=format_report, done="valid_orders", json_path=settings.json_path
    )


if __name__ == "__main__":
    sys.exit(main())
