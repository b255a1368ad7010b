"""course.toml: what it may say, and what is told of what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnlab.contract import InputError
from attnlab.course.config import Course, Limits, read_course


def course(folder: Path, text: str) -> Course:
    (folder / "course.toml").write_text(text, encoding="utf-8")
    return read_course(folder)


def test_a_course(tmp_path: Path) -> None:
    made = course(
        tmp_path,
        'title = "T"\nexercises = ["landmark"]\ndetails = "none"\npackages = ["scipy"]\n'
        "[limits]\nwall = 2\nmemory = 64\n[weights]\nhidden = 1\n"
        '[exercise.landmark]\npoints = 10\ntrack = "torch"\n',
    )
    assert made.exercises == ("landmark",)
    assert made.limits == Limits(wall=2.0, memory=64)
    assert made.assignment("landmark").points == 10
    assert made.track_of("landmark") == "torch"
    assert made.weights_of("landmark")["hidden"] == 1
    assert made.packages == ("scipy",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("titel = 'x'", "unknown key titel; did you mean title"),
        ("title = 3", "title must be str, but is 3"),
        ("exercises = ['landmrk']", "did you mean landmark"),
        ("track = 'nump'", "track must be one of numpy, numba, torch"),
        ("packages = [1]", "packages must be names of distributions"),
        ("[limits]\nwall = inf", "wall must be a number of at least 0.01, but is inf"),
        ("[limits]\nmemory = inf", "memory must be a number of at least 1"),
        ("[limits]\nprocesses = 0.5", "processes must be a number of at least 1"),
        ("[limits]\nwall = true", "wall must be a number"),
        ("[weights]\nfresh = nan", "fresh must be a number of at least 0"),
        ("[exercise.landmark]\npoints = inf", "points must be a number of at least 0"),
        ("[exercise.landmark]\npoints = -1", "points must be a number of at least 0"),
        ("[exercise.landmark]\norder = { q = 'n dim' }", "order.q must arrange"),
        ("[exercise.landmark]\nvary = { scal = 1 }", "has no option 'scal'"),
        ("exercises = ['attention']\n[exercise.landmark]\npoints = 1", "is not among exercises"),
        ("title = ", "not valid TOML"),
    ],
)
def test_what_a_course_may_not_say(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        course(tmp_path, text)
    assert says in str(error.value)
    assert "course.toml" in str(error.value)
