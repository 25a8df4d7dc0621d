"""What the tests with relying parties share: certificates of a served CA on disk, and openssl's commands about them."""

import asyncio
import re
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.http_peer import http_peer
from tests.support.installations import Installation
from tests.support.persistent_client import Board, Obtained, PersistentClient, client_session
from tests.support.processes import Finished, run


@dataclass(frozen=True)
class Leaf:
    """A certificate on disk, with its chain and what openssl calls them."""

    serial: str  # lower-case hex
    certificate: Path
    chain: Path
    key: Path


@dataclass(frozen=True)
class World:
    """A CA with a good certificate, another good one, and one that was revoked (superseded)."""

    ca: Installation
    directory: Path
    good: Leaf
    other: Leaf
    revoked: Leaf

    @property
    def intermediate(self) -> Path:
        return self.good.chain

    def extension(self, path: Path, name: str) -> str:
        """The first URL of an extension of a certificate."""
        text = run(["openssl", "x509", "-in", path, "-noout", "-ext", name]).stdout
        match = re.search(r"URI:(\S+)", text)
        assert match is not None, text
        return match[1]

    @property
    def ocsp_url(self) -> str:
        return run(["openssl", "x509", "-in", self.good.certificate, "-noout", "-ocsp_uri"]).stdout.strip()

    def ocsp(self, *arguments: str | Path, url: str | None = None, code: int | None = 0) -> Finished:
        """`openssl ocsp` with the root as its only trust."""
        return run(
            [
                *("openssl", "ocsp", "-CAfile", self.ca.root_path, "-url", url or self.ocsp_url),
                *("-issuer", self.intermediate, *arguments),
            ],
            code=code,
        )

    def verify(self, path: Path, *arguments: str | Path, code: int = 0) -> Finished:
        return run(
            ["openssl", "verify", "-CAfile", self.ca.root_path, "-untrusted", self.intermediate, *arguments, path],
            code=code,
        )


def make_world(ca: Installation, directory: Path) -> World:
    """Order the three certificates over ACME, and revoke one by the command line."""
    leaves = [_written(directory, item) for item in asyncio.run(_obtain(ca, ("good", "other", "revoked")))]
    world = World(ca, directory, *leaves)
    ca.cli("revoke", world.revoked.serial, "--reason", "superseded", "--yes")
    return world


async def _obtain(ca: Installation, names: tuple[str, ...]) -> list[Obtained]:
    board = Board()
    async with (
        http_peer(board.script, port=ca.http_port),
        client_session(ca.root_path.read_bytes()) as session,
    ):
        account = PersistentClient(session, ca.directory_url, board, deadline=time.monotonic() + 60)
        return [await account.obtain(f"{name}.openssl.localhost") for name in names]


def _written(directory: Path, obtained: Obtained) -> Leaf:
    leaf, separator, chain = obtained.chain_pem.partition("-----END CERTIFICATE-----\n")
    written = Leaf(
        serial=obtained.serial,
        certificate=directory / f"{obtained.serial}.cert.pem",
        chain=directory / f"{obtained.serial}.chain.pem",
        key=directory / f"{obtained.serial}.key.pem",
    )
    written.certificate.write_text(leaf + separator)
    written.chain.write_text(chain)
    written.key.write_bytes(obtained.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return written


def fetched(url: str, path: Path) -> Path:
    """What is at a URL, in a file."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=30) as response:
        path.write_bytes(response.read())
    return path
