"""How a graded class came off, in a few numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from attnlab.course.model import Grade


@dataclass(frozen=True)
class Row:
    """One exercise, or all of them: `mean` is the mean share of the points, a submission that is
    missing counting as 0; `full` counts those with every point."""

    name: str
    grades: int
    mean: float
    full: int
    missing: int
    malformed: int
    faults: int


@dataclass(frozen=True)
class Summary:
    """`failures` counts items by what became of them, the commonest first; `mean` is that of the
    students' shares of all points."""

    students: int
    mean: float
    rows: tuple[Row, ...]
    failures: dict[str, int]

    @property
    def faults(self) -> int:
        """Grades with a failure of the grader's own in them."""
        return sum(row.faults for row in self.rows)


def summarise(grades: Sequence[Grade]) -> Summary:
    """The summary of a class's grades."""
    names = list(dict.fromkeys(g.exercise for g in grades))
    rows = tuple(_row(name, [g for g in grades if g.exercise == name]) for name in sorted(names))
    earned: Counter[str] = Counter()
    points: Counter[str] = Counter()
    for grade in grades:
        earned[grade.student] += grade.score  # type: ignore[assignment]
        points[grade.student] += grade.points  # type: ignore[assignment]
    shares = [earned[s] / points[s] if points[s] else 0.0 for s in points]
    failures = Counter(
        o.status for g in grades if g.status == "graded" for o in g.outcomes if not o.passed
    )
    return Summary(len(points), _mean(shares), rows, dict(failures.most_common()))


def faulty(grade: Grade) -> bool:
    """Did the grader itself fail somewhere in it?"""
    return "grader error" in (grade.status, *(o.status for o in grade.outcomes))


def _row(name: str, grades: Sequence[Grade]) -> Row:
    shares = [g.score / g.points if g.points else 0.0 for g in grades]
    return Row(
        name=name,
        grades=len(grades),
        mean=_mean(shares),
        full=sum(share > 1 - 1e-9 for share in shares),
        missing=sum(g.status == "missing" for g in grades),
        malformed=sum(g.status == "malformed" for g in grades),
        faults=sum(map(faulty, grades)),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
