"""Dense attention in tiles against the whole softmax in NumPy, float64."""

import numpy as np
import pytest

from attnlab.kernels.cpu.flash import flash_attention

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}


def whole(q, k, v, *, scale=None, causal=False, left=None, mask=None, bias=None):
    """Every score at once, float64."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = q @ np.swapaxes(k, 2, 3) * (q.shape[3] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    n_q, n_k = scores.shape[2:]
    position = np.arange(n_q)[:, None] + n_k - n_q
    key = np.arange(n_k)[None, :]
    visible = np.ones((n_q, n_k), bool)
    if causal:
        visible &= key <= position
    if left is not None:
        visible &= key >= position - left
    scores = np.where(visible & (True if mask is None else mask), scores, -np.inf)
    largest = scores.max(axis=-1, keepdims=True, initial=-1e300)
    weights = np.exp(scores - largest)
    total = weights.sum(axis=-1, keepdims=True)
    out = weights / np.where(total == 0, 1, total) @ v
    with np.errstate(divide="ignore"):
        return out, np.log(total[..., 0]) + largest[..., 0]


def check(arrays, dtype, **options):
    arrays = [x.astype(dtype) for x in arrays]
    for x in arrays:
        x.setflags(write=False)  # inputs are never written to
    got = flash_attention(*arrays, **options)
    out, lse = whole(*arrays, **options)
    assert got.out.dtype == dtype
    np.testing.assert_allclose(got.out, out, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    np.testing.assert_allclose(got.lse, lse, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "n_k", "kv_heads", "dim_v"),
    [
        ((1, 1, 1, 1), 1, 1, 1),
        ((2, 2, 63, 60), 63, 2, 60),
        ((1, 4, 500, 64), 500, 2, 32),  # grouped queries, narrow values
        ((1, 6, 3, 60), 300, 2, 70),  # a few queries at the end of a long cache
        ((1, 2, 300, 16), 120, 1, 16),  # more queries than keys: the first see nothing if causal
        ((1, 1, 70, 200), 400, 1, 200),  # deep: smaller tiles
    ],
    ids=str,
)
def test_shapes(shape, n_k, kv_heads, dim_v, dtype, rng):
    batch, _, _, dim = shape
    q = rng.normal(size=shape)
    k = rng.normal(size=(batch, kv_heads, n_k, dim))
    v = rng.normal(size=(batch, kv_heads, n_k, dim_v))
    check((q, k, v), dtype)
    check((q, k, v), dtype, causal=True, scale=0.3)
    check((q, k, v), dtype, causal=True, left=17)
    check((q, k, v), dtype, left=300)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_masks_and_biases_broadcast(dtype, rng):
    b, h, n_q, n_k = 2, 3, 130, 530
    arrays = [rng.normal(size=(b, h, n, 20)) for n in (n_q, n_k, n_k)]
    for shape in [(b, h, n_q, n_k), (1, 1, n_q, n_k), (b, 1, 1, n_k), (1, h, n_q, n_k)]:
        mask = rng.random(shape) < 0.2
        mask[..., 256:512] = False  # a tile of keys that nobody sees
        mask[0, 0, 0] = False
        bias = rng.normal(size=shape).astype(dtype)
        bias[..., 3] = -np.inf
        check(arrays, dtype, mask=mask)
        check(arrays, dtype, bias=bias, causal=True)
        check(arrays, dtype, mask=mask, bias=bias, left=200)


def test_large_scores_neither_overflow_nor_lose_the_winner(rng):
    q, k, v = (100 * rng.normal(size=(1, 2, 300, 64)) for _ in range(3))
    arrays = [x.astype(np.float32) for x in (q, k, v)]
    got = flash_attention(*arrays)
    out, _ = whole(*arrays)
    np.testing.assert_allclose(got.out, out, rtol=2e-2, atol=2.0)
    assert np.isfinite(got.out).all()


def test_nan_reaches_the_output_of_its_own_query_only(rng):
    q, k, v = (rng.normal(size=(1, 1, 200, 64)).astype(np.float32) for _ in range(3))
    q[0, 0, 77, 5] = np.nan
    out = flash_attention(q, k, v).out
    assert np.isnan(out[0, 0, 77]).all()
    assert np.isfinite(np.delete(out, 77, axis=2)).all()


def test_results_do_not_depend_on_the_threads(rng):
    from attnlab.kernels.cpu import runtime

    arrays = [rng.normal(size=(1, 4, 700, 64)).astype(np.float32) for _ in range(3)]
    before = runtime.threads()
    many = flash_attention(*arrays, causal=True)
    runtime.set_threads(1)
    try:
        one = flash_attention(*arrays, causal=True)
    finally:
        runtime.set_threads(before)
    np.testing.assert_array_equal(many.out, one.out)
