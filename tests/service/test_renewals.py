"""Renewals on a whole CA: what operators set and clients are told, other issuers, fifty at once, and several processes."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any, Final

import pytest

from acmeca.acme.payloads import NewOrder
from acmeca.acme.problem import Problem, ProblemType
from acmeca.acme.renewal import CertificateId, RenewalInfo
from acmeca.app import Opened
from acmeca.errors import AcmecaError, Conflict, NotFound
from acmeca.service import renewal_windows
from acmeca.service.issuers import Issuers
from acmeca.service.renewals import Renewals
from acmeca.storage.postgres import PostgresDatabase
from acmeca.storage.store import Store
from acmeca.storage.writers import Writer
from tests.support import stored
from tests.support.acme_client import AcmeClient, Issued, renewal_identifier
from tests.support.instances import another_instance
from tests.support.postgres import lend_database, shared_server
from tests.support.server import RunningCa, ca_site, running_ca
from tests.support.status_issuers import make_issuer

URL = "https://wiki.corp.internal/ca/42"
HOUR = 3600


@pytest.fixture
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca(duties=False) as ca:
        yield ca


@pytest.fixture
async def client(ca: RunningCa) -> AcmeClient:
    return await ca.client()


async def call(ca: RunningCa, operation: str, **arguments: object) -> dict[str, Any]:
    return await ca.opened.administration.call(operation, arguments, user="jo")


async def told(opened: RunningCa | Opened, issued: Issued) -> RenewalInfo:
    return await opened.services.renewals.renewal_info(renewal_identifier(issued.leaf))


async def ids(ca: RunningCa) -> list[str]:
    return [item["id"] for item in (await call(ca, "renewal_list"))["renewals"]]


# --- what operators set -------------------------------------------------------------------------------------------


REFUSED: Final[tuple[tuple[dict[str, Any], str], ...]] = (
    ({}, "say which certificates"),
    ({"all": True, "name": "a.localhost"}, "say which certificates"),
    ({"all": 1}, "say which certificates"),
    ({"serials": "abc"}, "serials: a list"),
    ({"serials": [5]}, "serials: a list"),
    ({"serials": ["0xabcd"]}, "no certificate with serial"),
    ({"serials": ["x"]}, "is no serial"),
    ({"serials": ["1"] * 1001}, "1000 at the most"),
    ({"name": "*"}, "name:"),
    ({"issuer": "nobody"}, "there is no issuer nobody"),
    ({"key": "ab"}, "key: 'ab' is no SHA-256"),
    ({"key": "x" * 64}, "is no SHA-256"),
    ({"all": True, "within": 59}, "within: from a minute"),
    ({"all": True, "within": 367 * 86400}, "within: from a minute to a year"),
    ({"all": True, "within": 10**18}, "within: from a minute to a year"),
    ({"all": True, "within": "1h"}, "within: a whole number"),
    ({"all": True, "from": 10**18}, "from: that is beyond any calendar"),
    ({"all": True, "from": 0}, "from: the window is over already"),
    ({"all": True, "from": 4 * 10**9}, "no certificate of today is valid any more"),
    ({"all": True, "at_once": True, "within": HOUR}, "at_once: a window that is over takes no from"),
    ({"all": True, "at_once": True, "from": 0}, "at_once: a window that is over takes no from"),
    ({"all": True, "why": "wiki"}, "why: 'wiki' is no URL"),
    ({"all": True, "why": "javascript:alert(1)"}, "is no URL"),
    ({"all": True, "why": "https://"}, "is no URL"),
    ({"all": True, "why": "https://[x/"}, "is no URL"),
    ({"all": True, "why": "https://wiki/a b"}, "is no URL"),
    ({"all": True, "why": "https://wiki/\n"}, "is no URL"),
    ({"all": True, "why": "https://wiki/é"}, "is no URL"),
    ({"all": True, "why": "https://wiki/" + "a" * 500}, "is no URL"),
    ({"issued_after": 10**18}, "issued_after: that is beyond any calendar"),
    ({"expires_within": 10**18}, "expires_within: that is beyond any calendar"),
)


class TestWindows:
    async def test_of_one_certificate(self, ca: RunningCa, client: AcmeClient) -> None:
        one, other = await client.issue("one.localhost"), await client.issue("other.localhost")
        own = await told(ca, other)
        result = await call(ca, "renewal_set", serials=[f"{one.serial:x}"], within=2 * HOUR, why=URL)
        info = await told(ca, one)
        assert (info.window.start, info.window.end) == (ca.clock.moment, ca.clock.moment + timedelta(hours=2))
        assert (info.explanation_url, info.retry_after) == (URL, HOUR // 2)
        assert await told(ca, other) == own
        assert (result["certificates"], result["left"]) == (1, 1)

    async def test_of_everything_below_a_suffix(self, ca: RunningCa, client: AcmeClient) -> None:
        """And of what is issued afterwards nothing: it would be renewed again and again."""
        old = [await client.issue(name) for name in ("a.db.localhost", "b.db.localhost", "c.localhost")]
        await call(ca, "renewal_set", name="*.db.localhost", within=HOUR)
        ca.clock.advance(minutes=1)
        new = await client.issue("a.db.localhost", replaces=old[0])
        windows = [(await told(ca, item)).window for item in (*old, new)]
        assert windows[0] == windows[1]
        assert windows[0].start == ca.clock.moment - timedelta(minutes=1)
        assert ca.clock.moment + timedelta(days=40) < windows[2].start
        assert ca.clock.moment + timedelta(days=40) < windows[3].start

    async def test_the_newest_counts(self, ca: RunningCa, client: AcmeClient) -> None:
        """And when it is cleared, the one before it does."""
        one = await client.issue("one.localhost")
        own = await told(ca, one)
        for hours in (5, 3, 4):
            await call(ca, "renewal_set", all=True, within=hours * HOUR)
        for hours in (4, 3, 5):
            assert (await told(ca, one)).window.end == ca.clock.moment + timedelta(hours=hours)
            await call(ca, "renewal_clear", id=(await ids(ca))[0])
        assert await told(ca, one) == own
        assert await ids(ca) == []
        assert len((await call(ca, "renewal_list", all=True))["renewals"]) == 3

    async def test_at_once(self, ca: RunningCa, client: AcmeClient) -> None:
        """A window that is over: whatever moment a client chooses in it, it is in the past."""
        one = await client.issue("one.localhost")
        await call(ca, "renewal_set", name="one.localhost", at_once=True)
        window = (await told(ca, one)).window
        assert (window.start, window.end) == (ca.clock.moment - timedelta(hours=1), ca.clock.moment)

    async def test_it_is_in_the_audit_once_for_all(self, ca: RunningCa, client: AcmeClient) -> None:
        for number in range(3):
            await client.issue(f"{number}.localhost")
        moment = int(ca.clock.moment.timestamp()) + HOUR
        result = await call(ca, "renewal_set", name="*.localhost", **{"from": moment}, within=HOUR, why=URL)
        (event,) = [json.loads(text) for text in await ca.events("renewal.set")]
        assert event == {
            "kind": "renewal.set",
            "subject": result["id"],
            "actor": "admin:jo",
            "override_id": result["id"],
            "selection": {"name": "*.localhost"},
            "certificates": 3,
            "renew_from": result["from"],
            "renew_until": result["until"],
            "explanation_url": URL,
        }
        await call(ca, "renewal_clear", id=result["id"])
        (event,) = [json.loads(text) for text in await ca.events("renewal.cleared")]
        assert (event["actor"], event["subject"]) == ("admin:jo", result["id"])

    async def test_a_preview_sets_nothing(self, ca: RunningCa, client: AcmeClient) -> None:
        await client.issue("one.localhost")
        preview = await call(ca, "renewal_preview", all=True)
        assert (preview["certificates"], preview["left"], preview["ending"]) == (1, 1, 0)
        assert await ids(ca) == []
        assert await ca.events("renewal.set") == []

    async def test_the_servers_own_certificates_are_not_meant(self, ca: RunningCa) -> None:
        with pytest.raises(NotFound, match="no certificate fits that is neither expired nor revoked; nothing was set"):
            await call(ca, "renewal_set", all=True)

    async def test_every_way_to_say_which(self, ca: RunningCa, client: AcmeClient) -> None:
        one = await client.issue("one.localhost")
        shown = await call(ca, "show", serial=f"0x{one.serial:x}")
        now = int(ca.clock.moment.timestamp())
        for arguments in (
            {"serials": [f"0x{one.serial:x}", one.leaf.serial_number.to_bytes(17, "big").hex(":")]},
            {"name": "ONE.localhost."},
            {"issuer": ca.issuer.id},
            {"profile": "server"},
            {"account": shown["account"]},
            {"key": shown["spki_sha256"].upper()},
            {"issued_after": now, "issued_before": now + 1},
            {"expires_within": 91 * 86400},
        ):
            assert (await call(ca, "renewal_preview", **arguments))["certificates"] == 1, arguments
        for arguments in (
            {"name": "two.localhost"},
            {"profile": "client"},
            {"account": "nobody"},
            {"grant": "none"},
            {"key": "ab" * 32},
            {"issued_after": now + 1},
            {"issued_before": now},
            {"expires_within": 60},
        ):
            assert (await call(ca, "renewal_preview", **arguments))["certificates"] == 0, arguments

    async def test_what_is_no_window(self, ca: RunningCa) -> None:
        for arguments, why in REFUSED:
            for operation in ("renewal_preview", "renewal_set"):
                with pytest.raises(AcmecaError, match=why) as caught:
                    await call(ca, operation, **arguments)
                assert len(str(caught.value)) < 200
        assert await ids(ca) == []

    async def test_what_is_not_there(self, ca: RunningCa, client: AcmeClient) -> None:
        await client.issue("one.localhost")
        made = (await call(ca, "renewal_set", all=True))["id"]
        await call(ca, "renewal_clear", id=made)
        with pytest.raises(Conflict, match="was cleared before"):
            await call(ca, "renewal_clear", id=made)
        for operation in ("renewal_clear", "renewal_progress", "renewal_serials"):
            with pytest.raises(NotFound, match="there is no window"):
                await call(ca, operation, id="none")
        with pytest.raises(AcmecaError, match="state: 'lost' is none; one of replaced, renewed, left is"):
            await call(ca, "renewal_serials", id=made, state="lost")

    async def test_it_survives_a_restart(self) -> None:
        async with ca_site() as site:
            await site.init()
            async with site.running(duties=False) as ca:
                one = await (await ca.client()).issue("one.localhost")
                await call(ca, "renewal_set", all=True, within=HOUR, why=URL)
                before = await told(ca, one)
            async with site.opened() as ca:
                assert await told(ca, one) == before


class TestProgress:
    async def test_from_the_word_to_the_revocation(
        self, ca: RunningCa, client: AcmeClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Replace before you revoke: one client says what it replaces, one does not, one is asleep."""
        monkeypatch.setattr(renewal_windows, "_PAGE", 1)
        old = [await client.issue(f"{name}.localhost") for name in ("said", "unsaid", "asleep")]
        made = (await call(ca, "renewal_set", name="*.localhost", within=4 * HOUR))["id"]
        ca.clock.advance(hours=1)
        new = await client.issue("said.localhost", replaces=old[0])
        await client.issue("unsaid.localhost")
        progress = await call(ca, "renewal_progress", id=made)
        assert {name: progress[name] for name in ("certificates", "revoked", "replaced", "renewed", "left")} == {
            "certificates": 3,
            "revoked": 0,
            "replaced": 1,
            "renewed": 1,
            "left": 1,
        }
        for state, item in zip(("replaced", "renewed", "left"), old, strict=True):
            page = await call(ca, "renewal_serials", id=made, state=state)
            assert [int(serial, 16) for serial in page["serials"]] == [item.serial]
            assert await call(ca, "renewal_serials", id=made, state=state, after=page["after"]) == {
                "serials": [],
                "after": None,
            }
        await call(ca, "revoke", serial=f"0x{old[0].serial:x}", reason="superseded")
        progress = await call(ca, "renewal_progress", id=made)
        assert (progress["revoked"], progress["replaced"], progress["left"]) == (1, 0, 1)

        shown = await call(ca, "show", serial=f"0x{old[0].serial:x}")
        assert int(shown["replaced_by"], 16) == new.serial
        assert (shown["replaces"], shown["renewal"]) == (None, made)
        shown = await call(ca, "show", serial=f"0x{new.serial:x}")
        assert int(shown["replaces"], 16) == old[0].serial
        assert (shown["replaced_by"], shown["renewal"], shown["renew_why"]) == (None, None, None)
        assert datetime.fromisoformat(shown["renew_from"]) < datetime.fromisoformat(shown["renew_until"])

    async def test_a_certificate_that_was_replaced_by_a_forgotten_one(self, ca: RunningCa, client: AcmeClient) -> None:
        old = await client.issue("one.localhost")
        await ca.execute("UPDATE certificates SET replaced_by = 'gone' WHERE account_id IS NOT NULL")
        assert (await call(ca, "show", serial=f"0x{old.serial:x}"))["replaced_by"] == "forgotten"

    async def test_one_that_was_never_signed(self, ca: RunningCa, client: AcmeClient) -> None:
        one = await client.issue("one.localhost")
        await ca.execute("UPDATE certificates SET signature = NULL, issued_at = NULL WHERE account_id IS NOT NULL")
        shown = await call(ca, "show", serial=f"0x{one.serial:x}")
        assert (shown["renew_from"], shown["renew_until"], shown["replaced_by"]) == (None, None, None)
        with pytest.raises(Problem, match="there is no such certificate"):
            await told(ca, one)


# --- issuers ------------------------------------------------------------------------------------------------------


class TestIssuers:
    def renewals(self, ca: RunningCa, *more: Any) -> Renewals:
        issuers = Issuers([*ca.services.issuers.all, *more], open_key=lambda path: ca.site.open_key(ca.data_dir / path))
        return Renewals(ca.store, issuers=issuers, longest_wait=timedelta(hours=6), ambient=ca.services.ambient)

    async def test_another_issuers_certificate_is_not_ours(self, ca: RunningCa, client: AcmeClient) -> None:
        """Rule 1: the serial is there, and the key identifier is another issuer's, of this CA or of none."""
        one = await client.issue("one.localhost")
        other = dataclasses.replace(stored.stored_issuer("other"), key_reference=None)
        assert other.issuer.key_identifier != ca.issuer.key_identifier
        renewals = self.renewals(ca, other)
        for key_identifier in (other.issuer.key_identifier, ca.root.key_identifier, bytes(20)):
            with pytest.raises(Problem, match="there is no such certificate"):
                await renewals.renewal_info(str(CertificateId(key_identifier, one.serial)))

    async def test_issuers_that_share_a_key(self, ca: RunningCa, client: AcmeClient) -> None:
        """Two certificates for one key (a cross-sign): both are the issuer that the identifier names."""
        one = await client.issue("one.localhost")
        stored_issuer = ca.services.issuers.stored(ca.issuer.id)
        assert stored_issuer is not None
        twin = dataclasses.replace(
            stored_issuer, issuer=dataclasses.replace(stored_issuer.issuer, id="twin"), key_reference=None
        )
        identifier = renewal_identifier(one.leaf)
        expected = await told(ca, one)
        for order in ([twin], []):
            assert await self.renewals(ca, *order).renewal_info(identifier) == expected

    async def test_a_made_up_issuer_is_none(self, ca: RunningCa) -> None:
        foreign = make_issuer("P-256").issuer
        with pytest.raises(Problem, match="there is no such certificate"):
            await ca.services.renewals.renewal_info(str(CertificateId(foreign.key_identifier, 1)))


# --- newOrder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_fifty_clients_at_once(engine: str) -> None:
    """RFC 9773 §5, exact under concurrency: one order is made, 49 are 409, and of those nothing is kept."""
    async with AsyncExitStack() as stack:
        storage = {}
        if engine == "postgresql":
            storage = {"url": shared_server().url(await stack.enter_async_context(lend_database()))}
        ca = await stack.enter_async_context(running_ca(duties=False, storage=storage))
        client = await ca.client()
        old = await client.issue("raced.localhost")
        members = {"replaces": renewal_identifier(old.leaf)}
        answers = await asyncio.gather(*(client.order_answer("raced.localhost", **members) for _ in range(50)))
        assert sorted(answer.status for answer in answers) == [201] + [409] * 49
        assert {answer.problem for answer in answers} == {None, "alreadyReplaced"}
        assert await ca.scalar("SELECT COUNT(*) AS n FROM orders WHERE replaces IS NOT NULL") == 1
        # The one that was shown for the first order serves the second as well.
        assert (
            await ca.scalar("SELECT COUNT(*) AS n FROM authorizations WHERE identifier_value = 'raced.localhost'") == 1
        )


async def test_fifty_at_two_workers(ca: RunningCa, client: AcmeClient) -> None:
    old = await client.issue("raced.localhost")
    account = await ca.store.accounts.by_id(client.account_url.rpartition("/")[2])
    assert account is not None
    request = NewOrder(
        identifiers=(stored.authorization(account, "raced.localhost").identifier,),
        replaces=renewal_identifier(old.leaf),
    )
    async with another_instance(ca) as (other, _):
        outcomes = await asyncio.gather(
            *(opened.services.orders.new_order(account, request) for opened in (ca.opened, other) * 25),
            return_exceptions=True,
        )
    refused = [outcome for outcome in outcomes if isinstance(outcome, Problem)]
    assert len(refused) == 49
    assert {problem.type for problem in refused} == {ProblemType.ALREADY_REPLACED}


async def test_fifty_at_two_replicas() -> None:
    """The same on PostgreSQL, with a connection of its own for each."""
    async with lend_database() as name, AsyncExitStack() as stack:
        stores = []
        for writer in ("one", "two"):
            database = await PostgresDatabase.open(shared_server().url(name))
            stack.push_async_callback(database.close)
            stores.append(Store(database, writer=Writer(writer, f"{writer}-1")))
        await stores[0].issuers.create(
            [stored.stored_root(), stored.stored_issuer()], [stored.root_crl()], actor="admin:test", at=stored.NOW
        )
        owner = await stored.kept_account(stores[0])
        old = await stored.issued_certificate(stores[0], owner=owner)
        outcomes = await asyncio.gather(
            *(stored.kept_order(store, owner, replaces=stored.identifier(old)) for store in stores * 25),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, tuple) for outcome in outcomes) == 1
        assert await stored.rows(stores[1], "SELECT COUNT(*) FROM orders") == [(1,)]


async def test_what_one_worker_sets_all_tell_within_a_second(ca: RunningCa, client: AcmeClient) -> None:
    """Rule 4."""
    one = await client.issue("one.localhost")
    async with another_instance(ca) as (other, _):
        own = await told(other, one)
        made = (await call(ca, "renewal_set", all=True, within=HOUR))["id"]
        ca.site.clock.uptime += 1
        assert await told(other, one) == await told(ca, one) != own
        await call(ca, "renewal_clear", id=made)
        ca.site.clock.uptime += 1
        assert await told(other, one) == await told(ca, one) == own


async def test_a_client_that_asks_costs_one_read(
    ca: RunningCa, client: AcmeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 2; one more for the names, where an operator has named some."""
    one = await client.issue("one.localhost")
    await told(ca, one)
    reads: list[str] = []
    fetch_one, fetch_all = ca.store.database.fetch_one, ca.store.database.fetch_all

    async def noted_one(sql: str, *args: Any) -> Any:
        reads.append(sql)
        return await fetch_one(sql, *args)

    async def noted_all(sql: str, *args: Any) -> Any:
        reads.append(sql)
        return await fetch_all(sql, *args)

    monkeypatch.setattr(ca.store.database, "fetch_one", noted_one)
    monkeypatch.setattr(ca.store.database, "fetch_all", noted_all)
    await told(ca, one)
    assert len(reads) == 1
    await call(ca, "renewal_set", name="*.localhost")
    await told(ca, one)
    reads.clear()
    await told(ca, one)
    assert len(reads) == 2
