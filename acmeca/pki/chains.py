"""Which chains lead from an issuer up to a root: the graph of CA certificates (RFC 5280 §6.1, RFC 8555 §7.4.2).

Rule 1: a CA is a name and a key. It may have several certificates, each from another issuer: its own, and cross-signs. Each of them
is a way up.
Rule 2: what signed what is proven by the signature, never by names alone.
Rule 3: a chain visits a CA once, so that cross-signs in a circle end.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from cryptography.exceptions import InvalidSignature

from acmeca.pki.issuer import Issuer

MAX_CHAINS: Final = 8  # each is a header line with every certificate that is downloaded


def find_chains(issuer: Issuer, known: Sequence[Issuer]) -> tuple[tuple[Issuer, ...], ...]:
    """The chains for what `issuer` signs, each from a certificate of this CA up to and with a self-signed one, at most `MAX_CHAINS`.

    Those that begin with `issuer`'s own certificate come first, then they are in the order of `known`. A certificate whose own
    issuer is not known ends no chain.
    """
    own_first = sorted(known, key=lambda item: item.id != issuer.id)
    starts = [item for item in own_first if _is_same_ca(item, issuer)]
    return tuple(islice((chain for start in starts for chain in _upwards((start,), known)), MAX_CHAINS))


def _upwards(path: tuple[Issuer, ...], known: Sequence[Issuer]) -> Iterator[tuple[Issuer, ...]]:
    top = path[-1]
    if _has_signed(top, top):
        yield path
        return
    for parent in known:
        if not any(_is_same_ca(parent, item) for item in path) and _has_signed(parent, top):
            yield from _upwards((*path, parent), known)


def _is_same_ca(one: Issuer, other: Issuer) -> bool:
    return one.subject_der == other.subject_der and one.spki_der == other.spki_der


def _has_signed(parent: Issuer, child: Issuer) -> bool:
    if parent.subject_der != child.tbs.issuer_der:
        return False
    try:
        child.certificate.verify_directly_issued_by(parent.certificate)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
