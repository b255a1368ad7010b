"""One student's page: scores, items, and what went wrong as far as the course tells it."""

from __future__ import annotations

from attnlab.course.model import Grade, Outcome
from attnlab.course.outputs import pieces, view
from attnlab.course.outputs.book import Book, title
from attnlab.course.outputs.pieces import Html, escape
from attnlab.course.outputs.text import number
from attnlab.lesson.document import document

_DETAILS = {
    "full": "",
    "actual-only": "This course shows what your code returned, not what was expected.",
    "none": "This course shows the status of each item alone.",
}


def page(book: Book, student: str) -> str:
    """The HTML page of one student, without a word on hidden items but their number."""
    grades = book.of_student(student)
    total, points = number(book.total(student), 2), number(book.all_points, 2)
    seen = number(sum(g.public_score for g in grades), 2)
    of = number(sum(g.public_points for g in grades), 2)
    hidden = sum(g.hidden_items for g in grades)
    facts = [("score", f"{total}/{points}"), ("of the shown items", f"{seen}/{of}")]
    body = f"<h1>{escape(student)}</h1>\n<p>{escape(book.course.title)}</p>\n"
    body += pieces.figures([*facts, ("hidden items", hidden)])
    if hidden:
        body += "<p>Hidden items count, but neither they nor their results are shown.</p>\n"
    if words := _DETAILS[book.course.details]:
        body += f"<p>{words}</p>\n"
    rows: list[list[object]] = []
    for exercise in book.exercises:
        grade = book.grades.get((student, exercise))
        if grade is None:
            rows.append([title(exercise), Html(pieces.status("not graded")), "", "", "", ""])
            continue
        done = Html(f'<a href="#{escape(exercise)}">{escape(title(exercise))}</a>')
        shown = f"{number(grade.public_score, 2)}/{number(grade.public_points, 2)}"
        rows.append(
            [done, Html(pieces.status(grade.status)), grade.score, grade.points, shown]
            + [grade.hidden_items]
        )
    columns = ["exercise", "status", "score", "points", "shown items", "hidden items"]
    body += pieces.table(columns, rows, "Exercises")
    body += "".join(_exercise(grade, book) for grade in grades)
    levels = ", ".join(sorted({g.isolation for g in grades if g.isolation})) or "none recorded"
    body += f"<footer>Graded by attnlab; isolation: {escape(levels)}.</footer>\n"
    return document(f"{student}: {book.course.title}", body, pieces.CSS)


def _exercise(grade: Grade, book: Book) -> str:
    words = f"{number(grade.score, 2)} of {number(grade.points, 2)} points, track {grade.track}; "
    body = f'<h2 id="{escape(grade.exercise)}">{escape(title(grade.exercise))}</h2>\n'
    body += f"<p>{escape(words + view.summary(grade))}.</p>\n"
    if grade.status != "graded" or not grade.outcomes:
        message = grade.message or view.WORDS.get(grade.status, grade.status)
        body += f'<div class="box other"><p class="label">! {escape(grade.status)}</p><p>{escape(message)}</p></div>\n'
    shown = [o for o in grade.outcomes if not o.item.hidden]
    shown = shown if grade.status == "graded" else []  # all of them would say the same
    if shown:
        rows = [
            [o.item.id, o.item.about, Html(pieces.status(o.status)), o.earned, o.item.points]
            + [round(o.seconds, 2)]
            for o in shown
        ]
        columns = ["item", "what it looks at", "status", "earned", "points", "seconds"]
        body += pieces.table(columns, rows, f"Items of {grade.exercise}")
    failed = [o for o in shown if not o.passed and o.status != "not run"]
    body += "".join(_failure(o, book, i == 0) for i, o in enumerate(failed))
    return body + _not_run([o for o in shown if o.status == "not run"], book)


def _not_run(outcomes: list[Outcome], book: Book) -> str:
    """One box for all that was not run, by reason."""
    reasons: dict[str, list[str]] = {}
    for o in outcomes:
        message = view.visible(o, book.course.details).message or view.WORDS[o.status]
        reasons.setdefault(message, []).append(o.item.id)
    if not reasons:
        return ""
    body = '<details class="box other"><summary class="label">– not run</summary>'
    return (
        body + pieces.rows((", ".join(ids), why) for why, ids in reasons.items()) + "</details>\n"
    )


def _failure(outcome: Outcome, book: Book, opened: bool) -> str:
    """A failure in a box; the first one of an exercise is open."""
    o = view.visible(outcome, book.course.details)
    kind = "failed" if o.status == "wrong" else "other"
    mark = pieces.MARKS.get(o.status, "!")
    body = f'<details class="box {kind}"{" open" * opened}><summary class="label">{mark} {escape(o.item.id)}: {escape(o.status)}</summary>'
    body += f"<p>{escape(o.message or view.WORDS[o.status])}</p>"
    if o.difference is not None:
        body += pieces.rows(view.facts(o.difference))
    if o.diagnosis:
        body += f"<p><strong>Likely:</strong> {escape(o.diagnosis)}</p>"
    if o.inputs:
        body += f"<p>Inputs: <code>{escape(o.inputs)}</code></p>"
    if o.printed:
        body += f'<p>It printed:</p><pre class="out">{escape(o.printed)}</pre>'
    return body + "</details>\n"
