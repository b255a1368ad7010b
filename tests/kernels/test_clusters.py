"""Selection of cluster members, buckets sorted by counting, and the two-level softmax in tiles."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from attnlab.kernels.cpu import landmark, scratch, softmax
from attnlab.kernels.cpu.clusters import choose_members
from attnlab.kernels.cpu.sortlsh import sort_by_bucket


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["normal", "ties", "equal", "heavy", "tiny spread"])
def test_members_are_the_largest(dtype, kind):
    rng = np.random.default_rng(0)
    row = rng.normal(size=(1, 2, 3, 500)).astype(dtype)
    row = {
        "normal": row,
        "ties": np.round(row),
        "equal": np.ones_like(row),
        "heavy": row**9,
        "tiny spread": dtype(1) + row * dtype(1e-6),
    }[kind]
    for w in (1, 7, 250, 499, 500):
        index = scratch.empty((*row.shape[:3], w), np.int64)
        choose_members(row, index, np.zeros(1, np.int64))
        expected = np.sort(np.argsort(-row, axis=-1, kind="stable")[..., :w], axis=-1)
        np.testing.assert_array_equal(index, expected)


def test_counting_sort_is_stable_and_pads_with_bucket_zero():
    rng = np.random.default_rng(1)
    bucket = rng.integers(0, 5, (1, 1, 20))
    first, real, rows = np.array([0, 12]), np.array([12, 8]), 12
    order = scratch.empty((1, 1, 2, rows), np.int64)
    sort_by_bucket(bucket, first, real, 5, order, np.zeros(1, np.int64))
    for s in range(2):
        values = np.zeros(rows, int)
        values[: real[s]] = bucket[0, 0, first[s] : first[s] + real[s]]
        np.testing.assert_array_equal(order[0, 0, s], np.argsort(values, kind="stable"))


def test_two_levels_tile_by_tile_equal_one_row():
    """Whole blocks in tiles of any width give the weights of the row seen at once."""
    rng = np.random.default_rng(2)
    n, ends = 12, np.array([2, 3, 7, landmark.NEVER])
    s, v = rng.normal(size=(1, n)), rng.normal(size=(n, 3))
    outs = []
    for cuts in ([0, 12], [0, 4, 8, 12], [0, 3, 4, 8, 10, 12]):
        m, l, acc = np.empty(1), np.empty(1), np.empty((1, 3))
        softmax.start(m, l, acc)
        for j0, j1 in pairwise(cuts):
            tile = s[:, j0:j1].copy()
            first = int(np.searchsorted(ends, j0))
            landmark.weigh_blocks(tile, n - 1, j0, ends, first, m, l, acc)
            acc += tile @ v[j0:j1]
        outs.append(acc / l)
    np.testing.assert_allclose(outs[1], outs[0], 1e-12)
    np.testing.assert_allclose(outs[2], outs[0], 1e-12)
