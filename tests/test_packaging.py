"""The wheel has in it what the server needs at run time, and nothing that it must not carry."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from acmeca import resources

CHECKOUT = Path(__file__).resolve().parent.parent
FOLDERS = ("templates", "conf", "docs")

# Runs with the unpacked wheel first on the path: finds the folders, and loads the page's templates as the server does.
LOOK = """
import sys
sys.path.insert(0, sys.argv[1])
from aiohttp import web
from acmeca import resources
from acmeca.web.front_page import add_front_page
from acmeca.web.problem_page import add_problem_page
print(resources.__file__)
for folder in sys.argv[2:]:
    print(resources.find(folder))
add_front_page(web.Application(), lambda: None)
add_problem_page(web.Application())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(CHECKOUT)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = out.glob("acmeca-*.whl")
    return wheel


def files_of(folder: str) -> dict[str, bytes]:
    """The files of a folder of the checkout, by their path in it."""
    root = CHECKOUT / folder
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_wheel_carries_the_folder(wheel: Path, folder: str) -> None:
    """Every file of `templates/`, `conf/` and `docs/` lies byte for byte below `acmeca/_data/`."""
    prefix = f"acmeca/_data/{folder}/"
    with zipfile.ZipFile(wheel) as archive:
        carried = {
            name.removeprefix(prefix): archive.read(name) for name in archive.namelist() if name.startswith(prefix)
        }
    assert carried == files_of(folder)
    assert carried, folder


def test_the_wheel_carries_nothing_else(wheel: Path) -> None:
    """The package and its metadata; no tests, no keys, no databases."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert not [name for name in names if not name.startswith(("acmeca/", "acmeca-"))]
    assert not [name for name in names if name.endswith((".pem", ".key", ".db", ".sqlite", ".pyc"))]
    modules = {
        f"acmeca/{path.relative_to(CHECKOUT / 'acmeca').as_posix()}" for path in (CHECKOUT / "acmeca").rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == modules


def test_the_unpacked_wheel_finds_its_folders(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    ran = subprocess.run(
        [sys.executable, "-P", "-c", LOOK, str(site), *FOLDERS],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert [Path(line) for line in ran.stdout.splitlines()] == [
        site / "acmeca" / "resources.py",
        *(site / "acmeca" / "_data" / folder for folder in FOLDERS),
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_checkout_finds_its_own(folder: resources.Folder) -> None:
    assert resources.find(folder) == CHECKOUT / folder


def test_a_wheel_does_not_look_beside_itself(tmp_path: Path) -> None:
    """A folder `templates` in site-packages belongs to somebody else: without a project file it is not ours."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "acmeca").mkdir()
    with pytest.raises(FileNotFoundError, match="reinstall acmeca"):
        resources.find("templates", package=tmp_path / "acmeca")


def test_the_wheels_own_folder_comes_first(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "conf").mkdir()
    own = tmp_path / "acmeca" / "_data" / "conf"
    own.mkdir(parents=True)
    assert resources.find("conf", package=tmp_path / "acmeca") == own
    own.rmdir()
    assert resources.find("conf", package=tmp_path / "acmeca") == tmp_path / "conf"


def test_nothing_else_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the working directory: whoever starts the server elsewhere gets no other templates."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    assert resources.find("templates") == CHECKOUT / "templates"
