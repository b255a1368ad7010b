"""`python -m pytest --submission DIR` as a subprocess: what runs, what never does, what is told."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from attnlab.course.answer import answer, broken
from attnlab.course.sandbox import available
from attnlab.course.skeleton import skeleton
from attnlab.paths import vectors_dir
from attnlab.registry import find

LEVEL = next((level for level, why in available().items() if not why), "")
pytestmark = pytest.mark.skipif(not LEVEL, reason="submissions cannot run on this machine")
# a test environment's other plugins cost a second a run
QUICK = ("cacheprovider", "hypothesispytest", "anyio", "jaxtyping", "cov")
MARK = "import os; open({mark!r}, 'a').write(__name__ + ' ')\n"


def grade(cwd: Path, *args: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *args, "--isolation", LEVEL, *(f"-pno:{name}" for name in QUICK)],
        cwd=cwd, env=environment | {"COLUMNS": "120"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def counts(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    last = done.stdout.strip().splitlines()[-1]
    return {word.rstrip("s"): int(n) for n, word in re.findall(r"(\d+) ([a-z]+)", last)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A submission with a right answer of one exercise and a wrong one of another."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "attention.py").write_bytes(answer(find("attention"))["attention.py"])
    landmark = find("landmark")
    assert landmark.exercise
    (work / "landmark.py").write_text(broken(landmark, landmark.exercise.mistakes[0]))
    return work


def test_without_submission_the_plugin_is_inert(tmp_path: Path) -> None:
    code = (
        "import sys, pytest; code = pytest.main(['--collect-only', '-q', '-p', 'no:jaxtyping', "
        "'-p', 'no:hypothesispytest', '-p', 'no:cov', '-p', 'no:xdist']);"
        "ours = {m for m in sys.modules if m.startswith('attnlab')};"
        "assert ours == {'attnlab', 'attnlab.course', 'attnlab.course.plugin'}, ours;"
        "heavy = {'torch', 'numba', 'scipy', 'matplotlib'} & set(sys.modules); assert not heavy, heavy;"
        "sys.exit(code)"
    )
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_own.py::test_own" in done.stdout


def test_each_item_is_a_test(folder: Path) -> None:
    xml = folder.parent / "results.xml"
    done = grade(
        folder.parent, "--submission", "work", "--course-seed", "7", "--junitxml", str(xml), "-v"
    )
    assert done.returncode == 1, done.stderr
    assert "work/attention.py::attention[attend/fresh-3] PASSED" in done.stdout
    assert re.search(r"work/landmark.py::landmark\[attend/\S+\] FAILED", done.stdout)
    assert "work::moh[file] SKIPPED (no moh.py)" in done.stdout
    assert f"isolation {LEVEL}, seed 7" in done.stdout
    assert "attention  public score 100/100" in done.stdout
    assert re.search(r"landmark   public score [\d.]+/100", done.stdout)
    assert "--course-seed 7 draws the same inputs again" in done.stdout
    # the difference and what it looks like, and no traceback of ours
    mistakes = find("landmark").exercise.mistakes  # type: ignore[union-attr]
    assert mistakes[0].says in done.stdout
    assert re.search(r"first wrong +out\[[\d, ]+\] is \S+, not \S+", done.stdout)
    assert "Traceback" not in done.stdout
    assert "attnlab/course" not in done.stdout

    cases = ElementTree.parse(xml).getroot().findall(".//testcase")
    by_name = {case.get("name"): case for case in cases}
    fresh = by_name["attention[attend/fresh-3]"]
    assert fresh.get("classname") == "work.attention"
    facts = {p.get("name"): p.get("value") for p in fresh.iter("property")}
    assert facts["kind"] == "fresh"
    assert float(facts["earned"] or 0) == float(facts["points"] or 0) > 0


def test_usual_options_choose_and_stop(folder: Path) -> None:
    cwd = folder.parent
    done = grade(cwd, "--submission", "work", "-k", "landmark and fresh", "-x", "-q")
    assert done.returncode == 1
    assert counts(done)["failed"] == 1
    name = "work/attention.py::attention[attend/fresh-2]"
    done = grade(cwd, "--submission", "work", name)
    assert (done.returncode, counts(done)) == (0, {"passed": 1})
    done = grade(cwd, "--submission", "work", "--collect-only", "-q", "attention")
    assert done.returncode == 0
    assert "work/attention.py::attention[attend/cost-1]" in done.stdout
    assert "landmark" not in done.stdout


def test_workers_draw_the_same_inputs(folder: Path) -> None:
    pytest.importorskip("xdist")
    done = grade(folder.parent, "--submission", "work", "-k", "attention and fresh", "-n", "2")
    assert done.returncode == 0, done.stdout + done.stderr  # differing items would be an error
    assert counts(done)["passed"] == 8
    assert "attention  public score" in done.stdout


def test_nothing_of_the_folder_is_imported_here(folder: Path) -> None:
    mark = folder.parent / "imported"
    for name in ("conftest", "test_evil", "__init__", "scipy", "torch", "helper"):
        (folder / f"{name}.py").write_text(MARK.format(mark=str(mark)))
    (folder / "sub").mkdir()
    (folder / "sub" / "conftest.py").write_text(MARK.format(mark=str(mark)))
    chosen = ("-k", "attention and property", "-q")
    for cwd, where in ((folder.parent, "work"), (folder, ".")):
        done = grade(cwd, "--submission", where, *chosen)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "failed" not in counts(done)
        assert not mark.exists(), mark.read_text()
    # what pytest itself was made to import before the plugin could object is refused
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p helper\npythonpath = .\n")
    done = grade(folder.parent, "--submission", "work", *chosen)
    assert done.returncode != 0
    # older versions of pytest do not find the module yet
    assert re.search('imported from the submission|Error importing plugin "helper"', done.stderr)
    (folder / "pytest.ini").write_text("[pytest]\n")
    done = grade(folder.parent, "--submission", "work", *chosen)
    assert done.returncode == 4
    assert "lies in the submission" in done.stderr


def test_malformed_is_an_error_and_not_a_failure(folder: Path) -> None:
    (folder / "attention.py").write_text("def attend(:\n")
    (folder / "landmark.py").write_text(skeleton(find("landmark")))
    done = grade(folder.parent, "--submission", "work", "-k", "fresh", "-q")
    assert done.returncode == 1
    assert counts(done)["error"] == counts(done)["failed"] == 8
    assert "malformed: SyntaxError: invalid syntax (attention.py, line 1)" in done.stdout
    assert "attention  public score 0/" in done.stdout
    assert "NotImplementedError: attend (landmark.py" in done.stdout


def test_an_endless_loop_costs_its_item(folder: Path) -> None:
    course = folder.parent / "course"
    course.mkdir()
    (course / "course.toml").write_text(
        'exercises = ["attention", "moh"]\n[limits]\nwall = 0.5\ncpu = 0.5\n'
    )
    text = (folder / "attention.py").read_text()
    head = "def attend(*args, **more):\n    while True:\n        pass\n\n\n"
    (folder / "attention.py").write_text(text + "\n\n" + head)
    chosen = ("--course", "course", "-k", "softmax or fresh-1 or file", "-q")
    done = grade(folder.parent, "--submission", "work", *chosen)
    assert done.returncode == 1
    assert counts(done) == {"failed": 2, "passed": 3, "deselected": counts(done)["deselected"]}
    assert "timeout" in done.stdout
    # the course asks for moh by name: without a file it is failed, not skipped
    assert "missing: no moh.py" in done.stdout


def test_an_instructors_hidden_vectors_are_counted_apart(folder: Path) -> None:
    course = folder.parent / "course"
    (course / "hidden").mkdir(parents=True)
    for end in ("npz", "json"):
        shutil.copy(vectors_dir() / f"attention.{end}", course / "hidden" / f"attention.{end}")
    (course / "course.toml").write_text('title = "Autumn"\nexercises = ["attention"]\n')
    attention = find("attention")
    assert attention.exercise
    (folder / "attention.py").write_text(broken(attention, attention.exercise.mistakes[0]))
    done = grade(folder.parent, "--submission", "work", "--course", "course", "-k", "hidden")
    assert done.returncode == 1, done.stderr
    assert "course 'Autumn'" in done.stdout
    assert re.search(
        r"attention  public score .*; \d hidden items worth .* not counted", done.stdout
    )
    assert re.search(r"attention\[attend/hidden-\d\] _+\nwrong", done.stdout)
    for told in ("first wrong", "largest error", "called with", "looks like", "case "):
        assert told not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--submission", "work", "--course", "bad"], "which the exercise does not ask for"),
        (["--submission", "nowhere"], "neither a folder nor a zip"),
        (["--submission", "work", "landmrk"], "did you mean landmark"),
        (["--submission", "work", "--details", "ful"], "did you mean full"),
        (["--submission", "work", "--track", "toch"], "did you mean torch"),
        (["--submission", "work", "--course-seed", "-1"], "must not be negative"),
    ],
)  # fmt: skip
def test_a_bad_call_is_a_usage_error(folder: Path, arguments: list[str], message: str) -> None:
    (folder.parent / "bad" / "hidden").mkdir(parents=True)
    (folder.parent / "bad" / "course.toml").write_text("")
    for end in ("npz", "json"):  # its cases are of an operation that is no exercise
        vectors = vectors_dir() / f"landmark.{end}"
        shutil.copy(vectors, folder.parent / "bad" / "hidden" / f"landmark.{end}")
    done = grade(folder.parent, *arguments)
    assert done.returncode == 4, done.stdout
    assert message in done.stderr
    assert "Traceback" not in done.stderr
