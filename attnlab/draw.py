"""Pictures made of characters: heat maps, line plots, bars.

Each is a rich renderable. With colours a heat map is cividis-like blocks; without (a pipe, NO_COLOR)
it is shades of grey characters, and series of a line plot differ by their marker, never by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

SHADES = " ·░▒▓█"
MARKERS = "●▲■◆✕○△□◇+"
# Okabe & Ito's colours for all kinds of colour vision; black is left out, terminals may be dark.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#999999")
# Five stops along cividis, from low to high.
RAMP = np.array(
    [(0, 34, 78), (65, 77, 107), (124, 123, 120), (188, 175, 111), (254, 232, 56)], dtype=float
)
EIGHTHS = " ▏▎▍▌▋▊▉█"


def _coloured(console: Console) -> bool:
    return console.color_system is not None and not console.no_color


def number(value: float) -> str:
    """A number in at most about six characters."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}" if value == 0 else str(value)
    if value == int(value) and abs(value) < 1e5:
        return str(int(value))
    return f"{value:.3g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


def _pool(matrix: np.ndarray, height: int, width: int) -> tuple[np.ndarray, int, int]:
    """Means over the smallest equal cells that make the matrix fit; the cell's height and width."""
    down = max(1, math.ceil(matrix.shape[0] / height))
    across = max(1, math.ceil(matrix.shape[1] / width))
    if down == across == 1:
        return matrix, 1, 1
    if min(matrix.shape) >= 8 * max(down, across):  # keep a square square
        down = across = max(down, across)
    rows = np.arange(0, matrix.shape[0], down)
    cols = np.arange(0, matrix.shape[1], across)
    known = np.isfinite(matrix).astype(float)
    filled = np.where(known > 0, matrix, 0.0)

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.add.reduceat(values, rows, axis=0), cols, axis=1)

    with np.errstate(invalid="ignore", divide="ignore"):
        return total(filled) / total(known), down, across


@dataclass
class Heat:
    """A matrix as coloured or shaded cells; NaN is left blank."""

    matrix: np.ndarray
    rows: Sequence[str] | None = None
    cols: Sequence[str] | None = None
    title: str = ""
    low: float | None = None
    high: float | None = None
    max_rows: int = 48

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        matrix = np.atleast_2d(np.asarray(self.matrix, dtype=float))
        finite = matrix[np.isfinite(matrix)]
        low = self.low if self.low is not None else float(finite.min(initial=np.inf))
        high = self.high if self.high is not None else float(finite.max(initial=-np.inf))
        coloured = _coloured(console)
        names = [str(row)[:16] for row in self.rows] if self.rows is not None else []
        margin = max((len(name) for name in names), default=0) + (1 if names else 0)
        room = max(8, options.max_width - margin)
        wide = 2 if matrix.shape[1] * 2 <= room else 1
        halves = coloured and wide == 1
        if not names:
            halves = coloured and (matrix.shape[0] > 24 or halves)
            wide = 1 if halves else wide
        shown, down, across = _pool(
            matrix, self.max_rows * (2 if halves and not names else 1), room // wide
        )
        if names and down > 1:
            names = names[::down]
        if names:
            halves = False
        if self.title:
            yield Text(self.title, style="bold")
        if self.cols is not None and across == 1:
            yield from self._column_names(margin, wide)
        level = np.clip((shown - low) / (high - low if high > low else 1.0), 0, 1)
        if halves:
            yield from _half_blocks(level)
        else:
            for i, row in enumerate(level):
                line = Text(names[i].rjust(margin - 1) + " " if names else "", no_wrap=True)
                for value in row:
                    line.append(*_cell(value, wide, coloured))
                yield line
        yield self._legend(low, high, coloured, down, across)

    def _column_names(self, margin: int, wide: int) -> Iterable[Text]:
        """Column names read downwards, ending at the first row."""
        assert self.cols is not None
        names = [str(name)[:10] for name in self.cols]
        tall = max(map(len, names), default=0)
        for i in range(tall):
            letters = (name.rjust(tall)[i].ljust(wide) for name in names)
            yield Text(" " * margin + "".join(letters), style="dim", no_wrap=True)

    def _legend(self, low: float, high: float, coloured: bool, down: int, across: int) -> Text:
        legend = Text(f"{number(low)} ", style="dim")
        for level in np.linspace(0, 1, len(SHADES)):
            legend.append(*_cell(level, 2, coloured))
        legend.append(f" {number(high)}")
        if down > 1 or across > 1:
            legend.append(f"  mean of {down}×{across}")
        return legend


def _rgb(level: float) -> str:
    place = level * (len(RAMP) - 1)
    below = min(int(place), len(RAMP) - 2)
    mixed = RAMP[below] + (RAMP[below + 1] - RAMP[below]) * (place - below)
    return "#{:02x}{:02x}{:02x}".format(*(int(part) for part in mixed))


def _cell(level: float, wide: int, coloured: bool) -> tuple[str, Style]:
    if not np.isfinite(level):
        return " " * wide, Style()
    if coloured:
        return " " * wide, Style(bgcolor=_rgb(level))
    # Everything above nothing at all shows at least a dot.
    return SHADES[math.ceil(level * (len(SHADES) - 1) - 1e-9)] * wide, Style()


def _half_blocks(level: np.ndarray) -> Iterable[Text]:
    """Two rows of the matrix to one line of text: upper half in front, lower half behind."""
    if level.shape[0] % 2:
        level = np.vstack([level, np.full((1, level.shape[1]), np.nan)])
    for upper, lower in zip(level[::2], level[1::2]):
        line = Text(no_wrap=True)
        for top, bottom in zip(upper, lower):
            front = _rgb(top) if np.isfinite(top) else None
            back = _rgb(bottom) if np.isfinite(bottom) else None
            if front is None:
                line.append("▄" if back else " ", Style(color=back))
            else:
                line.append("▀", Style(color=front, bgcolor=back))
        yield line


@dataclass
class Lines:
    """Series over x as a grid of markers, with optional logarithmic axes."""

    series: Mapping[str, tuple[np.ndarray, np.ndarray]]
    logx: bool = False
    logy: bool = False
    title: str = ""
    xlabel: str = ""
    ylabel: str = ""
    height: int = 14

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        points = {name: self._finite(x, y) for name, (x, y) in self.series.items()}
        xs = np.concatenate([x for x, _ in points.values()] or [np.zeros(0)])
        ys = np.concatenate([y for _, y in points.values()] or [np.zeros(0)])
        if self.title:
            yield Text(self.title, style="bold")
        if not xs.size:
            yield Text("(no finite points)", style="dim")
            return
        x_low, x_high, y_low, y_high = xs.min(), xs.max(), ys.min(), ys.max()
        ticks = [
            number(self._back(value, self.logy)) for value in (y_high, (y_low + y_high) / 2, y_low)
        ]
        margin = max(map(len, ticks)) + 2
        width = max(20, min(72, options.max_width - margin - 1))
        grid = [[(" ", Style()) for _ in range(width)] for _ in range(self.height)]
        for index, (x, y) in enumerate(points.values()):
            style = Style(color=COLOURS[index % len(COLOURS)]) if _coloured(console) else Style()
            self._draw(grid, x, y, (x_low, x_high, y_low, y_high), index, style)
        if self.ylabel:
            yield Text(self.ylabel, style="dim")
        labels = {0: ticks[0], self.height // 2: ticks[1], self.height - 1: ticks[2]}
        for i, row in enumerate(grid):
            line = Text(labels.get(i, "").rjust(margin - 2) + " │", style="dim", no_wrap=True)
            for character, style in row:
                line.append(character, style + Style(dim=False))
            yield line
        left, right = (number(self._back(value, self.logx)) for value in (x_low, x_high))
        yield Text(" " * (margin - 1) + "└" + "─" * width, style="dim")
        middle = self.xlabel.center(max(0, width - len(left) - len(right)))
        yield Text(" " * margin + left + middle + right, style="dim", no_wrap=True)
        key = Text(" " * margin)
        for index, name in enumerate(points):
            colour = COLOURS[index % len(COLOURS)] if _coloured(console) else ""
            key.append(f"{MARKERS[index % len(MARKERS)]} ", colour)
            key.append(f"{name}   ")
        yield key

    def _finite(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(divide="ignore", invalid="ignore"):
            x = np.log10(x) if self.logx else x
            y = np.log10(y) if self.logy else y
        known = np.isfinite(x) & np.isfinite(y)
        return x[known], y[known]

    @staticmethod
    def _back(value: float, log: bool) -> float:
        return float(10**value if log else value)

    def _draw(
        self,
        grid: list[list[tuple[str, Style]]],
        x: np.ndarray,
        y: np.ndarray,
        window: tuple[float, float, float, float],
        index: int,
        style: Style,
    ) -> None:
        """Dots along the straight pieces first, then a marker at each point (at most one in 3 columns)."""
        x_low, x_high, y_low, y_high = window
        height, width = len(grid), len(grid[0])
        columns = (x - x_low) / (x_high - x_low or 1.0) * (width - 1)
        lines = (y_high - y) / (y_high - y_low or 1.0) * (height - 1)
        order = np.argsort(columns, kind="stable")
        columns, lines = columns[order], lines[order]
        for start in range(len(columns) - 1):
            steps = int(max(abs(columns[start + 1] - columns[start]), 1))
            for step in range(steps + 1):
                share = step / steps
                column = round(columns[start] + share * (columns[start + 1] - columns[start]))
                line = round(lines[start] + share * (lines[start + 1] - lines[start]))
                if grid[line][column][0] == " ":
                    grid[line][column] = ("·", style)
        last = -math.inf
        for column, line in zip(columns, lines):
            if column - last >= 3 or len(columns) * 3 <= width:
                grid[round(line)][round(column)] = (MARKERS[index % len(MARKERS)], style)
                last = column


@dataclass
class Bars:
    """Horizontal bars with their numbers."""

    values: Mapping[str, float]
    title: str = ""
    unit: str = ""
    high: float | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield Text(self.title, style="bold")
        if not self.values:
            return
        names = {name: str(name)[:24] for name in self.values}
        margin = max(map(len, names.values())) + 1
        unit = f" {self.unit}" if self.unit else ""
        numbers = {name: number(float(value)) + unit for name, value in self.values.items()}
        room = max(8, min(60, options.max_width - margin - max(map(len, numbers.values())) - 2))
        known = [abs(float(value)) for value in self.values.values() if math.isfinite(value)]
        high = self.high or max(known, default=1.0) or 1.0
        for name, value in self.values.items():
            size = abs(float(value)) if math.isfinite(value) else 0.0
            eighths = round(min(size / high, 1.0) * room * 8)
            bar = "█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")
            line = Text(names[name].rjust(margin - 1) + " ", no_wrap=True)
            line.append(bar, COLOURS[0] if _coloured(console) else "")
            line.append(f" {numbers[name]}")
            yield line


def heat(
    matrix: Any,
    rows: Sequence[str] | None = None,
    cols: Sequence[str] | None = None,
    title: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
) -> Heat:
    """A matrix (rows cols) for the terminal; large ones are pooled to fit. NaN is blank."""
    return Heat(np.asarray(matrix), rows, cols, title, low, high)


def as_series(series: Any, x: Any = None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Brings what `lines` takes into one form: name → (xs, ys).

    `series` maps names to ys (over the common `x`, or 0, 1, …) or to pairs (xs, ys); a bare sequence of
    numbers is one series.
    """
    if not isinstance(series, Mapping):
        series = {"": series}
    result = {}
    for name, values in series.items():
        if isinstance(values, tuple) and len(values) == 2 and np.ndim(values[0]) == 1:
            xs, ys = values
        else:
            ys = values
            xs = np.arange(len(ys)) if x is None else x
        xs, ys = np.asarray(xs, dtype=float), np.asarray(ys, dtype=float)
        if xs.shape != ys.shape or xs.ndim != 1:
            raise ValueError(f"series {name!r}: x has shape {xs.shape}, y has shape {ys.shape}")
        result[str(name)] = (xs, ys)
    return result


def lines(
    series: Any,
    x: Any = None,
    *,
    logx: bool = False,
    logy: bool = False,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
) -> Lines:
    """A line plot for the terminal; `series` maps names to ys, or to (xs, ys)."""
    return Lines(as_series(series, x), logx, logy, title, xlabel, ylabel)


def bars(
    values: Mapping[str, float], title: str = "", *, unit: str = "", high: float | None = None
) -> Bars:
    """Horizontal bars for the terminal; `high` is the value of a full bar."""
    return Bars(dict(values), title, unit, high)
