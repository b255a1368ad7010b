"""Generated shapes: boxes hold them, distractors keep off, corner marks tell or do not."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from attnlab.datasets import images
from attnlab.datasets.files import DatasetMissing


def test_shapes_lie_in_their_boxes_and_repeat_by_seed() -> None:
    made, again = (images.shapes(np.random.default_rng(3), 60) for _ in range(2))
    np.testing.assert_array_equal(made.images, again.images)
    assert made.images.shape == (60, 1, 32, 32)
    assert made.images.min() >= 0
    assert made.images.max() <= 1
    assert set(made.labels) == {0, 1, 2, 3}
    for image, (a, b, c, d), kind in zip(made.images[:, 0], made.boxes, made.labels):
        assert (c - a, d - b) == (10, 10)
        inside = images.outline(kind, 10)
        mask = np.ones(image.shape, bool)
        mask[a:c, b:d] = False
        assert image[a:c, b:d][inside].mean() > image[mask].mean() + 0.25


def test_outlines_differ_and_touch_their_box() -> None:
    drawn = [images.outline(k, 10) for k in range(4)]
    assert all((a != b).sum() > 10 for i, a in enumerate(drawn) for b in drawn[:i])
    assert all(o.any(0).sum() >= 9 and o.any(1).sum() >= 9 for o in drawn)


def test_distractors_are_brighter_and_apart() -> None:
    made = images.shapes(np.random.default_rng(0), 80, distractor=True)
    assert made.distractors is not None
    for image, box, other in zip(made.images[:, 0], made.boxes, made.distractors):
        a, b, c, d = other
        assert image[a:c, b:d].max() >= 0.99
        assert a > box[2] or c < box[0] or b > box[3] or d < box[1]
    with pytest.raises(ValueError, match="no room"):
        images.shapes(np.random.default_rng(0), 9, size=12, distractor=True)


@pytest.mark.parametrize("cue", ["telling", "random"])
def test_corner_marks(cue: images.Cue) -> None:
    made = images.shapes(np.random.default_rng(0), 400, cue=cue)
    m = images.MARK
    corners = [
        made.images[:, 0, y, x]
        for y in (slice(m), slice(-m, None))
        for x in (slice(m), slice(-m, None))
    ]
    where = np.argmax([c.var(axis=(1, 2)) for c in corners], axis=0)
    agree = (where == made.labels).mean()
    assert agree == 1 if cue == "telling" else 0.15 < agree < 0.35
    top, left, bottom, right = made.boxes.T
    assert min(top.min(), left.min()) >= m
    assert max(bottom.max(), right.max()) <= 32 - m


def test_digits() -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn (extra images)")
    found = images.digits()
    assert found.images.shape == (1797, 1, 8, 8)
    assert found.images.max() == 1
    assert found.labels[:10].tolist() == list(range(10))
    rows, others = images.held_out(1797)
    assert len(others) == 359
    assert not set(rows) & set(others)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DatasetMissing, match=r"attnlab\[images\]"):
        images.digits()
