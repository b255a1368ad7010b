"""Matrix products on CUDA: what surrounds a mechanism in a layer."""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np
from numba import cuda

from attnlab.kernels.cuda import device, tiles
from attnlab.kernels.cuda.device import TILE
from attnlab.kernels.cuda.tiles import ZERO


@cache
def _kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(a, b, bias, transposed, out):
        left = cuda.shared.array((TILE, TILE), kind)
        right = cuda.shared.array((TILE, TILE), kind)
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        rows, inner, columns = a.shape[1], a.shape[2], out.shape[2]
        across, down = (columns + TILE - 1) // TILE, (rows + TILE - 1) // TILE
        right_of, below, z = tiles.block_place(across, down)
        za, zb = z % a.shape[0], z % b.shape[0]
        i, j = below * TILE + y, right_of * TILE + x
        total = kind(0)
        for k0 in range(0, inner, TILE):
            left[y, x] = a[za, i, k0 + x] if i < rows and k0 + x < inner else ZERO
            if transposed:  # b is (columns, inner): read its rows along threads x, coalesced
                column = right_of * TILE + y
                inside = column < columns and k0 + x < inner
                right[x, y] = b[zb, column, k0 + x] if inside else ZERO
            else:
                right[y, x] = b[zb, k0 + y, j] if j < columns and k0 + y < inner else ZERO
            cuda.syncthreads()
            for c in range(TILE):
                total += left[y, c] * right[c, x]
            cuda.syncthreads()
        if i < rows and j < columns:
            out[z, i, j] = total + (bias[j] if bias.size else ZERO)

    return kernel


def matmul(a: Any, b: Any, *, transposed: bool = False, bias: Any = None) -> Any:
    """out[z] = a[z] @ b[z] (or b[z].T if transposed) + bias, on device arrays of rank 3.

    a (batch|1, rows, inner), b (batch|1, inner, columns) or (batch|1, columns, inner).
    """
    dtype = np.dtype(a.dtype)
    batch = max(a.shape[0], b.shape[0])
    columns = b.shape[1] if transposed else b.shape[2]
    out = device.empty((batch, a.shape[1], columns), dtype)
    if 0 in out.shape:
        return out
    grid = device.blocks(columns, TILE) * device.blocks(a.shape[1], TILE) * batch
    bias = device.empty(0, dtype) if bias is None else bias
    _kernel(dtype.name)[grid, (TILE, TILE)](a, b, bias, transposed, out)
    return out


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """x W^T + bias over the last axis; x (..., in), weight (out, in)."""
    *lead, inner = x.shape
    if 0 in lead:  # device arrays without elements cannot be reshaped
        return device.empty((*lead, weight.shape[0]), x.dtype)
    flat = matmul(
        x.reshape(1, int(np.prod(lead)), inner),
        weight.reshape(1, *weight.shape),
        transposed=True,
        bias=bias,
    )
    return flat.reshape(*lead, weight.shape[0])
