"""LRPE: relative positions for attention without softmax, for NumPy arrays and torch tensors alike.

Source: Qin et al. 2023 (arXiv 2307.14995), LRPE-d, in the form of the released TransNormerLLM.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.checks import is_tensor


def frequencies(heads: int, dim: int, base: float = 10000.0) -> np.ndarray:
    """The usual theta (heads, dim): theta_hj = base^(-2 (h dim + j) / (heads dim)), float64."""
    width = heads * dim
    return (base ** (-2 * np.arange(width) / width)).reshape(heads, dim)


def lrpe(x: Any, theta: Any, offset: int = 0) -> Any:
    """[x cos(p theta), x sin(p theta)] for rows at positions p = offset, offset + 1, …

    x (batch, heads, n, dim), theta (heads, dim) -> (batch, heads, n, 2*dim). The inner product of
    two such rows is sum_j x_j y_j cos((p - p') theta_j): it depends on the distance alone.
    """
    n = x.shape[2]
    if is_tensor(x):
        import torch

        p = torch.arange(offset, offset + n, dtype=x.dtype, device=x.device)
        angle = p[:, None] * theta[:, None, :]  # (heads, n, dim)
        return torch.cat([x * angle.cos(), x * angle.sin()], dim=-1)
    angle = np.arange(offset, offset + n)[:, None] * theta[:, None, :]
    return np.concatenate([x * np.cos(angle), x * np.sin(angle)], axis=-1).astype(
        x.dtype, copy=False
    )
