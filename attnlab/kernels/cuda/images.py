"""Images on CUDA: convolutions and their transposes by gathered taps, pools, resampling, patches."""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np
from numba import cuda

from attnlab.kernels.cuda import device
from attnlab.kernels.cuda.device import THREADS
from attnlab.kernels.cuda.matmul import matmul
from attnlab.kernels.cuda.tiles import ZERO, block_place, least, most, thread_place


@cache
def _taps_kernel() -> Any:
    @cuda.jit
    def kernel(x, size, stride, padding, back, width, out):
        """out (batch, taps, pixels) <- what each output pixel looks at; `back` is the transpose."""
        pixel, tap, b = thread_place(out.shape[2], out.shape[1])
        if pixel >= out.shape[2]:
            return
        c, i, j = tap // (size * size), tap // size % size, tap % size
        y, o = pixel // width, pixel % width
        inside = True
        if back:  # which outputs of the convolution look at this pixel
            sy, sx = y + padding - i, o + padding - j
            inside = sy % stride == 0 and sx % stride == 0
            if sy < 0 or sx < 0:
                inside = False
            sy, sx = sy // stride, sx // stride
        else:
            sy, sx = y * stride - padding + i, o * stride - padding + j
            if sy < 0 or sx < 0:
                inside = False
        if sy >= x.shape[2] or sx >= x.shape[3]:
            inside = False
        out[b, tap, pixel] = x[b, c, sy, sx] if inside else ZERO

    return kernel


@cache
def _add_bias_kernel() -> Any:
    @cuda.jit
    def kernel(out, bias):
        pixel, o, b = thread_place(out.shape[2], out.shape[1])
        if pixel < out.shape[2]:
            out[b, o, pixel] += bias[o]

    return kernel


def _products(
    x: Any, weight: Any, window: tuple[int, int, int], back: bool, width: int, pixels: int
) -> Any:
    """weight (1, out, taps) times the taps of every pixel: (batch, out, pixels)."""
    taps = device.empty((x.shape[0], weight.shape[2], pixels), x.dtype)
    grid = device.blocks(pixels) * weight.shape[2] * x.shape[0]
    _taps_kernel()[grid, THREADS](x, *window, back, width, taps)
    return matmul(weight, taps)


def conv2d(x: Any, weight: Any, bias: Any, stride: int, padding: int) -> Any:
    """Cross-correlation: x (batch, in, n, width), weight (out, in, k, k), zero padded."""
    k = weight.shape[2]
    height, width = ((side + 2 * padding - k) // stride + 1 for side in x.shape[2:])
    flat = weight.reshape(1, weight.shape[0], int(np.prod(weight.shape[1:])))
    out = _products(x, flat, (k, stride, padding), False, width, height * width)
    grid = device.blocks(out.shape[2]) * out.shape[1] * out.shape[0]
    _add_bias_kernel()[grid, THREADS](out, bias)
    return out.reshape(x.shape[0], weight.shape[0], height, width)


@cache
def _swap_kernel() -> Any:
    @cuda.jit
    def kernel(weight, out):
        """out (1, in, out * k * k) <- weight (out, in, k, k)."""
        at, c, _ = thread_place(out.shape[2], out.shape[1])
        k = weight.shape[3]
        if at < out.shape[2]:
            out[0, c, at] = weight[at // (k * k), c, at // k % k, at % k]

    return kernel


def transposed2d(s: Any, weight: Any, stride: int, padding: int, height: int, width: int) -> Any:
    """The transpose of `conv2d`, for inputs of height x width."""
    out, channels, k = weight.shape[:3]
    flat = device.empty((1, channels, out * k * k), weight.dtype)
    _swap_kernel()[device.blocks(out * k * k) * channels, THREADS](weight, flat)
    made = _products(s, flat, (k, stride, padding), True, width, height * width)
    return made.reshape(s.shape[0], channels, height, width)


@cache
def _pool_kernel() -> Any:
    @cuda.jit
    def kernel(x, size, stride, out, at):
        pixel, c, b = thread_place(out.shape[2] * out.shape[3], out.shape[1])
        if pixel >= out.shape[2] * out.shape[3]:
            return
        y, o = pixel // out.shape[3], pixel % out.shape[3]
        top, left = y * stride, o * stride
        best, place = x[b, c, top, left], top * x.shape[3] + left
        for i in range(size):
            for j in range(size):
                value = x[b, c, top + i, left + j]
                if value > best:
                    best, place = value, (top + i) * x.shape[3] + left + j
        out[b, c, y, o], at[b, c, y, o] = best, place

    return kernel


def max_pool(x: Any, size: int, stride: int) -> tuple[Any, Any]:
    """Maxima of square windows, and the flat places of the first ones."""
    shape = (*x.shape[:2], *((side - size) // stride + 1 for side in x.shape[2:]))
    out, at = device.empty(shape, x.dtype), device.empty(shape, np.int64)
    grid = device.blocks(shape[2] * shape[3]) * shape[1] * shape[0]
    _pool_kernel()[grid, THREADS](x, size, stride, out, at)
    return out, at


@cache
def _unpool_kernel() -> Any:
    @cuda.jit
    def kernel(s, at, size, stride, add, out):
        """Each pixel looks at the windows that it is in: no two threads write to one place."""
        pixel, c, b = thread_place(out.shape[2] * out.shape[3], out.shape[1])
        if pixel >= out.shape[2] * out.shape[3]:
            return
        y, x = pixel // out.shape[3], pixel % out.shape[3]
        first_y, first_x = (
            most(0, y - size + stride) // stride,
            most(0, x - size + stride) // stride,
        )
        last_y, last_x = least(y // stride, s.shape[2] - 1), least(x // stride, s.shape[3] - 1)
        total = s.dtype.type(0)
        for i in range(first_y, last_y + 1):
            for j in range(first_x, last_x + 1):
                if at[b, c, i, j] == pixel:
                    total = total + s[b, c, i, j] if add else s[b, c, i, j]
        out[b, c, y, x] = total

    return kernel


def max_unpool(s: Any, at: Any, shape: tuple[int, ...], size: int, stride: int, add: bool) -> Any:
    """s at the places `at` of zeros of that shape; where windows share one: the last, or the sum."""
    out = device.empty(shape, s.dtype)
    grid = device.blocks(shape[2] * shape[3]) * shape[1] * shape[0]
    _unpool_kernel()[grid, THREADS](s, at, size, stride, add, out)
    return out


@cache
def _extremes_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(x, out):
        """One block a group: out (outer, inner, 2) <- least and largest of x (outer, n, inner)."""
        small = cuda.shared.array(
            THREADS, kind
        )  # two lines: the simulator tells them apart by that
        large = cuda.shared.array(THREADS, kind)
        t = cuda.threadIdx.x
        j, i, _ = block_place(x.shape[2], x.shape[0])
        low = x[i, 0, j]
        high = low
        for k in range(t, x.shape[1], THREADS):
            low, high = least(low, x[i, k, j]), most(high, x[i, k, j])
        small[t], large[t] = low, high
        cuda.syncthreads()
        half = THREADS // 2
        while half > 0:
            if t < half:
                small[t] = least(small[t], small[t + half])
                large[t] = most(large[t], large[t + half])
            cuda.syncthreads()
            half //= 2
        if t == 0:
            out[i, j, 0], out[i, j, 1] = small[0], large[0]

    return kernel


def extremes(x: Any) -> Any:
    """The least and the largest along the middle axis: (outer, n, inner) -> (outer, inner, 2)."""
    out = device.empty((x.shape[0], x.shape[2], 2), x.dtype)
    _extremes_kernel(np.dtype(x.dtype).name)[x.shape[0] * x.shape[2], THREADS](x, out)
    return out


@cache
def _resample_kernel(dtype: str) -> Any:
    kind = getattr(numba, dtype)

    @cuda.jit
    def kernel(x, out):
        height, width = out.shape[0], out.shape[1]
        place, c, _ = thread_place(height * width, out.shape[2])
        if place >= height * width:
            return
        y, o = place // width, place % width
        sy = (y + 0.5) * x.shape[0] / height - 0.5
        sx = (o + 0.5) * x.shape[1] / width - 0.5
        sy, sx = most(least(sy, x.shape[0] - 1.0), 0.0), most(least(sx, x.shape[1] - 1.0), 0.0)
        y0, x0 = int(sy), int(sx)
        y1, x1 = least(y0 + 1, x.shape[0] - 1), least(x0 + 1, x.shape[1] - 1)
        ty, tx = kind(sy - y0), kind(sx - x0)
        left = x[y0, x0, c] + (x[y1, x0, c] - x[y0, x0, c]) * ty
        right = x[y0, x1, c] + (x[y1, x1, c] - x[y0, x1, c]) * ty
        out[y, o, c] = left + (right - left) * tx

    return kernel


def resample(x: Any, height: int, width: int) -> Any:
    """x (n, m, channels) at another size: bilinear, half-pixel centres, clamped at the borders."""
    out = device.empty((height, width, x.shape[2]), x.dtype)
    grid = device.blocks(height * width) * x.shape[2]
    _resample_kernel(np.dtype(x.dtype).name)[grid, THREADS](x, out)
    return out


@cache
def _patches_kernel() -> Any:
    @cuda.jit
    def kernel(x, p, step, columns, out):
        """out (patches, p * p * channels) <- borders reflected without repeating the edge."""
        k, patch, _ = thread_place(out.shape[1], out.shape[0])
        channels = x.shape[2]
        if k >= out.shape[1]:
            return
        y = patch // columns * step + k // channels // p - p // 2
        o = patch % columns * step + k // channels % p - p // 2
        y, o = abs(y), abs(o)
        if y >= x.shape[0]:
            y = 2 * (x.shape[0] - 1) - y
        if o >= x.shape[1]:
            o = 2 * (x.shape[1] - 1) - o
        out[patch, k] = x[y, o, k % channels]

    return kernel


def patches(x: Any, p: int, step: int) -> Any:
    """Flat patches around every step-th row and column of x (n, m, channels), in raster order."""
    rows, columns = (len(range(0, side, step)) for side in x.shape[:2])
    out = device.empty((rows * columns, p * p * x.shape[2]), x.dtype)
    _patches_kernel()[rows * columns * device.blocks(out.shape[1]), THREADS](
        x, p, step, columns, out
    )
    return out


@cache
def _column_distance_kernel() -> Any:
    @cuda.jit
    def kernel(marked, out):
        """out <- squared distance to the nearest marked pixel of the column; -1 without one."""
        x = cuda.grid(1)
        if x >= marked.shape[1]:
            return
        rows, last = marked.shape[0], -1
        for y in range(rows):
            if marked[y, x]:
                last = y
            out[y, x] = (y - last) * (y - last) if last >= 0 else -1
        last = -1
        for back in range(rows):
            y = rows - 1 - back
            if marked[y, x]:
                last = y
            if last >= 0 and (out[y, x] < 0 or (last - y) * (last - y) < out[y, x]):
                out[y, x] = (last - y) * (last - y)

    return kernel


@cache
def _row_distance_kernel() -> Any:
    @cuda.jit
    def kernel(columns, out):
        """out <- the root of the least columns[y, x'] + (x - x')^2; -1 where nothing is marked."""
        place = cuda.grid(1)
        width = columns.shape[1]
        if place >= columns.shape[0] * width:
            return
        y, x = place // width, place % width
        best = -1.0
        for other in range(width):
            if columns[y, other] >= 0:
                d2 = columns[y, other] + (x - other) * (x - other)
                if best < 0 or d2 < best:
                    best = d2
        out[y, x] = best**0.5 if best >= 0 else -1.0

    return kernel


def distance(marked: Any) -> Any:
    """Euclidean distance to the nearest marked pixel, float64; -1 everywhere if none is.

    Two exact passes: along the columns, then the best of each row.
    """
    columns, out = (device.empty(marked.shape, np.float64) for _ in range(2))
    _column_distance_kernel()[device.blocks(marked.shape[1]), THREADS](marked, columns)
    count = marked.shape[0] * marked.shape[1]
    _row_distance_kernel()[device.blocks(count), THREADS](columns, out)
    return out
