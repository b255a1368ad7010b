"""LSTM, additive scores and plane geometry against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from attnlab.kernels.cpu import plane
from attnlab.kernels.cpu.additive import pointer
from attnlab.kernels.cpu.recurrent import lstm

TOLERANCE = {"float32": 2e-5, "float64": 1e-12}


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("batch", "steps", "inputs", "hidden"), [(1, 1, 1, 1), (3, 5, 2, 7), (9, 40, 3, 64)]
)
def test_lstm(dtype: str, batch: int, steps: int, inputs: int, hidden: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, steps, inputs)).astype(dtype)
    h, c = rng.standard_normal((2, batch, hidden)).astype(dtype)
    w_x, w_h = (rng.standard_normal((4 * hidden, m)).astype(dtype) / m for m in (inputs, hidden))
    bias = rng.standard_normal(4 * hidden).astype(dtype)
    lengths = rng.integers(1, steps + 1, batch)
    before = h.copy()
    out, h_last, c_last = lstm(x, lengths, h, c, w_x, w_h, bias)
    np.testing.assert_array_equal(h, before)
    for b in range(batch):
        h_b, c_b = h[b].astype(float), c[b].astype(float)
        for t in range(steps):
            if t >= lengths[b]:
                assert (out[b, t] == 0).all()
                continue
            i, f, g, o = np.split(w_x @ x[b, t] + w_h @ h_b + bias, 4)
            c_b = sigmoid(f) * c_b + sigmoid(i) * np.tanh(g)
            h_b = sigmoid(o) * np.tanh(c_b)
            np.testing.assert_allclose(out[b, t], h_b, 0, TOLERANCE[dtype])
        np.testing.assert_allclose(h_last[b], h_b, 0, TOLERANCE[dtype])
        np.testing.assert_allclose(c_last[b], c_b, 0, 4 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("batch", "slots", "steps", "hidden"), [(1, 1, 1, 1), (3, 7, 4, 5), (2, 90, 70, 33)]
)
def test_pointer(dtype: str, batch: int, slots: int, steps: int, hidden: int) -> None:
    rng = np.random.default_rng(1)
    K = rng.standard_normal((batch, slots, hidden)).astype(dtype)
    Q = rng.standard_normal((batch, steps, hidden)).astype(dtype)
    v = rng.standard_normal(hidden).astype(dtype)
    real_slots, real_steps = (rng.integers(1, m + 1, batch) for m in (slots, steps))
    target = rng.integers(0, real_slots[:, None], (batch, steps))
    u = np.tanh(K[:, None] + Q[:, :, None]) @ v
    u = np.where(np.arange(slots) < real_slots[:, None, None], u, -np.inf)
    p = np.exp(u) / np.exp(u).sum(-1, keepdims=True)
    cost = -np.log(np.take_along_axis(p, target[..., None], 2))[..., 0]
    real = np.arange(steps) < real_steps[:, None]
    scores, made, nll = pointer(K, Q, v, real_slots, real_steps, target, scored=True)
    shown = real[..., None] & np.isfinite(u)
    loose = 10 * TOLERANCE[dtype]
    np.testing.assert_allclose(scores, np.where(shown, u, 0), loose, loose)
    np.testing.assert_allclose(made, np.where(shown, p, 0), loose, loose)
    np.testing.assert_allclose(nll, np.where(real, cost, 0), loose, loose)
    assert pointer(K, Q, v, real_slots, real_steps)[0] is None


def test_plane_on_a_square_with_a_point_on_its_edge() -> None:
    points = np.array([[2.0, 2], [0, 0], [1, 0], [2, 0], [0, 2], [0, 0]])
    corners, way = np.zeros(12, np.int64), np.zeros(6, np.int64)
    assert plane.hull(points, corners) == 4
    assert corners[:4].tolist() == [0, 4, 1, 3]
    assert plane.area(points, corners[:4]) == 4
    assert plane.is_simple(points, corners[:4])
    assert not plane.is_simple(points, np.array([1, 3, 2, 0]))  # folds back along the edge
    assert plane.tour(points, way) == pytest.approx(8)
    assert sorted(way.tolist()) == list(range(6))
    assert way[1] < way[5]
