"""Between one wide axis and heads, for NumPy arrays and torch tensors alike."""

from __future__ import annotations

from typing import Any


def split_heads(x: Any, heads: int) -> Any:
    """(batch, n, heads*dim) -> (batch, heads, n, dim), the wide axis read as "(heads dim)"."""
    batch, n, wide = x.shape
    return x.reshape(batch, n, heads, wide // heads).swapaxes(1, 2)


def merge_heads(x: Any) -> Any:
    """(batch, heads, n, dim) -> (batch, n, heads*dim)."""
    batch, heads, n, dim = x.shape
    return x.swapaxes(1, 2).reshape(batch, n, heads * dim)
