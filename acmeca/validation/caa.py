"""CAA: climb the tree of names until one has records (RFC 8659 §3). Observe, judge nothing.

Rule 1: nothing that a peer does raises: every outcome is a `CaaObservation`. Only cancellation passes, and the OSError of a
machine that has run out of sockets or memory or cannot read its own files.
Rule 2: only an answer ends a step: that a name has no such records, or does not exist, leads to its parent; where nobody
answered, nothing is known of this name, nor of those above it.
Rule 3: names of one observation share their parents, and each is asked for once; nothing is kept beyond it.
Rule 4: bounded: four questions at once and ten seconds in all.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import dns.rdtypes.ANY.CAA

from acmeca.policy.caa import CaaObservation, CaaRecord
from acmeca.validation.dns_client import Answer, DnsClient, RecordType, ResolutionError

TOTAL_SECONDS: Final = 10.0
AT_ONCE: Final = 4


class CaaObserver:
    """Makes CAA observations. One value serves the whole process; `observe` may run many times at once."""

    def __init__(self, client: DnsClient, *, total_timeout: float = TOTAL_SECONDS) -> None:
        self._client = client
        self._total_timeout = total_timeout

    async def observe(self, searches: Sequence[tuple[str, ...]]) -> tuple[CaaObservation, ...]:
        """An observation for each search: the names to ask for in turn, one at least, until one has records.

        Raises OSError when this machine is in trouble: nothing was learnt then.
        """
        known: dict[str, Answer | ResolutionError] = {}
        try:
            async with asyncio.timeout(self._total_timeout):
                places = asyncio.Semaphore(AT_ONCE)
                while missing := {name for names in searches if (name := _next(names, known)) is not None}:
                    # Exceptions are collected so that every question is at its end when one raises.
                    asking = (self._ask(name, known, places) for name in missing)
                    for result in await asyncio.gather(*asking, return_exceptions=True):
                        if result is not None:
                            raise result
        except TimeoutError:
            pass  # what is not known by now stays so
        return tuple(self._observation(names, known) for names in searches)

    async def _ask(self, name: str, known: dict[str, Answer | ResolutionError], places: asyncio.Semaphore) -> None:
        async with places:
            try:
                known[name] = await self._client.lookup(name, RecordType.CAA)
            except ResolutionError as error:
                known[name] = error

    def _observation(self, names: tuple[str, ...], known: dict[str, Answer | ResolutionError]) -> CaaObservation:
        last = _next(names, known)
        if last is not None:
            asked = names[: names.index(last) + 1]
            return CaaObservation(asked, failure=f"the search did not end within {self._total_timeout:g} s")
        for index, name in enumerate(names):
            result = known[name]
            if isinstance(result, ResolutionError):
                return CaaObservation(names[: index + 1], failure=str(result))
            if records := _records(result):
                return CaaObservation(names[: index + 1], records, result.server, is_alias=bool(result.aliases))
        return CaaObservation(names)


def _next(names: tuple[str, ...], known: dict[str, Answer | ResolutionError]) -> str | None:
    """The name that a search has to ask for next, or None at its end."""
    for name in names:
        result = known.get(name)
        if result is None:
            return name
        if isinstance(result, ResolutionError) or result.records:
            return None
    return None


def _records(answer: Answer) -> tuple[CaaRecord, ...]:
    return tuple(
        CaaRecord(record.flags, record.tag, record.value)
        for record in answer.records
        if isinstance(record, dns.rdtypes.ANY.CAA.CAA)
    )
