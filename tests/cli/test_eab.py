"""`acmeca eab`: grants by the command line, with a server and without one; the HMAC key is shown once."""

import json
import re

import pytest

from acmeca.service.bindings import KEY_PATH
from tests.cli.conftest import Acmeca
from tests.support.installations import Installation

ALL = (
    *("eab", "create", "--owner", "team-a", "--names", "*.team-a.localhost"),
    *("--profiles", "server", "--lifetime", "30d", "--quota", "500/week", "--expires", "90d"),
    *("--single-use", "--preauthorized"),
)


def created(acmeca: Acmeca, where: Installation, *arguments: str) -> dict[str, object]:
    said = acmeca(where, "eab", "create", "--owner", "team-a", "--json", *arguments)
    assert said.code == 0, said.stderr
    document = json.loads(said.stdout)
    assert isinstance(document, dict)
    return document


def pairs(text: str) -> dict[str, str]:
    found = (re.split(r"\s{2,}", line, maxsplit=1) for line in text.splitlines() if re.match(r"\S.*\s{2,}\S", line))
    return {name.strip(): value.strip() for name, value in found}


def test_create_as_the_issue_has_it(ca: Installation, acmeca: Acmeca) -> None:
    said = acmeca(ca, *ALL)
    assert said.code == 0, said.stderr
    told = pairs(said.stdout)
    assert told["names"] == "*.team-a.localhost"
    assert told["networks"] == "none"
    assert (told["profiles"], told["lifetime"], told["quota"]) == ("server", "at most 30d", "500/7d")
    assert (told["for one account"], told["validation"]) == ("yes", "not needed")
    kid, hmac_key = told["key identifier"], told["HMAC key"]
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{21}", kid)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{85}", hmac_key)  # CLIENTS #16: base64url without padding
    for client in ("certbot", "lego 5", "lego 4", "acme.sh", "cert-manager"):
        assert client in said.stdout.splitlines()
    assert f"--eab-kid {kid} --eab-hmac-key {hmac_key}" in said.stdout
    assert f"keyID: {kid}" in said.stdout
    assert said.stdout.count(ca.directory_url) == 4
    assert "this once" in said.stderr
    shown = acmeca(ca, "eab", "show", kid)
    listed = acmeca(ca, "eab", "list")
    assert kid in listed.stdout
    assert hmac_key not in shown.stdout + shown.stderr + listed.stdout + listed.stderr


def test_as_json(ca: Installation, acmeca: Acmeca) -> None:
    made = created(acmeca, ca)
    assert made["directory"] == ca.directory_url
    shown = json.loads(acmeca(ca, "eab", "show", str(made["kid"]), "--json").stdout)
    assert (
        shown.items() >= {name: value for name, value in made.items() if name not in {"hmac_key", "directory"}}.items()
    )
    assert "hmac_key" not in shown
    listed = json.loads(acmeca(ca, "eab", "list", "--json").stdout)["grants"]
    assert made["kid"] in {item["kid"] for item in listed}


def test_lists_with_commas_and_several_times(stopped: Installation, acmeca: Acmeca) -> None:
    made = created(acmeca, stopped, "--names", "a.localhost, b.localhost", "--names", "*.c.localhost")
    assert made["names"] == ["a.localhost", "b.localhost", "*.c.localhost"]


@pytest.mark.parametrize("value", ["", "a.localhost,", ","])
@pytest.mark.parametrize("option", ["--names", "--networks", "--profiles"])
def test_an_empty_list_is_not_all(stopped: Installation, acmeca: Acmeca, option: str, value: str) -> None:
    """`--names "$UNSET"` must not make a grant for everything."""
    said = acmeca(stopped, "eab", "create", "--owner", "a", option, value)
    assert said.code == 2
    assert "empty" in said.stderr
    assert acmeca(stopped, "eab", "list").stdout == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--names", "*.example"), "policy.allowed_names, which allows *.localhost"),
        (("--networks", "10.0.0.0/8"), "policy.allowed_networks"),
        (("--quota", "lots"), "500/week"),
        (("--preauthorized",), "no grant for everything"),
        (("--lifetime", "5m"), "10m"),
    ],
)
def test_refused_with_the_reason(stopped: Installation, acmeca: Acmeca, arguments: tuple[str, ...], told: str) -> None:
    said = acmeca(stopped, "eab", "create", "--owner", "team-a", *arguments)
    assert (said.code, said.stdout) == (1, "")
    assert told in said.stderr
    assert said.stderr.count("\n") == 1


def test_without_an_owner(stopped: Installation, acmeca: Acmeca) -> None:
    assert acmeca(stopped, "eab", "create").code == 2


def test_disable_and_enable(ca: Installation, acmeca: Acmeca) -> None:
    kid = str(created(acmeca, ca, "--expires", "1d")["kid"])
    said = acmeca(ca, "eab", "disable", kid)
    assert said.code == 0
    assert f"Disabled {kid} (team-a): 0 accounts" in said.stdout
    assert pairs(acmeca(ca, "eab", "show", kid).stdout)["status"] == "disabled"
    again = acmeca(ca, "eab", "disable", kid)
    assert (again.code, "already" in again.stderr) == (1, True)
    assert acmeca(ca, "eab", "enable", kid).code == 0
    assert pairs(acmeca(ca, "eab", "show", kid).stdout)["status"] == "active"
    assert "until it is disabled" in acmeca(ca, "eab", "enable", kid, "--expires", "never").stdout
    prolonged = json.loads(acmeca(ca, "eab", "enable", kid, "--expires", "90d", "--json").stdout)
    assert prolonged["expires_at"] is not None


def test_what_there_is_not(stopped: Installation, acmeca: Acmeca) -> None:
    for verb in ("show", "disable", "enable"):
        said = acmeca(stopped, "eab", verb, "nothing")
        assert said.code == 1
        assert "acmeca eab list" in said.stderr
    said = acmeca(stopped, "eab", "list")
    assert (said.code, said.stdout) == (0, "")
    assert "eab create" in said.stderr


def test_a_key_that_is_missing_is_told(stopped: Installation, acmeca: Acmeca) -> None:
    kid = str(created(acmeca, stopped)["kid"])
    (stopped.data_dir / KEY_PATH).unlink()
    for arguments in (("list",), ("show", kid)):
        said = acmeca(stopped, "eab", *arguments)
        assert said.code == 0
        assert "Bindings are refused here" in said.stderr
        assert KEY_PATH in said.stderr
    said = acmeca(stopped, "eab", "create", "--owner", "b")
    assert said.code == 1
    assert "--new-key" in said.stderr
    assert acmeca(stopped, "eab", "create", "--owner", "b", "--new-key").code == 0
    said = acmeca(stopped, "eab", "list")
    assert f"of {kid}: made with another" in said.stderr


def test_certificates_of_a_grant(stopped: Installation, acmeca: Acmeca) -> None:
    kid = str(created(acmeca, stopped)["kid"])
    assert "No certificate fits" in acmeca(stopped, "list", "--grant", kid).stderr
