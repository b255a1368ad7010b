"""What a student's commands rest on: order, progress, watching, the words of a check."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.text import Text

from attnlab.contract import InputError
from attnlab.course import progress as kept
from attnlab.course import sandbox, show, student, syllabus
from attnlab.course.answer import answer, broken
from attnlab.course.config import Assignment, Course
from attnlab.course.model import Difference, Grade, Item, Outcome
from attnlab.course.progress import FILE, Entry, Progress
from attnlab.course.watch import Watcher, imported, stamps
from attnlab.registry import find

COURSE = Course()
PART = Item("attend/fresh-1", "attend", "fresh", 60.0, "fresh inputs, n = 5")
HIDDEN = Item("attend/hidden-1", "attend", "hidden", 40.0)
MISS = Difference(
    "out", (2, 3), (2, 3), "float64", first=(0, 1), got=0.5, expected=0.25, worst=(1, 2),
    error=0.75, tolerance=1e-6, wrong=4, size=6,
)  # fmt: skip


def grade(earned: float = 60.0, hidden: float = 0.0, **more: object) -> Grade:
    outcomes = (
        Outcome(PART, "passed" if earned else "wrong", earned),
        Outcome(HIDDEN, "passed" if hidden else "wrong", hidden),
    )
    return replace(Grade("me", "attention", "numpy", outcomes), **more)


# --- syllabus -------------------------------------------------------------------------------


def test_prerequisites_come_first() -> None:
    order = [e.name for e in syllabus.ordered(COURSE)]
    assert sorted(order) == sorted(syllabus.names(COURSE))
    assert order[0] == "attention"
    for exhibit in syllabus.ordered(COURSE):
        for earlier in syllabus.exercise_of(exhibit).prerequisites:
            assert order.index(earlier) < order.index(exhibit.name)


def test_prerequisites_outside_the_course_hold_nothing_up() -> None:
    course = Course(exercises=("landmark", "moh"))
    assert {e.name for e in syllabus.ordered(course)} == {"landmark", "moh"}
    with pytest.raises(InputError, match="attention is no exercise of the course"):
        syllabus.find("attention", course)


def test_names_are_found_by_file_and_misspelt() -> None:
    assert syllabus.find("work/landmark.py", COURSE).name == "landmark"
    with pytest.raises(InputError, match="did you mean landmark"):
        syllabus.find("landmrak", COURSE)


def test_the_file_edited_last_is_taken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="course start"):
        syllabus.latest(tmp_path, COURSE)
    for when, name in enumerate(("moh", "landmark", "attention")):
        (tmp_path / f"{name}.py").write_text("")
        os.utime(tmp_path / f"{name}.py", (10 - when, 10 - when))
    assert syllabus.latest(tmp_path, COURSE) == "moh"


# --- progress -------------------------------------------------------------------------------


def test_progress_survives(tmp_path: Path) -> None:
    first = Progress(tmp_path)
    first.hint("attention", 2)
    assert first.record(grade(0.0)) is False  # nothing to be proud of
    assert first.record(grade(60.0)) is True
    assert first.record(grade(0.0)) is False
    entry = Progress(tmp_path).entry("attention")
    assert (entry.hints, entry.checks, entry.passed) == (2, 3, True)
    assert entry.top is not None
    assert (entry.top.score, entry.top.points) == (60.0, 60.0)  # hidden items are not the student's
    assert Progress(tmp_path, "another course").entry("attention") == Entry()
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


def test_a_hidden_failure_takes_nothing_away(tmp_path: Path) -> None:
    progress = Progress(tmp_path)
    progress.record(grade(60.0, hidden=0.0))
    assert progress.entry("attention").passed


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"version": 99, "courses": {}}', '{"version": 1, "courses": 3}',
     '{"version": 1, "courses": {"attnlab": {"attention": {"hints": "many"}}}}', "\x00\xff"],
)  # fmt: skip
def test_a_damaged_file_is_set_aside(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_bytes(text.encode("latin-1"))
    (tmp_path / f"{FILE}.damaged-1").write_text("an earlier one")
    progress = Progress(tmp_path)
    assert "damaged" in progress.notes[0]
    assert progress.entry("attention") == Entry()
    assert (tmp_path / f"{FILE}.damaged-2").read_bytes() == text.encode("latin-1")
    assert (tmp_path / f"{FILE}.damaged-1").read_text() == "an earlier one"
    progress.hint("attention", 1)
    assert Progress(tmp_path).entry("attention").hints == 1


def test_two_processes_do_not_undo_each_other(tmp_path: Path) -> None:
    one, two = Progress(tmp_path), Progress(tmp_path)
    one.hint("attention", 1)
    two.record(grade())
    one.hint("landmark", 3)
    last = Progress(tmp_path)
    assert last.entry("attention").hints == 1
    assert last.entry("attention").passed
    assert last.entry("landmark").hints == 3


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Progress(tmp_path)
    progress.hint("attention", 1)
    before = (tmp_path / FILE).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept.os, "replace", full)
    progress.hint("attention", 2)
    assert "cannot be saved" in progress.notes[0]
    assert (tmp_path / FILE).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


# --- start ----------------------------------------------------------------------------------


def test_work_is_never_overwritten(tmp_path: Path) -> None:
    progress, exhibit = Progress(tmp_path), find("attention")
    path = student.start(exhibit, tmp_path, COURSE, "torch", progress)
    assert path == tmp_path / "attention.py"
    assert "# Track torch" in path.read_text()
    assert progress.entry("attention").track == "torch"
    path.write_text("my work")
    assert student.start(exhibit, tmp_path, COURSE, "numpy", progress) is None
    assert path.read_text() == "my work"
    assert progress.entry("attention").track == "torch"
    with pytest.raises(InputError, match="not a folder"):
        student.start(exhibit, path, COURSE, "numpy", Progress(tmp_path))


def test_a_courses_changes_are_in_the_file(tmp_path: Path) -> None:
    course = Course(assignments={"attention": Assignment("attention", vary={"scale": 0.5})})
    path = student.start(find("attention"), tmp_path, course, "numpy", Progress(tmp_path))
    assert path is not None
    assert "scale is 0.5" in path.read_text()


# --- watch ----------------------------------------------------------------------------------


def test_imports_of_the_folder_are_followed(tmp_path: Path) -> None:
    (tmp_path / "attention.py").write_text("import numpy\nfrom helpers.soft import softmax\n")
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "__init__.py").write_text("")
    (tmp_path / "helpers" / "soft.py").write_text("from . import base\nimport attention\n")
    (tmp_path / "helpers" / "base.py").write_text("def broken(:")
    (tmp_path / "landmark.py").write_text("def f():\n    import shared\n")
    (tmp_path / "shared.py").write_text("")
    found = imported(tmp_path, "attention")
    files = {"__init__", "soft", "base"}
    assert found == {"attention.py"} | {f"helpers/{f}.py" for f in files}
    assert imported(tmp_path, "landmark") == {"landmark.py", "shared.py"}
    assert imported(tmp_path, "moh") == {"moh.py"}


def test_only_what_a_save_touches_is_checked_again(tmp_path: Path) -> None:
    (tmp_path / "attention.py").write_text("from shared import softmax\n")
    (tmp_path / "landmark.py").write_text("x = 1\n")
    (tmp_path / "shared.py").write_text("")
    (tmp_path / ".cache").mkdir()
    watcher = Watcher(tmp_path, ["attention", "landmark", "moh"])
    assert set(stamps(tmp_path)) == {"attention.py", "landmark.py", "shared.py"}
    assert watcher.touched({"shared.py"}) == ["attention"]
    assert watcher.touched({"landmark.py"}) == ["landmark"]
    assert watcher.touched({"moh.py"}) == []  # it has gone
    (tmp_path / "attention.py").write_text("def attend(:\n")  # its import is out of sight now
    assert watcher.touched({"shared.py"}) == ["attention"]


def test_a_save_in_several_steps_is_one(tmp_path: Path) -> None:
    file = tmp_path / "attention.py"
    file.write_text("")
    steps: list[Callable[[], object]] = [
        lambda: None,
        lambda: file.unlink(),  # some editors remove the file first
        lambda: file.write_text("half"),
        lambda: file.write_text("half and whole"),
        lambda: None,
    ]
    watcher = Watcher(tmp_path, ["attention"], sleep=lambda _: steps.pop(0)())  # type: ignore[arg-type, return-value]
    assert next(iter(watcher)) == ["attention"]
    assert steps == []


# --- what is shown --------------------------------------------------------------------------


def test_a_failure_says_where_and_how_far_off() -> None:
    outcome = Outcome(
        PART, "wrong", message="out at [0, 1] is 0.5, expected 0.25; largest error 0.75 at [1, 2]",
        difference=MISS, diagnosis="twice too large.", inputs="n=5; q (2, 3)",
        printed="\x1b[2Jgone\r",
    )  # fmt: skip
    text = show.plain_failure(outcome)
    assert text.splitlines()[0] == "wrong: out at [0, 1] is 0.5, expected 0.25"
    for part in (
        "attend/fresh-1 (attend): fresh inputs, n = 5",
        "n=5; q (2, 3)",
        "shape (2, 3), float64",
        "out[0, 1] is 0.5, not 0.25",
        "0.75 at out[1, 2]; 1.0e-06 is allowed there",
        "4 of 6 values differ",
        "twice too large.",
    ):
        assert part in text
    shown = show.failure(outcome, 60).plain
    assert "\x1b" not in shown
    assert r"\x1b[2Jgone\r" in shown
    assert max(map(len, shown.splitlines())) <= 60


def test_what_details_hide_stays_hidden() -> None:
    veiled = replace(MISS, expected=None, error=0.8)
    text = show.plain_failure(Outcome(PART, "wrong", difference=veiled, message="wrong answer"))
    assert "0.25" not in text
    assert "out[0, 1] is 0.5" in text


def test_values_that_look_alike_get_more_digits() -> None:
    near = replace(MISS, got=0.1234567891, expected=0.1234567892)
    text = show.plain_failure(Outcome(PART, "wrong", difference=near))
    assert "is 0.1234567891" in text
    assert "not 0.1234567892" in text


def test_a_missing_output_and_a_wrong_shape_are_told() -> None:
    lost = Outcome(PART, "wrong", difference=Difference("out", None, (2, 3)))
    assert "out was not returned; expected an array of shape (2, 3)" in show.plain_failure(lost)
    turned = Outcome(PART, "wrong", difference=Difference("out", (3, 2), (2, 3), "float64"))
    assert "out has shape (3, 2), expected (2, 3)" in show.plain_failure(turned)


@pytest.mark.parametrize("width", [40, 60, 120, None])
def test_item_lines_fit_and_have_no_trailing_blanks(width: int | None) -> None:
    long = Outcome(PART, "error", message="ValueError: " + "a long message " * 12)
    text = show.item_line(long, 26, width)
    assert isinstance(text, Text)
    lines = text.plain.splitlines()
    assert len(lines) == 1 if width is None else max(map(len, lines)) <= width
    assert all(line == line.rstrip() or width is None for line in lines)


def test_hidden_items_are_counted_and_not_listed() -> None:
    document = student.without_hidden(grade(60.0, hidden=40.0))
    assert [o["item"]["id"] for o in document["outcomes"]] == ["attend/fresh-1"]
    assert (document["hidden_items"], document["hidden_points"]) == (1, 40.0)
    assert "score" not in document
    assert "hidden-1" not in json.dumps(document)
    assert show.score(grade()) == (
        "public score 60/60; 1 hidden item worth 40 points are not shown"
    )
    first = show.first_failure(grade(60.0).outcomes)
    assert first is None  # the hidden failure is not the one to look at
    assert student.passed(grade(60.0, hidden=0.0))


@pytest.mark.parametrize(
    ("score", "drawn"), [(0.0, "░░░░"), (0.5, "██░░"), (0.999, "███░"), (1.0, "████")]
)
def test_a_bar_is_full_only_for_all(score: float, drawn: str) -> None:
    assert show.bar(score, 4) == drawn


# --- a real check ---------------------------------------------------------------------------


def checker(folder: Path, course: Course = COURSE) -> student.Checker:
    level = next(name for name, why in sandbox.available().items() if not why)
    return student.Checker(folder, course, Progress(folder), level)


def test_right_wrong_and_malformed_files(tmp_path: Path) -> None:
    exhibit, file = find("attention"), tmp_path / "attention.py"
    check = checker(tmp_path)
    seen: list[Outcome] = []
    assert student.start(exhibit, tmp_path, COURSE, "numpy", check.progress)
    bare, better = check.check("attention", seen.append)
    assert (bare.public_score, better, student.passed(bare)) == (0.0, False, False)
    assert [o.item for o in seen] == check.exam("attention")

    unscaled = next(m for m in syllabus.exercise_of(exhibit).mistakes if m.name == "unscaled")
    file.write_text(broken(exhibit, unscaled))
    wrong, better = check.check("attention")
    assert 0 < wrong.public_score < wrong.public_points
    assert better
    first = show.first_failure(wrong.outcomes)
    assert first is not None
    assert "unscaled" in first.diagnosis

    file.write_bytes(answer(exhibit)["attention.py"])
    right, _ = check.check("attention")
    assert student.passed(right)
    assert check.progress.entry("attention").passed

    file.write_text("def attend(:\n")
    bad, _ = check.check("attention")
    assert bad.status == "malformed"
    assert "SyntaxError" in bad.message
    assert check.progress.entry("attention").passed  # a later slip takes nothing away
    file.unlink()
    with pytest.raises(InputError, match=r"no attention\.py"):
        check.check("attention")
