"""Mistakes in a configuration, told: a line for each, with its key path, the value and what is allowed.

Rule 1: nothing secret is shown: what stands before an @ in a URL is left out, an address of a database
server that cannot be read is not shown at all, and of a key that does not exist only its name is told.
Rule 2: a name that does not exist is answered with the one that was probably meant, and where it belongs.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Final

from pydantic_core import ErrorDetails

from acmeca import resources
from acmeca.config.model import PROFILES, SECTIONS
from acmeca.config.profiles import DEFAULT_PROFILE_MISTAKE, ProfileSection
from acmeca.errors import AcmecaError

_SHOWN: Final = 80  # characters of a value
_SECTIONS: Final = (*SECTIONS, PROFILES)
_USER_INFORMATION: Final = re.compile(r'(?<=//)[^\s"]*@')


class ConfigError(AcmecaError):
    """A configuration that cannot be used. `mistakes` is one line for each, with its key path."""

    def __init__(self, source: str, mistakes: list[str]) -> None:
        lines = [f"{source}: {len(mistakes)} to mend:", *(f"  {mistake}" for mistake in mistakes)]
        super().__init__("\n".join([*lines, f"Every key is explained in {reference_path()}"]))
        self.source = source
        self.mistakes = tuple(mistakes)


def reference_path() -> str:
    """Where the reference configuration lies on this machine."""
    try:
        return str(resources.find("conf") / "acmeca.toml")
    except FileNotFoundError:  # a broken installation must not hide what is wrong with the configuration
        return "conf/acmeca.toml"


def describe_mistake(error: ErrorDetails, overrides: Mapping[tuple[str, str], str]) -> str:
    """One of pydantic's errors as a line. `overrides` are the keys that the environment set, with their variables."""
    place, value = error["loc"], error["input"]
    if error["type"] == DEFAULT_PROFILE_MISTAKE:  # found where the profiles are read, which is behind it
        place = ("policy", "default_profile")
    path = _path(place, overrides)
    match error["type"], place:
        case "missing", (str(section), str(key)):
            return f"{path}: missing; it has no default; write for instance: {example(section, key)}"
        case "extra_forbidden", (str(section), *_, str(key)):
            return f"{path}: there is no such key; {_near_key(section, key)}"
        case "extra_forbidden", (str(section),):
            return _unknown_section(section, value)
        case "tuple_type", _:
            wanted = json.dumps([value]) if isinstance(value, str) else '["…", "…"]'
            return f"{path}: got {show(value)}; write a list, like {_hide(wanted)}"
        case "model_type", (str(section),):
            return f"{path}: got {show(value)}; write a section, [{section}], with its keys below it"
        case _:
            # In the address of a server that cannot be read nobody knows where the password stands.
            is_secret = place == ("storage", "url") and not str(value).startswith("sqlite:")
            got = "" if is_secret else f"got {show(value)}; "
            return f"{path}: {got}{error['msg'].removeprefix('Value error, ')}"


def describe_unknown(section: str, key: str) -> str:
    """What to say of a section or key that does not exist."""
    if section in SECTIONS:
        return f"there is no key {key} in [{section}]; {_near_key(section, key)}"
    return f"there is no section [{section}]; {_near(section, _SECTIONS, 'there are')}"


def example(section: str, key: str) -> str:
    """A line of TOML for a key that has to be written."""
    (line,) = SECTIONS[section].model_fields[key].examples or [f"{key} = …"]
    return str(line)


def show(value: object) -> str:
    """A value as TOML or JSON would have it, cut to a line's length, without user names and passwords."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):  # a date, or an integer of thousands of digits
        text = type(value).__name__ if isinstance(value, int) else str(value)
    text = _hide("".join(character if character.isprintable() else "?" for character in text))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _hide(text: str) -> str:
    return _USER_INFORMATION.sub("…@", text)


def _path(place: tuple[int | str, ...], overrides: Mapping[tuple[str, str], str]) -> str:
    match place:
        case (str(section), *parts) if section == PROFILES:
            names = ".".join(part for part in (section, *parts) if isinstance(part, str))
            entry = "".join(f" (entry {part + 1})" for part in parts if isinstance(part, int))
            variable = overrides.get((PROFILES, ""))
            return f"{names}{entry}" + ("" if variable is None else f" (from ${variable})")
        case (str(section), str(key), *items):
            # Behind a name in a table pydantic puts "[key]" when the mistake is in the name itself.
            entry = "".join(
                f" (entry {item + 1})" if isinstance(item, int) else f" ({show(item)})"
                for item in items
                if item != "[key]"
            )
            variable = overrides.get((section, key))
            return f"{section}.{key}{entry}" + ("" if variable is None else f" (from ${variable})")
        case _:
            return ".".join(str(part) for part in place) or "the file"


def _unknown_section(name: str, value: object) -> str:
    if isinstance(value, dict):
        return f"[{name}]: there is no such section; {_near(name, _SECTIONS, 'there are')}"
    return f"{name}: stands before the first section; {_near_key('', name)}"


def _near_key(section: str, key: str) -> str:
    """Where a key that is not in `section` belongs, or what was meant by it."""
    if section == PROFILES:
        return _near(key, ProfileSection.model_fields, "there are")
    for other, model in SECTIONS.items():
        if other != section and key in model.model_fields:
            return f"it belongs in [{other}]"
    if section in SECTIONS:
        return _near(key, SECTIONS[section].model_fields, "there are")
    near = {name: other for other, model in SECTIONS.items() for name in model.model_fields}
    found = difflib.get_close_matches(key, near, n=1)
    return f"did you mean {found[0]} in [{near[found[0]]}]?" if found else "keys stand below a [section]"


def _near(name: str, known: Iterable[str], otherwise: str) -> str:
    names = list(known)
    found = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {found[0]}?" if found else f"{otherwise}: {', '.join(names)}"
