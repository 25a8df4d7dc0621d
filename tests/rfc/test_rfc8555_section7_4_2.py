"""RFC 8555 §7.4.2: the chains that a certificate is served with, as a client sees them."""

import dataclasses
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from acmeca.pki.hierarchy import build_intermediate, build_root
from acmeca.storage.issuers import IssuerState, StoredIssuer
from tests.support.acme_client import AcmeClient, assert_alike
from tests.support.server import RunningCa, ca_site, running_ca

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


@pytest_asyncio.fixture(loop_scope="module")
async def client(ca: RunningCa) -> AcmeClient:
    return await ca.client()


class TestAlternates:
    """§7.4.2: "The server MAY provide one or more link relation header fields [RFC8288] with relation "alternate"."""

    async def test_with_and_without_the_root(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.4.2: "Each such field SHOULD express an alternative certificate chain starting with the same end-entity certificate."

        §9.1: "Each following certificate SHOULD directly certify the one preceding it."
        """
        issued = await client.issue("alternates.localhost")
        answer = (await client.post(issued.order.certificate)).ok()
        (url,) = answer.links("alternate")
        other = (await client.post(url)).ok()
        assert other.content_type == "application/pem-certificate-chain"
        chain = x509.load_pem_x509_certificates(other.body)
        assert chain == [issued.leaf, ca.issuer.certificate, ca.root.certificate]
        assert other.body.startswith(answer.body)

    async def test_each_names_the_others(self, client: AcmeClient) -> None:
        issued = await client.issue("alternates-2.localhost")
        (url,) = (await client.post(issued.order.certificate)).links("alternate")
        answer = (await client.post(url)).ok()
        assert answer.links("alternate") == [issued.order.certificate]
        assert answer.links("up") == []

    async def test_that_there_are_not(self, client: AcmeClient) -> None:
        issued = await client.issue("alternates-3.localhost")
        for name in ("0", "1", "AAAA", "None", "0123456789abcdef"):
            (await client.post(f"{issued.order.certificate}/{name}")).refused("malformed", 404)
        (await client.post(f"{issued.order.certificate}/")).refused("malformed", 404)

    @pytest.mark.asyncio(loop_scope="function")
    async def test_over_a_cross_sign(self) -> None:
        """§7.4.2: "This can be used to express paths to various trust anchors. Clients can fetch these alternates and use their own
        heuristics to decide which is optimal."
        """
        async with ca_site() as site:
            await site.init()
            async with site.opened() as ca:
                other = await add_cross_sign(ca)
            async with site.running() as ca:
                client = await ca.client()
                issued = await client.issue("cross.localhost")
                answer = (await client.post(issued.order.certificate)).ok()
                urls = answer.links("alternate")
                chains = [x509.load_pem_x509_certificates((await client.post(url)).ok().body) for url in urls]
                # What certbot and lego match a preferred chain with: the issuer's CN in the last certificate, the first that fits.
                tops = [
                    chain[-1].issuer.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
                    for chain in ([issued.leaf, ca.issuer.certificate], *chains)
                ]
                assert tops == ["Example CA Root", "Other Root", "Example CA Root", "Other Root"]
                assert [len(chain) for chain in chains] == [3, 3, 4]
                for chain in chains:
                    assert chain[:2] == [issued.leaf, ca.issuer.certificate]
                    for child, parent in pairwise(chain):
                        child.verify_directly_issued_by(parent)
                assert chains[2][-1].public_bytes(Encoding.DER) == other
                for url in urls:
                    expected = {issued.order.certificate, *urls} - {url}
                    assert set((await client.post(url)).links("alternate")) == expected
                stranger = await ca.client()
                missing = ca.urls.certificate("A" * 22, urls[0].rpartition("/")[2])
                assert_alike(await stranger.post(urls[0]), await stranger.post(missing))


async def add_cross_sign(ca: RunningCa) -> bytes:
    """Another root, DER, that has signed ours."""
    key = ec.generate_private_key(ec.SECP256R1())
    parts: dict[str, Any] = {"organization": "Example", "not_before": ca.clock(), "lifetime": timedelta(days=3650)}
    other = dataclasses.replace(
        ca.root,
        id="other",
        certificate_der=build_root(key=key, subject_common_name="Other Root", serial=1 << 130, **parts),
    )
    cross = dataclasses.replace(
        ca.root,
        id="cross",
        certificate_der=build_intermediate(
            root=other,
            root_key=key,
            public_key=ca.root.public_key,
            subject_common_name="Example CA Root",
            serial=1 << 131,
            path_length=1,
            **parts,
        ),
    )
    await ca.store.issuers.create(
        [
            StoredIssuer(other, parent_id=None, state=IssuerState.ACTIVE, key_reference=None),
            StoredIssuer(cross, parent_id="other", state=IssuerState.ACTIVE, key_reference=None),
        ],
        [],
        actor="admin:test",
        at=ca.clock(),
    )
    return other.certificate_der
