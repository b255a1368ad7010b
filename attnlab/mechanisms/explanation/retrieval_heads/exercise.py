"""Retrieval heads as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part


def needle_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """A needle of 4 in three prompts of n + 6: behind its own tokens in disorder, which "first" takes
    and "aligned" does not; behind a part of it; and a part of it alone."""
    ids, prompts = rng.permutation(60)[:4], rng.integers(60, 99, (3, n + 6))
    starts = rng.integers(4, n + 3, 2)
    prompts[0, :4] = ids[[1, 2, 3, 0]]
    for row, start in zip(prompts, starts):
        row[start : start + 4] = ids
    prompts[1:, 1] = ids[2]
    rule = "aligned" if n % 2 else "first"
    return {"needle_ids": ids, "prompts": prompts, "rule": rule}


EXERCISE = Exercise(
    difficulty=2,
    minutes=50,
    prerequisites=("attention",),
    hints=(
        "A head copies when three things meet: where it looks most, that this place lies in the "
        "needle, and that the token there is the one that comes out.",
        "Row t belongs to the step that emits g_t: compare with g_t, not with the token read. It has "
        "n + t valid keys, and a maximum at j >= n lies in the answer and is no copy.",
        "For every t and head: j = argmax of the first n + t weights; if s <= j < e and "
        "prompt_ids[j] == g_t, per_step = 1 / (e - s), again if the same token is copied again. "
        "retrieval_score is the sum over t.",
    ),
    parts=(
        Part(
            "find_needle",
            "where the needle stands in a prompt, by the tokens it shares",
            needle_example,
        ),
        Part("mask_heads", "a layer with some heads flattened: what their loss costs"),
    ),
    mistakes=(
        Mistake(
            "token read for token written",
            old="prompt_ids[j] == g:",
            new="prompt_ids[j] == generated[max(t - 1, 0)]:",
            says="You compare what a head looks at with the token of the step before, which the step "
            "reads. A copy is a look at the token that the step emits.",
        ),
        Mistake(
            "any look counts",
            old="if s <= j < e and prompt_ids[j] == g:",
            new="if s <= j < e:",
            says="You count every look at the needle. It is a copy only if the token there is the "
            "one that is emitted.",
        ),
        Mistake(
            "share of the answer",
            old="per_step[t, *head] = 1 / (e - s)",
            new="per_step[t, *head] = 1 / len(generated)",
            says="Your scores are divided by the length of the answer. The needle's length is asked "
            "for: how much of it was copied.",
        ),
        Mistake(
            "last needle token left out",
            old="if s <= j < e and",
            new="if s <= j < e - 1 and",
            says="Looks at the needle's last token are missing from your scores: the span ends "
            "before e, so e - 1 still belongs to it.",
        ),
        Mistake(
            "smallest weight",
            old="np.argsort(-row, kind=",
            new="np.argsort(row, kind=",
            says="You follow the smallest weight of a row. Sorting ascends: turn it round, and let "
            "the lower key come first among equals.",
        ),
        Mistake(
            "heads zeroed",
            old="masked[:, block_heads] = softmax(np.where(seen, 0.0, -np.inf) if causal else np.zeros((n, n)))",
            new="masked[:, block_heads] = 0",
            says="Your masked heads say nothing at all. They are to be flattened: their scores become "
            "0 before the softmax, so that they attend to everything alike.",
        ),
    ),
    questions=(
        "the set version of (2), which never exceeds 1",
        "top_k > 1: by how much do the scores of a random head grow?",
        "the running argmax: score a row of logits without storing its softmax",
        "why does the 90 % rule find long needles one token early?",
    ),
)
