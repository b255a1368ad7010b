"""Do people point at the same words? Scores against a human rationale, special tokens left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from attnlab.contract import InputError

METRICS = {
    "token_f1": "token F1 of the top positive scores, as many as the rationale has",
    "iou_f1": "F1 of spans that overlap by half (DeYoung et al. 2020)",
    "auprc": "area under the precision-recall curve",
}
Vector = Float[np.ndarray, "n"]
Rationale = Bool[np.ndarray, "n"]


def _checked(scores: Vector, rationale: Rationale) -> tuple[Vector, Rationale]:
    scores, rationale = np.asarray(scores, dtype=np.float64), np.asarray(rationale).astype(bool)
    if scores.ndim != 1 or scores.shape != rationale.shape:
        raise InputError(
            f"scores and rationale must both have shape (n,), but have {scores.shape} and {rationale.shape}"
        )
    return scores, rationale


def best(scores: Vector, k: int) -> Rationale:
    """The k highest scores that are positive, the earlier token first among equals."""
    chosen = np.argsort(-scores, kind="stable")[:k]
    found = np.zeros(len(scores), dtype=bool)
    found[chosen[scores[chosen] > 0]] = True
    return found


def _size(rationale: Rationale, k: int | None) -> int:
    """As many tokens as the rationale has, unless a number is asked for (ferret takes 5)."""
    return int(rationale.sum()) if k is None else k


def token_f1(scores: Vector, rationale: Rationale, *, k: int | None = None) -> float:
    """F1 of the k best tokens against the rationale; NaN without a rationale."""
    scores, rationale = _checked(scores, rationale)
    if not rationale.any() or not np.isfinite(scores).all():
        return float("nan")
    chosen = best(scores, _size(rationale, k))
    return float(2 * (chosen & rationale).sum() / (chosen.sum() + rationale.sum()))


def token_iou(scores: Vector, rationale: Rationale, *, k: int | None = None) -> float:
    """Intersection over union of the k best tokens and the rationale; NaN without a rationale."""
    scores, rationale = _checked(scores, rationale)
    if not rationale.any() or not np.isfinite(scores).all():
        return float("nan")
    chosen = best(scores, _size(rationale, k))
    return float((chosen & rationale).sum() / (chosen | rationale).sum())


def spans(marked: Rationale) -> list[tuple[int, int]]:
    """[start, end) of every run of marked tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marked.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def iou_f1(
    scores: Vector, rationale: Rationale, *, k: int | None = None, least: float = 0.5
) -> float:
    """F1 over spans: one counts where it shares at least half with a span of the other side.

    ERASER's IoU-F1 (DeYoung et al., 2020): intersection over union of tokens, threshold `least`.
    """
    scores, rationale = _checked(scores, rationale)
    if not rationale.any() or not np.isfinite(scores).all():
        return float("nan")
    ours, theirs = spans(best(scores, _size(rationale, k))), spans(rationale)

    def matched(these: Sequence[tuple[int, int]], those: Sequence[tuple[int, int]]) -> int:
        return sum(any(_overlap(a, b) >= least for b in those) for a in these)

    precision = matched(ours, theirs) / len(ours) if ours else 0.0
    recall = matched(theirs, ours) / len(theirs)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> float:
    both = max(0, min(a[1], b[1]) - max(a[0], b[0]))
    return both / (a[1] - a[0] + b[1] - b[0] - both)


def auprc(scores: Vector, rationale: Rationale) -> float:
    """Area under the precision-recall curve by the trapezoid rule, from recall 0, precision 1.

    One point a distinct score; NaN where no token or every token is in the rationale.
    """
    scores, rationale = _checked(scores, rationale)
    if rationale.all() or not rationale.any() or not np.isfinite(scores).all():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # the end of each bucket
    hits = np.cumsum(rationale[order])[last]
    precision = np.concatenate([[1.0], hits / (last + 1)])
    recall = np.concatenate([[0.0], hits / rationale.sum()])
    return float(np.trapezoid(precision, recall))


def measure(scores: Vector, rationale: Rationale) -> dict[str, float]:
    """All metrics of `METRICS`."""
    return {
        "token_f1": token_f1(scores, rationale),
        "iou_f1": iou_f1(scores, rationale),
        "auprc": auprc(scores, rationale),
    }


def by_token(words: Int[np.ndarray, "n"], rationale: Sequence[bool]) -> Rationale:
    """A rationale over whitespace-separated words, for the tokens; special tokens (-1) are never in it."""
    marked = np.asarray(rationale, dtype=bool)
    if words.max(initial=-1) >= len(marked):
        raise InputError(f"the rationale is of {len(marked)} words, the text has {words.max() + 1}")
    return np.where(words >= 0, marked[np.maximum(words, 0)], False)
