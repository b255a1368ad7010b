"""`attnlab grade` as a subprocess: a class with real sandboxes, run again, interrupted, refused."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from attnlab.course.answer import answer, broken
from attnlab.course.sandbox import available
from attnlab.course.skeleton import skeleton
from attnlab.registry import find

NAME = "landmark"
ISOLATES = any(not why for level, why in available().items() if level != "none")
needs_isolation = pytest.mark.skipif(not ISOLATES, reason="nothing isolates on this machine")

# stands where NumPy stands: it must serve neither the student nor harm the grader
NUMPY = "import os\nprint('mine')\ndef array(*a, **k): os._exit(1)\n"
LOOP = "def attend(*a, **k):\n    while True:\n        pass\n"
QUICK = "[limits]\nwall = 0.5\ncpu = 0.5\nbudget = 1.5\n"


def attnlab(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "attnlab", *map(str, args)],
        env=os.environ | env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=240,
    )


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def fill(folder: Path, **students: dict[str, str | bytes]) -> Path:
    for student, files in students.items():
        for name, text in files.items():
            (folder / student / name).parent.mkdir(parents=True, exist_ok=True)
            data = text if isinstance(text, bytes) else text.encode()
            (folder / student / name).write_bytes(data)
    return folder


def right() -> dict[str, str | bytes]:
    return dict(answer(find(NAME)))


def a_class(folder: Path) -> Path:
    exhibit = find(NAME)
    assert exhibit.exercise is not None
    fill(
        folder,
        anna=right(),
        ben={f"{NAME}.py": skeleton(exhibit)},
        cleo={f"{NAME}.py": broken(exhibit, exhibit.exercise.mistakes[0])},
        dora=right() | {"numpy.py": NUMPY, "numpy/__init__.py": NUMPY},
        emil={"moh.py": "x = 1"},
        finn={f"{NAME}.py": "def attend(:\n"},
    )
    with zipfile.ZipFile(folder / "gina_12_34_hw.zip", "w") as opened:
        opened.writestr(f"hw/{NAME}.py", "import os\nos._exit(0)\n")
        opened.writestr("__MACOSX/hw/._x.py", "")
    (folder / "hugo.zip").write_bytes(b"no zip")
    return folder


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    folder = a_class(tmp_path_factory.mktemp("class"))
    out = tmp_path_factory.mktemp("out")
    done = attnlab("grade", folder, "--out", out, "--only", NAME, "--similarity", "--json")
    assert done.returncode == 0, done.stderr
    assert "graded" in done.stderr  # lines of progress where there is no terminal
    return folder, out, json.loads(done.stdout)


@needs_isolation
def test_a_class_is_graded(graded: tuple[Path, Path, dict[str, Any]]) -> None:
    _, out, document = graded
    rows = {g["student"]: g for g in document["grades"]}
    scores = {student: row["score"] for student, row in rows.items()}
    assert scores["anna"] == pytest.approx(100)
    assert scores["dora"] == pytest.approx(100)  # numpy is the real one
    assert 0 < scores.pop("cleo") < 100
    assert {s: v for s, v in scores.items() if v} == {
        "anna": scores["anna"],
        "dora": scores["dora"],
    }
    statuses = {student: row["status"] for student, row in rows.items()}
    assert statuses == {
        "anna": "graded", "ben": "graded", "cleo": "graded", "dora": "graded", "emil": "missing",
        "finn": "malformed", "gina_12_34_hw": "malformed", "hugo": "malformed",
    }  # fmt: skip
    assert rows["hugo"]["message"].startswith("no readable zip")
    assert document["isolation"] in ("bubblewrap", "landlock")
    assert {row["isolation"] for row in rows.values()} == {document["isolation"]}
    assert (document["graded"], document["kept"]) == (8, 0)
    for name in ("gradebook.csv", "canvas.csv", "junit.xml", "report.html", "grades.json"):
        assert (out / name).stat().st_size > 0
        assert str(out / name) in document["files"]
    assert any("suspiciously alike" in note for note in document["notes"])


@needs_isolation
def test_again_grades_what_changed(graded: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, out, first = graded
    fill(folder, ben={f"{NAME}.py": right()[f"{NAME}.py"]})
    done = attnlab("grade", folder, "--out", out, "--only", NAME)
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert "8 students, 1 exercise: 1 grade to make, 7 as they were; isolation: " in words
    assert f"written: {out / 'report.html'}" in words
    assert "8 students, mean" in words
    with sqlite3.connect(out / "grades.sqlite") as db:
        rows = db.execute("SELECT student, score, seed FROM history").fetchall()
    assert [r[0] for r in rows].count("ben") == 2
    assert len(rows) == 9
    kept = first["seeds"][NAME]
    assert {r[2] for r in rows if r[0] != "ben"} == {kept}
    again = [r[2] for r in rows if r[0] == "ben"]
    assert again[0] == kept != again[1], "work handed in again meets other inputs"
    assert dict(r[:2] for r in rows)["ben"] == pytest.approx(100)


@needs_isolation
def test_interrupted_it_keeps_what_it_has_and_goes_on(tmp_path: Path) -> None:
    """Ctrl-C: exit code 130, no process left, and the same command finishes the rest."""
    loops = {f"s{i}": {f"{NAME}.py": LOOP} for i in range(8)}
    folder = fill(tmp_path / "class", **loops)  # type: ignore[arg-type]
    fill(tmp_path, course={"course.toml": f'exercises = ["{NAME}"]\n{QUICK}'})
    out = tmp_path / "out"
    command = ["grade", str(folder), "--out", str(out), "--course", str(tmp_path / "course"), "--workers", "2"]  # fmt: skip
    running = subprocess.Popen(
        [sys.executable, "-m", "attnlab", *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while running.poll() is None and not recorded(out):
        time.sleep(0.05)
    below = descendants(running.pid)
    assert len(below) > 2  # two grading processes, and a sandbox below them
    os.killpg(running.pid, signal.SIGINT)  # a terminal tells the whole group
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "Traceback" not in said
    assert "the same command goes on" in said
    assert not left(below)
    kept = recorded(out)
    assert 0 < kept < 8
    done = attnlab(*command, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["kept"], document["graded"]) == (kept, 8 - kept)
    assert {g["score"] for g in document["grades"]} == {0.0}


def recorded(out: Path) -> int:
    try:
        with sqlite3.connect(f"{(out / 'grades.sqlite').as_uri()}?mode=ro", uri=True) as db:
            return int(db.execute("SELECT count(*) FROM history").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def descendants(pid: int) -> set[int]:
    """Everything below a process, sandboxes in sessions of their own included."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True)
    parents = dict(map(int, line.split()) for line in listed.stdout.splitlines())
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def left(pids: set[int], seconds: float = 15.0) -> set[int]:
    """Those of these processes that are still there after a while; zombies are not."""
    deadline = time.monotonic() + seconds
    while True:
        listed = subprocess.run(["ps", "-eo", "pid=,stat="], capture_output=True, text=True)
        rows = [line.split() for line in listed.stdout.splitlines()]
        alive = pids & {int(pid) for pid, state in rows if not state.startswith("Z")}
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.1)


def test_a_second_run_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    from attnlab.course.gradebook import Gradebook

    folder = fill(tmp_path / "class", anna={"moh.py": ""})
    with Gradebook.open(tmp_path / "out"):
        done = attnlab("grade", folder, "--out", tmp_path / "out")
    assert "another `attnlab grade` is writing" in error_line(done)


def test_bad_calls_name_what_is_wrong(tmp_path: Path) -> None:
    folder, out = fill(tmp_path / "class", anna={"moh.py": ""}), tmp_path / "out"
    empty = tmp_path / "empty"
    empty.mkdir()

    def refused(*options: object, where: Path = folder, into: Path = out) -> str:
        return error_line(attnlab("grade", where, "--out", into, *options))

    assert "SUBMISSIONS" in refused(where=tmp_path / "nowhere")
    assert "holds no folder or zip a student" in refused(where=empty)
    assert "one student's" in refused(where=folder / "anna")
    assert "lies in SUBMISSIONS" in refused(into=folder / "out")
    assert "did you mean landmark" in refused("--only", "moh,landmrk")
    assert "--track must be one of" in refused("--track", "jax")
    assert "isolation must be one of" in refused("--isolation", "jail")
    assert "--workers counts processes here" in refused("--workers", 2, "--scheduler", "tcp://x:1")
    assert "course.toml" in refused("--course", empty)
    assert "--roster" in refused("--roster", empty / "none.csv")
    assert not list(out.glob("*.csv"))


def test_a_narrow_terminal_shows_names_whole(tmp_path: Path) -> None:
    """Fewer columns, rather than all of them cut short."""
    fill(tmp_path / "class", anna={"nothing.txt": ""})
    call = (
        "grade",
        tmp_path / "class",
        "--out",
        tmp_path / "out",
        "--only",
        "internal_consistency",
    )
    done = attnlab(*call, "--isolation", "none", COLUMNS="44")
    assert done.returncode == 0, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("internal_consistency")]
    assert row.split() == ["internal_consistency", "1", "0.0%", "0"]
    assert "…" not in done.stdout


def test_nothing_heavy_is_imported_for_help() -> None:
    code = (
        "import sys; from attnlab.cli import _main; _main(['grade', '--help']);"
        "heavy = {'torch', 'numba', 'distributed', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--scheduler" in done.stdout


@pytest.mark.slow
@needs_isolation
def test_killed_at_any_moment(tmp_path: Path) -> None:
    """kill -9 with real sandboxes: the table of an uninterrupted run with the same seed, every grade
    recorded once, and nothing of the killed run left behind."""
    folder, rng = a_class(tmp_path / "class"), random.Random(3)
    command = [
        sys.executable,
        "-m",
        "attnlab",
        "grade",
        str(folder),
        "--only",
        f"{NAME},moh",
        "--seed",
        "7",
    ]
    whole = subprocess.run(
        [*command, "--out", str(tmp_path / "whole")], capture_output=True, timeout=240
    )
    assert whole.returncode == 0, whole.stderr
    out, kills = tmp_path / "killed", 0
    for _ in range(20):
        running = subprocess.Popen(
            [*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        before, deadline = recorded(out), time.monotonic() + 60
        while running.poll() is None and recorded(out) == before and time.monotonic() < deadline:
            time.sleep(0.02)  # something is recorded before each kill, or there were no end
        try:
            running.wait(rng.uniform(0, 0.6))
        except subprocess.TimeoutExpired:
            kills += 1
            below = descendants(running.pid)
            running.kill()
            running.wait()
            assert not left(below)
        if running.returncode == 0:
            break
    assert kills >= 3
    # cost, a matter of time, may fall out otherwise on a busy machine: everything else is equal
    assert table(out) == table(tmp_path / "whole")
    assert recorded(out) == len(table(out)) == 16


def table(out: Path) -> list[tuple[object, ...]]:
    from attnlab.course.gradebook import Gradebook

    with Gradebook.reading(out) as book:
        return [
            (g.student, g.exercise, g.status, g.seed, g.content, g.course,
             *((o.item.id, o.status, o.earned) for o in g.outcomes if o.item.kind != "cost"))
            for g in book.grades()
        ]  # fmt: skip
