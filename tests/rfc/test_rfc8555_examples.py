"""The JSON examples of RFC 8555 itself (examples/rfc8555.txt): its requests are understood by a running CA, and its documents
have the shape of ours.
"""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from tests.support.acme_client import AcmeClient
from tests.support.server import RunningCa, running_ca

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES: Final[dict[str, dict[str, Any]]] = {}
for _part in (Path(__file__).parent / "examples" / "rfc8555.txt").read_text(encoding="utf-8").split("§")[1:]:
    _title, _, _text = _part.partition("\n")
    EXAMPLES[_title] = json.loads(_text)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca(policy={"allowed_names": ["example.org", "*.example.org", "*.localhost"]}) as ca:
        yield ca


@pytest_asyncio.fixture(loop_scope="module")
async def client(ca: RunningCa) -> AcmeClient:
    return await ca.client()


def shape(value: Any) -> Any:
    """Members and types of a document, without its values."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in sorted(value.items())}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def without(document: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}


async def test_problem(client: AcmeClient) -> None:
    answer = await client.order_answer("_example.org", "-example.org")
    ours, theirs = answer.json, EXAMPLES["6.7.1 problem"]
    # "status" is a member of RFC 9457 that the example leaves out; ours has it everywhere.
    assert shape(without(ours["subproblems"][0], "status")) == shape(theirs["subproblems"][0])
    assert set(without(ours, "status")) == set(theirs)
    assert ours["type"] == theirs["type"]
    assert ours["subproblems"][0]["identifier"] == theirs["subproblems"][0]["identifier"]


async def test_directory(client: AcmeClient) -> None:
    theirs = EXAMPLES["7.1.1 directory"]
    # No terms, and no CAA unless it is configured; what came later: RFC 9773, and draft-ietf-acme-profiles.
    expected = theirs | {"meta": without(theirs["meta"], "termsOfService", "caaIdentities")}
    ours = without(client.directory, "renewalInfo") | {"meta": without(client.directory["meta"], "profiles")}
    assert shape(ours) == shape(expected)


async def test_new_account(ca: RunningCa) -> None:
    client = await ca.client(register=False)
    answer = (await client.new_account(**EXAMPLES["7.3 newAccount payload"])).ok(201)
    assert shape(answer.json) == shape(EXAMPLES["7.3 newAccount answer"])
    assert answer.json["contact"] == EXAMPLES["7.3 newAccount answer"]["contact"]
    # §7.1.2 shows "termsOfServiceAgreed" too, which is optional; we have no terms.
    assert shape(answer.json) == shape(without(EXAMPLES["7.1.2 account"], "termsOfServiceAgreed"))


async def test_account_update(client: AcmeClient) -> None:
    payload = EXAMPLES["7.3.2 account update payload"]
    assert (await client.post(client.account_url, payload)).ok().json["contact"] == payload["contact"]


async def test_deactivation(client: AcmeClient) -> None:
    answer = await client.post(client.account_url, EXAMPLES["7.3.6 deactivation payload"])
    assert answer.ok().json["status"] == "deactivated"


async def test_new_order(ca: RunningCa, client: AcmeClient) -> None:
    payload = EXAMPLES["7.4 newOrder payload"]
    # "The server MUST return an error if it cannot fulfill the request as specified": these times are long over.
    (await client.post(client.directory["newOrder"], payload)).refused("malformed", 400)
    today = ca.clock().replace(microsecond=0)
    asked = {name: (today + timedelta(days=days)).isoformat() for name, days in (("notBefore", 0), ("notAfter", 7))}
    answer = (await client.post(client.directory["newOrder"], payload | asked)).ok(201)
    theirs = EXAMPLES["7.4 newOrder answer"]
    # "profile" is draft-ietf-acme-profiles'.
    assert shape(without(answer.json, "profile")) == shape(theirs)
    assert answer.json["identifiers"] == theirs["identifiers"]
    assert answer.json["status"] == theirs["status"]


async def test_new_authorization(client: AcmeClient) -> None:
    answer = (await client.post(client.directory["newAuthz"], EXAMPLES["7.4.1 newAuthz payload"])).ok(201)
    assert answer.json["identifier"] == EXAMPLES["7.4.1 newAuthz payload"]["identifier"]
    assert shape(without(answer.json["challenges"][0], "status")) == shape(
        EXAMPLES["7.5 authorization"]["challenges"][0]
    )


async def test_order(client: AcmeClient) -> None:
    issued = await client.issue("order.localhost")
    ours = without(issued.order.document, "profile")
    assert shape(ours) == shape(without(EXAMPLES["7.1.3 order"], "notBefore", "notAfter"))


async def test_pending_authorization(client: AcmeClient) -> None:
    order = await client.new_order("www.example.org")
    ours, theirs = await client.authorization(order.authorizations[0]), EXAMPLES["7.5 authorization"]
    assert set(ours) == set(theirs)
    assert ours["identifier"] == theirs["identifier"]
    assert ours["status"] == theirs["status"]
    # §8 requires "status" in a challenge; the example leaves it out.
    assert shape(without(ours["challenges"][0], "status")) == shape(theirs["challenges"][0])


async def test_challenge_and_valid_authorization(client: AcmeClient) -> None:
    order = await client.new_order("valid.localhost")
    challenge = await client.challenge(order.authorizations[0])
    client.provision(challenge)
    (await client.post(challenge["url"], EXAMPLES["7.5.1 challenge payload"])).ok()
    ours = await client.final(order.authorizations[0])
    # "wildcard": "For other authorizations, it MUST be absent." The example shows it as false all the same.
    assert shape(ours) == shape(without(EXAMPLES["7.1.4 authorization"], "wildcard"))
    assert ours["status"] == EXAMPLES["7.1.4 authorization"]["status"]


async def test_authorization_deactivation(client: AcmeClient) -> None:
    order = await client.new_order("www.example.org")
    payload = EXAMPLES["7.5.2 authorization payload"]
    assert (await client.post(order.authorizations[0], payload)).ok().json["status"] == "deactivated"
