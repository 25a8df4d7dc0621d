"""RFC 9773, ACME Renewal Information: each sentence that a server has to obey, as a client sees it."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Final

import pytest
import pytest_asyncio
from cryptography import x509

from acmeca.acme.problem import ProblemType
from acmeca.acme.renewal import CertificateId
from tests.support.acme_client import AcmeClient, Answer, Issued, assert_alike, renewal_identifier
from tests.support.server import RunningCa, running_ca

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Appendix A, verbatim.
EXAMPLE_CERTIFICATE: Final = b"""\
-----BEGIN CERTIFICATE-----
MIIBQzCB66ADAgECAgUAh2VDITAKBggqhkjOPQQDAjAVMRMwEQYDVQQDEwpFeGFt
cGxlIENBMCIYDzAwMDEwMTAxMDAwMDAwWhgPMDAwMTAxMDEwMDAwMDBaMBYxFDAS
BgNVBAMTC2V4YW1wbGUuY29tMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEeBZu
7cbpAYNXZLbbh8rNIzuOoqOOtmxA1v7cRm//AwyMwWxyHz4zfwmBhcSrf47NUAFf
qzLQ2PPQxdTXREYEnKMjMCEwHwYDVR0jBBgwFoAUaYhba4dGQEHhs3uEe6CuLN4B
yNQwCgYIKoZIzj0EAwIDRwAwRAIge09+S5TZAlw5tgtiVvuERV6cT4mfutXIlwTb
+FYN/8oCIClDsqBklhB9KAelFiYt9+6FDj3z4KGVelYM5MdsO3pK
-----END CERTIFICATE-----
"""
# §4.1
EXAMPLE_IDENTIFIER: Final = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca(duties=False) as ca:
        yield ca


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(ca: RunningCa) -> AcmeClient:
    return await ca.client()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def issued(client: AcmeClient) -> Issued:
    return await client.issue("issued.localhost")


async def info(client: AcmeClient, identifier: str) -> Answer:
    """renewalInfo, as §4.1 says: "url = renewalInfo || '/' || base64url(AKI keyIdentifier) || '.' || base64url(Serial)"."""
    return await client.get(f"{client.directory['renewalInfo']}/{identifier}")


def window(answer: Answer) -> tuple[datetime, datetime]:
    document = answer.ok().json["suggestedWindow"]
    start, end = (datetime.fromisoformat(document[name]) for name in ("start", "end"))
    return start, end


async def replacing(client: AcmeClient, old: Issued | str, *names: str) -> Answer:
    identifier = old if isinstance(old, str) else renewal_identifier(old.leaf)
    return await client.order_answer(*names, replaces=identifier)


# --- §3, §4.1 -----------------------------------------------------------------------------------------------------


async def test_3_the_directory(client: AcmeClient) -> None:
    """§3: "An ACME server that wishes to provide renewal information MUST include a new field, renewalInfo, in its directory object." """
    assert client.directory["renewalInfo"].startswith("https://")


async def test_4_1_the_rfcs_example() -> None:
    """§4.1: "the unique identifier is therefore aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"."""
    identifier = CertificateId.parse(EXAMPLE_IDENTIFIER)
    assert identifier.key_identifier.hex(":").upper() == "69:88:5B:6B:87:46:40:41:E1:B3:7B:84:7B:A0:AE:2C:DE:01:C8:D4"
    assert identifier.serial == 0x87654321
    certificate = x509.load_pem_x509_certificate(EXAMPLE_CERTIFICATE)
    authority = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert (authority.key_identifier, certificate.serial_number) == (identifier.key_identifier, identifier.serial)
    assert str(identifier) == renewal_identifier(certificate) == EXAMPLE_IDENTIFIER


@pytest.mark.parametrize("padded", ["aYhba4dGQEHhs3uEe6CuLN4ByNQ=.AIdlQyE", "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE="])
async def test_4_1_padding(padded: str) -> None:
    """§4.1: "All trailing "=" characters MUST be stripped from both parts of the unique identifier." """
    with pytest.raises(ValueError, match="without padding"):
        CertificateId.parse(padded)


async def test_4_1_every_certificate_has_what_it_takes(issued: Issued) -> None:
    """§2: "in particular, contain the Authority Key Identifier extension and the keyIdentifier field within that extension"."""
    assert CertificateId.parse(renewal_identifier(issued.leaf)).serial == issued.serial


# --- §4.2 ---------------------------------------------------------------------------------------------------------


async def test_4_2_the_object(client: AcmeClient, issued: Issued) -> None:
    """§4.2: "suggestedWindow (object, required): A JSON object with two keys, "start" and "end", whose values are timestamps, encoded
    in the format specified in [RFC3339], which bound the window of time in which the CA recommends renewing the certificate."
    """
    answer = (await info(client, renewal_identifier(issued.leaf))).ok()
    assert answer.content_type == "application/json"
    assert answer.json.keys() == {"suggestedWindow"}
    assert answer.json["suggestedWindow"].keys() == {"start", "end"}
    start, end = window(answer)
    assert issued.leaf.not_valid_before_utc < start < end < issued.leaf.not_valid_after_utc
    assert start.tzinfo is not None


async def test_4_2_the_end_is_behind_the_start(ca: RunningCa, client: AcmeClient) -> None:
    """§4.2: "A RenewalInfo object in which the end timestamp equals or precedes the start timestamp is invalid. Servers MUST NOT serve
    such a response". For a certificate that lives, that was revoked, that expired, and that an operator wants renewed at once.
    """
    one = await client.issue("one.localhost")
    identifier = renewal_identifier(one.leaf)
    moments = [window(await info(client, identifier))]
    await ca.opened.administration.call("renewal_set", {"serials": [f"0x{one.serial:x}"], "within": 60}, user="test")
    moments.append(window(await info(client, identifier)))
    (await client.revoke(one.der)).ok()
    moments.append(window(await info(client, identifier)))
    assert len(set(moments)) == 3
    assert all(start < end for start, end in moments)


async def test_4_2_explanation(ca: RunningCa, client: AcmeClient) -> None:
    """§4.2: "explanationURL (string, optional): A URL pointing to a page which may explain why the suggested renewal window has
    its current value."
    """
    one = await client.issue("explained.localhost")
    arguments = {"name": "explained.localhost", "within": 7200, "why": "https://wiki.corp.internal/ca/42"}
    await ca.opened.administration.call("renewal_set", arguments, user="test")
    answer = await info(client, renewal_identifier(one.leaf))
    assert answer.json["explanationURL"] == "https://wiki.corp.internal/ca/42"
    assert window(answer) == (ca.clock.moment, ca.clock.moment + timedelta(hours=2))


async def test_4_2_a_revoked_certificate_is_renewed_now(ca: RunningCa, client: AcmeClient) -> None:
    """§4.2, step 3 of the client's algorithm: "If the selected time is in the past, attempt renewal immediately." """
    one = await client.issue("revoked.localhost")
    (await client.revoke(one.der)).ok()
    _, end = window(await info(client, renewal_identifier(one.leaf)))
    assert end <= one.leaf.not_valid_before_utc <= ca.clock.moment


# --- §4.3 ---------------------------------------------------------------------------------------------------------


async def test_4_3_retry_after(client: AcmeClient, issued: Issued) -> None:
    """§4.3: "This protocol uses the Retry-After header [RFC9110] to indicate to clients how often to retry." In whole seconds, which
    every client understands; "Retry-After is invalid or not present" is an error to clients (§4.3.3).
    """
    answer = (await info(client, renewal_identifier(issued.leaf))).ok()
    assert answer.headers.getall("Retry-After") == ["21600"]


async def test_4_3_2_no_more_than_once_a_minute() -> None:
    """§4.3.2: clients "MUST set reasonable limits on their checking interval": "values under one minute could be treated as if
    they were one minute, and values over one day could be treated as if they were one day". So nothing else is sent.
    """
    async with running_ca(duties=False, policy={"lifetime": "10m"}, renewal={"retry_after": "1d"}) as ca:
        client = await ca.client()
        short = await client.issue("short.localhost")
        answer = (await info(client, renewal_identifier(short.leaf))).ok()
        assert answer.headers["Retry-After"] == "60"
        start, end = window(answer)
        assert ca.clock.moment < start < end < short.leaf.not_valid_after_utc
    async with running_ca(duties=False, renewal={"retry_after": "1d"}) as ca:
        client = await ca.client()
        long = await client.issue("long.localhost")
        assert (await info(client, renewal_identifier(long.leaf))).headers["Retry-After"] == "86400"


async def test_4_3_what_is_not_ours(ca: RunningCa, client: AcmeClient, issued: Issued) -> None:
    """§4.3.3 calls a "Non-5xx HTTP error" a long-term one: clients fall back to the lifetime. The answer says no more than that."""
    own = CertificateId.parse(renewal_identifier(issued.leaf))
    unknown = str(CertificateId(own.key_identifier, own.serial + 1))
    answer = (await info(client, unknown)).refused("malformed", 404)
    for identifier in (EXAMPLE_IDENTIFIER, str(CertificateId(bytes(20), own.serial))):
        assert_alike(answer, await info(client, identifier))
    assert answer.headers["Cache-Control"] == "no-store"
    root = str(CertificateId(ca.root.key_identifier, own.serial))
    assert_alike(answer, await info(client, root))


@pytest.mark.parametrize(
    "identifier", ["x", "a.b.c", f"{EXAMPLE_IDENTIFIER}=", "AQID.", ".AQID", "%01.%01", "a%20b.AQ"]
)
async def test_4_1_what_is_no_identifier(client: AcmeClient, identifier: str) -> None:
    """§4.1: "The path component is a unique identifier for the certificate in question." """
    (await info(client, identifier)).refused("malformed", 400)


# --- §5 -----------------------------------------------------------------------------------------------------------


async def test_5_reflected(client: AcmeClient) -> None:
    """§5: "If the server accepts a newOrder request with a replaces field, it MUST reflect that field in the response and in
    subsequent requests for the corresponding Order object." Also while it is finalized, and when it is valid.
    """
    old = await client.issue("reflected.localhost")
    identifier = renewal_identifier(old.leaf)
    order = await client.ready_order("reflected.localhost", replaces=identifier)
    assert order.document["replaces"] == identifier
    assert (await client.finalize(order)).ok().json["replaces"] == identifier
    assert (await client.order(order.url)).document["replaces"] == identifier


async def test_5_left_out(client: AcmeClient, issued: Issued) -> None:
    """§5: the field is optional."""
    assert "replaces" not in issued.order.document
    assert "replaces" not in (await client.order_answer("issued.localhost", replaces=None)).ok(201).json


async def test_5_the_same_account(ca: RunningCa, client: AcmeClient, issued: Issued) -> None:
    """§5: "Servers SHOULD check that the identified certificate and the newOrder request correspond to the same ACME account".
    To another one it is a certificate that there is not (RULES §2), whether it exists, is revoked, or is ours at all. §5: "If
    any of these checks fail, the server SHOULD reject the new-order request."
    """
    stranger = await ca.client()
    own = CertificateId.parse(renewal_identifier(issued.leaf))
    before = await ca.counts()
    theirs = (await replacing(stranger, issued, "issued.localhost")).refused("malformed", 400)
    for nobodys in (str(CertificateId(own.key_identifier, own.serial + 1)), EXAMPLE_IDENTIFIER):
        assert_alike(theirs, await replacing(stranger, nobodys, "issued.localhost"))
    assert await ca.counts() == before
    # Nor does it tell that its owner has replaced it.
    await client.issue("issued.localhost", replaces=issued)
    assert_alike(theirs, await replacing(stranger, issued, "issued.localhost"))


async def test_5_a_shared_identifier(client: AcmeClient) -> None:
    """§5: "that they share at least one identifier". One is enough: a certificate may lose names and get others."""
    old = await client.issue("kept.localhost", "lost.localhost")
    (await replacing(client, old, "other.localhost")).refused("malformed", 400)
    (await replacing(client, old, "x.kept.localhost")).refused("malformed", 400)
    (await replacing(client, old, "new.localhost", "kept.localhost")).ok(201)


async def test_5_already_replaced(client: AcmeClient) -> None:
    """§5: "and that the identified certificate has not already been marked as replaced by a different Order that is not "invalid". …
    it MUST return an HTTP 409 (Conflict) with a problem document of type "alreadyReplaced"". While that one is pending, and when it
    is valid.
    """
    old = await client.issue("twice.localhost")
    order = await client.ready_order("twice.localhost", replaces=renewal_identifier(old.leaf))
    (await replacing(client, old, "twice.localhost")).refused("alreadyReplaced", 409)
    (await client.finalize(order)).ok()
    (await replacing(client, old, "twice.localhost")).refused("alreadyReplaced", 409)
    (await client.order_answer("twice.localhost")).ok(201)


async def test_5_an_invalid_order_replaces_nothing(client: AcmeClient) -> None:
    """§5: "by a different Order that is not "invalid""."""
    old = await client.issue("freed.localhost")
    order = await client.new_order("freed.localhost", replaces=renewal_identifier(old.leaf))
    (await replacing(client, old, "freed.localhost")).refused("alreadyReplaced", 409)
    (await client.post(order.authorizations[0], {"status": "deactivated"})).ok()
    assert (await client.order(order.url)).status == "invalid"
    await client.issue("freed.localhost", replaces=old)


async def test_5_an_expired_or_revoked_certificate_may_be_replaced(client: AcmeClient) -> None:
    """§5 asks for no more: it is these that have to be replaced."""
    old = await client.issue("gone.localhost")
    (await client.revoke(old.der)).ok()
    assert (await client.issue("gone.localhost", replaces=old)).order.status == "valid"


@pytest.mark.parametrize("replaces", ["", "x", EXAMPLE_IDENTIFIER + "=", 5, ["a"], "a" * 257])
async def test_5_what_is_no_identifier(client: AcmeClient, replaces: object) -> None:
    """§5: "This unique identifier is constructed in the same way as the path component for GET requests"."""
    (await client.order_answer("issued.localhost", replaces=replaces)).refused("malformed", 400)


async def test_5_clients_that_order_again_without_it(client: AcmeClient, issued: Issued) -> None:
    """acme.sh and cert-manager look for "ARI" and "'replaces'" in a refusal, and order again without the field. So do those that come
    from another CA with its certificate, which is the way in for many.
    """
    for replaces, name in ((EXAMPLE_IDENTIFIER, "a.localhost"), ("x", "a.localhost"), (issued, "other.localhost")):
        answer = await replacing(client, replaces, name)
        assert answer.detail.startswith("ARI 'replaces'"), answer


# --- §6, §7.4 -----------------------------------------------------------------------------------------------------


async def test_6_unauthenticated(ca: RunningCa, client: AcmeClient, issued: Issued) -> None:
    """§6: "RenewalInfo resources are exposed and accessed via unauthenticated GET requests"; "allowing RenewalInfo resources to
    be easily cached is advantageous".
    """
    url = f"{client.directory['renewalInfo']}/{renewal_identifier(issued.leaf)}"
    nobody = await ca.client(register=False)
    answer = (await nobody.get(url)).ok()
    assert answer.nonce is None
    assert answer.headers["Cache-Control"] == "max-age=300, public"
    head = (await nobody.get(url, method="HEAD")).ok()
    assert (head.body, head.headers["Retry-After"]) == (b"", "21600")
    (await client.post(url)).refused("malformed", 405)


async def test_7_4_the_problem() -> None:
    """§7.4: "alreadyReplaced: The request specified a predecessor certificate that has already been marked as replaced"."""
    assert ProblemType.ALREADY_REPLACED.urn == "urn:ietf:params:acme:error:alreadyReplaced"
