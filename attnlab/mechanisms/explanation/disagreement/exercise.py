"""A song of (dis)agreement as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part


def heads_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Attention (1, 2, heads, n, n); rows of padded queries are zero now and then."""
    attention = rng.dirichlet(np.full(n, 0.5), (1, 2, int(rng.integers(1, 4)), n))
    if rng.random() < 0.3:
        attention[..., -1, :] = 0
    return {"attention": attention}


def network_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Capacities between n + 1 nodes, from 0 to n, every other edge missing; perhaps no way at all.
    From n = 8 on the shortest way (0, 1, 3, n) blocks two longer ones: some of it must be sent back."""
    if n >= 8:
        room = np.zeros((n + 1, n + 1))
        room[[0, 1, 3, 0, 2, 6, 1, 4, 5], [1, 3, n, 2, 6, 3, 4, 5, n]] = rng.uniform(0.5, 1)
        room[0, 7:n], room[7:n, n] = rng.random((2, n - 7))
        return {"room": room, "source": 0, "target": n}
    edges = np.triu(rng.random((n + 1, n + 1)) < 0.5, 1)
    if rng.random() < 0.8:
        edges[np.arange(n), np.arange(n) + 1] = True
    return {"room": edges * rng.random((n + 1, n + 1)), "source": 0, "target": n}


EXERCISE = Exercise(
    difficulty=2,
    minutes=40,
    prerequisites=("attention",),
    hints=(
        "Attention of one layer says where a position read, not where what it read had come from. "
        "And half of what stands at a position never went through attention.",
        "Average the heads, add the identity, and divide every row by its sum: that is A_l. The "
        "rollout multiplies A_L A_{L-1} ... A_1, but only row 0 is asked for.",
        "Keep a row vector: begin with A_L[0] and multiply it by the next lower layer, n^2 a layer. "
        "avg is the mean over layers and heads, then the maximum over keys.",
    ),
    parts=(
        Part(
            "with_residual",
            "what a layer passes on: attention and the residual stream",
            heads_example,
        ),
        Part(
            "max_flow",
            "the most that can flow between two nodes",
            network_example,
        ),
    ),
    mistakes=(
        Mistake(
            "no residual",
            old=" + np.eye(attention.shape[-1], dtype=attention.dtype)\n",
            new="\n",
            says="Your rollout lacks the residual stream: each layer passes on what was there, too, "
            "before its rows are brought to sum 1.",
        ),
        Mistake(
            "rows not normalised",
            old="return A / A.sum(-1, keepdims=True)",
            new="return A",
            says="Your rollout grows from layer to layer: after the identity is added, every row has "
            "to be divided by its sum.",
        ),
        Mistake(
            "all rows averaged",
            old="row = A[:, -1, 0]",
            new="row = A[:, -1].mean(1)",
            says="Your rollout is an average over all positions. Only the classification token's "
            "row, the first, is asked for.",
        ),
        Mistake(
            "read down the columns",
            old='np.einsum("bj,bjk->bk", row, A[:, layer])',
            new='np.einsum("bj,bkj->bk", row, A[:, layer])',
            says="A lower layer enters your rollout transposed: rows are the positions that read, "
            "columns those that were read.",
        ),
        Mistake(
            "maximum over queries",
            old="attention.mean((1, 2)).max(-1)",
            new="attention.mean((1, 2)).max(-2)",
            says="Your average takes the maximum over queries. The released averager takes it over "
            "the keys of each query.",
        ),
        Mistake(
            "one path only",
            old="        total += float(used)",
            new="        return float(used)",
            says="Your flow is what one path carries. Look for paths again until none has room left.",
        ),
    ),
    questions=(
        "tau-b in O(n log n) with ties",
        "show that (A + I)/2 is the L1-normalised form for a row that sums to 1",
        "prove that IG is Grad-SHAP in expectation for one baseline",
        "find the transposed matrix in the attention layer",
        "how far from 0 is tau of two unrelated score vectors of 8 tokens?",
    ),
)
