"""What grading speaks of: items, their outcomes, a grade.

A `Grade` is one student's work on one exercise. It consists of `Outcome`s, one an `Item`; points
add up over items, so that no item can take another's away. Everything here is plain data: it goes
to SQLite, to JSON files and between processes as `to_dict` gives it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Track = Literal["numpy", "numba", "torch"]
TRACKS: tuple[Track, ...] = ("numpy", "numba", "torch")

Kind = Literal["public", "part", "fresh", "hidden", "property", "cost", "gradient"]
KINDS: tuple[Kind, ...] = ("public", "part", "fresh", "hidden", "property", "cost", "gradient")

Status = Literal[
    "passed",
    "wrong",  # it ran, and the answer is not right
    "error",  # the submission raised an exception
    "not implemented",  # it raised NotImplementedError
    "missing",  # the file defines no such function
    "malformed",  # the file is not there, is no Python or fails to import
    "bad value",  # what came back is no array, of no plain dtype, or too large
    "timeout",  # wall-clock or CPU limit
    "memory",
    "output",  # it printed more than the limit
    "crashed",  # the worker died: a signal, os._exit, …
    "not run",  # the exercise's time was spent, or an item it depends on failed
    "grader error",  # our fault: never counted against anybody silently
]

Details = Literal["full", "actual-only", "none"]
DETAILS: tuple[Details, ...] = ("full", "actual-only", "none")


@dataclass(frozen=True)
class Item:
    """One thing that is graded: `id` is stable for an exercise ("attend/fresh-3"), `function` is
    what the submission must define, `points` what it is worth."""

    id: str
    function: str
    kind: Kind
    points: float = 0.0
    about: str = ""

    @property
    def hidden(self) -> bool:
        return self.kind == "hidden"


@dataclass(frozen=True)
class Difference:
    """How an output misses: where, by how much and what it looks like (values None where the
    level of detail hides them)."""

    output: str
    shape: tuple[int, ...] | None = None
    expected_shape: tuple[int, ...] | None = None
    dtype: str = ""
    first: tuple[int, ...] | None = None  # first wrong index
    got: Any = None
    expected: Any = None
    worst: tuple[int, ...] | None = None  # where the largest error sits
    error: float | None = None  # the largest error
    tolerance: float | None = None
    wrong: int = 0  # elements that differ, of size
    size: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of an item. `message` is one line that a student may read (of a hidden item it
    never tells inputs or expected values); `diagnosis` says in plain language what it looks like."""

    item: Item
    status: Status
    earned: float = 0.0
    message: str = ""
    difference: Difference | None = None
    diagnosis: str = ""
    inputs: str = ""  # a short description: sizes, options, shapes
    printed: str = ""  # the beginning of what the submission printed
    seconds: float = 0.0
    note: str = ""  # for the instructor alone: our own traceback where the grader failed

    @property
    def passed(self) -> bool:
        return self.status == "passed"


@dataclass(frozen=True)
class Grade:
    """One student's work on one exercise. Not a point is given before it is earned: a grade that
    could not be made has score 0 and a status that says why."""

    student: str
    exercise: str
    track: Track
    outcomes: tuple[Outcome, ...] = ()
    status: Literal["graded", "missing", "malformed", "grader error"] = "graded"
    message: str = ""
    points: float = 100.0
    isolation: str = ""
    seed: int = 0
    content: str = ""  # hash of the submitted files
    course: str = ""  # hash of the course: its settings, its vectors, attnlab's version
    seconds: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def score(self) -> float:
        return round(sum(o.earned for o in self.outcomes), 6)

    @property
    def public_score(self) -> float:
        return round(sum(o.earned for o in self.outcomes if not o.item.hidden), 6)

    @property
    def public_points(self) -> float:
        """What the visible items are worth; all of `points` where nothing could be run."""
        if not self.outcomes:
            return self.points
        return round(sum(o.item.points for o in self.outcomes if not o.item.hidden), 6)

    @property
    def hidden_items(self) -> int:
        return sum(o.item.hidden for o in self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data with the sums in it."""
        sums = ("score", "public_score", "public_points", "hidden_items")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in sums}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Grade:
        """The grade that `to_dict` described (JSON's lists become tuples again)."""
        known = {f.name for f in dataclasses.fields(cls)}
        rest = {k: v for k, v in data.items() if k in known and k != "outcomes"}
        return cls(**rest, outcomes=tuple(_outcome(o) for o in data.get("outcomes", ())))


def _outcome(data: Mapping[str, Any]) -> Outcome:
    difference = data.get("difference")
    if difference is not None:
        indices = ("shape", "expected_shape", "first", "worst")
        known: dict[str, Any] = {
            k: tuple(v) if k in indices and v is not None else v for k, v in difference.items()
        }
        difference = Difference(**known)
    return Outcome(**{**data, "item": Item(**data["item"]), "difference": difference})
