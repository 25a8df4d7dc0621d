"""lego's library in its current release, through a command line of ours (`tests/interop/lego_library/main.go`).

Rule 1: it is built by Go from the modules that `go.sum` pins, once for all workers; Go's own cache makes the next time quick.
Rule 2: a machine without a Go that is new enough has no such client, and where nothing can be fetched its tests are skipped.
"""

import fcntl
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from tests.interop.clients.client import Ability, Client, Issued, Wishes
from tests.support.processes import Finished, clean_environment, run

SOURCE: Final = Path(__file__).parents[1] / "lego_library"
BUILD_SECONDS: Final = 400.0  # a minute with an empty cache on two idle cores

_KEYS: Final = {"rsa": "rsa2048", "p384": "ec384", None: "ec256"}


def is_buildable() -> bool:
    """Whether this machine has the Go that the module asks for."""
    go = shutil.which("go")
    wanted = re.search(r"^go (\d+)\.(\d+)", (SOURCE / "go.mod").read_text(), re.MULTILINE)
    assert wanted is not None
    if go is None:
        return False
    found = re.search(r"go(\d+)\.(\d+)", run([go, "env", "GOVERSION"], cwd=SOURCE, code=None).stdout)
    return found is not None and tuple(map(int, found.groups())) >= tuple(map(int, wanted.groups()))


def build(directory: Path) -> Finished:
    """Build the program into a directory that the test workers share; the first that comes does it."""
    with (directory / "lego-library.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command: list[str | Path] = ["go", "build", "-o", directory / "lego-library", "."]
        return run(command, env=clean_environment(), cwd=SOURCE, code=None, seconds=BUILD_SECONDS)


class LegoLibrary(Client):
    """What lego's own command does since 4.20, and what Traefik does."""

    abilities: ClassVar[frozenset[Ability]] = frozenset(Ability) - {Ability.REVOKE_WITH_KEY}

    def issue(self, *identifiers: str, wishes: Wishes | None = None) -> Issued:
        self._run(identifiers, wishes, "issue")
        return self._issued(identifiers[0])

    def renew(self, *identifiers: str) -> Issued:
        self._run(identifiers, None, "renew")
        return self._issued(identifiers[0])

    def ask(self, identifier: str) -> dict[str, Any]:
        """What it makes of the renewal information (RFC 9773): `now`, `from`, `until`, `explanation`."""
        document: dict[str, Any] = json.loads(self._run((identifier,), None, "ask").stdout)
        return document

    def revoke(self, *identifiers: str, reason: int) -> None:
        self._run(identifiers, None, "revoke", "--reason", str(reason))

    def change_contact(self, contact: str) -> None:
        self.contact = contact
        self._run((), None, "contact")

    def roll_over(self) -> None:
        self._run((), None, "roll-over")

    def deactivate(self) -> None:
        self._run((), None, "deactivate")

    def refused(self, *identifiers: str, wishes: Wishes | None = None) -> str:
        return self._run(identifiers, wishes, "issue", code=1).said

    def _issued(self, identifier: str) -> Issued:
        stem = self.directory / identifier.replace("*", "_")
        return Issued(certificate=Path(f"{stem}.crt"), key=Path(f"{stem}.key"))

    def _run(
        self, identifiers: Sequence[str], wishes: Wishes | None, verb: str, *options: str, code: int | None = 0
    ) -> Finished:
        wishes = wishes or Wishes()
        port = self.tls_port if wishes.challenge == "tls-alpn-01" else self.ca.http_port
        arguments: list[str | Path] = ["--server", self.ca.directory_url, "--path", self.directory]
        arguments += ["--email", self.contact, "--challenge", wishes.challenge, "--listen", f"127.0.0.1:{port}"]
        arguments += ["--hook", self.zone.hook, "--key-type", _KEYS[wishes.key_type]]
        if wishes.profile is not None:
            arguments += ["--profile", wishes.profile]
        if wishes.preferred_chain is not None:
            arguments += ["--preferred-chain", wishes.preferred_chain]
        if self.binding is not None:
            arguments += ["--kid", self.binding.kid, "--hmac", self.binding.hmac_key]
        for identifier in identifiers:
            arguments += ["--domain", identifier]
        env = clean_environment(LEGO_CA_CERTIFICATES=str(self.ca.root_path))
        return run([self.program, *arguments, *options, verb], env=env, cwd=self.directory, code=code)
