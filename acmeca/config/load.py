"""From the file and the environment to a `Config`, or to all that is wrong with them.

Rule 1: every mistake is reported, all of them at once, each with its key path, the value and what is allowed.
Rule 2: an unknown key is a mistake, in the file and in the environment: a misspelt limit must not look like a limit.
Rule 3: a variable has TOML's types: text as it is; numbers, true and false, lists and tables as JSON.
"""

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_origin

from pydantic import ValidationError

from acmeca.config.mistakes import ConfigError, describe_mistake, describe_unknown, example, show
from acmeca.config.model import PROFILES, SECTIONS, Config

ENVIRONMENT_PREFIX: Final = "ACMECA_"
CONFIG_VARIABLE: Final = "ACMECA_CONFIG"
PROFILES_VARIABLE: Final = "ACMECA_PROFILES"  # all of them: the name of a profile may be none for a variable
SEARCH_PATH: Final = (Path("acmeca.toml"), Path("/etc/acmeca/acmeca.toml"))


def environment_name(section: str, key: str) -> str:
    """The variable that overrides a key."""
    return f"{ENVIRONMENT_PREFIX}{section}__{key}".upper()


def find_config(path: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """The configuration file: the one named, `$ACMECA_CONFIG`, `./acmeca.toml` or `/etc/acmeca/acmeca.toml`."""
    if path is not None:
        return path
    if environment.get(CONFIG_VARIABLE):
        return Path(environment[CONFIG_VARIABLE])
    for candidate in SEARCH_PATH:
        if candidate.is_file():
            return candidate
    raise ConfigError("configuration", ["no acmeca.toml here and none in /etc/acmeca; make one with: acmeca init"])


def read_config(path: Path) -> str:
    """The text of a configuration file. Raises `ConfigError`."""
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors put a byte order mark before it
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [f"is not UTF-8: {error.reason} at byte {error.start + 1}"]) from None


def load_config(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Read the file, put the environment on top, check everything. Raises `ConfigError`."""
    return parse_config(read_config(path), path, environment)


def parse_config(text: str, path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """The configuration that `text` would be as the file at `path`. Raises `ConfigError`.

    A relative `data_dir` in the file is meant from the file's directory, one in the environment from the working
    directory.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), [f"is not TOML: {error}"]) from None
    _anchor(document, path)
    overrides, refused = _override(document, environment)
    mistakes = [*_unknown_variables(environment), *refused.values()]
    for section, model in SECTIONS.items():
        if any(field.is_required() for field in model.model_fields.values()):
            document.setdefault(section, {})  # so that its missing keys are told one by one
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        mistakes += [
            describe_mistake(item, overrides)
            for item in error.errors(include_url=False)
            if item["loc"][:2] not in refused  # told already
        ]
        raise ConfigError(str(path), mistakes) from None
    if mistakes:
        raise ConfigError(str(path), mistakes)
    return config


def mistake_in(section: str, key: str, value: object) -> str | None:
    """What is wrong with a value for this key, or None: to ask again before anything is written."""
    document: dict[str, dict[str, object]] = {
        name: tomllib.loads(
            "\n".join(example(name, field) for field, info in model.model_fields.items() if info.is_required())
        )
        for name, model in SECTIONS.items()
    }
    document[section][key] = value
    try:
        Config.model_validate(document)
    except ValidationError as error:
        return error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
    return None


def overridden(environment: Mapping[str, str] = os.environ) -> dict[tuple[str, str], str]:
    """The keys that the environment sets, with their variables. That of the profiles has no key."""
    variables = {
        (section, key): environment_name(section, key)
        for section, model in SECTIONS.items()
        for key in model.model_fields
    }
    variables[PROFILES, ""] = PROFILES_VARIABLE
    return {place: name for place, name in variables.items() if name in environment}


def _anchor(document: dict[str, Any], path: Path) -> None:
    """Make a relative `data_dir` of the file absolute; what is no path is left for the check."""
    server = document.get("server")
    data_dir = server.get("data_dir") if isinstance(server, dict) else None
    if isinstance(data_dir, str) and data_dir.isprintable() and data_dir and not data_dir.startswith("~"):
        document["server"]["data_dir"] = str((path.parent / data_dir).resolve())


def _override(
    document: dict[str, Any], environment: Mapping[str, str]
) -> tuple[dict[tuple[str, str], str], dict[tuple[int | str, ...], str]]:
    """Put `ACMECA_SECTION__KEY` over the file's values; returns the keys it set, and the mistakes in it by their keys."""
    known = overridden(environment)
    refused: dict[tuple[int | str, ...], str] = {}
    for (section, key), name in known.items():
        if section == PROFILES:
            continue
        values = document.setdefault(section, {})
        if not isinstance(values, dict):
            continue  # the file's own mistake, told with the rest
        try:
            values[key] = _parse_variable(section, key, environment[name])
        except ValueError as error:
            refused[section, key] = f"{section}.{key} (from ${name}): got {show(environment[name])}; {error}"
            values.pop(key, None)
    if PROFILES_VARIABLE in environment:
        document.pop(PROFILES, None)
        try:
            document[PROFILES] = _parse_table(environment[PROFILES_VARIABLE], '{"web": {"lifetime": "30d"}}')
        except ValueError as error:
            shown = show(environment[PROFILES_VARIABLE])
            refused[PROFILES,] = f"profiles (from ${PROFILES_VARIABLE}): got {shown}; {error}"
    return known, refused


def _unknown_variables(environment: Mapping[str, str]) -> list[str]:
    known = overridden(environment).values()
    return [
        mistake
        for name in sorted(environment)
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known
        for mistake in _unknown_variable(name)
    ]


def _unknown_variable(name: str) -> list[str]:
    """What is wrong with a variable that begins like ours and is none.

    Only two kinds are mistakes: one with the two underscores between section and key, and one that would be a key with
    them. Others use our prefix too: Kubernetes sets ACMECA_PORT_8443_TCP and the like for a service named acmeca.
    """
    section, separator, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
    if separator and section == PROFILES:
        return [f"${name}: profiles are set all at once, as JSON, in {PROFILES_VARIABLE}"]
    if separator and section:
        return [f"${name}: {describe_unknown(section, key)}"]
    return [
        f"${name}: write {environment_name(other, field)}, with two underscores between section and key"
        for other, model in SECTIONS.items()
        for field in model.model_fields
        if section == f"{other}_{field}"
    ]


def _parse_variable(section: str, key: str, text: str) -> object:
    """A variable's text as the type that its key has in TOML. Raises ValueError."""
    kind = SECTIONS[section].model_fields[key].annotation
    if get_origin(kind) not in {tuple, dict} and kind not in {int, bool}:
        return text
    if get_origin(kind) is dict:
        return _parse_table(text, '{"corp.internal": ["10.0.0.1"]}')
    try:
        value = json.loads(text.strip().lower() if kind is bool else text)
    except (ValueError, RecursionError):
        value = None
    if kind is bool and not isinstance(value, bool):
        raise ValueError("write true or false")
    if kind is int and (not isinstance(value, int) or isinstance(value, bool)):
        raise ValueError("write a whole number")
    if get_origin(kind) is tuple and not isinstance(value, list):
        raise ValueError(f"write the list as JSON, like {show([text.strip().strip('[]') or '…'])}")
    return value


def _parse_table(text: str, like: str) -> dict[str, object]:
    try:
        value = json.loads(text, object_pairs_hook=_table)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"write the table as JSON, each name once, like {like}")  # noqa: TRY004  (told as a mistake in a value)
    return value


def _table(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object. Raises ValueError for a name that comes twice, as TOML does: one of the two would be lost."""
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a name comes twice")
    return table
