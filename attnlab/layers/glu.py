"""Gated linear units, for NumPy arrays and torch tensors alike."""

from __future__ import annotations

from typing import Any


def simple_glu(x: Any, w1: Any, w2: Any, w3: Any) -> Any:
    """((x w1^T) * (x w2^T)) w3^T: the gate needs no activation and there are no biases.

    x (..., dim), w1 and w2 (inner, dim), w3 (dim, inner). Source: TransNormerLLM (Qin et al.,
    arXiv 2307.14995), SGLU.
    """
    return ((x @ w1.T) * (x @ w2.T)) @ w3.T
