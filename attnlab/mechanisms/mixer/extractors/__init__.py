"""Extractors: mixing tokens by weights that belong to places, four kinds of falling size."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from attnlab.contract import Array, Cost, Exhibit, Operation, Option, Paper

from .exercise import EXERCISE


def example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    dim: int = 3,
    kind: str = "SHE",
    spare: int = 2,
) -> dict[str, Any]:
    """Normal rows; matrices N(0, 1/dim), vectors N(0, 0.09); tables with `spare` unused places."""

    def matrix(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape) / dim**0.5

    L = n + spare
    weights = {
        "SHE": lambda: {"W": matrix(L, dim, dim), "W_adj": matrix(dim, dim)},
        "HE": lambda: {
            "w": 0.3 * rng.standard_normal((L, dim)),
            "W_shared": matrix(dim, dim),
            "W_adj": matrix(dim, dim),
        },
        "WE": lambda: {"w": 0.3 * rng.standard_normal((L, dim)), "W_adj": matrix(dim, dim)},
        "ME": lambda: {"w": 0.3 * rng.standard_normal(L), "w_adj": rng.standard_normal(dim)},
    }
    return {"x": rng.standard_normal((batch, n, dim)), "kind": kind} | weights[kind]()


def flops(c: SimpleNamespace) -> float:
    """Extraction by the direct method, then the adjustment; vectors by FFT from n = 128 on."""
    rows, dim, n = c.batch * c.n, c.dim, c.n
    adjust = {"SHE": 2 * dim**2, "HE": 4 * dim**2, "WE": 2 * dim**2, "ME": dim}[c.kind]
    terms = (n + 1) / 2 if c.index == "lag" else 1.0  # places that a token combines
    if c.kind == "SHE":
        return rows * (terms * 2 * dim**2 + adjust)
    if c.index == "lag" and n > 128:
        terms = 2.5 * 3 * math.log2(2 * n)  # transforms of length 2n there and back, by halves
    return rows * (terms * 2 * dim + adjust)


def bytes_moved(c: SimpleNamespace) -> float:
    """x and y once, the table once."""
    table = {"SHE": c.dim**2, "HE": c.dim, "WE": c.dim, "ME": 1}[c.kind]
    return c.itemsize * (2 * c.batch * c.n * c.dim + c.n * table)


EXHIBIT = Exhibit(
    name="extractors",
    title="Extractors: SHE, HE, WE and ME",
    family="mixer",
    package=__name__,
    paper=Paper(
        title="Attention Is Not All You Need Anymore",
        authors=("Zhe Chen",),
        year=2023,
        arxiv="2308.07661",
    ),
    idea=(
        "Self-attention compares tokens to find out how much each matters; an Extractor learns that once "
        "and for all, one weight for each place. Every earlier token is transformed by the weight of its "
        "place and the results are added up. The sum is then multiplied, element by element, with a "
        "linear map of the current token, which so decides what passes."
    ),
    attention_map=(
        "none that depends on the text: a place has the same weight whatever stands there. "
        "The nearest thing is the table |w[lag]|, times what the current token lets pass."
    ),
    operations=(
        Operation(
            "extract",
            headline=True,
            about="weighted sums by place, adjusted by the current token; a causal drop-in for attention",
            equations=(
                "(1) SHE: e_t = sum_{j<=t} x_j W[i(t,j)]",
                "(2) HE:  e_t = sum_{j<=t} w[i(t,j)] * (x_j W_shared)",
                "(3) WE:  e_t = sum_{j<=t} w[i(t,j)] * x_j",
                "(4) ME:  e_t = sum_{j<=t} w[i(t,j)] x_j           (one number a place)",
                "i(t,j) = t - j with index='lag', j with index='absolute'",
                "(5) a_t = x_t W_adj (SHE, HE, WE);  a_t = x_t * w_adj (ME)",
                "(6) y_t = e_t * a_t / sqrt(t+1), t from 0; without sqrt_scale the root is left out",
            ),
            inputs=(
                Array("x", "batch n dim", about="token rows, n <= L"),
                Array("W", "L dim dim", when="kind == 'SHE'", weight=True),
                Array(
                    "w",
                    "L dim | L",
                    when="kind != 'SHE'",
                    weight=True,
                    about="(L, dim) for HE and WE, (L) for ME",
                ),
                Array("W_shared", "dim dim", when="kind == 'HE'", weight=True),
                Array("W_adj", "dim dim", when="kind != 'ME'", weight=True),
                Array("w_adj", "dim", when="kind == 'ME'", weight=True),
            ),
            options=(
                Option("kind", str, about="which extractor", choices=("SHE", "HE", "WE", "ME")),
                Option(
                    "index", str, "lag", "what a place counts from", choices=("lag", "absolute")
                ),
                Option("sqrt_scale", bool, True, "divide row t by sqrt(t+1)"),
            ),
            outputs=(Array("y", "batch n dim"),),
            refuse=(
                (
                    lambda c: c.n > c.L,
                    "x: {n} tokens, but the tables hold {L} places",
                ),
                (
                    lambda c: c.w is not None and (c.w.ndim == 1) != (c.kind == "ME"),
                    "w must have shape (L) for kind ME and (L, dim) for HE and WE",
                ),
            ),
            empty=("batch",),
            example=example,
            vary={
                "batch": (1, 3),
                "dim": (1, 5),
                "kind": ("SHE", "HE", "WE", "ME"),
                "index": ("lag", "absolute"),
                "sqrt_scale": (True, False),
                "spare": (0, 3),
            },
            bench_sizes={"batch": 1, "dim": 64, "spare": 0},
            gradient=("x", "W", "w", "W_shared", "W_adj", "w_adj"),
            causal="n",
            cost=Cost(
                time="batch n^2 dim^2 (SHE by lag)",
                exponent=2.0,
                flops=flops,
                bytes=bytes_moved,
                blas=lambda c: {"SHE": 0.95, "HE": 0.5, "WE": 0.4, "ME": 0.1}[c.kind],
                memory="L dim^2 (SHE's table)",
                memory_exponent=1.0,
                note="SHE with index='absolute': exponent 1; HE, WE, ME: n log n by FFT",
            ),
        ),
    ),
    exercise=EXERCISE,
    notes=(
        "Only the abstract, the first page and a public JAX version of the SHE could be read: HE, WE and "
        "ME are chosen so that they follow the abstract, each simpler than the last.",
        "The JAX version counts places from the sequence's start; only counting from the current token "
        "(lag, the default) reproduces the paper's claim that the SHE beats self-attention.",
        "Biases or an activation of the original SHE were not found; there are none here.",
    ),
)
