"""Salient Relevance on CUDA: convolutions by gathered taps, nearest neighbours in shared tiles."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cuda

from attnlab.contract import InputError
from attnlab.kernels.cuda import device, images
from attnlab.kernels.cuda.device import THREADS
from attnlab.kernels.cuda.matmul import linear, matmul
from attnlab.kernels.cuda.nearest import mean_distances

from . import EXHIBIT, plan


def flat(a: Any) -> Any:
    return a.reshape(int(np.prod(a.shape)))


def each(name: str, *arrays: Any) -> Any:
    """An elementwise kernel's result: a new array of the first one's shape."""
    out = device.empty(arrays[0].shape, arrays[0].dtype)
    count = int(np.prod(out.shape))
    _kernels()[name][device.blocks(count), THREADS](
        *(flat(a) if getattr(a, "ndim", 0) else a for a in arrays), flat(out)
    )
    return out


@EXHIBIT.path
def propagate_relevance(
    x: Any,
    conv: Any = None,
    fc: Any = None,
    *,
    layers: list[dict[str, Any]],
    epsilon: float = 1e-9,
    stabiliser: str = "add",
    unpool: str = "write",
    compatible: bool = True,
) -> dict[str, Any]:
    """See the reference."""
    epsilon = x.dtype.type(epsilon)

    def share(R: Any, Z: Any) -> Any:
        return each("share", R, Z, epsilon, stabiliser == "sign")

    network = plan.weighted(layers, conv, fc)
    X, at = [x], {}
    for N, (layer, w) in enumerate(network):
        if layer["type"] == "fc":
            Y = linear(X[N], w["weight"], w["bias"])
        elif layer["type"] == "conv":
            _, s, p = plan.window(layer)
            Y = images.conv2d(X[N], w["weight"], w["bias"], s, p)
        elif layer["type"] == "maxpool":
            k, s, _ = plan.window(layer)
            Y, at[N] = images.max_pool(X[N], k, s)
        elif layer["type"] == "relu":
            Y = each("positive", X[N])
        else:
            Y = X[N].reshape(x.shape[0], int(np.prod(X[N].shape[1:])))
        X.append(Y)
    logits = X[-1]
    pred = device.empty(x.shape[0], np.int64)
    R = R_out = device.empty(logits.shape, x.dtype)
    _kernels()["winner"][device.blocks(x.shape[0]), THREADS](logits, pred, R_out)  # (1)

    before = {}
    for N in reversed(range(len(layers))):
        (layer, w), Y = network[N], X[N + 1]
        if layer["type"] == "fc":  # (2)
            V = each("positive", w["weight"])
            S = share(R, linear(X[N], V))
            back = matmul(S.reshape(1, *S.shape), V.reshape(1, *V.shape)).reshape(*X[N].shape)
            R = each("product", X[N], back)
        elif layer["type"] == "conv":  # (3)
            _, s, p = plan.window(layer)
            back = images.transposed2d(share(R, Y), w["weight"], s, p, *X[N].shape[2:])
            R = each("product", X[N], back)
        elif layer["type"] == "maxpool":  # (4)
            k, s, _ = plan.window(layer)
            back = images.max_unpool(share(R, Y), at[N], X[N].shape, k, s, unpool == "add")
            R = each("product", X[N], back)
        else:
            R = R.reshape(*X[N].shape)
        before[N] = R
    return {
        "logits": logits,
        "pred": pred,
        "relevance_out": R_out,
        "relevance_before_layer": before,
        "heatmap_uint8": heatmap(before[0]),
    }


def heatmap(R0: Any) -> Any:
    """(5)."""
    batch, channels, n, width = R0.shape
    h = each("magnitude", R0)
    ends = images.extremes(h.reshape(batch, channels * n * width, 1))
    out = device.empty((batch, n, width, channels), np.uint8)
    constant = device.zeros(1, np.int64)
    grid = (device.blocks(n * width), channels, batch)
    _kernels()["grey"][grid, THREADS](h, ends, out, constant)
    if constant.copy_to_host()[0]:
        raise InputError("x: an image's relevance is constant, so that it has no heatmap")
    return out


@EXHIBIT.path
def salient_map(
    features: Any,
    scales: Any = None,
    *,
    patch: int = 7,
    K: int = 64,
    c: float = 3.0,
    min_scale: float = 0.2,
    attended_fraction: float = 0.8,
    foci_rule: str = "relative",
    self_match: bool = False,
    squared: bool = False,
) -> dict[str, Any]:
    """See the reference. The distance to the foci is float64, as everywhere."""
    n, width, channels = features.shape
    dtype = np.dtype(features.dtype)
    X = device.empty(features.shape, dtype)
    ends = images.extremes(features.reshape(1, n * width, channels))
    grid = (device.blocks(n * width), channels)
    _kernels()["stretch"][grid, THREADS](features, ends, X)

    saliency = {}
    total = device.zeros((n, width), dtype)
    chosen = plan.pyramid(n, width, patch, plan.decimals(scales), min_scale)
    for scale in chosen:
        P = images.patches(images.resample(X, scale.height, scale.width), patch, 1)
        groups = [
            images.patches(images.resample(X, g.height, g.width), patch, scale.step)
            for g in scale.candidates
        ]
        S = device.zeros((scale.height, scale.width), dtype)
        if groups:
            own = scale.own_places().ravel()
            d = mean_distances(
                P,
                stacked(groups),
                tuple(cuda.to_device(np.ascontiguousarray(t, dtype)) for t in scale.centres()),
                cuda.to_device(np.full_like(own, -1) if self_match else own),
                scale.width,
                K,
                c / scale.farthest,
                squared,
            )
            S = each("saliency", d).reshape(scale.height, scale.width)  # (7)
        saliency[scale.label] = S
        back = images.resample(S.reshape(*S.shape, 1), n, width).reshape(n, width)
        total = each("sum", total, back)

    mean = each("quotient", total, dtype.type(len(chosen)))  # (8)
    foci = device.empty((n, width), np.bool_)
    top = images.extremes(mean.reshape(1, n * width, 1))
    blocks = device.blocks(n * width)
    _kernels()["foci"][blocks, THREADS](
        flat(mean), flat(top), dtype.type(attended_fraction), foci_rule == "relative", flat(foci)
    )  # (9)
    pixels = images.distance(foci)
    far = images.extremes(pixels.reshape(1, n * width, 1))
    distance, sr_map = device.empty((n, width), dtype), device.empty((n, width), dtype)
    _kernels()["lift"][blocks, THREADS](
        flat(mean), flat(pixels), flat(far), flat(distance), flat(sr_map)
    )
    return {
        "saliency_scale": saliency,
        "mean_saliency": mean,
        "foci": foci,
        "foci_distance": distance,
        "sr_map": sr_map,
    }


def stacked(groups: list[Any]) -> Any:
    """Groups of rows one after the other."""
    out = device.empty((sum(g.shape[0] for g in groups), groups[0].shape[1]), groups[0].dtype)
    first = 0
    for g in groups:
        count = g.shape[0] * g.shape[1]
        _kernels()["place"][device.blocks(count), THREADS](flat(g), first, flat(out))
        first += count
    return out


@cache
def _kernels() -> dict[str, Any]:
    """Small kernels by name. The last argument of the elementwise ones is the result."""
    import math

    @cuda.jit
    def positive(x, out):
        i = cuda.grid(1)
        if i < out.size:
            out[i] = x[i] if x[i] > 0 else 0

    @cuda.jit
    def magnitude(x, out):
        i = cuda.grid(1)
        if i < out.size:
            out[i] = abs(x[i])

    @cuda.jit
    def product(a, b, out):
        i = cuda.grid(1)
        if i < out.size:
            out[i] = a[i] * b[i]

    @cuda.jit
    def total(a, b, out):
        i = cuda.grid(1)
        if i < out.size:
            out[i] = a[i] + b[i]

    @cuda.jit
    def quotient(a, divisor, out):
        i = cuda.grid(1)
        if i < out.size:
            out[i] = a[i] / divisor

    @cuda.jit
    def share(R, Z, epsilon, signed, out):
        i = cuda.grid(1)
        if i < out.size:
            out[i] = R[i] / (Z[i] - epsilon if signed and Z[i] < 0 else Z[i] + epsilon)

    @cuda.jit
    def saliency(d, out):
        i = cuda.grid(1)
        if i < out.size:
            out[i] = 1 - math.exp(-d[i])

    @cuda.jit
    def winner(logits, pred, out):
        b = cuda.grid(1)
        if b >= out.shape[0]:
            return
        best = 0
        for k in range(1, logits.shape[1]):
            if logits[b, k] > logits[b, best]:
                best = k
        for k in range(logits.shape[1]):
            out[b, k] = logits[b, k] if k == best else 0
        pred[b] = best

    @cuda.jit
    def grey(h, ends, out, constant):
        place, c, b = cuda.grid(1), cuda.blockIdx.y, cuda.blockIdx.z
        width = h.shape[3]
        if place >= h.shape[2] * width:
            return
        low, high = ends[b, 0, 0], ends[b, 0, 1]
        y, x = place // width, place % width
        if high > low:
            out[b, y, x, c] = int(255 * ((h[b, c, y, x] - low) / (high - low)))
        else:
            constant[0] = 1

    @cuda.jit
    def stretch(x, ends, out):
        place, c = cuda.grid(1), cuda.blockIdx.y
        if place >= x.shape[0] * x.shape[1]:
            return
        low, high = ends[0, c, 0], ends[0, c, 1]
        i, j = place // x.shape[1], place % x.shape[1]
        out[i, j, c] = (x[i, j, c] - low) / (high - low) if high > low else 0

    @cuda.jit
    def foci(mean, ends, fraction, relative, out):
        i = cuda.grid(1)
        if i < out.size:
            out[i] = mean[i] > (fraction * ends[1] if relative else fraction)

    @cuda.jit
    def lift(mean, pixels, ends, distance, out):
        i = cuda.grid(1)
        if i < out.size:
            far = ends[1]
            d = 0.0
            if far < 0:  # no focus at all
                d = 1.0
            elif far > 0:
                d = pixels[i] / far
            distance[i] = d
            out[i] = mean[i] * (1 - distance[i])

    @cuda.jit
    def place(x, first, out):
        i = cuda.grid(1)
        if i < x.size:
            out[first + i] = x[i]

    made = locals()
    return {**{k: v for k, v in made.items() if k not in ("math", "total")}, "sum": total}
