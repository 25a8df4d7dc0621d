"""Every resource by another account: RULES §2, "another account gets the same answer as for something that does not exist".

Rule 1: the rows are the router's own POST routes: a route that is added has to be given a row here.
Rule 2: for each row the stranger asks for what is the owner's, and for what is nobody's, with every payload that means something
there; nothing may tell the two answers apart. Afterwards the owner finds everything as it was.
"""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final

import pytest
import pytest_asyncio

from acmeca import app
from acmeca.urls import Paths
from tests.support.acme_client import AcmeClient, Answer, ClientOrder, Issued, assert_alike
from tests.support.csrs import build_csr
from tests.support.jose import encode, new_key
from tests.support.server import RunningCa, running_ca

pytestmark = pytest.mark.asyncio(loop_scope="module")

Payload = bytes | Mapping[str, object]
READ: Final = b""
EMPTY: Final[Mapping[str, object]] = {}
DEACTIVATE: Final = {"status": "deactivated"}

MATRIX: Final[dict[str, tuple[Payload, ...]]] = {
    Paths.ACCOUNT: (READ, EMPTY, DEACTIVATE, {"contact": ["mailto:stranger@example.org"]}),
    Paths.ACCOUNT_ORDERS: (READ,),
    Paths.ORDER: (READ, EMPTY),
    Paths.FINALIZE: (READ, EMPTY, {"csr": "AAAA"}),
    Paths.AUTHORIZATION: (READ, EMPTY, DEACTIVATE, {"status": "valid"}),
    Paths.CHALLENGE: (READ, EMPTY),
    Paths.CERTIFICATE: (READ, EMPTY),
    Paths.ALTERNATE: (READ, EMPTY),
}
"""Resources that belong to an account, and what may be sent to them."""

SHARED: Final = frozenset({"challenge_type", "chain_id"})
"""Variables of paths that are the same for everybody."""

NOBODYS: Final = frozenset(
    {Paths.DIRECTORY, Paths.NEW_NONCE, Paths.NEW_ACCOUNT, Paths.NEW_ORDER, Paths.NEW_AUTHZ, Paths.REVOKE_CERT}
    | {Paths.KEY_CHANGE}
)
"""Resources that belong to nobody. What revokeCert, keyChange and newOrder take from a stranger is asked below."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


@dataclass(frozen=True)
class Owned:
    """What the owner has: one of everything, in the states in which something could be done to it."""

    owner: AcmeClient
    issued: Issued
    alternate: str  # the URL of its other chain
    ready: ClientOrder
    pending: ClientOrder

    def values(self, ca: RunningCa) -> list[dict[str, str]]:
        """What the variable parts of paths stand for, once for each order."""
        account = self.owner.account_url.rpartition("/")[2]
        orders = (self.issued.order, self.ready, self.pending)
        return [
            {
                "account_id": account,
                "order_id": order.url.rpartition("/")[2],
                "authorization_id": order.authorizations[0].rpartition("/")[2],
                "challenge_type": "http-01",
                "certificate_id": self.issued.order.certificate.rpartition("/")[2],
                "chain_id": self.alternate.rpartition("/")[2],
            }
            for order in orders
        ]

    async def state(self) -> list[object]:
        """Everything, as its owner sees it."""
        urls = [self.owner.account_url, self.issued.order.certificate, self.alternate]
        for order in (self.issued.order, self.ready, self.pending):
            urls += [order.url, *order.authorizations]
        answers = [await self.owner.post(url) for url in urls]
        return [(answer.status, answer.body) for answer in answers]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def owned(ca: RunningCa) -> Owned:
    owner = await ca.client()
    issued = await owner.issue("issued.localhost")
    return Owned(
        owner,
        issued,
        (await owner.post(issued.order.certificate)).links("alternate")[0],
        await owner.ready_order("ready.localhost"),
        await owner.new_order("pending.localhost"),
    )


def nobodys(value: str) -> str:
    """An id that was never given out, as long as the owner's."""
    return "A" * len(value)


async def test_every_route_has_a_row(ca: RunningCa) -> None:
    """Rule 1."""
    router = app.listeners.build_acme_app(ca.opened).router
    routed = {
        route.resource.canonical for route in router.routes() if route.method == "POST" and route.resource is not None
    }
    assert routed == MATRIX.keys() | NOBODYS


@pytest.mark.parametrize("path", MATRIX)
async def test_a_stranger(ca: RunningCa, owned: Owned, path: str) -> None:
    """RULES §2: an order of another account is no other answer than none."""
    stranger = await ca.client()
    before = await owned.state()
    variables = re.findall(r"{(\w+)}", path)
    for values in owned.values(ca):
        theirs = ca.urls.base + path.format(**values)
        missing = ca.urls.base + path.format(
            **{name: value if name in SHARED else nobodys(value) for name, value in values.items()}
        )
        assert variables
        for payload in MATRIX[path]:
            assert_alike(await stranger.post(theirs, payload), await stranger.post(missing, payload))
    assert await owned.state() == before


@pytest.mark.parametrize("path", MATRIX)
async def test_the_owners_kid_with_a_strangers_key(ca: RunningCa, owned: Owned, path: str) -> None:
    """RULES §2: whose `kid` stands in a request says nothing: the signature does."""
    stranger = await ca.client()
    before = await owned.state()
    for values in owned.values(ca):
        url = ca.urls.base + path.format(**values)
        answer = await stranger.post(url, MATRIX[path][-1], kid=owned.owner.kid)
        assert answer.status >= 400
        answer.refused("malformed" if answer.problem == "malformed" else "unauthorized", answer.status)
    assert await owned.state() == before


async def test_a_good_csr_for_a_strangers_order(ca: RunningCa, owned: Owned) -> None:
    """RULES §2: finalize with what would be right, had the order been one's own."""
    stranger = await ca.client()
    csr = {"csr": encode(owned.ready.csr())}
    missing = ca.urls.finalize(nobodys(owned.ready.url.rpartition("/")[2]))
    assert_alike(await stranger.post(owned.ready.finalize, csr), await stranger.post(missing, csr))
    assert (await owned.owner.order(owned.ready.url)).status == "ready"


async def test_an_authorization_is_its_accounts_alone(ca: RunningCa, owned: Owned) -> None:
    """RULES §3: what one account has shown control of is no other account's to use."""
    stranger = await ca.client()
    order = await stranger.new_order("issued.localhost")
    assert not set(order.authorizations) & set(owned.issued.order.authorizations)
    assert order.status == "pending"
    refused: Answer = await stranger.finalize(order, build_csr(owned.issued.key, dns_names=["issued.localhost"]))
    refused.refused("orderNotReady", 403)


async def test_revocation_by_a_stranger(ca: RunningCa, owned: Owned) -> None:
    """§7.6: "The server MUST also consider a revocation request valid if it is signed with … the private key … or an account
    that holds authorizations for all of the identifiers", and in no other case.
    """
    stranger = await ca.client()
    (await stranger.revoke(owned.issued.der)).refused("unauthorized", 403)
    await stranger.ready_order("ready.localhost")  # authorizations for something else
    (await stranger.revoke(owned.issued.der)).refused("unauthorized", 403)
    assert await ca.scalar("SELECT COUNT(*) AS n FROM certificates WHERE revoked_at IS NOT NULL") == 0


async def test_a_key_change_of_a_stranger(ca: RunningCa, owned: Owned) -> None:
    """§7.3.5, steps 7 and 8: neither what the owner's new key signed, nor the owner's `kid`, gives an account to a stranger."""
    stranger, before = await ca.client(), await owned.state()
    url = stranger.directory["keyChange"]
    theirs = {"account": owned.owner.kid, "oldKey": owned.owner.key.jwk}
    missing = {"account": ca.urls.account(nobodys("A" * 22)), "oldKey": new_key().jwk}
    for payload in (theirs, theirs | {"account": stranger.kid}, theirs | {"oldKey": stranger.key.jwk}, missing):
        (await stranger.post(url, stranger.key_change(new_key(), payload=payload))).refused("malformed", 400)
        answer = await stranger.post(url, stranger.key_change(new_key(), payload=payload), kid=owned.owner.kid)
        answer.refused("malformed", 400)
    assert await owned.state() == before


async def test_a_cursor_of_a_stranger(ca: RunningCa, owned: Owned) -> None:
    """§7.1.2.1: a page names only the account's own orders, whatever the cursor says."""
    stranger = await ca.client()
    order_id = owned.ready.url.rpartition("/")[2]
    page = await stranger.post(ca.urls.account_orders(stranger.account_url.rpartition("/")[2], f"0-{order_id}"))
    assert page.ok().json == {"orders": []}
