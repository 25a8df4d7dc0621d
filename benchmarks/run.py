"""`make bench`: the figures of acmeca on this machine, in two minutes.

Starts `acmeca serve` with a CA in a temporary directory on free ports, measures its start, its memory at rest, orders by 1,
4 and 16 clients, and OCSP by GET and POST, with and without a nonce; prints a table a step, stops the server.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `python benchmarks/run.py` finds the package, too

from benchmarks import acme, ocsp
from benchmarks._servers import Acmeca, acmeca

ORDERS = 400
OCSP_SECONDS = 5.0


def resident_mib(pid: int) -> float:
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) / 1024 if match else 0.0


def issuer_of(server: Acmeca) -> tuple[Path, str]:
    """The intermediate as a file, and the URL of its responder."""
    command = [sys.executable, "-m", "acmeca", "--config", str(server.config), "crl", "--json"]
    crls: list[dict[str, Any]] = json.loads(subprocess.check_output(command))["crls"]
    issuer = next(item["issuer"] for item in crls if not item["is_root"])
    path = server.data_dir.parent / "issuer.pem"
    with urllib.request.urlopen(f"{server.status}/issuer/{issuer}.pem", timeout=5) as response:
        path.write_bytes(response.read())
    return path, f"{server.status}/ocsp/{issuer}"


def serials_of(server: Acmeca) -> Path:
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
                        ca_bundle=server.ca_bundle,
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
