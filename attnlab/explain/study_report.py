"""What the terminal and the page show of a study: tables with intervals, tests, controls, curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnlab.draw import heat, lines
from attnlab.explain import agreement, page, plausibility
from attnlab.explain.faithfulness import METRICS
from attnlab.explain.registry import STUDY
from attnlab.explain.report import ARROWS, SHORT, matrix_table, numbers_fit
from attnlab.explain.statistics import LEVEL, Difference, Mean
from attnlab.explain.study import FLOOR
from attnlab.explain.summary import SAME, TESTED, Summary, title

TOP = 8  # pairs from either end of the agreement table, where there are many
SIGNIFICANT = 0.05
MEASURES = {
    "kendall_tau": "τ-b", "top_k_kendall": "top 5 τ", "weighted_tau": "wtd τ", "spearman": "ρ",
    "pearson": "r", "jaccard": "top 5 J", "rank_biased_overlap": "RBO",
}  # fmt: skip


def short(mean: Mean) -> str:
    """0.213±.02: the value and half the width of its interval."""
    if not mean.n:
        return "–"
    if math.isnan(mean.low):
        return f"{mean.value:.3f}"
    return f"{mean.value:.3f}±{(mean.high - mean.low) / 2:.3f}".replace("±0.", "±.")


def about(summary: Summary) -> list[str]:
    """What was read, what was left out, what the numbers are."""
    s, found = summary.settings, summary.found
    drawn = f", drawn with seed {s.seed} from {found.texts}" if s.limit is not None else ""
    told = [f"{summary.texts} texts of {s.data}{drawn}; model {s.model}"]
    if summary.accuracy.n:
        told.append(f"accuracy of the model on them: {short(summary.accuracy)}")
    if summary.unknown_labels:
        told.append(f"{summary.unknown_labels} texts have a label that the model does not know")
    for reason, count in summary.skipped.items():
        told.append(f"{count} texts left out: {reason}")
    if found.bad:
        told.append(f"{found.bad} malformed lines left out:")
        told += [f"  line {bad.line}: {bad.reason}" for bad in found.first_bad]
        if found.bad > len(found.first_bad):
            told.append(f"  … and {found.bad - len(found.first_bad)} more")
    told.append(
        f"means over texts, ± half the {LEVEL:.0%} bootstrap interval; seeds of random draws: {s.seeds}; "
        f"explained: the {s.output} of {s.target or 'the predicted class'}; removed tokens: {s.replacement}"
    )
    return told


def undefined(summary: Summary) -> str:
    """How often agreement is undefined; such texts are in no mean."""
    counts = {p: m.undefined for p, m in summary.agreement["kendall_tau"].items() if m.undefined}
    if not counts:
        return ""
    most = max(counts, key=lambda pair: counts[pair])
    return (
        f"τ is undefined (one token, or a constant score) for up to {counts[most]} texts "
        f"({title(most[0])} and {title(most[1])}); these are not averaged"
    )


def ranked(summary: Summary) -> list[tuple[str, str]]:
    """Pairs by tau, undefined ones last."""
    taus = summary.agreement["kendall_tau"]
    return sorted(taus, key=lambda p: -taus[p].value if taus[p].n else math.inf)


def verdicts(summary: Summary) -> list[str]:
    """Claims 1 and 2 of Neely et al., 2022, where the study's methods are all there."""
    taus = summary.agreement["kendall_tau"]
    pairs = [p for p in ranked(summary) if FLOOR not in p and taus[p].n]
    told = []
    if ("deep_lift", "deep_shap") in taus or ("deep_shap", "deep_lift") in taus:
        told.append("Deep-SHAP with one baseline is DeepLIFT: that pair is left out below")
        pairs = [p for p in pairs if set(p) != SAME]
    if pairs and summary.lead is not None:
        first = f"{title(pairs[0][0])} and {title(pairs[0][1])}"
        told.append(
            f"agree most: {first}, τ = {taus[pairs[0]]}; lead over the next pair {summary.lead}"
        )
    family = {"integrated_gradients", "gradient_shap"}
    same = next((p for p in pairs if set(p) == family), None)
    pairs = [p for p in pairs if set(p) <= set(STUDY)]
    others = [p for p in pairs if "attention" in p]
    if same is not None and others:
        best = max(others, key=lambda p: taus[p].value)
        holds = taus[same].low > taus[best].high
        told.append(
            f"same family agrees (claim 1): {'holds' if holds else 'does not show'}: integrated gradients "
            f"and GradientSHAP {taus[same]}, best pair of attention {taus[best]}"
        )
        rest = [p for p in pairs if "attention" not in p]
        if rest:
            worst = min(rest, key=lambda p: taus[p].value)
            holds = taus[best].high < taus[worst].low
            told.append(
                f"attention is the odd one out (claim 2): {'holds' if holds else 'does not show'}: its best "
                f"pair {taus[best]}, the worst pair of the others {taus[worst]} "
                f"({title(worst[0])} and {title(worst[1])})"
            )
    return told


def beats_floor(summary: Summary, metric: str) -> dict[str, Difference]:
    """Each method's test against the random floor."""
    return {(d.a if d.b == FLOOR else d.b): d for d in summary.tests[metric] if FLOOR in (d.a, d.b)}


def marked(summary: Summary, name: str, metric: str) -> str:
    """The mean, with a star where it differs from the floor after Holm's correction."""
    text = short(summary.faithfulness[name][metric])
    test = beats_floor(summary, metric).get(name) if metric in TESTED else None
    return text + ("*" if test is not None and test.adjusted < SIGNIFICANT else " ")


def show(summary: Summary, console: Console) -> None:
    """All of it."""
    for piece in pieces(summary, console.width):
        console.print(piece)


def pieces(summary: Summary, width: int) -> Iterator[Any]:
    for line in about(summary):
        yield Text(line)
    yield Text("")
    if not summary.texts:
        yield Text("no text was explained")
        return
    names = [title(name) for name in summary.methods]
    if numbers_fit(len(names), width):
        yield matrix_table("agreement: mean Kendall's τ-b", names, summary.matrix())
    else:
        methods = summary.methods
        yield heat(summary.matrix(), methods, methods, title="agreement: mean τ-b", low=-1, high=1)
    yield Text("")
    yield _pairs(summary, width)
    for line in (*verdicts(summary), undefined(summary)):
        if line:
            yield Text(line)
    yield Text("")
    yield from _faithfulness(summary, width)
    if summary.plausibility:
        yield Text("")
        yield from _plausibility(summary, width)
    yield Text("")
    yield from _controls(summary, width)
    yield Text("")
    yield lines(
        {title(n): (np.linspace(0, 1, len(c)), c) for n, c in summary.curves["deletion"].items()},
        title="deletion: mean P when the best tokens go", xlabel="share of tokens gone",
    )  # fmt: skip


def _pairs(summary: Summary, width: int) -> Table:
    order = ranked(summary)
    shown = order if len(order) <= 2 * TOP else [*order[:TOP], *order[-TOP:]]
    caption = "agreement of pairs" + ("" if len(shown) == len(order) else ", most and least")
    room = max(1, (width - 38) // 13)
    measures = list(agreement.MEASURES)[:room]
    table = Table(title=caption, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("pair", overflow="fold")
    for measure in measures:
        table.add_column(MEASURES[measure], justify="right", no_wrap=True)
    for place, pair in enumerate(shown):
        if place == TOP and len(shown) < len(order):
            table.add_row("…")
        values = [short(summary.agreement[m][pair]) for m in measures]
        style = "dim" if FLOOR in pair else ""
        table.add_row(f"{pair[0]} – {pair[1]}", *values, style=style)
    return table


def _faithfulness(summary: Summary, width: int) -> Iterator[Any]:
    order = sorted(
        summary.methods, key=lambda n: -summary.faithfulness[n]["comprehensiveness"].value
    )
    room = max(1, (width - 24) // 14)
    metrics = list(METRICS)
    for start in range(0, len(metrics), room):
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("faithfulness" if not start else "", no_wrap=True)
        part = metrics[start : start + room]
        for metric in part:
            table.add_column(SHORT[metric] + ARROWS[METRICS[metric].better], justify="right")
        for name in order:
            style = "dim" if name == FLOOR else ""
            table.add_row(name, *(marked(summary, name, m) for m in part), style=style)
        yield table
    yield Text(
        "↑ high, ↓ low is better; *: differs from the random floor, paired sign-flip test, "
        f"Holm-corrected over all pairs of methods, p < {SIGNIFICANT}",
        style="dim",
    )


def _plausibility(summary: Summary, width: int) -> Iterator[Any]:
    order = sorted(summary.methods, key=lambda n: -summary.plausibility[n]["auprc"].value)
    cells = {}
    for name in order:
        row = summary.plausibility[name]
        cells[name] = [*(short(row[m]) for m in plausibility.METRICS), str(row["auprc"].n)]
    columns = ("token F1↑", "IoU F1↑", "AUPRC↑", "n")
    yield from _split("plausibility: people's words", columns, cells, width)


def _controls(summary: Summary, width: int) -> Iterator[Any]:
    cells = {}
    for name in summary.methods:
        values = [short(summary.changed[name])] if summary.changed else []
        values += [f"{of[name].value:.2f}" for of in summary.recovery.values()]
        cells[name] = [*values, f"{summary.seconds[name].value * 1e3:.3g}"]
    columns = (*(["ρ random"] if summary.changed else []), *summary.recovery, "ms a text")
    yield from _split("controls", columns, cells, width)
    yield Text(
        "ρ random near 1: the map does not change when the weights are shuffled. Then the share of the "
        "known words that each method finds in planted models: attention moves the word; attention looks "
        "elsewhere; either of two words suffices; both are needed",
        style="dim",
    )


def _split(
    caption: str, columns: Sequence[str], cells: dict[str, list[str]], width: int
) -> Iterator[Table]:
    """A table of a row a method, below one another where its columns do not fit beside each other."""
    room = max(1, (width - max(map(len, cells)) - 1) // 13)
    if len(columns) <= room + 1:  # the last column is short
        room = len(columns)
    for start in range(0, len(columns), room):
        table = Table(
            title=caption if not start else None,
            title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="bold",
        )  # fmt: skip
        table.add_column("method", no_wrap=True)
        for column in columns[start : start + room]:
            table.add_column(column, justify="right", no_wrap=True)
        for name, values in cells.items():
            style = "dim" if name == FLOOR else ""
            table.add_row(name, *values[start : start + room], style=style)
        yield table


# --- the page --------------------------------------------------------------------------------


def html(summary: Summary) -> str:
    """The same as one page, with full intervals and every pair and test."""
    body = "".join(f"<p>{page.escape(line)}</p>\n" for line in about(summary))
    if not summary.texts:
        return page.page("Do explanations agree?", body, "attnlab explain bench")
    names = [title(name) for name in summary.methods]
    body += "<h2>Agreement</h2>\n" + page.matrix(names, summary.matrix(), "mean Kendall's τ-b")
    rows = [
        [f"{title(a)} – {title(b)}"]
        + [str(summary.agreement[m][a, b]) for m in agreement.MEASURES]
        + [str(summary.agreement["kendall_tau"][a, b].n), str(summary.agreement["kendall_tau"][a, b].undefined)]
        for a, b in ranked(summary)
    ]  # fmt: skip
    columns = ["pair", *(m.title for m in agreement.MEASURES.values()), "n", "undefined"]
    body += page.table(columns, rows, "every pair, mean [95 % interval]")
    lines_ = [*verdicts(summary), undefined(summary)]
    body += "".join(f"<p>{page.escape(line)}</p>\n" for line in lines_ if line)
    floor = title(FLOOR)
    body += "<h2>Faithfulness</h2>\n" + page.table(
        ["method", *(f"{m.title} {ARROWS[m.better]}" for m in METRICS.values()), "n"],
        [
            [title(name)]
            + [str(summary.faithfulness[name][m]) for m in METRICS]
            + [str(summary.faithfulness[name]["comprehensiveness"].n)]
            for name in summary.methods
        ],
        f"tokens removed by the rule {summary.settings.replacement}",
        floor,
    )
    for side in ("deletion", "insertion"):
        gone = "gone" if side == "deletion" else "back"
        curves = {title(n): c for n, c in summary.curves[side].items()}
        body += page.lines(curves, f"share of tokens {gone}", "mean probability", f"{side} curves")
    if summary.plausibility:
        body += "<h2>Plausibility</h2>\n" + page.table(
            ["method", *plausibility.METRICS.values(), "n"],
            [
                [title(n), *(str(r[m]) for m in plausibility.METRICS), str(r["auprc"].n)]
                for n, r in summary.plausibility.items()
            ],
            "against the words that people marked",
            floor,
        )
    body += "<h2>Controls</h2>\n" + page.table(
        ["method", "ρ with random weights", *summary.recovery, "ms a text"],
        [
            [title(n), str(summary.changed[n]) if summary.changed else "–"]
            + [str(of[n]) for of in summary.recovery.values()]
            + [f"{summary.seconds[n].value * 1e3:.3g}"]
            for n in summary.methods
        ],
        "the same model with shuffled weights; planted models whose words are known",
        floor,
    )
    body += "<h2>Tests</h2>\n" + "".join(
        page.table(
            ["pair", "difference", "n", "p", "p, Holm"],
            [
                [f"{title(d.a)} – {title(d.b)}", f"{d.value:.4f}", str(d.n), f"{d.p:.4f}", f"{d.adjusted:.4f}"]
                for d in sorted(tests, key=lambda d: d.p)
            ],
            f"{METRICS[metric].title}: paired sign-flip tests",
        )
        for metric, tests in summary.tests.items()
    )  # fmt: skip
    s = summary.settings
    return page.page("Do explanations agree?", body, f"attnlab explain bench, seed {s.seed}")
