"""`acmeca serve`."""

import asyncio
import logging
import shlex
import sys
from pathlib import Path

import click
import uvloop

from acmeca import app
from acmeca.audit import SYSTEM
from acmeca.cli.connection import PATIENCE, TURN, is_answered
from acmeca.cli.init import require_vacant
from acmeca.cli.output import examples, print_line, print_pairs
from acmeca.config import Config, find_config, load_config
from acmeca.errors import AcmecaError, Conflict
from acmeca.service.issuers import fingerprint
from acmeca.storage.errors import LockedError
from acmeca.web.control import SOCKET_NAME

log = logging.getLogger(__name__)

_HTTP_PORT = 80  # RFC 8555 §8.3; certbot needs no option for it


@click.command(
    short_help="Run the server.", epilog=examples("acmeca serve", "acmeca --config conf/demo.toml serve --init")
)
@click.option("--init", "make_ca", is_flag=True, help="Make a CA first when there is none (for demos and containers).")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.pass_obj
def serve(config_path: Path | None, *, make_ca: bool, log_level: str) -> None:
    """Serve ACME, OCSP, CRLs and the front page until Ctrl-C or SIGTERM; requests in flight are finished.

    The log goes to stderr.
    """
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    path = find_config(config_path)
    config = load_config(path)
    uvloop.run(_serve(config, make_ca=make_ca and _is_vacant(config, path)))


def _is_vacant(config: Config, path: Path) -> bool:
    """Whether a CA is to be made: there is none. Raises `AcmecaError` where none can be."""
    try:
        require_vacant(config, beside=(path,))
    except Conflict:
        return False
    # On a database server another host may have made one.
    return config.database_path is not None or not asyncio.run(app.holds_ca(config))


async def _serve(config: Config, *, make_ca: bool) -> None:
    if make_ca:
        hierarchy = await app.init(config, actor=SYSTEM)
        print_line(f"Made a new CA in {config.server.data_dir}; its root's key is {hierarchy.root_key_path}")
    elif not app.is_database_there(config):
        raise AcmecaError(f"there is no CA in {config.server.data_dir}; make one with: acmeca init")
    await _serve_when_unlocked(config)
    print_line("Stopped.")


async def _serve_when_unlocked(config: Config) -> None:
    """Serve, and wait for a command that happens to have the lock at the start; another server is not waited for."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            await app.serve(config, on_ready=_announce)
        except LockedError as error:
            is_server = await is_answered(config.server.data_dir / SOCKET_NAME)
            if is_server or asyncio.get_running_loop().time() > deadline:
                raise
            log.debug("waiting: %s", error)
            await asyncio.sleep(TURN)
        else:
            return


def _announce(ca: app.Opened) -> None:
    """What a person needs next, in a form to copy."""
    config, urls = ca.config, ca.services.urls
    root = app.root_path(config)
    if config.server.demo:
        print_line(
            ("This is a demo:", "bold yellow"),
            " anybody on this machine can have a certificate for "
            f"{', '.join(config.policy.allowed_names)} (policy.allowed_names).",
        )
    print_pairs({"Directory": urls.directory, "Front page": f"{urls.status}/", "Root": str(root)})
    for stored in ca.services.issuers.roots:
        print_pairs({f"{'SHA-256':<10}": fingerprint(stored.issuer.certificate_der)})
    print_line("\nA first certificate, from another terminal:\n")
    print_line(f"  {_certbot(ca, root)}\n")
    print_line("Ready. Ctrl-C stops. To look after it: acmeca list, show, revoke, crl, doctor.")
    sys.stdout.flush()


def _certbot(ca: app.Opened, root: Path) -> str:
    """A command for a shell that fetches a certificate."""
    config = ca.config
    work = config.server.data_dir / "certbot"
    port = config.validation.http_port
    command = [
        *("certbot", "certonly", "--standalone"),
        *(() if port == _HTTP_PORT else ("--http-01-port", str(port))),
        *("--config-dir", f"{work}/config", "--work-dir", f"{work}/work", "--logs-dir", f"{work}/logs"),
        *("--server", ca.services.urls.directory, "--agree-tos", "--register-unsafely-without-email"),
        *("-d", app.front_page_model(ca).example_name),
    ]
    return f"REQUESTS_CA_BUNDLE={shlex.quote(str(root))} {shlex.join(command)}"
