"""Errors as `compare` reports them."""

from __future__ import annotations

import numpy as np
import pytest

from attnlab.bench import agreement
from attnlab.contract import BackendUnavailable
from attnlab.registry import find


@pytest.mark.parametrize(
    ("made", "exact", "error"),
    [
        (np.array([1.0, -np.inf]), np.array([1.5, -np.inf]), 0.5),
        (np.array([np.nan]), np.array([1.0]), np.inf),
        (np.array([np.nan]), np.array([np.nan]), 0.0),
        (np.array([1, 2]), np.array([1, 2, 3]), np.inf),
        (np.array(["a", "b"]), np.array(["b", "b"]), 1.0),
        (None, np.array([1.0]), np.inf),
    ],
)
def test_error_sees_what_differs(made: np.ndarray | None, exact: np.ndarray, error: float) -> None:
    assert agreement._error(made, exact) == error


def test_a_path_asked_for_by_name_runs_or_raises() -> None:
    op = find("attention").headline
    kwargs = agreement.inputs(op, 8)
    (row,) = agreement.run(op, kwargs, ["cuda"], refuse=False)
    assert bool(row.reason) != bool(row.errors)
    if row.reason:
        with pytest.raises(BackendUnavailable):
            agreement.run(op, kwargs, ["cuda"])
    assert [r.backend for r in agreement.run(op, kwargs, ["torch"], repeat=1)] == ["torch"]
