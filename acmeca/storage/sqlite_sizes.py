"""How large an SQLite database is.

Rule 1: a small file is measured: `dbstat`, where SQLite was built with it, reads every page. A large one, or one of a build without
`dbstat`, is estimated: rows from samples spread over each table, and shares of the pages in use by the length of what stands in the
sampled rows and in the indexes on them. So the shares are about right, and their sum is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from acmeca.storage.errors import StorageError
from acmeca.storage.readonly import ReadOnlyDatabase
from acmeca.storage.sizes import FileSizes, TableSize

_MEASURED_BYTES: Final = 256 << 20  # up to here every page is read; half a second when they are in memory
_COUNTED_ROWS: Final = 20_000  # up to here rows are counted
_PROBES: Final = 40  # places in a table that are looked at
_PROBED: Final = 50  # row ids at each of them
_LONG: Final = 12  # bytes; a key at least as long as this is an id or a hash, and goes in anywhere
_FULL, _SPREAD = 0.95, 0.7  # how full pages are where keys come in their order, and where they do not
_CELL: Final = 8  # bytes of a row beside its columns: header, row id, pointer


@dataclass(frozen=True, slots=True)
class _Index:
    columns: tuple[str, ...]
    condition: str | None  # of a partial one


class SqliteSizes:
    """`Sizes` of the SQLite file at `path`, which `database` has open."""

    def __init__(self, database: ReadOnlyDatabase, path: Path, *, measured_bytes: int = _MEASURED_BYTES) -> None:
        self._database = database
        self._path = path
        self._measured_bytes = measured_bytes

    async def files(self) -> FileSizes:
        size, count, free = self._database.pages()
        log_path = self._path.with_name(self._path.name + "-wal")
        try:
            log = log_path.stat().st_size
        except OSError:  # nobody has the database open
            log = 0
        return FileSizes(database=size * count, free=size * free, log=log)

    async def tables(self) -> list[TableSize]:
        names = [
            row["name"] for row in await self._database.fetch_all("SELECT name FROM sqlite_schema WHERE type = 'table'")
        ]
        size, count, free = self._database.pages()
        used = size * (count - free)
        measured = await self._measure() if used <= self._measured_bytes else None
        if measured is not None:
            found = [
                TableSize(name, await self._count(name), measured.get(name, 0), is_estimate=False) for name in names
            ]
        else:
            found = _scale([await self._estimate(name) for name in names], used)
        return sorted(found, key=lambda table: (-table.bytes, table.name))

    async def _measure(self) -> dict[str, int] | None:
        """The bytes of each table with its indexes; None where SQLite was built without `dbstat`."""
        try:
            rows = await self._database.fetch_all(
                "SELECT s.tbl_name AS name, SUM(d.pgsize) AS bytes FROM dbstat d JOIN sqlite_schema s ON s.name = d.name"
                " WHERE d.aggregate = 1 GROUP BY s.tbl_name"
            )
        except StorageError:
            return None
        return {row["name"]: row["bytes"] for row in rows}

    async def _count(self, table: str) -> int:
        (row,) = await self._database.fetch_all(f'SELECT COUNT(*) AS n FROM "{table}"')
        return int(row["n"])

    async def _estimate(self, table: str) -> TableSize:
        """Rows, and bytes that are not yet scaled to the pages in use."""
        # Each bound alone is one step down the tree; both in one SELECT would be a walk over the table.
        (row,) = await self._database.fetch_all(
            f'SELECT (SELECT MIN(rowid) FROM "{table}") AS low, (SELECT MAX(rowid) FROM "{table}") AS high'
        )
        if row["low"] is None:
            return TableSize(table, 0, 0, is_estimate=False)
        low, high = row["low"], row["high"]
        span = high - low + 1
        columns = [
            column["name"] for column in await self._database.fetch_all("SELECT name FROM pragma_table_info($1)", table)
        ]
        indexes = await self._indexes(table)
        is_small = span <= _COUNTED_ROWS
        ranges = [(low, high)] if is_small else _spread(low, high)
        seen, lengths, matching = await self._sample(table, columns, indexes, ranges)
        looked_at = sum(last - first + 1 for first, last in ranges)
        rows = seen if is_small else round(span * seen / looked_at)
        if not seen:
            return TableSize(table, rows, 0, is_estimate=not is_small)
        widths = {column: length / seen for column, length in zip(columns, lengths, strict=True)}
        estimated = rows * (sum(widths.values()) + _CELL) / _FULL
        for index, count in zip(indexes, matching, strict=True):
            keys = [widths[column] for column in index.columns]
            fullness = _SPREAD if keys and keys[0] >= _LONG else _FULL
            estimated += rows * (count / seen) * (sum(keys) + _CELL) / fullness
        return TableSize(table, rows, round(estimated), is_estimate=not is_small)

    async def _indexes(self, table: str) -> list[_Index]:
        found = []
        for row in await self._database.fetch_all(
            "SELECT name, COALESCE(sql, '') AS sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = $1", table
        ):
            columns = await self._database.fetch_all("SELECT name FROM pragma_index_info($1)", row["name"])
            _, _, condition = row["sql"].partition(" WHERE ")
            found.append(_Index(tuple(column["name"] for column in columns), condition.strip() or None))
        return found

    async def _sample(
        self, table: str, columns: Sequence[str], indexes: Sequence[_Index], ranges: Sequence[tuple[int, int]]
    ) -> tuple[int, list[int], list[int]]:
        """Of the rows with these row ids: how many, the bytes of each column, and how many each index holds."""
        lengths = [
            f"COALESCE(SUM(1 + CASE typeof(\"{column}\") WHEN 'integer' THEN 4 WHEN 'null' THEN 0"
            f' ELSE LENGTH(CAST("{column}" AS BLOB)) END), 0) AS c{number}'
            for number, column in enumerate(columns)
        ]
        matching = [
            f"COALESCE(SUM(CASE WHEN {index.condition or '1 = 1'} THEN 1 ELSE 0 END), 0) AS i{number}"
            for number, index in enumerate(indexes)
        ]
        sql = f'SELECT COUNT(*) AS n, {", ".join(lengths + matching)} FROM "{table}" WHERE rowid BETWEEN $1 AND $2'
        seen, length_sums, matching_sums = 0, [0] * len(columns), [0] * len(indexes)
        for first, last in ranges:
            (row,) = await self._database.fetch_all(sql, first, last)
            seen += row["n"]
            length_sums = [total + row[f"c{number}"] for number, total in enumerate(length_sums)]
            matching_sums = [total + row[f"i{number}"] for number, total in enumerate(matching_sums)]
        return seen, length_sums, matching_sums


def _spread(low: int, high: int) -> list[tuple[int, int]]:
    """Ranges of row ids, evenly over a table, the first and the last rows among them."""
    step = (high - low + 1 - _PROBED) / (_PROBES - 1)
    return [(first, first + _PROBED - 1) for first in (low + round(number * step) for number in range(_PROBES))]


def _scale(tables: Sequence[TableSize], used: int) -> list[TableSize]:
    """The same shares of the bytes that are in use."""
    total = sum(table.bytes for table in tables) or 1
    return [TableSize(table.name, table.rows, table.bytes * used // total, is_estimate=True) for table in tables]
