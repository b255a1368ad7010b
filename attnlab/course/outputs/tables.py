"""gradebook.csv and items.csv, safe to open in any spreadsheet.

Text is quoted and numbers are not. A text that a spreadsheet would run as a formula (it begins
with = + - @, tab or a line break; a student chooses the names) gets an apostrophe in front. UTF-8
with a byte-order mark: without it Excel reads names as Latin-1; Python reads it as "utf-8-sig".
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from attnlab.course.outputs.book import Book
from attnlab.course.outputs.text import number, one_line

BOM_UTF8 = "utf-8-sig"
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")

ITEM_COLUMNS = (
    "student", "exercise", "track", "item", "function", "kind", "hidden", "status", "earned",
    "points", "seconds", "message", "diagnosis",
)  # fmt: skip


def cell(value: Any) -> Any:
    """One cell: numbers stay numbers, text is one line that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    text = str(value)
    risky = text.startswith(_FORMULA) or text.lstrip().startswith(_FORMULA)
    return ("'" if risky else "") + one_line(text)


def render(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV. All text is quoted: in a country whose separator is the semicolon, a name with
    a semicolon in it would otherwise open a cell of its own."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
    writer.writerows([cell(v) for v in row] for row in rows)
    return out.getvalue()


def gradebook(book: Book) -> str:
    """One row a student: total, points, percent, then each exercise's score and status."""
    head = [
        "student",
        "total",
        "points",
        "percent",
        "public score",
        "public points",
        "hidden items",
    ]
    for exercise in book.exercises:
        head += [exercise, f"{exercise} status"]
    rows: list[list[Any]] = [head]
    for student in book.students:
        grades = book.of_student(student)
        row: list[Any] = [student, book.total(student), book.all_points]
        row += [round(book.percent(student), 2)]
        row += [sum(g.public_score for g in grades), sum(g.public_points for g in grades)]
        row += [sum(g.hidden_items for g in grades)]
        for exercise in book.exercises:
            grade = book.grades.get((student, exercise))
            row += [grade.score, grade.status] if grade else [None, "not graded"]
        rows.append(row)
    return render(rows)


def items(book: Book) -> str:
    """One row an item; one row for a submission of which none could be run."""
    rows: list[Sequence[Any]] = [ITEM_COLUMNS]
    for student in book.students:
        for g in book.of_student(student):
            start = [student, g.exercise, g.track]
            for o in g.outcomes:
                i = o.item
                what = [i.id, i.function, i.kind, "yes" if i.hidden else "no", o.status, o.earned]
                rows.append([*start, *what, i.points, o.seconds, o.message, o.diagnosis])
            if not g.outcomes:
                rows.append(
                    [*start, "", "", "", "", g.status, 0, g.points, g.seconds, g.message, ""]
                )
    return render(rows)
