"""similarity.csv, similarity.json and the report's part on alike submissions, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attnlab.course.fingerprint import Document
from attnlab.course.outputs import pieces, tables
from attnlab.course.outputs.pieces import Html, escape
from attnlab.course.outputs.text import write
from attnlab.course.similarity import Pair, Similar

SIDE_BY_SIDE = 25  # pairs whose source the report shows
LISTED = 100  # pairs in the report; the files have all
_COLUMNS = (
    "exercise", "first", "second", "shipped path", "share of first", "share of second",
    "fingerprints shared", "lines of first", "lines of second",
)  # fmt: skip
NOTICE = (
    "Alike is not copied: a short formula is written the same way by many. Every pair is for a human "
    "to read. The skeleton counts for nobody, and neither does what a fifth of the class has alike; who copied "
    "a path of attnlab is listed with that path alone."
)


def write_files(similar: Similar, out: Path) -> list[Path]:
    """Every pair, as a table and as JSON with all line ranges."""
    rows: list[Any] = [_COLUMNS]
    for p in similar.pairs:
        owners = [p.exercise, p.first.owner, p.second.owner, "yes" if p.shipped else "no"]
        shares = [round(p.share_first, 3), round(p.share_second, 3), p.shared]
        sides = [_ranges([b.first for b in p.blocks]), _ranges([b.second for b in p.blocks])]
        rows.append([*owners, *shares, *sides])
    document = {"compared": dict(similar.compared), "pairs": [_plain(p) for p in similar.pairs]}
    return [
        write(out / "similarity.csv", tables.render(rows), tables.BOM_UTF8),
        write(out / "similarity.json", json.dumps(document, indent=1) + "\n"),
    ]


def _plain(pair: Pair) -> dict[str, Any]:
    def side(place: tuple[str, int, int]) -> dict[str, Any]:
        return {"file": place[0], "lines": [place[1], place[2]]}

    blocks = [
        {"first": side(b.first), "second": side(b.second), "tokens": b.tokens} for b in pair.blocks
    ]
    return {
        "exercise": pair.exercise,
        "first": pair.first.owner,
        "second": pair.second.owner,
        "shipped": pair.shipped,
        "share_first": round(pair.share_first, 4),
        "share_second": round(pair.share_second, 4),
        "shared": pair.shared,
        "blocks": blocks,
    }


def _ranges(places: list[tuple[str, int, int]]) -> str:
    """Line ranges by file: "a.py 3-9, 12; b.py 1-4"."""
    by_file: dict[str, list[str]] = {}
    for file, first, last in sorted(places):
        by_file.setdefault(file, []).append(f"{first}-{last}" if last > first else f"{first}")
    return "; ".join(f"{file} {', '.join(parts)}" for file, parts in by_file.items())


def section(similar: Similar) -> str:
    """The report's part, as HTML."""
    body = f'<h2 id="similarity">Alike submissions</h2>\n<p>{NOTICE}</p>\n'
    if not similar.pairs:
        return body + f"<p>None among {sum(similar.compared.values())} submissions.</p>\n"
    rows: list[list[object]] = []
    for i, p in enumerate(similar.pairs[:LISTED]):
        name = escape(p.exercise)
        link = Html(f'<a href="#pair-{i}">{name}</a>' if i < SIDE_BY_SIDE else name)
        rows.append(
            [link, p.first.owner, p.second.owner, 100 * p.share_first, 100 * p.share_second]
            + [_ranges([b.first for b in p.blocks[:5]])]
        )
    columns = ["exercise", "first", "second", "% of first", "% of second", "lines of the first"]
    more = len(similar.pairs) - len(rows)
    caption = "Most alike first" + (f"; {more} more in similarity.csv" if more > 0 else "")
    body += pieces.table(columns, rows, caption)
    return body + "".join(_pair(i, p) for i, p in enumerate(similar.pairs[:SIDE_BY_SIDE]))


def _pair(index: int, pair: Pair) -> str:
    title = f"{pair.exercise}: {pair.first.owner} and {pair.second.owner}"
    left = _source(pair.first, [b.first for b in pair.blocks])
    right = _source(pair.second, [b.second for b in pair.blocks])
    return (
        f'<details id="pair-{index}"><summary>{escape(title)} '
        f"({100 * pair.share_first:.0f} %, {100 * pair.share_second:.0f} %)</summary>\n"
        f'<div class="pair"><div>{left}</div><div>{right}</div></div></details>\n'
    )


def _source(document: Document, places: list[tuple[str, int, int]]) -> str:
    """The files in which something is alike; alike lines marked, and numbered with a bar besides."""
    body = f'<p class="label">{escape(document.owner)}</p>'
    for name, text in document.files:
        ranges = [(first, last) for file, first, last in places if file == name]
        if not ranges:
            continue
        lines = text.splitlines()
        alike = {n for first, last in ranges for n in range(first, last + 1)}
        shown = _near(alike, len(lines))
        rows: list[str] = []
        for number in shown:
            if rows and number - 1 not in shown:
                rows.append("…\n")
            line = f"{number:4} {'│' if number in alike else ' '} {lines[number - 1][:400]}"
            rows.append(f"<mark>{escape(line)}</mark>" if number in alike else escape(line) + "\n")
        body += f'<p class="label">{escape(name)}</p><pre tabindex="0">{"".join(rows)}</pre>'
    return body


def _near(alike: set[int], count: int, around: int = 3) -> list[int]:
    """The lines to show: alike ones and a few around them, of a long file not more than needed."""
    near = {m for n in alike for m in range(n - around, n + around + 1)}
    return sorted(n for n in near if 1 <= n <= count)[:400]
