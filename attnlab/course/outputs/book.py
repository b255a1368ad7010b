"""The grades of a class side by side, and what can be counted over them."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from attnlab.contract import InputError
from attnlab.course.config import Course
from attnlab.course.model import Grade, Outcome


@dataclass(frozen=True)
class ItemFacts:
    """How one item of an exercise went over the class."""

    exercise: str
    id: str
    about: str
    points: float
    tried: int  # submissions that could be run
    passed: int
    earned: float  # mean share of its points; of passes where it has none
    seconds: float  # median
    slowest: float


@dataclass(frozen=True)
class Book:
    """A class: grades by student and exercise; the last one counts where there are several."""

    course: Course
    students: tuple[str, ...]
    exercises: tuple[str, ...]
    grades: Mapping[tuple[str, str], Grade]

    @classmethod
    def of(cls, grades: Sequence[Grade], course: Course) -> Book:
        """Students by name; exercises as the course lists them, others after."""
        named = {g.exercise for g in grades}
        order = [n for n in course.exercises if n in named]
        order += sorted(named - set(order))
        return cls(
            course,
            tuple(sorted({g.student for g in grades}, key=lambda s: (s.casefold(), s))),
            tuple(order),
            {(g.student, g.exercise): g for g in grades},
        )

    def of_student(self, student: str) -> list[Grade]:
        return [g for e in self.exercises if (g := self.grades.get((student, e)))]

    def of_exercise(self, exercise: str) -> list[Grade]:
        return [g for s in self.students if (g := self.grades.get((s, exercise)))]

    def points(self, exercise: str) -> float:
        """What the exercise is worth: as its grades say."""
        return max((g.points for g in self.of_exercise(exercise)), default=0.0)

    @property
    def all_points(self) -> float:
        """Everything that is asked for; an exercise without a grade counts nought of it."""
        return sum(self.points(e) for e in self.exercises)

    def total(self, student: str) -> float:
        return sum(g.score for g in self.of_student(student))

    def percent(self, student: str) -> float:
        return 100 * self.total(student) / self.all_points if self.all_points else 0.0

    def shares(self, exercise: str) -> list[float]:
        """The exercise's scores in percent of its points, one a graded student."""
        return [100 * g.score / g.points if g.points else 0.0 for g in self.of_exercise(exercise)]

    def outcomes(self) -> Iterator[tuple[Grade, Outcome]]:
        """Every outcome of a submission that could be run."""
        for grade in self.grades.values():
            if grade.status == "graded":
                yield from ((grade, outcome) for outcome in grade.outcomes)

    def items(self) -> list[ItemFacts]:
        """Every item's facts over the submissions that could be run, in the order of exercises."""
        found: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
        for exercise in self.exercises:
            for grade in self.of_exercise(exercise):
                for outcome in grade.outcomes if grade.status == "graded" else ():
                    found[exercise, outcome.item.id].append(outcome)
        return [_facts(exercise, outcomes) for (exercise, _), outcomes in found.items()]

    def failures(self) -> list[tuple[str, int, int, list[tuple[str, int]]]]:
        """(status, items, students, its most frequent diagnoses with their students), most first.

        A submission that could not be run at all counts as one item of that status.
        """
        items: Counter[str] = Counter()
        students: dict[str, set[str]] = defaultdict(set)
        says: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for grade, outcome in self.outcomes():
            if outcome.passed:
                continue
            items[outcome.status] += 1
            students[outcome.status].add(grade.student)
            if outcome.diagnosis and not outcome.item.hidden:
                says[outcome.status][outcome.diagnosis].add(grade.student)
        for grade in self.grades.values():
            if grade.status != "graded":
                items[grade.status] += 1
                students[grade.status].add(grade.student)
        return [
            (
                status,
                count,
                len(students[status]),
                sorted(
                    ((text, len(who)) for text, who in says[status].items()), key=lambda p: -p[1]
                )[:3],
            )
            for status, count in items.most_common()
        ]


def _facts(exercise: str, outcomes: list[Outcome]) -> ItemFacts:
    item = outcomes[0].item
    worth = [o.earned / o.item.points if o.item.points else float(o.passed) for o in outcomes]
    return ItemFacts(
        exercise,
        item.id,
        item.about,
        item.points,
        len(outcomes),
        sum(o.passed for o in outcomes),
        statistics.fmean(worth),
        statistics.median(o.seconds for o in outcomes),
        max(o.seconds for o in outcomes),
    )


def title(exercise: str) -> str:
    """The exhibit's title; the name itself where no exhibit is called so."""
    from attnlab.registry import find

    try:
        return find(exercise).title
    except InputError:
        return exercise
