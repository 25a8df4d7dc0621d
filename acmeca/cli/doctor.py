"""`acmeca doctor`: is all well with this CA, on this machine, and for those who use it from elsewhere?

Rule 1: nothing is changed: files are read, the database is opened for reading only, a key signs a text that is no certificate.
It works beside a running server, and with none.
Rule 2: it does not stop at what is wrong: each check says what it found, or why it could not look.
Rule 3: errors make the exit code 1, warnings do not, so that it can stand in a timer.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from acmeca.cli.checks import challenges, files, keys, network, resolvers, store
from acmeca.cli.checks.finding import Finding, Level, error
from acmeca.cli.output import examples, print_json, print_line
from acmeca.config import Config, ConfigError, find_config, load_config
from acmeca.errors import AcmecaError

_COLOURS: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "bold red"}


@click.command(
    short_help="Check configuration, keys, database, clock and URLs.",
    epilog=examples("acmeca doctor", "acmeca doctor --json | jq '.findings[] | select(.level != \"ok\")'"),
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")
@click.pass_obj
@click.pass_context
def doctor(context: click.Context, config_path: Path | None, *, as_json: bool) -> None:
    """Look at everything that a CA stands on, and say what is wrong and what to do about it.

    Configuration, challenge types, files and their modes, database and audit chain, keys and what ends soon, the server and its ports, clock,
    names and resolvers, what the URLs in certificates give, disk space. Nothing is changed. Run it as the server's user, with
    the server's environment, while the server is running. The exit code is 1 when there are errors.
    """
    findings = asyncio.run(_examine(config_path, datetime.now(UTC)))
    count = {level: sum(finding.level is level for finding in findings) for level in Level}
    if as_json:
        print_json(
            {
                "findings": [finding.to_json() for finding in findings],
                "errors": count[Level.ERROR],
                "warnings": count[Level.WARNING],
            }
        )
    else:
        for finding in findings:
            _print(finding)
        print_line(f"\n{count[Level.ERROR]} errors, {count[Level.WARNING]} warnings, {count[Level.OK]} ok")
    context.exit(1 if count[Level.ERROR] else 0)


def _print(finding: Finding) -> None:
    print_line((f"{finding.level:<7}", _COLOURS[finding.level]), "  ", (finding.about, "bold"), f": {finding.detail}")
    if finding.advice:
        print_line(f"{'':<9}-> {finding.advice}")


async def _examine(config_path: Path | None, now: datetime) -> list[Finding]:
    """Every finding, in the order in which things stand on each other. Without a configuration there is nothing to look at."""
    try:
        path = find_config(config_path)
        config = load_config(path)
    except ConfigError as failure:
        return [error(f"configuration {failure.source}", mistake, "Mend it") for mistake in failure.mistakes]
    findings = [*files.check_config_file(path), *files.check_data_dir(config)]
    if not files.is_readable_directory(config.server.data_dir):
        return findings
    try:
        state = await network.find_server(config)
        return findings + [finding async for finding in _examine_ca(config, state, now)]
    except AcmecaError as failure:
        return [*findings, error("server", str(failure), "Run doctor as the server's user")]
    except PermissionError as failure:
        return [
            *findings,
            error("server", f"{failure.filename}: {failure.strerror}", "Run doctor as the server's user"),
        ]


async def _examine_ca(config: Config, state: network.ServerState, now: datetime) -> AsyncIterator[Finding]:
    found, kept = await store.check_database(config)
    for finding in found:
        yield finding
    for about, check in (
        ("validation.challenges", challenges.check_challenges(config)),
        ("server", network.check_server(state)),
        ("last server", store.check_last_server(config, kept, is_running=state.is_locked)),
        ("issuer keys", keys.check_issuer_keys(config, kept, now)),
        ("audit key", keys.check_audit_key(config)),
        ("external account bindings", keys.check_eab_key(config, kept)),
        ("own certificates", keys.check_own_certificates(config, kept, now, is_running=state.answers)),
        ("CRLs", keys.check_crls(config, kept, now, is_running=state.answers)),
        ("clock", network.check_clock(now)),
        ("clock", store.check_record_times(kept, now)),
        ("server.status_url", network.check_fixed_urls(config, kept)),
        ("disk space", files.check_disk(config)),
    ):
        try:
            for finding in check:
                yield finding
        except AcmecaError as failure:  # a certificate in the database that is none
            yield error(about, str(failure), "Restore a backup")
    for remote in (
        network.check_listeners(config, kept, state),
        network.check_names(config),
        resolvers.check_resolvers(config),
        resolvers.check_caa(config),
        network.check_urls(config, kept, now, is_running=state.answers),
    ):
        try:
            async for finding in remote:
                yield finding
        except AcmecaError as failure:
            yield error("URLs and listeners", str(failure), "Restore a backup")
