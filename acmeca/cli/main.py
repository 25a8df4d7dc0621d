"""The group of verbs, and what they share: where the configuration is, and how a failure is told."""

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from acmeca import __version__
from acmeca.cli.certificates import crl, list_certificates, revoke, show
from acmeca.cli.init import init
from acmeca.cli.serve import serve
from acmeca.errors import AcmecaError


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every verb works with a running server (over its socket in the data directory) and with a stopped one.",
)
@click.option(
    "--config",
    "-c",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The configuration. Default: $ACMECA_CONFIG, ./acmeca.toml, /etc/acmeca/acmeca.toml.",
)
@click.version_option(__version__, prog_name="acmeca")
@click.pass_context
def cli(context: click.Context, config_path: Path | None) -> None:
    """acmeca: an internal certificate authority.

    It speaks ACME (RFC 8555) to certbot, lego, acme.sh, Caddy, cert-manager and others, answers OCSP, publishes CRLs, and
    lets you find and revoke a certificate.

    \b
    A new CA:     acmeca init
    Run it:       acmeca serve
    Find:         acmeca list --name '*.db.corp.internal'
    Revoke:       acmeca revoke SERIAL --reason keyCompromise
    """
    context.obj = config_path


for _verb in (init, serve, list_certificates, show, revoke, crl):
    cli.add_command(_verb)


def main() -> None:
    """The entry point: a failure with a message is one line on stderr, and exit 1."""
    try:
        cli(prog_name="acmeca")
    except AcmecaError as error:
        Console(stderr=True, soft_wrap=True).print("[bold red]acmeca:[/]", escape(str(error)), highlight=False)
        sys.exit(1)
