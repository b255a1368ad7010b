"""What surrounds a mechanism in a layer: NumPy and torch agree, and each with its formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attnlab.layers.activations import sigmoid, silu
from attnlab.layers.glu import simple_glu
from attnlab.layers.heads import merge_heads, split_heads
from attnlab.layers.lrpe import frequencies, lrpe
from attnlab.layers.norms import layer_norm, rms_norm


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 5, 12))


def both(function: Any, *arrays: Any, **options: Any) -> np.ndarray:
    """The NumPy result, after the torch result was found equal."""
    made = function(*arrays, **options)
    tensors = [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in arrays]
    rtol = 1e-6 if made.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(function(*tensors, **options).numpy(), made, rtol, 1e-14)
    return made


def test_norms(x: np.ndarray) -> None:
    weight, bias = 1 + x[0, 0], x[0, 1]
    normed = both(rms_norm, x, eps=0.0)
    np.testing.assert_allclose((normed**2).mean(-1), 1)
    np.testing.assert_allclose(both(rms_norm, x, 1e-6, weight), rms_norm(x) * weight)
    made = both(layer_norm, x, weight, bias)
    want = torch.nn.functional.layer_norm(
        torch.from_numpy(x), (12,), torch.from_numpy(weight), torch.from_numpy(bias)
    )
    np.testing.assert_allclose(made, want, 1e-12, 1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations_at_the_edges(dtype: str) -> None:
    z = np.array([-np.inf, -1e4, -1, 0, 1, 1e4, np.inf], dtype)
    half = 1 / (1 + np.exp(np.array(1, dtype)))
    np.testing.assert_allclose(both(sigmoid, z), [0, 0, half, 0.5, 1 - half, 1, 1], 1e-6)
    assert both(sigmoid, z).dtype == dtype
    np.testing.assert_allclose(both(silu, z[1:-1]), [0, -half, 0, 1 - half, 1e4], 1e-6)


def test_gate_and_heads(x: np.ndarray) -> None:
    w1, w2 = x[0, :4], x[1, :4]
    want = np.einsum("bni,ei->bne", (x @ w1.T) * (x @ w2.T), w1.T)
    np.testing.assert_allclose(both(simple_glu, x, w1, w2, w1.T.copy()), want)
    heads = both(split_heads, x, 3)
    assert heads.shape == (2, 3, 5, 4)
    np.testing.assert_array_equal(heads[:, 1], x[..., 4:8])
    np.testing.assert_array_equal(both(merge_heads, heads), x)


def test_lrpe_depends_on_the_distance(x: np.ndarray) -> None:
    rows, theta = split_heads(x, 3), frequencies(3, 4)
    near, far = both(lrpe, rows, theta), both(lrpe, rows, theta, offset=40)
    np.testing.assert_allclose(near @ near.swapaxes(2, 3), far @ far.swapaxes(2, 3))
    dot = (rows[0, 1, 3] * rows[0, 1, 0] * np.cos(3 * theta[1])).sum()
    np.testing.assert_allclose(near[0, 1, 3] @ near[0, 1, 0], dot)
    assert theta[0, 0] == 1
    np.testing.assert_allclose(theta[2, 3], 10000 ** (-22 / 12))
