"""Caddy: a web server that gets its certificates by itself, while it serves.

Rule 1: nobody tells Caddy when to order. A test writes its configuration, starts it, and waits for what it logs.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from tests.interop.clients.client import Ability, Client, Issued, Wishes
from tests.support.processes import Process, clean_environment


class Caddy(Client):
    """`caddy run` with one site; it answers for http-01 and tls-alpn-01 itself, and renews on its own."""

    abilities: ClassVar[frozenset[Ability]] = frozenset({Ability.IP, Ability.EAB, Ability.TLS_ALPN_01})
    one_for_all: ClassVar[bool] = False

    def issue(self, *identifiers: str, wishes: Wishes | None = None) -> Issued:
        with self.running(*identifiers, wishes=wishes) as caddy:
            for identifier in identifiers:
                caddy.wait_for_line(rf'certificate obtained successfully","identifier":"{re.escape(identifier)}"')
        return self.issued(identifiers[0])

    def renew(self, *identifiers: str) -> Issued:
        """Caddy renews at its start what is in its renewal window; here that is the whole life."""
        with self.running(*identifiers, window=1.0) as caddy:
            for identifier in identifiers:
                caddy.wait_for_line(rf'certificate renewed successfully","identifier":"{re.escape(identifier)}"')
        return self.issued(identifiers[0])

    def refused(self, *identifiers: str, wishes: Wishes | None = None) -> str:
        with self.running(*identifiers, wishes=wishes) as caddy:
            caddy.wait_for_line(r'"level":"error".*(will retry|could not get certificate)')
            return caddy.output

    @contextmanager
    def running(
        self, *identifiers: str, wishes: Wishes | None = None, window: float | None = None
    ) -> Iterator[Process]:
        """Caddy serving these names; asked to stop at the end."""
        path = self.directory / "caddy.json"
        path.write_text(json.dumps(self._configuration(identifiers, wishes or Wishes(), window)))
        env = clean_environment(
            HOME=str(self.directory), XDG_DATA_HOME=str(self.directory), XDG_CONFIG_HOME=str(self.directory)
        )
        with Process([self.program, "run", "--config", path], env=env, cwd=self.directory) as process:
            process.wait_for_line("serving initial configuration")
            yield process
            process.terminate()

    def _configuration(self, identifiers: tuple[str, ...], wishes: Wishes, window: float | None) -> dict[str, Any]:
        other = {"http-01": "tls-alpn", "tls-alpn-01": "http"}[wishes.challenge]
        issuer: dict[str, Any] = {
            "module": "acme",
            "ca": self.ca.directory_url,
            "email": self.contact,
            "trusted_roots_pem_files": [str(self.ca.root_path)],
            "challenges": {other: {"disabled": True}},
        }
        if wishes.profile is not None:
            issuer["profile"] = wishes.profile
        if wishes.preferred_chain is not None:
            issuer["preferred_chains"] = {"any_common_name": [wishes.preferred_chain]}
        if self.binding is not None:
            issuer["external_account"] = {"key_id": self.binding.kid, "mac_key": self.binding.hmac_key}
        policy: dict[str, Any] = {"subjects": list(identifiers), "issuers": [issuer]}
        if window is not None:
            policy["renewal_window_ratio"] = window
        if wishes.key_type is not None:
            policy["key_type"] = {"rsa": "rsa2048", "p384": "p384"}[wishes.key_type]
        route = {"match": [{"host": list(identifiers)}], "handle": [{"handler": "static_response", "body": "Caddy"}]}
        server = {"listen": [f":{self.tls_port}"], "routes": [route], "protocols": ["h1"]}
        return {
            "admin": {"disabled": True, "config": {"persist": False}},
            "storage": {"module": "file_system", "root": str(self.directory / "data")},
            "apps": {
                "http": {"http_port": self.ca.http_port, "https_port": self.tls_port, "servers": {"site": server}},
                "tls": {"automation": {"policies": [policy]}},
            },
        }

    def issued(self, identifier: str) -> Issued:
        (directory,) = (self.directory / "data" / "certificates").iterdir()
        name = re.sub(r"\*", "wildcard_", identifier)
        stem = directory / name / name
        return Issued(Path(f"{stem}.crt"), Path(f"{stem}.key"))


class CurrentCaddy(Caddy):
    """What newer releases can do besides."""

    abilities: ClassVar[frozenset[Ability]] = Caddy.abilities | {Ability.PREFERRED_CHAIN, Ability.PROFILE}
