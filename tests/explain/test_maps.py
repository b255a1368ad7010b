"""Attention maps read off by unit vectors."""

from __future__ import annotations

import numpy as np
import pytest

from attnlab.contract import InputError
from attnlab.explain.maps import effective_map
from attnlab.registry import find


@pytest.mark.parametrize("backend", ["numpy", "numba", "torch"])
@pytest.mark.parametrize("name", ["attention", "music_transformer", "landmark"])
def test_it_is_the_map_that_the_mechanism_returns(name: str, backend: str) -> None:
    inputs = find(name).headline.sample(n=20, seed=1)
    weights = find(name).run(backend="numpy", want=["weights"], **inputs).weights
    np.testing.assert_allclose(effective_map(name, inputs, backend=backend), weights, atol=1e-5)


def test_of_lightning_it_is_the_decayed_product() -> None:
    inputs = find("lightning").headline.sample(n=12, seed=2)
    found = effective_map("lightning", inputs)
    lags = np.arange(12)[:, None] - np.arange(12)
    decay = np.exp(-np.asarray(inputs["slopes"]).reshape(-1)[:, None, None] * lags)
    expected = np.where(lags >= 0, decay * (inputs["q"] @ inputs["k"].swapaxes(2, 3)), 0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["hyper_attention", "routing"])
def test_hashed_and_routed_maps_are_shares(name: str) -> None:
    rows = effective_map(name, find(name).headline.sample(n=32, seed=3)).sum(-1)
    whole = np.isclose(rows, 1, atol=1e-4)
    assert whole.any()
    assert (whole | np.isclose(rows, 0)).all()


def test_what_is_not_linear_in_its_values_has_no_map() -> None:
    inputs = find("attention").headline.sample(n=8, seed=0)
    with pytest.raises(InputError, match="not linear in q"):
        effective_map("attention", inputs, values="q")
    with pytest.raises(InputError, match="'u' is not given"):
        effective_map("attention", inputs, values="u")
