"""Questions to recursive resolvers, of whatever type (RFC 1034).

Rule 1: every lookup asks anew. There is no cache of ours, and a name is absolute: no search list is ever tried, since a
wildcard record in a search domain would answer for every name that does not exist.
Rule 2: that a name does not exist, or has no such record, is an answer. What is raised is that nobody answered; it says who
was asked.
Rule 3: an alias that leads on is asked for where its own name belongs (`servers.py`), up to a limit.
Rule 4: nothing waits for a thread (`dns_wire.py`). A server that is silent costs a socket and a timer, so that slow names delay no
others.
"""

import asyncio
import random
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdatatype

from acmeca.errors import AcmecaError
from acmeca.validation.dns_wire import NonsenseError, exchange
from acmeca.validation.networks import EXHAUSTED
from acmeca.validation.servers import Server, Servers, show_server

LOOKUP_SECONDS: Final = 5.0
ATTEMPT_SECONDS: Final = 1.5
ROUNDS: Final = 3
PAUSE_SECONDS: Final = 0.1
MAX_ALIASES: Final = 8  # CNAMEs asked for one by one, each answer's own chain aside (dnspython bounds that at 16)
MAX_NAME: Final = 253  # characters, without the root's dot (RFC 1035 §2.3.4, less the lengths' overhead)

_RANDOM: Final = random.SystemRandom()


class RecordType(Enum):
    """What is asked for."""

    A = dns.rdatatype.A
    AAAA = dns.rdatatype.AAAA
    TXT = dns.rdatatype.TXT
    CAA = dns.rdatatype.CAA


class ResolutionFailure(StrEnum):
    """Why a lookup brought nothing. A client raises the last two; the first two are for whoever needs a record."""

    NO_SUCH_NAME = "noSuchName"  # NXDOMAIN
    NO_ADDRESS = "noAddress"  # the name exists, without A and AAAA
    SERVER_FAILURE = "serverFailure"  # SERVFAIL, REFUSED, nonsense, an endless chain of aliases
    TIMEOUT = "timeout"


class ResolutionError(AcmecaError):
    """A lookup brought nothing. The text is one phrase in printable ASCII that says who was asked, where we know it."""

    def __init__(self, reason: ResolutionFailure, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Answer:
    """What `server` (`address:port`) said of a name.

    `aliases` are the names that it leads to by CNAMEs, in turn: peers chose them, `escape` before showing. `exists` is false
    when the name at their end does not exist; `records` are that name's, none when it has none of the type.
    """

    server: str
    aliases: tuple[str, ...]
    exists: bool
    records: tuple[dns.rdata.Rdata, ...]


class DnsClient:
    """Asks the servers that `servers` chooses, in their order, over UDP, and over TCP where an answer is cut.

    A server that fails or stays silent for `attempt_timeout` seconds is passed over; when all have been, they are asked
    again, in three rounds at most, a little apart (`pause`), and `timeout` seconds in all. Any number of lookups at once.
    """

    def __init__(
        self,
        servers: Servers,
        *,
        timeout: float = LOOKUP_SECONDS,
        attempt_timeout: float = ATTEMPT_SECONDS,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        self._servers = servers
        self._timeout = timeout
        self._attempt_timeout = attempt_timeout
        self._pause = pause

    async def lookup(self, name: str, type_: RecordType) -> Answer:
        """The records of one type of a lower-case name, aliases followed.

        Raises ResolutionError (SERVER_FAILURE, TIMEOUT) when nobody answered; ValueError for what cannot be a name, a
        mistake of the caller; OSError when this machine has no socket or memory left or cannot read its own files.
        """
        if len(name) > MAX_NAME:
            raise ValueError(f"a name has at most {MAX_NAME} characters, got {len(name)}")
        asked = dns.name.from_text(name, dns.name.root)
        aliases: list[dns.name.Name] = []
        failures: list[ResolutionError] = []
        servers: tuple[Server, ...] = ()
        try:
            async with asyncio.timeout(self._timeout):
                for _ in range(MAX_ALIASES):
                    servers = self._servers.for_name(_place(asked))
                    reply = await self._ask(servers, asked, type_, failures)
                    aliases += reply.aliases
                    if not reply.leads_on:
                        return Answer(reply.server, tuple(map(_text, aliases)), reply.exists, reply.records)
                    asked = aliases[-1]
        except TimeoutError:
            if failures:
                raise failures[-1] from None
            who = " and ".join(map(show_server, servers))
            raise ResolutionError(
                ResolutionFailure.TIMEOUT, f"{who} gave no answer within {self._timeout:g} s"
            ) from None
        raise ResolutionError(ResolutionFailure.SERVER_FAILURE, f"more than {MAX_ALIASES} aliases (CNAME) in a row")

    async def _ask(
        self, servers: tuple[Server, ...], name: dns.name.Name, type_: RecordType, failures: list[ResolutionError]
    ) -> "_Reply":
        """One question to the servers in turn, until one of them answers it; `failures` takes what went wrong."""
        for round_ in range(ROUNDS):
            if round_ > 0:
                await asyncio.sleep(self._pause * 2**round_)
            for server in servers:
                try:
                    return await self._ask_server(server, name, type_)
                except ResolutionError as error:
                    failures.append(error)
        raise failures[-1]

    async def _ask_server(self, server: Server, name: dns.name.Name, type_: RecordType) -> "_Reply":
        # The id is what an off-path attacker has to guess, beside the port (RFC 5452 §4.3, §4.5).
        query = dns.message.make_query(name, type_.value, id=_RANDOM.randrange(0x1_0000))
        try:
            response = await exchange(server, query, timeout=self._attempt_timeout)
            return _read_response(response, show_server(server))
        except (dns.exception.DNSException, NonsenseError, OSError) as error:  # TimeoutError among them
            if isinstance(error, OSError) and error.errno in EXHAUSTED:
                raise
            raise _server_failure(error, show_server(server), self._attempt_timeout) from None


@dataclass(frozen=True, slots=True)
class _Reply:
    """One response: its own chain of aliases, and the records at its end."""

    server: str
    aliases: tuple[dns.name.Name, ...]
    exists: bool
    records: tuple[dns.rdata.Rdata, ...]

    @property
    def leads_on(self) -> bool:
        """The chain ends outside the response: nothing is said of the name at its end."""
        return self.exists and not self.records and bool(self.aliases)


def _read_response(response: dns.message.Message, shown: str) -> _Reply:
    """Read a response. Raises ResolutionError when the server cannot answer, and DNSException when it speaks nonsense."""
    code = response.rcode()
    if code not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
        raise ResolutionError(ResolutionFailure.SERVER_FAILURE, f"{shown} answered with {dns.rcode.to_text(code)}")
    assert isinstance(response, dns.message.QueryMessage)  # noqa: S101  (`is_response` has compared the opcodes)
    chain = response.resolve_chaining()
    return _Reply(
        shown,
        tuple(alias[0].target for alias in chain.cnames),
        exists=code == dns.rcode.NOERROR,  # RFC 2308 §2.1: NXDOMAIN is about the name at the chain's end
        records=tuple(chain.answer or ()),
    )


def _server_failure(error: Exception, shown: str, seconds: float) -> ResolutionError:
    if isinstance(error, TimeoutError) and not error.errno:
        return ResolutionError(ResolutionFailure.TIMEOUT, f"{shown} gave no answer within {seconds:g} s")
    if isinstance(error, OSError):
        return ResolutionError(ResolutionFailure.SERVER_FAILURE, f"{shown} cannot be reached: {error.strerror}")
    what = str(error) if isinstance(error, NonsenseError) else type(error).__name__
    return ResolutionError(ResolutionFailure.SERVER_FAILURE, f"{shown} answered with nonsense ({what})")


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True)


def _place(name: dns.name.Name) -> str:
    """Where a name belongs: its labels in lower case. A dot in a label, which an alias may have, divides nothing."""
    return ".".join(label.decode("latin-1").replace(".", "?") for label in name.labels[:-1]).lower()
