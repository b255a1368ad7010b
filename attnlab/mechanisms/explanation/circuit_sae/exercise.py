"""Circuit discovery with sparse autoencoders as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part


def gradients_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """n rows of 3 numbers, 4 features of which some never fire; now and then the whole autoencoder is dead."""
    bias = rng.standard_normal(4) - (100 if rng.random() < 0.1 else 0)
    weights = [
        rng.standard_normal((4, 3)),
        bias,
        rng.standard_normal((3, 4)),
        rng.standard_normal(3),
    ]
    return {
        "x": rng.standard_normal((n, 3)),
        "weights": weights,
        "lam": float(rng.choice([0, 0.02, 0.1, 0.5])),
    }


def project_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Gradients of 3 vectors of length 1 in n dimensions, along either axis."""
    axis = int(rng.integers(2))
    w = rng.standard_normal((3, n))
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    g = rng.standard_normal((3, n))
    return {"g": g, "w": w, "axis": 1} if axis else {"g": g.T, "w": w.T, "axis": 0}


def codes_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Codes of 4 heads on n positive and n negative prompts; one head may have a single code."""
    codes = rng.integers(0, rng.integers(2, 9), (2 * n, 4))
    codes[:n, 3] = 9
    if rng.random() < 0.3:
        codes[:, 0] = 0
    return {"codes": codes}


EXERCISE = Exercise(
    difficulty=3,
    minutes=90,
    prerequisites=("attention",),
    hints=(
        "The autoencoder turns each head's output into one whole number. Whether a head matters is "
        "then a question about sets of numbers.",
        "Subtract the tied bias before encoding and add it after decoding. An epoch: rescale the "
        "rows, take the gradient there, project it row by row, then let Adam step. A code is the "
        "strongest feature; an all-zero row has code 0.",
        "d_xhat = 2 (xhat - x) / x.size; d_a = (d_xhat @ W_d + lam / rows) where a > 0; g - (g . w) w "
        "for each row; codes = a.argmax(-1); a head's score is len(set(pos) - set(neg)).",
    ),
    parts=(
        Part(
            "gradients",
            "the loss on rows, and its gradients in all four weights",
            gradients_example,
        ),
        Part("project", "the part of a gradient that leaves lengths as they are", project_example),
        Part("node_counts", "codes on positives only, on negatives only, in all", codes_example),
    ),
    mistakes=(
        Mistake(
            "trained on positives",
            old="rows = streams[permutation[:n_train]]",
            new="rows = streams[:n_train]",
            says="Your autoencoder is trained on the first prompts, which are all positive: every "
            "code of a negative is noise then. Take them in the order of the permutation.",
        ),
        Mistake(
            "bias not subtracted",
            old="return np.maximum((x - t) @ W_e.T + b_e, 0)",
            new="return np.maximum(x @ W_e.T + b_e, 0)",
            says="Your codes ignore the tied bias: it is added after decoding, and has to be taken "
            "off before encoding.",
        ),
        Mistake(
            "gradient not projected",
            old="return g - (g * w).sum(axis=axis, keepdims=True) * w",
            new="return g * 1",
            says="Your gradient still has a part along the weights, which the rescaling undoes "
            "anyway. Take it off, row by row, before Adam sees it.",
        ),
        Mistake(
            "sparsity by element",
            old="lam * a.sum(axis=-1).mean()",
            new="lam * a.mean()",
            says="Your sparsity term is too small by the number of features: it is the sum of a "
            "row's activations, averaged over rows, not over elements.",
        ),
        Mistake(
            "columns for rows",
            old='AXIS = {"rows": 1, "columns": 0}',
            new='AXIS = {"rows": 0, "columns": 1}',
            says="Your decoder is rescaled along the other axis: it looks as if rows and columns "
            "were swapped. The released code rescales rows, over the features.",
        ),
        Mistake(
            "negatives count",
            old="(len(pos - neg), len(neg - pos), len(pos | neg))",
            new="(len(pos ^ neg), len(neg - pos), len(pos | neg))",
            says="You count codes that only negatives have, too. A head scores for codes that occur "
            "on positives and on no negative.",
        ),
    ),
    questions=(
        "show that after the projection the rows' lengths stay 1 to first order in lr",
        "rewrite (7) with sets of pairs and measure memory against an n^2 F^2 table",
        "build a negative set that is too easy and watch irrelevant heads appear",
    ),
)
