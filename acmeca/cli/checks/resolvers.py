"""The resolvers that validations ask: each of them answers, those of a zone know it, and questions for CAA are answered."""

from collections.abc import AsyncIterator
from typing import Final

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.cli.checks.finding import Finding, error, ok, warning
from acmeca.config import Config
from acmeca.policy.caa import CaaPolicy
from acmeca.validation.caa import CaaObserver
from acmeca.validation.dns_client import DnsClient, RecordType, ResolutionError
from acmeca.validation.servers import FixedServers, Server, build_servers, show_server

_SECONDS: Final = 5.0  # for each server


async def check_resolvers(config: Config) -> AsyncIterator[Finding]:
    """Each configured resolver answers at all; that a name does not exist is an answer, but not of a zone's own server."""
    name = config.policy.allowed_names[0].removeprefix("*.")
    for server in config.validation.resolvers:
        about = f"validation.resolvers {show_server(server)}"
        _, finding = await _ask(about, server, name)
        yield finding
    for zone, servers in config.validation.zones.items():
        for server in servers:
            about = f"validation.zones {zone} {show_server(server)}"
            exists, finding = await _ask(about, server, zone)
            yield (
                finding
                if exists
                else warning(
                    about, f"says that {zone} does not exist", "Is it the server of this zone? Mend validation.zones"
                )
            )


async def check_caa(config: Config) -> AsyncIterator[Finding]:
    """Where CAA counts, somebody answers questions for it: else nothing is issued."""
    policy = CaaPolicy(config.policy.caa_identities, config.policy.caa_zones)
    zones = policy.zones or tuple(dict.fromkeys(name.removeprefix("*.") for name in config.policy.allowed_names))
    searches = [search for zone in zones if (search := policy.search(Identifier(IdentifierType.DNS, zone)))]
    client = DnsClient(build_servers(config.validation.resolvers, config.validation.zones), timeout=_SECONDS)
    for observation in await CaaObserver(client).observe(searches):
        name, last = observation.asked[0], observation.asked[-1]
        about = f"CAA records of {name}"
        if observation.failure is not None:
            yield error(
                about,
                f"{last}: {observation.failure}",
                "Nothing is issued there until questions for CAA are answered: mend the name servers, or policy.caa_zones",
            )
        elif observation.records:
            yield ok(about, f"are those of {last}, {len(observation.records)} of them")
        else:
            yield ok(about, "there are none, which restricts nothing")


async def _ask(about: str, server: Server, name: str) -> tuple[bool, Finding]:
    """Whether the name exists, as far as the server says otherwise, and what there is to say of the server."""
    try:
        answer = await DnsClient(FixedServers((server,)), timeout=_SECONDS).lookup(name, RecordType.A)
    except ResolutionError as failure:
        return True, error(
            about, f"asked for {name}: {failure}", "Without it names cannot be validated: mend or replace it"
        )
    return answer.exists, ok(about, f"answers, asked for {name}")
