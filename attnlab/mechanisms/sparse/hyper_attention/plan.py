"""Which sub-problems a call falls into, and what is drawn for them: the same on every path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Problem:
    """Unmasked attention of `queries` rows to `keys` rows, in heads * 2^level heads.

    block is b; the last key block is filled up with zero rows, and so are the queries, which are
    divided into as many blocks as the keys.
    """

    level: int
    queries: int
    keys: int
    block: int
    samples: int

    @property
    def blocks(self) -> int:
        return -(-self.keys // self.block)

    @property
    def padded_queries(self) -> int:
        return -(-self.queries // self.block) * self.block

    @property
    def divides(self) -> bool:
        return self.padded_queries % self.blocks == 0

    @property
    def query_block(self) -> int:
        return self.padded_queries // self.blocks

    @property
    def sampled(self) -> bool:
        """Whether sampled columns stand for the rest of a row: not if one block is all there is."""
        return self.samples > 0 and self.queries > self.query_block and self.keys > self.block


def problems(
    n: int, keys: int, *, causal: bool, min_seq_len: int, block_size: int, sample_size: int
) -> list[Problem]:
    """The approximated sub-problems in drawing order: deepest level of the causal halving first.

    Without a mask there is one, or none below min_seq_len. Under a causal mask every level halves
    the sequences; the second half's queries meet the first half's keys.
    """
    if not causal:
        return [Problem(0, n, keys, block_size, sample_size)] if n >= min_seq_len else []
    found, level = [], 0
    while n > min_seq_len:
        n = (n + 1) // 2
        if n >= min_seq_len:
            found.append(Problem(level, n, n, block_size, sample_size))
        level += 1
    return found[::-1]


def of_call(c: Any) -> list[Problem]:
    """The problems of a checked call or of a benchmark's sizes."""
    names = ("causal", "min_seq_len", "block_size", "sample_size")
    return problems(c.n, c.keys, **{name: getattr(c, name) for name in names})


def sample_shapes(batch: int, heads: int, of: list[Problem]) -> list[tuple[int, int, int]]:
    """Shapes of sampled0, sampled1, …"""
    return [(batch, heads << p.level, p.samples) for p in of if p.sampled]


def draw_projection(seed: int, dim: int, lsh_num_projs: int) -> np.ndarray:
    """proj_dir (dim, r) from N(0, 1); no columns for r <= 0."""
    return np.random.default_rng([seed, 0]).standard_normal((dim, max(lsh_num_projs, 0)))


def draw_samples(seed: int, batch: int, heads: int, of: list[Problem]) -> list[np.ndarray]:
    """Sampled columns for each problem in turn, uniform with replacement."""
    rng = np.random.default_rng([seed, 1])
    shapes = sample_shapes(batch, heads, of)
    return [
        rng.integers(0, p.keys, shape) for p, shape in zip((p for p in of if p.sampled), shapes)
    ]


def segments(n: int, level: int) -> tuple[np.ndarray, np.ndarray]:
    """(first row, number of real rows) of the 2^level segments after `level` causal halvings of n.

    Segments of one level have one length, halves rounded up; what an odd length lacks is a zero row
    at the end of its last half, so that real rows may be fewer than the length.
    """
    first, real = np.zeros(1, np.int64), np.full(1, n, np.int64)
    for _ in range(level):
        n = (n + 1) // 2
        first = np.stack([first, first + n], axis=1).reshape(-1)
        real = np.stack([np.minimum(real, n), np.maximum(real - n, 0)], axis=1).reshape(-1)
    return first, real


def ranges(
    problem: Problem, n: int, keys: int, causal: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """First row and number of real rows of each segment's queries, and the same of its keys.

    Under a causal mask the queries are a segment's second half and the keys its first.
    """
    if not causal:
        whole = np.zeros(1, np.int64)
        return whole, whole + n, whole, whole + keys
    first, real = segments(n, problem.level)
    below = np.maximum(real - problem.queries, 0)
    return first + problem.queries, below, first, np.minimum(real, problem.keys)


def few_buckets(
    q_hash: np.ndarray, k_hash: np.ndarray, countable: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same order with small numbers, if some reach `countable`; 0, that of zero rows, stays 0."""
    if max(q_hash.max(), k_hash.max()) < countable:
        return q_hash, k_hash
    both = np.concatenate([[0], q_hash.ravel(), k_hash.ravel()])
    rank = np.unique(both, return_inverse=True)[1][1:]
    return rank[: q_hash.size].reshape(q_hash.shape), rank[q_hash.size :].reshape(k_hash.shape)
