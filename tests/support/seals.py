"""A seal for tests: numbers in a table, entries in a list, and trouble on demand."""

from collections.abc import Callable, Sequence
from typing import Final

from acmeca.storage.database import Entry, Reader, Transaction
from acmeca.storage.schema import Step
from tests.support.databases import NOTES

SEALED_NOTES: Final = (*NOTES, Step(2, "seals", "CREATE TABLE seals (number BIGINT PRIMARY KEY);"))
"""The notes, and the table of a seal."""


class TableSeal:
    """What a driver asked of it, in order: `calls`; the entries of each number that were not withdrawn: `kept`."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.kept: dict[int, list[Entry]] = {}
        self.refusal: Exception | None = None  # raised by the next `number`
        self.trouble: Callable[[], None] = lambda: None  # what happens in each `append`, before the entries are there

    async def number(self, tx: Transaction) -> int:
        self.calls.append("number")
        if self.refusal is not None:
            raise self.refusal
        row = await tx.fetch_one("SELECT COALESCE(MAX(number), 0) + 1 AS next FROM seals")
        assert row is not None
        number: int = row["next"]
        await tx.execute("INSERT INTO seals (number) VALUES ($1)", number)
        return number

    async def has_number(self, reader: Reader, number: int) -> bool:
        self.calls.append("has_number")
        return await reader.fetch_one("SELECT 1 FROM seals WHERE number = $1", number) is not None

    def append(self, number: int, entries: Sequence[Entry]) -> None:
        self.calls.append("append")
        self.trouble()
        self.kept[number] = list(entries)

    def withdraw(self, number: int) -> None:
        self.calls.append("withdraw")
        del self.kept[number]
