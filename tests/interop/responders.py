"""What answers for the clients that cannot answer by themselves: a DNS zone, a web root, a TLS responder.

Rule 1: a client's hook is a shell script that writes a file, as an operator's would be; what answers here reads the files anew
for each question.
Rule 2: all of it is on loopback, in threads of the test's process, and gone when its `with` ends.
"""

import contextlib
import functools
import http.server
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import dns.message
import dns.name
import dns.rdatatype
import dns.rrset

ZONE: Final = "interop.internal"

_HOOK: Final = """\
#!/bin/sh
# Called by lego (exec), uacme, dehydrated, and by certbot (--manual-auth-hook) without arguments: a TXT record for dns-01.
set -eu
add() {{ printf '%s\\n' "$2" >> "{records}/${{1%.}}"; }}
case "${{1:-certbot}}" in
certbot) add "_acme-challenge.${{CERTBOT_DOMAIN#\\*.}}" "$CERTBOT_VALIDATION" ;;
present) add "$2" "$3" ;;
deploy_challenge) add "_acme-challenge.${{2#\\*.}}" "$4" ;;
begin) [ "$2" = dns-01 ] || exit 1; add "_acme-challenge.${{3#\\*.}}" "$5" ;;
esac
"""


# --- dns-01 -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Zone:
    """A DNS server for `interop.internal`: every name in it is this machine, but for those below `nowhere.interop.internal`, which have
    no address; TXT records are lines of files.

    `records` has a file for each name; `hook` is the script that writes them; `server` is an address for `validation.resolvers`.
    """

    records: Path
    hook: Path
    port: int

    @property
    def server(self) -> str:
        return f"127.0.0.1:{self.port}"

    def txt(self, name: str) -> list[str]:
        """The TXT records of a name."""
        path = self.records / name
        return path.read_text().split() if path.exists() else []


def _answer(records: Path, wire: bytes) -> bytes:
    query = dns.message.from_wire(wire)
    response = dns.message.make_response(query)
    name = query.question[0].name.to_text(omit_final_dot=True).lower()
    kind = dns.rdatatype.to_text(query.question[0].rdtype)
    found: list[str] = []
    if kind == "A" and name.endswith(f".{ZONE}") and not name.endswith(f".nowhere.{ZONE}"):
        found = ["127.0.0.1"]
    elif kind == "SOA" and name == ZONE:
        found = [f"ns.{ZONE}. hostmaster.{ZONE}. 1 3600 600 86400 60"]
    elif kind == "TXT" and (records / name).exists():
        found = (records / name).read_text().split()
    if found:
        response.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", kind, *found))
    return response.to_wire(max_size=65535)


@contextlib.contextmanager
def dns_zone(directory: Path) -> Iterator[Zone]:
    """Serve the zone over UDP and TCP at one port; its files are in `directory`."""
    records = directory / "records"
    records.mkdir()
    hook = directory / "dns-hook"
    hook.write_text(_HOOK.format(records=records))
    hook.chmod(0o700)

    class Udp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request[1].sendto(_answer(records, self.request[0]), self.client_address)

    class Tcp(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            size = int.from_bytes(self.rfile.read(2), "big")
            answer = _answer(records, self.rfile.read(size))
            self.wfile.write(len(answer).to_bytes(2, "big") + answer)

    for _ in range(20):
        udp = socketserver.UDPServer(("127.0.0.1", 0), Udp)
        port = udp.server_address[1]
        try:
            tcp = socketserver.TCPServer(("127.0.0.1", port), Tcp)
        except OSError:
            udp.server_close()
            continue
        with _in_thread(udp), _in_thread(tcp):
            yield Zone(records, hook, port)
        return
    raise AssertionError("no port was free for UDP and TCP")


# --- http-01 ------------------------------------------------------------------------------------------------------


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Nothing on the test's terminal."""


@contextlib.contextmanager
def web_root(directory: Path, port: int) -> Iterator[Path]:
    """Serve a directory's files on both loopback addresses; yields where tokens belong."""
    tokens = directory / ".well-known" / "acme-challenge"
    tokens.mkdir(parents=True, exist_ok=True)
    handler = functools.partial(_Files, directory=str(directory))

    class Six(http.server.HTTPServer):
        address_family = socket.AF_INET6

    with contextlib.ExitStack() as stack:
        stack.enter_context(_in_thread(http.server.HTTPServer(("127.0.0.1", port), handler)))
        with contextlib.suppress(OSError):  # a machine without IPv6
            stack.enter_context(_in_thread(Six(("::1", port), handler)))
        yield tokens


# --- tls-alpn-01 --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def alpn_responder(certificates: Path, port: int) -> Iterator[None]:
    """A TLS server that answers `acme-tls/1` with `NAME.crt.pem` and `NAME.key.pem`, as nginx would behind dehydrated."""

    def choose(connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["acme-tls/1"])
        context.load_cert_chain(certificates / f"{name}.crt.pem", certificates / f"{name}.key.pem")
        connection.context = context

    outer = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    outer.set_alpn_protocols(["acme-tls/1"])
    outer.sni_callback = choose

    class Handshake(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError), outer.wrap_socket(self.request, server_side=True) as connection:
                connection.recv(1)

    with _in_thread(_Reusing(("127.0.0.1", port), Handshake)):
        yield


class _Reusing(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@contextlib.contextmanager
def _in_thread(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
