"""A check as it goes: a line an item, a bar on a terminal, then the first failure and the score."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from attnlab.contract import Exhibit
from attnlab.course import show, syllabus
from attnlab.course.model import Grade, Outcome
from attnlab.course.student import Checker, passed


class Report:
    """Shows one check on a console; `quiet` shows nothing but the bar on a terminal."""

    def __init__(self, console: Console, checker: Checker, exhibit: Exhibit, quiet: bool = False):
        items = checker.exam(exhibit.name)
        self.console, self.checker, self.exhibit, self.quiet = console, checker, exhibit, quiet
        self.id_width = max((len(item.id) for item in items if not item.hidden), default=20)
        self.bar = Bar(
            TextColumn("checking"), BarColumn(), MofNCompleteColumn(),
            console=Console(stderr=True) if quiet else console, transient=True,
        )  # fmt: skip
        self.bar.disable = not self.bar.console.is_terminal
        self.task = self.bar.add_task("", total=len(items))

    def __enter__(self) -> Report:
        if not self.quiet:
            title = Text(f"{self.exhibit.name}: {self.exhibit.title}", "bold")
            track = self.checker.track_of(self.exhibit)
            self.console.print(title)
            self.console.print(f"track {track}, isolation {self.checker.level}", style="dim")
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def item(self, outcome: Outcome) -> None:
        """An item is done."""
        self.bar.advance(self.task)
        told_once = outcome.status == "malformed"  # of the whole file, at the end
        if not (self.quiet or told_once or outcome.item.hidden):
            self._text(show.item_line(outcome, self.id_width, self.width))

    def finish(self, grade: Grade, better: bool) -> None:
        """The first failure in detail, the score, and what to do next."""
        if self.quiet:
            return
        if grade.status != "graded":
            self._line(f"{grade.status}: {show.clean(grade.message)}", f"bold {show.VERMILLION}")
        else:
            failed = show.first_failure(grade.outcomes)
            if failed is not None:
                self.console.print()
                self._text(show.failure(failed, self.width))
                if failed.note:  # our own fault: whoever looks into it needs the traceback
                    self._line(f"\n{failed.note}")
                self._advise()
        self._score(grade, better)

    def _score(self, grade: Grade, better: bool) -> None:
        shown = [o for o in grade.outcomes if not o.item.hidden]
        self.console.print()
        best = " (your best so far)" if better else ""
        self._line(show.score(grade) + best, "bold")
        if shown:
            count = sum(o.passed for o in shown)
            self._line(
                f"{count} of {len(shown)} items pass in {grade.seconds:.1f} s; "
                f"--seed {grade.seed} draws the same inputs again",
                "dim",
            )
        if passed(grade):
            self._congratulate()

    def _advise(self) -> None:
        """Which hint to ask for next."""
        hints = syllabus.exercise_of(self.exhibit).hints
        read = self.checker.progress.entry(self.exhibit.name).hints
        if read < len(hints):
            text = (
                f"`attnlab course hint {self.exhibit.name}` shows hint {read + 1} of {len(hints)}"
            )
        else:
            text = f"all {len(hints)} hints are read; `attnlab show {self.exhibit.name}` has the equations"
        self._line(f"Stuck? {text}.")

    def _congratulate(self) -> None:
        name = self.exhibit.name
        self._line(f"All items pass. `attnlab course solution {name}` shows a model answer.")
        for question in syllabus.exercise_of(self.exhibit).questions:
            self._line(f"  To think about: {question}")
        following = self.following()
        if following:
            self._line(f"Next: `attnlab course start {following}`.")

    def following(self) -> str:
        """The next exercise that is not done; "" when all are."""
        return next(
            (
                e.name
                for e in syllabus.ordered(self.checker.course)
                if not self.checker.progress.entry(e.name).passed
            ),
            "",
        )

    def _line(self, text: str, style: str = "") -> None:
        self._text(Text(text, style=style))

    def _text(self, text: Text) -> None:
        # a pipe gets whole lines; on a terminal, too, a command to copy is not broken by spaces
        self.console.print(text, soft_wrap=True)

    @property
    def width(self) -> int | None:
        """Columns to fold to; None for a pipe, whose lines are whole."""
        return self.console.width if self.console.is_terminal else None
