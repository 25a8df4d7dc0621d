"""The configuration: what is taken, what is refused, and in what words; and the reference that explains every key."""

import json
import re
import tomllib
from datetime import timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from acmeca import resources
from acmeca.acme.objects import ChallengeType
from acmeca.config import (
    SECTIONS,
    Config,
    ConfigError,
    environment_name,
    find_config,
    format_duration,
    load_config,
    mistake_in,
    parse_config,
    parse_duration,
)
from acmeca.config.mistakes import describe_mistake, show
from acmeca.config.profiles import ProfileSection
from acmeca.config.values import ListenAddress, parse_base_url, parse_listen_address
from acmeca.policy.keys import KeyType
from acmeca.policy.limits import Limit, Rate
from acmeca.policy.offer import Offer
from acmeca.policy.profiles import Profile, Usage

DAY = timedelta(days=1)
HERE = Path("/etc/acmeca/acmeca.toml")
GOOD: dict[str, dict[str, Any]] = {
    "server": {"base_url": "https://ca.corp.internal:8443", "status_url": "http://ca.corp.internal:8080"},
    "policy": {"allowed_names": ["*.corp.internal"]},
}


def toml(sections: dict[str, dict[str, Any]]) -> str:
    lines = []
    for section, keys in sections.items():
        lines += [f"[{section}]", *(f"{key} = {show_toml(value)}" for key, value in keys.items())]
    return "\n".join(lines)


def show_toml(value: Any) -> str:
    return json.dumps(value)  # which is TOML for all that is used here


def config_with(section: str = "server", environment: dict[str, str] | None = None, **keys: Any) -> Config:
    sections = {name: dict(values) for name, values in GOOD.items()}
    sections.setdefault(section, {}).update(keys)
    return parse_config(toml(sections), HERE, environment or {})


def mistakes_of(text: str, environment: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, HERE, environment or {})
    return caught.value.mistakes


def mistake_with(section: str, key: str, value: Any) -> str:
    """The one mistake of an otherwise good configuration."""
    sections = {name: dict(values) for name, values in GOOD.items()}
    sections.setdefault(section, {})[key] = value
    (mistake,) = mistakes_of(toml(sections))
    return mistake


# --- what is taken ------------------------------------------------------------------------------------------------


def test_the_least_that_has_to_be_said() -> None:
    """DESIGN §6: three keys have no default; everything else has one."""
    config = config_with()
    assert config.server.acme_listen == ("", 8443)
    assert config.server.status_listen == ("", 8080)
    assert config.server.admin_listen == ("localhost", 9443)
    assert config.policy.lifetime == timedelta(days=90)
    assert config.policy.authorization_lifetime == timedelta(days=1)
    assert config.status.ocsp_lifetime == timedelta(hours=12)
    assert config.status.crl_lifetime == timedelta(hours=24)
    assert config.status.crl_interval == timedelta(hours=6)
    assert config.database_path == Path("/var/lib/acmeca/acmeca.db")
    assert config.urls.directory == "https://ca.corp.internal:8443/acme/directory"
    assert not config.server.demo


def test_values_of_every_kind() -> None:
    config = config_with(
        "validation",
        resolvers=["10.0.0.53", "[fd00::53]:5353"],
        allowed_networks=["0.0.0.0/0", "::/0"],
        http_port=5002,
        tls_alpn_port=5001,
        challenges=["tls-alpn-01", "http-01"],
    )
    assert config.validation.resolvers == ((ip_address("10.0.0.53"), 53), (ip_address("fd00::53"), 5353))
    assert config.validation.allowed_networks == (ip_network("0.0.0.0/0"), ip_network("::/0"))
    assert config.validation.http_port == 5002
    assert config.validation.tls_alpn_port == 5001
    assert config.validation.challenges == (ChallengeType.TLS_ALPN_01, ChallengeType.HTTP_01)


def test_resolvers_per_zone_and_static_hosts() -> None:
    config = parse_config(
        toml(GOOD)
        + """
[validation]
zones = {"Corp.Internal" = ["10.0.0.53", "[fd00::53]:5353"], "lab.corp.internal" = ["10.9.0.53"]}
[validation.hosts]
"db1.corp.internal" = ["10.0.0.7", "fd00::7"]
db2 = ["10.0.0.8"]
""",
        HERE,
        {},
    )
    assert config.validation.zones == {
        "corp.internal": ((ip_address("10.0.0.53"), 53), (ip_address("fd00::53"), 5353)),
        "lab.corp.internal": ((ip_address("10.9.0.53"), 53),),
    }
    assert config.validation.hosts == {
        "db1.corp.internal": (ip_address("10.0.0.7"), ip_address("fd00::7")),
        "db2": (ip_address("10.0.0.8"),),
    }


def test_caa_needs_a_name_that_means_this_ca() -> None:
    config = config_with("policy", caa_identities=["CA.Corp.Internal"], caa_zones=["corp.internal"])
    assert (config.policy.caa_identities, config.policy.caa_zones) == (("ca.corp.internal",), ("corp.internal",))
    assert "write the name that means this CA" in mistake_with("policy", "caa_zones", ["corp.internal"])
    assert mistake_with("policy", "caa_identities", ["*.corp.internal"]).startswith("policy.caa_identities (entry 1)")
    # a mistake in the one is no mistake in the other
    text = toml(GOOD) + '\ncaa_identities = ["a_b"]\ncaa_zones = ["corp.internal"]'
    (mistake,) = mistakes_of(text)
    assert "underscore" in mistake


def test_every_mistake_in_a_table_is_told_at_its_name() -> None:
    """Rule 1: all of them at once."""
    zones = '{"*.corp.internal" = ["10.0.0.53"], "a.internal" = ["dns"], "b.internal" = [], "c.internal" = "10.0.0.53"}'
    hosts = '{"a.localhost" = ["10.0.0.7"], "b_c.internal" = ["10.0.0.7"], "d.internal" = ["10.0.0.7", "d.internal"]}'
    told = "\n".join(mistakes_of(f"{toml(GOOD)}\n[validation]\nzones = {zones}\nhosts = {hosts}"))
    for line in (
        'validation.zones ("*.corp.internal"): got "*.corp.internal"; a zone is its name alone',
        'validation.zones ("a.internal") (entry 1): got "dns"; write an address, like "10.0.0.53"',
        'validation.zones ("b.internal"): got []; write at least one address',
        'validation.zones ("c.internal"): got "10.0.0.53"; write a list, like ["10.0.0.53"]',
        'validation.hosts ("a.localhost"): got "a.localhost"; it is loopback always',
        'validation.hosts ("b_c.internal"): got "b_c.internal"; a host name has no underscore',
        'validation.hosts ("d.internal") (entry 2): got "d.internal"; it is not an IP address',
    ):
        assert line in told
    assert told.count("\n") == 6


@pytest.mark.parametrize(("written", "hours"), [("0s", 0), ("0d", 0), ("1h", 1), ("90d", 90 * 24)])
def test_how_long_control_counts(written: str, hours: int) -> None:
    config = config_with("policy", authorization_lifetime=written)
    assert config.policy.authorization_lifetime == timedelta(hours=hours)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("https://CA.Corp.Internal:8443", "https://ca.corp.internal:8443"),
        ("https://ca.corp.internal/", "https://ca.corp.internal"),
        # clients drop a default port when they put a URL together, and sign the result
        ("https://ca.corp.internal:443", "https://ca.corp.internal"),
        ("HTTPS://10.0.0.5", "https://10.0.0.5"),
        ("https://[FD00::5]:8443/", "https://[fd00::5]:8443"),
        ("https://localhost:8443", "https://localhost:8443"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
    ],
)
def test_an_origin_is_made_canonical(written: str, meant: str) -> None:
    assert config_with(base_url=written).server.base_url == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("*:8443", ("", 8443)),
        (":8443", ("", 8443)),
        ("0.0.0.0:443", ("0.0.0.0", 443)),
        ("[::1]:8443", ("::1", 8443)),
        ("localhost:8443", ("localhost", 8443)),
    ],
)
def test_a_listener_is_bound_to_an_address(written: str, meant: tuple[str, int]) -> None:
    assert config_with(acme_listen=written).server.acme_listen == meant


@pytest.mark.parametrize(
    "name", ["*.corp.internal", "vpn.example.com", "*.localhost", "*.lan", "*.home.arpa", "intranet"]
)
def test_names_of_ones_own_are_taken(name: str) -> None:
    assert config_with("policy", allowed_names=[name]).policy.allowed_names == (name,)


def test_a_top_level_name_of_ones_own() -> None:
    config = config_with("policy", private_top_level=["consul"], allowed_names=["*.consul"])
    assert config.policy.allowed_names == ("*.consul",)


def test_names_are_made_canonical() -> None:
    assert config_with("policy", allowed_names=["*.Corp.INTERNAL"]).policy.allowed_names == ("*.corp.internal",)


def test_a_relative_data_dir_is_meant_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "conf" / "acmeca.toml"
    path.parent.mkdir()
    path.write_text(toml(GOOD | {"server": GOOD["server"] | {"data_dir": "../var"}}))
    assert load_config(path, {}).server.data_dir == tmp_path / "var"


def test_a_relative_data_dir_of_the_environment_is_meant_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_with(environment={"ACMECA_SERVER__DATA_DIR": "var"}).server.data_dir == tmp_path / "var"


def test_an_absolute_database_path() -> None:
    config = config_with("storage", url="sqlite:////srv/acmeca/ca.db")
    assert config.database_path == Path("/srv/acmeca/ca.db")


def test_a_postgresql_database() -> None:
    config = config_with("storage", url="postgresql://acmeca:hunter2@db1,db2:5433/acmeca")
    assert config.storage.postgres is not None
    assert config.storage.postgres.hosts == (("db1", 5432), ("db2", 5433))
    assert "hunter2" not in repr(config)
    assert config.database_path is None
    assert config_with().storage.postgres is None


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "acmeca.toml"
    path.write_bytes(b"\xef\xbb\xbf" + toml(GOOD).encode())
    assert load_config(path, {}).server.base_url == "https://ca.corp.internal:8443"


# --- what is refused, and in what words -----------------------------------------------------------------------------


def test_every_mistake_at_once() -> None:
    """Rule 1: every mistake is reported, all of them at once, each with its key path, the value and what is allowed."""
    text = """
        demo = true
        [server]
        base_url = "http://ca.corp.internal"
        data_dir = ""
        acme_listen = 8443
        [polcy]
        x = 1
        [policy]
        allowed_names = ["*.corp.internal", "*", 7]
        lifetime = "1s"
        [validation]
        http_port = "80"
        resolver = "10.0.0.53"
        [status]
        crl_interval = "20h"
    """
    told = mistakes_of(text, {"ACMECA_CA__ORGANISATION": "x", "ACMECA_STATUS__OCSP_LIFETIME": "soon"})
    assert [line.split(":")[0] for line in told] == [
        "$ACMECA_CA__ORGANISATION",
        "server.base_url",
        "server.status_url",
        "server.data_dir",
        "server.acme_listen",
        "policy.allowed_names (entry 2)",
        "policy.allowed_names (entry 3)",
        "policy.lifetime",
        "validation.http_port",
        "validation.resolver",
        "status.ocsp_lifetime (from $ACMECA_STATUS__OCSP_LIFETIME)",
        "status.crl_interval",
        "demo",
        "[polcy]",
    ]


MISTAKES: list[tuple[str, str, Any, list[str]]] = [
    # wrong types
    ("server", "demo", "yes", ['got "yes"', "true or false"]),
    ("server", "data_dir", 5, ["got 5", "text in quotes"]),
    ("server", "base_url", ["https://x.internal"], ["text in quotes"]),
    ("policy", "allowed_names", "*.corp.internal", ['write a list, like ["*.corp.internal"]']),
    ("policy", "allowed_names", 3, ["got 3", "write a list"]),
    ("policy", "allowed_names", [], ["at least one name"]),
    ("policy", "allowed_names", [3], ["entry 1", "got 3", "text in quotes"]),
    ("validation", "http_port", "80", ['got "80"', "1 to 65535", "without quotes"]),
    ("validation", "http_port", True, ["got true", "1 to 65535"]),
    ("validation", "http_port", 80.0, ["got 80.0", "1 to 65535"]),
    ("validation", "http_port", 0, ["1 to 65535"]),
    ("validation", "http_port", 65536, ["1 to 65535"]),
    ("validation", "tls_alpn_port", "443", ['got "443"', "1 to 65535", "without quotes"]),
    ("validation", "challenges", [], ["at least one challenge type"]),
    ("validation", "challenges", ["http-1"], ["entry 1", 'got "http-1"', "write one of http-01"]),
    ("validation", "challenges", "http-01", ["write a list"]),
    ("validation", "challenges", ["http-01", "http-01"], ["once"]),
    ("policy", "wildcards", "no", ["true or false"]),
    ("policy", "default_profile", 7, ["got 7", "text in quotes"]),
    ("policy", "default_profile", "web", ['got "web"', "no such profile", "server, short, client, kubernetes"]),
    ("policy", "default_profile", "Server", ['got "Server"', "no such profile"]),
    ("storage", "url", 5, ["text in quotes"]),
    # names that do not exist
    ("policy", "allowed_name", ["x"], ["no such key", "did you mean allowed_names?"]),
    ("policy", "base_url", "x", ["no such key", "belongs in [server]"]),
    ("status", "frequency", "x", ["no such key", "there are: ocsp_lifetime, crl_lifetime, crl_interval"]),
    # durations
    ("policy", "lifetime", "90", ['got "90"', '"90d"']),
    ("policy", "lifetime", 90, ["got 90", '"90d"']),
    ("policy", "lifetime", "90 d", ['"90d"']),
    ("policy", "lifetime", "-1d", ['"90d"']),
    ("policy", "lifetime", "1.5d", ['"90d"']),
    ("policy", "lifetime", "٩d", ['"90d"']),
    ("policy", "lifetime", "9m", ["10m to 825d"]),
    ("policy", "authorization_lifetime", "59m", ["1h to 90d", 'or "0s"']),
    ("policy", "authorization_lifetime", "91d", ["1h to 90d"]),
    ("policy", "authorization_lifetime", 0, ["got 0", '"0s"']),
    ("policy", "authorization_lifetime", "0", ['"0s"']),
    ("policy", "authorization_lifetime", "never", ['"0s"']),
    ("policy", "lifetime", "826d", ["10m to 825d"]),
    ("policy", "lifetime", "999999999d", ["at most 36500d"]),
    ("policy", "lifetime", "99999999999999999999d", ['"90d"']),
    ("status", "crl_interval", "13h", ["with a crl_lifetime of 1d at most 12h"]),
    ("status", "crl_lifetime", "2h", ["status.crl_interval", "with a crl_lifetime of 2h at most 1h"]),
    # URLs
    ("server", "base_url", "http://ca.corp.internal", ["RFC 8555", "https://host"]),
    ("server", "base_url", "ca.corp.internal", ["https://host"]),
    ("server", "base_url", "https://", ["https://host"]),
    ("server", "base_url", "https://ca.corp.internal/acme", ["without a path"]),
    ("server", "base_url", "https://ca.corp.internal?x", ["without a path"]),
    ("server", "base_url", "https://ca.corp.internal:0", ["1 to 65535"]),
    ("server", "base_url", "https://ca.corp.internal:99999", ["1 to 65535"]),
    ("server", "base_url", "https://ca.corp.internal:", ["https://host:port"]),
    ("server", "base_url", "https://*.corp.internal", ["without a wildcard"]),
    ("server", "base_url", "https://ca_1.corp.internal", ["underscore"]),
    ("server", "base_url", "https://127.1", ["IP address"]),
    ("server", "base_url", "https://fd00::5", ["in brackets"]),
    ("server", "base_url", "https://bücher.example", ["xn--bcher-kva.example"]),
    ("server", "base_url", "https://ca.corp.internal\n", ["letters, digits"]),
    ("server", "status_url", "https://ca.corp.internal", ["plain http", "in a circle (RFC 5280 §8)"]),
    # addresses to listen on
    ("server", "acme_listen", "8443", ['"*:8443"']),
    ("server", "acme_listen", 8443, ["got 8443", '"*:8443"']),
    ("server", "acme_listen", "::1:8443", ['"[::1]:8443"']),
    ("server", "acme_listen", "localhost:0", ["1 to 65535"]),
    ("server", "acme_listen", "a b:80", ['"localhost:8443"']),
    ("server", "acme_listen", "*:8080", ["server.status_listen", "two listeners cannot share a port"]),
    ("server", "admin_listen", "*:8443", ["acme_listen is *:8443", "two listeners cannot share a port"]),
    ("server", "admin_listen", "localhost:8080", ["status_listen is *:8080", "two listeners cannot share a port"]),
    # networks
    ("server", "terms_of_service", "pki.corp.internal/terms", ["whole URL"]),
    ("server", "terms_of_service", "ftp://pki.corp.internal/terms", ["whole URL"]),
    ("server", "terms_of_service", 'https://pki.corp.internal/>;rel="next', ["whole URL"]),
    ("server", "terms_of_service", "https://pki.corp.internal/a b", ["whole URL"]),
    ("server", "terms_of_service", "https://pki.corp.internal/a\r\nX: y", ["whole URL"]),
    ("server", "terms_of_service", "https://pki.corp.internal/" + "a" * 1000, ["whole URL"]),
    ("server", "terms_must_be_agreed_again", True, ["terms_of_service is not set"]),
    ("policy", "external_account_required", "yes", ["true or false"]),
    ("policy", "allowed_networks", ["10.0.0.1/8"], ["entry 1", 'write "10.0.0.0/8"']),
    ("policy", "allowed_networks", ["ten"], ['"10.0.0.0/8"']),
    ("policy", "allowed_networks", [10], ["got 10", '"10.0.0.0/8"']),
    ("validation", "allowed_networks", "10.0.0.0/8", ['write a list, like ["10.0.0.0/8"]']),
    ("validation", "resolvers", ["dns.corp.internal"], ["entry 1", '"10.0.0.53:5353"']),
    ("validation", "resolvers", ["[::1]:99999"], ['"[fd00::53]:5353"']),
    ("validation", "zones", ["10.0.0.53"], ['write a table, like {"corp.internal" = ["10.0.0.53"]}']),
    ("validation", "hosts", "10.0.0.7", ['write a table, like {"db1.corp.internal" = ["10.0.0.7"]}']),
    # names (RULES §3: public names are refused by default)
    ("policy", "allowed_names", ["*"], ["every name there is"]),
    ("policy", "allowed_names", ["*."], ["empty label"]),
    ("policy", "allowed_names", ["*.com"], ["public top-level domain"]),
    ("policy", "allowed_names", ["*.de"], ["country's top-level domain"]),
    ("policy", "allowed_names", ["*.consul"], ["may be a public", 'private_top_level = ["consul"]']),
    ("policy", "allowed_names", ["*.co.uk"], ["public registry's suffix"]),
    ("policy", "allowed_names", ["db*.corp.internal"], ['"*" may only stand at the start']),
    ("policy", "allowed_names", ["*.corp.internal."], ["ends in a dot"]),
    ("policy", "allowed_names", [" *.corp.internal"], ["policy.allowed_names (entry 1)"]),
    ("policy", "private_top_level", ["com"], ["cannot be your own"]),
    ("policy", "private_top_level", ["*.consul"], ["single label"]),
    # names of the CA
    ("ca", "organization", "", ["1 to 64 characters"]),
    ("ca", "common_name", "x" * 49, ["1 to 48 characters"]),
    ("ca", "organization", "a\x07b", ["printable"]),
    ("ca", "organization", " Example", ["blanks"]),
    # files
    ("server", "data_dir", "", ["/var/lib/acmeca"]),
    ("server", "data_dir", "~/ca", ["not expanded"]),
    ("server", "data_dir", "/a\x00b", ["/var/lib/acmeca"]),
    ("server", "data_dir", "/" + "x" * 100, ["too long for the Unix socket", "95 bytes"]),
    ("storage", "url", "acmeca.db", ["sqlite:///acmeca.db"]),
    ("storage", "url", "sqlite:///", ["sqlite:///acmeca.db"]),
    ("storage", "url", "sqlite:///:memory:", ["special names"]),
    ("storage", "url", "sqlite:///a.db?mode=ro", ["options"]),
    ("storage", "url", "mysql://db.corp.internal/ca", ["sqlite:///acmeca.db", "postgresql://acmeca@"]),
    ("storage", "url", "postgresql://db.corp.internal", ["name of one database"]),
    ("storage", "url", "postgresql://db.corp.internal/ca?synchronous_commit=off", ["synchronous_commit", "sslmode"]),
]


@pytest.mark.parametrize(
    ("section", "key", "value", "told"), MISTAKES, ids=[f"{item[0]}.{item[1]}-{item[2]!r}"[:60] for item in MISTAKES]
)
def test_a_mistake_is_one_line_with_key_value_and_what_is_allowed(
    section: str, key: str, value: Any, told: list[str]
) -> None:
    mistake = mistake_with(section, key, value)
    assert "\n" not in mistake
    for part in told:
        assert part in mistake
    assert mistake.startswith((f"{section}.{key}", "status.crl_interval", "server.status_listen"))
    assert "Input should" not in mistake, "the library's words are no words for a person"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("server = 1\n[policy]\nallowed_names = ['*.x.y']", "server: got 1; write a section, [server]"),
        ("base_url = 'https://x.internal'", "stands before the first section; it belongs in [server]"),
        ("basurl = 'https://x.internal'", "did you mean base_url in [server]?"),
        ("qwertyuiop = 1", "qwertyuiop: stands before the first section; keys stand below a [section]"),
        ("[srver]", "[srver]: there is no such section; did you mean server?"),
        ("[x]", "[x]: there is no such section; there are: server, ca, policy, validation, "),
        ("[server]\nbase_url = ", "is not TOML: Invalid value (at end of document)"),
        ("[server]\n[server]", "is not TOML"),
        ("", 'server.base_url: missing; it has no default; write for instance: base_url = "https://'),
        ("", 'server.status_url: missing; it has no default; write for instance: status_url = "http://'),
        ("", 'policy.allowed_names: missing; it has no default; write for instance: allowed_names = ["'),
    ],
)
def test_mistakes_of_the_file_as_a_whole(text: str, told: str) -> None:
    assert any(told in mistake for mistake in mistakes_of(text))


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "cannot be read: No such file"), (b"\xff\xfe[", "is not UTF-8: invalid start byte at byte 1")],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "acmeca.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=told):
        load_config(path, {})


def test_a_refusal_says_where_every_key_is_explained() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config("", HERE, {})
    assert str(caught.value).splitlines()[0] == "/etc/acmeca/acmeca.toml: 3 to mend:"
    assert Path(str(caught.value).splitlines()[-1].rpartition(" ")[2]).read_bytes() == REFERENCE.read_bytes()


@pytest.mark.parametrize(
    "secret",
    ["https://joe:hunter2@ca.internal", "https://joe:hun/ter2@ca.internal", "postgresql://joe:hunter2@db/ca/x"],
)
@pytest.mark.parametrize("key", ["server.base_url", "server.status_url", "storage.url", "policy.allowed_names"])
def test_secrets_are_not_shown(secret: str, key: str) -> None:
    """RULES §6: no secret in a config dump or an exception; neither from the file nor from the environment."""
    section, _, name = key.partition(".")
    told = [mistake_with(section, name, secret), *mistakes_of(toml(GOOD), {environment_name(section, name): secret})]
    assert all("hunter2" not in line and "ter2" not in line and "joe" not in line for line in told)


@pytest.mark.parametrize(
    "secret",
    [
        "postgresql://db/ca?password=hunter2",
        "postgresql://joe:hunter2/ca",
        "postgresql://joe:hun ter2@db/ca",
        'postgresql://joe:hun"ter2@db/ca/x',
        "postgresql:/joe:hunter2@db/ca",
        "mysql:joe:hunter2@db/ca",
    ],
)
def test_of_an_address_that_cannot_be_read_nothing_is_shown(secret: str) -> None:
    """Where the password stands in it, nobody knows."""
    told = mistakes_of(toml(GOOD), {environment_name("storage", "url"): secret})
    assert told
    assert all("ter2" not in line for line in told)


def test_what_an_unknown_key_holds_is_not_shown() -> None:
    assert "hunter2" not in mistake_with("server", "admin_password", "hunter2")
    assert "hunter2" not in "".join(mistakes_of("admin_password = 'hunter2'"))
    assert "hunter2" not in "".join(mistakes_of(toml(GOOD), {"ACMECA_SERVER__ADMIN_PASSWORD": "hunter2"}))


@given(st.text(max_size=300) | st.integers() | st.binary(max_size=10) | st.floats() | st.lists(st.text(max_size=90)))
def test_any_value_is_shown_on_one_line(value: object) -> None:
    shown = show(value)
    assert len(shown) <= 81
    assert shown.isprintable()


# --- profiles -------------------------------------------------------------------------------------------------------


def offer_of(text: str, environment: dict[str, str] | None = None, **policy: Any) -> Offer:
    sections = GOOD | {"policy": GOOD["policy"] | policy}
    return parse_config(f"{toml(sections)}\n{text}", HERE, environment or {}).profiles


class TestProfiles:
    def test_what_is_there_without_being_written(self) -> None:
        """The shipped profiles: `server` (90 d), `short` (24 h), `client`, `kubernetes` (server and client auth)."""
        offer = offer_of("")
        assert offer.default == "server"
        assert {
            name: (profile.lifetime, profile.maximum_lifetime, profile.usages, profile.common_name)
            for name, profile in offer.profiles.items()
        } == {
            "server": (90 * DAY, 90 * DAY, {Usage.SERVER}, False),
            "short": (DAY, DAY, {Usage.SERVER}, False),
            "client": (90 * DAY, 90 * DAY, {Usage.CLIENT}, True),
            "kubernetes": (90 * DAY, 90 * DAY, {Usage.SERVER, Usage.CLIENT}, True),
        }
        for name, profile in offer.profiles.items():
            assert (profile.name, profile.allowed_names, profile.must_staple) == (name, None, False)
            assert profile.key_types == set(KeyType)
            assert profile.challenges == config_with().validation.challenges
            assert (profile.organization, profile.organizational_unit) == (None, None)

    def test_policy_lifetime_is_every_profiles_that_has_none(self) -> None:
        offer = offer_of('[profiles.server]\nlifetime = "60d"\n[profiles.web]\n', lifetime="30d")
        lifetimes = {name: profile.lifetime for name, profile in offer.profiles.items()}
        assert lifetimes == {
            "server": 60 * DAY,
            "short": DAY,
            "client": 30 * DAY,
            "kubernetes": 30 * DAY,
            "web": 30 * DAY,
        }

    def test_short_is_never_longer_than_the_others(self) -> None:
        offer = offer_of("", lifetime="1h")
        assert {profile.lifetime for profile in offer.profiles.values()} == {timedelta(hours=1)}

    def test_one_that_is_shipped_keeps_what_is_not_written(self) -> None:
        client = offer_of('[profiles.client]\norganization = "Example"').profiles["client"]
        assert (client.usages, client.common_name, client.organization) == ({Usage.CLIENT}, True, "Example")

    def test_one_that_is_switched_off(self) -> None:
        assert list(offer_of("[profiles.kubernetes]\nenabled = false").profiles) == ["server", "short", "client"]
        assert list(offer_of("[profiles.web]\nenabled = false").profiles) == list(offer_of("").profiles)

    def test_a_default_of_ones_own(self) -> None:
        offer = offer_of("[profiles.web]\n[profiles.server]\nenabled = false", default_profile="web")
        assert offer.choose(None).name == "web"

    def test_names_are_narrowed_together_with_networks(self) -> None:
        web = offer_of('[profiles.web]\nallowed_names = ["*.Web.corp.internal"]').profiles["web"]
        assert (web.allowed_names, web.allowed_networks) == (("*.web.corp.internal",), ())
        text = '[profiles.web]\nallowed_networks = ["10.1.0.0/16"]'
        web = offer_of(text, allowed_networks=["10.0.0.0/8"]).profiles["web"]
        assert (web.allowed_names, web.allowed_networks) == ((), (ip_network("10.1.0.0/16"),))

    def test_a_description_is_made(self) -> None:
        offer = offer_of('[profiles.web]\nusages = ["client", "server"]\nlifetime = "36h"')
        assert offer.profiles["web"].description == "TLS server and client, 36h"
        assert (
            offer_of('[profiles.web]\ndescription = "https://wiki.internal/ca#web"')
            .profiles["web"]
            .description.startswith("https:")
        )

    def test_all_of_it_from_the_environment(self) -> None:
        """Profiles are set all at once, in the place of the file's."""
        offer = offer_of(
            "[profiles.web]", {"ACMECA_PROFILES": '{"api": {"lifetime": "7d"}, "short": {"enabled": false}}'}
        )
        assert list(offer.profiles) == ["server", "client", "kubernetes", "api"]
        assert offer.profiles["api"].lifetime == 7 * DAY

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("[profiles.web]\nlifetime = '1s'", 'profiles.web.lifetime: got "1s"; 10m to 825d is allowed'),
            (
                "[profiles.web]\nmaximum_lifetime = '89d'",
                'profiles.web.maximum_lifetime: got "89d"; it has to be at least',
            ),
            (
                "[profiles.web]\nlifetimes = '1d'",
                "profiles.web.lifetimes: there is no such key; did you mean lifetime?",
            ),
            (
                "[profiles.web]\nallowed_name = []",
                "profiles.web.allowed_name: there is no such key; did you mean allowed_na",
            ),
            ("[profiles.web]\nx = 1", "profiles.web.x: there is no such key; there are: enabled, description"),
            ("[profiles.web]\nenabled = 1", "profiles.web.enabled: got 1; write true or false"),
            ("[profiles.web]\ndescription = ''", 'profiles.web.description: got ""; 1 to 200 printable'),
            ("[profiles.web]\ndescription = 5", "profiles.web.description: got 5; write a text in quotes"),
            ("[profiles.web]\nkey_types = []", "profiles.web.key_types: got []; without an entry nothing"),
            (
                "[profiles.web]\nkey_types = ['rsa1024']",
                'profiles.web.key_types (entry 1): got "rsa1024"; write one of rsa2048',
            ),
            ("[profiles.web]\nkey_types = 'p256'", 'profiles.web.key_types: got "p256"; write a list, like ["p256"]'),
            ("[profiles.web]\nkey_types = ['p256', 'p256']", "each may stand in it once"),
            (
                "[profiles.web]\nusages = ['email']",
                'profiles.web.usages (entry 1): got "email"; write one of server, client',
            ),
            (
                "[profiles.web]\nusages = ['client']\nmust_staple = true",
                "profiles.web.must_staple: got true; only a TLS server",
            ),
            ("[profiles.web]\norganization = ''", 'profiles.web.organization: got ""; 1 to 64 characters'),
            ("[profiles.web]\norganizational_unit = ' x'", "profiles.web.organizational_unit"),
            ("[profiles.web]\ncommon_name = 'a.b'", 'profiles.web.common_name: got "a.b"; write true or false'),
            ("[profiles.web]\nchallenges = ['http-02']", "profiles.web.challenges (entry 1)"),
            (
                "[profiles.web]\nallowed_names = ['*.web.internal']",
                'profiles.web.allowed_names (entry 1): got "*.web.internal"; it reaches beyond policy.allowed_names',
            ),
            ("[profiles.web]\nallowed_names = ['*']", "every name there is"),
            (
                "[profiles.web]\nallowed_names = []",
                "profiles.web.allowed_names: got []; without a name and without a network",
            ),
            (
                "[profiles.web]\nallowed_networks = ['10.0.0.0/8']",
                'profiles.web.allowed_networks (entry 1): got "10.0.0.0/8"; policy.allowed_networks is empty',
            ),
            ("[profiles.web]\nallowed_networks = ['10.0.0.1/8']", 'write "10.0.0.0/8"'),
            ("[profiles.Web]", 'profiles.Web: got "Web"; 1 to 32 lower-case letters'),
            ("[profiles.listener]", "the server's own certificates are called that"),
            ('[profiles."a.b"]', "1 to 32 lower-case letters"),
            ("[profiles]\nweb = 1", "profiles.web: got 1; write a table, [profiles.web], with its keys below it"),
            ("[profiles.server]\nenabled = false", 'policy.default_profile: got "server"; there is no such profile'),
        ],
    )
    def test_a_mistake_is_one_line_with_its_path(self, text: str, told: str) -> None:
        (mistake,) = mistakes_of(f"{toml(GOOD)}\n{text}")
        assert told in mistake
        assert "\n" not in mistake

    def test_profiles_are_a_table(self) -> None:
        (mistake,) = mistakes_of(f"profiles = 1\n{toml(GOOD)}")
        assert mistake == "profiles: got 1; write a table for each profile, like [profiles.web]"

    def test_every_mistake_at_once(self) -> None:
        """Rule 1 of the configuration, over several profiles, and beside the mistakes of a section that they rest on."""
        profiles = """
            [profiles.a]
            lifetime = "1s"
            usages = ["x"]
            [profiles.b]
            x = 1
            allowed_names = ["*.elsewhere.internal"]
            [profiles.server]
            must_staple = 1
        """
        paths = ["profiles.server.must_staple", "profiles.a.lifetime", "profiles.a.usages (entry 1)", "profiles.b.x"]
        assert [line.partition(":")[0] for line in mistakes_of(toml(GOOD) + profiles)] == paths
        broken = toml(GOOD | {"policy": GOOD["policy"] | {"lifetime": "1s"}}) + profiles
        assert [line.partition(":")[0] for line in mistakes_of(broken)] == ["policy.lifetime", *paths]

    def test_the_challenges_of_a_profile_are_offered_at_all(self) -> None:
        good = toml(GOOD | {"validation": {"challenges": ["http-01"]}})
        for type_ in set(ChallengeType) - {ChallengeType.HTTP_01}:
            (mistake,) = mistakes_of(f"{good}\n[profiles.web]\nchallenges = ['http-01', '{type_}']")
            assert (
                f'profiles.web.challenges (entry 2): got "{type_}"; validation.challenges does not have it' in mistake
            )
        offer = offer_of("[profiles.dns]\nchallenges = ['dns-account-01', 'dns-01']")
        assert offer.profiles["dns"].challenges == (ChallengeType.DNS_ACCOUNT_01, ChallengeType.DNS_01)

    @pytest.mark.parametrize(
        ("value", "told"),
        [
            ("", "profiles (from $ACMECA_PROFILES): got"),
            ("[]", "write the table as JSON"),
            ('{"a": {}, "a": {}}', "each name once"),
            ("[" * 100_000, "write the table as JSON"),
            ('{"a": {"lifetime": "1s"}}', "profiles.a.lifetime (from $ACMECA_PROFILES): got"),
            ('{"a": 1}', "profiles.a (from $ACMECA_PROFILES): got 1; write a table"),
        ],
    )
    def test_a_mistake_in_the_variable(self, value: str, told: str) -> None:
        (mistake,) = mistakes_of(toml(GOOD), {"ACMECA_PROFILES": value})
        assert told in mistake

    def test_a_variable_for_one_profile(self) -> None:
        (mistake,) = mistakes_of(toml(GOOD), {"ACMECA_PROFILES__WEB__LIFETIME": "1d"})
        assert mistake == ("$ACMECA_PROFILES__WEB__LIFETIME: profiles are set all at once, as JSON, in ACMECA_PROFILES")

    def test_a_section_that_is_nearly_one(self) -> None:
        (mistake,) = mistakes_of(f"{toml(GOOD)}\n[profile.web]")
        assert mistake == "[profile]: there is no such section; did you mean profiles?"


# --- the environment ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "text", "place", "value"),
    [
        ("ACMECA_SERVER__BASE_URL", "https://other.internal", ("server", "base_url"), "https://other.internal"),
        ("ACMECA_SERVER__DEMO", "true", ("server", "demo"), True),
        ("ACMECA_SERVER__DEMO", "False", ("server", "demo"), False),
        ("ACMECA_SERVER__ACME_LISTEN", "[::1]:9443", ("server", "acme_listen"), ("::1", 9443)),
        ("ACMECA_VALIDATION__HTTP_PORT", "5002", ("validation", "http_port"), 5002),
        (
            "ACMECA_POLICY__ALLOWED_NAMES",
            '["*.a.internal", "b.internal"]',
            ("policy", "allowed_names"),
            ("*.a.internal", "b.internal"),
        ),
        ("ACMECA_POLICY__LIFETIME", "30d", ("policy", "lifetime"), timedelta(days=30)),
        ("ACMECA_VALIDATION__RESOLVERS", "[]", ("validation", "resolvers"), ()),
        (
            "ACMECA_VALIDATION__ZONES",
            '{"corp.internal": ["10.0.0.53"]}',
            ("validation", "zones"),
            {"corp.internal": ((ip_address("10.0.0.53"), 53),)},
        ),
        ("ACMECA_VALIDATION__HOSTS", "{}", ("validation", "hosts"), {}),
        ("ACMECA_CA__ORGANIZATION", "[Example]", ("ca", "organization"), "[Example]"),
    ],
)
def test_the_environment_overrides_the_file(variable: str, text: str, place: tuple[str, str], value: object) -> None:
    """DESIGN §6: `ACMECA_SECTION__KEY` overrides a key (lists as JSON)."""
    config = config_with(environment={variable: text})
    assert getattr(getattr(config, place[0]), place[1]) == value


def test_the_environment_can_say_everything() -> None:
    environment = {
        environment_name(section, key): '["*.corp.internal"]' if isinstance(value, list) else value
        for section, keys in GOOD.items()
        for key, value in keys.items()
    }
    assert parse_config("", HERE, environment) == config_with()


@pytest.mark.parametrize(
    ("variable", "text", "told"),
    [
        ("ACMECA_X__Y", "1", "$ACMECA_X__Y: there is no section [x]; there are: server"),
        ("ACMECA_SERVR__DEMO", "true", "there is no section [servr]; did you mean server?"),
        ("ACMECA_SERVER__BASE_URI", "x", "there is no key base_uri in [server]; did you mean base_url?"),
        ("ACMECA_SERVER__LIFETIME", "1d", "it belongs in [policy]"),
        ("ACMECA_SERVER_BASE_URL", "https://x.internal", "write ACMECA_SERVER__BASE_URL, with two underscores"),
        ("ACMECA_POLICY__ALLOWED_NAMES", "*.x.internal", 'write the list as JSON, like ["*.x.internal"]'),
        ("ACMECA_POLICY__ALLOWED_NAMES", "[*.x.internal]", 'write the list as JSON, like ["*.x.internal"]'),
        (
            "ACMECA_POLICY__ALLOWED_NAMES",
            '["*.com"]',
            "policy.allowed_names (entry 1) (from $ACMECA_POLICY__ALLOWED_NAMES)",
        ),
        ("ACMECA_POLICY__ALLOWED_NAMES", "[" * 100_000, "write the list as JSON"),
        ("ACMECA_VALIDATION__HTTP_PORT", "http", "validation.http_port (from $ACMECA_VALIDATION__HTTP_PORT)"),
        ("ACMECA_VALIDATION__HTTP_PORT", "80.5", "write a whole number"),
        ("ACMECA_VALIDATION__HTTP_PORT", "true", "write a whole number"),
        ("ACMECA_SERVER__DEMO", "maybe", "write true or false"),
        ("ACMECA_VALIDATION__ZONES", '["10.0.0.53"]', "write the table as JSON"),
        ("ACMECA_VALIDATION__ZONES", "corp.internal", "write the table as JSON"),
        ("ACMECA_VALIDATION__ZONES", '{"a.b": ["10.0.0.1"], "a.b": ["10.0.0.2"]}', "each name once"),
        ("ACMECA_VALIDATION__ZONES", '{"a.b": ["10.0.0.1"], "A.b": ["10.0.0.2"]}', '"a.b" stands in it twice'),
        ("ACMECA_SERVER__DEMO", "", "write true or false"),
        ("ACMECA_POLICY__LIFETIME", "", 'got ""'),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(variable: str, text: str, told: str) -> None:
    (mistake,) = mistakes_of(toml(GOOD), {variable: text})
    assert told in mistake
    assert f"${variable}" in mistake


@pytest.mark.parametrize(
    "name",
    [
        "ACMECA_CONFIG",
        "ACMECA_REQUIRE_ALL",
        "ACMECA_SERVICE_HOST",
        "ACMECA_PORT_8443_TCP_ADDR",
        "ACMECA_SERVER_SERVICE_PORT",
    ],
)
def test_variables_of_others_with_our_prefix_are_left_alone(name: str) -> None:
    """Kubernetes sets such variables for a service named acmeca."""
    assert config_with(environment={name: "tcp://10.0.0.1:8443"}) == config_with()


def test_a_section_that_is_none_is_told_once_with_the_environment() -> None:
    assert len(mistakes_of(f"storage = 1\n{toml(GOOD)}", {"ACMECA_STORAGE__URL": "x"})) == 1


# --- where it is found ----------------------------------------------------------------------------------------------


def test_the_file_that_is_named_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acmeca.toml").touch()
    assert find_config(Path("a.toml"), {"ACMECA_CONFIG": "b.toml"}) == Path("a.toml")
    assert find_config(None, {"ACMECA_CONFIG": "b.toml"}) == Path("b.toml")
    assert find_config(None, {}) == Path("acmeca.toml")


# --- asking again ---------------------------------------------------------------------------------------------------


def test_a_single_value_can_be_checked() -> None:
    assert mistake_in("server", "base_url", "https://ca.corp.internal") is None
    assert "https" in str(mistake_in("server", "base_url", "http://ca.corp.internal"))
    assert mistake_in("policy", "allowed_names", ["*.corp.internal"]) is None
    assert "public" in str(mistake_in("policy", "allowed_names", ["*.com"]))


@pytest.mark.parametrize(
    ("value", "kept"), [("never", None), ("30d", timedelta(days=30)), ("3650d", timedelta(days=3650))]
)
def test_certificates_are_kept_for_ever_or_for_a_time(value: str, kept: timedelta | None) -> None:
    assert mistake_in("retention", "certificates", value) is None
    environment = {"ACMECA_RETENTION__CERTIFICATES": value}
    assert load_config(REFERENCE, environment).retention.certificates == kept


@pytest.mark.parametrize("value", ["29d", "3651d", "Never", "", 400, False, "90"])
def test_certificates_are_not_kept_for_less(value: object) -> None:
    """A CRL or an OCSP answer lives for up to 30 days: none that tells of a forgotten certificate is good any more."""
    assert 'or "never"' in str(mistake_in("retention", "certificates", value))


# --- rate limits --------------------------------------------------------------------------------------------------


def test_rate_limits_have_defaults() -> None:
    rates = config_with().limits.rates
    assert {limit.value: str(rate) for limit, rate in rates.items()} == {
        "new_accounts_per_address": "20000/1d",
        "new_orders_per_account": "20000/1h",
        "failed_validations_per_account_and_name": "60/1h",
    }


def test_rate_limits_as_they_are_written() -> None:
    config = config_with(
        "limits",
        new_orders_per_account="300/3h",
        certificates_per_name="5/week",
        failed_validations_per_account_and_name="off",
        new_accounts_per_address="off",
    )
    assert config.limits.rates == {
        Limit.NEW_ORDERS_PER_ACCOUNT: Rate(300, 10_800),
        Limit.CERTIFICATES_PER_NAME: Rate(5, 604_800),
    }
    assert config_with("limits", {"ACMECA_LIMITS__NEW_ORDERS_PER_ACCOUNT": "7/day"}).limits.rates[
        Limit.NEW_ORDERS_PER_ACCOUNT
    ] == Rate(7, 86_400)


@pytest.mark.parametrize("value", ["", "5", "5/fortnight", "0/day", 5, True, ["5/day"], "Off"])
def test_what_is_no_rate_limit(value: Any) -> None:
    told = mistake_with("limits", "certificates_per_name", value)
    assert told.startswith("limits.certificates_per_name: got ")
    assert "write" in told


def test_every_limit_that_is_configured_has_its_key() -> None:
    keys = set(SECTIONS["limits"].model_fields)
    assert keys == {limit.value for limit in Limit} - {Limit.GRANT_QUOTA.value}


# --- the reference --------------------------------------------------------------------------------------------------

REFERENCE = resources.find("conf") / "acmeca.toml"
_COMMENTED = re.compile(r"#([a-z_]+ = .*)\Z")


def reference_entries() -> list[tuple[str, str, str, bool, str]]:
    """(section, key, TOML, is commented out, the words above it) for every key of a section of the reference."""
    return [entry for entry in every_entry() if entry[0] != "profiles.web"]


def profile_entries() -> list[tuple[str, str, str]]:
    """(key, TOML, the words above it) for every key of the profile in the reference."""
    return [(key, line, words) for section, key, line, _, words in every_entry() if section == "profiles.web"]


def every_entry() -> list[tuple[str, str, str, bool, str]]:
    section, words, found = "", "", []
    for line in REFERENCE.read_text().splitlines():
        if header := re.match(r"#?\[([a-z_.]+)\] # \S", line):
            section, words = header[1], ""
        elif entry := _COMMENTED.match(line) or re.match(r"([a-z_]+ = .*)\Z", line):
            found.append((section, entry[1].partition(" ")[0], entry[1], line.startswith("#"), words))
            words = ""
        elif line.startswith("# "):
            words += line[1:]
        elif not line.startswith("#"):
            words = ""
    return found


def test_the_reference_can_be_used_as_it_is() -> None:
    config = load_config(REFERENCE, {})
    assert config.policy.allowed_names == ("*.corp.internal",)


def test_the_reference_has_every_key_once_and_no_other() -> None:
    """Rule 2: every key is documented in `conf/acmeca.toml`, and a test proves it."""
    entries = [(section, key) for section, key, *_ in reference_entries()]
    assert len(entries) == len(set(entries))
    assert set(entries) == {(section, key) for section, model in SECTIONS.items() for key in model.model_fields}
    assert list(dict.fromkeys(section for section, _ in entries)) == list(SECTIONS)


def test_the_reference_comments_out_what_has_a_default_and_nothing_else() -> None:
    for section, key, _, is_commented, _ in reference_entries():
        assert is_commented is not SECTIONS[section].model_fields[key].is_required(), key


def test_the_defaults_in_the_reference_are_the_defaults() -> None:
    written = ""
    last = ""
    for section, _, line, _, _ in reference_entries():
        written += (f"[{section}]\n" if section != last else "") + line + "\n"
        last = section
    assert parse_config(written, REFERENCE, {}) == load_config(REFERENCE, {})
    # and they are complete: without them the same comes out
    bare = tomllib.loads(REFERENCE.read_text())
    assert {key for keys in bare.values() for key in keys} == {
        key for model in SECTIONS.values() for key, field in model.model_fields.items() if field.is_required()
    }


def test_the_reference_explains_each_key_in_words() -> None:
    for section, key, _, _, words in reference_entries():
        assert len(words.split()) >= 12, f"{section}.{key} is hardly explained"


class TestProfileReference:
    """The table of a profile, which is commented out as a whole: it would be one more profile otherwise."""

    WITHOUT_DEFAULT = frozenset({"organization", "organizational_unit", "allowed_names", "allowed_networks"})

    def profile(self, *lines: str) -> Profile:
        text = "\n".join(["[profiles.web]", *lines])
        return parse_config(f"{toml(GOOD)}\n{text}", HERE, {}).profiles.profiles["web"]

    def test_every_key_once_in_words(self) -> None:
        entries = profile_entries()
        assert [key for key, *_ in entries] == list(ProfileSection.model_fields)
        for key, _, words in entries:
            assert len(words.split()) >= 12, f"{key} is hardly explained"

    def test_the_defaults_are_the_defaults(self) -> None:
        written = [line for key, line, _ in profile_entries() if key not in self.WITHOUT_DEFAULT]
        assert self.profile(*written) == self.profile()

    def test_the_examples_are_good(self) -> None:
        lines = [line for _, line, _ in profile_entries()]
        profile = self.profile(*lines)
        assert (profile.organization, profile.organizational_unit) == ("Example GmbH", "Operations")
        assert profile.allowed_names == ("*.web.corp.internal",)

    def test_the_limits_of_durations(self) -> None:
        for key, _, words in profile_entries():
            if key.endswith("lifetime"):
                assert "from 10m to 825d" in words

    def test_the_variable(self) -> None:
        (found,) = re.findall(r"(ACMECA_PROFILES)='(.*?)'", REFERENCE.read_text())
        assert "short" not in load_config(REFERENCE, dict([found])).profiles.profiles


def test_the_reference_tells_of_every_limit_of_a_duration() -> None:
    for section, key, _, _, words in reference_entries():
        if SECTIONS[section].model_fields[key].annotation is timedelta and key != "crl_interval":
            said = re.search(r"from (\d+[mhd]) to (\d+[mhd])", words)
            assert said is not None, key
            assert mistake_in(section, key, said[1]) is None or key == "crl_lifetime"
            assert mistake_in(section, key, said[2]) is None
            assert mistake_in(section, key, format_duration(parse_duration(said[2]) + timedelta(seconds=1))) is not None
            assert mistake_in(section, key, format_duration(parse_duration(said[1]) - timedelta(seconds=1))) is not None


def test_the_variables_in_the_reference_work() -> None:
    text = REFERENCE.read_text()
    found = dict(re.findall(r"^#   (ACMECA_[A-Z_]+)='?(.*?)'?$", text, re.MULTILINE))
    assert len(found) == 5
    config = load_config(REFERENCE, found)
    assert config.policy.allowed_names == ("*.corp.internal", "vpn.example.com")
    assert config.server.demo


def test_every_example_is_good() -> None:
    for model in SECTIONS.values():
        for key, field in model.model_fields.items():
            if field.is_required():
                (line,) = field.examples or []
                assert tomllib.loads(str(line)).keys() == {key}


def test_the_demo_can_be_used() -> None:
    config = load_config(resources.find("conf") / "demo.toml", {})
    assert config.server.demo
    assert config.policy.allowed_names == ("*.localhost",)


# --- properties -----------------------------------------------------------------------------------------------------


@given(st.integers(min_value=0, max_value=36_500 * 86_400))
def test_a_duration_is_read_back_as_it_was_written(seconds: int) -> None:
    duration = timedelta(seconds=seconds)
    assert parse_duration(format_duration(duration)) == duration


@given(
    st.integers(min_value=1, max_value=65535), st.sampled_from(["", "localhost", "10.0.0.5", "::1", "ca.corp.internal"])
)
def test_an_address_is_read_back_as_it_was_written(port: int, host: str) -> None:
    assert parse_listen_address(str(ListenAddress(host, port))) == (host, port)


@given(st.text(max_size=40) | st.from_regex(r"https://[!-~]{0,30}", fullmatch=True))
def test_an_origin_is_refused_or_stays_as_it_is_when_read_again(text: str) -> None:
    try:
        origin = parse_base_url(text)
    except ValueError:
        return
    assert parse_base_url(origin) == origin
    assert re.fullmatch(r"https://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]*)?", origin)


_VALUES = st.recursive(
    st.text(max_size=12) | st.integers(-10, 10**6) | st.booleans() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
_PLACES = [(section, key) for section, model in SECTIONS.items() for key in model.model_fields]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(_PLACES), _VALUES)
def test_no_value_breaks_the_check(place: tuple[str, str], value: object) -> None:
    """A value is taken or refused with a text of ours, whatever it is."""
    sections = {name: dict(keys) for name, keys in GOOD.items()}
    sections.setdefault(place[0], {})[place[1]] = value
    try:
        Config.model_validate(sections)
    except ValidationError as error:
        told = [describe_mistake(item, {}) for item in error.errors(include_url=False)]
        assert told
        assert not [line for line in told if "Input should" in line or "\n" in line]
