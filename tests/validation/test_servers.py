"""Whom to ask: servers as a person writes them, this machine's `resolv.conf`, and zones."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.validation.servers import (
    FixedServers,
    ResolvConf,
    Server,
    ZoneServers,
    build_servers,
    find_zone,
    parse_nameservers,
    parse_server,
    show_server,
)

FIRST: Server = (ip_address("10.0.0.53"), 53)
SECOND: Server = (ip_address("fd00::53"), 5353)


class TestChoice:
    def test_there_has_to_be_a_server(self) -> None:
        with pytest.raises(ValueError, match="has to be a server"):
            FixedServers(())
        with pytest.raises(ValueError, match="has to be a server"):
            ZoneServers({"corp.internal": ()}, FixedServers((FIRST,)))

    @pytest.mark.parametrize(
        ("name", "zone"),
        [
            ("corp.internal", "corp.internal"),
            ("www.corp.internal", "corp.internal"),
            ("_acme-challenge.www.corp.internal", "corp.internal"),
            ("team.corp.internal", "team.corp.internal"),
            ("a.b.team.corp.internal", "team.corp.internal"),
            ("xteam.corp.internal", "corp.internal"),
            ("internal", None),
            ("xcorp.internal", None),
            ("corp.internal.example", None),
            ("", None),
        ],
    )
    def test_the_longest_zone_decides(self, name: str, zone: str | None) -> None:
        """Rule 1: the longest zone that a name lies in; a zone holds its own name and everything below it."""
        assert find_zone(name, {"corp.internal": 1, "team.corp.internal": 2}) == zone

    @pytest.mark.parametrize(
        ("name", "servers"), [("a.corp.internal", (SECOND,)), ("corp.example", (FIRST,)), ("localhost", (FIRST,))]
    )
    def test_names_of_a_zone_have_its_servers_and_others_have_the_others(
        self, name: str, servers: tuple[Server, ...]
    ) -> None:
        assert ZoneServers({"corp.internal": (SECOND,)}, FixedServers((FIRST,))).for_name(name) == servers

    def test_a_configuration_chooses(self) -> None:
        assert build_servers((FIRST, SECOND), {}).for_name("a.corp.internal") == (FIRST, SECOND)
        zoned = build_servers((FIRST,), {"corp.internal": (SECOND,)})
        assert zoned.for_name("a.corp.internal") == (SECOND,)
        assert zoned.for_name("a.example") == (FIRST,)
        default = build_servers((), {})
        assert isinstance(default, ResolvConf)
        assert (default._path, default._port) == (Path("/etc/resolv.conf"), 53)
        beside = build_servers((), {"corp.internal": (SECOND,)})
        assert isinstance(beside, ZoneServers)
        assert isinstance(beside._otherwise, ResolvConf)


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

    @pytest.mark.parametrize("server", [FIRST, SECOND])
    def test_what_is_shown_is_read_again(self, server: Server) -> None:
        assert parse_server(show_server(server)) == server
