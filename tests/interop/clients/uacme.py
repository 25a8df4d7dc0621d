"""uacme: a client in C that trusts the system's certificates and nothing else.

Rule 1: so it runs in a mount namespace of its own, in which the system's file of certificates is the CA's root.
"""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar, Final

from tests.interop.clients.client import Ability, Client, Issued, Wishes
from tests.interop.responders import web_root
from tests.support.processes import Finished, Process, clean_environment, run

SYSTEM_CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")

_MOUNTED: Final = 'mount --bind "$0" /etc/ssl/certs/ca-certificates.crt && exec "$@"'


def namespace(root: Path) -> list[str | Path]:
    """The command in front of a command that shall trust `root` only."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *user, "--mount", "sh", "-c", _MOUNTED, root]


class Uacme(Client):
    """`uacme new`, `issue`, `revoke`, `newkey`, …; with its own hook for http-01 and its own responder for tls-alpn-01."""

    abilities: ClassVar[frozenset[Ability]] = frozenset(
        {
            *(Ability.IP, Ability.DEACTIVATE, Ability.CONTACT, Ability.ROLLOVER, Ability.REVOKE),
            *(Ability.REVOKE_WITH_KEY, Ability.EAB, Ability.DNS_01, Ability.TLS_ALPN_01, Ability.PREFERRED_CHAIN),
        }
    )

    def issue(self, *identifiers: str, wishes: Wishes | None = None) -> Issued:
        self._register()
        self._issue(identifiers, wishes or Wishes())
        return self._issued(identifiers[0])

    def renew(self, *identifiers: str) -> Issued:
        self._issue(identifiers, Wishes(), "--force")
        return self._issued(identifiers[0])

    def revoke(self, *identifiers: str, reason: int) -> None:
        self._revoke(self._issued(identifiers[0]).certificate, reason)

    def revoke_with_key(self, issued: Issued, *, reason: int) -> None:
        self._revoke(issued.certificate, reason, issued.key)

    def change_contact(self, contact: str) -> None:
        self._uacme("update", contact)

    def roll_over(self) -> None:
        self._uacme("newkey")

    def deactivate(self) -> None:
        self._uacme("deactivate")

    def refused(self, *identifiers: str, wishes: Wishes | None = None) -> str:
        registered = self._register(code=None)
        if registered is not None and registered.code != 0:
            return registered.said
        return self._issue(identifiers, wishes or Wishes(), code=2).said

    def _register(self, *, code: int | None = 0) -> Finished | None:
        """`uacme new`, once: it is told that an account exists, and takes that for a failure."""
        if (self.directory / "conf" / "private" / "key.pem").exists():
            return None
        binding = () if self.binding is None else ("--eab", f"{self.binding.kid}:{self.binding.hmac_key}")
        return self._uacme("--yes", *binding, "new", self.contact, code=code)

    def _issue(self, identifiers: tuple[str, ...], wishes: Wishes, *options: str, code: int | None = 0) -> Finished:
        arguments: list[str | Path] = [*options, "--type", "RSA" if wishes.key_type == "rsa" else "EC"]
        if wishes.key_type == "p384":
            arguments += ["--bits", "384"]
        if wishes.preferred_chain is not None:
            arguments += ["--alternate", wishes.preferred_chain]
        env: dict[str, str] = {}
        with ExitStack() as stack:
            hook: Path = Path("/usr/share/uacme/uacme.sh")
            match wishes.challenge:
                case "http-01":
                    served = stack.enter_context(web_root(self.directory / "www", self.ca.http_port))
                    env["UACME_CHALLENGE_PATH"] = str(served)
                case "dns-01":
                    hook = self.zone.hook
                case "tls-alpn-01":
                    hook = self._responder(stack)
            arguments += ["--hook", hook, "issue", *identifiers]
            return self._uacme(*arguments, code=code, env=env)

    def _responder(self, stack: ExitStack) -> Path:
        """`ualpn`, running; and the hook that tells it what to answer (its own hook knows no other socket than the system's)."""
        sock = self.directory / "ualpn.sock"
        hook = self.directory / "ualpn.sh"
        ask = f"ualpn --sock {sock}"
        hook.write_text(
            '#!/bin/sh\n[ "$2" = tls-alpn-01 ] || exit 1\n'
            f'case "$1" in begin) said=$(echo "auth $3 $5" | {ask}) ;; *) said=$(echo "unauth $3" | {ask}) ;; esac\n'
            '[ "$said" = OK ]\n'
        )
        hook.chmod(0o700)
        command: list[str | Path] = ["ualpn", "-v", "-v", "--sock", sock, "--pidfile", self.directory / "ualpn.pid"]
        command += ["--bind", f"127.0.0.1@{self.tls_port}", "--connect", "127.0.0.1@1", "--num-workers", "1"]
        responder = stack.enter_context(Process(command, env=clean_environment(), cwd=self.directory))
        responder.wait_for_line(r"(?i)worker|listening|ready")
        return hook

    def _revoke(self, certificate: Path, reason: int, *key: Path) -> None:
        copy = self.directory / "revoked.pem"  # uacme renames what it revoked
        copy.write_bytes(certificate.read_bytes())
        self._uacme("--reason", str(reason), "revoke", copy, *key)

    def _issued(self, identifier: str) -> Issued:
        configuration = self.directory / "conf"
        name = identifier.removeprefix("*.")
        return Issued(configuration / name / "cert.pem", configuration / "private" / name / "key.pem")

    def _uacme(self, *arguments: str | Path, code: int | None = 0, env: dict[str, str] | None = None) -> Finished:
        common: list[str | Path] = ["-v", "--acme-url", self.ca.directory_url, "--confdir", self.directory / "conf"]
        return run(
            [*namespace(self.ca.root_path), self.program, *common, *arguments],
            env=clean_environment(**(env or {})),
            cwd=self.directory,
            code=code,
        )
