"""What surrounds a mechanism in a layer, on CUDA: heads, norms, gates. Device arrays in and out."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numba import cuda

from attnlab.kernels.cuda import device
from attnlab.kernels.cuda.device import THREADS, TILE
from attnlab.kernels.cuda.tiles import ONE, ZERO, thread_place


@cuda.jit(device=True)
def sigmoid(x):
    """1 / (1 + exp(-x)); exp may overflow to infinity, which gives 0."""
    return ONE / (ONE + math.exp(-x))


@cache
def _split_heads() -> Any:
    @cuda.jit
    def kernel(wide, first, activate, keep, out):
        batch, heads, n, dim = out.shape
        item = cuda.grid(1)
        if item >= batch * heads * n * dim:
            return
        c, h = item % dim, item // dim % heads
        t, b = item // dim // heads % n, item // dim // heads // n
        value = wide[b, t, first + h * dim + c]
        if activate:
            value *= sigmoid(value)
        if keep.size > 0 and not keep[b, t]:
            value = ZERO
        out[b, h, t, c] = value

    return kernel


def split_heads(
    wide: Any, heads: int, dim: int, *, first: int = 0, activate: bool = False, keep: Any = None
) -> Any:
    """Columns first … first + heads*dim of (batch, n, ·) as (batch, heads, n, dim).

    `activate` applies silu; rows where keep (batch, n) is False become 0.
    """
    batch, n, _ = wide.shape
    out = device.empty((batch, heads, n, dim), wide.dtype)
    keep = device.empty((0, 0), bool) if keep is None else keep
    if out.size:
        _split_heads()[device.blocks(out.size), THREADS](wide, first, activate, keep, out)
    return out


@cache
def _split_rotated() -> Any:
    @cuda.jit
    def kernel(wide, cos, sin, turned, out):
        heads, n, dim = out.shape[1], out.shape[2], out.shape[3]
        place, h, b = thread_place(n * dim, heads)
        i, d, half = place // dim, place % dim, dim // 2
        if i >= n:
            return
        z = wide[b, i, h * dim + d]
        if turned:
            z *= cos[i, d]
            if d < half:
                z -= wide[b, i, h * dim + d + half] * sin[i, d]
            else:
                z += wide[b, i, h * dim + d - half] * sin[i, d]
        out[b, h, i, d] = z

    return kernel


def split_rotated(wide: Any, cos: Any, sin: Any, *, turned: bool = True) -> Any:
    """(batch, n, heads*dim) as (batch, heads, n, dim), turned by rotary positions if asked to.

    cos, sin (n, dim): of the angles that turn (x_d, x_{d + dim/2}), each standing twice a row.
    """
    batch, n, _ = wide.shape
    dim = cos.shape[1]
    out = device.empty((batch, wide.shape[2] // dim, n, dim), wide.dtype)
    grid = device.blocks(dim * n) * out.shape[1] * batch
    _split_rotated()[grid, THREADS](wide, cos, sin, turned, out)
    return out


@cache
def _merge_heads() -> Any:
    @cuda.jit
    def kernel(heads, kept, factor, rows):
        item = cuda.grid(1)
        n, width, dim = rows.shape[1], rows.shape[2], heads.shape[3]
        if item < rows.size:
            b, i, place = item // width // n, item // width % n, item % width
            value = heads[b, place // dim, i, place % dim]
            rows[b, i, place] = value if place // dim == kept else factor * value

    return kernel


def merge_heads(heads: Any, *, kept: int = -1, factor: float = 1.0) -> Any:
    """Rows (batch, n, heads * dim) of heads (batch, heads, n, dim), all but the head `kept` times
    `factor`."""
    batch, many, n, dim = heads.shape
    rows = device.empty((batch, n, many * dim), heads.dtype)
    factor = np.dtype(heads.dtype).type(factor)
    _merge_heads()[device.blocks(rows.size), THREADS](heads, kept, factor, rows)
    return rows


@cache
def _merge_norm_gate() -> Any:
    @cuda.jit
    def kernel(o, gate, first, eps, weight, bias, out):
        """One thread a row; with weight a LayerNorm and the gate's sigmoid, else SRMS and the gate."""
        batch, heads, n, dim = o.shape
        row = cuda.grid(1)
        if row >= batch * n:
            return
        b, t = row // n, row % n
        total = o.dtype.type(0)
        for h in range(heads):
            for c in range(dim):
                total += o[b, h, t, c]
        width = o.dtype.type(heads * dim)
        mean = total / width if weight.size else ZERO
        square = o.dtype.type(0)
        for h in range(heads):
            for c in range(dim):
                square += (o[b, h, t, c] - mean) ** 2
        norm = ONE / math.sqrt(square / width + eps)
        for h in range(heads):
            for c in range(dim):
                j = h * dim + c
                opened = gate[b, t, first + j]
                value = (o[b, h, t, c] - mean) * norm
                if weight.size:
                    out[b, t, j] = (value * weight[j] + bias[j]) * sigmoid(opened)
                else:
                    out[b, t, j] = value * opened

    return kernel


def merge_norm_gate(
    o: Any, gate: Any, eps: float, *, first: int = 0, weight: Any = None, bias: Any = None
) -> Any:
    """Norm of the merged heads of o (batch, heads, n, dim) times the columns first … of `gate`.

    Parameter-free RMS norm and the gate as it is; with weight and bias a LayerNorm and the gate's
    sigmoid. Returns (batch, n, heads*dim).
    """
    batch, heads, n, dim = o.shape
    out = device.empty((batch, n, heads * dim), o.dtype)
    nothing = device.empty(0, o.dtype)
    weight, bias = (nothing, nothing) if weight is None else (weight, bias)
    grid = device.blocks(batch * n, TILE)
    _merge_norm_gate()[grid, TILE](o, gate, first, o.dtype.type(eps), weight, bias, out)
    return out


@cache
def _rms_norm() -> Any:
    @cuda.jit
    def kernel(x, eps, out):
        row = cuda.grid(1)
        if row < x.shape[0]:
            square = x.dtype.type(0)
            for c in range(x.shape[1]):
                square += x[row, c] * x[row, c]
            norm = ONE / math.sqrt(square / x.dtype.type(x.shape[1]) + eps)
            for c in range(x.shape[1]):
                out[row, c] = x[row, c] * norm

    return kernel


def rms_norm(x: Any, eps: float) -> Any:
    """x / sqrt(mean(x^2) + eps) over the last axis of (batch, n, dim)."""
    rows = x.shape[0] * x.shape[1]
    out = device.empty((rows, x.shape[2]), x.dtype)
    flat = x.reshape(rows, x.shape[2])
    _rms_norm()[device.blocks(rows, TILE), TILE](flat, np.dtype(x.dtype).type(eps), out)
    return out.reshape(*x.shape)


@cache
def _combine() -> Any:
    @cuda.jit
    def kernel(a, b, multiply, out):
        i = cuda.grid(1)
        if i < a.size:
            out[i] = a[i] * b[i] if multiply else a[i] + b[i]

    return kernel


def combine(a: Any, b: Any, *, multiply: bool = False) -> Any:
    """a + b, or a * b, element by element; equal shapes."""
    out = device.empty(a.size, a.dtype)
    _combine()[device.blocks(a.size), THREADS](a.reshape(a.size), b.reshape(b.size), multiply, out)
    return out.reshape(*a.shape)
