"""The server's own certificates: its TLS listener's and the OCSP responders'. Issued by itself, renewed by itself.

Rule 1: each lies with its key in one file of mode 0600 and is replaced as a whole; a start that finds a fresh one uses it.
Rule 2: a certificate is renewed when two thirds of its life are over, with a new key.
Rule 3: workers of one data directory share these files. Whoever finds one due renews it under a lock, and the others take it up
at their next look.
"""

import ipaddress
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from acmeca.acme.identifiers import Identifier, IdentifierType, canonical_dns_name
from acmeca.errors import AcmecaError, NotFound
from acmeca.keystore.pem import Credential, KeystoreError, UnreadableError, load_credential, write_credential
from acmeca.pki.ocsp import Responder
from acmeca.pki.template import Template
from acmeca.policy.own_templates import listener_template, responder_template
from acmeca.service.ambient import Ambient
from acmeca.service.certificates import Certificates
from acmeca.service.issuance import Issuance
from acmeca.service.issuers import Issuers, SigningIssuer
from acmeca.service.status import Status, format_serial
from acmeca.storage.lock import FileTurn

log = logging.getLogger(__name__)

LISTENER_FILE: Final = "listener.pem"
_TURNS_FILE: Final = "own-certificates.lock"


@dataclass(frozen=True, slots=True)
class _Kept:
    """A credential on disk, read."""

    credential: Credential
    certificate: x509.Certificate

    def is_valid(self, now: datetime) -> bool:
        return self.certificate.not_valid_before_utc <= now <= self.certificate.not_valid_after_utc

    def is_fresh(self, now: datetime) -> bool:
        """Rule 2: in the first two thirds of its life."""
        start, end = self.certificate.not_valid_before_utc, self.certificate.not_valid_after_utc
        return start <= now < start + (end - start) * 2 / 3


class OwnCertificates:
    """Keeps the listener's and the responders' certificates fresh.

    `on_listener` is called with the path of the listener's credential whenever it is new, so that the listener takes it up.
    """

    def __init__(
        self,
        *,
        certificates: Certificates,
        issuance: Issuance,
        issuers: Issuers,
        status: Status,
        base_url: str,
        data_dir: Path,
        ambient: Ambient,
        on_listener: Callable[[Path], None],
    ) -> None:
        self._certificates = certificates
        self._issuance = issuance
        self._issuers = issuers
        self._status = status
        self._host = _host(base_url)
        self._data_dir = data_dir
        self._ambient = ambient
        self._on_listener = on_listener
        self._in_use: dict[Path, bytes] = {}

    async def refresh(self) -> None:
        """Issue what is missing or due, and hand out what is new. Safe to call at any time."""
        for signer in self._issuers.signing:
            await self._refresh_responder(signer)
        path = self._data_dir / LISTENER_FILE
        kept = await self._fresh(path, listener_template(), (self._host,), self._issuers.active)
        if self._is_new(path, kept):
            self._on_listener(path)

    @property
    def listener_not_after(self) -> datetime | None:
        """When the listener's certificate ends; None before the first `refresh`."""
        der = self._in_use.get(self._data_dir / LISTENER_FILE)
        return None if der is None else x509.load_der_x509_certificate(der).not_valid_after_utc

    async def _refresh_responder(self, signer: SigningIssuer) -> None:
        path = self._data_dir / "keys" / f"{signer.id}.ocsp.pem"
        template = responder_template(f"OCSP responder {self._ambient.now():%Y-%m}")
        kept = await self._fresh(path, template, (), signer)
        if self._is_new(path, kept):
            responder = Responder(
                certificate_der=kept.credential.chain[0], key=kept.credential.key, issuer=signer.issuer
            )
            self._status.use_responder(signer.id, responder)

    def _is_new(self, path: Path, kept: _Kept) -> bool:
        is_new = self._in_use.get(path) != kept.credential.chain[0]
        self._in_use[path] = kept.credential.chain[0]
        return is_new

    async def _fresh(
        self, path: Path, template: Template, names: tuple[Identifier, ...], signer: SigningIssuer
    ) -> _Kept:
        """What lies at `path` while it is fresh, else a new one; the old one as long as it lives and no new one can be had."""
        now = self._ambient.now()
        kept = _load(path)
        is_ours = kept is not None and await self._is_ours(kept, template, names, signer)
        if kept is not None and is_ours and kept.is_fresh(now):
            return kept
        try:
            async with FileTurn(self._data_dir / _TURNS_FILE):
                return await self._fresh_in_turn(path, template, names, signer)
        except (AcmecaError, OSError):
            if kept is None or not is_ours or not kept.is_valid(now):
                raise
            log.exception("the %s certificate cannot be renewed now; it is tried again", template.name)
            return kept

    async def _fresh_in_turn(
        self, path: Path, template: Template, names: tuple[Identifier, ...], signer: SigningIssuer
    ) -> _Kept:
        """Rule 3: looked at once more, for another worker may have been here first."""
        kept = _load(path)
        is_ours = kept is not None and await self._is_ours(kept, template, names, signer)
        if kept is not None and is_ours and kept.is_fresh(self._ambient.now()):
            return kept
        return await self._renewed(path, template, names, signer)

    async def _renewed(
        self, path: Path, template: Template, names: tuple[Identifier, ...], signer: SigningIssuer
    ) -> _Kept:
        key = ec.generate_private_key(ec.SECP256R1())
        # The key is kept first, so that a disk that takes nothing ends this before anything is signed.
        waiting = path.with_suffix(".next.pem")
        write_credential(waiting, Credential(key, ()))
        certificate = await self._issuance.issue_own(template, names, key.public_key(), signer=signer)
        chain = (certificate.der, *self._issuers.chain(signer.id))
        write_credential(path, Credential(key, chain))
        waiting.unlink()
        log.info(
            "issued the %s certificate %s, valid until %s", template.name, certificate.serial, certificate.not_after
        )
        return _Kept(Credential(key, chain), x509.load_der_x509_certificate(chain[0]))

    async def _is_ours(
        self, kept: _Kept, template: Template, names: tuple[Identifier, ...], signer: SigningIssuer
    ) -> bool:
        """Whether the file holds what it should: the key of a certificate that the store knows, for this purpose.

        An administrator who revokes one of these gets a new one within a minute.
        """
        if kept.credential.key.public_key() != kept.certificate.public_key():
            return False
        try:
            recorded = await self._certificates.by_serial(format_serial(kept.certificate.serial_number))
        except NotFound:
            return False
        return (
            recorded.signature is not None
            and recorded.der == kept.credential.chain[0]
            and recorded.revoked_at is None
            and recorded.issuer_id == signer.id
            and recorded.profile == template.name
            and recorded.names == tuple(sorted(name.value for name in names))
        )


def _host(base_url: str) -> Identifier:
    host = urlsplit(base_url).hostname or ""
    try:
        return Identifier(IdentifierType.IP, str(ipaddress.ip_address(host)))
    except ValueError:
        return Identifier(IdentifierType.DNS, canonical_dns_name(host))


def _load(path: Path) -> _Kept | None:
    """What lies at `path`; None when there is nothing, or nothing of use. `UnreadableError` when that cannot be seen now."""
    if not path.exists():
        return None
    try:
        credential = load_credential(path)
    except UnreadableError:
        raise
    except KeystoreError as error:
        log.warning("%s; a new one is made", error)
        return None
    return _Kept(credential, x509.load_der_x509_certificate(credential.chain[0]))
