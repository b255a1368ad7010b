"""What the pages are made of: escaped tables, histograms, marks that need no colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape as _escape

from attnlab.course.outputs.text import number, plain

CSS = """:root { --bar: #0072b2; } @media (prefers-color-scheme: dark) { :root { --bar: #56b4e9; } }
main { max-width: 72rem; } p, .box { max-width: 52rem; }
table { font-size: .84rem; } th[scope=row] { font-weight: 500; border-bottom: 1px solid var(--line);
  position: sticky; left: 0; background: var(--paper); overflow-wrap: anywhere; min-width: 9rem; max-width: 16rem;
  vertical-align: top; padding-top: .3em; }
td { overflow-wrap: anywhere; min-width: 8rem; }
td.number, td.mark { white-space: nowrap; overflow-wrap: normal; min-width: 0; }
td.passed { color: var(--good); } td.wrong { color: var(--bad); } td.other { color: var(--warn); }
svg { display: block; max-width: 100%; height: auto; } svg rect { fill: var(--bar); }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; } svg path { stroke: var(--soft); fill: none; }
svg.small { width: 8rem; } figure { margin: 1em 0; }
.figures { display: flex; flex-wrap: wrap; gap: .4em 2.2em; margin: 1em 0; padding: 0; list-style: none;
  font-family: system-ui, sans-serif; font-size: .9rem; } .figures b { display: block; font-size: 1.35rem; }
.box dl { display: grid; grid-template-columns: max-content 1fr; gap: .15em 1em; margin: .5em 0; font-size: .92rem; }
.box dt { color: var(--soft); max-width: 16rem; overflow-wrap: anywhere; } .box dd { margin: 0; overflow-wrap: anywhere; } .box p { margin: .4em 0; }
.box.failed { border-left-color: var(--bad); } .box.failed .label { color: var(--bad); }
.box.other { border-left-color: var(--warn); } .box.other .label { color: var(--warn); }
details.box { padding: .4em 1.1em; margin: .7em 0; } .box summary.label { margin: .2em 0; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1em; } .pair > div { min-width: 0; }
.pair pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .72rem; }
mark { background: color-mix(in srgb, var(--bar) 22%, transparent); color: inherit; display: block; }
@media (max-width: 40rem) { .pair { grid-template-columns: 1fr; } th[scope=row] { min-width: 7.5rem; max-width: 8rem; } }
"""

MARKS = {"passed": "✓", "graded": "✓", "wrong": "✗", "not run": "–", "not graded": "–"}


def escape(value: object) -> str:
    return _escape(plain(value))


def status(word: str) -> str:
    """A table cell: a mark and the word, coloured besides."""
    kind = {"passed": "passed", "graded": "passed", "wrong": "wrong"}.get(word, "other")
    return f'<td class="mark {kind}">{MARKS.get(word, "!")} {escape(word)}</td>'


def cell(value: object) -> str:
    """A table cell; numbers are aligned, what is HTML already comes as `Html`."""
    if isinstance(value, Html):
        return str(value) if value.startswith("<td") else f"<td>{value}</td>"
    if isinstance(value, int | float):
        return f'<td class="number">{number(value, 2 if abs(value) >= 1 else 4)}</td>'
    return f"<td>{escape(value)}</td>"


class Html(str):
    """Text that is HTML already."""


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], caption: str) -> str:
    """A table whose first column heads the rows; it scrolls in itself on a narrow screen."""
    kept = [list(row) for row in rows]
    numeric = [
        any(isinstance(r[i], int | float) for r in kept) if kept else False
        for i in range(len(columns))
    ]
    head = "".join(
        f'<th scope="col"{" class=number" if right else ""}>{escape(c)}</th>'
        for c, right in zip(columns, numeric)
    )
    body = "".join(
        f'<tr><th scope="row">{row[0] if isinstance(row[0], Html) else escape(row[0])}</th>'
        + "".join(cell(v) for v in row[1:]) + "</tr>\n"
        for row in kept
    )  # fmt: skip
    return (
        f'<div class="scroll" tabindex="0"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n"
    )


def bins(shares: Sequence[float], count: int = 10) -> list[int]:
    """How many percentages fall into each tenth; 100 belongs to the last."""
    found = [0] * count
    for share in shares:
        found[min(count - 1, max(0, int(share * count / 100 + 1e-9)))] += 1
    return found


def histogram(shares: Sequence[float], caption: str) -> str:
    """Percentages in tenths as an SVG figure, told in words, too."""
    counts = bins(shares)
    top, tall, wide = max([*counts, 1]), 160, 52
    bars = ""
    for i, count in enumerate(counts):
        high = tall * count / top
        x, y = 10 + i * wide, 20 + tall - high
        bars += f'<rect x="{x}" y="{y:.1f}" width="{wide - 6}" height="{high:.1f}"/>'
        if count:
            bars += (
                f'<text x="{x + wide / 2 - 3}" y="{y - 5:.1f}" text-anchor="middle">{count}</text>'
            )
        bars += f'<text x="{x - 3}" y="{tall + 38}" text-anchor="middle">{10 * i}</text>'
    bars += f'<text x="{7 + 10 * wide}" y="{tall + 38}" text-anchor="middle">100 %</text>'
    words = f"{caption}: {_words(counts)}"
    return (
        f'<figure><svg viewBox="-6 0 {10 * wide + 44} {tall + 46}" width="{10 * wide + 44}" role="img" '
        f'aria-label="{escape(words)}"><path d="M7 {tall + 20.5} h{10 * wide}"/>{bars}</svg>'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def small(shares: Sequence[float], label: str) -> Html:
    """The same in a table's cell."""
    counts = bins(shares)
    top = max([*counts, 1])
    bars = "".join(
        f'<rect x="{i * 10}" y="{28 - 26 * c / top:.1f}" width="8" height="{26 * c / top:.1f}"/>'
        for i, c in enumerate(counts)
    )
    return Html(
        f'<svg class="small" viewBox="0 0 100 30" role="img" aria-label="{escape(label)}: '
        f'{_words(counts)}"><path d="M0 28.5 h98"/>{bars}</svg>'
    )


def _words(counts: Sequence[int]) -> str:
    parts = [f"{c} from {10 * i} to {10 * i + 10} %" for i, c in enumerate(counts) if c]
    return ", ".join(parts) or "none"


def figures(pairs: Iterable[tuple[str, object]]) -> str:
    """A row of large figures with what they count."""
    items = "".join(f"<li><b>{escape(v)}</b>{escape(k)}</li>" for k, v in pairs)
    return f'<ul class="figures">{items}</ul>\n'


def rows(pairs: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs) + "</dl>"
