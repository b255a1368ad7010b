"""Scaled dot-product attention: the baseline beside every other exhibit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from attnlab.contract import Array, Cost, Exhibit, Operation, Option, Paper

from .exercise import EXERCISE


def example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    heads: int = 2,
    dim: int = 4,
    kv_heads: int | None = None,
    masked: bool = False,
    biased: bool = False,
    earlier: int = 0,
) -> dict[str, Any]:
    """Self-attention on independent normal queries, keys and values; kv_heads must divide heads.
    Keys of `earlier` positions stand before those of the queries."""
    kv_heads = heads if kv_heads is None or heads % kv_heads else kv_heads
    q = rng.standard_normal((batch, heads, n, dim))
    keys = earlier + n
    k, v = rng.standard_normal((2, batch, kv_heads, keys, dim))
    drawn = {"q": q, "k": k, "v": v}
    if masked:
        drawn["mask"] = rng.random((batch, 1, n, keys)) < 0.7
    if biased:
        drawn["bias"] = rng.standard_normal((1, heads, n, keys))
    return drawn


def visible(c: SimpleNamespace) -> float:
    """Query-key pairs of one head that take part: a causal mask counts half the square."""
    return c.n * (c.n + 1) / 2 if c.causal else c.n * c.keys


EXHIBIT = Exhibit(
    name="attention",
    title="Scaled dot-product attention",
    family="dense",
    package=__name__,
    paper=Paper(
        title="Attention Is All You Need",
        authors=(
            "Ashish Vaswani",
            "Noam Shazeer",
            "Niki Parmar",
            "Jakob Uszkoreit",
            "Llion Jones",
            "Aidan N. Gomez",
            "Łukasz Kaiser",
            "Illia Polosukhin",
        ),
        year=2017,
        venue="NeurIPS 2017",
        arxiv="1706.03762",
        code="tensorflow/tensor2tensor",
    ),
    idea=(
        "Every position asks a question (its query) of every position (their keys) and receives the "
        "average of their values, weighted by how well each key answers. The dot products are divided "
        "by sqrt(dim) so that the softmax stays soft at any width. All pairs are compared: that is what "
        "makes it exact, and what makes it quadratic."
    ),
    attention_map=(
        "weights[i, j], the softmax over keys of scale q_i . k_j: rows sum to 1. Ask for it "
        "with want=['weights']; the fast paths never build it otherwise."
    ),
    operations=(
        Operation(
            "attend",
            headline=True,
            about="softmax attention: full, causal, masked, biased, with grouped-query heads",
            equations=(
                "S_ij = scale * q_i . k_j + bias_ij          (-inf where the mask hides j from i)",
                "A_ij = exp(S_ij) / sum_j exp(S_ij)",
                "out_i = sum_j A_ij v_j                       (0 where nothing is visible)",
            ),
            inputs=(
                Array("q", "batch heads n dim", about="queries"),
                Array("k", "batch kv_heads keys dim", about="keys; kv_heads divides heads"),
                Array("v", "batch kv_heads keys value_dim", about="values"),
                Array(
                    "mask",
                    "batch heads n keys | batch 1 n keys | 1 1 n keys | batch 1 1 keys",
                    dtype="bool",
                    optional=True,
                    about="True where the query may see the key",
                ),
                Array(
                    "bias",
                    "batch heads n keys | 1 heads n keys | 1 1 n keys",
                    optional=True,
                    about="added to the scores",
                ),
            ),
            options=(
                Option("causal", bool, False, "query i sees keys j <= i + keys - n"),
                Option("scale", float, None, "score scale; None is 1/sqrt(dim)"),
            ),
            outputs=(
                Array("out", "batch heads n value_dim"),
                Array("weights", "batch heads n keys", optional=True),
            ),
            refuse=(
                (
                    lambda c: c.heads % c.kv_heads,
                    "k: {kv_heads} key/value heads do not divide {heads} query heads",
                ),
                (
                    lambda c: c.causal and c.keys < c.n,
                    "causal needs at least as many keys as queries; got {keys} keys for {n} queries",
                ),
            ),
            example=example,
            vary={
                "batch": (1, 3),
                "heads": (1, 4),
                "dim": (1, 5, 8),
                "kv_heads": (None, 1, 2),
                "masked": (False, True),
                "biased": (False, True),
                "earlier": (0, 3),
                "causal": (False, True),
                "scale": (None, 0.3),
            },
            bench_sizes={"batch": 1, "heads": 8, "dim": 64},
            gradient=("q", "k", "v", "bias"),
            causal="n keys",
            cost=Cost(
                time="batch heads n^2 dim",
                exponent=2.0,
                flops=lambda c: 2.0 * c.batch * c.heads * visible(c) * (c.dim + c.value_dim),
                bytes=lambda c: (
                    c.itemsize
                    * c.batch
                    * (
                        c.heads * c.n * (c.dim + c.value_dim)
                        + c.kv_heads * c.keys * (c.dim + c.value_dim)
                    )
                ),
                blas=0.9,
                memory="batch heads n dim (tiled; n^2 only if weights are asked for)",
                memory_exponent=1.0,
            ),
        ),
    ),
    exercise=EXERCISE,
)
