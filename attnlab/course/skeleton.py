"""The student's file, derived from an exhibit's reference: one source for solution and exercise.

What is asked keeps its signature and docstring and loses its body: the headline operation, the
exercise's parts, and the helpers that the reference has on the way (writing those is optional).
What reference.py imports from attnlab is given, whole.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from attnlab.contract import REQUIRED, Array, Exhibit, Operation
from attnlab.course.config import Assignment
from attnlab.course.model import Track
from attnlab.course.source import read
from attnlab.course.standalone import description, standalone, wrapped

OPTIONAL = "Optional: the reference has this helper. Write it, or do without it."


def reference_source(exhibit: Exhibit) -> str:
    """The text of the exhibit's reference.py."""
    return read(f"{exhibit.package}.reference").text


def functions(source: str) -> dict[str, ast.FunctionDef]:
    """Top-level functions of a Python text by name. Raises SyntaxError."""
    return {n.name: n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)}


def asked(exhibit: Exhibit, track: Track = "numpy") -> list[str]:
    """The functions that the exercise grades on a track: its parts, then the headline. Helpers of
    the reference are asked for in NumPy alone (`tasks.tasks`)."""
    parts = [part.name for part in exhibit.exercise.parts] if exhibit.exercise else []
    there = {op.name for op in exhibit.operations if track in op.paths}
    parts = [name for name in parts if track == "numpy" or name in there]
    return [*(name for name in parts if name != exhibit.headline.name), exhibit.headline.name]


def skeleton(exhibit: Exhibit, assignment: Assignment | None = None, track: Track = "numpy") -> str:
    """The file that a student fills in, as one self-contained NumPy file.

    Every function of reference.py that is asked, and every one that those use, raises
    NotImplementedError with its name. An assignment's changes (`vary`, `order`) stand in the
    headline's signature and docstring and are told at the top.
    """
    wanted, graded = asked(exhibit), asked(exhibit, track)
    mine = list(functions(reference_source(exhibit)))
    given = assignment or Assignment(exhibit.name)
    return standalone(
        exhibit,
        wanted,
        empty=mine,
        defaults=given.vary,
        order=given.order,
        remarks={name: OPTIONAL for name in mine if name not in graded},
        intro=_intro(exhibit, given, graded),
    )


def _intro(exhibit: Exhibit, assignment: Assignment, graded: list[str]) -> str:
    op, exercise = exhibit.headline, exhibit.exercise
    lines = [description(exhibit), ""]
    about = f", {op.about}" if op.about else ""
    lines += wrapped(f"Asked: {op.name}{about}. It returns {_returns(op)}.")
    parts = [p for p in exercise.parts if p.name in graded[:-1]] if exercise else []
    if parts:
        lines += ["On the way there, each graded by itself:"]
        width = max(len(p.name) for p in parts)
        for part in parts:
            about = part.about or _about(exhibit, part.name)
            row = f"    {part.name:{width}}   {about}".rstrip()
            lines += wrapped(row, " " * (width + 7))
    source = functions(reference_source(exhibit))
    told = {n: ast.get_docstring(source[n]) or "" for n in graded if n in source}
    operations = [o for o in exhibit.operations if o.name in told]
    if further := _equations(exhibit, told, operations):
        lines += ["", "For these, too:", *(f"    {line}" for line in further)]
    for each in operations:
        lines += _untold(each, told[each.name])
    notices = _notices(op, assignment.vary, assignment.order)
    lines += ["", *notices] if notices else []
    lines += ["", f"To check it: attnlab course check {exhibit.name}"]
    lines += [f"When stuck:  attnlab course hint {exhibit.name}"]
    lines += [f"Its card:    attnlab show {exhibit.name}"]
    return "\n".join(lines)


def _equations(exhibit: Exhibit, told: Mapping[str, str], operations: list[Operation]) -> list[str]:
    """Lines of equations that the parts are about, or name by number, beyond the headline's."""
    known = [line for text in exhibit.headline.equations for line in text.splitlines()]
    found: list[str] = []
    for op in operations:
        found += [line for text in op.equations for line in text.splitlines()]
    numbered = _numbered([line for op in exhibit.operations for line in op.equations])
    mine = set(_numbered([*known, *found]))
    for number in dict.fromkeys(re.findall(r"\((\d+)\)", " ".join(told.values()))):
        found += numbered.get(number, []) if number not in mine else []
    return [line for line in dict.fromkeys(found) if line not in known]


def _numbered(lines: list[str]) -> dict[str, list[str]]:
    """Number -> the lines of that equation, where it stands for the first time. A number opens the
    equation, or ends its first line."""
    found: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in lines:
        number = re.match(r"\((\d+)\)", line) or re.search(r"\((\d+)(?:, [^)]*)?\)$", line)
        if number:
            current = [] if number[1] in found else found.setdefault(number[1], [])
        if current is not None and (number or line.startswith(" ")):
            current.append(line)
    return found


def _untold(op: Operation, docstring: str) -> list[str]:
    """What the card knows of an operation's arguments and outputs and its docstring does not say."""

    def silent(name: str) -> bool:
        return not re.search(rf"\b{re.escape(name)}\b", docstring)

    takes = [
        (_shaped(a), a.about) for a in op.arguments
        if isinstance(a, Array) and a.about and silent(a.keyword)
    ]  # fmt: skip
    takes += [(o.name, o.about) for o in op.options if o.about and silent(o.name)]
    gives = [a for a in op.results if isinstance(a, Array) and not a.optional]
    returns = [
        (_shaped(a), "; ".join(filter(None, [a.about, a.when and f"where {_when(op, a.when)}"])))
        for a in gives if any(silent(each.keyword) for each in gives)
    ]  # fmt: skip
    lines: list[str] = []
    for verb, rows in (("takes", takes), ("returns", returns)):
        width = min(max((len(name) for name, _ in rows), default=0), 44)
        lines += ["", f"{op.name} {verb}"] if rows else []
        for name, about in rows:
            lines += wrapped(f"    {name:{width}}   {about}".rstrip(), " " * (width + 7))
    return lines


def _shaped(array: Array) -> str:
    """A name with its shape; alternatives of a scalar and an array are told as such."""
    choices = [f"({', '.join(choice.split())})" for choice in array.shape.split("|")]
    return f"{array.name} {' or '.join(choices)}"


def _returns(op: Operation) -> str:
    specs = [a for a in op.results if not a.optional]
    always = [a.keyword for a in specs if not a.when]
    text = f"a dictionary with {_quoted(always)}" if always else "a dictionary"
    if len(specs) == 1 and always:
        text += f", or {always[0]} alone"
    for when in dict.fromkeys(a.when for a in specs if a.when):
        named = _quoted([a.keyword for a in specs if a.when == when])
        text += f"; {named} where {_when(op, when)}"
    return text + ("; other outputs are not graded" if len(specs) < len(op.results) else "")


def _when(op: Operation, when: str) -> str:
    return f"{when} is given" if when in {a.keyword for a in op.arguments} else when


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
