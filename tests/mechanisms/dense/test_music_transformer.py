"""Music Transformer: what is refused, what must work, and the equations pair by pair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from attnlab.contract import InputError
from attnlab.registry import find

EXHIBIT = find("music_transformer")
PATHS = ["numpy", "numba", "torch"]
GLOBAL, LOCAL, BOTH = (op.name for op in EXHIBIT.operations)


def run(operation: str, backend: str, **kwargs: Any) -> dict[str, np.ndarray]:
    made = EXHIBIT.run(operation, backend=backend, want="all", **kwargs)._asdict()
    return {k: np.asarray(v) for k, v in made.items() if v is not None}


def pair_by_pair(
    operation: str,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    rel_k: np.ndarray,
    rel_v: np.ndarray | None = None,
    lengths: np.ndarray | None = None,
    scale: float | None = None,
    block_length: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """(y, weights) by equations 1 to 6, one score at a time."""
    batch, heads, n, dim = q.shape
    scale = 1 / np.sqrt(dim) if scale is None else scale
    b = n if n < 2 * block_length else block_length
    M = rel_k.shape[-2]
    A, y = np.zeros((batch, heads, n, n)), np.zeros(v.shape)
    for at in np.ndindex(batch, heads, n):
        item, h, i = at
        E = rel_k if rel_k.ndim == 2 else rel_k[h]
        scores = {}
        for j in range(n):
            row = j - i + (M - 1) // 2 if operation == BOTH else M - 1 - (i - j)
            if operation == BOTH:
                seen = lengths is None or j < lengths[item]
            else:
                seen = j <= i and (not block_length or i // b - j // b <= 1)
            if seen:
                e = E[row] if 0 <= row < M else 0
                scores[j] = (row, scale * (q[at] @ k[item, h, j] + (q[at] * e).sum()))
        top = max(s for _, s in scores.values())
        total = sum(np.exp(s - top) for _, s in scores.values())
        for j, (row, s) in scores.items():
            A[at][j] = np.exp(s - top) / total
            y[at] += A[at][j] * v[item, h, j]
            if rel_v is not None and 0 <= row < M:
                y[at] += A[at][j] * (rel_v if rel_v.ndim == 2 else rel_v[h])[row]
    return y, A


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize(
    ("operation", "n", "sizes"),
    [
        (GLOBAL, 1, {}),
        (GLOBAL, 11, {"distances": 4, "value_dim": 3, "scale": 0.7}),
        (GLOBAL, 11, {"distances": 30, "shared": True}),
        (GLOBAL, 11, {"distances": 1, "on_values": True}),
        (GLOBAL, 11, {"distances": 6, "on_values": True, "shared": True, "value_dim": 2}),
        (LOCAL, 1, {"block_length": 4}),
        (LOCAL, 7, {"block_length": 4}),
        (LOCAL, 8, {"block_length": 4, "shared": True}),
        (LOCAL, 13, {"block_length": 4, "value_dim": 3, "scale": 0.7}),
        (LOCAL, 6, {"block_length": 1}),
        (BOTH, 1, {}),
        (BOTH, 9, {"reach": 3, "padded": True, "value_dim": 3}),
        (BOTH, 9, {"reach": 30, "shared": True, "scale": 0.7}),
        (BOTH, 9, {"reach": 1}),
    ],
    ids=str,
)
def test_pair_by_pair(backend: str, operation: str, n: int, sizes: dict[str, Any]) -> None:
    sample = EXHIBIT.operation(operation).sample(n, seed=2, **sizes)
    y, A = pair_by_pair(operation, **sample)
    made = run(operation, backend, **sample)
    np.testing.assert_allclose(made["y"], y, 1e-10, 1e-12)
    if "weights" in made:
        np.testing.assert_allclose(made["weights"], A, 1e-10, 1e-12)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("operation", [GLOBAL, LOCAL, BOTH])
def test_one_token_returns_its_value(backend: str, operation: str) -> None:
    sample = EXHIBIT.operation(operation).sample(1)
    np.testing.assert_allclose(run(operation, backend, **sample)["y"], sample["v"], 1e-12)


@pytest.mark.parametrize("backend", PATHS)
def test_scores_that_overflow_unshifted(backend: str) -> None:
    sample = EXHIBIT.operation(GLOBAL).sample(9, scale=1e4)
    made = run(GLOBAL, backend, **sample)
    np.testing.assert_allclose(made["weights"].sum(-1), 1, 1e-12)
    np.testing.assert_allclose(made["y"], pair_by_pair(GLOBAL, **sample)[0], 1e-9, 1e-12)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("n", [200, 517])
def test_across_many_tiles(backend: str, n: int) -> None:
    """Local attention equals global attention under a mask, at sizes of several tiles and blocks."""
    b = 64
    sample = EXHIBIT.operation(LOCAL).sample(n, batch=1, block_length=b)
    whole = {k: v for k, v in sample.items() if k != "block_length"}
    A = run(GLOBAL, "numpy", **whole)["weights"]
    block = np.arange(n) // b
    A = np.where(block[:, None] - block <= 1, A, 0)
    y = A / A.sum(-1, keepdims=True) @ sample["v"]
    np.testing.assert_allclose(run(LOCAL, backend, **sample)["y"], y, 1e-9, 1e-11)


def _with(**change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda s: s | {k: f(s) for k, f in change.items()}


REFUSED = {
    "widths of q and k differ": (GLOBAL, _with(k=lambda s: s["k"][..., :2]), "k: dimension dim"),
    "table width": (GLOBAL, _with(rel_k=lambda s: s["rel_k"][..., :2]), "rel_k: dimension dim"),
    "table of other heads": (GLOBAL, _with(rel_k=lambda s: s["rel_k"][:1]), "dimension heads"),
    "empty table": (GLOBAL, _with(rel_k=lambda s: s["rel_k"][:, :0]), "distances"),
    "no tokens": (GLOBAL, lambda s: s | {x: s[x][:, :, :0] for x in "qkv"}, "dimension n"),
    "other number of keys": (GLOBAL, _with(k=lambda s: s["k"][:, :, 1:]), "k: dimension n"),
    "other number of values": (GLOBAL, _with(v=lambda s: s["v"][:, :, 1:]), "v: dimension n"),
    "rel_v of another length": (GLOBAL, _with(rel_v=lambda s: s["rel_k"][:, 1:]), "distances"),
    "block_length 0": (LOCAL, _with(block_length=lambda s: 0), "block_length must be at least 1"),
    "table not 4 blocks": (LOCAL, _with(rel_k=lambda s: s["rel_k"][:, 1:]), "4*block_length"),
    "even table": (BOTH, _with(rel_k=lambda s: s["rel_k"][:, 1:]), "2*m-1"),
    "no visible key": (BOTH, _with(lengths=lambda s: np.array([0, 5])), "lengths"),
    "length beyond n": (BOTH, _with(lengths=lambda s: np.array([5, 99])), "lengths"),
    "scale not finite": (GLOBAL, _with(scale=lambda s: np.inf), "scale"),
}


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("row", REFUSED)
def test_refused(backend: str, row: str) -> None:
    operation, mutate, message = REFUSED[row]
    sample = EXHIBIT.operation(operation).sample(9)
    with pytest.raises(InputError, match=message.replace("*", r"\*")):
        EXHIBIT.run(operation, backend=backend, **mutate(sample))


@pytest.mark.parametrize("operation", [GLOBAL, LOCAL, BOTH])
def test_module_owns_the_table(operation: str) -> None:
    import torch

    op = EXHIBIT.operation(operation)
    table = {GLOBAL: {"distances": 9}, LOCAL: {"block_length": 3}, BOTH: {"m": 9}}[operation]
    layer = op.module(heads=2, dim=4, **table)
    q, k, v = (torch.randn(1, 2, 9, 4) for _ in range(3))
    layer(q=q, k=k, v=v).y.sum().backward()
    assert [name for name, _ in layer.named_parameters()] == ["rel_k"]
    assert layer.rel_k.grad.abs().sum() > 0
