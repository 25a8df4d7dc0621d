"""What the tests ask of every ACME client, whatever its command line is.

Rule 1: a client here is the program as it comes, with options that its users have. Nothing of it is replaced.
Rule 2: an instance is one user: a directory and an account of its own, trust in the CA's root and in nothing else.
Rule 3: what a client cannot do by itself is in its `abilities`, so that a missing test is a statement.
"""

import enum
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from cryptography import x509

from tests.interop.responders import Zone
from tests.support.installations import Installation
from tests.support.processes import run


class Ability(enum.Enum):
    """What some clients have and others have not."""

    IP = "identifiers of type ip (RFC 8738)"
    DEACTIVATE = "deactivation of the account (RFC 8555 §7.3.6)"
    CONTACT = "a change of the contact (§7.3.2)"
    ROLLOVER = "a change of the account's key (§7.3.5)"
    REVOKE = "revocation by the account (§7.6)"
    REVOKE_WITH_KEY = "revocation by the certificate's key (§7.6)"
    EAB = "external account binding (§7.3.4)"
    DNS_01 = "dns-01 (§8.4)"
    TLS_ALPN_01 = "tls-alpn-01 (RFC 8737)"
    PREFERRED_CHAIN = "a choice among chains (§7.4.2)"
    PROFILE = "a profile (draft-ietf-acme-profiles)"
    REPLACES = "an order that says what it replaces (RFC 9773 §5)"


@dataclass(frozen=True)
class Issued:
    """A certificate as a client left it on disk: the leaf may have its chain behind it."""

    certificate: Path
    key: Path

    @property
    def pems(self) -> list[str]:
        """Every certificate of the file, the leaf first."""
        return re.findall(
            r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", self.certificate.read_text(), re.DOTALL
        )

    @property
    def serial(self) -> str:
        """Lower-case hex, two digits for an octet."""
        number = x509.load_pem_x509_certificate(self.pems[0].encode()).serial_number
        return number.to_bytes((number.bit_length() + 8) // 8).hex()

    @property
    def text(self) -> str:
        """What openssl prints of it."""
        return run(["openssl", "x509", "-in", self.certificate, "-noout", "-text"]).stdout


@dataclass(frozen=True)
class Binding:
    """Credentials of an external account: the key is base64url without padding."""

    kid: str
    hmac_key: str


@dataclass(frozen=True)
class Wishes:
    """What an order asks for beside its identifiers; None leaves it to the client."""

    challenge: str = "http-01"
    profile: str | None = None
    preferred_chain: str | None = None
    key_type: str | None = None


@dataclass
class Client:
    """One user of a client."""

    program: Path
    ca: Installation
    zone: Zone
    directory: Path
    tls_port: int  # where tls-alpn-01 is checked
    binding: Binding | None = None
    contact: str = "ops@example.org"

    abilities: ClassVar[frozenset[Ability]] = frozenset()
    one_for_all: ClassVar[bool] = True  # several identifiers are in one certificate; else each has its own
    reasons: ClassVar[bool] = True  # gives a reason when it revokes

    def issue(self, *identifiers: str, wishes: Wishes | None = None) -> Issued:
        """Register where that is still to do, order, answer the challenges. The first identifier gives the name on disk."""
        raise NotImplementedError

    def renew(self, *identifiers: str) -> Issued:
        """A new certificate in the old one's place, though that is good for long."""
        raise NotImplementedError

    def revoke(self, *identifiers: str, reason: int) -> None:
        """Revoke by the account's key."""
        raise NotImplementedError

    def revoke_with_key(self, issued: Issued, *, reason: int) -> None:
        """Revoke by the certificate's key, as somebody without an account."""
        raise NotImplementedError

    def change_contact(self, contact: str) -> None:
        """Another address for the account."""
        raise NotImplementedError

    def roll_over(self) -> None:
        """Another key for the account."""
        raise NotImplementedError

    def deactivate(self) -> None:
        """End the account."""
        raise NotImplementedError

    def refused(self, *identifiers: str, wishes: Wishes | None = None) -> str:
        """Try to issue, and fail: everything that the client says about it, white space as one blank."""
        raise NotImplementedError


def shown(ca: Installation, issued: Issued) -> dict[str, Any]:
    """What the CA's administrator sees of a certificate."""
    return ca.operate("show", serial=issued.serial)


def verify(ca: Installation, issued: Issued, *identifiers: str, with_root: bool = False) -> None:
    """openssl at its strictest: the chain leads to the root, for every identifier; the root itself is the last, or not there."""
    leaf, *chain = issued.pems
    untrusted = issued.certificate.with_suffix(".untrusted")
    untrusted.write_text("\n".join(chain))
    assert (ca.root_path.read_text().strip() in chain[-1:]) == with_root
    for identifier in identifiers:
        kind = "-verify_ip" if re.fullmatch(r"[\d.]+|.*:.*", identifier) else "-verify_hostname"
        run(
            [
                *("openssl", "verify", "-x509_strict", "-purpose", "sslserver", kind, identifier.replace("*", "any")),
                *("-CAfile", ca.root_path, "-untrusted", untrusted, issued.certificate),
            ]
        )
    assert leaf
