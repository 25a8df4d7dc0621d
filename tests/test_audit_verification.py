"""Whatever is done to a chain, the fault names what was done, on the record it was done to; and what signed heads add."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.audit import (
    SYSTEM,
    AccountDeactivated,
    AuditKeyCreated,
    ChainVerifier,
    FoundHead,
    Head,
    Record,
    Report,
    SignedHead,
    What,
    account_actor,
    build_record,
    fingerprint,
    is_genuine,
    parse_public_key,
    parse_signed_head,
    raw_public_key,
    select_kept,
    sign_head,
    verify_chain,
)

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
KEY_ID = fingerprint(raw_public_key(KEY.public_key()))


def extend(records: list[Record], names: list[str], *, writer: str = "w") -> list[Record]:
    """The chain with a record more for each name."""
    made = list(records)
    for name in names:
        previous = Head(writer, made[-1].sequence, made[-1].hash) if made else None
        event = AccountDeactivated(actor=account_actor(name), account_id=name)
        made.append(build_record(previous, writer=writer, at=AT + timedelta(minutes=len(made)), event=event))
    return made


def chain(length: int, *, writer: str = "w", prefix: str = "a") -> list[Record]:
    return extend([], [f"{prefix}{number}" for number in range(length)], writer=writer)


def head_of(record: Record) -> Head:
    return Head(record.writer, record.sequence, record.hash)


def signed(record: Record, *, key: ed25519.Ed25519PrivateKey = KEY, at: datetime = AT) -> FoundHead:
    made = sign_head(head_of(record), key, at=at)
    return FoundHead(made.head, "the file", made)


def verify(records: list[Record], heads: list[FoundHead], *, trusted: tuple[str, ...] = (KEY_ID,)) -> Report:
    verifier = ChainVerifier(heads, trusted=trusted)
    for record in records:
        verifier.add(record)
    return verifier.finish()


def told(report: Report) -> list[tuple[What, int | None]]:
    return [(fault.what, fault.sequence) for fault in report.faults]


# --- tampering ----------------------------------------------------------------------------------------------------


class TestTampering:
    @given(st.integers(1, 12), st.data())
    @settings(max_examples=60, deadline=None)
    def test_edited(self, length: int, data: st.DataObject) -> None:
        records = chain(length)
        index = data.draw(st.integers(0, length - 1))
        record = records[index]
        records[index] = data.draw(
            st.sampled_from(
                [
                    replace(record, event=record.event.replace('"account_id":"a', '"account_id":"b')),
                    replace(record, at=record.at + 1),
                    replace(record, hash=bytes(32)),
                    replace(record, kind="account.created"),
                    replace(record, subject="somebody"),
                ]
            )
        )
        assert [(fault.what, fault.sequence) for fault in verify_chain(records)] == [(What.EDITED, index + 1)]

    @given(st.integers(2, 12), st.data())
    @settings(max_examples=40, deadline=None)
    def test_edited_with_a_fitting_hash(self, length: int, data: st.DataObject) -> None:
        """The chain shows it at the next record and says that it may be the one before; a head of it shows which."""
        records = chain(length)
        index = data.draw(st.integers(0, length - 2))
        good = signed(records[index])
        records[index] = extend(records[:index], ["forged"])[-1]
        (fault,) = verify_chain(records)
        assert (fault.what, fault.sequence) == (What.EDITED, index + 2)
        assert "or the one before it together with its hash" in fault.detail
        assert (What.REWRITTEN, index + 1) in told(verify(records, [good]))

    @given(st.integers(3, 12), st.data())
    @settings(max_examples=40, deadline=None)
    def test_deleted(self, length: int, data: st.DataObject) -> None:
        records = chain(length)
        first = data.draw(st.integers(0, length - 2))
        count = data.draw(st.integers(1, length - 1 - first))
        del records[first : first + count]
        (fault,) = verify_chain(records)
        through = None if count == 1 else first + count
        assert (fault.what, fault.sequence, fault.through) == (What.MISSING, first + 1, through)

    @given(st.integers(2, 12), st.data())
    @settings(max_examples=60, deadline=None)
    def test_swapped(self, length: int, data: st.DataObject) -> None:
        """Two records that were given each other's numbers: both are named with their places, nobody else is."""
        records = chain(length)
        one, two = sorted(data.draw(st.lists(st.integers(0, length - 1), min_size=2, max_size=2, unique=True)))
        records[one], records[two] = (
            replace(records[two], sequence=one + 1),
            replace(records[one], sequence=two + 1),
        )
        faults = verify_chain(records)
        assert [(fault.what, fault.sequence) for fault in faults] == [(What.MOVED, one + 1), (What.MOVED, two + 1)]
        assert f"written as {two + 1}" in faults[0].detail

    @given(st.permutations(range(6)))
    @settings(max_examples=60, deadline=None)
    def test_shuffled(self, order: list[int]) -> None:
        records = chain(6)
        shuffled = [replace(records[index], sequence=place) for place, index in enumerate(order, 1)]
        expected = [(What.MOVED, place) for place, index in enumerate(order, 1) if index != place - 1]
        assert [(fault.what, fault.sequence) for fault in verify_chain(shuffled)] == expected

    @given(st.integers(1, 12), st.data())
    @settings(max_examples=40, deadline=None)
    def test_truncated(self, length: int, data: st.DataObject) -> None:
        records = chain(length)
        left = data.draw(st.integers(0, length - 1))
        (fault,) = verify(records[:left], [signed(records[-1]), signed(records[0])]).faults
        assert (fault.what, fault.sequence, fault.through) == (What.CUT, left + 1, length)
        assert f"ends at {left}, but {length} was there by the head of 2026-11-23T12:00:00Z in the file" in fault.detail

    @given(st.integers(2, 12), st.data())
    @settings(max_examples=40, deadline=None)
    def test_inserted(self, length: int, data: st.DataObject) -> None:
        """One more, with a fitting hash, and those behind it renumbered: none of those fits from there on."""
        records = chain(length)
        index = data.draw(st.integers(1, length - 1))
        inserted = extend(records[:index], ["forged"])
        inserted += [replace(record, sequence=record.sequence + 1) for record in records[index:]]
        faults = verify_chain(inserted)
        assert {fault.what for fault in faults} <= {What.EDITED, What.MOVED}
        assert [fault.sequence for fault in faults] == list(range(index + 2, length + 2))

    @given(st.integers(3, 12), st.data())
    @settings(max_examples=40, deadline=None)
    def test_written_anew(self, length: int, data: st.DataObject) -> None:
        """From some record on, hashes and all: whole in itself, and no head after that record fits."""
        records = chain(length)
        index = data.draw(st.integers(0, length - 2))
        anew = extend(records[:index], [f"forged{number}" for number in range(length - index)])
        assert verify_chain(anew) == []
        report = verify(anew, [signed(record) for record in records])
        assert told(report) == [(What.REWRITTEN, index + 1)]
        assert (f"after {index}, which fits" if index else "from its beginning") in report.faults[0].detail

    def test_a_long_chain_of_faults_is_cut_and_counted(self) -> None:
        records = [replace(record, subject="x") for record in chain(1200)]
        report = verify(records, [])
        assert (len(report.faults), report.left_out) == (1000, 200)
        assert report.chains[0].faults == 1200

    def test_more_broken_records_than_are_held(self) -> None:
        records = [replace(record, at=record.at + 1) if record.sequence % 2 else record for record in chain(300)]
        assert len(verify(records, []).faults) == 150

    def test_writers_are_told_apart(self) -> None:
        one, two = chain(4, writer="a"), chain(4, writer="b")
        del two[1]
        report = verify([*one, *two], [])
        assert [(chain.writer, chain.records, chain.faults) for chain in report.chains] == [("a", 4, 0), ("b", 3, 1)]
        assert (report.chains[0].first_at, report.chains[0].last_at) == (one[0].at, one[-1].at)
        assert report.chains[0].head == head_of(one[-1])


# --- heads --------------------------------------------------------------------------------------------------------

CHANGES: list[Callable[[SignedHead], SignedHead]] = [
    lambda head: replace(head, head=replace(head.head, writer="x")),
    lambda head: replace(head, head=replace(head.head, sequence=head.head.sequence - 1)),
    lambda head: replace(head, head=replace(head.head, sequence=-1)),
    lambda head: replace(head, head=replace(head.head, hash=bytes(32))),
    lambda head: replace(head, signed_at=head.signed_at + 1),
    lambda head: replace(head, public_key=raw_public_key(OTHER_KEY.public_key())),
    lambda head: replace(head, signature=bytes(64)),
    lambda head: replace(head, signature=b""),
]


class TestHeads:
    def test_a_head_reads_back_as_it_was_signed(self) -> None:
        made = sign_head(head_of(chain(3)[-1]), KEY, at=AT)
        assert is_genuine(made)
        assert parse_signed_head(json.loads(json.dumps(made.to_json()))) == made

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_forged_head_is_a_fault_and_witnesses_nothing(self, change: Callable[[SignedHead], SignedHead]) -> None:
        records = chain(3)
        forged = change(sign_head(head_of(records[-1]), KEY, at=AT))
        assert not is_genuine(forged)
        report = verify(records, [FoundHead(forged.head, "the file, line 7", forged)])
        (fault,) = report.faults
        assert fault.what is What.FORGED
        assert "in the file, line 7 has a signature that is not its key's" in fault.detail
        assert report.heads == 0

    def test_a_key_that_nobody_knows(self) -> None:
        records = chain(3)
        report = verify(
            records, [signed(records[1], key=OTHER_KEY), signed(records[2], key=OTHER_KEY), signed(records[2])]
        )
        (fault,) = report.faults
        assert (fault.what, fault.sequence) == (What.FORGED, 2)
        assert "and 1 more is signed by the key" in fault.detail
        assert fingerprint(raw_public_key(OTHER_KEY.public_key())) in fault.detail

    def test_the_audit_names_its_keys_unless_others_are_given(self) -> None:
        """Who rewrites an audit can name a key in it: a public key that was kept elsewhere shows that."""
        event = AuditKeyCreated(actor=SYSTEM, sha256=KEY_ID)
        records = extend([build_record(None, writer="w", at=AT, event=event)], ["a", "b"])
        heads = [signed(records[2])]
        assert verify(records, heads, trusted=()).faults == ()
        verifier = ChainVerifier(
            heads, trusted=[fingerprint(raw_public_key(OTHER_KEY.public_key()))], only_trusted=True
        )
        for record in records:
            verifier.add(record)
        assert [fault.what for fault in verifier.finish().faults] == [What.FORGED]

    def test_an_older_head_is_no_fault_and_the_same_one_counts_once(self) -> None:
        records = chain(5)
        report = verify(records, [signed(records[2]), signed(records[2]), signed(records[0])])
        assert report.faults == ()
        assert report.heads == 2
        assert report.chains[0].newest_head is not None
        assert report.chains[0].newest_head.head.sequence == 3

    def test_a_head_without_a_signature_is_believed(self) -> None:
        """Somebody wrote it down and kept it apart."""
        records = chain(5)
        (fault,) = verify(records[:2], [FoundHead(head_of(records[4]), "paper")]).faults
        assert (fault.what, fault.sequence, "by the head in paper" in fault.detail) == (What.CUT, 3, True)

    def test_a_chain_that_is_gone_altogether(self) -> None:
        report = verify(chain(2, writer="new"), [signed(chain(9, writer="old")[-1])])
        assert [(fault.writer, fault.what, fault.sequence) for fault in report.faults] == [("old", What.CUT, 1)]
        assert [(chain.writer, chain.records) for chain in report.chains] == [("new", 2), ("old", 0)]

    def test_what_is_signed_is_no_certificate(self) -> None:
        """Rule 1 of audit/heads.py: a TBSCertificate, a TBSCertList and a ResponseData each begin with 0x30."""
        seen: list[bytes] = []

        class Listening:
            def sign(self, data: bytes) -> bytes:
                seen.append(data)
                return bytes(64)

            def public_key(self) -> ed25519.Ed25519PublicKey:
                return KEY.public_key()

        sign_head(Head("w", 2**62, b"\x30" * 32), Listening(), at=AT)  # type: ignore[arg-type]
        assert seen[0][:9] == b"\0\0\0\0\0\0\0\x13a"
        assert b"acmeca audit head 1" in seen[0]
        KEY.public_key().verify(sign_head(Head("w", 2**62, b"\x30" * 32), KEY, at=AT).signature, seen[0])

    @pytest.mark.parametrize(
        "change",
        [
            {"writer": 7},
            {"sequence": 0},
            {"sequence": "3"},
            {"sequence": True},
            {"sequence": 2**63},
            {"hash": "00"},
            {"hash": None},
            {"signed_at": "2026-11-23T12:00:00"},
            {"signed_at": 7},
            {"public_key": "AAAA"},
            {"signature": "?"},
        ],
    )
    def test_what_is_no_head(self, change: dict[str, object]) -> None:
        document = sign_head(head_of(chain(1)[0]), KEY, at=AT).to_json()
        with pytest.raises(ValueError):
            parse_signed_head(document | change)
        with pytest.raises(ValueError):
            parse_signed_head([document])

    def test_public_keys(self) -> None:
        def pem(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
            return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

        assert fingerprint(parse_public_key(pem(KEY.public_key()))) == KEY_ID
        for bad in (pem(ec.generate_private_key(ec.SECP256R1()).public_key()), b"", b"text"):
            with pytest.raises(ValueError):
                parse_public_key(bad)

    @given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=40), st.integers(0, 5))
    @settings(max_examples=60, deadline=None)
    def test_which_heads_are_kept(self, steps: list[tuple[int, bool]], newest: int) -> None:
        """The first of each day, the newest ones, and where the numbers fall back; the same ones when they are asked again."""
        heads: list[SignedHead] = []
        sequence, moment = 1, 0
        for half_days, falls in steps:
            moment += half_days * 43_200
            sequence = max(1, sequence - 5) if falls else sequence + 3
            heads.append(SignedHead(Head("w", sequence, bytes(32)), moment, bytes(32), bytes(64)))
        kept = select_kept(heads, newest=newest)
        assert kept == sorted(set(kept))
        assert set(range(max(0, len(heads) - newest), len(heads))) <= set(kept)
        assert {head.signed_at // 86_400 for head in heads} == {heads[place].signed_at // 86_400 for place in kept}
        for place in range(len(heads) - 1):
            if heads[place + 1].head.sequence <= heads[place].head.sequence:
                assert {place, place + 1} <= set(kept)
        assert select_kept([heads[place] for place in kept], newest=newest) == list(range(len(kept)))

    def test_a_head_is_frozen(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            signed(chain(1)[0]).source = "x"  # type: ignore[misc]  # that is the point


def test_each_fault_is_explained() -> None:
    """docs/audit.md says for each what was done, and what to look at."""
    text = (Path(__file__).parents[1] / "docs" / "audit.md").read_text(encoding="utf-8")
    for what in What:
        assert f"\n| `{what.value}` |" in text
