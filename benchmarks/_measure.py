"""What the benchmarks share: percentiles, the CPU time and memory of a process tree, the loopback rule, the report.

Rule 1: a benchmark is an outside client. It imports nothing of acmeca, so the same program measures any server.
Rule 2: a percentile is a value that was measured (nearest rank), never one between two measured values.
Rule 3: the server's CPU time comes from the kernel and covers its whole process tree, however it is built: threads,
workers, and children that came and went.
Rule 4: load goes to loopback only, unless the person who starts it says that the server is theirs.
Rule 5: the generator's own CPU time stands in every report, so that nobody mistakes its limit for the server's.
"""

import argparse
import array
import asyncio
import contextlib
import ipaddress
import json
import math
import os
import platform
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import cryptography
from cryptography import x509

PROC: Final = Path("/proc")
SAMPLE_INTERVAL: Final = 1.0  # seconds between two looks at the process tree; one look costs a millisecond or two
SATURATED_SHARE: Final = 0.85  # above this share of one core the generator may be what limits the rate


class BenchmarkError(Exception):
    """The benchmark cannot run, or cannot go on; the text is for the person who started it."""


# --- percentiles -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Distribution:
    """Figures of one set of samples, in the unit of the samples."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    maximum: float

    def scaled(self, factor: float) -> "Distribution":
        """The same distribution in another unit: seconds times 1000 are milliseconds."""
        return Distribution(
            count=self.count,
            mean=self.mean * factor,
            p50=self.p50 * factor,
            p95=self.p95 * factor,
            p99=self.p99 * factor,
            maximum=self.maximum * factor,
        )

    def as_json(self, unit: str) -> dict[str, float | int]:
        """Members named with their unit, rounded to a thousandth of it."""
        return {
            "count": self.count,
            f"mean_{unit}": round(self.mean, 3),
            f"p50_{unit}": round(self.p50, 3),
            f"p95_{unit}": round(self.p95, 3),
            f"p99_{unit}": round(self.p99, 3),
            f"max_{unit}": round(self.maximum, 3),
        }


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of samples in ascending order: the smallest with at least `percent` % at or below it.

    `ordered` must not be empty and `percent` lies in (0, 100].
    """
    if not ordered:
        raise ValueError("a percentile of no samples")
    if not 0 < percent <= 100:
        raise ValueError(f"a percentile lies above 0 and up to 100, got {percent}")
    # Multiply before dividing: 0.95 has no exact float, and 95 * 20 / 100 must be rank 19, not 20.
    return ordered[math.ceil(percent * len(ordered) / 100) - 1]


def summarise(samples: Iterable[float]) -> Distribution | None:
    """The distribution of the samples, or None when there are none."""
    ordered = sorted(samples)
    if not ordered:
        return None
    return Distribution(
        count=len(ordered),
        mean=math.fsum(ordered) / len(ordered),
        p50=percentile(ordered, 50),
        p95=percentile(ordered, 95),
        p99=percentile(ordered, 99),
        maximum=ordered[-1],
    )


def empty_samples() -> "array.array[float]":
    """Room for samples at eight bytes each: a long run must not make the generator slower."""
    return array.array("d")


class Failures:
    """What went wrong, counted by kind, with the first detail of each kind."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._details: dict[str, str] = {}

    def add(self, kind: str, detail: str) -> None:
        """Count one failure; `detail` came from a peer or an exception, so it is kept printable and short."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._details.setdefault(kind, detail.encode("unicode_escape").decode("ascii")[:300])

    @property
    def total(self) -> int:
        """All failures of all kinds."""
        return sum(self._counts.values())

    def as_json(self) -> dict[str, dict[str, str | int]]:
        """Kinds by frequency, each with its count and first detail."""
        by_count = sorted(self._counts.items(), key=lambda item: -item[1])
        return {kind: {"count": count, "first_detail": self._details[kind]} for kind, count in by_count}


# --- CPU time and memory of a process tree ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """What proc(5) says of one process in `/proc/PID/stat`; all its threads are in the sums.

    `cpu_ticks` is utime + stime + cutime + cstime: its own time, and that of children it has waited for. Summed over the
    living processes of a tree nothing is lost or counted twice, for a child's time moves to its parent as it is reaped.
    """

    pid: int
    parent_pid: int
    started_ticks: int
    cpu_ticks: int


def parse_stat(text: str) -> ProcessStat:
    """Parse `/proc/PID/stat`. The command name (field 2) may hold blanks and parentheses: the last `)` ends it."""
    head, _, tail = text.rpartition(")")
    pid = int(head.partition("(")[0])
    fields = tail.split()  # fields[0] is field 3 of proc(5), the state
    return ProcessStat(
        pid=pid,
        parent_pid=int(fields[1]),
        started_ticks=int(fields[19]),
        cpu_ticks=sum(int(field) for field in fields[11:15]),
    )


def parse_peak_rss(status_text: str) -> int:
    """The VmHWM line of `/proc/PID/status`, in bytes; 0 for a zombie or a kernel thread, which has none."""
    for line in status_text.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _read_stats(proc: Path) -> dict[int, ProcessStat]:
    stats = {}
    for entry in os.scandir(proc):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended while we looked
            stat = parse_stat(Path(entry.path, "stat").read_text(errors="replace"))
            stats[stat.pid] = stat
    return stats


def _read_peak_rss(proc: Path, pid: int) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return parse_peak_rss((proc / str(pid) / "status").read_text(errors="replace"))
    return 0


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """Sums over the process tree of a server."""

    cpu_seconds: float
    peak_rss_bytes: int
    processes: int


class ProcessTree:
    """The CPU time and peak memory of some processes and everything they start.

    `sample` looks once. Call it at the start, from time to time, and at the end: a process that was seen once is followed
    by pid and start time even when its parent has gone, and its time is kept after its own end. What it cannot see: the
    time of a child whose parent has SIGCHLD ignored, for the kernel then gives it to nobody.
    """

    def __init__(self, root_pids: Sequence[int], *, proc: Path = PROC) -> None:
        self._roots = tuple(root_pids)
        self._proc = proc
        self._seen: dict[int, ProcessStat] = {}
        self._departed_ticks = 0  # of ended processes whose time no living process of the tree has inherited
        self._peak_rss = 0
        self._most_processes = 0

    def sample(self) -> ProcessUsage:
        """Read the tree; raise `BenchmarkError` when a root is no longer there."""
        everything = _read_stats(self._proc)
        for root in self._roots:
            if root not in everything:
                raise BenchmarkError(f"the server process {root} is not there")
        members = self._members(everything)
        self._departed_ticks += self._lost_ticks(members)
        self._seen = members
        self._peak_rss = max(self._peak_rss, sum(_read_peak_rss(self._proc, pid) for pid in members))
        self._most_processes = max(self._most_processes, len(members))
        ticks = self._departed_ticks + sum(stat.cpu_ticks for stat in members.values())
        return ProcessUsage(
            cpu_seconds=ticks / os.sysconf("SC_CLK_TCK"),
            peak_rss_bytes=self._peak_rss,
            processes=self._most_processes,
        )

    def _members(self, everything: Mapping[int, ProcessStat]) -> dict[int, ProcessStat]:
        children: dict[int, list[int]] = {}
        for stat in everything.values():
            children.setdefault(stat.parent_pid, []).append(stat.pid)
        followed = [
            pid
            for pid, stat in self._seen.items()
            if pid in everything and everything[pid].started_ticks == stat.started_ticks  # not a reused pid
        ]
        members: dict[int, ProcessStat] = {}
        pending = [*self._roots, *followed]
        while pending:
            pid = pending.pop()
            if pid not in members:
                members[pid] = everything[pid]
                pending.extend(children.get(pid, ()))
        return members

    def _lost_ticks(self, members: Mapping[int, ProcessStat]) -> int:
        return sum(
            stat.cpu_ticks
            for pid, stat in self._seen.items()
            if (pid not in members or members[pid].started_ticks != stat.started_ticks)
            and not self._has_living_ancestor(stat, members)
        )

    def _has_living_ancestor(self, stat: ProcessStat, members: Mapping[int, ProcessStat]) -> bool:
        while (parent := self._seen.get(stat.parent_pid)) is not None:
            if parent.pid in members and members[parent.pid].started_ticks == parent.started_ticks:
                return True
            stat = parent
        return False


# --- the measured window ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Window:
    """What was used between the start and the end of the clock."""

    wall_seconds: float
    generator_cpu_seconds: float
    server: ProcessUsage | None  # cpu_seconds inside the window; None when no pid was given

    @property
    def generator_share(self) -> float:
        """The generator's CPU time as a share of one core: it runs one thread, so 1.0 is its limit."""
        return self.generator_cpu_seconds / self.wall_seconds if self.wall_seconds else 0.0

    @property
    def generator_saturated(self) -> bool:
        """Whether the generator, not the server, may have set the rate."""
        return self.generator_share > SATURATED_SHARE


class Clock:
    """Started by `running_clock`; holds the finished `Window` after the block."""

    def __init__(self) -> None:
        self._window: Window | None = None

    def stop(self, window: Window) -> None:
        """Keep the window; `running_clock` calls this once."""
        self._window = window

    @property
    def window(self) -> Window:
        """The measured window; only after the `async with` block has ended."""
        if self._window is None:
            raise BenchmarkError("the clock is still running")
        return self._window


@contextlib.asynccontextmanager
async def running_clock(server_pids: Sequence[int]) -> AsyncIterator[Clock]:
    """Measure the block: wall time, CPU time of this process, and of the servers' process trees."""
    clock = Clock()
    tree = ProcessTree(server_pids) if server_pids else None
    first = tree.sample() if tree is not None else None
    sampler = asyncio.create_task(_sample_until_cancelled(tree)) if tree is not None else None
    wall_start, cpu_start = time.perf_counter(), time.process_time()
    try:
        yield clock
    finally:
        wall, cpu = time.perf_counter() - wall_start, time.process_time() - cpu_start
        if sampler is not None:
            sampler.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sampler
    server = None
    if tree is not None and first is not None:
        last = tree.sample()
        server = ProcessUsage(
            cpu_seconds=last.cpu_seconds - first.cpu_seconds,
            peak_rss_bytes=last.peak_rss_bytes,
            processes=last.processes,
        )
    clock.stop(Window(wall_seconds=wall, generator_cpu_seconds=cpu, server=server))


async def _sample_until_cancelled(tree: ProcessTree) -> None:
    while True:
        await asyncio.sleep(SAMPLE_INTERVAL)
        tree.sample()


# --- the loopback rule -----------------------------------------------------------------------------------------------


def require_loopback(url: str, *, i_own_this_server: bool) -> None:
    """Rule 4: raise `BenchmarkError` unless every address of the URL's host is loopback, or the person vouches for it."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BenchmarkError(f"{url!r} is no URL: {error}") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise BenchmarkError(f"{url!r} is no http or https URL with a host")
    try:
        found = socket.getaddrinfo(host, port or 443, type=socket.SOCK_STREAM)
    except OSError as error:
        raise BenchmarkError(f"{host} does not resolve: {error}") from None
    addresses = sorted({str(entry[4][0]).partition("%")[0] for entry in found})
    strangers = [address for address in addresses if not ipaddress.ip_address(address).is_loopback]
    if strangers and not i_own_this_server:
        raise BenchmarkError(
            f"{host} is {', '.join(strangers)}: not loopback. A load generator is pointed at one's own server only; "
            f"if this one is yours, say --i-own-this-server"
        )


def origin_of(url: str) -> str:
    """Scheme and authority of a URL, as `https://localhost:8443`."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


# --- the command line --------------------------------------------------------------------------------------------------


def positive(text: str) -> int:
    """A whole number from 1 up."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"at least 1, got {value}")
    return value


def not_negative(text: str) -> int:
    """A whole number from 0 up."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"0 or more, got {value}")
    return value


def port(text: str) -> int:
    """A TCP port that can be listened on by number."""
    value = int(text)
    if not 0 < value < 65536:
        raise argparse.ArgumentTypeError(f"a port is 1 to 65535, got {value}")
    return value


def seconds(text: str) -> float:
    """0 to 3600 seconds."""
    value = float(text)
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"0 to 3600 seconds, got {text}")
    return value


def positive_seconds(text: str) -> float:
    """More than 0 and up to 3600 seconds."""
    value = seconds(text)
    if value == 0:
        raise argparse.ArgumentTypeError("more than 0 seconds")
    return value


def read_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file, at least one; `BenchmarkError` when they cannot be read."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path}: {error}") from None


def run_and_print(
    run: Coroutine[Any, Any, dict[str, Any]],
    *,
    format_report: Callable[[Mapping[str, Any]], str],
    done: str,
    json_path: Path | None,
) -> int:
    """Run a benchmark, print its report and write it to `json_path`; returns the exit status.

    0: `report[done]` is above zero and nothing failed. 1: something failed. 2: the run could not start or was stopped.
    """
    try:
        with asyncio.Runner(loop_factory=event_loop_factory()) as runner:
            report = runner.run(run)
        print(format_report(report))
        if json_path is not None:
            write_report(json_path, report)
    except (BenchmarkError, OSError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmark: interrupted", file=sys.stderr)
        return 2
    return 1 if report["failures"] or not report[done] else 0


# --- the report ------------------------------------------------------------------------------------------------------


def event_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The loop of uvloop where it is installed (the generator then costs about half), else None for asyncio's own."""
    try:
        import uvloop  # noqa: PLC0415 — optional: the benchmarks also run where it is not installed
    except ImportError:
        return None
    return uvloop.new_event_loop


def environment() -> dict[str, Any]:
    """What a reader needs to judge the figures: machine, cores, versions, load."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "cryptography": cryptography.__version__,
        "event_loop": "uvloop" if event_loop_factory() is not None else "asyncio",
    }


def format_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A plain table: first column to the left, the others to the right."""
    table = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    lines = []
    for row in table:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def format_distribution(distribution: Distribution, digits: int) -> list[str]:
    """The cells p50, p95, p99 and maximum of one row."""
    values = (distribution.p50, distribution.p95, distribution.p99, distribution.maximum)
    return [f"{value:.{digits}f}" for value in values]


def format_failures(failures: Mapping[str, Mapping[str, str | int]]) -> str:
    """One line for each kind of failure, with the first detail."""
    return "\n".join(f"  {entry['count']} x {kind}: {entry['first_detail']}" for kind, entry in failures.items())


def server_figures(window: Window, *, done: int) -> dict[str, float | int] | None:
    """The server's CPU microseconds for each thing done, its whole CPU time and its peak memory, for the JSON report."""
    if window.server is None:
        return None
    return {
        "cpu_seconds": round(window.server.cpu_seconds, 3),
        "cpu_us_each": round(window.server.cpu_seconds * 1e6 / done, 1) if done else 0.0,
        "cores_used": round(window.server.cpu_seconds / window.wall_seconds, 3) if window.wall_seconds else 0.0,
        "peak_rss_mib": round(window.server.peak_rss_bytes / 2**20, 1),
        "processes": window.server.processes,
    }


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write the JSON report: UTF-8, sorted as built, with a final newline."""
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


HOW_CPU: Final = (
    (
        "Server CPU: utime + stime (and those of reaped children) of the given processes and all their descendants, from "
        "/proc/PID/stat, last reading minus first; the kernel rounds each process to 10 ms."
    ),
    (
        "Peak RSS: the largest sum of VmHWM over the tree's processes; a page they share counts in each of them, and VmHWM "
        "counts from the start of the process, not of the run."
    ),
    "Generator CPU: CPU time of this process in the same window. Near 100 % of a core the rate is the generator's own.",
)
