"""Norms over the last axis, for NumPy arrays and torch tensors alike."""

from __future__ import annotations

from typing import Any


def rms_norm(x: Any, eps: float = 1e-6, weight: Any = None) -> Any:
    """x / sqrt(mean(x^2) + eps), times `weight` where there is one.

    Without a weight this is the SRMS of TransNormerLLM (Qin et al. 2024);
    with one it is RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467, equation 4).
    """
    y = x / ((x**2).mean(-1)[..., None] + eps) ** 0.5
    return y if weight is None else y * weight


def layer_norm(x: Any, weight: Any, bias: Any, eps: float = 1e-5) -> Any:
    """(x - mean) / sqrt(var + eps) * weight + bias, with the biased variance.

    Source: Ba et al. 2016 (arXiv 1607.06450), equation 4.
    """
    centred = x - x.mean(-1)[..., None]
    return centred / ((centred**2).mean(-1)[..., None] + eps) ** 0.5 * weight + bias
