"""canvas.csv: what Canvas's gradebook takes under "Import".

Canvas finds a student by ID, else by SIS User ID, else by SIS Login ID, and an assignment by the
number in brackets behind its title; its header row is Student, ID, [SIS User ID,] SIS Login ID,
[Integration ID, Root Account,] Section, then assignments, and a row "Points Possible" follows.
With a roster (the gradebook exported from Canvas) rows and columns are the course's own: points
are scaled to what Canvas says an assignment is worth, and a student without a submission keeps an
empty cell. Without one, students are known only by their folder's name: in Canvas's own download,
`lastfirst_12345_67890_file.zip`, the first number is the ID.

No byte-order mark here: Canvas does not take one off a header.
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attnlab.contract import InputError
from attnlab.course.outputs import tables
from attnlab.course.outputs.book import Book, title
from attnlab.course.outputs.text import number

STUDENT_COLUMNS = (
    "Student", "LastName", "FirstName", "ID", "SIS User ID", "SIS Login ID", "Integration ID",
    "Root Account", "Section",
)  # fmt: skip
_DOWNLOADED = re.compile(r"(?P<name>[^_]+)(?:_LATE)?_(?P<id>\d+)_(?P<file>\d+)(?:_.*)?", re.I)


@dataclass(frozen=True)
class Roster:
    """A gradebook as Canvas exported it: header, the row of points possible, the students."""

    header: list[str]
    possible: dict[str, str]
    students: list[dict[str, str]]

    @property
    def identity(self) -> list[str]:
        """The columns that say who a student is, in Canvas's order."""
        return [c for c in self.header if c in STUDENT_COLUMNS]

    def column(self, *names: str) -> str | None:
        """The assignment called one of these names, upper and lower case alike."""
        wanted = {n.casefold() for n in names}
        for column in self.header:
            if column not in STUDENT_COLUMNS and _bare(column).casefold() in wanted:
                return column
        return None


def _bare(column: str) -> str:
    return re.sub(r"\s*\(\d+\)\s*$", "", column).strip()


def read_roster(path: Path) -> Roster:
    """A gradebook that Canvas exported. Raises InputError that names the file and what it lacks."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--roster: {path} cannot be read as UTF-8 text ({error})") from None
    first = text.split("\n", 1)[0]
    delimiter = ";" if first.count(";") > first.count(",") else ","
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    header = [c.strip() for c in rows[0]] if rows else []
    missing = [c for c in ("ID", "Section") if c not in header]
    if missing or not header or header[0] not in ("Student", "LastName"):
        raise InputError(
            f"--roster: {path} must be a gradebook exported from Canvas (columns Student, ID, …, "
            f"Section), but its columns are {', '.join(header[:6]) or 'none'}"
        )
    found = Roster(header, {}, [])
    for row in rows[1:]:
        named = dict(zip(header, row))
        if "Points Possible" in (row[0] if row else ""):
            found.possible.update(named)
        elif named.get("ID", "").strip() or named.get("SIS Login ID", "").strip():
            found.students.append(named)
    return found


def canvas_id(student: str) -> str:
    """The Canvas ID in the name of a file that Canvas handed out; "" where there is none."""
    found = _DOWNLOADED.fullmatch(student)
    return found["id"] if found else ""


def match(students: tuple[str, ...], roster: Roster) -> tuple[dict[int, str], list[str]]:
    """Row of the roster -> student, and a note on each student that no one row is for."""
    keys: dict[str, set[int]] = defaultdict(set)
    for index, row in enumerate(roster.students):
        for column in ("ID", "SIS User ID", "SIS Login ID", "Integration ID"):
            if value := row.get(column, "").strip().casefold():
                keys[f"id {value}"].add(index)
                keys[f"id {value.split('@')[0]}"].add(index)
        name = row.get("Student") or f"{row.get('LastName', '')} {row.get('FirstName', '')}"
        keys[f"name {_letters(name)}"].add(index)
    claims: dict[int, list[str]] = defaultdict(list)
    notes = []
    for student in students:
        known = canvas_id(student) or student.casefold()
        rows = keys.get(f"id {known}") or keys.get(f"name {_letters(student)}") or set()
        if len(rows) == 1:
            claims[next(iter(rows))].append(student)
        else:
            why = "several students are" if rows else "nobody is"
            notes.append(f"canvas.csv leaves out {student}: {why} called so in the roster")
    for index, who in claims.items():
        if len(who) > 1:
            name = roster.students[index].get("Student", "")
            notes.append(f"canvas.csv leaves out {' and '.join(who)}: both are {name}")
    return {index: who[0] for index, who in claims.items() if len(who) == 1}, notes


def _letters(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def document(book: Book, roster: Roster | None = None) -> tuple[str, list[str]]:
    """The file, and a note on everybody that is not in it."""
    return _with(book, roster) if roster else (_without(book), [])


def _without(book: Book) -> str:
    head = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", *map(title, book.exercises)]
    possible = ["    Points Possible", *[None] * 4, *map(book.points, book.exercises)]
    rows: list[Sequence[object]] = [head, possible]
    for student in book.students:
        known = canvas_id(student)
        # A number that is not from Canvas's own file name may be anybody's ID, but not his login.
        rows.append(
            [student, known, "", "" if known else student, ""]
            + [g.score if (g := book.grades.get((student, e))) else None for e in book.exercises]
        )
    return tables.render(rows)


def _with(book: Book, roster: Roster) -> tuple[str, list[str]]:
    rows_of, notes = match(book.students, roster)
    columns = {e: roster.column(e, title(e)) for e in book.exercises}
    whole = roster.column(book.course.title)
    if whole and not any(columns.values()):  # one assignment for the whole course
        columns = {}
    else:
        whole = None
    possible = {e: _worth(roster, c, book.points(e)) for e, c in columns.items()}
    total = _worth(roster, whole, book.all_points)
    head = [*roster.identity, *(c or title(e) for e, c in columns.items())] + [whole] * bool(whole)
    points: list[object] = ["    Points Possible", *[None] * (len(roster.identity) - 1)]
    points += [*possible.values(), *[total] * bool(whole)]
    rows: list[Sequence[object]] = [head, points]
    for index, named in enumerate(roster.students):
        student = rows_of.get(index)
        row: list[object] = [named.get(c, "") for c in roster.identity]
        for exercise in columns:
            grade = book.grades.get((student, exercise)) if student else None
            share = grade.score / grade.points if grade and grade.points else 0.0
            row.append(number(share * possible[exercise]) if grade else None)
        if whole:
            row.append(number(book.percent(student) / 100 * total) if student else None)
        rows.append(row)
    return tables.render(rows), notes


def _worth(roster: Roster, column: str | None, points: float) -> float:
    """What Canvas says the assignment is worth; ours where it does not say."""
    try:
        return float(roster.possible.get(column or "", "").replace(",", ".")) or points
    except ValueError:
        return points
