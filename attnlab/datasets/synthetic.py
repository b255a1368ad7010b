"""Generators of the synthetic tasks on which lessons re-create claims.

Every generator takes a `numpy.random.Generator` first: the same seed gives the same data. Labels
are IGNORED (-100) where nothing is to be predicted.

FAQ
- *Whose tasks are these?* A docstring names the paper whose claim the task tries. Only `mqar` is a
  task that its paper defines in full; the others are small stand-ins for experiments that took
  GPUs.
"""

from __future__ import annotations

from itertools import permutations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.random import Generator

IGNORED = -100

Task = tuple[Int[np.ndarray, "rows n"], Int[np.ndarray, "rows n"]]  # inputs, labels


def periodic(rng: Generator, rows: int, n: int, *, period: int = 7, symbols: int = 12) -> Task:
    """Sequences that repeat their first `period` random symbols; the repeats are to be predicted.

    The label at t is the symbol at t+1, known from t+1-period. A model that learned *how far back*
    to look keeps working beyond the length it was trained on; one that learned places does not.
    For Huang et al., "Music Transformer", 2018 (relative positions extrapolate).
    """
    first = rng.integers(symbols, size=(rows, period))
    sequence = first[:, np.arange(n + 1) % period]  # (rows, n + 1)
    labels = sequence[:, 1:].copy()
    labels[:, : period - 1] = IGNORED
    return sequence[:, :-1], labels


def ring_retrieval(
    rng: Generator,
    rows: int,
    *,
    places: int = 16,
    symbols: int = 6,
    steps: tuple[int, ...] = (1, 2, 3, 5),
) -> Task:
    """Tokens on a ring; a token's type says how many places to the left its answer stands.

    A token is type * symbols + symbol; the label is the symbol `steps[type]` places to the left.
    Each type asks for another attention pattern, so heads can specialise. For Jin et al., "MoH:
    multi-head attention as mixture-of-head attention", 2024 (fewer active heads, equal accuracy).
    """
    symbol = rng.integers(symbols, size=(rows, places))
    kind = rng.integers(len(steps), size=(rows, places))
    source = (np.arange(places) - np.asarray(steps)[kind]) % places  # (rows, places)
    return kind * symbols + symbol, np.take_along_axis(symbol, source, axis=1)


def mqar(
    rng: Generator,
    rows: int,
    *,
    vocabulary: int = 128,
    n: int = 48,
    pairs: int = 8,
    power: float = 0.01,
    random_filler: bool = False,
) -> Task:
    """Multi-query associative recall: key-value pairs, then each key again; its value is the label.

    k0 v0 k1 v1 … with distinct keys from 1..vocabulary/2-1 and distinct values from the upper half;
    then each key once, at place 2 pairs + 2 gap, gaps distinct and drawn with probability
    proportional to (gap + 1)^(power - 1). Filler is 0, or random tokens.
    Source: Arora et al., "Zoology", 2023; used for "Based", 2024 (state size drives recall).
    ValueError when the pairs and queries do not fit into n, or the keys into the vocabulary.
    """
    half, places = vocabulary // 2, (n - 2 * pairs) // 2
    if places < pairs:
        raise ValueError(f"n = {n} has room for {max(places, 0)} queries, {pairs} are needed")
    if half - 1 < pairs:
        raise ValueError(f"vocabulary = {vocabulary} has {half - 1} keys, {pairs} are needed")
    keys = 1 + _distinct(rng, rows, half - 1, pairs)  # (rows, pairs)
    values = half + _distinct(rng, rows, vocabulary - half, pairs)
    # Gumbel noise on log-weights: the largest are a weighted draw without replacement
    weight = (power - 1) * np.log(np.arange(places) + 1.0)
    gaps = np.argsort(-(weight + rng.gumbel(size=(rows, places))), axis=1)[:, :pairs]

    inputs = rng.integers(vocabulary, size=(rows, n)) if random_filler else np.zeros((rows, n), int)
    inputs[:, 0 : 2 * pairs : 2], inputs[:, 1 : 2 * pairs : 2] = keys, values
    labels = np.full((rows, n), IGNORED)
    where = 2 * pairs + 2 * gaps
    np.put_along_axis(inputs, where, keys, axis=1)
    np.put_along_axis(labels, where, values, axis=1)
    return inputs, labels


def associative_recall(
    rng: Generator,
    rows: int,
    *,
    n: int = 256,
    pairs: int = 8,
    keys: int = 16,
    values: int = 16,
    filler: int = 8,
) -> Task:
    """Key-value pairs scattered over the first half; every key asked again in the last quarter.

    Tokens: fillers 0..filler-1, then keys, then values; `filler + keys + values` in all. A query is
    a key alone, its label the value that followed the key, at least n/4 tokens ago: out of reach of
    a local window. For Roy et al., "Efficient content-based sparse attention with routing
    transformers", 2020, and Mohtashami & Jaggi, "Landmark attention", 2023 (reach by content).
    ValueError when the pairs do not fit.
    """
    room = min(n // 4, n - 3 * n // 4, keys)
    if pairs > room:
        raise ValueError(f"n = {n} and {keys} keys have room for {room} pairs, not {pairs}")
    inputs = rng.integers(filler, size=(rows, n))
    key = filler + _distinct(rng, rows, keys, pairs)  # (rows, pairs)
    value = filler + keys + rng.integers(values, size=(rows, pairs))
    written = 2 * _distinct(rng, rows, n // 4, pairs)
    asked = 3 * n // 4 + _distinct(rng, rows, n - 3 * n // 4, pairs)
    np.put_along_axis(inputs, written, key, axis=1)
    np.put_along_axis(inputs, written + 1, value, axis=1)
    np.put_along_axis(inputs, asked, key, axis=1)
    labels = np.full((rows, n), IGNORED)
    np.put_along_axis(labels, asked, value, axis=1)
    return inputs, labels


class PolarWords(NamedTuple):
    """Texts whose label is a count: ids padded with 0, which words are there, labels 0 and 1."""

    tokens: Int[np.ndarray, "rows longest"]
    mask: Bool[np.ndarray, "rows longest"]
    labels: Int[np.ndarray, "rows"]


def polar_words(
    rng: Generator,
    rows: int,
    *,
    vocabulary: int = 200,
    polar: int = 20,
    shortest: int = 8,
    longest: int = 20,
) -> PolarWords:
    """Texts of uniformly drawn words; the label says whether more of them are positive or negative.

    Words 0 … polar-1 are positive, the next `polar` negative, the others mean nothing; a text with
    as many of one kind as of the other is drawn anew. Which words an explanation should name is
    therefore known. For Neely et al., "A song of (dis)agreement", 2022 (do attributions agree?).
    """
    tokens = np.zeros((rows, longest), int)
    mask = np.zeros((rows, longest), bool)
    labels = np.zeros(rows, int)
    left = np.arange(rows)
    while len(left):
        drawn = rng.integers(vocabulary, size=(len(left), longest))
        there = np.arange(longest) < rng.integers(shortest, longest + 1, size=(len(left), 1))
        sign = np.where(drawn < polar, 1, np.where(drawn < 2 * polar, -1, 0)) * there
        balance = sign.sum(1)
        done = balance != 0
        tokens[left[done]] = np.where(there, drawn, 0)[done]
        mask[left[done]], labels[left[done]] = there[done], balance[done] > 0
        left = left[~done]
    return PolarWords(tokens, mask, labels)


class Needle(NamedTuple):
    """A query that is a noisy copy of one key."""

    query: Float[np.ndarray, "dim"]
    keys: Float[np.ndarray, "n dim"]
    place: int


def needle(rng: Generator, n: int, *, dim: int = 32, noise: float = 0.3) -> Needle:
    """n keys from N(0, I) and a query: one of them plus noise, rescaled to norm √dim.

    For Mohtashami & Jaggi, "Landmark attention", 2023: is the needle's block among the best ones?
    """
    keys = rng.standard_normal((n, dim))
    place = int(rng.integers(n))
    query = keys[place] + noise * rng.standard_normal(dim)
    return Needle(query * dim**0.5 / np.linalg.norm(query), keys, place)


class Clustered(NamedTuple):
    """Queries and keys around common centres, in random order."""

    q: Float[np.ndarray, "n dim"]
    k: Float[np.ndarray, "n dim"]
    cluster: Int[np.ndarray, "n"]


def clustered(
    rng: Generator, n: int, *, dim: int = 16, centres: int = 32, noise: float = 0.7
) -> Clustered:
    """q_i, k_i = √dim · centre + noise, about n / centres tokens to each random unit centre.

    For Roy et al., "Efficient content-based sparse attention with routing transformers", 2020:
    clustered tokens attend mostly within their cluster, wherever they stand.
    """
    centre = rng.standard_normal((centres, dim))
    centre *= dim**0.5 / np.linalg.norm(centre, axis=1, keepdims=True)
    cluster = rng.permutation(np.arange(n) % centres)
    q = centre[cluster] + noise * rng.standard_normal((n, dim))
    k = centre[cluster] + noise * rng.standard_normal((n, dim))
    return Clustered(q, k, cluster)


class PointSets(NamedTuple):
    """Planar points and the indices to be pointed at: 1-based, ended by 0, padded with -1."""

    points: Float[np.ndarray, "rows n 2"]
    target: Int[np.ndarray, "rows m"]
    target_len: Int[np.ndarray, "rows"]  # counts the final 0


def convex_hulls(rng: Generator, rows: int, n: int) -> PointSets:
    """Uniform points in the unit square and their hulls.

    A hull goes counter-clockwise from its lowest index and closes: 1 4 2 6 3 5 1 0.
    Source: Vinyals, Fortunato & Jaitly, "Pointer networks", 2015. ValueError below 3 points.
    """
    if n < 3:
        raise ValueError(f"a hull needs at least 3 points, n = {n}")
    points = rng.random((rows, n, 2))
    target = np.full((rows, n + 2), -1)
    after = np.concatenate(
        [_hull_successor(p) for p in np.array_split(points, 1 + rows * n**3 // 10**7)]
    )
    start = (after >= 0).argmax(axis=1)  # lowest index on the hull
    row, current, open_ = np.arange(rows), start, np.ones(rows, bool)
    length = np.zeros(rows, int)
    for step in range(n + 1):  # walk all hulls at once
        target[open_, step] = current[open_] + 1
        length += open_
        open_ &= (step == 0) | (current != start)
        current = after[row, current]
    target[row, length] = 0
    return PointSets(points, target, length + 1)


def _hull_successor(points: Float[np.ndarray, "rows n 2"]) -> Int[np.ndarray, "rows n"]:
    """The next hull corner counter-clockwise, -1 for inner points; O(n³) a set."""
    side = points[:, None, :, :] - points[:, :, None, :]  # (rows, i, j, 2): p_j - p_i
    # cross product of p_j - p_i with p_k - p_i, (rows, i, j, k): positive when k lies left of i ->
    # j
    cross = (
        side[..., :, None, 0] * side[..., None, :, 1]
        - side[..., :, None, 1] * side[..., None, :, 0]
    )
    edge = (cross >= 0).all(axis=-1) & ~np.eye(points.shape[1], dtype=bool)
    return np.where(edge.any(axis=-1), edge.argmax(axis=-1), -1)


def shortest_tours(rng: Generator, rows: int, n: int) -> PointSets:
    """Uniform points in the unit square and their shortest closed tours, by trying all orders.

    A tour starts and ends at 1, in the direction whose second point has the smaller index:
    1 3 2 4 1 0. Source: Vinyals, Fortunato & Jaitly, "Pointer networks", 2015 (planar travelling
    salesman). ValueError unless 3 <= n <= 9: there are (n-1)!/2 tours.
    """
    if not 3 <= n <= 9:
        raise ValueError(f"all tours are tried only for 3 to 9 points, n = {n}")
    points = rng.random((rows, n, 2))
    orders = np.array([(0, *p, 0) for p in permutations(range(1, n)) if p[0] < p[-1]])
    distance = np.linalg.norm(points[:, :, None] - points[:, None], axis=-1)  # (rows, n, n)
    best = np.empty(rows, int)
    for row in range(rows):
        best[row] = distance[row][orders[:, :-1], orders[:, 1:]].sum(axis=1).argmin()
    target = np.concatenate([orders[best] + 1, np.zeros((rows, 1), int)], axis=1)
    return PointSets(points, target, np.full(rows, n + 2))


def _distinct(rng: Generator, rows: int, below: int, count: int) -> Int[np.ndarray, "rows count"]:
    """In each row `count` different integers from 0..below-1, in random order."""
    return np.argsort(rng.random((rows, below)), axis=1)[:, :count]
