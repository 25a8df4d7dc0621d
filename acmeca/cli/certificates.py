"""Certificates: list, show, revoke; and the CRLs that tell of them."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from acmeca.cli.connection import connected, load
from acmeca.config import parse_duration
from acmeca.service.administration import REASONS, Json
from acmeca.storage.certificates import CertificateStatus

_COLOURS = {"valid": "green", "revoked": "red", "expired": "dim", "unsigned": "yellow"}


def _call(config_path: Path | None, operation: str, arguments: Json) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        async with connected(load(config_path)) as connection:
            return await connection.call(operation, arguments)

    return asyncio.run(run())


def _duration(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    try:
        return int(parse_duration(value).total_seconds())
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command("list")
@click.option("--name", help="An exact name, or '*.suffix' for everything below it.")
@click.option("--status", type=click.Choice([status.value for status in CertificateStatus]))
@click.option(
    "--expires-within", callback=_duration, metavar="DURATION", help="Ends within this time, like 30d or 12h."
)
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@click.pass_obj
def list_certificates(
    config_path: Path | None,
    name: str | None,
    status: str | None,
    expires_within: int | None,
    limit: int,
    as_json: bool,  # noqa: FBT001  (click passes by keyword)
) -> None:
    """List certificates, the newest first.

    \b
    acmeca list --name db1.corp.internal
    acmeca list --name '*.corp.internal' --status valid --expires-within 30d
    """
    result = _call(
        config_path, "list", {"name": name, "status": status, "expires_within": expires_within, "limit": limit}
    )
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("serial", "status", "names", "expires", "profile"):
        table.add_column(heading, overflow="fold", no_wrap=heading in {"status", "expires"})
    for item in result["certificates"]:
        table.add_row(
            item["serial"],
            _coloured(item["status"]),
            "\n".join(map(escape, item["names"])) or "-",
            _until(item),
            item["profile"],
        )
    console = Console(soft_wrap=False)
    if result["certificates"]:
        console.print(table)
    else:
        console.print("No certificate fits.")
    if result["is_cut"]:
        console.print(f"[dim]More than {limit} fit; narrow the search or raise --limit.[/]")


@click.command()
@click.argument("serial")
@click.option("--pem", is_flag=True, help="Print the certificate itself, as PEM, and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@click.pass_obj
def show(config_path: Path | None, serial: str, pem: bool, as_json: bool) -> None:  # noqa: FBT001
    """Show a certificate: who has it, who signed it, whether it was revoked.

    SERIAL is hex with or without colons, as openssl prints it, or decimal.
    """
    result = _call(config_path, "show", {"serial": serial})
    if as_json:
        click.echo(json.dumps(result, indent=2))
    elif pem:
        click.echo(result.get("pem", ""), nl=False)
    else:
        _print_certificate(result)


@click.command()
@click.argument("serial")
@click.option(
    "--reason", type=click.Choice(list(REASONS), case_sensitive=False), default="unspecified", show_default=True
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.pass_obj
def revoke(config_path: Path | None, serial: str, reason: str, yes: bool) -> None:  # noqa: FBT001
    """Revoke a certificate, for good: OCSP and the CRL tell of it at once.

    SERIAL is hex with or without colons, as openssl prints it, or decimal. keyCompromise blocks the key as well, so that
    no certificate is issued for it again.
    """
    certificate = _call(config_path, "show", {"serial": serial})
    console = Console()
    if not yes:
        _print_certificate(certificate)
        click.confirm(f"Revoke it ({reason})? This cannot be undone", abort=True)
    result = _call(config_path, "revoke", {"serial": f"0x{certificate['serial']}", "reason": reason})
    console.print(
        f"Revoked [bold]{result['serial']}[/] ({escape(', '.join(result['names']) or result['profile'])}) at "
        f"{result['revoked_at']}: OCSP says so now, and CRL {result['crl_number']} lists it."
    )


@click.command()
@click.option("--issuer", help="One issuer's CRL, by the id in its URL.")
@click.option("--publish", is_flag=True, help="Make and publish a new one first.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Write it to a file (with --issuer)."
)
@click.option("--pem", is_flag=True, help="Write PEM instead of DER.")
@click.pass_obj
def crl(config_path: Path | None, issuer: str | None, publish: bool, output: Path | None, pem: bool) -> None:  # noqa: FBT001
    """Show the CRLs: their numbers, how long they are good for, what they list; or publish new ones."""
    if output is not None and issuer is None:
        raise click.UsageError("--output writes one CRL: say which with --issuer (acmeca crl lists them)")
    result = _call(config_path, "crl", {"issuer": issuer, "publish": publish})
    if output is not None:
        der = bytes.fromhex(result["crls"][0]["der"])
        output.write_bytes(_to_pem(der) if pem else der)
        click.echo(f"{output}: CRL {result['crls'][0]['number']}")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("issuer", "number", "entries", "waiting", "this update", "next update", "url"):
        table.add_column(heading, overflow="fold")
    for item in result["crls"]:
        table.add_row(
            escape(item["issuer_name"]),
            str(item["number"]),
            str(item["entries"]),
            str(item["pending"]),
            item["this_update"],
            item["next_update"],
            item["url"],
        )
    Console().print(table)


def _print_certificate(item: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    revoked = "" if item["revoked_at"] is None else f" at {item['revoked_at']}, {item['reason']}"
    rows = {
        "serial": item["serial"],
        "status": _coloured(item["status"]) + revoked,
        "names": escape(", ".join(item["names"])) or "-",
        "valid": f"{item['not_before']} to {item['not_after']}",
        "profile": item["profile"],
        "issuer": escape(item.get("issuer_name", "-")),
        "account": item["account"] or "the server itself",
        "contact": escape(", ".join(item["contact"])) or "-",
        "issued": item["recorded_at"],
        "SHA-256": item.get("sha256_fingerprint", "not signed"),
        "key SHA-256": item["spki_sha256"],
    }
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)


def _coloured(status: str) -> str:
    return f"[{_COLOURS[status]}]{status}[/]"


def _until(item: dict[str, Any]) -> str:
    end = datetime.fromisoformat(item["not_after"])
    days = (end - datetime.now(UTC)).days
    return f"{end:%Y-%m-%d} ({days} d)" if days >= 0 else f"{end:%Y-%m-%d}"


def _to_pem(der: bytes) -> bytes:
    return x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)
