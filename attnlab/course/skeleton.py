"""The student's file, derived from an exhibit's reference: one source for solution and exercise.

What is asked keeps its signature and docstring and loses its body: the headline operation, the
exercise's parts, and the helpers that the reference has on the way (writing those is optional).
What reference.py imports from attnlab is given, whole.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

from attnlab.contract import REQUIRED, Array, Exhibit, Operation
from attnlab.course.config import Assignment
from attnlab.course.source import read
from attnlab.course.standalone import description, standalone, wrapped

OPTIONAL = "Optional: the reference has this helper. Write it, or do without it."


def reference_source(exhibit: Exhibit) -> str:
    """The text of the exhibit's reference.py."""
    return read(f"{exhibit.package}.reference").text


def functions(source: str) -> dict[str, ast.FunctionDef]:
    """Top-level functions of a Python text by name. Raises SyntaxError."""
    return {n.name: n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)}


def asked(exhibit: Exhibit) -> list[str]:
    """The functions that the exercise grades: its parts, then the headline."""
    parts = [part.name for part in exhibit.exercise.parts] if exhibit.exercise else []
    return [*(name for name in parts if name != exhibit.headline.name), exhibit.headline.name]


def skeleton(exhibit: Exhibit, assignment: Assignment | None = None) -> str:
    """The file that a student fills in, as one self-contained NumPy file.

    Every function of reference.py that is asked, and every one that those use, raises
    NotImplementedError with its name. An assignment's changes (`vary`, `order`) stand in the
    headline's signature and docstring and are told at the top.
    """
    wanted = asked(exhibit)
    mine = list(functions(reference_source(exhibit)))
    given = assignment or Assignment(exhibit.name)
    return standalone(
        exhibit,
        wanted,
        empty=mine,
        defaults=given.vary,
        order=given.order,
        remarks={name: OPTIONAL for name in mine if name not in wanted},
        intro=_intro(exhibit, given),
    )


def _intro(exhibit: Exhibit, assignment: Assignment) -> str:
    op, exercise = exhibit.headline, exhibit.exercise
    lines = [description(exhibit), ""]
    about = f", {op.about}" if op.about else ""
    lines += wrapped(f"Asked: {op.name}{about}. It returns {_returns(op)}.")
    parts = [p for p in exercise.parts if p.name != op.name] if exercise else []
    if parts:
        lines += ["On the way there, each graded by itself:"]
        width = max(len(p.name) for p in parts)
        for part in parts:
            about = part.about or _about(exhibit, part.name)
            row = f"    {part.name:{width}}   {about}".rstrip()
            lines += wrapped(row, " " * (width + 7))
    notices = _notices(op, assignment.vary, assignment.order)
    lines += ["", *notices] if notices else []
    lines += ["", f"To check it: attnlab course check {exhibit.name}"]
    lines += [f"When stuck:  attnlab course hint {exhibit.name}"]
    return "\n".join(lines)


def _returns(op: Operation) -> str:
    specs = [a for a in op.results if not a.optional]
    always = [a.keyword for a in specs if not a.when]
    text = f"a dictionary with {_quoted(always)}" if always else "a dictionary"
    if len(specs) == 1 and always:
        text += f", or {always[0]} alone"
    for when in dict.fromkeys(a.when for a in specs if a.when):
        arrays = {a.keyword for a in op.arguments}
        condition = f"{when} is given" if when in arrays else when
        text += f"; {_quoted([a.keyword for a in specs if a.when == when])} where {condition}"
    return text + ("; other outputs are not graded" if len(specs) < len(op.results) else "")


def _quoted(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _about(exhibit: Exhibit, name: str) -> str:
    return next((op.about for op in exhibit.operations if op.name == name), "")


def _notices(op: Operation, vary: Mapping[str, object], order: Mapping[str, str]) -> list[str]:
    """What this course changes, in plain words."""
    lines: list[str] = []
    for name, value in vary.items():
        option = op.option(name)
        usual = option.default if option else REQUIRED
        was = "" if usual is REQUIRED else f" (elsewhere {usual})"
        lines += wrapped(f"In this course {name} is {value!r} when it is not given{was}.")
    for spec in (*op.arguments, *op.results):
        if isinstance(spec, Array) and spec.name in order:
            axes, usual_axes = (", ".join(t.split()) for t in (order[spec.name], spec.shape))
            lines += wrapped(
                f"In this course the axes of {spec.name} are ({axes}), not ({usual_axes})."
            )
    return lines
