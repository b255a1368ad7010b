"""course.toml: what is asked, how it is weighed, what it may cost to run.

    title = "Attention, autumn term"
    exercises = ["attention", "landmark"]     # all by default
    track = "numpy"                           # numpy | numba | torch
    details = "actual-only"                   # of failures: full | actual-only | none

    [weights]                                 # shares of an exercise's points, by kind
    fresh = 40
    hidden = 20

    [limits]
    wall = 5                                  # seconds an item

    [exercise.landmark]
    points = 150
    vary = { scale = 0.5 }                    # the option's value here; a student is told so
    order = { q = "batch n heads dim" }       # axes of an input or output in this course

Vectors of the course's own lie beside it: hidden/NAME.npz + .json count and are never shown,
public/NAME.npz + .json are shown to students. Without a file the defaults below hold.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from attnlab import __version__
from attnlab.contract import InputError, suggest
from attnlab.course.model import DETAILS, KINDS, TRACKS, Details, Track

WEIGHTS: dict[str, float] = {
    "public": 0, "part": 15, "fresh": 40, "hidden": 20, "property": 15, "cost": 10, "gradient": 20,
}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What a submission may use. Times in seconds, sizes in MiB (`output` in KiB)."""

    wall: float = 5.0  # an item
    cpu: float = 5.0  # an item
    start: float = 20.0  # importing the submission; on the numba track the first call, too
    budget: float = 30.0  # an exercise, all items together
    memory: int = 1024  # beyond what the imports take
    processes: int = 1  # the worker itself; more allows subprocesses
    file: int = 16  # written to its private /tmp, each file
    output: int = 256  # KiB printed, an item
    reply: int = 64  # what a call may return


@dataclass(frozen=True)
class Assignment:
    """One exercise as this course sets it."""

    name: str
    points: float = 100.0
    track: Track | None = None
    vary: Mapping[str, Any] = field(default_factory=dict)
    order: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Course:
    """A course: the defaults, or what a folder with course.toml says."""

    title: str = "attnlab"
    folder: Path | None = None
    exercises: tuple[str, ...] = ()  # empty: all
    track: Track = "numpy"
    details: Details = "full"
    weights: Mapping[str, float] = field(default_factory=lambda: dict(WEIGHTS))
    limits: Limits = field(default_factory=Limits)
    assignments: Mapping[str, Assignment] = field(default_factory=dict)
    packages: tuple[str, ...] = ()  # distributions that submissions may import besides the track's

    def assignment(self, name: str) -> Assignment:
        return self.assignments.get(name, Assignment(name))

    def weights_of(self, name: str) -> dict[str, float]:
        """Share of each kind, the exercise's own settings last."""
        return {**WEIGHTS, **self.weights, **self.assignment(name).weights}

    def track_of(self, name: str) -> Track:
        return self.assignment(name).track or self.track

    def vectors(self, name: str, which: str) -> Path | None:
        """The course's own vectors ("hidden" or "public") of an exercise, where it has some."""
        path = self.folder / which / f"{name}.npz" if self.folder else None
        return path if path and path.exists() else None

    def version(self, name: str) -> str:
        """A hash of all that can change a grade: settings, this exercise's vectors, attnlab."""
        digest = hashlib.sha256(f"{__version__} {self._settings(name)}".encode())
        for which in ("hidden", "public"):
            if path := self.vectors(name, which):
                digest.update(path.read_bytes() + path.with_suffix(".json").read_bytes())
        return digest.hexdigest()[:16]

    def _settings(self, name: str) -> str:
        a = self.assignment(name)
        parts = [self.track_of(name), self.limits, sorted(self.weights_of(name).items()), a.points]
        return repr(
            [*parts, sorted(a.vary.items()), sorted(a.order.items()), self.packages, self.details]
        )


def read_course(folder: str | Path | None) -> Course:
    """The course in a folder (or its course.toml); the default course for None.

    Raises InputError that names the file, the key, what was expected and what came.
    """
    if folder is None:
        return Course()
    file = Path(folder)
    file = file / "course.toml" if file.is_dir() else file
    if not file.is_file():
        raise InputError(f"--course: {file} does not exist; a course is a folder with course.toml")
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not valid TOML ({error})") from None
    reader = _Reader(file)
    known = {f.name for f in fields(Course)} - {"folder", "assignments"} | {"exercise"}
    reader.known(data, known, "")
    course = Course(
        title=reader.typed(data, "title", str, "attnlab"),
        folder=file.parent,
        exercises=tuple(reader.exercise(n) for n in reader.typed(data, "exercises", list, [])),
        track=reader.choice(data, "track", TRACKS, "numpy"),
        details=reader.choice(data, "details", DETAILS, "full"),
        weights=reader.weights(data),
        limits=reader.limits(data),
        packages=tuple(reader.package(p) for p in reader.typed(data, "packages", list, [])),
        assignments={
            name: reader.assignment(name, table)
            for name, table in reader.typed(data, "exercise", dict, {}).items()
        },
    )
    for name in course.assignments:
        if course.exercises and name not in course.exercises:
            raise InputError(f"{file}: [exercise.{name}] is not among exercises")
    return course


class _Reader:
    """Typed look-ups whose errors name the file and the key."""

    def __init__(self, file: Path):
        self.file = file

    def fail(self, message: str) -> InputError:
        return InputError(f"{self.file}: {message}")

    def known(self, table: Mapping[str, Any], names: set[str], where: str) -> None:
        for name in table:
            if name not in names:
                raise self.fail(f"unknown key {where}{name}{suggest(name, names)}")

    def typed(self, table: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
        value = table.get(key, default)
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise self.fail(f"{key} must be {kind.__name__}, but is {value!r}")
        return value

    def number(self, table: Mapping[str, Any], key: str, default: float, least: float = 0) -> Any:
        value = table.get(key, default)
        real = isinstance(value, int | float) and not isinstance(value, bool)
        if not real or not math.isfinite(value) or value < least:
            raise self.fail(f"{key} must be a number of at least {least}, but is {value!r}")
        return value

    def choice(
        self, table: Mapping[str, Any], key: str, choices: tuple[str, ...], default: Any
    ) -> Any:
        value = table.get(key, default)
        if value not in choices:
            near = suggest(str(value), choices)
            raise self.fail(f"{key} must be one of {', '.join(choices)}, but is {value!r}{near}")
        return value

    def exercise(self, name: Any) -> str:
        from attnlab.registry import find

        try:
            return find(str(name)).name
        except InputError as error:
            raise self.fail(str(error)) from None

    def package(self, name: Any) -> str:
        if not isinstance(name, str):
            raise self.fail(f"packages must be names of distributions, but has {name!r}")
        return name

    def weights(self, table: Mapping[str, Any]) -> dict[str, float]:
        given = self.typed(table, "weights", dict, {})
        self.known(given, set(KINDS), "weights.")
        return {k: self.number(given, k, 0) for k in given}

    def limits(self, table: Mapping[str, Any]) -> Limits:
        given = self.typed(table, "limits", dict, {})
        kinds = {f.name: type(getattr(Limits(), f.name)) for f in fields(Limits)}
        self.known(given, set(kinds), "limits.")
        least = {k: 1 if kind is int else 0.01 for k, kind in kinds.items()}
        numbers = {k: kinds[k](self.number(given, k, 1, least[k])) for k in given}
        return replace(Limits(), **numbers)

    def assignment(self, name: str, table: Any) -> Assignment:
        self.exercise(name)
        if not isinstance(table, dict):
            raise self.fail(f"[exercise.{name}] must be a table")
        self.known(table, {f.name for f in fields(Assignment)} - {"name"}, f"exercise.{name}.")
        return Assignment(
            name=name,
            points=self.number(table, "points", 100),
            track=self.choice(table, "track", TRACKS, None) if "track" in table else None,
            vary=self._vary(name, self.typed(table, "vary", dict, {})),
            order=self._order(name, self.typed(table, "order", dict, {})),
            weights=self.weights(table),
        )

    def _vary(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        from attnlab.checks import check_option
        from attnlab.registry import find

        op = find(name).headline
        for key, value in given.items():
            option = op.option(key)
            if option is None:
                known = [o.name for o in op.options]
                have = ", ".join(known) or "none"
                raise self.fail(
                    f"exercise.{name}.vary: {op.name} has no option {key!r}{suggest(key, known)} (it has {have})"
                )
            try:
                check_option(option, value)
            except InputError as error:
                raise self.fail(f"exercise.{name}.vary: {error}") from None
        return given

    def _order(self, name: str, given: dict[str, Any]) -> dict[str, str]:
        from attnlab.contract import Array
        from attnlab.registry import find

        op = find(name).headline
        shapes = {a.name: a.shape for a in (*op.arguments, *op.results) if isinstance(a, Array)}
        for key, value in given.items():
            if key not in shapes:
                raise self.fail(
                    f"exercise.{name}.order: {op.name} has no array {key!r}{suggest(key, shapes)}"
                )
            if sorted(str(value).split()) != sorted(shapes[key].split()):
                raise self.fail(
                    f"exercise.{name}.order.{key} must arrange {shapes[key]!r}, but is {value!r}"
                )
        return given
