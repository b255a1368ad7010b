"""Relative attention in tiles against every offset spelled out in NumPy, float64."""

import numpy as np
import pytest

from attnlab.kernels.cpu.relative import relative_attention

TOLERANCE = {np.float32: 2e-5, np.float64: 1e-12}


def whole(q, k, v, keys, values, *, first_offset, scale=None, causal=False, lengths=None):
    """y_i = sum_j A_ij (v_j + values[j - p]), element by element of the tables."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    batch, heads, n_q, dim = q.shape
    n_k = k.shape[2]
    offset = np.arange(n_k)[None, :] - (np.arange(n_q)[:, None] + n_k - n_q)
    row = offset - first_offset
    inside = (row >= 0) & (row < keys.shape[1])
    row = np.clip(row, 0, keys.shape[1] - 1)

    def spread(table):  # (heads, n_q, n_k, ·)
        table = np.broadcast_to(table, (heads, *table.shape[1:])).astype(np.float64)
        return np.where(inside[None, :, :, None], table[:, row], 0)

    relative = np.einsum("bhid,hijd->bhij", q, spread(keys))
    scores = (q @ k.swapaxes(2, 3) + relative) * (dim**-0.5 if scale is None else scale)
    visible = np.ones((batch, 1, n_q, n_k), bool)
    if causal:
        visible &= offset <= 0
    if lengths is not None:
        visible &= np.arange(n_k) < lengths[:, None, None, None]
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True, initial=-1e300))
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-300)
    out = weights @ v
    if values is not None:
        out += np.einsum("bhij,hije->bhie", weights, spread(values))
    return out


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("n_q", "n_k", "dim", "offsets", "tables"),
    [(1, 1, 4, 1, 1), (63, 63, 60, 100, 2), (270, 270, 8, 40, 1), (5, 290, 16, 290, 2)],
)
def test_relative_attention(n_q, n_k, dim, offsets, tables, dtype, rng):
    q, k, v = (rng.normal(size=(2, 2, n, dim)).astype(dtype) for n in (n_q, n_k, n_k))
    v = np.concatenate([v, v[..., :1]], axis=-1)
    keys = rng.normal(size=(tables, offsets, dim)).astype(dtype)
    values = rng.normal(size=(tables, offsets, dim + 1)).astype(dtype)
    lengths = np.array([n_k, n_k // 2])
    for options in (
        {"first_offset": 1 - offsets, "causal": True},
        {"first_offset": -(offsets // 2), "lengths": lengths},
        {"first_offset": 3, "scale": 0.2},
    ):
        for table in (None, values):
            got = relative_attention(q, k, v, keys, table, **options)
            want = whole(q, k, v, keys, table, **options)
            np.testing.assert_allclose(
                got.out, want, rtol=TOLERANCE[dtype], atol=10 * TOLERANCE[dtype]
            )


def test_more_queries_than_keys_are_refused(rng):
    q, k = rng.normal(size=(1, 1, 3, 4)), rng.normal(size=(1, 1, 2, 4))
    with pytest.raises(ValueError, match="n_q"):
        relative_attention(q, k, k, q[0], first_offset=0)
