"""A judge that obeys the submission, for tests of what surrounds judging; `python fake_judge.py
SUBMISSIONS OUT SEED` grades a class with it.

    die            the grading process ends         die once FILE   … unless FILE is there
    raise          an exception                     hang            a minute
    nothing        no grade comes back              stranger        another student's grade does
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from attnlab.course.config import Course
from attnlab.course.model import Grade, Item, Outcome
from attnlab.course.tasks import seed_of

NAMES = ("attention", "landmark", "moh")


def judge(
    student: str,
    files: Mapping[str, bytes],
    names: Sequence[str],
    course: Course,
    seed: int,
    level: str,
) -> list[Grade]:
    """Grades whose score depends on student, exercise, content and seed."""
    grades = []
    for name in names:
        text = files[f"{name}.py"].decode()
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
        if text.startswith("die once"):
            marker = Path(text.split()[2])
            if not marker.exists():
                marker.touch()
                os._exit(3)
        elif text.startswith("die"):
            os._exit(3)
        if text.startswith("raise"):
            raise RuntimeError("the judge is confused")
        if text.startswith("hang"):
            time.sleep(60)
        if text.startswith("nothing"):
            continue
        who = "somebody" if text.startswith("stranger") else student
        item = Item(f"{name}/fresh-1", name, "fresh", 100.0)
        earned = seed_of(student, name, text, seed) % 101
        outcome = Outcome(item, "passed" if earned == 100 else "wrong", float(earned))
        grades.append(
            Grade(who, name, course.track_of(name), (outcome,), isolation=level, seed=seed)
        )
        if log := os.environ.get("FAKE_LOG"):
            with open(log, "a") as file:
                file.write(f"{student} {name} {os.getpid()}\n")
    return grades


def main(submissions: str, out: str, seed: str) -> None:
    from attnlab.course import classroom
    from attnlab.course.gradebook import Gradebook
    from attnlab.course.submissions import find

    classroom.AT_ONCE = 2  # more than one job a student
    with Gradebook.open(out) as book:
        work = classroom.plan(find(submissions), Course(exercises=NAMES), book, seed=int(seed))
        for grade in classroom.grade_class(work, book, classroom.local(2, judge), "none"):
            print(grade.student, grade.exercise, flush=True)


if __name__ == "__main__":
    from fake_judge import judge  # by a name that the grading processes can import

    main(*sys.argv[1:])
