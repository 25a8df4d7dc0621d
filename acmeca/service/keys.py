"""Keys that administrators ask about and block: who has one, and that it is refused from now on (RULES §1).

Rule 1: a key comes as its SubjectPublicKeyInfo, as the digest of that, or as the serial of a certificate that holds it. No private
key comes here, in any form: whoever reads a file takes the public one out of it.
Rule 2: blocked stays blocked. What a block brings about is shown before (`show`), and cannot be undone.
Rule 3: an issuer's key is not blocked: it is certified for nobody anyway, and its certificates would be good all the same.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from acmeca import audit
from acmeca.acme.jwk import load_jwk, thumbprint
from acmeca.acme.objects import Account, format_time
from acmeca.errors import AcmecaError, Conflict
from acmeca.pki.errors import PkiError
from acmeca.pki.signing import PublicKey
from acmeca.pki.spki import encode_public_key, parse_public_key
from acmeca.service.ambient import Ambient
from acmeca.service.arguments import Json, Operation, cut, find_certificate, number, text
from acmeca.service.certificates import Certificates
from acmeca.service.issuers import Issuers
from acmeca.service.status import Status
from acmeca.storage.certificates import KEY_COMPROMISE, CertificateStatus
from acmeca.storage.keys import BlockedKey
from acmeca.storage.store import Store

log = logging.getLogger(__name__)

_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")
_MAX_WHY: Final = 200  # characters
_CERTIFICATES: Final = 1_000  # of one key
_LISTED: Final = 100
_MAX_LISTED: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Named:
    """A key that an administrator named; `key` is None when nothing but its digest is known."""

    spki_sha256: bytes
    key: PublicKey | None

    @property
    def thumbprint(self) -> str:
        return "" if self.key is None else thumbprint(self.key)


class KeyAdministration:
    """The operations about keys, by name (`operations`), for `administration.py`."""

    def __init__(
        self, store: Store, *, issuers: Issuers, certificates: Certificates, status: Status, ambient: Ambient
    ) -> None:
        self._store = store
        self._issuers = issuers
        self._certificates = certificates
        self._status = status
        self._ambient = ambient
        self.operations: Mapping[str, Operation] = {
            "key_show": self._show,
            "key_block": self._block,
            "key_revoke": self._revoke,
            "key_list": self._list,
        }

    async def _show(self, arguments: Json, _: str) -> Json:
        """Arguments: one of `spki` (hex of its DER), `sha256` (hex, of that) and `serial` (of a certificate)."""
        return await self._shown(await self._named(arguments))

    async def _block(self, arguments: Json, user: str) -> Json:
        """The same arguments, and `why`. Returns what `show` does, and whether it was `new`."""
        why = (text(arguments, "why") or "").strip()
        if not 1 <= len(why) <= _MAX_WHY or not why.isprintable():
            raise AcmecaError(f"why: a reason of 1 to {_MAX_WHY} printable characters is expected")
        named = await self._named(arguments)
        for stored in self._issuers.all:
            if hashlib.sha256(stored.issuer.spki_der).digest() == named.spki_sha256:
                raise Conflict(
                    f"it is the key of the issuer {stored.issuer.id}, which is certified for nobody anyway; an issuer whose key "
                    "leaked has to be replaced"
                )
        is_new = await self._block_named(named, why=why, actor=audit.admin_actor(user))
        if named.key is None:
            # Whoever made an account with it before the block was there is found now; nobody makes one any more.
            named = _Named(named.spki_sha256, await self._account_key(named.spki_sha256))
            if named.key is not None:
                await self._block_named(named, why=why, actor=audit.admin_actor(user))
        return await self._shown(named) | {"new": is_new}

    async def _revoke(self, arguments: Json, user: str) -> Json:
        """The same arguments as `show`. Revokes every certificate with the key that is good still, for keyCompromise."""
        named = await self._named(arguments)
        now = self._ambient.now()
        revoked = [
            await self._certificates.revoke_for_admin(certificate.serial, reason=KEY_COMPROMISE, user=user)
            for certificate in await self._store.certificates.by_key(named.spki_sha256, limit=_CERTIFICATES)
            if certificate.status(now) is CertificateStatus.VALID
        ]
        for issuer_id in {certificate.issuer_id for certificate in revoked}:
            try:
                await self._status.publish_if_due(issuer_id)
            except AcmecaError:  # the revocations stand: OCSP tells of them, and the next CRL will
                log.exception("certificates are revoked, but the CRL could not be made now; it is tried again")
        return {"revoked": [certificate.serial for certificate in revoked]}

    async def _list(self, arguments: Json, _: str) -> Json:
        """Arguments: `limit`. The newest come first."""
        most = number(arguments, "limit")
        most = _LISTED if most is None else most
        if not 0 < most <= _MAX_LISTED:
            raise AcmecaError(f"limit: 1 to {_MAX_LISTED} is allowed")
        found = await self._store.blocked_keys.newest(limit=most + 1)
        return {"keys": [_blocked(key) for key in found[:most]], "is_cut": len(found) > most}

    async def _block_named(self, named: _Named, *, why: str, actor: str) -> bool:
        now = self._ambient.now()
        key = BlockedKey(named.spki_sha256, named.thumbprint, blocked_at=now, why=why)
        return await self._store.blocked_keys.block(key, actor=actor, at=now)

    async def _named(self, arguments: Json) -> _Named:
        """Rule 1."""
        spki, sha256, serial = (text(arguments, name) for name in ("spki", "sha256", "serial"))
        if sum(item is not None for item in (spki, sha256, serial)) != 1:
            raise AcmecaError("one of spki, sha256 and serial is expected")
        if spki is not None:
            return _parse_spki(spki)
        if serial is not None:
            certificate = await find_certificate(self._store, serial)
            return _Named(certificate.spki_sha256, certificate.public_key)
        if sha256 is None or not _SHA256.match(sha256):
            raise AcmecaError(f"{cut(sha256 or '')!r} is no SHA-256 in hex")
        digest = bytes.fromhex(sha256)
        for certificate in await self._store.certificates.by_key(digest, limit=1):
            return _Named(digest, certificate.public_key)
        return _Named(digest, await self._account_key(digest))

    async def _account_key(self, digest: bytes) -> PublicKey | None:
        """The account key with this digest: accounts are kept by thumbprint, so that each is looked at, beside the event loop."""
        jwks = await self._store.accounts.jwks()
        return await asyncio.to_thread(_find_key, jwks, digest)

    async def _shown(self, named: _Named) -> Json:
        now = self._ambient.now()
        blocked = await self._store.blocked_keys.find(named.spki_sha256)
        account = None if named.key is None else await self._store.accounts.by_thumbprint(named.thumbprint)
        certificates = await self._store.certificates.by_key(named.spki_sha256, limit=_CERTIFICATES)
        return {
            "sha256": named.spki_sha256.hex(),
            "kind": None if named.key is None else _kind(named.key),
            "thumbprint": named.thumbprint or None,
            "blocked": None if blocked is None else _blocked(blocked),
            "account": None if account is None else _shown_account(account),
            "certificates": [
                {
                    "serial": certificate.serial,
                    "status": certificate.status(now).value,
                    "names": list(certificate.names),
                    "not_after": format_time(certificate.not_after),
                    "account": certificate.account_id,
                }
                for certificate in certificates
            ],
        }


def _parse_spki(spki: str) -> _Named:
    """The key of a SubjectPublicKeyInfo, in the encoding by which all are kept. A key of another type has a digest all the same."""
    try:
        spki_der = bytes.fromhex(spki)
    except ValueError:
        raise AcmecaError("spki: a SubjectPublicKeyInfo is expected in hex") from None
    try:
        key = parse_public_key(spki_der)
    except PkiError as error:
        raise AcmecaError(f"it is no key that an account or a certificate can have: {error}") from None
    return _Named(hashlib.sha256(encode_public_key(key)).digest(), key)


def _find_key(jwks: Sequence[str], digest: bytes) -> PublicKey | None:
    for jwk in jwks:
        key = load_jwk(jwk).key
        if hashlib.sha256(encode_public_key(key)).digest() == digest:
            return key
    return None


def _blocked(key: BlockedKey) -> Json:
    return {
        "sha256": key.spki_sha256.hex(),
        "blocked_at": format_time(key.blocked_at),
        "serial": key.serial,
        "why": key.why,
    }


def _shown_account(account: Account) -> Json:
    return {"id": account.id, "status": account.status.value, "contact": list(account.contact)}


def _kind(key: PublicKey) -> str:
    match key:
        case rsa.RSAPublicKey():
            return f"RSA, {key.key_size} bits"
        case ec.EllipticCurvePublicKey():
            return f"ECDSA, {_CURVES.get(key.curve.name, key.curve.name)}"
        case ed25519.Ed25519PublicKey():
            return "Ed25519"


_CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
