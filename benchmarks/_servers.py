"""The servers that the comparisons start themselves: acmeca from a checkout, and its peers, each in a folder of its own.

Rule 1: all listen on loopback, on ports that were free, and are stopped when their block ends, however it ends.
Rule 2: a server's settings are those that README.md names for it, and the same for every figure.
"""

import contextlib
import datetime as dt
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks._measure import BenchmarkError

START_SECONDS: Final = 20.0
CHECKOUT: Final = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running ACME server. It fetches http-01 answers from `http_port` at one of `http_addresses`; `ca_bundle` holds what
    its TLS is trusted by.
    """

    pid: int
    directory: str
    ca_bundle: Path
    http_port: int
    http_addresses: tuple[str, ...] = ("127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Acmeca(Server):
    """A running acmeca, and the seconds from its start to its first answer."""

    status: str
    data_dir: Path
    config: Path
    start_seconds: float


# --- acmeca ----------------------------------------------------------------------------------------------------------


@contextmanager
def acmeca(folder: Path, *, checkout: Path = CHECKOUT, serve: Sequence[str] = ()) -> Iterator[Acmeca]:
    """`acmeca serve` of a checkout with a fresh CA, started twice: the second start is the one that is timed.

    `serve` are further arguments of `acmeca serve`.
    """
    acme_port, status_port, admin_port, http_port = free_ports(4)
    config = folder / "acmeca.toml"
    config.write_text(
        f"""
[server]
demo = true
base_url = "https://localhost:{acme_port}"
status_url = "http://localhost:{status_port}"
data_dir = "data"
acme_listen = "localhost:{acme_port}"
status_listen = "localhost:{status_port}"
admin_listen = "localhost:{admin_port}"
[policy]
allowed_names = ["*.localhost"]
[validation]
allowed_networks = ["127.0.0.0/8", "::1/128"]
http_port = {http_port}
"""
    )
    # `-m` looks in the working directory first, so that any checkout runs in this environment.
    command = [sys.executable, "-m", "acmeca", "--config", str(config), "serve", "--init", "--log-level", "warning"]
    command += serve
    status = f"http://localhost:{status_port}"
    with running(command, log=folder / "log", cwd=checkout, ready=f"{status}/health/live"):
        pass
    with running(command, log=folder / "log", cwd=checkout, ready=f"{status}/health/live") as process:
        yield Acmeca(
            pid=process.pid,
            directory=f"https://localhost:{acme_port}/acme/directory",
            ca_bundle=folder / "data" / "root.pem",
            http_port=http_port,
            status=status,
            data_dir=folder / "data",
            config=config,
            start_seconds=process.seconds,
        )


# --- peers -----------------------------------------------------------------------------------------------------------


@contextmanager
def pebble(folder: Path) -> Iterator[Server]:
    """Pebble with the resolver that it needs, without its random sleeps and deliberate refusals."""
    acme_port, management_port, http_port, tls_port, dns_port, resolver_port = free_ports(6)
    certificate, key = write_tls_certificate(folder)
    config = folder / "pebble.json"
    settings = {
        "listenAddress": f"127.0.0.1:{acme_port}",
        "managementListenAddress": f"127.0.0.1:{management_port}",
        "certificate": str(certificate),
        "privateKey": str(key),
        "httpPort": http_port,
        "tlsPort": tls_port,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
    }
    config.write_text(json.dumps({"pebble": settings}))
    resolver = ["pebble-challtestsrv", "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""]
    resolver += ["-dns01", f"127.0.0.1:{dns_port}", "-management", f"127.0.0.1:{resolver_port}"]
    command = ["pebble", "-config", str(config), "-dnsserver", f"127.0.0.1:{dns_port}"]
    environment = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
    directory = f"https://localhost:{acme_port}/dir"
    with (
        running(resolver, log=folder / "resolver.log", cwd=folder),
        running(
            command, log=folder / "log", cwd=folder, ready=directory, ca_bundle=certificate, environment=environment
        ) as process,
    ):
        yield Server(pid=process.pid, directory=directory, ca_bundle=certificate, http_port=http_port)


Contender = Callable[[Path], contextlib.AbstractContextManager[Server]]
CONTENDERS: Final[Mapping[str, Contender]] = {"acmeca": acmeca, "pebble": pebble}


def find_contender(name: str) -> Contender:
    """A contender by its name: a key of `CONTENDERS`, or `acmeca@DIRECTORY` for acmeca as another checkout has it.

    Raises `BenchmarkError` for any other.
    """
    kind, at, place = name.partition("@")
    if at and kind == "acmeca" and Path(place, "acmeca").is_dir():
        return lambda folder: acmeca(folder, checkout=Path(place).resolve())
    if name not in CONTENDERS:
        raise BenchmarkError(f"{name} is none of {', '.join(CONTENDERS)}, acmeca@DIRECTORY (a checkout)")
    return CONTENDERS[name]


# --- processes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Process:
    """A started process, and the seconds from its start to its first answer."""

    pid: int
    seconds: float


@contextmanager
def running(
    command: Sequence[str],
    *,
    log: Path,
    cwd: Path,
    ready: str | None = None,
    ca_bundle: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Process]:
    """The process of a command, from when the URL `ready` is answered. Raises `BenchmarkError` when it does not come up."""
    begun = time.monotonic()
    with log.open("ab") as output:
        try:
            popen = subprocess.Popen(
                command, stdout=output, stderr=output, cwd=cwd, env={**os.environ, **(environment or {})}
            )
        except OSError as error:
            raise BenchmarkError(f"{command[0]} cannot be started: {error.strerror}") from None
    try:
        if ready is not None and not _await_answer(ready, popen, ca_bundle=ca_bundle):
            raise BenchmarkError(f"{command[0]} did not start:\n{log.read_text(errors='replace')}")
        yield Process(popen.pid, time.monotonic() - begun)
    finally:
        popen.send_signal(signal.SIGTERM)
        try:
            popen.wait(timeout=START_SECONDS)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()


def _await_answer(url: str, popen: subprocess.Popen[bytes], *, ca_bundle: Path | None) -> bool:
    context = None if ca_bundle is None else ssl.create_default_context(cafile=ca_bundle)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and popen.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1, context=context):
            return True
        time.sleep(0.005)
    return False


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def write_tls_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for `localhost` and its key, P-256 like acmeca's own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = folder / "tls.pem", folder / "tls.key"
    certificate_path.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate_path, key_path
