"""Routing Transformer as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part


def closest_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Similarities of n rows with 1 to 4 means, often with ties; w may exceed n."""
    sim = rng.uniform(-1, 1, (n, int(rng.integers(1, 5))))
    sim = np.round(sim, 1) if rng.random() < 0.5 else sim
    return {"sim": sim, "w": int(rng.integers(1, max(2, n) if rng.random() < 0.8 else n + 3))}


def means_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """n rows of 2 heads and unit means, as a rule enough of them for some to stay empty."""
    x = rng.standard_normal((int(rng.integers(1, 3)), 2, n, 3))
    means = rng.standard_normal((2, int(rng.integers(1 + n // 2, 2 * n + 3)), 3))
    return {"x": x, "means": means / np.linalg.norm(means, axis=-1, keepdims=True)}


EXERCISE = Exercise(
    difficulty=4,
    minutes=75,
    hints=(
        "Clusters decide who meets whom, and nothing else: a query attends to the keys that a shared "
        "mean has collected. Every mean takes its w closest members, so that a token may be in "
        "several clusters or in none.",
        "Unit rows serve the similarities, the member lists and the loss; the scores inside a "
        "cluster use the rows as they came. Gather, attend, add the results back at the members' "
        "places and count how often each was served. The loss looks at each row's nearest mean, "
        "which is another assignment than the lists.",
        "For each mean: the w rows of largest similarity, ascending; scores over sqrt(dim); hide "
        "padding, then the causal future by original positions, then with shared_qk the token itself "
        "(-5e4); memory slots in front. Divide the sum by count + 1e-5; loss = commitment * "
        "mean((unit row - its nearest mean)^2).",
    ),
    prerequisites=("attention",),
    parts=(
        Part("closest", "the member lists of all clusters", closest_example),
        Part("cluster_means", "one step of k-means on the sphere", means_example),
    ),
    mistakes=(
        Mistake(
            "attends-with-unit-rows",
            "s = q[b, h, i] @ k[b, h, j].T / dim**0.5  # (4)",
            "s = normalise(q[b, h, i]) @ normalise(k[b, h, j]).T / dim**0.5",
            "your scores use normalised queries and keys: those serve the routing alone, attention "
            "takes the rows as they came",
        ),
        Mistake(
            "routes-raw-rows",
            "rows = normalise(q if shared_qk else np.concatenate([q, k], axis=2))",
            "rows = q if shared_qk else np.concatenate([q, k], axis=2)",
            "your similarities use the rows as they came: routing compares directions, so rows must "
            "have unit length first",
        ),
        Mistake(
            "divided-by-window",
            '"out": out / (count + 1e-5)',
            '"out": out / window',
            "your output is divided by the window: it is the mean over the clusters that hold the "
            "token, so divide by how many there are",
        ),
        Mistake(
            "farthest-members",
            "np.argsort(-sim, axis=0",
            "np.argsort(sim, axis=0",
            "your clusters take their least similar rows: look at the direction of the sort",
        ),
        Mistake(
            "mean-off-the-sphere",
            "new[h, c] = normalise(x[:, h][inside].sum(axis=0))",
            "new[h, c] = x[:, h][inside].mean(axis=0)",
            "your new means are averages: on the sphere a mean is the direction of the sum, of "
            "length 1",
        ),
        Mistake(
            "empty-cluster-lost",
            "new = means.copy()",
            "new = np.zeros_like(means)",
            "a cluster without members became 0: it keeps the mean that it had",
        ),
    ),
    questions=(
        "prove ||x - y||^2 = 2 - 2 x.y on the sphere and bound q.k for two members of a cluster",
        "causal masks inside a cluster: why compare original positions and not places in the list?",
        "how many tokens are in no cluster, and how does that change when w is doubled?",
    ),
)
