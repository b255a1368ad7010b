"""Kendall's tau-b against SciPy and against counting pairs in Python."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from attnlab.kernels.cpu.kendall import SHORT, kendall_tau


def counted(a, b):
    """(C - D) / sqrt((C + D + T_a) (C + D + T_b)), pair by pair."""
    concordant = discordant = only_a = only_b = 0
    for i, j in itertools.combinations(range(len(a)), 2):
        x, y = np.sign(a[i] - a[j]), np.sign(b[i] - b[j])
        concordant += x * y > 0
        discordant += x * y < 0
        only_a += x == 0 and y != 0
        only_b += y == 0 and x != 0
    strict = concordant + discordant
    under = (strict + only_a) * (strict + only_b)
    return (concordant - discordant) / math.sqrt(under) if under else math.nan


@pytest.mark.parametrize("short", [0, 10**6])
@pytest.mark.parametrize("values", [2, 5, 10**6])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 17])
def test_counts_of_pairs(n, values, short, rng):
    a, b = rng.integers(-values, values, (2, 12, n)).astype(float)
    want = [counted(x, y) for x, y in zip(a, b)]
    np.testing.assert_allclose(kendall_tau(a, b, short=short), want, rtol=0, atol=1e-15)


@pytest.mark.parametrize("short", [0, 10**6])
@pytest.mark.parametrize("n", [2, 63, 64, 65, 511, 1025])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_scipy(n, dtype, short, rng):
    a, b = rng.standard_normal((2, 4, n)).astype(dtype)
    b[1] = np.round(b[1])  # ties in one
    a[2], b[2] = np.round(a[2]), np.round(a[2] + b[2])  # in both, and related
    want = [kendalltau(x, y).statistic for x, y in zip(a, b)]
    np.testing.assert_allclose(kendall_tau(a, b, short=short), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("short", [0, SHORT])
def test_extremes(short, rng):
    x = rng.standard_normal(300)
    x[:9] = x[9]
    a = np.stack([x, x, x, np.ones(300), x])
    b = np.stack([x, -x, np.zeros(300), x, x])
    b[4, 5] = np.nan
    a[0, 0] = b[0, 0] = np.inf
    tau = kendall_tau(a, b, short=short)
    assert tau[0] == 1  # exactly
    assert tau[1] == -1
    assert np.isnan(tau[2:]).all()  # constant in b, in a, a NaN


def test_many_rows_over_threads(rng):
    a, b = rng.integers(0, 9, (2, 3000, 40)).astype(float)
    together = kendall_tau(a, b)
    alone = [kendall_tau(a[i : i + 1], b[i : i + 1])[0] for i in range(0, 3000, 250)]
    np.testing.assert_array_equal(together[::250], alone)
    assert kendall_tau(a[:0], b[:0]).shape == (0,)
    np.testing.assert_array_equal(kendall_tau(a[::2, ::-1], b[::2, ::-1]), together[::2])


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((3,), (3,)), ((2, 1), (2, 1))])
def test_refused(shapes):
    with pytest.raises(ValueError, match=r"shape|at least 2"):
        kendall_tau(np.ones(shapes[0]), np.ones(shapes[1]))
