"""What a lesson says: settings of the run, questions, pictures, tables, claims, code to read."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from attnlab import paths
from attnlab.lesson import pieces
from attnlab.lesson.session import current

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")


def quick() -> bool:
    """Whether the run is to be short (`--quick`): smaller sizes, fewer repeats, at most 10 s."""
    return current().quick


def seed() -> int:
    """The run's seed (`--seed`, default 0)."""
    return current().seed


def rng() -> np.random.Generator:
    """A fresh NumPy generator from the run's seed."""
    import numpy as np

    return np.random.default_rng(current().seed)


def text() -> str | None:
    """The content of the reader's own file (`--text FILE`), or None."""
    return current().text


def train() -> bool:
    """Whether the reader asks for training anew (`--train`) instead of the shipped weights."""
    return current().train


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yields `items` and shows on a terminal how far it is; silent elsewhere."""
    return current().track(items, label, total)


def progress(label: str) -> AbstractContextManager[Callable[[float], None]]:
    """`with progress("training") as done: … done(0.4)`: the share done, on a terminal's progress line."""
    return current().advance(label)


def show(renderable: Any) -> None:
    """Shows a rich renderable (such as `heat`, `lines`, `bars`), a string or an array."""
    current().emit(pieces.Rendered(renderable))


def table(rows: Iterable[Sequence[Any]], columns: Sequence[str], title: str = "") -> None:
    """Shows a table. Raises ValueError where a row has not as many items as there are columns."""
    rows = [list(row) for row in rows]
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"a row has {len(row)} items for {len(columns)} columns: {row!r}")
    current().emit(pieces.Table(rows, list(columns), title))


def figure(fig: Any, caption: str, alt: str, terminal: Any = None) -> None:
    """Shows a matplotlib figure and closes it.

    caption tells the reader what to see in it; alt says what is drawn to those who cannot see it.
    terminal is its form in the terminal (a string or a renderable such as `heat(…)`); without it one
    is made from the figure's axes.
    """
    from attnlab.lesson import plots

    if not alt.strip():
        raise ValueError("a figure needs alt=…: what is drawn, for those who cannot see it")
    drawn = terminal if terminal is not None else plots.terminal_form(fig)
    data, mime, dark = plots.save(fig)
    current().emit(pieces.Picture(data, mime, caption, alt, drawn, dark))


def predict(question: str, choices: Sequence[str], answer: int | str, because: str) -> None:
    """Asks the reader before a result is shown.

    answer is one of `choices`, or its index; because is what the answer rests on. On a terminal the
    lesson pauses (Enter skips); elsewhere it shows question and answer (the page folds the answer).
    Raises ValueError for an answer that is no choice.
    """
    choices = [str(choice) for choice in choices]
    index = choices.index(answer) if isinstance(answer, str) and answer in choices else answer
    if not isinstance(index, int) or not 0 <= index < len(choices):
        raise ValueError(f"answer {answer!r} is none of the choices {choices}")
    session = current()
    piece = pieces.Prediction(question, choices, index, because)
    if session.ask is None or session.console is None:
        session.emit(piece)
        return
    from attnlab.lesson import terminal

    letters = "".join(chr(97 + i) for i in range(len(choices)))
    with session.paused():
        session.console.print(terminal.question(piece))
        while True:
            try:
                reply = session.ask(f"  your guess ({'/'.join(letters)}, Enter skips): ")
            except EOFError:
                reply = ""
            reply = reply.strip().lower().rstrip(")")
            if not reply or (len(reply) == 1 and reply in letters):
                break
            session.console.print(f"  please type one of {', '.join(letters)}, or Enter")
    piece.guess = letters.index(reply) if reply else None
    session.pieces.append(piece)
    session.console.print(terminal.answer(piece))


def claim(
    id: str,
    statement: str,
    expected: Any,
    seen: Any,
    holds: Any,
    source: pieces.Source,
    control: Mapping[str, Any] | None = None,
    note: str | None = None,
) -> None:
    """Records a claim that this lesson re-creates, and shows the verdict.

    id           as in the sheet: "2", "2b"; once a lesson
    expected     the figure that was published: a number, a string or a mapping
    seen         what came out here, in the same form
    holds        whether what was seen bears the claim out: an expression over what was *measured*
    source       "paper"; "sheet": our own earlier run; "unverified": never shown as the paper's
    control      {"statement": …, "seen": …, "failed": bool}: a negative control, which must fail (the same
                 test on shuffled labels, random weights, the plain method), or the claim does not count
    note         what the reader should know about scale, data, differences from the paper

    Verdicts: "holds", "does not show", "control did not fail".
    Raises ValueError for a source that is none of the three, or a repeated id.
    """
    if source not in pieces.ORIGIN:
        raise ValueError(f"source {source!r} is none of {', '.join(pieces.ORIGIN)}")
    if control is not None and set(control) != {"statement", "seen", "failed"}:
        raise ValueError('control takes exactly the keys "statement", "seen" and "failed"')
    made = pieces.Control(**control) if control is not None else None
    if made is not None:
        made.failed = _truth(made.failed, 'control["failed"]')
    session = current()
    piece = pieces.Claim(
        str(id),
        statement,
        expected,
        seen,
        _truth(holds, "holds"),
        source,
        made,
        note,
        session.quick,
    )
    session.record(piece)
    session.emit(piece)


def _truth(value: Any, name: str) -> bool:
    """A bool, NumPy's and torch's included; anything else is a mistake in the lesson."""
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, not {value!r}")
    return value


def untried(id: str, statement: str, reason: str, source: pieces.Source = "paper") -> None:
    """Lists a claim that this lesson does not try, with the reason."""
    if source not in pieces.ORIGIN:
        raise ValueError(f"source {source!r} is none of {', '.join(pieces.ORIGIN)}")
    piece = pieces.Untried(str(id), statement, reason, source)
    current().record(piece)
    current().emit(piece)


def exercise(name: str, text: str) -> None:
    """The closing "your turn": what to build oneself. Markdown is allowed in `text`."""
    current().emit(pieces.Exercise(name, text))


def source(
    what: Callable[..., Any] | str, lines: tuple[int, int] | None = None, docstring: bool = False
) -> None:
    """Shows source code for reading together.

    what is a function, class or module; the dotted name of one ("attnlab.kernels.cpu.exp"); a path in the
    package ("mechanisms/sparse/landmark/reference.py"); or an exhibit's file ("landmark/reference.py").
    lines is (first, last) as numbered in the file. The leading docstring is left out unless asked for.
    """
    code, first, caption = _read_source(what)
    if lines is not None:
        body = code.splitlines()
        start, stop = max(lines[0] - first, 0), lines[1] - first + 1
        code, first = "\n".join(body[start:stop]), first + start
        if not code:
            raise ValueError(f"{caption} has no lines {lines[0]}–{lines[1]}")
    elif not docstring and (shorter := _without_docstring(code)) != code:
        current().emit(pieces.Listing(shorter.rstrip(), caption, None))
        return
    current().emit(pieces.Listing(code.rstrip(), caption, first))


def _read_source(what: Any) -> tuple[str, int, str]:
    if isinstance(what, str) and what.endswith(".py"):
        path = _find_file(what)
        return path.read_text(encoding="utf-8"), 1, _place(path)
    if isinstance(what, str):
        what = _import(what)
    what = inspect.unwrap(getattr(what, "py_func", what))  # Numba's dispatcher holds the function
    if inspect.ismodule(what):
        path = Path(inspect.getsourcefile(what) or "")
        return path.read_text(encoding="utf-8"), 1, _place(path)
    found, first = inspect.getsourcelines(what)
    path = Path(inspect.getsourcefile(what) or "")
    return inspect.cleandoc("\n" + "".join(found)), first, f"{_place(path)}:{first}"


def _import(dotted: str) -> Any:
    module, _, name = dotted.rpartition(".")
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError:
        if not module:
            raise
        return getattr(importlib.import_module(module), name)


def _find_file(name: str) -> Path:
    candidates = [
        paths.PACKAGE / name,
        *sorted((paths.PACKAGE / "mechanisms").glob(f"*/{name}")),
        paths.PACKAGE.parent / name,
    ]
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError(f"no source file {name!r} in the package or among the exhibits")


def _place(path: Path) -> str:
    try:
        return str(path.relative_to(paths.PACKAGE.parent))
    except ValueError:
        return path.name


def _without_docstring(code: str) -> str:
    """The code with its leading docstring shortened to an ellipsis; comments stay."""
    import ast

    tree = ast.parse(code)
    owner: Any = tree
    if len(tree.body) == 1 and isinstance(tree.body[0], ast.FunctionDef | ast.ClassDef):
        owner = tree.body[0]
    if ast.get_docstring(owner) is None or len(owner.body) < 2:
        return code
    text, rows = owner.body[0], code.splitlines()
    mark = [" " * text.col_offset + '"""…"""'] if owner is not tree else []
    return "\n".join([*rows[: text.lineno - 1], *mark, *rows[text.end_lineno :]]).strip("\n")
