"""Convolutions of images, their transposes, and max pooling with its unpooling.

A tile of output pixels is one matrix product: the weights (out, taps) times the pixels that each
output looks at (taps, pixels). The transpose is gathered in the same way (which outputs look at
this pixel?), so that no two threads write to one place.
"""

import numpy as np
from jaxtyping import Float, Int

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.blas import gemm_nn, scalars
from attnlab.kernels.cpu.runtime import fetch_add, run_workers, single_threaded_blas, worker

PIXELS = 512  # of a tile, about


@worker
def convolve(x, weight, bias, kernel, stride, padding, back, width, tile, out, counter):
    """One worker's share: out (batch, out channels, pixels) of x (batch, channels, rows, columns).

    `tile` counts rows of outputs. `back` is the transpose: x are then the convolution's outputs.
    """
    batch, channels, rows, columns = x.shape
    height = out.shape[2] // width
    bands = -(-height // tile)
    one = scalars(x.dtype.type(1), x.dtype.type(0), x.dtype)
    taps = scratch.tile((weight.shape[1], tile * width), x.dtype)
    while True:
        job = fetch_add(counter, 1)
        if job >= batch * bands:
            break
        b, first = job // bands, job % bands * tile
        last = min(first + tile, height)
        for c in range(channels):
            for i in range(kernel):
                for j in range(kernel):
                    line = taps[(c * kernel + i) * kernel + j]
                    for y in range(first, last):
                        start = (y - first) * width
                        sy = y + padding - i if back else y * stride - padding + i
                        inside = sy >= 0 and (not back or sy % stride == 0)
                        sy = sy // stride if back else sy
                        if not inside or sy >= rows:
                            for o in range(width):
                                line[start + o] = 0
                            continue
                        source = x[b, c, sy]
                        shift = padding - j if back else j - padding
                        if stride == 1:
                            low = min(max(0, -shift), width)
                            high = max(low, min(width, columns - shift))
                            for o in range(low):
                                line[start + o] = 0
                            for o in range(low, high):
                                line[start + o] = source[o + shift]
                            for o in range(high, width):
                                line[start + o] = 0
                        else:
                            for o in range(width):
                                sx = o + shift if back else o * stride + shift
                                inside = sx >= 0 and (not back or sx % stride == 0)
                                sx = sx // stride if back else sx
                                line[start + o] = source[sx] if inside and sx < columns else 0
        place = out[b, :, first * width : last * width]
        gemm_nn(one, weight, taps[:, : place.shape[1]], place)
        for o in range(out.shape[1]):
            for pixel in range(place.shape[1]):
                place[o, pixel] += bias[o]


@worker
def pool(x, kernel, stride, out, at, counter):
    """One worker's planes of x (planes, rows, columns): each window's maximum, and where it is."""
    while True:
        plane = fetch_add(counter, 1)
        if plane >= x.shape[0]:
            break
        for y in range(out.shape[1]):
            for o in range(out.shape[2]):
                top, left = y * stride, o * stride
                best, place = x[plane, top, left], top * x.shape[2] + left
                for i in range(kernel):
                    for j in range(kernel):
                        if x[plane, top + i, left + j] > best:
                            best = x[plane, top + i, left + j]
                            place = (top + i) * x.shape[2] + left + j
                out[plane, y, o], at[plane, y, o] = best, place


@worker
def unpool(s, at, add, out, counter):
    """One worker's planes: s at the places `at` of out (planes, pixels), in raster order."""
    while True:
        plane = fetch_add(counter, 1)
        if plane >= out.shape[0]:
            break
        for k in range(out.shape[1]):
            out[plane, k] = 0
        for k in range(s.shape[1]):
            before = out[plane, at[plane, k]] if add else s.dtype.type(0)
            out[plane, at[plane, k]] = before + s[plane, k]


def conv2d(
    x: Float[np.ndarray, "batch channels rows columns"],
    weight: Float[np.ndarray, "out channels kernel kernel"],
    bias: Float[np.ndarray, "out"],
    stride: int,
    padding: int,
) -> Float[np.ndarray, "batch out height width"]:
    """The cross-correlation of images with square kernels, zero padded."""
    k = weight.shape[2]
    height, width = ((side + 2 * padding - k) // stride + 1 for side in x.shape[2:])
    flat = np.ascontiguousarray(weight.reshape(len(weight), -1))
    return _run(x, flat, bias, (k, stride, padding), False, height, width)


def transposed2d(
    s: Float[np.ndarray, "batch out height width"],
    weight: Float[np.ndarray, "out channels kernel kernel"],
    stride: int,
    padding: int,
    height: int,
    width: int,
) -> Float[np.ndarray, "batch channels height width"]:
    """The transpose of `conv2d` (without bias), for inputs of height x width."""
    k = weight.shape[2]
    flat = np.ascontiguousarray(weight.transpose(1, 0, 2, 3).reshape(weight.shape[1], -1))
    nothing = np.zeros(weight.shape[1], s.dtype)
    return _run(s, flat, nothing, (k, stride, padding), True, height, width)


def _run(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    window: tuple[int, int, int],
    back: bool,
    height: int,
    width: int,
) -> np.ndarray:
    x, bias = np.ascontiguousarray(x), np.ascontiguousarray(bias)
    out = scratch.empty((len(x), len(weight), height * width), x.dtype)
    tile = max(1, min(height, PIXELS // width))
    work = out.size * weight.shape[1]
    with single_threaded_blas():
        run_workers(
            convolve, x, weight, bias, *window, back, width, tile, out, np.zeros(1, np.int64),
            workers=None if work > 2**20 else 1,
        )  # fmt: skip
    return out.reshape(len(x), len(weight), height, width)


def max_pool(
    x: Float[np.ndarray, "batch channels rows columns"], kernel: int, stride: int
) -> tuple[
    Float[np.ndarray, "batch channels height width"], Int[np.ndarray, "batch channels height width"]
]:
    """Maxima of square windows and the flat places (row * columns + column) of the first ones."""
    shape = (*x.shape[:2], *((side - kernel) // stride + 1 for side in x.shape[2:]))
    planes = np.ascontiguousarray(x).reshape(-1, *x.shape[2:])
    out = scratch.empty((len(planes), *shape[2:]), x.dtype)
    at = scratch.empty(out.shape, np.int64)
    run_workers(
        pool, planes, kernel, stride, out, at, np.zeros(1, np.int64),
        workers=None if x.size > 2**16 else 1,
    )  # fmt: skip
    return out.reshape(shape), at.reshape(shape)


def max_unpool(
    s: Float[np.ndarray, "batch channels height width"],
    at: Int[np.ndarray, "batch channels height width"],
    shape: tuple[int, ...],
    add: bool,
) -> Float[np.ndarray, "batch channels rows columns"]:
    """s at the places `at` of zeros of that shape; places that repeat: the last one, or their sum."""
    planes = shape[0] * shape[1]
    out = scratch.empty((planes, shape[2] * shape[3]), s.dtype)
    run_workers(
        unpool, np.ascontiguousarray(s).reshape(planes, -1), at.reshape(planes, -1), add, out,
        np.zeros(1, np.int64), workers=None if out.size > 2**16 else 1,
    )  # fmt: skip
    return out.reshape(shape)
