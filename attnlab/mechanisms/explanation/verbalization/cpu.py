"""Verbalization on the CPU: one pattern after another slides along a stretch of tokens.

A forbidden sign becomes -inf, so that one comparison decides; the mean of the top tokens is found by
halving the range of float32 bit patterns, without sorting. Both passes (count, write) go a document
at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.runtime import block, fetch_add, run_workers, worker

from . import EXHIBIT, words
from .patterns import bank

STRETCH = 512  # tokens whose means under one pattern are kept in the cache
METRICS = {"mean": 0, "quantile": 1, "variance": 2}
SIGNS = {None: 0, "+": 1, "-": 2}


@EXHIBIT.path
def search(
    attributions: Float[np.ndarray, "N"],
    offsets: Int[np.ndarray, "documents+1"] | None = None,
    **settings: Any,
) -> dict[str, np.ndarray]:
    """See the reference."""
    edges = np.array([0, len(attributions)]) if offsets is None else offsets
    made: dict[str, np.ndarray] = {}
    for kind, (indices, values, begins) in hits(attributions, edges, **settings).items():
        made[f"{kind}_indices"] = indices
        made[f"{kind}_values"] = values.astype(attributions.dtype)
        made[f"{kind}_offsets"] = begins
    return made


def hits(
    attributions: Float[np.ndarray, "N"],
    edges: Int[np.ndarray, "documents+1"],
    *,
    filter_length: int,
    metric: str,
    value: float,
    sgn: str | None,
    behaviour: str,
    slack: float = 0.0,
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For "conv" and "span": index lists, means in float64, and where each document's begin.
    `slack` is taken off the thresholds."""
    documents = len(edges) - 1
    a = attributions.astype(np.float64)
    a /= np.repeat(np.abs(np.maximum.reduceat(a, edges[:-1])), np.diff(edges))  # (1)
    scaled, least = a.astype(np.float32), scratch.empty(documents, np.float64)
    x = scratch.empty(len(a), np.float64)
    last = int(behaviour == "corrected")
    workers = None if len(a) * 2**filter_length > 2**17 else 1
    code = METRICS[metric], value, SIGNS[sgn]
    run_workers(prepare, scaled, edges, *code, x, least, np.zeros(1, np.int64), workers=workers)
    least -= slack
    made = {}
    for kind in ("conv", "span"):
        patterns = bank(kind, filter_length, sgn)
        longest = patterns.steps.shape[1]
        counts = np.zeros(documents + 1, np.int64)
        task = (x, edges, least, patterns.width, *patterns[1:], last)
        empty = np.zeros((0, longest), np.int64), np.zeros(0)
        run_workers(slide, *task, counts, False, *empty, np.zeros(1, np.int64), workers=workers)
        begins = np.cumsum(counts)
        found = (
            scratch.empty((begins[-1], longest), np.int64),
            scratch.empty(begins[-1], np.float64),
        )
        run_workers(slide, *task, begins, True, *found, np.zeros(1, np.int64), workers=workers)
        made[kind] = (*found, begins)
    return made


@block(fastmath=False)
def top_mean(row, count):
    """Mean of the `count` largest float32 numbers; as integers their bit patterns rise with them."""
    keys = row.view(np.int32)
    low, high = np.int64(-(2**31)), np.int64(2**31)  # at least `count` keys reach low
    while high - low > 1:
        middle = (low + high) // 2
        reach = 0
        for i in range(keys.size):
            key = keys[i] ^ ((keys[i] >> 31) & 0x7FFFFFFF)
            reach += key >= middle
        if reach >= count:
            low = middle
        else:
            high = middle
    total, above, edge = 0.0, 0, 0.0
    for i in range(row.size):
        key = np.int64(keys[i] ^ ((keys[i] >> 31) & 0x7FFFFFFF))
        if key > low:
            total += np.float64(row[i])
            above += 1
        elif key == low:
            edge = np.float64(row[i])
    # A share above 1 asks for more tokens than there are: all are summed, and divided as asked.
    return (total + (min(count, row.size) - above) * edge) / count


@worker(fastmath=False)
def prepare(scaled, edges, metric, value, sign, x, least, counter):
    """x <- (1) with -inf at forbidden signs; least (documents,) <- (2)."""
    while True:
        d = fetch_add(counter, 1)
        if d >= least.size:
            break
        row, out = scaled[edges[d] : edges[d + 1]], x[edges[d] : edges[d + 1]]
        n = row.size
        if metric == 0:
            least[d] = top_mean(row, np.int64(n * value))
        else:
            mean, squares = 0.0, 0.0
            for i in range(n):
                mean += np.float64(row[i])
            mean /= n
            for i in range(n):
                squares += (np.float64(row[i]) - mean) ** 2
            least[d] = value * (squares / n if metric == 2 else np.sqrt(squares / n))
        for i in range(n):
            wrong = (sign == 1 and row[i] < 0) or (sign == 2 and row[i] >= 0)
            out[i] = -np.inf if wrong else np.float64(row[i])


@worker(fastmath=False)
def slide(
    x, edges, least, width, steps, ones, low, tail, last, begins, write, indices, values, counter
):
    """(4) for each document. First counts hits into begins[d + 1]; then, where they begin is known,
    writes index lists and means from begins[d] on."""
    columns = ones.size
    means = np.empty((columns, STRETCH))
    some = np.empty(STRETCH, np.bool_)
    while True:
        d = fetch_add(counter, 1)
        if d >= least.size:
            break
        row, bound = x[edges[d] : edges[d + 1]], least[d]
        n, found = row.size, 0
        place = begins[d]
        stretches = (n + STRETCH - 1) // STRETCH if n + last > width else 0
        for stretch in range(stretches - 1, -1, -1):  # from the end: lists fall in order
            i0 = stretch * STRETCH
            some[:] = False
            for p in range(columns):
                first = max(low[p], i0)
                stop = min(n - 1 + last - tail[p] + 1, i0 + STRETCH)
                mean = means[p]
                mean[:] = -np.inf
                size = stop - first
                if size <= 0:
                    continue
                part = mean[first - i0 : stop - i0]
                part[:] = row[first + steps[p, 0] : first + steps[p, 0] + size]
                for k in range(1, ones[p]):
                    source = row[first + steps[p, k] : first + steps[p, k] + size]
                    for i in range(size):
                        part[i] += source[i]
                for i in range(size):
                    part[i] /= ones[p]
                for i in range(size):
                    hit = part[i] > bound
                    found += hit
                    some[first - i0 + i] |= hit
            if write:
                for i in range(STRETCH - 1, -1, -1):
                    if not some[i]:
                        continue
                    for p in range(columns):
                        if means[p, i] > bound:
                            for k in range(steps.shape[1]):
                                J = i0 + i + steps[p, k]
                                indices[place, k] = J if k < ones[p] else -1
                            values[place] = means[p, i]
                            place += 1
        if not write:
            begins[d + 1] = found


@EXHIBIT.path
def verbalize(
    tokens: np.ndarray, attributions: Float[np.ndarray, "n"], **settings: Any
) -> dict[str, np.ndarray]:
    """See the reference: the search finds a few too many, and is settled as the released code rounds."""
    a = words.normalized(attributions)
    slack = 1e-5 * max(1.0, abs(settings["value"])) * (1 + np.abs(a).max()) ** 2
    found = hits(attributions, np.array([0, len(attributions)]), slack=slack, **settings)

    def snippets(kind: str) -> list[tuple[words.Snippet, float]]:
        indices = found[kind][0]
        lengths = (indices >= 0).sum(1).tolist()
        rows = [tuple(J[:k]) for J, k in zip(indices.tolist(), lengths)]
        return words.settled(rows, a, settings["metric"], settings["value"])

    return words.describe(
        tokens, attributions, snippets("conv"), snippets("span"), settings["behaviour"]
    )


@EXHIBIT.path
def instruction_prompt(
    tokens: np.ndarray,
    attributions: Float[np.ndarray, "n"],
    *,
    dataset: str,
    label: str,
    request: str = "explain",
) -> dict[str, np.ndarray]:
    """See the reference; strings are as fast in Python."""
    text = words.scored(tokens, attributions)
    asked = words.prompt(text, dataset, label, request)
    return {"scored_text": np.array(text), "prompt": np.array(asked)}


@EXHIBIT.path
def citation_coverage(
    tokens: np.ndarray, attributions: Float[np.ndarray, "n"], text: np.ndarray, *, source: str
) -> dict[str, np.ndarray]:
    """See the reference: one sort, one set, one running sum."""
    quoted = words.quoted(str(text), source)
    known = set(quoted)
    positive = np.flatnonzero(attributions > 0)
    s = np.array([round(x, 2) for x in attributions[positive].tolist()], np.float64)
    top = np.argsort(-s, kind="stable")[:10]
    named = np.array([str(t).lower() in known for t in tokens[positive[top]]], bool)
    total = s.sum() or 1.0
    cover, ceiling = np.zeros(10), np.zeros(10)
    cover[: len(top)], ceiling[: len(top)] = s[top] * named, s[top]
    return {
        "words": np.array(quoted, str),
        "cov_at_k": (np.cumsum(cover) / total).astype(attributions.dtype),
        "ceiling_cov_at_k": (np.cumsum(ceiling) / total).astype(attributions.dtype),
    }


@EXHIBIT.path
def fleiss_kappa(ratings: Int[np.ndarray, "n annotators"]) -> dict[str, np.ndarray]:
    """See the reference: one count over pairs of item and class."""
    N, A = ratings.shape
    classes, numbers = np.unique(ratings, return_inverse=True)
    K = len(classes)
    pairs = numbers.reshape(N, A) + K * np.arange(N)[:, None]
    table = np.bincount(pairs.ravel(), minlength=N * K).reshape(N, K)
    agree = ((table**2).sum() / N - A) / (A * (A - 1))
    chance = ((table.sum(axis=0) / (N * A)) ** 2).sum()
    kappa = (agree - chance) / (1 - chance) if K > 1 else np.nan
    return {"table": table, "fleiss_kappa": np.asarray(kappa)}
