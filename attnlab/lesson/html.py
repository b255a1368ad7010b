"""One self-contained HTML page a lesson: no script, no request, light and dark, wide and narrow, print."""

from __future__ import annotations

import base64
import io
import re
from functools import singledispatch
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound
from rich.console import Console

from attnlab.lesson import pieces, runner, terminal
from attnlab.lesson.document import document

VERDICT_CLASS = {
    "holds": "holds",
    "does not show": "shows-not",
    "control did not fail": "no-control",
    "not tried": "untried",
}


def code(text: str, language: str = "python", first_line: int | None = None, mark: int = 0) -> str:
    """A highlighted block; without a known language, plain."""
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return f"<pre><code>{escape(text)}</code></pre>\n"
    formatter = HtmlFormatter(
        nowrap=True,
        linenos="inline" if first_line is not None else False,
        linenostart=first_line or 1,
        hl_lines=[mark - (first_line or 1) + 1] if mark else [],
    )
    body = highlight(text, lexer, formatter).rstrip("\n")
    if first_line is not None:  # nowrap leaves line numbers out, so they are written here
        wide = len(str(first_line + text.count("\n")))
        rows = body.split("\n")
        body = "\n".join(
            f'<span class="linenos">{first_line + i:>{wide}}</span>{row}'
            for i, row in enumerate(rows)
        )
    return f'<pre tabindex="0"><code>{body}</code></pre>\n'


def _fence(self: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    language = tokens[index].info.strip()
    text = tokens[index].content.rstrip("\n")
    if language == "math":
        return f'<pre class="math" role="math">{escape(text)}</pre>\n'
    return code(text, language or "text")


_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
_MARKDOWN.add_render_rule("fence", _fence)


def markdown(text: str) -> str:
    """CommonMark with tables; raw HTML is shown, not passed on; remote pictures become links."""
    html = _MARKDOWN.render(text)
    html = re.sub(r'<img src="(?!data:)([^"]*)" alt="([^"]*)"[^>]*>', r'<a href="\1">\2</a>', html)
    return html.replace("<table>", '<div class="scroll"><table>').replace(
        "</table>", "</table></div>"
    )


@singledispatch
def fragment(piece: Any) -> str:
    raise TypeError(f"{type(piece).__name__} has no HTML form")


@fragment.register
def _(piece: pieces.Printed) -> str:
    return f'<pre class="out" tabindex="0">{escape(piece.text.rstrip())}</pre>\n'


@fragment.register
def _(piece: pieces.Rendered) -> str:
    if not hasattr(piece.renderable, "__rich_console__") and not hasattr(
        piece.renderable, "__rich__"
    ):
        return (
            f'<pre class="out" tabindex="0">{escape(terminal.describe(piece.renderable))}</pre>\n'
        )
    console = Console(
        file=io.StringIO(), record=True, width=88, force_terminal=True, color_system="truecolor",
        no_color=False, highlight=False,
    )  # fmt: skip
    console.print(piece.renderable)
    body = console.export_html(inline_styles=True, code_format="{code}")
    return f'<pre class="art" tabindex="0">{body.rstrip()}</pre>\n'


def _data_uri(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


@fragment.register
def _(piece: pieces.Picture) -> str:
    image = f'<img src="{_data_uri(piece.data, piece.mime)}" alt="{escape(piece.alt)}">'
    if piece.dark is not None:
        dark = f'<source srcset="{_data_uri(piece.dark, piece.mime)}" '
        dark += 'media="screen and (prefers-color-scheme: dark)">'
        image = f"<picture>{dark}{image}</picture>"
    return f"<figure>{image}<figcaption>{markdown(piece.caption)}</figcaption></figure>\n"


@fragment.register
def _(piece: pieces.Table) -> str:
    numeric = pieces.numeric_columns(piece)
    kinds = [' class="number"' if flag else "" for flag in numeric]
    head = "".join(
        f'<th scope="col"{kind}>{escape(str(column))}</th>'
        for kind, column in zip(kinds, piece.columns)
    )
    rows = (
        "".join(f"<td{kind}>{escape(pieces.short(item))}</td>" for kind, item in zip(kinds, row))
        for row in piece.rows
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    caption = f"<caption>{escape(piece.title)}</caption>" if piece.title else ""
    table = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>\n'


@fragment.register
def _(piece: pieces.Listing) -> str:
    return f'<p class="label">{escape(piece.caption)}</p>\n' + code(
        piece.code, first_line=piece.first_line
    )


@fragment.register
def _(piece: pieces.Prediction) -> str:
    choices = "".join(f"<li>{escape(choice)}</li>" for choice in piece.choices)
    answer = f"{chr(97 + piece.answer)}) {piece.choices[piece.answer]}"
    return (
        f'<div class="box predict"><p class="label">Predict</p><p>{escape(piece.question)}</p>'
        f"<ol>{choices}</ol><details><summary>Show the answer</summary>"
        f"<p><strong>{escape(answer)}</strong></p>{markdown(piece.because)}</details></div>\n"
    )


@fragment.register
def _(piece: pieces.Claim) -> str:
    rows = [
        (f"expected ({pieces.ORIGIN[piece.source]})", pieces.short(piece.expected)),
        ("seen here", pieces.short(piece.seen)),
    ]
    if piece.control is not None:
        fate = "failed, as it must" if piece.control.failed else "did not fail"
        seen = pieces.short(piece.control.seen)
        rows.append(("control", f"{piece.control.statement}: {fate} (seen: {seen})"))
    if piece.note:
        rows.append(("note", piece.note))
    return _claim_box(piece, rows)


@fragment.register
def _(piece: pieces.Untried) -> str:
    return _claim_box(piece, [("from", pieces.ORIGIN[piece.source]), ("why not", piece.reason)])


def _claim_box(piece: pieces.Claim | pieces.Untried, rows: list[tuple[str, str]]) -> str:
    mark = terminal.VERDICTS[piece.verdict][0]
    items = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in rows)
    return (
        f'<div class="box claim {VERDICT_CLASS[piece.verdict]}">'
        f'<p class="label">{mark} Claim {escape(piece.id)}: {piece.verdict}</p>'
        f"<p>{escape(piece.statement)}</p><dl>{items}</dl></div>\n"
    )


@fragment.register
def _(piece: pieces.Exercise) -> str:
    title = f'<p class="label">Your turn: {escape(piece.name)}</p>'
    return f'<div class="box holds">{title}{markdown(piece.text)}</div>\n'


@fragment.register
def _(piece: pieces.Failure) -> str:
    trail = "".join(f"<br>{escape(step)}" for step in piece.trail)
    place = f"{piece.file}:{piece.line}" if piece.line else piece.file
    return (
        '<div class="box shows-not"><p class="label">This cell stopped with an error</p>'
        f"<p><strong>{escape(piece.kind)}</strong>: {escape(piece.message)}</p>"
        + code(piece.code, first_line=piece.first_line, mark=piece.line or 0)
        + f'<p class="label">{escape(place)}{trail}</p></div>\n'
    )


def _anchor(title: str) -> str:
    return re.sub(r"[^\w]+", "-", title.lower()).strip("-")


def _contents(body: str) -> tuple[str, str]:
    """Gives second-level headings an anchor, and lists them where there are several."""
    titles: list[tuple[str, str]] = []

    def name(match: re.Match[str]) -> str:
        plain = re.sub(r"<[^>]+>", "", match[1])
        titles.append((f"{_anchor(plain)}-{len(titles) + 1}", plain))
        return f'<h2 id="{titles[-1][0]}">{match[1]}</h2>'

    body = re.sub(r"<h2>(.*?)</h2>", name, body)
    if len(titles) < 3:
        return body, ""
    items = "".join(f'<li><a href="#{anchor}">{title}</a></li>' for anchor, title in titles)
    return body, f'<nav aria-label="Contents"><ol>{items}</ol></nav>\n'


def _claims(claims: list[pieces.Claim | pieces.Untried]) -> str:
    rows = []
    for claim in claims:
        tried = isinstance(claim, pieces.Claim)
        expected = pieces.short(claim.expected) if isinstance(claim, pieces.Claim) else "–"
        seen = pieces.short(claim.seen) if isinstance(claim, pieces.Claim) else claim.reason
        origin = pieces.ORIGIN[claim.source]
        mark, kind = terminal.VERDICTS[claim.verdict][0], VERDICT_CLASS[claim.verdict]
        cells = (claim.id, claim.statement, f"{expected} ({origin})" if tried else origin, seen)
        rows.append(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            + f'<td class="{kind}">{mark} {claim.verdict}</td></tr>'
        )  # fmt: skip
    head = "".join(
        f'<th scope="col">{c}</th>' for c in ("id", "claim", "expected", "seen", "verdict")
    )
    return (
        '<h2>The claims of this lesson</h2><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>\n"
    )


def page(run: runner.Run) -> str:
    """The whole page of a run."""
    parts: list[str] = []
    for ran in run.cells:
        if ran.cell.markdown:
            parts.append(markdown(ran.cell.text))
            continue
        shown = runner.shown(ran.cell)
        block = code(shown) if shown else ""
        if shown and ran.cell.hides_code:
            block = f"<details><summary>Show the code</summary>{block}</details>"
        parts.append(block)
        parts += [fragment(piece) for piece in ran.pieces]
        if ran.seconds >= 0.1:
            parts.append(f'<p class="time">{ran.seconds:.1f} s</p>\n')
    if run.session.claims:
        parts.append(_claims(run.session.claims))
    body, contents = _contents("".join(parts))
    head, separator, tail = body.partition("</h1>")
    body = head + separator + contents + tail if separator else contents + body
    facts = f"attnlab lesson {run.lesson.name}, seed {run.session.seed}"
    facts += ", quick" if run.session.quick else ""
    foot = f"<footer>{escape(facts)}; ran in {run.seconds:.1f} s.</footer>\n"
    return document(run.lesson.title, body + foot)
