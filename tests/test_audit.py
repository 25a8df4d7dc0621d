"""Audit events say everything in their text, and the chain shows what was done to the records."""

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca import audit
from acmeca.audit import (
    FIRST_PREVIOUS,
    KINDS,
    SYSTEM,
    AccountDeactivated,
    CertificateRevoked,
    Event,
    Fault,
    Head,
    OrderRefused,
    Record,
    ServerStarted,
    What,
    account_actor,
    admin_actor,
    build_record,
    dump_event,
    key_actor,
    record_hash,
    verify_chain,
)

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

EVENTS = [
    kind for _, kind in inspect.getmembers(audit, inspect.isclass) if issubclass(kind, Event) and kind is not Event
]

SAMPLES: dict[object, object] = {
    str: "text",
    int: 7,
    str | None: None,
    int | None: 1,
    tuple[str, ...]: ("a", "b"),
}


def sample(kind: type[Event]) -> Event:
    hints = get_type_hints(kind)
    values = {
        field.name: SAMPLES.get(hints[field.name], {"a.corp": "not allowed"}) for field in dataclasses.fields(kind)
    }
    return kind(**values)  # type: ignore[arg-type]  # the values are chosen by the fields' types


def chain(length: int, *, writer: str = "w", start: datetime = AT) -> list[Record]:
    """A good chain of one writer."""
    records: list[Record] = []
    head: Head | None = None
    for number in range(length):
        event = AccountDeactivated(actor=account_actor(f"a{number}"), account_id=f"a{number}")
        record = build_record(head, writer=writer, at=start + timedelta(seconds=number), event=event)
        head = Head(writer, record.sequence, record.hash)
        records.append(record)
    return records


def rehash(record: Record, previous: bytes) -> Record:
    """The record with the hash that fits it, as somebody would make it who knows how."""
    return replace(record, hash=record_hash(previous, record.writer, record.sequence, record.at, record.event))


class TestEvents:
    @pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
    def test_an_event_says_everything_in_its_json(self, kind: type[Event]) -> None:
        event = sample(kind)
        members = json.loads(dump_event(event))
        assert members.pop("kind") == kind.kind
        assert members.pop("subject") == event.subject == str(getattr(event, kind.about))
        expected = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
        assert members == json.loads(json.dumps(expected))
        assert kind.__doc__

    @pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
    def test_an_event_is_frozen(self, kind: type[Event]) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            sample(kind).actor = "somebody else"  # type: ignore[misc]  # that is the point

    def test_each_kind_is_one_event(self) -> None:
        assert len(EVENTS) >= 17
        assert set(KINDS) == {kind.kind for kind in EVENTS}
        assert len({kind.kind for kind in EVENTS}) == len(EVENTS)

    def test_the_text_is_canonical(self) -> None:
        event = OrderRefused(
            actor=account_actor("A1"), account_id="A1", refused=2, reasons={"b.corp": "nö", "a.corp": "\x00"}
        )
        assert dump_event(event) == (
            '{"account_id":"A1","actor":"account:A1","kind":"order.refused",'
            '"reasons":{"a.corp":"\\u0000","b.corp":"n\\u00f6"},"refused":2,"subject":"A1"}'
        )
        revoked = CertificateRevoked(
            actor=admin_actor("jo"), serial_hex="0a", issuer_id="r1", reason=None, how="administrator"
        )
        assert dump_event(revoked) == (
            '{"actor":"admin:jo","how":"administrator","issuer_id":"r1","kind":"certificate.revoked","reason":null,'
            '"serial_hex":"0a","subject":"0a"}'
        )

    def test_actors(self) -> None:
        assert (SYSTEM, account_actor("x"), admin_actor("root"), key_actor("ab")) == (
            "system",
            "account:x",
            "admin:root",
            "key:ab",
        )


class TestHash:
    def test_it_is_sha256_over_each_field_behind_its_length(self) -> None:
        """Spelt out once more by hand, so that no change of the encoding goes unseen: old chains would break."""
        previous = bytes(range(32))
        encoded = (
            (21).to_bytes(8, "big") + b"acmeca audit record 1"
            + (32).to_bytes(8, "big") + previous
            + (2).to_bytes(8, "big") + "ö".encode()
            + (8).to_bytes(8, "big") + b"\0\0\0\0\0\0\0\x05"
            + (8).to_bytes(8, "big") + b"\xff\xff\xff\xff\xff\xff\xff\xfe"
            + (2).to_bytes(8, "big") + b"{}"
        )  # fmt: skip
        assert record_hash(previous, "ö", 5, -2, "{}") == hashlib.sha256(encoded).digest()

    @given(
        st.tuples(st.text("ab\0", max_size=3), st.integers(0, 3), st.integers(-2, 2), st.text("ab\0", max_size=3)),
        st.tuples(st.text("ab\0", max_size=3), st.integers(0, 3), st.integers(-2, 2), st.text("ab\0", max_size=3)),
        st.sampled_from([b"", b"a", bytes(32)]),
        st.sampled_from([b"", b"a", bytes(32)]),
    )
    @settings(max_examples=200, deadline=None)
    def test_no_two_records_have_one_encoding(
        self, one: tuple[str, int, int, str], two: tuple[str, int, int, str], before_one: bytes, before_two: bytes
    ) -> None:
        same = (one, before_one) == (two, before_two)
        assert (record_hash(before_one, *one) == record_hash(before_two, *two)) == same


class TestBuild:
    def test_the_first_record_follows_zeros_and_the_next_one_the_first(self) -> None:
        first, second = chain(2)
        assert (first.sequence, second.sequence) == (1, 2)
        assert first.hash == record_hash(bytes(32), "w", 1, 1795435200, first.event)
        assert second.hash == record_hash(first.hash, "w", 2, 1795435201, second.event)
        assert (first.kind, first.actor, first.subject) == ("account.deactivated", "account:a0", "a0")

    def test_a_moment_is_the_same_in_every_zone_and_cut_to_seconds(self) -> None:
        event = ServerStarted(actor=SYSTEM, version="1", config_sha256="")
        there = AT.astimezone(timezone(timedelta(hours=-7))).replace(microsecond=999_999)
        assert build_record(None, writer="w", at=there, event=event) == build_record(
            None, writer="w", at=AT, event=event
        )

    def test_a_moment_without_a_zone_is_refused(self) -> None:
        event = ServerStarted(actor=SYSTEM, version="1", config_sha256="")
        with pytest.raises(ValueError, match="time zone"):
            build_record(None, writer="w", at=AT.replace(tzinfo=None), event=event)


class TestChain:
    @given(st.integers(0, 8), st.integers(0, 8))
    @settings(max_examples=30, deadline=None)
    def test_a_good_chain_has_no_fault(self, one: int, two: int) -> None:
        records = [*chain(one, writer="a"), *chain(two, writer="b")]
        heads = [Head(record.writer, record.sequence, record.hash) for record in records]
        assert verify_chain(records) == []
        assert verify_chain(records, heads) == []

    def test_chains_may_come_interleaved(self) -> None:
        mixed = [record for pair in zip(chain(4, writer="a"), chain(4, writer="b"), strict=True) for record in pair]
        assert verify_chain(mixed) == []

    @pytest.mark.parametrize(
        "edit",
        [
            lambda record: replace(record, event=record.event.replace('"account_id":"a', '"account_id":"b')),
            lambda record: replace(record, event=""),
            lambda record: replace(record, event="[]"),
            lambda record: replace(record, event="[" * 100_000),
            lambda record: replace(record, event=record.event + " "),
            lambda record: replace(record, at=record.at + 1),
            lambda record: replace(record, at=2**70),
            lambda record: replace(record, hash=bytes(32)),
            lambda record: replace(record, hash=b""),
            lambda record: replace(record, kind="account.created"),
            lambda record: replace(record, actor="admin:root"),
            lambda record: replace(record, subject="somebody"),
        ],
    )
    @pytest.mark.parametrize("index", [0, 2, 4])
    def test_an_edited_record_is_found_where_it_is(self, edit: Callable[[Record], Record], index: int) -> None:
        records = chain(5)
        records[index] = edit(records[index])
        assert records[index].sequence in {fault.sequence for fault in verify_chain(records)}

    def test_an_edited_record_with_a_fitting_hash_breaks_the_next_one(self) -> None:
        records = chain(5)
        event = AccountDeactivated(actor="admin:root", account_id="zz")
        forged = build_record(Head("w", 2, records[1].hash), writer="w", at=AT, event=event)
        records[2] = forged
        (fault,) = verify_chain(records)
        assert (fault.what, fault.sequence, fault.kind) == (What.EDITED, 4, "account.deactivated")
        assert fault.detail == "its hash does not fit: it was changed, or the one before it together with its hash"

    @given(st.integers(2, 8), st.data())
    @settings(max_examples=50, deadline=None)
    def test_a_deleted_record_leaves_a_gap(self, length: int, data: st.DataObject) -> None:
        records = chain(length)
        index = data.draw(st.integers(0, length - 2))
        del records[index]
        detail = f"1 record is not there: after {index} comes {index + 2}"
        assert verify_chain(records) == [Fault(What.MISSING, "w", index + 1, detail)]

    def test_renumbering_after_a_deletion_is_found(self) -> None:
        records = chain(5)
        del records[1]
        records[1:] = [replace(record, sequence=record.sequence - 1) for record in records[1:]]
        assert [fault.sequence for fault in verify_chain(records)] == [2, 3, 4]

    @given(st.permutations(range(5)))
    @settings(max_examples=60, deadline=None)
    def test_reordered_records_are_found(self, order: list[int]) -> None:
        """Both ways to reorder: moved as they are, or moved into each other's numbers."""
        records = chain(5)
        moved = [records[index] for index in order]
        renumbered = [replace(record, sequence=place) for place, record in enumerate(moved, 1)]
        assert (verify_chain(moved) == []) == (order == sorted(order))
        assert (verify_chain(renumbered) == []) == (order == sorted(order))

    def test_a_record_that_comes_twice_is_found(self) -> None:
        records = chain(3)
        (fault,) = verify_chain([*records, records[2]])
        assert (fault.what, fault.sequence, fault.detail) == (What.MOVED, 3, "it comes after 3")

    def test_an_inserted_record_is_found(self) -> None:
        records = chain(4)
        event = AccountDeactivated(actor=SYSTEM, account_id="x")
        inserted = build_record(Head("w", 2, records[1].hash), writer="w", at=AT, event=event)
        assert verify_chain([*records[:2], inserted, *records[2:]]) != []

    def test_a_record_moved_to_another_writer_is_found(self) -> None:
        records = chain(1, writer="a")
        assert verify_chain([replace(records[0], writer="b")]) != []

    def test_a_chain_cut_at_its_end_is_whole_in_itself_and_shows_against_a_head(self) -> None:
        records = chain(5)
        head = Head("w", 5, records[4].hash)
        assert verify_chain(records[:3]) == []
        faults = verify_chain(records[:3], [head])
        assert [(fault.sequence, fault.through, "ends at 3" in fault.detail) for fault in faults] == [(4, 5, True)]
        (fault,) = verify_chain([], [head])
        assert (fault.what, fault.writer, fault.sequence, fault.through) == (What.CUT, "w", 1, 5)

    def test_a_chain_written_anew_shows_against_a_head(self) -> None:
        head = Head("w", 3, chain(5)[2].hash)
        anew = chain(5, start=AT + timedelta(days=1))
        assert verify_chain(anew) == []
        assert [fault.sequence for fault in verify_chain(anew, [head])] == [3]

    def test_an_older_head_is_no_fault(self) -> None:
        records = chain(5)
        assert verify_chain(records, [Head("w", 3, records[2].hash)]) == []

    def test_a_fault_reads_as_a_line(self) -> None:
        fault = Fault(What.EDITED, "w", 4, "its hash does not fit", at=1795435200, kind="crl.signed")
        assert str(fault) == "w 4 (crl.signed, 2026-11-23T12:00:00Z): edited: its hash does not fit"
        assert str(Fault(What.CUT, "w", 4, "x", through=9)) == "w 4 to 9: cut off: x"
        assert str(Fault(What.DAMAGED, "", None, "line 3 is no head")) == "damaged: line 3 is no head"

    def test_a_record_rehashed_in_place_moves_the_fault_to_the_next(self) -> None:
        records = chain(3)
        before = FIRST_PREVIOUS
        records[0] = rehash(replace(records[0], at=0), before)
        assert [fault.sequence for fault in verify_chain(records)] == [2]
