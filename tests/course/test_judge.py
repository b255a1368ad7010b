"""Examining: partial credit, limits, what is told at which level, faults of our own."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from stand_in import Reply, StandIn, examiner, graded, solved, wrapped

from attnlab.course import judge, sandbox
from attnlab.course.answer import answer
from attnlab.course.candidate import IMPATIENT, Candidate
from attnlab.course.config import Course, Limits
from attnlab.course.judge import grade_submission
from attnlab.course.model import Grade, Outcome
from attnlab.course.skeleton import skeleton
from attnlab.registry import find, names

COURSE = Course()


def failed(grade: Grade) -> list[str]:
    return [o.item.id for o in grade.outcomes if not o.passed]


@pytest.mark.parametrize("name", names())
def test_the_bare_skeleton_earns_nothing(name: str) -> None:
    grade = graded(name, skeleton(find(name)), everything=True)
    assert grade.score == 0
    assert {o.status for o in grade.outcomes} == {"not implemented"}


def test_refusing_everything_earns_nothing() -> None:
    def refuse(f: Any, **a: Any) -> Any:
        raise ValueError("no")

    grade = graded("attention", change=wrapped("attend", refuse))
    assert {o.item.kind for o in grade.outcomes if o.passed} == {"part"}


def test_a_wrong_answer_keeps_what_is_right() -> None:
    def late(f: Any, **a: Any) -> Any:
        made = f(**a)
        return {"out": made["out"] + (a["q"].shape[2] == 17)}

    grade = graded("attention", change=wrapped("attend", late))
    assert failed(grade) == ["attend/fresh-6"]
    assert grade.score == pytest.approx(100 - 100 * 40 / 80 / 8)


def peek(f: Any, **a: Any) -> Any:
    return {"out": f(**a)["out"] + 4e-9 * np.sin(100 * a["v"].sum())}


def scribble(f: Any, **a: Any) -> Any:
    made = f(**a)
    a["q"][:] = 0
    return made


def forgetful(f: Any, **a: Any) -> Any:
    return {"out": f(**a)["out"] + 1e-10 * np.random.default_rng().random()}


def gapless(f: Any, q: Any, k: Any, v: Any, **a: Any) -> Any:
    keys = min(k.shape[2], v.shape[2])
    return f(q=q, k=k[:, :, :keys], v=v[:, :, :keys], **a)


@pytest.mark.parametrize(
    ("around", "lost"),
    [
        (scribble, {"property-inputs-untouched"}),
        (forgetful, {"property-deterministic"}),
        (peek, {"property-causal", "property-batch-apart"}),
        (gapless, {"property-refuses-2", "property-refuses-3"}),
    ],
)
def test_each_property_costs_itself(around: Any, lost: set[str]) -> None:
    grade = graded("attention", change=wrapped("attend", around))
    assert {i.split("/")[1] for i in failed(grade)} <= lost
    assert failed(grade)


def test_a_property_counts_only_where_the_answer_is_right() -> None:
    grade = graded("attention", change=wrapped("attend", lambda f, **a: {"out": f(**a)["out"] * 2}))
    rest = [o for o in grade.outcomes if o.item.kind in ("property", "cost")]
    assert {o.status for o in rest} == {"not run"}
    assert all("only where the answer is right" in o.message for o in rest)


def test_a_function_that_is_not_there() -> None:
    run = examiner("attention")
    session: Any = run.candidate.session
    session.defined -= {"softmax"}
    grade = run.grade("s")
    assert {o.status for o in grade.outcomes if o.item.kind == "part"} == {"missing"}
    assert "defines no function softmax" in grade.outcomes[0].message
    session.defined = frozenset({"Attend", "soft_max"})
    near = [o.message for o in run.grade("s").outcomes]
    assert any(m.endswith("no function attend; did you mean Attend?") for m in near)
    assert grade.score == pytest.approx(100 - 100 * 15 / 80)


# --- levels of detail ----------------------------------------------------------------------------


def off(f: Any, **a: Any) -> Any:
    return {"out": f(**a)["out"] + np.arange(a["v"].shape[-1]) * 0.37}


@pytest.mark.parametrize("details", ["full", "actual-only", "none"])
def test_what_is_hidden_is_nowhere_in_the_outcome(details: str) -> None:
    run = examiner("attention", change=wrapped("attend", off), details=details)
    for item in run.items:
        if item.kind not in ("fresh", "public"):
            continue
        outcome = run.run(item)
        expected = _expected(run, item)
        if outcome.difference is None:
            assert outcome.passed or (details == "none" and outcome.message == "wrong answer")
            continue
        text = json.dumps(Grade("s", "attention", "numpy", (outcome,)).to_dict())
        at = outcome.difference.first
        shown = f"{float(expected[at]):.6g}"
        assert (f"expected {shown}" in outcome.message) == (details == "full")
        if details == "actual-only":
            assert shown not in text or shown in "01"  # digits stand anywhere
            for value in expected.ravel():
                assert repr(float(value)) not in text or value in (0.0, 1.0)


def _expected(run: Any, item: Any) -> np.ndarray:
    seen: list[Any] = []
    inner, run.candidate.answer = run.candidate.answer, lambda t, q: seen.append(q) or inner(t, q)
    run.run(item)
    run.candidate.answer = inner
    return np.asarray(seen[0].expected["out"])


def test_at_no_detail_there_is_a_status_and_nothing_else() -> None:
    run = examiner("attention", change=wrapped("attend", off), details="none")
    for item in run.items:
        o = run.run(item)
        assert (o.difference, o.diagnosis, o.inputs, o.printed) == (None, "", "", "")
        assert o.message in judge.BARE.values()


def test_an_exception_is_quoted_but_not_at_no_detail() -> None:
    def stumble(f: Any, **a: Any) -> Any:
        raise RuntimeError(f"first value {a['q'].ravel()[0]}")

    for details, quoted in (("full", True), ("actual-only", True), ("none", False)):
        run = examiner("attention", change=wrapped("attend", stumble), details=details)
        outcome = run.run(next(i for i in run.items if i.kind == "fresh"))
        assert outcome.status == "error"
        assert ("first value" in outcome.message) == quoted


def test_a_message_is_one_line_of_bounded_length() -> None:
    def shout(f: Any, **a: Any) -> Any:
        return {"a\n" * 10_000: f(**a)["out"]}

    grade = graded("attention", change=wrapped("attend", shout))
    message = next(o.message for o in grade.outcomes if o.item.kind == "fresh")
    assert "returned no 'out'" in message
    assert len(message) <= judge.MESSAGE
    assert "\n" not in message


# --- limits --------------------------------------------------------------------------------------


class Slow(StandIn):
    def call(self, function: str, arguments: Any, **settings: Any) -> Reply:
        super().call(function, arguments, **settings)
        return Reply("timeout", error="took too long")


def test_after_two_timeouts_there_is_less_patience() -> None:
    session = Slow(solved("attention")).load("attention")
    candidate = Candidate(session, Limits(), "numpy")  # type: ignore[arg-type]
    run = examiner("attention")
    for i in (1, 2, 3, 4):
        assert not run.exam.entries[f"attend/fresh-{i}"].judge(candidate).passed
    assert session.seconds == [5.0, 5.0, IMPATIENT, IMPATIENT]


def test_what_comes_after_the_budget_is_not_run() -> None:
    run = examiner("attention", course=replace(COURSE, limits=Limits(budget=7.5)))
    outcomes: list[Outcome] = []
    for item in run.items:
        outcomes.append(run.run(item))
        run.candidate.spent += 1.0
    states = [o.status for o in outcomes]
    assert set(states[:8]) == {"passed"}
    assert set(states[8:]) == {"not run"}
    assert "7.5 s were spent" in outcomes[-1].message


# --- faults of our own ---------------------------------------------------------------------------


def test_our_own_fault_is_no_answer_and_kills_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    run = examiner("attention")
    entry = run.exam.entries["attend/fresh-3"]

    def fault(candidate: Candidate) -> Any:
        raise ZeroDivisionError("secret of the grader")

    monkeypatch.setitem(run.exam.entries, "attend/fresh-3", replace(entry, judge=fault))
    grade = run.grade("s")
    (lost,) = [o for o in grade.outcomes if not o.passed]
    assert (lost.status, lost.earned) == ("grader error", 0)
    assert "secret" not in lost.message
    assert "secret of the grader" in lost.note
    assert grade.score == pytest.approx(100 - 100 * 40 / 80 / 8)


def test_a_diagnosis_that_fails_costs_nobody_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "diagnose", lambda *a: 1 / 0)
    grade = graded("attention", change=wrapped("attend", off))
    assert "grader error" not in {o.status for o in grade.outcomes}


# --- with the real sandbox -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def level() -> str:
    return sandbox.choose("auto")


STUCK = """
from right import softmax, attend as answer

def attend(q, k, v, **rest):
    if q.shape[2] in (3, 33):
        while True:
            pass
    return answer(q, k, v, **rest)
"""


def test_an_endless_loop_costs_its_own_items(level: str) -> None:
    files = {"attention.py": STUCK.encode(), "right.py": solved("attention").encode()}
    course = replace(COURSE, limits=Limits(wall=1.0, cpu=1.0))
    seen: list[Outcome] = []
    (grade,) = grade_submission("s", files, ["attention"], course, 3, level, on_outcome=seen.append)
    assert failed(grade) == ["attend/fresh-3", "attend/fresh-7"]
    assert {o.status for o in grade.outcomes if not o.passed} == {"timeout"}
    assert tuple(seen) == grade.outcomes
    assert (grade.status, grade.isolation, grade.seed) == ("graded", level, 3)
    assert Grade.from_dict(json.loads(json.dumps(grade.to_dict()))) == grade


TORN = """
from right import attend as answer

def attend(q, k, v, **rest):
    made = answer(q, k, v.detach(), **rest).out
    return made.tolist() if q.shape[2] == 2 else made
"""


def test_on_torch_lists_and_a_gradient_that_was_lost_are_told(level: str) -> None:
    files = answer(find("attention"), "torch")
    files |= {"right.py": files["attention.py"], "attention.py": TORN.encode()}
    (grade,) = grade_submission("s", files, ["attention"], COURSE, 3, level, "torch")
    told = {o.item.id: o.message for o in grade.outcomes if not o.passed}
    assert (
        told["attend/fresh-2"] == "it returned plain numbers; on this track tensors are asked for"
    )
    assert told["attend/gradient-1"].startswith("no gradient reaches v: detached somewhere on the")


def test_malformed_is_told_apart_from_missing_and_from_wrong(level: str) -> None:
    files = {"attention.py": b"def attend(:\n", "landmark.py": b"import attnlab\n", "a.txt": b""}
    got: list[Grade] = []
    grades = grade_submission(
        "s", files, ["attention", "landmark", "moh"], COURSE, 3, level, on_grade=got.append
    )
    assert [g.exercise for g in grades] == ["attention", "landmark", "moh"]
    assert [g.status for g in grades] == ["malformed", "malformed", "missing"]
    assert "attention.py, line 1" in grades[0].message
    assert "attnlab" in grades[1].message
    assert "moh.py" in grades[2].message
    for grade in grades:
        assert grade.score == 0
        assert {o.status for o in grade.outcomes} == {"malformed"}
        assert grade.public_points == pytest.approx(100)
        json.dumps(grade.to_dict(), allow_nan=False)
    assert {id(g) for g in got} == {id(g) for g in grades}


def test_a_sandbox_that_fails_is_our_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **settings: Any) -> Any:
        raise sandbox.SandboxError("no namespaces today")

    monkeypatch.setattr(sandbox, "open_sandbox", broken)
    files = {"attention.py": solved("attention").encode()}
    (grade,) = grade_submission("s", files, ["attention"], COURSE, 3, "none")
    assert (grade.status, grade.score) == ("grader error", 0)
    assert "no namespaces" in grade.extra["note"]
    assert "no namespaces" not in grade.message
