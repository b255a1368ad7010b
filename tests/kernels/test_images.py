"""Kernels for images: convolution, pooling, distance transform and nearest patches against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from attnlab.kernels.cpu.convolution import conv2d, max_pool, max_unpool, transposed2d
from attnlab.kernels.cpu.distance import distance
from attnlab.kernels.cpu.nearest import mean_distances, patches, select

RNG = np.random.default_rng(0)
TOLERANCE = {"float32": 2e-5, "float64": 1e-11}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("k", "stride", "padding"), [(1, 1, 0), (3, 1, 1), (5, 2, 2), (3, 3, 0), (2, 2, 1), (4, 3, 3)]
)
@pytest.mark.parametrize("sides", [(1, 1), (7, 5), (12, 40), (3, 700)])
def test_convolution_and_transpose(
    dtype: str, k: int, stride: int, padding: int, sides: tuple[int, int]
) -> None:
    if min(sides) + 2 * padding < k:
        pytest.skip("the kernel does not fit")
    x = RNG.standard_normal((2, 3, *sides)).astype(dtype)
    W, b = RNG.standard_normal((4, 3, k, k)).astype(dtype), RNG.standard_normal(4).astype(dtype)
    leaf = torch.tensor(x, requires_grad=True)
    expected = torch.conv2d(leaf, torch.tensor(W), torch.tensor(b), stride, padding)
    made = conv2d(x, W, b, stride, padding)
    bound = TOLERANCE[dtype]
    np.testing.assert_allclose(made, expected.detach().numpy(), bound, 10 * bound)
    s = RNG.standard_normal(made.shape).astype(dtype)
    (back,) = torch.autograd.grad(expected, leaf, torch.tensor(s))
    np.testing.assert_allclose(
        transposed2d(s, W, stride, padding, *sides), back.numpy(), bound, 10 * bound
    )


@pytest.mark.parametrize(("k", "stride"), [(2, 2), (3, 2), (3, 1)])
def test_pool_takes_the_first_maximum_and_unpool_the_last_window(k: int, stride: int) -> None:
    x = RNG.integers(0, 3, (2, 3, 9, 9)).astype(float)  # many ties
    made, at = max_pool(x, k, stride)
    expected, places = torch.nn.functional.max_pool2d(
        torch.tensor(x), k, stride, return_indices=True
    )
    np.testing.assert_array_equal(made, expected)
    np.testing.assert_array_equal(at, places)
    s = RNG.standard_normal(made.shape)
    written, added = (max_unpool(s, at, x.shape, add).reshape(6, -1) for add in (False, True))
    for plane in range(6):
        w, a = np.zeros(81), np.zeros(81)
        for value, place in zip(s.reshape(6, -1)[plane], at.reshape(6, -1)[plane]):
            w[place] = value
            a[place] += value
        np.testing.assert_array_equal(written[plane], w)
        np.testing.assert_allclose(added[plane], a, 1e-12, 1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (13, 17), (40, 6)])
@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_distance(shape: tuple[int, int], share: float) -> None:
    marked = RNG.random(shape) < share
    marked.flat[RNG.integers(marked.size)] = True
    np.testing.assert_allclose(distance(marked), distance_transform_edt(~marked), 1e-14)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("K", [1, 7, 10_000])
def test_nearest_patches(dtype: str, squared: bool, K: int) -> None:
    image = RNG.random((24, 33, 2)).astype(dtype)  # 22 x 31 patches: more than a tile of queries
    P, Q = patches(image, 3, 1), patches(image, 3, 2)
    assert P.shape == (22 * 31, 18)
    np.testing.assert_array_equal(P[32], image[1:4, 1:4].ravel())
    np.testing.assert_array_equal(Q[17], image[2:5, 2:5].ravel())
    y, x = (
        t.ravel() for t in np.meshgrid(np.arange(0, 22, 2.0), np.arange(0, 31, 2.0), indexing="ij")
    )
    own = np.full(len(P), -1)
    own[::3] = RNG.integers(0, len(Q), len(own[::3]))
    made = mean_distances(image, 3, Q, (y, x), own, K, 0.1, squared)
    d = np.sqrt(((P[:, None].astype(float) - Q) ** 2).mean(-1))
    qy, qx = np.divmod(np.arange(len(P)), 31)
    away = np.hypot(qy[:, None] - y, qx[:, None] - x)
    d = (d**2 if squared else d) / (1 + 0.1 * away)
    d[np.flatnonzero(own >= 0), own[own >= 0]] = np.nan
    expected = np.nanmean(np.sort(d, axis=1)[:, :K], axis=1)  # NaN sorts to the end
    bound = TOLERANCE[dtype]
    np.testing.assert_allclose(made, expected, bound, bound)


@pytest.mark.parametrize("kind", ["random", "ties", "sorted", "reversed"])
def test_select_brings_the_smallest_to_the_front(kind: str) -> None:
    for size in (1, 2, 3, 17, 128):
        keys = {
            "random": RNG.random(size),
            "ties": RNG.integers(0, 3, size).astype(float),
            "sorted": np.arange(size, dtype=float),
            "reversed": np.arange(size, dtype=float)[::-1].copy(),
        }[kind]
        for K in {1, (size + 1) // 2, size}:
            moved, indices = keys.copy(), np.arange(size)
            assert select(moved, indices, size, K) == np.sort(keys)[K - 1]
            np.testing.assert_array_equal(np.sort(moved[:K]), np.sort(keys)[:K])
            np.testing.assert_array_equal(keys[indices], moved)
