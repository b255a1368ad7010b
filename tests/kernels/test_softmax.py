"""exp and the softmax blocks against NumPy in float64."""

import numpy as np
import pytest

from attnlab.kernels.cpu import blas, exp, scratch, softmax
from attnlab.kernels.cpu.runtime import block, single_threaded_blas

DTYPES = [np.float32, np.float64]
TOLERANCE = {np.float32: 4e-6, np.float64: 1e-13}


@pytest.mark.parametrize(
    ("dtype", "relative", "low", "high"), [("f4", 3e-7, -87.3, 88.3), ("f8", 7e-16, -708, 709)]
)
def test_exp_is_accurate_over_its_range(dtype, relative, low, high):
    x = np.linspace(low, high, 200_001).astype(dtype)
    got = x.reshape(3, -1).copy()
    exp.exp_rows(got)
    want = np.exp(x.astype(np.longdouble)).reshape(3, -1)
    assert np.max(np.abs(got / want - 1)) < relative


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_at_the_edges(dtype):
    x = np.array([[-np.inf, -1e4, np.inf, 1e4, np.nan, 0, -0.0]], dtype)
    exp.exp_rows(x)
    np.testing.assert_array_equal(x, [[0, 0, np.inf, np.inf, np.nan, 1, 1]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "formula"),
    [
        (exp.sigmoid_rows, lambda x: 1 / (1 + np.exp(-x))),
        (exp.silu_rows, lambda x: x / (1 + np.exp(-x))),
        (exp.tanh_rows, np.tanh),
    ],
    ids=["sigmoid", "silu", "tanh"],
)
def test_row_functions(dtype, rows, formula):
    x = np.linspace(-80, 80, 5 * 333).reshape(5, 333).astype(dtype)
    want = formula(x.astype(np.float64))
    rows(x)
    np.testing.assert_allclose(x, want, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] / 10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (5, 60, 63), (3, 0, 4)])
def test_products_on_strided_tiles(dtype, m, k, n, rng):
    a, b, c = (rng.normal(size=(70, 80)).astype(dtype) for _ in range(3))
    before = c.copy()
    with single_threaded_blas():
        blas.gemm_nn(
            blas.scalars(2, 1, c.dtype), a[:m, 2 : 2 + k], b[:k, 3 : 3 + n], c[:m, 1 : 1 + n]
        )
    want = before.astype(np.float64)
    want[:m, 1 : 1 + n] += 2 * a[:m, 2 : 2 + k].astype(float) @ b[:k, 3 : 3 + n].astype(float)
    np.testing.assert_allclose(c, want, rtol=1e-4, atol=20 * TOLERANCE[dtype])
    with single_threaded_blas():
        blas.gemm_nt(blas.scalars(1, 0, c.dtype), a[:m, 2 : 2 + k], b[:n, 3 : 3 + k], c[:m, :n])
    np.testing.assert_allclose(
        c[:m, :n], a[:m, 2 : 2 + k] @ b[:n, 3 : 3 + k].T, rtol=1e-4, atol=20 * TOLERANCE[dtype]
    )


def dense(scores, v):
    """The whole softmax at once, float64: output and log-sum-exp."""
    scores, v = scores.astype(float), v.astype(float)
    with np.errstate(divide="ignore"):
        lse = np.logaddexp.reduce(scores, axis=1, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isfinite(lse), lse, 0)[:, None])
    return weights @ v, lse


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "keys", "tile"), [(1, 1, 4), (7, 63, 16), (9, 500, 128)])
def test_online_softmax_equals_the_whole(dtype, rows, keys, tile, rng):
    scores = (4 * rng.normal(size=(rows, keys))).astype(dtype)
    scores[rng.random(scores.shape) < 0.3] = -np.inf
    scores[0, : keys // 2] = -np.inf  # whole leading tiles are masked
    scores[-1] = -np.inf if rows > 1 else scores[-1]
    v = rng.normal(size=(keys, 60)).astype(dtype)
    want, want_lse = dense(scores, v)

    m, l, acc, lse = (scratch.empty(shape, dtype) for shape in (rows, rows, (rows, 60), rows))
    softmax.start(m, l, acc)
    one = blas.scalars(1, 1, acc.dtype)
    with single_threaded_blas():
        for j in range(0, keys, tile):
            softmax.update(scores[:, j : j + tile].copy(), m, l, acc, v[j : j + tile], one)
    softmax.finish(m, l, acc, lse)
    np.testing.assert_allclose(acc, want, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    np.testing.assert_allclose(lse, want_lse, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_scores_are_not_hidden(dtype):
    scores = np.zeros((2, 40), dtype)
    scores[1, 17] = np.nan
    softmax.softmax_rows(scores)
    assert np.isfinite(scores[0]).all()
    assert np.isnan(scores[1]).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_rows(dtype, rng):
    scores = (50 * rng.normal(size=(6, 63))).astype(dtype)
    scores[2, 5:] = -np.inf
    scores[3] = -np.inf
    want, _ = dense(scores, np.eye(63))
    softmax.softmax_rows(scores)
    np.testing.assert_allclose(scores, want, rtol=20 * TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_segment_softmax_with_empty_and_masked_groups(dtype, rng):
    scores = rng.normal(size=(63, 3)).astype(dtype)
    group = rng.choice([0, 1, 3, 4], 63)  # group 2 is empty
    scores[group == 3] = -np.inf
    want = scores.astype(float)
    lse = np.full((5, 3), -np.inf)
    for g in (0, 1, 4):
        lse[g] = np.logaddexp.reduce(want[group == g], axis=0)
        want[group == g] = np.exp(want[group == g] - lse[g])
    want[group == 3] = 0
    got_lse = softmax.segment_softmax(scores, group, 5)
    np.testing.assert_allclose(scores, want, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    np.testing.assert_allclose(got_lse, lse, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_the_cache_folder_is_ours_alone():
    import numba

    from attnlab.kernels.cpu.runtime import cache_dir

    before = numba.config.CACHE_DIR

    @block
    def identity(x):
        return x

    assert before == numba.config.CACHE_DIR
    assert str(cache_dir()) in identity.stats.cache_path


def test_poison_reaches_scratch_memory(tmp_path):
    import os
    import subprocess
    import sys

    code = (
        "import numpy as np; from attnlab.kernels.cpu import scratch;"
        "assert np.isnan(scratch.tile((3, 4), np.dtype('f4'))).all();"
        "assert np.isnan(scratch.empty(5, np.float64)).all();"
        "assert (scratch.empty(5, np.int64) == scratch.SENTINEL).all()"
    )
    environment = os.environ | {"ATTNLAB_POISON": "1", "ATTNLAB_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
