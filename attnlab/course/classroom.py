"""Grading a class: what is new or changed is graded, and recorded the moment it is known.

    with Gradebook.open(out) as book:
        work = plan(find(folder), course, book)
        for grade in grade_class(work, book, local(workers=2), level):
            …                                    # it is recorded already

A run that was killed goes on where it stopped: a grade stands as long as the student's files for
that exercise, the course, the track and the seed are the same (`gradebook.Key`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from attnlab.contract import InputError
from attnlab.course import pool
from attnlab.course.config import Course
from attnlab.course.gradebook import Gradebook, Key, seed_of_try
from attnlab.course.model import Grade, Outcome, Status
from attnlab.course.pool import Failed, Job, Judge
from attnlab.course.submissions import Submission

AT_ONCE = 5  # exercises of one student in a job: what a killed run may have to do again


class Runner(Protocol):
    """`pool.run` with its number of workers, or a cluster's `run`."""

    def __call__(
        self, jobs: Iterable[Job], *, stop: Callable[[], bool]
    ) -> Iterator[tuple[Job, pool.Result]]: ...


@dataclass(frozen=True)
class Work:
    """What a run has to do: `due` is student -> exercise -> key, `done` counts what needs nothing."""

    course: Course
    names: tuple[str, ...]
    submissions: Mapping[str, Submission]
    due: Mapping[str, Mapping[str, Key]]
    seeds: Mapping[str, int]
    done: int = 0
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Student-exercises to grade."""
        return sum(map(len, self.due.values()))


@dataclass
class Tally:
    """How far a run has come."""

    graded: int = 0
    statuses: dict[str, int] = field(default_factory=dict)

    def count(self, grade: Grade) -> None:
        self.graded += 1
        self.statuses[grade.status] = self.statuses.get(grade.status, 0) + 1

    @property
    def failures(self) -> int:
        """Grades that are none: no file, none that runs, our own failures."""
        return self.graded - self.statuses.get("graded", 0)


def with_track(course: Course, track: str | None) -> Course:
    """The course with all its exercises on one track (`--track`). Raises InputError."""
    from attnlab.contract import suggest
    from attnlab.course.model import TRACKS

    if track is None:
        return course
    for known in TRACKS:
        if track == known:
            own = {name: replace(a, track=None) for name, a in course.assignments.items()}
            return replace(course, track=known, assignments=own)
    raise InputError(
        f"--track must be one of {', '.join(TRACKS)}, but is {track!r}{suggest(track, TRACKS)}"
    )


def asked(course: Course, only: Sequence[str] = ()) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(exercises to grade, notes on those left out). Raises InputError for an unknown name, and for
    one named by `only` or by the course that has not the track asked for."""
    from attnlab.course import syllabus

    named = {syllabus.find(name, course).name for name in only}
    names = [n for n in syllabus.names(course) if n in named or not named]
    without = [
        n for n in names if course.track_of(n) not in syllabus.tracks(syllabus.find(n, course))
    ]
    if without and (named or course.exercises):
        syllabus.check_track(syllabus.find(without[0], course), course.track_of(without[0]))
    kept = tuple(n for n in names if n not in without)
    if not kept:
        raise InputError(f"--track: no exercise has the track {course.track!r}")
    notes = (f"not on the track {course.track}: {', '.join(without)}",) if without else ()
    return kept, notes


def plan(
    submissions: Sequence[Submission],
    course: Course,
    book: Gradebook,
    *,
    only: Sequence[str] = (),
    seed: int | None = None,
    regrade: bool = False,
) -> Work:
    """What there is to do. Draws the run's seeds (see `Gradebook.seeds`); raises InputError where
    the course cannot be examined as its settings say."""
    from attnlab.course.items import exam

    names, notes = asked(course, only)
    seeds = book.seeds(names, seed, regrade)
    for name in names:
        exam(name, course, course.track_of(name), seeds[name])
    versions = {name: course.version(name) for name in names}
    graded, tries = book.graded(), book.tries()
    due: dict[str, dict[str, Key]] = {}
    done = 0
    for submission in submissions:
        for name in names:
            work = (submission.student, name, course.track_of(name))
            content, before = submission.fingerprint(name), tries.get(work, [])
            count = before.index(content) if content in before else len(before)
            key = Key(content, versions[name], seed_of_try(seeds[name], count))
            if graded.get(work) == key:
                done += 1
            else:
                due.setdefault(submission.student, {})[name] = key
    return Work(course, names, {s.student: s for s in submissions}, due, seeds, done, notes)


def try_out(course: Course, tracks: Iterable[str], level: str) -> None:
    """Opens an empty sandbox for each track: what does not work here is found before anything is
    graded. Raises InputError (a package that is not there), SandboxError."""
    from attnlab.course.sandbox import open_sandbox

    for track in tracks:
        with open_sandbox({}, track, course.limits, level, course.packages):  # type: ignore[arg-type]
            pass


def local(workers: int, judge: Judge | None = None) -> Runner:
    """A runner on processes of this machine."""
    return partial(pool.run, workers=workers, judge=judge)


def grade_class(
    work: Work,
    book: Gradebook,
    runner: Runner,
    level: str,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Grade]:
    """Grades everything due; each grade is recorded before it is handed on. Ends early, with all
    recorded that is known, once `stop()` is true."""
    jobs: list[Job] = []
    for student, keys in work.due.items():
        submission, ready = work.submissions[student], []
        for name, key in keys.items():
            if (lack := submission.lacks(name)) is None:
                ready.append(name)
            elif not stop():
                yield _record(_unmarked(work, student, name, level, *lack), key, book)
        jobs += _jobs(work, submission, ready, level)
    for job, result in runner(jobs, stop=stop):
        for name in job.names:
            grade = _grade(work, job, name, result)
            yield _record(grade, work.due[job.student][name], book)


def _jobs(work: Work, submission: Submission, names: Sequence[str], level: str) -> Iterator[Job]:
    """Jobs of at most AT_ONCE exercises, each of one seed."""
    seeds = {n: work.due[submission.student][n].seed for n in names}
    for seed in dict.fromkeys(seeds.values()):
        own = [n for n in names if seeds[n] == seed]
        for start in range(0, len(own), AT_ONCE):
            part = tuple(own[start : start + AT_ONCE])
            yield Job(submission.student, submission.files, part, work.course, seed, level)


def _grade(work: Work, job: Job, name: str, result: pool.Result) -> Grade:
    """The grade of one exercise in what a job gave; what is missing or unreadable is our fault."""
    if isinstance(result, Failed):
        why: str = result.reason
    else:
        try:
            return next(
                grade
                for grade in map(Grade.from_dict, result)
                if (grade.student, grade.exercise) == (job.student, name)
            )
        except StopIteration:
            why = "the grading process sent no grade"
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            why = f"the grading process sent something else ({error})"
    return _unmarked(work, job.student, name, job.level, "grader error", why)


def _unmarked(work: Work, student: str, name: str, level: str, status: Any, reason: str) -> Grade:
    """The grade of what could not be run: 0 points on every item, and why. A failure of ours is
    told in full to the instructor alone."""
    from attnlab.course.items import exam

    ours = status == "grader error"
    message = "the grader failed here; your instructor has been told" if ours else reason
    of_items: Status = "grader error" if ours else "malformed"
    track = work.course.track_of(name)
    items = (i for i in exam(name, work.course, track, work.seeds[name]).items if i.points)
    return Grade(
        student=student, exercise=name, track=track, status=status, message=message,
        outcomes=tuple(Outcome(item, of_items, message=message) for item in items),
        points=work.course.assignment(name).points, isolation=level,
        extra={"note": reason} if ours else {},
    )  # fmt: skip


def _record(grade: Grade, key: Key, book: Gradebook) -> Grade:
    grade = replace(grade, content=key.content, course=key.course, seed=key.seed)
    book.put(grade)
    return grade
