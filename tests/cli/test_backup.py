"""Backup, restore, journal and copy as an operator meets them: what is said, what is refused, what is printed for programs."""

import asyncio
import contextlib
import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from acmeca.errors import Conflict
from acmeca.recovery import copy_storage
from acmeca.storage.journal import segments
from acmeca.storage.store import Store
from acmeca.storage.transfer import Place
from tests.cli.conftest import Acmeca, issue
from tests.support.installations import Installation
from tests.support.journalled import journalled_store, make_hierarchy
from tests.support.mishaps import no_progress
from tests.support.processes import clean_environment
from tests.support.terminal import on_terminal


@pytest.fixture
def ca(stopped: Installation) -> Installation:
    """A CA that nobody serves, with a certificate."""
    issue(stopped, "www.localhost")
    return stopped


def key_files(installation: Installation) -> list[Path]:
    return sorted(path for name in ("keys", "root") for path in (installation.data_dir / name).iterdir())


class TestBackup:
    def test_it_says_what_is_in_it_and_what_is_not(self, ca: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
        said = acmeca(ca, "backup", str(tmp_path / "b"))
        assert said.code == 0
        assert "Holds          1 certificates, 0 accounts, 5 audit records" in said.stdout
        assert "The private keys are not in it." in said.stdout
        for path in key_files(ca):
            assert str(path.relative_to(ca.data_dir)) in said.stdout
        assert f"acmeca journal prune --before-backup {tmp_path / 'b'}" in said.stdout

    def test_for_programs(self, ca: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
        said = acmeca(ca, "backup", "--json", str(tmp_path / "b"))
        document = json.loads(said.stdout)
        assert document["bytes"] == (tmp_path / "b").stat().st_size
        assert document["tables"]["certificates"]["rows"] == 1
        assert document["journals"].keys() == {segment.path.name for segment in segments(ca.data_dir / "journal")}

    @pytest.mark.parametrize(
        ("where", "reason"),
        [
            ("ca/journal/b", "holds what the CA works with"),
            ("ca/keys/b", "holds what the CA works with"),
            ("ca/b", "is the CA's own directory"),
            ("none/b", "there is no directory"),
        ],
    )
    def test_where_none_belongs(self, ca: Installation, acmeca: Acmeca, where: str, reason: str) -> None:
        said = acmeca(ca, "backup", str(ca.directory / where))
        assert said.code == 1
        assert reason in said.stderr
        assert not (ca.directory / where).exists()

    def test_one_that_is_there(self, ca: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
        assert acmeca(ca, "backup", str(tmp_path / "b")).code == 0
        assert "--force" in acmeca(ca, "backup", str(tmp_path / "b")).stderr
        assert acmeca(ca, "backup", "--force", str(tmp_path / "b")).code == 0

    def test_no_ca(self, ca: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
        ca.database_path.unlink()
        assert "acmeca restore" in acmeca(ca, "backup", str(tmp_path / "b")).stderr

    def test_progress_on_a_terminal(self, ca: Installation, tmp_path: Path) -> None:
        with on_terminal(
            ca._command("backup", str(tmp_path / "b")), env=clean_environment(), cwd=ca.directory
        ) as terminal:
            assert terminal.wait() == 0
            assert "looking at the journal" in terminal.output  # what comes before may be too quick to be drawn


class TestKeys:
    def test_a_machine_that_is_lost_whole(self, ca: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
        before = {path: path.read_bytes() for path in key_files(ca)}
        said = acmeca(ca, "backup", "--with-keys", str(tmp_path / "b"))
        assert "whoever can read this file can issue" in said.stdout
        shutil.copytree(ca.data_dir / "journal", tmp_path / "journal")
        shutil.rmtree(ca.data_dir)
        said = acmeca(ca, "restore", str(tmp_path / "b"), "--journal", str(tmp_path / "journal"))
        assert said.code == 0, said.stderr
        assert "Put back from the backup: keys/" in said.stdout
        assert {path: path.read_bytes() for path in key_files(ca)} == before
        assert all(path.stat().st_mode & 0o077 == 0 for path in before)
        assert issue(ca, "again.localhost")

    def test_keys_that_are_missing_are_told(self, ca: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
        acmeca(ca, "backup", str(tmp_path / "b"))
        shutil.rmtree(ca.data_dir / "keys")
        said = acmeca(ca, "restore", str(tmp_path / "b"))
        assert said.code == 0
        assert "These keys are not there: keys/" in said.stdout

    def test_the_key_of_grants_is_one_of_them(self, ca: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
        assert acmeca(ca, "eab", "create", "--owner", "a").code == 0
        assert acmeca(ca, "backup", str(tmp_path / "b")).code == 0
        path = ca.data_dir / "keys" / "eab.key"
        kept = path.read_bytes()
        path.unlink()
        assert "These keys are not there: keys/eab.key." in acmeca(ca, "restore", str(tmp_path / "b")).stdout
        path.write_bytes(kept)
        path.chmod(0o600)
        assert acmeca(ca, "backup", "--with-keys", "--force", str(tmp_path / "b")).code == 0
        path.unlink()
        assert "Put back from the backup: keys/eab.key" in acmeca(ca, "restore", str(tmp_path / "b")).stdout
        assert path.read_bytes() == kept

    def test_keys_that_are_there_stay(self, ca: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
        acmeca(ca, "backup", "--with-keys", str(tmp_path / "b"))
        path = key_files(ca)[0]
        path.write_bytes(b"another")
        said = acmeca(ca, "restore", str(tmp_path / "b"))
        assert "Not replaced" in said.stdout
        assert path.read_bytes() == b"another"


class TestRestore:
    def test_what_was_done_is_told(self, ca: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
        acmeca(ca, "backup", str(tmp_path / "b"))
        serial = issue(ca, "new.localhost")
        acmeca(ca, "revoke", serial, "--yes")
        trial = acmeca(ca, "restore", "--trial", "--json", str(tmp_path / "b"))
        document = json.loads(trial.stdout)
        assert (document["is_trial"], document["complete"]) == (True, True)
        said = acmeca(ca, "restore", str(tmp_path / "b"))
        assert "1 certificates, 1 revocations" in said.stdout
        assert "Next: acmeca serve" in said.stdout
        assert "acmeca.db.before-" in said.stdout
        assert serial in acmeca(ca, "list", "--status", "revoked").stdout

    def test_the_present_database_knows_what_is_missing(self, ca: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
        """Somebody restores over a database that is well, and the journal's end is gone."""
        acmeca(ca, "backup", str(tmp_path / "b"))
        issue(ca, "new.localhost")
        max(segments(ca.data_dir / "journal"), key=lambda segment: segment.path.stat().st_mtime_ns).path.unlink()
        said = acmeca(ca, "restore", str(tmp_path / "b"))
        assert said.code == 1
        assert "the database that is there (acmeca.db) has it" in said.stderr

    def test_a_person_decides(self, ca: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
        acmeca(ca, "backup", str(tmp_path / "b"))
        command = ca._command("restore", "--without-journals", str(tmp_path / "b"))
        with on_terminal(command, env=clean_environment(), cwd=ca.directory) as terminal:
            terminal.expect("replaying …")
            terminal.expect("no journal was replayed, as was asked for")
            terminal.expect("forget that? [y/N]")
            terminal.type("y")
            assert terminal.wait() == 0
        assert len(list(ca.data_dir.glob("*.before-*"))) == 1

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (("none",), "cannot be read: No such file"),
            (("acmeca.toml",), "is no backup of acmeca"),
            (("b", "--journal", "none"), "there is no such directory"),
            (("b", "--journal", "ca", "--without-journals"), "contradict each other"),
        ],
    )
    def test_what_cannot_be(self, ca: Installation, acmeca: Acmeca, arguments: tuple[str, ...], reason: str) -> None:
        acmeca(ca, "backup", str(ca.directory / "b"))
        before = ca.database_path.read_bytes()
        with contextlib.chdir(ca.directory):
            said = acmeca(ca, "restore", *arguments)
        assert said.code in {1, 2}
        assert reason in said.stderr
        assert ca.database_path.read_bytes() == before

    def test_a_newer_journal(
        self, ca: Installation, acmeca: Acmeca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        acmeca(ca, "backup", str(tmp_path / "b"))
        monkeypatch.setattr("acmeca.storage.journal_kinds.KINDS", {})
        said = acmeca(ca, "restore", str(tmp_path / "b"))
        assert said.code == 1
        assert "a newer acmeca wrote it" in said.stderr
        assert not list(ca.data_dir.glob("*resto*"))


class TestJournal:
    def test_list(self, ca: Installation, acmeca: Acmeca) -> None:
        found = segments(ca.data_dir / "journal")
        said = acmeca(ca, "journal", "list")
        assert all(segment.path.name in said.stdout for segment in found)
        assert f"{len(found)} segments" in said.stdout
        document = json.loads(acmeca(ca, "journal", "list", "--json").stdout)
        assert sum(item["commits"] for item in document["segments"]) == 3
        found[0].path.write_bytes(found[0].path.read_bytes().replace(b"commit", b"Commit", 1))
        assert "is damaged" in acmeca(ca, "journal", "list").stdout

    def test_prune(self, ca: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
        acmeca(ca, "backup", str(tmp_path / "b"))
        issue(ca, "later.localhost")
        before = segments(ca.data_dir / "journal")
        trial = acmeca(ca, "journal", "prune", "--dry-run", "--before-backup", str(tmp_path / "b"))
        assert "would be removed" in trial.stdout
        assert segments(ca.data_dir / "journal") == before
        said = acmeca(ca, "journal", "prune", "--json", "--before-backup", str(tmp_path / "b"))
        removed = json.loads(said.stdout)["removed"]
        assert removed
        left = {segment.path.name for segment in segments(ca.data_dir / "journal")}
        assert left == {segment.path.name for segment in before} - set(removed)
        assert json.loads(acmeca(ca, "restore", "--trial", "--json", str(tmp_path / "b")).stdout)["complete"]

    def test_prune_by_what_is_no_backup(self, ca: Installation, acmeca: Acmeca) -> None:
        said = acmeca(ca, "journal", "prune", "--before-backup", str(ca.config_path))
        assert said.code == 1
        assert "is no backup" in said.stderr


class TestCopy:
    def test_to_another_file(self, ca: Installation, acmeca: Acmeca) -> None:
        said = acmeca(ca, "storage", "copy", "--from", "sqlite:///acmeca.db", "--to", "sqlite:///other.db")
        assert said.code == 0, said.stderr
        assert 'url = "sqlite:///other.db"' in said.stdout
        ca.config_path.write_text(ca.config_path.read_text() + '\n[storage]\nurl = "sqlite:///other.db"\n')
        assert issue(ca, "again.localhost")
        assert "www.localhost" in acmeca(ca, "list").stdout

    @pytest.mark.parametrize(
        ("source", "target", "reason"),
        [
            ("sqlite:///acmeca.db", "sqlite:///acmeca.db", "the same database"),
            ("sqlite:///none.db", "sqlite:///x.db", "there is no database"),
            ("sqlite:///acmeca.db", "sqlite:///acmeca.lock", "exists"),
            ("acmeca.db", "sqlite:///x.db", "three slashes"),
            ("sqlite:///acmeca.db", "postgresql://host", "--to"),
        ],
    )
    def test_what_cannot_be(self, ca: Installation, acmeca: Acmeca, source: str, target: str, reason: str) -> None:
        said = acmeca(ca, "storage", "copy", "--from", source, "--to", target)
        assert said.code in {1, 2}
        assert reason in said.stderr

    async def test_a_server_writes_to_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("acmeca.recovery.BEAT", 0.1)
        (tmp_path / "ca").mkdir()
        source, target = (Place.parse(f"sqlite:///{name}", base=tmp_path) for name in ("ca/acmeca.db", "x.db"))
        copy = partial(copy_storage, source, target, on_progress=no_progress)
        async with journalled_store(tmp_path / "ca") as store:
            await make_hierarchy(store)
            beating = asyncio.create_task(beat(store))
            with pytest.raises(Conflict, match="--beside-servers"):
                await copy(beside_writers=False)
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            assert await copy(beside_writers=True)
            (tmp_path / "x.db").unlink()
            assert await copy(beside_writers=False), "it was killed: nothing moves"


async def beat(store: Store) -> None:
    while True:
        await store.writers.beat()
        await asyncio.sleep(0.01)
