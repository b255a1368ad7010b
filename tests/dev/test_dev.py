"""The author's tools: the lint finds what is wanting, the template is a working exhibit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from attnlab import registry
from attnlab.contract import InputError, Part
from attnlab.dev import check
from attnlab.dev.new import lay_out

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", registry.names())
def test_exhibits_have_card_paths_skeleton_lesson_and_sources(name: str) -> None:
    exhibit = registry.find(name)
    for rule in ("paths", "skeleton", "exercise", "lesson", "card", "cited"):
        assert not list(check.CHECKS[rule](exhibit)), rule


def test_the_lint_finds_what_is_wanting() -> None:
    whole = registry.find("attention")
    assert list(check.card(replace(whole, idea="")))
    assert list(check.cited(replace(whole, paper=replace(whole.paper, authors=()))))
    assert list(check.lesson(replace(whole, name="no_such_lesson")))
    assert list(check.golden(replace(whole, name="no_such_vectors")))
    assert whole.exercise is not None
    helpers = replace(whole.exercise, parts=(Part("no_such_helper"),))
    assert list(check.derivable(replace(whole, exercise=helpers)))


@pytest.mark.parametrize(
    ("name", "family", "message"),
    [
        ("Bad-Name", "dense", "lower-case"),
        ("mine", "desne", "did you mean dense"),
        ("attention", "dense", "already"),
        ("class", "dense", "word of the Python language"),
    ],
)
def test_a_bad_name_is_refused(name: str, family: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        lay_out(name, family)


def test_the_template_is_a_working_exhibit(tmp_path: Path) -> None:
    """In a copy of the project the new exhibit passes the contract tests before a line is changed."""
    for folder in ("attnlab", "tests/contract", "lessons"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    (tmp_path / "tests/golden").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / "tests/conftest.py", tmp_path / "tests")
    written = lay_out("running_mean", "linear", tmp_path)
    assert all((tmp_path / path).is_file() for path in written)
    with pytest.raises(InputError, match="already there"):
        lay_out("running_mean", "linear", tmp_path)
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    for shown in (["list"], ["show", "running_mean"]):  # the card names no paper yet
        subprocess.run(
            [sys.executable, "-m", "attnlab", *shown], cwd=tmp_path, env=env, check=True, timeout=60
        )
    rules = "[*check.derivable(e), *check.exercise(e)]"
    code = f"from attnlab.dev import check; from attnlab.registry import find; e = find('running_mean'); assert not {rules}"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True, timeout=60)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=--strict-markers",
        "tests/contract",
        "tests/mechanisms",
        "-k",
        "running_mean",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:]
    lesson = [sys.executable, "-m", "attnlab", "run", "lesson", "running_mean", "--quick"]
    done = subprocess.run(
        lesson, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
