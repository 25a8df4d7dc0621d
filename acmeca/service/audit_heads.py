"""The end of this process's audit chain, signed from time to time, so that a copy elsewhere shows what was there.

Rule 1: the key is the data directory's, for heads and nothing else (`audit.heads`). It is made by a server, which holds the
store's lock; its fingerprint is in the audit before the key is in its file, so no key signs that the audit does not name.
Rule 2: a head that cannot be signed or kept stops nothing: it is signed at the next turn, with all that was written until then.
Rule 3: a chain that does not pass through the head that was signed last is told of at once. It is signed all the same: what
was signed before stays, and `acmeca audit verify` shows where they part.
"""

import asyncio
import logging
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from acmeca.audit import (
    SYSTEM,
    AuditKeyCreated,
    Head,
    fingerprint,
    raw_public_key,
    sign_head,
)
from acmeca.keystore import pem
from acmeca.service.ambient import Ambient
from acmeca.storage.audit import fetch_hash, fetch_head
from acmeca.storage.audit_heads import TURNS_FILE, HeadsFile
from acmeca.storage.lock import FileTurn
from acmeca.storage.store import Store

log = logging.getLogger(__name__)

KEY_PATH: Final = "keys/audit.pem"  # below the data directory
PUBLIC_KEY_FILE: Final = "audit.pub.pem"


class AuditHeads:
    """Signs the heads of this process's own chain."""

    def __init__(self, store: Store, *, data_dir: Path, ambient: Ambient) -> None:
        self._store = store
        self._data_dir = data_dir
        self._ambient = ambient
        self._file = HeadsFile(data_dir)
        self._key: ed25519.Ed25519PrivateKey | None = None
        self._in_file: Head | None = None  # the newest ones that are kept
        self._in_table: Head | None = None
        self._has_looked_back = False
        self._turn = asyncio.Lock()

    async def sign_with_new_key(self) -> None:
        """As `sign`, with a key that is made when there is none."""
        if self._key is None and not (self._data_dir / KEY_PATH).exists():
            async with FileTurn(self._data_dir / TURNS_FILE):  # of several workers one makes it
                await self._make_key()
        await self.sign()

    async def sign(self) -> None:
        """Sign the head and keep it, when it has moved since the last time and there is a key.

        Raises `StorageError`, `KeystoreError` or OSError when the key cannot be read or the head cannot be kept.
        """
        async with self._turn:
            if self._key is None:
                self._key = self._load_key()
            head = await fetch_head(self._store.database, self._store.writer.name)
            if head is None or self._key is None:
                return
            if not self._has_looked_back:
                await self._look_back()
            signed = sign_head(head, self._key, at=self._ambient.now())
            if head != self._in_file:
                await self._file.append(signed)
                self._in_file = head
            if head != self._in_table:
                await self._store.audit_heads.add(signed)
                self._in_table = head

    async def _look_back(self) -> None:
        """At the first time: what was signed by the process before, and rule 3."""
        self._in_table = await self._store.audit_heads.newest(self._store.writer.name)
        newest = self._file.newest(self._store.writer.name)
        self._has_looked_back = True
        if newest is None:
            return
        self._in_file = newest
        if await fetch_hash(self._store.database, newest.writer, newest.sequence) != newest.hash:
            log.error(
                "the audit does not have record %d of %s as it was signed: records were changed or removed, or the database is "
                "an older copy; run: acmeca audit verify",
                newest.sequence,
                newest.writer,
            )

    def _load_key(self) -> ed25519.Ed25519PrivateKey | None:
        """The key, with its public half in a file for whoever wants to keep it elsewhere; None when there is none yet."""
        path = self._data_dir / KEY_PATH
        if not path.exists():
            return None
        key = pem.load_key(path)
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise pem.KeystoreError(f"{path} is no Ed25519 key; move it away, and the server makes a new one")
        public_pem = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        public_path = self._data_dir / PUBLIC_KEY_FILE
        if not public_path.exists() or public_path.read_bytes() != public_pem:
            pem.write_durably(public_path, public_pem, mode=0o644)
        return key

    async def _make_key(self) -> None:
        """Rule 1. Killed in between, a fingerprint stands in the audit whose key nobody has."""
        if (self._data_dir / KEY_PATH).exists():
            return
        key = ed25519.Ed25519PrivateKey.generate()
        sha256 = fingerprint(raw_public_key(key.public_key()))
        await self._store.note(AuditKeyCreated(actor=SYSTEM, sha256=sha256), at=self._ambient.now())
        pem.write_key(self._data_dir / KEY_PATH, key)
        log.info("made the key that signs the audit's heads (%s); keep a copy of %s elsewhere", sha256, PUBLIC_KEY_FILE)
