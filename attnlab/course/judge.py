"""Examining submissions: the trusted side, which alone knows what is expected.

    examiner = Examiner(sandbox, "landmark", course, "numpy", seed=7)
    for item in examiner.items:
        outcome = examiner.run(item)

Replies are compared and nothing else; what a level of detail hides is taken out here, once, so
that no report can show it.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from attnlab.contract import Exhibit, InputError, suggest
from attnlab.course.candidate import Candidate, Verdict
from attnlab.course.config import Course
from attnlab.course.diagnose import diagnose
from attnlab.course.difference import tell, veil
from attnlab.course.items import Entry, Exam, exam
from attnlab.course.model import Details, Grade, Item, Outcome, Status, Track

if TYPE_CHECKING:
    from attnlab.course.sandbox import Sandbox

MESSAGE = 1000  # characters of a message, which may quote the submission
PRINTED = 2000  # characters of what a submission printed

BARE: dict[Status, str] = {
    "passed": "",
    "wrong": "wrong answer",
    "error": "raised an exception",
    "not implemented": "not implemented",
    "missing": "the function is not defined",
    "malformed": "the file could not be imported",
    "bad value": "returned something that is no plain array",
    "timeout": "took longer than the limit",
    "memory": "ran out of memory",
    "output": "printed more than the limit",
    "crashed": "the process died",
    "not run": "not run",
    "grader error": "the grader failed here; your instructor has been told",
}


class Examiner:
    """One submission, one exercise. Items may be run in any order; what a call costs counts."""

    def __init__(
        self,
        sandbox: Sandbox,
        name: str,
        course: Course,
        track: Track,
        seed: int,
        details: Details | None = None,
    ):
        self.sandbox, self.course, self.track, self.seed = sandbox, course, track, seed
        self.details: Details = details or course.details
        self.exam: Exam = exam(name, course, track, seed)

    @property
    def exhibit(self) -> Exhibit:
        return self.exam.exhibit

    @property
    def items(self) -> list[Item]:
        return self.exam.items

    @cached_property
    def candidate(self) -> Candidate:
        return Candidate(self.sandbox.load(self.exhibit.name), self.course.limits, self.track)

    def run(self, item: Item) -> Outcome:
        """What becomes of one item. Never raises, whatever the submission or the grader does."""
        started = time.perf_counter()
        entry = self.exam.entries[item.id]
        try:
            verdict = self._verdict(entry)
        except Exception:
            verdict = Verdict("grader error", note=traceback.format_exc())
        return self._outcome(entry, verdict, time.perf_counter() - started)

    def grade(
        self,
        student: str,
        on_outcome: Callable[[Outcome], Any] | None = None,
        everything: bool = False,
    ) -> Grade:
        """The grade, with items that are worth nothing left out unless `everything` is asked for."""
        started = time.perf_counter()
        session = self.candidate.session  # where it cannot be made, there is nothing to grade
        outcomes = []
        for item in self.items:
            if item.points or everything:
                outcomes.append(self.run(item))
                if on_outcome:
                    on_outcome(outcomes[-1])
        malformed = session.status != "passed"
        return Grade(
            student=student,
            exercise=self.exhibit.name,
            track=self.track,
            outcomes=tuple(outcomes),
            status="malformed" if malformed else "graded",
            message=_unreadable(session) if malformed else "",
            points=self.exam.assignment.points,
            seed=self.seed,
            course=self.course.version(self.exhibit.name),
            seconds=time.perf_counter() - started,
        )

    def close(self) -> None:
        """End the submission's process."""
        if "candidate" in self.__dict__:
            close = getattr(self.candidate.session, "close", None)
            if close:
                close()

    def _verdict(self, entry: Entry) -> Verdict:
        candidate = self.candidate
        session = candidate.session
        if session.status != "passed":
            return Verdict("malformed", _unreadable(session))
        if entry.item.function not in session.defined:
            near = suggest(entry.item.function, sorted(session.defined))
            return Verdict("missing", f"the file defines no function {entry.item.function}{near}")
        if candidate.exhausted:
            budget = self.course.limits.budget
            return Verdict("not run", f"the exercise's {budget:g} s were spent before this item")
        return entry.judge(candidate)

    def _outcome(self, entry: Entry, verdict: Verdict, seconds: float) -> Outcome:
        """The verdict as a student may see it."""
        item, details = entry.item, "none" if entry.item.hidden else self.details
        earned = item.points if verdict.passed else 0.0
        if details == "none" or verdict.status == "grader error":
            bare = BARE[verdict.status]
            return Outcome(item, verdict.status, earned, bare, seconds=seconds, note=verdict.note)
        message = "" if verdict.passed else verdict.fault or BARE[verdict.status]
        if verdict.difference is not None:
            told = tell(verdict.difference, details)
            message = f"{verdict.fault} ({told})" if verdict.fault else told
        return Outcome(
            item=item,
            status=verdict.status,
            earned=earned,
            message=" | ".join(message.splitlines())[:MESSAGE],
            difference=veil(verdict.difference, details),
            diagnosis=self._diagnosis(verdict),
            inputs=entry.inputs(),
            printed=(verdict.reply.printed if verdict.reply else "")[:PRINTED],
            seconds=seconds,
        )

    def _diagnosis(self, verdict: Verdict) -> str:
        if verdict.difference is None or not verdict.task or not verdict.question:
            return ""
        try:
            return diagnose(self.exhibit, verdict.task, verdict.question, verdict.got or {})
        except Exception:  # a comment on a wrong answer, which must not cost anybody the verdict
            return ""


def grade_submission(
    student: str,
    files: Mapping[str, bytes],
    names: Sequence[str],
    course: Course,
    seed: int,
    level: str,
    track: Track | None = None,
    on_grade: Callable[[Grade], Any] | None = None,
    on_outcome: Callable[[Outcome], Any] | None = None,
    everything: bool = False,
) -> list[Grade]:
    """Grades of one submission's exercises, one sandbox a track. Only InputError is raised, for what
    was asked for wrongly; what fails on our side is a grade with the status "grader error"."""
    from attnlab.course.sandbox import open_sandbox

    tracks = {name: track or course.track_of(name) for name in names}
    exams = {name: exam(name, course, tracks[name], seed) for name in names}  # refuses early
    grades: dict[str, Grade] = {}

    def done(grade: Grade) -> None:
        grades[grade.exercise] = grade
        if on_grade:
            on_grade(grade)

    for each in dict.fromkeys(tracks.values()):
        waiting = [n for n in names if tracks[n] == each]
        for name in [n for n in waiting if f"{n}.py" not in files]:
            done(_unmarked(student, exams[name], course, seed, level, everything, on_outcome))
            waiting.remove(name)
        while waiting:
            try:
                with open_sandbox(files, each, course.limits, level, course.packages) as sandbox:
                    while waiting:
                        examiner = Examiner(sandbox, waiting[0], course, each, seed)
                        grade = examiner.grade(student, on_outcome, everything)
                        examiner.close()
                        waiting.pop(0)
                        done(replace(grade, isolation=level))
            except InputError:
                raise
            except Exception:  # this exercise is lost; the others get a sandbox of their own
                note, name = traceback.format_exc(), waiting.pop(0)
                done(_unmarked(student, exams[name], course, seed, level, everything, None, note))
    return [grades[name] for name in names]


def _unreadable(session: Any) -> str:
    """Why a file could not be imported, and where."""
    where = getattr(session, "where", "")
    return f"{session.message} ({where})" if where else session.message


def _unmarked(
    student: str,
    paper: Exam,
    course: Course,
    seed: int,
    level: str,
    everything: bool,
    on_outcome: Callable[[Outcome], Any] | None,
    note: str = "",
) -> Grade:
    """The grade of what is not there, or (with a note for the instructor) of what we failed at."""
    name = paper.exhibit.name
    status: Status = "grader error" if note else "malformed"
    message = BARE["grader error"] if note else f"there is no file {name}.py"
    outcomes = tuple(
        Outcome(item, status, 0.0, BARE[status] if item.hidden else message)
        for item in paper.items
        if item.points or everything
    )
    if on_outcome:
        for outcome in outcomes:
            on_outcome(outcome)
    return Grade(
        student=student, exercise=name, track=paper.track, outcomes=outcomes,
        status="grader error" if note else "missing", message=message,
        points=paper.assignment.points, isolation=level, seed=seed,
        course=course.version(name), extra={"note": note} if note else {},
    )  # fmt: skip
