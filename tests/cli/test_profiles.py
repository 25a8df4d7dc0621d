"""profiles: what the configuration offers, for people and for programs; no CA has to be there for it."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Acmeca

CONFIG = """
[server]
base_url = "https://ca.corp.internal"
status_url = "http://ca.corp.internal"
[policy]
allowed_names = ["*.corp.internal"]
default_profile = "web"
[validation]
challenges = ["http-01", "dns-01"]
[profiles.client]
enabled = false
[profiles.web]
description = "for the web team"
lifetime = "7d"
maximum_lifetime = "30d"
common_name = true
organization = "Example GmbH"
must_staple = true
challenges = ["dns-01"]
allowed_names = ["*.web.corp.internal", "www.corp.internal"]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "acmeca.toml"
    path.write_text(CONFIG)
    return path


def test_profiles(config: Path, acmeca: Acmeca) -> None:
    said = acmeca(config, "profiles")
    assert said.code == 0
    heading, *rows = said.stdout.splitlines()
    assert heading.split() == ["profile", "lifetime", "usages", "subject", "challenges", "for"]
    assert [row.split()[0] for row in rows] == ["server", "short", "kubernetes", "web"]
    assert rows[0].split("  ")[-1].strip() == "every name of policy"
    assert rows[3].split() == (
        [
            "web",
            "7d",
            "to",
            "30d",
            "server,",
            "staples",
            "O=Example",
            "GmbH,",
            "CN=a",
            "name",
            "dns-01",
            "*.web.corp.internal,",
            "www.corp.internal",
        ]
    )
    assert said.stderr == "web is for orders that ask for none.\n"


def test_profiles_for_programs(config: Path, acmeca: Acmeca) -> None:
    said = acmeca(config, "profiles", "--json")
    assert (said.code, said.stderr) == (0, "")
    found = {item["name"]: item for item in json.loads(said.stdout)["profiles"]}
    assert list(found) == ["server", "short", "kubernetes", "web"]
    web = found["web"]
    assert len(web.pop("id")) == 64
    assert web == {
        "name": "web",
        "default": True,
        "description": "for the web team",
        "lifetime": 604800,
        "maximum_lifetime": 2592000,
        "key_types": ["rsa2048", "rsa3072", "rsa4096", "p256", "p384", "p521", "ed25519"],
        "usages": ["server"],
        "common_name": True,
        "organization": "Example GmbH",
        "organizational_unit": None,
        "must_staple": True,
        "challenges": ["dns-01"],
        "allowed_names": ["*.web.corp.internal", "www.corp.internal"],
        "allowed_networks": [],
    }
    assert (found["server"]["default"], found["server"]["allowed_names"]) == (False, None)
    assert found["server"]["challenges"] == ["http-01", "dns-01"]


def test_a_configuration_that_cannot_be_used(config: Path, acmeca: Acmeca) -> None:
    config.write_text(CONFIG.replace("30d", "3d"))
    said = acmeca(config, "profiles")
    assert said.code == 1
    assert "profiles.web.maximum_lifetime" in said.stderr
