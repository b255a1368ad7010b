"""Sizes and places that all paths share: the layers of a network, the scales of an image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

SCALES = (1.0, 0.8, 0.5, 0.3)
STEPS = (1.0, 0.5, 0.25)  # candidates of scale r come from r, r/2 and r/4
LIMIT = 2.0  # an image is enlarged at most this much
KEYS: dict[str, set[str]] = {
    "conv": {"kernel", "stride", "padding"},
    "maxpool": {"kernel", "stride"},
    "fc": set(),
    "relu": set(),
    "flatten": set(),
}


# --- the network --------------------------------------------------------------------------------


def window(layer: Mapping[str, Any]) -> tuple[int, int, int]:
    """(kernel, stride, padding) of a convolution or a pool; a pool's stride defaults to its kernel."""
    kernel = layer["kernel"]
    pool = layer["type"] == "maxpool"
    return kernel, layer.get("stride", kernel if pool else 1), layer.get("padding", 0)


def weighted(
    layers: Iterable[Mapping[str, Any]],
    conv: Sequence[Mapping[str, Any]] | None,
    fc: Sequence[Mapping[str, Any]] | None,
) -> list[tuple[Mapping[str, Any], Any]]:
    """Every layer with its weights: the next of `conv`, the next of `fc`, or None."""
    stock: dict[str, Any] = {"conv": iter(conv or ()), "fc": iter(fc or ())}
    return [
        (layer, next(stock[layer["type"]]) if layer["type"] in stock else None) for layer in layers
    ]


def shapes(
    layers: Sequence[Mapping[str, Any]],
    shape: tuple[int, ...],
    conv: Sequence[Mapping[str, Any]] | None,
    fc: Sequence[Mapping[str, Any]] | None,
) -> list[tuple[int, ...]]:
    """The shape of every layer's input, without the batch, and of the last one's output.

    Raises ValueError with the layer's number and what does not fit.
    """
    for kind, given in (("conv", conv or ()), ("fc", fc or ())):
        named = sum(layer.get("type") == kind for layer in layers)
        if named != len(given):
            raise ValueError(f"{named} {kind} layers are named, but weights of {len(given)} given")
    made = [shape]
    for number, layer in enumerate(layers):
        if layer.get("type") not in KEYS:
            raise ValueError(f"layer {number}: type must be one of {', '.join(KEYS)}")
        if wrong := layer.keys() - KEYS[layer["type"]] - {"type"}:
            raise ValueError(f"layer {number}: {layer['type']} has no {sorted(wrong)[0]!r}")
        _check_window(number, layer)
    for number, (layer, weights) in enumerate(weighted(layers, conv, fc)):
        try:
            made.append(_next(layer, weights, made[-1]))
        except ValueError as error:
            raise ValueError(f"layer {number} ({layer['type']}): {error}") from None
    if len(made[-1]) != 1:
        raise ValueError(f"the network ends in {made[-1]}, not in one row of logits")
    return made


def _check_window(number: int, layer: Mapping[str, Any]) -> None:
    if "kernel" in KEYS[layer["type"]] and "kernel" not in layer:
        raise ValueError(f"layer {number}: {layer['type']} needs a kernel")
    for name, least in (("kernel", 1), ("stride", 1), ("padding", 0)):
        value = layer.get(name, least)
        if type(value) is not int or value < least:
            raise ValueError(f"layer {number}: {name} must be an integer of at least {least}")


def _next(
    layer: Mapping[str, Any], weights: Mapping[str, Any] | None, shape: tuple[int, ...]
) -> tuple[int, ...]:
    kind = layer["type"]
    if kind in ("conv", "maxpool") and len(shape) != 3:
        raise ValueError("needs an image, but comes after flatten")
    if kind == "fc" and len(shape) != 1:
        raise ValueError("needs a row, but comes before flatten")
    if weights is not None:
        return _weighted_shape(layer, weights, shape)
    if kind == "flatten":
        return (math.prod(shape),)
    if kind == "maxpool":
        k, s, _ = window(layer)
        sides = shape[1:]
        if any(side < k or (side - k) % s for side in sides):
            raise ValueError(f"windows of {k} every {s} do not tile {sides[0]} x {sides[1]}")
        return (shape[0], *((side - k) // s + 1 for side in sides))
    return shape


def _weighted_shape(
    layer: Mapping[str, Any], weights: Mapping[str, Any], shape: tuple[int, ...]
) -> tuple[int, ...]:
    wide = tuple(int(x) for x in weights["weight"].shape)
    expected: tuple[int, ...] = (wide[0], shape[0])
    if layer["type"] == "conv":
        k, s, p = window(layer)
        expected += (k, k)
    if wide != expected:
        raise ValueError(f"weight has shape {wide}, expected {expected}")
    if tuple(weights["bias"].shape) != (wide[0],):
        raise ValueError(f"bias has shape {tuple(weights['bias'].shape)}, expected {(wide[0],)}")
    if layer["type"] == "fc":
        return (wide[0],)
    if min(shape[1:]) + 2 * p < k:
        raise ValueError(f"kernel {k} is larger than {shape[1]} x {shape[2]} with padding {p}")
    return (wide[0], *((side + 2 * p - k) // s + 1 for side in shape[1:]))


# --- the scales ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidates:
    """Where the patches of one of the scales r, r/2, r/4 lie."""

    height: int
    width: int
    rows: Int[np.ndarray, "rows"]  # every `step`-th row and column is a patch's centre
    columns: Int[np.ndarray, "columns"]
    own: bool  # the query's own scale


@dataclass(frozen=True)
class Scale:
    """One scale r: the image's size there and where its queries find candidates."""

    label: int  # round(100 r)
    height: int
    width: int
    step: int
    candidates: tuple[Candidates, ...]

    @property
    def farthest(self) -> int:
        return max(self.height, self.width)

    def centres(self) -> tuple[Float[np.ndarray, "candidates"], Float[np.ndarray, "candidates"]]:
        """Rows and columns of all candidates' centres, in pixels of this scale (step 7)."""
        found = [
            np.meshgrid(
                (group.rows + 0.5) * self.height / group.height - 0.5,
                (group.columns + 0.5) * self.width / group.width - 0.5,
                indexing="ij",
            )
            for group in self.candidates
        ]
        rows = np.concatenate([y.ravel() for y, _ in found] or [np.zeros(0)])
        return rows, np.concatenate([x.ravel() for _, x in found] or [np.zeros(0)])

    def own_places(self) -> Int[np.ndarray, "height width"]:
        """Which candidate is the query's own patch; -1 where none is."""
        places = np.full((self.height, self.width), -1)
        if self.candidates and self.candidates[0].own:
            grid = places[:: self.step, :: self.step]
            grid[...] = np.arange(grid.size).reshape(grid.shape)
        return places


def scaled(size: int, r: float) -> int:
    """size r, rounded half up."""
    return math.floor(size * r + 0.5)


def decimals(scales: Any) -> list[float]:
    """Scales as the numbers that were meant: 0.3 in float32 is 0.3, not 0.30000001192."""
    if scales is None:
        return list(SCALES)
    if hasattr(scales, "copy_to_host"):
        scales = scales.copy_to_host()
    if hasattr(scales, "detach"):
        scales = scales.detach().cpu().numpy()
    return [float(str(r)) for r in scales]


def label(r: float) -> int:
    return round(100 * r)


def pyramid(
    height: int, width: int, patch: int, scales: Sequence[float], min_scale: float
) -> list[Scale]:
    """Steps 5 and 6: the scales that are not skipped, with their candidates."""
    step = max(1, patch // 2)
    made = []
    for r in scales:
        h, w = scaled(height, r), scaled(width, r)
        if min(h, w) < patch:
            continue
        groups = []
        for q in STEPS:
            hq, wq = scaled(height, r * q), scaled(width, r * q)
            if r * q >= min_scale and min(hq, wq) >= patch:
                places = (np.arange(0, hq, step), np.arange(0, wq, step))
                groups.append(Candidates(hq, wq, *places, own=q == 1))
        made.append(Scale(label(r), h, w, step, tuple(groups)))
    return made


def taps(
    size: int, made: int
) -> tuple[Int[np.ndarray, "made"], Int[np.ndarray, "made"], Float[np.ndarray, "made"]]:
    """Bilinear resampling of `size` points to `made`: the two neighbours and the second one's share.

    Half-pixel centres, clamped at the borders, no anti-aliasing.
    """
    at = np.clip((np.arange(made) + 0.5) * size / made - 0.5, 0, size - 1)
    first = np.floor(at).astype(np.int64)
    return first, np.minimum(first + 1, size - 1), at - first


def resample(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image (H, W, ...) at another size, bilinear."""
    for axis, made in enumerate((height, width)):
        first, second, share = taps(image.shape[axis], made)
        share = share.astype(image.dtype).reshape(-1, *[1] * (image.ndim - axis - 1))
        low, high = image.take(first, axis), image.take(second, axis)
        image = low + (high - low) * share
    return image
