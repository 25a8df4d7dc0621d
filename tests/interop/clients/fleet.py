"""Every client that the tests run, and where its program is."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.interop.clients.caddy import Caddy, CurrentCaddy
from tests.interop.clients.certbot import Certbot, CurrentCertbot
from tests.interop.clients.client import Ability, Client
from tests.interop.clients.dehydrated import Dehydrated
from tests.interop.clients.lego import Lego
from tests.interop.clients.lego_library import PROGRAM_VARIABLE, LegoLibrary
from tests.interop.clients.uacme import Uacme

_DEBIAN: Final = Path("/usr/bin")
_BY_HAND: Final = Path("/usr/local/bin")


@dataclass(frozen=True)
class Kind:
    """A client, as the tests name it. `program` is a name to look for, or the path that it must have."""

    name: str
    client: type[Client]
    program: str | Path
    package: str

    def __str__(self) -> str:
        return self.name


@cache
def kinds() -> tuple[Kind, ...]:
    """The clients of Debian and of the virtualenv; lego's library, where somebody has built it; and a current Caddy, where
    somebody has installed one."""
    found = [
        Kind("certbot", CurrentCertbot, "certbot", "certbot-of-this-virtualenv"),
        Kind("debian-certbot", Certbot, _DEBIAN / "certbot", "certbot"),
        Kind("lego", Lego, _DEBIAN / "lego", "lego"),
        Kind("uacme", Uacme, _DEBIAN / "uacme", "uacme"),
        Kind("dehydrated", Dehydrated, _DEBIAN / "dehydrated", "dehydrated"),
        Kind("caddy", Caddy, _DEBIAN / "caddy", "caddy"),
    ]
    if PROGRAM_VARIABLE in os.environ:
        found.append(
            Kind("lego-library", LegoLibrary, Path(os.environ[PROGRAM_VARIABLE]), "the program that was built")
        )
    if (_BY_HAND / "caddy").exists():
        found.append(Kind("current-caddy", CurrentCaddy, _BY_HAND / "caddy", "caddy"))
    return tuple(found)


def with_all(*abilities: Ability) -> list[Kind]:
    """The clients that have all of them."""
    return [kind for kind in kinds() if kind.client.abilities.issuperset(abilities)]


def each(kinds: Iterable[Kind]) -> pytest.MarkDecorator:
    """A test for each of them."""
    return pytest.mark.parametrize("kind", list(kinds), ids=str)
