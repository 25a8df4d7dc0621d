"""renewal: when clients are told to renew (RFC 9773), for one certificate or for a hundred thousand, and how far that has come."""

import sys
from pathlib import Path
from typing import Any, Final

import click
from rich.text import Text

from acmeca.cli.connection import run_operation
from acmeca.cli.options import json_option, parse_coming_moment, parse_moment, parse_seconds
from acmeca.cli.output import examples, print_json, print_line, print_pairs, print_table
from acmeca.errors import AcmecaError
from acmeca.storage.renewals import Progress

_LABELS: Final = {
    "issuer_id": "issuer",
    "account_id": "account",
    "grant_id": "grant",
    "spki_sha256": "key",
    "issued_after": "issued after",
    "issued_before": "issued before",
    "expires_before": "expires before",
}
_SHOWN_SERIALS: Final = 3


@click.group(
    short_help="Tell clients when to renew.",
    epilog=examples(
        "acmeca renewal set --name '*.db.corp.internal' --within 4h --why https://wiki.corp.internal/ca/42",
        "acmeca renewal list",
        "acmeca renewal progress ID",
        "acmeca renewal show SERIAL",
    ),
)
def renewal() -> None:
    """When certificates are to be renewed, as clients are told that ask (ACME Renewal Information, RFC 9773).

    Each certificate has a window of its own, around two thirds of its life. Before you revoke many, set an earlier one for all of
    them: their clients renew within it, nothing breaks, and then you revoke what was replaced. See docs/renewal.md.
    """


@renewal.command(
    "set",
    short_help="Have certificates renewed in a window that you choose.",
    epilog=examples(
        "acmeca renewal set 0139389270d3818df3300661cbf43fcee7 --at-once",
        "acmeca renewal set --name '*.corp.internal' --from now --within 4h --why https://wiki.corp.internal/ca/42",
        "acmeca renewal set --issuer 9vhAv9rRoogB6iiOl2kYOA --issued-before 2026-11-01 --within 7d",
        "acmeca renewal set --all --from 2026-12-24 --within 2d --yes",
    ),
)
@click.argument("serials", nargs=-1, metavar="[SERIAL]...")
@click.option("--name", help="With this name, or '*.suffix': with one below it.")
@click.option("--issuer", help="Signed by this issuer (its id).")
@click.option("--profile", help="Of this profile.")
@click.option("--account", help="Of this account (its id).")
@click.option("--grant", help="Of the accounts of this grant (its id).")
@click.option("--key", metavar="SHA256", help="With this key: the SHA-256 that acmeca show prints.")
@click.option("--issued-after", callback=parse_moment, metavar="MOMENT", help="Issued since 2026-11-23, or 7d ago.")
@click.option("--issued-before", callback=parse_moment, metavar="MOMENT", help="Issued before that.")
@click.option("--expires-within", callback=parse_seconds, metavar="DURATION", help="That end within 30d.")
@click.option("--all", "everything", is_flag=True, help="All certificates there are.")
@click.option(
    "--from",
    "from_",
    callback=parse_coming_moment,
    metavar="MOMENT",
    help="When the window begins: now, 2h (from now on), or a moment. [default: now]",
)
@click.option(
    "--within",
    callback=parse_seconds,
    metavar="DURATION",
    help="How long it lasts; clients choose a moment in it. [default: 1d]",
)
@click.option("--at-once", is_flag=True, help="A window that is over: each client renews when it asks next.")
@click.option("--why", metavar="URL", help="A page that says why; clients show its URL to whoever runs them.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def set_window(
    config_path: Path | None,
    /,
    *,
    serials: tuple[str, ...],
    from_: int | None,
    within: int | None,
    at_once: bool,
    why: str | None,
    everything: bool,
    yes: bool,
    as_json: bool,
    **selection: str | int | None,
) -> None:
    """Have the certificates renewed that are given, or that fit everything that is given.

    It is about the certificates that there are now, and not about those that replace them; about expired and revoked ones it is not.
    Of several windows that are about one certificate the newest counts, and acmeca renewal clear takes one back. A
    certificate that ends before the window does keeps its own.
    """
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("nobody is here to ask whether to set it: add --yes when you are sure")
    arguments: dict[str, object] = {name: value for name, value in selection.items() if value is not None}
    arguments |= {"from": from_, "within": within, "at_once": at_once, "why": why}
    if serials:
        arguments["serials"] = list(serials)
    if everything:
        arguments["all"] = True
    if not yes:
        preview = run_operation(config_path, "renewal_preview", arguments)
        _print_counted(preview, stderr=True)
        if not click.confirm("Have their clients renew in it?", err=True):
            raise AcmecaError("nothing was set")
    result = run_operation(config_path, "renewal_set", arguments)
    if as_json:
        print_json(result)
        return
    print_line("Set ", (result["id"], "bold"), f": {_renewable(result)}, {result['from']} to {result['until']}.")
    print_line(
        "Clients see it when they ask next (renewal.retry_after). ",
        f"How far it has come: acmeca renewal progress {result['id']}",
    )


@renewal.command(
    "list", short_help="Show the windows that were set.", epilog=examples("acmeca renewal list --all --json")
)
@click.option("--all", "everything", is_flag=True, help="Those too that were cleared.")
@json_option
@click.pass_obj
def list_windows(config_path: Path | None, *, everything: bool, as_json: bool) -> None:
    """Show the windows that are in force, the newest first. Of those that are about one certificate the first counts."""
    result = run_operation(config_path, "renewal_list", {"all": everything})
    if as_json:
        print_json(result)
        return
    if not result["renewals"]:
        print_line("No window is set: every certificate has its own.", stderr=True)
        return
    print_table(
        ("id", "from", "until", "certificates"),
        [
            (
                Text(item["id"]),
                Text(item["from"]),
                Text(item["until"]),
                [
                    _described(item["selection"])
                    + ("" if item["cleared_at"] is None else f" (cleared {item['cleared_at']})")
                ],
            )
            for item in result["renewals"]
        ],
    )


@renewal.command(
    short_help="Show how many were replaced since a window was set.",
    epilog=examples(
        "acmeca renewal progress 9vhAv9rRoogB6iiOl2kYOA",
        "acmeca renewal progress 9vhAv9rRoogB6iiOl2kYOA --serials left",
        "acmeca renewal progress ID --serials replaced | xargs -n1 acmeca revoke --reason superseded --yes",
    ),
)
@click.argument("id_", metavar="ID")
@click.option(
    "--serials",
    "state",
    type=click.Choice([state.value for state in Progress]),
    help="Print the serials of those that have come so far, one a line, and nothing else.",
)
@json_option
@click.pass_obj
def progress(config_path: Path | None, *, id_: str, state: str | None, as_json: bool) -> None:
    """Show how far the renewal of the certificates has come that a window is about; expired ones are left out.

    "replaced": the client said so when it ordered the new one. "renewed": there is a newer certificate of the same account for the
    same names, from a client that does not say what it replaces (certbot); whether the old one is still in use somewhere, you
    know. "left": neither.
    """
    if state is not None and as_json:
        raise click.UsageError("--serials and --json are two answers to one question; choose one")
    if state is not None:
        after: str | None = ""
        while after is not None:
            page = run_operation(config_path, "renewal_serials", {"id": id_, "state": state, "after": after})
            for serial in page["serials"]:
                click.echo(serial)
            after = page["after"]
        return
    result = run_operation(config_path, "renewal_progress", {"id": id_})
    if as_json:
        print_json(result)
    else:
        _print_counted(result)


@renewal.command(short_help="Show when a certificate is to be renewed.", epilog=examples("acmeca renewal show SERIAL"))
@click.argument("serial")
@json_option
@click.pass_obj
def show(config_path: Path | None, *, serial: str, as_json: bool) -> None:
    """Show when the client of a certificate is told to renew it, and what has replaced it.

    SERIAL is hex with or without colons, as openssl and browsers print it, or decimal.
    """
    result = run_operation(config_path, "show", {"serial": serial})
    names = ("serial", "names", "renew_from", "renew_until", "renew_why", "renewal", "replaces", "replaced_by")
    if as_json:
        print_json({name: result[name] for name in names})
        return
    print_pairs({"serial": result["serial"], "names": ", ".join(result["names"]) or "-"} | renewal_pairs(result))


@renewal.command(short_help="Take a window back.", epilog=examples("acmeca renewal clear 9vhAv9rRoogB6iiOl2kYOA"))
@click.argument("id_", metavar="ID")
@json_option
@click.pass_obj
def clear(config_path: Path | None, *, id_: str, as_json: bool) -> None:
    """Take a window back: its certificates have their own again, or the one that was set for them before.

    Clients that have been told of it may renew all the same.
    """
    result = run_operation(config_path, "renewal_clear", {"id": id_})
    if as_json:
        print_json(result)
    else:
        print_line("Cleared ", (result["id"], "bold"), f", which was about {_described(result['selection'])}.")


def renewal_pairs(item: dict[str, Any]) -> dict[str, str | Text]:
    """When a certificate is to be renewed, for people."""
    window = "never signed" if item["renew_from"] is None else f"{item['renew_from']} to {item['renew_until']}"
    by_operator = "" if item["renewal"] is None else f" (set by {item['renewal']})"
    pairs: dict[str, str | Text] = {"renewal": window + by_operator}
    if item["renew_why"] is not None:
        pairs["why"] = item["renew_why"]
    if item["replaces"] is not None:
        pairs["replaces"] = item["replaces"]
    pairs["replaced by"] = item["replaced_by"] or "-"
    return pairs


def _print_counted(item: dict[str, Any], *, stderr: bool = False) -> None:
    cleared = "" if item["cleared_at"] is None else f" (cleared {item['cleared_at']})"
    own = f", of which {item['ending']} end before the window does, and keep their own" if item["ending"] else ""
    pairs: dict[str, str | Text] = {
        "certificates": _described(item["selection"]),
        "window": f"{item['from']} to {item['until']}{cleared}",
        "why": item["why"] or "-",
        "in all": str(item["certificates"]),
        "revoked": str(item["revoked"]),
        "replaced": str(item["replaced"]),
        "renewed": str(item["renewed"]),
        "left": f"{item['left']}{own}",
    }
    print_pairs(pairs, stderr=stderr)


def _renewable(item: dict[str, Any]) -> str:
    count = item["certificates"] - item["revoked"]
    return f"{count} certificate" + ("" if count == 1 else "s")


def _described(selection: dict[str, Any]) -> str:
    """A selection in a line."""
    parts = []
    if "serials" in selection:
        serials = selection["serials"]
        more = len(serials) - _SHOWN_SERIALS
        parts.append(" ".join(serials[:_SHOWN_SERIALS]) + (f" and {more} more" if more > 0 else ""))
    parts += [f"{_LABELS.get(name, name)} {value}" for name, value in selection.items() if name != "serials"]
    return ", ".join(parts) or "all"
