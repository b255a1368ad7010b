"""Shows pieces in the terminal with rich; piped output has no control codes and fits any width."""

from __future__ import annotations

import io
from functools import singledispatch
from typing import Any, ClassVar

from pygments import token
from rich import box
from rich.console import Console, Group, RenderableType
from rich.markdown import Heading, Markdown
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.style import Style
from rich.syntax import ANSISyntaxTheme, Syntax
from rich.table import Table as RichTable
from rich.text import Text

from attnlab.lesson import pieces

# Readable on light and on dark terminals: the terminal's own colours, and weight.
THEME = ANSISyntaxTheme(
    {
        token.Comment: Style(dim=True, italic=True),
        token.Keyword: Style(bold=True),
        token.Operator.Word: Style(bold=True),
        token.String: Style(color="green"),
        token.Number: Style(color="cyan"),
        token.Name.Function: Style(color="blue", bold=True),
        token.Name.Class: Style(color="blue", bold=True),
        token.Name.Decorator: Style(color="magenta"),
        token.Error: Style(),
    }
)
BLUE, GREEN, ORANGE, VERMILLION = "#56B4E9", "#009E73", "#E69F00", "#D55E00"
VERDICTS = {
    "holds": ("✓", GREEN),
    "does not show": ("✗", VERMILLION),
    "control did not fail": ("!", ORANGE),
    "not tried": ("–", BLUE),
}


class LeftHeading(Heading):
    """Headings stand at the left, underlined by a rule at the first level."""

    def __rich_console__(self, console: Console, options: Any) -> Any:
        self.text.justify = "left"
        yield self.text
        if self.tag == "h1":
            yield Rule(style="dim", characters="━")


class Prose(Markdown):
    elements: ClassVar = {**Markdown.elements, "heading_open": LeftHeading}


def markdown(text: str) -> RenderableType:
    return Prose(text, code_theme=THEME)  # type: ignore[arg-type]


def code(text: str, first_line: int | None = None, mark: int | None = None) -> Syntax:
    return Syntax(
        text,
        "python",
        theme=THEME,
        line_numbers=first_line is not None,
        start_line=first_line or 1,
        highlight_lines={mark} if mark else None,
        word_wrap=True,
        background_color="default",
    )


@singledispatch
def render(piece: Any) -> RenderableType:
    raise TypeError(f"{type(piece).__name__} has no terminal form")


@render.register
def _(piece: pieces.Printed) -> RenderableType:
    return Text(piece.text.removesuffix("\n"))


@render.register
def _(piece: pieces.Rendered) -> RenderableType:
    return value(piece.renderable)


@render.register
def _(piece: pieces.Picture) -> RenderableType:
    drawn = Text(piece.terminal) if isinstance(piece.terminal, str) else piece.terminal
    caption = Text(piece.caption, style="italic dim")
    return Padding(Group(drawn, caption), (1, 0))


@render.register
def _(piece: pieces.Table) -> RenderableType:
    table = RichTable(title=piece.title or None, box=box.SIMPLE_HEAD, title_justify="left")
    for column, numeric in zip(piece.columns, pieces.numeric_columns(piece)):
        table.add_column(str(column), justify="right" if numeric else "left", overflow="fold")
    for row in piece.rows:
        table.add_row(*(Text(pieces.short(item)) for item in row))
    return table


@render.register
def _(piece: pieces.Listing) -> RenderableType:
    return Group(Text(piece.caption, style="dim"), code(piece.code, piece.first_line))


def question(piece: pieces.Prediction) -> RenderableType:
    options = [Text(f"  {chr(97 + i)}) {choice}") for i, choice in enumerate(piece.choices)]
    body = Group(Text(piece.question), *options)
    return Panel(body, title="Predict", title_align="left", border_style=BLUE, box=box.ROUNDED)


def answer(piece: pieces.Prediction) -> RenderableType:
    text = Text()
    if piece.guess is not None:
        right = piece.guess == piece.answer
        text.append("Right. " if right else "Not quite. ", f"bold {GREEN if right else ORANGE}")
    text.append("Answer: ", "bold")
    text.append(f"{chr(97 + piece.answer)}) {piece.choices[piece.answer]}\n")
    text.append(piece.because)
    return Padding(text, (0, 2, 1, 2))


@render.register
def _(piece: pieces.Prediction) -> RenderableType:
    return Group(question(piece), answer(piece))


@render.register
def _(piece: pieces.Claim) -> RenderableType:
    rows = [
        (f"expected ({pieces.ORIGIN[piece.source]})", pieces.short(piece.expected)),
        ("seen here", pieces.short(piece.seen)),
    ]
    if piece.control is not None:
        fate = "failed, as it must" if piece.control.failed else "did not fail"
        rows.append(("control", f"{piece.control.statement} — {fate}"))
        rows.append(("", f"seen: {pieces.short(piece.control.seen)}"))
    if piece.note:
        rows.append(("note", piece.note))
    return _claim_box(piece, rows)


@render.register
def _(piece: pieces.Untried) -> RenderableType:
    return _claim_box(piece, [(f"from {pieces.ORIGIN[piece.source]}", ""), ("why", piece.reason)])


def _claim_box(piece: pieces.Claim | pieces.Untried, rows: list[tuple[str, str]]) -> RenderableType:
    mark, colour = VERDICTS[piece.verdict]
    grid = RichTable.grid(padding=(0, 1), expand=False)
    grid.add_column(style="dim", max_width=24)
    grid.add_column(overflow="fold")
    for label, text in rows:
        grid.add_row(label, Text(text))
    title = Text(f"{mark} claim {piece.id}: {piece.verdict}", style=f"bold {colour}")
    return Panel(
        Group(Text(piece.statement), grid),
        title=title,
        title_align="left",
        border_style=colour,
        box=box.ROUNDED,
    )


@render.register
def _(piece: pieces.Exercise) -> RenderableType:
    title = f"Your turn: {piece.name}"
    return Panel(
        markdown(piece.text), title=title, title_align="left", border_style=GREEN, box=box.ROUNDED
    )


@render.register
def _(piece: pieces.Failure) -> RenderableType:
    place = f"{piece.file}:{piece.line}" if piece.line else piece.file
    body: list[RenderableType] = [Text(f"{piece.kind}: {piece.message}", style="bold")]
    body.append(Text(place))
    if piece.code:
        body.append(code(piece.code, piece.first_line, piece.line))
    body += [Text(step, style="dim") for step in piece.trail]
    return Panel(
        Group(*body),
        title="This cell stopped with an error",
        title_align="left",
        border_style=VERMILLION,
    )


def claims_table(claims: list[pieces.Claim | pieces.Untried]) -> RenderableType:
    """All claims of a lesson, a line each."""
    table = RichTable(title="Claims", box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("id", "claim", "expected", "seen", "verdict"):
        table.add_column(column, overflow="fold")
    for claim in claims:
        mark, colour = VERDICTS[claim.verdict]
        expected = pieces.short(claim.expected) if isinstance(claim, pieces.Claim) else "–"
        seen = pieces.short(claim.seen) if isinstance(claim, pieces.Claim) else claim.reason
        verdict = Text(f"{mark} {claim.verdict}", style=colour)
        table.add_row(claim.id, Text(claim.statement), Text(expected), Text(seen), verdict)
    return table


def value(item: Any) -> RenderableType:
    """The value of an expression: renderables as they are, arrays shortened."""
    if hasattr(item, "__rich_console__") or hasattr(item, "__rich__"):
        return item
    return Text(describe(item))


def describe(item: Any) -> str:
    """A short repr: big arrays as dtype, shape and range; named tuples a line a field."""
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return "\n".join(f"{name} = {describe(part)}" for name, part in zip(item._fields, item))
    if hasattr(item, "shape") and hasattr(item, "dtype"):
        return _array(item)
    text = repr(item)
    return text if len(text) < 2000 else text[:1999] + "…"


def _array(item: Any) -> str:
    import numpy as np

    shown = item.detach().cpu().numpy() if hasattr(item, "detach") else np.asarray(item)
    if shown.ndim == 0:
        return f"{shown.item()!r}"
    head = f"{type(item).__name__} {shown.dtype} {tuple(shown.shape)}"
    if shown.size <= 64:
        body = np.array2string(shown, precision=4, suppress_small=True, max_line_width=76)
        return f"{head}\n{body}"
    if shown.dtype.kind in "fiu":
        return f"{head}, min {shown.min():.4g}, mean {shown.mean():.4g}, max {shown.max():.4g}"
    return head


def show(console: Console, piece: pieces.Piece) -> None:
    """Prints a piece."""
    console.print(render(piece))


def plain(piece: Any, width: int = 80) -> str:
    """A piece as plain text without control codes."""
    stream = io.StringIO()
    Console(file=stream, width=width, no_color=True, highlight=False).print(render(piece))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).rstrip("\n")
