"""What acmeca counts, in the form that Prometheus scrapes. The one module that knows prometheus_client.

Rule 1: a label has few values, and none of them names somebody: no identifier, serial, account or order.
Rule 2: what happens is counted where it happens, by this worker: with PROMETHEUS_MULTIPROC_DIR set before the start (several
workers share the ports) in a file of its own there, and whoever is scraped adds all of them up. What simply is (CRLs, disks) is
read when it is asked for, by whoever is asked (`service/condition.py`).
Rule 3: counting costs an ACME request three microseconds (ten with several workers) and an OCSP answer less than one: children
are bound once, there is one observation per request, and OCSP's counts are gathered.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from cryptography.hazmat.backends.openssl import backend
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from acmeca import __version__
from acmeca.acme.objects import ChallengeType
from acmeca.acme.problem import ProblemType
from acmeca.pki.ocsp import ResponseStatus
from acmeca.policy.limits import Limit
from acmeca.service.administration import REASONS
from acmeca.service.condition import CrlFigures, Figures
from acmeca.storage.errors import StorageError
from acmeca.urls import Paths
from acmeca.web.middleware import PROBLEM_JSON

DIRECTORY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"

_REQUEST_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_VALIDATION_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_COMMIT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
_COMMIT_WRITES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

# RFC 8555 §7.1's words for its resources, by the route that a request took.
_RESOURCES: Final[Mapping[str, str]] = {
    Paths.DIRECTORY: "directory",
    Paths.NEW_NONCE: "newNonce",
    Paths.NEW_ACCOUNT: "newAccount",
    Paths.NEW_ORDER: "newOrder",
    Paths.REVOKE_CERT: "revokeCert",
    Paths.ACCOUNT: "account",
    Paths.ACCOUNT_ORDERS: "orders",
    Paths.ORDER: "order",
    Paths.FINALIZE: "finalize",
    Paths.AUTHORIZATION: "authorization",
    Paths.CHALLENGE: "challenge",
    Paths.CERTIFICATE: "certificate",
}
_OTHER: Final = "other"  # the front page, and what there is not

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, of no use to anybody here


class Metrics:
    """The counts of one worker, and the text of a scrape. An `Observer` of services and a `CommitObserver` of the database."""

    def __init__(self) -> None:
        directory = os.environ.get(DIRECTORY_VARIABLE)
        registry = CollectorRegistry()
        self._registry = registry
        self._processes = _Processes(None if directory is None else Path(directory))
        own = None if directory is not None else registry  # what lies in files is added up from there
        if directory is not None:
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]

        self._requests = Histogram(
            "acmeca_acme_request_duration_seconds",
            "Seconds from a request's header to its answer, by ACME resource and class of the HTTP status.",
            ("resource", "status"),
            buckets=_REQUEST_SECONDS,
            registry=own,
        )
        self._observe_request: dict[tuple[str, int], Callable[[float], None]] = {}
        problems = Counter(
            "acmeca_acme_problems",
            "Problem documents sent to ACME clients, by type (RFC 8555 6.7).",
            ("type",),
            registry=own,
        )
        self._problems = {type_.urn: problems.labels(type_.value) for type_ in ProblemType}
        orders = Counter(
            "acmeca_orders_closed",
            "Orders that came to their end: valid with a certificate, invalid without (RFC 8555 7.1.6).",
            ("status",),
            registry=own,
        )
        limited = Counter(
            "acmeca_rate_limited",
            "Requests refused by a rate limit, by its name in [limits] (RFC 8555 6.6).",
            ("limit",),
            registry=own,
        )
        self._limited = {limit.value: limited.labels(limit.value) for limit in Limit}
        self._orders = {status: orders.labels(status) for status in ("valid", "invalid")}
        self._validations = Histogram(
            "acmeca_validation_duration_seconds",
            "Seconds that a validation took, by challenge type and outcome: valid, a problem type, overtaken, unfinished (ours).",
            ("type", "outcome"),
            buckets=_VALIDATION_SECONDS,
            registry=own,
        )
        for type_ in ChallengeType:
            self._validations.labels(type_.value, "valid")
        self._issued = Counter(
            "acmeca_certificates_issued",
            "Certificates signed, by profile; those of the CA itself (listener, ocsp-responder) among them.",
            ("profile",),
            registry=own,
        )
        self._finalized = Histogram(
            "acmeca_issuance_duration_seconds",
            "Seconds from the CSR of a finalize to its certificate: checks, two durable writes and a signature.",
            buckets=_REQUEST_SECONDS,
            registry=own,
        )
        revoked = Counter(
            "acmeca_certificates_revoked",
            "Revocations, by reason (RFC 5280 5.3.1); a reason raised to keyCompromise counts again.",
            ("reason",),
            registry=own,
        )
        self._revoked = {reason: revoked.labels(name) for name, reason in REASONS.items()}
        answers = Counter(
            "acmeca_ocsp_answers",
            "OCSP answers, by what they say (good, revoked, unknown, or the error of RFC 6960 4.2.1), and whether they were kept "
            "or signed for this request.",
            ("status", "source"),
            registry=own,
        )
        self._answers = {
            (status, source == "kept"): answers.labels(status, source)
            for status in ("good", "revoked", "unknown")
            for source in ("kept", "signed")
        } | {(status.value, True): answers.labels(status.value, "kept") for status in ResponseStatus}
        self._answered = dict.fromkeys(self._answers, 0)
        self._commit_seconds = Histogram(
            "acmeca_database_commit_duration_seconds",
            "Seconds that a commit took, which all writes that waited share.",
            buckets=_COMMIT_SECONDS,
            registry=own,
        )
        self._commit_writes = Histogram(
            "acmeca_database_commit_writes", "Writes that shared a commit.", buckets=_COMMIT_WRITES, registry=own
        )
        self._commit_failures = Counter(
            "acmeca_database_commit_failures", "Commits that failed; nothing of them was kept.", registry=own
        )
        self._waiting = Gauge(
            "acmeca_database_writes_waiting",
            "Writes that wait for the commit under way.",
            registry=own,
            multiprocess_mode="livesum",
        )
        self._connections = Gauge(
            "acmeca_connections",
            "Connections that are open, by listener.",
            ("listener",),
            registry=own,
            multiprocess_mode="livesum",
        )
        self._limits = Gauge(
            "acmeca_connections_limit",
            "The most connections that a listener takes; others are turned away.",
            ("listener",),
            registry=own,
            multiprocess_mode="livesum",
        )

    # --- what happens -------------------------------------------------------------------------------------------

    def requested(self, route: str, status: int, seconds: float) -> None:
        """An ACME request was answered; `route` is the template of its path, empty where there is none."""
        key = route, status // 100
        observe = self._observe_request.get(key)
        if observe is None:
            child = self._requests.labels(_RESOURCES.get(route, _OTHER), f"{status // 100}xx")
            observe = self._observe_request[key] = child.observe
        observe(seconds)

    def problem_sent(self, document: bytes) -> None:
        """An ACME client was told of a problem."""
        counter = self._problems.get(json.loads(document).get("type"))
        if counter is not None:
            counter.inc()

    def ocsp_answered(self, status: str, *, kept: bool) -> None:
        """The hot path: an integer now, a counter at the next `gather`."""
        self._answered[status, kept] += 1

    def validated(self, type_: ChallengeType, outcome: str, seconds: float) -> None:
        self._validations.labels(type_.value, outcome).observe(seconds)

    def issued(self, profile: str) -> None:
        self._issued.labels(profile).inc()

    def finalized(self, seconds: float) -> None:
        self._finalized.observe(seconds)

    def limited(self, limit: str) -> None:
        self._limited[limit].inc()

    def revoked(self, reason: int | None) -> None:
        self._revoked[reason].inc()

    def orders_closed(self, status: str, count: int = 1) -> None:
        self._orders[status].inc(count)

    def committed(self, *, writes: int, seconds: float) -> None:
        self._commit_seconds.observe(seconds)
        self._commit_writes.observe(writes)

    def failed(self, error: StorageError, *, writes: int) -> None:  # noqa: ARG002  (the log has the error)
        self._commit_failures.inc()

    def gather(self, *, connections: Mapping[str, tuple[int, int]], writes_waiting: int) -> None:
        """Before each scrape, and from time to time for the other workers' scrapes; on the event loop's thread.

        What this worker has under way (by listener: the connections that are open and the most it takes), and what it answered.
        """
        for listener, (count, limit) in connections.items():
            self._connections.labels(listener).set(count)
            self._limits.labels(listener).set(limit)
        self._waiting.set(writes_waiting)
        for key, count in self._answered.items():
            if count:
                self._answers[key].inc(count)
                self._answered[key] = 0

    # --- the scrape ---------------------------------------------------------------------------------------------

    def render(self, figures: Figures, accept: str) -> tuple[bytes, str]:
        """All that is known, and its Content-Type: the form of those that an Accept header names. Takes milliseconds."""
        encode, content_type = choose_encoder(accept)
        return encode(_Scrape(self._registry, self._processes, _Condition(figures))), content_type


class _Scrape(Collector):
    """Several collectors as one."""

    def __init__(self, *parts: Collector) -> None:
        self._parts = parts

    def collect(self) -> Iterable[Metric]:
        for part in self._parts:
            yield from part.collect()


class _Condition(Collector):
    """The figures of `service/condition.py`. Moments are told as such, so that they stay right when a figure is old."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        yield _gauge(
            "acmeca_build_info",
            "1, with the versions of acmeca and of what it runs on.",
            ("version", "python", "openssl"),
            [((__version__, platform.python_version(), backend.openssl_version_text()), 1)],
        )
        yield _gauge(
            "acmeca_readiness_faults",
            "What /health/ready finds wrong, by what it is about; its text says what to do.",
            ("kind",),
            [((kind,), count) for kind, count in self._figures.faults.items()],
        )
        yield from self._crls()
        yield _gauge(
            "acmeca_certificate_not_after_timestamp_seconds",
            "When a certificate of the CA itself ends, by purpose (root, issuer, responder, listener) and issuer.",
            ("purpose", "issuer"),
            [((item.purpose, item.issuer_id), item.not_after.timestamp()) for item in self._figures.certificates],
        )
        size = self._figures.database_bytes
        yield _gauge(
            "acmeca_database_size_bytes",
            "The database with its log, in octets.",
            (),
            [] if size is None else [((), size)],
        )
        usage = self._figures.usage.items()
        yield _gauge(
            "acmeca_disk_free_bytes",
            "What is free of the file system that a directory is on.",
            ("directory",),
            [((str(path),), item.free) for path, item in usage],
        )
        yield _gauge(
            "acmeca_disk_size_bytes",
            "The size of the file system that a directory is on.",
            ("directory",),
            [((str(path),), item.total) for path, item in usage],
        )

    def _crls(self) -> Iterable[Metric]:
        def gauge(name: str, text: str, value: Callable[[CrlFigures], float]) -> Metric:
            return _gauge(
                f"acmeca_crl_{name}",
                text,
                ("issuer",),
                [((item.crl.issuer_id,), value(item)) for item in self._figures.crls],
            )

        yield gauge("number", "The cRLNumber of the newest CRL.", lambda item: item.crl.number)
        yield gauge(
            "this_update_timestamp_seconds",
            "When the newest CRL was made.",
            lambda item: item.crl.this_update.timestamp(),
        )
        yield gauge(
            "next_update_timestamp_seconds",
            "When the newest CRL ends; careful clients accept nothing after it.",
            lambda item: item.crl.next_update.timestamp(),
        )
        yield gauge("entries", "Certificates on the newest CRL.", lambda item: item.crl.entries)
        yield gauge("revocations_waiting", "Revocations that are on no CRL yet.", lambda item: item.waiting)
        yield gauge(
            "oldest_waiting_revocation_seconds",
            "How long the oldest revocation that is on no CRL has waited; 0 where none waits.",
            lambda item: item.waited,
        )


def _gauge(
    name: str, text: str, labels: tuple[str, ...], samples: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


class _OneProcess(ProcessCollector):
    def _boot_time(self) -> float:
        """Not from /proc/stat, which a confined service does not see (ProcSubset=pid in conf/acmeca.service)."""
        return time.time() - time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class _Processes(Collector):
    """The usual metrics of a process (memory, CPU, descriptors), added up over the workers; the start is the first one's."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        found: dict[str, tuple[Metric, list[float]]] = {}
        for pid in self._pids():
            for metric in _OneProcess(pid=partial(int, pid), registry=None).collect():
                found.setdefault(metric.name, (metric, []))[1].append(metric.samples[0].value)
        for name, (metric, values) in found.items():
            value = min(values) if name.endswith("start_time_seconds") else sum(values)
            if metric.type == "counter":
                yield CounterMetricFamily(name, metric.documentation, value=value)
            else:
                yield GaugeMetricFamily(name, metric.documentation, value=value)

    def _pids(self) -> list[int]:
        """Of the workers: those whose files of live gauges their supervisor has not taken away."""
        if self._directory is None:
            return [os.getpid()]
        names = (path.stem.rpartition("_")[2] for path in self._directory.glob("gauge_livesum_*.db"))
        return sorted({int(name) for name in names if name.isdigit()} | {os.getpid()})


def observing(metrics: Metrics, inner: Middleware) -> Middleware:
    """The ACME listener's middleware, with each answer counted as the client is told it."""
    call: Any = inner

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        response: web.StreamResponse = await call(request, handler)
        resource = request.match_info.route.resource
        route = "" if resource is None else resource.canonical
        metrics.requested(route, response.status, time.perf_counter() - started)
        if response.status >= 400 and response.content_type == PROBLEM_JSON and isinstance(response, web.Response):
            metrics.problem_sent(bytes(response.body or b"{}"))  # type: ignore[arg-type]
        return response

    return middleware


def forget_process(pid: int, directory: Path) -> None:
    """A worker is gone: its connections count no longer. What it has counted stays."""
    mark_process_dead(pid, str(directory))  # type: ignore[no-untyped-call]
