"""A root's CRL, signed in this process: the key is read from its file here and goes nowhere.

Rule 1: the CA draws the CRL up and publishes it; in between it is signed here. What crosses the socket is a draft in one
direction and a signed CRL in the other (docs/decisions/0009-root-crl.md).
Rule 2: a root's key believes nobody. It signs for the certificate that it made itself, with the times that were asked for, and
nothing but a CRL.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from acmeca.cli.connection import Connection, connected, load
from acmeca.errors import AcmecaError
from acmeca.keystore.pem import load_key
from acmeca.pki.crl import sign_crl
from acmeca.pki.errors import PkiError
from acmeca.pki.issuer import Issuer
from acmeca.pki.signing import PrivateKey, split_signed, verify_with
from acmeca.service.status import build_drafted_tbs
from acmeca.storage.crls import CrlDraft

_CLOCKS: Final = timedelta(minutes=5)  # the CA is on this machine, though perhaps in a container: its clock is ours


def renew_root_crl(
    config_path: Path | None, key_path: Path, *, issuer_id: str | None, seconds: int, clock_is_right: bool
) -> dict[str, Any]:
    """Sign and publish a new CRL, good for `seconds`, of the root whose key is in a file. Returns what was published.

    1. the key is read, before anything is asked of anybody, 2. the root is found whose certificate it made, 3. the CA draws up
    a CRL, 4. which is looked at and signed, 5. and handed back to be published.

    `issuer_id` chooses between roots that share a key. Raises `AcmecaError` with the line to print.
    """
    # Step 1
    key = load_key(key_path)

    async def run() -> dict[str, Any]:
        async with connected(load(config_path)) as connection:
            # Step 2
            root = find_root((await _call(connection, "issuers", {}))["issuers"], key, key_path, issuer_id=issuer_id)
            # Step 3
            asked = {"issuer": root.id, "lifetime": seconds, "clock_is_right": clock_is_right}
            draft = parse_draft(await _call(connection, "root_crl_begin", asked))
            # Step 4
            crl_der = sign_draft(draft, root, key, lifetime=timedelta(seconds=seconds), now=datetime.now(UTC))
            # Step 5
            signed = {"issuer": root.id, "number": draft.number, "der": crl_der.hex()}
            return await _call(connection, "root_crl_publish", signed)

    return asyncio.run(run())


def find_root(issuers: Sequence[dict[str, Any]], key: PrivateKey, key_path: Path, *, issuer_id: str | None) -> Issuer:
    """The root, of the issuers that the CA lists, whose certificate holds this key and is signed by it.

    Raises `AcmecaError` when there is none, or several and no `issuer_id` to choose by.
    """
    public_key = key.public_key()
    own = [item for item in issuers if _certificate(item).public_key() == public_key]
    roots = [item for item in own if item["is_root"] and issuer_id in {None, item["issuer"]}]
    if not roots:
        for item in own:
            if not item["is_root"]:
                raise AcmecaError(
                    f"{key_path} holds the key of {item['issuer_name']}, which is no root: the server signs its CRLs "
                    "(acmeca crl --publish)"
                )
        named = ", ".join(item["issuer_name"] for item in issuers if item["is_root"])
        asked = "" if issuer_id is None else f" with the id {issuer_id}"
        raise AcmecaError(f"{key_path} holds the key of no root of this CA{asked}; its roots are: {named}")
    if len(roots) > 1:
        named = " or ".join(item["issuer"] for item in roots)
        raise AcmecaError(f"{key_path} holds the key of several roots; choose one with --issuer: {named}")
    root = _issuer(roots[0])
    # A certificate that this key did not make may have another name in it, and the CRL would be that name's.
    tbs, signature = split_signed(root.certificate_der)
    try:
        verify_with(public_key, signature, tbs)
    except PkiError:
        raise AcmecaError(
            f"the certificate of {roots[0]['issuer_name']} is not signed by its own key; restore it"
        ) from None
    return root


def parse_draft(document: dict[str, Any]) -> CrlDraft:
    """What `root_crl_begin` gives. Raises `AcmecaError` for what is no draft."""
    try:
        return CrlDraft(
            issuer_id=document["issuer"],
            number=int(document["number"]),
            this_update=datetime.fromisoformat(document["this_update"]),
            next_update=datetime.fromisoformat(document["next_update"]),
            through_sequence=0,  # the store's, and of no use here
            revoked=tuple(
                (str(serial), datetime.fromisoformat(at), None if reason is None else int(reason))
                for serial, at, reason in document["revoked"]
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise AcmecaError(f"the CA drew up a CRL that cannot be read ({error}); is it another version?") from None


def sign_draft(draft: CrlDraft, root: Issuer, key: PrivateKey, *, lifetime: timedelta, now: datetime) -> bytes:
    """The signed CRL of a draft, DER.

    1. the draft is what was asked for: of this root, from now, for as long as was said or until the root ends, 2. nothing but a
    TBSCertList is built of it and signed. Raises `AcmecaError` at step 1, `PkiError` at step 2.
    """
    # Step 1
    expected = min(draft.this_update + lifetime, root.not_after)
    if draft.issuer_id != root.id or abs(draft.this_update - now) > _CLOCKS or draft.next_update != expected:
        raise AcmecaError(
            f"the CA drew up another CRL than was asked for: of issuer {draft.issuer_id}, from {draft.this_update} until "
            f"{draft.next_update}; it was not signed. Look at the clocks"
        )
    # Step 2
    return sign_crl(build_drafted_tbs(draft, root), root, key)


async def _call(connection: Connection, operation: str, arguments: dict[str, object]) -> dict[str, Any]:
    return await connection.call(operation, arguments)


def _certificate(item: dict[str, Any]) -> x509.Certificate:
    return x509.load_pem_x509_certificate(item["certificate"].encode())


def _issuer(item: dict[str, Any]) -> Issuer:
    return Issuer(
        id=item["issuer"],
        certificate_der=_certificate(item).public_bytes(Encoding.DER),
        ocsp_url=item["ocsp_url"],
        crl_url=item["crl_url"],
        issuer_url=item["issuer_url"],
    )
