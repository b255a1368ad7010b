"""What of an outcome a student may see, at the course's level of detail.

    full         the message, both values, where and by how much, the diagnosis
    actual-only  what the submission returned, never what was expected
    none         the status alone

A hidden item is only ever counted. The seed of the random inputs is never shown: who knows it can
draw the inputs at home.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from attnlab.course.difference import veil
from attnlab.course.model import Details, Difference, Grade, Outcome
from attnlab.course.outputs.text import number, one_line, plain, shown

WORDS: dict[str, str] = {
    "passed": "passed",
    "wrong": "It ran, and the answer is not right.",
    "error": "It raised an exception.",
    "not implemented": "It is not implemented yet.",
    "missing": "There is no such function or file.",
    "malformed": "The file is no Python or fails to import.",
    "bad value": "What it returned cannot be read.",
    "timeout": "It took longer than the limit.",
    "memory": "It took more memory than the limit.",
    "output": "It printed more than the limit.",
    "crashed": "Its process died.",
    "not run": "It was not run.",
    "grader error": "The grader failed here, not the submission; please tell the instructor.",
}


def visible(outcome: Outcome, details: Details) -> Outcome:
    """The outcome with everything taken out that the level of detail hides."""
    if outcome.item.hidden or details == "none":
        return dataclasses.replace(
            outcome,
            message=WORDS[outcome.status] if not outcome.passed else "",
            difference=None,
            diagnosis="",
            inputs="",
            printed="" if outcome.item.hidden else outcome.printed,
        )
    return dataclasses.replace(outcome, difference=veil(outcome.difference, details))


def facts(difference: Difference) -> list[tuple[str, str]]:
    """A difference as (term, text) rows; what is unknown or hidden has no row."""
    d = difference
    rows = [("output", d.output)]
    if d.shape is not None:
        due = "" if d.expected_shape in (None, d.shape) else f", expected {_at(d.expected_shape)}"
        rows.append(("shape", _at(d.shape) + due))
    if d.dtype:
        rows.append(("dtype", d.dtype))
    if d.first is not None:
        rows.append(("first wrong index", _at(d.first)))
    got, expected = _both(d.got, d.expected)
    if d.got is not None:
        rows.append(("yours there", got))
    if d.expected is not None:
        rows.append(("expected there", expected))
    if d.error is not None:
        where = f" at {_at(d.worst)}" if d.worst is not None else ""
        limit = f" (allowed: {shown(d.tolerance)})" if d.tolerance is not None else ""
        rows.append(("largest error", shown(d.error) + where + limit))
    if d.size:
        rows.append(("differ", f"{d.wrong} of {d.size} elements"))
    return [(term, plain(text)) for term, text in rows]


def _both(got: Any, expected: Any) -> tuple[str, str]:
    """Both values, with as many digits as tell them apart."""
    for digits in (6, 9, 17):
        pair = shown(got, digits), shown(expected, digits)
        if pair[0] != pair[1]:
            break
    return pair


def _at(index: tuple[int, ...] | None) -> str:
    return "[" + ", ".join(map(str, index or ())) + "]"


def text(outcome: Outcome, details: Details) -> str:
    """All that a student may read of an outcome, in lines."""
    o = visible(outcome, details)
    lines = [plain(o.message) or WORDS[o.status]]
    if not o.passed:
        lines += [
            f"{term}: {words}" for term, words in (facts(o.difference) if o.difference else ())
        ]
        lines += [f"likely: {one_line(o.diagnosis)}"] if o.diagnosis else []
        lines += [f"inputs: {one_line(o.inputs)}"] if o.inputs else []
        lines += [f"printed:\n{plain(o.printed)}"] if o.printed else []
    return "\n".join(lines)


def summary(grade: Grade) -> str:
    """One sentence: the public score, and that hidden items exist."""
    words = f"public score {number(grade.public_score, 2)}/{number(grade.public_points, 2)}"
    if k := grade.hidden_items:
        worth = number(sum(o.item.points for o in grade.outcomes if o.item.hidden), 2)
        words += f"; {k} hidden item{'s' if k > 1 else ''} worth {worth} points, not shown"
    if grade.status != "graded":
        words += f"; {grade.status}: {one_line(grade.message) or WORDS[grade.status]}"
    return words
