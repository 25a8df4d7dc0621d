"""The group of verbs, and what they share: where the configuration is, and how a failure is told.

Rule 1: a failure with a message is one line on stderr and exit 1 (a configuration's mistakes are a line each); a wrong use of the
command line is exit 2; Ctrl-C is quiet and exit 130, as shells have it.
Rule 2: what nobody foresaw is a traceback: it is a bug, and is to be reported with it.
"""

import os
import sys
from pathlib import Path

import click

from acmeca import __version__
from acmeca.cli.audit import audit
from acmeca.cli.backup import backup, restore_command
from acmeca.cli.certificates import list_certificates, revoke, show
from acmeca.cli.crls import crl
from acmeca.cli.doctor import doctor
from acmeca.cli.eab import eab
from acmeca.cli.init import init
from acmeca.cli.journal import journal
from acmeca.cli.keys import keys
from acmeca.cli.limits import limits
from acmeca.cli.output import examples, print_failure
from acmeca.cli.profiles import profiles
from acmeca.cli.renewal import renewal
from acmeca.cli.serve import serve
from acmeca.cli.storage import storage
from acmeca.errors import AcmecaError

_INTERRUPTED = 128 + 2  # SIGINT


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "acmeca init                                         a new CA",
        "acmeca serve                                        run it",
        "acmeca doctor                                       is all well?",
        "acmeca list --name '*.db.corp.internal'             find a certificate",
        "acmeca revoke SERIAL --reason keyCompromise         revoke one",
        "acmeca renewal set --name '*.corp.internal'         have certificates replaced early",
        "acmeca eab create --owner team-a …                  let somebody make accounts",
        "acmeca backup FILE                                  keep what it knows elsewhere",
        "acmeca audit verify                                 was the audit touched?",
    ),
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
    lets you find and revoke a certificate. Every verb works with a running server (over its socket in the data directory) and
    with a stopped one; acmeca VERB --help shows examples.
    """
    context.obj = config_path


for _verb in (
    init,
    serve,
    doctor,
    list_certificates,
    show,
    revoke,
    profiles,
    renewal,
    crl,
    eab,
    backup,
    restore_command,
    journal,
    audit,
    keys,
    limits,
    storage,
):
    cli.add_command(_verb)


def main() -> None:
    """The entry point. Never returns."""
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        code = cli.main(arguments, prog_name="acmeca", standalone_mode=False)
        sys.stdout.flush()
    except (click.ClickException, click.Abort, KeyboardInterrupt, AcmecaError, OSError) as error:
        return _tell(error)
    return code if isinstance(code, int) else 0


def _tell(error: BaseException) -> int:
    """Say what is to be said of a failure; returns the exit code. What nobody foresaw is raised again."""
    match error:
        case click.ClickException():
            error.show()
            return error.exit_code
        case click.Abort() | KeyboardInterrupt():
            click.echo(err=True)
            return _INTERRUPTED
        case AcmecaError():
            print_failure(str(error))
        case BrokenPipeError():  # `acmeca list | head`: nobody reads on, which is no failure of ours
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        case PermissionError(filename=str(name)):
            print_failure(f"{name}: {error.strerror}; run this as the user that the server runs as")
        case OSError(filename=str(name)):
            print_failure(f"{name}: {error.strerror}")
        case _:
            raise error
    return 1
