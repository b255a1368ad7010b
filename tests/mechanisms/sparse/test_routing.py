"""Routing attention: what is refused, what must work, and clusters by literal loops."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from attnlab.contract import BACKENDS, FILES, InputError
from attnlab.registry import find

ROUTING = find("routing")
PATHS = ["numpy", "numba", "torch"]


def path(backend: str, operation: str) -> Callable[..., Any]:
    """The path's function itself: what it refuses, it refuses before it needs a device."""
    return getattr(import_module(f"{ROUTING.package}.{FILES[backend]}"), operation)


def run(backend: str, operation: str = "attend", **kwargs: Any) -> dict[str, Any]:
    made = ROUTING.run(operation, backend=backend, want="all", **kwargs)._asdict()
    return {k: v.numpy() if hasattr(v, "numpy") else v for k, v in made.items()}


def with_nan(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flat[-1] = np.nan
    return x


REFUSED = [
    (lambda k: {"k": k["k"][..., :-1]}, "dim"),
    (lambda k: {"means": k["means"][..., :-1]}, "dim"),
    (lambda k: {"means": k["means"][:, :0]}, "clusters must be at least 1"),
    (lambda k: {"window": 0}, "window must be at least 1"),
    (lambda k: {"context_window": 0}, "context_window must be at least 1"),
    (lambda k: {"query_mask": np.ones((2, 8), bool)}, "query_mask"),
    (lambda k: {"key_mask": np.ones((1, 9), bool)}, "key_mask"),
    (lambda k: {"query_mask": np.ones((2, 9))}, "must be bool"),
    (lambda k: {"causal": True, "context_window": 3}, "causal needs self-attention"),
    (lambda k: {"causal": True, "k": k["k"][:, :, :5], "v": k["v"][:, :, :5]}, "self-attention"),
    (lambda k: {"shared_qk": True}, "k is not taken"),
    (lambda k: {"k": None}, "needs the array k"),
    (lambda k: {"mem_key": np.ones((2, 3, 1, 4))}, "come together"),
    *(
        (lambda k, a=a: {a: with_nan(k[a])}, f"{a} must be finite")
        for a in ("q", "k", "v", "means")
    ),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_refused(backend: str, change: Callable[..., Any], message: str) -> None:
    kwargs = ROUTING.headline.sample(9)
    with pytest.raises(InputError, match=message):
        path(backend, "attend")(**kwargs | change(kwargs))


@pytest.mark.parametrize("backend", BACKENDS)
def test_kmeans_refuses(backend: str) -> None:
    kwargs = ROUTING.operation("kmeans").sample(9)
    for change, message in (
        ({"iters": -1}, "iters must be at least 0"),
        ({"means0": kwargs["means0"][..., 1:]}, "dim"),
        ({"x": with_nan(kwargs["x"])}, "x must be finite"),
    ):
        with pytest.raises(InputError, match=message):
            path(backend, "kmeans")(**kwargs | change)


def test_rotary_refuses_an_odd_width() -> None:
    with pytest.raises(InputError, match="even width"):
        ROUTING.run("rotary", x=np.ones((1, 1, 2, 3)))


def by_loops(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, means: np.ndarray, w: int, w_k: int, seen: Any
) -> np.ndarray:
    """Equations (1) to (6) query by query; seen(b, i, j) says which pairs are not hidden."""
    out = np.zeros_like(q)
    for b, h in np.ndindex(*q.shape[:2]):
        lists = []
        for mean in means[h]:
            near = [
                sorted(range(len(x)), key=lambda r, x=x: -(x[r] @ mean) / np.linalg.norm(x[r]))
                for x in (q[b, h], k[b, h])
            ]
            lists.append((near[0][:w], near[1][:w_k]))
        for i in range(q.shape[2]):
            parts = []
            for Q, K in lists:
                if i not in Q:
                    continue
                K = [j for j in K if seen(b, i, j)] or K  # nothing visible: an even average
                hidden = not any(seen(b, i, j) for j in K)
                p = np.exp(
                    [0.0 if hidden else q[b, h, i] @ k[b, h, j] / q.shape[3] ** 0.5 for j in K]
                )
                parts.append(p / p.sum() @ v[b, h, K])
            if parts:
                out[b, h, i] = sum(parts) / (len(parts) + 1e-5)
    return out


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("context_window", [None, 1, 4, 100])
def test_cross_attention_by_loops(backend: str, context_window: int | None) -> None:
    """No vector has a context_window; masks are those given, none is assumed for the keys."""
    kwargs = ROUTING.headline.sample(11, seed=3, keys=17, window=4, clusters=3)
    real_q, real_k = np.arange(22).reshape(2, 11) % 4 != 0, np.arange(34).reshape(2, 17) % 3 != 0
    made = run(backend, **kwargs, context_window=context_window, query_mask=real_q, key_mask=real_k)
    expected = by_loops(
        *(kwargs[a] for a in ("q", "k", "v", "means")), 4, context_window or 4,
        lambda b, i, j: real_q[b, i] and real_k[b, j],
    )  # fmt: skip
    np.testing.assert_allclose(made["out"], expected, 1e-10, 1e-12)
    assert made["k_index"].shape[3] == min(context_window or 4, 17)


@pytest.mark.parametrize("backend", PATHS)
def test_one_cluster_is_full_attention(backend: str) -> None:
    kwargs = ROUTING.headline.sample(13, clusters=1, window=1000)
    S = np.einsum("bhid,bhjd->bhij", kwargs["q"], kwargs["k"]) / 2
    A = np.exp(S) / np.exp(S).sum(-1, keepdims=True)
    made = run(backend, **kwargs)
    np.testing.assert_allclose(made["out"], A @ kwargs["v"] / (1 + 1e-5), 1e-10)
    np.testing.assert_array_equal(made["q_index"][0, 0, 0], np.arange(13))


@pytest.mark.parametrize("backend", PATHS)
def test_long_clusters_span_tiles(backend: str) -> None:
    kwargs = ROUTING.headline.sample(600, batch=1, heads=1, clusters=2, window=400, slots=3)
    expected, made = (run(b, **kwargs | {"causal": True}) for b in ("numpy", backend))
    np.testing.assert_allclose(made["out"], expected["out"], 1e-9, 1e-11)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("slots", [0, 2])
def test_masked_queries_are_finite(backend: str, slots: int) -> None:
    """Wholly masked: an even average of the cluster's values, or the memory slots alone."""
    kwargs = ROUTING.headline.sample(9, clusters=1, window=9, slots=slots)
    made = run(backend, **kwargs, query_mask=np.zeros((2, 9), bool))["out"]
    if slots:
        S = np.einsum("bhid,hjd->bhij", kwargs["q"], kwargs["mem_key"][:, 0]) / 2
        A = np.exp(S) / np.exp(S).sum(-1, keepdims=True)
        expected = np.einsum("bhij,hjd->bhid", A, kwargs["mem_value"][:, 0])
    else:
        expected = np.broadcast_to(kwargs["v"].mean(2, keepdims=True), made.shape)
    np.testing.assert_allclose(made, expected / (1 + 1e-5), 1e-10)


@pytest.mark.parametrize("backend", PATHS)
def test_zero_rows(backend: str) -> None:
    """A zero row has similarity 0 and bucket 0; among equals the lower row is a member."""
    kwargs = ROUTING.headline.sample(40, clusters=3, window=5)
    kwargs["q"][:, :, 10:] = 0
    kwargs["q"][:, :, :10] = -np.abs(kwargs["means"].sum(1))[:, None]  # anywhere but ties
    made = run(backend, **kwargs, training=True)
    assert all(np.isfinite(v).all() for v in made.values())
    np.testing.assert_array_equal(made["similarity"][:, :, 10:40], 0)
    expected = run("numpy", **kwargs, training=True)
    np.testing.assert_array_equal(made["q_index"][0, 0, 0], expected["q_index"][0, 0, 0])
    kwargs["q"][:] = 0
    made = run(backend, **kwargs)
    np.testing.assert_array_equal(made["q_index"], np.broadcast_to(np.arange(5), (2, 2, 3, 5)))


@pytest.mark.parametrize("backend", PATHS)
def test_empty_clusters_keep_their_means(backend: str) -> None:
    kwargs = ROUTING.headline.sample(12, clusters=3, batch=1, heads=1)
    kwargs["q"], kwargs["k"] = np.abs(kwargs["q"]), np.abs(kwargs["k"])
    kwargs["means"] = np.array([[[0.5, 0.5, 0.5, 0.5], [-1, 0, 0, 0], [0, -1, 0, 0]]])
    made = run(backend, **kwargs, training=True, ema_decay=0.5)
    np.testing.assert_array_equal(made["batch_means"][0, 1:], kwargs["means"][0, 1:])
    rows = np.concatenate([kwargs["q"], kwargs["k"]], axis=2)[0, 0]
    total = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).sum(0)
    mean = total / np.linalg.norm(total)
    np.testing.assert_allclose(made["batch_means"][0, 0], mean, 1e-12)
    np.testing.assert_allclose(made["means_after"][0, 0], (mean + 0.5) / 2, 1e-12)


@pytest.mark.parametrize("backend", PATHS)
def test_single_token_and_short_sequences(backend: str) -> None:
    for n in (1, 2):
        kwargs = ROUTING.headline.sample(n, clusters=4, window=7)
        made = run(backend, **kwargs | {"causal": True})
        assert made["q_index"].shape == (2, 2, 4, n)
        np.testing.assert_allclose(
            made["out"][:, :, 0], kwargs["v"][:, :, 0] * 4 / (4 + 1e-5), 1e-9
        )
