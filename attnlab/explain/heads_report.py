"""The scores of heads as pictures: for the terminal, for a file, for one self-contained page."""

from __future__ import annotations

import io
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from attnlab import draw
from attnlab.explain.heads import KINDS, THRESHOLD, Ablation, HeadScores, retrieval_heads
from attnlab.explain.page import page as document
from attnlab.explain.page import table

TITLES = {
    "retrieval": "retrieval: share of the needle that is copied",
    "induction": "induction: attention on what followed last time",
    "previous": "previous: attention on the token before",
    "sink": "sink: attention on the first token",
    "entropy": "entropy: 0 looks at one key, 1 at all equally",
}
SHOWN = 8  # heads in the table


def terminal(scores: HeadScores, lesions: Ablation | None, why: str = "") -> Iterator[Any]:
    """Rich renderables: the notes, a heat map a score, the top heads, the ablation."""
    yield from notes(scores, why)
    layers, heads = scores.induction.shape
    for kind in KINDS:
        values = scores.of(kind)
        if np.isnan(values).all():
            continue
        high = max(1.0, float(np.nanmax(values)))
        names = [f"layer {layer}" for layer in range(layers)]
        columns = [str(head) for head in range(heads)]
        yield ""
        yield draw.heat(values, names, columns, TITLES[kind], low=0, high=high)
    if scores.counted:
        yield ""
        yield _table(
            ["head", "retrieval", "95 %", "set", "in runs", "induction", "previous"],
            top_rows(scores),
            "The heads that copy most",
        )
    if lesions is not None:
        yield ""
        yield _table(*ablation_table(lesions))
        yield _dim(ablation_note(lesions))


def notes(scores: HeadScores, why: str) -> Iterator[str]:
    """What a reader must know before reading the numbers."""
    if why:
        yield f"No retrieval scores: {why}."
    elif not scores.counted:
        yield (
            f"No retrieval scores: none of {scores.runs} answers held more than half of its needle "
            f"(mean recall {scores.recall})."
        )
    else:
        found = int(retrieval_heads(scores).sum())
        yield (
            f"{scores.counted} of {scores.runs} answers count (recall {scores.recall}). "
            f"{found} of {scores.retrieval.size} heads score at least {THRESHOLD} "
            f"({found / scores.retrieval.size:.1%})."
        )


def top_rows(scores: HeadScores) -> list[list[str]]:
    """The table of the best copying heads."""
    rows = []
    for at in scores.top(min(SHOWN, scores.retrieval.size)):
        layer, head = at
        bounds = f"{scores.low[at]:.2f}–{scores.high[at]:.2f}" if scores.counted > 1 else "–"
        parts = (scores.set, scores.frequency, scores.induction, scores.previous)
        numbers = [f"{part[at]:.2f}" for part in parts]
        rows.append([f"({layer}, {head})", f"{scores.retrieval[at]:.2f}", bounds, *numbers])
    return rows


def ablation_table(lesions: Ablation) -> tuple[list[str], list[list[str]], str]:
    """Columns, rows and title."""
    with_loss = lesions.loss is not None
    columns = ["flattened", "recall without them", "without others", "p"]
    rows = [["none", str(lesions.whole), "", ""]]
    if with_loss:
        columns += ["loss", "others"]
        rows[0] += [f"{lesions.loss:.2f}", ""]
    for cost in lesions.costs:
        names = ", ".join(f"({layer},{head})" for layer, head in cost.heads[:4])
        more = f" +{len(cost.heads) - 4}" if len(cost.heads) > 4 else ""
        row = [
            f"top {cost.k}: {names}{more}",
            str(cost.recall),
            "too few left" if cost.other_recall is None else str(cost.other_recall),
            "" if cost.difference is None else f"{cost.difference.p:.2g}",
        ]
        if with_loss:
            row += [
                "–" if cost.loss is None else f"{cost.loss:.2f}",
                "–" if cost.other_loss is None else f"{cost.other_loss:.2f}",
            ]
        rows.append(row)
    return columns, rows, f"What is left without the top heads by {lesions.kind}"


def ablation_note(lesions: Ablation) -> str:
    where = "while reading the prompt and answering" if lesions.everywhere else "while answering"
    origin = "the same layers" if lesions.same_layers else "any layer"
    text = (
        f"Flattened heads attend uniformly {where}. Others: {lesions.draws} random choices from "
        f"{origin}. Recall: share of the needle in the answer, with a 95 % interval over "
        f"{lesions.whole.n} needles; p: paired sign-flip test of the difference."
    )
    if lesions.loss is not None:
        text += " Loss: nats a token on ordinary text, heads flattened throughout."
    return text


def _table(columns: list[str], rows: list[list[str]], title: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold",
                  pad_edge=False)  # fmt: skip
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _dim(text: str) -> Any:
    from rich.text import Text

    return Text(text, style="dim")


# --- files -----------------------------------------------------------------------------------


def picture(scores: HeadScores, lesions: Ablation | None = None) -> Any:
    """A matplotlib figure: a heat map a score and, with an ablation, recall over flattened heads."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = [kind for kind in KINDS if not np.isnan(scores.of(kind)).all()]
    panels = len(kinds) + (lesions is not None)
    across = min(3, panels)
    down = -(-panels // across)
    figure = Figure(figsize=(3.6 * across, 2.9 * down), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for ax, kind in zip(axes, kinds):
        values = scores.of(kind)
        high = max(1.0, float(np.nanmax(values)))
        image = ax.imshow(values, cmap="cividis", vmin=0, vmax=high, aspect="auto")
        first, _, rest = TITLES[kind].partition(": ")
        ax.set_title(f"{first}\n{rest}", fontsize=9)
        ax.set_xlabel("head")
        ax.set_ylabel("layer")
        for axis, size in ((ax.xaxis, values.shape[1]), (ax.yaxis, values.shape[0])):
            axis.set_ticks(range(0, size, max(1, size // 8)))
        figure.colorbar(image, ax=ax, shrink=0.8)
    if lesions is not None:
        _curves(axes[len(kinds)], lesions)
    for ax in axes[panels:]:
        ax.set_visible(False)
    return figure


def _curves(ax: Any, lesions: Ablation) -> None:
    ks = [0] + [cost.k for cost in lesions.costs]
    top = [lesions.whole] + [cost.recall for cost in lesions.costs]
    some = [(0, lesions.whole)]
    some += [(c.k, c.other_recall) for c in lesions.costs if c.other_recall is not None]
    series = (
        (f"top by {lesions.kind}", ks, top, "#D55E00", "o"),
        ("others", [k for k, _ in some], [m for _, m in some], "#0072B2", "^"),
    )
    for label, xs, means, colour, marker in series:
        ax.plot(xs, [m.value for m in means], color=colour, marker=marker, label=label)
        low, high = [m.low for m in means], [m.high for m in means]
        ax.fill_between(xs, low, high, color=colour, alpha=0.2, linewidth=0)
    ax.set(xlabel="heads flattened", ylabel="recall of the needle", ylim=(-0.03, 1.03))
    ax.set_xticks(ks)
    ax.set_title("ablation", fontsize=9)
    ax.legend(frameon=False, fontsize=8)


def save_picture(path: Path, scores: HeadScores, lesions: Ablation | None) -> None:
    """Write the picture in the format that the file's name says."""
    picture(scores, lesions).savefig(path, dpi=150)


def page(scores: HeadScores, lesions: Ablation | None, why: str = "") -> str:
    """One self-contained HTML page: notes, picture, tables."""
    drawn = io.StringIO()
    picture(scores, lesions).savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    svg = drawn.getvalue()
    svg = svg[svg.index("<svg") :]
    alt = f"Heat maps of {', '.join(KINDS)} over layers and heads"
    body = "".join(f"<p>{escape(note)}</p>\n" for note in notes(scores, why))
    body += f'<figure role="img" aria-label="{alt}">{svg}</figure>\n'
    if scores.counted:
        columns = ["head", "retrieval", "95 %", "set", "in runs", "induction", "previous"]
        body += table(columns, top_rows(scores), "The heads that copy most")
    if lesions is not None:
        body += table(*ablation_table(lesions))
        body += f"<p><small>{escape(ablation_note(lesions))}</small></p>\n"
    foot = f"{scores.runs} needle tests, {scores.prompts} {scores.sampled}, seed {scores.seed}."
    return document(f"Heads of {scores.model}", body, foot)
