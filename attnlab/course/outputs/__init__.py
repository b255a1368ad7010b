"""What a graded class is written to.

    gradebook.csv   one row a student          grades.json      everything
    items.csv       one row an item            junit.xml        for CI servers
    canvas.csv      for Canvas's import        gradescope/      results.json a student
    report.html     the class                  students/        a page a student

Every file is replaced whole. Only students/ and gradescope/ are meant for students' eyes.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnlab import __version__
from attnlab.course.config import Course
from attnlab.course.model import Grade
from attnlab.course.outputs import canvas, gradescope, junit, page, student, tables
from attnlab.course.outputs.book import Book
from attnlab.course.outputs.text import file_names, write

if TYPE_CHECKING:
    from attnlab.course.similarity import Similar

__all__ = ["Book", "Written", "as_json", "file_names", "write", "write_all"]


@dataclass(frozen=True)
class Written:
    """The files, and a line on everything that could not be put in one of them."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]


def write_all(
    grades: Sequence[Grade],
    course: Course,
    out: str | Path,
    *,
    roster: str | Path | None = None,
    similar: Similar | None = None,
) -> Written:
    """Write every output of a class into the folder `out`, which is made where it is missing.

    roster: a gradebook exported from Canvas, for canvas.csv (InputError where it is none);
    similar: what `attnlab.course.similarity.compare` found.
    """
    out = Path(out)
    book = Book.of(grades, course)
    names = file_names(book.students)
    known = canvas.read_roster(Path(roster)) if roster is not None else None
    in_canvas, notes = canvas.document(book, known)
    files = [
        write(out / "gradebook.csv", tables.gradebook(book), tables.BOM_UTF8),
        write(out / "items.csv", tables.items(book), tables.BOM_UTF8),
        write(out / "canvas.csv", in_canvas),
        write(out / "junit.xml", junit.document(book)),
        write(out / "grades.json", as_json(_everything(book))),
    ]
    for name in book.students:
        results = gradescope.results(book.of_student(name), course)
        files.append(write(out / "gradescope" / f"{names[name]}.json", as_json(results)))
        page_of = student.page(book, name)
        files.append(write(out / "students" / f"{names[name]}.html", page_of))
    part = ""
    if similar is not None:
        from attnlab.course.outputs.alike import section, write_files

        files += write_files(similar, out)
        part = section(similar)
    files.append(write(out / "report.html", page.page(book, names, part, notes)))
    return Written(tuple(files), tuple(notes))


def _everything(book: Book) -> dict[str, Any]:
    course = {
        f.name: getattr(book.course, f.name)
        for f in dataclasses.fields(book.course)
        if f.name in ("title", "track", "details", "packages")
    }
    return {
        "attnlab": __version__,
        "course": course | {"exercises": book.exercises, "points": book.all_points},
        "grades": [g.to_dict() for s in book.students for g in book.of_student(s)],
    }


def as_json(document: Any) -> str:
    """A document as JSON that every reader takes: NaN and infinity are null, NumPy's numbers ours."""
    return json.dumps(_simple(document), indent=1, allow_nan=False) + "\n"


def _simple(value: Any) -> Any:
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(k): _simple(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_simple(v) for v in value]
    if hasattr(value, "tolist"):
        return _simple(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
