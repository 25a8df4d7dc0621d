"""dns-01 and dns-account-01: look up the TXT records of a name (RFC 8555 §8.4). Observe, judge nothing.

Rule 1: nothing that a peer does raises: every outcome is a `TxtObservation`. Only cancellation passes, and the OSError of a
machine that has run out of sockets or memory or cannot read its own files.
Rule 2: "Query for TXT records for the validation domain name": of the resolvers of its zone, aliases followed to a limit;
what may pass, as SERVFAIL or silence, is asked again (`dns_client.py`).
"""

import dns.rdtypes.ANY.TXT

from acmeca.acme.dns01 import TxtObservation
from acmeca.validation.dns_client import MAX_NAME, DnsClient, RecordType, ResolutionError


class TxtObserver:
    """Makes TXT observations. One value serves the whole process; `observe` may run many times at once."""

    def __init__(self, client: DnsClient) -> None:
        self._client = client

    async def observe(self, name: str) -> TxtObservation:
        """Ask for the TXT records of a lower-case name. Raises OSError when this machine is in trouble: nothing was learnt."""
        if len(name) > MAX_NAME:  # the client's choice: its identifier left no room for the labels before it
            return TxtObservation(name, failure=f"a name in the DNS has at most {MAX_NAME} characters")
        try:
            answer = await self._client.lookup(name, RecordType.TXT)
        except ResolutionError as error:
            return TxtObservation(name, failure=str(error))
        # RFC 1035 §3.3.14: a record is one or more strings of at most 255 octets
        values = tuple(
            b"".join(record.strings) for record in answer.records if isinstance(record, dns.rdtypes.ANY.TXT.TXT)
        )
        alias = answer.aliases[0] if answer.aliases else None
        return TxtObservation(name, answer.server, values, exists=answer.exists, alias=alias)
