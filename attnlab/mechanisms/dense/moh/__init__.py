"""MoH: every token gates the attention heads, a few always on and the rest chosen by a router."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from attnlab.contract import Array, Cost, Exhibit, Operation, Option, Paper

from .exercise import EXERCISE


def _routers(
    rng: np.random.Generator, channels: int, n_head: int, n_shared: int, top_k: int
) -> dict[str, Any]:
    drawn = {}
    if n_head > n_shared:
        drawn["W_r"] = rng.standard_normal((n_head - n_shared, channels)) / channels**0.5
    if n_shared > 1:
        drawn["W_s"] = rng.standard_normal((n_shared, channels)) / channels**0.5
    if n_shared > 0 and top_k > 0:
        drawn["W_h"] = rng.standard_normal((2, channels)) / channels**0.5
    return drawn | {"n_head": n_head, "n_shared": n_shared, "top_k": top_k}


def example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    n_head: int = 4,
    head_dim: int = 3,
    n_shared: int = 1,
    top_k: int = 2,
    biased: bool = True,
) -> dict[str, Any]:
    """Normal tokens and weights; what n_shared and top_k exceed of n_head is cut off."""
    n_shared, channels = min(n_shared, n_head), n_head * head_dim
    top_k = min(top_k, n_head - n_shared)
    n_shared = max(n_shared, 1 if top_k == 0 else 0)
    drawn = {
        "x": rng.standard_normal((batch, n, channels)),
        "W_qkv": rng.standard_normal((3 * channels, channels)) / channels**0.5,
        "W_o": rng.standard_normal((channels, channels)) / channels**0.5,
        "b_o": rng.standard_normal(channels),
    }
    if biased:
        drawn["b_qkv"] = rng.standard_normal(3 * channels)
    return drawn | _routers(rng, channels, n_head, n_shared, top_k)


def gates_example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    channels: int = 6,
    n_head: int = 4,
    n_shared: int = 1,
    top_k: int = 2,
) -> dict[str, Any]:
    """As `example`, the routers alone."""
    n_shared = min(n_shared, n_head)
    top_k = min(top_k, n_head - n_shared)
    n_shared = max(n_shared, 1 if top_k == 0 else 0)
    x = rng.standard_normal((batch, n, channels))
    return {"x": x} | _routers(rng, channels, n_head, n_shared, top_k)


def norm_example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    heads: int = 6,
    dim: int = 3,
    n_shared: int = 2,
    top_k: int = 2,
) -> dict[str, Any]:
    """Normal queries; at least two heads stay routed."""
    n_shared = min(n_shared, heads - 2)
    q = rng.standard_normal((batch, n, heads, dim))
    return {"q": q, "n_shared": n_shared, "top_k": min(top_k, heads - n_shared)}


def _equal_norms(c: Any) -> bool:
    """Whether some token's routed queries all have the same norm, so that their std is 0.

    Nearly always the first two differ, and nothing else is read.
    """
    routed = c.q[:, :, c.n_shared :]
    first = (routed[:, :, :2] ** 2).sum(-1)
    suspects = routed[first[..., 0] == first[..., -1]]  # (tokens, heads, dim)
    squares = (suspects**2).sum(-1)
    return bool((squares == squares[..., :1]).all(-1).any())


X = Array("x", "batch n channels", finite=True, about="tokens")
ROUTERS = (
    Array(
        "W_r",
        "n_head-n_shared channels",
        weight=True,
        finite=True,
        when="n_head > n_shared",
        about="router of the routed heads",
    ),
    Array(
        "W_s",
        "n_shared channels",
        weight=True,
        finite=True,
        when="n_shared > 1",
        about="weights of the shared heads",
    ),
    Array(
        "W_h",
        "2 channels",
        weight=True,
        finite=True,
        when="n_shared > 0 and top_k > 0",
        about="balance of the two groups",
    ),
)
N_SHARED = Option("n_shared", int, about="heads that are always on, the first ones", minimum=0)
TOP_K = Option("top_k", int, about="routed heads that a token chooses", minimum=0)
OPTIONS = (Option("n_head", int, about="attention heads", minimum=1), N_SHARED, TOP_K)
GATES = Array("gates", "batch n n_head", about="weight of each head, shared first; 0: not chosen")
AUX = Array("aux", "", when="top_k > 0", about="load balance; top_k when perfect")
REFUSE = (
    (lambda c: c.n_shared > c.n_head, "n_shared {n_shared} exceeds n_head {n_head}"),
    (
        lambda c: c.top_k > c.n_head - c.n_shared,
        "top_k {top_k} exceeds the routed heads: n_head {n_head} less n_shared {n_shared}",
    ),
    (lambda c: c.n_shared == c.top_k == 0, "n_shared and top_k are both 0: no head would be on"),
)
EQUATIONS = (
    "p = softmax(W_r x) over E = n_head - n_shared routed heads;  T = the top_k largest, ties low first (1)",
    "r_e = K p_e / max(sum_{t in T} p_t, eps) for e in T, else 0                                       (2)",
    "s = S softmax(W_s x) if S > 1;  s = 1 if S = 1                                                    (3)",
    "(a_1, a_2) = 2 softmax(W_h x);  without shared heads g = r, without routed ones g = s             (4)",
    "g = [a_1 s, a_2 r]                                                                                (5)",
    "head_h = softmax_j(scale q_h k_h^T) v_h;  y = W_o concat_h(g_h head_h) + b_o                      (6)",
    "aux = E sum_e f_e P_e;  f_e = mean of [e in T], P_e = mean of p_e, over all tokens                (7)",
)


def _active(c: SimpleNamespace) -> int:
    return c.n_shared + c.top_k


def _projection(c: SimpleNamespace) -> float:
    return 8.0 * c.batch * c.n * c.channels**2


def _attention(c: SimpleNamespace) -> float:
    return 4.0 * c.batch * _active(c) * c.n**2 * c.head_dim


def _routing(c: SimpleNamespace) -> float:
    return 2.0 * c.batch * c.n * c.channels * (c.n_head + 2)


EXHIBIT = Exhibit(
    name="moh",
    title="MoH: attention as a mixture of heads",
    family="dense",
    package=__name__,
    paper=Paper(
        title="MoH: Multi-Head Attention as Mixture-of-Head Attention",
        authors=("Peng Jin", "Bo Zhu", "Li Yuan", "Shuicheng Yan"),
        year=2024,
        venue="ICML 2025",
        arxiv="2410.11842",
        code="SkyworkAI/MoH@2cefd57",
    ),
    idea=(
        "Concatenating heads and projecting is a sum over heads, each with weight 1. MoH replaces the 1 "
        "by a gate of the token's own: a few shared heads are always on, a router picks the best of the "
        "others, and a second one balances the two groups. The weights make the sum more flexible, and "
        "the zeros spare work, once queries are gathered by the head that they chose."
    ),
    attention_map=(
        "one softmax map a head; a token that did not choose the head has no row in it. Times "
        "the token's gate for the head, the maps add up to what the layer mixes."
    ),
    operations=(
        Operation(
            "attend",
            headline=True,
            about="the layer: routers, attention by the chosen heads, projection, load balance",
            equations=EQUATIONS,
            inputs=(
                X,
                Array(
                    "W_qkv",
                    "3*n_head*head_dim channels",
                    weight=True,
                    finite=True,
                    about="rows of q, then k, then v, heads in slices of head_dim",
                ),
                Array("b_qkv", "3*n_head*head_dim", weight=True, finite=True, optional=True),
                Array("W_o", "channels n_head*head_dim", weight=True),
                Array("b_o", "channels", weight=True),
                *ROUTERS,
            ),
            options=(
                *OPTIONS,
                Option("scale", float, None, "score scale; None is 1/sqrt(head_dim)"),
            ),
            outputs=(
                Array("y", "batch n channels"),
                GATES,
                Array(
                    "heads", "batch n n_head head_dim", optional=True, about="every head, ungated"
                ),
                AUX,
            ),
            refuse=(
                *REFUSE,
                (
                    lambda c: c.n_head * c.head_dim != c.channels,
                    "W_qkv: {n_head} heads of {head_dim} do not make the {channels} channels of x",
                ),
            ),
            example=example,
            vary={
                "batch": (1, 3),
                "n_head": (1, 4, 7),
                "head_dim": (1, 4),
                "n_shared": (0, 1, 2, 7),
                "top_k": (0, 1, 2, 7),
                "biased": (False, True),
                "scale": (None, 0.3),
            },
            bench_sizes={"batch": 1, "n_head": 8, "head_dim": 64, "n_shared": 2, "top_k": 2},
            gradient=("x", "W_qkv", "b_qkv", "W_o", "b_o", "W_r", "W_s", "W_h"),
            cost=Cost(
                time="batch (n_shared + top_k) n^2 head_dim",
                exponent=2.0,
                flops=lambda c: _projection(c) + _attention(c) + _routing(c),
                bytes=lambda c: float(
                    c.itemsize * (2 * c.batch * c.n * c.channels + 4 * c.channels**2)
                ),
                blas=0.9,
                memory="batch n channels; every head's output only if heads are asked for",
                memory_exponent=1.0,
                note="as released, all heads are computed and then zeroed: n_head instead of n_shared + top_k",
            ),
        ),
        Operation(
            "gates",
            about="the two-stage router alone",
            equations=(*EQUATIONS[:5], EQUATIONS[6]),
            inputs=(X, *ROUTERS),
            options=OPTIONS,
            outputs=(GATES, AUX),
            refuse=REFUSE,
            example=gates_example,
            vary={
                "batch": (1, 3),
                "channels": (1, 6),
                "n_head": (1, 4, 7),
                "n_shared": (0, 1, 2, 7),
                "top_k": (0, 1, 2, 7),
            },
            bench_sizes={"batch": 1, "channels": 512, "n_head": 8, "n_shared": 2, "top_k": 2},
            gradient=("x", "W_r", "W_s", "W_h"),
            cost=Cost(
                time="batch n channels n_head",
                exponent=1.0,
                flops=_routing,
                bytes=lambda c: float(c.itemsize * c.batch * c.n * (c.channels + c.n_head)),
                blas=0.9,
                memory="batch n n_head",
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "norm_gates",
            about="the parameter-free router of continue-tuned models: norms of the queries",
            equations=(
                "n_e = ||q_e||_2 for each routed head;  z = n / std(n), unbiased, over the routed heads",
                "scores = softmax(z);  gates = 1 for shared heads and the top_k largest scores, else 0",
                "backwards the gates are scores + stop_gradient(gates - scores): straight through",
            ),
            inputs=(
                Array(
                    "q",
                    "batch n heads dim",
                    finite=True,
                    about="projected queries before any rotation, shared heads first",
                ),
            ),
            options=(N_SHARED, TOP_K),
            outputs=(
                Array("gates", "batch n heads", about="0 or 1"),
                Array("scores", "batch n heads-n_shared", about="p, rows sum to 1"),
            ),
            refuse=(
                (
                    lambda c: c.n_shared > c.heads,
                    "n_shared {n_shared} exceeds the {heads} heads of q",
                ),
                (
                    lambda c: c.top_k > c.heads - c.n_shared,
                    "top_k {top_k} exceeds the routed heads: {heads} less n_shared {n_shared}",
                ),
                REFUSE[2],
                (
                    lambda c: c.n_shared < c.heads and _equal_norms(c),
                    "q: a token's routed queries all have the same norm, whose std of 0 divides",
                ),
            ),
            example=norm_example,
            vary={
                "batch": (1, 3),
                "heads": (2, 5, 8),
                "dim": (1, 4),
                "n_shared": (0, 1, 3),
                "top_k": (1, 2, 9),
            },
            bench_sizes={"batch": 1, "heads": 32, "dim": 64, "n_shared": 16, "top_k": 8},
            gradient=("q",),
            exempt={
                "gradcheck": "gates are straight-through: their gradient is the scores', by design not theirs"
            },
            cost=Cost(
                time="batch n heads dim",
                exponent=1.0,
                flops=lambda c: 2.0 * c.batch * c.n * c.heads * (c.dim + 8),
                bytes=lambda c: float(c.itemsize * c.batch * c.n * c.heads * (c.dim + 2)),
                blas=0.0,
                memory="batch n heads",
                memory_exponent=1.0,
            ),
        ),
    ),
    exercise=EXERCISE,
    notes=(
        "The count factors n_shared, top_k and 2 are the code's; the paper's equations leave them out.",
        "With one shared head its weight is 1, as in the ViT code; the DiT code fails there.",
        "n_shared = 0 uses the routed gates alone; top_k = 0 the shared ones alone, without aux.",
    ),
)
