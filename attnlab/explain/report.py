"""What the terminal shows of one examined text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnlab.draw import heat
from attnlab.explain.examine import FLOOR, Examined
from attnlab.explain.faithfulness import METRICS
from attnlab.explain.heatmap import Heatmap, Row
from attnlab.explain.registry import METHODS

SHOWN = (
    "comprehensiveness",
    "sufficiency",
    "deletion_auc",
    "insertion_auc",
    "infidelity",
    "tau_loo",
)
SHORT = {
    "comprehensiveness": "compr.", "sufficiency": "suff.", "deletion_auc": "delet.",
    "insertion_auc": "insert.", "log_odds": "log-odds", "monotonicity": "monot.",
    "decision_flip": "flip", "flip_fraction": "flip at", "infidelity": "infid.", "tau_loo": "τ loo",
}  # fmt: skip
ARROWS = {"high": "↑", "low": "↓", "": ""}
CLASSES = 6  # of more only the likeliest are shown
NUMBERS = 9  # up to this many methods the agreement matrix is printed in numbers


def show(one: Examined, console: Console) -> None:
    """Prediction, heat maps, words, agreement, faithfulness."""
    for piece in pieces(one, console.width):
        console.print(piece)


def pieces(one: Examined, width: int) -> Iterator[Any]:
    explained = one.explained
    probabilities = chances(one)
    yield Text.assemble(
        "prediction: ", (one.labels[explained.predicted], "bold"), f"  ({probabilities})"
    )
    yield Text(f"explained: the {one.output} of {one.label}; baseline: the padding token")
    yield Text(f"attention map: {one.attention_map}", style="dim")
    yield Text("")
    yield Heatmap(explained.text.tokens, rows(one, names=width < 110))
    yield Text("strongest of each row is full; orange or unsigned: for, blue or -: against", "dim")
    if one.words:
        yield Text("")
        yield Text("in words", style="bold")
        for name, sentence in one.words.items():
            yield Text(f"{METHODS[name].title}: {sentence}")
        yield Text(guesses(one), style="dim")
    yield Text("")
    yield from _agreement(one, width)
    yield Text("")
    yield faithfulness_table(one, width)
    yield Text(
        f"tokens are removed by the rule {one.replacement}; better ↑ high, ↓ low; random is the floor. "
        "gap: sum of scores less F(x) - F(x'). ρ rand.: rank correlation with the scores under random "
        "weights; near 1 the map does not show what was learned.",
        style="dim",
    )
    if slow := [name for name, value in one.sensitive.items() if math.isnan(value)]:
        yield Text(f"max sens. is undefined or would take too long: {', '.join(slow)}", "dim")
    yield Text(f"{one.seconds:.2f} s in all")


def chances(one: Examined) -> str:
    """The classes' probabilities; of many classes (a vocabulary) the likeliest."""
    p = one.explained.probabilities
    few = len(p) <= CLASSES
    order = range(len(p)) if few else np.argsort(-p)[:CLASSES]
    text = ", ".join(f"{one.labels[i]} {p[i]:.3f}" for i in order)
    return text if few else f"{text}, … of {len(p)}"


def guesses(one: Examined) -> str:
    """Whether the words quoted are enough for the model itself."""
    right = sum(guess == one.label for guess in one.guessed.values())
    return (
        f"Read alone, the words quoted let the model say {one.label} in {right} of "
        f"{len(one.guessed)} cases"
    )


def rows(one: Examined, *, names: bool = False) -> list[Row]:
    """The heat map's rows in the order asked for; names: as the command line calls them."""
    return [
        Row(name if names else METHODS[name].title, a.signed, METHODS[name].signed)
        for name, a in one.explained.attributions.items()
    ]


def numbers_fit(methods: int, width: int) -> bool:
    """Whether an agreement matrix is printed in numbers; else it is a picture."""
    return methods <= NUMBERS and width >= 14 + 8 * (methods - 1)


def _agreement(one: Examined, width: int) -> Iterator[Any]:
    tau = one.agreement["kendall_tau"]
    titles = [METHODS[name].title for name in one.methods]
    if len(titles) < 2:
        return
    if numbers_fit(len(titles), width):
        yield matrix_table("agreement: Kendall's τ-b", titles, tau)
    else:
        names = one.methods
        yield heat(tau, names, names, title="agreement: Kendall's τ-b", low=-1, high=1)
    upper = [(tau[i, j], i, j) for i, j in zip(*np.triu_indices(len(titles), 1))]
    known = sorted((p for p in upper if not math.isnan(p[0])), reverse=True)
    if known:
        for word, (value, i, j) in (("most", known[0]), ("least", known[-1])):
            yield Text(f"agree {word}: {titles[i]} and {titles[j]}, τ = {value:.2f}")
    if undefined := len(upper) - len(known):
        yield Text(f"undefined for {undefined} pairs: a method gives every token the same score")


def matrix_table(title: str, names: Sequence[str], values: Float[np.ndarray, "m m"]) -> Table:
    """The lower half of a symmetric matrix as numbers."""
    table = Table(title=title, box=None, pad_edge=False, title_justify="left", title_style="bold")
    table.add_column("")
    for number in range(1, len(names)):
        table.add_column(str(number), justify="right", no_wrap=True)
    for i, name in enumerate(names):
        shown = [_number(values[i, j]) for j in range(i)]
        table.add_row(f"{i + 1} {name}", *shown)
    return table


def faithfulness_table(one: Examined, width: int) -> Table:
    """A row a method; as many columns as fit."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("method", no_wrap=True)
    columns = [f"{SHORT[m]}{ARROWS[METRICS[m].better]}" for m in SHOWN]
    extra = [
        *(["max sens.↓"] if one.sensitive else []),
        *(["ρ rand."] if one.changed else []),
        "gap",
        "ms",
    ]
    titles = {name: METHODS[name].title if width >= 110 else name for name in one.methods}
    room = max(2, (width - max(map(len, titles.values())) - 6) // 10)
    kept = [*columns, *extra[:-1]][:room]
    for column in [*kept, "ms"]:
        table.add_column(column, justify="right", no_wrap=True)
    for name, a in one.explained.attributions.items():
        values = [_number(one.faithful[name][m]) for m in SHOWN]
        values += [_number(one.sensitive[name])] if one.sensitive else []
        values += [_number(one.changed[name])] if one.changed else []
        values += [_number(a.gap) if a.gap is not None else ""]
        milliseconds = f"{one.explained.seconds[name] * 1e3:.3g}"
        style = "dim" if name == FLOOR else ""
        table.add_row(titles[name], *values[: len(kept)], milliseconds, style=style)
    return table


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.3f}" if abs(value) >= 0.0005 or value == 0 else f"{value:.0e}"
