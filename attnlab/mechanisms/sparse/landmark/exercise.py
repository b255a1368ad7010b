"""Landmark attention as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part


def group_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Scores of n rows and n keys, a group of each row's keys; one row's group is empty (n > 1)."""
    over = rng.random((n, n)) < rng.choice([0.3, 0.7])
    over[int(rng.integers(n))] = n == 1
    S = rng.standard_normal((2, n, n))
    S[1] *= 2000  # exponentials that leave float64
    return {"S": S, "over": over}


def weights_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """n causal rows, at times after up to 3 keys that all rows see; landmarks anywhere, also first
    or adjacent, but one in the middle in any case."""
    before = int(rng.integers(0, 4)) if rng.random() < 0.5 else 0
    keys = before + n
    flags = rng.random(keys) < 0.35
    flags[before + n // 2] = True
    return {
        "S": 2 * rng.standard_normal((2, n, keys)),
        "allowed": np.tri(n, keys, before, dtype=bool),
        "is_landmark": flags,
    }


EXERCISE = Exercise(
    difficulty=3,
    minutes=60,
    hints=(
        "Think of a row's weights as a tree. At the root compete the tokens since the last landmark "
        "and the landmarks before that; a landmark's share is then divided among the tokens of the "
        "block it closes, and nothing is left for itself.",
        "Number the sections by counting the landmarks before each token: a landmark has the number "
        "of the block that it closes. One softmax runs over the query's own section and the past "
        "landmarks together, another inside every past block. A query that is itself a landmark must "
        "not compete in its own row.",
        "sec = cumsum(is_landmark) - is_landmark, L its maximum over the keys that a row may see. own "
        "= seen tokens with sec == L, past = seen landmarks with sec < L; p = softmax over own | "
        "past. A token of a past block gets p of its landmark times the softmax inside the block; a "
        "group without members gives 0, not NaN.",
    ),
    prerequisites=("attention",),
    parts=(
        Part("softmax", "the softmax over a group of each row's keys", group_example),
        Part("landmark_weights", "weights of all keys from their scores", weights_example),
    ),
    mistakes=(
        Mistake(
            "own-landmark-competes",
            "p = softmax(S, own | past)",
            "p = softmax(S, own | (allowed & is_landmark))",
            "a query that is a landmark takes weight in its own row and gives it to nobody: the "
            "landmark that closes the query's own block belongs to neither group",
        ),
        Mistake(
            "two-softmaxes",
            "p = softmax(S, own | past)",
            "p = softmax(S, own) + softmax(S, past)",
            "your rows sum to 2 behind a landmark: landmarks and the own section compete in one joint "
            "softmax, not in one each",
        ),
        Mistake(
            "inclusive-sum",
            "np.cumsum(is_landmark) - is_landmark, 0)",
            "np.cumsum(is_landmark), 0)",
            "your sections begin at the landmark: it belongs to the block that it closes, so the "
            "count of landmarks must leave it out",
        ),
        Mistake(
            "masked-too-late",
            "p = softmax(S, own | past)",
            "p = np.where(own | past, softmax(S, allowed), 0)",
            "you choose the groups after the softmax: keys that are no candidates have taken part of "
            "the weight, and your rows sum to less than 1",
        ),
        Mistake(
            "door-left-open",
            "W[..., G] += p[..., [l]] * softmax(S[..., G], inside)",
            "W[..., G] += softmax(S[..., G], inside)",
            "every past block counts in full: the weights inside a block must be multiplied by what "
            "its landmark won",
        ),
        Mistake(
            "landmark-keeps-weight",
            "W = np.where(own, p, 0)",
            "W = np.where(own | past, p, 0)",
            "your landmarks keep weight of their own: all of it goes to the tokens of their block, "
            "and their value is never read",
        ),
    ),
    questions=(
        "prove that rows sum to 1, and find the rows that do not",
        "which landmark scores make this equal to ordinary causal attention over the tokens?",
        "grouped softmax with section numbers, without a loop over blocks",
        "bookkeeping of the block cache: why are keys cached before they are rotated?",
    ),
)
