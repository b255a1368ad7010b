"""Rotary positions, in the two conventions in use: interleaved pairs and rotated halves.

Source: Su et al. 2021 (arXiv 2104.09864), equation 34. Position p turns the pair i of a row of
width dim by the angle p * base^(-2i/dim). Works on NumPy arrays and torch tensors alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Num

from attnlab.checks import is_tensor


def tables(
    positions: Num[np.ndarray, "*shape"], dim: int, base: float = 10000.0
) -> tuple[Float[np.ndarray, "*shape half"], Float[np.ndarray, "*shape half"]]:
    """cos and sin of every angle, float64. Raises ValueError for an odd width."""
    if dim % 2:
        raise ValueError(f"rotary positions need an even width, but dim is {dim}")
    angle = np.asarray(positions, np.float64)[..., None] * base ** (-np.arange(0, dim, 2) / dim)
    return np.cos(angle), np.sin(angle)


def rotate_pairs(x: Any, cos: Any, sin: Any) -> Any:
    """Turn the pairs (x_{2i}, x_{2i+1}) of the last axis; cos and sin broadcast over (..., dim/2)."""
    cos, sin = _like(x, cos), _like(x, sin)
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = _stack([even * cos - odd * sin, odd * cos + even * sin], x)
    return turned.reshape(x.shape)


def rotate_halves(x: Any, cos: Any, sin: Any) -> Any:
    """Turn the pairs (x_i, x_{i+dim/2}) of the last axis; cos and sin broadcast over (..., dim/2)."""
    cos, sin = _like(x, cos), _like(x, sin)
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    parts = [first * cos - second * sin, first * sin + second * cos]
    if is_tensor(x):
        import torch

        return torch.cat(parts, dim=-1)
    return np.concatenate(parts, axis=-1)


def _like(x: Any, table: Any) -> Any:
    if is_tensor(x):
        import torch

        return torch.as_tensor(table, dtype=x.dtype, device=x.device)
    return np.asarray(table, dtype=x.dtype)


def _stack(parts: list[Any], x: Any) -> Any:
    if is_tensor(x):
        import torch

        return torch.stack(parts, dim=-1)
    return np.stack(parts, axis=-1)
