"""One row of a product of attention matrices, and flows, against NumPy and SciPy."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_flow

from attnlab.kernels.cpu.attention_graph import attention_flow, rollout_row, strongest_key


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("layers", "heads", "n"), [(1, 1, 1), (3, 2, 63), (2, 1, 130)])
def test_rollout_and_average(layers, heads, n, dtype, rng):
    attention = rng.random((2, layers, heads, n, n)).astype(dtype)
    attention /= attention.sum(-1, keepdims=True)
    attention[0, :, :, n // 2] = 0  # a padded query
    A = attention.astype(float).mean(2) + np.eye(n)
    A /= A.sum(-1, keepdims=True)
    product = A[:, 0]
    for layer in range(1, layers):
        product = A[:, layer] @ product
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(rollout_row(attention), product[:, 0], rtol=tolerance)
    average = attention.mean((1, 2)).max(-1)
    np.testing.assert_allclose(strongest_key(attention), average, rtol=tolerance)


@pytest.mark.parametrize(("layers", "n"), [(1, 4), (2, 7), (4, 6), (3, 20)])
def test_flow_equals_scipy(layers, n, rng):
    """Capacities are whole numbers, as SciPy's solver wants them; half of the edges are missing."""
    capacity = rng.integers(0, 50, (2, layers, n, n)) * (rng.random((2, layers, n, n)) < 0.5)
    flow = attention_flow(capacity.astype(float))
    for b in range(2):
        graph = np.zeros(((layers + 1) * n, (layers + 1) * n), np.int32)
        for layer in range(layers):
            above, below = (layer + 1) * n, layer * n
            graph[above : above + n, below : below + n] = capacity[b, layer]
        want = [maximum_flow(csr_matrix(graph), layers * n, t).flow_value for t in range(n)]
        np.testing.assert_array_equal(flow[b], want)
