"""`attnlab grade`: a class's submissions, graded, recorded and reported."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnlab.cli import common

if TYPE_CHECKING:
    from attnlab.course.classroom import Work
    from attnlab.course.config import Course
    from attnlab.course.gradebook import Gradebook
    from attnlab.course.model import Grade
    from attnlab.course.submissions import Submission
    from attnlab.course.summary import Summary

EVERY = 20.0  # seconds between lines of progress where there is no terminal


def grade(
    submissions: Annotated[
        Path, typer.Argument(metavar="SUBMISSIONS", help="Holds one folder or zip a student.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Grades and reports are kept here.")
    ],
    course: Annotated[
        Path | None, typer.Option("--course", metavar="DIR", help="A folder with course.toml.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="These exercises alone; NAME,NAME or again."),
    ] = None,
    track: Annotated[
        str | None,
        typer.Option("--track", metavar="numpy|numba|torch", help="The course's track without."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Grading processes; one a core without.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", metavar="ADDRESS", help="Grade on a Dask cluster instead."),
    ] = None,
    isolation: Annotated[
        str,
        typer.Option(
            "--isolation", metavar="LEVEL", help="auto, bubblewrap, landlock or (unsafe) none."
        ),
    ] = "auto",
    similarity: Annotated[
        bool, typer.Option("--similarity", help="List suspiciously alike pairs, too.")
    ] = False,
    roster: Annotated[
        Path | None,
        typer.Option(
            "--roster", metavar="CSV", help="Canvas's exported gradebook, for canvas.csv."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", min=0, help="Seed of the fresh inputs; drawn once and kept without."
        ),
    ] = None,
    regrade: Annotated[
        bool, typer.Option("--regrade", help="Grade everything anew, with a new seed.")
    ] = False,
    json_: common.Json = False,
) -> None:
    """Grade a class. Every grade is recorded in DIR/grades.sqlite as it comes; the same command
    again grades what is new or changed, so that an interrupted run goes on.

    Exit codes: 0 done, 1 the grader itself failed somewhere, 2 bad call, 130 interrupted.
    """
    from attnlab.contract import InputError
    from attnlab.course import classroom
    from attnlab.course import submissions as reading
    from attnlab.course.config import read_course
    from attnlab.course.gradebook import Gradebook
    from attnlab.course.outputs import canvas

    if scheduler is not None and workers is not None:
        common.refuse(
            "--workers counts processes here; with --scheduler the cluster's workers grade"
        )
    if roster is not None:
        canvas.read_roster(roster)  # before hours of grading
    if out.resolve().is_relative_to(submissions.resolve()):
        common.refuse(f"--out: {out} lies in SUBMISSIONS, where it would be a student's")
    setting = classroom.with_track(read_course(course), track)
    names = [name.strip() for text in only or () for name in text.split(",")]
    found = reading.find(submissions)
    say = _Say(json_)
    with Gradebook.open(out) as book:
        work = classroom.plan(found, setting, book, only=names, seed=seed, regrade=regrade)
        tracks = list(dict.fromkeys(setting.track_of(name) for name in work.names))
        with contextlib.ExitStack() as stack:
            runner: Any
            if scheduler is not None:
                from attnlab.course.cluster import Cluster

                cluster = stack.enter_context(Cluster(scheduler))
                level, runner = cluster.choose(isolation), cluster.run
                cluster.try_out(setting, tracks, level)
            else:
                from attnlab.course.sandbox import SandboxError, choose

                level, runner = (
                    choose(isolation),
                    classroom.local(workers or common.threads_or_all(None)),
                )
                try:
                    classroom.try_out(setting, tracks, level)
                except SandboxError as error:
                    raise InputError(f"isolation {level} does not work here: {error}") from None
            say.begin(work, level)
            stopped = _run(work, book, runner, level)
        if stopped:
            raise typer.Exit(130)
        grades = _current(book, work, setting)
        summary, written, notes = _write(grades, found, work, setting, out, similarity, roster)
    strays = reading.strays(submissions)
    notes += [
        f"nobody's, in SUBMISSIONS: {', '.join(strays[:5])}{' …' * (len(strays) > 5)}"
    ] * bool(strays)
    if json_:
        common.emit(_document(summary, grades, work, level, out, written, notes))
    else:
        say.end(summary, level, out, notes)
    if summary.faults:
        typer.echo(
            f"the grader itself failed in {common.counted(summary.faults, 'grade')}: see `note` in "
            "grades.json; the same command tries them again", err=True,
        )  # fmt: skip
        raise typer.Exit(1)


def _run(work: Work, book: Gradebook, runner: Any, level: str) -> bool:
    """Grades what is due; True when Ctrl-C ended it early."""
    from attnlab.course.classroom import Tally, grade_class

    tally = Tally()
    with _interrupts() as stop, _progress(work.total) as progress:
        for each in grade_class(work, book, runner, level, lambda: bool(stop)):
            tally.count(each)
            progress.step(tally.graded, tally.failures)
    if tally.graded < work.total:
        typer.echo(
            f"interrupted: {work.done + tally.graded} of {work.done + work.total} grades are made and "
            "kept; the same command goes on" + " (without --regrade)" * ("--regrade" in sys.argv),
            err=True,
        )
        return True
    return False


def _current(book: Gradebook, work: Work, course: Course) -> list[Grade]:
    """The grades to report: of who is here now, on the tracks asked for. Exercises that this run
    leaves out (--only) keep the grades they had."""
    from attnlab.course import syllabus

    known = set(syllabus.names(course))
    return [
        g
        for g in book.grades()
        if g.student in work.submissions
        and g.exercise in known
        and g.track == course.track_of(g.exercise)
    ]


def _write(
    grades: list[Grade],
    found: list[Submission],
    work: Work,
    course: Course,
    out: Path,
    similarity: bool,
    roster: Path | None,
) -> tuple[Summary, list[Path], list[str]]:
    from attnlab.course.outputs import write_all
    from attnlab.course.similarity import compare
    from attnlab.course.summary import summarise

    similar = compare(found, work.names, course) if similarity else None
    written = write_all(grades, course, out, roster=roster, similar=similar)
    notes = [*work.notes, *written.notes]
    if similar is not None:
        notes.append(
            f"{common.counted(len(similar.pairs), 'pair')} suspiciously alike, to be looked at"
        )
    return summarise(grades), list(written.files), notes


def _document(
    summary: Summary,
    grades: list[Grade],
    work: Work,
    level: str,
    out: Path,
    written: list[Path],
    notes: list[str],
) -> dict[str, Any]:
    return {
        "out": out,
        "isolation": level,
        "graded": work.total,
        "kept": work.done,
        "seeds": dict(work.seeds),
        "summary": dataclasses.asdict(summary),
        "grades": [
            {
                "student": g.student,
                "exercise": g.exercise,
                "track": g.track,
                "status": g.status,
                "score": g.score,
                "points": g.points,
                "isolation": g.isolation,
                "message": g.message,
            }
            for g in grades
        ],
        "files": written,
        "notes": notes,
    }


class _Say:
    """What a run prints on standard output."""

    def __init__(self, silent: bool):
        self.console = common.console(quiet=silent)

    def begin(self, work: Work, level: str) -> None:
        count = common.counted
        self.console.print(
            f"{count(len(work.submissions), 'student')}, {count(len(work.names), 'exercise')}: "
            f"{count(work.total, 'grade')} to make, {work.done} as they were; isolation: {level}",
            soft_wrap=True,
        )
        if level == "none":
            typer.echo("isolation none: submissions can read and write what you can", err=True)

    def end(self, summary: Summary, level: str, out: Path, notes: list[str]) -> None:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("exercise", no_wrap=True)
        titles = ("grades", "mean", "full points", "missing", "malformed", "grader error")
        for title in titles[: None if self.console.width >= 80 else 3]:
            table.add_column(title, justify="right")
        for row in summary.rows:
            cells = (
                row.grades,
                f"{row.mean:.1%}",
                row.full,
                row.missing,
                row.malformed,
                row.faults,
            )
            table.add_row(row.name, *map(str, cells[: len(table.columns) - 1]))
        self.console.print()
        self.console.print(table)
        self.console.print(
            f"\n{common.counted(summary.students, 'student')}, mean {summary.mean:.1%}"
        )
        if summary.failures:
            kinds = ", ".join(f"{status} {count}" for status, count in summary.failures.items())
            self.console.print(f"items that failed: {kinds}", soft_wrap=True)
        for note in notes:
            self.console.print(f"note: {note}", soft_wrap=True, markup=False)
        self.console.print(f"isolation: {level}")
        for name in ("report.html", "gradebook.csv"):
            self.console.print(f"written: {out / name}", soft_wrap=True, markup=False)
        self.console.print(f"everything else is in {out}", soft_wrap=True, markup=False)


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Ctrl-C is noted in the list; a second one ends the run at once."""
    seen: list[int] = []

    def note(number: int, _: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)
        typer.echo("stopping …", err=True)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)


class _Lines:
    """Progress as lines on standard error, now and then."""

    def __init__(self, total: int):
        self.total, self.began, self.said = total, time.monotonic(), time.monotonic()

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None: ...

    def step(self, done: int, failures: int) -> None:
        now = time.monotonic()
        if done < self.total and now - self.said < EVERY:
            return
        self.said = now
        left = (now - self.began) / done * (self.total - done)
        rest = f", about {_span(left)} left" if done < self.total else ""
        typer.echo(
            f"{done}/{self.total} graded, {failures} without a file that runs{rest}", err=True
        )


class _Bar(common.Bar):
    """Progress as a bar."""

    def __init__(self, total: int):
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        super().__init__(
            total, TextColumn("grading"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            fields={"failed": ""}, refresh_per_second=4, speed_estimate_period=600,
        )  # fmt: skip

    def step(self, done: int, failures: int) -> None:
        self.bar.update(
            self.task,
            completed=done,
            failed=f"{failures} without a file that runs" * bool(failures),
        )


def _progress(total: int) -> _Bar | _Lines:
    return (
        _Bar(total) if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else _Lines(total)
    )


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
