"""Mishaps in a process of its own: it is killed at a step, or its disk is full.

Rule 1: the product has no hooks for this. A step is a function of the product or of the library, named by its path
("before acmeca.storage.backup.require_sound"); it is wrapped in the child alone.
Rule 2: a test that kills proves that the process died at that step (exit code -9), so a step that moved makes it fail.
"""

import asyncio
import functools
import importlib
import inspect
import multiprocessing
import os
import resource
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from acmeca.cli.main import run
from acmeca.storage.backup import Circumstances, copy_pages, write_backup
from acmeca.storage.transfer import Place, copy_whole

KILLED: Final = -signal.SIGKILL
_SECONDS: Final = 60.0


def killed_at(step: str, work: Callable[..., object], *args: Any) -> int:
    """Run `work` in a child that is killed "before" or "after" a function; returns its exit code."""
    return _run(_dying, step, work, *args)


def with_a_full_disk(limit: int, report: Path, work: Callable[..., object], *args: Any) -> str:
    """Run `work` in a child none of whose files may grow beyond `limit` octets; returns what it raised, or nothing."""
    assert _run(_limited, limit, report, work, *args) == 0
    return report.read_text()


def _run(target: Callable[..., object], *args: Any) -> int:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=target, args=args)
    process.start()
    process.join(_SECONDS)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join(_SECONDS)
        raise AssertionError(f"{target} with {args} did not end")
    return code


def _dying(step: str, work: Callable[..., object], *args: Any) -> None:
    when, _, path = step.partition(" ")
    owner, name = _find(path)
    real = getattr(owner, name)

    @functools.wraps(real)
    def dying(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
        return result

    @functools.wraps(real)
    async def dying_later(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        await real(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, dying_later if inspect.iscoroutinefunction(real) else dying)
    work(*args)


def _limited(limit: int, report: Path, work: Callable[..., object], *args: Any) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    said = ""
    try:
        work(*args)
    except Exception as error:  # noqa: BLE001  (the test looks at it)
        said = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    report.write_text(said)


def _find(path: str) -> tuple[Any, str]:
    """The module or class that a function is in, and the function's name there."""
    owner_path, _, name = path.rpartition(".")
    try:
        return importlib.import_module(owner_path), name
    except ModuleNotFoundError:
        module, _, class_name = owner_path.rpartition(".")
        return getattr(importlib.import_module(module), class_name), name


# --- what is run there --------------------------------------------------------------------------------------------


def back_up(source: Path, target: Path, *, may_replace: bool = True, **changes: Any) -> Any:
    """`write_backup` of an SQLite database."""
    values: dict[str, Any] = {
        "created_at": 1_793_534_400,
        "acmeca": "0.1.0",
        "source": "sqlite:///acmeca.db",
        "journal_dir": Path("/journal"),
        "journals": {},
    }
    return write_backup(
        target,
        copy_pages(source),
        Circumstances(**(values | changes)),
        may_replace=may_replace,
        on_progress=no_progress,
    )


def copy_database(source: Place, target: Place) -> None:
    """`copy_whole` of a database."""
    asyncio.run(copy_whole(source, target, on_progress=no_progress))


def no_progress(what: str, done: int, total: int) -> None:
    """Nobody looks."""


def command(config_path: Path, *arguments: str) -> None:
    """An `acmeca` command; its exit code is the process's."""
    raise SystemExit(run(["--config", str(config_path), *arguments]))
