"""The same pictures as draw.py, in matplotlib: for HTML pages and notebooks.

Colours are Okabe and Ito's, heat maps are cividis. Each function draws on `ax` or makes a figure, leaves
the terminal form beside it, and returns the figure. Import this module inside lessons only: it is
matplotlib's one door (`Agg`, set by attnlab.lesson).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from rich.console import Group

from attnlab import draw
from attnlab.lesson.pieces import Mime

# Ink and paper are exchanged for the dark page, so every line of text and every frame uses INK.
INK, PAPER, GRID = "#1f2428", "#fefefe", "#d3d7dc"
DARK = {INK: "#e3e7eb", PAPER: "#16191d", GRID: "#3b424a"}
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#999999")
MARKERS = ("o", "^", "s", "D", "X", "v", "P")
STYLE: dict[str, Any] = {
    "axes.prop_cycle": cycler(color=PALETTE, marker=MARKERS),
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.facecolor": PAPER,
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "figure.facecolor": PAPER,
    "figure.figsize": (6.4, 3.6),
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.markersize": 4.5,
    "lines.linewidth": 1.6,
    "image.cmap": "cividis",
    "image.interpolation": "none",
    "savefig.facecolor": PAPER,
    "svg.hashsalt": "attnlab",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
mpl.rcParams.update(STYLE)
LARGEST_SVG = 400_000  # bytes; beyond, a raster picture is the smaller one


def subplots(*args: Any, **kwargs: Any) -> tuple[Figure, Any]:
    """plt.subplots in the lessons' style."""
    return plt.subplots(*args, **kwargs)


def _axes(ax: Axes | None, **kwargs: Any) -> tuple[Figure, Axes]:
    if ax is not None:
        figure = ax.get_figure(root=True)
        assert figure is not None
        return figure, ax
    return plt.subplots(**kwargs)


def heat(
    matrix: Any,
    rows: Sequence[str] | None = None,
    cols: Sequence[str] | None = None,
    title: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    xlabel: str = "",
    ylabel: str = "",
    ax: Axes | None = None,
) -> Figure:
    """A matrix (rows cols) as a heat map with its colour bar. NaN is blank."""
    matrix = np.atleast_2d(np.asarray(matrix, dtype=float))
    tall, wide = matrix.shape
    size = (6.0, float(np.clip(6.0 * tall / wide, 1.8, 6.0)))
    figure, ax = _axes(ax, figsize=size)
    image = ax.imshow(matrix, vmin=low, vmax=high, aspect="equal" if tall * 8 > wide else "auto")
    if rows is not None:
        ax.set_yticks(range(tall), [str(row) for row in rows])
    if cols is not None:
        slant = 90 if max((len(str(col)) for col in cols), default=0) > 2 else 0
        ax.set_xticks(range(wide), [str(col) for col in cols], rotation=slant)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    bar = figure.colorbar(image, ax=ax, shrink=0.8)
    bar.outline.set_edgecolor(INK)  # type: ignore[operator]
    _remember(ax, draw.heat(matrix, rows, cols, title, low=low, high=high))
    return figure


def lines(
    series: Any,
    x: Any = None,
    *,
    logx: bool = False,
    logy: bool = False,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    ax: Axes | None = None,
) -> Figure:
    """A line plot; `series` maps names to ys, or to (xs, ys)."""
    figure, ax = _axes(ax)
    data = draw.as_series(series, x)
    for name, (xs, ys) in data.items():
        crowded = len(xs) > 40
        drawn = ax.plot(xs, ys, label=name)[0]
        if crowded:
            drawn.set_marker("")
    if logx:
        ax.set_xscale("log", base=10)
        _name_sizes(ax, np.unique(np.concatenate([xs for xs, _ in data.values()])))
    if logy:
        ax.set_yscale("log", base=10)
    ax.grid(True, linewidth=0.6)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    if any(data):
        ax.legend()
    _remember(ax, draw.Lines(data, logx, logy, title, xlabel, ylabel))
    return figure


def _name_sizes(ax: Axes, sizes: np.ndarray) -> None:
    """A few measured sizes are the best ticks of a logarithmic axis."""
    if len(sizes) > 10 or len(sizes) < 2:
        return
    ax.set_xticks(sizes, [f"{size:g}" for size in sizes])
    ax.minorticks_off()


def bars(
    values: Mapping[str, float],
    title: str = "",
    *,
    unit: str = "",
    high: float | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Horizontal bars with their numbers."""
    figure, ax = _axes(ax, figsize=(6.4, 0.8 + 0.32 * max(2, len(values))))
    names = [str(name) for name in values]
    drawn = ax.barh(names, [float(value) for value in values.values()], color=PALETTE[0])
    suffix = f" {unit}" if unit else ""
    ax.bar_label(drawn, [draw.number(float(v)) + suffix for v in values.values()], padding=3)
    ax.invert_yaxis()
    ax.margins(x=0.12)
    if high is not None:
        ax.set_xlim(right=high * 1.12)
    ax.set_title(title)
    _remember(ax, draw.bars(values, title, unit=unit, high=high))
    return figure


def _remember(ax: Axes, picture: Any) -> None:
    ax.attnlab_terminal = picture  # type: ignore[attr-defined]


def terminal_form(figure: Figure) -> Any:
    """A picture of characters for any figure: what our plots left there, or what its axes hold."""
    pictures = [picture for ax in figure.axes if (picture := _axes_form(ax)) is not None]
    return Group(*pictures) if pictures else "(the picture is in the HTML page: --html FILE)"


def _axes_form(ax: Axes) -> Any:
    if (known := getattr(ax, "attnlab_terminal", None)) is not None:
        return known
    if ax.get_label() == "<colorbar>":
        return None
    title, labels = ax.get_title(), (ax.get_xlabel(), ax.get_ylabel())
    if ax.images:
        values: Any = np.ma.filled(np.ma.asarray(ax.images[0].get_array(), dtype=float), np.nan)
        return draw.heat(values, title=title) if values.ndim == 2 else None
    for drawn in ax.containers:
        if isinstance(drawn, BarContainer):
            upright = drawn.orientation == "vertical"
            sizes = [bar.get_height() if upright else bar.get_width() for bar in drawn]
            axis = ax.xaxis if upright else ax.yaxis
            names = [label.get_text() for label in axis.get_ticklabels()]
            names = names if len(names) == len(sizes) else [str(i) for i in range(len(sizes))]
            return draw.bars(dict(zip(names, sizes)), title)
    if ax.lines:
        data = {
            str(line.get_label()).lstrip("_"): (
                np.asarray(line.get_xdata(), dtype=float),
                np.asarray(line.get_ydata(), dtype=float),
            )
            for line in ax.lines
        }
        log = ax.get_xscale() == "log", ax.get_yscale() == "log"
        return draw.Lines(data, log[0], log[1], title, *labels)
    return None


def save(figure: Figure) -> tuple[bytes, Mime, bytes | None]:
    """The figure's bytes, their MIME type, and its dark form where it has one; the figure is closed."""
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    data = stream.getvalue()
    mime: Mime = "image/svg+xml"
    dark: bytes | None = None
    if len(data) > LARGEST_SVG:
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=144)
        data, mime = stream.getvalue(), "image/png"
    elif not _has_black_text(figure):
        dark = data
        for light, replacement in DARK.items():
            dark = dark.replace(light.encode(), replacement.encode())
    plt.close(figure)
    return data, mime, dark


def _has_black_text(figure: Figure) -> bool:
    """A figure that does not use our ink cannot be turned dark; it keeps its light paper."""
    from matplotlib.text import Text

    texts = figure.findobj(Text)
    return any(mpl.colors.to_hex(t.get_color()) == "#000000" for t in texts if t.get_text())
