"""Salient Relevance in NumPy: layer-wise relevance propagation, then context-aware saliency.

Li, Tian, Mueller and Chen, arXiv 1712.08268, equations (1)-(5) as in the authors' notebook; (6)-(9)
from Goferman, Zelnik-Manor and Tal, Context-Aware Saliency Detection, PAMI 2012.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view
from scipy.spatial.distance import cdist

from attnlab.contract import InputError

from . import EXHIBIT, plan

QUERIES = 2048  # rows of the distance table that exist at one time


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
    """Relevance of every pixel, and of every layer's input, for the class with the largest logit.

    Parameters
    ----------
    x           (batch, channels, n, width), normalised images
    conv, fc    weights and biases of the convolutions and linear layers, in order
    layers      the network, see the card
    compatible  checked by the card: square images only

    Returns
    -------
    logits, relevance_out (batch, classes), pred (batch,), heatmap_uint8 (batch, n, width, channels),
    relevance_before_layer {N: R at the input of layer N}. Raises InputError for a constant heatmap.
    """

    def safe(Z: np.ndarray) -> np.ndarray:
        return Z + epsilon if stabiliser == "add" else np.where(Z < 0, Z - epsilon, Z + epsilon)

    network = plan.weighted(layers, conv, fc)
    X = [x]  # X[N] is layer N's input, X[N + 1] its output Y
    for layer, w in network:
        X.append(forward(layer, w, X[-1]))
    logits = X[-1]
    pred = logits.argmax(axis=1)
    R = R_out = logits * np.eye(logits.shape[1], dtype=x.dtype)[pred]  # (1)

    before = {}
    for N in reversed(range(len(layers))):
        (layer, w), Y = network[N], X[N + 1]
        if layer["type"] == "fc":  # (2)
            V = np.maximum(w["weight"], 0)
            R = X[N] * ((R / safe(X[N] @ V.T)) @ V)
        elif layer["type"] == "conv":  # (3)
            R = X[N] * transposed(R / safe(Y), w["weight"], layer, X[N].shape)
        elif layer["type"] == "maxpool":  # (4)
            R = X[N] * unpooled(R / safe(Y), X[N], layer, unpool)
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


def forward(layer: Mapping[str, Any], w: Any, X: np.ndarray) -> np.ndarray:
    """One layer's output."""
    if layer["type"] == "fc":
        return X @ w["weight"].T + w["bias"]
    if layer["type"] == "conv":
        return (
            np.einsum("bcyxij,ocij->boyx", windows(X, layer), w["weight"])
            + w["bias"][:, None, None]
        )
    if layer["type"] == "maxpool":
        return windows(X, layer).max(axis=(4, 5))
    return np.maximum(X, 0) if layer["type"] == "relu" else X.reshape(len(X), -1)


def windows(X: np.ndarray, layer: Mapping[str, Any]) -> np.ndarray:
    """(batch, channels, out rows, out columns, kernel, kernel): what each output looks at."""
    k, s, p = plan.window(layer)
    padded = np.pad(X, ((0, 0), (0, 0), (p, p), (p, p)))
    return sliding_window_view(padded, (k, k), axis=(2, 3))[:, :, ::s, ::s]


def transposed(S: np.ndarray, W: np.ndarray, layer: Mapping[str, Any], shape: tuple) -> np.ndarray:
    """convT(S, W): every output's share, given back to the pixels of its window."""
    k, s, p = plan.window(layer)
    (rows, columns), (n, width) = S.shape[2:], shape[2:]
    back = np.zeros((*shape[:2], n + 2 * p, width + 2 * p), S.dtype)
    for i in range(k):
        for j in range(k):
            place = (..., slice(i, i + s * rows, s), slice(j, j + s * columns, s))
            back[place] += np.einsum("boyx,oc->bcyx", S, W[:, :, i, j])
    return back[:, :, p : p + n, p : p + width]


def unpooled(S: np.ndarray, X: np.ndarray, layer: Mapping[str, Any], rule: str) -> np.ndarray:
    """S at the place of each window's first maximum; windows in raster order.

    Where windows share a maximum, rule "write" keeps the last one's value, "add" their sum.
    """
    k, s, _ = plan.window(layer)
    best = windows(X, layer).reshape(*S.shape, k * k).argmax(axis=-1)  # (b, c, rows, columns)
    back = np.zeros_like(X)
    b, c = np.ogrid[: len(X), : X.shape[1]]
    for y, x in np.ndindex(S.shape[2:]):
        i, j = np.divmod(best[:, :, y, x], k)
        place = (b, c, y * s + i, x * s + j)
        back[place] = S[:, :, y, x] + (back[place] if rule == "add" else 0)
    return back


def heatmap(R0: np.ndarray) -> np.ndarray:
    """(5): |R0| (batch, n, width, channels) in 256 grey levels, one range an image."""
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
    """How salient each pixel is, and the Salient Relevance map.

    Parameters
    ----------
    features           (n, width, channels), finite, any range
    scales             r; those at which the image is smaller than the patch are skipped
    patch, K, c        side of a patch, how many nearest ones count, discount of distance
    min_scale          candidates come from r, r/2, r/4 where that is at least this
    attended_fraction  a focus is above this part of the maximum (foci_rule "relative") or above it

    Returns
    -------
    saliency_scale {round(100 r): (h, w)}, mean_saliency, foci, foci_distance, sr_map (n, width)
    """
    n, width, _ = features.shape
    low, high = features.min(axis=(0, 1)), features.max(axis=(0, 1))
    X = (features - low) / np.where(high > low, high - low, 1)  # a constant channel becomes 0

    saliency = {}
    for scale in plan.pyramid(n, width, patch, plan.decimals(scales), min_scale):
        P = patches(plan.resample(X, scale.height, scale.width), patch)
        groups = [
            patches(plan.resample(X, g.height, g.width), patch)[g.rows][:, g.columns]
            for g in scale.candidates
        ]
        size = P.shape[-1]  # patch * patch * channels
        P, Q = (
            P.reshape(-1, size),
            np.concatenate([g.reshape(-1, size) for g in groups] or [P[0, :0]]),
        )
        places = np.stack(scale.centres(), axis=1)  # (candidates, 2)
        centres = np.argwhere(np.ones((scale.height, scale.width)))  # every pixel of this scale
        own = scale.own_places().ravel()
        S = np.zeros(len(P))
        for start in range(0, len(P) if len(Q) else 0, QUERIES):
            part = slice(start, start + QUERIES)
            d_color = cdist(P[part], Q) / np.sqrt(size)
            d_pos = cdist(centres[part], places) / scale.farthest
            d = (d_color**2 if squared else d_color) / (1 + c * d_pos)  # (6)
            if not self_match:
                rows = np.flatnonzero(own[part] >= 0)
                d[rows, own[part][rows]] = np.inf
            nearest = np.sort(d, axis=1)[:, :K]
            found = np.isfinite(nearest)
            mean = np.where(found, nearest, 0).sum(axis=1) / np.maximum(found.sum(axis=1), 1)
            S[part] = 1 - np.exp(-mean)  # (7)
        saliency[scale.label] = S.reshape(scale.height, scale.width).astype(features.dtype)

    mean = np.mean([plan.resample(S, n, width) for S in saliency.values()], axis=0)  # (8)
    foci = mean > attended_fraction * (mean.max() if foci_rule == "relative" else 1)  # (9)
    distance = foci_distance(foci).astype(features.dtype)
    return {
        "saliency_scale": saliency,
        "mean_saliency": mean,
        "foci": foci,
        "foci_distance": distance,
        "sr_map": mean * (1 - distance),
    }


def patches(image: np.ndarray, p: int) -> np.ndarray:
    """(h, w, p * p * channels): the patch around every pixel, borders reflected."""
    around = np.pad(image, ((p // 2, p // 2), (p // 2, p // 2), (0, 0)), mode="reflect")
    view = sliding_window_view(around, (p, p), axis=(0, 1))  # (h, w, channels, p, p)
    return view.transpose(0, 1, 3, 4, 2).reshape(*image.shape[:2], -1)


def foci_distance(foci: np.ndarray) -> np.ndarray:
    """Distance to the nearest focus over its maximum; 0 if all are foci, 1 if none is."""
    if not foci.any():
        return np.ones(foci.shape)
    pixels = np.argwhere(np.ones(foci.shape))
    distance = np.concatenate(
        [cdist(part, np.argwhere(foci)).min(axis=1) for part in np.array_split(pixels, len(foci))]
    ).reshape(foci.shape)
    return distance / (distance.max() or 1)
