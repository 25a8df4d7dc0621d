"""dehydrated: a client in bash that reads JSON with sed.

Debian's 0.7.0 has no `ip` identifiers, gives no reason when it revokes, and takes a certificate's key for an account's
(`--revoke --privkey` looks for an account that has it).
"""

from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar, Final

from tests.interop.clients.client import Ability, Client, Issued, Wishes
from tests.interop.responders import alpn_responder, web_root
from tests.support.processes import Finished, clean_environment, run

_CONFIG: Final = """\
CA="{directory_url}"
CURL_OPTS="--cacert {root} --noproxy *"
BASEDIR="{directory}"
WELLKNOWN="{directory}/www/.well-known/acme-challenge"
KEYSIZE=2048
CONTACT_EMAIL="{contact}"
"""
_KEYS: Final = {"rsa": "rsa", "p384": "secp384r1", None: "prime256v1"}


class Dehydrated(Client):
    """`dehydrated --cron`, `--revoke`, `--account`, `--deactivate`; a web server of ours shows what it wrote."""

    abilities: ClassVar[frozenset[Ability]] = frozenset(
        {
            *(Ability.DEACTIVATE, Ability.CONTACT, Ability.REVOKE, Ability.EAB, Ability.DNS_01),
            *(Ability.TLS_ALPN_01, Ability.PREFERRED_CHAIN),
        }
    )
    reasons: ClassVar[bool] = False

    def issue(self, *identifiers: str, wishes: Wishes | None = None) -> Issued:
        self._register()
        self._cron(identifiers, wishes or Wishes())
        return self._issued(identifiers[0])

    def renew(self, *identifiers: str) -> Issued:
        self._cron(identifiers, Wishes(), "--force")
        return self._issued(identifiers[0])

    def revoke(self, *identifiers: str, reason: int) -> None:
        copy = self.directory / "revoked.pem"  # dehydrated renames what it revoked
        copy.write_text(self._issued(identifiers[0]).pems[0])
        self._dehydrated("--revoke", copy)

    def change_contact(self, contact: str) -> None:
        self.contact = contact
        self._dehydrated("--account")

    def deactivate(self) -> None:
        self._dehydrated("--deactivate")

    def refused(self, *identifiers: str, wishes: Wishes | None = None) -> str:
        registered = self._register(code=None)
        if registered.code != 0:
            return registered.said
        return self._cron(identifiers, wishes or Wishes(), code=1).said

    def _register(self, *, code: int | None = 0) -> Finished:
        return self._dehydrated("--register", "--accept-terms", code=code)

    def _cron(self, identifiers: tuple[str, ...], wishes: Wishes, *options: str, code: int | None = 0) -> Finished:
        arguments: list[str | Path] = ["--cron", *options, "--challenge", wishes.challenge]
        arguments += ["--algo", _KEYS[wishes.key_type]]
        for identifier in identifiers:
            arguments += ["--domain", identifier]
        if identifiers[0].startswith("*."):
            arguments += ["--alias", identifiers[0].removeprefix("*.")]
        if wishes.preferred_chain is not None:
            arguments += ["--preferred-chain", wishes.preferred_chain]
        with ExitStack() as stack:
            match wishes.challenge:
                case "http-01":
                    stack.enter_context(web_root(self.directory / "www", self.ca.http_port))
                case "dns-01":
                    arguments += ["--hook", self.zone.hook]
                case "tls-alpn-01":
                    stack.enter_context(alpn_responder(self.directory / "alpn-certs", self.tls_port))
            return self._dehydrated(*arguments, code=code)

    def _issued(self, identifier: str) -> Issued:
        directory = self.directory / "certs" / identifier.removeprefix("*.")
        return Issued(directory / "fullchain.pem", directory / "privkey.pem")

    def _dehydrated(self, *arguments: str | Path, code: int | None = 0) -> Finished:
        (self.directory / "www" / ".well-known" / "acme-challenge").mkdir(parents=True, exist_ok=True)
        config = self.directory / "config"
        text = _CONFIG.format(
            directory_url=self.ca.directory_url,
            root=self.ca.root_path,
            directory=self.directory,
            contact=self.contact,
        )
        if self.binding is not None:
            text += f'EAB_KID="{self.binding.kid}"\nEAB_HMAC_KEY="{self.binding.hmac_key}"\n'
        config.write_text(text)
        return run(
            [self.program, *arguments, "--config", config], env=clean_environment(), cwd=self.directory, code=code
        )
