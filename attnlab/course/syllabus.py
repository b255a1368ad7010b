"""Which exercises a course asks for, in the order to work through them, and where a student's files lie."""

from __future__ import annotations

from pathlib import Path

from attnlab import registry
from attnlab.contract import Exercise, Exhibit, InputError, suggest
from attnlab.course.config import Course
from attnlab.course.model import TRACKS, Track

FOLDER = "attnlab-course"  # where `course start` puts a student's files


def names(course: Course) -> tuple[str, ...]:
    """The course's exercises, in the registry's order."""
    known = tuple(e.name for e in registry.exhibits() if e.exercise)
    return tuple(n for n in known if n in course.exercises) if course.exercises else known


def find(name: str, course: Course) -> Exhibit:
    """The exhibit of an exercise; NAME.py is understood. Raises InputError with a suggestion."""
    name = Path(name).name.removesuffix(".py")
    asked = names(course)
    if name in asked:
        return registry.find(name)
    if name in registry.names():
        raise InputError(f"{name} is no exercise of the course {course.title!r}")
    raise InputError(f"no exercise {name!r}{suggest(name, asked)} (`attnlab course list` has all)")


def exercise_of(exhibit: Exhibit) -> Exercise:
    """What the card says of the exercise."""
    assert exhibit.exercise is not None, exhibit.name
    return exhibit.exercise


def ordered(course: Course) -> list[Exhibit]:
    """Prerequisites first; among those that are ready the easiest, then the shortest.

    Prerequisites that the course does not ask for hold nothing up.
    """
    left = {name: registry.find(name) for name in names(course)}
    rank = {name: i for i, name in enumerate(left)}

    def ease(name: str) -> tuple[int, int, int]:
        exercise = exercise_of(left[name])
        return exercise.difficulty, exercise.minutes, rank[name]

    done: list[Exhibit] = []
    while left:
        ready = [n for n, e in left.items() if not set(exercise_of(e).prerequisites) & left.keys()]
        # two cards that name each other must not stop the list
        done.append(left.pop(min(ready or left, key=ease)))
    return done


def tracks(exhibit: Exhibit) -> tuple[Track, ...]:
    """The tracks on which an exercise can be solved: those of its headline's paths."""
    paths = exhibit.headline.paths
    return tuple(t for t in TRACKS if t in paths)


def check_track(exhibit: Exhibit, track: str) -> Track:
    """`track` if the exercise has it; InputError otherwise."""
    for known in tracks(exhibit):
        if track == known:
            return known
    have = ", ".join(tracks(exhibit))
    raise InputError(
        f"--track: {exhibit.name} has no track {track!r}{suggest(track, TRACKS)} (it has {have})"
    )


def present(folder: Path, course: Course) -> list[str]:
    """The exercises that a folder has a file for, in the course's order."""
    return [e.name for e in ordered(course) if (folder / f"{e.name}.py").is_file()]


def latest(folder: Path, course: Course) -> str:
    """The exercise whose file was edited last. Raises InputError when there is none."""
    there = present(folder, course)
    if not there:
        raise InputError(
            f"{folder} has no exercise's file; `attnlab course start attention --into {folder}` writes one"
        )
    return max(there, key=lambda name: (folder / f"{name}.py").stat().st_mtime_ns)
