"""`attnlab course`: exercises for students — start, check, hints, watch, progress."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnlab.cli import common

if TYPE_CHECKING:
    from attnlab.contract import Exhibit
    from attnlab.course.config import Course
    from attnlab.course.model import Grade
    from attnlab.course.progress import Progress
    from attnlab.course.student import Checker

app = typer.Typer(
    help="Exercises: re-implement a mechanism, get fast feedback, hints and progress.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="An exercise; `attnlab course list` has all.")]
Recent = Annotated[str | None, typer.Argument(help="An exercise; the one edited last by default.")]
CourseFolder = Annotated[
    Path | None, typer.Option("--course", help="An instructor's folder with course.toml.")
]
Folder = Annotated[
    Path | None,
    typer.Option("--dir", "-d", help="The folder of your files; ./attnlab-course by default."),
]
TrackName = Annotated[
    str | None, typer.Option("--track", help="numpy, numba or torch; the one started by default.")
]
Isolation = Annotated[
    str,
    typer.Option(
        "--isolation", metavar="LEVEL", help="auto, bubblewrap, landlock or (your own code) none."
    ),
]
CheckSeed = Annotated[
    int | None,
    typer.Option("--seed", min=0, help="Seed of the fresh inputs; a new one each time by default."),
]


@app.command("list")
def list_(course: CourseFolder = None, folder: Folder = None, json_: common.Json = False) -> None:
    """List the exercises: status, difficulty, minutes, points, what to do first."""
    from attnlab.course import show

    asked, where, progress = _open(course, folder)
    rows = show.standing(asked, where, progress)
    _notes(progress)
    if json_:
        common.emit(rows)
        return
    out = common.console()
    out.print(show.syllabus_table(rows, out.width))
    fresh = next((row["name"] for row in rows if row["status"] == "not started"), None)
    out.print(f"\n{common.counted(len(rows), 'exercise')} in the order to work through them.")
    if fresh:
        out.print(f"Next: `attnlab course start {fresh}`.", soft_wrap=True)


@app.command()
def start(
    names: Annotated[list[str], typer.Argument(help="Exercises; `attnlab course list` has all.")],
    into: Annotated[
        Path | None, typer.Option("--into", "-i", help="Folder; ./attnlab-course by default.")
    ] = None,
    course: CourseFolder = None,
    track: Annotated[
        str | None, typer.Option("--track", help="numpy, numba or torch; the course's by default.")
    ] = None,
) -> None:
    """Write NAME.py to fill in. A file that is there is never overwritten."""
    from attnlab.course import student, syllabus

    asked, where, progress = _open(course, into)
    exhibits = [syllabus.find(name, asked) for name in names]
    tracks = [syllabus.check_track(e, track or asked.track_of(e.name)) for e in exhibits]
    for exhibit, on in zip(exhibits, tracks):
        path = student.start(exhibit, where, asked, on, progress)
        if path is None:
            typer.echo(f"{where / exhibit.name}.py is there already and was left as it is")
            continue
        exercise = syllabus.exercise_of(exhibit)
        typer.echo(
            f"wrote {path} (difficulty {exercise.difficulty} of 5, about {exercise.minutes} minutes)"
        )
        ahead = [
            n
            for n in exercise.prerequisites
            if n in syllabus.names(asked) and not progress.entry(n).passed
        ]
        if ahead:
            typer.echo(f"  {exhibit.name} builds on {', '.join(ahead)}")
    first, at = exhibits[0].name, _dir_flag(where)
    typer.echo(f"Next: read {where / first}.py, fill in its functions, then")
    typer.echo(f"  attnlab course check {first}{at}     tells what is right and what is not")
    typer.echo(f"  attnlab course watch {first}{at}     checks again whenever you save")
    typer.echo(f"  attnlab course hint {first}{at}      when you are stuck")
    _notes(progress)


@app.command()
def check(
    name: Recent = None,
    folder: Folder = None,
    course: CourseFolder = None,
    track: TrackName = None,
    all_: Annotated[bool, typer.Option("--all", help="Every exercise that has a file.")] = False,
    isolation: Isolation = "auto",
    seed: CheckSeed = None,
    json_: common.Json = False,
) -> None:
    """Check your work: every item, and the first failure in detail.

    Exit code 0 when all items pass, 1 when some do not, 2 when the file is no valid Python.
    """
    from attnlab.course import student, syllabus

    if name and all_:
        common.refuse("give an exercise or --all, not both")
    checker = _checker(course, folder, track, isolation, seed)
    if all_:
        names = syllabus.present(checker.folder, checker.course)
        if not names:
            syllabus.latest(checker.folder, checker.course)  # says that there is no file
    else:
        names = [_chosen(name, checker)]
    grades = []
    for i, each in enumerate(names):
        if i and not json_:
            typer.echo("")
        grades.append(_check(checker, each, quiet=json_))
    _notes(checker.progress)
    if json_:
        common.emit([student.without_hidden(grade) for grade in grades])
    raise typer.Exit(max(_code(grade) for grade in grades))


@app.command()
def hint(
    name: Recent = None,
    folder: Folder = None,
    course: CourseFolder = None,
    all_: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
) -> None:
    """Show the next hint; after you passed, all of them."""
    from attnlab.course import syllabus

    asked, where, progress = _open(course, folder)
    exhibit = _exercise(name, asked, where)
    hints, entry = syllabus.exercise_of(exhibit).hints, progress.entry(exhibit.name)
    upto = len(hints) if all_ or entry.solved else min(entry.hints + 1, len(hints))
    if upto > entry.hints:
        progress.hint(exhibit.name, upto)
    out = common.console()
    for number, text in enumerate(hints[:upto], start=1):
        old = "dim" if number <= entry.hints and number < upto else ""
        out.print(f"Hint {number} of {len(hints)}: {text}", style=old, markup=False)
    if left := len(hints) - upto:
        typer.echo(f"{common.counted(left, 'hint')} left.")
    elif not entry.solved and exhibit.name in syllabus.present(where, asked):
        typer.echo("That was the last. `attnlab course check` tells where your output differs.")
    _notes(progress)


@app.command()
def solution(
    name: Recent = None,
    folder: Folder = None,
    course: CourseFolder = None,
    track: TrackName = None,
    anyway: Annotated[
        bool, typer.Option("--yes-show-me", help="Show it before you solved the exercise.")
    ] = False,
) -> None:
    """Print the model answer, once your own reached all points."""
    from attnlab.course.answer import answer

    asked, where, progress = _open(course, folder)
    exhibit = _exercise(name, asked, where)
    entry = progress.entry(exhibit.name)
    if not (entry.solved or anyway):
        best = (
            f"your best is {entry.top.score:g} of {entry.top.points:g}"
            if entry.top
            else "no check yet"
        )
        common.refuse(
            f"{exhibit.name} is not solved ({best}): `attnlab course hint {exhibit.name}` helps, "
            "--yes-show-me shows the answer anyway"
        )
    on = _track(exhibit, asked, progress, track)
    for file, content in answer(exhibit, on).items():
        if file != f"{exhibit.name}.py":
            typer.echo(f"\n# ---- {file}")
        _code_block(content.decode("utf-8"))


@app.command()
def watch(
    name: Recent = None,
    folder: Folder = None,
    course: CourseFolder = None,
    track: TrackName = None,
    isolation: Isolation = "auto",
    seed: CheckSeed = None,
) -> None:
    """Check again on every save, until Ctrl-C. Only what a save touches is checked."""
    from attnlab.course import syllabus
    from attnlab.course.watch import Watcher

    checker = _checker(course, folder, track, isolation, seed)
    first = _chosen(name, checker)
    watched = [first] if name else list(syllabus.names(checker.course))
    watcher = Watcher(checker.folder, watched)
    out = common.console()
    touched = [first]
    saves = iter(watcher)
    while True:
        if out.is_terminal:
            out.clear()
        for each in touched:
            _check(checker, each)
        _notes(checker.progress)
        out.print(f"\nWatching {checker.folder}; Ctrl-C ends.", style="dim", markup=False)
        touched = next(saves)


@app.command()
def progress(
    course: CourseFolder = None, folder: Folder = None, json_: common.Json = False
) -> None:
    """Show how far you are: best scores, hints read, total."""
    from attnlab.course import show

    asked, where, kept = _open(course, folder)
    rows = show.standing(asked, where, kept)
    total = show.total(rows)
    _notes(kept)
    if json_:
        common.emit({"course": asked.title, "folder": where, "exercises": rows, "total": total})
        return
    out = common.console()
    out.print(show.progress_table(rows, out.width))
    part = total["score"] / total["points"] if total["points"] else 0.0
    out.print(
        f"\n{show.bar(part)} {show.points(total['score'])} of {show.points(total['points'])} points, "
        f"{total['done']} of {common.counted(len(rows), 'exercise')} done"
    )


@app.command()
def package(
    folder: Annotated[Path, typer.Argument(help="Where autograder.zip goes.", metavar="DIR")],
    course: CourseFolder = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="An exercise; the course's by default.")
    ] = None,
    wheel: Annotated[
        Path | None, typer.Option("--wheel", help="attnlab's wheel; else built of the checkout.")
    ] = None,
    from_: Annotated[
        str, typer.Option("--from", help="Instead of a wheel: what pip installs, attnlab==VERSION.")
    ] = "",
    isolation: Isolation = "auto",
) -> None:
    """For instructors: write an autograder for Gradescope. It holds the hidden vectors."""
    from attnlab.course import package as packing
    from attnlab.course import syllabus
    from attnlab.course.config import read_course

    if wheel and from_:
        common.refuse("give --wheel or --from, not both")
    asked = read_course(course)
    names = [syllabus.find(name, asked).name for name in only or ()]
    made = packing.package(
        folder, asked, names, wheel=wheel, requirement=from_, isolation=isolation
    )
    typer.echo(f"wrote {made.path}: {', '.join(made.exercises)}")
    typer.echo(
        f"In Gradescope: autograder points {made.points:g}, base image Ubuntu 22.04 or newer."
    )
    for note in made.notes:
        typer.echo(f"Note: {note}", err=True)


# --- what the commands share ----------------------------------------------------------------


def _default_folder() -> Path:
    """./attnlab-course, or the current folder where that is one."""
    from attnlab.course.progress import FILE
    from attnlab.course.syllabus import FOLDER

    return Path(".") if Path(FILE).is_file() else Path(FOLDER)


def _dir_flag(folder: Path) -> str:
    return "" if folder == _default_folder() else f" --dir {folder}"


def _open(course: Path | None, folder: Path | None) -> tuple[Course, Path, Progress]:
    """The course, the student's folder and the progress kept there."""
    from attnlab.course.config import read_course
    from attnlab.course.progress import Progress

    asked = read_course(course)
    where = folder or _default_folder()
    if where.exists() and not where.is_dir():
        common.refuse(f"--dir: {where} is a file; it must be the folder of your files")
    return asked, where, Progress(where, asked.title)


def _checker(
    course: Path | None, folder: Path | None, track: str | None, isolation: str, seed: int | None
) -> Checker:
    from attnlab.course import sandbox, student

    asked, where, progress = _open(course, folder)
    level = sandbox.choose(isolation)
    drawn = student.new_seed() if seed is None else seed
    return student.Checker(where, asked, progress, level, track, drawn)


def _exercise(name: str | None, course: Course, folder: Path) -> Exhibit:
    from attnlab.course import syllabus

    return syllabus.find(name or syllabus.latest(folder, course), course)


def _chosen(name: str | None, checker: Checker) -> str:
    """The exercise to check; its file must be there."""
    exhibit = _exercise(name, checker.course, checker.folder)
    checker.track_of(exhibit)
    file = checker.folder / f"{exhibit.name}.py"
    if not file.is_file():
        into = _dir_flag(checker.folder).replace("--dir", "--into")
        common.refuse(f"no file {file}; `attnlab course start {exhibit.name}{into}` writes it")
    return exhibit.name


def _track(exhibit: Exhibit, course: Course, progress: Progress, asked: str | None) -> Any:
    from attnlab.course import syllabus

    started = progress.entry(exhibit.name).track
    return syllabus.check_track(exhibit, asked or started or course.track_of(exhibit.name))


def _code(grade: Grade) -> int:
    from attnlab.course.student import passed

    if grade.status in ("malformed", "missing"):
        return 2
    return 0 if passed(grade) else 1


def _notes(progress: Progress) -> None:
    for note in progress.notes:
        typer.echo(f"Note: {note}", err=True)
    progress.notes.clear()


def _check(checker: Checker, name: str, quiet: bool = False) -> Grade:
    """Check one exercise and show it as it goes; a bar on a terminal."""
    from attnlab.course import syllabus
    from attnlab.course.report import Report

    report = Report(common.console(), checker, syllabus.find(name, checker.course), quiet=quiet)
    with report:
        grade, better = checker.check(name, report.item)
    report.finish(grade, better)
    return grade


def _code_block(text: str) -> None:
    from attnlab.cli.catalog import _print_code

    _print_code(text)
