"""A student's check of an exercise: the same grading as an instructor's, told to the student."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnlab.contract import Exhibit, InputError
from attnlab.course import syllabus
from attnlab.course.config import Course
from attnlab.course.model import Grade, Item, Outcome, Track
from attnlab.course.progress import Progress

HEADERS: dict[str, str] = {
    "numba": (
        "# Track numba: NumPy arrays in, NumPy arrays out; Numba may be used, and the time counts.\n"
    ),
    "torch": (
        "# Track torch: every array arrives as a torch.Tensor, and tensors are returned; gradients are\n"
        "# graded, too. The signatures speak of NumPy arrays: shapes and equations are the same.\n"
    ),
}


def start(
    exhibit: Exhibit, folder: Path, course: Course, track: Track, progress: Progress
) -> Path | None:
    """Write NAME.py from the skeleton; None, and nothing touched, when the file is there."""
    from attnlab.course.skeleton import skeleton

    path = folder / f"{exhibit.name}.py"
    text = HEADERS.get(track, "") + skeleton(exhibit, course.assignment(exhibit.name), track)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:  # "x" never overwrites
            file.write(text)
    except FileExistsError:
        if folder.is_dir():
            return None
        raise InputError(f"--into: {folder} is a file, not a folder") from None
    progress.start(exhibit.name, track)
    return path


def new_seed() -> int:
    """A seed for fresh inputs, small enough to be typed again."""
    return secrets.randbelow(10**6)


@dataclass
class Checker:
    """What the checks of one command share: folder, course, isolation, progress."""

    folder: Path
    course: Course
    progress: Progress
    level: str
    track: str | None = None
    seed: int = field(default_factory=new_seed)

    def track_of(self, exhibit: Exhibit) -> Track:
        """--track, else the track that the exercise was started on, else the course's."""
        started = self.progress.entry(exhibit.name).track
        return syllabus.check_track(
            exhibit, self.track or started or self.course.track_of(exhibit.name)
        )

    def exam(self, name: str) -> list[Item]:
        """The items of an exercise: they are the same whatever is drawn."""
        from attnlab.course.items import exam

        exhibit = syllabus.find(name, self.course)
        return exam(exhibit.name, self.course, self.track_of(exhibit), self.seed).items

    def check(
        self, name: str, on_outcome: Callable[[Outcome], Any] | None = None
    ) -> tuple[Grade, bool]:
        """Grade one exercise of the folder and remember the score; True where it is a new best."""
        from attnlab.course.judge import grade_submission
        from attnlab.course.submissions import read

        exhibit = syllabus.find(name, self.course)
        submission = read(self.folder)
        if lacks := submission.lacks(exhibit.name):
            raise InputError(f"{self.folder}: {lacks[1]}")
        (grade,) = grade_submission(
            submission.student,
            submission.files,
            [exhibit.name],
            self.course,
            self.seed,
            self.level,
            self.track_of(exhibit),
            on_outcome=on_outcome,
            everything=True,
        )
        return grade, self.progress.record(grade)


def without_hidden(grade: Grade) -> dict[str, Any]:
    """The grade as JSON for the student: hidden items are counted, not listed."""
    document = grade.to_dict()
    document["outcomes"] = [o for o in document["outcomes"] if o["item"]["kind"] != "hidden"]
    document["hidden_points"] = round(
        sum(o.item.points for o in grade.outcomes if o.item.hidden), 6
    )
    del document["score"]  # it tells what the hidden ones earned
    return document


def passed(grade: Grade) -> bool:
    """Did every item pass that the student sees?"""
    shown = [o for o in grade.outcomes if not o.item.hidden]
    return grade.status == "graded" and bool(shown) and all(o.passed for o in shown)
