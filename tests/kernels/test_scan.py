"""The chunked linear scan and the products of rows against NumPy in float64."""

import numpy as np
import pytest

from attnlab.kernels.cpu.product import linear, product
from attnlab.kernels.cpu.scan import linear_scan

DTYPES = [np.float32, np.float64]
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-11}


def whole(q, k, v, s):
    """The parallel form: masked, decayed products."""
    q, k, v = (x.astype(float) for x in (q, k, v))
    t = np.arange(q.shape[2])
    lag = np.maximum(t[:, None] - t, 0)
    decay = np.tril(np.exp(-s[:, None, None] * lag))
    late = np.exp(-s[:, None] * (t[-1] - t))
    state = np.einsum("ht,bhtd,bhte->bhde", late, k, v)
    return (np.einsum("bhid,bhjd->bhij", q, k) * decay) @ v, state


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "chunk"), [(1, 64), (63, 64), (130, 64), (130, 1), (300, 1000)])
def test_chunks_equal_the_parallel_form(dtype, n, chunk, rng):
    q, k = rng.normal(size=(2, 2, 3, n, 5)).astype(dtype) / 2
    v = rng.normal(size=(2, 3, n, 7)).astype(dtype)
    s = np.array([0.0, 0.3, 2.0])
    made = linear_scan(q, k, v, s.astype(dtype), chunk)
    o, state = whole(q, k, v, s)
    assert made.o.dtype == made.state.dtype == dtype
    np.testing.assert_allclose(made.o, o, TOLERANCE[dtype], 20 * TOLERANCE[dtype])
    np.testing.assert_allclose(made.state, state, TOLERANCE[dtype], 20 * TOLERANCE[dtype])


@pytest.mark.parametrize("dim_v", [1, 33, 64])
def test_one_head_on_several_threads(dim_v, rng):
    q, k = rng.normal(size=(2, 1, 1, 900, 64)) / 8
    v = rng.normal(size=(1, 1, 900, dim_v))
    made = linear_scan(q, k, v)
    o, state = whole(q, k, v, np.zeros(1))
    np.testing.assert_allclose(made.o, o, 1e-10, 1e-10)
    np.testing.assert_allclose(made.state, state, 1e-10, 1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (3, 5, 4), (2, 700, 4)])
def test_products_of_rows(dtype, shape, rng):
    x, w = rng.normal(size=shape).astype(dtype), rng.normal(size=(6, 4)).astype(dtype)
    want = x.astype(float) @ w.T.astype(float)
    for made in (linear(x, w), product(x, w.T)):
        assert made.shape == (*shape[:-1], 6)
        np.testing.assert_allclose(made, want, TOLERANCE[dtype], TOLERANCE[dtype])
