"""`acmeca serve`."""

import asyncio
import logging
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import click
import uvloop

from acmeca import app
from acmeca.audit import SYSTEM
from acmeca.cli.connection import PATIENCE, TURN, is_answered
from acmeca.cli.init import require_vacant
from acmeca.cli.output import examples, print_failure, print_line, print_pairs
from acmeca.cli.workers import supervise, work
from acmeca.config import Config, find_config, parse_config, read_config
from acmeca.config.values import MAX_WORKERS, parse_workers
from acmeca.errors import AcmecaError, Conflict
from acmeca.service.issuers import fingerprint
from acmeca.storage.errors import FencedError, LockedError, WorkersLeftError
from acmeca.web.control import SOCKET_NAME
from acmeca.web.front_page import example_name
from acmeca.workers.lifeline import EXIT_FENCED
from acmeca.workers.seat import Seat

log = logging.getLogger(__name__)

_HTTP_PORT: Final = 80  # RFC 8555 §8.3; certbot needs no option for it
_WORKERS_PATIENCE: Final = 15.0  # seconds for the workers of a killed server, which end within twelve
_LOG: Final = "%(asctime)s %(levelname)s {}%(name)s: %(message)s"


def _parse_workers(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_workers(int(text))
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is none. Write a whole number from 1 to {MAX_WORKERS}; as many as the machine has cores is a good one"
        ) from None


@click.command(
    short_help="Run the server.",
    epilog=examples("acmeca serve", "acmeca serve --workers 4", "acmeca --config conf/demo.toml serve --init"),
)
@click.option("--init", "make_ca", is_flag=True, help="Make a CA first when there is none (for demos and containers).")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.option(
    "--workers",
    metavar="NUMBER",
    callback=_parse_workers,
    help="How many processes share the work. Default: server.workers of the configuration, which is 1 if not set.",
)
@click.option("--worker", "seat", hidden=True)
@click.pass_context
def serve(context: click.Context, *, make_ca: bool, log_level: str, workers: int | None, seat: str | None) -> None:
    """Serve ACME, OCSP, CRLs and the front page until Ctrl-C or SIGTERM; requests in flight are finished.

    The log goes to stderr. With several workers, SIGHUP replaces one after another, with the configuration read afresh.
    """
    path = find_config(context.obj)
    if seat is not None:
        context.exit(_work(path, Seat.from_json(seat), log_level=log_level))
    logging.basicConfig(level=log_level.upper(), format=_LOG.format(""))
    text = read_config(path)
    config = parse_config(text, path)
    count = config.server.workers if workers is None else workers
    make_ca = make_ca and _is_vacant(config, path)
    if count == 1:
        uvloop.run(_serve(config, _alone(config), make_ca=make_ca))
    else:
        asyncio.run(
            _serve(config, _supervised(config, path, text, workers=count, log_level=log_level), make_ca=make_ca)
        )


def _work(path: Path, seat: Seat, *, log_level: str) -> int:
    """Be a worker; returns the exit code."""
    logging.basicConfig(level=log_level.upper(), format=_LOG.format(f"worker {seat.slot} "))
    try:
        work(path, seat)
    except FencedError as error:
        print_failure(f"worker {seat.slot}: {error}")
        return EXIT_FENCED
    return 0


def _is_vacant(config: Config, path: Path) -> bool:
    """Whether a CA is to be made: there is none. Raises `AcmecaError` where none can be."""
    try:
        require_vacant(config, beside=(path,))
    except Conflict:
        return False
    # On a database server another host may have made one.
    return config.database_path is not None or not asyncio.run(app.holds_ca(config))


Serving = Callable[[], Awaitable[None]]


def _alone(config: Config) -> Serving:
    """One process does it all."""

    async def serve_alone() -> None:
        if not sys.stdin.isatty():  # a terminal that is closed ends what runs in it, by SIGHUP too
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _cannot_reload)
        await app.serve(config, on_ready=lambda ca: _announce(config, _roots(ca)))

    return serve_alone


def _cannot_reload() -> None:
    log.warning("a single process cannot reload: restart it, or run it with --workers 2 or more")


def _roots(ca: app.Opened) -> list[bytes]:
    return [stored.issuer.certificate_der for stored in ca.services.issuers.roots]


def _supervised(config: Config, path: Path, text: str, *, workers: int, log_level: str) -> Serving:
    """A supervisor and its workers do it."""
    options = ("--log-level", log_level)
    return lambda: supervise(config, path, text, workers=workers, options=options, announce=_announce)


async def _serve(config: Config, serving: Serving, *, make_ca: bool) -> None:
    if make_ca:
        hierarchy = await app.init(config, actor=SYSTEM)
        print_line(f"Made a new CA in {config.server.data_dir}; its root's key is {hierarchy.root_key_path}")
    elif not app.is_database_there(config):
        raise AcmecaError(f"there is no CA in {config.server.data_dir}; make one with: acmeca init")
    await _serve_when_unlocked(config, serving)
    print_line("Stopped.")


async def _serve_when_unlocked(config: Config, serving: Serving) -> None:
    """Serve, and wait for a command that happens to have the lock at the start; another server is not waited for.

    The workers of one that was killed are.
    """
    began = asyncio.get_running_loop().time()
    while True:
        try:
            await serving()
        except LockedError as error:
            waited = asyncio.get_running_loop().time() - began
            if isinstance(error, WorkersLeftError):
                if waited > _WORKERS_PATIENCE:
                    raise
            elif waited > PATIENCE or await is_answered(config.server.data_dir / SOCKET_NAME):
                raise
            log.debug("waiting: %s", error)
            await asyncio.sleep(TURN)
        else:
            return


def _announce(config: Config, roots: Sequence[bytes]) -> None:
    """What a person needs next, in a form to copy. `roots` are certificates in DER."""
    urls = config.urls
    root = app.root_path(config)
    if config.server.demo:
        print_line(
            ("This is a demo:", "bold yellow"),
            " anybody on this machine can have a certificate for "
            f"{', '.join(config.policy.allowed_names)} (policy.allowed_names).",
        )
    print_pairs({"Directory": urls.directory, "Front page": f"{urls.status}/", "Root": str(root)})
    for certificate in roots:
        print_pairs({f"{'SHA-256':<10}": fingerprint(certificate)})
    print_line("\nA first certificate, from another terminal:\n")
    print_line(f"  {_certbot(config, root)}\n")
    print_line("Ready. Ctrl-C stops. To look after it: acmeca list, show, revoke, crl, doctor.")
    sys.stdout.flush()


def _certbot(config: Config, root: Path) -> str:
    """A command for a shell that fetches a certificate."""
    work = config.server.data_dir / "certbot"
    port = config.validation.http_port
    command = [
        *("certbot", "certonly", "--standalone"),
        *(() if port == _HTTP_PORT else ("--http-01-port", str(port))),
        *("--config-dir", f"{work}/config", "--work-dir", f"{work}/work", "--logs-dir", f"{work}/logs"),
        *("--server", config.urls.directory, "--agree-tos", "--register-unsafely-without-email"),
        *("-d", example_name(config.policy.allowed_names)),
    ]
    return f"REQUESTS_CA_BUNDLE={shlex.quote(str(root))} {shlex.join(command)}"
