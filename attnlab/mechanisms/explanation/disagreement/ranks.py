"""Rank correlations in NumPy, from the signs of all pairs of elements."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int


def signs(a: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n n"]:
    """sign(a_i - a_j): 1 where i ranks above j, 0 where they tie."""
    return np.sign(a[:, None] - a[None, :])


def tau_b(a: Float[np.ndarray, "n"], b: Float[np.ndarray, "n"]) -> float:
    """(1), counted over ordered pairs, which doubles every term alike; NaN where undefined."""
    sa, sb = signs(a), signs(b)
    differ = float((sa != 0).sum()) * float((sb != 0).sum())
    return float((sa * sb).sum()) / math.sqrt(differ) if differ else math.nan


def pearson(a: Float[np.ndarray, "n"], b: Float[np.ndarray, "n"]) -> float:
    """The product-moment correlation; NaN for a constant vector."""
    if (a == a[0]).all() or (b == b[0]).all():
        return math.nan
    x, y = a - a.mean(), b - b.mean()
    return float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))


def bucket_positions(a: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Items in better buckets + (size + 1)/2: the average rank, the highest score first."""
    above = signs(a)
    return (above < 0).sum(1) + ((above == 0).sum(1) + 1) / 2


def dense_ranks(a: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """0 for the best bucket, 1 for the next, …"""
    return np.unique(-a, return_inverse=True)[1]


def top_k_tau(a: Float[np.ndarray, "n"], b: Float[np.ndarray, "n"], k: int, p: float) -> float:
    """(11), Kendall's correlation of the items in either top k (Fagin et al. 2004)."""
    sa, sb = signs(a), signs(b)
    top_a, top_b = dense_ranks(a) < k, dense_ranks(b) < k
    pairs = np.triu((top_a[:, None] & top_b) | (top_b[:, None] & top_a), 1)
    opposite = (sa * sb < 0)[pairs].sum()
    tied_in_one = ((sa == 0) != (sb == 0))[pairs].sum()
    return float(1 - 2 * (opposite + p * tied_in_one) / max(1, pairs.sum()))


def weighted_tau(a: Float[np.ndarray, "n"], b: Float[np.ndarray, "n"], alpha: float) -> float:
    """(12): errors at the top weigh more. NaN for a constant vector."""
    sa, sb = signs(a), signs(b)
    if not sa.any() or not sb.any():
        return math.nan
    taus = []
    for first, then in ((a, b), (b, a)):
        rank = np.empty(len(a), int)  # 0 for the largest; of joint ties the last comes first
        rank[np.lexsort((then, first))[::-1]] = np.arange(len(a))
        weight = (1.0 + rank) ** -alpha
        both = weight[:, None] + weight
        under = (both * (sa != 0)).sum() * (both * (sb != 0)).sum()
        taus.append(float((both * sa * sb).sum()) / math.sqrt(under))
    return (taus[0] + taus[1]) / 2


def significant(x: np.ndarray) -> np.ndarray:
    """x to 12 significant digits (5 in float32), so that what is equal in exact arithmetic ties."""
    digits = 5 if x.dtype == np.float32 else 12
    wide = x.astype(np.float64)
    size = np.abs(np.where(wide == 0, 1, wide))
    scale = 10.0 ** (digits - 1 - np.floor(np.log10(size)))
    return np.round(wide * scale) / scale


def falls(whole: float, left: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """whole - left, in units of the largest of these probabilities and rounded to 13 places of it: a
    smaller difference is one of rounding, at whatever size they are."""
    return np.round((whole - left) / (max(float(whole), float(left.max())) or 1.0), 13)


def tau_matrix(scores: Float[np.ndarray, "methods n"]) -> Float[np.ndarray, "methods methods"]:
    """tau-b of every pair of score vectors, rounded first; all NaN for a single token."""
    rounded = significant(scores)
    return np.array([[tau_b(x, y) for y in rounded] for x in rounded])


def undefined(tau: Float[np.ndarray, "methods methods"]) -> int:
    """How many pairs of two different methods have no tau."""
    return int(np.isnan(tau[np.triu_indices(len(tau), 1)]).sum())
