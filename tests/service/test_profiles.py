"""The profile of an order is the one that it was made with; what that costs; and what of today's counts all the same."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from acmeca.acme.objects import ChallengeType
from acmeca.acme.problem import Problem, ProblemType
from acmeca.policy import profiles as policy_profiles
from tests.support.csrs import shared_key
from tests.support.profiles import DAY, make_profile
from tests.support.server import RunningCa, Site, ca_site, running_ca

# Each profile of the site in this file, as it begins.
WEB = {"lifetime": "30d", "maximum_lifetime": "60d"}


@pytest.fixture
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca(profiles={"web": WEB}) as ca:
        yield ca


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with ca_site(profiles={"web": WEB}) as site:
        await site.init()
        yield site


class TestKept:
    async def test_before_the_first_order(self, ca: RunningCa) -> None:
        """What is offered is kept at the start, so that no order waits for it; and told to the audit."""
        offered = ca.services.profiles.offer.profiles
        rows = await ca.rows("SELECT id, name, document FROM profiles")
        assert {row["name"]: (row["id"], row["document"]) for row in rows} == {
            name: (profile.id, profile.document) for name, profile in offered.items()
        }
        assert len(await ca.events("profile.recorded")) == len(offered)

    async def test_a_restart_keeps_nothing_again(self, site: Site) -> None:
        async with site.running() as ca:
            before = await ca.events("profile.recorded")
        async with site.running() as ca:
            assert await ca.events("profile.recorded") == before
        site.reconfigure(policy={"lifetime": "10d"})
        async with site.running() as ca:
            # server, client and kubernetes live as long as policy says; short and web say it themselves
            assert len(await ca.events("profile.recorded")) == len(before) + 3

    async def test_an_order_keeps_what_it_needs(self, site: Site) -> None:
        """Also where nothing was kept at the start: without its duties, or by a grant that makes a profile shorter."""
        async with site.opened() as ca:
            profiles = ca.services.profiles
            shorter = profiles.offer.profiles["web"].limited_to(7 * DAY)
            await asyncio.gather(*(profiles.keep(shorter) for _ in range(20)))
            assert await ca.scalar("SELECT COUNT(*) AS n FROM profiles") == 1
            assert await profiles.as_ordered("web", shorter.id) == shorter

    async def test_of_another_worker(self, ca: RunningCa, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that another process kept is read once, and known from then on."""
        profile = make_profile(name="web", lifetime=3 * DAY)
        await ca.store.profiles.keep(profile, at=ca.clock())
        read = 0
        by_id = ca.store.profiles.by_id

        async def counted(profile_id: str) -> Any:
            nonlocal read
            read += 1
            return await by_id(profile_id)

        monkeypatch.setattr(ca.store.profiles, "by_id", counted)
        for _ in range(3):
            assert await ca.services.profiles.as_ordered("web", profile.id) == profile
        assert read == 1

    async def test_one_that_is_not_there(self, ca: RunningCa) -> None:
        with pytest.raises(Problem) as caught:
            await ca.services.profiles.as_ordered("web", "0" * 64)
        assert caught.value.type is ProblemType.SERVER_INTERNAL


async def test_an_order_costs_nothing_for_its_profile(ca: RunningCa, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 2: no query, no parsing, no document in the way from newOrder to the certificate."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a profile was looked up")

    for method in ("keep", "by_id", "ids"):
        monkeypatch.setattr(ca.store.profiles, method, never)
    monkeypatch.setattr(ca.store.authorizations, "of_order", never)
    monkeypatch.setattr(policy_profiles, "parse_profile", never)
    monkeypatch.setattr(policy_profiles, "_dump", never)
    client = await ca.client()
    for profile in ca.services.profiles.offer.profiles:
        await client.issue("a.localhost", members={"profile": profile})


class TestChanged:
    """The configuration changed while an order was under way."""

    async def test_what_the_certificate_is_stays(self, site: Site) -> None:
        async with site.running() as ca:
            client = await ca.client()
            order = await client.ready_order("a.localhost", profile="web")
        site.reconfigure(profiles={"web": {"lifetime": "1d", "organization": "Late", "usages": ["client"]}})
        async with site.running() as ca:
            again = await ca.client(client.key)
            (await again.finalize(order)).ok()
            leaf, *_ = await again.download(await again.order(order.url))
            assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(days=30, seconds=-1)
            assert len(leaf.subject) == 0
            (row,) = await ca.rows(
                "SELECT c.profile, c.profile_id, o.profile_id AS ordered FROM certificates c"
                " JOIN orders o ON o.id = c.order_id"
            )
            assert row["profile"] == "web"
            assert row["profile_id"] == row["ordered"] != ca.services.profiles.offer.profiles["web"].id

    @pytest.mark.parametrize(
        ("change", "problem", "status", "told"),
        [
            ({"enabled": False}, "invalidProfile", 400, "the profile web is not offered any more; make a new order"),
            ({"allowed_names": ["b.localhost"]}, "rejectedIdentifier", 403, "not in profiles.web.allowed_names"),
            ({"key_types": ["rsa4096"]}, "badCSR", 400, "is p256, and the profile web takes rsa4096"),
        ],
    )
    async def test_what_is_forbidden_now(
        self, site: Site, change: dict[str, object], problem: str, status: int, told: str
    ) -> None:
        """It is refused, with what to do; the order stays ready, and goes on when the change is taken back."""
        async with site.running() as ca:
            client = await ca.client()
            order = await client.ready_order("a.localhost", profile="web")
        site.reconfigure(profiles={"web": WEB | change})
        async with site.running() as ca:
            again = await ca.client(client.key)
            answer = (await again.finalize(order)).refused(problem, status)
            assert told in str(answer.json)
            assert (await again.order(order.url)).status == "ready"
            assert len(await ca.events("issuance.refused")) == 1
            assert await ca.scalar("SELECT COUNT(*) AS n FROM certificates WHERE order_id IS NOT NULL") == 0
        site.reconfigure(profiles={"web": WEB})
        async with site.running() as ca:
            (await (await ca.client(client.key)).finalize(order)).ok()

    async def test_a_way_to_show_control(self, site: Site) -> None:
        """Control that was shown in a way that the profile has lost since counts no more (RULES §3), for every such name."""
        site.reconfigure(profiles={"web": WEB | {"challenges": ["http-01"]}})
        async with site.running() as ca:
            client = await ca.client()
            order = await client.ready_order("a.localhost", "b.localhost", "c.localhost", profile="web")
            # As if both types had been offered when the order was made, and two of three had used the other one.
            both = make_profile(name="web", challenges=(ChallengeType.HTTP_01, ChallengeType.TLS_ALPN_01))
            await ca.store.profiles.keep(both, at=ca.clock())
            await ca.execute("UPDATE orders SET profile_id = $1", both.id)
            await ca.execute(
                "UPDATE authorizations SET challenges = REPLACE(challenges, $1, $2) WHERE identifier_value <> 'b.localhost'",
                "http-01",
                "tls-alpn-01",
            )
            answer = (await client.finalize(order)).refused("unauthorized", 403)
            told = [item["identifier"]["value"] for item in answer.json["subproblems"]]
            assert told == ["a.localhost", "c.localhost"]
            assert "does not take any more; make a new order" in answer.json["subproblems"][0]["detail"]
            assert (await client.order(order.url)).status == "ready"


class TestKeyTypes:
    async def test_only_those_of_the_profile(self) -> None:
        """A key of another kind is `badCSR`, which says which are taken; the order stays ready for another CSR."""
        async with running_ca(profiles={"web": {"key_types": ["ed25519", "p384", "rsa4096"]}}) as ca:
            client = await ca.client()
            order = await client.ready_order("a.localhost", profile="web")
            for key, kind in (
                (ec.generate_private_key(ec.SECP256R1()), "p256"),
                (ec.generate_private_key(ec.SECP521R1()), "p521"),
                (shared_key("RSA"), "rsa2048"),
            ):
                answer = (await client.finalize(order, order.csr(key))).refused("badCSR", 400)
                assert answer.detail == (
                    f"the key in the CSR is {kind}, and the profile web takes rsa4096, p384, ed25519"
                )
            assert (await client.order(order.url)).status == "ready"
            (await client.finalize(order, order.csr(ed25519.Ed25519PrivateKey.generate()))).ok()
            await client.issue("a.localhost")  # the default profile takes what it took

    async def test_none_is_left(self, site: Site) -> None:
        """What the order's profile took then and today's takes now may have nothing in common."""
        site.reconfigure(profiles={"web": {"key_types": ["p256"]}})
        async with site.running() as ca:
            client = await ca.client()
            order = await client.ready_order("a.localhost", profile="web")
        site.reconfigure(profiles={"web": {"key_types": ["p384"]}})
        async with site.running() as ca:
            again = await ca.client(client.key)
            for key in (ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())):
                answer = (await again.finalize(order, order.csr(key))).refused("badCSR", 400)
                assert "takes no keys any more" in answer.detail


class TestGrants:
    """What a grant says of profiles: which, the first of them for who asks for none, and how long certificates live."""

    async def test_the_first_is_the_default(self, ca: RunningCa) -> None:
        client = await ca.bound_client(await ca.grant(profiles=["client", "web"]))
        assert (await client.new_order("a.localhost")).document["profile"] == "client"
        assert (await client.new_order("a.localhost", profile="web")).document["profile"] == "web"

    async def test_no_other_may_be_used(self, ca: RunningCa) -> None:
        client = await ca.bound_client(await ca.grant(profiles=["client", "web"]))
        answer = (await client.order_answer("a.localhost", profile="server")).refused("invalidProfile", 400)
        assert "use client or web, or leave it out" in answer.detail
        everybody = await ca.client()
        assert (await everybody.new_order("a.localhost", profile="server")).document["profile"] == "server"

    async def test_one_that_is_not_offered_any_more(self, site: Site) -> None:
        async with site.running() as ca:
            client = await ca.bound_client(await ca.grant(profiles=["web", "client"]))
            lost = await ca.bound_client(await ca.grant(profiles=["web"]))
        site.reconfigure(profiles={"web": {"enabled": False}})
        async with site.running() as ca:
            again = await ca.client(client.key)
            assert (await again.new_order("a.localhost")).document["profile"] == "client"
            answer = (await (await ca.client(lost.key)).order_answer("a.localhost")).refused("invalidProfile", 400)
            assert "the account may use web, which this server does not offer" in answer.detail

    async def test_no_certificate_lives_longer(self, site: Site) -> None:
        """A shorter profile under the same name: kept, and what the certificate is made by, also after a restart."""
        async with site.running() as ca:
            client = await ca.bound_client(await ca.grant(lifetime=10 * 86400))
            issued = await client.issue("a.localhost", members={"profile": "web"})
            assert issued.leaf.not_valid_after_utc - issued.leaf.not_valid_before_utc < 10 * DAY
            until = ca.clock() + 11 * DAY
            answer = await client.order_answer(
                "a.localhost", profile="web", notAfter=until.strftime("%Y-%m-%dT%H:%M:%SZ")
            )
            assert "the longest lifetime" in answer.refused("malformed", 400).detail
            order = await client.ready_order("a.localhost", profile="web")
            short = await client.issue("a.localhost", members={"profile": "short"})
            assert short.leaf.not_valid_after_utc - short.leaf.not_valid_before_utc < DAY
            documents = await ca.rows("SELECT document FROM profiles WHERE name = 'web'")
            assert len(documents) == 2
        async with site.running() as ca:
            again = await ca.client(client.key)
            (await again.finalize(order)).ok()
            leaf, *_ = await again.download(await again.order(order.url))
            assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(days=10, seconds=-1)

    async def test_what_is_authorized_beforehand_shows_a_type_of_the_profile(self, site: Site) -> None:
        """Clients read the token of a valid challenge, of a type that the profile would have offered."""
        site.reconfigure(profiles={"web": WEB | {"challenges": ["tls-alpn-01"]}})
        async with site.running() as ca:
            client = await ca.bound_client(await ca.grant(names=["*.localhost"], preauthorized=True))
            for profile, type_ in (("web", "tls-alpn-01"), ("server", "http-01")):
                order = await client.new_order("a.localhost", profile=profile)
                (challenge,) = (await client.authorization(order.authorizations[0]))["challenges"]
                assert (order.status, challenge["type"], challenge["status"]) == ("ready", type_, "valid")


class TestUsedAgain:
    async def test_only_if_the_profile_takes_how_it_was_shown(self, site: Site) -> None:
        """RULES §3: control that was shown before counts for another order "only if its challenge type is still allowed"."""
        site.reconfigure(profiles={"web": WEB | {"challenges": ["tls-alpn-01"]}})
        async with site.running() as ca:
            client = await ca.client()
            await client.ready_order("a.localhost")
            assert (await client.new_order("a.localhost", profile="client")).status == "ready"
            order = await client.new_order("a.localhost", profile="web")
            assert order.status == "pending"
            authorization = await client.authorization(order.authorizations[0])
            assert [challenge["type"] for challenge in authorization["challenges"]] == ["tls-alpn-01"]


async def test_an_order_from_before_profiles_were_kept(site: Site) -> None:
    """Its row has the name that all of them had, and no document: today's profile of that name."""
    async with site.running() as ca:
        client = await ca.client()
        order = await client.ready_order("a.localhost")
        await ca.execute("UPDATE orders SET profile_id = NULL")
        (await client.finalize(order)).ok()
        (row,) = await ca.rows("SELECT profile, profile_id FROM certificates WHERE order_id IS NOT NULL")
        assert (row["profile"], row["profile_id"]) == ("server", None)


async def test_how_control_was_shown_before_profiles_were_kept(site: Site) -> None:
    """RULES §3: "only if its challenge type is still allowed", also where nothing tells which types the order's profile took."""
    async with site.running() as ca:
        client = await ca.client()
        order = await client.ready_order("a.localhost")
        await ca.execute("UPDATE orders SET profile_id = NULL")
    site.reconfigure(profiles={"server": {"challenges": ["tls-alpn-01"]}})
    async with site.running() as ca:
        again = await ca.client(client.key)
        answer = (await again.finalize(order)).refused("unauthorized", 403)
        assert "does not take any more; make a new order" in str(answer.json)
        assert await ca.scalar("SELECT COUNT(*) AS n FROM certificates WHERE order_id IS NOT NULL") == 0


async def test_the_certificate_and_the_audit_name_the_document(ca: RunningCa) -> None:
    client = await ca.client()
    await client.issue("a.localhost", members={"profile": "web"})
    profile = ca.services.profiles.offer.profiles["web"]
    (row,) = await ca.rows("SELECT profile, profile_id FROM certificates WHERE order_id IS NOT NULL")
    assert (row["profile"], row["profile_id"]) == ("web", profile.id)
    (recorded,) = [event for event in await ca.events("certificate.recorded") if profile.id in event]
    assert '"profile":"web"' in recorded
    own = await ca.rows("SELECT profile_id FROM certificates WHERE order_id IS NULL")
    assert {row["profile_id"] for row in own} == {None}
