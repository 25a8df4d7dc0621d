"""`acmeca serve`."""

import asyncio
import logging
import sys
from pathlib import Path

import click
import uvloop
from rich.console import Console

from acmeca import app
from acmeca.cli.connection import load
from acmeca.config import Config
from acmeca.errors import AcmecaError, Conflict
from acmeca.service.issuers import fingerprint


@click.command()
@click.option("--init", "make_ca", is_flag=True, help="Make a CA first when there is none (for demos and containers).")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.pass_obj
def serve(config_path: Path | None, make_ca: bool, log_level: str) -> None:  # noqa: FBT001  (click passes by keyword)
    """Serve ACME, OCSP, CRLs and the front page until Ctrl-C or SIGTERM; requests in flight are finished."""
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    config = load(config_path)
    uvloop.run(_serve(config, make_ca=make_ca))


async def _serve(config: Config, *, make_ca: bool) -> None:
    if make_ca:
        try:
            hierarchy = await app.init(config, actor="system")
        except Conflict:
            pass  # there is one: nothing was changed
        else:
            click.echo(f"Made a new CA in {config.server.data_dir}; its root's key is {hierarchy.root_key_path}")
    elif not config.database_path.exists():
        raise AcmecaError(f"there is no CA in {config.server.data_dir}; make one with: acmeca init")
    await app.serve(config, on_ready=_announce)
    click.echo("Stopped.")


def _announce(ca: app.Opened) -> None:
    """What a person needs next, in a form to copy."""
    config, urls = ca.config, ca.services.urls
    root = app.root_path(config)
    work = config.server.data_dir / "certbot"
    console = Console(soft_wrap=True, highlight=False)
    if config.server.demo:
        console.print(
            "[bold yellow]This is a demo:[/] anybody on this machine can have a certificate for "
            f"{', '.join(config.policy.allowed_names)} (policy.allowed_names)."
        )
    console.print(f"[bold]Directory[/]   {urls.directory}")
    console.print(f"[bold]Front page[/]  {urls.status}/")
    console.print(f"[bold]Root[/]        {root}")
    for stored in ca.services.issuers.roots:
        console.print(f"[bold]SHA-256[/]     {fingerprint(stored.issuer.certificate_der)}")
    port = config.validation.http_port
    challenge = "" if port == 80 else f" --http-01-port {port}"  # noqa: PLR2004
    console.print("\nA first certificate, from another terminal:\n")
    console.print(
        f"  REQUESTS_CA_BUNDLE={root} certbot certonly --standalone{challenge}"
        f" --config-dir {work}/config --work-dir {work}/work --logs-dir {work}/logs"
        f" --server {urls.directory} --agree-tos --register-unsafely-without-email"
        f" -d {app.front_page_model(ca).example_name}\n"
    )
    console.print("Ready. Ctrl-C stops. To look after it: acmeca list, show, revoke, crl, doctor.")
    sys.stdout.flush()
