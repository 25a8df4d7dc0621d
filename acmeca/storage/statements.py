"""The part of SQL that SQLite and PostgreSQL read alike, and how a statement's text is held to it.

Rule 1: values stand in a text as `$1`, `$2` … and nowhere else; a text is one statement of reading or changing rows.
"""

import re
from functools import lru_cache
from typing import Final

# What SQLite and PostgreSQL read alike. A `$` inside a literal, a quoted identifier, a comment or a word is no
# placeholder; anything not listed (`?1`, `:name`, `@name`, `[x]`, backticks, semicolons, `$$`) is refused.
_TOKEN: Final = re.compile(
    r"""
      ' [^']* '                                                       # a literal; with '' in it, two of them
    | " [^"]* "                                                       # a quoted identifier
    | -- [^\n]*                                                       # comments
    | / \* .*? \* /
    | (?P<word> [A-Za-z_\x80-\U0010ffff] [A-Za-z0-9_$\x80-\U0010ffff]* )
    | [0-9] [A-Za-z0-9_.$\x80-\U0010ffff]*                            # a number
    | \$ (?P<placeholder> [1-9][0-9]{0,3} ) (?! [A-Za-z0-9_$:(\x80-\U0010ffff] )
    | [ \t\n\f\r]+
    | / (?! \* )
    | [-+*%()<>=!,.|&~]
    """,
    re.VERBOSE | re.DOTALL,
)

# Transactions and pragmas belong to the driver, tables to the schema's steps.
_VERBS: Final = frozenset({"SELECT", "WITH", "INSERT", "UPDATE", "DELETE"})


@lru_cache(maxsize=4096)
def parse_statement(sql: str) -> str:
    """A statement for SQLite: `$1` becomes `?1`, everything else stays as it is.

    `sqlite3` warns when numbered values meet named placeholders, and `$1` is a named one to it. Raises ValueError for
    what is not one statement of reading or changing rows, and for numbers that leave one out.
    """
    parts: list[str] = []
    used: set[int] = set()
    verb = ""
    position = 0
    while position < len(sql):
        match = _TOKEN.match(sql, position)
        if match is None:
            raise ValueError(f"character {position} of the statement is not SQL for SQLite and PostgreSQL: {sql!r}")
        if match["placeholder"]:
            used.add(int(match["placeholder"]))
            parts.append(f"?{match['placeholder']}")
        else:
            parts.append(match[0])
        verb = verb or (match["word"] or "").upper()
        position = match.end()
    if verb not in _VERBS:
        raise ValueError(f"a statement begins with one of {', '.join(sorted(_VERBS))}: {sql!r}")
    if used != set(range(1, len(used) + 1)):
        raise ValueError(f"the placeholders are {sorted(used)}, but should be numbered from 1 without a gap: {sql!r}")
    return "".join(parts)
