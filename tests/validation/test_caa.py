"""The search for CAA records (RFC 8659 §3), against a DNS server on loopback."""

import os
import resource
import socket

import dns.rcode
import pytest

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.policy.caa import CaaObservation, CaaPolicy, CaaRecord
from acmeca.validation.caa import CaaObserver
from acmeca.validation.servers import FixedServers, ZoneServers
from tests.support.dns_peer import Behaviour, DnsPeer, client_of, dns_peer, garbage, patience, says, silence, truncated

OURS = CaaRecord(0, b"issue", b"ca.corp.internal")
ISSUE = '0 issue "ca.corp.internal"'
NAMES = ("a.b.corp.internal", "b.corp.internal", "corp.internal", "internal")
SERVFAIL = says(dns.rcode.SERVFAIL)


async def seen(
    peer: DnsPeer, *searches: tuple[str, ...], attempt_timeout: float = 2, total_timeout: float = 10
) -> tuple[CaaObservation, ...]:
    client = client_of(peer.server, attempt_timeout=attempt_timeout)
    return await CaaObserver(client, total_timeout=total_timeout).observe(searches)


@pytest.mark.parametrize("level", range(4))
async def test_the_search_ends_at_the_first_name_that_has_records(level: int) -> None:
    async with dns_peer() as peer:
        for name in NAMES[level:]:
            peer.add(name, "CAA", ISSUE)
        (observation,) = await seen(peer, NAMES)
        assert observation.asked == NAMES[: level + 1]
        assert observation.records == (OURS,)
        assert observation.server == f"127.0.0.1:{peer.port}"
        assert [question.name for question in peer.questions] == list(NAMES[: level + 1])


async def test_without_records_every_name_is_asked_for_once() -> None:
    async with dns_peer() as peer:
        peer.add("b.corp.internal", "A", "10.0.0.5")  # one that exists, and three that do not
        assert await seen(peer, NAMES) == (CaaObservation(NAMES),)
        assert [question.name for question in peer.questions] == list(NAMES)


async def test_records_come_as_they_are() -> None:
    async with dns_peer() as peer:
        peer.add("internal", "CAA", '128 IssueWild ";"', '1 iodef ""', '0 unknown "\\000\\255"')
        (observation,) = await seen(peer, NAMES)
        assert set(observation.records) == {
            CaaRecord(128, b"IssueWild", b";"),
            CaaRecord(1, b"iodef", b""),
            CaaRecord(0, b"unknown", b"\x00\xff"),
        }


async def test_aliases_are_followed_and_the_search_goes_on_above_the_name_itself() -> None:
    """RFC 8659 §3: "in particular, chasing aliases"; Parent(X) is X without its leftmost label, not the alias's parent."""
    async with dns_peer() as peer:
        peer.add("a.b.corp.internal", "CNAME", "x.other.internal.")
        peer.add("x.other.internal", "A", "10.0.0.5")
        peer.add("other.internal", "CAA", '0 issue "other"')
        peer.add("corp.internal", "CAA", ISSUE)
        (observation,) = await seen(peer, NAMES)
        assert observation.asked == NAMES[:3]
        assert (observation.records, observation.is_alias) == ((OURS,), False)
        peer.add("x.other.internal", "CAA", ISSUE)
        (observation,) = await seen(peer, NAMES)
        assert observation.asked == NAMES[:1]
        assert (observation.records, observation.is_alias) == ((OURS,), True)


@pytest.mark.parametrize(
    ("lasting", "words"),
    [(SERVFAIL, "SERVFAIL"), (says(dns.rcode.REFUSED), "REFUSED"), (silence, "no answer"), (garbage, "no answer")],
)
async def test_where_nobody_answers_the_search_ends_with_a_failure(lasting: Behaviour, words: str) -> None:
    """Rule 2: records above it prove nothing."""
    async with dns_peer() as peer:
        peer.always("b.corp.internal", lasting, "CAA")
        peer.add("corp.internal", "CAA", ISSUE)
        (observation,) = await seen(peer, NAMES, attempt_timeout=patience(lasting))
        assert observation.asked == NAMES[:2]
        assert words in str(observation.failure)
        assert observation.records == ()
        assert peer.asked("b.corp.internal", "CAA") == 3, "it was asked again"
        assert peer.asked("corp.internal", "CAA") == 0


async def test_a_failure_above_the_records_is_of_no_account() -> None:
    async with dns_peer() as peer:
        peer.add("b.corp.internal", "CAA", ISSUE)
        peer.always("corp.internal", SERVFAIL, "CAA")
        (observation,) = await seen(peer, NAMES)
        assert (observation.records, observation.failure) == ((OURS,), None)


async def test_a_name_that_several_searches_share_is_asked_for_once() -> None:
    """Rule 3."""
    async with dns_peer() as peer:
        searches = [(f"n{number}.corp.internal", "corp.internal", "internal") for number in range(40)]
        peer.add("n7.corp.internal", "CAA", ISSUE)
        peer.add("internal", "CAA", '0 issue ";"')
        found = await seen(peer, *searches)
        assert found[7].records == (OURS,)
        assert {observation.asked for observation in found[8:]} == set(searches[8:])
        assert {observation.records for observation in found[:7] + found[8:]} == {(CaaRecord(0, b"issue", b";"),)}
        assert len(peer.questions) == 42


async def test_nothing_is_kept_beyond_an_observation() -> None:
    async with dns_peer() as peer:
        observer = CaaObserver(client_of(peer.server))
        assert (await observer.observe([("internal",)]))[0].records == ()
        peer.add("internal", "CAA", ISSUE)
        assert (await observer.observe([("internal",)]))[0].records == (OURS,)


async def test_the_whole_is_bounded() -> None:
    """Rule 4. What was learnt before counts."""
    async with dns_peer() as peer:
        peer.add("a.b.corp.internal", "CAA", ISSUE)
        peer.always("b.corp.internal", silence, "CAA")
        done, cut = await seen(peer, NAMES, NAMES[1:], attempt_timeout=30, total_timeout=0.1)
        assert (done.records, done.failure) == ((OURS,), None)
        assert cut.failure == "the search did not end within 0.1 s"
        assert cut.asked == NAMES[1:2]


async def test_questions_at_once_are_bounded() -> None:
    under_way, most = 0, 0

    class Counting:
        async def lookup(self, name: str, type_: object) -> object:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            answer = await client.lookup(name, type_)  # type: ignore[arg-type]  # passed on
            under_way -= 1
            return answer

    async with dns_peer() as peer:
        client = client_of(peer.server)
        observer = CaaObserver(Counting())  # type: ignore[arg-type]  # all that it uses
        await observer.observe([(f"n{number}.corp.internal",) for number in range(50)])
        assert most == 4


async def test_a_large_answer() -> None:
    async with dns_peer() as peer:
        peer.add("internal", "CAA", *(f'0 issue "ca{number:0200}.corp.internal"' for number in range(100)))
        peer.script("internal", "CAA", truncated)
        (observation,) = await seen(peer, ("internal",))
        assert len(observation.records) == 100


async def test_each_name_is_asked_for_where_its_zone_is() -> None:
    async with dns_peer() as inside, dns_peer() as outside:
        outside.add("internal", "CAA", ISSUE)
        client = client_of(ZoneServers({"corp.internal": (inside.server,)}, FixedServers((outside.server,))))
        (observation,) = await CaaObserver(client).observe([NAMES])
        assert observation.records == (OURS,)
        assert [question.name for question in inside.questions] == list(NAMES[:3])
        assert [question.name for question in outside.questions] == ["internal"]


async def test_with_zones_in_the_policy_nothing_above_them_is_asked_for() -> None:
    async with dns_peer() as peer:
        policy = CaaPolicy(("ca.corp.internal",), zones=("corp.internal",))
        search = policy.search(Identifier(IdentifierType.DNS, "*.a.b.corp.internal"))
        assert await seen(peer, search) == (CaaObservation(NAMES[:3]),)
        assert peer.asked("internal", "CAA") == 0


async def test_a_machine_out_of_sockets_is_not_the_names_fault() -> None:
    async with dns_peer() as peer:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as probe:
            lowest_free = probe.fileno()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            with pytest.raises(OSError, match=os.strerror(24)):
                await seen(peer, NAMES, NAMES[1:])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
