"""Lightning attention: causal linear attention in blocks, and the TransNormerLLM layers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from attnlab.contract import Array, Cost, Exhibit, Operation, Option, Paper

from .exercise import EXERCISE


def heads_example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    heads: int = 2,
    dim: int = 4,
    value_dim: int | None = None,
    decay: bool = True,
) -> dict[str, Any]:
    """Normal queries, keys and values; slopes as a middle layer has them, or none."""
    q, k = rng.standard_normal((2, batch, heads, n, dim)) / dim**0.5
    drawn = {"q": q, "k": k, "v": rng.standard_normal((batch, heads, n, value_dim or dim))}
    return drawn | ({"slopes": 0.5 ** np.arange(1, heads + 1)} if decay else {})


def layer_example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    num_heads: int = 2,
    head_dim: int = 3,
    use_lrpe: bool = False,
    padded: bool = False,
    decode: bool = False,
) -> dict[str, Any]:
    """Normal rows and weights of variance 1/dim; the batch's odd elements may be left-padded."""
    dim = num_heads * head_dim
    drawn: dict[str, Any] = {
        "x": rng.standard_normal((batch, n, dim)),
        "w_qkvu": rng.standard_normal((4 * dim, dim)) / dim**0.5,
        "w_out": rng.standard_normal((dim, dim)) / dim**0.5,
        "slopes": 0.5 ** np.arange(1, num_heads + 1),
        "num_heads": num_heads,
        "use_lrpe": use_lrpe,
    }
    if use_lrpe:
        drawn["theta"] = (1e-4 ** (np.arange(dim) / dim)).reshape(num_heads, head_dim)
    if padded:
        first = np.arange(batch)[:, None] % 2 * (n // 3)
        drawn["pad_mask"] = np.arange(n) >= first
    if decode:
        drawn["x_next"] = rng.standard_normal((batch, 1, dim))
    return drawn


def decoder_example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    num_heads: int = 2,
    head_dim: int = 3,
    inner: int = 5,
    use_lrpe: bool = False,
) -> dict[str, Any]:
    """`gla`'s example with the weights of a gated linear unit."""
    dim = num_heads * head_dim
    drawn = layer_example(n, rng, batch, num_heads, head_dim, use_lrpe)
    drawn |= {name: rng.standard_normal((inner, dim)) / dim**0.5 for name in ("glu1", "glu2")}
    return drawn | {"glu3": rng.standard_normal((dim, inner)) / inner**0.5}


def tnl_example(
    n: int, rng: np.random.Generator, batch: int = 2, num_heads: int = 2, head_dim: int = 3
) -> dict[str, Any]:
    """Normal rows and weights of variance 1/fan-in, the norm's weights near one and zero."""
    dim = num_heads * head_dim
    shapes = {f"{name}_proj_weight": (dim, dim) for name in "qkvo"}
    shapes |= {
        "output_gate_0_weight": (head_dim, dim),
        "output_gate_1_weight": (dim, head_dim),
    }
    drawn: dict[str, Any] = {
        name: rng.standard_normal(shape) / shape[1] ** 0.5 for name, shape in shapes.items()
    }
    return drawn | {
        "x": rng.standard_normal((batch, n, dim)),
        "norm_weight": 1 + 0.1 * rng.standard_normal(dim),
        "norm_bias": 0.1 * rng.standard_normal(dim),
        "slopes": 0.5 ** np.arange(1, num_heads + 1),
        "num_heads": num_heads,
    }


def negative_slopes(c: Any) -> bool:
    """Whether any rate is below zero; arrays on a device are looked at on the host."""
    if c.slopes is None:
        return False
    slopes = c.slopes.copy_to_host() if hasattr(c.slopes, "copy_to_host") else c.slopes
    return bool((slopes < 0).any())


SLOPES_REFUSED = (negative_slopes, "slopes must be at least 0 (lambda = exp(-s) may not grow)")
HEADS_REFUSED = (
    lambda c: c.dim % c.num_heads,
    "x: width {dim} is not divisible by num_heads = {num_heads}",
)


def scan_flops(heads: float, n: float, block: float, d: float, e: float) -> float:
    """Chunked form: half of each tile is masked away, then state products in and out."""
    return heads * n * (min(block, n) * (d + e) + 4 * d * e)


def layer_flops(c: SimpleNamespace) -> float:
    """The scan, four projections in and one out."""
    d = c.dim // c.num_heads
    width = d * (2 if getattr(c, "use_lrpe", False) else 1)
    return c.batch * (scan_flops(c.num_heads, c.n, 64, width, d) + 2 * c.n * 5 * c.dim**2)


WIDTH = "num_heads dim//num_heads"
LAYER_WEIGHTS = (
    Array("w_qkvu", "4*dim dim", weight=True, about="q, k, v, u in this order, no bias"),
    Array("w_out", "dim dim", weight=True),
    Array("slopes", "num_heads", finite=True, about="decay rates s >= 0"),
)
THETA = Array("theta", WIDTH, when="use_lrpe", about="LRPE's angles")
LAYER_OPTIONS = (
    Option("num_heads", int, about="heads; divides the width", minimum=1),
    Option("use_lrpe", bool, False, "LRPE positions on q and k (5)"),
    Option("eps", float, 1e-6, "of SRMS (7)", minimum=0),
)
LAYER_VARY = {
    "batch": (1, 3),
    "num_heads": (1, 2, 3),
    "head_dim": (1, 5),
    "use_lrpe": (False, True),
    "eps": (1e-6, 1e-2),
}
LAYER_BENCH = {"batch": 1, "num_heads": 8, "head_dim": 64}

EXHIBIT = Exhibit(
    name="lightning",
    title="Lightning attention",
    family="linear",
    package=__name__,
    paper=Paper(
        title="Various Lengths, Constant Speed: Efficient Language Modeling with Lightning Attention",
        authors=("Zhen Qin", "others"),
        year=2024,
        venue="ICML 2024",
        arxiv="2405.17381",
        code="OpenNLPLab/lightning-attention@d15c385",
    ),
    idea=(
        "Linear attention remembers the past in one small matrix per head, but updating it token by "
        "token leaves the hardware idle. Lightning attention walks in blocks: inside a block it "
        "multiplies queries with keys as ordinary attention does, between blocks it carries the matrix, "
        "so that every step is a dense product. A fixed decay per head lets the past fade, and a norm "
        "after the sum replaces the softmax's denominator."
    ),
    attention_map=(
        "lambda^(i-j) q_i . k_j: signed, and rows do not sum to 1, so it is a map of "
        "influence and no share of attention. It is not stored; attnlab.explain.maps reads it "
        "off by feeding unit vectors as values."
    ),
    operations=(
        Operation(
            "attend",
            headline=True,
            about="causal linear attention with exponential decay, in blocks",
            equations=(
                "(1) o_t = sum_{j<=t} lambda^(t-j) (q_t . k_j) v_j",
                "(2) KV_t = lambda KV_{t-1} + k_t v_t^T,   o_t = q_t^T KV_t,   state = KV_n",
                "(3) s_i = 2^(-8(i+1)/h), i = 0..h-1, h a power of two;   lambda_i = exp(-s_i)",
                "(4) s_{i,l} = s_i (1 - l/(L-1) + 1e-5), l = 0..L-1",
            ),
            inputs=(
                Array("q", "batch heads n dim", about="queries after their activation, unscaled"),
                Array("k", "batch heads n dim", about="keys after their activation"),
                Array("v", "batch heads n value_dim", about="values"),
                Array(
                    "slopes",
                    "heads",
                    optional=True,
                    finite=True,
                    about="decay rates s >= 0, (4) included; none is no decay",
                ),
            ),
            options=(
                Option("block", int, 64, "rows of a tile; does not change the result", minimum=1),
            ),
            outputs=(
                Array("o", "batch heads n value_dim"),
                Array("state", "batch heads dim value_dim", about="KV after the last token"),
            ),
            refuse=(SLOPES_REFUSED,),
            empty=("batch", "n"),
            example=heads_example,
            vary={
                "batch": (1, 3),
                "heads": (1, 3),
                "dim": (1, 5, 8),
                "value_dim": (None, 1, 7),
                "decay": (False, True),
                "block": (1, 4, 16, 64),
            },
            bench_sizes={"batch": 1, "heads": 8, "dim": 64},
            gradient=("q", "k", "v"),
            causal="n",
            cost=Cost(
                time="batch heads n (block (dim + value_dim) + dim value_dim)",
                exponent=1.0,
                flops=lambda c: c.batch * scan_flops(c.heads, c.n, c.block, c.dim, c.value_dim),
                bytes=lambda c: (
                    c.itemsize
                    * c.batch
                    * c.heads
                    * (2 * c.n * (c.dim + c.value_dim) + c.dim * c.value_dim)
                ),
                blas=0.95,
                memory="batch heads dim value_dim beyond inputs and outputs",
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "gla",
            about="the gated linear attention layer of TransNormerLLM, with one decoding step",
            equations=(
                "(5) x -> [x cos(p theta), x sin(p theta)] on q and k, with use_lrpe",
                "(6) [q|k|v|u] = x W_qkvu^T;  q = silu(q), k = silu(k);  y = (SRMS(o) * u) W_out^T",
                "(7) SRMS(x) = x / sqrt(mean(x^2) + eps)",
            ),
            inputs=(
                Array("x", "batch n dim"),
                *LAYER_WEIGHTS,
                THETA,
                Array("pad_mask", "batch n", dtype="flag", optional=True, about="1 = real token"),
                Array("x_next", "batch 1 dim", optional=True, about="a token to decode"),
            ),
            options=LAYER_OPTIONS,
            outputs=(
                Array("y", "batch n dim"),
                Array("state", "batch num_heads _ dim//num_heads"),
                Array("y_next", "batch 1 dim", when="x_next"),
                Array("state_next", "batch num_heads _ dim//num_heads", when="x_next"),
            ),
            refuse=(SLOPES_REFUSED, HEADS_REFUSED),
            empty=("batch", "n"),
            example=layer_example,
            vary=LAYER_VARY | {"padded": (False, True), "decode": (False, True)},
            bench_sizes=LAYER_BENCH,
            gradient=("x", "w_qkvu", "w_out"),
            causal="n",
            cost=Cost(
                time="batch n dim^2",
                exponent=1.0,
                flops=layer_flops,
                bytes=lambda c: c.itemsize * (2 * c.batch * c.n * c.dim + 5 * c.dim**2),
                blas=0.95,
                memory="batch n dim",
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "decoder_layer",
            about="a layer of TransNormerLLM: gated linear attention, then a gated linear unit",
            equations=(
                "(8) SGLU(x) = ((x W1^T) * (x W2^T)) W3^T",
                "(9) h = x + GLA(SRMS(x)),   y = h + SGLU(SRMS(h))",
            ),
            inputs=(
                Array("x", "batch n dim"),
                *LAYER_WEIGHTS,
                Array("glu1", "inner dim", weight=True),
                Array("glu2", "inner dim", weight=True),
                Array("glu3", "dim inner", weight=True),
                THETA,
            ),
            options=LAYER_OPTIONS,
            outputs=(Array("h", "batch n dim"), Array("y", "batch n dim")),
            refuse=(SLOPES_REFUSED, HEADS_REFUSED),
            example=decoder_example,
            vary=LAYER_VARY | {"inner": (1, 7)},
            bench_sizes=LAYER_BENCH | {"inner": 1024},
            gradient=("x", "w_qkvu", "w_out", "glu1", "glu2", "glu3"),
            causal="n",
            cost=Cost(
                time="batch n dim (dim + inner)",
                exponent=1.0,
                flops=lambda c: layer_flops(c) + 6.0 * c.batch * c.n * c.dim * c.inner,
                bytes=lambda c: (
                    c.itemsize * (3 * c.batch * c.n * c.dim + 5 * c.dim**2 + 3 * c.dim * c.inner)
                ),
                blas=0.97,
                memory="batch n (dim + inner)",
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "tnl_attention",
            about="the authors' example module: LayerNorm, a low-rank sigmoid gate, silu on v too",
            equations=(
                "q, k, v = silu(x W_q^T), silu(x W_k^T), silu(x W_v^T);   o from (1)",
                "y = (LayerNorm(o) * sigmoid((x W_g0^T) W_g1^T)) W_o^T",
            ),
            inputs=(
                Array("x", "batch n dim"),
                *(Array(f"{name}_proj_weight", "dim dim", weight=True) for name in "qkvo"),
                Array("output_gate_0_weight", "dim//num_heads dim", weight=True),
                Array("output_gate_1_weight", "dim dim//num_heads", weight=True),
                Array("norm_weight", "dim", weight=True),
                Array("norm_bias", "dim", weight=True),
                Array("slopes", "num_heads", finite=True, about="decay rates s >= 0"),
            ),
            options=(
                Option("num_heads", int, about="heads; divides the width", minimum=1),
                Option("ln_eps", float, 1e-5, "of the LayerNorm", minimum=0),
            ),
            outputs=(Array("y", "batch n dim"),),
            refuse=(SLOPES_REFUSED, HEADS_REFUSED),
            example=tnl_example,
            vary={
                "batch": (1, 3),
                "num_heads": (1, 2, 3),
                "head_dim": (2, 5),
                "ln_eps": (1e-5, 1e-2),
            },
            bench_sizes=LAYER_BENCH,
            gradient=("x", "q_proj_weight", "k_proj_weight", "v_proj_weight", "o_proj_weight"),
            causal="n",
            cost=Cost(
                time="batch n dim^2",
                exponent=1.0,
                flops=lambda c: (
                    layer_flops(c) - 2.0 * c.batch * c.n * c.dim**2 * (1 - 2 / c.num_heads)
                ),
                bytes=lambda c: c.itemsize * (2 * c.batch * c.n * c.dim + 4 * c.dim**2),
                blas=0.95,
                memory="batch n dim",
                memory_exponent=1.0,
            ),
        ),
    ),
    exercise=EXERCISE,
    notes=(
        "The paper's text has a decay rate linear in the head, (8h/H)(1 - l/L); the authors' code, "
        "which the test vectors follow, uses ALiBi's slopes and the factor (4).",
        "flash-linear-attention scales q by 1/sqrt(dim) by default; the authors' operator does not.",
        "Powers of lambda are exp(-s * whole number): lambda^t / lambda^j overflows on long sequences.",
    ),
)
