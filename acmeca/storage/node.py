"""The name of a data directory among those that share a database: what its processes write under bears it.

Rule 1: it is made once and kept in a file. Two servers with one name shut each other out, so a data directory that was copied
to another machine needs a name of its own there: delete the file.
"""

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from acmeca.storage.errors import StorageError

NODE_FILE: Final = "node"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")
_RANDOM_BYTES: Final = 4


def node_name(data_dir: Path, *, entropy: Callable[[int], bytes]) -> str:
    """The name in the file, made of the host's and something random when there is none. Raises `StorageError`."""
    path = data_dir / NODE_FILE
    try:
        if not path.exists():
            _write(path, f"{_host()}-{entropy(_RANDOM_BYTES).hex()}\n")
        name = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot read or make {path}: {error}") from error
    if not _NAME.match(name):
        raise StorageError(f"{path} holds no name (letters, digits, '.', '_', '-'); delete it, and a new one is made")
    return name


def read_node(data_dir: Path) -> str | None:
    """The name in the file; None where there is none, or one that cannot be read."""
    try:
        name = (data_dir / NODE_FILE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return name if _NAME.match(name) else None


def _host() -> str:
    """The host's own name as far as it can stand in a file's name."""
    name = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname().partition(".")[0])[:32].strip("-")
    return name or "node"


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and durably: no crash leaves half a name, or a name that others know and the file does not."""
    fresh = path.with_name(path.name + ".new")
    file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, text.encode("ascii"))
        os.fsync(file)
    finally:
        os.close(file)
    fresh.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
