"""Explanations as one self-contained HTML page: no script, no request, light and dark, print."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from jaxtyping import Float

from attnlab.explain import heatmap
from attnlab.explain.examine import Examined
from attnlab.explain.faithfulness import METRICS
from attnlab.explain.registry import METHODS
from attnlab.explain.report import ARROWS, chances, guesses, rows
from attnlab.lesson.document import document

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#7a7a7a")
DASHES = ("", "7 3", "2 3", "7 3 2 3")
CSS = (
    heatmap.CSS
    + """table.matrix td { text-align: center; padding: .25em .5em; border: 0; font-size: .8rem; }
table.matrix th { border: 0; padding: .2em .6em .2em 0; font-weight: 500; }
table.matrix thead th { writing-mode: vertical-rl; transform: rotate(180deg); padding: .3em; }
svg text { fill: var(--ink); font: 11px system-ui, sans-serif; } svg .axis { stroke: var(--soft); }
main { max-width: 72rem; } p { max-width: 50rem; } td.number, td:first-child { white-space: nowrap; }
figure svg { max-width: 100%; height: auto; }
tr.floor { color: var(--soft); font-style: italic; }
"""
)


def page(title: str, body: str, foot: str) -> str:
    """The document around a body, in the style of the lessons' pages."""
    whole = f"<h1>{escape(title)}</h1>\n{body}<footer>{escape(foot)}</footer>\n"
    return document(title, whole, CSS)


def table(
    columns: Sequence[str],
    cells: Iterable[Sequence[str]],
    caption: str = "",
    floor: str = "",
) -> str:
    """A table of escaped cells; the first column is text, the others numbers. `floor`: a dimmed row."""
    head = "".join(
        f'<th scope="col"{" class=number" if i else ""}>{escape(c)}</th>'
        for i, c in enumerate(columns)
    )
    body = ""
    for row in cells:
        kind = ' class="floor"' if floor and row[0] == floor else ""
        body += f"<tr{kind}>" + "".join(
            f'<td{" class=number" if i else ""}>{escape(c)}</td>' for i, c in enumerate(row)
        ) + "</tr>\n"  # fmt: skip
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>\n'


def matrix(names: Sequence[str], values: Float[np.ndarray, "m m"], caption: str) -> str:
    """A symmetric matrix of correlations as coloured cells; blue below zero, orange above."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = ""
    for i, name in enumerate(names):
        body += f'<tr><th scope="row">{escape(name)}</th>'
        for j in range(len(names)):
            value = float(values[i, j])
            if math.isnan(value):
                body += "<td>–</td>"
                continue
            place = heatmap.step(value)
            colours = heatmap.FOR if value > 0 else heatmap.AGAINST
            style = f' style="background:{colours[place]};color:#000"' if place >= 0 else ""
            body += f"<td{style}>{value:.2f}</td>"
        body += "</tr>\n"
    return (
        f'<div class="scroll"><table class="matrix"><caption>{escape(caption)}</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>\n"
    )


def lines(
    series: dict[str, Float[np.ndarray, "points"]], xlabel: str, ylabel: str, title: str
) -> str:
    """Curves over equal steps from 0 to 1 as an SVG; told apart by colour and dashes."""
    wide, tall, left, top = 560, 300, 46, 12
    values = np.concatenate([v[np.isfinite(v)] for v in series.values()] or [np.zeros(1)])
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0)) or 1.0

    def at(x: float, y: float) -> str:
        return f"{left + x * wide:.1f},{top + (high - y) / ((high - low) or 1.0) * tall:.1f}"

    drawn, key = "", ""
    for index, (name, curve) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        dash = DASHES[index // len(COLOURS) % len(DASHES)]
        xs = np.linspace(0, 1, len(curve))
        points = " ".join(at(x, y) for x, y in zip(xs, curve) if math.isfinite(y))
        line = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
        drawn += f'<polyline points="{points}" {line}/>'
        y = top + 8 + 17 * index
        key += f'<path d="M{left + wide + 16} {y} h22" {line}/>'
        key += f'<text x="{left + wide + 44}" y="{y + 4}">{escape(name)}</text>'
    ticks = "".join(
        f'<text x="{left - 6}" y="{top + (high - v) / ((high - low) or 1.0) * tall + 4:.1f}" text-anchor="end">{v:.2f}</text>'
        for v in np.linspace(low, high, 4)
    )
    tall_all = max(top + tall + 40, top + 17 * len(series) + 10)
    return (
        f'<figure><svg viewBox="0 0 {left + wide + 220} {tall_all}" role="img" aria-label="{escape(title)}">'
        f'<path class="axis" fill="none" d="M{left} {top} V{top + tall} H{left + wide}"/>{ticks}'
        f'<text x="{left}" y="{top + tall + 16}">0</text><text x="{left + wide}" y="{top + tall + 16}" text-anchor="end">1</text>'
        f'<text x="{left + wide / 2}" y="{top + tall + 32}" text-anchor="middle">{escape(xlabel)}</text>'
        f"{drawn}{key}</svg><figcaption>{escape(title)}; up: {escape(ylabel)}.</figcaption></figure>\n"
    )


def examined(one: Examined) -> str:
    """One text's page."""
    explained = one.explained
    body = (
        f"<p>Prediction: <strong>{escape(one.labels[explained.predicted])}</strong> ({escape(chances(one))}). "
        f"Explained: the {one.output} of {escape(one.label)}; baseline: the padding token.</p>\n"
        f"<p>Attention map: {escape(one.attention_map)}.</p>\n<h2>Heat maps</h2>\n"
    )
    body += "".join(heatmap.html(explained.text.tokens, row) for row in rows(one))
    body += "<p>Orange: for the class, blue: against it; each row by its own largest score.</p>\n"
    if one.words:
        body += "<h2>In words</h2>\n" + "".join(
            f"<p>{escape(METHODS[name].title)}: {escape(sentence)}</p>\n"
            for name, sentence in one.words.items()
        )
        body += f"<p>{escape(guesses(one))}.</p>\n"
    titles = [METHODS[name].title for name in one.methods]
    body += "<h2>Agreement</h2>\n"
    for measure, values in one.agreement.items():
        body += matrix(titles, values, measure.replace("_", " "))
    columns = ["method", *(f"{METRICS[m].title} {ARROWS[METRICS[m].better]}" for m in METRICS)]
    columns += ["max-sensitivity ↓", "ρ with random weights", "completeness gap", "ms"]
    cells = [
        [
            METHODS[name].title,
            *(short(one.faithful[name][m]) for m in METRICS),
            *(short(v.get(name, math.nan)) for v in (one.sensitive, one.changed)),
            short(a.gap if a.gap is not None else math.nan),
            f"{explained.seconds[name] * 1e3:.3g}",
        ]
        for name, a in explained.attributions.items()
    ]
    body += "<h2>Faithfulness</h2>\n" + table(
        columns, cells, f"tokens removed by the rule {one.replacement}", METHODS["random"].title
    )
    return page(f"“{one.text}”", body, f"attnlab explain, seed {one.seed}; {one.seconds:.2f} s")


def short(value: float) -> str:
    """Three digits, a dash for what is undefined."""
    return "–" if math.isnan(value) else f"{value:.3g}"
