"""pytest grades coursework: `python -m pytest --submission DIR [-k landmark]`.

pytest loads this module in every run, so it imports nothing but pytest and does nothing without
--submission. With it, `collect` takes the place of pytest's own collection: no file of the
submission is ever collected or imported here, and no conftest.py is read.

FAQ
- *A pytest.ini in the submission* is read by pytest before any plugin can object, and may name
  code to import: where you do not trust the folder use `attnlab grade`, or give pytest a file of
  your own with `-c`. A run that would use such a file stops with a usage error.
- *The current folder* is on the import path of `python -m pytest`. Where it lies in the submission
  it is taken off as soon as the plugin is asked, which is after pytest itself and other plugins
  were imported; start pytest from elsewhere, or as `pytest`, to have it never there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("attnlab", "coursework (attnlab)")
    group.addoption(
        "--submission", metavar="DIR",
        help="grade the NAME.py files of this folder instead of collecting tests",
    )  # fmt: skip
    group.addoption("--course", metavar="DIR", help="an instructor's folder with course.toml")
    group.addoption(
        "--track", metavar="TRACK", help="numpy, numba or torch; the course's by default"
    )
    group.addoption(
        "--isolation", metavar="LEVEL", default="auto",
        help="auto, bubblewrap, landlock or none (default: auto, which refuses where nothing isolates)",
    )  # fmt: skip
    group.addoption(
        "--course-seed", metavar="N", type=int,
        help="seed of the fresh inputs; a new one each time by default",
    )  # fmt: skip
    group.addoption(
        "--details", metavar="LEVEL",
        help="of failures: full, actual-only or none; the course's by default",
    )  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    asked = early_config.known_args_namespace
    if not asked.submission:
        return
    folder = Path(early_config.invocation_params.dir, asked.submission).resolve()
    leave(folder)
    inipath = early_config.inipath
    if inipath is not None and inipath.resolve().is_relative_to(folder):
        raise pytest.UsageError(
            f"--submission: {inipath} lies in the submission, and its settings would hold for pytest; "
            f"remove it, or give pytest another with -c ({os.devnull} will do)"
        )
    asked.noconftest = True  # read by the hook that comes after this one

    from attnlab.course.collect import Collection

    early_config.pluginmanager.register(Collection(early_config), "attnlab-submission")


def leave(folder: Path) -> None:
    """Take the entries that lie in a submission off the import path.

    Raises UsageError where something of it was imported before.
    """
    sys.path[:] = [entry for entry in sys.path if not _within(Path(entry or "."), folder)]
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and _within(Path(file), folder):
            raise pytest.UsageError(
                f"--submission: {name} was imported from the submission ({file}), since Python looks "
                "there first; start pytest from another folder, or as `pytest`"
            )


def _within(path: Path, folder: Path) -> bool:
    """Does a path lie in the submission? Python's own environment may, and is none of it."""
    path = path.resolve()
    own = [Path(p).resolve() for p in (sys.prefix, sys.base_prefix)]
    own.append(Path(__file__).resolve().parents[2])  # where attnlab itself was imported from
    apart = any(path.is_relative_to(p) and p.is_relative_to(folder) and p != folder for p in own)
    return path.is_relative_to(folder) and not apart
