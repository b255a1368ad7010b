"""The Gradescope autograder: complete, and its run grades as the class would be graded."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from attnlab.contract import InputError
from attnlab.course import autograder, sandbox
from attnlab.course.answer import answer, broken
from attnlab.course.config import Course, read_course
from attnlab.course.package import package
from attnlab.paths import vectors_dir
from attnlab.registry import find

COURSE = """\
title = "Autumn"
exercises = ["attention"]
details = "actual-only"

[weights]
cost = 0

[exercise.attention]
points = 60
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A course with hidden vectors, packed and unpacked as Gradescope does."""
    made = tmp_path_factory.mktemp("course")
    (made / "hidden").mkdir()
    (made / "course.toml").write_text(COURSE, encoding="utf-8")
    for suffix in (".npz", ".json"):
        shutil.copy(vectors_dir() / f"attention{suffix}", made / "hidden")
        (made / "hidden" / f"unrelated{suffix}").write_bytes(b"not packed")
    package(made / "out", read_course(made), requirement="attnlab==0.1.0")
    return made


@pytest.fixture
def root(folder: Path, tmp_path: Path) -> Path:
    with zipfile.ZipFile(folder / "out" / "autograder.zip") as archive:
        archive.extractall(tmp_path / "source")
    shutil.copy(tmp_path / "source" / "run_autograder", tmp_path)
    (tmp_path / "submission").mkdir()
    (tmp_path / "results").mkdir()
    return tmp_path


def run(
    root: Path, files: dict[str, bytes]
) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    for name, content in files.items():
        (root / "submission" / name).write_bytes(content)
    environment = os.environ | {"AUTOGRADER_ROOT": str(root), "AUTOGRADER_PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", str(root / "run_autograder")],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return json.loads((root / "results" / "results.json").read_text()), done


def test_the_zip_has_all_at_its_root_and_scripts_that_run(folder: Path) -> None:
    with zipfile.ZipFile(folder / "out" / "autograder.zip") as archive:
        assert set(archive.namelist()) == {
            "setup.sh", "run_autograder", "requirements.txt", "attnlab.json", "course/course.toml",
            "course/hidden/attention.npz", "course/hidden/attention.json",
        }  # fmt: skip
        for name in ("setup.sh", "run_autograder"):
            assert archive.getinfo(name).external_attr >> 16 & stat.S_IXUSR
            script = archive.read(name).decode()
            assert script.startswith("#!/usr/bin/env bash\n")
            subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=10)
        assert archive.read("requirements.txt") == b"attnlab==0.1.0\n"


def test_the_same_course_gives_the_same_zip(folder: Path, tmp_path: Path) -> None:
    packed = package(tmp_path, read_course(folder), requirement="attnlab==0.1.0")
    assert packed.path.read_bytes() == (folder / "out" / "autograder.zip").read_bytes()
    assert (packed.exercises, packed.points, packed.notes) == (("attention",), 60, ())


def test_a_right_submission_earns_all_points(root: Path) -> None:
    result, done = run(root, answer(find("attention")))
    assert done.returncode == 0, done.stdout + done.stderr
    assert result["score"] == 60
    assert sum(t["max_score"] for t in result["tests"]) == pytest.approx(60)
    assert {t["status"] for t in result["tests"]} == {"passed"}
    assert "hidden items" in result["output"]
    assert any(t["visibility"] == "hidden" and t["max_score"] > 0 for t in result["tests"])
    assert any(t["max_score"] == 0 for t in result["tests"])  # public vectors: feedback
    seed = next(line for line in done.stdout.splitlines() if line.startswith("seed "))
    assert f'"{seed.split()[1]}"' not in json.dumps(result)
    assert f"isolation {sandbox.choose()}" in done.stdout


def test_a_wrong_submission_earns_less_and_is_told_why(root: Path) -> None:
    exhibit = find("attention")
    assert exhibit.exercise is not None
    wrong = broken(exhibit, exhibit.exercise.mistakes[0]).encode()
    result, done = run(root, {"attention.py": wrong})
    assert done.returncode == 0, done.stdout + done.stderr
    assert 0 <= result["score"] < 60
    failed = [t for t in result["tests"] if t["status"] == "failed"]
    shown = "\n".join(t["output"] for t in failed if t["visibility"] == "visible")
    assert "first wrong index" in shown
    assert "expected there" not in shown  # the course's level of detail
    hidden = [t for t in failed if t["visibility"] == "hidden"]
    assert hidden
    assert not any("index" in t["output"] or "shape" in t["output"] for t in hidden)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"attention.py": b"def attend(:\n"}, "SyntaxError"),
        ({"Atention.py": b"x = 1\n"}, "attention.py"),
        ({}, "attention.py"),
    ],
)  # fmt: skip
def test_a_malformed_submission_is_told_apart(
    files: dict[str, bytes], says: str, root: Path
) -> None:
    result, done = run(root, files)
    assert done.returncode == 0, done.stdout + done.stderr
    assert result["score"] == 0
    assert says in result["output"]
    assert "malformed" in result["output"] or "missing" in result["output"]
    assert {t["status"] for t in result["tests"]} == {"failed"}


def test_a_submission_cannot_read_or_write_the_autograder(root: Path) -> None:
    spy = (
        "import os\n"
        f"root = {str(root)!r}\n"
        "seen = [file for _, _, files in os.walk(root) for file in files]\n"
        "try:\n    open(root + '/results/results.json', 'w').write('{\"score\": 60}')\n"
        "except OSError:\n    pass\n"
        "def attend(q, k, v, **options):\n    raise RuntimeError(f'seen: {seen}')\n"
    )
    result, _ = run(root, {"attention.py": spy.encode()})
    assert result["score"] == 0
    text = json.dumps(result)
    assert "seen: []" in text
    assert "hidden/attention.npz" not in text


def test_weaker_isolation_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container without user namespaces."""
    levels = {"bubblewrap": "no user namespaces", "landlock": "", "none": ""}
    monkeypatch.setattr(sandbox, "available", lambda: levels)
    assert autograder.isolation_note("bubblewrap") == ""
    note = autograder.isolation_note("landlock")
    assert note == "Isolation is landlock (bubblewrap: no user namespaces)."
    monkeypatch.setattr(sandbox, "available", lambda: dict.fromkeys(levels, ""))
    assert "as the instructor asked" in autograder.isolation_note("none")


def test_no_isolation_means_no_grade_but_an_explanation(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(asked: str) -> str:
        raise InputError("isolation: nothing isolates here")

    monkeypatch.setattr(sandbox, "choose", refuse)
    assert autograder.main([str(root)]) == 2
    result = json.loads((root / "results" / "results.json").read_text())
    assert result["score"] == 0
    assert "nothing isolates here" in result["output"]
    assert autograder.main(["--check", str(root)]) == 0


def test_a_cut_off_run_leaves_what_was_graded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is there before anything runs, and says that grading has not finished."""
    seen = []

    def killed(path: Path) -> None:
        seen.append(json.loads((root / "results" / "results.json").read_text()))
        raise KeyboardInterrupt

    monkeypatch.setattr(autograder, "read", killed)
    with pytest.raises(KeyboardInterrupt):
        autograder.main([str(root)])
    assert seen[0]["score"] == 0
    assert "not finished" in seen[0]["output"]


def test_our_own_failure_is_not_the_students(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path) -> None:
        raise OSError("disk")

    monkeypatch.setattr(autograder, "read", fails)
    assert autograder.main([str(root)]) == 1
    result = json.loads((root / "results" / "results.json").read_text())
    assert "not your fault" in result["output"]


def test_refusals_name_the_option(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--only"):
        package(tmp_path, Course(), requirement="attnlab")
    with pytest.raises(InputError, match="--wheel"):
        package(tmp_path, Course(), ["attention"], wheel=tmp_path / "attnlab.zip")
    with pytest.raises(InputError, match="--isolation"):
        package(tmp_path, Course(), ["attention"], requirement="attnlab", isolation="docker")
    assert not list(tmp_path.iterdir())


def test_defaults_and_notes_without_a_course(tmp_path: Path) -> None:
    wheel = tmp_path / "attnlab-0.1.0-py3-none-any.whl"
    wheel.write_bytes(b"as it is")
    names = ["attention", "landmark"]
    packed = package(tmp_path, Course(), names, wheel=wheel)
    with zipfile.ZipFile(packed.path) as archive:
        archive.extractall(tmp_path / "source")
    assert (tmp_path / "source" / "requirements.txt").read_text() == f"./{wheel.name}\n"
    course, names, isolation = autograder.settings(tmp_path)
    assert course.exercises == tuple(names) == ("attention", "landmark")
    assert isolation == "auto"
    assert any("no hidden vectors" in note for note in packed.notes)


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from attnlab.cli import _main

    call = ["course", "package", str(tmp_path), "--from", "attnlab==0.1.0"]
    assert _main([*call, "--course", str(folder), "--only", "attention"]) == 0
    assert "autograder points 60" in capsys.readouterr().out
    assert (tmp_path / "autograder.zip").is_file()
    assert _main([*call, "--course", str(folder), "--only", "landmark"]) == 2
    assert _main([*call, "--wheel", "attnlab-0.1.0.whl"]) == 2
