"""Host names to addresses: a DNS server on loopback plays every part."""

import asyncio
import os
import resource
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import dns.message
import dns.rcode
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.validation.networks import IPAddress
from acmeca.validation.resolver import (
    DnsResolver,
    HostsFile,
    LoopbackNames,
    ResolutionError,
    ResolutionFailure,
    ResolvConf,
    Resolver,
    Server,
    build_resolver,
    parse_nameservers,
    parse_server,
)
from tests.support.dns_peer import (
    Behaviour,
    DnsPeer,
    dns_peer,
    forged_then,
    garbage,
    holds,
    says,
    silence,
    truncated,
    truncated_then_garbage,
)
from tests.support.http_peer import refusing_port

NAME = "www.corp.internal"
SERVFAIL = says(dns.rcode.SERVFAIL)
REFUSED = says(dns.rcode.REFUSED)


def quick(*servers: Server, timeout: float = 3.0, attempt_timeout: float = 0.05) -> DnsResolver:
    return DnsResolver(servers, timeout=timeout, attempt_timeout=attempt_timeout, pause=0.001)


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

    async def test_both_resolvers_of_a_configuration_know_it(self) -> None:
        with refusing_port() as port:
            for servers in ((), ((IPv4Address("127.0.0.1"), port),)):
                assert await found(build_resolver(servers), "a.localhost") == ["::1", "127.0.0.1"]


class TestDnsResolver:
    async def test_both_types_are_asked_and_ipv6_comes_first(self) -> None:
        async with dns_peer() as peer:
            peer.add(NAME, "A", "10.0.0.5", "10.0.0.6")
            peer.add(NAME, "AAAA", "fd00::5")
            first, *others = await found(quick(peer.server))
            assert first == "fd00::5"
            assert set(others) == {"10.0.0.5", "10.0.0.6"}, "the server gives them in any order"
            assert (peer.asked(NAME, "A"), peer.asked(NAME, "AAAA")) == (1, 1)

    async def test_nothing_is_kept(self) -> None:
        async with dns_peer() as peer:
            resolver = quick(peer.server)
            peer.script(NAME, "A", holds("A", "10.0.0.5"), holds("A", "10.0.0.6"))
            peer.add(NAME, "TXT", '"there"')
            assert await found(resolver) == ["10.0.0.5"]
            assert await found(resolver) == ["10.0.0.6"]

    @pytest.mark.parametrize(("type_", "address"), [("A", "10.0.0.5"), ("AAAA", "fd00::5")])
    async def test_one_type_is_enough(self, type_: str, address: str) -> None:
        async with dns_peer() as peer:
            peer.add(NAME, type_, address)
            assert await found(quick(peer.server)) == [address]

    @pytest.mark.parametrize("bad", [SERVFAIL, silence, REFUSED, garbage])
    async def test_one_type_is_enough_even_if_the_other_fails(self, bad: Behaviour) -> None:
        async with dns_peer() as peer:
            peer.add(NAME, "A", "10.0.0.5")
            peer.script(NAME, "AAAA", *[bad] * 10)
            assert await found(quick(peer.server)) == ["10.0.0.5"]

    async def test_a_name_that_does_not_exist(self) -> None:
        async with dns_peer() as peer:
            error = await failure(quick(peer.server))
            assert error.reason is ResolutionFailure.NO_SUCH_NAME
            assert str(error) == f"127.0.0.1:{peer.port} says that {NAME} does not exist"
            assert len(peer.questions) == 2, "NXDOMAIN is final"

    async def test_a_name_without_addresses(self) -> None:
        async with dns_peer() as peer:
            peer.add(NAME, "TXT", '"there"')
            error = await failure(quick(peer.server))
            assert error.reason is ResolutionFailure.NO_ADDRESS
            assert NAME in str(error)
            assert len(peer.questions) == 2, "an empty answer is final"

    @pytest.mark.parametrize("passing", [SERVFAIL, REFUSED, silence, garbage])
    async def test_what_may_pass_is_tried_again(self, passing: Behaviour) -> None:
        """RULES §3: SERVFAIL and timeouts are retried."""
        async with dns_peer() as peer:
            peer.add(NAME, "A", "10.0.0.5")
            peer.script(NAME, "A", passing, passing)
            assert await found(quick(peer.server)) == ["10.0.0.5"]
            assert peer.asked(NAME, "A") == 3

    async def test_lasting_servfail_is_told_with_the_server(self) -> None:
        async with dns_peer() as peer:
            peer.always(NAME, SERVFAIL)
            error = await failure(quick(peer.server))
            assert error.reason is ResolutionFailure.SERVER_FAILURE
            assert str(error) == f"127.0.0.1:{peer.port} answered with SERVFAIL"
            assert peer.asked(NAME, "A") == 3

    @pytest.mark.parametrize("bad", [silence, garbage])
    async def test_lasting_silence_is_a_timeout(self, bad: Behaviour) -> None:
        async with dns_peer() as peer:
            peer.always(NAME, bad)
            error = await failure(quick(peer.server))
            assert error.reason is ResolutionFailure.TIMEOUT
            assert f"127.0.0.1:{peer.port} gave no answer within 0.05 s" in str(error)

    async def test_the_whole_lookup_is_bounded(self) -> None:
        async with dns_peer() as peer:
            peer.always(NAME, silence)
            error = await failure(quick(peer.server, timeout=0.05, attempt_timeout=30))
            assert error.reason is ResolutionFailure.TIMEOUT
            assert "within 0.05 s" in str(error)

    async def test_when_time_runs_out_the_last_failure_is_told(self) -> None:
        async with dns_peer() as peer, dns_peer() as silent:
            peer.always(NAME, SERVFAIL)
            silent.always(NAME, silence)
            error = await failure(quick(peer.server, silent.server, timeout=0.2, attempt_timeout=30))
            assert error.reason is ResolutionFailure.SERVER_FAILURE
            assert "SERVFAIL" in str(error)

    async def test_what_may_pass_is_told_before_what_is_final(self) -> None:
        async with dns_peer() as peer:
            peer.script(NAME, "A", *[SERVFAIL] * 10)
            peer.add(NAME, "TXT", '"there"')
            assert (await failure(quick(peer.server))).reason is ResolutionFailure.SERVER_FAILURE

    async def test_the_next_server_is_asked_when_one_fails(self) -> None:
        async with dns_peer() as first, dns_peer() as second:
            first.always(NAME, SERVFAIL)
            second.add(NAME, "A", "10.0.0.5")
            assert await found(quick(first.server, second.server)) == ["10.0.0.5"]
            assert (first.asked(NAME, "A"), second.asked(NAME, "A")) == (1, 1)

    async def test_nxdomain_of_the_first_server_is_not_overruled(self) -> None:
        async with dns_peer() as first, dns_peer() as second:
            second.add(NAME, "A", "10.0.0.5")
            assert (await failure(quick(first.server, second.server))).reason is ResolutionFailure.NO_SUCH_NAME
            assert second.questions == []

    async def test_a_dead_server_is_passed_over(self) -> None:
        async with dns_peer() as peer:
            peer.add(NAME, "A", "10.0.0.5")
            with refusing_port() as port:
                assert await found(quick((IPv4Address("127.0.0.1"), port), peer.server)) == ["10.0.0.5"]

    async def test_a_cut_answer_is_asked_for_over_tcp(self) -> None:
        """RFC 7766 §5: a stub resolver repeats a query over TCP when the answer came with the TC bit."""
        async with dns_peer() as peer:
            peer.add(NAME, "A", "10.0.0.5")
            peer.script(NAME, "A", truncated, truncated)
            assert await found(quick(peer.server)) == ["10.0.0.5"]
            assert {question.transport for question in peer.questions if question.type == "A"} == {"udp", "tcp"}

    async def test_garbage_over_tcp_is_a_failure(self) -> None:
        async with dns_peer() as peer:
            peer.always(NAME, truncated_then_garbage)
            error = await failure(quick(peer.server))
            assert error.reason is ResolutionFailure.SERVER_FAILURE
            assert "nonsense" in str(error)

    async def test_a_cut_answer_without_tcp_is_a_failure(self) -> None:
        async with dns_peer(tcp=False) as peer:
            peer.always(NAME, truncated)
            error = await failure(quick(peer.server))
            assert error.reason is ResolutionFailure.SERVER_FAILURE
            assert f"127.0.0.1:{peer.port} cannot be reached" in str(error)

    async def test_what_does_not_match_the_question_is_no_answer(self) -> None:
        """RFC 5452 §9.1: the id, the question and the server have to match."""
        async with dns_peer() as peer:
            peer.add(NAME, "TXT", '"there"')
            peer.script(NAME, "A", forged_then("10.0.0.5"))
            assert await found(quick(peer.server)) == ["10.0.0.5"]

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
                assert await found(quick(peer.server)) == ["10.0.0.5"]
                assert sent, "nothing was forged"
                assert peer.asked(NAME, "A") == 1, "the forgery cost no second question"

    async def test_aliases_within_an_answer_are_followed(self) -> None:
        async with dns_peer() as peer:
            peer.add(NAME, "CNAME", "a.corp.internal.")
            peer.add("a.corp.internal", "CNAME", "b.corp.internal.")
            peer.add("b.corp.internal", "A", "10.0.0.5")
            assert await found(quick(peer.server)) == ["10.0.0.5"]
            assert peer.asked(NAME, "A") == 1

    async def test_an_alias_that_leads_out_of_the_answer_is_asked_for(self) -> None:
        async with dns_peer() as peer:
            peer.script(NAME, "A", holds("CNAME", "other.corp.internal."))
            peer.add(NAME, "TXT", '"there"')
            peer.add("other.corp.internal", "A", "10.0.0.5")
            assert await found(quick(peer.server)) == ["10.0.0.5"]

    async def test_an_alias_to_nowhere_is_told_by_its_name(self) -> None:
        async with dns_peer() as peer:
            peer.always(NAME, holds("CNAME", "gone.corp.internal."))
            error = await failure(quick(peer.server))
            assert error.reason is ResolutionFailure.NO_SUCH_NAME
            assert "gone.corp.internal does not exist" in str(error)

    async def test_an_alias_in_odd_bytes_is_told_escaped_and_cut(self) -> None:
        """RULES §3: "What a peer sent us … enters a problem or a log only escaped and cut to 64 bytes"."""
        async with dns_peer() as peer:
            peer.always(NAME, holds("CNAME", "\\010\\027[31m\\034." + "x" * 60 + "." + "y" * 60 + ".internal."))
            error = await failure(quick(peer.server))
            assert "y" * 3 not in str(error)
            assert '"' not in str(error)

    async def test_aliases_asked_one_by_one_are_bounded(self) -> None:
        async with dns_peer() as peer:
            peer.always(NAME, holds("CNAME", "a0.corp.internal."))
            for number in range(40):
                peer.always(f"a{number}.corp.internal", holds("CNAME", f"a{number + 1}.corp.internal."))
            error = await failure(quick(peer.server))
            assert error.reason is ResolutionFailure.SERVER_FAILURE
            assert "aliases (CNAME)" in str(error)
            assert len(peer.questions) <= 2 * 8

    @pytest.mark.parametrize("length", [1, 2, 30])
    async def test_aliases_in_a_ring_or_a_long_row_are_a_failure(self, length: int) -> None:
        async with dns_peer() as peer:
            names = [NAME, *(f"a{number}.corp.internal" for number in range(1, length))]
            for name, following in zip(names, [*names[1:], NAME], strict=True):
                peer.add(name, "CNAME", following + ".")
            error = await failure(quick(peer.server))
            assert error.reason is ResolutionFailure.SERVER_FAILURE

    async def test_many_addresses_are_cut_and_none_comes_twice(self) -> None:
        async with dns_peer() as peer:
            peer.add(NAME, "A", *(f"10.0.{number // 250}.{number % 250}" for number in range(400)))
            addresses = await found(quick(peer.server, attempt_timeout=1))
            assert len(addresses) == len(set(addresses)) == 32

    async def test_names_are_absolute(self) -> None:
        """Rule 1: no search list; a single label is asked for as it is."""
        async with dns_peer() as peer:
            peer.add("web", "A", "10.0.0.5")
            assert await found(quick(peer.server), "web") == ["10.0.0.5"]
            await failure(quick(peer.server), "gone")
            assert {question.name for question in peer.questions} == {"web", "gone"}

    async def test_cancellation_passes_and_closes(self) -> None:
        async with dns_peer() as peer:
            asked = asyncio.Event()

            def hang(peer: DnsPeer, query: object, transport: str) -> list[bytes]:
                asked.set()
                return []

            peer.always(NAME, hang)
            task = asyncio.create_task(quick(peer.server, attempt_timeout=30).addresses(NAME))
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
                    await quick(peer.server).addresses(NAME)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_it_needs_a_server(self) -> None:
        with pytest.raises(ValueError, match="needs a server"):
            DnsResolver(())


class TestParseNameservers:
    @pytest.mark.parametrize(
        ("text", "servers"),
        [
            ("nameserver 10.0.0.53\n", ["10.0.0.53"]),
            ("nameserver\t10.0.0.53\nnameserver fd00::53", ["10.0.0.53", "fd00::53"]),
            ("# nameserver 10.0.0.1\n; nameserver 10.0.0.2\nnameserver 10.0.0.3", ["10.0.0.3"]),
            ("nameserver 10.0.0.53 # ours\nnameserver 10.0.0.54;theirs\r\n", ["10.0.0.53", "10.0.0.54"]),
            ("search corp.internal\noptions ndots:5 timeout:1\nnameserver 10.0.0.53", ["10.0.0.53"]),
            ("\n".join(f"nameserver 10.0.0.{number}" for number in range(1, 9)), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
            ("nameserver fe80::1%eth0\nnameserver 10.0.0.53", ["10.0.0.53"]),
            ("nameserver dns.corp.internal\nnameserver 10.0.0.53", ["10.0.0.53"]),
            ("nameserver 10.0.0.256\nnameserver 1.2\nnameserver 010.0.0.1", ["127.0.0.1"]),
            ("nameserver 0.0.0.0\nnameserver ::", ["127.0.0.1", "::1"]),
            (" nameserver 10.0.0.53", ["127.0.0.1"]),
            ("nameservers 10.0.0.53\nNAMESERVER 10.0.0.54\nnameserver", ["127.0.0.1"]),
            ("nameserver fe80::1%eth0", ["127.0.0.1"]),
            ("", ["127.0.0.1"]),
        ],
    )
    def test_as_the_c_library_reads_them(self, text: str, servers: list[str]) -> None:
        assert [str(server) for server in parse_nameservers(text)] == servers

    @settings(deadline=None, max_examples=100)
    @given(st.text(alphabet="nameserver 10.:f%#;\n\t", max_size=80).map("nameserver ".__add__))
    def test_any_text_gives_one_to_three_addresses_that_can_be_asked(self, text: str) -> None:
        servers = parse_nameservers(text)
        assert 1 <= len(servers) <= 3
        for server in servers:
            assert not server.is_unspecified
            assert "%" not in str(server)


class TestResolvConf:
    """What this machine's `resolv.conf` names is asked, with a server on loopback in its place."""

    async def test_its_servers_are_asked_for_the_absolute_name(self, tmp_path: Path) -> None:
        """Rule 1: no search list, whatever the file says."""
        path = tmp_path / "resolv.conf"
        path.write_text("search corp.internal\noptions ndots:9\nnameserver 127.0.0.1\n")
        async with dns_peer() as peer:
            peer.add("web.corp.internal", "A", "10.0.0.66")
            peer.add("web", "A", "10.0.0.5")
            resolver = ResolvConf(path, port=peer.port)
            assert await found(resolver, "web") == ["10.0.0.5"]
            assert (await failure(resolver, "gone")).reason is ResolutionFailure.NO_SUCH_NAME
            assert {question.name for question in peer.questions} == {"web", "gone"}

    async def test_it_is_read_at_each_lookup(self, tmp_path: Path) -> None:
        path = tmp_path / "resolv.conf"
        async with dns_peer() as peer:
            peer.add(NAME, "A", "10.0.0.5")
            resolver = ResolvConf(path, port=peer.port, timeout=0.2)
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
            assert await found(ResolvConf(tmp_path / where, port=peer.port)) == ["10.0.0.5"]

    async def test_a_file_that_cannot_be_read_is_our_own_trouble(self, tmp_path: Path) -> None:
        """A client's name is not judged by it: what is raised is no ResolutionError."""
        with pytest.raises(IsADirectoryError):
            await ResolvConf(tmp_path).addresses(NAME)

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
            resolver = ResolvConf(tmp_path / "resolv.conf", port=peer.port, timeout=30)
            slow = [asyncio.create_task(resolver.addresses(name)) for name in names]
            await all_asked.wait()
            assert await found(resolver) == ["10.0.0.5"]
            assert not any(task.done() for task in slow)
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    def test_it_is_the_default_of_a_configuration(self) -> None:
        chosen = build_resolver(())
        assert isinstance(chosen, LoopbackNames)
        assert isinstance(chosen._behind, HostsFile)
        assert chosen._behind._path == Path("/etc/hosts")
        assert isinstance(chosen._behind._behind, ResolvConf)
        assert chosen._behind._behind._path == Path("/etc/resolv.conf")
        assert chosen._behind._behind._port == 53
        named = build_resolver(((IPv4Address("10.0.0.53"), 53),))
        assert isinstance(named, LoopbackNames)
        assert isinstance(named._behind, DnsResolver)


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


class TestParseServer:
    @pytest.mark.parametrize(
        ("text", "address", "port"),
        [
            ("10.0.0.53", "10.0.0.53", 53),
            ("10.0.0.53:5353", "10.0.0.53", 5353),
            ("fd00::53", "fd00::53", 53),
            ("::1", "::1", 53),
            ("[::1]", "::1", 53),
            ("[::1]:5353", "::1", 5353),
            ("127.0.0.1:65535", "127.0.0.1", 65535),
        ],
    )
    def test_allowed(self, text: str, address: str, port: int) -> None:
        assert parse_server(text) == (ip_address(address), port)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "dns.corp.internal",
            "dns.corp.internal:53",
            "10.0.0.53:",
            "10.0.0.53:0",
            "10.0.0.53:65536",
            "10.0.0.53:-1",
            "10.0.0.53:+53",
            "10.0.0.53: 53",
            "10.0.0.53:\u0665\u0663",
            "10.0.0.53:5_3",
            "10.0.0.53 ",
            "10.0.0.0/8",
            "010.0.0.53",
            "[10.0.0.53]:53",
            "[::1",
            "[::1]53",
            "[::1]:",
            "[::1]:x",
            "::1]:53",
            "udp://10.0.0.53",
            "10.0.0.53:53:53",
            "10.0.0.53:" + "9" * 5000,
        ],
    )
    def test_refused_with_what_is_allowed(self, text: str) -> None:
        with pytest.raises(ValueError, match="allowed are an IP address or address:port"):
            parse_server(text)

    @settings(deadline=None, max_examples=100)
    @given(st.text(max_size=30))
    def test_any_text_is_an_address_and_a_port_or_a_value_error(self, text: str) -> None:
        try:
            address, port = parse_server(text)
        except ValueError:
            return
        assert isinstance(address, IPv4Address | IPv6Address)
        assert 1 <= port <= 65535
