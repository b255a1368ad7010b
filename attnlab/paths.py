"""Where things lie: lessons, embedded data, the shared data of a source checkout, the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def project_root() -> Path | None:
    """The source checkout that this package lies in, or None for an installed wheel."""
    root = PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "lessons").is_dir() else None


def _share(name: str) -> Path:
    root = project_root()
    return root / name if root else PACKAGE / "_share" / name


def lessons_dir() -> Path:
    """The folder of the percent-format lessons."""
    return _share("lessons")


def vectors_dir() -> Path:
    """The folder of the public test vectors (tests/golden of a source checkout)."""
    root = project_root()
    return root / "tests" / "golden" if root else _share("vectors")


def data_dir() -> Path:
    """The folder of the embedded corpora and the trained small weights."""
    return _share("data")


def shared_data() -> Path | None:
    """The public datasets beside a source checkout (`../shared/data`), or None where there are none.

    They are never part of the project: who reads them says what is missing when this is None.
    """
    root = project_root()
    folder = root.parent / "shared" / "data" if root else None
    return folder if folder is not None and folder.is_dir() else None


def cache_dir() -> Path:
    """The user's cache folder; the environment variable ATTNLAB_CACHE_DIR overrides it."""
    if override := os.environ.get("ATTNLAB_CACHE_DIR"):
        return Path(override).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("attnlab", appauthor=False))
