"""Lightning attention: what is refused, what must work, and sums by literal loops."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnlab.contract import FILES, InputError
from attnlab.mechanisms.linear.lightning.slopes import base_slopes, slopes
from attnlab.registry import find

LIGHTNING = find("lightning")
PATHS = ["numpy", "numba", "torch"]


def run(backend: str, operation: str = "attend", **kwargs: Any) -> Any:
    made = LIGHTNING.run(operation, backend=backend, **kwargs)
    return made._replace(**{k: v.numpy() for k, v in made._asdict().items() if hasattr(v, "numpy")})


def unchecked(backend: str, operation: str) -> Callable[..., Any]:
    """The path's function itself: what it refuses, it refuses before it needs a device."""
    return getattr(import_module(f"{LIGHTNING.package}.{FILES[backend]}"), operation)


def recurrence(q: Any, k: Any, v: Any, s: Any) -> tuple[np.ndarray, np.ndarray]:
    """Equation (2), token by token."""
    KV = np.zeros((*q.shape[:2], q.shape[3], v.shape[3]))
    o = np.zeros(v.shape)
    for t in range(q.shape[2]):
        for b, h in np.ndindex(*q.shape[:2]):
            KV[b, h] = np.exp(-s[h]) * KV[b, h] + np.outer(k[b, h, t], v[b, h, t])
            o[b, h, t] = q[b, h, t] @ KV[b, h]
    return o, KV


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("block", [1, 2, 7, 36, 37, 38, 10_000])
def test_every_block_gives_the_recurrence(backend: str, block: int) -> None:
    sample = LIGHTNING.headline.sample(37, seed=3, heads=3, dim=5, value_dim=7)
    o, state = recurrence(sample["q"], sample["k"], sample["v"], sample["slopes"])
    made = run(backend, **sample, block=block)
    np.testing.assert_allclose(made.o, o, 1e-11, 1e-11)
    np.testing.assert_allclose(made.state, state, 1e-11, 1e-11)


@pytest.mark.parametrize("backend", PATHS)
def test_many_blocks_and_slices_of_columns(backend: str) -> None:
    """Long enough for more than one thread: one head, cut into slices of value columns."""
    sample = LIGHTNING.headline.sample(700, seed=1, batch=1, heads=1, dim=40, value_dim=50)
    o, state = recurrence(sample["q"], sample["k"], sample["v"], sample["slopes"])
    made = run(backend, **sample)
    np.testing.assert_allclose(made.o, o, 1e-9, 1e-10)
    np.testing.assert_allclose(made.state, state, 1e-9, 1e-10)


@pytest.mark.parametrize("backend", PATHS)
def test_no_slopes_and_zero_slopes_are_the_same(backend: str) -> None:
    sample = LIGHTNING.headline.sample(21, decay=False)
    zero = run(backend, **sample, slopes=np.zeros(2))
    np.testing.assert_array_equal(run(backend, **sample).o, zero.o)
    weights = np.tril(np.einsum("bhid,bhjd->bhij", sample["q"], sample["k"]))
    np.testing.assert_allclose(zero.o, weights @ sample["v"], 1e-11, 1e-12)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("rate", [1e4, 1e308])
def test_very_large_slopes_leave_each_token_alone(backend: str, rate: float) -> None:
    sample = LIGHTNING.headline.sample(11)
    made = run(backend, **sample | {"slopes": np.full(2, rate)}, block=4)
    own = np.einsum("bhid,bhid->bhi", sample["q"], sample["k"])[..., None] * sample["v"]
    np.testing.assert_allclose(made.o, own, 1e-12)
    last = np.einsum("bhd,bhe->bhde", sample["k"][:, :, -1], sample["v"][:, :, -1])
    np.testing.assert_allclose(made.state, last, 1e-12)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize(("batch", "n"), [(0, 5), (2, 0), (0, 0)])
def test_nothing_in_gives_nothing_out_and_a_zero_state(backend: str, batch: int, n: int) -> None:
    sample = LIGHTNING.headline.sample(n, batch=batch, value_dim=3)
    made = run(backend, **sample)
    assert made.o.shape == (batch, 2, n, 3)
    assert made.state.shape == (batch, 2, 4, 3)
    assert not made.state.any()


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("use_lrpe", [False, True])
def test_a_layer_of_nothing_decodes_its_first_token(backend: str, use_lrpe: bool) -> None:
    """With no row before it, the token at position 0 is the whole sequence."""
    sample = LIGHTNING.operation("gla").sample(0, batch=2, use_lrpe=use_lrpe, decode=True)
    made = run(backend, "gla", **sample)
    assert made.y.shape == (2, 0, 6)
    assert not made.state.any()
    alone = run("numpy", "gla", **sample | {"x": sample["x_next"], "x_next": None})
    np.testing.assert_allclose(made.y_next, alone.y, 1e-10, 1e-12)
    np.testing.assert_allclose(made.state_next, alone.state, 1e-10, 1e-12)
    assert run(backend, "gla", **LIGHTNING.operation("gla").sample(3, batch=0)).y.shape == (0, 3, 6)


def test_long_sequences_neither_overflow_nor_lose_the_near_past() -> None:
    """lambda^-t would overflow from t = 1000 on at this rate; exp(-s * distance) does not."""
    sample = LIGHTNING.headline.sample(3000, batch=1, heads=1, dim=2, dtype="float32")
    sample["slopes"] = np.array([0.9], np.float32)
    want = run("numpy", **{k: v.astype(float) for k, v in sample.items()})
    for backend in PATHS:
        np.testing.assert_allclose(run(backend, **sample).o, want.o, 2e-4, 2e-5)


def refused() -> list[Any]:
    attend, layer = ("attend", "gla")
    float_ = np.float64
    return [
        (attend, lambda s: {"q": s["q"][..., :-1]}, "dim"),
        (attend, lambda s: {"k": s["k"][:, :, :-1]}, "n is"),
        (attend, lambda s: {"v": s["v"][:1]}, "batch"),
        (attend, lambda s: {"v": s["v"][:, :1]}, "heads"),
        (attend, lambda s: {"v": s["v"][:, :, :-1]}, "n is"),
        (attend, lambda s: {"slopes": np.ones(3)}, "heads"),
        (attend, lambda s: {"slopes": np.array([0.1, -0.1])}, "at least 0"),
        (attend, lambda s: {"slopes": np.array([0.1, np.nan])}, "finite"),
        (attend, lambda s: {"slopes": np.array([0.1, np.inf])}, "finite"),
        (attend, lambda s: {"block": 0}, "block must be at least 1"),
        (attend, lambda s: {"block": 8.0}, "block must be int"),
        (attend, lambda s: {"q": s["q"].astype(int)}, "float32 or float64"),
        (attend, lambda s: {"v": s["v"].astype(np.float32)}, "share one dtype"),
        (layer, lambda s: {"num_heads": 4, "slopes": np.ones(4)}, "not divisible"),
        (layer, lambda s: {"slopes": -s["slopes"]}, "at least 0"),
        (layer, lambda s: {"theta": np.ones((2, 3))}, "needs use_lrpe"),
        (layer, lambda s: {"use_lrpe": True}, "needs the array theta"),
        (layer, lambda s: {"use_lrpe": True, "theta": np.ones((2, 4))}, "theta"),
        (layer, lambda s: {"pad_mask": np.full(s["x"].shape[:2], 2)}, "0 and 1"),
        (layer, lambda s: {"x_next": np.ones((2, 2, 6), float_)}, "x_next"),
        (layer, lambda s: {"eps": -1e-6}, "eps must be at least"),
        ("decoder_layer", lambda s: {"glu3": s["glu3"].T}, "glu3"),
        ("decoder_layer", lambda s: {"num_heads": 4, "slopes": np.ones(4)}, "not divisible"),
        ("tnl_attention", lambda s: {"output_gate_0_weight": np.ones((2, 6))}, "output_gate_0"),
        ("tnl_attention", lambda s: {"slopes": np.array([0, -1.0])}, "at least 0"),
    ]


@pytest.mark.parametrize("backend", [*PATHS, "cuda"])
@pytest.mark.parametrize(("operation", "change", "message"), refused())
def test_refused(backend: str, operation: str, change: Any, message: str) -> None:
    sample = LIGHTNING.operation(operation).sample(5)
    with pytest.raises(InputError, match=message):
        unchecked(backend, operation)(**sample | change(sample))


@pytest.mark.parametrize("backend", PATHS)
def test_padding_loses_its_value_and_nothing_else(backend: str) -> None:
    sample = LIGHTNING.operation("gla").sample(12, padded=True, use_lrpe=True)
    made = run(backend, "gla", **sample)
    q, k, v, u = np.split(sample["x"] @ sample["w_qkvu"].T, 4, -1)
    silu = lambda z: z / (1 + np.exp(-z))  # noqa: E731
    for b in range(2):
        merged = np.zeros((12, 6))
        for h in range(2):
            columns = slice(3 * h, 3 * h + 3)
            for t in range(12):
                for j in range(t + 1):
                    turn = np.cos((t - j) * sample["theta"][h])
                    score = (silu(q[b, t, columns]) * silu(k[b, j, columns]) * turn).sum()
                    kept = sample["pad_mask"][b, j] * np.exp(-sample["slopes"][h] * (t - j))
                    merged[t, columns] += score * kept * v[b, j, columns]
        norm = merged / np.sqrt((merged**2).mean(-1, keepdims=True) + 1e-6)
        np.testing.assert_allclose(made.y[b], (norm * u[b]) @ sample["w_out"].T, 1e-9, 1e-10)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("use_lrpe", [False, True])
def test_a_decoded_token_equals_one_more_row(backend: str, use_lrpe: bool) -> None:
    sample = LIGHTNING.operation("gla").sample(9, use_lrpe=use_lrpe)
    whole = run(backend, "gla", **sample)
    short = sample | {"x": sample["x"][:, :-1], "x_next": sample["x"][:, -1:]}
    step = run(backend, "gla", **short)
    np.testing.assert_allclose(step.y_next, whole.y[:, -1:], 1e-10, 1e-11)
    np.testing.assert_allclose(step.state_next, whole.state, 1e-10, 1e-11)
    assert whole.y_next is None
    assert whole.state_next is None


@pytest.mark.parametrize("backend", PATHS)
def test_the_norm_forgets_the_scale_of_the_sums(backend: str) -> None:
    """SRMS stands in for a denominator: values a thousand times as large change nothing."""
    sample = LIGHTNING.operation("gla").sample(6) | {"eps": 0.0}
    louder = sample["w_qkvu"].copy()
    louder[12:18] *= 1000
    want = run(backend, "gla", **sample).y
    np.testing.assert_allclose(run(backend, "gla", **sample | {"w_qkvu": louder}).y, want, 1e-9)


def test_slopes() -> None:
    np.testing.assert_allclose(base_slopes(4), [0.25, 0.0625, 0.015625, 0.00390625])
    np.testing.assert_allclose(base_slopes(1), [2.0**-8])
    # six heads: those of four, then the first two of every other one of eight
    np.testing.assert_allclose(base_slopes(6), [2.0**-p for p in (2, 4, 6, 8, 1, 3)])
    np.testing.assert_allclose(slopes(4, 0, 3), base_slopes(4) * (1 + 1e-5))
    np.testing.assert_allclose(slopes(4, 2, 3), base_slopes(4) * 1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 0, 1), "num_layers must be at least 2, but is 1"),
        ((4, 0, 0), "num_layers"),
        ((4, 3, 3), "layer must be 0 to 2"),
        ((4, -1, 3), "layer must be"),
        ((0, 0, 2), "heads must be at least 1"),
    ],
)
def test_slopes_refused(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        slopes(*arguments)


def test_slopes_are_those_of_the_vectors() -> None:
    from attnlab.vectors import read

    cases = {c.name: c for c in read(Path(__file__).parents[2] / "golden" / "lightning.npz")}
    np.testing.assert_allclose(cases["op_ragged"].arrays["in"]["slopes"], slopes(6, 2, 6), 1e-6)
    np.testing.assert_allclose(
        cases["tnl_module"].arrays["param"]["slopes"], slopes(2, 1, 12), 1e-6
    )


def test_module_owns_the_weights() -> None:
    import torch

    layer = LIGHTNING.operation("gla").module(num_heads=2, dim=6)
    assert {k: tuple(v.shape) for k, v in layer.named_parameters()} == {
        "w_qkvu": (24, 6),
        "w_out": (6, 6),
    }
    made = layer(x=torch.randn(2, 5, 6), slopes=torch.tensor([0.5, 0.25]))
    made.y.square().sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
