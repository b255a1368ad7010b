"""Runs a lesson's cells in one namespace and keeps what each of them put on the page."""

from __future__ import annotations

import ast
import io
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from attnlab.lesson import pieces, script, terminal
from attnlab.lesson.session import Session, running


@dataclass
class Ran:
    """A cell, its pieces in order, and the seconds it took."""

    cell: script.Cell
    pieces: list[pieces.Piece] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Run:
    """A whole run: what the page, the notebook and `--json` are made of."""

    lesson: script.Lesson
    session: Session
    cells: list[Ran] = field(default_factory=list)
    seconds: float = 0.0
    error: pieces.Failure | None = None
    interrupted: bool = False

    def as_json(self) -> dict[str, Any]:
        from attnlab import __version__

        return {
            "lesson": self.lesson.name,
            "title": self.lesson.title,
            "attnlab": __version__,
            "quick": self.session.quick,
            "seed": self.session.seed,
            "seconds": round(self.seconds, 3),
            "finished": self.error is None and not self.interrupted,
            "error": f"{self.error.kind}: {self.error.message}" if self.error else None,
            "claims": [claim.as_json() for claim in self.session.claims],
        }


class _Tape(io.TextIOBase):
    """Stands in for sys.stdout: whole lines become pieces, in order with the other pieces."""

    encoding = "utf-8"

    def __init__(self, session: Session) -> None:
        self.session, self.rest = session, ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        whole, newline, rest = (self.rest + text).rpartition("\n")
        self.rest = rest
        if newline:
            # A line that was overwritten by carriage returns is kept as it looked in the end.
            lines = (line.rstrip("\r").rpartition("\r")[2] for line in whole.split("\n"))
            self._emit("\n".join(lines) + "\n")
        return len(text)

    def drain(self) -> None:
        """A last line without its newline."""
        if self.rest:
            text, self.rest = self.rest.rpartition("\r")[2], ""
            self._emit(text + "\n")

    def _emit(self, text: str) -> None:
        before, self.session.flush = self.session.flush, lambda: None
        try:
            self.session.emit(pieces.Printed(text))
        finally:
            self.session.flush = before


def run(lesson: script.Lesson, session: Session) -> Run:
    """Runs all cells, showing them on session.console. An error or Ctrl-C ends the run, never this call."""
    result = Run(lesson, session)
    if session.console is not None:
        # Pinned to today's stdout: a rich console would otherwise follow sys.stdout into the tape.
        session.console.file = session.console.file
    module = ModuleType(f"lesson_{lesson.name}")
    module.__file__ = str(lesson.path)
    sys.modules[module.__name__] = module  # dataclasses and pickle look their module up
    begun = time.perf_counter()
    try:
        with running(session):
            for cell in lesson.cells:
                ran = Ran(cell)
                result.cells.append(ran)
                if cell.markdown:
                    if session.console is not None:
                        session.console.print(terminal.markdown(cell.text))
                        session.console.print()
                    continue
                session.pieces = ran.pieces
                _run_cell(ran, lesson, session, module.__dict__)
    except KeyboardInterrupt:
        result.interrupted = True
    except _CellFailed as failed:
        result.error = failed.failure
    finally:
        result.seconds = time.perf_counter() - begun
        sys.modules.pop(module.__name__, None)
    return result


class _CellFailed(Exception):
    def __init__(self, failure: pieces.Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def _run_cell(ran: Ran, lesson: script.Lesson, session: Session, names: dict[str, Any]) -> None:
    cell, console = ran.cell, session.console
    if console is not None and not cell.hides_code and (code := shown(cell)):
        console.print(terminal.code(code))
        console.print()
    tape = _Tape(session)
    session.flush = tape.drain
    begun = session.since = time.perf_counter()
    try:
        with _progress(session), redirect_stdout(tape):
            value = _execute(cell, lesson.path, names)
            tape.drain()
            if value is not None and not isinstance(value, pieces.Measured):
                session.emit(pieces.Rendered(value))
    except KeyboardInterrupt:
        raise
    except (Exception, SystemExit) as error:
        failure = _failure(error, cell, lesson.path)
        session.emit(failure)
        raise _CellFailed(failure) from error
    finally:
        tape.drain()
        session.flush = lambda: None
        ran.seconds = time.perf_counter() - begun
    if console is not None and ran.seconds >= 0.1:
        console.print(f"[dim]({ran.seconds:.1f} s)[/dim]")
    if console is not None and ran.pieces:
        console.print()


def shown(cell: script.Cell) -> str:
    """The code that a reader sees; of a cell that is no Python, all of it."""
    try:
        return cell.shown()
    except SyntaxError:  # reported where it runs
        return cell.text


def _execute(cell: script.Cell, path: Path, names: dict[str, Any]) -> Any:
    """Runs the cell; the value of its last expression, unless it ends in a semicolon."""
    tree = script.parse_code(cell, path)
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr) or cell.text.rstrip().endswith(";"):
        exec(compile(tree, str(path), "exec"), names)
        return None
    exec(compile(ast.Module(tree.body[:-1], []), str(path), "exec"), names)
    return eval(compile(ast.Expression(last.value), str(path), "eval"), names)


def _failure(error: BaseException, cell: script.Cell, path: Path) -> pieces.Failure:
    """Where in the cell it happened, and below it the way into the library in short."""
    steps = traceback.extract_tb(error.__traceback__)
    inside = [step for step in steps if step.filename == str(path)]
    line = inside[-1].lineno if inside else None
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line = error.lineno
    after = steps[steps.index(inside[-1]) + 1 :] if inside else []
    trail = [f"in {_last_parts(step.filename)}:{step.lineno}, {step.name}" for step in after[-4:]]
    rows = cell.text.splitlines()
    first = max(cell.line, (line or cell.line) - 8)
    last = min(cell.line + len(rows) - 1, (line or cell.line) + 4)
    shown = "\n".join(rows[first - cell.line : last - cell.line + 1])
    message = str(error) or "(no message)"
    return pieces.Failure(type(error).__name__, message, path.name, line, shown, first, trail)


def _last_parts(filename: str) -> str:
    return "/".join(Path(filename).parts[-3:])


@contextmanager
def _progress(session: Session) -> Iterator[None]:
    """A line that shows a running cell is alive, on a terminal only; it leaves no trace."""
    console = session.console
    if console is None or not console.is_terminal:
        yield
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(20),
        TimeElapsedColumn(),
    )
    session.progress = Progress(
        *columns, console=console, transient=True, redirect_stdout=False, refresh_per_second=8
    )
    session.progress.add_task("running", total=None)
    session.progress.start()
    try:
        yield
    finally:
        session.progress.stop()
        session.progress = None


def announce(console: Console, lesson: script.Lesson, session: Session) -> None:
    """The line above a lesson."""
    quick = ", quick" if session.quick else ""
    console.print(f"[dim]lesson {lesson.name} · about {lesson.minutes} min{quick}[/dim]\n")


def close(console: Console, result: Run) -> None:
    """The lines below a lesson: its claims, or why it ended early."""
    if result.session.claims:
        console.print(terminal.claims_table(result.session.claims))
    if result.interrupted:
        console.print("Stopped. What is above has been run; nothing else was.")
    elif result.error is None:
        console.print(f"[dim]{result.lesson.name}: finished in {result.seconds:.1f} s[/dim]")
