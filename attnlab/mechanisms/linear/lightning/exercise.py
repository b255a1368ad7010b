"""Lightning attention as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part


def powers_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Rates of 3 heads, 0 and huge ones among them, and exponents from 0 to far beyond n."""
    s = rng.choice([0.0, 0.01, 0.5, 3.0, 1e4], 3) * rng.random(3)
    return {"s": s, "exponent": rng.integers(0, rng.choice([n, 100 * n]) + 1, n)}


def block_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """A block of n rows of width 2 to 5 after a state that is not empty; one head may not decay."""
    dim, value_dim = rng.integers(2, 6, 2)
    Q, K = rng.standard_normal((2, 2, 2, n, dim))
    s = rng.uniform(0.05, 1.0, 2)
    s[0] *= rng.random() < 0.7
    return {
        "Q": Q,
        "K": K,
        "V": rng.standard_normal((2, 2, n, value_dim)),
        "KV": rng.standard_normal((2, 2, dim, value_dim)),
        "s": s,
    }


EXERCISE = Exercise(
    difficulty=2,
    minutes=40,
    hints=(
        "Without a softmax the order of the products is free: all that a query needs of the past is "
        "one matrix of the head, the decayed sum of k v^T. Read it once a block instead of once a "
        "token, and let the block's own keys be handled as attention is.",
        "Two sums for each block: over its own keys, masked and decayed by the distance, and over "
        "everything before it, faded by the distance from the block's beginning. Then the matrix "
        "fades by the whole block and the block's keys join, each as faded as it will be at the end. "
        "The last block may be short, and nothing is scaled by 1/sqrt(dim).",
        "Row i of m (from 0): ((Q K^T) * lambda^(i-j)) V below and on the diagonal, plus lambda^(i+1) "
        "Q KV. Then KV = lambda^m KV + sum over i of lambda^(m-1-i) k_i v_i^T. Powers are "
        "exp(-s * exponent), never a quotient.",
    ),
    prerequisites=("attention",),
    parts=(
        Part("powers", "powers of the decay that neither overflow nor divide", powers_example),
        Part("scan_block", "one block: its output and the state after it", block_example),
    ),
    mistakes=(
        Mistake(
            "late-by-one",
            "inter = powers(s, i + 1)",
            "inter = powers(s, i)",
            "what comes from earlier blocks fades one step too little: row 0 is already one step "
            "after the state",
        ),
        Mistake(
            "keys-fade-once-more",
            "late = powers(s, m - 1 - i)",
            "late = powers(s, m - i)",
            "the keys of a block are faded once too often in the state: the block's last key joins "
            "as it is",
        ),
        Mistake(
            "state-never-fades",
            "KV = powers(s, m)[:, None, None] * KV + np",
            "KV = KV + np",
            "your state does not fade from block to block: everything in it is m steps older at the "
            "block's end",
        ),
        Mistake(
            "scaled",
            'np.einsum("bhid,bhjd->bhij", Q, K) * D',
            'np.einsum("bhid,bhjd->bhij", Q * Q.shape[3] ** -0.5, K) * D',
            "the scores inside your blocks look divided by sqrt(dim): there is no scale here",
        ),
        Mistake(
            "self-left-out",
            "np.maximum(i[:, None] - i, 0)))",
            "np.maximum(i[:, None] - i, 0)), -1)",
            "a token does not see its own key: the diagonal belongs to the mask, with decay 1",
        ),
        Mistake(
            "growing",
            "return np.exp(-np.multiply.outer(",
            "return np.exp(np.multiply.outer(",
            "your weights grow with the distance: lambda is exp(-s)",
        ),
    ),
    questions=(
        "show that the block length changes nothing: what are blocks of 1, and one block of n?",
        "derive the reverse sweep of the gradient and check it by finite differences",
        "several texts in one row: where must the state become 0?",
        "why does lambda^t / lambda^j fail for long sequences?",
    ),
)
