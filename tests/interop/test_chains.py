"""Alternate chains with every client that can choose (RFC 8555 §7.4.2): `Link: rel="alternate"` is found, fetched and chosen from."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.interop.clients.client import Ability, Wishes, verify
from tests.interop.clients.fleet import Kind, each, with_all
from tests.interop.clients.uacme import Uacme
from tests.interop.conftest import NewClient
from tests.support.installations import Installation

pytestmark = pytest.mark.interop

CHOOSERS = with_all(Ability.PREFERRED_CHAIN)


@each(kind for kind in CHOOSERS if kind.client is not Uacme)
def test_a_chain_by_the_name_of_its_root(kind: Kind, new_client: NewClient, ca: Installation) -> None:
    """The client looks at every chain that there is for one that leads to that name, and both do."""
    name = f"chain.{kind}.localhost"
    issued = new_client(kind).issue(name, wishes=Wishes(preferred_chain="Example CA Root"))
    verify(ca, issued, name, with_root=len(issued.pems) == 3)


@each(kind for kind in CHOOSERS if kind.client is Uacme)
@pytest.mark.parametrize("choice", ["number", "fingerprint"])
def test_the_chain_with_the_root(kind: Kind, choice: str, new_client: NewClient, ca: Installation) -> None:
    """The first alternate is the chain with the root in it, for those who cannot put it there themselves."""
    name = f"{choice}.chain.{kind}.localhost"
    digest = x509.load_pem_x509_certificate(ca.root_path.read_bytes()).fingerprint(hashes.SHA256())
    wanted = {"number": "1", "fingerprint": digest.hex(":")}[choice]
    issued = new_client(kind).issue(name, wishes=Wishes(preferred_chain=wanted))
    assert len(issued.pems) == 3
    verify(ca, issued, name, with_root=True)
