"""`acmeca doctor`: each thing that can be wrong is found, told with what to do, and nothing is changed by looking."""

import asyncio
import base64
import http.server
import json
import os
import re
import shutil
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dns.rcode
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from acmeca import app, audit
from acmeca.cli import doctor
from acmeca.cli.checks import files, network, resolvers
from acmeca.cli.checks.finding import Finding, Level, format_span, judge_end
from acmeca.cli.checks.keys import check_crls, check_own_certificates
from acmeca.cli.checks.store import check_database, check_last_server
from acmeca.config import load_config
from acmeca.keystore import pem
from acmeca.service.bindings import KEY_PATH as EAB_KEY
from acmeca.storage.lock import StoreLock
from tests.cli.conftest import Acmeca, Said, issue, make_ca
from tests.support.dns_peer import dns_peer, says
from tests.support.installations import Installation, make_installation


def contents(installation: Installation) -> dict[str, tuple[float, int, bytes]]:
    """Every file with its time of change, its mode and its bytes, but for the index of the database's log."""
    return {
        str(path.relative_to(installation.directory)): (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes())
        for path in sorted(installation.directory.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm")
    }


def findings(said: Said, level: Level) -> list[dict[str, str]]:
    document = json.loads(said.stdout)
    found = [finding for finding in document["findings"] if finding["level"] == level]
    assert len(found) == document.get(f"{level}s", len(found))
    return found


def examine(installation: Installation, now: datetime | None = None) -> list[Finding]:
    return asyncio.run(doctor._examine(installation.config_path, now or datetime.now(UTC)))


def the_one(found: list[Finding], level: Level, text: str) -> Finding:
    """The one finding of this level that says this; the others of the level are in the message when there is none."""
    fitting = [finding for finding in found if finding.level is level and text in f"{finding.about}: {finding.detail}"]
    assert len(fitting) == 1, [finding for finding in found if finding.level is level]
    assert fitting[0].advice or level is Level.OK, "what is wrong comes with what to do"
    return fitting[0]


@contextmanager
def execute(installation: Installation) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(installation.database_path)
    with database:
        yield database
    database.close()


# --- all is well --------------------------------------------------------------------------------------------------


def test_a_server_that_runs_is_well(acmeca: Acmeca, running: Installation) -> None:
    """Exit 0: no errors. The root's key lies where `init` put it, which is a warning."""
    before = {name: value for name, value in contents(running).items() if "acmeca.db" not in name}
    said = acmeca(running, "doctor", "--json")
    assert said.code == 0, said.stdout
    assert findings(said, Level.ERROR) == []
    assert [finding["about"] for finding in findings(said, Level.WARNING)] == ["key of the root Example CA Root"]
    well = "\n".join(f"{finding['about']}: {finding['detail']}" for finding in findings(said, Level.OK))
    for text in (
        f"configuration {running.config_path}: can be used",
        f"database {running.database_path}: is sound",
        "audit chain: ",
        "runs, and answers on its socket",
        "issuer Example CA Intermediate: its key in ",
        "answers, with our certificate",
        "answers, with our root",
        f"ACME directory {running.directory_url}: is served",
        "is served, and signed by the issuer",
        "says good of serial",
        "clock: agrees",
        "disk space: ",
    ):
        assert text in well
    assert {name: value for name, value in contents(running).items() if "acmeca.db" not in name} == before


def test_a_ca_that_is_not_served_is_looked_at_without_a_trace(acmeca: Acmeca, used: Installation) -> None:
    before = contents(used)
    said = acmeca(used, "doctor", "--json")
    assert said.code == 0, said.stdout
    about = {finding["about"] for finding in findings(said, Level.WARNING)}
    assert "server" in about
    assert "CRL of Example CA Intermediate" in about
    assert contents(used) == before
    assert not used.database_path.with_name("acmeca.db-wal").exists()


def test_what_a_killed_server_left_is_looked_at_and_left(acmeca: Acmeca, stopped: Installation) -> None:
    with stopped.serve() as server:
        server.kill()
    before = contents(stopped)
    said = acmeca(stopped, "doctor", "--json")
    assert said.code == 0, said.stdout
    (last,) = [finding for finding in findings(said, Level.WARNING) if finding["about"] == "last server"]
    assert "did not end in order" in last["detail"]
    assert contents(stopped) == before


def test_the_report_for_people(acmeca: Acmeca, stopped: Installation) -> None:
    said = acmeca(stopped, "doctor")
    assert said.code == 0
    lines = said.stdout.splitlines()
    assert lines[0] == f"ok       configuration {stopped.config_path}: can be used"
    place = lines.index("warning  server: is not running")
    assert lines[place + 1] == "         -> Start it: acmeca serve"
    assert lines[-1].startswith("0 errors, ")


def test_a_demo_may_keep_its_root_key(used: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    the_one(examine(used), Level.WARNING, "key of the root")
    monkeypatch.setenv("ACMECA_SERVER__DEMO", "true")
    assert "ACMECA_SERVER__DEMO" in the_one(examine(used), Level.OK, "configuration").detail
    the_one(examine(used), Level.OK, "key of the root")
    monkeypatch.delenv("ACMECA_SERVER__DEMO")
    shutil.move(used.data_dir / "root", used.directory / "safe")
    the_one(examine(used), Level.OK, "is not on this machine")


def test_what_is_allowed_can_be_validated(used: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wildcard that is allowed, and that no challenge type can show, is refused in each order: the operator is told before."""
    assert "http-01, tls-alpn-01" in the_one(examine(used), Level.OK, "validation.challenges").detail
    monkeypatch.setenv("ACMECA_POLICY__WILDCARDS", "true")
    monkeypatch.setenv("ACMECA_VALIDATION__CHALLENGES", '["http-01"]')
    finding = the_one(examine(used), Level.WARNING, "validation.challenges")
    assert "policy.wildcards allows what nobody can have" in finding.detail
    assert "dns-01" in finding.detail
    monkeypatch.setenv("ACMECA_POLICY__ALLOWED_NETWORKS", '["10.0.0.0/8"]')
    monkeypatch.setenv("ACMECA_VALIDATION__CHALLENGES", '["dns-01"]')
    finding = the_one(examine(used), Level.WARNING, "validation.challenges")
    assert "policy.allowed_networks allows what nobody can have" in finding.detail


# --- configuration and files ----------------------------------------------------------------------------------------


def test_mistakes_in_the_configuration_are_a_finding_each(acmeca: Acmeca, stopped: Installation) -> None:
    stopped.config_path.write_text("[server]\nbase_url = 'x'\n")
    said = acmeca(stopped, "doctor", "--json")
    assert said.code == 1
    assert [finding["detail"].split(":")[0] for finding in findings(said, Level.ERROR)] == [
        "server.base_url",
        "server.status_url",
        "policy.allowed_names",
    ]


def test_no_ca_yet(tmp_path: Path) -> None:
    installation = make_installation(tmp_path / "ca")
    assert "acmeca init" in the_one(examine(installation), Level.ERROR, "cannot be looked at").advice
    installation.data_dir.mkdir(mode=0o700)
    assert "acmeca init" in the_one(examine(installation), Level.ERROR, "is not there").advice
    assert list(installation.data_dir.iterdir()) == []


Change = Callable[[Installation], object]


def one_key(installation: Installation, pattern: str = "keys/*.key.pem") -> Path:
    (path,) = installation.data_dir.glob(pattern)
    return path


def replace_key(installation: Installation) -> None:
    path = one_key(installation)
    path.unlink()
    pem.write_key(path, ec.generate_private_key(ec.SECP256R1()))


def add_leftover(installation: Installation) -> None:
    pem.write_key(installation.data_dir / "keys" / "other.key.pem", ec.generate_private_key(ec.SECP256R1()))


def sql(text: str, *values: object) -> Change:
    def change(installation: Installation) -> None:
        with execute(installation) as database:
            database.execute(text, values)

    return change


def newer_schema(installation: Installation) -> None:
    """One that this program cannot work with."""
    sql("PRAGMA user_version = 999")(installation)
    sql("UPDATE schema_version SET version = 999, minimum = 999")(installation)


def damage_page(installation: Installation) -> None:
    data = bytearray(installation.database_path.read_bytes())
    with execute(installation) as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'certificates'").fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    data[(page - 1) * size : (page - 1) * size + 64] = b"\xff" * 64
    installation.database_path.write_bytes(data)


WRONG: list[tuple[str, Change, Level, str, str]] = [
    ("config 0666", lambda i: i.config_path.chmod(0o666), Level.ERROR, "everybody may change it", "chmod o-w"),
    ("config 0660", lambda i: i.config_path.chmod(0o660), Level.WARNING, "its group may change it", "chmod g-w"),
    ("data_dir 0777", lambda i: i.data_dir.chmod(0o777), Level.ERROR, "others may replace", "chmod 700"),
    ("data_dir 0755", lambda i: i.data_dir.chmod(0o755), Level.WARNING, "others may look into it", "chmod 700"),
    ("key 0644", lambda i: one_key(i).chmod(0o644), Level.ERROR, "mode 0644: others can get", "chmod 600"),
    ("keys 0755", lambda i: (i.data_dir / "keys").chmod(0o755), Level.ERROR, "keys has mode 0755", "chmod 700"),
    ("root key 0640", lambda i: one_key(i, "root/*").chmod(0o640), Level.ERROR, "mode 0640: others can get", "chmod 600"),
    ("database 0644", lambda i: i.database_path.chmod(0o644), Level.ERROR, "acmeca.db has mode 0644", "chmod 600"),
    ("key gone", lambda i: one_key(i).unlink(), Level.ERROR, "is missing", "backup"),
    ("key no key", lambda i: one_key(i).write_text("x"), Level.ERROR, "holds no unencrypted private key", "backup"),
    ("other key", replace_key, Level.ERROR, "is not the certificate's", "right key"),
    ("leftover key", add_leftover, Level.WARNING, "other.key.pem belongs to no issuer", "remove it"),
    ("no database", lambda i: i.database_path.unlink(), Level.ERROR, "acmeca.db: is not there", "acmeca init"),
    ("no sqlite", lambda i: i.database_path.write_bytes(b"x" * 8192), Level.ERROR, "not a database", "backup"),
    ("damaged page", damage_page, Level.ERROR, "malformed", "backup"),
    ("newer schema", newer_schema, Level.ERROR, "has schema 999", "newer version"),
    ("no tables", lambda i: i.database_path.write_bytes(b""), Level.ERROR, "has no tables", "acmeca init"),
    ("no issuers", sql("DELETE FROM issuers"), Level.ERROR, "issuers: there is none", "acmeca init"),
    ("no crls", sql("DELETE FROM crls"), Level.WARNING, "CRL of Example CA Intermediate: there is none", "starts"),
    ("no root crl", sql("DELETE FROM crls"), Level.WARNING, "CRL of Example CA Root: there is none", "acmeca crl --root-key FILE"),
    ("root crl of tomorrow", sql("UPDATE crls SET this_update = this_update + 86400"), Level.ERROR, "CRL of Example CA Root: number", "--clock-is-right"),
    ("issuer garbage", sql("UPDATE issuers SET certificate = x'00'"), Level.ERROR, "cannot be read", "backup"),
    ("audit edited", sql("UPDATE audit SET actor = 'x' WHERE sequence = 2"), Level.ERROR, "1 fault: ", "Records were changed"),
    ("audit cut", sql("DELETE FROM audit WHERE sequence = 2"), Level.ERROR, "1 record is not there", "Records were changed"),
    ("audit typed", sql("UPDATE audit SET at = 'x' WHERE sequence = 2"), Level.ERROR, "was changed: at is of type", "Records were changed"),
    ("parent", sql("UPDATE issuers SET parent_id = id WHERE parent_id IS NOT NULL"), Level.ERROR, "not signed by its parent", "backup"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "level", "told", "advice"), [item[1:] for item in WRONG], ids=[item[0] for item in WRONG]
)
def test_what_is_wrong_is_told_with_what_to_do(  # noqa: PLR0917  (fixtures, and a row of the table)
    acmeca: Acmeca, used: Installation, change: Change, level: Level, told: str, advice: str
) -> None:
    change(used)
    before = contents(used)
    said = acmeca(used, "doctor", "--json")
    assert said.code == (1 if level is Level.ERROR else 0), said.stdout
    found = [finding for finding in findings(said, level) if told in f"{finding['about']}: {finding['detail']}"]
    assert found, said.stdout
    assert advice in found[0]["advice"]
    assert contents(used) == before, "nothing is changed by looking"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_files_of_another_user(used: Installation) -> None:
    os.chown(one_key(used), 65534, 65534)
    assert "chown root" in the_one(examine(used), Level.WARNING, "belongs to nobody").advice


@pytest.mark.parametrize(("free", "level"), [(50 << 20, Level.ERROR), (500 << 20, Level.WARNING), (5 << 30, Level.OK)])
def test_room_on_the_disk(used: Installation, monkeypatch: pytest.MonkeyPatch, free: int, level: Level) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100 << 30, 0, free))
    (found,) = files.check_disk(load_config(used.config_path, {}))
    assert found.level is level


# --- several processes --------------------------------------------------------------------------------------------


def add_process(installation: Installation, name: str, *, instance: str, stopped: bool = False) -> None:
    """Another process on the database, as it stands in its tables: started, and perhaps stopped."""
    at = datetime(2030, 1, 1, tzinfo=UTC) if stopped else datetime(2029, 1, 1, tzinfo=UTC)
    events: list[audit.Event] = [audit.ServerStarted(actor=audit.SYSTEM, version="1", config_sha256="other")]
    if stopped:
        events.append(audit.ServerStopped(actor=audit.SYSTEM, version="1"))
    previous = None
    with execute(installation) as database:
        database.execute("INSERT INTO writers VALUES (?, ?, 1, 0)", (name, instance))
        for event in events:
            record = audit.build_record(previous, writer=name, at=at, event=event)
            previous = audit.Head(name, record.sequence, record.hash)
            columns = (record.writer, record.sequence, record.at, record.kind, record.actor, record.subject)
            database.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*columns, record.event, record.hash))


def last_server(installation: Installation, *, is_running: bool) -> list[str]:
    config = load_config(installation.config_path, {})
    _, kept = asyncio.run(check_database(config))
    return [f"{found.about}: {found.detail}" for found in check_last_server(config, kept, is_running=is_running)]


def test_of_several_processes_each_is_looked_at(used: Installation) -> None:
    """One that was killed is told, whatever its name and its place in the alphabet; others' processes are not ours."""
    node = (used.data_dir / "node").read_text().strip()
    add_process(used, "zz-elsewhere", instance="z1")
    add_process(used, "a-elsewhere", instance="a1")
    add_process(used, f"{node}.2", instance="i2", stopped=True)
    add_process(used, f"{node}.3", instance="")  # a later start found that it was gone
    assert last_server(used, is_running=False) == []
    assert last_server(used, is_running=True) == []
    add_process(used, f"{node}.1", instance="i1")
    (told,) = last_server(used, is_running=False)
    assert told.startswith(f"last server: {node}.1 started 2029-01-01 00:00 UTC and did not end in order")
    (told,) = last_server(used, is_running=True)
    assert told.startswith(f"running server: {node}.1 was started 2029-01-01 00:00 UTC with other settings")
    add_process(used, f"{node}.4", instance="i4")
    (told,) = last_server(used, is_running=False)
    assert told.startswith(f"last server: 2 processes, {node}.1 among them, started")


# --- times --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "level"),
    [
        (timedelta(days=91), Level.OK),
        (timedelta(days=89), Level.WARNING),
        (timedelta(days=29), Level.WARNING),
        (timedelta(days=6), Level.ERROR),
        (timedelta(seconds=-1), Level.ERROR),
    ],
)
def test_what_ends_is_told_90_and_30_and_7_days_before(left: timedelta, level: Level) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    found = judge_end("it", now + left, now, advice="renew it")
    assert found.level is level
    assert level is Level.OK or "renew it" in found.advice
    assert ("Within" in found.advice) is (timedelta(days=30) < left < timedelta(days=90))


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(days=400), "400 days"),
        (timedelta(days=2, hours=3), "51 h 0 min"),
        (timedelta(minutes=61), "1 h 1 min"),
        (timedelta(seconds=61), "1 min 1 s"),
        (timedelta(seconds=-5), "5 s"),
    ],
)
def test_a_span_of_time_for_people(span: timedelta, text: str) -> None:
    assert format_span(span) == text


def test_years_later(used: Installation) -> None:
    """The CRLs and the intermediate end; the root, of twenty years, does not yet."""
    now = datetime.now(UTC)
    soon = examine(used, now + timedelta(days=370))
    assert "acmeca crl --root-key FILE" in the_one(soon, Level.WARNING, "CRL of Example CA Root").advice
    the_one(soon, Level.ERROR, "CRL of Example CA Intermediate")
    late = examine(used, now + timedelta(days=5 * 365 - 20))
    the_one(late, Level.WARNING, "certificate of Example CA Intermediate")
    the_one(late, Level.ERROR, "CRL of Example CA Root: ended")
    the_one(late, Level.OK, "certificate of Example CA Root")
    the_one(late, Level.OK, "certificate of the listener: ended")  # it is renewed at the next start


def test_certificates_that_a_running_server_does_not_renew(used: Installation) -> None:
    config = load_config(used.config_path, {})
    _, kept = asyncio.run(check_database(config))
    now = datetime.now(UTC)

    def levels(days: float) -> set[Level]:
        moment = now + timedelta(days=days)
        found = [
            *check_own_certificates(config, kept, moment, is_running=True),
            *check_crls(config, kept, moment, is_running=True),
        ]
        return {finding.level for finding in found if "Root" not in finding.about}

    assert levels(0.1) == {Level.OK}
    assert levels(0.5) == {Level.OK, Level.WARNING}  # the CRL is overdue
    assert levels(12) == {Level.OK, Level.WARNING, Level.ERROR}  # the responder is, and the CRL is over
    assert levels(40) == {Level.ERROR}


@pytest.mark.parametrize("year", [1970, 2025, 2100])
def test_a_year_that_cannot_be(year: int) -> None:
    (found,) = network.check_clock(datetime(year, 6, 1, tzinfo=UTC))
    assert found.level is Level.ERROR


def test_a_clock_that_leapt_back(used: Installation) -> None:
    found = the_one(
        examine(used, datetime.now(UTC) - timedelta(hours=2)), Level.ERROR, "before the newest audit record"
    )
    assert re.search(r"1 h 5[0-9] min|2 h 0 min", found.detail)  # the record is as old as the tests before this one


def test_a_clock_that_is_ahead(running: Installation) -> None:
    """The Date of whoever answers for status_url is the other clock."""
    found = examine(running, datetime.now(UTC) + timedelta(minutes=10, seconds=30))
    assert "10 min" in the_one(found, Level.WARNING, "clock: is").detail


# --- network ------------------------------------------------------------------------------------------------------


@contextmanager
def somebody_else(port: int, answer: bytes = b"hello", date: str = "") -> Iterator[None]:
    """A web server that is not ours."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            self.send_header("Content-Length", str(len(answer)))
            if date:
                self.send_header("Date", date)
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET  # noqa: N815  (the library's name)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join(30)
        server.server_close()


def test_a_port_that_somebody_else_has(used: Installation) -> None:
    with socket.create_server(("127.0.0.1", used.acme_port)):
        found = examine(used)
    assert "Another program has the port" in the_one(found, Level.ERROR, "server.acme_listen").advice
    the_one(found, Level.OK, "server.status_listen")


def test_an_admin_port_that_somebody_else_has(used: Installation) -> None:
    """What was asked for has to work; the default may be taken, and the server goes on without it."""
    with socket.create_server(("127.0.0.1", used.admin_port)):
        assert "Another program has the port" in the_one(examine(used), Level.ERROR, "server.admin_listen").advice
        config = load_config(used.config_path, {})
        server = config.server.model_copy()
        server.model_fields_set.discard("admin_listen")
        unasked = config.model_copy(update={"server": server})
        found = network._forgive_default(unasked, network._check_free("server.admin_listen", server.admin_listen))
        assert found.level is Level.WARNING
        assert found.advice.endswith("; until then there are no metrics")


def test_the_admin_listener_of_a_server_that_runs(running: Installation) -> None:
    assert the_one(examine(running), Level.OK, "server.admin_listen").detail == "answers, with our metrics"


def test_what_readiness_finds_is_told(used: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Doctor asks the running server, which looks at what only it can see."""
    config = load_config(used.config_path, {})
    _, kept = asyncio.run(check_database(config))
    said = "".join(f'acmeca_crl_number{{issuer="{stored.issuer.id}"}} 1\n' for stored in kept.issuers)

    async def fetch(_: object, url: str) -> network._Answer:
        return (
            network._Answer(200, said.encode(), "")
            if url.endswith("/metrics")
            else network._Answer(503, b"disk: x\ny: z\n", "")
        )

    monkeypatch.setattr(network, "_fetch", fetch)
    found = asyncio.run(network._check_admin_port(config, kept))
    assert [(item.level, item.about, item.detail) for item in found[1:]] == [
        (Level.ERROR, "readiness", "disk: x"),
        (Level.ERROR, "readiness", "y: z"),
    ]


def test_an_address_that_is_not_this_machines(used: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACMECA_SERVER__ACME_LISTEN", "192.0.2.1:8443")
    assert "Cannot assign" in the_one(examine(used), Level.ERROR, "server.acme_listen").detail


def test_somebody_else_at_status_url(used: Installation) -> None:
    with somebody_else(used.status_port):
        found = examine(used)
    the_one(found, Level.ERROR, f"server.status_url {used.status_url}: is answered by something else")
    for finding in found:
        if finding.about.startswith("CRL at "):
            assert finding.level is Level.ERROR
            assert "is not the issuer's CRL" in finding.detail


def test_another_ca_at_our_urls(used: Installation, tmp_path: Path) -> None:
    """A server of another data directory answers on our ports: nothing that it gives is ours."""
    other = make_ca(tmp_path / "other")
    other.config_path.write_text(used.config_path.read_text())
    shutil.copytree(other.data_dir, tmp_path / "kept")
    with other.serve():
        found = examine(used)
        the_one(found, Level.ERROR, "answers, but not this data directory's server")
        the_one(found, Level.ERROR, "server.acme_listen")
        crls = [finding for finding in found if finding.about.startswith(("CRL at ", "OCSP at "))]
        assert len(crls) == 3
        assert {finding.level for finding in crls} == {Level.ERROR}
        directory = the_one(found, Level.WARNING, "ACME directory")
        assert "certificate verify failed" in directory.detail


def test_a_certificate_of_ours_that_was_revoked(acmeca: Acmeca, stopped: Installation) -> None:
    with stopped.serve():
        listing = json.loads(acmeca(stopped, "list", "--name", "localhost", "--json").stdout)
        assert acmeca(stopped, "revoke", listing["certificates"][0]["serial"], "--yes").code == 0
        the_one(examine(stopped), Level.WARNING, "says REVOKED of our own certificate")


def test_urls_that_changed_after_init(running: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACMECA_SERVER__STATUS_URL", f"http://127.0.0.1:{running.status_port}")
    found = examine(running)
    changed = [finding for finding in found if finding.about == "server.status_url"]
    assert len(changed) == 2
    assert {finding.level for finding in changed} == {Level.WARNING}
    assert "have the old URL lead here" in changed[0].advice
    assert "Restart the server" in the_one(found, Level.WARNING, "running server").advice


def test_a_lock_without_a_server(used: Installation) -> None:
    with StoreLock(used.data_dir):
        found = the_one(examine(used), Level.WARNING, "has the lock and answers on no socket")
    assert str(os.getpid()) in found.detail


def test_a_host_that_cannot_be_looked_up(used: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    found = examine(used)
    for key in ("base_url", "status_url"):
        assert "in your DNS" in the_one(found, Level.ERROR, f"server.{key} http").advice


async def test_resolvers_that_answer_and_that_do_not(used: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolvers, "_SECONDS", 1.0)
    text = used.config_path.read_text()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        closed = silent.getsockname()[1]
    async with dns_peer() as peer:
        peer.add("corp.internal", "TXT", '"a zone"')
        servers = [f"127.0.0.1:{peer.port}", f"127.0.0.1:{closed}"]
        zones = f'{{"corp.internal" = {json.dumps(servers)}, "gone.internal" = ["{servers[0]}"]}}'
        used.config_path.write_text(
            text.replace("[validation]", f"[validation]\nresolvers = {json.dumps(servers)}\nzones = {zones}")
        )
        good, bad, zone, dead, gone = [
            item async for item in resolvers.check_resolvers(load_config(used.config_path, {}))
        ]
    assert good.level is Level.OK
    assert bad.level is Level.ERROR
    assert "mend or replace it" in bad.advice
    assert zone.level is Level.OK
    assert zone.about == f"validation.zones corp.internal 127.0.0.1:{peer.port}"
    assert dead.level is Level.ERROR
    assert gone.level is Level.WARNING, "the server of a zone knows it"
    assert "gone.internal does not exist" in gone.detail


async def test_questions_for_caa_that_are_answered_and_that_are_not(
    used: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolvers, "_SECONDS", 1.0)
    text = used.config_path.read_text()
    async with dns_peer() as peer:
        peer.add("corp.internal", "CAA", '0 issue "ca.corp.internal"')
        peer.always("broken.internal", says(dns.rcode.SERVFAIL), "CAA")
        zones = ["corp.internal", "none.internal", "broken.internal"]
        used.config_path.write_text(
            text.replace("[validation]", f'[validation]\nresolvers = ["127.0.0.1:{peer.port}"]').replace(
                "[policy]", f'[policy]\ncaa_identities = ["ca.corp.internal"]\ncaa_zones = {json.dumps(zones)}'
            )
        )
        found, none, broken = [item async for item in resolvers.check_caa(load_config(used.config_path, {}))]
    assert (found.level, found.detail) == (Level.OK, "are those of corp.internal, 1 of them")
    assert (none.level, none.about) == (Level.OK, "CAA records of none.internal")
    assert broken.level is Level.ERROR
    assert "answered with SERVFAIL" in broken.detail
    used.config_path.write_text(text)
    assert not [item async for item in resolvers.check_caa(load_config(used.config_path, {}))], "not looked at"


# --- as JSON ------------------------------------------------------------------------------------------------------


def test_the_report_for_programs(acmeca: Acmeca, stopped: Installation) -> None:
    document = json.loads(acmeca(stopped, "doctor", "--json").stdout)
    assert document.keys() == {"findings", "errors", "warnings"}
    for finding in document["findings"]:
        assert finding.keys() == {"level", "about", "detail", "advice"}
        assert finding["level"] in {"ok", "warning", "error"}
        assert bool(finding["advice"]) is (finding["level"] != "ok")


def test_no_key_is_in_the_report(acmeca: Acmeca, stopped: Installation) -> None:
    """RULES §6: a secret never stands in a dump."""
    secret = base64.b64decode("".join(one_key(stopped).read_text().splitlines()[1:-1]))[36:68].hex()
    said = acmeca(stopped, "doctor", "--json")
    assert secret not in said.stdout.lower()
    assert "PRIVATE" not in said.stdout
    assert issue(stopped, "www.localhost")
    assert app.config_sha256(load_config(stopped.config_path, {}))


# --- external account bindings ------------------------------------------------------------------------------------


def test_without_grants_there_is_nothing_to_say_of_their_key(stopped: Installation) -> None:
    assert not [finding for finding in examine(stopped) if "binding" in finding.about]


def test_the_key_of_grants(stopped: Installation, acmeca: Acmeca) -> None:
    """The right one is well, and no leftover; a missing one and one that others can read are errors; another one is a warning."""
    assert acmeca(stopped, "eab", "create", "--owner", "a").code == 0
    path = stopped.data_dir / EAB_KEY
    kept = path.read_bytes()
    found = examine(stopped)
    the_one(found, Level.OK, "what 1 grants were made with")
    assert not [finding for finding in found if finding.about == "leftover key"]
    path.chmod(0o644)
    the_one(examine(stopped), Level.ERROR, "bindings: " + str(path))
    path.unlink()
    the_one(examine(stopped), Level.ERROR, f"{path} is missing")
    pem.write_durably(path, bytes(32))
    the_one(examine(stopped), Level.WARNING, "is not what 1 of 1 grants were made with")
    pem.write_durably(path, kept)
    kid = json.loads(acmeca(stopped, "eab", "list", "--json").stdout)["grants"][0]["kid"]
    assert acmeca(stopped, "eab", "disable", kid).code == 0
    path.unlink()
    assert not [finding for finding in examine(stopped) if "binding" in finding.about]
