"""How a student sees exercises, checks and progress: tables and lines for rich, and plain text.

What comes from a submission (messages, what it printed) is shown without control characters, so
that no output of its own can rewrite the terminal.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from attnlab.contract import Exhibit
from attnlab.course.config import Course
from attnlab.course.difference import tell
from attnlab.course.judge import BARE
from attnlab.course.model import DETAILS, Difference, Grade, Item, Outcome
from attnlab.course.progress import Entry, Progress
from attnlab.course.syllabus import exercise_of, ordered

# Okabe-Ito, told apart without colour by the words beside them.
GREEN, VERMILLION, ORANGE, BLUE = "#009E73", "#D55E00", "#E69F00", "#56B4E9"


def clean(text: str) -> str:
    """`text` with control characters spelled out; line ends and tabs stay."""
    return "".join(c if c in "\n\t" or c.isprintable() else ascii(c)[1:-1] for c in str(text))


def points(value: float) -> str:
    """Points with up to two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def dots(difficulty: int) -> str:
    """Difficulty 1 to 5 as filled dots."""
    return "●" * difficulty + "○" * (5 - difficulty)


def bar(share: float, width: int = 20) -> str:
    """A bar of `width` characters; full only for 1."""
    filled = min(int(share * width), width)
    return "█" * filled + "░" * (width - filled)


# --- exercises ------------------------------------------------------------------------------


def standing(course: Course, folder: Path, progress: Progress) -> list[dict[str, Any]]:
    """Every exercise of the course with what the student has done, ready for JSON."""
    return [_standing(e, course, folder, progress.entry(e.name)) for e in ordered(course)]


def _standing(exhibit: Exhibit, course: Course, folder: Path, entry: Entry) -> dict[str, Any]:
    exercise, best = exercise_of(exhibit), entry.top
    there = (folder / f"{exhibit.name}.py").is_file()
    return {
        "name": exhibit.name,
        "title": exhibit.title,
        "status": _status(entry, there),
        "difficulty": exercise.difficulty,
        "minutes": exercise.minutes,
        "points": course.assignment(exhibit.name).points,
        "prerequisites": list(exercise.prerequisites),
        "best": best.score if best else None,
        "best_of": best.points if best else None,
        "tracks": {track: vars(b) for track, b in entry.best.items()},
        "checks": entry.checks,
        "hints_read": entry.hints,
        "hints": len(exercise.hints),
        "file": str(folder / f"{exhibit.name}.py") if there else None,
    }


def _status(entry: Entry, there: bool) -> str:
    best = entry.top
    if best and best.passed:
        return "done"
    if best and best.score > 0:
        return f"{points(best.score)} of {points(best.points)} points"
    return "started" if there else "not started"


def _styled(status: str) -> Text:
    style = {"done": f"bold {GREEN}", "started": BLUE, "not started": ""}.get(status, ORANGE)
    return Text(status, style=style)


def syllabus_table(rows: Sequence[dict[str, Any]], width: int) -> Table:
    """`course list`; a narrow terminal has fewer columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("exercise", no_wrap=True)
    table.add_column("status")
    table.add_column("difficulty", no_wrap=True)
    for column in ("minutes", "points")[: 2 if width >= 72 else 0]:
        table.add_column(column, justify="right")
    if width >= 80:
        table.add_column("best", justify="right")
    if width >= 88:
        table.add_column("needs", overflow="fold")
    for row in rows:
        best = "-" if row["best"] is None else points(row["best"])
        cells: list[Any] = [row["name"], _styled(row["status"]), dots(row["difficulty"])]
        cells += [str(row["minutes"]), points(row["points"]), best]
        cells.append(", ".join(row["prerequisites"]) or "-")
        table.add_row(*cells[: len(table.columns)])
    return table


def progress_table(rows: Sequence[dict[str, Any]], width: int) -> Table:
    """`course progress`: a bar, the best score and the hints read, and the sum below."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("exercise", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("best", justify="right", no_wrap=True)
    if width >= 72:
        table.add_column("hints", justify="right")
        table.add_column("checks", justify="right")
    size = 20 if width >= 72 else 10
    for row in rows:
        cells: list[Any] = [row["name"], Text(bar(share(row), size), GREEN)]
        cells.append("-" if row["best"] is None else f"{points(row['best'])}/{_of(row)}")
        cells += [f"{row['hints_read']} of {row['hints']}", str(row["checks"])]
        table.add_row(*cells[: len(table.columns)])
    return table


def share(row: dict[str, Any]) -> float:
    """How much of an exercise is reached, 0 to 1."""
    return row["best"] / row["best_of"] if row["best"] is not None and row["best_of"] else 0.0


def total(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Points reached, those that can be reached by what a student sees, and exercises done."""
    rows = list(rows)
    return {
        "score": round(sum(row["best"] or 0.0 for row in rows), 6),
        "points": round(sum(row["best_of"] or row["points"] for row in rows), 6),
        "done": sum(row["status"] == "done" for row in rows),
        "exercises": len(rows),
    }


def _of(row: dict[str, Any]) -> str:
    return points(row["best_of"])


# --- a check --------------------------------------------------------------------------------


def item_line(outcome: Outcome, id_width: int, width: int | None) -> Text:
    """An item: mark, id, points, and for a failure what became of it; folded to `width` columns
    (None: one line, however long)."""
    mark, style = _mark(outcome)
    head = f" {outcome.item.id:<{id_width}} {earned(outcome):>9} "
    return Text().append(mark, style).append_text(_hanging(head, happened(outcome), width, 1))


def _hanging(head: str, text: str, width: int | None, used: int = 0, style: str = "") -> Text:
    """`head` and `text`, whose further lines stand below its first (no trailing blanks)."""
    indent, lines = used + len(head), text.splitlines() or [""]
    if width is not None and width - indent < max(map(len, lines)):
        if width - indent < 32:  # too narrow for two columns: everything goes below
            head, indent = f"{head.rstrip()}\n    ", 4
        lines = [part for line in lines for part in textwrap.wrap(line, width - indent) or [""]]
    return Text(head).append(("\n" + " " * indent).join(lines), style)


def _mark(outcome: Outcome) -> tuple[str, str]:
    if outcome.passed:
        return "✓", f"bold {GREEN}"
    if outcome.status == "not run":
        return "–", ORANGE
    return "✗", f"bold {VERMILLION}"


def earned(outcome: Outcome) -> str:
    """Points of an item; an item without points is feedback."""
    if not outcome.item.points:
        return "feedback"
    return f"{points(outcome.earned)}/{points(outcome.item.points)}"


def happened(outcome: Outcome) -> str:
    """The status, and the first part of the message; `detail` has the rest."""
    if outcome.passed:
        return "passed"
    message = clean(outcome.message).partition("; largest error")[0]
    bare = not message or message == BARE[outcome.status] or outcome.status == "not implemented"
    return outcome.status if bare else f"{outcome.status}: {message}"


def detail(outcome: Outcome) -> list[tuple[str, str]]:
    """A failure in labelled rows: the call, where the output differs, what it looks like."""
    rows = [("item", _named(outcome.item))]
    if outcome.inputs:
        rows.append(("called with", clean(outcome.inputs)))
    rows.append((outcome.status, _fault(outcome)))
    if outcome.difference is not None:
        rows += _difference(outcome.difference)
    if outcome.diagnosis:
        rows.append(("looks like", clean(outcome.diagnosis)))
    if outcome.printed:
        rows.append(("it printed", clean(outcome.printed).rstrip()))
    return rows


def _fault(outcome: Outcome) -> str:
    """The message without the sentence on the difference, which has rows of its own."""
    message = outcome.message
    if outcome.difference is not None:
        for details in DETAILS:
            told = tell(outcome.difference, details)
            message = message.removesuffix(f" ({told})")
            message = "the output differs" if message == told else message
    return clean(message) or BARE[outcome.status]


def _named(item: Item) -> str:
    text = f"{item.id} ({item.function})"
    return f"{text}: {item.about}" if item.about else text


def _difference(d: Difference) -> list[tuple[str, str]]:
    rows = []
    if (
        d.shape is None
        or d.expected_shape is None
        or d.shape != d.expected_shape
        or d.first is None
    ):
        rows.append(("difference", tell(d)))
    if d.shape is not None:
        rows.append((f"your {d.output}", ", ".join(filter(None, [f"shape {d.shape}", d.dtype]))))
    if d.first is not None and d.got is not None:
        got, wanted = _values(d.got, d.expected)
        rows.append(("first wrong", f"{_at(d, d.first)} is {got}" + (wanted and f", not {wanted}")))
    if d.error is not None:
        allowed = f"; {d.tolerance:.1e} is allowed there" if d.tolerance is not None else ""
        rows.append(("largest error", f"{d.error:.3g} at {_at(d, d.worst or ())}{allowed}"))
    if d.first is not None and d.size > 1:
        rows.append(("how many", f"{d.wrong} of {d.size} values differ"))
    return rows


def _at(d: Difference, index: tuple[int, ...]) -> str:
    return f"{d.output}[{', '.join(map(str, index))}]" if index else d.output


def _values(got: Any, expected: Any) -> tuple[str, str]:
    """Both values, with as many digits as tell them apart."""
    if expected is None:
        return clean(_value(got, 6)), ""
    for digits in (6, 9, 17):
        pair = clean(_value(got, digits)), clean(_value(expected, digits))
        if pair[0] != pair[1]:
            break
    return pair


def _value(value: Any, digits: int) -> str:
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def first_failure(outcomes: Iterable[Outcome]) -> Outcome | None:
    """The failure to look at first: one that ran, of the items that are shown."""
    failed = [o for o in outcomes if not o.passed and not o.item.hidden]
    ran = [o for o in failed if o.status != "not run"]
    return next(iter(ran or failed), None)


def failure(outcome: Outcome, width: int | None) -> Text:
    """`detail` in two columns, folded to `width`."""
    rows = detail(outcome)
    wide = max(len(label) for label, _ in rows)
    text = Text().append("First failure", "bold")
    for label, value in rows:
        style = {"looks like": "bold", outcome.status: f"bold {VERMILLION}"}.get(label, "")
        text.append("\n").append_text(_hanging(f"{label:<{wide}}  ", value, width, style=style))
    return text


def plain_failure(outcome: Outcome) -> str:
    """`detail` as text for pytest's report; its first line stands alone in pytest's summary."""
    rows = [row for row in detail(outcome) if row[0] != "it printed"]
    width = max(len(label) for label, _ in rows)
    lines = [_hanging(f"{label:<{width}}  ", text, None).plain for label, text in rows]
    return "\n".join([happened(outcome), *lines])


def score(grade: Grade) -> str:
    """The points that a student sees, and that there are hidden ones."""
    text = f"public score {points(grade.public_score)}/{points(grade.public_points)}"
    if grade.hidden_items:
        worth = points(sum(o.item.points for o in grade.outcomes if o.item.hidden))
        items = f"{grade.hidden_items} hidden item" + ("s" if grade.hidden_items > 1 else "")
        text += f"; {items} worth {worth} points are not shown"
    return text
