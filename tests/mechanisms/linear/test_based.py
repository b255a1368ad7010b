"""BASED: what is refused, what must work, and sums by literal loops."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from attnlab.contract import FILES, InputError
from attnlab.registry import find

BASED = find("based")
PATHS = ["numpy", "numba", "torch"]
TAYLOR, WINDOW = "taylor_linear_attention", "sliding_window_attention"


def run(backend: str, operation: str, **kwargs: Any) -> Any:
    made = BASED.run(operation, backend=backend, **kwargs)
    return made._replace(**{k: v.numpy() for k, v in made._asdict().items() if hasattr(v, "numpy")})


def unchecked(backend: str, operation: str) -> Callable[..., Any]:
    """The path's function itself: what it refuses, it refuses before it needs a device."""
    return getattr(import_module(f"{BASED.package}.{FILES[backend]}"), operation)


def phi(x: np.ndarray) -> np.ndarray:
    """Equation (1), entry by entry."""
    d = len(x)
    pairs = [x[i] * x[j] / (np.sqrt(2) * np.sqrt(d)) for i in range(d) for j in range(d)]
    return np.array([1, *(x / d**0.25), *pairs])


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("eps", [0.0, 1e-12, 0.5])
@pytest.mark.parametrize(("d", "e"), [(1, 4), (3, 2), (5, 1)])
def test_taylor_by_recurrence(backend: str, eps: float, d: int, e: int) -> None:
    """Equation (4) over features made entry by entry; e.g. eps = 0.5, which no vector has."""
    sample = BASED.operation(TAYLOR).sample(9, feature_dim=d, head_dim=e, steps=2, seed=5)
    made = run(backend, TAYLOR, **sample, eps=eps)
    rows = np.concatenate([sample["x"], sample["x_next"]], 1)
    for b in range(2):
        merged = np.zeros((11, 2 * e))
        for h in range(2):
            KV, z = 0.0, 0.0
            for t in range(11):
                q, k = (sample[w][h * d : (h + 1) * d] @ rows[b, t] for w in ("w_q", "w_k"))
                v = sample["w_v"][h * e : (h + 1) * e] @ rows[b, t]
                KV, z = KV + np.outer(v, phi(k)), z + phi(k)
                merged[t, h * e : (h + 1) * e] = KV @ phi(q) / (z @ phi(q) + eps)
                if t == 8:
                    np.testing.assert_allclose(made.kv_state[b, h], KV, 1e-10, 1e-12)
                    np.testing.assert_allclose(made.k_state[b, h], z, 1e-10, 1e-12)
        y = merged @ sample["w_o"].T
        np.testing.assert_allclose(made.y[b], y[:9], 1e-10, 1e-12)
        np.testing.assert_allclose(made.y_next[b], y[9:], 1e-10, 1e-12)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize(("heads", "d", "e", "n"), [(1, 4, 40, 700), (3, 16, 5, 333)])
def test_taylor_over_many_chunks(backend: str, heads: int, d: int, e: int, n: int) -> None:
    """Ragged last chunks, slices of columns on several threads, the feature dimension of the paper."""
    sizes = {"batch": 1, "num_heads": heads, "feature_dim": d, "head_dim": e}
    sample = BASED.operation(TAYLOR).sample(n, seed=2, **sizes)
    made, want = run(backend, TAYLOR, **sample), run("numpy", TAYLOR, **sample)
    for name in ("y", "kv_state", "k_state"):
        np.testing.assert_allclose(getattr(made, name), getattr(want, name), 1e-9, 1e-10)


@pytest.mark.parametrize("backend", PATHS)
def test_one_token_returns_its_value(backend: str) -> None:
    sample = BASED.operation(TAYLOR).sample(1)
    made = run(backend, TAYLOR, **sample)
    v = sample["x"] @ sample["w_v"].T
    np.testing.assert_allclose(made.y, v @ sample["w_o"].T, 1e-11)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize(
    "options",
    [
        {"left": 0},
        {"left": 1},
        {"left": 5, "scale": 0.1},
        {"left": 70, "rope": True, "rope_base": 100.0},
        {"left": 10**6, "rope": True},
        {"left": 199, "scale": -1.0},
    ],
    ids=str,
)
def test_window_by_loops(backend: str, options: dict[str, Any]) -> None:
    n, dim = 200, 4
    sample = BASED.operation(WINDOW).sample(n, batch=1, heads=1, dim=dim, seed=7) | options
    q, k, v = (sample[name][0, 0].copy() for name in "qkv")
    if options.get("rope"):
        base = options.get("rope_base", 10000.0)
        for p in range(n):
            for i in range(dim // 2):
                angle = p * base ** (-2 * i / dim)
                turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
                for x in (q, k):
                    x[p, [i, i + dim // 2]] = turn @ x[p, [i, i + dim // 2]]
    want = np.zeros((n, dim))
    for t in range(n):
        first = max(0, t - options["left"])
        scores = k[first : t + 1] @ q[t] * options.get("scale", dim**-0.5)
        weights = np.exp(scores - scores.max())
        want[t] = weights @ v[first : t + 1] / weights.sum()
    np.testing.assert_allclose(run(backend, WINDOW, **sample).o[0, 0], want, 1e-9, 1e-11)


@pytest.mark.parametrize("backend", PATHS)
def test_window_of_the_token_alone_returns_its_value(backend: str) -> None:
    sample = BASED.operation(WINDOW).sample(13) | {"left": 0}
    np.testing.assert_allclose(run(backend, WINDOW, **sample).o, sample["v"], 1e-13)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("kernel", [1, 2, 6])
def test_base_conv_by_loops(backend: str, kernel: int) -> None:
    """Kernels longer than the sequence too; the bias does not leak into what precedes it."""
    s = BASED.operation("base_conv").sample(4, batch=1, dim=3, inner=2, kernel=kernel)
    u = s["x"][0] @ s["w_in"].T + s["b_in"]
    opened = np.zeros((4, 2))
    for t in range(4):
        for j in range(2):
            c = sum(
                s["w_conv"][j, 0, r] * u[t - kernel + 1 + r, j]
                for r in range(kernel)
                if t - kernel + 1 + r >= 0
            )
            opened[t, j] = c / (1 + np.exp(-c)) * u[t, 2 + j]
    want = opened @ s["w_out"].T + s["b_out"]
    np.testing.assert_allclose(run(backend, "base_conv", **s).y[0], want, 1e-11, 1e-12)


@pytest.mark.parametrize("backend", PATHS)
def test_feature_maps_are_kernels(backend: str) -> None:
    sample = BASED.operation("feature_map").sample(70, feature_dim=5)
    made, dots = run(backend, "feature_map", **sample), sample["x"] @ sample["x"].T
    for features, scale in ((made.phi, 5**0.5), (made.phi_packed, 5)):
        s = dots / scale
        np.testing.assert_allclose(features @ features.T, 1 + s + s**2 / 2, 1e-11, 1e-11)


def nan(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flat[3] = np.nan
    return x


def refused() -> list[Any]:
    return [
        (TAYLOR, lambda s: {"w_q": s["w_q"][:-1]}, "num_heads.feature_dim"),
        (TAYLOR, lambda s: {"w_q": s["w_q"][:-2]}, "feature_dim"),
        (TAYLOR, lambda s: {"w_v": s["w_v"][:-1]}, "head_dim"),
        (TAYLOR, lambda s: {"w_o": s["w_o"][:, :-1]}, "head_dim"),
        (TAYLOR, lambda s: {"num_heads": 4}, "num_heads|feature_dim"),
        (TAYLOR, lambda s: {"num_heads": 0}, "num_heads must be at least 1"),
        (TAYLOR, lambda s: {"eps": -1.0}, "eps must be at least"),
        (TAYLOR, lambda s: {"x": nan(s["x"])}, "finite"),
        (TAYLOR, lambda s: {"w_k": nan(s["w_k"])}, "finite"),
        (TAYLOR, lambda s: {"x_next": nan(s["x"])}, "finite"),
        (TAYLOR, lambda s: {"x_next": s["x"][:, :, :-1]}, "dim"),
        (WINDOW, lambda s: {"left": -1}, "left must be at least 0"),
        (WINDOW, lambda s: {"k": nan(s["k"])}, "finite"),
        (WINDOW, lambda s: {"rope_base": 0.0, "rope": True}, "rope_base must be above 0"),
        (
            WINDOW,
            lambda s: {name: s[name][..., :3] for name in "qkv"} | {"rope": True},
            "even width, but dim is 3",
        ),
        ("base_conv", lambda s: {"w_conv": s["w_conv"][:-1]}, "inner"),
        ("base_conv", lambda s: {"w_in": s["w_in"][:-1]}, "2.inner"),
        ("base_conv", lambda s: {"x": nan(s["x"])}, "finite"),
        ("feature_map", lambda s: {"x": nan(s["x"])}, "finite"),
        ("mqar", lambda s: {"gaps": s["gaps"] - 10}, "outside"),
        ("mqar", lambda s: {"gaps": s["gaps"] + s["seq_len"]}, "outside"),
        ("mqar", lambda s: {"gaps": s["gaps"] * 0}, "share a place"),
        ("mqar", lambda s: {"seq_len": 3}, "cannot hold"),
        ("mqar", lambda s: {"keys": s["keys"] + 0.5}, "integers"),
    ]


@pytest.mark.parametrize("backend", [*PATHS, "cuda"])
@pytest.mark.parametrize(("operation", "change", "message"), refused())
def test_refused(backend: str, operation: str, change: Any, message: str) -> None:
    op = BASED.operation(operation)
    sample = op.sample(5)
    call = unchecked(backend if backend in op.paths else "numpy", operation)
    with pytest.raises(InputError, match=message):
        call(**sample | change(sample))


def test_mqar_row_by_row() -> None:
    sample = BASED.operation("mqar").sample(6, rows=4, filler=5)
    made = BASED.run("mqar", **sample)
    for row in range(4):
        inputs, labels = [0] * sample["seq_len"], [-100] * sample["seq_len"]
        for i in range(6):
            key, value = sample["keys"][row, i], sample["values"][row, i]
            inputs[2 * i : 2 * i + 2] = [key, value]
            at = 12 + 2 * sample["gaps"][row, i]
            inputs[at], labels[at] = key, value
        np.testing.assert_array_equal(made.inputs[row], inputs)
        np.testing.assert_array_equal(made.labels[row], labels)


def test_modules_own_the_weights() -> None:
    import torch

    sizes = {"num_heads": 2, "dim": 6, "feature_dim": 3, "head_dim": 4}
    layer = BASED.operation(TAYLOR).module(**sizes)
    assert {k: tuple(v.shape) for k, v in layer.named_parameters()} == {
        "w_q": (6, 6),
        "w_k": (6, 6),
        "w_v": (8, 6),
        "w_o": (6, 8),
    }
    conv = BASED.operation("base_conv").module(dim=6, inner=5, kernel=3)
    y = conv(x=layer(x=torch.randn(2, 9, 6)).y).y
    y.square().sum().backward()
    assert all(p.grad is not None for m in (layer, conv) for p in m.parameters())
