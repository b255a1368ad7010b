"""Internal consistency and head isolation as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part


def rope_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """n rows of 2 to 6 numbers in two heads; the positions need not begin at 0."""
    half = int(rng.integers(1, 4))
    places = rng.integers(0, 50) + np.arange(n)
    angle = np.tile(places[:, None] * 10000.0 ** (-np.arange(half) / half), (1, 2))
    return {"z": rng.standard_normal((2, n, 2 * half)), "cos": np.cos(angle), "sin": np.sin(angle)}


EXERCISE = Exercise(
    difficulty=2,
    minutes=50,
    prerequisites=("attention",),
    hints=(
        "Where in a layer are there still separate heads? Only there can one be kept alone.",
        "Scale the heads' outputs before Wo: after Wo there are no heads any more. Query head j "
        "reads key/value head j // (H / Hkv), and keep_head = -1 is the last head.",
        "rope(z) = z * cos + concat(-z[dim/2:], z[:dim/2]) * sin; O is (batch, n, H, dim); "
        "m = where(arange(H) == keep_head % H, 1, coefficient); out = (m[:, None] * O) flattened @ Wo.T.",
    ),
    parts=(
        Part("rope", "rotary positions, the two halves turning together", rope_example),
        Part("consistency", "how far a question's answers agree, in four numbers"),
        Part("vote", "weighted votes, one for each signal that is given"),
    ),
    mistakes=(
        Mistake(
            "unscaled scores",
            old=" * dim**-0.5\n    S = np.where",
            new="\n    S = np.where",
            says="Your scores look unscaled: they match when divided by sqrt(dim), the width of one "
            "head.",
        ),
        Mistake(
            "future seen",
            old="S = np.where(np.tri(n, dtype=bool), S, -np.inf)",
            new="S = np.where(np.ones((n, n), bool), S, -np.inf)",
            says="Your positions attend to what comes after them. The mask has to leave the keys up "
            "to the query's own position.",
        ),
        Mistake(
            "turned backwards",
            old="np.concatenate([-z[..., half:], z[..., :half]], axis=-1)",
            new="np.concatenate([z[..., half:], -z[..., :half]], axis=-1)",
            says="Your queries and keys turn the wrong way round: the minus sign belongs to the "
            "second half, which comes to stand first.",
        ),
        Mistake(
            "isolated after the projection",
            old='"isolated_paper": (m * O).reshape(batch, n, -1) @ Wo.T,',
            new='"isolated_paper": (m * sliced).reshape(batch, n, width),',
            says="You scale slices of the projected output. That is the released code's variant; the "
            "projection mixes the heads, so a slice after it is no head. Scale before Wo.",
        ),
        Mistake(
            "entropy in nats",
            old="entropy = -np.sum(p * np.log2(p))",
            new="entropy = -np.sum(p * np.log(p))",
            says="Your entropies match when divided by ln 2: they are in nats, where bits are asked "
            "for.",
        ),
        Mistake(
            "padding counted",
            old="[row[:L].astype",
            new="[row[:].astype",
            says="Your votes count padding: behind an answer's length the log-probabilities are 0, "
            "which reads as a token of probability 1. Stop at the length.",
        ),
    ),
    questions=(
        "neg_variance and neg_entropy_bits of the survey's worked sets",
        "a block-diagonal Wo for which (7) and (8) agree",
        "a set in which count, joint and mean elect three different winners",
        "what does keep_head = -1 do in the released code?",
    ),
)
