"""Extractors: what is refused, what must work, and every kind by literal loops."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from attnlab.contract import FILES, InputError
from attnlab.registry import find

EXTRACTORS = find("extractors")
PATHS = ["numpy", "numba", "torch"]
KINDS = ["SHE", "HE", "WE", "ME"]


def run(backend: str, **kwargs: Any) -> np.ndarray:
    return np.asarray(EXTRACTORS.run("extract", backend=backend, **kwargs).y)


def unchecked(backend: str) -> Callable[..., Any]:
    """The path's function itself: what it refuses, it refuses before it needs a device."""
    return import_module(f"{EXTRACTORS.package}.{FILES[backend]}").extract


def by_loops(s: dict[str, Any], index: str, sqrt_scale: bool) -> np.ndarray:
    """Equations (1) to (6), token by token."""
    x, kind = s["x"], s["kind"]
    y = np.zeros(x.shape)
    for b, t in np.ndindex(*x.shape[:2]):
        e = np.zeros(x.shape[2])
        for j in range(t + 1):
            place = t - j if index == "lag" else j
            if kind == "SHE":
                e += x[b, j] @ s["W"][place]
            else:
                e += s["w"][place] * (x[b, j] @ s["W_shared"] if kind == "HE" else x[b, j])
        a = x[b, t] * s["w_adj"] if kind == "ME" else x[b, t] @ s["W_adj"]
        y[b, t] = e * a / (np.sqrt(t + 1) if sqrt_scale else 1)
    return y


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("sqrt_scale", [True, False])
@pytest.mark.parametrize("index", ["lag", "absolute"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n", "spare", "dim"), [(1, 0, 1), (1, 3, 2), (9, 0, 1), (70, 2, 3), (130, 0, 3)]
)
def test_every_kind_by_loops(
    backend: str, kind: str, index: str, sqrt_scale: bool, n: int, spare: int, dim: int
) -> None:
    sample = EXTRACTORS.headline.sample(n, seed=n, kind=kind, dim=dim, spare=spare)
    made = run(backend, **sample, index=index, sqrt_scale=sqrt_scale)
    np.testing.assert_allclose(made, by_loops(sample, index, sqrt_scale), 1e-9, 1e-11)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 2])
def test_long_sequences(backend: str, kind: str, dim: int) -> None:
    """Past the lengths where filters turn to the FFT and SHE to several tiles."""
    sample = EXTRACTORS.headline.sample(1100, seed=3, kind=kind, dim=dim)
    want = run("numpy", **sample)
    np.testing.assert_allclose(run(backend, **sample), want, 1e-8, 1e-9)
    low = {k: v.astype(np.float32) if hasattr(v, "astype") else v for k, v in sample.items()}
    np.testing.assert_allclose(run(backend, **low), want, 1e-3, 1e-3 * np.abs(want).max())


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_spare_places_are_not_read(backend: str, kind: str) -> None:
    sample = EXTRACTORS.headline.sample(6, kind=kind, spare=4)
    before = run(backend, **sample)
    for name in ("W", "w"):
        if name in sample:
            sample[name][6:] = np.nan
    np.testing.assert_array_equal(run(backend, **sample), before)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", ["lag", "absolute"])
@pytest.mark.parametrize("n", [5, 200])
def test_no_batch_gives_no_output(backend: str, kind: str, index: str, n: int) -> None:
    sample = EXTRACTORS.headline.sample(n, kind=kind, batch=0)
    assert run(backend, **sample, index=index).shape == (0, n, 3)


@pytest.mark.parametrize("backend", PATHS)
def test_scalar_weights_of_powers_are_a_running_decay(backend: str) -> None:
    """ME with w = lambda^l is linear attention with decay and no keys."""
    sample = EXTRACTORS.headline.sample(30, kind="ME", spare=0)
    sample["w"] = 0.8 ** np.arange(30)
    made = run(backend, **sample, sqrt_scale=False)
    state = np.zeros((2, 3))
    for t in range(30):
        state = 0.8 * state + sample["x"][:, t]
        want = state * sample["x"][:, t] * sample["w_adj"]
        np.testing.assert_allclose(made[:, t], want, 1e-10, 1e-12)


def refused() -> list[Any]:
    return [
        ("SHE", lambda s: {"W": s["W"][:4]}, "5 tokens, but the tables hold 4 places"),
        ("ME", lambda s: {"w": s["w"][:4]}, "5 tokens, but the tables hold 4 places"),
        ("SHE", lambda s: {"W": s["W"][:, :2]}, "dim"),
        ("SHE", lambda s: {"W": s["W"][0]}, "W must have shape"),
        ("SHE", lambda s: {"W_adj": s["W_adj"][:2]}, "dim"),
        ("HE", lambda s: {"W_shared": s["W_shared"][:, :2]}, "dim"),
        ("HE", lambda s: {"W_shared": None}, "needs the array W_shared"),
        ("WE", lambda s: {"w": s["w"][:, :2]}, "dim"),
        ("WE", lambda s: {"w": s["w"][:, 0]}, "w must have shape"),
        ("ME", lambda s: {"w": np.ones((7, 3))}, "w must have shape"),
        ("ME", lambda s: {"w_adj": np.ones(4)}, "dim"),
        ("ME", lambda s: {"W_adj": np.ones((3, 3))}, "not taken here"),
        ("WE", lambda s: {"kind": "XE"}, "kind must be one of"),
        ("WE", lambda s: {"kind": "HE"}, "needs the array W_shared"),
        ("WE", lambda s: {"index": "relative"}, "index must be one of"),
        ("WE", lambda s: {"sqrt_scale": 1}, "sqrt_scale must be bool"),
        ("WE", lambda s: {"x": s["x"].astype(int)}, "float32 or float64"),
    ]


@pytest.mark.parametrize("backend", [*PATHS, "cuda"])
@pytest.mark.parametrize(("kind", "change", "message"), refused())
def test_refused(backend: str, kind: str, change: Any, message: str) -> None:
    sample = EXTRACTORS.headline.sample(5, kind=kind)
    with pytest.raises(InputError, match=message):
        unchecked(backend)(**sample | change(sample))


def test_kind_is_required() -> None:
    sample = EXTRACTORS.headline.sample(3)
    del sample["kind"]
    with pytest.raises(InputError, match="kind is required"):
        run("numpy", **sample)


def test_parameters_by_kind() -> None:
    """The sheet's counts at D = 48, L = 48."""
    counts = {}
    for kind in KINDS:
        sample = EXTRACTORS.headline.sample(48, kind=kind, dim=48, spare=0)
        counts[kind] = sum(sample[k].size for k in sample if k.lower().startswith("w"))
    assert counts == {"SHE": 112_896, "HE": 6_912, "WE": 4_608, "ME": 96}


@pytest.mark.parametrize("kind", KINDS)
def test_module_has_the_weights_of_its_kind(kind: str) -> None:
    import torch

    sample = EXTRACTORS.headline.sample(6, kind=kind, dim=4, spare=2)
    layer = EXTRACTORS.headline.module(kind=kind, dim=4, L=8)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes == {k: sample[k].shape for k in sample if k.lower().startswith("w")}
    layer(x=torch.randn(2, 6, 4)).y.square().sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
