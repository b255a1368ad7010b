"""Small images: textured shapes made by a generator, and scikit-learn's handwritten digits.

The shapes are for Li et al. (arXiv 1712.08268): one textured shape on a noisy background, on demand
with a brighter object that says nothing of the class, or with a mark in a corner that does.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.random import Generator

from attnlab.datasets.files import DatasetMissing

SHAPES = ("square", "disc", "triangle", "cross")
MARK = 5  # pixels of the corner mark's side

Cue = Literal["none", "telling", "random"]


class Shapes(NamedTuple):
    """Images in 0..1, the shape's name as an index, and boxes (top, left, bottom, right)."""

    images: Float[np.ndarray, "rows 1 size size"]
    labels: Int[np.ndarray, "rows"]
    boxes: Int[np.ndarray, "rows 4"]
    distractors: Int[np.ndarray, "rows 4"] | None


def outline(kind: int, side: int) -> np.ndarray:
    """The shape's pixels (side, side), bool; kind is an index into SHAPES."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    if kind == 0:
        return np.ones((side, side), bool)
    if kind == 1:
        return np.hypot(y, x) <= side / 2
    if kind == 2:
        return np.abs(x) <= (y + side / 2) / 2
    return (np.abs(x) <= side / 6) | (np.abs(y) <= side / 6)


def shapes(
    rng: Generator,
    rows: int,
    *,
    size: int = 32,
    side: int = 10,
    distractor: bool = False,
    cue: Cue = "none",
) -> Shapes:
    """Textured shapes of `side` pixels at random places of noisy `size` x `size` images.

    distractor  a brighter striped ring elsewhere, the same for all classes
    cue         a bright mark in one of four corners: "telling" the class (corner k for class k) or
                at "random"
    """
    labels = rng.integers(len(SHAPES), size=rows)
    images = 0.25 + 0.1 * rng.standard_normal((rows, size, size))
    texture = 0.6 + 0.15 * rng.standard_normal((rows, side, side))
    free = size - side - (2 * MARK if cue != "none" else 0)
    margin = MARK if cue != "none" else 0
    corners = rng.integers(len(SHAPES), size=rows) if cue == "random" else labels
    boxes, others = np.empty((rows, 4), int), np.empty((rows, 4), int)
    ring = _ring(side - 2)
    for i, image in enumerate(images):
        top, left = margin + rng.integers(free + 1, size=2)
        boxes[i] = top, left, top + side, left + side
        inside = outline(labels[i], side)
        image[top : top + side, left : left + side][inside] = texture[i][inside]
        if distractor:
            others[i] = _elsewhere(rng, boxes[i], size, side - 2)
            a, b, c, d = others[i]
            image[a:c, b:d] = np.where(ring > 0, ring, image[a:c, b:d])
        if cue != "none":
            a, b = (size - MARK) * (corners[i] // 2), (size - MARK) * (corners[i] % 2)
            image[a : a + MARK, b : b + MARK] = 0.9 * (np.indices((MARK, MARK)).sum(0) % 2)
    return Shapes(
        np.clip(images, 0, 1)[:, None].astype(np.float32),
        labels,
        boxes,
        others if distractor else None,
    )


def _ring(side: int) -> np.ndarray:
    """A bright striped ring; 0 where it leaves the background."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    radius = np.hypot(y, x)
    bright = np.where(np.arange(side) % 2, 1.0, 0.85) * np.ones((side, 1))
    return np.where((radius <= side / 2) & (radius >= side / 5), bright, 0)


def _elsewhere(rng: Generator, box: np.ndarray, size: int, side: int) -> tuple[int, int, int, int]:
    """A box that does not touch the other one. Raises ValueError where there is no room."""
    places = [
        (top, left)
        for top in range(size - side + 1)
        for left in range(size - side + 1)
        if top > box[2] or top + side < box[0] or left > box[3] or left + side < box[1]
    ]
    if not places:
        raise ValueError(f"an image of {size} pixels has no room for a second object of {side}")
    top, left = places[rng.integers(len(places))]
    return top, left, top + side, left + side


class Digits(NamedTuple):
    """8 x 8 images in 0..1 and the digits they show."""

    images: Float[np.ndarray, "rows 1 8 8"]
    labels: Int[np.ndarray, "rows"]


def digits() -> Digits:
    """The 1797 handwritten digits that scikit-learn carries (UCI, optical recognition of handwritten
    digits, test part). Raises DatasetMissing where scikit-learn is not installed."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise DatasetMissing(
            "the digits come with scikit-learn, which is not installed: pip install 'attnlab[images]'"
        ) from None
    found = load_digits()
    return Digits((found.images / 16)[:, None].astype(np.float32), found.target.astype(np.int64))


def held_out(rows: int, seed: int = 0, share: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """(training rows, held-out rows): a fixed random split."""
    order = np.random.default_rng(seed).permutation(rows)
    cut = rows - round(rows * share)
    return np.sort(order[:cut]), np.sort(order[cut:])
