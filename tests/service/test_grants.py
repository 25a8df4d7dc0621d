"""Grants at work: what their accounts may have, pre-authorized names, the moment they end, and the secret behind their keys."""

import asyncio
import base64
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from acmeca.errors import AcmecaError, Conflict, NotFound
from acmeca.policy.names import NamePolicy
from acmeca.service.bindings import KEY_PATH, MacKeys
from acmeca.service.grants import GrantAdministration
from acmeca.storage import sqlite
from acmeca.storage.database import Value
from tests.support.acme_client import AcmeClient, ClientOrder, assert_alike
from tests.support.jose import decode, encode
from tests.support.server import RunningCa, ca_site, running_ca

NAMES = {"names": ["*.team-a.localhost"]}


@pytest.fixture
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


async def call(ca: RunningCa, operation: str, **arguments: object) -> dict[str, Any]:
    return await ca.opened.administration.call(operation, dict(arguments), user="eve")


class TestWhatAccountsMayHave:
    async def test_names(self, ca: RunningCa) -> None:
        """A subproblem for each identifier at fault, whoever refuses it, and the reason in the audit."""
        client = await ca.bound_client(await ca.grant(**NAMES))
        answer = await client.order_answer("x.team-a.localhost", "x.team-b.localhost", "x.example", ips=("127.0.0.1",))
        problems = answer.refused("rejectedIdentifier", 403).json["subproblems"]
        told = {problem["identifier"]["value"]: problem["detail"] for problem in problems}
        assert told.keys() == {"x.team-b.localhost", "x.example", "127.0.0.1"}
        assert "grant (team-a)" in told["x.team-b.localhost"]
        assert "policy.allowed_names" in told["x.example"]
        assert "team-b" in (await ca.events("order.refused"))[-1]
        await client.issue("x.team-a.localhost")

    async def test_networks(self, ca: RunningCa) -> None:
        client = await ca.bound_client(await ca.grant(networks=["127.0.1.0/24"]))
        (await client.order_answer(ips=("127.0.2.1",))).refused("rejectedIdentifier", 403)
        (await client.order_answer("a.localhost")).refused("rejectedIdentifier", 403)
        assert (await client.new_order(ips=("127.0.1.1",))).status == "pending"

    async def test_without_terms_all_that_is_configured(self, ca: RunningCa) -> None:
        client = await ca.bound_client(await ca.grant())
        await client.issue("anything.localhost")
        (await client.order_answer("x.example")).refused("rejectedIdentifier", 403)

    async def test_other_accounts_are_not_bound(self, ca: RunningCa) -> None:
        await ca.grant(**NAMES)
        await (await ca.client()).issue("x.team-b.localhost")

    async def test_the_configuration_is_asked_again_at_finalize(self) -> None:
        """RULES §3; and rule 1 of policy/grants.py: a grant never widens what is configured by now."""
        async with ca_site() as site:
            await site.init()
            async with site.running() as ca:
                client = await ca.bound_client(await ca.grant(**NAMES, preauthorized=True))
                order = await client.new_order("x.team-a.localhost")
                assert order.status == "ready"
            site.reconfigure(policy={"allowed_names": ["*.team-b.localhost"]})
            async with site.running() as ca:
                again = await ca.client(client.key)
                (await again.finalize(order)).refused("rejectedIdentifier", 403)
                (await again.order_answer("x.team-a.localhost")).refused("rejectedIdentifier", 403)

    async def test_the_grant_is_asked_again_at_finalize(self, ca: RunningCa) -> None:
        """Rule 3 of service/issuance.py: every name, of the grant too, right before signing."""
        grant = await ca.grant(**NAMES)
        client = await ca.bound_client(grant)
        order = await client.ready_order("x.team-a.localhost")
        await ca.execute("UPDATE grants SET terms = replace(terms, 'team-a', 'team-c') WHERE id = $1", grant["kid"])
        answer = (await client.finalize(order)).refused("rejectedIdentifier", 403)
        assert "grant" in answer.json["subproblems"][0]["detail"]
        assert (await client.order(order.url)).status == "ready"


class TestProfiles:
    """A grant's profiles, the first of which is its default, and the longest life of its certificates."""

    @pytest.fixture
    async def ca(self) -> AsyncIterator[RunningCa]:
        profiles = {"short": {"lifetime": "1d", "maximum_lifetime": "30d"}, "long": {"lifetime": "60d"}}
        async with running_ca(profiles=profiles) as ca:
            yield ca

    async def profile_of(self, ca: RunningCa, client: AcmeClient, **members: object) -> tuple[str, timedelta]:
        """By what profile an order of this client is made, and how long its certificate lives."""
        answer = (await client.order_answer("x.team-a.localhost", **members)).ok(201)
        order = ClientOrder(answer.location, answer.json)
        (await client.finalize(order)).ok()
        leaf = (await client.download(await client.order(order.url)))[0]
        (row,) = await ca.rows("SELECT profile FROM orders WHERE id = $1", order.url.rpartition("/")[2])
        lifetime = leaf.not_valid_after_utc - leaf.not_valid_before_utc + timedelta(seconds=1)
        return row["profile"], lifetime

    async def test_the_default(self, ca: RunningCa) -> None:
        grant = await ca.grant(**NAMES, profiles=["short", "long"], preauthorized=True)
        client = await ca.bound_client(grant)
        assert await self.profile_of(ca, client) == ("short", timedelta(days=1))
        assert await self.profile_of(ca, client, profile="long") == ("long", timedelta(days=60))
        answer = await client.order_answer("x.team-a.localhost", profile="server")
        assert "short or long" in answer.refused("invalidProfile", 400).detail

    async def test_the_longest_life(self, ca: RunningCa) -> None:
        """It cuts what the profile has and what may be asked for (RFC 8555 §7.4), and lengthens neither."""
        client = await ca.bound_client(await ca.grant(**NAMES, lifetime=7 * 86400, preauthorized=True))
        assert await self.profile_of(ca, client) == ("server", timedelta(days=7))
        assert await self.profile_of(ca, client, profile="short") == ("short", timedelta(days=1))
        late, soon = ((ca.clock() + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ") for days in (8, 3))
        (await client.order_answer("x.team-a.localhost", notAfter=late)).refused("malformed", 400)
        _, lifetime = await self.profile_of(ca, client, notAfter=soon)
        assert lifetime <= timedelta(days=3, hours=1)

    async def test_no_profile_that_there_is_not(self, ca: RunningCa) -> None:
        with pytest.raises(AcmecaError, match="there is no such profile"):
            await ca.grant(profiles=["web"])

    async def test_a_grant_is_no_way_of_showing_control(self) -> None:
        """What a grant vouched for is issued, whatever challenge types the profile has lost since."""
        async with ca_site(profiles={"web": {"challenges": ["http-01", "dns-01"]}}) as site:
            await site.init()
            async with site.running() as ca:
                client = await ca.bound_client(await ca.grant(**NAMES, profiles=["web"], preauthorized=True))
                order = await client.new_order("x.team-a.localhost")
            site.reconfigure(profiles={"web": {"challenges": ["dns-01"]}})
            async with site.running() as ca:
                (await (await ca.client(client.key)).finalize(order)).ok()


class TestQuota:
    """Orders of all accounts of a grant together; exact, given back as time goes by, and surviving a restart."""

    async def test_exact(self, ca: RunningCa) -> None:
        grant = await ca.grant(quota="20/hour")
        clients = [await ca.bound_client(grant) for _ in range(5)]
        answers = await asyncio.gather(
            *(clients[number % 5].order_answer(f"n{number}.localhost") for number in range(50))
        )
        refused = [answer for answer in answers if answer.status != 201]
        assert len(refused) == 30
        for answer in refused:
            answer.refused("rateLimited", 429)
            assert "grant" in answer.detail
            assert "20 orders in 1 hour" in answer.detail
            assert 0 < int(answer.headers["Retry-After"]) <= 3660
        assert (await call(ca, "eab_show", kid=grant["kid"]))["quota_used"] == 20
        assert await ca.scalar("SELECT COUNT(*) AS n FROM orders") == 20
        ca.clock.advance(minutes=61)
        (await clients[0].order_answer("later.localhost")).ok(201)

    async def test_of_each_grant(self, ca: RunningCa) -> None:
        grants = [await ca.grant(quota="1/day") for _ in range(2)]
        for grant in grants:
            client = await ca.bound_client(grant)
            (await client.order_answer("a.localhost")).ok(201)
            (await client.order_answer("a.localhost")).refused("rateLimited", 429)
        (await (await ca.client()).order_answer("a.localhost")).ok(201)

    async def test_a_refused_order_uses_nothing(self, ca: RunningCa) -> None:
        client = await ca.bound_client(await ca.grant(**NAMES, quota="1/day"))
        (await client.order_answer("x.team-b.localhost")).refused("rejectedIdentifier", 403)
        issued = await client.issue("x.team-a.localhost")
        (await client.order_answer("x.team-a.localhost")).refused("rateLimited", 429)
        (await client.revoke(issued.der)).ok()  # never limited

    async def test_after_a_restart(self) -> None:
        async with ca_site() as site:
            await site.init()
            async with site.running() as ca:
                client = await ca.bound_client(await ca.grant(quota="1/day"))
                (await client.order_answer("a.localhost")).ok(201)
            async with site.running() as ca:
                (await (await ca.client(client.key)).order_answer("a.localhost")).refused("rateLimited", 429)


class TestPreauthorized:
    async def test_ready_at_once(self, ca: RunningCa) -> None:
        """`--preauthorized` makes authorizations for its names valid at creation: one `valid` challenge with a token, of a type
        that would be offered; recorded as such in the audit.
        """
        grant = await ca.grant(**NAMES, preauthorized=True)
        client = await ca.bound_client(grant)
        order = await client.new_order("x.team-a.localhost", "y.team-a.localhost")
        assert order.status == "ready"
        for url, name in zip(order.authorizations, order.names, strict=True):
            document = await client.authorization(url)
            assert (document["status"], document["identifier"]["value"]) == ("valid", name)
            (challenge,) = document["challenges"]
            assert (challenge["type"], challenge["status"]) == ("http-01", "valid")
            assert len(decode(challenge["token"])) >= 16
            assert challenge["validated"] == ca.clock().strftime("%Y-%m-%dT%H:%M:%SZ")
        events = await ca.events("authorization.granted")
        assert [name in event and grant["kid"] in event for event, name in zip(events, order.names, strict=True)] == [
            True,
            True,
        ]
        assert await ca.events("authorization.validated") == []
        assert ca.site.responder.connections == 0
        (await client.finalize(order)).ok()

    async def test_a_client_that_answers_all_the_same(self, ca: RunningCa) -> None:
        """A challenge whose authorization is valid is answered with what it is; nothing restarts."""
        client = await ca.bound_client(await ca.grant(**NAMES, preauthorized=True))
        order = await client.new_order("x.team-a.localhost")
        challenge = await client.challenge(order.authorizations[0])
        answer = (await client.respond(challenge)).ok()
        assert answer.json["status"] == "valid"
        assert (await client.order(order.url)).status == "ready"

    async def test_new_authz(self, ca: RunningCa) -> None:
        """§7.4.1 too: what is created is valid already; and the next order asks the grant anew."""
        client = await ca.bound_client(await ca.grant(**NAMES, preauthorized=True))
        url = client.directory["newAuthz"]

        async def new_authz(name: str) -> Any:
            return await client.post(url, {"identifier": {"type": "dns", "value": name}})

        answer = (await new_authz("x.team-a.localhost")).ok(201)
        assert answer.json["status"] == "valid"
        (await new_authz("x.team-b.localhost")).refused("rejectedIdentifier", 403)
        assert len(await ca.events("authorization.granted")) == 1
        order = await client.new_order("x.team-a.localhost")
        assert answer.location not in order.authorizations

    async def test_no_order_outlives_the_grant(self, ca: RunningCa) -> None:
        """§7.4: the order "represents a promise" until its "expires"."""
        client = await ca.bound_client(await ca.grant(**NAMES, preauthorized=True, expires_in=60))
        order = await client.new_order("x.team-a.localhost")
        assert order.document["expires"] == (ca.clock() + timedelta(seconds=60)).strftime("%Y-%m-%dT%H:%M:%SZ")

    async def test_control_that_was_shown_is_used_again(self, ca: RunningCa) -> None:
        """An account of a grant that needs validation has what every account has (RULES §3)."""
        client = await ca.bound_client(await ca.grant(**NAMES))
        ready = await client.ready_order("x.team-a.localhost")
        again = await client.new_order("x.team-a.localhost")
        assert (again.status, again.authorizations) == ("ready", ready.authorizations)

    async def test_nothing_beyond_it(self, ca: RunningCa) -> None:
        client = await ca.bound_client(await ca.grant(**NAMES, preauthorized=True))
        (await client.order_answer("x.team-a.localhost", "x.team-b.localhost")).refused("rejectedIdentifier", 403)
        stranger = await ca.client()
        assert (await stranger.new_order("x.team-a.localhost")).status == "pending"

    async def test_addresses(self, ca: RunningCa) -> None:
        client = await ca.bound_client(await ca.grant(networks=["127.0.1.0/24"], preauthorized=True))
        await client.download(await self.issued(client, ips=("127.0.1.7",)))

    async def test_wildcards(self) -> None:
        """Where the configuration allows wildcards, and has a challenge type that suits them, and the grant's pattern holds."""
        async with running_ca(policy={"wildcards": True}, validation={"challenges": ["http-01", "dns-01"]}) as ca:
            client = await ca.bound_client(await ca.grant(**NAMES, preauthorized=True))
            order = await client.new_order("*.team-a.localhost")
            assert order.status == "ready"
            document = await client.authorization(order.authorizations[0])
            assert (document["wildcard"], document["challenges"][0]["type"]) == (True, "dns-01")
            (await client.order_answer("*.localhost")).refused("rejectedIdentifier", 403)
        async with running_ca() as ca:
            client = await ca.bound_client(await ca.grant(**NAMES, preauthorized=True))
            (await client.order_answer("*.team-a.localhost")).refused("rejectedIdentifier", 403)

    async def test_given_up(self, ca: RunningCa) -> None:
        """§7.5.2 holds for these too; the next order has a new one."""
        client = await ca.bound_client(await ca.grant(**NAMES, preauthorized=True))
        order = await client.new_order("x.team-a.localhost")
        (await client.post(order.authorizations[0], {"status": "deactivated"})).ok()
        (await client.finalize(order)).refused("orderNotReady", 403)
        assert (await client.new_order("x.team-a.localhost")).status == "ready"

    async def issued(self, client: AcmeClient, **identifiers: Any) -> Any:
        order = await client.new_order(**identifiers)
        assert order.status == "ready"
        (await client.finalize(order)).ok()
        return await client.order(order.url)


class TestTheEnd:
    async def walk(self, client: AcmeClient) -> list[Any]:
        """One of everything that an account asks for."""
        order = await client.new_order("p.localhost")
        ready = await client.ready_order("r.localhost")
        issued = await client.issue("i.localhost")
        challenge = await client.challenge(order.authorizations[0])

        async def ask() -> list[Any]:
            return [
                await client.post(client.account_url),
                await client.post(client.account_url, {"contact": []}),
                await client.deactivate_account(),
                await client.order_answer("n.localhost"),
                await client.post(order.url),
                await client.post(order.authorizations[0]),
                await client.respond(challenge),
                await client.finalize(ready),
                await client.post(issued.order.certificate),
                await client.revoke(issued.der),
                await client.change_key(client.key),
                await client.new_account(),
                await client.new_account(onlyReturnExisting=True),
            ]

        return [ask, ready]

    async def test_disabled_at_once(self, ca: RunningCa) -> None:
        """RULES §2: "A deactivated or disabled account is refused everywhere, including a new newAccount with its key"."""
        grant = await ca.grant()
        client = await ca.bound_client(grant)
        ask, ready = await self.walk(client)
        other = await ca.client()
        result = await call(ca, "eab_disable", kid=grant["kid"])
        assert (result["status"], result["accounts"]) == ("disabled", 1)
        for answer in await ask():
            assert "administrators" in answer.refused("unauthorized", 403).detail
        await other.issue("other.localhost")
        await call(ca, "eab_enable", kid=grant["kid"])
        (await client.finalize(ready)).ok()

    async def test_over(self, ca: RunningCa) -> None:
        """`--expires` ends a grant wholly: for new accounts and for those that it has."""
        grant = await ca.grant(expires_in=3600)
        client = await ca.bound_client(grant)
        ask, ready = await self.walk(client)
        ca.clock.advance(seconds=3599)
        (await client.post(client.account_url)).ok()
        ca.clock.advance(seconds=1)
        for answer in await ask():
            assert "ended" in answer.refused("unauthorized", 403).detail
        assert (await call(ca, "eab_show", kid=grant["kid"]))["status"] == "expired"
        with pytest.raises(Conflict, match="--expires"):
            await call(ca, "eab_enable", kid=grant["kid"])
        await call(ca, "eab_enable", kid=grant["kid"], expires_in=60)
        (await client.finalize(ready)).refused("orderNotReady", 403)  # orders ended with the grant
        await client.issue("again.localhost")
        await call(ca, "eab_enable", kid=grant["kid"], never_expires=True)
        ca.clock.advance(days=9999)
        (await client.post(client.account_url)).ok()

    async def test_refusals_are_written_down(self, ca: RunningCa) -> None:
        grant = await ca.grant()
        client = await ca.bound_client(grant)
        await call(ca, "eab_disable", kid=grant["kid"])
        await client.order_answer("a.localhost")
        event = (await ca.events("account.refused"))[-1]
        assert "disabled" in event
        assert client.account_url.rpartition("/")[2] in event

    async def test_disabling_races_with_finalize(self, ca: RunningCa) -> None:
        """Whichever comes first: what was not claimed before the answer to the disabling is not signed."""
        grant = await ca.grant(**NAMES, preauthorized=True)
        client = await ca.bound_client(grant)
        orders = [await client.new_order(f"r{number}.team-a.localhost") for number in range(8)]
        answers = await asyncio.gather(
            *(client.finalize(order) for order in orders), call(ca, "eab_disable", kid=grant["kid"])
        )
        assert {answer.status for answer in answers[:-1]} <= {200, 403}
        signed = await ca.scalar("SELECT COUNT(*) AS n FROM certificates WHERE order_id IS NOT NULL")
        assert signed == sum(answer.status == 200 for answer in answers[:-1])
        for order in orders:
            (await client.finalize(order)).refused("unauthorized", 403)


class TestAnswers:
    async def test_unknown_and_wrong_take_the_same_steps(self, ca: RunningCa, monkeypatch: pytest.MonkeyPatch) -> None:
        """RULES §2: "indistinguishable, in text and in time": the same statements, with the same number of rows."""
        grant = await ca.grant()
        client = await ca.client(register=False)
        seen: list[tuple[str, int]] = []
        run = sqlite._run

        def noted(connection: sqlite3.Connection, sql: str, args: Sequence[Value]) -> tuple[list[Any], int]:
            found = run(connection, sql, args)
            seen.append((sql, len(found[0])))
            return found

        monkeypatch.setattr(sqlite, "_run", noted)

        async def refused(**changes: Any) -> list[tuple[str, int]]:
            seen.clear()
            binding = client.binding(grant, **changes)
            (await client.new_account(externalAccountBinding=binding)).refused("unauthorized", 403)
            return [step for step in seen if "accounts" in step[0] or "grants" in step[0] or "audit" in step[0]]

        wrong = await refused(hmac_key=encode(bytes(64)))
        assert any("grants" in sql for sql, _ in wrong)
        assert await refused(kid="AAAAAAAAAAAAAAAAAAAAAA") == wrong

    async def test_no_secret_is_kept_or_told(self, ca: RunningCa, caplog: pytest.LogCaptureFixture) -> None:
        """RULES §2: "The MAC key is shown once and never logged, dumped or returned"."""
        caplog.set_level(logging.DEBUG)
        grant = await ca.grant(**NAMES)
        client = await ca.bound_client(grant)
        await client.issue("x.team-a.localhost")
        answers = [
            await call(ca, "eab_list"),
            await call(ca, "eab_show", kid=grant["kid"]),
            await call(ca, "eab_disable", kid=grant["kid"]),
            await call(ca, "eab_enable", kid=grant["kid"]),
        ]
        secret = (ca.data_dir / KEY_PATH).read_bytes()
        octets = decode(grant["hmac_key"])
        forms = [form for raw in (octets, secret) for form in (raw, raw.hex().encode(), *in_base64(raw))]
        texts = [repr(answers).encode(), caplog.text.encode()]
        texts += [path.read_bytes() for path in ca.data_dir.rglob("*") if path.is_file() and path.name != "eab.key"]
        assert len(texts) > 8
        for form in forms:
            assert not [text for text in texts if form in text]

    async def test_a_certificate_tells_whose_it_is(self, ca: RunningCa) -> None:
        grant = await ca.grant()
        issued = await (await ca.bound_client(grant)).issue("a.localhost")
        shown = await call(ca, "show", serial=f"{issued.serial:x}")
        assert (shown["grant"], shown["owner"]) == (grant["kid"], "team-a")
        (listed,) = (await call(ca, "list", grant=grant["kid"]))["certificates"]
        assert listed["serial"] == shown["serial"]
        own = await call(ca, "list", name="localhost")
        shown = await call(ca, "show", serial=own["certificates"][0]["serial"])
        assert (shown["grant"], shown["owner"]) == (None, None)


class TestAdministration:
    async def test_listed_and_shown(self, ca: RunningCa) -> None:
        assert await call(ca, "eab_list") == {"grants": [], "is_cut": False, "key_problem": None}
        grant = await ca.grant(
            owner="team-b",
            names=["*.a.localhost", "b.localhost", "*.a.localhost"],
            networks=["127.1.0.0/16"],
            profiles=["server"],
            lifetime=86400 * 30,
            quota="500/week",
            expires_in=86400 * 90,
            single_use=True,
            preauthorized=True,
        )
        client = await ca.bound_client(grant)
        order = await client.new_order("x.a.localhost")
        (await client.finalize(order)).ok()
        (listed,) = (await call(ca, "eab_list"))["grants"]
        assert listed == {
            "kid": grant["kid"],
            "owner": "team-b",
            "status": "used",
            "names": ["*.a.localhost", "b.localhost"],
            "networks": ["127.1.0.0/16"],
            "profiles": ["server"],
            "lifetime": 86400 * 30,
            "quota": "500/7d",
            "single_use": True,
            "preauthorized": True,
            "created_at": ca.clock().strftime("%Y-%m-%dT%H:%M:%SZ"),
            "expires_at": (ca.clock() + timedelta(days=90)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "accounts": 1,
            "certificates": 1,
            "is_key_here": True,
        }
        shown = await call(ca, "eab_show", kid=grant["kid"])
        assert {name: shown[name] for name in listed} == listed
        (account,) = shown["account_list"]
        assert (account["account"], account["certificates"]) == (client.account_url.rpartition("/")[2], 1)
        assert [item["names"] for item in shown["issued"]] == [["x.a.localhost"]]
        assert (await call(ca, "eab_list", owner="team-a"))["grants"] == []
        await ca.grant()
        assert (await call(ca, "eab_list", limit=1))["is_cut"] is True

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            ({"owner": ""}, "owner"),
            ({"owner": 1}, "owner: a text"),
            ({"names": "x"}, "names: a list"),
            ({"names": ["*"]}, "names: '\\*'"),
            ({"names": ["*.example"]}, "allowed_names"),
            ({"names": [""]}, "names"),
            ({"profiles": ["server", "web"]}, "profiles: web: there is no such profile; there are server, short"),
            ({"networks": ["10.0.0.0/8"]}, "allowed_networks"),
            ({"networks": ["10.0.0.1/8"]}, "networks"),
            ({"quota": "many"}, "quota"),
            ({"lifetime": 1}, "10m"),
            ({"lifetime": -1}, "whole number"),
            ({"lifetime": 2**60}, "longer than"),
            ({"expires_in": 0}, "expires"),
            ({"expires_in": 2**60}, "longer than"),
            ({"expires_in": 10**12}, "longer than"),
            ({"preauthorized": True}, "no grant for everything"),
            ({"single_use": "yes"}, "true or false"),
        ],
    )
    async def test_refused_with_the_reason(self, ca: RunningCa, arguments: dict[str, object], told: str) -> None:
        """Nothing is made, the secret neither."""
        with pytest.raises(AcmecaError, match=told):
            await ca.grant(**arguments)
        assert (await call(ca, "eab_list"))["grants"] == []
        assert not (ca.data_dir / KEY_PATH).exists()

    async def test_what_there_is_not(self, ca: RunningCa) -> None:
        for operation in ("eab_show", "eab_disable", "eab_enable"):
            for arguments in ({}, {"kid": "nothing"}):
                with pytest.raises(NotFound, match="eab list"):
                    await call(ca, operation, **arguments)
        grant = await ca.grant()
        await call(ca, "eab_disable", kid=grant["kid"])
        with pytest.raises(Conflict, match="already"):
            await call(ca, "eab_disable", kid=grant["kid"])

    async def test_a_key_that_no_client_takes_for_an_option(self, ca: RunningCa) -> None:
        for _ in range(200):
            grant = await ca.grant()
            assert not grant["hmac_key"].startswith("-")
            assert not grant["kid"].startswith("-")


class TestTheSecret:
    """Rules 2 and 3 of service/bindings.py, rule 3 of service/grants.py."""

    async def test_made_with_the_first_grant(self, ca: RunningCa) -> None:
        path = ca.data_dir / KEY_PATH
        assert not path.exists()
        await ca.grant()
        made = path.read_bytes()
        assert (len(made), path.stat().st_mode & 0o777) == (32, 0o600)
        await asyncio.gather(*(ca.grant() for _ in range(5)))
        assert path.read_bytes() == made

    async def test_ten_at_once_make_one(self, ca: RunningCa) -> None:
        grants = await asyncio.gather(*(ca.grant() for _ in range(10)))
        assert all(grant["is_key_here"] for grant in grants)
        for grant in grants:
            await ca.bound_client(grant)

    @pytest.mark.parametrize("damage", ["missing", "another", "readable", "cut"])
    async def test_a_server_without_the_right_one(
        self, ca: RunningCa, damage: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The client sees what it sees for a wrong key; the server's log and the administrator learn why."""
        grant = await ca.grant()
        bound = await ca.bound_client(grant)
        client = await ca.client(register=False)
        reference = await client.new_account(externalAccountBinding=client.binding(grant, hmac_key=encode(bytes(64))))
        path = ca.data_dir / KEY_PATH
        kept = path.read_bytes()
        match damage:
            case "missing":
                path.unlink()
            case "another":
                path.write_bytes(os.urandom(32))
            case "readable":
                path.chmod(0o644)
            case _:
                path.write_bytes(kept[:-1])
        caplog.clear()
        assert_alike(reference, await client.new_account(externalAccountBinding=client.binding(grant)))
        assert KEY_PATH in caplog.text
        listed = await call(ca, "eab_list")
        assert [item["is_key_here"] for item in listed["grants"]] == [False]
        assert (listed["key_problem"] is None) is (damage == "another")
        with pytest.raises(AcmecaError, match=KEY_PATH):
            await ca.grant()
        (await bound.post(bound.account_url)).ok()  # accounts go on
        path.write_bytes(kept)
        path.chmod(0o600)
        (await client.new_account(externalAccountBinding=client.binding(grant))).ok(201)  # at once

    @pytest.mark.parametrize("is_there", [True, False])
    async def test_lost_for_good(self, ca: RunningCa, *, is_there: bool) -> None:
        """Only when the administrator says so is another one used; the older grant's accounts go on."""
        older = await ca.grant()
        bound = await ca.bound_client(older)
        path = ca.data_dir / KEY_PATH
        path.unlink()
        if is_there:
            path.write_bytes(os.urandom(32))
            path.chmod(0o600)
        with pytest.raises(Conflict, match="--new-key"):
            await ca.grant()
        assert path.exists() is is_there
        await ca.bound_client(await ca.grant(new_key=True))
        await ca.bound_client(await ca.grant())
        (await bound.post(bound.account_url)).ok()
        client = await ca.client(register=False)
        (await client.new_account(externalAccountBinding=client.binding(older))).refused("unauthorized", 403)
        listed = {item["kid"]: item["is_key_here"] for item in (await call(ca, "eab_list"))["grants"]}
        assert (listed.pop(older["kid"]), set(listed.values())) == (False, {True})

    async def test_two_servers_make_the_first_grant_at_once(self, ca: RunningCa, tmp_path: Path) -> None:
        """Each has a data directory of its own: one of them wins, the other makes nothing and keeps no secret of its own."""
        others = [administration(ca, tmp_path / name) for name in ("a", "b")]
        outcomes = await asyncio.gather(
            *(other.create({"owner": "team-a"}, "eve") for other in others), return_exceptions=True
        )
        (won,) = [outcome for outcome in outcomes if isinstance(outcome, Mapping)]
        (lost,) = [outcome for outcome in outcomes if not isinstance(outcome, Mapping)]
        assert isinstance(lost, Conflict)
        assert "copy it" in str(lost)
        assert [(tmp_path / name / KEY_PATH).exists() for name in ("a", "b")] == [
            outcome is won for outcome in outcomes
        ]
        assert await ca.scalar("SELECT COUNT(*) AS n FROM grants") == 1


def administration(ca: RunningCa, data_dir: Path) -> GrantAdministration:
    """The operations of another server on the same database."""
    data_dir.mkdir()
    return GrantAdministration(
        ca.store,
        keys=MacKeys(data_dir, entropy=os.urandom),
        names=NamePolicy(("*.localhost",)),
        offer=ca.services.profiles.offer,
        urls=ca.urls,
        ambient=ca.site.ambient,
    )


def in_base64(octets: bytes) -> list[bytes]:
    return [base64.urlsafe_b64encode(octets).rstrip(b"="), base64.b64encode(octets).rstrip(b"=")]
