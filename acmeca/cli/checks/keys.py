"""Keys and certificates: do they fit, who can read the root's, what ends when."""

import secrets
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from acmeca.cli.checks.finding import Finding, error, format_span, judge_end, ok, warning
from acmeca.cli.checks.store import Kept
from acmeca.config import Config
from acmeca.errors import AcmecaError
from acmeca.keystore import pem
from acmeca.keystore.secret import load_secret
from acmeca.pki.errors import PkiError
from acmeca.pki.signing import sign_with, split_signed, verify_with
from acmeca.service.audit_heads import KEY_PATH as AUDIT_KEY
from acmeca.service.audit_heads import PUBLIC_KEY_FILE
from acmeca.service.bindings import KEY_PATH as EAB_KEY
from acmeca.service.bindings import MacSecret
from acmeca.service.own_certificates import LISTENER_FILE
from acmeca.storage.crls import Crl
from acmeca.storage.issuers import IssuerState, StoredIssuer

# What a key signs to show that it is the right one. It begins with no SEQUENCE, so it is no certificate, CRL or OCSP answer.
_PROOF: Final = b"acmeca doctor: this key is here, and nothing is certified by it. "

_SIGN_ROOT_CRL: Final = "fetch the root's key from its safe and sign a new CRL with: acmeca crl --root-key FILE"


def check_issuer_keys(config: Config, kept: Kept, now: datetime) -> Iterator[Finding]:
    """Each issuer's key belongs to its certificate, and its certificate to its parent; no key lies around unused."""
    known = set()
    by_id = {stored.issuer.id: stored for stored in kept.issuers}
    for stored in kept.issuers:
        about = f"issuer {_name(stored)}"
        if stored.state is IssuerState.RETIRED:
            continue
        parent = by_id.get(stored.parent_id or stored.issuer.id)
        if parent is None or not _is_signed_by(stored, parent):
            yield error(about, "its certificate is not signed by its parent's key", "Restore a backup of the database")
        if stored.key_reference is not None:
            known.add(config.server.data_dir / stored.key_reference)
            yield _check_key(about, stored, config.server.data_dir / stored.key_reference)
        yield judge_end(
            f"certificate of {_name(stored)}",
            stored.issuer.not_after,
            now,
            advice="make its successor; certificates end with their issuer",
        )
    yield from _check_root_keys(config, kept)
    yield from _check_leftovers(config, kept, known)


def _check_key(about: str, stored: StoredIssuer, path: Path) -> Finding:
    try:
        key = pem.load_key(path)
        proof = _PROOF + secrets.token_bytes(16)
        verify_with(stored.issuer.public_key, sign_with(key, proof), proof)
    except PkiError:
        return error(about, f"the key in {path} is not the certificate's", "Put the right key there, from a backup")
    except AcmecaError as failure:
        return error(about, str(failure), "Without it nothing is issued and no CRL is made; restore it from a backup")
    return ok(about, f"its key in {path} signs, and the certificate verifies it")


def _is_signed_by(stored: StoredIssuer, parent: StoredIssuer) -> bool:
    try:
        tbs, signature = split_signed(stored.issuer.certificate_der)
        verify_with(parent.issuer.public_key, signature, tbs)
    except PkiError:
        return False
    return True


def _root_key_path(config: Config, stored: StoredIssuer) -> Path:
    return config.server.data_dir / "root" / f"{stored.issuer.id}.key.pem"


def _check_root_keys(config: Config, kept: Kept) -> Iterator[Finding]:
    """The root's key is needed once a year; whoever reads it can make any certificate, for twenty years."""
    for stored in kept.issuers:
        if not stored.is_root:
            continue
        about, path = f"key of the root {_name(stored)}", _root_key_path(config, stored)
        if not path.exists():
            yield ok(about, "is not on this machine")
        elif config.server.demo:
            yield ok(about, f"is in {path}, as it may be for a demo")
        else:
            yield warning(
                about,
                f"is on this machine, in {path}",
                "Move it to a safe that no server reads (two copies, encrypted): it is needed for the root's CRL once a year, "
                "for a minute",
            )


def _check_leftovers(config: Config, kept: Kept, known: set[Path]) -> Iterator[Finding]:
    """Key files that nothing refers to: what an `init` or a renewal left that was killed."""
    known |= {_root_key_path(config, stored) for stored in kept.issuers if stored.is_root}
    known |= {config.server.data_dir / "keys" / f"{stored.issuer.id}.ocsp.pem" for stored in kept.issuers}
    known |= {config.server.data_dir / AUDIT_KEY, config.server.data_dir / EAB_KEY}
    try:
        found = [
            path
            for name in ("keys", "root")
            if (config.server.data_dir / name).is_dir()
            for path in sorted((config.server.data_dir / name).iterdir())
            if path not in known
        ]
    except PermissionError:
        return  # told with the directory
    for path in found:
        yield warning(
            "leftover key",
            f"{path} belongs to no issuer",
            "If nobody needs it, remove it: an interrupted init leaves such",
        )


def check_audit_key(config: Config) -> Iterator[Finding]:
    """The key that signs the audit's heads, and the file with its public half; a server makes both at its first start."""
    path, public_path = config.server.data_dir / AUDIT_KEY, config.server.data_dir / PUBLIC_KEY_FILE
    if not path.exists():
        if public_path.exists():
            yield error(
                "audit key", f"{path} is missing", "Restore it from a backup; else the next start makes another"
            )
        return
    try:
        key = pem.load_key(path)
    except AcmecaError as failure:
        yield error("audit key", str(failure), "Without it no head of the audit is signed; restore it from a backup")
        return
    public_pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    if not public_path.exists() or public_path.read_bytes() != public_pem:
        yield error(
            "audit key",
            f"{public_path} is not the public half of {path}",
            "One of them was replaced: compare with the copy that you keep elsewhere, and run acmeca audit verify with it",
        )
        return
    yield ok("audit key", f"is in {path}; keep a copy of {public_path} elsewhere")


def check_eab_key(config: Config, kept: Kept) -> Iterator[Finding]:
    """The secret of external account bindings: the one that the grants were made with."""
    path = config.server.data_dir / EAB_KEY
    if not path.exists() and not kept.grants:
        return
    about = "external account bindings"
    advice = "Bring it from another server of this CA, or from a backup of keys/; see docs/external-accounts.md"
    try:
        secret = MacSecret(load_secret(path))
    except AcmecaError as failure:
        yield error(about, str(failure), f"Until then nobody can make an account by a grant. {advice}")
        return
    others = [stored.grant.id for stored in kept.grants if not secret.fits(stored)]
    if others:
        yield warning(
            about,
            f"{path} is not what {len(others)} of {len(kept.grants)} grants were made with ({others[0]} among them): nobody can make an "
            "account by them here",
            advice,
        )
    else:
        yield ok(about, f"{path} is what {len(kept.grants)} grants were made with")


def check_own_certificates(config: Config, kept: Kept, now: datetime, *, is_running: bool) -> Iterator[Finding]:
    """The listener's and the responders' certificates, which the server renews when two thirds of their life are over."""
    paths = {"certificate of the listener": config.server.data_dir / LISTENER_FILE}
    for stored in kept.issuers:
        if stored.key_reference is not None and stored.state is not IssuerState.RETIRED:
            paths[f"OCSP responder of {_name(stored)}"] = (
                config.server.data_dir / "keys" / f"{stored.issuer.id}.ocsp.pem"
            )
    for about, path in paths.items():
        yield _check_own(about, path, now, is_running=is_running)


def _check_own(about: str, path: Path, now: datetime, *, is_running: bool) -> Finding:
    if not is_running and not path.exists():
        return ok(about, "is made at the first start")
    try:
        certificate = x509.load_der_x509_certificate(pem.load_credential(path).chain[0])
    except (AcmecaError, ValueError, IndexError) as failure:
        return (error if is_running else warning)(about, str(failure), "The server makes a new one when it starts")
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    detail = f"ends {end:%Y-%m-%d %H:%M} UTC"
    if now >= end:
        if is_running:
            return error(about, f"ended {end:%Y-%m-%d %H:%M} UTC", "It is not renewed: see the server's log")
        return ok(about, f"ended {end:%Y-%m-%d %H:%M} UTC; it is renewed at the next start")
    if is_running and end - now < (end - start) / 4:  # a third is when it should have been
        return warning(about, f"{detail}, and should have been renewed", "See the server's log for why it is not")
    return ok(about, detail)


def check_crls(config: Config, kept: Kept, now: datetime, *, is_running: bool) -> Iterator[Finding]:
    """The newest CRL of each issuer, as the database has it."""
    for stored in kept.issuers:
        if stored.state is IssuerState.RETIRED:
            continue
        about, crl = f"CRL of {_name(stored)}", kept.crls.get(stored.issuer.id)
        if crl is None:
            advice = _SIGN_ROOT_CRL if stored.is_root else "The server makes one when it starts"
            yield (error if is_running else warning)(about, "there is none", advice)
        elif stored.is_root:
            yield _check_root_crl(about, crl, now)
        else:
            yield _check_crl(about, crl, config, now, is_running=is_running)


def _check_root_crl(about: str, crl: Crl, now: datetime) -> Finding:
    if crl.this_update > now:
        return error(
            about,
            f"number {crl.number}, good only from {crl.this_update:%Y-%m-%d %H:%M} UTC on",
            "Look at the clock; if it is right now, and was wrong then: acmeca crl --root-key FILE --clock-is-right",
        )
    return judge_end(
        about,
        crl.next_update,
        now,
        advice=f"{_SIGN_ROOT_CRL}; clients that check the whole chain refuse every certificate without it",
    )


def _check_crl(about: str, crl: Crl, config: Config, now: datetime, *, is_running: bool) -> Finding:
    detail = f"number {crl.number}, {crl.entries} entries, good until {crl.next_update:%Y-%m-%d %H:%M} UTC"
    if crl.this_update > now:
        return error(about, f"{detail}, but only from {crl.this_update:%Y-%m-%d %H:%M} UTC on", "Look at the clock")
    if crl.next_update <= now:
        if is_running:
            return error(
                about, f"{detail}: over", "It is not made anew: see the server's log; try: acmeca crl --publish"
            )
        return error(about, f"{detail}: over", "Start the server: careful clients accept nothing now")
    if is_running and now - crl.this_update > config.status.crl_interval * 3 / 2:
        return warning(
            about, f"{detail}, made {format_span(now - crl.this_update)} ago", "It is overdue: see the server's log"
        )
    if not is_running:
        return warning(about, f"{detail}, and no server is running to make the next", "Start the server before that")
    return ok(about, detail)


def _name(stored: StoredIssuer) -> str:
    """The common name, or the whole subject."""
    subject = stored.issuer.certificate.subject
    names = subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else subject.rfc4514_string()
