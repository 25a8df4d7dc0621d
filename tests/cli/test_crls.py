"""crl, against a server that runs and against a store that nobody serves; a root's CRL, signed where its key is."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sqlite3
import stat
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat

from acmeca import app
from acmeca.cli.connection import connected
from acmeca.cli.root_crl import find_root, parse_draft, sign_draft
from acmeca.config import load_config
from acmeca.errors import AcmecaError, Conflict
from acmeca.keystore.pem import load_key, write_key
from acmeca.service.administration import Administration
from acmeca.service.arguments import Json
from acmeca.web.control import build_control_app, user_name
from acmeca.web.listener import Listener
from tests.cli.conftest import Acmeca
from tests.support.installations import Installation
from tests.support.processes import Process, clean_environment, run


def test_crl_in_blocks(running: Installation, acmeca: Acmeca) -> None:
    said = acmeca(running, "crl")
    assert (said.code, said.stderr) == (0, "")
    root, issuing = said.stdout.split("\n\n")
    assert root.startswith("CN=Example CA Root,O=Example\n")
    assert issuing.startswith("CN=Example CA Intermediate,O=Example\n")
    for block in (root, issuing):
        names = [line.split("  ")[1].strip() for line in block.splitlines()[1:]]
        assert names == ["issuer", "url", "number", "entries", "this update", "next update"]


def test_crl_before_the_first_start(stopped: Installation, acmeca: Acmeca) -> None:
    said = acmeca(stopped, "crl")
    assert said.code == 0
    assert "none yet: the server makes the first one when it starts" in said.stdout
    issuer = json.loads(acmeca(stopped, "crl", "--json").stdout)["crls"][1]["issuer"]
    refused = acmeca(stopped, "crl", "--issuer", issuer, "--output", str(stopped.directory / "x.crl"))
    assert refused.code == 1
    assert "has no CRL yet" in refused.stderr


@pytest.mark.parametrize("form", ["DER", "PEM"])
def test_crl_to_a_file(ca: Installation, acmeca: Acmeca, tmp_path: Path, form: str) -> None:
    issuer = json.loads(acmeca(ca, "crl", "--json").stdout)["crls"][1]["issuer"]
    output = tmp_path / "issuing.crl"
    said = acmeca(
        ca, "crl", "--issuer", issuer, "--publish", "--output", str(output), *(["--pem"] if form == "PEM" else [])
    )
    assert said.code == 0
    assert stat.S_IMODE(output.stat().st_mode) == 0o644
    crl = (x509.load_pem_x509_crl if form == "PEM" else x509.load_der_x509_crl)(output.read_bytes())
    number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    assert said.stdout == f"{output}: CRL {number} of CN=Example CA Intermediate,O=Example\n"


def test_the_crl_of_a_root_is_not_made_here(ca: Installation, acmeca: Acmeca) -> None:
    root = json.loads(acmeca(ca, "crl", "--json").stdout)["crls"][0]["issuer"]
    said = acmeca(ca, "crl", "--issuer", root, "--publish")
    assert said.code == 1
    assert "a root's CRL is made where its key is" in said.stderr


# --- a root's CRL -------------------------------------------------------------------------------------------------

YEAR: Final = timedelta(days=396)


def root_key(installation: Installation) -> Path:
    """Where `init` left it."""
    (path,) = (installation.data_dir / "root").glob("*.key.pem")
    return path


def listed(installation: Installation, acmeca: Acmeca) -> dict[str, Any]:
    """The root's CRL as `acmeca crl` tells of it."""
    said = acmeca(installation, "crl", "--json")
    assert said.code == 0, said.stderr
    root: dict[str, Any] = json.loads(said.stdout)["crls"][0]
    assert root["is_root"]
    return root


def numbers(installation: Installation) -> list[tuple[int, bool]]:
    """The numbers that were taken for CRLs of the root, and whether each was published."""
    database = sqlite3.connect(f"{installation.database_path.as_uri()}?mode=ro", uri=True)
    try:
        return database.execute(
            "SELECT number, der IS NOT NULL FROM crls JOIN issuers ON issuers.id = crls.issuer_id"
            " WHERE parent_id IS NULL ORDER BY number"
        ).fetchall()
    finally:
        database.close()


def root_crl(installation: Installation, acmeca: Acmeca, path: Path) -> x509.CertificateRevocationList:
    issuer = listed(installation, acmeca)["issuer"]
    assert acmeca(installation, "crl", "--issuer", issuer, "--output", str(path)).code == 0
    return x509.load_der_x509_crl(path.read_bytes())


def test_a_root_crl_is_renewed(ca: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
    before = listed(ca, acmeca)
    said = acmeca(ca, "crl", "--root-key", str(root_key(ca)))
    after = listed(ca, acmeca)
    assert (said.code, said.stderr) == (0, "")
    assert said.stdout.splitlines() == [
        f"Published CRL {after['number']} of CN=Example CA Root,O=Example: 0 entries, good until {after['next_update']}.",
        f"Now take the key back to its safe, and remove {root_key(ca)} from this machine: nothing here needs it.",
    ]
    assert after["number"] > before["number"]
    crl = root_crl(ca, acmeca, tmp_path / "root.crl")
    root = x509.load_pem_x509_certificate(ca.root_path.read_bytes())
    public_key = root.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    assert crl.is_signature_valid(public_key)
    assert crl.next_update_utc is not None
    assert crl.next_update_utc - crl.last_update_utc == YEAR
    assert abs(crl.last_update_utc - datetime.now(UTC)) < timedelta(minutes=2)


def test_a_root_crl_by_a_process_of_its_own(ca: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
    """As an administrator does it, with a key from elsewhere; openssl verifies what is published."""
    key = tmp_path / "from the safe.pem"
    key.write_bytes(root_key(ca).read_bytes())
    key.chmod(0o600)
    shown = json.loads(ca.cli("crl", "--root-key", str(key), "--next-update", "30d", "--json").stdout)
    assert shown == listed(ca, acmeca)
    lasts = datetime.fromisoformat(shown["next_update"]) - datetime.fromisoformat(shown["this_update"])
    assert lasts == timedelta(days=30)
    root_crl(ca, acmeca, tmp_path / "root.crl")
    said = run(
        ["openssl", "crl", "-inform", "DER", "-in", tmp_path / "root.crl", "-CAfile", ca.root_path, "-verify", "-text"]
    )
    assert "verify OK" in said.said
    assert re.search(rf"X509v3 CRL Number: *\n\s+{shown['number']}\n", said.stdout)
    assert "No Revoked Certificates" in said.stdout


def test_the_audit_names_who_renewed_it(stopped: Installation, acmeca: Acmeca) -> None:
    number = json.loads(acmeca(stopped, "crl", "--root-key", str(root_key(stopped)), "--json").stdout)["number"]
    database = sqlite3.connect(f"{stopped.database_path.as_uri()}?mode=ro", uri=True)
    events = database.execute(
        "SELECT kind, actor FROM audit WHERE json_extract(event, '$.number') = ? ORDER BY sequence", (number,)
    ).fetchall()
    database.close()
    administrator = f"admin:{user_name(os.getuid())}"
    assert events == [("crl.recorded", administrator), ("crl.signed", administrator)]


# --- keys that are refused ----------------------------------------------------------------------------------------


def _other_key(path: Path) -> None:
    write_key(path, ec.generate_private_key(ec.SECP256R1()))


def _encrypted(path: Path, key: Path) -> None:
    encryption = serialization.BestAvailableEncryption(b"secret")
    path.write_bytes(load_key(key).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    path.chmod(0o600)


def _copied(path: Path, key: Path, *, mode: int) -> None:
    path.write_bytes(key.read_bytes())
    path.chmod(mode)


BAD_KEYS: dict[str, tuple[Callable[[Installation, Path], None], str]] = {
    "another": (
        lambda _, path: _other_key(path),
        "holds the key of no root of this CA; its roots are: CN=Example CA Root,O=Example",
    ),
    "the intermediate's": (
        lambda ca, path: _copied(path, next((ca.data_dir / "keys").glob("*.key.pem")), mode=0o600),
        "holds the key of CN=Example CA Intermediate,O=Example, which is no root: the server signs its CRLs",
    ),
    "readable by others": (
        lambda ca, path: _copied(path, root_key(ca), mode=0o644),
        "has mode 0644, so that others can read it; run: chmod 600",
    ),
    "encrypted": (lambda ca, path: _encrypted(path, root_key(ca)), "holds no unencrypted private key in PEM form"),
    "a certificate": (
        lambda ca, path: _copied(path, ca.root_path, mode=0o600),
        "holds no unencrypted private key in PEM form",
    ),
    "not there": (lambda *_: None, "is missing"),
}


@pytest.mark.parametrize("kind", BAD_KEYS)
def test_a_key_that_is_refused(ca: Installation, acmeca: Acmeca, tmp_path: Path, kind: str) -> None:
    """One line, and not even a number was taken."""
    make, told = BAD_KEYS[kind]
    path = tmp_path / "key.pem"
    make(ca, path)
    before = numbers(ca)
    said = acmeca(ca, "crl", "--root-key", str(path))
    assert (said.code, said.stdout) == (1, "")
    assert said.stderr.startswith(f"acmeca: {path} ")
    assert told in said.stderr
    assert said.stderr.count("\n") == 1
    assert "PRIVATE" not in said.stderr
    assert numbers(ca) == before


def test_a_root_that_is_not_the_keys(stopped: Installation, acmeca: Acmeca) -> None:
    issuer = json.loads(acmeca(stopped, "crl", "--json").stdout)["crls"][1]["issuer"]
    said = acmeca(stopped, "crl", "--root-key", str(root_key(stopped)), "--issuer", issuer)
    assert said.code == 1
    assert f"holds the key of no root of this CA with the id {issuer}" in said.stderr
    root = listed(stopped, acmeca)["issuer"]
    assert acmeca(stopped, "crl", "--root-key", str(root_key(stopped)), "--issuer", root).code == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--root-key", "x", "--publish"), "leave --publish and --output out"),
        (("--root-key", "x", "--issuer", "y", "--output", "z"), "leave --publish and --output out"),
        (("--next-update", "30d"), "go with --root-key"),
        (("--clock-is-right",), "go with --root-key"),
        (("--root-key", "x", "--next-update", "a year"), "write a whole number and a unit"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, acmeca: Acmeca, options: tuple[str, ...], told: str) -> None:
    said = acmeca(tmp_path / "none.toml", "crl", *options)
    assert (said.code, said.stdout) == (2, "")
    assert told in " ".join(said.stderr.split())


@pytest.mark.parametrize("duration", ["0s", "23h", "397d"])
def test_a_lifetime_that_no_root_crl_has(stopped: Installation, acmeca: Acmeca, duration: str) -> None:
    before = numbers(stopped)
    said = acmeca(stopped, "crl", "--root-key", str(root_key(stopped)), "--next-update", duration)
    assert (said.code, said.stdout) == (1, "")
    assert "a root's CRL lasts at least 1 day and at most 396 days" in said.stderr
    assert numbers(stopped) == before


def test_a_clock_that_was_set_back(stopped: Installation, acmeca: Acmeca) -> None:
    """The newest CRL is from next year: the clock is wrong now, or was wrong then, and a person has to say which."""
    database = sqlite3.connect(stopped.database_path)
    with database:
        database.execute("UPDATE crls SET this_update = this_update + 31536000")
    database.close()
    key = str(root_key(stopped))
    before = numbers(stopped)
    refused = acmeca(stopped, "crl", "--root-key", key)
    assert (refused.code, refused.stdout) == (1, "")
    assert "look at the clock" in refused.stderr
    assert "--clock-is-right" in refused.stderr
    assert numbers(stopped) == before
    assert acmeca(stopped, "crl", "--root-key", key, "--clock-is-right").code == 0
    assert len(numbers(stopped)) == len(before) + 1


# --- what happens in between --------------------------------------------------------------------------------------


Forward = Callable[[], Awaitable[Json]]
Answer = Callable[[str, Forward], Awaitable[Json]]


async def forwarded(_: str, forward: Forward) -> Json:
    return await forward()


class Interposed:
    """The CA's administration, with somebody in between who hears every call and answers as he likes."""

    def __init__(self, administration: Administration, answer: Answer) -> None:
        self._administration = administration
        self._answer = answer
        self.heard: list[tuple[str, Json]] = []

    async def call(self, operation: str, arguments: Json, *, user: str) -> Json:
        self.heard.append((operation, arguments))
        return await self._answer(operation, lambda: self._administration.call(operation, arguments, user=user))


@contextlib.contextmanager
def interposed(installation: Installation, answer: Answer = forwarded) -> Iterator[Interposed]:
    """A server of this process on the installation's socket."""
    ready, done = threading.Event(), threading.Event()
    made: list[Interposed] = []

    async def serve() -> None:
        async with app.opened(load_config(installation.config_path, {})) as ca:
            made.append(Interposed(ca.administration, answer))
            listener = Listener(build_control_app(made[0]), host="", port=0)  # type: ignore[arg-type]  # calls alone count
            await listener.start_on_socket(installation.socket_path)
            ready.set()
            await asyncio.to_thread(done.wait, 60)
            await listener.stop()
        installation.socket_path.unlink(missing_ok=True)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(30)
        yield made[0]
    finally:
        done.set()
        thread.join(60)


def test_the_key_never_crosses_the_socket(stopped: Installation, acmeca: Acmeca) -> None:
    """What the server is told: which root, for how long, and a signed CRL. No path, no key in any encoding."""
    path = root_key(stopped)
    with interposed(stopped) as between:
        assert acmeca(stopped, "crl", "--root-key", str(path), "--next-update", "2d").code == 0
    (listing, nothing), (beginning, asked), (publishing, given) = between.heard
    assert (listing, beginning, publishing) == ("issuers", "root_crl_begin", "root_crl_publish")
    assert nothing == {}
    assert asked == {"issuer": given["issuer"], "lifetime": 2 * 86400, "clock_is_right": False}
    assert given.keys() == {"issuer", "number", "der"}
    key = load_key(path)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    scalar = key.private_numbers().private_value.to_bytes(32, "big")
    said = json.dumps(between.heard)
    for secret in (scalar.hex(), str(int.from_bytes(scalar, "big")), "PRIVATE", str(path), path.name):
        assert secret not in said


def test_killed_between_begin_and_publish(stopped: Installation, acmeca: Acmeca) -> None:
    """A number is spent, and nothing else has happened; the next one goes through."""
    started = threading.Event()
    process: list[Process] = []

    async def kill(operation: str, forward: Forward) -> Json:
        if operation == "root_crl_publish":
            assert await asyncio.to_thread(started.wait, 30)
            process[0].send(signal.SIGKILL)
            raise Conflict("it is too late")
        return await forward()

    before = listed(stopped, acmeca)
    with (
        interposed(stopped, kill) as between,
        Process(
            stopped._command("crl", "--root-key", str(root_key(stopped))),
            env=clean_environment(),
            cwd=stopped.directory,
        ) as command,
    ):
        process.append(command)
        started.set()
        assert command.wait() == -signal.SIGKILL, command.output
        assert between.heard[-1][0] == "root_crl_publish"
    assert listed(stopped, acmeca) == before
    (_, was_published), (spent, is_published) = numbers(stopped)
    assert (was_published, is_published) == (1, 0)
    assert acmeca(stopped, "crl", "--root-key", str(root_key(stopped))).code == 0
    assert listed(stopped, acmeca)["number"] > spent


def test_the_server_is_killed_between_begin_and_publish(used: Installation, acmeca: Acmeca) -> None:
    """Nothing is published then; and what was begun before may still be handed in, unless a newer one overtook it."""
    config = load_config(used.config_path, {})
    key = load_key(root_key(used))

    async def begin_and_lose(server: Process) -> Json:
        async with connected(config) as connection:
            root = find_root((await connection.call("issuers", {}))["issuers"], key, Path("key"), issuer_id=None)  # type: ignore[arg-type]  # a list of objects
            draft = parse_draft(await connection.call("root_crl_begin", {"issuer": root.id}))
            der = sign_draft(draft, root, key, lifetime=YEAR, now=datetime.now(UTC))
            signed: Json = {"issuer": root.id, "number": draft.number, "der": der.hex()}
            server.kill()
            with pytest.raises(AcmecaError, match="the running server did not answer"):
                await connection.call("root_crl_publish", signed)
        return signed

    async def hand_in(signed: Json) -> Json:
        async with connected(config) as connection:
            return await connection.call("root_crl_publish", signed)

    before = listed(used, acmeca)["number"]
    with used.serve() as server:
        signed = asyncio.run(begin_and_lose(server))
    assert listed(used, acmeca)["number"] == before
    assert asyncio.run(hand_in(signed))["number"] == signed["number"]
    with pytest.raises(Conflict, match="nothing was published"):
        asyncio.run(hand_in(signed))
    assert listed(used, acmeca)["number"] == signed["number"]


def test_renewals_at_once(running: Installation, acmeca: Acmeca) -> None:
    """Each either publishes or says that it was overtaken; the highest number stays."""
    command = running._command("crl", "--root-key", str(root_key(running)), "--json")
    before = listed(running, acmeca)["number"]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(Process(command, env=clean_environment(), cwd=running.directory)) for _ in range(3)
        ]
        codes = [process.wait() for process in processes]
    published = [
        json.loads(process.output)["number"] for process, code in zip(processes, codes, strict=True) if not code
    ]
    assert set(codes) <= {0, 1}
    assert all("was overtaken" in process.output for process, code in zip(processes, codes, strict=True) if code)
    assert published
    assert len(set(published)) == len(published)
    assert listed(running, acmeca)["number"] == max(published) > before


# --- a CA that lies -----------------------------------------------------------------------------------------------


def _in(hours: float) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


LIES: dict[str, tuple[dict[str, object], str]] = {
    "another issuer": ({"issuer": "other"}, "another CRL than was asked for"),
    "from tomorrow on": ({"this_update": _in(24), "next_update": _in(48)}, "another CRL than was asked for"),
    "for ever": ({"next_update": _in(10 * 8766)}, "another CRL than was asked for"),
    "an entry that cannot be": ({"revoked": [["00", _in(0), 6]]}, "serial 0x0 is not positive"),
    "nonsense": ({"next_update": "soon"}, "cannot be read"),
    "less than a draft": ({"revoked": None}, "cannot be read"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_draft_that_was_not_asked_for_is_not_signed(stopped: Installation, acmeca: Acmeca, lie: str) -> None:
    """Rule 2 of root_crl.py: the root's key believes nobody."""
    changes, told = LIES[lie]

    async def answer(operation: str, forward: Forward) -> Json:
        return await forward() | (changes if operation == "root_crl_begin" else {})

    with interposed(stopped, answer) as between:
        said = acmeca(stopped, "crl", "--root-key", str(root_key(stopped)))
    assert (said.code, said.stdout) == (1, "")
    assert told in said.stderr
    assert said.stderr.count("\n") == 1
    assert "root_crl_publish" not in [operation for operation, _ in between.heard]


def test_a_root_certificate_that_the_key_did_not_make(stopped: Installation, acmeca: Acmeca) -> None:
    """The same key under another name, signed by somebody: a CRL of that name is not for this key to sign."""
    key = load_key(root_key(stopped))
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Somebody")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 7, now, now + YEAR)
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
        .public_bytes(Encoding.PEM)
        .decode()
    )

    async def answer(operation: str, forward: Forward) -> Json:
        result: dict[str, Any] = await forward()
        if operation == "issuers":
            root, *others = result["issuers"]
            result = {"issuers": [root | {"certificate": certificate}, *others]}
        return result

    with interposed(stopped, answer) as between:
        said = acmeca(stopped, "crl", "--root-key", str(root_key(stopped)))
    assert said.code == 1
    assert "is not signed by its own key" in said.stderr
    assert [operation for operation, _ in between.heard] == ["issuers"]


def test_roots_that_share_a_key(stopped: Installation, acmeca: Acmeca) -> None:
    """A root whose certificate was renewed: the administrator says which."""
    second = "second"

    async def answer(operation: str, forward: Forward) -> Json:
        result: dict[str, Any] = await forward()
        if operation == "issuers":
            root, *others = result["issuers"]
            result = {"issuers": [root, root | {"issuer": second}, *others]}
        return result

    first = listed(stopped, acmeca)["issuer"]
    with interposed(stopped, answer) as between:
        said = acmeca(stopped, "crl", "--root-key", str(root_key(stopped)))
        assert said.code == 1
        assert f"choose one with --issuer: {first} or {second}" in said.stderr
        assert acmeca(stopped, "crl", "--root-key", str(root_key(stopped)), "--issuer", first).code == 0
    assert between.heard[-1][1]["issuer"] == first
