"""Which suffixes may stand in the allow-list (RULES §3: "Public names are refused by default")."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acmeca.policy.names import parse_name_pattern
from acmeca.policy.suffixes import PRIVATE_TOP_LEVEL, parse_own_top_level, refuse_suffix


@pytest.mark.parametrize("label", sorted(PRIVATE_TOP_LEVEL))
def test_a_suffix_that_public_dns_leaves_to_everybody_is_taken(label: str) -> None:
    assert refuse_suffix(f"*.{label}") is None


@pytest.mark.parametrize(
    "pattern",
    [
        "*.corp.internal",
        "*.example.com",
        "*.db.example.co.uk",
        "*.example.co.uk",
        "*.home.arpa",
        "*.10.in-addr.arpa",
        "*.com.internal",  # `com` is a registry's label below a country only
        "vpn.example.com",
        "co.uk",  # a name by itself allows nothing below it
        "db1",  # a host of a search domain
        "ca",
        "intranet",
    ],
)
def test_what_can_be_a_companys_own_is_taken(pattern: str) -> None:
    assert refuse_suffix(parse_name_pattern(pattern)) is None


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("*.com", '"com" is a public top-level domain'),
        ("*.dev", '"dev" is a public top-level domain'),
        ("*.de", '"de" is a country\'s top-level domain'),
        ("*.io", '"io" is a country\'s top-level domain'),
        ("*.xn--p1ai", '"xn--p1ai" is a public top-level domain'),
        ("*.co.uk", '"co.uk" looks like a public registry\'s suffix'),
        ("*.com.au", '"com.au" looks like a public registry\'s suffix'),
        ("*.arpa", '"arpa" is a public top-level domain'),
        ("*.in-addr.arpa", '"in-addr.arpa" looks like a public registry\'s suffix'),
        ("com", "not a host"),
    ],
)
def test_what_is_a_registrys_is_refused_with_what_to_write_instead(pattern: str, reason: str) -> None:
    said = refuse_suffix(parse_name_pattern(pattern), own_top_level=("other",))
    assert said is not None
    assert reason in said
    assert "yourcompany" in said or pattern == "com"
    assert "private_top_level" not in said, "there is no way around what is surely public"


def test_what_may_be_a_registrys_is_refused_unless_the_configuration_says_that_it_is_ones_own() -> None:
    said = refuse_suffix("*.consul")
    assert said is not None
    assert 'private_top_level = ["consul"]' in said
    assert refuse_suffix("*.consul", own_top_level=("consul",)) is None
    assert refuse_suffix("*.consul", own_top_level=("nomad",)) is not None


@pytest.mark.parametrize("label", ["consul", "k8s", "acme-corp"])
def test_a_top_level_name_of_ones_own(label: str) -> None:
    assert parse_own_top_level(label) == label


@pytest.mark.parametrize("label", ["com", "de", "xn--p1ai", "corp.consul", "*.consul", "*"])
def test_what_cannot_be_ones_own_top_level_name(label: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be your own|single label"):
        parse_own_top_level(label)


@given(st.from_regex(r"[a-z]{2,12}", fullmatch=True))
def test_no_suffix_of_one_label_is_taken_unless_it_is_listed(label: str) -> None:
    assert (refuse_suffix(f"*.{label}") is None) == (label in PRIVATE_TOP_LEVEL)
