"""Copies that rearrange device arrays: axes swapped, rows cut out, laid side by side, filled up."""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import cuda

from attnlab.kernels.cuda import device
from attnlab.kernels.cuda.device import THREADS


@cache
def _swap() -> Any:
    @cuda.jit
    def kernel(x, out):
        item = cuda.grid(1)
        a, b, width = x.shape
        if item < a * b * width:
            i, j, c = item // width // b, item // width % b, item % width
            out[j, i, c] = x[i, j, c]

    return kernel


def swap(x: Any) -> Any:
    """(a, b, width) -> (b, a, width)."""
    a, b, width = x.shape
    out = device.empty((b, a, width), x.dtype)
    _swap()[device.blocks(a * b * width), THREADS](x, out)
    return out


@cache
def _copy_rows() -> Any:
    @cuda.jit
    def kernel(source, source_first, out, out_first, rows):
        item = cuda.grid(1)
        many, width = out.shape[0], out.shape[2]
        if item < many * rows * width:
            z, i, c = item // width // rows, item // width % rows, item % width
            out[z, out_first + i, c] = source[z, source_first + i, c]

    return kernel


def copy_rows(source: Any, source_first: int, out: Any, out_first: int, rows: int) -> None:
    """out[:, out_first : out_first + rows] <- source[:, source_first : source_first + rows], rank 3."""
    items = out.shape[0] * rows * out.shape[2]
    if items:
        _copy_rows()[device.blocks(items), THREADS](source, source_first, out, out_first, rows)


def cut_rows(x: Any, first: int, rows: int) -> Any:
    """A copy of x[:, first : first + rows], rank 3."""
    out = device.empty((x.shape[0], rows, x.shape[2]), x.dtype)
    copy_rows(x, first, out, 0, rows)
    return out
