"""The configuration: TOML, with the environment on top, to frozen and checked values.

Rule 1: every mistake is reported, all of them at once, each with its key path, the value and what is allowed.
Rule 2: every key is documented in `conf/acmeca.toml`, and a test proves it.
"""

from acmeca.config.load import (
    CONFIG_VARIABLE,
    SEARCH_PATH,
    environment_name,
    find_config,
    load_config,
    mistake_in,
    overridden,
    parse_config,
    read_config,
)
from acmeca.config.mistakes import ConfigError, reference_path
from acmeca.config.model import SECTIONS, Config
from acmeca.config.values import format_duration, parse_duration

__all__ = [
    "CONFIG_VARIABLE",
    "SEARCH_PATH",
    "SECTIONS",
    "Config",
    "ConfigError",
    "environment_name",
    "find_config",
    "format_duration",
    "load_config",
    "mistake_in",
    "overridden",
    "parse_config",
    "parse_duration",
    "read_config",
    "reference_path",
]
