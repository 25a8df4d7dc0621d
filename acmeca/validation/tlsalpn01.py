"""tls-alpn-01: see what a host shows in a TLS handshake (RFC 8737 §3, RFC 8738 §6). Observe, judge nothing.

Rule 1: connections come from `dialler.py`, and so does what passes instead of becoming an observation.
Rule 2: the handshake runs in memory, without a transport: what a peer may send is counted before it is read, and nothing
is read behind its end. §4: "Once the handshake is completed, the client MUST NOT exchange any further data with the server
and MUST immediately close the connection."
Rule 3: every socket is closed when `observe` returns, however it returns.
Rule 4: no session is kept: each validation is a full handshake, in which the server shows its certificate.
"""

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass
from functools import partial
from typing import Final

from acmeca.acme.identifiers import Identifier
from acmeca.acme.observations import FailureKind, ObservedFailure
from acmeca.acme.tlsalpn01 import PROTOCOL, ShownCertificate, TlsAlpn01Observation, server_name
from acmeca.pki.der import DerError
from acmeca.validation.certificates import read_certificate
from acmeca.validation.dialler import Call, Dialler, unverified_tls

HANDSHAKE_LIMIT: Final = 32 * 1024  # octets that a server may send; one with a chain of RSA-4096 sends some 8 KiB
_READ: Final = 4096


@dataclass(frozen=True, slots=True)
class _Handshake:
    """What a completed handshake says."""

    version: str | None
    protocol: str | None
    certificate: ShownCertificate | None


class TlsAlpn01Validator:
    """Makes tls-alpn-01 observations. One value serves the whole process; `observe` may run many times at once.

    `port`: "This connection MUST use TCP port 443" (§3); another value is for tests and for networks that have agreed on one.
    """

    def __init__(self, dialler: Dialler, *, port: int = 443) -> None:
        self._dialler = dialler
        self._port = port
        self._tls = unverified_tls()
        # §3: "an ALPN extension with the single protocol name "acme-tls/1""
        self._tls.set_alpn_protocols([PROTOCOL])

    async def observe(self, identifier: Identifier) -> TlsAlpn01Observation:
        """See what `identifier` (a name or an address, never a wildcard) shows to whoever asks for `acme-tls/1`.

        Raises ValueError for a wildcard, a mistake of the caller. Raises OSError when this machine has no socket or memory
        left or cannot read its own files, and `Busy` when the connections to an address did not become fewer in time:
        nothing was learnt then, try again.
        """
        if identifier.is_wildcard:
            raise ValueError(f"tls-alpn-01 cannot validate the wildcard {identifier}")
        name = server_name(identifier)
        call = Call(identifier, self._port)
        outcome = await self._dialler.within_limits(
            lambda patience: self._dialler.connect(call, patience, partial(self._shake_hands, name))
        )
        observation = partial(
            TlsAlpn01Observation, identifier, name, self._port, tuple(call.refused), tuple(call.attempts)
        )
        if isinstance(outcome, ObservedFailure):
            return observation(failure=outcome)
        return observation(version=outcome.version, protocol=outcome.protocol, certificate=outcome.certificate)

    async def _shake_hands(self, name: str, connection: socket.socket) -> _Handshake | ObservedFailure:
        """A handshake with SNI, which ends the connection."""
        with connection:
            try:
                return await self._speak(name, connection)
            except OSError as error:  # ssl.SSLError, or a reset
                return ObservedFailure(FailureKind.TLS, f"the TLS handshake failed: {self._dialler.describe(error)}")

    async def _speak(self, name: str, connection: socket.socket) -> _Handshake | ObservedFailure:
        loop = asyncio.get_running_loop()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._tls.wrap_bio(incoming, outgoing, server_hostname=name)
        received = 0
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            else:
                break
            finally:  # also the alert that tells the server why we go
                await _send(connection, outgoing)
            if received >= HANDSHAKE_LIMIT:
                return ObservedFailure(
                    FailureKind.RESPONSE, f"the server sends more than {HANDSHAKE_LIMIT} bytes for a TLS handshake"
                )
            data = await loop.sock_recv(connection, min(_READ, HANDSHAKE_LIMIT - received))
            if not data:
                return ObservedFailure(FailureKind.CLOSED, "the connection was closed within the TLS handshake")
            received += len(data)
            incoming.write(data)
        version, protocol = tls.version(), tls.selected_alpn_protocol()
        if protocol != PROTOCOL:  # it did not mean to answer us, so its certificate is not looked at
            return _Handshake(version, protocol, None)
        try:
            certificate = read_certificate(tls.getpeercert(binary_form=True) or b"")
        except DerError as error:
            return ObservedFailure(FailureKind.RESPONSE, f"the server's certificate cannot be read: {error}")
        return _Handshake(version, protocol, certificate)


async def _send(connection: socket.socket, outgoing: ssl.MemoryBIO) -> None:
    """What TLS wants to be sent. A server that has closed already may have said all that counts: reading tells."""
    data = outgoing.read()
    if data:
        with contextlib.suppress(ConnectionError):
            await asyncio.get_running_loop().sock_sendall(connection, data)
