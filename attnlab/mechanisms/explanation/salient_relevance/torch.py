"""Salient Relevance in PyTorch: convolutions and their transposes, tiled nearest neighbours.

Both operations are differentiable; argmax, the choice of neighbours and the foci are constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from attnlab.contract import InputError

from . import EXHIBIT, plan

PAIRS = 2**22  # query-candidate pairs of one tile


@EXHIBIT.path
def propagate_relevance(
    x: Float[Tensor, "batch channels n width"],
    conv: list[dict[str, Tensor]] | None = None,
    fc: list[dict[str, Tensor]] | None = None,
    *,
    layers: list[dict[str, Any]],
    epsilon: float = 1e-9,
    stabiliser: str = "add",
    unpool: str = "write",
    compatible: bool = True,
) -> dict[str, Any]:
    """See the reference. Only whether a heatmap is constant is asked of the device."""

    def safe(Z: Tensor) -> Tensor:
        return Z + epsilon if stabiliser == "add" else torch.where(Z < 0, Z - epsilon, Z + epsilon)

    network = plan.weighted(layers, conv, fc)
    X, at = [x], {}
    for N, (layer, w) in enumerate(network):
        if layer["type"] == "fc":
            Y = F.linear(X[N], w["weight"], w["bias"])
        elif layer["type"] == "conv":
            _, s, p = plan.window(layer)
            Y = F.conv2d(X[N], w["weight"], w["bias"], s, p)
        elif layer["type"] == "maxpool":
            k, s, _ = plan.window(layer)
            Y, at[N] = F.max_pool2d(X[N], k, s, return_indices=True)
        else:
            Y = X[N].relu() if layer["type"] == "relu" else X[N].flatten(1)
        X.append(Y)
    logits = X[-1]
    pred = logits.argmax(1)
    R = R_out = logits * F.one_hot(pred, logits.shape[1])  # (1)

    before = {}
    for N in reversed(range(len(layers))):
        (layer, w), Y = network[N], X[N + 1]
        if layer["type"] == "fc":  # (2)
            V = w["weight"].clamp(min=0)
            R = X[N] * ((R / safe(X[N] @ V.mT)) @ V)
        elif layer["type"] == "conv":  # (3)
            R = X[N] * _transposed(R / safe(Y), w["weight"], layer, X[N].shape)
        elif layer["type"] == "maxpool":  # (4)
            R = X[N] * _unpooled(R / safe(Y), at[N], X[N].shape, unpool)
        else:
            R = R.reshape(X[N].shape)
        before[N] = R
    return {
        "logits": logits,
        "pred": pred,
        "relevance_out": R_out,
        "relevance_before_layer": before,
        "heatmap_uint8": _heatmap(before[0].detach()),
    }


def _transposed(S: Tensor, W: Tensor, layer: Mapping[str, Any], shape: torch.Size) -> Tensor:
    k, s, p = plan.window(layer)
    extra = [big - ((small - 1) * s - 2 * p + k) for big, small in zip(shape[2:], S.shape[2:])]
    return F.conv_transpose2d(S, W, stride=s, padding=p, output_padding=extra)


def _unpooled(S: Tensor, at: Tensor, shape: torch.Size, rule: str) -> Tensor:
    """S at the argmax places. Written by a gather: each pixel takes from the last window whose
    maximum it is, so that the result does not depend on the order of threads."""
    S, at = S.flatten(2), at.flatten(2)  # (batch, channels, windows)
    flat = S.new_zeros((*shape[:2], shape[2] * shape[3]))
    if rule == "add":
        return flat.scatter_add(2, at, S).reshape(shape)
    order = torch.arange(at.shape[2], device=at.device).expand_as(at)
    last = torch.full(flat.shape, -1, device=at.device).scatter_reduce(2, at, order, "amax")
    return torch.where(last >= 0, S.gather(2, last.clamp(min=0)), flat).reshape(shape)


def _heatmap(R0: Tensor) -> Tensor:
    h = R0.abs().permute(0, 2, 3, 1)
    low, high = h.amin((1, 2, 3), keepdim=True), h.amax((1, 2, 3), keepdim=True)
    if not bool((high > low).all()):
        raise InputError("x: an image's relevance is constant, so that it has no heatmap")
    # Multiplied first, as the authors do in the same arithmetic: the maximum may become 254.
    return (255 * (h - low) / (high - low)).to(torch.uint8)


@EXHIBIT.path
def salient_map(
    features: Float[Tensor, "n width channels"],
    scales: Float[Tensor, "R"] | None = None,
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
    low, high = features.amin((0, 1)), features.amax((0, 1))
    X = (features - low) / torch.where(high > low, high - low, 1)
    X = X.permute(2, 0, 1)[None]  # (1, channels, n, width)

    def resampled(image: Tensor, h: int, w: int) -> Tensor:
        return F.interpolate(image, (h, w), mode="bilinear", align_corners=False)

    saliency = {}
    for scale in plan.pyramid(n, width, patch, plan.decimals(scales), min_scale):
        P = _patches(resampled(X, scale.height, scale.width), patch).flatten(0, 1)
        Q = [
            _patches(resampled(X, g.height, g.width), patch)[:: scale.step, :: scale.step]
            for g in scale.candidates
        ]
        S = _search(
            P,
            torch.cat([q.flatten(0, 1) for q in [P[None, :0], *Q]]),
            scale,
            K,
            c,
            self_match,
            squared,
        )
        saliency[scale.label] = S.reshape(scale.height, scale.width)

    back = [resampled(S[None, None], n, width)[0, 0] for S in saliency.values()]
    mean = torch.stack(back).mean(0)  # (8)
    top = mean.detach().max() if foci_rule == "relative" else 1
    foci = mean.detach() > attended_fraction * top  # (9)
    distance = _distance(foci).to(features.dtype)
    return {
        "saliency_scale": saliency,
        "mean_saliency": mean,
        "foci": foci,
        "foci_distance": distance,
        "sr_map": mean * (1 - distance),
    }


def _patches(image: Tensor, p: int) -> Tensor:
    """(h, w, channels * p * p) patches of an image (1, channels, h, w); their order is free."""
    h, w = image.shape[2:]
    around = F.pad(image, [p // 2] * 4, mode="reflect") if p > 1 else image
    return F.unfold(around, p)[0].mT.reshape(h, w, -1)


def _search(
    P: Float[Tensor, "queries size"],
    Q: Float[Tensor, "candidates size"],
    scale: plan.Scale,
    K: int,
    c: float,
    self_match: bool,
    squared: bool,
) -> Float[Tensor, "queries"]:
    """(6) and (7), tile by tile: distances by one product choose the K nearest, which are then
    computed again from differences, without the product's cancellation."""
    if not len(Q):
        return P.new_zeros(len(P))
    size, like = P.shape[1], {"dtype": P.dtype, "device": P.device}
    y, x = (torch.as_tensor(t, **like) for t in scale.centres())
    own = torch.as_tensor(scale.own_places().ravel(), device=P.device)
    grid = torch.arange(len(P), device=P.device)
    K = min(K, len(Q))
    parts = []
    for part in grid.split(max(1, PAIRS // max(len(Q), K * size))):
        p, skip = P[part], own[part]
        dy = (part // scale.width).to(P.dtype)[:, None] - y
        dx = (part % scale.width).to(P.dtype)[:, None] - x
        discount = 1 + c * (dy**2 + dx**2).sqrt() / scale.farthest
        with torch.no_grad():
            d2 = (p**2).sum(1)[:, None] + (Q**2).sum(1) - 2 * p @ Q.mT
            key = d2.clamp(min=0) / (discount if squared else discount**2)
            if not self_match:
                rows = (skip >= 0).nonzero()[:, 0]
                key[rows, skip[rows]] = torch.inf
            least, nearest = key.topk(K, largest=False)
        d2 = ((p[:, None] - Q[nearest]) ** 2).sum(-1) / size
        same = d2 == 0  # the root has no gradient at 0: there it is taken as 0
        d_color = d2 if squared else torch.where(same, 0, torch.where(same, 1, d2).sqrt())
        found = least.isfinite()
        d = torch.where(found, d_color / discount.gather(1, nearest), 0)  # (6)
        parts.append(1 - torch.exp(-d.sum(1) / found.sum(1).clamp(min=1)))  # (7)
    return torch.cat(parts)


def _distance(foci: Bool[Tensor, "n width"]) -> Float[Tensor, "n width"]:
    """Exact distances in two passes: along the columns, then the best of each row."""
    n, width = foci.shape
    far = 4.0 * (n + width)
    rows = torch.arange(n, device=foci.device, dtype=torch.float64)[:, None]
    above = rows - torch.where(foci, rows, -far).cummax(0)[0]
    below = torch.where(foci, rows, far).flip(0).cummin(0)[0].flip(0) - rows
    column = torch.minimum(above, below) ** 2
    x = torch.arange(width, device=foci.device, dtype=torch.float64)
    across = (x[:, None] - x) ** 2  # (width, other)
    parts = column.split(max(1, PAIRS // width**2))
    squares = torch.cat([(part[:, None] + across).amin(2) for part in parts])
    distance = squares.sqrt()
    top = distance.max()
    scaled = distance / torch.where(top > 0, top, 1)
    return torch.where(foci.any(), scaled, torch.ones_like(scaled))
