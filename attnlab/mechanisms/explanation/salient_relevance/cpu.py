"""Salient Relevance on the CPU: convolutions as products, nearest neighbours in tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from attnlab.contract import InputError
from attnlab.kernels.cpu.convolution import conv2d, max_pool, max_unpool, transposed2d
from attnlab.kernels.cpu.distance import distance as nearest_marked
from attnlab.kernels.cpu.nearest import mean_distances, patches

from . import EXHIBIT, plan


@EXHIBIT.path
def propagate_relevance(
    x: Float[np.ndarray, "batch channels n width"],
    conv: list[dict[str, np.ndarray]] | None = None,
    fc: list[dict[str, np.ndarray]] | None = None,
    *,
    layers: list[dict[str, Any]],
    epsilon: float = 1e-9,
    stabiliser: str = "add",
    unpool: str = "write",
    compatible: bool = True,
) -> dict[str, Any]:
    """See the reference."""

    def share(R: np.ndarray, Z: np.ndarray) -> np.ndarray:
        """R / (Z + epsilon), in one new array."""
        small = Z + epsilon if stabiliser == "add" else np.where(Z < 0, Z - epsilon, Z + epsilon)
        return np.divide(R, small, out=small)

    network = plan.weighted(layers, conv, fc)
    X, at = [x], {}
    for N, (layer, w) in enumerate(network):
        if layer["type"] == "fc":
            Y = X[N] @ w["weight"].T + w["bias"]
        elif layer["type"] == "conv":
            _, s, p = plan.window(layer)
            Y = conv2d(X[N], w["weight"], w["bias"], s, p)
        elif layer["type"] == "maxpool":
            k, s, _ = plan.window(layer)
            Y, at[N] = max_pool(X[N], k, s)
        else:
            Y = np.maximum(X[N], 0) if layer["type"] == "relu" else X[N].reshape(len(x), -1)
        X.append(Y)
    logits = X[-1]
    pred = logits.argmax(axis=1)
    R = R_out = logits * np.eye(logits.shape[1], dtype=x.dtype)[pred]  # (1)

    before = {}
    for N in reversed(range(len(layers))):
        (layer, w), Y = network[N], X[N + 1]
        if layer["type"] == "fc":  # (2)
            V = np.maximum(w["weight"], 0)
            R = X[N] * (share(R, X[N] @ V.T) @ V)
        elif layer["type"] == "conv":  # (3)
            _, s, p = plan.window(layer)
            R = transposed2d(share(R, Y), w["weight"], s, p, *X[N].shape[2:])
            R *= X[N]
        elif layer["type"] == "maxpool":  # (4)
            R = max_unpool(share(R, Y), at[N], X[N].shape, unpool == "add")
            R *= X[N]
        else:
            R = R.reshape(X[N].shape)
        before[N] = R
    return {
        "logits": logits,
        "pred": pred,
        "relevance_out": R_out,
        "relevance_before_layer": before,
        "heatmap_uint8": heatmap(before[0]),
    }


def heatmap(R0: Float[np.ndarray, "batch channels n width"]) -> np.ndarray:
    """(5)."""
    h = np.abs(R0).transpose(0, 2, 3, 1)
    low, high = h.min(axis=(1, 2, 3), keepdims=True), h.max(axis=(1, 2, 3), keepdims=True)
    if not (high > low).all():
        raise InputError("x: an image's relevance is constant, so that it has no heatmap")
    return (255 * ((h - low) / (high - low))).astype(np.uint8)  # the maximum is 255 exactly


@EXHIBIT.path
def salient_map(
    features: Float[np.ndarray, "n width channels"],
    scales: Float[np.ndarray, "R"] | None = None,
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
    """See the reference."""
    n, width, _ = features.shape
    low, high = features.min(axis=(0, 1)), features.max(axis=(0, 1))
    X = (features - low) / np.where(high > low, high - low, 1)

    def padded(h: int, w: int) -> np.ndarray:
        image = plan.resample(X, h, w) if (h, w) != (n, width) else X
        edge = (patch // 2, patch // 2)
        return np.ascontiguousarray(np.pad(image, (edge, edge, (0, 0)), mode="reflect"))

    saliency = {}
    mean = np.zeros((n, width), features.dtype)
    for scale in plan.pyramid(n, width, patch, plan.decimals(scales), min_scale):
        image = padded(scale.height, scale.width)
        groups = [
            patches(image if g.own else padded(g.height, g.width), patch, scale.step)
            for g in scale.candidates
        ]
        own = scale.own_places().ravel()
        d = np.zeros(own.size, features.dtype)
        if groups:
            d = mean_distances(
                image,
                patch,
                np.concatenate(groups),
                scale.centres(),
                np.full_like(own, -1) if self_match else own,
                K,
                c / scale.farthest,
                squared,
            )
        S = (1 - np.exp(-d)).reshape(scale.height, scale.width)  # (7)
        saliency[scale.label] = S
        mean += plan.resample(S, n, width)
    mean /= len(saliency)  # (8)

    foci = mean > attended_fraction * (mean.max() if foci_rule == "relative" else 1)  # (9)
    distance = np.ones_like(mean)
    if foci.any():
        found = nearest_marked(foci)
        distance = (found / (found.max() or 1)).astype(features.dtype)
    return {
        "saliency_scale": saliency,
        "mean_saliency": mean,
        "foci": foci,
        "foci_distance": distance,
        "sr_map": mean * (1 - distance),
    }
