"""The issuers of this server: which one signs, with which key, and how a new hierarchy is made.

Rule 1: the root's key signs the intermediate and the root's first CRL when the hierarchy is made. The server never opens it
again; its later CRLs are signed on the command line (`cli/root_crl.py`).
Rule 2: what goes to disk first is the keys, what goes last is the rows: a hierarchy exists once its rows do, and a crash
before that leaves key files that nothing refers to.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from acmeca.errors import Conflict, NotFound
from acmeca.keystore import pem
from acmeca.pki.chains import find_chains
from acmeca.pki.crl import build_tbs_crl, sign_crl
from acmeca.pki.hierarchy import build_intermediate, build_root
from acmeca.pki.issuance import random_serial
from acmeca.pki.issuer import Issuer
from acmeca.pki.signing import PrivateKey
from acmeca.service.ambient import Ambient
from acmeca.storage.crls import Crl
from acmeca.storage.errors import StaleError
from acmeca.storage.issuers import IssuerState, StoredIssuer
from acmeca.storage.store import Store
from acmeca.urls import Urls

ROOT_LIFETIME: Final = timedelta(days=20 * 365)
INTERMEDIATE_LIFETIME: Final = timedelta(days=5 * 365)
ROOT_CRL_LIFETIME: Final = timedelta(days=396)  # 13 months: a yearly date with a month to spare
_SERIAL_BYTES: Final = 16
_CHAIN_ID_LENGTH: Final = 16  # hex digits; it tells a handful of chains apart


@dataclass(frozen=True)  # no slots: the cached property lives in the instance
class SigningIssuer:
    """An issuer whose key this server holds."""

    stored: StoredIssuer
    key: PrivateKey

    @property
    def id(self) -> str:
        return self.stored.issuer.id

    @cached_property
    def issuer(self) -> Issuer:
        return self.stored.issuer


@dataclass(frozen=True, slots=True)
class Chain:
    """Certificates above what an issuer signed, its own first (RFC 8555 §7.4.2), as PEM.

    `id` names it in URLs, and is the same as long as its certificates are; None for the chain that is served by default.
    """

    id: str | None
    pem: bytes


class Issuers:
    """Every issuer of this server, in memory: they change by an administrator's act only."""

    def __init__(self, stored: Sequence[StoredIssuer], *, open_key: Callable[[str], PrivateKey]) -> None:
        self.all = tuple(stored)
        self._chains: dict[str, tuple[Chain, ...]] = {}
        self._by_id = {item.issuer.id: item for item in self.all}
        self._signing = {
            item.issuer.id: SigningIssuer(item, open_key(item.key_reference))
            for item in self.all
            if item.key_reference is not None and item.state is not IssuerState.RETIRED
        }

    @property
    def roots(self) -> tuple[StoredIssuer, ...]:
        return tuple(item for item in self.all if item.is_root)

    @property
    def signing(self) -> tuple[SigningIssuer, ...]:
        """Every issuer that answers for its certificates: active and draining ones."""
        return tuple(self._signing.values())

    @property
    def active(self) -> SigningIssuer:
        """The issuer that signs new certificates: the youngest active one."""
        active = [item for item in self._signing.values() if item.stored.state is IssuerState.ACTIVE]
        if not active:
            raise NotFound("there is no active issuer; make a CA with: acmeca init")
        return active[-1]

    def stored(self, issuer_id: str) -> StoredIssuer | None:
        return self._by_id.get(issuer_id)

    def signer(self, issuer_id: str) -> SigningIssuer | None:
        """The issuer of this id with its key, or None when it is unknown, a root, or retired."""
        return self._signing.get(issuer_id)

    def chain(self, issuer_id: str) -> tuple[bytes, ...]:
        """The issuer's certificate and those above it, as DER, the root left out (RFC 8555 §7.4.2: clients have it)."""
        chain = []
        item = self._by_id.get(issuer_id)
        while item is not None and item.parent_id is not None:
            chain.append(item.issuer.certificate_der)
            item = self._by_id.get(item.parent_id)
        return tuple(chain)

    def chains(self, issuer_id: str) -> tuple[Chain, ...]:
        """Every chain for what this issuer signed: `chain` first, then those to other roots, then each of them with its root.

        Clients choose by the issuer's name in a chain's last certificate, and take the first that fits; so one with its root comes
        behind the one without, which says the same to them.
        """
        found = self._chains.get(issuer_id)
        if found is None:
            found = self._chains[issuer_id] = self._find_chains(issuer_id)
        return found

    def _find_chains(self, issuer_id: str) -> tuple[Chain, ...]:
        default = self.chain(issuer_id)
        item = self._by_id.get(issuer_id)
        known = [stored.issuer for stored in self.all if stored is item or stored.state is not IssuerState.RETIRED]
        found = () if item is None else find_chains(item.issuer, known)
        whole = [tuple(issuer.certificate_der for issuer in chain) for chain in found]
        others = dict.fromkeys([*(chain[:-1] for chain in whole), *whole])
        others.pop(default, None)
        return (Chain(None, _join_pem(default)), *(Chain(_digest(chain), _join_pem(chain)) for chain in others))

    def roots_pem(self) -> bytes:
        """Every root, as PEM."""
        return b"".join(to_pem(item.issuer.certificate_der) for item in self.roots)

    def bundle_pem(self) -> bytes:
        """Every issuer that is not retired, intermediates first, then the roots, as PEM."""
        kept = [item for item in self.all if item.state is not IssuerState.RETIRED]
        kept.sort(key=lambda item: item.is_root)
        return b"".join(to_pem(item.issuer.certificate_der) for item in kept)


@dataclass(frozen=True, slots=True)
class HierarchyNames:
    """What a new CA is called. Issuer names carry the organization before the common name (dehydrated needs that)."""

    organization: str
    common_name: str


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """What was made: the root, the intermediate, and where the root's key was put."""

    root: Issuer
    intermediate: Issuer
    root_key_path: Path


async def create_hierarchy(
    store: Store, *, names: HierarchyNames, urls: Urls, data_dir: Path, ambient: Ambient, actor: str
) -> Hierarchy:
    """Make a root, its CRL of 13 months, and an intermediate below it, all ECDSA P-256.

    Raises `Conflict` when there is a CA already.
    """
    if await store.issuers.all():
        raise Conflict(f"{data_dir} holds a CA already; nothing was changed")
    now = ambient.now()
    root_id, intermediate_id = ambient.new_id(), ambient.new_id()
    root_key, intermediate_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    root = _issuer(
        root_id,
        urls,
        build_root(
            key=root_key,
            subject_common_name=f"{names.common_name} Root",
            organization=names.organization,
            not_before=now,
            lifetime=ROOT_LIFETIME,
            serial=random_serial(ambient.entropy(_SERIAL_BYTES)),
        ),
    )
    intermediate = _issuer(
        intermediate_id,
        urls,
        build_intermediate(
            root=root,
            root_key=root_key,
            public_key=intermediate_key.public_key(),
            subject_common_name=f"{names.common_name} Intermediate",
            organization=names.organization,
            not_before=now,
            lifetime=INTERMEDIATE_LIFETIME,
            serial=random_serial(ambient.entropy(_SERIAL_BYTES)),
        ),
    )
    next_update = now + ROOT_CRL_LIFETIME
    number = int(now.timestamp())
    tbs = build_tbs_crl(issuer=root, number=number, this_update=now, next_update=next_update, entries=b"")
    root_crl = Crl(
        issuer_id=root_id,
        number=number,
        this_update=now,
        next_update=next_update,
        through_sequence=0,
        entries=0,
        der=sign_crl(tbs, root, root_key),
    )

    root_key_path = data_dir / "root" / f"{root_id}.key.pem"
    key_reference = f"keys/{intermediate_id}.key.pem"
    pem.write_key(root_key_path, root_key)
    pem.write_key(data_dir / key_reference, intermediate_key)
    try:
        await _store_hierarchy(store, root, intermediate, key_reference, root_crl, actor=actor)
    except StaleError:
        for path in (root_key_path, data_dir / key_reference):
            path.unlink()
        raise Conflict(
            "the database holds a CA already: another server made it just now; nothing was changed"
        ) from None
    return Hierarchy(root, intermediate, root_key_path)


async def _store_hierarchy(
    store: Store, root: Issuer, intermediate: Issuer, key_reference: str, root_crl: Crl, *, actor: str
) -> None:
    await store.issuers.create(
        [
            StoredIssuer(root, parent_id=None, state=IssuerState.ACTIVE, key_reference=None),
            StoredIssuer(intermediate, parent_id=root.id, state=IssuerState.ACTIVE, key_reference=key_reference),
        ],
        [root_crl],
        actor=actor,
        at=root_crl.this_update,
        is_first=True,
    )


def to_pem(certificate_der: bytes) -> bytes:
    return x509.load_der_x509_certificate(certificate_der).public_bytes(serialization.Encoding.PEM)


def _join_pem(certificates: Iterable[bytes]) -> bytes:
    return b"".join(map(to_pem, certificates))


def _digest(certificates: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(certificates)).hexdigest()[:_CHAIN_ID_LENGTH]


def fingerprint(certificate_der: bytes) -> str:
    """SHA-256 of the DER as openssl prints it: upper-case hex, a colon between octets."""
    return hashlib.sha256(certificate_der).digest().hex(":").upper()


def _issuer(id_: str, urls: Urls, certificate_der: bytes) -> Issuer:
    return Issuer(
        id=id_,
        certificate_der=certificate_der,
        ocsp_url=urls.ocsp(id_),
        crl_url=urls.crl(id_),
        issuer_url=urls.issuer_der(id_),
    )
