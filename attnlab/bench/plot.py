"""Time and memory over n, log-log: a picture for files, and one made of characters."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from attnlab.bench.records import Point, Results

# Okabe and Ito's colours; a series' path is told by the dashes and the marker, too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
PATHS = {"numba": ("-", "o"), "torch": ("--", "^"), "numpy": (":", "s"), "cuda": ("-.", "D")}
SUFFIXES = (".png", ".svg", ".pdf")
CROWDED = 10  # series, on a terminal
INK = "#1f2428"


def series(results: Results) -> dict[str, list[Point]]:
    """Label -> measured points by n."""
    found: dict[str, list[Point]] = {}
    for target, backend in dict.fromkeys(p.series for p in results.points if p.measured):
        points = [p for p in results.of(target, backend) if p.measured]
        found[f"{_name(points[0], results)} · {backend}"] = points
    return found


def _name(point: Point, results: Results) -> str:
    """As short as the run allows: operations are named only where an exhibit has several in it."""
    same = {p.operation for p in results.points if p.exhibit == point.exhibit}
    both = {
        p.causal
        for p in results.points
        if (p.exhibit, p.operation) == (point.exhibit, point.operation)
    }
    name = point.exhibit if len(same) == 1 else f"{point.exhibit} {point.operation}"
    return f"{name} (causal)" if point.causal and len(both) > 1 else name


def terminal(results: Results) -> Any:
    """A log-log plot for the terminal, or None with fewer than two sizes."""
    from attnlab.draw import lines

    shown = series(results)
    title = ""
    if len(shown) > CROWDED:  # one path then; the picture in a file shows all
        first = next(iter(shown)).rsplit(" · ", 1)[1]
        backend = "numba" if any(label.endswith("· numba") for label in shown) else first
        title = f"{backend} only (--plot FILE draws all)"
        shown = {k: v for k, v in shown.items() if k.endswith(f"· {backend}")}
    alone = len({label.rsplit(" · ", 1)[1] for label in shown}) == 1
    names = {k: k.rsplit(" · ", 1)[0] if alone else k.replace(" · ", "·") for k in shown}
    data = {
        names[label]: (np.array([p.n for p in points]), np.array([p.median * 1e3 for p in points]))
        for label, points in shown.items()
    }
    if len({n for xs, _ in data.values() for n in xs}) < 2:
        return None
    return lines(
        data, logx=True, logy=True, title=title, xlabel="n", ylabel="median ms of one call"
    )


def save(results: Results, path: Path) -> None:
    """Writes a PNG, SVG or PDF by the path's suffix. Raises ValueError where nothing was measured."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    data = series(results)
    if not data:
        raise ValueError("nothing was measured")
    style = {
        "font.size": 9,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "attnlab",
    }
    peaks = any((p.peak or 0) >= 2**20 for points in data.values() for p in points)
    with plt.rc_context(style):
        figure, axes = plt.subplots(
            1,
            2 if peaks else 1,
            figsize=(10.5 if peaks else 6.8, 4.6),
            layout="constrained",
            squeeze=False,
        )
        look = _looks(data)
        time_axis = axes[0, 0]
        for label, points in data.items():
            low, high = np.array([p.quantiles() for p in points]).T * 1e3
            ns = [p.n for p in points]
            colour, dashes, marker = look[label]
            time_axis.plot(
                ns,
                [p.median * 1e3 for p in points],
                dashes,
                marker=marker,
                color=colour,
                label=label,
                markersize=4,
                linewidth=1.5,
            )
            time_axis.fill_between(ns, low, high, color=colour, alpha=0.2, linewidth=0)
        _dress(time_axis, data, "median time of one call, ms (band: p20–p80)")
        if peaks:
            for label, points in data.items():
                seen = [p for p in points if (p.peak or 0) >= 2**20]
                colour, dashes, marker = look[label]
                axes[0, 1].plot(
                    [p.n for p in seen],
                    [(p.peak or 0) / 2**20 for p in seen],
                    dashes,
                    marker=marker,
                    color=colour,
                    markersize=4,
                    linewidth=1.5,
                )
            _dress(axes[0, 1], data, "peak memory of one call, MiB (from 1 MiB on)")
        handles, labels = time_axis.get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=min(4 if peaks else 3, len(labels)),
            frameon=False,
            fontsize=8,
            handlelength=3,
        )
        machine = results.machine
        figure.suptitle(
            f"{machine.cpu}, {machine.threads} threads, {results.settings.dtype}", fontsize=9
        )
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=160, metadata=metadata)
        plt.close(figure)


def _looks(labels: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Colour by operation, dashes and marker by path; beyond seven operations, thinner colours repeat
    with another marker."""
    labels = list(labels)
    names = list(dict.fromkeys(label.rsplit(" · ", 1)[0] for label in labels))
    again = ("", "v", "P", "X", "d", "<", ">", "*", "h", "p")
    looks = {}
    for label in labels:
        name, backend = label.rsplit(" · ", 1)
        lap, place = divmod(names.index(name), len(COLOURS))
        dashes, marker = PATHS[backend]
        looks[label] = (COLOURS[place], dashes, again[lap % len(again)] or marker)
    return looks


def _dress(axis: Any, data: dict[str, list[Point]], title: str) -> None:
    from matplotlib.ticker import (
        FixedLocator,
        FuncFormatter,
        LogLocator,
        NullFormatter,
        NullLocator,
    )

    ns = sorted({p.n for points in data.values() for p in points})
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    every = -(-len(ns) // 8)
    axis.xaxis.set_major_locator(FixedLocator(ns[::every]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    low, high = axis.get_ylim()
    narrow = high / low < 300  # fewer than about two decades: 1, 2, 5 are labelled, too
    axis.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if narrow else (1,), numticks=15))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axis.grid(True, which="major", linewidth=0.5, color="#d3d7dc")
    axis.set_xlim(ns[0] / 1.15, ns[-1] * 1.15)
    axis.set_xlabel("n")
    axis.set_title(title, fontsize=9, loc="left")
