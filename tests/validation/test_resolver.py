"""Host names to addresses: a DNS server on loopback plays every part."""

import asyncio
import os
import resource
import socket
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import dns.message
import dns.rcode
import pytest

from acmeca.validation.dns_client import ResolutionError, ResolutionFailure
from acmeca.validation.networks import IPAddress
from acmeca.validation.resolver import (
    HOSTS_FILE,
    HostsFile,
    LoopbackNames,
    Resolver,
    StaticHosts,
    build_resolver,
)
from acmeca.validation.servers import FixedServers, ResolvConf, ZoneServers
from tests.support.dns_peer import (
    Behaviour,
    DnsPeer,
    client_of,
    dns_peer,
    forged_then,
    garbage,
    holds,
    resolver_of,
    says,
    silence,
    truncated,
    truncated_then_garbage,
)
from tests.support.http_peer import refusing_port

NAME = "www.corp.internal"
SERVFAIL = says(dns.rcode.SERVFAIL)
REFUSED = says(dns.rcode.REFUSED)


async def found(resolver: Resolver, name: str = NAME) -> list[str]:
    return [str(address) for address in await resolver.addresses(name)]


async def failure(resolver: Resolver, name: str = NAME) -> ResolutionError:
    with pytest.raises(ResolutionError) as caught:
        await resolver.addresses(name)
    assert str(caught.value).isprintable()
    return caught.value


class Nobody:
    """A resolver that must not be asked."""

    async def addresses(self, name: str) -> tuple[IPAddress, ...]:
        raise AssertionError(f"asked for {name}")


class TestLoopbackNames:
    @pytest.mark.parametrize("name", ["localhost", "a.localhost", "a.b.localhost"])
    async def test_localhost_is_loopback_without_asking_anyone(self, name: str) -> None:
        """RFC 6761 §6.3: "SHOULD always return the IP loopback address for address queries"."""
        assert await found(LoopbackNames(Nobody()), name) == ["::1", "127.0.0.1"]

    @pytest.mark.parametrize("name", ["notlocalhost", "localhost.corp.internal", "a.localhost.internal"])
    async def test_other_names_go_to_the_resolver(self, name: str) -> None:
        with pytest.raises(AssertionError, match="asked for"):
            await LoopbackNames(Nobody()).addresses(name)

    async def test_every_resolver_of_a_configuration_knows_it(self) -> None:
        with refusing_port() as port:
            for hosts_file in (None, HOSTS_FILE):
                client = client_of((IPv4Address("127.0.0.1"), port))
                resolver = build_resolver(
                    client,
                    hosts={"a.localhost": (ip_address("10.0.0.5"),)},
                    zones={"localhost": ()},
                    hosts_file=hosts_file,
                )
                assert await found(resolver, "a.localhost") == ["::1", "127.0.0.1"]


class TestDnsResolver:
    async def test_both_types_are_asked_and_ipv6_comes_first(self) -> None:
        async with dns_peer() as peer:
            peer.add(NAME, "A", "10.0.0.5", "10.0.0.6")
            peer.add(NAME, "AAAA", "fd00::5")
            first, *others = await found(resolver_of(peer.server))
            assert first == "fd00::5"
            assert set(others) == {"10.0.0.5", "10.0.0.6"}, "the server gives them in any order"
            assert (peer.asked(NAME, "A"), peer.asked(NAME, "AAAA")) == (1, 1)

    async def test_nothing_is_kept(self) -> None:
        async with dns_peer() as peer:
            resolver = resolver_of(peer.server)
            peer.script(NAME, "A", holds("A", "10.0.0.5"), holds("A", "10.0.0.6"))
            peer.add(NAME, "TXT", '"there"')
            assert await found(resolver) == ["10.0.0.5"]
            assert await found(resolver) == ["10.0.0.6"]

    @pytest.mark.parametrize(("type_", "address"), [("A", "10.0.0.5"), ("AAAA", "fd00::5")])
    async def test_one_type_is_enough(self, type_: str, address: str) -> None:
        async with dns_peer() as peer:
            peer.add(NAME, type_, address)
            assert await found(resolver_of(peer.server)) == [address]

    @pytest.mark.parametrize("bad", [SERVFAIL, silence, REFUSED, garbage])
    async def test_one_type_is_enough_even_if_the_other_fails(self, bad: Behaviour) -> None:
        async with dns_peer() as peer:
            peer.add(NAME, "A", "10.0.0.5")
            peer.script(NAME, "AAAA", *[bad] * 10)
            assert await found(resolver_of(peer.server, attempt_timeout=0.3)) == ["10.0.0.5"]

    async def test_a_name_that_does_not_exist(self) -> None:
        async with dns_peer() as peer:
            error = await failure(resolver_of(peer.server))
            assert error.reason is ResolutionFailure.NO_SUCH_NAME
            assert str(error) == f"127.0.0.1:{peer.port} says that {NAME} does not exist"
            assert len(peer.questions) == 2, "NXDOMAIN is final"

    async def test_a_name_without_addresses(self) -> None:
        async with dns_peer() as peer:
            peer.add(NAME, "TXT", '"there"')
            error = await failure(resolver_of(peer.server))
            assert error.reason is ResolutionFailure.NO_ADDRESS
            assert NAME in str(error)
            assert len(peer.questions) == 2, "an empty answer is final"

    @pytest.mark.parametrize("passing", [SERVFAIL, REFUSED, silence, garbage])
    async def test_what_may_pass_is_tried_again(self, passing: Behaviour) -> None:
        """RULES §3: SERVFAIL and timeouts are retried."""
        async with dns_peer() as peer:
            peer.add(NAME, "A", "10.0.0.5")
            peer.script(NAME, "A", passing, passing)
            assert await found(resolver_of(peer.server, attempt_timeout=0.3)) == ["10.0.0.5"]
            assert peer.asked(NAME, "A") == 3

    async def test_lasting_servfail_is_told_with_the_server(self) -> None:
        async with dns_peer() as peer:
            peer.always(NAME, SERVFAIL)
            error = await failure(resolver_of(peer.server))
            assert error.reason is ResolutionFailure.SERVER_FAILURE
            assert str(error) == f"127.0.0.1:{peer.port} answered with SERVFAIL"
            assert peer.asked(NAME, "A") == 3

    @pytest.mark.parametrize("bad", [silence, garbage])
    async def test_lasting_silence_is_a_timeout(self, bad: Behaviour) -> None:
        async with dns_peer() as peer:
            peer.always(NAME, bad)
            error = await failure(resolver_of(peer.server, attempt_timeout=0.05))
            assert error.reason is ResolutionFailure.TIMEOUT
            assert f"127.0.0.1:{peer.port} gave no answer within 0.05 s" in str(error)

    async def test_the_whole_lookup_is_bounded(self) -> None:
        async with dns_peer() as peer:
            peer.always(NAME, silence)
            error = await failure(resolver_of(peer.server, timeout=0.05, attempt_timeout=30))
            assert error.reason is ResolutionFailure.TIMEOUT
            assert "within 0.05 s" in str(error)

    async def test_when_time_runs_out_the_last_failure_is_told(self) -> None:
        async with dns_peer() as peer, dns_peer() as silent:
            peer.always(NAME, SERVFAIL)
            silent.always(NAME, silence)
            error = await failure(resolver_of(peer.server, silent.server, timeout=0.2, attempt_timeout=30))
            assert error.reason is ResolutionFailure.SERVER_FAILURE
            assert "SERVFAIL" in str(error)

    async def test_what_may_pass_is_told_before_what_is_final(self) -> None:
        async with dns_peer() as peer:
            peer.script(NAME, "A", *[SERVFAIL] * 10)
            peer.add(NAME, "TXT", '"there"')
            assert (await failure(resolver_of(peer.server))).reason is ResolutionFailure.SERVER_FAILURE

    async def test_the_next_server_is_asked_when_one_fails(self) -> None:
        async with dns_peer() as first, dns_peer() as second:
            first.always(NAME, SERVFAIL)
            second.add(NAME, "A", "10.0.0.5")
            assert await found(resolver_of(first.server, second.server)) == ["10.0.0.5"]
            assert (first.asked(NAME, "A"), second.asked(NAME, "A")) == (1, 1)

    async def test_nxdomain_of_the_first_server_is_not_overruled(self) -> None:
        async with dns_peer() as first, dns_peer() as second:
            second.add(NAME, "A", "10.0.0.5")
            assert (await failure(resolver_of(first.server, second.server))).reason is ResolutionFailure.NO_SUCH_NAME
            assert second.questions == []

    async def test_a_dead_server_is_passed_over(self) -> None:
        async with dns_peer() as peer:
            peer.add(NAME, "A", "10.0.0.5")
            with refusing_port() as port:
                assert await found(resolver_of((IPv4Address("127.0.0.1"), port), peer.server)) == ["10.0.0.5"]

    async def test_a_cut_answer_is_asked_for_over_tcp(self) -> None:
        """RFC 7766 §5: a stub resolver repeats a query over TCP when the answer came with the TC bit."""
        async with dns_peer() as peer:
            peer.add(NAME, "A", "10.0.0.5")
            peer.script(NAME, "A", truncated, truncated)
            assert await found(resolver_of(peer.server)) == ["10.0.0.5"]
            assert {question.transport for question in peer.questions if question.type == "A"} == {"udp", "tcp"}

    async def test_garbage_over_tcp_is_a_failure(self) -> None:
        async with dns_peer() as peer:
            peer.always(NAME, truncated_then_garbage)
            error = await failure(resolver_of(peer.server))
            assert error.reason is ResolutionFailure.SERVER_FAILURE
            assert "nonsense" in str(error)

    async def test_a_cut_answer_without_tcp_is_a_failure(self) -> None:
        async with dns_peer(tcp=False) as peer:
            peer.always(NAME, truncated)
            error = await failure(resolver_of(peer.server))
            assert error.reason is ResolutionFailure.SERVER_FAILURE
            assert f"127.0.0.1:{peer.port} cannot be reached" in str(error)

    async def test_what_does_not_match_the_question_is_no_answer(self) -> None:
        """RFC 5452 §9.1: the id, the question and the server have to match."""
        async with dns_peer() as peer:
            peer.add(NAME, "TXT", '"there"')
            peer.script(NAME, "A", forged_then("10.0.0.5"))
            assert await found(resolver_of(peer.server)) == ["10.0.0.5"]

    async def test_an_answer_from_elsewhere_is_no_answer(self) -> None:
        async with dns_peer() as peer:
            peer.add(NAME, "A", "10.0.0.5")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
                elsewhere.bind(("127.0.0.1", 0))

                def forge(peer: DnsPeer, query: dns.message.Message, transport: str) -> list[bytes]:
                    (message,) = holds("A", "203.0.113.66")(peer, query, transport)
                    sent.extend(elsewhere.sendto(message, address) for address in clients())
                    return holds("A", "10.0.0.5")(peer, query, transport)

                def clients() -> list[tuple[str, int]]:
                    """Every UDP port of this process on which an answer may be awaited."""
                    ports = []
                    for entry in Path("/proc/self/fd").iterdir():
                        try:
                            with socket.socket(fileno=os.dup(int(entry.name))) as copy:
                                if copy.family == socket.AF_INET and copy.type == socket.SOCK_DGRAM:
                                    ports.append(copy.getsockname()[1])
                        except OSError:
                            continue  # no socket
                    return [("127.0.0.1", port) for port in ports if port not in {0, peer.port}]

                sent: list[int] = []
                peer.script(NAME, "A", forge)
                assert await found(resolver_of(peer.server)) == ["10.0.0.5"]
                assert sent, "nothing was forged"
                assert peer.asked(NAME, "A") == 1, "the forgery cost no second question"

    async def test_aliases_within_an_answer_are_followed(self) -> None:
        async with dns_peer() as peer:
            peer.add(NAME, "CNAME", "a.corp.internal.")
            peer.add("a.corp.internal", "CNAME", "b.corp.internal.")
            peer.add("b.corp.internal", "A", "10.0.0.5")
            assert await found(resolver_of(peer.server)) == ["10.0.0.5"]
            assert peer.asked(NAME, "A") == 1

    async def test_an_alias_that_leads_out_of_the_answer_is_asked_for(self) -> None:
        async with dns_peer() as peer:
            peer.script(NAME, "A", holds("CNAME", "other.corp.internal."))
            peer.add(NAME, "TXT", '"there"')
            peer.add("other.corp.internal", "A", "10.0.0.5")
            assert await found(resolver_of(peer.server)) == ["10.0.0.5"]

    async def test_an_alias_to_nowhere_is_told_by_its_name(self) -> None:
        async with dns_peer() as peer:
            peer.always(NAME, holds("CNAME", "gone.corp.internal."))
            error = await failure(resolver_of(peer.server))
            assert error.reason is ResolutionFailure.NO_SUCH_NAME
            assert "gone.corp.internal does not exist" in str(error)

    async def test_an_alias_in_odd_bytes_is_told_escaped_and_cut(self) -> None:
        """RULES §3: "What a peer sent us … enters a problem or a log only escaped and cut to 64 bytes"."""
        async with dns_peer() as peer:
            peer.always(NAME, holds("CNAME", "\\010\\027[31m\\034." + "x" * 60 + "." + "y" * 60 + ".internal."))
            error = await failure(resolver_of(peer.server))
            assert "y" * 3 not in str(error)
            assert '"' not in str(error)

    async def test_aliases_asked_one_by_one_are_bounded(self) -> None:
        async with dns_peer() as peer:
            peer.always(NAME, holds("CNAME", "a0.corp.internal."))
            for number in range(40):
                peer.always(f"a{number}.corp.internal", holds("CNAME", f"a{number + 1}.corp.internal."))
            error = await failure(resolver_of(peer.server))
            assert error.reason is ResolutionFailure.SERVER_FAILURE
            assert "aliases (CNAME)" in str(error)
            assert len(peer.questions) <= 2 * 8

    @pytest.mark.parametrize("length", [1, 2, 30])
    async def test_aliases_in_a_ring_or_a_long_row_are_a_failure(self, length: int) -> None:
        async with dns_peer() as peer:
            names = [NAME, *(f"a{number}.corp.internal" for number in range(1, length))]
            for name, following in zip(names, [*names[1:], NAME], strict=True):
                peer.add(name, "CNAME", following + ".")
            error = await failure(resolver_of(peer.server))
            assert error.reason is ResolutionFailure.SERVER_FAILURE

    async def test_many_addresses_are_cut_and_none_comes_twice(self) -> None:
        async with dns_peer() as peer:
            peer.add(NAME, "A", *(f"10.0.0.{number}" for number in range(250)))
            addresses = await found(resolver_of(peer.server))
            assert len(addresses) == len(set(addresses)) == 32

    async def test_names_are_absolute(self) -> None:
        """Rule 1: no search list; a single label is asked for as it is."""
        async with dns_peer() as peer:
            peer.add("web", "A", "10.0.0.5")
            assert await found(resolver_of(peer.server), "web") == ["10.0.0.5"]
            await failure(resolver_of(peer.server), "gone")
            assert {question.name for question in peer.questions} == {"web", "gone"}

    async def test_cancellation_passes_and_closes(self) -> None:
        async with dns_peer() as peer:
            asked = asyncio.Event()

            def hang(peer: DnsPeer, query: object, transport: str) -> list[bytes]:
                asked.set()
                return []

            peer.always(NAME, hang)
            task = asyncio.create_task(resolver_of(peer.server, attempt_timeout=30).addresses(NAME))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    async def test_a_machine_out_of_sockets_is_not_the_names_fault(self) -> None:
        async with dns_peer() as peer:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            with socket.socket() as probe:
                lowest_free = probe.fileno()
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
                with pytest.raises(OSError, match=os.strerror(24)):
                    await resolver_of(peer.server).addresses(NAME)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class TestResolvConf:
    """What this machine's `resolv.conf` names is asked, with a server on loopback in its place."""

    async def test_its_servers_are_asked_for_the_absolute_name(self, tmp_path: Path) -> None:
        """Rule 1: no search list, whatever the file says."""
        path = tmp_path / "resolv.conf"
        path.write_text("search corp.internal\noptions ndots:9\nnameserver 127.0.0.1\n")
        async with dns_peer() as peer:
            peer.add("web.corp.internal", "A", "10.0.0.66")
            peer.add("web", "A", "10.0.0.5")
            resolver = resolver_of(ResolvConf(path, port=peer.port))
            assert await found(resolver, "web") == ["10.0.0.5"]
            assert (await failure(resolver, "gone")).reason is ResolutionFailure.NO_SUCH_NAME
            assert {question.name for question in peer.questions} == {"web", "gone"}

    async def test_it_is_read_at_each_lookup(self, tmp_path: Path) -> None:
        path = tmp_path / "resolv.conf"
        async with dns_peer() as peer:
            peer.add(NAME, "A", "10.0.0.5")
            resolver = resolver_of(ResolvConf(path, port=peer.port), timeout=0.2)
            path.write_text("nameserver 127.0.0.2\n")
            with pytest.raises(ResolutionError, match=r"127[.]0[.]0[.]2"):
                await resolver.addresses(NAME)
            path.write_text("nameserver 127.0.0.1\n")
            assert await found(resolver) == ["10.0.0.5"]

    @pytest.mark.parametrize("where", ["none", "file/below"])
    async def test_a_file_that_is_not_there_means_this_machine(self, tmp_path: Path, where: str) -> None:
        (tmp_path / "file").write_text("")
        async with dns_peer() as peer:
            peer.add(NAME, "A", "10.0.0.5")
            assert await found(resolver_of(ResolvConf(tmp_path / where, port=peer.port))) == ["10.0.0.5"]

    async def test_a_file_that_cannot_be_read_is_our_own_trouble(self, tmp_path: Path) -> None:
        """A client's name is not judged by it: what is raised is no ResolutionError."""
        with pytest.raises(IsADirectoryError):
            await resolver_of(ResolvConf(tmp_path)).addresses(NAME)

    async def test_slow_names_delay_no_others(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rule 5: nothing waits for a thread. Here 60 names hang, and one does not."""

        def refuse(*_: object) -> None:
            raise AssertionError("a thread was asked")

        (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        async with dns_peer() as peer:
            peer.add(NAME, "A", "10.0.0.5")
            all_asked = asyncio.Event()
            names = [f"slow{number}.corp.internal" for number in range(60)]

            def hang(peer: DnsPeer, query: dns.message.Message, transport: str) -> list[bytes]:
                if len({question.name for question in peer.questions}) == len(names):
                    all_asked.set()
                return []

            for name in names:
                peer.always(name, hang)
            monkeypatch.setattr(socket, "getaddrinfo", refuse)
            monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", refuse)
            resolver = resolver_of(ResolvConf(tmp_path / "resolv.conf", port=peer.port), timeout=30, attempt_timeout=30)
            slow = [asyncio.create_task(resolver.addresses(name)) for name in names]
            await all_asked.wait()
            assert await found(resolver) == ["10.0.0.5"]
            assert not any(task.done() for task in slow)
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)


class Nowhere:
    """A resolver that knows no name."""

    async def addresses(self, name: str) -> tuple[IPAddress, ...]:
        raise ResolutionError(ResolutionFailure.NO_SUCH_NAME, "nobody knows it")


class TestHostsFile:
    """The machine's own table stands before its resolver."""

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("10.0.0.5 web.corp.internal", ["10.0.0.5"]),
            ("10.0.0.5\tother WEB.Corp.Internal # a comment", ["10.0.0.5"]),
            ("10.0.0.5 web.corp.internal\nfd00::5 web.corp.internal", ["fd00::5", "10.0.0.5"]),
            ("fe80::1%eth0 web.corp.internal\n10.0.0.5 web.corp.internal", ["10.0.0.5"]),
        ],
    )
    async def test_a_listed_name_has_the_listed_addresses(self, tmp_path: Path, line: str, expected: list[str]) -> None:
        (tmp_path / "hosts").write_text(f"\n# names\n127.0.0.1 localhost\n{line}\n")
        assert [
            str(a) for a in await HostsFile(tmp_path / "hosts", Nowhere()).addresses("web.corp.internal")
        ] == expected

    @pytest.mark.parametrize(
        "text",
        [
            "# 10.0.0.5 web.corp.internal",
            "10.0.0.5 web",
            "10.0.0.5 a.web.corp.internal",
            "web.corp.internal",
            "",
            "x web.corp.internal",
        ],
    )
    async def test_any_other_name_is_the_resolvers(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "hosts").write_text(text)
        with pytest.raises(ResolutionError, match="nobody knows it"):
            await HostsFile(tmp_path / "hosts", Nowhere()).addresses("web.corp.internal")

    async def test_a_file_that_is_not_there_has_no_names(self, tmp_path: Path) -> None:
        with pytest.raises(ResolutionError, match="nobody knows it"):
            await HostsFile(tmp_path / "none", Nowhere()).addresses("web.corp.internal")

    async def test_a_file_that_cannot_be_read_is_our_own_trouble(self, tmp_path: Path) -> None:
        """The name may stand in it, so nobody else is asked."""
        with pytest.raises(IsADirectoryError):
            await HostsFile(tmp_path, Nobody()).addresses("web.corp.internal")

    async def test_names_of_a_zone_with_servers_of_its_own_are_not_looked_for(self, tmp_path: Path) -> None:
        """Rule 2: the table belongs to this machine's resolvers."""
        (tmp_path / "hosts").write_text("127.0.1.1 web.corp.internal web.other.internal\n")
        resolver = HostsFile(tmp_path / "hosts", Nowhere(), zones={"corp.internal": ()})
        assert (await failure(resolver, "web.corp.internal")).reason is ResolutionFailure.NO_SUCH_NAME
        assert await found(resolver, "web.other.internal") == ["127.0.1.1"]


class TestStaticHosts:
    """`validation.hosts`: the addresses of single names."""

    HOSTS = {"db1.corp.internal": (ip_address("10.0.0.7"), ip_address("fd00::7"), ip_address("10.0.0.7"))}  # noqa: RUF012

    async def test_a_listed_name_has_the_listed_addresses_without_asking_anyone(self) -> None:
        assert await found(StaticHosts(self.HOSTS, Nobody()), "db1.corp.internal") == ["fd00::7", "10.0.0.7"]

    @pytest.mark.parametrize(
        "name", ["corp.internal", "a.db1.corp.internal", "xdb1.corp.internal", "db1.corp.internal.x"]
    )
    async def test_any_other_name_is_the_resolvers(self, name: str) -> None:
        assert (await failure(StaticHosts(self.HOSTS, Nowhere()), name)).reason is ResolutionFailure.NO_SUCH_NAME

    async def test_they_come_before_the_hosts_file_and_the_zones(self, tmp_path: Path) -> None:
        (tmp_path / "hosts").write_text("10.0.0.66 db1.corp.internal\n10.0.0.67 db2.corp.internal\n")
        async with dns_peer() as peer:
            peer.add("db1.corp.internal", "A", "10.0.0.68")
            peer.add("db3.corp.internal", "A", "10.0.0.69")
            resolver = build_resolver(client_of(peer.server), hosts=self.HOSTS, zones={}, hosts_file=tmp_path / "hosts")
            assert await found(resolver, "db1.corp.internal") == ["fd00::7", "10.0.0.7"]
            assert await found(resolver, "db2.corp.internal") == ["10.0.0.67"]
            assert await found(resolver, "db3.corp.internal") == ["10.0.0.69"]
            assert {question.name for question in peer.questions} == {"db3.corp.internal"}

    async def test_without_this_machines_resolvers_its_table_is_not_read(self) -> None:
        resolver = build_resolver(client_of((IPv4Address("127.0.0.1"), 9)), hosts={}, zones={}, hosts_file=None)
        assert isinstance(resolver, LoopbackNames)
        assert not isinstance(resolver._behind, HostsFile)


class TestZones:
    """`validation.zones`: servers per zone, chosen anew for each alias."""

    async def test_the_servers_of_a_names_zone_are_asked_and_no_others(self) -> None:
        async with dns_peer() as inside, dns_peer() as outside:
            inside.add("www.corp.internal", "A", "10.0.0.5")
            outside.add("www.corp.internal", "A", "10.0.0.66")
            outside.add("www.other.internal", "A", "10.0.0.6")
            servers = ZoneServers({"corp.internal": (inside.server,)}, FixedServers((outside.server,)))
            assert await found(resolver_of(servers), "www.corp.internal") == ["10.0.0.5"]
            assert await found(resolver_of(servers), "www.other.internal") == ["10.0.0.6"]
            assert {question.name for question in inside.questions} == {"www.corp.internal"}
            assert {question.name for question in outside.questions} == {"www.other.internal"}

    async def test_an_alias_is_asked_for_where_its_own_name_belongs(self) -> None:
        """The servers of a zone may know that zone alone."""
        async with dns_peer() as inside, dns_peer() as outside:
            inside.always("www.corp.internal", holds("CNAME", "Host.Prod.Internal."))
            inside.always("host.prod.internal", REFUSED)
            outside.add("host.prod.internal", "A", "10.0.0.6")
            servers = ZoneServers({"corp.internal": (inside.server,)}, FixedServers((outside.server,)))
            assert await found(resolver_of(servers), "www.corp.internal") == ["10.0.0.6"]

    async def test_an_alias_into_a_zone_is_asked_of_the_zones_servers(self) -> None:
        async with dns_peer() as inside, dns_peer() as outside:
            outside.always("www.other.internal", holds("CNAME", "host.corp.internal."))
            outside.add("host.corp.internal", "A", "10.0.0.66")
            inside.add("host.corp.internal", "A", "10.0.0.5")
            servers = ZoneServers({"corp.internal": (inside.server,)}, FixedServers((outside.server,)))
            assert await found(resolver_of(servers), "www.other.internal") == ["10.0.0.5"]

    async def test_a_dot_within_a_label_divides_nothing(self) -> None:
        r"""A server can give the alias `x\.corp.internal`, one label below `internal`."""
        async with dns_peer() as inside, dns_peer() as outside:
            outside.always("www.other.internal", holds("CNAME", "x\\.corp.internal."))
            servers = ZoneServers({"corp.internal": (inside.server,)}, FixedServers((outside.server,)))
            await failure(resolver_of(servers), "www.other.internal")
            assert inside.questions == []

    async def test_silent_servers_of_a_zone_are_named(self) -> None:
        async with dns_peer() as inside, dns_peer() as outside:
            inside.always(NAME, silence)
            servers = ZoneServers({"corp.internal": (inside.server,)}, FixedServers((outside.server,)))
            error = await failure(resolver_of(servers, timeout=0.05, attempt_timeout=30))
            assert f":{inside.port} gave no answer" in str(error)
            assert f":{outside.port}" not in str(error)
