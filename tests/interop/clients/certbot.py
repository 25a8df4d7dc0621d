"""certbot: the current one of the virtualenv, and the operating system's (Debian's is of 2022: no addresses, profiles, ARI)."""

import re
from pathlib import Path
from typing import ClassVar, Final

from tests.interop.clients.client import Ability, Client, Issued, Wishes
from tests.support.processes import Finished, clean_environment, run

_KEYS: Final[dict[str | None, tuple[str, ...]]] = {
    None: (),
    "rsa": ("--key-type", "rsa", "--rsa-key-size", "2048"),
    "p384": ("--key-type", "ecdsa", "--elliptic-curve", "secp384r1"),
}
_REASONS: Final = {
    0: "unspecified",
    1: "keycompromise",
    3: "affiliationchanged",
    4: "superseded",
    5: "cessationofoperation",
}


class Certbot(Client):
    """`certbot certonly`, `renew`, `revoke`, `register`, `update_account`, `unregister`; http-01 by `--standalone`."""

    abilities: ClassVar[frozenset[Ability]] = frozenset(
        {
            *(Ability.DEACTIVATE, Ability.CONTACT, Ability.REVOKE, Ability.REVOKE_WITH_KEY, Ability.EAB),
            *(Ability.DNS_01, Ability.PREFERRED_CHAIN),
        }
    )

    def __call__(self, verb: str, *arguments: str | Path, code: int | None = 0) -> Finished:
        common = ["--non-interactive", "--server", self.ca.directory_url]
        for name in ("config", "work", "logs"):
            common += [f"--{name}-dir", str(self.directory / name)]
        env = clean_environment(REQUESTS_CA_BUNDLE=str(self.ca.root_path))
        return run([self.program, verb, *common, *arguments], env=env, cwd=self.directory, code=code)

    def certonly(
        self,
        *identifiers: str,
        more: tuple[str | Path, ...] = (),
        wishes: Wishes | None = None,
        code: int | None = 0,
    ) -> Finished:
        wishes = wishes or Wishes()
        arguments: list[str | Path] = ["--agree-tos", "--register-unsafely-without-email", *_KEYS[wishes.key_type]]
        if self.binding is not None:
            arguments += ["--eab-kid", self.binding.kid, "--eab-hmac-key", self.binding.hmac_key]
        if wishes.challenge == "dns-01":
            arguments += ["--manual", "--preferred-challenges", "dns", "--manual-auth-hook", self.zone.hook]
        else:
            arguments += ["--standalone", "--http-01-port", str(self.ca.http_port)]
        if wishes.profile is not None:
            arguments += ["--required-profile", wishes.profile]
        if wishes.preferred_chain is not None:
            arguments += ["--preferred-chain", wishes.preferred_chain]
        for identifier in identifiers:
            arguments += ["--ip-address" if re.fullmatch(r"[\d.]+|.*:.*", identifier) else "-d", identifier]
        return self("certonly", *arguments, "--cert-name", _lineage(identifiers[0]), *more, code=code)

    def issue(self, *identifiers: str, wishes: Wishes | None = None) -> Issued:
        self.certonly(*identifiers, wishes=wishes)
        return self.issued(identifiers[0])

    def renew(self, *identifiers: str) -> Issued:
        self("renew", "--force-renewal", "--cert-name", _lineage(identifiers[0]), "--no-random-sleep-on-renew")
        return self.issued(identifiers[0])

    def revoke(self, *identifiers: str, reason: int) -> None:
        path = self.live(identifiers[0], "cert.pem")
        self("revoke", "--cert-path", path, "--reason", _REASONS[reason], "--no-delete-after-revoke")

    def revoke_with_key(self, issued: Issued, *, reason: int) -> None:
        arguments = ("--cert-path", issued.certificate, "--key-path", issued.key, "--reason", _REASONS[reason])
        self("revoke", *arguments, "--no-delete-after-revoke")

    def change_contact(self, contact: str) -> None:
        self("update_account", "--email", contact, "--no-eff-email")

    def deactivate(self) -> None:
        self("unregister")

    # certbot 2.1 on Python 3.11 stumbles over every problem with subproblems ("can't set attribute"); its log has the problem.
    def refused(self, *identifiers: str, wishes: Wishes | None = None) -> str:
        told = self.certonly(*identifiers, wishes=wishes, code=1).said
        return " ".join([told, *(self.directory / "logs" / "letsencrypt.log").read_text().split()])

    def live(self, identifier: str, file: str) -> Path:
        return self.directory / "config" / "live" / _lineage(identifier) / file

    def issued(self, identifier: str) -> Issued:
        return Issued(self.live(identifier, "fullchain.pem"), self.live(identifier, "privkey.pem"))

    @property
    def accounts(self) -> list[Path]:
        return sorted((self.directory / "config" / "accounts").rglob("regr.json"))


class CurrentCertbot(Certbot):
    """What newer releases can do besides: `--ip-address`, `--required-profile`, `certbot renew` when the CA says so (RFC 9773)."""

    abilities: ClassVar[frozenset[Ability]] = Certbot.abilities | {Ability.IP, Ability.PROFILE}


def _lineage(identifier: str) -> str:
    """What certbot calls a certificate on disk."""
    return identifier.removeprefix("*.").replace(":", "-")
