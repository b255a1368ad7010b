"""Which elements of two arrays differ: by tolerance, exactly, as sets, or up to ties of a ranking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def mismatch(
    made: np.ndarray, stored: np.ndarray, rule: str, rtol: float, atol: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which elements are wrong, by how much, and how much is allowed, for arrays of one shape.

    NaN equals NaN. By "exact", and where `stored` is text, elements are equal or not (a gap of 0
    or 1); by "set" and "ties" the order along the last axis is free, and places are those of the
    sorted rows. What a card ranks ("ties" of a ranked output) is dealt with by `settle`.
    """
    if stored.dtype.kind not in "fiub" or rule == "exact":
        wrong = np.asarray(~((made == stored) | _both_nan(made, stored)))
        return wrong, wrong.astype(float), np.zeros(stored.shape)
    if rule in ("set", "ties"):
        made, stored = np.sort(made, axis=-1), np.sort(stored, axis=-1)
    a, b = made.astype(np.float64), stored.astype(np.float64)
    same = (a == b) | _both_nan(a, b)
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(a - b))
    bound = atol + rtol * np.abs(np.where(np.isfinite(b), b, 0.0))
    return ~(gap <= bound), gap, bound


def settle(
    ranks: Any, arguments: Mapping[str, Any], got: np.ndarray, value: np.ndarray, free: float
) -> tuple[np.ndarray, np.ndarray]:
    """Both tables of indices with ties in one order, where their rows are ranked alike: what is
    then left to compare is exact."""
    scores = ranks(arguments, value)
    if not np.allclose(ranks(arguments, got), scores, free, free):
        return got, value
    return _canonical(got, scores, free), _canonical(value, scores, free)


def _canonical(rows: np.ndarray, scores: np.ndarray, free: float) -> np.ndarray:
    """Rows of indices (..., P, w) whose scores (..., P) fall; among equals the lower indices first."""
    with np.errstate(invalid="ignore"):  # padding has score -inf
        group = np.cumsum(np.abs(np.diff(scores, axis=-1, prepend=scores[..., :1])) > free, axis=-1)
    columns = [rows[..., i] for i in reversed(range(rows.shape[-1]))]
    order = np.lexsort((*columns, group), axis=-1)
    return np.take_along_axis(rows, order[..., None], axis=-2)


def _both_nan(a: np.ndarray, b: np.ndarray) -> Any:
    return (
        np.isnan(a) & np.isnan(b)
        if a.dtype.kind == b.dtype.kind == "f"
        else np.zeros(b.shape, bool)
    )
