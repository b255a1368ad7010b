"""Scan and snap training dynamics as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part


def forward_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """n keys out of few tokens, so that many repeat."""
    M = int(rng.integers(2, 6))
    return {
        "keys": rng.integers(0, M, n),
        "m": int(rng.integers(M)),
        "K1": rng.standard_normal((M, M)),
        "K2": rng.standard_normal((M, M)),
        "normalize": bool(rng.random() < 0.8),
        "residual": bool(rng.random() < 0.2),
    }


def backward_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """What a forward pass over n keys leaves behind."""
    M = int(rng.integers(2, 6))
    keys = rng.integers(0, M, n)
    b = rng.dirichlet(np.ones(n))
    u = np.bincount(keys, b, M)
    norm = float(np.linalg.norm(u))
    return {
        "keys": keys,
        "n": int(rng.integers(M)),
        "K1": rng.standard_normal((M, M)),
        "b": b,
        "f": u / norm,
        "norm": norm,
        "alpha": rng.dirichlet(np.ones(M)),
    }


def tilted_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Distributions of two facts over n tokens, some of which never occur; scores of any size."""
    P = rng.dirichlet(np.ones(n), 2) * (rng.random((2, n)) < 0.8)
    P[:, 0] += 0.1
    z = rng.choice([1.0, 400.0]) * rng.standard_normal((2, n))
    return {"P": P / P.sum(axis=1, keepdims=True), "z": z}


EXERCISE = Exercise(
    difficulty=3,
    minutes=60,
    hints=(
        "Only the last token asks, and it asks all the others. What is collected is a weight for "
        "each token of the vocabulary, not for each position.",
        "The last token picks a row of K2, each key a column of it; nothing is divided. Repeated "
        "keys add up, the collected weights are brought to length 1, and K1 decodes them.",
        "b = softmax(K2[m, keys]); np.add.at(u, keys, b); f = u / sqrt(u @ u); "
        "loss = -log(softmax(K1 @ f)[label]), averaged over the batch.",
    ),
    parts=(
        Part(
            "forward",
            "one sequence: attention, what it collects, the next token's logits",
            forward_example,
        ),
        Part("backward", "the gradients of one sequence, by hand", backward_example),
        Part(
            "tilted",
            "attention of an endless sequence: token frequencies times exp(score)",
            tilted_example,
        ),
    ),
    mistakes=(
        Mistake(
            "K2 transposed",
            old="b = softmax(K2[m, keys])",
            new="b = softmax(K2[keys, m])",
            says="Your scores are read from the wrong side of K2: they match its transpose. The row "
            "is the last token's, the column the key's.",
        ),
        Mistake(
            "scaled scores",
            old="b = softmax(K2[m, keys])",
            new="b = softmax(K2[m, keys] / len(K1) ** 0.5)",
            says="Your attention is too flat: your scores look divided by sqrt(M). Here they are "
            "the entries of K2 as they stand.",
        ),
        Mistake(
            "K1 transposed",
            old="norm, K1 @ f",
            new="norm, K1.T @ f",
            says="Your logits match those of K1 transposed: each row of K1 belongs to a next token, "
            "each column to what attention collected.",
        ),
        Mistake(
            "repeats overwrite",
            old="    np.add.at(u, keys, b)  # (2)",
            new="    u[keys] = b  # (2)",
            says="A key that occurs several times counts once in your result. Attention is summed "
            "by token: u[keys] += b keeps the last of equal keys only.",
        ),
        Mistake(
            "normalised to sum 1",
            old="norm = np.sqrt(u @ u) if normalize",
            new="norm = u.sum() if normalize",
            says="Your collected weights have sum 1, where their length, the root of the sum of "
            "squares, has to be 1.",
        ),
        Mistake(
            "no projection",
            old="du = (df - f * (f @ df)) / norm",
            new="du = df / norm",
            says="Your score gradients miss the normalisation: a change of u along f changes "
            "nothing, so that part of the gradient has to be projected out.",
        ),
    ),
    questions=(
        "derive (4) and check it by finite differences",
        "show that each row of dJ/dK2 sums to 0",
        "train without the normalisation and compare",
        "train with lr_z much larger than lr_y: what snaps first?",
    ),
)
