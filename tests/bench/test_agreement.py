"""Errors as `compare` reports them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attnlab.bench import agreement
from attnlab.contract import BackendUnavailable
from attnlab.registry import exhibits, find


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


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        (exhibit.name, op.name)
        for exhibit in exhibits()
        for op in exhibit.operations
        if agreement.takes_text(op)
    ],
)
def test_real_queries_fit_every_operation_that_takes_them(
    name: str, operation: str, tmp_path: Path
) -> None:
    """At the benchmark's sizes, as `compare --text` asks: the model's heads and widths win."""
    text = tmp_path / "text.txt"
    text.write_text("The if statement is used for conditional execution. " * 20)
    op = find(name).operation(operation)
    kwargs = agreement.inputs(op, 16, text=text, **op.bench_sizes)
    (row,) = agreement.run(op, kwargs, ["torch"], repeat=1)
    assert max(row.errors.values()) < 1e-3


def test_a_path_asked_for_by_name_runs_or_raises() -> None:
    op = find("attention").headline
    kwargs = agreement.inputs(op, 8)
    (row,) = agreement.run(op, kwargs, ["cuda"], refuse=False)
    assert bool(row.reason) != bool(row.errors)
    if row.reason:
        with pytest.raises(BackendUnavailable):
            agreement.run(op, kwargs, ["cuda"])
    assert [r.backend for r in agreement.run(op, kwargs, ["torch"], repeat=1)] == ["torch"]
