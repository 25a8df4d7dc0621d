"""`make bench`: the figures of acmeca on this machine, in two minutes.

Starts `acmeca serve` with a CA in a temporary directory on free ports, measures its start, its memory at rest, orders by 1,
4 and 16 clients, and OCSP by GET and POST, with and without a nonce; prints a table a step, stops the server.
"""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `python benchmarks/run.py` finds the package, too

from benchmarks import acme, ocsp

START_SECONDS = 20.0
ORDERS = 400
OCSP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running acmeca: its process, its data, and how long it took to answer."""

    pid: int
    directory: str
    status: str
    data_dir: Path
    config: Path
    http_port: int
    start_seconds: float


@contextmanager
def acmeca(folder: Path) -> Iterator[Server]:
    """`acmeca serve` with a fresh CA, started twice: the second start is the one that is timed."""
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
    start(config, folder, f"http://localhost:{status_port}").stop()
    process = start(config, folder, f"http://localhost:{status_port}")
    try:
        yield Server(
            pid=process.popen.pid,
            directory=f"https://localhost:{acme_port}/acme/directory",
            status=f"http://localhost:{status_port}",
            data_dir=folder / "data",
            config=config,
            http_port=http_port,
            start_seconds=process.seconds,
        )
    finally:
        process.stop()


@dataclass(frozen=True, slots=True)
class Process:
    """The server's process, and the seconds from its start to its first answer."""

    popen: subprocess.Popen[bytes]
    seconds: float

    def stop(self) -> None:
        self.popen.send_signal(signal.SIGTERM)
        self.popen.wait(timeout=START_SECONDS)


def start(config: Path, folder: Path, status: str) -> Process:
    """Start the server and wait for `/health/live`."""
    begun = time.monotonic()
    with (folder / "log").open("ab") as log:
        command = [sys.executable, "-m", "acmeca", "--config", str(config), "serve", "--init", "--log-level", "warning"]
        popen = subprocess.Popen(command, stdout=log, stderr=log)
    while time.monotonic() - begun < START_SECONDS:
        try:
            with urllib.request.urlopen(f"{status}/health/live", timeout=1):
                return Process(popen, time.monotonic() - begun)
        except OSError:
            if popen.poll() is not None:
                break
            time.sleep(0.005)
    popen.kill()
    popen.wait()
    raise SystemExit(f"acmeca did not start:\n{(folder / 'log').read_text()}")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def resident_mib(pid: int) -> float:
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) / 1024 if match else 0.0


def issuer_of(server: Server) -> tuple[Path, str]:
    """The intermediate as a file, and the URL of its responder."""
    command = [sys.executable, "-m", "acmeca", "--config", str(server.config), "crl", "--json"]
    crls: list[dict[str, Any]] = json.loads(subprocess.check_output(command))["crls"]
    issuer = next(item["issuer"] for item in crls if not item["is_root"])
    path = server.data_dir.parent / "issuer.pem"
    with urllib.request.urlopen(f"{server.status}/issuer/{issuer}.pem", timeout=5) as response:
        path.write_bytes(response.read())
    return path, f"{server.status}/ocsp/{issuer}"


def serials_of(server: Server) -> Path:
    command = [sys.executable, "-m", "acmeca", "--config", str(server.config), "list", "--json", "--limit", "10000"]
    found = json.loads(subprocess.check_output(command))["certificates"]
    path = server.data_dir.parent / "serials.txt"
    path.write_text("\n".join(item["serial"] for item in found))
    return path


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="acmeca-bench-") as name, acmeca(Path(name)) as server:
        print(
            f"start to first answer: {server.start_seconds:.2f} s   memory at rest: {resident_mib(server.pid):.0f} MiB"
        )
        print(f"cores: {os.cpu_count()}\n")
        for clients in (1, 4, 16):
            report = asyncio.run(
                acme.run(
                    acme.Settings(
                        directory=server.directory,
                        ca_bundle=server.data_dir / "root.pem",
                        clients=clients,
                        orders=ORDERS,
                        http_port=server.http_port,
                        server_pids=(server.pid,),
                    )
                )
            )
            print(acme.format_report(report), "\n")
        issuer, url = issuer_of(server)
        for method, nonce in (("POST", False), ("GET", False), ("POST", True)):
            report = asyncio.run(
                ocsp.run(
                    ocsp.Settings(
                        url=url,
                        issuer=issuer,
                        serials=serials_of(server),
                        method=method,
                        nonce=nonce,
                        clients=4,
                        seconds=OCSP_SECONDS,
                        server_pids=(server.pid,),
                    )
                )
            )
            print(ocsp.format_report(report), "\n")
        print(f"memory after it all: {resident_mib(server.pid):.0f} MiB")


if __name__ == "__main__":
    main()
