"""keys: who has a key, and that it is refused from now on."""

import re
import sys
from pathlib import Path
from typing import Any, Final

import click
from rich.text import Text

from acmeca.cli.connection import run_operation
from acmeca.cli.key_files import read_public_key
from acmeca.cli.options import json_option
from acmeca.cli.output import examples, print_json, print_line, print_pairs, print_table
from acmeca.errors import AcmecaError

_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")
_SHOWN: Final = 20  # certificates


@click.group(
    short_help="Keys: who has one, and to block it.",
    epilog=examples(
        "acmeca keys show privkey.pem",
        "acmeca keys block privkey.pem --why 'found in a public repository'",
        "acmeca keys list",
    ),
)
def keys() -> None:
    """Keys of accounts and certificates, and those that are blocked, because somebody else may have them. See docs/keys.md.

    KEY is a file (a certificate, a request, a public or private key, in PEM or DER, or an account's JWK), the SHA-256 of a public key
    (as acmeca show prints it), or the serial of a certificate. A private key is not sent anywhere, and not kept.
    """


@keys.command(
    "show",
    short_help="Show who has a key, and whether it is blocked.",
    epilog=examples(
        "acmeca keys show privkey.pem",
        "acmeca keys show 0139389270d3818df3300661cbf43fcee7",
        "acmeca keys show 5a1f…64 digits",
    ),
)
@click.argument("key")
@json_option
@click.pass_obj
def show_key(config_path: Path | None, *, key: str, as_json: bool) -> None:
    """Show which account and which certificates have this key, and whether it is blocked."""
    result = run_operation(config_path, "key_show", _named(key))
    if as_json:
        print_json(result)
    else:
        _print_key(result)


@keys.command(
    "block",
    short_help="Refuse a key from now on, for good.",
    epilog=examples(
        "acmeca keys block privkey.pem --why 'found in a public repository'",
        "acmeca keys block 0139389270d3818df3300661cbf43fcee7 --why 'laptop stolen' --revoke --yes",
    ),
)
@click.argument("key")
@click.option("--why", required=True, help="The reason; it stands in the audit and in acmeca keys list.")
@click.option("--revoke", "revoking", is_flag=True, help="Revoke its certificates too, for keyCompromise.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def block(config_path: Path | None, *, key: str, why: str, revoking: bool, yes: bool, as_json: bool) -> None:
    """Refuse a key from now on, for good: it is never certified again, and an account that has it can do nothing any more.

    Certificates that have it stay good until they are revoked; --revoke does so, and without it you are asked. Only the key itself can still
    ask for one thing: that its own certificate is revoked.
    """
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("nobody is here to ask whether to block it: add --yes when you are sure")
    named = _named(key)
    if not yes:
        _print_key(run_operation(config_path, "key_show", named), stderr=True)
        if not click.confirm(f"Block it ({why})? This cannot be undone", err=True):
            raise AcmecaError("nothing was blocked")
    result = run_operation(config_path, "key_block", named | {"why": why})
    valid = [item for item in result["certificates"] if item["status"] == "valid"]
    if valid and not yes and not revoking:
        _print_certificates(valid, stderr=True)
        revoking = click.confirm(f"Revoke {_counted(valid)} for keyCompromise too?", err=True)
    revoked = run_operation(config_path, "key_revoke", named)["revoked"] if revoking and valid else []
    if as_json:
        print_json(result | {"revoked": revoked})
        return
    since = result["blocked"]["blocked_at"]
    print_line("Blocked " if result["new"] else f"Blocked already, since {since}: ", (result["sha256"], "bold"))
    if result["account"] is not None:
        print_line(f"Account {result['account']['id']} has it, and can do nothing any more.")
    if revoked:
        print_line(f"Revoked {_counted(revoked)} that had it.")
    elif valid:
        print_line(
            (f"{_counted(valid)} with it {'is' if len(valid) == 1 else 'are'} good still. ", "yellow"), "To revoke:"
        )
        for item in valid:
            print_line(f"  acmeca revoke {item['serial']} --reason keyCompromise")


@keys.command("list", short_help="List the keys that are blocked.", epilog=examples("acmeca keys list --json"))
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000), help="How many.")
@json_option
@click.pass_obj
def list_keys(config_path: Path | None, *, limit: int, as_json: bool) -> None:
    """List the keys that are blocked, the newest first: since when, and why."""
    result = run_operation(config_path, "key_list", {"limit": limit})
    if as_json:
        print_json(result)
        return
    if not result["keys"]:
        print_line("No key is blocked.", stderr=True)
        return
    print_table(
        ("SHA-256", "since", "why"),
        [(Text(item["sha256"]), Text(item["blocked_at"]), [_reason(item)]) for item in result["keys"]],
    )
    if result["is_cut"]:
        print_line(f"More than {limit} are blocked; raise --limit.", stderr=True)


def _named(typed: str) -> dict[str, object]:
    """The key that was meant, as the operations take it: what is a file is read here, and its public half alone goes on."""
    path = Path(typed)
    if path.is_file():
        found = read_public_key(path)
        if found.is_private:
            print_line(
                ("This file holds a private key. ", "yellow"),
                "Its public half alone was taken; delete the file when it is where it should not be.",
                stderr=True,
            )
        return {"spki": found.spki_der.hex()}
    digits = typed.strip().lower().removeprefix("sha256:").replace(":", "").replace(" ", "")
    if _SHA256.match(digits):
        return {"sha256": digits}
    if "/" in typed or path.suffix:
        raise AcmecaError(f"there is no file {typed}")
    return {"serial": typed}


def _print_key(item: dict[str, Any], *, stderr: bool = False) -> None:
    account, blocked = item["account"], item["blocked"]
    contact = "" if account is None else f" ({account['status']}; {', '.join(account['contact']) or 'no contact'})"
    print_pairs(
        {
            "SHA-256": item["sha256"],
            "kind": item["kind"] or "unknown: nothing here has this key",
            "blocked": "no" if blocked is None else Text(f"since {blocked['blocked_at']}: {_reason(blocked)}", "red"),
            "account": "none" if account is None else f"{account['id']}{contact}",
            "certificates": _counted(item["certificates"]) if item["certificates"] else "none",
        },
        stderr=stderr,
    )
    _print_certificates(item["certificates"], stderr=stderr)


def _print_certificates(items: list[dict[str, Any]], *, stderr: bool) -> None:
    for item in items[:_SHOWN]:
        names = ", ".join(item["names"]) or "the server's own"
        print_line(f"  {item['serial']}  {item['status']}, to {item['not_after'][:10]}: {names}", stderr=stderr)
    if len(items) > _SHOWN:
        print_line(f"  and {len(items) - _SHOWN} more", stderr=stderr)


def _reason(blocked: dict[str, Any]) -> str:
    return str(blocked["why"] or f"keyCompromise of certificate {blocked['serial']}")


def _counted(items: list[Any]) -> str:
    return "1 certificate" if len(items) == 1 else f"{len(items)} certificates"
