"""A student's results in Gradescope's results.json format.

Every text is declared as text, so that nothing a submission printed is rendered as HTML. Hidden
items have visibility "hidden" and no details even for whom Gradescope shows them to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attnlab.course.config import Course
from attnlab.course.model import Grade, Outcome
from attnlab.course.outputs import view
from attnlab.course.outputs.text import number, plain


def results(grades: Sequence[Grade], course: Course, note: str = "") -> dict[str, Any]:
    """The document of one student's grades; `note` goes into the text above the tests.

    The score is the sum over all items, hidden ones included; what is not graded has score 0.
    """
    tests: list[dict[str, Any]] = []
    for index, grade in enumerate(grades, 1):
        found = [_test(grade, o, course) for o in grade.outcomes] or [_whole(grade)]
        for place, test in enumerate(found, 1):
            test["number"] = f"{index}.{place}"
        tests += found
    lines = [f"{g.exercise}: {view.summary(g)}." for g in grades]
    if levels := sorted({g.isolation for g in grades if g.isolation}):
        lines.append(f"Isolation: {', '.join(levels)}.")
    return {
        "score": number(sum(g.score for g in grades), 6),
        "execution_time": number(sum(g.seconds for g in grades), 3),
        "output": plain("\n".join([*([note] if note else []), *lines])),
        "output_format": "text",
        "test_output_format": "text",
        "test_name_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": tests,
    }


def _test(grade: Grade, outcome: Outcome, course: Course) -> dict[str, Any]:
    item = outcome.item
    about = f": {item.about}" if item.about and not item.hidden else ""
    return {
        "score": number(outcome.earned, 6),
        "max_score": number(item.points, 6),
        "status": "passed" if outcome.passed else "failed",
        "name": plain(f"{grade.exercise} {item.id}{about}"),
        "output": view.text(outcome, course.details),
        "tags": [grade.exercise, item.kind, outcome.status],
        "visibility": "hidden" if item.hidden else "visible",
    }


def _whole(grade: Grade) -> dict[str, Any]:
    """What stands for an exercise of which no item could be run."""
    return {
        "score": 0,
        "max_score": number(grade.points, 6),
        "status": "failed",
        "name": plain(grade.exercise),
        "output": plain(grade.message) or view.WORDS.get(grade.status, grade.status),
        "tags": [grade.exercise, grade.status],
        "visibility": "visible",
    }
