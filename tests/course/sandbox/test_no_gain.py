"""No submission gains a point that it did not earn: the hostile ones before the real judge."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnlab.course.answer import answer
from attnlab.course.config import Course, Limits
from attnlab.course.judge import Examiner
from attnlab.course.model import Grade
from attnlab.course.sandbox import Sandbox, Session, open_sandbox
from attnlab.paths import vectors_dir
from attnlab.registry import find
from attnlab.vectors import read

FOLDER = Path(__file__).parents[1] / "hostile"
FILES = {f"{path.stem}.py": path.read_bytes() for path in sorted(FOLDER.glob("*.py"))}
LIMITS = Limits(
    wall=0.25, cpu=1, start=1.5, budget=0.6, memory=128, output=64, reply=16, file=4
)  # fmt: skip
COURSE = Course(limits=LIMITS)


class Renamed:
    """A sandbox in which one file goes by the exercise's name, so that many share a server."""

    def __init__(self, sandbox: Sandbox, file: str):
        self.sandbox, self.file = sandbox, file

    def load(self, _: str) -> Session:
        return self.sandbox.load(self.file)


def graded(sandbox: Any, course: Course = COURSE) -> Grade:
    examiner = Examiner(sandbox, "attention", course, "numpy", seed=5)
    try:
        return examiner.grade("somebody", everything=True)
    finally:
        examiner.close()


@pytest.fixture(scope="module")
def sandbox(best: str) -> Iterator[Sandbox]:
    with open_sandbox(FILES, "numpy", LIMITS, best) as running:
        yield running


@pytest.mark.parametrize("name", [file[:-3] for file in FILES])
def test_hostile_submissions_earn_nothing(sandbox: Sandbox, name: str) -> None:
    grade = graded(Renamed(sandbox, name))
    right = [o.item.id for o in grade.outcomes if o.passed]
    assert grade.score == 0, right
    assert set(right) <= {"attend/public-single"}, "one key, one number: who returns v is right"
    assert {o.status for o in grade.outcomes if not o.passed} <= {
        "wrong", "error", "not implemented", "missing", "malformed", "bad value", "timeout",
        "memory", "output", "crashed", "not run",
    }  # fmt: skip
    assert all(len(o.message) < 5000 for o in grade.outcomes)


def right_answer(and_then: str) -> dict[str, bytes]:
    """A submission that solves the exercise, and then does something else."""
    files = dict(answer(find("attention")))
    files["attention.py"] += b"\n\n" + and_then.encode()
    return files


CLOTHES = {
    "subclass": """
class Sly(np.ndarray):
    def __eq__(self, other):
        return True

honest = attend
def attend(*args, **kwargs):
    return {"out": honest(*args, **kwargs)["out"].view(Sly)}
""",
    "tuple": """
honest = attend
def attend(*args, **kwargs):
    made = honest(*args, **kwargs)
    return made["out"], made["weights"]
""",
    "patches": """
np.allclose = np.array_equal = lambda *_, **__: False
import builtins, json
builtins.AssertionError = Exception
""",
    "chatter": """
honest = attend
def attend(*args, **kwargs):
    print("working on", kwargs)
    return honest(*args, **kwargs)
""",
}


@pytest.mark.parametrize("clothes", CLOTHES)
def test_right_answers_in_odd_clothes_earn_all(clothes: str, best: str) -> None:
    course = Course()
    with open_sandbox(right_answer(CLOTHES[clothes]), "numpy", course.limits, best) as sandbox:
        grade = graded(sandbox, course)
        lost = {o.item.id: (o.status, o.message) for o in grade.outcomes if not o.passed}
        assert not {k: v for k, v in lost.items() if not k.endswith("cost")}, lost


def test_a_crash_now_and_then_costs_that_item_only(best: str) -> None:
    """Right for most sizes; for one it ends the process, for one it never returns."""
    then = """
import os
honest = attend
def attend(q, k, v, **rest):
    if q.shape[2] == 3:
        os._exit(0)
    while q.shape[2] == 8:
        pass
    return honest(q, k, v, **rest)
"""
    course = Course(limits=Limits(wall=1))
    with open_sandbox(right_answer(then), "numpy", course.limits, best) as sandbox:
        grade = graded(sandbox, course)
    fresh = {o.item.id: o.status for o in grade.outcomes if o.item.kind == "fresh"}
    assert sorted(fresh.values()) == ["crashed"] + ["passed"] * 6 + ["timeout"]
    assert 60 < grade.score < 100


def test_a_table_of_the_public_vectors_earns_nothing(best: str) -> None:
    """All public cases answered by heart: feedback is perfect, and no point comes of it."""
    op = find("attention").headline
    table = {}
    for case in read(vectors_dir() / "attention.npz"):
        if case.operation == op.name and "out" in case.arrays["out"]:
            given = case.arguments(op)
            table[_key(given["q"], given["k"])] = case.arrays["out"]["out"].tolist()
    source = f"""
import hashlib
import numpy as np

TABLE = {table!r}

def attend(q, k, v, **rest):
    key = hashlib.sha256(q.astype("f8").tobytes() + k.astype("f8").tobytes()).hexdigest()
    return {{"out": np.array(TABLE.get(key, 0.0))}}
"""
    course = Course()
    with open_sandbox({"attention.py": source.encode()}, "numpy", course.limits, best) as box:
        grade = graded(box, course)
    right = {o.item.kind for o in grade.outcomes if o.passed}
    assert right == {"public"}
    assert grade.score == 0


def _key(q: np.ndarray, k: np.ndarray) -> str:
    return hashlib.sha256(q.astype("f8").tobytes() + k.astype("f8").tobytes()).hexdigest()
