"""The session that a running lesson speaks to: its settings, and where its pieces go.

`attnlab run lesson` starts one; a lesson that runs as plain Python, or in a notebook, gets a default
one that shows each piece as it comes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from attnlab.lesson.pieces import Claim, Piece, Printed, Untried

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

T = TypeVar("T")


@dataclass
class Session:
    """Settings of a run, the pieces of the current cell, and all claims.

    console=None is silent. `ask` is called with a prompt where a reader is there to answer.
    """

    quick: bool = False
    seed: int = 0
    text: str | None = None
    train: bool = False
    console: Console | None = None
    ask: Callable[[str], str] | None = None
    pieces: list[Piece] = field(default_factory=list)
    claims: list[Claim | Untried] = field(default_factory=list)
    progress: Progress | None = None
    flush: Callable[[], None] = lambda: None  # text printed before a piece comes before it
    since: float = field(default_factory=time.perf_counter)

    def emit(self, piece: Piece) -> None:
        """Keeps a piece and shows it."""
        self.flush()
        last = self.pieces[-1] if self.pieces else None
        if isinstance(piece, Printed) and isinstance(last, Printed):
            last.text += piece.text
        else:
            self.pieces.append(piece)
        self.show(piece)

    def show(self, piece: Piece) -> None:
        if self.console is not None:
            from attnlab.lesson import terminal

            terminal.show(self.console, piece)

    def record(self, claim: Claim | Untried) -> None:
        """Keeps a claim with the seconds since the claim or the cell before it."""
        if any(claim.id == earlier.id for earlier in self.claims):
            raise ValueError(f"claim id {claim.id!r} is used twice in this lesson")
        now = time.perf_counter()
        if isinstance(claim, Claim):
            claim.seconds, self.since = now - self.since, now
        self.claims.append(claim)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Takes the progress line away while the reader is asked."""
        self.flush()
        if self.progress is not None:
            self.progress.stop()
        try:
            yield
        finally:
            if self.progress is not None:
                self.progress.start()

    def track(self, items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
        """Yields `items`; on a terminal the progress line shows how far it is."""
        if self.progress is None:
            yield from items
            return
        if total is None and isinstance(items, Sized):
            total = len(items)
        task = self.progress.add_task(label, total=total)
        try:
            for item in items:
                yield item
                self.progress.advance(task)
        finally:
            self.progress.remove_task(task)

    @contextmanager
    def advance(self, label: str) -> Iterator[Callable[[float], None]]:
        """Gives a function that takes the share done, 0 to 1, for the progress line to show."""
        if self.progress is None:
            yield lambda share: None
            return
        progress = self.progress
        task = progress.add_task(label, total=1.0)
        try:
            yield lambda share: progress.update(task, completed=share)
        finally:
            progress.remove_task(task)


class NotebookSession(Session):
    """In a Jupyter kernel, pieces are displayed as the notebook file would show them."""

    def show(self, piece: Piece) -> None:
        from IPython.display import display

        from attnlab.lesson import notebook

        for bundle in notebook.bundles(piece):
            display(bundle, raw=True)


_current: Session | None = None


def current() -> Session:
    """The running session; outside the runner, one that shows pieces at once."""
    global _current
    if _current is None:
        _current = _default()
    return _current


def _default() -> Session:
    from rich.console import Console

    settings: dict[str, Any] = {"quick": bool(os.environ.get("ATTNLAB_QUICK"))}
    shell = sys.modules.get("IPython")
    if shell is not None and getattr(shell.get_ipython(), "kernel", None) is not None:
        return NotebookSession(**settings)
    console = Console(highlight=False)
    if sys.stdin.isatty() and sys.stdout.isatty() and not settings["quick"]:
        settings["ask"] = console.input
    return Session(console=console, **settings)


@contextmanager
def running(session: Session) -> Iterator[Session]:
    """Makes `session` the current one."""
    global _current
    before, _current = _current, session
    try:
        yield session
    finally:
        _current = before
