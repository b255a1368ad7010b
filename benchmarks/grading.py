"""Grading a class: 200 submissions of 10 exercises on 2 processes, every score as it was built.

    python benchmarks/grading.py             # the whole; --quick: 20 of 3

Submissions are right, wrong by a mistake that the sheets name, bare skeletons, broken files and
hostile ones. Of the last many are right but for one size, at which they loop, crash, fill the memory
or the screen: they must lose what a plain exception at that place loses, item by item, and no more.
Then what isolation adds to an exercise, and how soon `attnlab course check` answers. Limits: the
class in 20 minutes, isolation 0.3 s an exercise beyond what runs without, a warm check 3 s.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import figures

from attnlab.contract import Exhibit
from attnlab.course import sandbox
from attnlab.course.answer import answer, broken
from attnlab.course.config import Course
from attnlab.course.gradebook import Gradebook
from attnlab.course.judge import grade_submission
from attnlab.course.model import Grade
from attnlab.course.skeleton import skeleton
from attnlab.registry import exhibits, find

SEED = 20_26
SIZE = 13  # at which the hostile answers turn: one of the sizes of the fresh inputs

# what happens, at that size or always
ACTS = {
    "loop": "while True: pass",
    "sleep": "import time; time.sleep(3600)",
    "exit": "import os; os._exit(0)",
    "sys.exit": "raise SystemExit(0)",
    "kill": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "parent": "import os, signal; os.kill(os.getppid(), signal.SIGKILL); os._exit(0)",
    "segfault": "import ctypes; ctypes.string_at(0)",
    "memory": "hoard = []\n        while True: hoard.append(bytearray(1 << 26))",
    "output": "while True: print('x' * 10_000)",
    "fork": "import os\n        while True: os.fork()",
    "recursion": "return attend_for_ever(attend_for_ever)",
    "huge": "import numpy; return numpy.zeros(1 << 28)",
    "strange": "return object()",
}
HOSTILE = """

import numpy as _numpy

_right = {name}


def attend_for_ever(again):
    return [again(again)]


def _turns(value):
    if isinstance(value, dict):
        return any(map(_turns, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_turns, value))
    return {size} in getattr(value, "shape", ())


def {name}(*args, **kwargs):
    if {always} or _turns(args) or _turns(kwargs):
        {act}
    return _right(*args, **kwargs)
"""
BROKEN = {
    "syntax": b"def attend(:\n",
    "encoding": b"# caf\xe9\nx = '\xff'\n",
    "null": b"x = 1\0\n",
    "import": b"import no_such_module\n",
    "attnlab": b"from attnlab.registry import find\n",
    "raises": b"raise RuntimeError('at import')\n",
    "exits": b"import os\nos._exit(0)\n",
    "empty": b"",
}
# kind -> its share of all student-exercises
SHARES = {
    "right": 45,
    "wrong": 25,
    "skeleton": 8,
    "broken": 8,
    "missing": 2,
    "turns": 11,
    "always": 1,
}


@dataclass(frozen=True)
class Built:
    """What a student hands in for one exercise, and how it was made."""

    kind: str
    detail: str
    files: dict[str, bytes]


def build(exhibit: Exhibit, kind: str, choice: int) -> Built:
    """`choice` picks among the ways of a kind."""
    name, headline = f"{exhibit.name}.py", exhibit.headline.name
    whole = answer(exhibit)[name]
    if kind == "wrong":
        assert exhibit.exercise is not None
        mistakes = exhibit.exercise.mistakes
        mistake = mistakes[choice % len(mistakes)]
        return Built(kind, mistake.name, {name: broken(exhibit, mistake).encode()})
    if kind == "skeleton":
        return Built(kind, "", {name: skeleton(exhibit).encode()})
    if kind == "broken":
        way = list(BROKEN)[choice % len(BROKEN)]
        return Built(kind, way, {name: BROKEN[way]})
    if kind in ("turns", "always"):
        ways = list(ACTS) if kind == "turns" else ["loop", "exit", "memory"]
        way = ways[choice % len(ways)]
        return Built(kind, way, {name: whole + hostile(headline, kind, ACTS[way])})
    return Built(kind, "", {} if kind == "missing" else {name: whole})


def hostile(headline: str, kind: str, act: str) -> bytes:
    text = HOSTILE.format(name=headline, size=SIZE, always=kind == "always", act=act)
    return text.encode()


def probe(exhibit: Exhibit, kind: str, level: str) -> tuple[set[str], set[str]]:
    """The items that hostile answers must lose, and those that they may: what a plain exception
    costs where they turn, which counts as refusing bad shapes, and what returning nothing costs."""
    name, lost = f"{exhibit.name}.py", []
    for act in ("raise RuntimeError('here')", "return None"):
        whole = answer(exhibit)[name] + hostile(exhibit.headline.name, kind, act)
        (grade,) = grade_submission("probe", {name: whole}, [exhibit.name], Course(), SEED, level)
        lost.append({o.item.id for o in grade.outcomes if not o.passed})
    if not lost[0]:
        raise SystemExit(f"{exhibit.name}: no inputs of size {SIZE}")
    return lost[0], lost[1]


def fill(folder: Path, names: Sequence[str], students: int) -> dict[tuple[str, str], Built]:
    """A class on disk, half of it zipped, and how each piece was made."""
    rng = random.Random(SEED)
    wanted = [
        k
        for k, share in SHARES.items()
        for _ in range(max(1, share * students * len(names) // 100))
    ]
    wanted += ["right"] * (students * len(names) - len(wanted))
    rng.shuffle(wanted)
    used: Counter[str] = Counter()
    made: dict[tuple[str, str], Built] = {}
    for i in range(students):
        student, files = f"student{i:03}", {}
        for name in names:
            kind = wanted.pop()
            made[student, name] = piece = build(find(name), kind, used[kind])
            used[kind] += 1
            files |= piece.files
        files.setdefault("notes.txt", b"no exercise")
        if i % 2:
            with zipfile.ZipFile(folder / f"{student}.zip", "w", zipfile.ZIP_DEFLATED) as opened:
                for file, data in files.items():
                    opened.writestr(f"homework/{file}", data)
        else:
            for file, data in files.items():
                (folder / student).mkdir(exist_ok=True)
                (folder / student / file).write_bytes(data)
    return made


def fault(
    grade: Grade, built: Built, lost: dict[tuple[str, str], tuple[set[str], set[str]]]
) -> str:
    """What about a grade is not as it was built; empty where it is."""
    if round(sum(o.item.points for o in grade.outcomes), 6) != grade.points:
        return f"its items make {sum(o.item.points for o in grade.outcomes)} points"
    failed = {o.item.id: o.status for o in grade.outcomes if not o.passed}
    if any(status == "grader error" for status in (grade.status, *failed.values())):
        return f"grader error {grade.extra}"
    if built.kind == "right" and (failed or grade.score != grade.points):
        return f"a right answer lost {failed}"
    if built.kind == "wrong" and not 0 <= grade.score < grade.points - 1e-6:
        return f"the mistake {built.detail} costs nothing"
    if built.kind in ("skeleton", "broken", "missing") and grade.score != 0:
        return f"{built.kind} {built.detail} has {grade.score} points"
    status = {"missing": "missing", "broken": "malformed"}.get(built.kind, "graded")
    if grade.status != ("graded" if built.detail == "empty" else status):
        return f"{built.kind} {built.detail} is {grade.status}"
    if built.kind in ("turns", "always"):
        least, most = lost[built.kind, grade.exercise]
        more, less = failed.keys() - most, least - failed.keys()
        if more or less:
            return f"{built.detail} {built.kind}: lost also {[(i, failed[i]) for i in more]}, kept {less}"
    return ""


def grade_class(table: figures.Figures, names: Sequence[str], students: int, limit: float) -> None:
    level = sandbox.choose()
    lost = {(kind, n): probe(find(n), kind, level) for kind in ("turns", "always") for n in names}
    with tempfile.TemporaryDirectory(prefix="grading-") as folder:
        root = Path(folder, "class")
        root.mkdir()
        made = fill(root, names, students)
        out = Path(folder, "out")
        command = [sys.executable, "-m", "attnlab", "grade", str(root), "--out", str(out)]
        command += ["--workers", "2", "--only", ",".join(names), "--seed", str(SEED)]
        command += ["--isolation", level]
        begun = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - begun
        print(done.stdout)
        with Gradebook.reading(out) as book:
            grades = {(g.student, g.exercise): g for g in book.grades()}
            twice = book.db.execute("SELECT count(*) FROM history").fetchone()[0] - len(grades)
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        again = time.perf_counter() - begun
    faults = [
        f"{student} {name}: {why}"
        for (student, name), built in made.items()
        if (
            why := fault(grades[student, name], built, lost)
            if (student, name) in grades
            else "no grade"
        )
    ]
    print(*faults, sep="\n")
    spent: defaultdict[str, float] = defaultdict(float)
    for key, built in made.items():
        spent[built.kind] += grades[key].seconds if key in grades else 0.0
    kinds = Counter(b.kind for b in made.values())
    for kind, count in kinds.items():
        print(f"  {count:>5} {kind:<9} {spent[kind] / count:.2f} s each")
    what = f"{students} submissions x {len(names)} exercises"
    table.add(f"{what}, minutes", seconds / 60, f"< {limit:g} min", seconds < 60 * limit, level)
    table.add(f"{what}, not as built", len(faults), "0", not faults and done.returncode == 0)
    table.add(f"{what}, recorded twice", twice, "0", twice == 0)
    table.add("the same again, nothing to do, seconds", again, "", None)


def isolation(table: figures.Figures, names: Sequence[str], repeats: int) -> None:
    """What the sandbox adds to an exercise, against the same processes without isolation."""
    levels = [level for level, why in sandbox.available().items() if not why]
    for name in names:
        files = answer(find(name))
        times: dict[str, list[float]] = {level: [] for level in levels}
        for i in range(repeats + 1):  # the first fills caches
            for level in levels[:: 1 if i % 2 else -1]:
                begun = time.perf_counter()
                grade_submission("timed", files, [name], Course(), SEED, level)
                times[level].append(time.perf_counter() - begun)
        medians = {level: statistics.median(seen[1:]) for level, seen in times.items()}
        for level in [level for level in levels if level != "none"]:
            more = medians[level] - medians["none"]
            note = f"{medians[level]:.2f} s in all, {medians['none']:.2f} s without"
            table.add(f"{name}: {level} adds, seconds", more, "< 0.3 s", more < 0.3, note)


def check(table: figures.Figures, names: Sequence[str], repeats: int) -> None:
    """`attnlab course check` of a right answer, file cache warm."""
    with tempfile.TemporaryDirectory(prefix="grading-") as folder:
        for name in names:
            for file, data in answer(find(name)).items():
                Path(folder, file).write_bytes(data)
            times = []
            for _ in range(repeats + 1):
                begun = time.perf_counter()
                command = [
                    sys.executable,
                    "-m",
                    "attnlab",
                    "course",
                    "check",
                    name,
                    "--dir",
                    folder,
                ]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                times.append(time.perf_counter() - begun)
            seen = statistics.median(times[1:])
            table.add(f"course check {name}, seconds", seen, "< 3 s", seen < 3)


def main() -> int:
    parser = figures.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="20 submissions of 3 exercises")
    asked = parser.parse_args()
    students, count, limit = (20, 3, 2.0) if asked.quick else (200, 10, 20.0)
    names = [e.name for e in exhibits() if e.exercise and len(e.exercise.mistakes) >= 3][:count]
    table = figures.start("Grading a class", asked.threads)
    print(f"exercises: {', '.join(names)}\n")
    grade_class(table, names, students, limit)
    isolation(table, names[:3], 3 if asked.quick else 11)
    check(table, names[:3], 3 if asked.quick else 5)
    return table.end(asked.json)


if __name__ == "__main__":
    sys.exit(main())
