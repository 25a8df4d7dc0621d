"""The outside OCSP client of the benchmark: prebuilt requests, a plain HTTP/1.1 connection, and the check of answers.

Rule 1: what is sent is built before the clock starts; a nonce alone is put in at the last moment.
Rule 2: every answer is looked at (HTTP status, content type, OCSP success, the serial asked for), by means so cheap that
the generator stays below the server. A share of them is kept and verified in full after the clock.
"""

import asyncio
import base64
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote, urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from benchmarks import _measure as measure

NONCE_OCTETS: Final = 32  # RFC 9654 §2.1: clients "MUST use a length of at least 32 octets"
HASHES: Final[Mapping[str, Callable[[], hashes.HashAlgorithm]]] = {"sha1": hashes.SHA1, "sha256": hashes.SHA256}
CONTENT_TYPE: Final = b"application/ocsp-response"  # RFC 6960 §A.2

# RFC 6960 §4.2.1 OCSPResponseStatus
RESPONSE_STATUS: Final = {1: "malformedRequest", 2: "internalError", 3: "tryLater", 5: "sigRequired", 6: "unauthorized"}


# --- requests --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Query:
    """A request for one certificate's status, ready to send by one method.

    With a nonce, `der` ends in NONCE_OCTETS octets that are replaced for each sending.
    """

    method: str
    serial: int
    serial_der: bytes
    der: bytes
    target: "Target"
    wire: bytes

    def with_fresh_nonce(self) -> tuple[bytes, bytes]:
        """The octets to send with a new nonce in them, and the nonce."""
        nonce = os.urandom(NONCE_OCTETS)
        return self.target.build_wire(self.method, self.der[:-NONCE_OCTETS] + nonce), nonce


@dataclass(frozen=True, slots=True)
class Target:
    """Where the responder listens."""

    host: str
    port: int
    authority: str
    path: str

    @classmethod
    def parse(cls, url: str) -> "Target":
        """The target of an http URL; `BenchmarkError` for anything else."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise measure.BenchmarkError(f"{url}: an OCSP URL is plain http (RFC 6960 §A.1)")
        return cls(host=parts.hostname, port=parts.port or 80, authority=parts.netloc, path=parts.path.rstrip("/"))

    def resolved(self, wire: bytes, *, timeout: float) -> "Target":
        """The same with the first address of the host that answers; `BenchmarkError` when none does.

        A whole request is sent, for `openssl ocsp` spins for ever on a connection that is closed without one.
        """
        try:
            with socket.create_connection((self.host, self.port), timeout=timeout) as probe:
                probe.sendall(wire)
                probe.recv(1)
                address: str = probe.getpeername()[0]
        except OSError as error:
            raise measure.BenchmarkError(f"{self.authority} does not answer: {error}") from None
        return replace(self, host=address)

    def build_wire(self, method: str, der: bytes) -> bytes:
        """One HTTP/1.1 request. GET: "{url}/{url-encoding of base-64 encoding of the DER}" (RFC 6960 §A.1)."""
        host = self.authority.encode("ascii")
        if method == "GET":
            path = f"{self.path}/{quote(base64.b64encode(der), safe='')}".encode("ascii")
            return b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (path, host)
        path = (self.path or "/").encode("ascii")
        return (
            b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Type: application/ocsp-request\r\nContent-Length: %d\r\n\r\n%b"
            % (path, host, len(der), der)
        )


def encode_serial(serial: int) -> bytes:
    """A serial as a DER INTEGER, tag and length included: what is searched for in each answer."""
    content = serial.to_bytes(serial.bit_length() // 8 + 1, "big", signed=True)
    return bytes((0x02, len(content))) + content


def build_queries(
    *,
    target: Target,
    issuer: x509.Certificate,
    serials: Sequence[int],
    methods: Sequence[str],
    algorithm: hashes.HashAlgorithm,
    nonce: bool,
) -> list[Query]:
    """A query for each serial and method, in that order."""
    name_hash = _digest(algorithm, issuer.subject.public_bytes())
    key_hash = _digest(algorithm, _subject_public_key(issuer))
    queries: list[Query] = []
    for serial in serials:
        builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(name_hash, key_hash, serial, algorithm)
        placeholder = os.urandom(NONCE_OCTETS)
        if nonce:
            builder = builder.add_extension(x509.OCSPNonce(placeholder), critical=False)
        der = builder.build().public_bytes(serialization.Encoding.DER)
        if nonce and not der.endswith(placeholder):
            raise measure.BenchmarkError("the nonce is not at the end of the request")  # with_fresh_nonce relies on it
        queries.extend(
            Query(
                method=method,
                serial=serial,
                serial_der=encode_serial(serial),
                der=der,
                target=target,
                wire=target.build_wire(method, der),
            )
            for method in methods
        )
    return queries


def _digest(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(data)
    return digest.finalize()


def _subject_public_key(certificate: x509.Certificate) -> bytes:
    # RFC 6960 §4.1.1: the hash is over "the value (excluding tag and length) of the subject public key field".
    public_key = certificate.public_key()
    if isinstance(public_key, rsa.RSAPublicKey):
        return public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return public_key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return public_key.public_bytes_raw()
    raise measure.BenchmarkError(f"the issuer has a {type(public_key).__name__}, which is not supported here")


def read_serials(path: Path) -> list[int]:
    """One serial a line in hexadecimal, colons and `0x` allowed, `#` for comments; doubles are dropped."""
    serials: dict[int, None] = {}
    for number, line in enumerate(path.read_text(encoding="ascii").splitlines(), start=1):
        text = line.partition("#")[0].strip().replace(":", "")
        if text:
            try:
                serial = int(text, 16)
            except ValueError:
                raise measure.BenchmarkError(f"{path}, line {number}: {text!r} is no hexadecimal serial") from None
            if not 0 < serial < 1 << 159:
                raise measure.BenchmarkError(f"{path}, line {number}: a serial is positive and at most 20 octets")
            serials[serial] = None
    return list(serials)


def read_certificate_serials(folder: Path, issuer: x509.Certificate) -> list[int]:
    """The serials of the folder's certificates (first of each .pem, .crt, .cer or .der) that name this issuer."""
    serials: dict[int, None] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in {".pem", ".crt", ".cer", ".der"}:
            data = path.read_bytes()
            try:
                certificate = (
                    x509.load_pem_x509_certificate(data) if b"-----" in data else x509.load_der_x509_certificate(data)
                )
            except ValueError as error:
                raise measure.BenchmarkError(f"{path}: {error}") from None
            if certificate.issuer == issuer.subject:
                serials[certificate.serial_number] = None
    return list(serials)


# --- responses -------------------------------------------------------------------------------------------------------


class MalformedResponseError(Exception):
    """Not the HTTP/1.x response that an OCSP client expects."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """One response; `length` is the octets it took on the wire."""

    status: int
    content_type: bytes
    body: bytes
    length: int
    keep_alive: bool


def parse_response(data: bytes, *, at_eof: bool) -> HttpResponse | None:
    """The response at the start of `data`, or None while it is incomplete (RFC 9112 §6.3).

    The body's length is Content-Length, or the chunks', or, with neither, everything until the connection ends.
    Raises `MalformedResponseError`.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > 65536:
            raise MalformedResponseError("a head of more than 64 KiB")
        return None
    head = data[:end].lower()
    if not head.startswith(b"http/1.") or not head[9:12].isdigit():
        raise MalformedResponseError(f"status line {data[:60]!r}")
    start = end + 4
    if b"\r\ntransfer-encoding: chunked" in head:
        decoded = _decode_chunks(data, start)
        if decoded is None:
            return None
        body, length = decoded
    elif (content_length := _field(head, b"content-length")) is not None:
        if not content_length.isdigit():
            raise MalformedResponseError(f"Content-Length {content_length!r}")
        length = start + int(content_length)
        if len(data) < length:
            return None
        body = data[start:length]
    elif at_eof:
        body, length = data[start:], len(data)
    else:
        return None
    connection = _field(head, b"connection")
    return HttpResponse(
        status=int(head[9:12]),
        content_type=_field(head, b"content-type") or b"",
        body=body,
        length=length,
        keep_alive=connection != b"close" if head.startswith(b"http/1.1") else connection == b"keep-alive",
    )


def _field(head: bytes, name: bytes) -> bytes | None:
    at = head.find(b"\r\n%b:" % name)
    if at < 0:
        return None
    return head[at + len(name) + 3 :].split(b"\r\n", 1)[0].strip()


def _decode_chunks(data: bytes, start: int) -> tuple[bytes, int] | None:
    """The body in chunks (RFC 9112 §7.1) from `start`, and where it ends; trailers are not expected."""
    parts = []
    while (line_end := data.find(b"\r\n", start)) >= 0:
        try:
            size = int(data[start:line_end].partition(b";")[0], 16)
        except ValueError:
            raise MalformedResponseError(f"chunk size {data[start:line_end]!r}") from None
        start = line_end + 2
        if len(data) < start + size + 2:
            return None
        parts.append(data[start : start + size])
        start += size + 2
        if size == 0:
            return b"".join(parts), start
    return None


def response_status(body: bytes) -> int | None:
    """The OCSPResponseStatus of a DER OCSPResponse (RFC 6960 §4.2.1), or None when the octets are no such thing."""
    if len(body) < 5 or body[0] != 0x30:
        return None
    start = 2 if body[1] < 0x80 else 2 + (body[1] & 0x7F)
    return body[start + 2] if body[start : start + 2] == b"\x0a\x01" and len(body) > start + 2 else None


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer kept for the full check after the clock."""

    query: Query
    nonce: bytes | None
    body: bytes


def lint_answer(sample: Sample, *, issuer: x509.Certificate, now: datetime) -> tuple[str, list[str]]:
    """The certificate status in an answer (or "none"), and what is wrong with the answer.

    1. It parses. 2. It has a single response for exactly the CertID that was asked. 3. It is current. 4. The issuer, or a
    responder that the issuer delegated (RFC 6960 §4.2.2.2), signed it. 5. A nonce in it is the one that was sent.
    """
    # Step 1.
    try:
        response = ocsp.load_der_ocsp_response(sample.body)
        answers = list(response.responses)
        asked = ocsp.load_der_ocsp_request(sample.query.der)
    except (ValueError, UnsupportedAlgorithm) as error:
        return "none", [f"the answer does not parse: {error}"]
    # Step 2.
    certificate_id = (asked.serial_number, asked.issuer_name_hash, asked.issuer_key_hash)
    single = next(
        (a for a in answers if (a.serial_number, a.issuer_name_hash, a.issuer_key_hash) == certificate_id), None
    )
    if single is None:
        return "none", ["no single response has the CertID that was asked"]
    findings = []
    # Step 3.
    if single.this_update_utc > now or (single.next_update_utc is not None and single.next_update_utc < now):
        findings.append(f"valid from {single.this_update_utc} to {single.next_update_utc}")
    # Step 4.
    if not any(_signed_by(response, signer) for signer in (issuer, *_delegates(response, issuer))):
        findings.append("neither the issuer nor a responder of its signed the answer")
    # Step 5.
    try:
        echoed = response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
    except x509.ExtensionNotFound:
        echoed = None
    if echoed is not None and echoed != sample.nonce:
        findings.append("the nonce is not the one that was sent")
    return single.certificate_status.name.lower(), findings


def _delegates(response: ocsp.OCSPResponse, issuer: x509.Certificate) -> list[x509.Certificate]:
    delegates = []
    for certificate in response.certificates:
        try:
            certificate.verify_directly_issued_by(issuer)
            usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound):
            continue
        if ExtendedKeyUsageOID.OCSP_SIGNING in usages:
            delegates.append(certificate)
    return delegates


def _signed_by(response: ocsp.OCSPResponse, signer: x509.Certificate) -> bool:
    public_key, algorithm = signer.public_key(), response.signature_hash_algorithm
    signature, tbs = response.signature, response.tbs_response_bytes
    try:
        if isinstance(public_key, ec.EllipticCurvePublicKey) and algorithm is not None:
            public_key.verify(signature, tbs, ec.ECDSA(algorithm))
        elif isinstance(public_key, rsa.RSAPublicKey) and algorithm is not None:
            public_key.verify(signature, tbs, padding.PKCS1v15(), algorithm)
        elif isinstance(public_key, ed25519.Ed25519PublicKey):
            public_key.verify(signature, tbs)
        else:
            return False
    except InvalidSignature:
        return False
    return True


# --- connections -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Record:
    """What the connections measured; times in seconds."""

    times: dict[str, Any] = field(default_factory=dict)
    failures: measure.Failures = field(default_factory=measure.Failures)
    samples: list[Sample] = field(default_factory=list)
    good: int = 0
    wire_octets: int = 0
    body_octets: int = 0
    nonces_echoed: int = 0
    connections: int = 0
    failures_in_a_row: int = 0

    def add_failure(self, kind: str, detail: str) -> None:
        """Count a failed request."""
        self.failures.add(kind, detail)
        self.failures_in_a_row += 1


class Connection(asyncio.Protocol):
    """One kept-alive connection: sends a query, waits for the answer, sends the next, until `next_query` has no more.

    `first` is sent as soon as it is connected, so that no connection is made without a request. `started` is when
    connecting began: the first answer's time includes it, as its client would feel.
    """

    def __init__(
        self,
        *,
        first: Query,
        next_query: Callable[[], Query | None],
        nonce: bool,
        keep_sample: Callable[[], bool],
        record: Record,
        started: float,
    ) -> None:
        self._next_query = next_query
        self._with_nonce = nonce
        self._keep_sample = keep_sample
        self._record = record
        self._query: Query | None = first
        self._nonce: bytes | None = None
        self._data = b""
        self._transport: asyncio.Transport | None = None
        self.started = started
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by behaviour, not by class
        self._record.connections += 1
        self._send()

    def data_received(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data
        self._receive(at_eof=False)

    def eof_received(self) -> None:
        self._receive(at_eof=True)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._query is not None:
            self._record.add_failure("connection lost", repr(exc) if exc else "closed before the answer was whole")
            self._query = None
        if not self.closed.done():
            self.closed.set_result(None)

    def abort_when_older(self, seconds: float) -> None:
        """Give up a query that has waited longer than `seconds`."""
        if self._query is not None and time.perf_counter() - self.started > seconds:
            self._query = None
            self._record.add_failure("timed out", f"no answer in {seconds} s")
            if self._transport is not None:
                self._transport.abort()

    def _send(self) -> None:
        if self._query is None or self._transport is None:
            return
        wire = self._query.wire
        if self._with_nonce:
            wire, self._nonce = self._query.with_fresh_nonce()
        self._transport.write(wire)

    def _receive(self, *, at_eof: bool) -> None:
        if self._query is None or self._transport is None:
            return
        try:
            response = parse_response(self._data, at_eof=at_eof)
        except MalformedResponseError as error:
            self._query = None
            self._record.add_failure("malformed HTTP", str(error))
            self._transport.abort()
            return
        if response is None:
            return
        now = time.perf_counter()
        self._judge(self._query, response, now - self.started)
        self._query = None
        self._data = self._data[response.length :]
        if response.keep_alive and not at_eof and (query := self._next_query()) is not None:
            self._query, self.started = query, now
            self._send()
        else:
            self._transport.close()

    def _judge(self, query: Query, response: HttpResponse, seconds: float) -> None:
        record, body = self._record, response.body
        if response.status != 200:
            record.add_failure(f"HTTP {response.status}", repr(body[:60]))
        elif response.content_type != CONTENT_TYPE:
            record.add_failure("content type", repr(response.content_type))
        elif (status := response_status(body)) != 0:
            name = "no OCSP response" if status is None else f"OCSP {RESPONSE_STATUS.get(status, status)}"
            record.add_failure(name, repr(body[:60]))
        elif query.serial_der not in body:
            record.add_failure("another serial", f"asked for {query.serial:x}")
        else:
            record.times[query.method].append(seconds)
            record.good += 1
            record.failures_in_a_row = 0
            record.wire_octets += response.length
            record.body_octets += len(body)
            if self._nonce is not None and self._nonce in body:
                record.nonces_echoed += 1
            if self._keep_sample():
                record.samples.append(Sample(query=query, nonce=self._nonce, body=body))
