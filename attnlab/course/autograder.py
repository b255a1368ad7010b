"""What runs inside Gradescope's container: grades one submission, writes results.json.

    python -m attnlab.course.autograder [ROOT]           ROOT/source, ROOT/submission, ROOT/results
    python -m attnlab.course.autograder --check [ROOT]   while the image is built: is all there?

ROOT is /autograder. results.json is there from the first second, with score 0 and the words that
grading has not finished, and is replaced after every exercise: a run that is cut off leaves what
was graded until then. What is printed, Gradescope shows to instructors alone; seeds go there.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from attnlab.contract import InputError
from attnlab.course import sandbox
from attnlab.course.config import Course, read_course
from attnlab.course.model import Grade
from attnlab.course.outputs import as_json, gradescope, write
from attnlab.course.submissions import Submission, read

SETTINGS = "attnlab.json"  # in source/: exercises and isolation
UNFINISHED = "Grading has not finished; what is not listed below counts as 0 so far."


def main(arguments: Sequence[str]) -> int:
    """Exit codes: 0 graded, 1 the grader failed (results.json says so), 2 wrong settings."""
    roots = [a for a in arguments if not a.startswith("-")]
    root = Path(roots[0] if roots else "/autograder")
    if "--check" in arguments:
        return check(root)
    results = root / "results" / "results.json"
    try:
        course, names, isolation = settings(root)
        put(results, [], course, UNFINISHED)
        level = sandbox.choose(isolation)
        note = isolation_note(level)
        submission = read(root / "submission")
        print(f"isolation {level}; files: {', '.join(sorted(submission.files)) or 'none'}")
        grades = grade(submission, course, names, level, results, note)
        put(results, grades, course, note)
    except InputError as error:
        print(f"Error: {error}")
        put(results, [], Course(), f"Nothing could be graded, which is not your fault: {error}")
        return 2
    except Exception:
        traceback.print_exc(file=sys.stdout)
        put(
            results,
            [],
            Course(),
            "The grader failed, which is not your fault; tell the instructor.",
        )
        return 1
    return 1 if any(g.status == "grader error" for g in grades) else 0


def settings(root: Path) -> tuple[Course, list[str], str]:
    """The course, the exercises asked for and the isolation that were packed."""
    packed = json.loads((root / "source" / SETTINGS).read_text(encoding="utf-8"))
    return read_course(root / "source" / "course"), packed["exercises"], packed["isolation"]


def grade(
    submission: Submission, course: Course, names: list[str], level: str, results: Path, note: str
) -> list[Grade]:
    """Grade all exercises; results.json has every one as soon as it is done."""
    from attnlab.course.judge import grade_submission
    from attnlab.course.student import new_seed

    seed = new_seed()
    print(f"seed {seed}")
    done: list[Grade] = []

    def told(one: Grade) -> Grade:
        """With the reason where there is no file to run: another name, not taken, no zip."""
        lacks = submission.lacks(one.exercise)
        if lacks is None or one.status == "grader error":
            return one
        return dataclasses.replace(
            one, status="malformed" if lacks[0] == "malformed" else "missing", message=lacks[1]
        )

    def on_grade(one: Grade) -> None:
        done.append(told(one))
        print(f"{one.exercise}: {one.status}, {one.score:g} of {one.points:g} points")
        if one.status == "grader error":
            print(one.extra.get("note", ""))
        put(results, done, course, f"{UNFINISHED}\n{note}")

    made = grade_submission(
        submission.student,
        submission.files,
        names,
        course,
        seed,
        level,
        on_grade=on_grade,
        everything=True,
    )
    return [told(one) for one in made]


def put(results: Path, grades: Sequence[Grade], course: Course, note: str) -> None:
    write(results, as_json(gradescope.results(grades, course, note)))


def isolation_note(level: str) -> str:
    """Why isolation is not the strongest, for whoever reads the results; "" where it is."""
    if level == "bubblewrap":
        return ""
    stronger = sandbox.LEVELS[: sandbox.LEVELS.index(level)]
    reasons = [f"{k}: {why}" for k, why in sandbox.available().items() if k in stronger and why]
    return f"Isolation is {level} ({'; '.join(reasons) or 'as the instructor asked'})."


def check(root: Path) -> int:
    """Read the course and say what isolation there is: a mistake shows when the image is built."""
    try:
        course, names, isolation = settings(root)
    except (InputError, OSError, ValueError, KeyError) as error:
        print(f"Error: {error}")
        return 2
    print(f"{course.title}: {', '.join(names)}")
    try:
        level = sandbox.choose(isolation)
        print(f"isolation {level}. {isolation_note(level)}")
    except InputError as error:  # where submissions are graded it may be another
        print(f"Warning: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
