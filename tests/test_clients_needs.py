"""What some twenty ACME clients need from a server, beyond the RFC or where they read it in their own way: a test for each.

Learnt by pointing clients at other servers and looking at what broke; a number is a client's need. Numbers 16 (external
account binding) and 20 (tls-alpn-01 for addresses) come with what they are about.
"""

import json
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.support.acme_client import JOSE_JSON, AcmeClient, certificate_key
from tests.support.csrs import shared_key as certificate_private_key
from tests.support.jose import KeyKind, encode, new_key, shared_key, sign
from tests.support.server import RunningCa, ca_site, held_answers, running_ca

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


@pytest_asyncio.fixture(loop_scope="module")
async def client(ca: RunningCa) -> AcmeClient:
    return await ca.client()


async def test_1_challenges(client: AcmeClient) -> None:
    """1: every challenge has type, url, status and token; uacme, Ruby's acme-client and acme-micro fail without."""
    order = await client.new_order("a.localhost", ips=("127.0.0.1",))
    for url in order.authorizations:
        document = await client.authorization(url)
        assert document["challenges"]
        for challenge in document["challenges"]:
            assert all(isinstance(challenge[name], str) for name in ("type", "url", "status", "token"))


async def test_2_location(ca: RunningCa, client: AcmeClient) -> None:
    """2: `Location: <order URL>` on the finalize response too, also while it is processing: Go's x/crypto posts to it."""
    order = await client.ready_order("a.localhost")
    ca.site.issuer_key.broken = RuntimeError("the token is away")
    processing = (await client.finalize(order)).ok()
    ca.site.issuer_key.broken = None
    assert (processing.location, processing.json["status"]) == (order.url, "processing")
    await ca.services.issuance.finish_unfinished()
    order = await client.ready_order("a.localhost")
    assert (await client.finalize(order)).ok().location == order.url


async def test_3_retry_after(ca: RunningCa, client: AcmeClient) -> None:
    """3: `Retry-After` in whole seconds, never an HTTP-date: acmez 0.1 waits a minute, lego falls back."""
    order = await client.new_order("a.localhost")
    challenge = await client.challenge(order.authorizations[0])
    client.provision(challenge)
    with held_answers(ca):
        answers = [await client.post(order.authorizations[0]), await client.respond(challenge)]
        assert [answer.headers["Retry-After"] for answer in answers] == ["1", "1"]


async def test_4_finalize_is_synchronous(client: AcmeClient) -> None:
    """4: `valid` with `certificate` in the finalize response; sewer reads it at once. A second finalize is orderNotReady."""
    order = await client.ready_order("a.localhost")
    answer = (await client.finalize(order)).ok()
    assert answer.json["status"] == "valid"
    (await client.post(answer.json["certificate"])).ok()
    (await client.finalize(order)).refused("orderNotReady", 403)


async def test_5_unknown_members(ca: RunningCa) -> None:
    """5: unknown members are ignored in every payload: ACMEv1's `resource` anywhere, `keyAuthorization` in an answer."""
    client = await ca.client(register=False)
    account = (await client.new_account(resource="new-reg", agreement="x")).ok(201)
    client.kid = account.location
    (await client.post(client.account_url, {"resource": "reg", "contact": []})).ok()
    answer = await client.order_answer("a.localhost", resource="new-order")
    url = answer.ok(201).json["authorizations"][0]
    challenge = await client.challenge(url)
    client.provision(challenge)
    payload = {"resource": "challenge", "type": "http-01", "keyAuthorization": client.provisioned[challenge["token"]]}
    (await client.post(challenge["url"], payload)).ok()
    assert (await client.final(url))["status"] == "valid"
    order = await client.order(answer.location)
    (await client.post(order.finalize, {"resource": "new-cert", "csr": encode(order.csr())})).ok()
    leaf, *_ = await client.download(await client.order(order.url))
    certificate = encode(leaf.public_bytes(Encoding.DER))
    payload = {"resource": "revoke-cert", "certificate": certificate}
    (await client.post(client.directory["revokeCert"], payload)).ok()


async def test_6_a_challenge_that_is_done(ca: RunningCa, client: AcmeClient) -> None:
    """6: a POST on a challenge whose authorization is valid is 200 with the challenge, and nothing restarts."""
    order = await client.ready_order("a.localhost")
    challenge = await client.challenge(order.authorizations[0])
    asked = len(ca.site.responder.requests)
    answer = (await client.respond(challenge)).ok()
    assert answer.json == challenge
    assert answer.json["status"] == "valid"
    assert len(ca.site.responder.requests) == asked


async def test_7_up(client: AcmeClient) -> None:
    """7: `Link: <authorization>;rel="up"` with a challenge: certbot refuses without it, lego polls that URL."""
    order = await client.new_order("a.localhost")
    challenge = await client.challenge(order.authorizations[0])
    client.provision(challenge)
    for answer in (await client.post(challenge["url"]), await client.respond(challenge)):
        assert answer.links("up") == order.authorizations


async def test_8_links_line_by_line(client: AcmeClient) -> None:
    """8: each `Link` in a header line of its own: dehydrated and acme.sh read line by line."""
    order = await client.new_order("a.localhost")
    challenge = await client.challenge(order.authorizations[0])
    lines = (await client.post(challenge["url"])).headers.getall("Link")
    assert len(lines) == 2
    assert all(re.fullmatch(r'<[^>,]+>;rel="[a-z]+"', line) for line in lines)


async def test_9_nonces(client: AcmeClient) -> None:
    """9: HEAD newNonce is 200, GET is 204, `Cache-Control: no-store`; `Replay-Nonce` on every POST answer, errors too."""
    url = client.directory["newNonce"]
    head, get = await client.get(url, method="HEAD"), await client.get(url)
    assert (head.status, get.status) == (200, 204)
    for answer in (head, get):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.nonce
    for answer in (await client.post(client.account_url), await client.send(client.account_url, b"junk")):
        assert answer.nonce


async def test_10_a_good_nonce_is_not_refused(client: AcmeClient) -> None:
    """10: a good nonce is never refused, in whatever order they come; `badNonce` is 400 with a fresh one."""
    nonces = [await client.new_nonce() for _ in range(30)]
    for nonce in nonces[::-1]:
        (await client.post(client.account_url, nonce=nonce)).ok()
    answer = await client.post(client.account_url, nonce=nonces[0])
    answer.refused("badNonce", 400)
    (await client.post(client.account_url, nonce=answer.nonce)).ok()


async def test_10_after_a_restart() -> None:
    """10: a nonce from before a restart is as good as any other, once: dehydrated gives up at several refusals in a row."""
    async with ca_site() as site:
        await site.init()
        key = new_key()
        async with site.running() as ca:
            client = await ca.client(key)
            old, spent = await client.new_nonce(), await client.new_nonce()
            (await client.post(client.account_url, nonce=spent)).ok()
        async with site.running() as ca:
            again = await ca.client(key, register=False)
            again.kid = client.kid
            (await again.post(again.account_url, nonce=old)).ok()
            for used in (old, spent):
                answer = await again.post(again.account_url, nonce=used)
                answer.refused("badNonce", 400)
                (await again.post(again.account_url, nonce=answer.nonce)).ok()


async def test_11_chain(ca: RunningCa, client: AcmeClient) -> None:
    """11: `application/pem-certificate-chain`: leaf, intermediates, no root."""
    issued = await client.issue("a.localhost")
    answer = (await client.post(issued.order.certificate)).ok()
    assert answer.content_type == "application/pem-certificate-chain"
    leaf, intermediate = x509.load_pem_x509_certificates(answer.body)
    assert (leaf.issuer, intermediate) == (ca.issuer.certificate.subject, ca.issuer.certificate)


async def test_12_content_types(ca: RunningCa, client: AcmeClient) -> None:
    """12: `application/json` for directory, orders and authorizations, `application/problem+json` for problems."""
    order = await client.new_order("a.localhost")
    challenge = await client.challenge(order.authorizations[0])
    answers = [
        await client.get(ca.directory_url),
        await client.post(order.url),
        await client.post(order.authorizations[0]),
        await client.post(challenge["url"]),
        await client.post(client.account_url),
    ]
    assert {answer.headers["Content-Type"] for answer in answers} == {"application/json"}
    refused = await client.order_answer("evil.example")
    assert refused.headers["Content-Type"] == "application/problem+json"


async def test_13_urls() -> None:
    """13: absolute https URLs from the configured base; the JWS `url` matches them byte for byte, behind a proxy too."""
    async with ca_site() as site:
        port = site.config.server.acme_listen[1]
        site.reconfigure(server={"base_url": "https://ca.corp.internal"})  # what the proxy is called
        await site.init()
        async with site.running() as ca:
            assert ca.directory_url == "https://ca.corp.internal/acme/directory"
            raw = await ca.raw(
                f"GET /acme/directory HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode()
            )
            directory = json.loads(raw.partition(b"\r\n\r\n")[2])
            urls = [url for name, url in directory.items() if name != "meta"]
            assert all(url.startswith("https://ca.corp.internal/acme/") for url in urls)
            key = new_key()
            for url, status in (
                (directory["newAccount"], b"201"),
                (f"https://127.0.0.1:{port}/acme/new-account", b"403"),
            ):
                body = sign(key, url=url, nonce=await ca.services.nonces.mint(), payload={})
                answer = await ca.raw(
                    f"POST /acme/new-account HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
                    f"Content-Type: {JOSE_JSON}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                assert answer.split(b" ")[1] == status
                if status == b"201":
                    assert b"\r\nLocation: https://ca.corp.internal/acme/account/" in answer


@pytest.mark.parametrize(
    "parts",
    [{}, {"common_name": "a.localhost"}, {"common_name": "a.localhost", "dns_names": ()}],
    ids=["an empty subject", "a CN that repeats a SAN", "the name in the CN only"],
)
async def test_14_csrs(client: AcmeClient, parts: dict[str, object]) -> None:
    """14: a CSR with an empty subject, with a CN that repeats a SAN, and with the name in the CN only."""
    order = await client.ready_order("a.localhost")
    (await client.finalize(order, order.csr(**parts))).ok()


async def test_15_the_account_of_a_key(ca: RunningCa, client: AcmeClient) -> None:
    """15: newAccount with a known key is 200 with `Location`; `onlyReturnExisting` comes before anything else."""
    for members in ({}, {"onlyReturnExisting": True}, {"contact": ["tel:1"]}, {"termsOfServiceAgreed": False}):
        assert (await client.new_account(**members)).ok(200).location == client.account_url
    stranger = await ca.client(register=False)
    (await stranger.new_account(onlyReturnExisting=True)).refused("accountDoesNotExist", 400)


async def test_17_revocation(ca: RunningCa, client: AcmeClient) -> None:
    """17: by account key and by certificate key (account unknown); a second time is exactly `alreadyRevoked`."""
    one, two = await client.issue("a.localhost"), await client.issue("a.localhost")
    stranger = await ca.client(register=False)
    (await client.revoke(one.der)).ok()
    (await stranger.revoke(two.der, key=certificate_key(two))).ok()
    (await client.revoke(one.der)).refused("alreadyRevoked", 400)
    (await stranger.revoke(two.der, key=certificate_key(two))).refused("alreadyRevoked", 400)


@pytest.mark.parametrize("kinds", [("RSA-2048", "P-256"), ("P-256", "P-384")], ids="-".join)
async def test_18_key_change(ca: RunningCa, kinds: tuple[KeyKind, KeyKind]) -> None:
    """18: keyChange from RSA to EC and from P-256 to P-384, both ways: uacme, node, Ruby, x/crypto, Python."""
    keys = [new_key(kind) for kind in kinds]
    client = await ca.client(keys[0])
    for key in (keys[1], keys[0]):
        (await client.change_key(key)).ok()
        await client.issue("a.localhost")


@pytest.mark.parametrize("kind", ["P-256", "P-384", "RSA-2048", "RSA-4096"])
async def test_19_account_keys(ca: RunningCa, kind: KeyKind) -> None:
    """19: account keys of ES256, ES384, RS256 (RSA 2048 and 4096): dehydrated 0.7 and uacme make RSA, acme.sh EC."""
    client = await ca.client(shared_key(kind))
    await client.issue("a.localhost")


async def test_21_chunked(client: AcmeClient) -> None:
    """21: chunked request bodies are accepted: HAProxy's client sends no Content-Length."""
    body = await client.sign(client.account_url)

    async def one_chunk() -> AsyncIterator[bytes]:
        yield body

    (await client.send(client.account_url, one_chunk())).ok()


async def test_22_flat_json(ca: RunningCa, client: AcmeClient) -> None:
    """22: flat JSON with challenge members on one level and no `\\/` escapes: acme.sh and dehydrated use grep and sed."""
    order = await client.new_order("a.localhost")
    body = (await client.post(order.authorizations[0])).body.decode()
    # What acme.sh does: one line for each object in braces, then the one with the wanted type.
    (line,) = [part for part in re.findall(r"\{[^{}]*\}", body) if '"type":"http-01"' in part]
    for name in ("token", "url", "status"):
        assert re.search(rf'"{name}":"[^"]*"', line)
    for answer in (body, (await client.get(ca.directory_url)).body.decode()):
        assert "\\/" not in answer


async def test_23_no_up_with_a_certificate(client: AcmeClient) -> None:
    """23: no `rel="up"` with a certificate (Ruby), and a small `Retry-After` on what is not done (acmetool)."""
    issued = await client.issue("a.localhost")
    assert (await client.post(issued.order.certificate)).ok().links("up") == []
    order = await client.new_order("b.localhost")
    pending = await client.post(order.authorizations[0])
    challenge = await client.post((await client.challenge(order.authorizations[0]))["url"])
    assert [answer.headers["Retry-After"] for answer in (pending, challenge)] == ["1", "1"]


async def test_24_another_attribute_before_the_cn(ca: RunningCa) -> None:
    """24: another attribute (O=) before the CN in issuer names: dehydrated cannot match a preferred chain otherwise."""
    for issuer in (ca.root, ca.issuer):
        attributes = [attribute.oid for attribute in issuer.certificate.subject]
        assert attributes == [NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME]


async def test_relying_parties(ca: RunningCa, client: AcmeClient) -> None:
    """An RSA leaf has keyEncipherment beside digitalSignature (NSS); the leaf has an AKI; the issuer has cRLSign."""
    issued = await client.issue("a.localhost", key=certificate_private_key("RSA"))
    usage = issued.leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_encipherment) == (True, True)
    authority = issued.leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    subject = ca.issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert authority.key_identifier == subject.digest
    assert ca.issuer.certificate.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
