"""The data directory, its files and its disk; the configuration's own file."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from acmeca.cli.checks.finding import Finding, error, ok, warning
from acmeca.config import Config, overridden
from acmeca.web.control import user_name

_LITTLE: Final = 1 << 30  # bytes free on the data's disk; a year of a busy CA takes some
_TOO_LITTLE: Final = 100 << 20
_SECRET_DIRECTORIES: Final = ("keys", "root")
_PUBLIC: Final = frozenset({"root.pem", "audit.pub.pem"})
_OURS: Final = ("acmeca.", "listener.pem", ".listener.pem", "root.pem", ".root.pem", "audit")


def check_config_file(path: Path) -> Iterator[Finding]:
    """Who may write the configuration decides who gets certificates."""
    about = f"configuration {path}"
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & stat.S_IWOTH:
        yield error(about, f"has mode {mode:04o}: everybody may change it", f"Run: chmod o-w {path}")
    elif mode & stat.S_IWGRP:
        yield warning(
            about, f"has mode {mode:04o}: its group may change it", f"Unless that is meant, run: chmod g-w {path}"
        )
    else:
        variables = ", ".join(sorted(overridden().values()))
        yield ok(about, "can be used" + (f"; overridden by {variables}" if variables else ""))


def is_readable_directory(path: Path) -> bool:
    """Whether there is anything to look into. `Path.is_dir` raises where one may not look."""
    return os.path.isdir(path) and os.access(path, os.R_OK | os.X_OK)  # noqa: PTH112  (see above)


def check_data_dir(config: Config) -> Iterator[Finding]:
    """The directory: there, a directory, its owner's alone."""
    data_dir = config.server.data_dir
    about = f"data directory {data_dir}"
    try:
        status = data_dir.stat()
    except PermissionError as failure:
        yield error(about, f"cannot be looked at: {failure.strerror}", "Run doctor as the server's user")
        return
    except OSError as failure:
        yield error(about, f"cannot be looked at: {failure.strerror}", "Make a CA with: acmeca init")
        return
    if not stat.S_ISDIR(status.st_mode):
        yield error(about, "is no directory", "Choose another server.data_dir")
        return
    mode, owner = stat.S_IMODE(status.st_mode), user_name(status.st_uid)
    if mode & 0o022:
        yield error(
            about,
            f"has mode {mode:04o}: others may replace what is in it",
            f"Run: chmod 700 {data_dir}, and look inside",
        )
    elif mode & 0o077:
        yield warning(about, f"has mode {mode:04o}: others may look into it", f"Run: chmod 700 {data_dir}")
    else:
        yield ok(about, f"belongs to {owner} alone")
    if os.geteuid() not in {0, status.st_uid}:
        yield warning(
            about,
            f"belongs to {owner}; this command runs as {user_name(os.geteuid())}",
            "Run doctor as the server's user",
        )
    yield from _check_files(data_dir, status.st_uid)


def _check_files(data_dir: Path, uid: int) -> Iterator[Finding]:
    """Every file of ours: a secret one its owner's alone, all of them the directory's owner's."""
    about = "files in the data directory"
    looked_at, found = 0, []
    for path in _own_files(data_dir):
        try:
            status = path.lstat()
        except OSError:
            continue  # gone meanwhile
        looked_at += 1
        mode = stat.S_IMODE(status.st_mode)
        if path.name not in _PUBLIC and mode & 0o077 and not stat.S_ISLNK(status.st_mode):
            wanted = "700" if stat.S_ISDIR(status.st_mode) else "600"
            found.append(
                error(about, f"{path} has mode {mode:04o}: others can get at it", f"Run: chmod {wanted} {path}")
            )
        if status.st_uid != uid:
            found.append(
                warning(
                    about,
                    f"{path} belongs to {user_name(status.st_uid)}, the directory to {user_name(uid)}",
                    f"If the server runs as {user_name(uid)}: chown {user_name(uid)} {path}",
                )
            )
    yield from found
    if not found:
        yield ok(about, f"{looked_at} looked at: modes and owners are right")


def _own_files(data_dir: Path) -> Iterator[Path]:
    try:
        for path in sorted(data_dir.iterdir()):
            if path.name.startswith(_OURS) or path.name in _SECRET_DIRECTORIES:
                yield path
        for name in _SECRET_DIRECTORIES:
            if (data_dir / name).is_dir():
                yield from sorted((data_dir / name).iterdir())
    except PermissionError:
        return  # told with the directory


def check_disk(config: Config) -> Iterator[Finding]:
    """Room for the database: what cannot be recorded is not issued."""
    try:
        usage = shutil.disk_usage(config.server.data_dir)
    except OSError as failure:
        yield error("disk space", f"cannot be looked at: {failure.strerror}", "Look at the data directory first")
        return
    detail = (
        f"{usage.free / (1 << 30):.1f} GiB of {usage.total / (1 << 30):.1f} GiB are free in {config.server.data_dir}"
    )
    if usage.free < _TOO_LITTLE:
        yield error("disk space", detail, "Make room now: with a full disk nothing is issued or revoked")
    elif usage.free < _LITTLE:
        yield warning("disk space", detail, "Make room")
    else:
        yield ok("disk space", detail)
