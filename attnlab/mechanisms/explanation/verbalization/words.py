"""Snippets, scores and quotations as text: what the paths of this exhibit share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

Snippet = tuple[int, ...]

NONE_FOUND = "No coherent values found."
NOTHING = "No token supports the prediction"
PUNCTUATION = (".", ",", ":", ";", "-", "!", "?")
ROLES = {
    "imdb": ("sentiment analyzer", "movie review", "{} sentiment"),
    "ag_news": ("topic classifier", "news article", "{} topic"),
    "text": ("classifier", "text", "the label {}"),
}
QUOTES = {"llm": re.compile(r"""['"]([^'"]+)['"]"""), "template": re.compile("»([^«»]+)«")}


def normalized(a: np.ndarray) -> np.ndarray:
    """(1) as released: float32 numbers over |max a|, divided in float64."""
    return a.astype(np.float32).astype(np.float64) / abs(float(a.max()))


def settled(
    hits: Sequence[Snippet], a: np.ndarray, metric: str, value: float
) -> list[tuple[Snippet, float]]:
    """Those of the snippets whose mean, summed in order, is above the threshold (2) of `a`, which
    is (1) as released."""
    x = a.tolist()
    if metric == "mean":
        top = int(len(x) * value)
        least = sum(sorted(x, reverse=True)[:top]) / top
    else:
        mean = sum(x) / len(x)
        variance = sum((v - mean) ** 2 for v in x) / len(x)
        least = value * (variance if metric == "variance" else variance**0.5)
    means = ((J, sum(x[j] for j in J) / len(J)) for J in hits)
    return [(J, mean) for J, mean in means if mean > least]


def padded(snippets: Sequence[Snippet]) -> np.ndarray:
    """Index lists as rows, -1 behind the last; one row of -1 for none."""
    rows = snippets or [(-1,)]
    out = np.full((len(rows), max(map(len, rows))), -1)
    for row, J in zip(out, rows):
        row[: len(J)] = J
    return out


def describe(
    tokens: np.ndarray,
    attributions: np.ndarray,
    conv: Sequence[tuple[Snippet, float]],
    span: Sequence[tuple[Snippet, float]],
    behaviour: str,
) -> dict[str, Any]:
    """Everything that `verbalize` says of what the two searches found."""
    a = attributions.astype(np.float64).tolist()
    order = np.argsort(attributions, kind="stable")[::-1]
    made: dict[str, Any] = {
        "order_tokens": tokens[order],
        "order_attributions": attributions[order],
    }
    for name, hits in (("conv", conv), ("span", span)):
        texts, covers = lines(tokens, a, hits, behaviour)
        made |= {
            f"{name}_indices": padded([J for J, _ in hits]),
            f"{name}_values": np.array([v for _, v in hits] or [np.nan], attributions.dtype),
            f"{name}_text": np.array(texts),
            f"{name}_coverage_pct": np.array(covers, attributions.dtype),
        }
    text, named = summary(tokens, a, [J for J, _ in conv], [J for J, _ in span], behaviour)
    both = {J for J, _ in span}
    return made | {
        "summary": np.array(text),
        "summary_indices": np.array(named, np.int64),
        "common_indices": padded([J for J, _ in conv if J in both]),
    }


def lines(
    tokens: np.ndarray, a: list[float], hits: Sequence[tuple[Snippet, float]], behaviour: str
) -> tuple[list[str], list[float]]:
    """A line for each snippet, by falling value, and its coverage (5) in per cent. Released: a
    value is looked up, so that of snippets with equal values the first is said again and again."""
    positive = sum(max(x, 0.0) for x in a)
    if not hits or not positive:
        return [NONE_FOUND] * max(1, len(hits)), [0.0] * max(1, len(hits))
    texts, covers = [], []
    first = {value: J for J, value in reversed(hits)}
    for J, value in sorted(hits, key=lambda hit: -hit[1]):
        if behaviour == "released":
            J = first[value]
        said = "".join(f"{tokens[j]} " for j in J if tokens[j])
        covers.append(round(sum(a[j] for j in J) / positive * 100, 2))
        texts.append(f"snippet: '{said}' contains {covers[-1]}% of prediction score.")
    return texts, covers


def summary(
    tokens: np.ndarray,
    a: list[float],
    conv: Sequence[Snippet],
    span: Sequence[Snippet],
    behaviour: str,
) -> tuple[str, list[int]]:
    """The template summary, and the tokens that it names."""
    corrected = behaviour == "corrected"
    positive = sum(max(x, 0.0) for x in a)

    def coverage(J: Sequence[int]) -> float:  # (6): released, without the last token
        total = sum(a[J[0] : J[-1] + corrected])
        return max(total / positive, 0.0) if positive else 0.0

    named: set[int] = set()
    for snippets in (conv, span, [(i,) for i in range(len(a))]):
        covered = [(coverage(J), J) for J in snippets]
        if corrected:
            covered = [(c, J) for c, J in covered if c > 0]
        for _, J in sorted(covered, key=lambda pair: -pair[0])[:5]:  # stable
            named.update(J)

    spans: list[list[int]] = []
    for i in sorted(named):
        if spans and spans[-1][-1] + 1 == i:
            spans[-1].append(i)
        else:
            spans.append([i])
    if corrected:
        spans = [J for J in spans if coverage(J) > 0]
    if not spans:
        return NOTHING, []

    covers = [coverage(J) for J in spans]
    falling, quartile = sorted(covers, reverse=True), np.quantile(covers, 0.75)
    kept = [(falling.index(c), J) for c, J in zip(covers, spans) if c >= quartile]
    if not corrected:  # of spans with one rank the last stands
        kept = list({rank: (rank, J) for rank, J in kept}.values())
    kept.sort(key=lambda pair: pair[0])
    text = " ".join(sentence([str(tokens[j]) for j in J], rank == 0) for rank, J in kept)
    return text, sorted(j for _, J in kept for j in J)


def sentence(words: list[str], most: bool) -> str:
    said = " ".join(words)
    kind = "word" if len(words) == 1 else "span" if "." in said else "phrase"
    return f"The {kind} » {said} « is {'most important for the prediction' if most else 'also salient'}"


def scored(tokens: np.ndarray, attributions: np.ndarray) -> str:
    """`token (score)` for each token, scores with at most two decimals."""
    pairs = zip(tokens, attributions.tolist())
    return " ".join(f"{token} ({round(score, 2)})" for token, score in pairs)


def prompt(scored_text: str, dataset: str, label: str, request: str) -> str:
    """What a language model is asked; the wording is ours."""
    who, kind, what = ROLES[dataset]
    facts = (
        f"A {who} has labelled this {kind} with {what.format(label)}. "
        "The number in brackets behind each word tells how much the word contributed: the higher, "
        "the more it spoke for the label, and below zero it spoke against it. "
        "These scores were computed after the prediction had been made. "
        f"The {who} saw nothing but the text. "
    )
    if request == "saliency":
        return facts + f"Which words of the {kind} were the most important for this label?"
    return f"{kind.capitalize()}: {scored_text}\n\n{facts}Explain briefly why it chose this label."


def quoted(text: str, source: str) -> list[str]:
    """The words that an explanation quotes, lower case, in order."""
    plain = text.replace("'{placeholder}'", "").replace("{placeholder}", "").replace("\n", "")
    found = QUOTES[source].findall(plain)
    if "unctuation" in plain:
        found += PUNCTUATION
    return [word.lower() for part in found for word in part.split()]
