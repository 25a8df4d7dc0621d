"""The resolvers that validations ask: each of them answers, and those of a zone know it."""

from collections.abc import AsyncIterator
from typing import Final

from acmeca.cli.checks.finding import Finding, error, ok, warning
from acmeca.config import Config
from acmeca.validation.dns_client import DnsClient, RecordType, ResolutionError
from acmeca.validation.servers import FixedServers, Server, show_server

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


async def _ask(about: str, server: Server, name: str) -> tuple[bool, Finding]:
    """Whether the name exists, as far as the server says otherwise, and what there is to say of the server."""
    try:
        answer = await DnsClient(FixedServers((server,)), timeout=_SECONDS).lookup(name, RecordType.A)
    except ResolutionError as failure:
        return True, error(
            about, f"asked for {name}: {failure}", "Without it names cannot be validated: mend or replace it"
        )
    return answer.exists, ok(about, f"answers, asked for {name}")
