"""Accounts, orders, authorizations, finalize and revocation against a model of RFC 8555 §7.1.6: whatever a few clients do in
whatever order, the CA is in the state that the diagrams draw.

Rule 1: the model is written from the RFC and knows nothing of acmeca. It says for each act whether it succeeds, and for each
resource in what state it is then.
Rule 2: the CA is the real one, over HTTPS; what is asked of it is asked as a client would.
"""

import asyncio
import os
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.acme_client import AcmeClient, Answer, ClientOrder, Issued, certificate_key
from tests.support.jose import SigningKey, new_key
from tests.support.server import RunningCa, running_ca

T = TypeVar("T")

NAMES: Final = ("a.localhost", "b.localhost", "c.localhost")


@dataclass
class ModelAuthorization:
    """§7.1.6, second diagram."""

    name: str
    url: str
    status: str = "pending"


@dataclass
class ModelCertificate:
    issued: Issued
    is_revoked: bool = False


@dataclass
class ModelOrder:
    """§7.1.6, third diagram. Its status follows from its authorizations until it is finalized."""

    order: ClientOrder
    authorizations: list[ModelAuthorization]
    certificate: ModelCertificate | None = None
    is_invalid: bool = False

    @property
    def status(self) -> str:
        if self.certificate is not None:
            return "valid"
        if self.is_invalid:
            return "invalid"
        return "ready" if all(item.status == "valid" for item in self.authorizations) else "pending"

    def settle(self) -> None:
        """§7.1.6: "If an error occurs at any of these stages, the order moves to the "invalid" state", for good."""
        if self.certificate is None and any(item.status not in {"pending", "valid"} for item in self.authorizations):
            self.is_invalid = True


@dataclass
class ModelAccount:
    """§7.1.6, fourth diagram."""

    client: AcmeClient
    is_valid: bool = True
    authorizations: dict[str, ModelAuthorization] = field(default_factory=dict)  # by URL
    orders: list[ModelOrder] = field(default_factory=list)

    def holds(self, names: set[str]) -> bool:
        """§7.6: does it hold valid authorizations for all of them?"""
        return names <= {item.name for item in self.authorizations.values() if item.status == "valid"}

    def settle(self) -> None:
        for order in self.orders:
            order.settle()


class Model(RuleBasedStateMachine):
    """The acts. Each chooses among what there is by a number, so that a failure shrinks well."""

    loop: asyncio.AbstractEventLoop
    ca: RunningCa

    def __init__(self) -> None:
        super().__init__()
        self.accounts: list[ModelAccount] = []
        self.last: ModelAccount | None = None  # who did something

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def account(self, number: int) -> ModelAccount:
        self.last = self.accounts[number % len(self.accounts)]
        return self.last

    def refused_as_shut(self, account: ModelAccount, answer: Answer) -> bool:
        """§7.3.6: "the server MUST reject requests authorized by that account's key"."""
        if not account.is_valid:
            answer.refused("unauthorized", 401)
        return not account.is_valid

    @initialize()
    def begin(self) -> None:
        """Two accounts with an order each that could be finalized at once."""
        for names in ({"a.localhost"}, {"a.localhost", "b.localhost"}):
            self.accounts.append(ModelAccount(self.do(self.ca.client())))
            number = len(self.accounts) - 1
            self.ordered(self.accounts[-1], names)
            self.shown(self.accounts[number].orders[0], self.accounts[number])

    # --- §7.3 ---------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.accounts) < 3)
    @rule()
    def new_account(self) -> None:
        self.accounts.append(ModelAccount(self.do(self.ca.client())))

    @precondition(lambda self: self.accounts)
    @rule(number=st.integers(0, 9))
    def the_same_key_again(self, number: int) -> None:
        """§7.3.1: "the server MUST return a response with status code 200 (OK) and provide the URL of that account"."""
        account = self.account(number)
        answer = self.do(account.client.new_account())
        if not self.refused_as_shut(account, answer):
            assert answer.ok().location == account.client.account_url

    @precondition(lambda self: self.accounts)
    @rule(number=st.integers(0, 9), other=st.integers(0, 9), is_new=st.booleans())
    def change_key(self, number: int, other: int, *, is_new: bool) -> None:
        """§7.3.5: to a key that nobody has; nothing else of the account changes."""
        account, holder = self.account(number), self.accounts[other % len(self.accounts)]
        answer = self.do(account.client.change_key(new_key() if is_new else holder.client.key))
        if self.refused_as_shut(account, answer):
            return
        if is_new:
            answer.ok()
        else:
            assert answer.refused("malformed", 409).location == holder.client.account_url

    @precondition(lambda self: len(self.accounts) > 1)
    @rule(number=st.integers(0, 9), is_meant=st.integers(0, 5))
    def deactivate_account(self, number: int, is_meant: int) -> None:
        """§7.3.6. Not often: it ends all that could be done with the account."""
        account = self.account(number)
        if is_meant:
            return
        answer = self.do(account.client.deactivate_account())
        if self.refused_as_shut(account, answer):
            return
        assert answer.ok().json["status"] == "deactivated"
        account.is_valid = False

    # --- §7.4 ---------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.accounts)
    @rule(number=st.integers(0, 9), names=st.sets(st.sampled_from(NAMES), min_size=1))
    def new_order(self, number: int, names: set[str]) -> None:
        """An authorization that was there before has to be the account's own, for that name, and valid (RULES §3)."""
        self.ordered(self.account(number), names)

    @precondition(lambda self: self.accounts)
    @rule(number=st.integers(0, 9), name=st.sampled_from(NAMES))
    def new_authz(self, number: int, name: str) -> None:
        """§7.4.1: a pending authorization of its own."""
        account = self.account(number)
        payload = {"identifier": {"type": "dns", "value": name}}
        answer = self.do(account.client.post(account.client.directory["newAuthz"], payload))
        if self.refused_as_shut(account, answer):
            return
        url = answer.ok(201).location
        assert url not in account.authorizations
        assert answer.json["status"] == "pending"
        account.authorizations[url] = ModelAuthorization(name, url)

    def ordered(self, account: ModelAccount, names: set[str]) -> None:
        answer = self.do(account.client.order_answer(*sorted(names)))
        if self.refused_as_shut(account, answer):
            return
        order = ClientOrder(answer.ok(201).location, answer.json)
        held = []
        for url in order.authorizations:
            known = account.authorizations.get(url)
            document = self.do(account.client.authorization(url))
            if known is None:
                assert document["status"] == "pending"
                known = account.authorizations[url] = ModelAuthorization(document["identifier"]["value"], url)
            else:
                assert known.status == "valid", "an authorization that is not valid was used again"
            held.append(known)
        assert {item.name for item in held} == names
        assert len(held) == len(names)
        account.orders.append(ModelOrder(order, held))
        assert order.status == account.orders[-1].status

    @precondition(lambda self: any(account.orders for account in self.accounts))
    @rule(
        number=st.integers(0, 9),
        which=st.integers(0, 9),
        csr_names=st.sets(st.sampled_from(NAMES)),
        is_right=st.sampled_from([True, True, False]),
    )
    def finalize(self, number: int, which: int, csr_names: set[str], *, is_right: bool) -> None:
        """§7.4: only a ready order, only with exactly its names; an order that is refused a CSR stays ready."""
        account = self.account(number)
        if not account.orders:
            return
        order = account.orders[which % len(account.orders)]
        names = set(order.order.names) if is_right else csr_names or {"other.localhost"}
        answer, key = self.do(self._finalized(account, order, sorted(names)))
        if self.refused_as_shut(account, answer):
            return
        if order.status != "ready":
            answer.refused("orderNotReady", 403)
        elif names != set(order.order.names):
            answer.refused("badCSR", 400)
        else:
            document = ClientOrder(order.order.url, answer.ok().json)
            assert document.status == "valid"
            chain = self.do(account.client.download(document))
            assert (
                set(
                    chain[0]
                    .extensions.get_extension_for_class(x509.SubjectAlternativeName)
                    .value.get_values_for_type(x509.DNSName)
                )
                == names
            )
            order.certificate = ModelCertificate(Issued(key, chain, document))

    async def _finalized(self, account: ModelAccount, order: ModelOrder, names: list[str]) -> tuple[Answer, Any]:
        key = ec.generate_private_key(ec.SECP256R1())
        return await account.client.finalize(order.order, order.order.csr(key, dns_names=names)), key

    # --- §7.5 ---------------------------------------------------------------------------------------------------------

    @precondition(lambda self: any(account.authorizations for account in self.accounts))
    @rule(number=st.integers(0, 9), which=st.integers(0, 9), is_there=st.sampled_from([True, True, False]))
    def respond(self, number: int, which: int, *, is_there: bool) -> None:
        """§7.5.1: a challenge is answered once; afterwards its authorization is valid or invalid, and stays so."""
        account = self.account(number)
        if not account.authorizations:
            return
        authorization = list(account.authorizations.values())[which % len(account.authorizations)]
        if not account.is_valid:
            return
        document = self.do(account.client.authorization(authorization.url))
        if authorization.status == "deactivated" and not document["challenges"]:
            return
        challenge = next(item for item in document["challenges"] if item["type"] == "http-01")
        if is_there:
            account.client.provision(challenge)
        else:
            account.client.provisioned.pop(challenge["token"], None)
        self.do(account.client.respond(challenge)).ok()
        if authorization.status == "pending":
            assert self.do(account.client.final(authorization.url))["status"] == ("valid" if is_there else "invalid")
            authorization.status = "valid" if is_there else "invalid"
            account.settle()

    @precondition(lambda self: any(account.orders for account in self.accounts))
    @rule(number=st.integers(0, 9), which=st.integers(0, 9))
    def show_control(self, number: int, which: int) -> None:
        """All that an order waits for, so that deep states are reached often."""
        account = self.account(number)
        if account.is_valid and account.orders:
            self.shown(account.orders[which % len(account.orders)], account)

    def shown(self, order: ModelOrder, account: ModelAccount) -> None:
        for authorization in order.authorizations:
            if authorization.status == "pending":
                self.do(account.client.authorize_one(authorization.url))
                authorization.status = "valid"

    @precondition(lambda self: any(account.authorizations for account in self.accounts))
    @rule(number=st.integers(0, 9), which=st.integers(0, 9))
    def give_up(self, number: int, which: int) -> None:
        """§7.5.2."""
        account = self.account(number)
        if not account.authorizations:
            return
        authorization = list(account.authorizations.values())[which % len(account.authorizations)]
        answer = self.do(account.client.post(authorization.url, {"status": "deactivated"}))
        if self.refused_as_shut(account, answer):
            return
        if authorization.status in {"pending", "valid"}:
            assert answer.ok().json["status"] == "deactivated"
            authorization.status = "deactivated"
            account.settle()
        else:
            answer.refused("malformed", 400)

    # --- §7.6 ---------------------------------------------------------------------------------------------------------

    @precondition(lambda self: any(order.certificate for account in self.accounts for order in account.orders))
    @rule(number=st.integers(0, 9), which=st.integers(0, 9), path=st.sampled_from(["account", "key"]))
    def revoke(self, number: int, which: int, path: str) -> None:
        """§7.6: the issuing account, an account that holds authorizations for all names, or the certificate's key."""
        account = self.account(number)
        certificates = [(owner, order) for owner in self.accounts for order in owner.orders if order.certificate]
        owner, order = certificates[which % len(certificates)]
        certificate = order.certificate
        assert certificate is not None
        key: SigningKey | None = certificate_key(certificate.issued) if path == "key" else None
        answer = self.do(account.client.revoke(certificate.issued.der, key=key))
        if path == "account" and self.refused_as_shut(account, answer):
            return
        if path == "account" and account is not owner and not account.holds(set(order.order.names)):
            answer.refused("unauthorized", 403)
        elif certificate.is_revoked:
            answer.refused("alreadyRevoked", 400)
        else:
            answer.ok()
            certificate.is_revoked = True

    # --- what has to hold ---------------------------------------------------------------------------------------------

    @invariant()
    def what_was_done_is_as_the_model_says(self) -> None:
        if self.last is not None:
            self.do(self._compare([self.last]))

    async def _compare(self, accounts: list[ModelAccount]) -> None:
        for account in accounts:
            if not account.is_valid:
                self.refused_as_shut(account, await account.client.post(account.client.account_url))
                continue
            for order in account.orders:
                document = (await account.client.post(order.order.url)).ok().json
                assert document["status"] == order.status, (document, order)
                assert ("certificate" in document) == (order.certificate is not None)
            for authorization in account.authorizations.values():
                assert (await account.client.authorization(authorization.url))["status"] == authorization.status

    def teardown(self) -> None:
        """What everybody has, and OCSP's word on every certificate."""
        self.do(self._compare(self.accounts))
        self.do(self._compare_status())

    async def _compare_status(self) -> None:
        party = self.ca.relying_party()
        for order in (order for account in self.accounts for order in account.orders):
            if order.certificate is not None:
                answer = await party.post(party.request(order.certificate.issued.serial))
                status = ocsp.load_der_ocsp_response(answer.body).certificate_status
                assert (status is ocsp.OCSPCertStatus.REVOKED) == order.certificate.is_revoked


@pytest.fixture
def model() -> Iterator[type[Model]]:
    """The machine with a CA of its own, which runs while the machine waits for it."""
    with asyncio.Runner() as runner:
        context = running_ca()
        ca = runner.run(context.__aenter__())
        try:
            yield type("RunningModel", (Model,), {"loop": runner.get_loop(), "ca": ca})
        finally:
            runner.run(context.__aexit__(None, None, None))


def test_whatever_a_few_clients_do(model: type[Model]) -> None:
    """§7.1.6, all four diagrams at once."""
    run_state_machine_as_test(
        model,
        settings=settings(
            max_examples=300 if os.environ.get("ACMECA_TORTURE") else 10,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.explicit, Phase.generate, Phase.target),
        ),
    )
