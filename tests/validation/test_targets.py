"""The URLs of http-01: the first one, and those that redirects lead to."""

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.validation.targets import RedirectError, Target, build_target, parse_origin, parse_redirect

_JUNK = st.text(alphabet="[]:.x1@", max_size=3)
PORTS = frozenset({80, 443})
BASE = Target("http", Identifier(IdentifierType.DNS, "www.corp.internal"), 80, "/.well-known/acme-challenge/tok")


def dns(value: str) -> Identifier:
    return Identifier(IdentifierType.DNS, value)


def ip(value: str) -> Identifier:
    return Identifier(IdentifierType.IP, value)


def follow(location: str | bytes, *, base: Target = BASE, ports: frozenset[int] = PORTS) -> Target:
    return parse_redirect(location if isinstance(location, bytes) else location.encode(), base=base, ports=ports)


class TestFirstTarget:
    @pytest.mark.parametrize(
        ("identifier", "port", "url", "authority"),
        [
            (dns("a.corp.internal"), 80, "http://a.corp.internal/", "a.corp.internal"),
            (dns("a.corp.internal"), 5002, "http://a.corp.internal:5002/", "a.corp.internal:5002"),
            (ip("10.0.0.5"), 80, "http://10.0.0.5/", "10.0.0.5"),
            (ip("fd00::5"), 80, "http://[fd00::5]/", "[fd00::5]"),
            (ip("fd00::5"), 443, "http://[fd00::5]:443/", "[fd00::5]:443"),
        ],
    )
    def test_url_and_host(self, identifier: Identifier, port: int, url: str, authority: str) -> None:
        target = build_target(identifier, "tok-EN_1", port=port)
        assert target.url == f"{url}.well-known/acme-challenge/tok-EN_1"
        assert target.authority == authority

    def test_a_wildcard_is_never_asked(self) -> None:
        """RULES §3: "http-01 and tls-alpn-01 are never offered for, and never satisfy, a wildcard"."""
        with pytest.raises(ValueError, match="wildcard"):
            build_target(dns("*.corp.internal"), "tok", port=80)

    @pytest.mark.parametrize("token", ["", "a b", "a/../b", "a\r\nHost: x", "a?b", "a\n"])
    def test_only_tokens_make_a_path(self, token: str) -> None:
        with pytest.raises(ValueError, match="base64url"):
            build_target(dns("a.corp.internal"), token, port=80)


class TestRedirects:
    @pytest.mark.parametrize(
        ("location", "url"),
        [
            ("http://other.corp.internal/x", "http://other.corp.internal/x"),
            ("https://other.corp.internal/x?y=1&z", "https://other.corp.internal/x?y=1&z"),
            ("HTTP://OTHER.corp.internal", "http://other.corp.internal/"),
            ("http://other.corp.internal:80/x", "http://other.corp.internal/x"),
            ("http://other.corp.internal:443/x", "http://other.corp.internal:443/x"),
            ("http://other.corp.internal:/x", "http://other.corp.internal/x"),
            ("https://www.corp.internal/.well-known/acme-challenge/tok", None),
            ("/elsewhere", "http://www.corp.internal/elsewhere"),
            ("elsewhere", "http://www.corp.internal/.well-known/acme-challenge/elsewhere"),
            ("../../up", "http://www.corp.internal/up"),
            ("?q", "http://www.corp.internal/.well-known/acme-challenge/tok?q"),
            ("//other.corp.internal/x", "http://other.corp.internal/x"),
            ("http://other.corp.internal/x#fragment", "http://other.corp.internal/x"),
            ("http://10.0.0.5/x", "http://10.0.0.5/x"),
            ("http://[fd00:0::5]/x", "http://[fd00::5]/x"),
            ("http://other/x", "http://other/x"),
            ("http://xn--bcher-kva.corp.internal/", "http://xn--bcher-kva.corp.internal/"),
            ("http://1host.corp.internal/%2e%2e/x", "http://1host.corp.internal/%2e%2e/x"),
        ],
    )
    def test_followed(self, location: str, url: str | None) -> None:
        assert follow(location).url == (url or location)

    @pytest.mark.parametrize(
        ("location", "says"),
        [
            ("file:///etc/passwd", "only http and https"),
            ("ftp://other.corp.internal/", "only http and https"),
            ("gopher://other.corp.internal:80/", "only http and https"),
            ("javascript:alert(1)", "only http and https"),
            ("data:text/plain,x", "only http and https"),
            ("http://user@other.corp.internal/", "user information"),
            ("http://user:pass@other.corp.internal/", "user information"),
            ("http://@other.corp.internal/", "user information"),
            ("http://10.0.0.5@169.254.169.254/", "user information"),
            ("http://other.corp.internal:22/", "only ports 80, 443"),
            ("http://other.corp.internal:0/", "only ports"),
            ("http://other.corp.internal:8080/", "only ports"),
            ("http://other.corp.internal:65536/", "only ports"),
            ("http://other.corp.internal:000080/", "not a URL"),
            ("http://other.corp.internal:8o/", "not a URL"),
            ("http://other.corp.internal:-1/", "not a URL"),
            ("http://[fd00::5/", "not a URL"),
            ("http://[fe80::1%25eth0]/", "neither|not a URL"),
            ("http://[10.0.0.5]/", "neither|not a URL"),
            ("http://[other]/", "neither|not a URL"),
            ("http://fd00::5/", "neither|not a URL"),
            ("http://[::1]x/", "not a URL"),
            ("http://[::1]x:80/", "not a URL"),
            ("http://[::1].corp.internal/", "not a URL"),
            ("http://[::1]:80:80/", "not a URL"),
            ("http://[::1][::2]/", "not a URL"),
            ("http://[[::1]]/", "not a URL"),
            ("http://x[::1]/", "not a URL"),
            ("http://[]/", "not a URL"),
            ("http://[v1.x]/", "neither"),
            ("http://]/", "not a URL"),
            ("http://other.corp.internal:80:80/", "not a URL"),
            ("http://:80/", "neither"),
            ("//[::1]x/", "not a URL"),
            ("///x", "host of its Location is missing"),
            ("//", "host of its Location is missing"),
            ("1x://other.corp.internal/", "not a URL"),
            (":80/x", "not a URL"),
            ("http:///x", "host of its Location is missing"),
            ("http://", "host of its Location is missing"),
            ("http:x", "host of its Location is missing"),
            ("https:/x", "host of its Location is missing"),
            ("http://127.1/", "neither"),
            ("http://2130706433/", "neither"),
            ("http://0x7f000001/", "neither"),
            ("http://0x7f.1/", "neither"),
            ("http://0177.0.0.1/", "neither"),
            ("http://010.0.0.5/", "neither"),
            ("http://127.0.0.1./", "neither"),
            ("http://other.corp.internal./", "neither"),
            ("http://other..internal/", "neither"),
            ("http://-other.internal/", "neither"),
            ("http://other_.internal/", "neither"),
            ("http://%31%30.0.0.5/", "neither"),
            ("http://*.corp.internal/", "neither"),
            ("http://" + "a" * 64 + ".internal/", "neither"),
            ("http://" + "a." * 126 + "internal/", "neither"),
            ("", "not a URL"),
            ("http://other.corp.internal\\@www.corp.internal/", "not a URL"),
            ("http:\\\\other.corp.internal/", "not a URL"),
            ("http://other.corp.internal/a b", "not a URL"),
            ("http://other.corp.internal/\ta", "not a URL"),
            ("http://oth\ner.corp.internal/", "not a URL"),
            ("http://ötherhost.internal/", "not a URL"),
            ("http://other.corp.internal/" + "a" * 2048, "bytes"),
        ],
    )
    def test_refused(self, location: str, says: str) -> None:
        with pytest.raises(RedirectError, match=says) as caught:
            follow(location)
        assert str(caught.value).isascii()
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 200
        assert caught.value.location == location.encode()
        assert "corp" not in str(caught.value), "the reason quotes nothing"

    def test_configured_ports_are_followed(self) -> None:
        assert follow("http://a.internal:5002/", ports=frozenset({80, 443, 5002})).port == 5002

    def test_a_url_without_a_port_means_the_port_of_its_scheme(self) -> None:
        base = Target("http", dns("a.internal"), 5002, "/")
        ports = frozenset({80, 443, 5002})
        assert follow("http://b.internal/", base=base, ports=ports).port == 80
        assert follow("https://b.internal/", base=base, ports=ports).port == 443
        assert follow("/x", base=base, ports=ports).port == 5002

    def test_a_relative_redirect_of_an_address_stays_there(self) -> None:
        base = Target("http", ip("fd00::5"), 80, "/a/b")
        assert follow("c", base=base).url == "http://[fd00::5]/a/c"

    @settings(deadline=None, max_examples=300)
    @given(
        st.one_of(st.binary(max_size=60), st.text(alphabet="htps:/@[].%\\?#127x0aé \n", max_size=40).map(str.encode))
    )
    def test_nothing_else_is_raised_and_what_is_followed_is_clean(self, location: bytes) -> None:
        try:
            target = follow(location)
        except RedirectError:
            return
        assert target.scheme in {"http", "https"}
        assert target.port in PORTS
        assert target.path.startswith("/")
        assert target.url.isascii()
        assert "@" not in target.authority
        assert follow(target.url) == target

    @settings(deadline=None, max_examples=500)
    @given(
        st.one_of(
            st.text(alphabet="[]:.x1af0%@-_AZ", max_size=14),
            st.builds(
                "{}{}{}".format, _JUNK, st.sampled_from(["[::1]", "10.0.0.5", "a.internal", "[fd00::5]:443"]), _JUNK
            ),
        )
    )
    def test_a_host_is_taken_as_it_stands_or_not_at_all(self, authority: str) -> None:
        """Rule 2: "refused, not repaired", whatever `urllib` makes of it."""
        for location in (f"http://{authority}/x", f"//{authority}"):
            try:
                target = follow(location)
            except RedirectError:
                continue
            host, port = authority, ""
            if not authority.endswith("]") and ":" in authority:
                host, _, port = authority.rpartition(":")
            assert target.port == int(port or 80)
            if target.host.type is IdentifierType.DNS:
                assert host.lower() == target.host.value
            elif ":" in target.host.value:
                assert (host[0], host[-1]) == ("[", "]")
                assert ip_address(host[1:-1]) == ip_address(target.host.value)
            else:
                assert host == target.host.value


class TestOrigin:
    @pytest.mark.parametrize(
        ("url", "host", "port"),
        [
            ("https://ca.corp.internal", dns("ca.corp.internal"), 443),
            ("http://pki.corp.internal", dns("pki.corp.internal"), 80),
            ("https://ca.corp.internal:8443", dns("ca.corp.internal"), 8443),
            ("http://10.0.0.9:8080", ip("10.0.0.9"), 8080),
            ("https://[fd00::9]", ip("fd00::9"), 443),
            ("http://CA.corp.internal/", dns("ca.corp.internal"), 80),
        ],
    )
    def test_host_and_port(self, url: str, host: Identifier, port: int) -> None:
        assert parse_origin(url) == (host, port)

    @pytest.mark.parametrize(
        "url",
        ["", "ca.corp.internal", "ftp://ca.corp.internal", "https://", "https://a@b", "https://[::1]x", "https://1.2"],
    )
    def test_anything_else_is_a_mistake(self, url: str) -> None:
        with pytest.raises(ValueError, match=r"no URL|no host"):
            parse_origin(url)
