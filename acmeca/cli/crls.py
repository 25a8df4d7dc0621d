"""CRLs: show them, publish new ones, and sign a root's where its key is."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from rich.text import Text

from acmeca.cli.connection import run_operation
from acmeca.cli.options import json_option, parse_seconds
from acmeca.cli.output import examples, print_json, print_line, print_pairs
from acmeca.cli.root_crl import renew_root_crl
from acmeca.config import format_duration
from acmeca.errors import AcmecaError
from acmeca.keystore.pem import write_durably
from acmeca.service.root_crls import LONGEST


@click.command(
    short_help="Show the CRLs, or publish new ones.",
    epilog=examples(
        "acmeca crl",
        "acmeca crl --publish",
        "acmeca crl --issuer 9vhAv9rRoogB6iiOl2kYOA --output issuing.crl",
        "acmeca crl --root-key /media/safe/root.key.pem",
    ),
)
@click.option("--issuer", help="One issuer's CRL, by the id in its URL.")
@click.option("--publish", is_flag=True, help="Make and publish a new one first.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Write it to a file (with --issuer)."
)
@click.option("--pem", is_flag=True, help="Write PEM instead of DER (with --output).")
@click.option(
    "--root-key",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Sign and publish a new CRL of the root whose key this is: unencrypted PEM of mode 0600.",
)
@click.option(
    "--next-update",
    callback=parse_seconds,
    metavar="DURATION",
    help=f"How long the root's CRL is good for (with --root-key). [default: {format_duration(LONGEST)}, which is the most]",
)
@click.option(
    "--clock-is-right",
    is_flag=True,
    help="The root's newest CRL is from a clock that was ahead; this machine's is right (with --root-key).",
)
@json_option
@click.pass_obj
def crl(
    config_path: Path | None,
    *,
    issuer: str | None,
    publish: bool,
    output: Path | None,
    pem: bool,
    root_key: Path | None,
    next_update: int | None,
    clock_is_right: bool,
    as_json: bool,
) -> None:
    """Show the CRLs: their numbers, how long they are good for, what they list; or publish new ones.

    A root's CRL is made where its key is. Once a year, bring the key back from its safe to where this command runs, give it by
    --root-key, and take it away again: this process reads it, the server never does.
    """
    if output is not None and issuer is None:
        raise click.UsageError("--output writes one CRL: say which with --issuer (acmeca crl lists them)")
    if pem and output is None:
        raise click.UsageError("--pem goes with --output")
    if output is not None and as_json:
        raise click.UsageError("--output and --json are two answers to one question; choose one")
    if root_key is not None:
        if publish or output is not None:
            raise click.UsageError(
                "--root-key publishes a root's CRL, and nothing else: leave --publish and --output out"
            )
        seconds = int(LONGEST.total_seconds()) if next_update is None else next_update
        published = renew_root_crl(
            config_path, root_key, issuer_id=issuer, seconds=seconds, clock_is_right=clock_is_right
        )
        _report_renewal(published, root_key, as_json=as_json)
        return
    if next_update is not None or clock_is_right:
        raise click.UsageError("--next-update and --clock-is-right go with --root-key")
    arguments: dict[str, object] = {"issuer": issuer, "publish": publish, "with_der": output is not None}
    result = run_operation(config_path, "crl", arguments)
    if as_json:
        print_json(result)
    elif output is not None:
        _write_crl(result["crls"][0], output, pem=pem)
    else:
        _print_crls(result["crls"])


def _report_renewal(item: dict[str, Any], key_path: Path, *, as_json: bool) -> None:
    if as_json:
        print_json(item)
        return
    print_line(
        "Published CRL ",
        (str(item["number"]), "bold"),
        f" of {item['issuer_name']}: {item['entries']} entries, good until {item['next_update']}.",
    )
    print_line(f"Now take the key back to its safe, and remove {key_path} from this machine: nothing here needs it.")


def _write_crl(item: dict[str, Any], output: Path, *, pem: bool) -> None:
    if item["number"] is None:
        raise AcmecaError(f"issuer {item['issuer']} has no CRL yet; make one with: acmeca crl --publish")
    der = bytes.fromhex(item["der"])
    data = x509.load_der_x509_crl(der).public_bytes(Encoding.PEM) if pem else der
    write_durably(output, data, mode=0o644)  # whole or not at all: a web server may be reading it
    print_line(f"{output}: CRL {item['number']} of {item['issuer_name']}")


def _print_crls(items: list[dict[str, Any]]) -> None:
    for position, item in enumerate(items):
        if position:
            click.echo()
        print_line((item["issuer_name"], "bold"))
        pairs: dict[str, str | Text] = {"issuer": item["issuer"], "url": item["url"]}
        if item["number"] is None:
            pairs["number"] = Text("none yet: the server makes the first one when it starts", "yellow")
        else:
            waiting = f", {item['pending']} more wait for the next one" if item["pending"] else ""
            pairs |= {
                "number": str(item["number"]),
                "entries": f"{item['entries']}{waiting}",
                "this update": item["this_update"],
                "next update": _next_update(item["next_update"]),
            }
        print_pairs(pairs, indent="  ")


def _next_update(moment: str) -> Text:
    if datetime.fromisoformat(moment) < datetime.now(UTC):
        return Text.assemble(moment, (" (over: careful clients accept nothing)", "bold red"))
    return Text(moment)
