"""Certificates: list, show, revoke."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from rich.text import Text

from acmeca.cli.connection import run_operation
from acmeca.cli.options import json_option, parse_seconds
from acmeca.cli.output import examples, print_json, print_line, print_pairs, print_table
from acmeca.cli.renewal import renewal_pairs
from acmeca.errors import AcmecaError
from acmeca.service.administration import REASONS
from acmeca.storage.certificates import CertificateStatus

_COLOURS: Final = {"valid": "green", "revoked": "red", "expired": "dim", "unsigned": "yellow"}
_SERVER_PROFILE: Final = "server"


@click.command(
    "list",
    short_help="Find certificates.",
    epilog=examples(
        "acmeca list --name db1.corp.internal",
        "acmeca list --name '*.corp.internal' --status valid",
        "acmeca list --expires-within 30d",
        "acmeca list --json --limit 10000 | jq -r '.certificates[].serial'",
    ),
)
@click.option("--name", help="An exact name, or '*.suffix' for everything below it.")
@click.option("--status", type=click.Choice([status.value for status in CertificateStatus]))
@click.option(
    "--expires-within",
    callback=parse_seconds,
    metavar="DURATION",
    help="Ends within this time, like 30d or 12h. Valid ones, unless --status says otherwise.",
)
@click.option("--grant", metavar="KID", help="Issued to the accounts of this grant (acmeca eab list).")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000))
@json_option
@click.pass_obj
def list_certificates(
    config_path: Path | None,
    *,
    name: str | None,
    grant: str | None,
    status: str | None,
    expires_within: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """List certificates, the newest first.

    In a pipe, each is one line that begins with its serial.
    """
    result = run_operation(
        config_path,
        "list",
        {"name": name, "grant": grant, "status": status, "expires_within": expires_within, "limit": limit},
    )
    if as_json:
        print_json(result)
        return
    if not result["certificates"]:
        print_line("No certificate fits.", stderr=True)
        return
    print_certificates(result["certificates"])
    if result["is_cut"]:
        print_line(f"More than {limit} fit; narrow the search or raise --limit.", stderr=True)


def print_certificates(certificates: Sequence[dict[str, Any]]) -> None:
    """A table of certificates, as `list` answers them."""
    print_table(
        ("serial", "status", "expires", "days", "names"),
        [
            (
                Text(item["serial"]),
                _coloured(item["status"]),
                Text(item["not_after"][:10]),
                _days_left(item),
                _names(item),
            )
            for item in certificates
        ],
    )


@click.command(
    short_help="Show a certificate: names, issuer, status.",
    epilog=examples(
        "acmeca show 0139389270d3818df3300661cbf43fcee7",
        "acmeca show 01:39:38:92:70:D3:81:8D:F3:30:06:61:CB:F4:3F:CE:E7",
        "acmeca show 0139389270d3818df3300661cbf43fcee7 --pem | openssl x509 -noout -text",
    ),
)
@click.argument("serial")
@click.option("--pem", is_flag=True, help="Print the certificate itself, as PEM, and nothing else.")
@json_option
@click.pass_obj
def show(config_path: Path | None, *, serial: str, pem: bool, as_json: bool) -> None:
    """Show a certificate: who has it, who signed it, whether it was revoked.

    SERIAL is hex with or without colons, as openssl and browsers print it, or decimal.
    """
    if pem and as_json:
        raise click.UsageError("--pem and --json are two answers to one question; choose one")
    result = run_operation(config_path, "show", {"serial": serial})
    if as_json:
        print_json(result)
    elif pem:
        if result["pem"] is None:
            raise AcmecaError(f"{result['serial']} was recorded and never signed: there is no certificate to print")
        click.echo(result["pem"], nl=False)
    else:
        _print_certificate(result)


@click.command(
    short_help="Revoke a certificate, for good.",
    epilog=examples(
        "acmeca revoke 0139389270d3818df3300661cbf43fcee7 --reason superseded",
        "acmeca revoke 0139389270d3818df3300661cbf43fcee7 --reason keyCompromise --yes",
    ),
)
@click.argument("serial")
@click.option(
    "--reason",
    type=click.Choice(list(REASONS), case_sensitive=False),
    default="unspecified",
    show_default=True,
    metavar="REASON",
    help=f"One of {', '.join(REASONS)}.",
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def revoke(config_path: Path | None, *, serial: str, reason: str, yes: bool, as_json: bool) -> None:
    """Revoke a certificate, for good: OCSP and the CRL tell of it at once.

    SERIAL is hex with or without colons, as openssl and browsers print it, or decimal. keyCompromise blocks the key as well,
    so that no certificate is issued for it again; it is the one reason that may be given to a certificate that is revoked
    already.
    """
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("nobody is here to ask whether to revoke it: add --yes when you are sure")
    certificate = run_operation(config_path, "show", {"serial": serial})
    if not yes:
        _print_certificate(certificate, stderr=True)
        if not click.confirm(f"Revoke it ({reason})? This cannot be undone", err=True):
            raise AcmecaError("nothing was revoked")
    # The serial of what was shown, in the one form that means nothing else.
    result = run_operation(config_path, "revoke", {"serial": f"0x{certificate['serial']}", "reason": reason})
    if as_json:
        print_json(result)
        return
    print_line(
        "Revoked ",
        (result["serial"], "bold"),
        f" ({', '.join(_names(result))}) at {result['revoked_at']}, {result['reason']}.",
    )
    if result["crl_number"] is None:
        print_line(
            ("OCSP says so from now on. The CRL could not be made now: ", "yellow"),
            "the server tries again, see its log; acmeca crl shows when it is done.",
            stderr=True,
        )
    else:
        print_line(f"OCSP says so from now on, and CRL {result['crl_number']} lists it.")


def _print_certificate(item: dict[str, Any], *, stderr: bool = False) -> None:
    revoked = "" if item["revoked_at"] is None else f" at {item['revoked_at']}, {item['reason']}"
    pairs: dict[str, str | Text] = {
        "serial": item["serial"],
        "status": Text.assemble(_coloured(item["status"]), revoked),
        "names": ", ".join(item["names"]) or "-",
        "subject": item["subject"] or "-",
        "valid": f"{item['not_before']} to {item['not_after']}",
        "profile": item["profile"],
        "account": item["account"] or "none: the server's own",
        "contact": ", ".join(item["contact"]) or "-",
        "grant": "-" if item["grant"] is None else f"{item['grant']} ({item['owner']})",
        "order": item["order"] or "-",
        "recorded": item["recorded_at"],
        "issued": item["issued_at"] or "never signed",
        **renewal_pairs(item),
        "issuer": item.get("issuer_name", "-"),
        "issuer certificate": item.get("issuer_url", "-"),
        "OCSP": item.get("ocsp_url", "-"),
        "CRL": item.get("crl_url", "-"),
        "SHA-256": item["sha256_fingerprint"] or "-",
        "key SHA-256": item["spki_sha256"],
    }
    print_pairs(pairs, stderr=stderr)


def _coloured(status: str) -> Text:
    return Text(status, _COLOURS[status])


def _names(item: dict[str, Any]) -> list[str]:
    """What a certificate is for: its names, and its profile where that is another than most have."""
    own = "" if item["profile"] == _SERVER_PROFILE else f"({item['profile']})"
    return [*item["names"][:-1], f"{item['names'][-1]} {own}".rstrip()] if item["names"] else [own or "-"]


def _days_left(item: dict[str, Any]) -> Text:
    """Whole days until it ends; `-` when it has ended."""
    days = (datetime.fromisoformat(item["not_after"]) - datetime.now(UTC)).days
    return Text(f"{days:>4}" if days >= 0 else "   -")
