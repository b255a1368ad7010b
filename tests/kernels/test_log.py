"""The vectorised base-2 logarithm and the entropy built on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attnlab.kernels.cpu.log import entropy_bits, log2
from attnlab.kernels.cpu.runtime import worker


@worker
def logs(x, y):
    for i in range(x.size):
        y[i] = log2(x[i])


@pytest.mark.parametrize(("dtype", "accuracy"), [(np.float32, 2.5e-7), (np.float64, 5e-16)])
def test_log2(dtype: Any, accuracy: float) -> None:
    rng = np.random.default_rng(0)
    x = np.exp(rng.uniform(-80, 80, 20000)).astype(dtype)
    x[:4000] = 1 + rng.uniform(-0.5, 1, 4000)
    x[:5] = [1, 2, 0.5, np.sqrt(0.5), np.sqrt(2)]
    made = np.empty_like(x)
    logs(x, made)
    exact = np.log2(x.astype(np.longdouble))
    assert (abs(made - exact) <= accuracy * np.maximum(abs(exact), 1)).all()
    np.testing.assert_array_equal(made[:3], [0, 1, -1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_entropy_of_uniform_one_hot_and_nothing(dtype: Any) -> None:
    for n in (1, 2, 16, 37):
        uniform = np.full(n, 1 / n, dtype)
        np.testing.assert_allclose(entropy_bits(uniform), np.log2(n), rtol=1e-6, atol=1e-6)
    one = np.zeros(9, dtype)
    one[4] = 1
    assert entropy_bits(one) == 0
    assert entropy_bits(np.zeros(9, dtype)) == 0
