"""Token scores as pictures: rows of highlighted words, one method under the other.

Orange is evidence for the explained class, blue evidence against it; without colours (a pipe,
NO_COLOR) shades of grey characters stand under each word, with a minus sign before evidence against.
Each row is scaled by its own largest absolute score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from attnlab.draw import SHADES

# From faint to full: towards Okabe and Ito's vermillion and blue, light enough for black letters.
FOR = ("#fdf0dc", "#fad7a0", "#f3b04f", "#e69f00", "#e07b28")
AGAINST = ("#e3f1fa", "#bfe0f4", "#8ccbee", "#56b4e9", "#3f9bd6")
WIDEST = 14  # characters of a token


@dataclass(frozen=True)
class Row:
    """One method's scores of one text; signed False where a minus could not mean anything."""

    title: str
    scores: Float[np.ndarray, "n"]
    signed: bool = True


def levels(scores: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Scores divided by the largest absolute one: in [-1, 1]; NaN stays, all zero stays zero."""
    largest = np.abs(scores[np.isfinite(scores)]).max(initial=0.0)
    return np.clip(scores / largest, -1, 1) if largest > 0 else np.asarray(scores, dtype=float)


def step(level: float) -> int:
    """Which of the five colours: 0 to 4, or -1 for next to nothing."""
    return -1 if not abs(level) > 0.05 else min(4, int(abs(level) * 5))


@dataclass
class Heatmap:
    """Rows of highlighted tokens that wrap together at the console's width."""

    tokens: Sequence[str]
    rows: Sequence[Row]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        coloured = console.color_system is not None and not console.no_color
        titles = [row.title for row in self.rows]
        margin = min(max(map(cell_len, titles), default=0) + 1, max(8, options.max_width // 2))
        widths = [min(max(cell_len(token), 3), WIDEST) for token in self.tokens]
        for start, stop in self._blocks(widths, options.max_width - margin):
            part = slice(start, stop)
            if not coloured:
                words = (set_cell_size(t, w) for t, w in zip(self.tokens[part], widths[part]))
                yield Text((" " * margin + " ".join(words)).rstrip(), no_wrap=True)
            for row in self.rows:
                line = Text(set_cell_size(row.title, margin - 1) + " ", no_wrap=True)
                for token, width, level in zip(
                    self.tokens[part], widths[part], levels(row.scores)[part]
                ):
                    if coloured:
                        line.append(set_cell_size(token, width), _style(level))
                        line.append(" ")
                    else:
                        line.append(_shade(level, width) + " ")
                if not coloured:
                    line.rstrip()
                yield line
            if stop < len(self.tokens):
                yield Text("")

    @staticmethod
    def _blocks(widths: Sequence[int], room: int) -> list[tuple[int, int]]:
        """Cuts the tokens into [start, end) that fit side by side."""
        found, start, used = [], 0, 0
        for i, width in enumerate(widths):
            if used + width > room and i > start:
                found.append((start, i))
                start, used = i, 0
            used += width + 1
        return [*found, (start, len(widths))]


def _style(level: float) -> Style:
    if math.isnan(level):
        return Style(dim=True, strike=True)
    place = step(level)
    if place < 0:
        return Style()
    return Style(color="#000000", bgcolor=(FOR if level > 0 else AGAINST)[place])


def _shade(level: float, width: int) -> str:
    if math.isnan(level):
        return "?" * width
    shade = SHADES[step(level) + 1] if step(level) >= 0 else "·"
    return ("-" + shade * (width - 1)) if step(level) >= 0 and level < 0 else shade * width


CSS = """.heat { line-height: 1.9; margin: .2em 0 .7em; } .heat b { font: 600 .8rem system-ui, sans-serif;
  display: inline-block; min-width: 17rem; color: var(--soft); }
.heat span { padding: .12em .22em; border-radius: 3px; margin-right: .12em; }
.heat .undefined { text-decoration: line-through; }
""" + "".join(
    f".heat .{side}{i} {{ background: {colour}; color: #000; }}\n"
    for side, colours in (("f", FOR), ("a", AGAINST))
    for i, colour in enumerate(colours)
)


def html(tokens: Sequence[str], row: Row) -> str:
    """One method's tokens as highlighted words; the exact score is each word's tooltip."""
    words = []
    for token, score, level in zip(tokens, row.scores, levels(row.scores)):
        kind = "undefined" if math.isnan(level) else ""
        if not math.isnan(level) and step(level) >= 0:
            kind = ("f" if level > 0 else "a") + str(step(level))
        words.append(f'<span class="{kind}" title="{score:.4g}">{escape(token)}</span>')
    return f'<div class="heat"><b>{escape(row.title)}</b> {"".join(words)}</div>\n'
