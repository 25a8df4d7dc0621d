"""External account binding as newAccount asks for it (RFC 8555 §7.3.4), and the MAC keys behind it.

Rule 1: no MAC key is kept. Each is derived from one secret of this CA and the `kid`, so that neither the database nor a backup nor
the journal has anything to leak, and a `kid` that was never given out has a MAC key too: it takes the same steps as one that
was, up to the comparison of the MACs, and gets the same answer (RULES §2).
Rule 2: the secret is the file `keys/eab.key`, the same for all servers of a CA. It is made with the first grant. A server that
lacks it, or has another, makes none by itself while there are grants: it refuses bindings as for a wrong MAC, and its log says why.
Rule 3: the file is read whenever it is needed, so that one that was put in its place counts at once.
"""

import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from acmeca.acme.binding import parse_binding, verify_binding, wrong_mac
from acmeca.acme.jwk import PublicKey
from acmeca.acme.problem import Problem
from acmeca.keystore.pem import KeystoreError
from acmeca.keystore.secret import SECRET_LENGTH, load_secret, write_secret
from acmeca.policy.grants import Grant
from acmeca.storage.grants import StoredGrant
from acmeca.storage.store import Store

log = logging.getLogger(__name__)

KEY_PATH: Final = "keys/eab.key"  # below the data directory
_DOMAIN: Final = b"acmeca eab 1 "


@dataclass(frozen=True, slots=True)
class MacSecret:
    """The secret that MAC keys are derived from."""

    octets: bytes = field(repr=False)

    def derive(self, kid: str) -> bytes:
        """The MAC key of a `kid`.

        64 octets, so that each of HS256, HS384 and HS512 has "a key of the same size as the hash output … or larger" (RFC 7518 §3.2).
        """
        return hmac.digest(self.octets, _DOMAIN + kid.encode("ascii"), "sha512")

    def fits(self, stored: StoredGrant) -> bool:
        """Whether a grant was made with this secret."""
        return hmac.compare_digest(digest_of(self.derive(stored.grant.id)), stored.mac_sha256)

    def fits_newest(self, newest: Sequence[StoredGrant]) -> bool:
        """Whether one of the newest grants was made with this secret, or there is none."""
        return not newest or any(map(self.fits, newest))


def digest_of(mac_key: bytes) -> bytes:
    """What is kept of a MAC key. It says whether a secret is the one that a grant was made with, and nothing of the key."""
    return hashlib.sha256(mac_key).digest()


class MacKeys:
    """The secret of one data directory (rules 2 and 3)."""

    def __init__(self, data_dir: Path, *, entropy: Callable[[int], bytes]) -> None:
        self.path = data_dir / KEY_PATH
        self._entropy = entropy
        self._nobodys = MacSecret(entropy(SECRET_LENGTH))

    def load(self) -> MacSecret:
        """Raises `KeystoreError` when it is not there, or cannot be read, or others can read it."""
        return MacSecret(load_secret(self.path))

    def load_or_nobodys(self) -> MacSecret:
        """The secret; where it cannot be had, which the log tells, one whose MAC keys nobody has."""
        try:
            return self.load()
        except KeystoreError as error:
            log.error("external account bindings are refused: %s", error)  # noqa: TRY400  (the message is all there is)
            return self._nobodys

    def make(self) -> None:
        """Make the secret, which is not there. For one caller at a time."""
        write_secret(self.path, self._entropy(SECRET_LENGTH))


class Bindings:
    """Verifies the bindings of new accounts."""

    def __init__(self, store: Store, *, keys: MacKeys) -> None:
        self._store = store
        self._keys = keys

    async def verify(self, members: Mapping[str, object], *, url: str, account_key: PublicKey) -> Grant:
        """The grant by which the account of this key is to be made. Raises a Problem, the same for an unknown `kid` as for a wrong MAC.

        Whether an account can still be made by it is asked in the transaction that makes one.
        """
        binding = parse_binding(members, url=url)
        try:
            verified = verify_binding(binding, self._keys.load_or_nobodys().derive(binding.kid), account_key)
        except Problem:
            await self._tell_of_another_secret()
            raise
        stored = await self._store.grants.by_id(verified.kid)
        if stored is None:  # the MAC key is ours, and the grant was lost with a database
            log.warning("a client has the right key for the grant %s, which is not in the database", verified.kid)
            raise wrong_mac()
        return stored.grant

    async def _tell_of_another_secret(self) -> None:
        """Rule 2. It asks nothing about the binding, so that no answer takes longer for a `kid` that there is."""
        newest = await self._store.grants.newest()
        with suppress(KeystoreError):  # told already
            if not self._keys.load().fits_newest(newest):
                log.error(
                    "%s is not the secret that the grant %s was made with: bindings are refused here; bring the file from the server "
                    "where it was made",
                    self._keys.path,
                    newest[0].grant.id,
                )
