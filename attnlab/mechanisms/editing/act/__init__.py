"""ACT: scale down later attention sinks at inference, give the freed mass to the rest of the row."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from attnlab.contract import Array, Cost, Exhibit, Operation, Option, Paper

from .exercise import EXERCISE


def planted(n: int, rng: np.random.Generator, heads: int, dim: int, value_dim: int) -> Any:
    """Queries, keys and values in which token 0 and two later tokens draw attention."""
    q, k = rng.standard_normal((2, 1, heads, n, dim))
    v = rng.standard_normal((1, heads, n, value_dim))
    direction = rng.standard_normal((1, heads, 1, dim))
    sinks = np.unique(np.r_[0, rng.integers(0, n, 2)])
    k[:, :, sinks] += 1.5 * direction
    return q + direction, k, v


def example(
    n: int,
    rng: np.random.Generator,
    heads: int = 3,
    dim: int = 4,
    value_dim: int | None = None,
    edited: str = "all",
) -> dict[str, Any]:
    """Self-attention with planted sinks; `edited` is "all", "some" or "none" of the heads."""
    q, k, v = planted(n, rng, heads, dim, value_dim or dim)
    drawn = {"q": q, "k": k, "v": v}
    if edited != "all":
        drawn["heads"] = list(range(0, heads, 2)) if edited == "some" else []
    return drawn


def map_example(
    n: int, rng: np.random.Generator, heads: int = 2, sharpness: float = 2.0
) -> dict[str, Any]:
    """A causal softmax map of normal scores."""
    scores = sharpness * rng.standard_normal((heads, n, n))
    weights = np.tril(np.exp(scores))
    return {"A": weights / weights.sum(axis=-1, keepdims=True)}


def step_example(n: int, rng: np.random.Generator, heads: int = 2, dim: int = 4) -> dict[str, Any]:
    """The last of n tokens, with the column sums that the n - 1 rows before it left."""
    q, k, v = planted(n, rng, heads, dim, dim)
    past = np.tril(np.exp(q @ k.swapaxes(-1, -2) / dim**0.5))
    past /= past.sum(axis=-1, keepdims=True)
    return {"q": q[:, :, -1:], "k": k, "v": v, "column_sum": past[0, :, :-1].sum(axis=1)}


def pairs(c: Any) -> float:
    """Query-key pairs under the causal mask, all heads."""
    return c.h * c.n * (c.n + 1) / 2


def bar(n: int, threshold: float, alpha: float | None, eps: float) -> float:
    """The column mean above which a key is a sink, some roundings up for the paths that make
    means otherwise than the reference: one that equals the threshold is no sink on any of them."""
    return (threshold if alpha is None else alpha / n) * (1 + 16 * min(eps, 2**-23))


def out_of_range(c: Any) -> bool:
    return any(not 0 <= head < c.h for head in c.heads or ())


BETA = Option("beta", float, 0.4, "remaining share of a sink's weight", minimum=0, maximum=1)
THRESHOLD = Option("threshold", float, 0.1, "a column whose mean exceeds this is a sink", above=0)
ALPHA = Option(
    "alpha", float, None, "threshold alpha / n (the paper's form); overrides threshold", above=0
)
HEADS = Option("heads", list[int], None, "heads to calibrate; None is all")
HEAD_RANGE = (out_of_range, "heads: an index in {heads} is outside 0..{h}-1")
EQUATIONS = (
    "(1) m_t = (sum_k A[k,t]) / (n - t)                       n - t queries can see key t",
    "(2) S = ascending t with m_t > threshold;  S' = S without its first element",
    "(3) free_k = (1 - beta) * sum_{t in S'} A[k,t]",
    "(4) R[k,t] = 0 for t in S', else A[k,t];  rho_k = sum_t R[k,t]",
    "(5) A'[k,t] = (beta if t in S' else 1) * A[k,t] + free_k * R[k,t] / rho_k",
    "(6) A'[0,0] = 1;  out = A' v",
)


def flops(c: SimpleNamespace) -> float:
    return 2.0 * pairs(c) * (2 * c.dim + c.value_dim)  # scores are computed twice


EXHIBIT = Exhibit(
    name="act",
    title="ACT: attention calibration",
    family="editing",
    package=__name__,
    paper=Paper(
        title="Unveiling and Harnessing Hidden Attention Sinks: Enhancing Large Language Models "
        "without Training through Attention Calibration",
        authors=("Z. Yu", "Z. Wang", "others (Georgia Tech)"),
        year=2024,
        venue="ICML 2024 (PMLR 235)",
        arxiv="2406.15765",
        code="GATECH-EIC/ACT@a267af7",
    ),
    idea=(
        "In a trained decoder a few tokens collect far more attention than their meaning deserves, "
        "and not only the first token. ACT finds the keys whose average received attention exceeds "
        "a threshold, spares the first of them, scales the others by beta and returns the freed "
        "mass to the rest of each row in proportion to its weights. Nothing is trained; which "
        "heads to edit is found once, by calibrating one head at a time on a small labelled set."
    ),
    attention_map=(
        "probs before the calibration, probs_calibrated after it; both have rows that sum to "
        "1. What the layer uses are the calibrated ones."
    ),
    operations=(
        Operation(
            "calibrated_attend",
            headline=True,
            about="causal attention whose later sinks are calibrated in the chosen heads",
            equations=EQUATIONS,
            inputs=(
                Array("q", "1 h n dim", about="queries of one sequence; scores are / sqrt(dim)"),
                Array("k", "1 h n dim", about="keys"),
                Array("v", "1 h n value_dim", about="values"),
            ),
            options=(BETA, THRESHOLD, ALPHA, HEADS),
            outputs=(
                Array("probs", "1 h n n", optional=True, about="the plain causal map"),
                Array("column_mean", "h n", about="(1), for every head"),
                Array("sink_mask", "h n", dtype="bool", about="S' in edited heads"),
                Array("probs_calibrated", "1 h n n", optional=True, about="(5)"),
                Array("out", "1 h n value_dim"),
            ),
            refuse=(HEAD_RANGE,),
            example=example,
            vary={
                "heads": (1, 3),
                "dim": (1, 4, 7),
                "value_dim": (None, 3),
                "edited": ("all", "some", "none"),
                "beta": (0.0, 0.4, 1.0),
                "threshold": (0.02, 0.1, 0.3),
                "alpha": (None, 2.0, 5.0),
            },
            bench_sizes={"heads": 8, "dim": 64},
            gradient=("q", "k", "v"),
            cost=Cost(
                time="heads n^2 dim",
                exponent=2.0,
                flops=flops,
                bytes=lambda c: float(c.itemsize * c.h * c.n * 2 * (c.dim + c.value_dim)),
                blas=0.9,
                memory="heads n dim (two passes over tiles; n^2 only if maps are asked for)",
                memory_exponent=1.0,
                note="column means see all rows, so one pass cannot do: scores are made twice",
            ),
        ),
        Operation(
            "calibrate",
            about="the edit alone, on a given map: what a hook after the softmax does",
            equations=EQUATIONS,
            paths=frozenset({"numpy", "torch"}),
            inputs=(Array("A", "h n n", finite=True, about="attention map, rows summing to 1"),),
            options=(
                BETA,
                THRESHOLD,
                ALPHA,
                HEADS,
                Option(
                    "causal",
                    bool,
                    True,
                    "assert A[k,t] = 0 for t > k; False: every key is seen by all n queries",
                ),
            ),
            outputs=(
                Array("column_mean", "h n"),
                Array("sink_mask", "h n", dtype="bool"),
                Array("A_calibrated", "h n n"),
            ),
            refuse=(
                HEAD_RANGE,
                (lambda c: bool((c.A < 0).any()), "A must not hold negative weights"),
                (
                    lambda c: bool((abs(c.A.sum(-1) - 1) > 1e-3).any()),
                    "A: rows must sum to 1 (within 1e-3)",
                ),
                (
                    lambda c: (
                        c.causal
                        and any(
                            bool((a[: i + 1, i + 1 :] > 0).any())
                            for a in c.A
                            for i in range(c.n - 1)
                        )
                    ),
                    "A must be causal: an entry above the diagonal is above 0 (or pass causal=False)",
                ),
            ),
            example=map_example,
            vary={
                "heads": (1, 3),
                "sharpness": (0.5, 3.0),
                "beta": (0.0, 0.4, 1.0),
                "threshold": (0.02, 0.1),
                "alpha": (None, 3.0),
                "causal": (True, False),
            },
            gradient=("A",),
            exempt={"gradcheck": "finite differences leave the set of maps whose rows sum to 1"},
            cost=Cost(time="heads n^2", exponent=2.0, memory_exponent=2.0),
        ),
        Operation(
            "streaming_attend",
            about="one new token over a key-value cache, calibrated by running column sums",
            equations=(
                "a = softmax(q K^T / sqrt(dim));  column_sum_t <- column_sum_t + a_t",
                "m_t = column_sum_t / (n - t);  S' as in (2)",
                "(3)-(5) on the row a, without (6);  out = a' V",
            ),
            paths=frozenset({"numpy", "numba", "torch"}),
            inputs=(
                Array("q", "1 h 1 dim", about="the newest token's query"),
                Array("k", "1 h n dim", about="cached keys, the newest last"),
                Array("v", "1 h n value_dim", about="cached values"),
            ),
            state=(
                Array("column_sum", "h n", about="sums of the plain rows so far; 0 for a new key"),
            ),
            options=(BETA, THRESHOLD, ALPHA, HEADS),
            outputs=(
                Array("sink_mask", "h n", dtype="bool"),
                Array("out", "1 h 1 value_dim"),
            ),
            refuse=(
                HEAD_RANGE,
                (
                    lambda c: bool((c.column_sum < -1e-5).any()),  # beyond rounding
                    "column_sum must not be negative",
                ),
            ),
            example=step_example,
            vary={
                "heads": (1, 3),
                "dim": (1, 5),
                "beta": (0.0, 0.4, 1.0),
                "threshold": (0.02, 0.1),
                "alpha": (None, 3.0),
            },
            bench_sizes={"heads": 8, "dim": 64},
            gradient=("q", "k", "v", "column_sum"),
            cost=Cost(
                time="heads n dim",
                exponent=1.0,
                grows="cached tokens",
                flops=lambda c: 2.0 * c.h * c.n * (c.dim + c.value_dim),
                bytes=lambda c: float(c.itemsize * c.h * c.n * (c.dim + c.value_dim)),
                blas=0.9,
                memory_exponent=1.0,
            ),
        ),
    ),
    exercise=EXERCISE,
)
