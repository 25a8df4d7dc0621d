"""External account bindings: make a grant and its key, list, show, stop.

Rule 1: the HMAC key is printed by `create`, once; nothing else knows it.
"""

from pathlib import Path
from typing import Any, Final

import click
from rich.text import Text

from acmeca.cli.certificates import print_certificates
from acmeca.cli.connection import run_operation
from acmeca.cli.options import json_option, parse_seconds
from acmeca.cli.output import examples, print_json, print_line, print_pairs, print_table
from acmeca.config import format_duration, parse_duration

_COLOURS: Final = {"active": "green", "disabled": "red", "expired": "dim", "used": "dim"}
_NEVER: Final = "never"

# KID and KEY are of [A-Za-z0-9_-] and begin with no "-", the directory is a URL: nothing in them means anything to a shell.
_COMMANDS: Final = """\
certbot
  certbot certonly --standalone --server {directory} \\
    --eab-kid {kid} --eab-hmac-key {hmac_key} -d NAME
lego 5
  lego run --accept-tos --server {directory} --http --domains NAME \\
    --eab --eab.kid {kid} --eab.hmac {hmac_key}
lego 4
  lego --accept-tos --email you@example.com --server {directory} --http --domains NAME \\
    --eab --kid {kid} --hmac {hmac_key} run
acme.sh
  acme.sh --register-account --server {directory} \\
    --eab-kid {kid} --eab-hmac-key {hmac_key}
cert-manager
  kubectl create secret generic acmeca-eab --namespace cert-manager --from-literal=secret={hmac_key}
  and below spec.acme of the ClusterIssuer:
    externalAccountBinding:
      keyID: {kid}
      keySecretRef: {{name: acmeca-eab, key: secret}}"""


@click.group(
    short_help="External account bindings: who may have which names.",
    epilog=examples(
        "acmeca eab create --owner team-a --names '*.team-a.internal' --quota 500/week",
        "acmeca eab list",
        "acmeca eab show KID",
        "acmeca eab disable KID",
    ),
)
def eab() -> None:
    """External account bindings (RFC 8555 §7.3.4), as grants: who makes accounts by one, and what these may have.

    A grant narrows what the configuration allows. Its accounts are refused as soon as it is disabled or over. See
    docs/external-accounts.md.
    """


def _parse_list(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[str]:
    """What was given several times, or with commas. Nothing where something was given is a mistake: it would allow everything."""
    items = [item.strip() for value in values for item in value.split(",")]
    if "" in items:
        raise click.BadParameter(f"there is an empty one in {', '.join(values)!r}", param=parameter)
    return items


def _parse_end(context: click.Context, parameter: click.Parameter, value: str | None) -> int | str | None:
    """A duration, or `never`."""
    return _NEVER if value == _NEVER else parse_seconds(context, parameter, value)


@eab.command(
    "create",
    short_help="Make a grant, and print its key.",
    epilog=examples(
        "acmeca eab create --owner team-a --names '*.team-a.internal' --networks 10.1.0.0/16",
        "acmeca eab create --owner db --names '*.db.internal' --lifetime 30d --quota 500/week --expires 90d",
        "acmeca eab create --owner printer-7 --names printer-7.internal --single-use --preauthorized",
    ),
)
@click.option("--owner", required=True, help="Whose it is, for people: a team, a machine, a ticket.")
@click.option(
    "--names",
    multiple=True,
    callback=_parse_list,
    metavar="PATTERN",
    help="A name, or '*.suffix'; several times, or with commas.",
)
@click.option(
    "--networks",
    multiple=True,
    callback=_parse_list,
    metavar="NETWORK",
    help="Addresses, like 10.1.0.0/16; several times, or with commas.",
)
@click.option(
    "--profiles",
    multiple=True,
    callback=_parse_list,
    metavar="NAME",
    help="Profiles that it has; the first is the default.",
)
@click.option(
    "--lifetime", callback=parse_seconds, metavar="DURATION", help="The longest that a certificate lives, like 30d."
)
@click.option(
    "--quota", metavar="N/PERIOD", help="Orders of all its accounts together, like 500/week, 20/hour or 5/12h."
)
@click.option(
    "--expires",
    callback=parse_seconds,
    metavar="DURATION",
    help="When it is over, for its accounts too, like 90d. [default: never]",
)
@click.option("--single-use", is_flag=True, help="For one account.")
@click.option("--preauthorized", is_flag=True, help="What it lists needs no validation.")
@click.option("--new-key", is_flag=True, help="keys/eab.key is lost for good: go on with another.")
@json_option
@click.pass_obj
def create(
    config_path: Path | None,
    *,
    owner: str,
    names: list[str],
    networks: list[str],
    profiles: list[str],
    lifetime: int | None,
    quota: str | None,
    expires: int | None,
    single_use: bool,
    preauthorized: bool,
    new_key: bool,
    as_json: bool,
) -> None:
    """Make a grant: a key identifier and an HMAC key, by which clients make accounts, and what these may have.

    Without --names and --networks its accounts may have what the configuration allows; with either, what is listed and nothing
    else. The HMAC key is printed now and never again.
    """
    result = run_operation(
        config_path,
        "eab_create",
        {
            "owner": owner,
            "names": names,
            "networks": networks,
            "profiles": profiles,
            "lifetime": lifetime,
            "quota": quota,
            "expires_in": expires,
            "single_use": single_use,
            "preauthorized": preauthorized,
            "new_key": new_key,
        },
    )
    if as_json:
        print_json(result)
        return
    _print_grant(result)
    print_line()
    print_pairs({"key identifier": result["kid"], "HMAC key": result["hmac_key"]})
    print_line(
        ("The HMAC key is shown this once.", "bold yellow"),
        " Whoever has it can make accounts of this grant.",
        stderr=True,
    )
    print_line()
    for line in _COMMANDS.format(**result).splitlines():
        print_line((line, "" if line.startswith(" ") else "bold"))


@eab.command(
    "list",
    short_help="List the grants.",
    epilog=examples(
        "acmeca eab list", "acmeca eab list --owner team-a", "acmeca eab list --json | jq -r '.grants[].kid'"
    ),
)
@click.option("--owner", help="Those of this owner.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000))
@json_option
@click.pass_obj
def list_grants(config_path: Path | None, *, owner: str | None, limit: int, as_json: bool) -> None:
    """List the grants, the newest first, with how many accounts and certificates each has.

    "used" is a grant for one account which it has; the account goes on.
    """
    result = run_operation(config_path, "eab_list", {"owner": owner, "limit": limit})
    if as_json:
        print_json(result)
        return
    if not result["grants"]:
        print_line("There is no grant; make one with: acmeca eab create --owner …", stderr=True)
        return
    print_table(
        ("key identifier", "status", "accounts", "certificates", "ends", "owner", "names"),
        [
            (
                Text(item["kid"]),
                Text(item["status"], _COLOURS[item["status"]]),
                Text(str(item["accounts"])),
                Text(str(item["certificates"])),
                Text("never" if item["expires_at"] is None else item["expires_at"][:10]),
                Text(item["owner"]),
                [*item["names"], *item["networks"]] or ["(all that the configuration allows)"],
            )
            for item in result["grants"]
        ],
    )
    if result["is_cut"]:
        print_line(f"There are more than {limit}; raise --limit.", stderr=True)
    _warn_of_key(result["key_problem"], result["grants"])


@eab.command("show", short_help="Show a grant, and what was issued under it.", epilog=examples("acmeca eab show KID"))
@click.argument("kid")
@json_option
@click.pass_obj
def show_grant(config_path: Path | None, *, kid: str, as_json: bool) -> None:
    """Show a grant: what it allows, its accounts, and the newest certificates issued to them.

    All certificates: acmeca list --grant KID.
    """
    result = run_operation(config_path, "eab_show", {"kid": kid})
    if as_json:
        print_json(result)
        return
    _print_grant(result)
    if result["account_list"]:
        print_line()
        print_table(
            ("account", "status", "since", "certificates"),
            [
                (
                    Text(item["account"]),
                    Text(item["status"]),
                    Text(item["created_at"][:10]),
                    [str(item["certificates"])],
                )
                for item in result["account_list"]
            ],
        )
    if result["issued"]:
        print_line()
        print_certificates(result["issued"])
    if result["certificates"] > len(result["issued"]):
        print_line(f"These are the newest of {result['certificates']}; all: acmeca list --grant {kid}", stderr=True)
    _warn_of_key(result["key_problem"], [result])


@eab.command("disable", short_help="Stop a grant and all its accounts.", epilog=examples("acmeca eab disable KID"))
@click.argument("kid")
@json_option
@click.pass_obj
def disable(config_path: Path | None, *, kid: str, as_json: bool) -> None:
    """Stop a grant: its accounts are refused from now on, whatever they ask for, and no new ones are made.

    Certificates that were issued stay valid; acmeca list --grant KID has them, for acmeca revoke.
    """
    result = run_operation(config_path, "eab_disable", {"kid": kid})
    if as_json:
        print_json(result)
        return
    print_line(
        "Disabled ",
        (kid, "bold"),
        f" ({result['owner']}): {_count(result['accounts'], 'account')} can do nothing any more.",
    )
    if result["certificates"]:
        print_line(
            f"{_count(result['certificates'], 'certificate')} stay as they are: acmeca list --grant {kid}", stderr=True
        )


@eab.command(
    "enable",
    short_help="Let a grant go on, or give it another end.",
    epilog=examples("acmeca eab enable KID", "acmeca eab enable KID --expires 90d"),
)
@click.argument("kid")
@click.option(
    "--expires",
    callback=_parse_end,
    metavar="DURATION",
    help="Over after this time from now, or never. [default: as it was]",
)
@json_option
@click.pass_obj
def enable(config_path: Path | None, *, kid: str, expires: int | str | None, as_json: bool) -> None:
    """Let a disabled grant and its accounts go on, or give a grant another end."""
    never = expires == _NEVER
    result = run_operation(
        config_path, "eab_enable", {"kid": kid, "expires_in": None if never else expires, "never_expires": never}
    )
    if as_json:
        print_json(result)
        return
    print_line("Enabled ", (kid, "bold"), f" ({result['owner']}), until {result['expires_at'] or 'it is disabled'}.")


def _print_grant(item: dict[str, Any]) -> None:
    everything = not item["names"] and not item["networks"]
    pairs: dict[str, str | Text] = {
        "grant": item["kid"],
        "owner": item["owner"],
        "status": Text(item["status"], _COLOURS[item["status"]]),
        "names": "all that the configuration allows" if everything else ", ".join(item["names"]) or "none",
        "networks": "all that the configuration allows" if everything else ", ".join(item["networks"]) or "none",
        "profiles": ", ".join(item["profiles"]) or "all",
        "lifetime": "as the profile has it" if item["lifetime"] is None else f"at most {_span(item['lifetime'])}",
        "quota": _quota(item),
        "for one account": "yes" if item["single_use"] else "no",
        "validation": "not needed" if item["preauthorized"] else "needed",
        "made": item["created_at"],
        "ends": item["expires_at"] or "never",
        "accounts": str(item["accounts"]),
        "certificates": str(item["certificates"]),
    }
    print_pairs(pairs)


def _warn_of_key(problem: str | None, grants: list[dict[str, Any]]) -> None:
    """Say that this server refuses bindings, which clients cannot tell from a wrong key."""
    if problem is not None:
        print_line(("Bindings are refused here:", "bold red"), f" {problem}", stderr=True)
        return
    elsewhere = [item["kid"] for item in grants if not item["is_key_here"]]
    if elsewhere:
        print_line(
            ("Bindings are refused here", "yellow"),
            f" of {', '.join(elsewhere)}: made with another keys/eab.key than the one on this server.",
            stderr=True,
        )


def _quota(item: dict[str, Any]) -> str:
    if item["quota"] is None:
        return "-"
    return f"{item['quota']}, {item['quota_used']} used" if "quota_used" in item else str(item["quota"])


def _span(seconds: int) -> str:
    return format_duration(parse_duration(f"{seconds}s"))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
