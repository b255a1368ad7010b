"""Music Transformer: attention that sees how far back a position lies, in memory linear in n."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from attnlab.contract import Array, Cost, Exhibit, Operation, Option, Paper

from .exercise import EXERCISE


def _drawn(
    n: int, rng: np.random.Generator, batch: int, heads: int, dim: int, value_dim: int | None
) -> dict[str, Any]:
    q, k = rng.standard_normal((2, batch, heads, n, dim))
    return {"q": q, "k": k, "v": rng.standard_normal((batch, heads, n, value_dim or dim))}


def _table(
    rng: np.random.Generator, heads: int, rows: int, dim: int, shared: bool
) -> np.ndarray[Any, Any]:
    """A distance table drawn from N(0, 1/dim), one for each head or one for all."""
    return rng.standard_normal((rows, dim) if shared else (heads, rows, dim)) / dim**0.5


def example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    heads: int = 2,
    dim: int = 4,
    value_dim: int | None = None,
    distances: int | None = None,
    shared: bool = False,
    on_values: bool = False,
) -> dict[str, Any]:
    """Normal queries, keys and values; a table of `distances` rows (None: n), shared or per head."""
    drawn = _drawn(n, rng, batch, heads, dim, value_dim)
    rows = distances or n
    drawn["rel_k"] = _table(rng, heads, rows, dim, shared)
    if on_values:
        drawn["rel_v"] = _table(rng, heads, rows, value_dim or dim, shared)
    return drawn


def local_example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    heads: int = 2,
    dim: int = 4,
    value_dim: int | None = None,
    block_length: int = 3,
    shared: bool = False,
) -> dict[str, Any]:
    """As `example`, with the local form's table of 4 block_length rows."""
    drawn = _drawn(n, rng, batch, heads, dim, value_dim)
    drawn["rel_k"] = _table(rng, heads, 4 * block_length, dim, shared)
    return drawn | {"block_length": block_length}


def bidirectional_example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    heads: int = 2,
    dim: int = 4,
    value_dim: int | None = None,
    reach: int | None = None,
    shared: bool = False,
    padded: bool = False,
) -> dict[str, Any]:
    """As `example`, with a table of 2 reach - 1 rows (reach None: n) and, if padded, lengths."""
    drawn = _drawn(n, rng, batch, heads, dim, value_dim)
    drawn["rel_k"] = _table(rng, heads, 2 * (reach or n) - 1, dim, shared)
    if padded:
        drawn["lengths"] = rng.integers(1, n + 1, batch)
    return drawn


QKV = (
    Array("q", "batch heads n dim", about="queries"),
    Array("k", "batch heads n dim", about="keys"),
    Array("v", "batch heads n value_dim", about="values"),
)
SCALE = Option("scale", float, None, "scale of both products; None is 1/sqrt(dim)")
OUTPUTS = (
    Array("y", "batch heads n value_dim"),
    Array("weights", "batch heads n n", optional=True, about="attention weights, rows sum to 1"),
)
VARY = {
    "batch": (1, 3),
    "heads": (1, 4),
    "dim": (1, 5, 8),
    "value_dim": (None, 3),
    "shared": (False, True),
    "scale": (None, 0.3),
}


def _flops(c: SimpleNamespace, pairs: float, value_products: int = 1) -> float:
    """QK, the relative product and AV: two operations a multiply-add, `pairs` a head."""
    return 2.0 * c.batch * c.heads * pairs * (2 * c.dim + value_products * c.value_dim)


def _bytes(c: SimpleNamespace, rows: int) -> float:
    tokens = c.batch * c.heads * c.n * 2 * (c.dim + c.value_dim)
    return float(c.itemsize * (tokens + c.heads * rows * c.dim))


EXHIBIT = Exhibit(
    name="music_transformer",
    title="Relative attention of the Music Transformer",
    family="dense",
    package=__name__,
    paper=Paper(
        title="Music Transformer: Generating Music with Long-Term Structure",
        authors=(
            "Cheng-Zhi Anna Huang",
            "Ashish Vaswani",
            "Jakob Uszkoreit",
            "Noam Shazeer",
            "Ian Simon",
            "Curtis Hawthorne",
            "Andrew M. Dai",
            "Matthew D. Hoffman",
            "Monica Dinculescu",
            "Douglas Eck",
        ),
        year=2018,
        venue="ICLR 2019",
        arxiv="1809.04281",
        code="tensorflow/tensor2tensor@bafdc1b",
    ),
    idea=(
        "Music repeats itself at fixed distances in time, so a query should score a key by what it is "
        "and by how far back it lies: every distance has a learned vector of its own. Multiplying the "
        "queries by the short table of these vectors first, and then shifting every row by its own "
        "offset (the skew), puts each score at its key without ever gathering an n x n x dim tensor. "
        "Because scores depend on i - j alone, the model keeps working beyond its training length."
    ),
    attention_map=(
        "weights[i, j], the softmax of the content score plus the score of the relative "
        "position: rows sum to 1. What position alone contributes cannot be told from the "
        "map."
    ),
    operations=(
        Operation(
            "relative_attend",
            headline=True,
            about="causal attention with one learned vector for each distance",
            equations=(
                "S_ij = scale * ( q_i . k_j + q_i . e(i-j) ),  e(d) = E[M-1-d] if 0 <= d < M else 0   (1)",
                "S_ij = -inf for j > i                                                               (2)",
                "A = softmax_j(S),  y_i = sum_j A_ij v_j                                             (3)",
                "y_i += sum_j A_ij e_v(i-j), same indexing of rel_v               (4, where rel_v is given)",
            ),
            inputs=(
                *QKV,
                Array(
                    "rel_k",
                    "heads distances dim | distances dim",
                    weight=True,
                    about="distance table: the last row is distance 0, the one before it distance 1",
                ),
                Array(
                    "rel_v",
                    "heads distances value_dim | distances value_dim",
                    weight=True,
                    optional=True,
                    about="the same for values (not in the paper)",
                ),
            ),
            options=(SCALE,),
            outputs=OUTPUTS,
            example=example,
            vary=VARY | {"distances": (None, 1, 4, 50), "on_values": (False, True)},
            bench_sizes={"batch": 1, "heads": 8, "dim": 64},
            gradient=("q", "k", "v", "rel_k", "rel_v"),
            causal="n",
            cost=Cost(
                time="batch heads n^2 dim",
                exponent=2.0,
                flops=lambda c: _flops(
                    c, c.n * (c.n + 1) / 2, 1 if getattr(c, "rel_v", None) is None else 2
                ),
                bytes=lambda c: _bytes(c, min(c.n, c.distances)),
                blas=0.85,
                memory="heads n dim for the table; n^2 only if weights are asked for",
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "relative_attend_local",
            about="the same within two blocks, for long sequences: a query sees its block and the one before",
            equations=(
                "S, A and y as in (1)-(3), with E of M = 4 block_length rows",
                "c(i) = floor(i / b);  i sees j where j <= i and c(i) - c(j) <= 1                     (6)",
                "b = block_length, but n where n < 2 block_length (one global block)",
            ),
            inputs=(
                *QKV,
                Array(
                    "rel_k",
                    "heads 4*block_length dim | 4*block_length dim",
                    weight=True,
                    about="distance table, last row distance 0; rows for distances >= 2b are never read",
                ),
            ),
            options=(
                Option("block_length", int, about="tokens in a block", minimum=1),
                SCALE,
            ),
            outputs=OUTPUTS[:1],
            example=local_example,
            vary=VARY | {"block_length": (1, 2, 4, 7)},
            bench_sizes={"batch": 1, "heads": 8, "dim": 64, "block_length": 256},
            gradient=("q", "k", "v", "rel_k"),
            causal="n",
            cost=Cost(
                time="batch heads n block_length dim",
                exponent=1.0,
                flops=lambda c: _flops(c, _local_pairs(c.n, c.block_length)),
                bytes=lambda c: _bytes(c, min(c.n, 2 * c.block_length)),
                blas=0.85,
                memory="heads n dim",
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "relative_attend_bidirectional",
            about="the encoder's form: distances on both sides, padded keys hidden",
            equations=(
                "S_ij = scale * ( q_i . k_j + q_i . E[(j-i) + m-1] ), the last product 0 where |j-i| >= m   (5)",
                "S_ij = -inf for j >= lengths",
                "A = softmax_j(S),  y_i = sum_j A_ij v_j                                             (3)",
            ),
            inputs=(
                *QKV,
                Array(
                    "rel_k",
                    "heads 2*m-1 dim | 2*m-1 dim",
                    weight=True,
                    about="table of 2m-1 rows; the middle row is distance 0, later rows lie ahead",
                ),
                Array(
                    "lengths",
                    "batch",
                    dtype="int",
                    optional=True,
                    about="keys at and after lengths[b] are hidden; None shows all",
                ),
            ),
            options=(SCALE,),
            outputs=OUTPUTS,
            refuse=(
                (
                    lambda c: c.lengths is not None and ((c.lengths < 1) | (c.lengths > c.n)).any(),
                    "lengths must lie between 1 and {n}: every query needs a key",
                ),
            ),
            example=bidirectional_example,
            vary=VARY | {"reach": (None, 1, 4, 50), "padded": (False, True)},
            bench_sizes={"batch": 1, "heads": 8, "dim": 64},
            gradient=("q", "k", "v", "rel_k"),
            cost=Cost(
                time="batch heads n^2 dim",
                exponent=2.0,
                flops=lambda c: _flops(c, c.n**2),
                bytes=lambda c: _bytes(c, min(2 * c.n - 1, 2 * c.m - 1)),
                blas=0.85,
                memory="heads n dim for the table; n^2 only if weights are asked for",
                memory_exponent=1.0,
            ),
        ),
    ),
    exercise=EXERCISE,
    notes=(
        "Both products carry the same scale; tensor2tensor reaches the same by scaling q beforehand.",
        "Distances beyond the table score exactly 0: it is padded with zeros, not clipped as in Shaw et al. (2018).",
    ),
)


def _local_pairs(n: int, block_length: int) -> float:
    """Visible pairs of one head: triangles within blocks, and full squares with the block before."""
    b = n if n < 2 * block_length else block_length
    full, rest = divmod(n, b)
    return full * b * (b + 1) / 2 + rest * (rest + 1) / 2 + max(full - 1, 0) * b * b + rest * b
