"""CAA before a certificate: every name asked about, problems with their identifiers, accounts in turn."""

import asyncio
from collections.abc import Sequence

import pytest

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.problem import ProblemType
from acmeca.policy.caa import CaaObservation, CaaPolicy, CaaRecord
from acmeca.service.caa import Caa, Shown
from acmeca.urls import Urls

URLS = Urls(base="https://ca.corp.internal:8443", status="http://ca.corp.internal:8080")
POLICY = CaaPolicy(("ca.corp.internal",))
NOBODY = CaaRecord(0, b"issue", b";")


class Observer:
    """Says what a test tells it of the first name of a search, and keeps what it was asked."""

    def __init__(self, records: dict[str, CaaRecord] | None = None) -> None:
        self.records = records or {}
        self.asked: list[list[tuple[str, ...]]] = []

    async def observe(self, searches: Sequence[tuple[str, ...]]) -> tuple[CaaObservation, ...]:
        self.asked.append(list(searches))
        return tuple(
            CaaObservation(search[:1], (self.records[search[0]],))
            if search[0] in self.records
            else CaaObservation(search)
            for search in searches
        )


def shown(*names: str, method: str | None = "dns-01") -> list[Shown]:
    return [
        Shown(Identifier(IdentifierType.IP if name[0].isdigit() else IdentifierType.DNS, name), method)
        for name in names
    ]


def build(observer: object, policy: CaaPolicy = POLICY) -> Caa:
    return Caa(policy, observer=observer, urls=URLS)  # type: ignore[arg-type]  # the tests' observers


async def test_a_problem_for_each_name_that_is_refused() -> None:
    """RFC 8659 §3: "Issuers MUST verify authorization for all the FQDNs and Wildcard Domain Names specified in the request"."""
    observer = Observer({"b.corp.internal": NOBODY, "d.corp.internal": NOBODY})
    names = ("a.corp.internal", "b.corp.internal", "10.0.0.5", "c.corp.internal", "*.d.corp.internal")
    problems = await build(observer).problems("abc", shown(*names))
    assert [str(problem.identifier) for problem in problems] == ["b.corp.internal", "*.d.corp.internal"]
    assert {problem.type for problem in problems} == {ProblemType.CAA}
    (searches,) = observer.asked
    assert [search[0] for search in searches] == [
        "a.corp.internal",
        "b.corp.internal",
        "c.corp.internal",
        "d.corp.internal",
    ]


@pytest.mark.parametrize("policy", [CaaPolicy(), CaaPolicy(("ca.corp.internal",), zones=("lab.internal",))])
async def test_where_caa_does_not_count_nobody_is_asked(policy: CaaPolicy) -> None:
    observer = Observer({"a.corp.internal": NOBODY})
    caa = build(observer, policy)
    assert await caa.problems("abc", shown("a.corp.internal", "10.0.0.5")) == ()
    assert observer.asked == []
    assert not caa.counts_for(Identifier(IdentifierType.DNS, "a.corp.internal"))
    assert caa.counts_for(Identifier(IdentifierType.DNS, "a.lab.internal")) is bool(policy.identities)


async def test_an_empty_request_asks_nobody() -> None:
    observer = Observer()
    assert await build(observer).problems("abc", []) == ()
    assert observer.asked == []


async def test_the_account_is_who_asks_and_the_method_what_was_used() -> None:
    """RFC 8657 §3 and §4."""
    url = "https://ca.corp.internal:8443/acme/account/abc"
    record = CaaRecord(0, b"issue", f"ca.corp.internal; accounturi={url}; validationmethods=dns-01".encode())
    caa = build(Observer({"a.corp.internal": record}))
    assert await caa.problems("abc", shown("a.corp.internal")) == ()
    assert len(await caa.problems("abd", shown("a.corp.internal"))) == 1
    assert len(await caa.problems("abc", shown("a.corp.internal", method="http-01"))) == 1
    assert len(await caa.problems("abc", shown("a.corp.internal", method=None))) == 1


async def test_slow_name_servers_of_one_account_delay_no_other() -> None:
    """Rule 3."""
    release = asyncio.Event()
    under_way: list[str] = []

    class Slow(Observer):
        async def observe(self, searches: Sequence[tuple[str, ...]]) -> tuple[CaaObservation, ...]:
            under_way.append(searches[0][0])
            if searches[0][0].startswith("slow"):
                await release.wait()
            return await super().observe(searches)

    caa = build(Slow())
    slow = [asyncio.create_task(caa.problems("one", shown(f"slow{number}.internal"))) for number in range(100)]
    await asyncio.sleep(0)
    assert await caa.problems("other", shown("quick.internal")) == ()
    assert len(under_way) == 17, "sixteen of one account at once, and one of the other"
    release.set()
    assert await asyncio.gather(*slow) == [()] * 100


async def test_a_machine_in_trouble_decides_nothing() -> None:
    class Broken(Observer):
        async def observe(self, searches: Sequence[tuple[str, ...]]) -> tuple[CaaObservation, ...]:
            raise OSError(24, "no sockets")

    with pytest.raises(OSError, match="no sockets"):
        await build(Broken()).problems("abc", shown("a.corp.internal"))
