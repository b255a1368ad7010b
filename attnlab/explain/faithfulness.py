"""Does the model use what a method points at? Answers from removing tokens in the method's order.

Nearly every metric is read from two paths of probabilities: deletion (the best tokens go, one after
another) and insertion (everything is gone, the best come back). Tokens are ranked by signed score, so
that a method which knows evidence for from evidence against may use it; ties go to the earlier
token. Special tokens are neither ranked nor removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from attnlab.explain.agreement import kendall_taus
from attnlab.explain.attribute import Explained, scores
from attnlab.explain.problem import Problem
from attnlab.explain.registry import Method
from attnlab.explain.replacement import Replacement, outcomes
from attnlab.models.classifier import Classifier, Encoded

QUANTILES = tuple(q / 10 for q in range(1, 11))
SUBSETS = 64  # random sets of tokens for infidelity
Vector = Float[np.ndarray, "n"]


class Metric(NamedTuple):
    """better: "high", "low" or "" where neither is."""

    title: str
    better: str
    source: str


METRICS: dict[str, Metric] = {
    "comprehensiveness": Metric("AOPC comprehensiveness", "high", "DeYoung et al. 2020"),
    "sufficiency": Metric("AOPC sufficiency", "low", "DeYoung et al. 2020"),
    "deletion_auc": Metric("area under the deletion curve", "low", "Petsiuk et al. 2018"),
    "insertion_auc": Metric("area under the insertion curve", "high", "Petsiuk et al. 2018"),
    "log_odds": Metric("log-odds without the top 20 %", "low", "Shrikumar et al. 2017; Chen et al. 2019"),
    "monotonicity": Metric("share of steps that do not lower P", "high", "Luss et al. 2019"),
    "decision_flip": Metric("decision flips without the top token", "high", "Serrano & Smith 2019"),
    "flip_fraction": Metric("share of tokens gone when it flips", "low", "Serrano & Smith 2019"),
    "infidelity": Metric("infidelity, scores scaled", "low", "Yeh et al. 2019"),
    "tau_loo": Metric("Kendall's τ with leave-one-out", "high", "Jain & Wallace 2019"),
}  # fmt: skip


class Curves(NamedTuple):
    """Probabilities (n + 1, classes) after k of the n own tokens are gone, or are back."""

    deletion: Float[np.ndarray, "n+1 classes"]
    insertion: Float[np.ndarray, "n+1 classes"]


class Effects(NamedTuple):
    """What does not depend on a method: the drop of P without each own token, and without random sets."""

    single: Vector
    subsets: Bool[np.ndarray, "subsets n"]
    drops: Float[np.ndarray, "subsets"]


def order(signed: Vector, special: Bool[np.ndarray, "n"]) -> Int[np.ndarray, "own"]:
    """Positions of the own tokens, highest score first."""
    own = np.flatnonzero(~special)
    return own[np.argsort(-signed[own], kind="stable")]


def _nested(ranked: Int[np.ndarray, "own"], n: int) -> Bool[np.ndarray, "steps n"]:
    """Row k holds the k best tokens."""
    place = np.full(n, n)
    place[ranked] = np.arange(len(ranked))
    return place[None] < np.arange(len(ranked) + 1)[:, None]


def curves_and_effects(
    model: Classifier,
    texts: Sequence[Encoded],
    targets: Sequence[int],
    rankings: Sequence[Mapping[str, Vector]],
    replacement: Replacement = "pad",
    seed: int = 0,
) -> list[tuple[dict[str, Curves], Effects]]:
    """Curves of every method's signed scores for every text, and the methods' common effects."""
    keeps, subsets = [], []
    for text, methods in zip(texts, rankings):
        n, own = len(text), np.flatnonzero(~text.special)
        rng = np.random.default_rng([seed, *map(int, text.ids)])
        gone = np.zeros((SUBSETS, n), dtype=bool)
        gone[:, own] = rng.random((SUBSETS, len(own))) < 0.5
        subsets.append(gone)
        one = np.zeros((len(own), n), dtype=bool)
        one[np.arange(len(own)), own] = True
        kept = [np.ones((1, n), dtype=bool), ~one, ~gone]
        for signed in methods.values():
            best = _nested(order(signed, text.special), n)
            kept += [~best, best]
        keeps.append(np.concatenate(kept))
    found = []
    probabilities = outcomes(model, texts, keeps, replacement)
    for text, methods, gone, target, p in zip(texts, rankings, subsets, targets, probabilities):
        count = int((~text.special).sum())
        full, single, random, *rest = np.split(p, _cuts(count, len(methods)))
        effects = Effects(
            full[0, target] - single[:, target], gone, full[0, target] - random[:, target]
        )
        curves = {name: Curves(*rest[2 * i : 2 * i + 2]) for i, name in enumerate(methods)}
        found.append((curves, effects))
    return found


def _cuts(own: int, methods: int) -> Int[np.ndarray, "cuts"]:
    return np.cumsum([1, own, SUBSETS, *[own + 1] * (2 * methods)])[:-1]


def rationale_sizes(
    signed: Vector, special: Bool[np.ndarray, "n"], quantiles: Sequence[float] = QUANTILES
) -> list[int]:
    """How many tokens each rationale holds: floor(q n) of the positive ones, empty and equal sets once."""
    own = signed[~special]
    positive = int((own > 0).sum())
    sizes = [min(int(q * len(own)), positive) for q in quantiles]
    return [k for k, before in zip(sizes, [0, *sizes]) if k and k != before]


def comprehensiveness(p: Vector, sizes: Sequence[int]) -> float:
    """AOPC: the mean of P(x) - P(x without the rationale); p[k] has k tokens deleted. 0 without any."""
    return float(np.mean([p[0] - p[k] for k in sizes])) if sizes else 0.0


def sufficiency(full: float, p: Vector, sizes: Sequence[int]) -> float:
    """AOPC: the mean of P(x) - P(rationale alone); p[k] has k tokens inserted. 1 without any."""
    return float(np.mean([full - p[k] for k in sizes])) if sizes else 1.0


def area(p: Vector) -> float:
    """The area under a curve over the share of tokens, by the trapezoid rule."""
    return float(np.trapezoid(p, dx=1 / (len(p) - 1)))


def log_odds(p: Vector, share: float = 0.2) -> float:
    """log P(without the top share of tokens, at least one) - log P(x)."""
    k = max(1, int(share * (len(p) - 1)))
    return float(np.log(max(p[k], 1e-12)) - np.log(max(p[0], 1e-12)))


def monotonicity(p: Vector) -> float:
    """Tokens come back from the least to the most important: the share of steps that do not lower P."""
    return float((np.diff(p[::-1]) >= -1e-9).mean())


def flips(p: Float[np.ndarray, "n+1 classes"]) -> tuple[float, float]:
    """(whether the first deletion changes the decision, the share of tokens gone when it changes or 1)."""
    changed = p.argmax(1) != p[0].argmax()
    share = float(changed.argmax() / (len(p) - 1)) if changed.any() else 1.0
    return float(changed[1]), share


def infidelity(own: Vector, effects: Effects, special: Bool[np.ndarray, "n"]) -> float:
    """E (beta sum of the removed scores - the drop of P)^2, with the best scale beta.

    The scale makes methods of other units comparable (as Captum's normalize=True).
    """
    expected = effects.subsets[:, ~special] @ own
    square = expected @ expected
    beta = (expected @ effects.drops) / square if square > 0 else 0.0
    return float(np.mean((beta * expected - effects.drops) ** 2))


def measure(
    text: Encoded, target: int, signed: Vector, curves: Curves, effects: Effects
) -> dict[str, float]:
    """All metrics of one method on one text; NaN throughout where a score is not finite."""
    own = signed[~text.special]
    if not np.isfinite(signed).all() or not len(own):
        return dict.fromkeys(METRICS, float("nan"))
    deleted, inserted = curves.deletion[:, target], curves.insertion[:, target]
    sizes = rationale_sizes(signed, text.special)
    flip, share = flips(curves.deletion)
    tau = kendall_taus(own[None], effects.single[None])[0] if len(own) > 1 else np.nan
    return {
        "comprehensiveness": comprehensiveness(deleted, sizes),
        "sufficiency": sufficiency(deleted[0], inserted, sizes),
        "deletion_auc": area(deleted),
        "insertion_auc": area(inserted),
        "log_odds": log_odds(deleted),
        "monotonicity": monotonicity(deleted),
        "decision_flip": flip,
        "flip_fraction": share,
        "infidelity": infidelity(own, effects, text.special),
        "tau_loo": float(tau),
    }


def faithfulness(
    model: Classifier,
    explained: Sequence[Explained],
    *,
    replacement: Replacement = "pad",
    seed: int = 0,
) -> list[dict[str, dict[str, float]]]:
    """Every metric of every method of every explained text: [text][method][metric]."""
    texts, targets = [one.text for one in explained], [one.target for one in explained]
    rankings = [
        {name: np.nan_to_num(a.signed, nan=0.0) for name, a in one.attributions.items()}
        for one in explained
    ]
    done = curves_and_effects(model, texts, targets, rankings, replacement, seed)
    return [
        {
            name: measure(one.text, one.target, a.signed, curves[name], effects)
            for name, a in one.attributions.items()
        }
        for one, (curves, effects) in zip(explained, done)
    ]


def max_sensitivity(
    problem: Problem,
    method: Method,
    *,
    radius: float = 0.02,
    samples: int = 10,
    before: Float[np.ndarray, "batch n"] | None = None,
    **options: object,
) -> Float[np.ndarray, "batch"]:
    """The largest |phi(x + d) - phi(x)| / |phi(x)| over random |d_i| <= radius (Yeh et al., 2019).

    radius is a share of the largest embedding component of the text. Random methods keep their
    draws, so that only the input changes. `before`: phi(x) where it is known. NaN where all scores
    are zero.
    """
    before = scores(problem, method, **options) if before is None else before
    size = np.linalg.norm(before, axis=1)
    worst = np.zeros(len(size))
    reach = radius * problem.embedded.abs().amax((1, 2))
    noise = torch.zeros(samples, *problem.embedded.shape).to(problem.embedded)
    for row, n in enumerate(problem.lengths):
        shape = (samples, n, problem.embedded.shape[2])
        drawn = problem.rng(row, "max_sensitivity").uniform(-1, 1, shape)
        noise[:, row, :n] = torch.as_tensor(drawn).to(noise) * reach[row]
    for delta in noise:
        after = scores(problem.at(problem.embedded + delta), method, **options)
        worst = np.maximum(worst, np.linalg.norm(after - before, axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(size > 0, worst / size, np.nan)
