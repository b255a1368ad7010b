"""report.html: the class on one page, for the instructor."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from attnlab import __version__
from attnlab.course.outputs import pieces
from attnlab.course.outputs.book import Book, title
from attnlab.course.outputs.pieces import Html, escape
from attnlab.course.outputs.text import number
from attnlab.lesson.document import document

LISTED = 15  # rows of hardest and slowest items


def page(book: Book, names: Mapping[str, str], similar: str = "", notes: Sequence[str] = ()) -> str:
    """The class's HTML page. `names` are the students' file names, `similar` the part on
    similarity as HTML, `notes` what the other outputs could not do."""
    shares = [book.percent(s) for s in book.students]
    body = f"<h1>{escape(book.course.title)}</h1>\n" + pieces.figures(
        [
            ("students", len(book.students)),
            ("exercises", len(book.exercises)),
            ("points", number(book.all_points, 2)),
            ("mean", f"{statistics.fmean(shares):.1f} %" if shares else "–"),
            ("median", f"{statistics.median(shares):.1f} %" if shares else "–"),
        ]
    )
    for note in notes:
        body += f'<div class="box other"><p class="label">! Note</p><p>{escape(note)}</p></div>\n'
    body += "<h2>Totals</h2>\n"
    body += pieces.histogram(shares, "Students by total, in percent of all points")
    body += _exercises(book) + _students(book, names) + _hardest(book) + _failures(book)
    body += _slowest(book) + similar + _facts(book)
    return document(f"{book.course.title}: the class", body, pieces.CSS)


def _exercises(book: Book) -> str:
    rows = []
    for exercise in book.exercises:
        grades, shares = book.of_exercise(exercise), book.shares(exercise)
        unfit = sum(g.status != "graded" for g in grades)
        rows.append(
            [title(exercise), book.points(exercise), len(grades), unfit]
            + [statistics.fmean(shares), statistics.median(shares)]
            + [sum(s >= 100 - 1e-6 for s in shares), sum(s == 0 for s in shares)]
            + [pieces.small(shares, f"Scores of {exercise}")]
        )
    columns = ["exercise", "points", "graded", "missing or malformed", "mean %", "median %"]
    columns += ["full marks", "no points", "0 to 100 %"]
    return "<h2>Exercises</h2>\n" + pieces.table(columns, rows, "Scores by exercise")


def _students(book: Book, names: Mapping[str, str]) -> str:
    rows = []
    for student in book.students:
        link = Html(f'<a href="students/{escape(names[student])}.html">{escape(student)}</a>')
        row: list[object] = [link, book.total(student), book.percent(student)]
        for exercise in book.exercises:
            grade = book.grades.get((student, exercise))
            if grade is None or grade.status != "graded":
                row.append(Html(pieces.status(grade.status if grade else "not graded")))
            else:
                row.append(grade.score)
        rows.append(row)
    columns = ["student", "total", "%", *book.exercises]
    return "<h2>Students</h2>\n" + pieces.table(columns, rows, "Scores by student")


def _hardest(book: Book) -> str:
    items = sorted(
        (i for i in book.items() if i.earned < 1), key=lambda i: (i.earned, i.exercise, i.id)
    )
    rows = [
        [f"{i.exercise} {i.id}", i.about, i.points, i.passed, i.tried, 100 * i.earned]
        for i in items[:LISTED]
    ]
    if not rows:
        return "<h2>Hardest items</h2>\n<p>Every item was passed by all that were run.</p>\n"
    columns = ["item", "what it looks at", "points", "passed", "run", "earned %"]
    return "<h2>Hardest items</h2>\n" + pieces.table(columns, rows, "Least earned first")


def _failures(book: Book) -> str:
    rows = []
    for status, items, students, says in book.failures():
        words = "".join(f"<li>{escape(text)} ({who})</li>" for text, who in says)
        often = Html(f"<ul>{words}</ul>") if words else ""
        mark = pieces.MARKS.get(status, "!")
        rows.append([f"{mark} {status}", items, students, often])
    if not rows:
        return "<h2>Failures</h2>\n<p>None.</p>\n"
    columns = ["status", "items", "students", "most frequent diagnoses (students)"]
    return "<h2>Failures</h2>\n" + pieces.table(columns, rows, "Common kinds of failure")


def _slowest(book: Book) -> str:
    items = sorted(book.items(), key=lambda i: -i.slowest)[:LISTED]
    rows = [[f"{i.exercise} {i.id}", i.seconds, i.slowest, i.tried] for i in items]
    if not rows:
        return ""
    columns = ["item", "median s", "slowest s", "run"]
    return "<h2>Slowest items</h2>\n" + pieces.table(columns, rows, "Seconds an item")


def _facts(book: Book) -> str:
    grades = list(book.grades.values())

    def all_of(values: set[str]) -> str:
        return ", ".join(sorted(values)) or "none recorded"

    pairs = [
        ("attnlab", __version__),
        ("isolation", all_of({g.isolation for g in grades if g.isolation})),
        ("tracks", all_of({g.track for g in grades})),
        ("seeds", all_of({str(g.seed) for g in grades})),
        ("details shown to students", book.course.details),
        ("grading time", f"{sum(g.seconds for g in grades):.1f} s of work"),
    ]
    versions = {
        e: all_of({g.course for g in book.of_exercise(e) if g.course}) for e in book.exercises
    }
    pairs += [(f"course version, {e}", v) for e, v in versions.items()]
    return f'<h2>How it was graded</h2>\n<div class="box">{pieces.rows(pairs)}</div>\n'
