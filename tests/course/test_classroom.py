"""A class is graded whole, once, whatever dies on the way."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_judge
import pytest

from attnlab.contract import InputError
from attnlab.course import classroom, pool
from attnlab.course.classroom import Work, grade_class, local, plan
from attnlab.course.config import Assignment, Course
from attnlab.course.gradebook import Gradebook
from attnlab.course.model import Grade
from attnlab.course.pool import Backlog, Failed, Job
from attnlab.course.submissions import Submission, find
from attnlab.course.summary import summarise

COURSE = Course(exercises=fake_judge.NAMES)
Files = Mapping[str, str]


def submission(student: str, **texts: str) -> Submission:
    texts = {"attention": "a", "landmark": "b", "moh": "c"} | texts
    return Submission(student, {f"{k}.py": v.encode() for k, v in texts.items()})


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Gradebook]:
    with Gradebook.open(tmp_path / "out") as opened:
        yield opened


def here(jobs: object, *, stop: Callable[[], bool]) -> Iterator[tuple[Job, pool.Result]]:
    """A runner without processes."""
    for job in jobs:  # type: ignore[attr-defined]
        if stop():
            return
        yield job, pool.grade_job(job, fake_judge.judge)


def run(
    work: Work, book: Gradebook, runner: classroom.Runner = here
) -> dict[tuple[str, str], Grade]:
    return {(g.student, g.exercise): g for g in grade_class(work, book, runner, "none")}


def test_everything_is_graded_and_recorded(book: Gradebook) -> None:
    work = plan([submission("anna"), submission("ben")], COURSE, book)
    assert (work.total, work.done) == (6, 0)
    made = run(work, book)
    assert made == {(g.student, g.exercise): g for g in book.grades()}
    assert len(made) == 6
    assert {g.seed for g in made.values()} == {work.seeds["moh"]}
    assert made["anna", "moh"].course == COURSE.version("moh")


def test_what_is_new_or_changed_is_graded_again(book: Gradebook) -> None:
    def due(*submissions: Submission, course: Course = COURSE, **options: bool) -> set[str]:
        work = plan(submissions, course, book, **options)  # type: ignore[arg-type]
        made = {f"{student} {name}" for student, name in run(work, book)}
        assert len(made) == work.total
        return made

    anna, ben = submission("anna"), submission("ben")
    assert len(due(anna)) == 3
    assert due(anna) == set()
    assert due(anna, ben) == {"ben attention", "ben landmark", "ben moh"}
    ben = submission("ben", landmark="changed")
    assert due(anna, ben) == {"ben landmark"}
    ben = submission("ben", landmark="changed", helper="x = 1")
    assert due(anna, ben) == {"ben attention", "ben landmark", "ben moh"}
    dearer = replace(COURSE, assignments={"moh": Assignment("moh", points=50.0)})
    assert due(anna, ben, course=dearer) == {"anna moh", "ben moh"}
    assert len(due(anna, ben, course=classroom.with_track(dearer, "torch"))) == 6
    assert due(anna, ben, course=dearer) == set()  # the other track's grades are still there
    assert len(due(anna, ben, course=dearer, regrade=True)) == 6
    assert len(due(anna, ben, course=replace(dearer, details="none"))) == 6  # told otherwise


def test_work_handed_in_again_meets_other_inputs(book: Gradebook) -> None:
    def seeds(*submissions: Submission) -> dict[str, int]:
        work = plan(submissions, COURSE, book)
        run(work, book)
        return {g.student: g.seed for g in book.grades() if g.exercise == "landmark"}

    first = seeds(submission("anna"), submission("ben"))
    assert first["anna"] == first["ben"]
    again = seeds(submission("anna", landmark="changed"), submission("ben"))
    assert again["anna"] != first["anna"]
    assert again["ben"] == first["ben"]
    third = seeds(submission("anna", landmark="changed twice"), submission("ben"))
    assert len({first["anna"], again["anna"], third["anna"]}) == 3
    assert seeds(submission("anna"))["anna"] == first["anna"], "the same work, the same questions"


def test_only_some_exercises(book: Gradebook) -> None:
    work = plan([submission("anna")], COURSE, book, only=["moh"])
    assert work.names == ("moh",)
    first = run(work, book)["anna", "moh"]
    rest = plan([submission("anna")], COURSE, book)
    assert rest.total == 2
    assert set(rest.seeds.values()) == {first.seed}
    anew = plan([submission("anna")], COURSE, book, only=["moh"], regrade=True)
    assert anew.seeds["moh"] != first.seed
    run(rest, book)
    assert plan([submission("anna")], COURSE, book).total == 1  # moh, with its new seed


def test_what_cannot_be_asked_is_refused(book: Gradebook) -> None:
    with pytest.raises(InputError, match="did you mean landmark"):
        plan([], COURSE, book, only=["landmrk"])
    with pytest.raises(InputError, match="is no exercise of the course"):
        plan([], COURSE, book, only=["seal"])
    with pytest.raises(InputError, match="--track must be one of"):
        classroom.with_track(COURSE, "jax")


def test_exercises_without_the_track(book: Gradebook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left out with a note, and refused where they were asked for by name."""
    from attnlab.course import syllabus

    def tracks(exhibit: Any) -> tuple[str, ...]:
        return ("numpy",) if exhibit.name == "moh" else ("numpy", "torch")

    monkeypatch.setattr(syllabus, "tracks", tracks)
    everything = classroom.with_track(Course(), "torch")
    names, notes = classroom.asked(everything)
    assert "moh" not in names
    assert notes == ("not on the track torch: moh",)
    with pytest.raises(InputError, match="moh has no track 'torch'"):
        classroom.asked(everything, ["moh"])
    with pytest.raises(InputError, match="moh has no track 'torch'"):
        classroom.asked(classroom.with_track(COURSE, "torch"))


def test_unreadable_and_missing_submissions_are_rows(book: Gradebook) -> None:
    empty = Submission("empty", {"moh.py": b"x"})
    linked = Submission("linked", left_out={"moh.py": "a symbolic link: none is followed"})
    broken = Submission("broken", problem="no readable zip")
    made = run(plan([empty, linked, broken, submission("anna")], COURSE, book), book)
    assert made["empty", "landmark"].status == "missing"
    assert made["empty", "landmark"].message == "no landmark.py"
    assert made["empty", "moh"].status == "graded"
    assert made["linked", "moh"].status == "malformed"
    assert {made["broken", n].status for n in fake_judge.NAMES} == {"malformed"}
    lost = made["broken", "moh"]
    assert (lost.score, lost.message, lost.points) == (0.0, "no readable zip", 100.0)
    assert round(sum(o.item.points for o in lost.outcomes), 6) == 100.0
    assert plan([empty, linked, broken, submission("anna")], COURSE, book).total == 0
    found = replace(linked, left_out={}, files={"moh.py": b"y"})
    assert set(plan([found], COURSE, book).due["linked"]) == {"moh"}


@pytest.mark.parametrize(
    ("text", "note"),
    [("die", "the grading process died"), ("raise", "RuntimeError: the judge is confused"),
     ("nothing", "sent no grade"), ("stranger", "sent no grade")],
)  # fmt: skip
def test_a_failure_of_ours_costs_one_grade_and_is_tried_again(
    book: Gradebook, text: str, note: str
) -> None:
    class_ = [submission("anna"), submission("ben", landmark=text), submission("cleo")]
    made = run(plan(class_, COURSE, book), book, local(2, fake_judge.judge))
    bad = made.pop(("ben", "landmark"))
    assert bad.status == "grader error"
    assert bad.score == 0
    assert note in bad.extra["note"]
    assert note not in bad.message + "".join(o.message for o in bad.outcomes)
    assert len(made) == 8
    assert {g.status for g in made.values()} == {"graded"}
    again = plan(class_, COURSE, book)
    assert {student: set(keys) for student, keys in again.due.items()} == {"ben": {"landmark"}}


def test_a_process_that_dies_once_loses_nothing(book: Gradebook, tmp_path: Path) -> None:
    bad = submission("ben", landmark=f"die once {tmp_path / 'died'}")
    made = run(plan([submission("anna"), bad], COURSE, book), book, local(2, fake_judge.judge))
    assert {g.status for g in made.values()} == {"graded"}
    assert len(made) == 6
    assert (tmp_path / "died").exists()


def test_a_process_that_hangs_is_ended(book: Gradebook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "patience", property(lambda job: 3.0))
    monkeypatch.setattr(pool, "TRIES", 1)
    monkeypatch.setattr(classroom, "AT_ONCE", 1)
    class_ = [submission("anna"), submission("ben", moh="hang")]
    made = run(plan(class_, COURSE, book), book, local(2, fake_judge.judge))
    assert made.pop(("ben", "moh")).status == "grader error"
    assert {g.status for g in made.values()} == {"graded"}


def test_backlog_tries_a_failed_job_one_by_one() -> None:
    backlog = Backlog([Job("anna", {}, ("a", "b"), COURSE, 0, "none")])
    job, tries = backlog.pop()
    assert list(backlog.failed(job, tries, "died")) == []
    names = []
    while backlog:
        job, tries = backlog.pop()
        names.append((job.names, tries))
        gone = list(backlog.failed(job, tries, "died"))
        assert gone == ([(job, Failed("died"))] if tries == pool.TRIES else [])
    assert sorted(names) == [(("a",), 2), (("a",), 3), (("b",), 2), (("b",), 3)]


def test_a_stopped_run_keeps_what_it_has(book: Gradebook) -> None:
    class_ = [submission(f"s{i}") for i in range(5)]
    work = plan(class_, COURSE, book)
    seen: list[Grade] = []
    for grade in grade_class(work, book, here, "none", stop=lambda: len(seen) >= 6):
        seen.append(grade)
    assert sorted(seen, key=lambda g: (g.student, g.exercise)) == book.grades()
    assert len(seen) == 6
    rest = plan(class_, COURSE, book)
    assert rest.done == 6
    assert rest.total == 9


def test_the_summary_counts_who_sent_nothing(book: Gradebook) -> None:
    class_ = [submission("anna"), Submission("ben"), Submission("cleo", problem="no zip")]
    run(plan(class_, COURSE, book, seed=3), book)
    summary = summarise(book.grades())
    anna = [g.score for g in book.grades("anna")]
    assert summary.students == 3
    assert summary.mean == pytest.approx(sum(anna) / 300 / 3)
    assert [row.name for row in summary.rows] == sorted(fake_judge.NAMES)
    assert [row.mean for row in summary.rows] == pytest.approx([s / 300 for s in anna])
    assert {(row.grades, row.missing, row.malformed, row.faults) for row in summary.rows} == {
        (3, 1, 1, 0)
    }
    assert summary.failures == {"wrong": sum(s < 100 for s in anna)}
    book.put(replace(book.grades("ben")[0], status="grader error", outcomes=()))
    assert summarise(book.grades()).faults == 1
    assert summarise([]).mean == 0


def fill(folder: Path, students: int) -> Path:
    for i in range(students):
        (folder / f"s{i:02}").mkdir(parents=True)
        for name in fake_judge.NAMES:
            (folder / f"s{i:02}" / f"{name}.py").write_text(f"work {i} {name}")
    (folder / "s00" / "moh.py").unlink()
    (folder / "bad.zip").write_bytes(b"no zip")
    return folder


def table(out: Path) -> list[tuple[object, ...]]:
    with Gradebook.reading(out) as book:
        return book.db.execute(
            "SELECT student, exercise, track, status, score, seed, content, course FROM grades "
            "ORDER BY 1, 2"
        ).fetchall()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path: Path) -> None:
    """kill -9, again and again: the table ends up as that of a run nobody killed; what was recorded
    is not graded again; no grading process outlives the one that records."""
    folder, log = fill(tmp_path / "class", 12), tmp_path / "log"
    total, rng = 13 * 3, random.Random(1)
    command = [sys.executable, fake_judge.__file__, str(folder)]
    subprocess.run([*command, str(tmp_path / "whole"), "5"], check=True, timeout=120)
    expected = table(tmp_path / "whole")
    assert len(expected) == total

    out, kills = tmp_path / "killed", 0
    environment = os.environ | {"FAKE_LOG": str(log), "FAKE_SECONDS": "0.15"}
    recorded: set[tuple[object, ...]] = set()
    for _ in range(30):
        log.unlink(missing_ok=True)
        grading = subprocess.Popen(
            [*command, str(out), "5"], env=environment, stdout=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not log.exists() and grading.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            grading.wait(rng.uniform(0, 0.8))
        except subprocess.TimeoutExpired:
            kills += 1
            os.kill(grading.pid, signal.SIGKILL)
            grading.wait()
        lines = log.read_text().splitlines() if log.exists() else []
        again = {tuple(line.split()[:2]) for line in lines} & recorded
        assert not again, f"graded again: {again}"
        recorded = {row[:2] for row in table(out)} if (out / "grades.sqlite").exists() else set()
        workers = {int(line.split()[2]) for line in lines}
        while any(map(alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(alive, workers))
        if grading.returncode == 0:
            break
    assert kills >= 3
    assert table(out) == expected
    with Gradebook.reading(out) as book:
        assert book.db.execute("SELECT count(*) FROM history").fetchone() == (total,)


@pytest.mark.slow
def test_killed_before_anything_was_graded(tmp_path: Path) -> None:
    """Killed while it starts: the next run begins anew, with the seed kept if it was drawn."""
    folder, out = fill(tmp_path / "class", 2), tmp_path / "out"
    command = [sys.executable, fake_judge.__file__, str(folder), str(out), "5"]
    for delay in (0.05, 0.3, 0.6, 0.9):
        grading = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(delay)
        grading.kill()
        grading.wait()
    subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)
    assert len(table(out)) == 9
    assert plan_total(folder, out) == 0


def plan_total(folder: Path, out: Path) -> int:
    with Gradebook.open(out) as book:
        return plan(find(folder), COURSE, book).total
