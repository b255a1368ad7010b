"""What is graded of an exercise: the items, what each is worth, and how each is judged.

The list depends on the exercise, the track and the course, never on the seed; what is asked in an
item does. An exercise's points are shared out over the kinds by their weights, and within a kind
equally.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from attnlab.contract import Exhibit, InputError
from attnlab.course import cost
from attnlab.course.candidate import Candidate, Verdict
from attnlab.course.config import Course
from attnlab.course.gradients import Gradient, gradient
from attnlab.course.model import Item, Kind, Track
from attnlab.course.properties import base, properties, unmet
from attnlab.course.tasks import ATOL, RTOL, OperationTask, Question, Task, seed_of, tasks
from attnlab.course.trees import arrays
from attnlab.paths import vectors_dir
from attnlab.registry import find
from attnlab.vectors import Case, VectorError, read

FRESH = (5, 2, 3, 8, 9, 17, 33, 13)  # sizes: no multiple of anything, and one that is
PART = (4, 3, 17)
GRADIENT = (5, 2, 9, 17)
TRIES = 20  # draws of a part, for one that is not answered rightly by doing nothing


@dataclass(frozen=True, eq=False)
class Entry:
    """An item and how to judge it; `inputs` describes what is asked where a student may know."""

    item: Item
    judge: Callable[[Candidate], Verdict]
    inputs: Callable[[], str] = lambda: ""


@dataclass(frozen=True)
class _Setting:
    """A course, told from others by its version for this exercise."""

    version: str
    course: Course = field(compare=False)


def exam(name: str, course: Course, track: Track, seed: int) -> Exam:
    """The exam that everybody gets who is examined with this seed; made once in a process.

    Raises InputError for a track that the exercise has not, options that fit no inputs, and the
    course's own vectors where they cannot be used.
    """
    return _exam(name, track, seed, _Setting(course.version(name), course))


@lru_cache(maxsize=64)
def _exam(name: str, track: Track, seed: int, setting: _Setting) -> Exam:
    return Exam(find(name), setting.course, track, seed)


class Exam:
    """One exercise on one track with one seed. Nothing is drawn before it is needed."""

    def __init__(self, exhibit: Exhibit, course: Course, track: Track, seed: int):
        self.exhibit, self.course, self.track = exhibit, course, track
        self.seed = seed_of(seed, exhibit.name, track)
        self.assignment = course.assignment(exhibit.name)
        self.headline, self.parts = tasks(exhibit, track, self.assignment)
        self.base = base(self.headline, self.seed)
        if not self.headline.tells(self.base):
            raise InputError(
                f"exercise.{exhibit.name}.vary: no answer at the sizes graded depends on "
                f"{', '.join(self.assignment.vary)}, so that a copied reference would pass; vary another "
                "option, or another value"
            )
        self.properties = properties(self.headline, self.seed, self.base)
        listed = [
            *self._parts(), *self._vectors("public"), *self._fresh(), *self._properties(),
            *self._gradients(), *self._cost(), *self._vectors("hidden"),
        ]  # fmt: skip
        self.entries: dict[str, Entry] = {e.item.id: e for e in self._weighed(listed)}
        if len(self.entries) != len(listed):
            raise InputError(f"{exhibit.name}: two items have one id")

    @property
    def items(self) -> list[Item]:
        return [entry.item for entry in self.entries.values()]

    def _weighed(self, entries: list[Entry]) -> list[Entry]:
        """Every item with its share of the points."""
        weights = self.course.weights_of(self.exhibit.name)
        counts: dict[Kind, int] = {}
        for entry in entries:
            counts[entry.item.kind] = counts.get(entry.item.kind, 0) + 1
        total = sum(weights[kind] for kind in counts)
        if not total > 0:
            raise InputError(
                f"weights of {self.exhibit.name}: all that there are items of "
                f"({', '.join(counts)}) weigh nothing"
            )
        share = {k: self.assignment.points * weights[k] / total / c for k, c in counts.items()}
        return [replace(e, item=replace(e.item, points=share[e.item.kind])) for e in entries]

    def _asked(
        self, task: Task, kind: Kind, label: str, about: str, draw: Callable[[], Question]
    ) -> Entry:
        """An item that is one question."""
        question = cache(draw)
        item = Item(f"{task.name}/{kind}-{label}", task.name, kind, about=about)
        return Entry(
            item,
            lambda candidate: candidate.answer(task, question()),
            lambda: _described(question()),
        )

    def _parts(self) -> Iterator[Entry]:
        about = (
            {p.name: p.about for p in self.exhibit.exercise.parts} if self.exhibit.exercise else {}
        )
        for task in self.parts:
            for i, n in enumerate(PART, 1):
                seed = seed_of(self.seed, "part", task.name, i)
                # the second may be any case, a plain one too
                draw = partial(_telling, task, n, seed, i > 1, 1 if i == 2 else TRIES)
                yield self._asked(task, "part", str(i), about[task.name], draw)

    def _fresh(self) -> Iterator[Entry]:
        for i, n in enumerate(FRESH, 1):  # every size is there once: no draw repeats
            draw = partial(_roomy, self.headline, n, seed_of(self.seed, "fresh", i), i > 1)
            yield self._asked(self.headline, "fresh", str(i), f"fresh inputs, n = {n}", draw)

    def _properties(self) -> Iterator[Entry]:
        task = self.headline
        for each in self.properties:
            item = Item(
                f"{task.name}/property-{each.name}", task.name, "property", about=each.about
            )
            yield Entry(item, each.judge)

    def _gradients(self) -> Iterator[Entry]:
        task = self.headline
        if self.track != "torch" or not task.op.gradient:
            return
        for i, n in enumerate(GRADIENT, 1):
            seed = seed_of(self.seed, "gradient", i)
            made: Callable[[], Gradient] = cache(
                partial(gradient, task, partial(_roomy, task, n, seed, i > 1), seed)
            )
            item = Item(
                f"{task.name}/gradient-{i}", task.name, "gradient", about=f"gradients, n = {n}"
            )
            yield Entry(
                item,
                lambda candidate, made=made: made().judge(candidate),  # type: ignore[misc]
                lambda made=made: _described(made().question),  # type: ignore[misc]
            )

    def _cost(self) -> Iterator[Entry]:
        exercise, task = self.exhibit.exercise, self.headline
        claim = cost.claim(task, exercise) if exercise else None
        if claim is None:
            return
        about = f"time grows no faster than n^{claim:g}"
        item = Item(f"{task.name}/cost-1", task.name, "cost", about=about)

        def judge(candidate: Candidate) -> Verdict:
            verdict = candidate.agrees(task, self.base)
            return cost.judge(candidate, self.ladder) if verdict.passed else unmet(verdict)

        yield Entry(item, judge)

    @cached_property
    def ladder(self) -> cost.Ladder:
        claim = cost.claim(self.headline, self.exhibit.exercise)
        assert claim is not None
        return cost.ladder(self.headline, claim, seed_of(self.seed, "cost"), self.base.drawn)

    def _vectors(self, which: Kind) -> Iterator[Entry]:
        """Cases of test vectors: the shipped ones and the course's own, or the hidden ones."""
        shipped = [vectors_dir() / f"{self.exhibit.name}.npz"] if which == "public" else []
        own = self.course.vectors(self.exhibit.name, which)
        asked = {t.name: t for t in (*self.parts, self.headline) if isinstance(t, OperationTask)}
        operations = (
            {p.name for p in self.exhibit.exercise.parts} if self.exhibit.exercise else set()
        )
        operations.add(self.headline.name)
        counts: dict[str, int] = {}
        for path in [p for p in shipped if p.exists()] + ([own] if own else []):
            for case in _cases(path, self.exhibit.name):
                task = asked.get(case.operation)
                where = f"{path}: case {case.name!r}"
                if task is None:
                    if which == "hidden" and case.operation not in operations:
                        raise InputError(
                            f"{where} is of {case.operation}, which the exercise does not ask for "
                            f"(it asks for {', '.join(sorted(operations))})"
                        )
                    continue
                try:
                    question = stored(task, case, recompute=which == "public")
                except InputError as error:
                    if which == "hidden":
                        raise InputError(f"{where}: {error}") from None
                    continue
                if question is None:
                    continue
                number = counts[task.name] = counts.get(task.name, 0) + 1
                label = str(number) if which == "hidden" else case.name
                about = "" if which == "hidden" else f"test vectors, case {case.name}"
                if which == "public" and path == own:
                    label = f"{path.parent.parent.name or 'course'}-{case.name}"
                yield self._asked(task, which, label, about, lambda q=question: q)  # type: ignore[misc]


def _telling(task: Task, n: int, seed: int, varied: bool, tries: int) -> Question:
    """A draw of a part; of another seed where it is right to return zeros, ones or an input."""
    first = question = task.draw(n, seed, varied=varied)
    for attempt in range(1, tries):
        if not plain(question):
            return question
        question = task.draw(n, seed_of(seed, attempt), varied=varied)
    return first if plain(question) else question


def plain(question: Question) -> bool:
    """Whether each answer is one value over and over, or an argument as it came. A single number is
    plain where it is 0."""
    given = [np.asarray(a) for a in arrays(question.arguments)]

    def idle(answer: Any) -> bool:
        value = np.asarray(answer)
        if value.dtype.kind not in "fiub" or not value.size:
            return not value.size
        if np.all(value == value.flat[0]) and (value.size > 1 or not value.flat[0]):
            return True
        return any(a.shape == value.shape and np.array_equal(a, value) for a in given)

    return all(idle(v) for v in question.expected.values() if v is not None)


def _roomy(task: OperationTask, n: int, seed: int, varied: bool) -> Question:
    """A draw of size n; of a larger one where the course's options fit no inputs so small."""
    for size in (n, n + 6, n + 12):
        try:
            return task.draw(size, seed, varied=varied)
        except InputError:
            if not task.vary:
                raise
    return task.draw(n + 24, seed, varied=varied)


def stored(task: OperationTask, case: Case, recompute: bool) -> Question | None:
    """The question that a case of test vectors asks; None where it stores no required output.

    Where the course changes an option that the case leaves as it was, the stored answers do not
    hold: then (`recompute`) they are the reference's. Raises InputError for a bad case.
    """
    given = case.arguments(task.op)
    kept = {o.name: given.get(o.name, o.default) for o in task.op.options}
    changed = recompute and any(kept[k] != v for k, v in task.vary.items())
    expected = None
    if not changed:
        here = {a.keyword for a in task.op.results_on(task.track)}
        held = {k: v for k, v in case.arrays["out"].items() if task.keyword(k) in here}
        expected = {k: task.arranged(k, v) for k, v in held.items()}
    question = task.question(given | task.vary, f"case {case.name}", expected)
    rules = {k: v for k, v in case.compare.items() if k in question.expected}
    if all(rules.get(k) == "skip" for k in question.expected):
        return None
    return replace(
        question,
        rtol=max(case.rtol, RTOL),
        atol=max(case.atol, ATOL),
        rules={} if changed else rules,
    )


def _cases(path: Path, name: str) -> list[Case]:
    try:
        return read(path, name)
    except VectorError as error:
        raise InputError(str(error)) from None


def _described(question: Question) -> str:
    """Sizes and options, then the shapes of what is sent."""
    shapes = [f"{k} {_shape(v)}" for k, v in question.arguments.items() if _shape(v)]
    return "; ".join(filter(None, [question.about, ", ".join(shapes)]))


def _shape(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return str(value.shape)
    if isinstance(value, Mapping):
        return f"{{{len(value)} arrays}}"
    if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
        return f"[{len(value)} arrays]"
    return ""
