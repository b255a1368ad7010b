"""Salient Relevance: where a convolutional network looks, as areas instead of dust."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from attnlab.contract import (
    REQUIRED,
    Array,
    Cost,
    Exhibit,
    Group,
    Operation,
    Option,
    Paper,
)

from . import plan
from .exercise import EXERCISE


def map_example(
    n: int,
    rng: np.random.Generator,
    width: int = 6,
    channels: int = 2,
    patch: int = 3,
    chosen: bool = False,
) -> dict[str, Any]:
    """Random features of n rows; the patch is as large as asked for where it fits."""
    fits = min(n, width) - 1 + min(n, width) % 2  # the largest odd size inside the image
    drawn = {"features": rng.random((n, width, channels)), "patch": min(patch, fits)}
    return drawn | ({"scales": np.array([1.0, 0.6])} if chosen else {})


def network_example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    channels: int = 3,
    wide: int = 4,
    overlapping: bool = False,
) -> dict[str, Any]:
    """A small random network over n x n images; pools where they tile the image."""
    conv, pool = {"kernel": 3, "stride": 1, "padding": 1}, {"kernel": 2, "stride": 2}
    if overlapping:
        conv, pool = {"kernel": 5, "stride": 2, "padding": 2}, {"kernel": 3, "stride": 2}
    side, layers, weights = n, [], []
    for inner, out in ((channels, wide), (wide, wide + 1)):
        layers += [{"type": "conv", **conv}, {"type": "relu"}]
        shape = (out, inner, conv["kernel"], conv["kernel"])
        weights.append(rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:])))
        side = (side + 2 * conv["padding"] - conv["kernel"]) // conv["stride"] + 1
        if side >= pool["kernel"] and (side - pool["kernel"]) % pool["stride"] == 0:
            layers.append({"type": "maxpool", **pool})
            side = (side - pool["kernel"]) // pool["stride"] + 1
    layers += [{"type": "flatten"}, {"type": "fc"}, {"type": "relu"}, {"type": "fc"}]
    flat = (wide + 1) * side**2
    weights += [(rng.standard_normal(s) + 0.2) / math.sqrt(s[1]) for s in ((9, flat), (4, 9))]
    whole = [{"weight": w, "bias": 0.2 * rng.random(len(w)) + 0.1} for w in weights]
    x = rng.standard_normal((batch, channels, n, n))
    return {"x": x, "conv": whole[:2], "fc": whole[2:], "layers": layers}


def search_flops(c: SimpleNamespace) -> float:
    """Two operations a pair of numbers: every query patch against every candidate patch."""
    total = 0.0
    for scale in plan.pyramid(c.n, c.width, c.patch, plan.SCALES, c.min_scale):
        found = sum(len(g.rows) * len(g.columns) for g in scale.candidates)
        total += 2.0 * scale.height * scale.width * found * c.patch**2 * c.channels
    return total


def misfit(c: Any) -> str:
    """What does not fit in a network, or nothing."""
    try:
        plan.shapes(c.layers, tuple(int(s) for s in c.x.shape[1:]), c.conv, c.fc)
    except ValueError as error:
        return str(error)
    return ""


def bad_scales(c: Any) -> str:
    """What is wrong with the scales, or nothing."""
    scales = plan.decimals(c.arrays["scales"])
    if any(not 0 < r <= plan.LIMIT for r in scales):
        return f"each must be above 0 and at most {plan.LIMIT:g}"
    if len({plan.label(r) for r in scales}) < len(scales):
        return "two are the same to a hundredth"
    if not plan.pyramid(c.n, c.width, c.patch, scales, c.min_scale):
        return f"at every one the image is smaller than the patch of {c.patch}"
    return ""


EXHIBIT = Exhibit(
    name="salient_relevance",
    title="Salient Relevance",
    family="explanation",
    package=__name__,
    paper=Paper(
        title=(
            "Beyond saliency: understanding convolutional neural networks from saliency prediction "
            "on layer-wise relevance propagation"
        ),
        authors=("Heyi Li", "Yunke Tian", "Klaus Mueller", "Xin Chen"),
        year=2019,
        venue="Image and Vision Computing",
        arxiv="1712.08268",
        code="Hey1Li/Salient-Relevance-Propagation@65c2835",
    ),
    idea=(
        "Layer-wise relevance propagation hands a network's decision back to its pixels, and the map "
        "looks like dust. So look at the map, not the photo, with a model of human attention: a patch "
        "is salient if it differs even from the patches most like it, the more so the nearer those "
        "are, and what lies near a strong focus is lifted. What remains are a few areas that the "
        "network attends to."
    ),
    attention_map=(
        "none: a convolutional network has no attention weights. sr_map stands in their "
        "place, the areas that its relevance draws the eye to."
    ),
    operations=(
        Operation(
            "salient_map",
            headline=True,
            about="context-aware saliency of a feature map: K-nearest patches over scales, and foci",
            equations=(
                "(6) d(p_i, q_k) = d_color / (1 + c d_pos)",
                "(7) S_i^r = 1 - exp(-(1/K) sum over the K smallest d(p_i^r, q_k)), q_k of scales r, r/2, r/4",
                "(8) Sbar = mean over the scales r of S^r, brought back to (H, W)",
                "(9) foci = {i : Sbar_i > 0.8 max Sbar};  SR_i = Sbar_i (1 - d_foci(i) / max d_foci)",
            ),
            inputs=(
                Array(
                    "features",
                    "n width channels",
                    finite=True,
                    about="n rows of pixels, any range: each channel is brought to 0..1",
                ),
                Array(
                    "scales", "R", optional=True, finite=True, about="r; None is 1, 0.8, 0.5, 0.3"
                ),
            ),
            options=(
                Option("patch", int, 7, "p: side of a patch, odd", minimum=1),
                Option("K", int, 64, "how many nearest patches count", minimum=1),
                Option("c", float, 3.0, "how much distance in the image discounts", minimum=0),
                Option("min_scale", float, 0.2, "no candidates below this scale", minimum=0),
                Option(
                    "attended_fraction",
                    float,
                    0.8,
                    "what makes a focus: this part of the maximum",
                    minimum=0,
                    maximum=1,
                ),
                Option(
                    "foci_rule",
                    str,
                    "relative",
                    "attended_fraction is a part of the maximum, or (Goferman's text) absolute",
                    choices=("relative", "absolute"),
                ),
                Option("self_match", bool, False, "a patch is a candidate for itself"),
                Option("squared", bool, False, "d_color is squared, as in a MATLAB version"),
            ),
            outputs=(
                Array("saliency_scale_{s}", "_ _", each="scales", about="S^r; s is round(100 r)"),
                Array("mean_saliency", "n width", about="Sbar"),
                Array("foci", "n width", dtype="bool"),
                Array(
                    "foci_distance",
                    "n width",
                    about="to the nearest focus, 0..1; 1 everywhere if there is none",
                ),
                Array("sr_map", "n width", about="SR, in [0, 1)"),
            ),
            refuse=(
                (lambda c: c.patch % 2 == 0, "patch: {patch} is even, it needs a middle"),
                (
                    lambda c: c.patch > min(c.n, c.width),
                    "patch: {patch} is larger than the image of {n} x {width}",
                ),
                (bad_scales, "scales: {why}"),
            ),
            example=map_example,
            vary={
                "width": (1, 5, 8),
                "channels": (1, 3),
                "patch": (1, 3, 5),
                "chosen": (False, True),
                "K": (1, 5, 64),
                "c": (0.0, 3.0),
                "min_scale": (0.2, 0.6),
                "attended_fraction": (0.5, 0.8),
                "foci_rule": ("relative", "absolute"),
                "self_match": (False, True),
                "squared": (False, True),
            },
            bench_sizes={"width": 32, "channels": 3, "patch": 7},
            gradient=("features",),
            cost=Cost(
                time="pixels candidates patch^2 channels; candidates grow with the pixels",
                exponent=2.0,
                grows="rows of pixels",
                flops=search_flops,
                bytes=lambda c: float(c.itemsize * c.n * c.width * (c.channels + 8)),
                blas=0.9,
                memory="pixels K (running top K; the pixels x candidates table never exists)",
                memory_exponent=1.0,
                note="2 in the number of pixels, so 4 in the side of a square image",
            ),
        ),
        Operation(
            "propagate_relevance",
            about="layer-wise relevance propagation of a CNN's decision to its pixels",
            equations=(
                "(1) R_L = logits * onehot(argmax logits)",
                "(2) fc: V = max(W, 0), Z = X V^T + 1e-9, R_in = X * ((R_out / Z) V)",
                "(3) conv: S = R_out / (Y + 1e-9), Y with its bias, R_in = X * convT(S, W)",
                "(4) maxpool: S = R_out / (Y + 1e-9), R_in = X * unpool(S); relu and flatten pass R on",
                "(5) heatmap: h = |R0|, 255 (h - min) / (max - min) over pixels and channels, truncated",
            ),
            inputs=(
                Array("x", "batch channels n width", finite=True, about="normalised images"),
                Group(
                    "conv{k}_",
                    (
                        Array("weight", "_ _ _ _", finite=True, about="(out, in, kernel, kernel)"),
                        Array("bias", "_", finite=True),
                    ),
                    optional=True,
                ),
                Group(
                    "fc{k}_",
                    (
                        Array("weight", "_ _", finite=True, about="(out, in)"),
                        Array("bias", "_", finite=True),
                    ),
                    optional=True,
                ),
            ),
            options=(
                Option(
                    "layers",
                    list[dict],
                    REQUIRED,
                    'in order: {"type": "conv", "kernel", "stride", "padding"}, {"type": "maxpool", '
                    '"kernel", "stride"}, or type fc, relu, flatten',
                ),
                Option("epsilon", float, 1e-9, "added to the denominators", above=0),
                Option(
                    "stabiliser",
                    str,
                    "add",
                    "Z + epsilon, or the epsilon rule Z + epsilon sign(Z)",
                    choices=("add", "sign"),
                ),
                Option(
                    "unpool",
                    str,
                    "write",
                    "where windows share an argmax: the later one counts, or their sum",
                    choices=("write", "add"),
                ),
                Option("compatible", bool, True, "as the authors' code: square images only"),
            ),
            outputs=(
                Array("logits", "batch classes"),
                Array("pred", "batch", dtype="int"),
                Array("relevance_out", "batch classes", about="(1)"),
                Array(
                    "relevance_before_layer{N}",
                    "batch _ _ _ | batch _",
                    each="layers",
                    about="R at the input of layer N of the list, counted from 0; N = 0 is R0",
                ),
                Array("heatmap_uint8", "batch n width channels", dtype="int"),
            ),
            refuse=(
                (
                    lambda c: c.compatible and c.n != c.width,
                    "x: {n} x {width} is not square, as the compatible mode needs",
                ),
                (misfit, "layers: {why}"),
            ),
            example=network_example,
            vary={
                "batch": (1, 3),
                "channels": (2, 3),
                "wide": (2, 4),
                "overlapping": (False, True),
                "epsilon": (1e-9, 0.01),
                "stabiliser": ("add", "sign"),
                "unpool": ("write", "add"),
                "compatible": (False, True),
            },
            bench_sizes={"batch": 1, "wide": 16},
            gradient=("x",),
            exempt=dict.fromkeys(
                ("agreement", "float32", "single"),
                "(5) truncates: in the last bit 255 h / h may be 254.99 (torch), so that heatmap_uint8 agrees "
                "to one grey level only (tests/mechanisms holds the paths together on these terms)",
            ),
            cost=Cost(
                time="one forward and one backward-like pass: batch pixels in out kernel^2 a conv",
                exponent=2.0,
                grows="side of the image",
                memory="every layer's input and output",
                memory_exponent=2.0,
            ),
        ),
    ),
    exercise=EXERCISE,
    notes=(
        "The paper speaks of LRP; the authors' notebook mixes rules (z+ for linear layers, plain z with "
        "the bias in the denominator for convolutions), so relevance is not conserved.",
        'Its overlapping pools write: where windows share an argmax the later one wins. `unpool="add"` '
        "keeps all of it.",
        "Foci: 0.8 of the maximum, as re-implementations do; Goferman's text has an absolute 0.8, "
        'which may leave no focus at all (`foci_rule="absolute"`).',
        "Step 2 sees features as they are: no L*a*b* conversion, no JPEG, no resizing to 250 pixels.",
    ),
)
