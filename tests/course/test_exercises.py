"""Every exercise, graded as a class would be: the answer earns all, the skeleton nothing, and each
mistake that a card names loses points.

One sandbox holds all submissions to an exercise, under names of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import pytest

from attnlab import registry
from attnlab.contract import Exhibit
from attnlab.course import sandbox
from attnlab.course.answer import answer, broken
from attnlab.course.config import Course
from attnlab.course.judge import Examiner
from attnlab.course.model import Grade, Outcome, Track
from attnlab.course.sandbox import Sandbox, open_sandbox
from attnlab.course.skeleton import skeleton

SEED = 20261
COURSE = Course()
NAMES = registry.names()
QUICK = {"torch": ("attention", "landmark", "seal"), "numba": ("attention",)}


class Renamed:
    """A sandbox in which the submission called NAME lies under another name."""

    def __init__(self, inner: Sandbox, suffix: str):
        self.inner, self.suffix = inner, suffix

    def load(self, module: str) -> Any:
        return self.inner.load(f"{module}{self.suffix}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def examiner(box: Sandbox, exhibit: Exhibit, suffix: str, track: Track) -> Examiner:
    return Examiner(Renamed(box, suffix), exhibit.name, COURSE, track, SEED)  # type: ignore[arg-type]


def under(suffix: str, files: Mapping[str, bytes], name: str) -> dict[str, bytes]:
    """The files of a submission with its main file renamed."""
    main = f"{name}.py"
    return {
        (f"{name}{suffix}.py" if PurePosixPath(path) == PurePosixPath(main) else path): content
        for path, content in files.items()
    }


@pytest.fixture(scope="module")
def level() -> str:
    return sandbox.choose("auto")


@pytest.fixture(params=NAMES, scope="module")
def opened(request: pytest.FixtureRequest, level: str) -> Iterator[tuple[Exhibit, Sandbox]]:
    """An exhibit, and a sandbox with its answer, its skeleton and its mistakes (NumPy)."""
    exhibit = registry.find(request.param)
    assert exhibit.exercise is not None
    files = under("_right", answer(exhibit), exhibit.name)
    files |= {f"{exhibit.name}_bare.py": skeleton(exhibit).encode()}
    for i, mistake in enumerate(exhibit.exercise.mistakes):
        files |= {f"{exhibit.name}_wrong{i}.py": broken(exhibit, mistake).encode()}
    with open_sandbox(files, "numpy", COURSE.limits, level) as box:
        yield exhibit, box


def complaints(grade: Grade) -> str:
    rows = [f"{o.item.id}: {o.status}, {o.message}" for o in grade.outcomes if not o.passed]
    return "\n".join([f"{grade.score} of {grade.points}, {grade.status} {grade.message}", *rows])


def test_the_answer_earns_every_point(opened: tuple[Exhibit, Sandbox]) -> None:
    exhibit, box = opened
    grade = examiner(box, exhibit, "_right", "numpy").grade("answer")
    assert grade.score == pytest.approx(grade.points), complaints(grade)
    assert all(o.passed for o in grade.outcomes), complaints(grade)


def test_the_bare_skeleton_earns_nothing(opened: tuple[Exhibit, Sandbox]) -> None:
    exhibit, box = opened
    grade = examiner(box, exhibit, "_bare", "numpy").grade("skeleton")
    assert grade.score == 0
    assert grade.status == "graded"
    assert {o.status for o in grade.outcomes} <= {"not implemented", "not run"}, complaints(grade)


def test_every_mistake_loses_points(opened: tuple[Exhibit, Sandbox]) -> None:
    exhibit, box = opened
    assert exhibit.exercise is not None
    assert len(exhibit.exercise.mistakes) >= 3
    for i, mistake in enumerate(exhibit.exercise.mistakes):
        lost = first_lost(examiner(box, exhibit, f"_wrong{i}", "numpy"))
        assert lost is not None, f"{mistake.name} loses nothing"
        assert lost.status != "malformed", f"{mistake.name}: {lost.message}"


def first_lost(judge: Examiner) -> Outcome | None:
    """The first outcome that costs points; what takes long (cost) is tried last."""
    for item in sorted(judge.items, key=lambda item: item.kind == "cost"):
        outcome = judge.run(item)
        if outcome.earned < item.points:
            return outcome
    return None


def on_tracks() -> Iterator[Any]:
    for track, quick in QUICK.items():
        for name in NAMES:
            if track in registry.find(name).headline.paths:
                marks = [] if name in quick else [pytest.mark.slow]
                yield pytest.param(name, track, id=f"{name}-{track}", marks=marks)


@pytest.mark.parametrize(("name", "track"), list(on_tracks()))
def test_the_answer_earns_every_point_on_its_other_tracks(
    name: str, track: Track, level: str
) -> None:
    files = answer(registry.find(name), track)
    with open_sandbox(files, track, COURSE.limits, level, COURSE.packages) as box:
        grade = Examiner(box, name, COURSE, track, SEED).grade("answer")
    assert grade.score == pytest.approx(grade.points), complaints(grade)
