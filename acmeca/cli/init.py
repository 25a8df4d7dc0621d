"""`acmeca init`: a configuration, where there is none, and a CA.

Rule 1: nothing is written until everything is known to be right: the configuration as it will be, a data directory that is
ours or empty, and no CA in it. A CA that is there is never touched, and neither is its configuration.
Rule 2: killed in the middle, it leaves a configuration without a CA, or key files that nothing refers to; another `init`
finishes the work.
Rule 3: what a person wrote into the configuration stays as it was, comments included.
"""

import asyncio
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import click
import tomlkit
from tomlkit.items import AbstractTable

from acmeca import app
from acmeca.audit import admin_actor
from acmeca.cli.output import examples, print_line, print_pairs
from acmeca.config import (
    CONFIG_VARIABLE,
    SEARCH_PATH,
    SECTIONS,
    Config,
    mistake_in,
    overridden,
    parse_config,
    read_config,
    reference_path,
)
from acmeca.errors import AcmecaError, Conflict
from acmeca.keystore.pem import write_durably
from acmeca.service.issuers import Hierarchy, fingerprint
from acmeca.storage import placement
from acmeca.storage.issuers import Issuers
from acmeca.storage.lock import LOCK_NAME
from acmeca.storage.readonly import open_read_only
from acmeca.web.control import user_name

_Place: TypeAlias = tuple[str, str]
_Answer: TypeAlias = str | list[str]

_HEADER: Final = (
    "acmeca's configuration. Every key is explained in the reference configuration that comes with it; what is not here has its "
    "default."
)
_NOT_IN_THE_WAY: Final = frozenset({"lost+found"})  # in the root of a file system of its own
_NAMED: Final = 5  # files named in a refusal


@dataclass(frozen=True, slots=True)
class _Question:
    """A key to ask for, and the option that answers without asking. `default` is what Enter means."""

    section: str
    key: str
    option: str
    text: str
    default: str | None = None
    is_list: bool = False

    @property
    def place(self) -> _Place:
        return self.section, self.key


_REQUIRED: Final = (
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
        "Names to issue for, separated by blanks (like *.corp.internal)",
        is_list=True,
    ),
)
"""What every configuration has to say."""

_FOR_A_NEW_ONE: Final = (
    _Question("server", "data_dir", "--data-dir", "Keys and database go to", default="/var/lib/acmeca"),
    _Question("ca", "organization", "--organization", "The O= of the CA; it never changes", default="Internal"),
    _Question("ca", "common_name", "--common-name", "The CN= of the CA; it never changes", default="Internal CA"),
)
"""What is worth a question while there is no configuration and somebody to ask: it lasts as long as the CA."""


@click.command(
    short_help="Make a new CA.",
    epilog=examples(
        "acmeca init",
        "acmeca --config /etc/acmeca/acmeca.toml init --base-url https://ca.corp.internal:8443 \\",
        "    --status-url http://ca.corp.internal:8080 --allow '*.corp.internal' --allow vpn.example.com",
    ),
)
@click.option("--base-url", help="The URL that ACME clients will use, like https://ca.corp.internal:8443.")
@click.option("--status-url", help="The plain http URL for OCSP and CRLs; it goes into every certificate.")
@click.option("--allow", multiple=True, metavar="NAME", help="A name to issue for, like '*.corp.internal'. Repeatable.")
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Where keys and database go.")
@click.option("--organization", help="The O= of the new CA.")
@click.option("--common-name", help="The CN= of the new CA; ' Root' and ' Intermediate' are added.")
@click.pass_obj
def init(
    config_path: Path | None,
    *,
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
    path = config_path or _existing_or_new(os.environ)
    before = read_config(path) if path.exists() else ""
    given: dict[_Place, _Answer | None] = {
        ("server", "base_url"): base_url,
        ("server", "status_url"): status_url,
        ("server", "data_dir"): None if data_dir is None else str(data_dir.absolute()),
        ("ca", "organization"): organization,
        ("ca", "common_name"): common_name,
        ("policy", "allowed_names"): list(allow) or None,
    }
    text = _completed(before, path, {place: value for place, value in given.items() if value is not None})
    config = parse_config(text, path)  # what is wrong is said before anything is written
    require_vacant(config, beside=(path,))
    config.server.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # what cannot be made is told now, too
    if text != before:
        _write(path, text)
    hierarchy = asyncio.run(app.init(config, actor=admin_actor(user_name(os.getuid()))))
    _report(config, hierarchy, path)


def require_vacant(config: Config, *, beside: Collection[Path] = ()) -> None:
    """Raise `Conflict` when there is a CA in the data directory, `AcmecaError` when it holds somebody else's files.

    A directory is ours when it has the store's lock or the database. `beside` are files that may lie in it besides. Nothing
    is changed by looking.
    """
    data_dir, database = config.server.data_dir, config.database_path
    if database is not None and (placement.is_decided(database) or (database.exists() and _holds_ca(database))):
        raise Conflict(f"{data_dir} holds a CA already; nothing was changed")
    has_database = database is not None and database.exists()
    if not data_dir.exists() or has_database or (data_dir / LOCK_NAME).exists():
        return
    if not data_dir.is_dir():
        raise AcmecaError(f"{data_dir} is no directory; choose another server.data_dir")
    ignored = _NOT_IN_THE_WAY | {path.name for path in beside if path.absolute().parent.resolve() == data_dir.resolve()}
    others = sorted(entry.name for entry in data_dir.iterdir() if entry.name not in ignored)
    if others:
        named = ", ".join(others[:_NAMED]) + (", …" if len(others) > _NAMED else "")
        raise AcmecaError(f"{data_dir} holds files that are not acmeca's ({named}); choose an empty or a new directory")


def _holds_ca(database: Path) -> bool:
    """Whether an issuer was stored. A database that an interrupted `init` left has none."""
    with open_read_only(database) as opened:
        return opened.schema_version() > 0 and bool(asyncio.run(Issuers(opened, writer="").all()))


def _existing_or_new(environment: Mapping[str, str]) -> Path:
    if environment.get(CONFIG_VARIABLE):
        return Path(environment[CONFIG_VARIABLE])
    return next((path for path in SEARCH_PATH if path.is_file()), SEARCH_PATH[0])


def _completed(before: str, path: Path, given: Mapping[_Place, _Answer]) -> str:
    """The configuration's text with what was given as options, and with an answer to each question left open."""
    try:
        document = tomlkit.parse(before)
    except tomlkit.exceptions.TOMLKitError:
        parse_config(before, path)  # says where
        raise
    settled = {*given, *overridden(), *_keys_in(document)}
    open_questions = [question for question in _REQUIRED if question.place not in settled]
    if not before:
        document.add(tomlkit.comment(f"{_HEADER}\n# It is in {reference_path()}"))
        if sys.stdin.isatty():
            open_questions += [question for question in _FOR_A_NEW_ONE if question.place not in settled]
    _put(document, {**given, **_ask(open_questions)})
    return tomlkit.dumps(document)


def _keys_in(document: tomlkit.TOMLDocument) -> set[_Place]:
    """The keys that are there. A required key in a section that is no table is nobody's to ask for: that is told instead."""
    found: set[_Place] = set()
    for section, model in SECTIONS.items():
        table = document.get(section, {})
        keys = table if isinstance(table, Mapping) else model.model_fields
        found |= {(section, key) for key in keys}
    return found


def _put(document: tomlkit.TOMLDocument, values: Mapping[_Place, _Answer]) -> None:
    for (section, key), value in values.items():
        if section not in document:
            document.add(section, tomlkit.table())
        table = document[section]
        if isinstance(table, AbstractTable):  # what is none is parse_config's to tell
            table[key] = value


def _ask(questions: Sequence[_Question]) -> dict[_Place, _Answer]:
    """An answer to each, asked again until it can be used. Without a terminal: which options are missing."""
    if not questions:
        return {}
    if not sys.stdin.isatty():
        missing = ", ".join(f"{question.section}.{question.key} ({question.option})" for question in questions)
        raise click.UsageError(f"not configured, and nobody is here to ask: {missing}")
    return {question.place: _ask_one(question) for question in questions}


def _ask_one(question: _Question) -> _Answer:
    def parse(text: str) -> _Answer:
        answer: _Answer = text.split() if question.is_list else text.strip()
        mistake = mistake_in(question.section, question.key, answer)
        if mistake is not None:
            raise click.UsageError(mistake)  # click says so and asks again
        return answer

    answer: _Answer = click.prompt(question.text, default=question.default, value_proc=parse)
    return answer


def _write(path: Path, text: str) -> None:
    """Write the configuration, with the mode that it has, and through a link to where it lies."""
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        write_durably(path.resolve(), text.encode(), mode=mode)
    except OSError as error:
        raise AcmecaError(f"{path} cannot be written: {error.strerror}; nothing was made") from None
    print_line(f"Wrote {path}")


def _report(config: Config, hierarchy: Hierarchy, path: Path) -> None:
    print_pairs(
        {
            "Root": hierarchy.root.certificate.subject.rfc4514_string(),
            "SHA-256": fingerprint(hierarchy.root.certificate_der),
            "Certificate": str(app.root_path(config)),
            "Intermediate": hierarchy.intermediate.certificate.subject.rfc4514_string(),
            "Root key": str(hierarchy.root_key_path),
        }
    )
    print_line(
        "\nMove the root's key to a safe that no server reads. It is needed once a year, for a minute, to renew the root's CRL:\n"
        "acmeca crl --root-key FILE. The server never opens it.\n"
        f"Everything in {config.server.data_dir} belongs to {user_name(os.getuid())}: run the server as that user.\n"
        f"Then run:  acmeca --config {path} serve\n"
        f"OCSP and CRLs will be at {config.server.status_url}: acmeca doctor looks whether it answers."
    )
