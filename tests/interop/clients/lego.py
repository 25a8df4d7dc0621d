"""lego, the command line (Debian's is of 2022: no `ip` identifiers, no profiles, no ARI)."""

from pathlib import Path
from typing import ClassVar, Final

from tests.interop.clients.client import Ability, Client, Issued, Wishes
from tests.support.processes import Finished, clean_environment, run

_KEYS: Final = {"rsa": "rsa2048", "p384": "ec384"}


class Lego(Client):
    """`lego run`, `renew`, `revoke`; it answers for http-01 and tls-alpn-01 itself."""

    abilities: ClassVar[frozenset[Ability]] = frozenset(
        {Ability.REVOKE, Ability.EAB, Ability.DNS_01, Ability.TLS_ALPN_01, Ability.PREFERRED_CHAIN}
    )

    def issue(self, *identifiers: str, wishes: Wishes | None = None) -> Issued:
        wishes = wishes or Wishes()
        self._lego(identifiers, wishes, "run", *self._chain(wishes))
        return self._issued(identifiers[0])

    def renew(self, *identifiers: str) -> Issued:
        self._lego(identifiers, Wishes(), "renew", "--days", "1000", "--no-random-sleep")
        return self._issued(identifiers[0])

    def revoke(self, *identifiers: str, reason: int) -> None:
        # lego revokes a file for each -d; a certificate of several names lies under the first
        self._lego(identifiers[:1], Wishes(), "revoke", "--keep", "--reason", str(reason))

    def refused(self, *identifiers: str, wishes: Wishes | None = None) -> str:
        return self._lego(identifiers, wishes or Wishes(), "run", code=1).said

    def _issued(self, identifier: str) -> Issued:
        stem = self.directory / "certificates" / identifier.replace("*", "_")
        return Issued(certificate=Path(f"{stem}.crt"), key=Path(f"{stem}.key"))

    @staticmethod
    def _chain(wishes: Wishes) -> tuple[str, ...]:
        return () if wishes.preferred_chain is None else ("--preferred-chain", wishes.preferred_chain)

    def _lego(
        self, identifiers: tuple[str, ...], wishes: Wishes, verb: str, *arguments: str, code: int | None = 0
    ) -> Finished:
        command: list[str | Path] = [self.program, "--server", self.ca.directory_url, "--accept-tos"]
        command += ["--path", self.directory, "--email", self.contact]
        if self.binding is not None:
            command += ["--eab", "--kid", self.binding.kid, "--hmac", self.binding.hmac_key]
        if wishes.key_type is not None:
            command += ["--key-type", _KEYS[wishes.key_type]]
        match wishes.challenge:
            case "http-01":
                command += ["--http", "--http.port", f"127.0.0.1:{self.ca.http_port}"]
            case "tls-alpn-01":
                command += ["--tls", "--tls.port", f"127.0.0.1:{self.tls_port}"]
            case "dns-01":
                command += ["--dns", "exec", "--dns.disable-cp", "--dns.resolvers", self.zone.server]
        for identifier in identifiers:
            command += ["--domains", identifier]
        env = clean_environment(
            LEGO_CA_CERTIFICATES=str(self.ca.root_path),
            EXEC_PATH=str(self.zone.hook),
            EXEC_POLLING_INTERVAL="1",
            EXEC_PROPAGATION_TIMEOUT="10",
            EXEC_SEQUENCE_INTERVAL="1",  # between two names of one order; its default is a minute
        )
        return run([*command, verb, *arguments], env=env, cwd=self.directory, code=code)
