"""lego's library in its current release, through a command line of ours (`tests/interop/lego_library/main.go`).

Rule 1: it is built by Go from the modules that `go.sum` pins, before the tests: `go build -o PROGRAM .` in its directory, as
`.ci/run` does where there is a Go that is new enough.
Rule 2: who has built it says where it is, in `PROGRAM_VARIABLE`; without that there is no such client.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from tests.interop.clients.client import Ability, Client, Issued, Wishes
from tests.support.processes import Finished, clean_environment, run

PROGRAM_VARIABLE: Final = "ACMECA_LEGO_LIBRARY"

_KEYS: Final = {"rsa": "rsa2048", "p384": "ec384", None: "ec256"}


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
