"""acmeca.acme.identifiers: which texts are names and addresses, and what they are called from then on."""

import ipaddress
import json
import re
from collections.abc import Mapping

import idna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme import identifiers
from acmeca.acme.identifiers import Identifier, IdentifierType, canonical_dns_name, canonical_ip
from acmeca.acme.payloads import parse_identifier
from acmeca.acme.problem import Problem, ProblemType
from tests.support.stopwatch import takes_less_than

PROPERTY = settings(deadline=None, max_examples=300)
LABEL_63 = "a" * 63
NAME_253 = ".".join([LABEL_63, LABEL_63, LABEL_63, "a" * 61])


class TestNames:
    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("a", "a"),
            ("localhost", "localhost"),
            ("host.corp.internal", "host.corp.internal"),
            ("HOST.Corp.INTERNAL", "host.corp.internal"),
            ("a-b.c--d.example", "a-b.c--d.example"),
            ("3com.example", "3com.example"),
            ("1.2.3.4.example", "1.2.3.4.example"),
            ("4.3.2.1.in-addr.arpa", "4.3.2.1.in-addr.arpa"),
            ("0x.a0", "0x.a0"),
            ("x.0xg", "x.0xg"),
            (NAME_253, NAME_253),
            (f"{LABEL_63}.example", f"{LABEL_63}.example"),
            ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
            ("XN--MNCHEN-3YA.example", "xn--mnchen-3ya.example"),
            ("xn--fiqs8s", "xn--fiqs8s"),
            ("*.example", "*.example"),
            ("*.a.example", "*.a.example"),
            ("*.A.xn--MNCHEN-3ya", "*.a.xn--mnchen-3ya"),
        ],
    )
    def test_what_a_name_is_called(self, text: str, name: str) -> None:
        assert canonical_dns_name(text) == name
        assert canonical_dns_name(name) == name

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "empty label"),
            (".", "ends in a dot"),
            ("a.", "ends in a dot"),
            ("a..", "ends in a dot"),
            (".a", "empty label"),
            ("a..b", "empty label"),
            ("a\n", "letters, digits"),  # Python's `$` would let it through
            ("a.example\n", "letters, digits"),
            ("a\0.example", "letters, digits"),
            ("a b.example", "letters, digits"),
            (" a.example", "letters, digits"),
            ("a/b", "letters, digits"),
            ("a@b", "letters, digits"),
            ("-a.example", "letters, digits"),
            ("a-.example", "letters, digits"),
            ("a.-", "letters, digits"),
            ("'.example", "letters, digits"),
            ("a_b.example", "underscore"),
            ("_acme-challenge.example", "underscore"),
            ("a.example:443", "colon"),
            ("::1", "colon"),
            ("[::1]", "colon"),
            (f"{LABEL_63}a.example", "63"),
            (NAME_253 + "a", "253"),
            ("a." * 200 + "a", "253"),
            # A wildcard is "*." and a name, nothing else.
            ("*", "needs a name"),
            ("*.", "ends in a dot"),
            ("**.example", "whole leftmost label"),
            ("*.*.example", "whole leftmost label"),
            ("a.*.example", "whole leftmost label"),
            ("a*.example", "whole leftmost label"),
            ("*a.example", "whole leftmost label"),
            ("a.*", "whole leftmost label"),
            ("*.-", "letters, digits"),
            ("*..example", "empty label"),
            # An address in any spelling that a resolver or a browser takes for one.
            ("127.0.0.1", "IP address"),
            ("127.1", "IP address"),
            ("2130706433", "IP address"),
            ("0", "IP address"),
            ("017700000001", "IP address"),
            ("0x7f.1", "IP address"),
            ("0x7f000001", "IP address"),
            ("0X7F000001", "IP address"),
            ("1.0x7f", "IP address"),
            ("127.0.0.0x", "IP address"),
            ("999.999.999.999", "IP address"),
            ("example.123", "IP address"),
            ("*.127.0.0.1", "IP address"),
            # A-labels that are none.
            ("xn--.example", "letters, digits"),
            ("xn--a-.example", "letters, digits"),
            ("xn--0.example", "A-label"),
            ("xn--zzzzzz.example", "A-label"),
            ("xn--abc.example", "A-label"),  # decodes to control characters
            ("xn--a-ecp.example", "A-label"),  # decodes to a code point that IDNA 2008 disallows
            ("xn---bbk.example", "A-label"),  # not the canonical spelling
            ("ab--cd.example", "A-label"),
            ("*.xn--zzzzzz", "A-label"),
            # What is not ASCII, with a hint where there is one.
            ("m\u00fcnchen.example", r"write xn--mnchen-3ya\.example"),
            ("*.m\u00fcnchen.example", "not ASCII"),
            ("\u4e2d\u56fd", "write xn--fiqs8s"),
            ("\uff41.example", r"write a\.example"),
            ("\u00e9" * 40, r"A-labels"),
            ("a\u3002example", "not ASCII"),
            ("\u2488com", "not ASCII"),
            ("\u0661.example", "not ASCII"),
            ("\ud800", "not ASCII"),
            ("\u200d", "not ASCII"),
            ("K\u212a", "not ASCII"),  # the Kelvin sign lower-cases to an ASCII k
        ],
    )
    def test_what_is_no_name_and_why(self, text: str, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            canonical_dns_name(text)

    @PROPERTY
    @given(st.text(max_size=80) | st.from_regex(r"(\*\.)?[a-zA-Z0-9*_.:-]{1,70}", fullmatch=True))
    def test_a_name_is_ldh_lower_case_and_no_address(self, text: str) -> None:
        """Whatever is accepted is canonical, keeps its meaning, and is nothing that `inet_aton` knows."""
        try:
            name = canonical_dns_name(text)
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017  (most texts are no names; those that are, are looked at below)
            return
        assert name == text.lower()
        assert canonical_dns_name(name) == name
        labels = name.removeprefix("*.").split(".")
        assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", label) for label in labels)
        assert not re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1])

    @PROPERTY
    @given(st.text(st.characters(categories=["Ll", "Lo", "Mn", "Nd"]), min_size=1, max_size=12))
    def test_an_a_label_is_accepted_exactly_when_idna_2008_makes_it(self, text: str) -> None:
        """RFC 8555 §7.1.4: servers "MUST verify" that A-labels "are properly encoded"."""
        try:
            a_label = idna.alabel(text).decode()
        except idna.IDNAError:
            a_label = "xn--" + text.encode("punycode").decode().lower()
            if a_label.endswith("-") or len(a_label) > 63 or text.isascii():
                return
            with pytest.raises(ValueError):
                canonical_dns_name(a_label + ".example")
        else:
            assert text.isascii() or canonical_dns_name(a_label + ".example") == a_label + ".example"

    @PROPERTY
    @given(st.from_regex(r"xn--[a-z0-9-]{0,57}[a-z0-9]", fullmatch=True))
    def test_no_punycode_raises_anything_else(self, label: str) -> None:
        try:
            name = canonical_dns_name(label)
        except ValueError:
            name = label
        assert name == label

    def test_we_compare_the_round_trip_ourselves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """RFC 5891 §5.4. Not every release of idna compares what it decoded with what it was given."""
        monkeypatch.setattr(idna, "ulabel", lambda _: "m\u00fcnchen")
        identifiers._is_a_label.cache_clear()
        with pytest.raises(ValueError, match="A-label"):
            canonical_dns_name("xn--other.example")
        assert canonical_dns_name("xn--mnchen-3ya.example")
        identifiers._is_a_label.cache_clear()


class TestAddresses:
    @pytest.mark.parametrize(
        "text",
        [
            "0.0.0.0",
            "127.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "2001:db8::1",
            "2001:db8:0:1:1:1:1:1",  # RFC 5952 §4.2.2: one zero field is not shortened
            "2001:0:0:1::1",  # §4.2.3: the longest run
            "2001:db8::1:0:0:1",  # §4.2.3: of two equal runs the first
            "fe80::1",
            "64:ff9b::102:304",
        ],
    )
    def test_canonical_text(self, text: str) -> None:
        """RFC 8738 §3: RFC 1123 §2.1 for IPv4, RFC 5952 §4 for IPv6."""
        assert canonical_ip(text) == text

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "not an IP address"),
            ("example", "not an IP address"),
            ("127.1", "not an IP address"),
            ("127.0.0.1.", "not an IP address"),
            ("127.0.0.01", "not an IP address"),
            ("0127.0.0.1", "not an IP address"),
            ("0x7f.0.0.1", "not an IP address"),
            ("2130706433", "not an IP address"),
            ("256.0.0.1", "not an IP address"),
            ("127.0.0.1\n", "not an IP address"),
            (" 127.0.0.1", "not an IP address"),
            ("127.0.0.1/32", "not an IP address"),
            ("\u0661.0.0.1", "not an IP address"),
            ("[::1]", "not an IP address"),
            ("::1/128", "not an IP address"),
            ("1::2::3", "not an IP address"),
            ("2001:DB8::1", "write 2001:db8::1"),
            ("2001:0db8::1", "write 2001:db8::1"),
            ("2001:db8:0:0:0:0:0:1", "write 2001:db8::1"),
            ("2001:db8::0:1", "write 2001:db8::1"),
            ("0:0:0:0:0:0:0:0", "write ::"),
            ("::1.2.3.4", "write ::102:304"),
            ("::ffff:192.0.2.1", r"write 192\.0\.2\.1"),
            ("::ffff:c000:201", r"write 192\.0\.2\.1"),
            ("fe80::1%eth0", "zone"),
            ("fe80::1%1", "zone"),
            ("1" * 60_000, "not an IP address"),
            (":" * 60_000, "not an IP address"),
        ],
    )
    def test_everything_else(self, text: str, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            canonical_ip(text)

    @PROPERTY
    @given(st.ip_addresses())
    def test_every_address_has_one_text(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            return
        assert canonical_ip(str(address)) == str(address)
        if address.exploded != str(address):
            with pytest.raises(ValueError):
                canonical_ip(address.exploded)


class TestParseIdentifier:
    @pytest.mark.parametrize(
        ("members", "identifier"),
        [
            ({"type": "dns", "value": "A.example"}, Identifier(IdentifierType.DNS, "a.example")),
            ({"type": "dns", "value": "*.a.example"}, Identifier(IdentifierType.DNS, "*.a.example")),
            ({"type": "ip", "value": "::1"}, Identifier(IdentifierType.IP, "::1")),
            ({"type": "ip", "value": "192.0.2.1", "port": 1}, Identifier(IdentifierType.IP, "192.0.2.1")),
        ],
    )
    def test_good_ones(self, members: Mapping[str, object], identifier: Identifier) -> None:
        assert parse_identifier(members) == identifier

    @pytest.mark.parametrize(
        "members",
        [
            {},
            {"type": "dns"},
            {"value": "a"},
            {"type": "dns", "value": None},
            {"type": "dns", "value": 1},
            {"type": "dns", "value": ["a"]},
            {"type": None, "value": "a"},
            {"type": [], "value": "a"},
            {"type": {}, "value": "a"},
            {"type": "dns", "value": "127.0.0.1"},
            {"type": "ip", "value": "a.example"},
            {"type": "ip", "value": "*.1.2.3"},
            {"type": "dns", "value": ""},
        ],
    )
    def test_bad_shapes_are_malformed(self, members: Mapping[str, object]) -> None:
        with pytest.raises(Problem) as caught:
            parse_identifier(members)
        assert (caught.value.type, caught.value.status) == (ProblemType.MALFORMED, 400)

    @pytest.mark.parametrize("type_", ["", "DNS", "dns ", "email", "TNAuthList", "x" * 60_000, "\ud800"])
    def test_other_types_are_unsupported(self, type_: str) -> None:
        with pytest.raises(Problem) as caught:
            parse_identifier({"type": type_, "value": "a.example"})
        assert caught.value.type is ProblemType.UNSUPPORTED_IDENTIFIER
        assert len(caught.value.detail) < 200

    def test_the_problem_says_which_one_is_meant(self) -> None:
        """§6.7.1: a client may leave the identifier of a subproblem out of its next order, so it has to know it again."""
        with pytest.raises(Problem) as caught:
            parse_identifier({"type": "dns", "value": "_A.example"})
        assert caught.value.to_json()["identifier"] == {"type": "dns", "value": "_A.example"}
        assert "underscore" in caught.value.detail

    @pytest.mark.parametrize("value", ["a\n", "\u00e9", "\ud800", "a" * 254, "\x7f", "_\0"])
    def test_what_is_no_plain_text_is_not_sent_back(self, value: str) -> None:
        with pytest.raises(Problem) as caught:
            parse_identifier({"type": "dns", "value": value})
        assert caught.value.identifier is None
        json.dumps(caught.value.to_json(), ensure_ascii=False).encode()
        assert caught.value.detail.isprintable()


def test_an_identifier_is_a_value() -> None:
    wildcard = Identifier(IdentifierType.DNS, "*.a.example")
    assert wildcard.is_wildcard
    assert wildcard.base == Identifier(IdentifierType.DNS, "a.example")
    assert not wildcard.base.is_wildcard
    assert wildcard.base.base == wildcard.base
    assert wildcard.to_json() == {"type": "dns", "value": "*.a.example"}
    assert str(wildcard) == "*.a.example"
    assert sorted([wildcard, wildcard.base]) == [wildcard, wildcard.base]
    assert len({wildcard, Identifier(IdentifierType.DNS, "*.a.example")}) == 1


def test_no_name_takes_long() -> None:
    """Four A-labels of 59 digits after an Arabic letter: IDNA looks at the whole label for each digit."""
    label = idna.alabel("\u0627" + "\u0660\u0661" * 22).decode()
    name = ".".join([label] * 4)

    def canonicalise() -> None:
        identifiers._is_a_label.cache_clear()
        assert canonical_dns_name(name) == name

    assert takes_less_than(0.05, canonicalise)
