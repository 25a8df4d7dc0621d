"""Questions of every type: a DNS server on loopback plays every part. What addresses need stands in test_resolver.py."""

import asyncio
import time
from contextlib import suppress
from ipaddress import IPv4Address

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rdtypes.ANY.CAA
import dns.rdtypes.ANY.TXT
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.validation.dns_client import Answer, DnsClient, RecordType, ResolutionError, ResolutionFailure
from acmeca.validation.dns_wire import NonsenseError, _read
from tests.support.dns_peer import (
    Behaviour,
    DnsPeer,
    client_of,
    dns_peer,
    garbage,
    holds,
    patience,
    says,
    silence,
    truncated,
    truncated_then_garbage,
)
from tests.support.http_peer import refusing_port

NAME = "_acme-challenge.www.corp.internal"
SERVFAIL = says(dns.rcode.SERVFAIL)
REFUSED = says(dns.rcode.REFUSED)


def texts(answer: Answer) -> set[bytes]:
    found = set()
    for record in answer.records:
        assert isinstance(record, dns.rdtypes.ANY.TXT.TXT)
        found.add(b"".join(record.strings))
    return found


async def failure(client: DnsClient, type_: RecordType) -> ResolutionError:
    with pytest.raises(ResolutionError) as caught:
        await client.lookup(NAME, type_)
    assert str(caught.value).isprintable()
    return caught.value


BOTH = pytest.mark.parametrize("type_", [RecordType.TXT, RecordType.CAA])


async def test_text_records() -> None:
    async with dns_peer() as peer:
        peer.add(NAME, "TXT", '"one"', '"two" "parts"', '""')
        answer = await client_of(peer.server).lookup(NAME, RecordType.TXT)
        assert texts(answer) == {b"one", b"twoparts", b""}
        assert (answer.server, answer.exists, answer.aliases) == (f"127.0.0.1:{peer.port}", True, ())
        assert peer.asked(NAME, "TXT") == 1


async def test_caa_records() -> None:
    async with dns_peer() as peer:
        peer.add("corp.internal", "CAA", '0 issue "ca.corp.internal"', '128 iodef "mailto:x"')
        answer = await client_of(peer.server).lookup("corp.internal", RecordType.CAA)
        found = set()
        for record in answer.records:
            assert isinstance(record, dns.rdtypes.ANY.CAA.CAA)
            found.add((record.flags, record.tag, record.value))
        assert found == {(0, b"issue", b"ca.corp.internal"), (128, b"iodef", b"mailto:x")}


@BOTH
async def test_that_a_name_does_not_exist_is_an_answer(type_: RecordType) -> None:
    """Rule 2."""
    async with dns_peer() as peer:
        answer = await client_of(peer.server).lookup(NAME, type_)
        assert (answer.exists, answer.records) == (False, ())
        assert len(peer.questions) == 1, "NXDOMAIN is final"


@BOTH
async def test_that_a_name_has_no_such_record_is_an_answer(type_: RecordType) -> None:
    async with dns_peer() as peer:
        peer.add(NAME, "A", "10.0.0.5")
        answer = await client_of(peer.server).lookup(NAME, type_)
        assert (answer.exists, answer.records) == (True, ())
        assert len(peer.questions) == 1, "an empty answer is final"


@BOTH
@pytest.mark.parametrize("passing", [SERVFAIL, REFUSED, silence, garbage])
async def test_what_may_pass_is_asked_again(type_: RecordType, passing: Behaviour) -> None:
    """RULES §3: "SERVFAIL and timeouts are `dns` problems, retried"."""
    async with dns_peer() as peer:
        peer.add(NAME, type_.name, '"x"' if type_ is RecordType.TXT else '0 issue "x"')
        peer.script(NAME, type_.name, passing, passing)
        assert len((await client_of(peer.server, attempt_timeout=0.3).lookup(NAME, type_)).records) == 1
        assert peer.asked(NAME, type_.name) == 3


@BOTH
@pytest.mark.parametrize(
    ("lasting", "reason", "words"),
    [
        (SERVFAIL, ResolutionFailure.SERVER_FAILURE, "answered with SERVFAIL"),
        (REFUSED, ResolutionFailure.SERVER_FAILURE, "answered with REFUSED"),
        (says(dns.rcode.NOTIMP), ResolutionFailure.SERVER_FAILURE, "answered with NOTIMP"),
        (silence, ResolutionFailure.TIMEOUT, "gave no answer within 0.05 s"),
        (garbage, ResolutionFailure.TIMEOUT, "gave no answer within 0.05 s"),
        (truncated_then_garbage, ResolutionFailure.SERVER_FAILURE, "answered with nonsense"),
    ],
)
async def test_what_lasts_is_told_with_the_server(
    type_: RecordType, lasting: Behaviour, reason: ResolutionFailure, words: str
) -> None:
    async with dns_peer() as peer:
        peer.always(NAME, lasting, type_.name)
        error = await failure(client_of(peer.server, attempt_timeout=patience(lasting)), type_)
        assert error.reason is reason
        assert str(error).startswith(f"127.0.0.1:{peer.port} ")
        assert words in str(error)


async def test_the_next_server_is_asked_when_one_fails() -> None:
    async with dns_peer() as first, dns_peer() as second:
        first.always(NAME, SERVFAIL, "TXT")
        second.add(NAME, "TXT", '"x"')
        answer = await client_of(first.server, second.server).lookup(NAME, RecordType.TXT)
        assert texts(answer) == {b"x"}
        assert answer.server == f"127.0.0.1:{second.port}"


async def test_a_large_answer_comes_over_tcp() -> None:
    """RULES §3: "TCP fallback for large answers" (RFC 7766 §5)."""
    async with dns_peer() as peer:
        values = [f'"{number:0250}"' for number in range(200)]
        peer.add(NAME, "TXT", *values)
        peer.script(NAME, "TXT", truncated)
        answer = await client_of(peer.server).lookup(NAME, RecordType.TXT)
        assert len(answer.records) == 200
        assert [question.transport for question in peer.questions] == ["udp", "tcp"]


async def test_aliases_within_an_answer_and_out_of_it() -> None:
    async with dns_peer() as peer:
        peer.add(NAME, "CNAME", "a.validation.internal.")
        peer.add("a.validation.internal", "CNAME", "b.validation.internal.")
        peer.add("b.validation.internal", "TXT", '"x"')
        answer = await client_of(peer.server).lookup(NAME, RecordType.TXT)
        assert answer.aliases == ("a.validation.internal", "b.validation.internal")
        assert texts(answer) == {b"x"}
        assert len(peer.questions) == 1
        peer.script(NAME, "TXT", holds("CNAME", "a.validation.internal."))
        answer = await client_of(peer.server).lookup(NAME, RecordType.TXT)
        assert answer.aliases == ("a.validation.internal", "b.validation.internal")
        assert texts(answer) == {b"x"}


async def test_an_alias_of_what_has_no_record_is_asked_for_and_has_none() -> None:
    async with dns_peer() as peer:
        peer.add(NAME, "CNAME", "a.validation.internal.")
        peer.add("a.validation.internal", "A", "10.0.0.5")
        answer = await client_of(peer.server).lookup(NAME, RecordType.TXT)
        assert (answer.exists, answer.records, answer.aliases) == (True, (), ("a.validation.internal",))


@pytest.mark.parametrize("length", [1, 2, 30])
async def test_aliases_in_a_ring_or_a_long_row_are_a_failure(length: int) -> None:
    async with dns_peer() as peer:
        names = [NAME, *(f"a{number}.corp.internal" for number in range(1, length))]
        for name, following in zip(names, [*names[1:], NAME], strict=True):
            peer.add(name, "CNAME", following + ".")
        error = await failure(client_of(peer.server), RecordType.CAA)
        assert error.reason is ResolutionFailure.SERVER_FAILURE


async def test_aliases_asked_for_one_by_one_are_bounded() -> None:
    async with dns_peer() as peer:
        peer.always(NAME, holds("CNAME", "a0.corp.internal."), "TXT")
        for number in range(40):
            peer.always(f"a{number}.corp.internal", holds("CNAME", f"a{number + 1}.corp.internal."), "TXT")
        error = await failure(client_of(peer.server), RecordType.TXT)
        assert "aliases (CNAME)" in str(error)
        assert len(peer.questions) == 8


async def test_a_record_at_a_name_that_does_not_exist_is_nonsense() -> None:
    def contradictory(peer: object, query: dns.message.Message, transport: str) -> list[bytes]:
        response = dns.message.from_wire(holds("TXT", '"x"')(peer, query, transport)[0])  # type: ignore[arg-type]  # unused
        response.set_rcode(dns.rcode.NXDOMAIN)
        return [response.to_wire()]

    async with dns_peer() as peer:
        peer.always(NAME, contradictory, "TXT")
        assert "nonsense" in str(await failure(client_of(peer.server), RecordType.TXT))


def raw(*records: bytes, type_: RecordType, count: int | None = None) -> Behaviour:
    """A response with records as bytes, each the RDATA of one at the name asked for; `count` is what its header says."""

    def answer(peer: object, query: dns.message.Message, transport: str) -> list[bytes]:
        wire = query.to_wire()
        said = len(records) if count is None else count
        head = wire[:2] + b"\x81\x80" + wire[4:6] + said.to_bytes(2, "big") + bytes(4)
        body = b"".join(
            b"\xc0\x0c" + type_.value.to_bytes(2, "big") + b"\x00\x01" + bytes(4) + len(each).to_bytes(2, "big") + each
            for each in records
        )
        return [head + wire[12:] + body]

    return answer


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_thousands_of_records_are_nonsense_and_are_not_read(transport: str) -> None:
    """Rule 2 of dns_wire.py: reading them would take a second, in which this process does nothing else."""
    everything = raw(*(b"\x02" + number.to_bytes(2, "big") for number in range(4000)), type_=RecordType.TXT)
    claimed = raw(type_=RecordType.TXT, count=0xFFFF)

    def answer(peer: DnsPeer, query: dns.message.Message, by: str) -> list[bytes]:
        if transport == "udp":
            return claimed(peer, query, by)
        return truncated(peer, query, by) if by == "udp" else everything(peer, query, by)

    async with dns_peer() as peer:
        peer.always(NAME, answer, "TXT")
        error = await failure(client_of(peer.server), RecordType.TXT)
        assert str(error) == f"127.0.0.1:{peer.port} answered with nonsense (more than 256 records)"


# A name with as many labels as there is room for, and what a zone can hold that is costly to read.
LONG = b"\x01a" * 126 + b"\x00"


@pytest.mark.parametrize(
    ("rdata", "type_"),
    [
        ([bytes(65000)], dns.rdatatype.TXT),
        ([b"\x01a" * 32000], dns.rdatatype.TXT),
        ([b"\x01" + bytes([number]) + bytes(200) for number in range(256)], dns.rdatatype.TXT),
        ([LONG] * 200, dns.rdatatype.CNAME),
        ([LONG + LONG + bytes(20)] * 120, dns.rdatatype.SOA),
        ([b"\x00\x01\x00\x00" * 16000], dns.rdatatype.APL),
        ([b"\x00\x01\x00" + b"\x00\x04\xfa\x00" + b"\x01\x02\x03\x04" * 16000], dns.rdatatype.SVCB),
        ([b"\xc0\x0c" * 8000], 65280),
    ],
)
def test_a_few_records_of_very_many_parts_are_not_read_either(rdata: list[bytes], type_: int) -> None:
    """Rule 2 of dns_wire.py: 65,000 empty strings in a record take half a second, and any zone may hold them."""
    head = b"\x00\x01\x81\x80\x00\x01" + len(rdata).to_bytes(2, "big") + bytes(4) + b"\x01a\x00\x00\x10\x00\x01"
    records = b"".join(
        b"\xc0\x0c" + type_.to_bytes(2, "big") + b"\x00\x01" + bytes(4) + len(each).to_bytes(2, "big") + each
        for each in rdata
    )
    began = time.process_time()
    with pytest.raises(NonsenseError, match="more than 3000 labels and strings"):
        _read(head + records)
    assert time.process_time() - began < 0.05


@pytest.mark.parametrize(
    "name",
    [
        b"\xc0\x13" * 2,  # itself
        b"".join((0xC000 | 0x13 + 2 * (index + 1)).to_bytes(2, "big") for index in range(8000)),
        b"\x01a" * 30000,
    ],
)
def test_a_name_that_has_no_end_is_nonsense(name: bytes) -> None:
    with pytest.raises(NonsenseError):
        _read(b"\x00\x01\x81\x80\x00\x01\x00\x01" + bytes(4) + b"\x01a\x00\x00\x10\x00\x01" + name)


def test_what_stands_beside_the_answer_is_not_read() -> None:
    """Whoever has a zone names its servers, and what they are called is no answer to us."""
    servers = b"".join(LONG + b"\x00\x02\x00\x01" + bytes(4) + len(LONG).to_bytes(2, "big") + LONG for _ in range(100))
    answer = b"\xc0\x0c\x00\x10\x00\x01" + bytes(4) + b"\x00\x02\x01x"
    head = b"\x00\x01\x81\x80\x00\x01\x00\x01\x00\x64\x00\x00"
    response = _read(head + b"\x01a\x00\x00\x10\x00\x01" + answer + servers)
    assert (len(response.answer), response.authority, response.additional) == (1, [], [])


async def test_as_many_records_as_are_read() -> None:
    async with dns_peer() as peer:
        peer.always(NAME, raw(*(b"\x01" + bytes([number]) for number in range(256)), type_=RecordType.TXT), "TXT")
        assert len((await client_of(peer.server).lookup(NAME, RecordType.TXT)).records) == 256


@pytest.mark.parametrize("rdata", [b"", b"\x00", b"\x00\x05is", b"\x00\x00x", b"\x00\x03a-bx", b"\x00\x03a.bx"])
async def test_a_record_that_cannot_be_read_makes_the_answer_nonsense(rdata: bytes) -> None:
    """It has the question's id: no better one is to be waited for, and the CA that cannot read it issues nothing."""
    async with dns_peer() as peer:
        peer.always(NAME, raw(b"\x00\x05issueca.corp.internal", rdata, type_=RecordType.CAA), "CAA")
        error = await failure(client_of(peer.server, attempt_timeout=30), RecordType.CAA)
        assert error.reason is ResolutionFailure.SERVER_FAILURE
        assert "answered with nonsense" in str(error)


async def test_nobody_listening_is_told_at_once() -> None:
    with refusing_port() as port:
        error = await failure(client_of((IPv4Address("127.0.0.1"), port), attempt_timeout=30), RecordType.TXT)
        assert str(error) == f"127.0.0.1:{port} cannot be reached: Connection refused"


@settings(deadline=None, max_examples=300)
@given(
    st.binary(max_size=120) | st.binary(max_size=120).map(b"\x00\x01\x81\x80\x00\x01\x00\x02\x00\x00\x00\x00".__add__)
)
def test_whatever_a_server_sends_is_a_message_or_nonsense(data: bytes) -> None:
    with suppress(NonsenseError):
        _read(data)


def test_on_uvloop_as_in_production() -> None:
    async def ask() -> None:
        async with dns_peer() as peer:
            peer.add(NAME, "TXT", '"x"')
            peer.script(NAME, "TXT", silence, truncated)
            assert texts(await client_of(peer.server, attempt_timeout=0.3).lookup(NAME, RecordType.TXT)) == {b"x"}
            peer.always(NAME, silence, "CAA")
            hurried = client_of(peer.server, attempt_timeout=0.05)
            assert (await failure(hurried, RecordType.CAA)).reason is ResolutionFailure.TIMEOUT
            asked = asyncio.Event()

            def hang(peer: object, query: object, transport: str) -> list[bytes]:
                asked.set()
                return []

            peer.always(NAME, hang, "CAA")
            waiting = asyncio.create_task(client_of(peer.server, attempt_timeout=30).lookup(NAME, RecordType.CAA))
            await asked.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(ask())


async def test_many_lookups_at_once() -> None:
    async with dns_peer() as peer:
        for number in range(50):
            peer.add(f"n{number}.corp.internal", "TXT", f'"{number}"')
        client = client_of(peer.server)
        answers = await asyncio.gather(*(client.lookup(f"n{n}.corp.internal", RecordType.TXT) for n in range(50)))
        assert [texts(answer) for answer in answers] == [{str(number).encode()} for number in range(50)]


@pytest.mark.parametrize("name", ["x" * 254, ".".join(["abcdefg"] * 32)])
async def test_what_cannot_be_a_name_is_the_callers_mistake(name: str) -> None:
    async with dns_peer() as peer:
        with pytest.raises(ValueError, match="253 characters"):
            await client_of(peer.server).lookup(name, RecordType.TXT)
        assert peer.questions == []


async def test_the_longest_name_can_be_asked_for() -> None:
    async with dns_peer() as peer:
        name = ".".join(["x" * 63] * 3 + ["y" * 61])
        assert len(name) == 253
        assert not (await client_of(peer.server).lookup(name, RecordType.CAA)).exists
