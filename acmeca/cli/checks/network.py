"""The server as others see it: its socket, its ports, its names, and what its URLs give.

Rule 1: what is fetched is compared with what the database and the files say; an answer alone proves nothing, as another
program, or another CA, may stand at the address.
Rule 2: with no server running, silence is no error, but an answer is.
"""

import asyncio
import errno
import fcntl
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from acmeca.cli.checks.finding import Finding, Level, error, format_span, ok, warning
from acmeca.cli.checks.store import Kept
from acmeca.cli.connection import is_answered
from acmeca.config import Config
from acmeca.config.values import ListenAddress
from acmeca.errors import AcmecaError
from acmeca.keystore import pem
from acmeca.pki.errors import PkiError
from acmeca.pki.signing import verify_with
from acmeca.service.issuers import to_pem
from acmeca.service.own_certificates import LISTENER_FILE
from acmeca.service.status import format_serial
from acmeca.storage.issuers import IssuerState, StoredIssuer
from acmeca.storage.lock import LOCK_NAME
from acmeca.urls import Paths
from acmeca.web.control import SOCKET_NAME

_SECONDS: Final = 5.0  # for each thing that is fetched or looked up
_MAX_ANSWER: Final = 256 << 20  # octets; a CRL of a million entries has some 40 MiB
_CHUNK: Final = 1 << 16
_MAX_SKEW: Final = 30.0  # seconds between two clocks set by NTP, with a slow answer in between
_EARLIEST: Final = datetime(2026, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(2100, 1, 1, tzinfo=UTC)
_START_IT: Final = "Start it: acmeca serve"


# --- the server ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerState:
    """Whether a server of this data directory runs: it answers on its socket, or at least somebody holds the lock.

    `pid` is what the holder wrote down.
    """

    answers: bool
    is_locked: bool
    pid: int | None

    @property
    def holder(self) -> str:
        return "a process" if self.pid is None else f"process {self.pid}"


async def find_server(config: Config) -> ServerState:
    """Look at the socket and at the lock. Raises `AcmecaError` for another user's."""
    answers = await is_answered(config.server.data_dir / SOCKET_NAME)
    is_locked, pid = _look_at_lock(config.server.data_dir / LOCK_NAME, is_held=answers)
    return ServerState(answers, is_locked, pid)


def _look_at_lock(path: Path, *, is_held: bool) -> tuple[bool, int | None]:
    """Whether somebody holds the lock, and who that says to be.

    Unless that is known, it is shared for a moment, as there is no way to look at it only; a start waits for such.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return is_held, None
    with os.fdopen(file, "rb") as opened:  # closing it lets go
        if not is_held and _is_free(opened.fileno()):
            return False, None
        text = opened.read(32).strip()
        return True, int(text) if text.isdigit() else None


def _is_free(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def check_server(state: ServerState) -> Iterator[Finding]:
    if state.answers:
        yield ok("server", f"{state.holder} runs, and answers on its socket")
    elif state.is_locked:
        yield warning(
            "server",
            f"{state.holder} has the lock and answers on no socket",
            "A server that starts or stops? Look again in a moment",
        )
    else:
        yield warning("server", "is not running", _START_IT)


async def check_listeners(config: Config, kept: Kept, state: ServerState) -> AsyncIterator[Finding]:
    """The ports: ours answers there, or they are free for the next start."""
    acme, status = config.server.acme_listen, config.server.status_listen
    if not state.is_locked:
        yield _check_free("server.acme_listen", acme)
        yield _check_free("server.status_listen", status)
        yield _forgive_default(config, _check_free("server.admin_listen", config.server.admin_listen))
    elif state.answers:
        yield await _check_acme_port(acme, config.server.data_dir / LISTENER_FILE)
        yield await _check_status_port(status, kept)
        for finding in await _check_admin_port(config, kept):
            yield finding


def _check_free(key: str, address: ListenAddress) -> Finding:
    about = f"{key} {address}"
    try:
        found = socket.getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
    except socket.gaierror as failure:
        return error(about, f"{address.host} is no address of this machine: {failure.strerror}", f"Mend {key}")
    for family, kind, protocol, _, where in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(where)
        except OSError as failure:
            advice = {
                errno.EADDRINUSE: f"Another program has the port: stop it, or choose another {key}",
                errno.EACCES: "A port below 1024 needs CAP_NET_BIND_SERVICE; see conf/acmeca.service",
            }.get(failure.errno or 0, f"Mend {key}")
            return error(about, f"cannot be bound: {failure.strerror}", advice)
    return ok(about, "is free")


def _loopback(address: ListenAddress) -> str:
    """Where a listener is asked from its own machine."""
    return address.host or "127.0.0.1"


async def _check_acme_port(address: ListenAddress, credential: Path) -> Finding:
    about = f"server.acme_listen {address}"
    context = ssl.create_default_context()
    context.check_hostname = False  # it is compared with our own certificate, bit by bit
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(_SECONDS):
            _, writer = await asyncio.open_connection(_loopback(address), address.port, ssl=context)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    except (OSError, TimeoutError) as failure:
        return error(
            about, f"does not answer: {_say(failure)}", "See the server's log, and whether the configuration changed"
        )
    try:
        own = pem.load_credential(credential).chain[0]
    except AcmecaError as failure:
        return error(about, f"answers, but {failure}", "See the server's log")
    if shown != own:
        return error(
            about, "shows another certificate than ours", "Another server answers there: stop it, or change the port"
        )
    return ok(about, "answers, with our certificate")


def _forgive_default(config: Config, finding: Finding) -> Finding:
    """The server goes on without an admin listener that nobody asked for: that is no error."""
    if finding.level is not Level.ERROR or config.server.is_admin_listen_asked_for:
        return finding
    return warning(finding.about, finding.detail, f"{finding.advice}; until then there are no metrics")


async def _check_admin_port(config: Config, kept: Kept) -> list[Finding]:
    """Our metrics tell of our issuers; and what the running server itself finds wrong."""
    address = config.server.admin_listen
    about = f"server.admin_listen {address}"
    host = _loopback(address)
    origin = f"http://{f'[{host}]' if ':' in host else host}:{address.port}"
    async with _session() as session:
        answer = await _fetch(session, origin + Paths.METRICS)
        if isinstance(answer, str):
            silent = error(about, f"does not answer: {answer}", "See the server's log, and server.admin_listen")
            return [_forgive_default(config, silent)]
        if not all(f'issuer="{stored.issuer.id}"'.encode() in answer.body for stored in kept.issuers):
            foreign = error(about, "does not give our metrics", "Another program answers there: choose another port")
            return [_forgive_default(config, foreign)]
        ready = await _fetch(session, origin + Paths.HEALTH_READY)
    faults = [] if isinstance(ready, str) or ready.status == 200 else ready.body.decode(errors="replace").splitlines()
    return [
        ok(about, "answers, with our metrics"),
        *(error("readiness", fault, "See docs/monitoring.md, and the server's log") for fault in faults),
    ]


async def _check_status_port(address: ListenAddress, kept: Kept) -> Finding:
    about = f"server.status_listen {address}"
    host = _loopback(address)
    url = f"http://{f'[{host}]' if ':' in host else host}:{address.port}{Paths.ROOTS}"
    async with _session() as session:
        answer = await _fetch(session, url)
    if isinstance(answer, str):
        return error(about, f"does not answer: {answer}", "See the server's log, and whether the configuration changed")
    roots = b"".join(to_pem(stored.issuer.certificate_der) for stored in kept.issuers if stored.is_root)
    if answer.body != roots:
        return error(about, "does not give our root", "Another server answers there: stop it, or change the port")
    return ok(about, "answers, with our root")


# --- clock --------------------------------------------------------------------------------------------------------


def check_clock(now: datetime) -> Iterator[Finding]:
    """A year that can be: a machine without a battery starts in 1970."""
    if not _EARLIEST <= now < _LATEST:
        yield error("clock", f"{now:%Y-%m-%d %H:%M} UTC cannot be", "Set it, by NTP, before the server signs anything")
    else:
        yield ok("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC can be")


# --- names --------------------------------------------------------------------------------------------------------


async def check_names(config: Config) -> AsyncIterator[Finding]:
    """The hosts of our URLs, looked up as a client on this machine would."""
    for key, url in (("server.base_url", config.server.base_url), ("server.status_url", config.server.status_url)):
        host = urlsplit(url).hostname or ""
        about = f"{key} {url}"
        try:
            async with asyncio.timeout(_SECONDS):
                found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except TimeoutError:
            yield error(about, f"{host} was not looked up within {_SECONDS:g} s", "Look at this machine's resolver")
        except OSError as failure:
            yield error(
                about,
                f"{host} cannot be looked up: {failure.strerror}",
                f"Give {host} an address in your DNS, or mend {key}",
            )
        else:
            addresses = ", ".join(sorted({str(item[4][0]) for item in found}))
            yield ok(about, f"{host} is {addresses}" if addresses != host else "is an address")


# --- URLs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    date: str


async def check_urls(config: Config, kept: Kept, now: datetime, *, is_running: bool) -> AsyncIterator[Finding]:
    """What clients and relying parties will ask for, at the URLs that they have."""
    async with _session(_trust(kept)) as session:
        answer = await _fetch(session, f"{config.server.status_url}{Paths.HEALTH_LIVE}")
        yield _judge_health(f"server.status_url {config.server.status_url}", answer, is_running=is_running)
        if not isinstance(answer, str) and (skew := _judge_date(answer, now)) is not None:
            yield skew
        if isinstance(answer, str) and not is_running:
            return  # nothing can answer; one line says so
        yield await _check_directory(session, config, is_running=is_running)
        for stored in kept.issuers:
            if stored.state is IssuerState.RETIRED:
                continue
            yield await _check_crl_url(session, stored, kept, now)
            if not stored.is_root:
                yield await _check_ocsp_url(session, config, stored, now)


def check_fixed_urls(config: Config, kept: Kept) -> Iterator[Finding]:
    """`status_url` was changed after certificates were made with it: the old one has to stay for as long as they live."""
    for stored in kept.issuers:
        if not stored.issuer.crl_url.startswith(config.server.status_url + "/"):
            yield warning(
                "server.status_url",
                f"is {config.server.status_url}, but certificates of issuer {stored.issuer.id} name {stored.issuer.crl_url}",
                "What is in certificates never changes: have the old URL lead here until the last one has ended",
            )


def _judge_health(about: str, answer: _Answer | str, *, is_running: bool) -> Finding:
    if isinstance(answer, str):
        if not is_running:
            return warning(about, f"does not answer ({answer}), and no server is running", _START_IT)
        return error(about, f"does not answer: {answer}", "Relying parties ask there: let it lead to status_listen")
    if answer.status != 200 or answer.body != b"live\n":
        return error(about, f"is answered by something else (HTTP {answer.status})", "Let it lead to status_listen")
    if not is_running:
        return error(
            about, "answers, but not this data directory's server", "Another server has the URL: see what runs there"
        )
    return ok(about, "answers")


def _judge_date(answer: _Answer, now: datetime) -> Finding | None:
    """The Date header of whoever answers for `status_url`: a proxy's clock where there is one, ours where there is none."""
    try:
        theirs = parsedate_to_datetime(answer.date)
    except ValueError:
        return None
    skew = theirs - now
    if abs(skew.total_seconds()) <= _MAX_SKEW:
        return ok("clock", "agrees with the one that answers for server.status_url")
    which = "behind" if skew.total_seconds() > 0 else "ahead of"
    return warning(
        "clock",
        f"is {format_span(skew)} {which} the one that answers for server.status_url",
        "Set both by NTP: certificates and CRLs that begin in the future are refused",
    )


async def _check_directory(session: aiohttp.ClientSession, config: Config, *, is_running: bool) -> Finding:
    url = config.urls.directory
    answer = await _fetch(session, url)
    about = f"ACME directory {url}"
    if isinstance(answer, str):
        return (error if is_running else warning)(
            about,
            f"cannot be fetched: {answer}",
            "ACME clients begin there: let it lead to acme_listen, and trust our root",
        )
    if answer.status != 200 or f'"{config.urls.new_nonce}"'.encode() not in answer.body:
        return error(
            about,
            f"is not ours (HTTP {answer.status})",
            "Let base_url lead to acme_listen; restart after a change of base_url",
        )
    return ok(about, "is served, over TLS that our root vouches for")


async def _check_crl_url(session: aiohttp.ClientSession, stored: StoredIssuer, kept: Kept, now: datetime) -> Finding:
    """The CRL at the URL that stands in certificates: this issuer's, signed, in time, and the newest."""
    url = stored.issuer.crl_url
    about = f"CRL at {url}"
    answer = await _fetch(session, url)
    if isinstance(answer, str):
        return error(about, f"cannot be fetched: {answer}", "It stands in certificates: let it lead to status_listen")
    if answer.status != 200:
        return error(
            about, f"is answered with HTTP {answer.status}", "It stands in certificates: let it lead to status_listen"
        )
    try:
        crl = x509.load_der_x509_crl(answer.body)
        verify_with(stored.issuer.public_key, crl.signature, crl.tbs_certlist_bytes)
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (ValueError, x509.ExtensionNotFound, PkiError) as failure:
        return error(
            about, f"is not the issuer's CRL: {failure}", "Something else answers there: let it lead to status_listen"
        )
    if crl.next_update_utc is None or crl.next_update_utc <= now:
        return error(
            about, f"number {number} is over", "Clients accept nothing: see the server's log, and caches in between"
        )
    newest = kept.crls.get(stored.issuer.id)
    if newest is not None and number < newest.number:
        return warning(
            about,
            f"number {number} is served, {newest.number} is the newest",
            "A cache in between keeps it: at most 5 minutes",
        )
    return ok(about, f"number {number} is served, and signed by the issuer")


async def _check_ocsp_url(
    session: aiohttp.ClientSession, config: Config, stored: StoredIssuer, now: datetime
) -> Finding:
    """The OCSP answer for our own listener's certificate, or for the responder's where another issuer made that."""
    url = stored.issuer.ocsp_url
    about = f"OCSP at {url}"
    issuer = stored.issuer.certificate
    subject = _certificate_of(stored, config)
    if subject is None:
        return warning(about, "not asked: there is no certificate of this issuer to ask about", "Start the server")
    request = ocsp.OCSPRequestBuilder().add_certificate(subject, issuer, hashes.SHA256()).build()
    answer = await _fetch(session, url, request.public_bytes(Encoding.DER))
    if isinstance(answer, str):
        return error(about, f"cannot be asked: {answer}", "It stands in certificates: let it lead to status_listen")
    return _judge_ocsp(about, answer.body, issuer, subject.serial_number, now)


def _judge_ocsp(about: str, body: bytes, issuer: x509.Certificate, serial: int, now: datetime) -> Finding:
    """An answer about `serial`: the issuer's or its delegate's, "good", and in time."""
    try:
        response = ocsp.load_der_ocsp_response(body)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return error(about, f"answers {response.response_status.name}", "See the server's log")
        signer = response.certificates[0]
        signer.verify_directly_issued_by(issuer)
        verify_with(signer.public_key(), response.signature, response.tbs_response_bytes)
    except (ValueError, TypeError, IndexError, PkiError, InvalidSignature) as failure:
        return error(
            about,
            f"is not the issuer's answer: {_say(failure)}",
            "Something else answers there, or see the server's log",
        )
    if response.serial_number != serial or response.certificate_status is not ocsp.OCSPCertStatus.GOOD:
        said = f"says {response.certificate_status.name} of our own certificate {format_serial(serial)}"
        return warning(about, said, "If it was not revoked, see the server's log")
    if response.next_update_utc is None or response.next_update_utc <= now:
        return error(about, "its answer is over", "Look at the clock, and at caches in between")
    return ok(about, f"says good of serial {format_serial(serial)}, signed for the issuer")


def _certificate_of(stored: StoredIssuer, config: Config) -> x509.Certificate | None:
    data_dir = config.server.data_dir
    for path in (data_dir / LISTENER_FILE, data_dir / "keys" / f"{stored.issuer.id}.ocsp.pem"):
        try:
            certificate = x509.load_der_x509_certificate(pem.load_credential(path).chain[0])
        except (AcmecaError, ValueError, IndexError):
            continue
        if certificate.issuer == stored.issuer.certificate.subject:
            return certificate
    return None


# --- fetching -----------------------------------------------------------------------------------------------------


def _trust(kept: Kept) -> ssl.SSLContext:
    """Our roots, and what the system trusts: a proxy in front may have a certificate from elsewhere."""
    context = ssl.create_default_context()
    for stored in kept.issuers:
        if stored.is_root:
            context.load_verify_locations(cadata=to_pem(stored.issuer.certificate_der).decode())
    return context


def _session(context: ssl.SSLContext | None = None) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context or ssl.create_default_context()),
        timeout=aiohttp.ClientTimeout(total=_SECONDS),
        trust_env=False,  # relying parties have no proxy of ours
        auto_decompress=False,
    )


async def _fetch(session: aiohttp.ClientSession, url: str, post: bytes | None = None) -> _Answer | str:
    """What a URL gives, or why it gives nothing. No redirect is followed: what is in certificates has to answer itself."""
    headers = {} if post is None else {"Content-Type": "application/ocsp-request"}
    try:
        async with session.request(
            "GET" if post is None else "POST", url, data=post, headers=headers, allow_redirects=False
        ) as response:
            body = bytearray()
            async for chunk in response.content.iter_chunked(_CHUNK):
                body += chunk
                if len(body) > _MAX_ANSWER:
                    return f"its answer has more than {_MAX_ANSWER} bytes"
            return _Answer(response.status, bytes(body), response.headers.get("Date", ""))
    except (aiohttp.ClientError, OSError, TimeoutError) as failure:
        return _say(failure)


def _say(failure: BaseException) -> str:
    if isinstance(failure, TimeoutError):
        return f"nothing came within {_SECONDS:g} s"
    if isinstance(failure, aiohttp.ClientConnectorError) and failure.os_error.strerror:
        return failure.os_error.strerror
    return str(failure) or type(failure).__name__
