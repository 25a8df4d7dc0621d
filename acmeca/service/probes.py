"""Probes: what a CA stands on, tried out from time to time. They may block; whoever asks does not.

Rule 1: a probe is begun when its last result is old, and never while it is under way: what hangs hangs once.
Rule 2: what was seen last is remembered. A probe that takes longer than its patience is a fault of its own.
Rule 3: nothing is changed by probing, and what a key signs for it is no certificate, no CRL and no OCSP answer.
"""

import asyncio
import logging
import shutil
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol, TypeVar

from acmeca.errors import AcmecaError, Busy
from acmeca.pki.errors import PkiError
from acmeca.pki.signing import sign_with, verify_with
from acmeca.service.ambient import Ambient
from acmeca.service.issuers import SigningIssuer
from acmeca.storage.database import Database, Transaction
from acmeca.storage.errors import StorageError
from acmeca.storage.observation import CommitObserver

T = TypeVar("T")

log = logging.getLogger(__name__)

# What a key signs to show that it can. It begins with no SEQUENCE (0x30), as everything that a CA signs does.
PROOF: Final = b"acmeca readiness: this key is here and signs, and nothing is certified by it."

_LEAST_BYTES: Final = 64 << 20
_LEAST_SHARE: Final = 0.02
_LEAP: Final = 10.0  # seconds; NTP slews what is less, for clock and uptime alike
_LEAP_TOLD: Final = timedelta(hours=1)
_FAILURE_TOLD: Final = timedelta(minutes=1)


class FaultKind(StrEnum):
    """What a fault is about, in a word: few values, for a label."""

    CRL = "crl"
    RESPONDER = "responder"
    DATABASE = "database"
    KEY = "key"
    CLOCK = "clock"
    DISK = "disk"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is wrong: one line that says what, since when, and what to do."""

    kind: FaultKind
    text: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look found wrong. `about` and `what` begin the line, `advice` ends it; the probe knows since when."""

    about: str
    what: str
    advice: str


class Probe:
    """One thing that is looked at beside everything else.

    `look` gives what is wrong. It is begun at most every `every` seconds. When it takes more than `patience` seconds, that is
    told as `stuck`. What it raises is logged, and a fault too.
    """

    def __init__(
        self,
        kind: FaultKind,
        look: Callable[[], Awaitable[Sequence[Seen]]],
        *,
        ambient: Ambient,
        every: float,
        patience: float,
        stuck: Seen,
    ) -> None:
        self._kind = kind
        self._look = look
        self._ambient = ambient
        self._every = every
        self._patience = patience
        self._stuck = stuck
        self._task: asyncio.Task[None] | None = None
        self._begun: float | None = None
        self._begun_at = ambient.now()
        self._since: dict[str, datetime] = {}
        self._seen: Sequence[Seen] = ()

    def begin(self) -> asyncio.Task[None] | None:
        """Look, unless that is under way or was done just now; returns the task while one is under way."""
        if self._task is not None and not self._task.done():
            return self._task
        uptime = self._ambient.uptime()
        if self._begun is not None and 0 <= uptime - self._begun < self._every:
            return None
        self._begun, self._begun_at = uptime, self._ambient.now()
        self._task = asyncio.create_task(self._run(), name=f"probe {self._kind}")
        return self._task

    def faults(self) -> list[Fault]:
        """What was seen last, and that a look takes too long."""
        found = [
            Fault(
                self._kind,
                f"{seen.about}: {seen.what}, since {self._since[seen.about]:%Y-%m-%d %H:%M} UTC; {seen.advice}",
            )
            for seen in self._seen
        ]
        is_running = self._task is not None and not self._task.done()
        if is_running and self._begun is not None and self._ambient.uptime() - self._begun > self._patience:
            stuck = self._stuck
            text = f"{stuck.about}: {stuck.what}, since {self._begun_at:%Y-%m-%d %H:%M} UTC; {stuck.advice}"
            found.append(Fault(self._kind, text))
        return found

    async def stop(self) -> None:
        """Give up what is under way."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        try:
            seen = await self._look()
        except Exception as error:
            log.exception("the probe of %s failed", self._stuck.about)
            seen = [Seen(self._stuck.about, f"it cannot be looked at ({type(error).__name__})", "the log says why")]
        now = self._ambient.now()
        self._since = {item.about: self._since.get(item.about, now) for item in seen}
        self._seen = seen


async def in_thread(work: Callable[[], T]) -> T:
    """Run what may block for ever (a token, a dead file system) in a thread of its own, which no stop waits for."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def tell(settle: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(lambda: None if outcome.done() else settle())

    def run() -> None:
        try:
            value = work()
        except Exception as error:  # noqa: BLE001  (it is raised where it is awaited)
            failure = error
            tell(lambda: outcome.set_exception(failure))
        else:
            tell(lambda: outcome.set_result(value))

    threading.Thread(target=run, name="acmeca-probe", daemon=True).start()
    return await outcome


# --- the database -------------------------------------------------------------------------------------------------


class WriteWatch:
    """Commits that failed, as the driver tells (it is a `CommitObserver`): the probe's own write may pass where others do not.

    `then` is told everything too. A failure is a fault for a minute: whoever is refused comes again.
    """

    def __init__(self, *, ambient: Ambient, then: CommitObserver) -> None:
        self._ambient = ambient
        self._then = then
        self._failure: tuple[datetime, StorageError] | None = None

    def committed(self, *, writes: int, seconds: float) -> None:
        self._then.committed(writes=writes, seconds=seconds)

    def failed(self, error: StorageError, *, writes: int) -> None:
        self._failure = self._ambient.now(), error
        self._then.failed(error, writes=writes)

    def fault(self) -> Fault | None:
        if self._failure is None:
            return None
        at, error = self._failure
        if self._ambient.now() - at > _FAILURE_TOLD:
            self._failure = None
            return None
        text = f"database: a commit failed at {at:%Y-%m-%d %H:%M} UTC ({_one_line(error)}); what it held was not done"
        return Fault(FaultKind.DATABASE, text)


def _one_line(error: AcmecaError) -> str:
    """A failure's text, whatever is in it, as a part of a line."""
    return " ".join(str(error).split())


async def _nothing(_: Transaction) -> None:
    """The body of a write that changes nothing."""


def probe_writes(database: Database, *, ambient: Ambient) -> Probe:
    """A write of nothing, kept like any other: with the queue, the disk and the journal that all of them need."""
    about, advice = "database", "nothing is issued or revoked until that is mended"

    async def look() -> Sequence[Seen]:
        try:
            await database.write(_nothing)
        except (StorageError, Busy) as error:
            return [Seen(about, f"it keeps no writes ({_one_line(error)})", advice)]
        return []

    return Probe(
        FaultKind.DATABASE,
        look,
        ambient=ambient,
        every=5,
        patience=2,
        stuck=Seen(about, "a write has not ended", "look at its disk; nothing is issued or revoked meanwhile"),
    )


# --- keys ---------------------------------------------------------------------------------------------------------


def probe_keys(signing: Sequence[SigningIssuer], *, ambient: Ambient) -> Probe:
    """Each issuer's key signs a text, and its certificate verifies that."""

    def prove(signer: SigningIssuer) -> Seen | None:
        about = f"key of {signer.id}"
        try:
            verify_with(signer.issuer.public_key, sign_with(signer.key, PROOF), PROOF)
        except PkiError as error:
            return Seen(about, f"it is not its certificate's ({error})", "put the right key there, from a backup")
        except Exception as error:
            log.exception("the key of issuer %s cannot sign", signer.id)
            return Seen(about, f"it cannot sign ({type(error).__name__})", "nothing is issued; the log says more")
        return None

    async def look() -> Sequence[Seen]:
        return await in_thread(lambda: [seen for signer in signing if (seen := prove(signer)) is not None])

    return Probe(
        FaultKind.KEY,
        look,
        ambient=ambient,
        every=60,
        patience=10,
        stuck=Seen("keys of the issuers", "a signature has not ended", "look at the token that holds the key"),
    )


# --- disks --------------------------------------------------------------------------------------------------------


class Usage(Protocol):
    """Of a file system, in octets."""

    @property
    def total(self) -> int: ...
    @property
    def free(self) -> int: ...


class Disks:
    """The file systems of some directories: what is left of each, as it was seen last."""

    def __init__(self, directories: Sequence[Path], *, usage_of: Callable[[Path], Usage] = shutil.disk_usage) -> None:
        self._directories = tuple(directories)
        self._usage_of = usage_of
        self.usage: Mapping[Path, Usage] = {}

    async def look(self) -> Sequence[Seen]:
        self.usage = await in_thread(lambda: {path: self._usage_of(path) for path in self._directories})
        return [seen for path, usage in self.usage.items() if (seen := _judge_usage(path, usage)) is not None]


def _judge_usage(path: Path, usage: Usage) -> Seen | None:
    least = max(_LEAST_BYTES, int(usage.total * _LEAST_SHARE))
    if usage.free >= least:
        return None
    return Seen(
        f"disk of {path}",
        f"{_mebibytes(usage.free)} of {_mebibytes(usage.total)} are left, less than {_mebibytes(least)}",
        "make room: on a full disk nothing is issued or revoked",
    )


def _mebibytes(octets: int) -> str:
    return f"{octets / (1 << 20):.0f} MiB"


def probe_disks(disks: Disks, *, ambient: Ambient) -> Probe:
    return Probe(
        FaultKind.DISK,
        disks.look,
        ambient=ambient,
        every=10,
        patience=2,
        stuck=Seen("disk", "its file system does not answer", "see the system's log"),
    )


# --- the clock ----------------------------------------------------------------------------------------------------


class ClockWatch:
    """The wall clock beside the uptime. A leap between two looks is told for an hour; after that it counts as intended."""

    def __init__(self, ambient: Ambient) -> None:
        self._ambient = ambient
        self._offset = self._measured()
        self._leap = 0.0
        self._leapt_at = ambient.now()

    def fault(self) -> Fault | None:
        offset, now = self._measured(), self._ambient.now()
        if abs(offset - self._offset) > _LEAP:
            self._leap, self._leapt_at, self._offset = offset - self._offset, now, offset
        if not self._leap or now - self._leapt_at > _LEAP_TOLD:
            self._leap = 0.0
            return None
        direction = "ahead" if self._leap > 0 else "back"
        return Fault(
            FaultKind.CLOCK,
            f"clock: it leapt {abs(self._leap):.0f} s {direction}, at {self._leapt_at:%Y-%m-%d %H:%M} UTC by its new time; "
            "see that NTP keeps it: what is signed by a wrong clock is refused elsewhere",
        )

    def _measured(self) -> float:
        return self._ambient.clock().timestamp() - self._ambient.uptime()


def judge_record_time(newest_record: datetime | None, now: datetime) -> Fault | None:
    """The clock stands before what was written down by it: it is wrong now, or was then."""
    if newest_record is None or newest_record - now <= timedelta(seconds=2):
        return None
    behind = (newest_record - now).total_seconds()
    return Fault(
        FaultKind.CLOCK,
        f"clock: it stands {behind:.0f} s before the newest audit record, of {newest_record:%Y-%m-%d %H:%M} UTC; "
        "set it by NTP before anything is signed",
    )
