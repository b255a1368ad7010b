"""Progressive self-supervised attention as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part


def softmax_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Scores (3, n) of any size; the last row may see nothing."""
    seen = rng.random((3, n)) < 0.7
    if rng.random() < 0.3:
        seen[2] = False
    return {"s": rng.choice([1.0, 1.0, 1.0, 300.0]) * rng.standard_normal((3, n)), "seen": seen}


def mine_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Two rounds over sentences of n, n - 1 and 1 words, of which the last gets no attention; the
    threshold lies between the entropies of the first two. Of three words, empty ones are not skipped."""
    real = np.arange(n) < np.array([n, max(1, n - 1), 1])[:, None]
    e = np.where(real, np.exp(2 * rng.standard_normal((2, 3, n))), 0)
    e[:, 2] = 0
    np.put_along_axis(e[1], e[0].argmax(axis=1)[:, None], 0, axis=1)  # extracted, and so erased
    total = e.sum(axis=-1, keepdims=True)
    alphas = e / np.where(total > 0, total, 1)
    bits = -np.sum(alphas * np.log2(np.where(alphas > 0, alphas, 1)), axis=-1)
    return {
        "alphas": alphas * rng.choice([-1, 1], (2, 3, 1)),
        "wids": np.where(real, rng.integers(1, 50, (3, n)), 0),
        "dist": np.where(real, np.arange(n), -1),
        "max_entropy_bits": float(bits[0, :2].mean()) or 1.0,
        "skip_empty": n != 3,
    }


EXERCISE = Exercise(
    difficulty=2,
    minutes=50,
    hints=(
        "A hop asks one question of the whole sentence: scores from one table of embeddings, what is "
        "read from another. What it read changes the next hop's question.",
        "The query is the vector u times M; hide padding (and erased words) before the softmax, and "
        "give a sentence of which nothing is left zeros, not NaN. Words outside attention_mask cost "
        "nothing, however much attention they get.",
        "alpha = softmax of A[text] @ (u @ M) over the seen words; u = alpha @ C[text] + u @ H; "
        "attention_loss = mean over sentences of sum((attention_mask * alpha - avalue) ** 2).",
    ),
    parts=(
        Part(
            "masked_softmax", "softmax over what is seen; zeros where nothing is", softmax_example
        ),
        Part(
            "mine",
            "one word a round: the most attended, if attention is sharp enough",
            mine_example,
        ),
    ),
    mistakes=(
        Mistake(
            "scaled scores",
            old='scores = np.einsum("bne,be->bn", A, u @ M)',
            new='scores = np.einsum("bne,be->bn", A, u @ M) / (1 + A.shape[2]) ** 0.5',
            says="Your attention is too flat: your scores look divided by the root of a width. The "
            "memory network compares words and query by the plain product.",
        ),
        Mistake(
            "padding seen",
            old="    s = np.where(seen, s, -np.inf)",
            new="    s = np.where(seen, s, 0)",
            says="Your attention goes to words that must not be seen: a hidden score of 0 is still "
            "e^0 in the softmax. It has to become weight 0.",
        ),
        Mistake(
            "every word supervised",
            old="((attention_mask * alpha - avalue) ** 2)",
            new="((alpha - avalue) ** 2)",
            says="Your attention loss charges words that were never extracted. They are free: only "
            "words in attention_mask cost anything.",
        ),
        Mistake(
            "keys read out",
            old='np.einsum("bn,bne->be", alpha, C)',
            new='np.einsum("bn,bne->be", alpha, A)',
            says="What your hop reads comes from the table that made the scores. Keys come from "
            "embedding_A, what is read from embedding_C.",
        ),
        Mistake(
            "misleading words rewarded",
            old="    avalue = attention_value\n",
            new="    avalue = attention_mask.astype(alpha.dtype)\n",
            says="You pull attention towards every extracted word, the misleading ones too. "
            "attention_mask says which words cost something, attention_value what each should get.",
        ),
        Mistake(
            "entropy in nats",
            old="entropy[k, b] = 0 - np.sum(seen * np.log2(seen))",
            new="entropy[k, b] = 0 - np.sum(seen * np.log(seen))",
            says="Your entropies match when divided by ln 2: they are in nats, and the threshold is "
            "in bits.",
        ),
    ),
    questions=(
        "prove that (5) under sum alpha = 1 is least when attention is uniform on the active words",
        "find the input for which the released normalisation gives NaN",
        "write `mine` as one vectorised NumPy pass",
        "why must each round begin with fresh weights, and why must the word id go, too?",
    ),
)
