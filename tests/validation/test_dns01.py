"""TXT observations, against a DNS server on loopback."""

import os
import resource
import socket

import dns.rcode
import pytest

from acmeca.acme.dns01 import TxtObservation
from acmeca.validation.dns01 import TxtObserver
from tests.support.dns_peer import Behaviour, client_of, dns_peer, garbage, holds, patience, says, silence, truncated

NAME = "_acme-challenge.www.corp.internal"


async def test_the_strings_of_a_record_are_joined_and_each_record_is_a_value() -> None:
    """RULES §3: "TXT strings of one record are joined; any record may match"."""
    async with dns_peer() as peer:
        peer.add(NAME, "TXT", '"one"', '"two" "parts"')
        observation = await TxtObserver(client_of(peer.server)).observe(NAME)
        assert set(observation.values) == {b"one", b"twoparts"}
        assert observation.name == NAME
        assert observation.server == f"127.0.0.1:{peer.port}"
        assert (observation.exists, observation.alias, observation.failure) == (True, None, None)


async def test_a_large_answer() -> None:
    async with dns_peer() as peer:
        peer.add(NAME, "TXT", *(f'"{number:0200}"' for number in range(100)))
        peer.script(NAME, "TXT", truncated)
        assert len((await TxtObserver(client_of(peer.server)).observe(NAME)).values) == 100


async def test_a_name_that_does_not_exist_and_one_without_records() -> None:
    async with dns_peer() as peer:
        observer = TxtObserver(client_of(peer.server))
        assert await observer.observe(NAME) == TxtObservation(NAME, f"127.0.0.1:{peer.port}", exists=False)
        peer.add(NAME, "A", "10.0.0.5")
        assert await observer.observe(NAME) == TxtObservation(NAME, f"127.0.0.1:{peer.port}")


async def test_the_alias_that_the_zone_has_is_told() -> None:
    async with dns_peer() as peer:
        peer.add(NAME, "CNAME", "x.validation.internal.")
        peer.add("x.validation.internal", "CNAME", "y.validation.internal.")
        peer.add("y.validation.internal", "TXT", '"x"')
        observation = await TxtObserver(client_of(peer.server)).observe(NAME)
        assert (observation.alias, observation.values) == ("x.validation.internal", (b"x",))


@pytest.mark.parametrize(
    ("lasting", "words"),
    [
        (says(dns.rcode.SERVFAIL), "answered with SERVFAIL"),
        (says(dns.rcode.REFUSED), "answered with REFUSED"),
        (silence, "gave no answer within"),
        (garbage, "gave no answer within"),
        (holds("CNAME", NAME + "."), "nonsense"),
    ],
)
async def test_whatever_a_peer_does_is_an_observation(lasting: Behaviour, words: str) -> None:
    """Rule 1."""
    async with dns_peer() as peer:
        peer.always(NAME, lasting, "TXT")
        observation = await TxtObserver(client_of(peer.server, attempt_timeout=patience(lasting))).observe(NAME)
        assert words in str(observation.failure)
        assert observation.values == ()
        assert peer.asked(NAME, "TXT") == 3


async def test_an_identifier_that_leaves_no_room_for_the_labels_is_an_observation() -> None:
    async with dns_peer() as peer:
        name = "_acme-challenge." + ".".join(["x" * 63] * 3 + ["y" * 61])
        observation = await TxtObserver(client_of(peer.server)).observe(name)
        assert observation.failure == "a name in the DNS has at most 253 characters"
        assert peer.questions == []


async def test_a_machine_out_of_sockets_is_not_the_names_fault() -> None:
    async with dns_peer() as peer:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as probe:
            lowest_free = probe.fileno()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            with pytest.raises(OSError, match=os.strerror(24)):
                await TxtObserver(client_of(peer.server)).observe(NAME)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
