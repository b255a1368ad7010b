"""Scaled dot-product attention: an additive bias of -inf hides a key as a mask does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attnlab.registry import find

EXHIBIT = find("attention")


def barred() -> tuple[dict[str, Any], np.ndarray]:
    """A call whose bias hides keys, all of them from query 2, and what every query may see."""
    s = EXHIBIT.headline.sample(5, biased=True)
    hidden = np.random.default_rng(1).random(s["bias"].shape) < 0.4
    hidden[..., 2, :] = True
    s["bias"][hidden] = -np.inf
    return s, ~hidden


@pytest.mark.parametrize("want", [(), ("weights",)])
@pytest.mark.parametrize("backend", ["numpy", "numba", "torch"])
def test_a_bias_of_minus_infinity_hides_like_a_mask(backend: str, want: tuple[str, ...]) -> None:
    s, seen = barred()
    made = EXHIBIT.run(backend=backend, want=want, **s)
    mask = np.broadcast_to(seen, (2, *seen.shape[1:]))
    masked = s | {"bias": np.where(seen, s["bias"], 0), "mask": np.ascontiguousarray(mask)}
    expected = EXHIBIT.run(want=["weights"], **masked)
    np.testing.assert_allclose(np.asarray(made.out), expected.out, 1e-9, 1e-12)
    assert (np.asarray(made.out)[:, :, 2] == 0).all()
    if want:
        np.testing.assert_allclose(np.asarray(made.weights), expected.weights, 1e-9, 1e-12)


@pytest.mark.parametrize("want", [(), ("weights",)])
def test_a_query_that_sees_nothing_gives_no_gradient(want: tuple[str, ...]) -> None:
    torch = pytest.importorskip("torch")
    s, _ = barred()
    s = {k: torch.from_numpy(v).requires_grad_() for k, v in s.items()}
    EXHIBIT.run(backend="torch", want=want, **s).out.square().sum().backward()
    for name, x in s.items():
        assert x.grad.isfinite().all(), name
    assert (s["q"].grad[:, :, 2] == 0).all()
