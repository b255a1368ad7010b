"""Salient Relevance as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Exercise, Mistake, Part


def image_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """An image of n rows with 1 to 3 channels and a patch that fits."""
    image = rng.random((n, int(rng.integers(3, 8)), int(rng.integers(1, 4))))
    return {
        "image": image,
        "p": int(rng.choice([p for p in (1, 3, 5) if p <= min(image.shape[:2])])),
    }


def foci_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Foci among n x 6 pixels: some, a single one, none, or all of them."""
    foci = rng.random((n, 6)) < 0.2
    foci[rng.integers(n), rng.integers(6)] = True
    odd = rng.random()
    return {"foci": np.full((n, 6), odd < 0.05) if odd < 0.1 else foci}


def pool_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """A pool over (2, 2, side, side) whose windows overlap or not; equal pixels make ties."""
    kernel, stride = ((2, 2), (3, 2), (3, 1))[int(rng.integers(3))]
    out = min(n, 8)
    side = (out - 1) * stride + kernel
    return {
        "S": rng.standard_normal((2, 2, out, out)),
        "X": rng.integers(0, 9, (2, 2, side, side)).astype(float),
        "layer": {"type": "maxpool", "kernel": kernel, "stride": stride},
        "rule": str(rng.choice(["write", "add"])),
    }


EXERCISE = Exercise(
    difficulty=3,
    minutes=90,
    hints=(
        "A patch is salient if even those that resemble it most are unlike it, and near likenesses "
        "tell more than far ones. All else is the same question at several sizes of the image.",
        "One query patch a pixel, one candidate patch every p // 2 rows and columns, at up to three "
        "scales. Discount by distance first, and only then take the K smallest; leave out the query "
        "itself at its own scale, and divide by how many were found.",
        "|P - Q|^2 = |P|^2 + |Q|^2 - 2 P.Q turns all distances into one matrix product; "
        "S = 1 - exp(-mean of the K smallest d_color / (1 + c d_pos)); average the scales at full "
        "size; foci above a part of the maximum; sr = mean * (1 - distance / its maximum, or 0 if "
        "every pixel is a focus).",
    ),
    parts=(
        Part("patches", "the patch around every pixel, borders reflected", image_example),
        Part(
            "foci_distance",
            "how far each pixel is from a focus, as a share of the farthest",
            foci_example,
        ),
        Part("unpooled", "relevance handed back to the winners of a pool", pool_example),
    ),
    mistakes=(
        Mistake(
            "colour distance unscaled",
            old="d_color = cdist(P[part], Q) / np.sqrt(size)",
            new="d_color = cdist(P[part], Q)",
            says="Your colour distances grow with the patch: they match when divided by "
            "sqrt(p * p * channels), which keeps them in [0, 1].",
        ),
        Mistake(
            "positions in pixels",
            old="d_pos = cdist(centres[part], places) / scale.farthest",
            new="d_pos = cdist(centres[part], places)",
            says="Your saliency falls too fast with distance: positions are measured in pixels, "
            "where the longer side of the scale's image is the unit.",
        ),
        Mistake(
            "itself among its likes",
            old="            if not self_match:",
            new="            if False:",
            says="Every patch finds itself among its nearest, at distance 0. At its own scale the "
            "query's own patch has to be left out.",
        ),
        Mistake(
            "borders repeated",
            old='mode="reflect")',
            new='mode="symmetric")',
            says="Your patches at the border repeat the edge pixel. The reflection goes around it: "
            "the pixel beyond the edge is the one before it.",
        ),
        Mistake(
            "far pixels lifted",
            old='"sr_map": mean * (1 - distance)',
            new='"sr_map": mean * distance',
            says="Your map is dark at the foci and bright far from them: a focus keeps its "
            "saliency, the farthest pixel loses it.",
        ),
        Mistake(
            "distance not normalised",
            old="return distance / (distance.max() or 1)",
            new="return distance",
            says="Your distances to the foci are in pixels. Divide by the largest, unless it is 0: "
            "every pixel may be a focus.",
        ),
    ),
    questions=(
        "the three rules of relevance propagation with one function `redistribute`",
        "an unpooling that adds instead of writing, and how much relevance it saves",
        "the K-nearest search in tiles: no table of all pairs",
        "prove that plain z without biases is x times the gradient in a network of ReLUs",
    ),
)
