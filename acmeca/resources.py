"""Where the files that are no Python lie: `templates/`, `conf/` and `docs/`.

Rule 1: this module imports nothing of acmeca, so that every layer may ask it.
Rule 2: a wheel carries the folders below `acmeca/_data/`; a checkout has them beside the package. Nothing else is searched:
no working directory, no environment variable, so that nobody can put another template in our place.
"""

from pathlib import Path
from typing import Final, Literal

Folder = Literal["templates", "conf", "docs"]

_PACKAGE: Final = Path(__file__).resolve().parent


def find(folder: Folder, *, package: Path = _PACKAGE) -> Path:
    """The absolute path of a data folder; `package` is the directory of the `acmeca` package itself.

    Raises FileNotFoundError when neither a wheel nor a checkout surrounds the package: the installation is broken.
    """
    # Step 1: a wheel. It comes first, as nothing in site-packages beside the package is ours.
    installed = package / "_data" / folder
    if installed.is_dir():
        return installed
    # Step 2: a checkout, known by its project file.
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / folder).is_dir():
        return checkout / folder
    raise FileNotFoundError(
        f"acmeca's folder {folder!r} is neither at {installed} nor beside the package: reinstall acmeca"
    )
