"""Top-k, counting sort, hashing and k-means against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from attnlab.kernels.cpu import hashing, kmeans, topk


def best(x, k):
    """Indices of the k largest, ties to the lower index, NaN last."""
    return np.argsort(np.where(np.isnan(x), np.inf, -x), kind="stable")[:k]


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(
        np.float64,
        st.integers(1, 40),
        elements=st.sampled_from([0.0, -0.0, 1.0, 2.0, -3.5, np.inf]),
    ),
    st.data(),
)
def test_top_k_is_a_stable_sort(row, data):
    k = data.draw(st.integers(0, row.size))
    values, indices = np.empty(k), np.empty(k, np.int64)
    topk.top_k(row, values, indices)
    np.testing.assert_array_equal(indices, best(row, k))
    np.testing.assert_array_equal(values, row[indices])


def test_nan_is_chosen_last():
    row = np.array([np.nan, -np.inf, 1.0, np.nan, 2.0])
    values, indices = np.empty(5), np.empty(5, np.int64)
    topk.top_k(row, values, indices)
    np.testing.assert_array_equal(indices, [4, 2, 1, 0, 3])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rows", "columns", "k"), [(1, 1, 1), (63, 500, 17), (5, 60, 60)])
def test_rows_and_columns(rows, columns, k, dtype, rng):
    x = rng.normal(size=(rows, columns)).round(1).astype(dtype)
    values, indices = np.empty((rows, k), dtype), np.empty((rows, k), np.int64)
    topk.top_k_rows(x, values, indices)
    np.testing.assert_array_equal(indices, [best(row, k) for row in x])
    np.testing.assert_array_equal(values, np.take_along_axis(x, indices, axis=1))
    turned = np.ascontiguousarray(x.T)
    by_column, their_indices = np.empty_like(values), np.empty_like(indices)
    topk.top_k_columns(turned, by_column, their_indices)
    np.testing.assert_array_equal(their_indices, indices)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 6), max_size=50))
def test_counting_argsort(keys):
    keys = np.array(keys, np.int64)
    order, offsets = np.empty(keys.size, np.int64), np.empty(9, np.int64)
    topk.counting_argsort(keys, 8, order, offsets)  # key 7 has no elements
    np.testing.assert_array_equal(order, np.argsort(keys, kind="stable"))
    np.testing.assert_array_equal(offsets, np.searchsorted(np.sort(keys), np.arange(9)))


def test_sign_buckets_and_gray_order(rng):
    projections = rng.normal(size=(500, 7))
    buckets = np.empty(500, np.int64)
    hashing.sign_buckets(projections, buckets)
    np.testing.assert_array_equal(buckets, (projections > 0) @ (1 << np.arange(7)))
    order = np.argsort([hashing.gray_rank(code) for code in range(128)])
    differences = order[1:] ^ order[:-1]
    assert all(int(d).bit_count() == 1 for d in differences)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_spherical_step(dtype, rng):
    x, means = rng.normal(size=(500, 60)).astype(dtype), rng.normal(size=(9, 60)).astype(dtype)
    means[4] = means[3]  # a tie goes to the lower; 4 stays empty
    assigned, counts = np.empty(500, np.int64), np.empty(9, np.int64)
    sums = np.full_like(means, np.nan)
    kmeans.spherical_step(x, means, assigned, sums, counts)
    np.testing.assert_array_equal(assigned, (x.astype(float) @ means.T.astype(float)).argmax(1))
    assert counts[4] == 0
    for c in range(9):
        np.testing.assert_allclose(sums[c], x[assigned == c].sum(0), rtol=1e-4, atol=1e-4)
        assert counts[c] == (assigned == c).sum()
