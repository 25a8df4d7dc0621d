"""`acmeca init`: a configuration, where there is none, and a CA."""

import asyncio
import getpass
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import tomlkit
from rich.console import Console

from acmeca import app
from acmeca.audit import admin_actor
from acmeca.config import SEARCH_PATH, Config, environment_name, parse_config
from acmeca.keystore.pem import write_durably
from acmeca.service.issuers import Hierarchy, fingerprint

_HEADER: Final = (
    "acmeca's configuration. Every key is documented in the conf/acmeca.toml that comes with it; what is not here has its "
    "default."
)


@dataclass(frozen=True, slots=True)
class _Question:
    """A key without a default: what to ask for it, and the option that answers without asking."""

    section: str
    key: str
    option: str
    text: str
    is_list: bool = False


_QUESTIONS: Final = (
    _Question(
        "server",
        "base_url",
        "--base-url",
        "ACME clients reach this server at (https URL, like https://ca.corp.internal:8443)",
    ),
    _Question(
        "server",
        "status_url",
        "--status-url",
        "OCSP and CRLs are at (plain http URL; it goes into every certificate, so it has to stay)",
    ),
    _Question(
        "policy",
        "allowed_names",
        "--allow",
        "Names to issue for, separated by spaces (like *.corp.internal)",
        is_list=True,
    ),
)


@click.command()
@click.option("--base-url", help="The URL that ACME clients will use, like https://ca.corp.internal:8443.")
@click.option("--status-url", help="The plain http URL for OCSP and CRLs; it goes into every certificate.")
@click.option("--allow", multiple=True, metavar="NAME", help="A name to issue for, like '*.corp.internal'. Repeatable.")
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Where keys and database go.")
@click.option("--organization", help="The O= of the new CA.")
@click.option("--common-name", help="The CN= of the new CA; ' Root' and ' Intermediate' are added.")
@click.pass_obj
def init(
    config_path: Path | None,
    base_url: str | None,
    status_url: str | None,
    allow: tuple[str, ...],
    data_dir: Path | None,
    organization: str | None,
    common_name: str | None,
) -> None:
    """Make a new CA: a root, its CRL of 13 months, and the intermediate that will sign, all ECDSA P-256.

    Asks for what the configuration does not say, and writes it down there; a configuration that does not exist is made.
    An existing CA is never touched.
    """
    path = config_path or _existing_or_new()
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    given: dict[tuple[str, str], str | list[str] | None] = {
        ("server", "base_url"): base_url,
        ("server", "status_url"): status_url,
        ("server", "data_dir"): None if data_dir is None else str(data_dir.absolute()),
        ("ca", "organization"): organization,
        ("ca", "common_name"): common_name,
        ("policy", "allowed_names"): list(allow) or None,
    }
    text = _completed(before, given, os.environ)
    config = parse_config(text, path)  # what is wrong is said before anything is written
    if text != before:
        write_durably(path, text.encode(), mode=0o644)
        click.echo(f"Wrote {path}")
    hierarchy = asyncio.run(app.init(config, actor=admin_actor(getpass.getuser())))
    _report(config, hierarchy, path)


def _existing_or_new() -> Path:
    return next((path for path in SEARCH_PATH if path.is_file()), SEARCH_PATH[0])


def _completed(
    before: str, given: Mapping[tuple[str, str], str | list[str] | None], environment: Mapping[str, str]
) -> str:
    """The configuration's text with what was given as options, and with an answer to each question left open."""
    document = tomlkit.parse(before)
    if not before:
        document.add(tomlkit.comment(_HEADER))
    values = {place: value for place, value in given.items() if value is not None}
    for question in _QUESTIONS:
        place = (question.section, question.key)
        if place in values or environment_name(*place) in environment:
            continue
        if question.key not in document.get(question.section, {}):
            values[place] = _ask(question)
    for (section, key), value in values.items():
        if section not in document:
            document.add(section, tomlkit.table())
        table = document[section]
        table[key] = value  # a section that is no table is parse_config's to report
    return tomlkit.dumps(document)


def _ask(question: _Question) -> str | list[str]:
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question.section}.{question.key} is not configured: give it with {question.option}")
    answer: str = click.prompt(question.text)
    return answer.split() if question.is_list else answer


def _report(config: Config, hierarchy: Hierarchy, path: Path) -> None:
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"[bold]Root[/]           {hierarchy.root.certificate.subject.rfc4514_string()}")
    console.print(f"[bold]SHA-256[/]        {fingerprint(hierarchy.root.certificate_der)}")
    console.print(f"[bold]Intermediate[/]   {hierarchy.intermediate.certificate.subject.rfc4514_string()}")
    console.print(f"[bold]Root key[/]       {hierarchy.root_key_path}")
    console.print(
        "\nMove the root's key to a safe that no server reads: acmeca never opens it again.\n"
        f"Then run:  acmeca --config {path} serve\n"
        f"OCSP and CRLs will be at {config.server.status_url}: acmeca doctor looks whether it answers."
    )
