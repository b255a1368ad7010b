"""`attnlab course` as a subprocess: a student's way through an exercise, bad calls, watching."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attnlab.course.answer import answer, broken
from attnlab.course.sandbox import available
from attnlab.registry import find

EXHIBIT = find("attention")
ISOLATES = any(not why for level, why in available().items() if level != "none")
NEEDS_WORKER = pytest.mark.skipif(not ISOLATES, reason="nothing isolates on this machine")


def course(
    cwd: Path, *args: str, code: int | None = 0, **env: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "attnlab", "course", *args], cwd=cwd,
        env=os.environ | {"COLUMNS": "100"} | env, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b[" not in done.stdout
    return done


def unscaled() -> str:
    assert EXHIBIT.exercise
    return broken(EXHIBIT, next(m for m in EXHIBIT.exercise.mistakes if m.name == "unscaled"))


@NEEDS_WORKER
def test_a_students_way(tmp_path: Path) -> None:
    folder = tmp_path / "attnlab-course"
    file = folder / "attention.py"
    done = course(tmp_path, "start", "attention", "landmark")
    assert "course check attention" in done.stdout
    assert "landmark builds on attention" in done.stdout
    assert "NotImplementedError" in file.read_text()

    done = course(tmp_path, "check", "attention", code=1)
    assert "public score 0/100" in done.stdout
    assert "First failure" in done.stdout
    assert "course hint attention` shows hint 1 of 3" in done.stdout
    assert re.search("isolation (bubblewrap|landlock|none)", done.stdout)

    done = course(tmp_path, "hint")  # attention is the file edited last but for landmark
    assert "Hint 1 of 3" in done.stdout
    assert "Hint 2" not in course(tmp_path, "hint", "attention").stdout
    done = course(tmp_path, "hint", "attention")
    assert "Hint 1 of 3" in done.stdout
    assert "Hint 2 of 3" in done.stdout
    assert "1 hint left" in done.stdout
    assert "not solved" in course(tmp_path, "solution", "attention", code=2).stderr

    file.write_text(unscaled())
    done = course(tmp_path, "start", "attention")
    assert "left as it is" in done.stdout or "left as it was" in done.stdout
    assert file.read_text() == unscaled()

    done = course(tmp_path, "check", "--seed", "3", code=1)
    for part in (
        r"called with +case full; q \(2, 2, 7, 4\)",
        r"your out +shape \(2, 2, 7, 4\), float64",
        r"first wrong +out\[0, 0, 0, 0\] is -?[\d.]+, not -?[\d.]+",
        r"largest error +[\d.]+ at out\[\d, \d, \d, \d\]",
        r"looks like +your scores look unscaled",
        r"--seed 3 draws the same inputs again",
        r"hint 3 of 3",
    ):
        assert re.search(part, done.stdout), part

    file.write_bytes(answer(EXHIBIT)["attention.py"])
    done = course(tmp_path, "check", "attention", "--json")
    (grade,) = json.loads(done.stdout)
    assert grade["public_score"] == grade["public_points"] == 100
    assert grade["outcomes"][0]["status"] == "passed"
    assert "np.einsum" in course(tmp_path, "solution", "attention").stdout

    file.write_text("def attend(:\n")
    done = course(tmp_path, "check", "--all", code=2)
    assert "malformed: SyntaxError: invalid syntax (attention.py, line 1)" in done.stdout
    assert "landmark: Landmark attention" in done.stdout  # one bad file does not stop the others

    (row, *_) = json.loads(course(tmp_path, "list", "--json").stdout)
    assert (row["name"], row["status"], row["best"]) == ("attention", "done", 100)
    document = json.loads(course(folder, "progress", "--json").stdout)  # run in the folder itself
    assert document["total"]["score"] == 100
    assert document["total"]["done"] == 1
    assert document["exercises"][0]["hints_read"] == 2
    for width in ("60", "120"):
        for command in ("list", "progress"):
            done = course(tmp_path, command, COLUMNS=width)
            table = done.stdout.partition("\n\n")[0].splitlines()
            assert max(map(len, table)) <= int(width)
            assert any("attention" in line for line in table)


def test_another_track_and_folder(tmp_path: Path) -> None:
    done = course(tmp_path, "start", "attention", "--into", "mine", "--track", "torch")
    assert "course check attention --dir mine" in done.stdout
    assert (tmp_path / "mine" / "attention.py").read_text().startswith("# Track torch")
    if ISOLATES:
        check = course(tmp_path, "check", "--dir", "mine", "--json", code=1)
        (grade,) = json.loads(check.stdout)
        assert grade["track"] == "torch"  # remembered
        kinds = {o["item"]["kind"] for o in grade["outcomes"]}
        assert "gradient" in kinds


def test_an_instructors_course_is_picked_up(tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "course.toml").write_text(
        'title = "Autumn"\nexercises = ["moh", "attention"]\n'
        "[exercise.attention]\npoints = 50\nvary = { scale = 0.5 }\n"
    )
    rows = json.loads(course(tmp_path, "list", "--course", "class", "--json").stdout)
    assert [(r["name"], r["points"]) for r in rows] == [("attention", 50), ("moh", 100)]
    course(tmp_path, "start", "attention", "--course", "class")
    assert "scale is 0.5" in (tmp_path / "attnlab-course" / "attention.py").read_text()
    done = course(tmp_path, "start", "landmark", "--course", "class", code=2)
    assert "landmark is no exercise of the course 'Autumn'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "atention"], "did you mean attention"),
        (["check"], "has no exercise's file"),
        (["check", "moh"], "course start moh"),
        (["check", "moh", "--all"], "not both"),
        (["start", "attention", "--track", "toch"], "did you mean torch"),
        (["list", "--course", "nowhere"], "a course is a folder with course.toml"),
        (["list", "--dir", "file"], "is a file"),
        (["check", "moh", "--isolation", "landlok"], "did you mean landlock"),
    ],
)
def test_a_bad_call_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "file").write_text("")
    done = course(tmp_path, *arguments, code=2)
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "attnlab-course").exists()


def test_light_commands_import_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from attnlab.cli import _main; _main(sys.argv[1:]);"
        "heavy = {'torch', 'numba', 'matplotlib', 'scipy', 'pytest'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    for command in ("--help", "list", "progress"):
        done = subprocess.run(
            [sys.executable, "-c", code, "course", command],
            cwd=tmp_path, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@NEEDS_WORKER
def test_watch_checks_again_on_a_save_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    file = tmp_path / "attention.py"
    file.write_text(unscaled())
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "attnlab", "course", "watch", "attention", "--dir", "."],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert "looks like" in _until(process, "Watching")
        time.sleep(0.3)
        (tmp_path / "unrelated.py").write_text("x = 1\n")
        file.write_bytes(answer(EXHIBIT)["attention.py"])
        again = _until(process, "Watching")
        assert "public score 100/100" in again
        assert "\x1b[" not in again  # a pipe's screen is not cleared
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "Traceback" not in errors
    finally:
        process.kill()


def _until(process: subprocess.Popen[str], word: str) -> str:
    """Output up to the line that begins with a word."""
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if line.startswith(word):
            return "".join(lines)
    raise AssertionError("".join(lines))
