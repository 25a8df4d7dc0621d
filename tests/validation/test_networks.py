"""Which addresses a validation may connect to (RFC 8555 §10.4)."""

import os
import resource
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.validation.networks import _SPECIAL_RANGES, AddressPolicy, Endpoint, IPNetwork, embedded_addresses

PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
EVERYTHING = ("0.0.0.0/0", "::/0")


def policy(*networks: str, own: tuple[Endpoint, ...] = ()) -> AddressPolicy:
    allowed: tuple[IPNetwork, ...] = tuple(map(ip_network, networks))
    return AddressPolicy(allowed, lambda: own)


def refusal(text: str, *networks: str, port: int = 80, own: tuple[Endpoint, ...] = ()) -> str | None:
    return policy(*networks, own=own).refusal(ip_address(text), port)


SPECIAL = [
    ("0.0.0.0", "unspecified"),
    ("0.1.2.3", "this network"),
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback"),
    ("169.254.169.254", "metadata"),
    ("169.254.0.1", "link-local"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.255", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "broadcast"),
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::10.0.0.1", "IPv4-compatible"),
    ("::ffff:10.0.0.1", "IPv4-mapped"),
    ("::ffff:127.0.0.1", "IPv4-mapped"),
    ("::ffff:0:10.0.0.1", "IPv4-translated"),
    ("64:ff9b::10.0.0.1", "NAT64"),
    ("64:ff9b:1::1", "NAT64"),
    ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "Teredo"),
    ("2002:a00:1::1", "6to4"),
    ("fe80::1", "link-local"),
    ("febf::1", "link-local"),
    ("fec0::1", "site-local"),
    ("ff02::1", "multicast"),
    ("fd00:ec2::254", "metadata"),
    ("fd00:42::42", "metadata"),
    ("168.63.129.16", "metadata"),
    ("100.100.100.200", "metadata"),
    ("192.0.0.192", "metadata"),
    ("fd20:ce::254", "metadata"),
    ("fd00:c1::a9fe:a9fe", "metadata"),
]


class TestSpecialRanges:
    @pytest.mark.parametrize(("address", "name"), SPECIAL)
    def test_a_wide_network_opens_no_special_range(self, address: str, name: str) -> None:
        """RULES §3: "Never loopback, link-local …, multicast, unspecified, v4-mapped forms … unless configured"."""
        for networks in (EVERYTHING, (*PRIVATE, *EVERYTHING), ()):
            reason = refusal(address, *networks)
            assert reason is not None
            assert name in reason
            assert "validation.allowed_networks" in reason

    @pytest.mark.parametrize(
        ("address", "network"),
        [
            ("127.0.0.1", "127.0.0.0/8"),
            ("127.0.0.1", "127.0.0.1/32"),
            ("::1", "::1/128"),
            ("169.254.10.1", "169.254.10.0/24"),
            ("fe80::1", "fe80::/10"),
            ("fd00:ec2::254", "fd00:ec2::254/128"),
            ("240.0.0.1", "240.0.0.0/4"),
            ("168.63.129.16", "168.63.129.16/32"),
            ("64:ff9b:1::1", "64:ff9b:1::/48"),
        ],
    )
    def test_a_network_inside_the_range_opens_itself(self, address: str, network: str) -> None:
        assert refusal(address, network) is None

    @pytest.mark.parametrize(
        ("address", "network"),
        [
            ("127.0.0.2", "127.0.0.1/32"),
            ("169.254.169.254", "169.254.10.0/24"),
            ("fe80::2", "fe80::1/128"),
            ("::1", "::/96"),
        ],
    )
    def test_and_nothing_beside(self, address: str, network: str) -> None:
        assert refusal(address, network, *EVERYTHING) is not None

    @pytest.mark.parametrize(
        "address", ["168.63.129.15", "100.100.100.201", "192.0.0.191", "fd00:42::41", "fd00:42::43"]
    )
    def test_a_metadata_service_is_one_address(self, address: str) -> None:
        assert refusal(address, *EVERYTHING) is None

    def test_every_bound_of_every_range_is_inside(self) -> None:
        for network, _ in _SPECIAL_RANGES:
            for address in (network[0], network[-1]):
                assert policy(*EVERYTHING).refusal(address, 80) is not None, address


class TestAllowedNetworks:
    @pytest.mark.parametrize(
        "address", ["10.0.0.1", "10.255.255.255", "172.16.0.1", "192.168.1.1", "fd12:3456::1", "fc00::1"]
    )
    def test_addresses_of_the_configured_networks_are_allowed(self, address: str) -> None:
        assert refusal(address, *PRIVATE) is None

    @pytest.mark.parametrize(
        "address", ["11.0.0.1", "9.255.255.255", "172.32.0.0", "8.8.8.8", "2001:db8::1", "fbff::1"]
    )
    def test_others_are_refused_with_the_key_that_would_allow_them(self, address: str) -> None:
        assert refusal(address, *PRIVATE) == "not in validation.allowed_networks"

    def test_nothing_is_allowed_by_default(self) -> None:
        assert refusal("10.0.0.1") is not None
        assert refusal("fd00::1") is not None

    @settings(deadline=None, max_examples=200)
    @given(st.ip_addresses())
    def test_what_is_allowed_lies_in_a_configured_network(self, address: IPv4Address | IPv6Address) -> None:
        networks = tuple(map(ip_network, PRIVATE))
        if AddressPolicy(networks, tuple).refusal(address, 80) is None:
            assert any(address in network for network in networks)


class TestEmbedded:
    @pytest.mark.parametrize(
        ("address", "carried"),
        [
            ("::ffff:10.1.2.3", ["10.1.2.3"]),
            ("2002:a01:203::1", ["10.1.2.3"]),
            ("64:ff9b::10.1.2.3", ["10.1.2.3"]),
            ("::ffff:0:10.1.2.3", ["10.1.2.3"]),
            ("2001:0:a01:203:0:ffff:f5fe:fdfc", ["10.1.2.3", "10.1.2.3"]),
            ("fd00::a01:203", []),
            ("10.1.2.3", []),
        ],
    )
    def test_carried_addresses(self, address: str, carried: list[str]) -> None:
        assert [str(each) for each in embedded_addresses(ip_address(address))] == carried

    @pytest.mark.parametrize(
        ("form", "network"),
        [("::ffff:{}", "::ffff:0:0/96"), ("64:ff9b::{}", "64:ff9b::/96"), ("::ffff:0:{}", "::ffff:0:0:0/96")],
    )
    def test_the_form_and_the_carried_address_have_to_be_allowed_both(self, form: str, network: str) -> None:
        assert refusal(form.format("10.0.0.1"), network, *PRIVATE) is None
        assert refusal(form.format("10.0.0.1"), *PRIVATE, *EVERYTHING) is not None
        assert refusal(form.format("8.8.8.8"), network, *PRIVATE) is not None
        for hidden in ("127.0.0.1", "169.254.169.254"):
            reason = refusal(form.format(hidden), network, *PRIVATE, *EVERYTHING)
            assert reason is not None
            assert hidden in reason

    def test_6to4_and_teredo_too(self) -> None:
        assert refusal("2002:a00:1::1", "2002::/16", *PRIVATE) is None
        assert refusal("2002:7f00:1::1", "2002::/16", *EVERYTHING) is not None
        assert refusal("2001:0:a01:203:0:ffff:f5fe:fdfc", "2001::/32", *PRIVATE) is None
        assert refusal("2001:0:a01:203:0:ffff:80ff:fffe", "2001::/32", *PRIVATE, *EVERYTHING) is not None


class TestOwnListeners:
    OWN: tuple[Endpoint, ...] = ((IPv4Address("10.0.0.9"), 8443), (IPv6Address("fd00::9"), 8080))

    def test_an_endpoint_of_ours_is_refused_even_in_an_allowed_network(self) -> None:
        for address, port in (("10.0.0.9", 8443), ("fd00::9", 8080)):
            assert refusal(address, *PRIVATE, port=port, own=self.OWN) == "a listener of this CA"

    def test_another_port_or_another_address_is_not_ours(self) -> None:
        for address, port in (("10.0.0.9", 8080), ("10.0.0.8", 8443), ("fd00::9", 8443), ("fd00::8", 8080)):
            assert refusal(address, *PRIVATE, port=port, own=self.OWN) is None

    def test_a_mapped_form_of_our_address_is_ours(self) -> None:
        assert refusal("::ffff:10.0.0.9", "::ffff:0:0/96", *PRIVATE, port=8443, own=self.OWN) == "a listener of this CA"
        mapped: tuple[Endpoint, ...] = ((IPv6Address("::ffff:10.0.0.9"), 8443),)
        assert refusal("10.0.0.9", *PRIVATE, port=8443, own=mapped) == "a listener of this CA"

    @pytest.mark.parametrize("wildcard", [None, IPv4Address("0.0.0.0"), IPv6Address("::")])
    def test_the_wildcard_stands_at_every_address_of_this_machine(
        self, wildcard: IPv4Address | IPv6Address | None
    ) -> None:
        own: tuple[Endpoint, ...] = ((wildcard, 8443),)
        for local in ("127.0.0.1", "127.0.0.53"):
            assert refusal(local, "127.0.0.0/8", port=8443, own=own) == "a listener of this CA"
            assert refusal(local, "127.0.0.0/8", port=8444, own=own) is None
        # RFC 5737: an address of the documentation is nobody's, so it is not this machine's
        assert refusal("203.0.113.77", "203.0.113.0/24", port=8443, own=own) is None
        assert refusal("2001:db8:ffff::77", "2001:db8::/32", port=8443, own=own) is None

    def test_listeners_are_asked_for_at_every_decision(self) -> None:
        own: list[Endpoint] = []
        decider = AddressPolicy((ip_network("10.0.0.0/8"),), lambda: own)
        assert decider.refusal(ip_address("10.0.0.9"), 443) is None
        own.append((IPv4Address("10.0.0.9"), 443))
        assert decider.refusal(ip_address("10.0.0.9"), 443) is not None

    def test_without_a_socket_to_ask_the_kernel_nothing_is_decided(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as probe:
            lowest_free = probe.fileno()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            with pytest.raises(OSError, match=os.strerror(24)):
                refusal("127.0.0.1", "127.0.0.0/8", port=8443, own=((None, 8443),))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
