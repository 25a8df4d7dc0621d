"""What is replayed brings back everything that was journalled, however often and in whatever portions; and never too much."""

import asyncio
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acmeca.acme.objects import Account
from acmeca.audit import AccountKeyChanged, AuthorizationDeactivated, build_record
from acmeca.policy.grants import dump_terms
from acmeca.storage import audit as stored_audit
from acmeca.storage.database import Entry
from acmeca.storage.errors import GrantRefusedError
from acmeca.storage.journal import Commit, JournalError
from acmeca.storage.journal_kinds import ADDED, KINDS
from acmeca.storage.journals import gather
from acmeca.storage.placing import PLACES, Tally
from acmeca.storage.replay import raise_last_commits, replay
from acmeca.storage.store import Store
from tests.support import stored
from tests.support.databases import connect, open_database
from tests.support.journalled import (
    journalled_state,
    journalled_store,
    live,
    make_hierarchy,
    publish,
    revoke,
)
from tests.support.profiles import make_profile
from tests.support.server import temporary_directory
from tests.support.stored import rows


@dataclass(frozen=True, repr=False)  # hypothesis prints it
class History:
    """A database as it was at some moment (`base`), everything that was journalled, and what it was in the end."""

    base: Path
    base_number: int
    commits: tuple[Commit, ...]
    state: dict[str, list[Any]]


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    """Seventy acts of three writers, one of which is killed and followed by another; the base is from the middle."""
    with temporary_directory() as directory:
        asyncio.run(_make_history(directory))
        with connect(directory / "base.db") as connection:
            (number,) = connection.execute("SELECT MAX(last_commit) FROM writers").fetchone()
        commits = tuple(gather([directory / "journal"]).commits())
        yield History(directory / "base.db", number, commits, journalled_state(directory / "acmeca.db"))


async def _make_history(directory: Path) -> None:
    async with journalled_store(directory, name="a") as a, journalled_store(directory, name="b") as b:
        await make_hierarchy(a)
        await live([a, b], 30, seed=1)
        with connect(directory / "acmeca.db") as connection:
            connection.execute(f"VACUUM INTO '{directory / 'base.db'}'")
        async with journalled_store(directory, name="c", segment_bytes=4096) as c:
            await live([a, b, c], 25, seed=2)
    async with journalled_store(directory, name="b") as b:
        await live([b], 15, seed=3)


async def replayed(base: Path, portions: Sequence[Sequence[Commit]], *, number: int = 0) -> dict[str, list[Any]]:
    with temporary_directory() as directory:
        path = directory / "acmeca.db"
        shutil.copyfile(base, path)
        path.chmod(0o600)
        async with open_database(path) as database:
            for portion in portions:
                await replay(database, portion, base=number)
            assert await stored_audit.verify(database) == []
        return journalled_state(path)


async def test_everything_that_is_journalled_is_in_the_history(history: History) -> None:
    """Rule: a kind that no test replays is a kind that is forgotten."""
    kinds = {entry.kind for commit in history.commits for entry in commit.entries}
    assert kinds == KINDS.keys() == PLACES.keys()


async def test_a_backup_and_the_journal_are_the_database(history: History) -> None:
    assert await replayed(history.base, [history.commits], number=history.base_number) == history.state


async def test_the_journal_alone_is_the_database(history: History, tmp_path: Path) -> None:
    async with open_database(tmp_path / "empty.db"):
        pass
    assert await replayed(tmp_path / "empty.db", [history.commits]) == history.state


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=3))
def test_portions_and_repetitions_change_nothing(history: History, cuts: list[tuple[float, float]]) -> None:
    """Prefixes, suffixes and pieces out of the middle, replayed before and after the whole: the same state."""
    length = len(history.commits)
    pieces = [history.commits[int(min(cut) * length) : int(max(cut) * length)] for cut in cuts]
    first = history.commits[: length // 2]  # a piece rests on what came before it
    found = asyncio.run(replayed(history.base, [first, history.commits, *pieces, history.commits]))
    assert found == history.state


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.floats(0, 1))
def test_a_suffix_first_and_the_whole_later(history: History, start: float) -> None:
    """What could not be placed without what came before it is placed when that is there."""
    suffix = history.commits[int(start * len(history.commits)) :]

    async def work() -> dict[str, list[Any]]:
        with temporary_directory() as directory:
            path = directory / "acmeca.db"
            shutil.copyfile(history.base, path)
            path.chmod(0o600)
            async with open_database(path) as database:
                await replay(database, suffix)
                await replay(database, history.commits)
                assert await stored_audit.verify(database) == []
            return journalled_state(path)

    found = asyncio.run(work())
    expected = history.state
    # Two writers' changes of one account's contacts have no order but the journals': the last word is the suffix's or later.
    assert {name: value for name, value in found.items() if name != "accounts"} == {
        name: value for name, value in expected.items() if name != "accounts"
    }
    assert [(row[:4], row[6]) for row in found["accounts"]] == [(row[:4], row[6]) for row in expected["accounts"]]


async def test_numbers_go_on_rising(tmp_path: Path) -> None:
    async with open_database(tmp_path / "acmeca.db") as database:
        await raise_last_commits(database, {"a": 7, "b": 3})
        await raise_last_commits(database, {"a": 5, "b": 9})
        found = await database.fetch_all("SELECT name, last_commit FROM writers ORDER BY name")
        assert [tuple(row) for row in found] == [("a", 7), ("b", 9)]


# --- single entries -----------------------------------------------------------------------------------------------


@pytest.fixture
async def kept() -> Any:
    async with stored.open_store() as store:
        yield store


async def place(store: Store, kind: str, /, **values: Any) -> Tally:
    return await replay(store.database, [Commit("w", 1, 0, (Entry(kind, values),))])


def certificate_entry(**changes: Any) -> dict[str, Any]:
    made = stored.certificate()
    return {
        "id": made.id,
        "serial": made.serial,
        "issuer_id": "issuer",
        "account_id": None,
        "order_id": None,
        "profile": "server",
        "profile_id": None,
        "names": json.dumps(["a.example.org", "*.b.example.org"]),
        "spki_sha256": made.spki_sha256,
        "not_before": 1,
        "not_after": 2,
        "tbs": b"tbs",
        "recorded_at": 1,
    } | changes


class TestCertificates:
    async def test_one_without_its_order_keeps_account_and_names(self, kept: Store) -> None:
        owner = await stored.kept_account(kept)
        entry = certificate_entry(account_id=owner.id, order_id="gone")
        await place(kept, "certificate", **entry)
        assert await rows(kept, "SELECT account_id, order_id FROM certificates") == [(owner.id, None)]
        assert await rows(kept, "SELECT name, reversed_name FROM certificate_names ORDER BY name") == [
            ("*.b.example.org", "org.example.b.*."),
            ("a.example.org", "org.example.a."),
        ]

    async def test_an_order_that_is_there_moves_on_with_it(self, kept: Store) -> None:
        """Otherwise its client could finalize it a second time."""
        owner = await stored.kept_account(kept)
        order, _ = await stored.ready_order(kept, owner)
        entry = certificate_entry(account_id=owner.id, order_id=order.id)
        await place(kept, "certificate", **entry)
        assert await rows(kept, "SELECT status FROM orders") == [("processing",)]
        await place(kept, "signature", id=entry["id"], signature=b"s", issued_at=3)
        assert await rows(kept, "SELECT status, certificate_id FROM orders") == [("valid", entry["id"])]
        # A second one for the order is a certificate all the same.
        other = certificate_entry(account_id=owner.id, order_id=order.id)
        await place(kept, "certificate", **other)
        assert await rows(kept, "SELECT order_id FROM certificates WHERE id = $1", other["id"]) == [(None,)]

    async def test_one_of_an_earlier_program(self, kept: Store) -> None:
        """Rule 7: profiles had no documents then."""
        entry = certificate_entry()
        del entry["profile_id"]
        assert (await place(kept, "certificate", **entry)).unplaced == []
        assert await rows(kept, "SELECT profile, profile_id FROM certificates") == [("server", None)]

    async def test_its_profile_comes_back_with_it(self, kept: Store) -> None:
        profile = make_profile(name="web")
        await place(kept, "profile", id=profile.id, name=profile.name, document=profile.document)
        await place(kept, "certificate", **certificate_entry(profile="web", profile_id=profile.id))
        assert await rows(kept, "SELECT profile_id FROM certificates") == [(profile.id,)]
        assert await kept.profiles.by_id(profile.id) == profile

    async def test_a_profile_that_comes_later(self, kept: Store) -> None:
        """The certificate is known without it; when the profile is there, the entry finds it."""
        profile = make_profile(name="web")
        entry = certificate_entry(profile="web", profile_id=profile.id)
        tally = await place(kept, "certificate", **entry)
        assert tally.unplaced == [f"the profile {profile.id} of certificate {entry['serial']}, which is there without"]
        await place(kept, "profile", id=profile.id, name=profile.name, document=profile.document)
        assert (await place(kept, "certificate", **entry)).commits == 1
        assert await rows(kept, "SELECT profile_id FROM certificates") == [(profile.id,)]
        assert (await place(kept, "certificate", **entry)).commits == 0

    async def test_a_signature_that_is_there_stays(self, kept: Store) -> None:
        made = await stored.issued_certificate(kept)
        tally = await place(kept, "signature", id=made.id, signature=b"another", issued_at=9)
        assert tally.commits == 0
        assert await rows(kept, "SELECT signature FROM certificates") == [(b"signature",)]

    async def test_one_whose_account_is_missing_is_known_all_the_same(self, kept: Store) -> None:
        entry = certificate_entry(account_id="gone")
        tally = await place(kept, "certificate", **entry)
        assert "gone" in tally.unplaced[0]
        assert await rows(kept, "SELECT serial FROM certificates") == [(entry["serial"],)]

    @pytest.mark.parametrize(
        ("kind", "values"),
        [
            ("certificate", certificate_entry(issuer_id="gone")),
            ("signature", {"id": "gone", "signature": b"", "issued_at": 1}),
            ("revocation", {"id": "gone", "revoked_at": 1, "revocation_reason": None, "revocation_sequence": 1}),
            ("contact", {"id": "gone", "contact": "[]"}),
            ("account.deactivated", {"id": "gone"}),
            ("account.key", {"id": "gone", "old_thumbprint": "a", "thumbprint": "b", "jwk": "{}"}),
            ("crl.published", {"issuer_id": "gone", "number": 1, "der": b""}),
            (
                "crl",
                {
                    "issuer_id": "gone",
                    "number": 1,
                    "this_update": 1,
                    "next_update": 1,
                    "through_sequence": 0,
                    "entries": 0,
                },
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    async def test_what_rests_on_nothing_is_told(self, kept: Store, kind: str, values: dict[str, Any]) -> None:
        tally = await place(kept, kind, **values)
        assert (tally.commits, tally.unplaced_count) == (0, 1)
        assert "gone" in tally.unplaced[0]


class TestRevocations:
    async def revoked(self, store: Store, made: Any) -> tuple[Any, ...]:
        (row,) = await rows(
            store,
            "SELECT revoked_at, revocation_reason, revocation_sequence FROM certificates WHERE id = $1",
            made.id,
        )
        return row

    async def test_revoked_never_becomes_good_and_a_reason_only_rises(self, kept: Store) -> None:
        made = await stored.issued_certificate(kept)
        entry = {"id": made.id, "revoked_at": 5, "revocation_reason": 4, "revocation_sequence": 3}
        await place(kept, "revocation", **entry)
        assert await self.revoked(kept, made) == (5, 4, 3)
        for changes in ({"revocation_reason": None}, {"revocation_reason": 5}, {"revoked_at": 9}):
            assert (await place(kept, "revocation", **(entry | changes))).commits == 0
        await place(kept, "revocation", **(entry | {"revocation_reason": 1, "revocation_sequence": 8}))
        assert await self.revoked(kept, made) == (5, 1, 8)
        await place(kept, "revocation", **entry)
        assert await self.revoked(kept, made) == (5, 1, 8)

    async def test_a_sequence_that_is_taken(self, kept: Store) -> None:
        """ "revocation_sequence kept, or the next number where it is taken": two have never one."""
        first, second = [await stored.issued_certificate(kept) for _ in range(2)]
        for made in (first, second):
            await place(kept, "revocation", id=made.id, revoked_at=5, revocation_reason=None, revocation_sequence=7)
        assert (await self.revoked(kept, first))[2] == 7
        assert (await self.revoked(kept, second))[2] == 8

    async def test_a_blocked_key_stays_blocked(self, kept: Store) -> None:
        made = await stored.issued_certificate(kept)
        await revoke(kept, made, reason=1)
        before = await rows(kept, "SELECT * FROM blocked_keys")
        tally = await place(
            kept, "blocked_key", spki_sha256=made.spki_sha256, thumbprint="other", blocked_at=9, serial=None
        )
        assert tally.commits == 0
        assert await rows(kept, "SELECT * FROM blocked_keys") == before

    async def test_a_key_that_an_administrator_blocked(self, kept: Store) -> None:
        """It comes back with its reason, and with the thumbprint that was found for it; twice is once."""
        entry = {"spki_sha256": bytes(32), "thumbprint": "", "blocked_at": 9, "serial": None}
        for _ in range(2):
            await place(kept, "blocked_key", **entry)
            await place(kept, "blocked_key.why", spki_sha256=bytes(32), why="it leaked")
        found = "SELECT thumbprint, blocked_at, serial, why FROM blocked_keys"
        assert await rows(kept, found) == [("", 9, None, "it leaked")]
        await place(kept, "blocked_key", **(entry | {"thumbprint": "t"}))
        await place(kept, "blocked_key", **(entry | {"thumbprint": "other", "blocked_at": 10}))
        tally = await place(kept, "blocked_key.why", spki_sha256=bytes(32), why="another")
        assert tally.commits == 0
        assert await rows(kept, found) == [("t", 9, None, "it leaked")]


class TestAccounts:
    ENTRY: ClassVar = {"id": "new", "thumbprint": "t", "jwk": "{}", "status": "valid", "contact": "[]", "created_at": 1}

    async def test_deactivated_stays(self, kept: Store) -> None:
        owner = await stored.kept_account(kept)
        await stored.kept_order(kept, owner)
        await place(kept, "account.deactivated", id=owner.id)
        assert await rows(kept, "SELECT status FROM accounts") == [("deactivated",)]
        assert await rows(kept, "SELECT status FROM orders") == [("invalid",)]
        values = self.ENTRY | {"id": owner.id, "thumbprint": owner.thumbprint}
        assert (await place(kept, "account", **values)).commits == 0
        assert (await place(kept, "account.deactivated", id=owner.id)).commits == 0
        assert await rows(kept, "SELECT status FROM accounts") == [("deactivated",)]

    async def test_one_that_was_never_used_gives_way_to_the_one_that_has_its_key(self, kept: Store) -> None:
        """A process died between journal and commit, and the client tried again."""
        await place(kept, "account", **(self.ENTRY | {"id": "never"}))
        await place(kept, "account", **self.ENTRY)
        assert await rows(kept, "SELECT id FROM accounts") == [("new",)]

    async def test_one_that_was_used_stays(self, kept: Store) -> None:
        owner = await stored.kept_account(kept)
        await stored.kept_order(kept, owner)
        tally = await place(kept, "account", **(self.ENTRY | {"thumbprint": owner.thumbprint}))
        assert tally.unplaced == [f"account new: its key has another account, {owner.id}"]


class TestAccountKeys:
    """RULES §2: "The old key stops working at once, everywhere": a restore is no way back to it."""

    async def change(self, store: Store, owner: Account, old: str, new: str, *, sequence: int | None = None) -> Tally:
        """One commit of the writer `w`, with a record of its own where a `sequence` is given."""
        values = {"id": owner.id, "old_thumbprint": old, "thumbprint": new, "jwk": f'{{"kid":"{new}"}}'}
        entries = [Entry("account.key", values)]
        if sequence is not None:
            event = AccountKeyChanged(
                actor=f"account:{owner.id}", account_id=owner.id, old_thumbprint=old, thumbprint=new
            )
            record = build_record(None, writer="w", at=stored.NOW, event=event)
            columns = {name: getattr(record, name) for name in ("writer", "at", "event", "hash")}
            entries.append(Entry("audit", columns | {"sequence": sequence}))
        return await replay(store.database, [Commit("w", sequence or 1, 0, tuple(entries))])

    async def key_of(self, store: Store, owner: Account) -> str:
        ((thumbprint, jwk),) = await rows(store, "SELECT thumbprint, jwk FROM accounts WHERE id = $1", owner.id)
        assert jwk == f'{{"kid":"{thumbprint}"}}' or thumbprint == owner.thumbprint
        return str(thumbprint)

    async def test_a_change_after_the_backup(self, kept: Store) -> None:
        owner = await stored.kept_account(kept)
        for _ in range(2):
            await self.change(kept, owner, owner.thumbprint, "b", sequence=1)
            assert await self.key_of(kept, owner) == "b"

    async def test_two_changes_in_any_portions(self, kept: Store) -> None:
        owner = await stored.kept_account(kept)
        steps = [(owner.thumbprint, "b", 1), ("b", "c", 2)]
        for old, new, sequence in [*steps, *steps, steps[0], steps[1], steps[0]]:
            await self.change(kept, owner, old, new, sequence=sequence)
            assert await self.key_of(kept, owner) != owner.thumbprint
        assert await self.key_of(kept, owner) == "c"

    async def test_the_last_one_alone(self, kept: Store) -> None:
        """The journal before it is lost: the account has the key that it had last, and not the one in the backup."""
        owner = await stored.kept_account(kept)
        await self.change(kept, owner, "b", "c", sequence=2)
        await self.change(kept, owner, owner.thumbprint, "b", sequence=1)
        assert await self.key_of(kept, owner) == "c"

    async def test_one_that_never_happened(self, kept: Store) -> None:
        """A process died between journal and commit, and the client tried again with a third key, from the same old one."""
        owner = await stored.kept_account(kept)
        await self.change(kept, owner, owner.thumbprint, "never", sequence=1)
        await self.change(kept, owner, owner.thumbprint, "c", sequence=2)
        assert await self.key_of(kept, owner) == "c"

    async def test_of_an_account_that_was_shut(self, kept: Store) -> None:
        """Its last key is the one that is refused for ever."""
        owner = await stored.kept_account(kept)
        await place(kept, "account.deactivated", id=owner.id)
        await self.change(kept, owner, owner.thumbprint, "b")
        assert await rows(kept, "SELECT thumbprint, status FROM accounts") == [("b", "deactivated")]

    async def test_the_old_key_made_an_account(self, kept: Store) -> None:
        owner = await stored.kept_account(kept)
        await self.change(kept, owner, owner.thumbprint, "b")
        await place(kept, "account", **(TestAccounts.ENTRY | {"thumbprint": owner.thumbprint}))
        assert sorted(await rows(kept, "SELECT id, thumbprint FROM accounts")) == sorted(
            [(owner.id, "b"), ("new", owner.thumbprint)]
        )

    async def test_to_a_key_that_has_an_account(self, kept: Store) -> None:
        """One that was never used never happened and gives way; another one is told."""
        owner, never, other = [await stored.kept_account(kept) for _ in range(3)]
        await stored.kept_order(kept, other)
        assert (await self.change(kept, owner, owner.thumbprint, never.thumbprint)).unplaced == []
        assert await kept.accounts.by_id(never.id) is None
        tally = await self.change(kept, owner, never.thumbprint, other.thumbprint)
        assert tally.unplaced == [f"the new key of account {owner.id}: it has another account, {other.id}"]
        assert await self.key_of(kept, owner) == never.thumbprint


class TestAuthorizations:
    async def test_what_was_given_up_after_the_backup_is_not_valid_again(self, kept: Store) -> None:
        """The backup has a ready order; its authorization was deactivated later, which only the audit's record tells."""
        owner = await stored.kept_account(kept)
        order, (given_up,) = await stored.ready_order(kept, owner)
        other, _ = await stored.ready_order(kept, owner)
        event = AuthorizationDeactivated(
            actor=f"account:{owner.id}", authorization_id=given_up.id, identifier=given_up.identifier.value
        )
        record = build_record(None, writer="w", at=stored.NOW, event=event)
        values = {name: getattr(record, name) for name in ("writer", "sequence", "at", "event", "hash")}
        await place(kept, "audit", **values)
        statuses = dict(await rows(kept, "SELECT id, status FROM orders"))
        assert statuses == {order.id: "invalid", other.id: "ready"}
        assert await rows(kept, "SELECT status FROM authorizations WHERE id = $1", given_up.id) == [("deactivated",)]
        assert (await place(kept, "audit", **values)).commits == 0


class TestIssuers:
    def entry(self, id_: str, parent_id: str | None) -> dict[str, Any]:
        return {
            "id": id_,
            "parent_id": parent_id,
            "state": "active",
            "certificate": b"der",
            "key_reference": None,
            "ocsp_url": "",
            "crl_url": "",
            "issuer_url": "",
            "created_at": 1,
        }

    async def test_the_root_of_another_ca_stops_the_replay(self, kept: Store) -> None:
        """Its database was deleted and a CA made anew beside the journal of the first, or a directory was mistaken."""
        before = await rows(kept, "SELECT id FROM issuers ORDER BY id")
        with pytest.raises(JournalError, match=r"another CA.*foreign"):
            await place(kept, "issuer", **self.entry("foreign", None))
        assert await rows(kept, "SELECT id FROM issuers ORDER BY id") == before
        assert (await place(kept, "issuer", **self.entry("root", None))).commits == 0


class TestCrls:
    async def test_a_number_is_never_taken_twice(self, kept: Store) -> None:
        number = await publish(kept)
        entry = {
            "issuer_id": "issuer",
            "number": number + 50,
            "this_update": 1,
            "next_update": 2,
            "through_sequence": 0,
            "entries": 0,
        }
        await place(kept, "crl", **entry)
        assert (await place(kept, "crl", **entry)).commits == 0
        assert await kept.crls.has_unpublished("issuer")
        assert await publish(kept) == number + 51
        assert not await kept.crls.has_unpublished("issuer")


class TestRefusals:
    async def test_an_unknown_kind_names_the_newer_version(self, kept: Store) -> None:
        with pytest.raises(JournalError, match=r"'delegation'.*a newer acmeca wrote it"):
            await place(kept, "delegation", id="x")

    async def test_an_unknown_column_too(self, kept: Store) -> None:
        with pytest.raises(JournalError, match=r"account with 'grant'.*a newer acmeca wrote it"):
            await place(kept, "account", **TestAccounts.ENTRY, grant="g")
        assert await rows(kept, "SELECT id FROM accounts") == []

    @pytest.mark.parametrize("kind", sorted(KINDS))
    async def test_a_column_that_is_missing_or_of_another_type(self, kept: Store, kind: str) -> None:
        samples = {str: "[]", int: 1, bytes: b"", type(None): None}
        good = {name: samples[types[0]] for name, types in KINDS[kind].items()}
        for name in good:
            without = {key: value for key, value in good.items() if key != name}
            for bad in (good | {name: 1.5}, *([without] if name not in ADDED.get(kind, {}) else [])):
                with pytest.raises(JournalError, match="acmeca never wrote"):
                    await place(kept, kind, **bad)

    @pytest.mark.parametrize("kind", sorted(ADDED))
    def test_what_an_earlier_program_left_out_is_of_the_right_type(self, kind: str) -> None:
        """Rule 7, and no column stands in it that there is not."""
        for name, value in ADDED[kind].items():
            assert type(value) in KINDS[kind][name]

    async def test_a_profile_of_another_digest(self, kept: Store) -> None:
        profile = make_profile()
        with pytest.raises(JournalError, match="another document's digest"):
            await place(kept, "profile", id="0" * 64, name=profile.name, document=profile.document)

    @pytest.mark.parametrize("event", ["", "[]", "{}", '{"kind": 1, "actor": "a", "subject": "s"}'])
    async def test_a_record_that_is_none(self, kept: Store, event: str) -> None:
        with pytest.raises(JournalError, match="audit record"):
            await place(kept, "audit", writer="w", sequence=1, at=1, event=event, hash=b"")

    @pytest.mark.parametrize("names", ["", "{}", "[1]"])
    async def test_names_that_are_none(self, kept: Store, names: str) -> None:
        with pytest.raises(JournalError, match="names"):
            await place(kept, "certificate", **certificate_entry(names=names))

    async def test_two_histories_do_not_mix(self, kept: Store) -> None:
        (row,) = await rows(kept, "SELECT writer, sequence, at, event FROM audit ORDER BY sequence LIMIT 1")
        values = dict(zip(("writer", "sequence", "at", "event"), row, strict=True))
        tally = await place(kept, "audit", **values, hash=b"another")
        assert tally.unplaced == ["audit record 1 of test: another one stands there"]


async def test_what_was_deleted_before_the_backup_does_not_come_back(history: History) -> None:
    """Retention forgets certificates that expired long ago; the journal may be older than that."""
    with temporary_directory() as directory:
        path = directory / "acmeca.db"
        shutil.copyfile(history.base, path)
        path.chmod(0o600)
        with connect(path) as connection:
            connection.execute("DELETE FROM certificate_names")
            connection.execute("DELETE FROM certificates")
        async with open_database(path) as database:
            await replay(database, history.commits, base=history.base_number)
            found = await database.fetch_one("SELECT MIN(c.n) AS n FROM (SELECT COUNT(*) AS n FROM certificates) AS c")
        later = [
            entry
            for commit in history.commits
            if commit.number > history.base_number
            for entry in commit.entries
            if entry.kind == "certificate"
        ]
        assert found is not None
        assert found["n"] == len(later)


class TestGrants:
    ENTRY: ClassVar = {
        "id": "kid",
        "owner": "team-a",
        "terms": dump_terms(stored.stored_grant().grant),
        "mac_sha256": bytes(32),
        "single_use": 0,
        "status": "active",
        "created_at": 1,
        "expires_at": None,
    }
    ACCOUNT: ClassVar = TestAccounts.ENTRY | {"id": "bound"}

    async def test_a_disabled_one_is_not_revived(self, kept: Store) -> None:
        """Rule 1: whatever order the pieces come in, what was set last holds."""
        await place(kept, "grant", **self.ENTRY)
        changes = [("disabled", None, 1), ("active", 9, 2), ("disabled", 9, 3)]
        for status, expires_at, number in [*reversed(changes), *changes]:
            await place(kept, "grant.standing", id="kid", status=status, expires_at=expires_at, changes=number)
            assert await rows(kept, "SELECT status, expires_at, changes FROM grants") == [("disabled", 9, 3)]
        assert (await place(kept, "grant", **self.ENTRY)).commits == 0
        assert await rows(kept, "SELECT status FROM grants") == [("disabled",)]

    async def test_an_account_without_its_grant_can_do_nothing_until_it_is_there(self, kept: Store) -> None:
        await place(kept, "account", **self.ACCOUNT)
        tally = await place(kept, "account.grant", id="bound", grant_id="kid")
        assert ("kid" in tally.unplaced[0], tally.commits) == (True, 1)
        found = await kept.accounts.standing("bound")
        assert found is not None
        assert found.grant_obstacle(stored.NOW) is not None
        await place(kept, "grant", **self.ENTRY)
        assert (await place(kept, "account.grant", id="bound", grant_id="kid")).commits == 0
        found = await kept.accounts.standing("bound")
        assert found is not None
        assert found.grant_obstacle(stored.NOW) is None

    async def test_what_is_said_of_one_that_is_missing_is_told(self, kept: Store) -> None:
        tally = await place(kept, "grant.standing", id="kid", status="disabled", expires_at=None, changes=1)
        assert tally.unplaced == ["that grant kid is disabled: it is not there"]

    async def test_a_single_use_stays_used(self, kept: Store) -> None:
        await place(kept, "grant", **(self.ENTRY | {"single_use": 1}))
        await place(kept, "account", **self.ACCOUNT)
        await place(kept, "account.grant", id="bound", grant_id="kid")
        with pytest.raises(GrantRefusedError):
            await stored.kept_account(kept, grant_id="kid")

    async def test_no_bound_account_is_bound_again(self, kept: Store) -> None:
        await place(kept, "grant", **self.ENTRY)
        await place(kept, "grant", **(self.ENTRY | {"id": "another"}))
        await place(kept, "account", **self.ACCOUNT)
        for grant_id in ("kid", "another"):
            await place(kept, "account.grant", id="bound", grant_id=grant_id)
        assert await rows(kept, "SELECT grant_id FROM accounts") == [("kid",)]

    async def test_terms_that_were_agreed_to(self, kept: Store) -> None:
        await place(kept, "account", **self.ACCOUNT)
        for url in ("https://t/1", "https://t/2"):
            await place(kept, "account.terms", id="bound", terms_of_service=url)
            assert await rows(kept, "SELECT terms_of_service FROM accounts") == [(url,)]
