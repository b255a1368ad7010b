"""One call on every path: each output's error against the float64 reference, and the time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from attnlab.bench.inputs import size_name
from attnlab.bench.timing import once, time_calls
from attnlab.contract import BACKENDS, BackendUnavailable, InputError, Operation, as_dtype
from attnlab.flat import numpy_outputs


@dataclass
class PathResult:
    """What one path did: errors by output, seconds (first call apart), or why it did not run."""

    backend: str
    errors: dict[str, float] = field(default_factory=dict)
    first: float | None = None
    seconds: float | None = None
    spread: tuple[float, float] | None = None
    reason: str = ""


def inputs(
    op: Operation,
    n: int,
    *,
    seed: int = 0,
    dtype: str = "float32",
    text: Path | None = None,
    layer: int = 0,
    **sizes: Any,
) -> dict[str, Any]:
    """Arguments of the operation: its example of size n, or with `text` the real queries, keys and
    values of the small language model reading that file.

    With `text` the model's heads and widths win over `sizes`. Raises InputError where the operation
    takes no queries, keys and values, or the text has fewer than n tokens, or the model no such layer.
    """
    if text is None:
        return op.prepared(n, seed, dtype, **sizes) | op.sample(n, seed, dtype, **sizes)
    if not takes_text(op):
        others = [other.name for other in op.exhibit.operations if takes_text(other)]
        hint = f"; --operation {' or '.join(others)} does" if others else ""
        raise InputError(
            f"--text gives queries, keys and values, which {op.exhibit.name} {op.name} does not take{hint}"
        )
    from attnlab.models.language import load

    try:
        real = load().attention_inputs(text.read_text(encoding="utf-8", errors="replace"), layer, n)
    except ValueError as error:
        raise InputError(f"--text {text}: {error}") from None
    heads, length, dim = real["q"].shape[1:]
    # The example at the model's own sizes supplies whatever the operation needs beside q, k and v.
    asked = {"batch": 1, "heads": heads, "kv_heads": heads, "dim": dim, "value_dim": dim}
    named = {size_name(op, size): value for size, value in asked.items()}
    beside = op.sample(length, seed, dtype, **sizes | {k: v for k, v in named.items() if k})
    return beside | as_dtype(dict(real), dtype)


def takes_text(op: Operation) -> bool:
    """Whether the operation takes the queries, keys and values of a whole sequence."""
    shapes = {spec.keyword: spec.shape.split() for spec in op.inputs if hasattr(spec, "shape")}
    return {"q", "k", "v"} <= shapes.keys() and all(
        len(shapes[x]) == 4 and shapes[x][2] != "1" for x in "qkv"
    )


def run(
    op: Operation,
    kwargs: Mapping[str, Any],
    backends: Iterable[str] | None = None,
    repeat: int = 5,
    refuse: bool = True,
) -> list[PathResult]:
    """Every path of the operation on the same arguments. A path named in `backends` that cannot run
    raises its reason; without names, or with refuse=False, it is a row with the reason."""
    explicit = backends is not None and refuse
    exact = _outputs(op, "numpy", as_dtype(dict(kwargs), "float64"))
    results: list[PathResult] = []
    calls: dict[str, Callable[[], Any]] = {}
    for backend in backends or [b for b in BACKENDS if b in op.paths]:
        row = PathResult(backend)
        results.append(row)
        try:
            function = op.exhibit.function(op.name, backend)
            row.first, made = once(partial(_outputs, op, backend, kwargs))
        except BackendUnavailable as why:
            if explicit:
                raise
            row.reason = str(why)
            continue
        row.errors = {name: _error(made.get(name), value) for name, value in exact.items()}
        calls[backend] = partial(function, **kwargs)
    for backend, timed in time_calls(calls, repeat).items():
        row = next(r for r in results if r.backend == backend)
        row.seconds, row.spread = timed.median, timed.quantiles()
    return results


def _outputs(op: Operation, backend: str, kwargs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return numpy_outputs(op.results, op.exhibit.run(op.name, backend=backend, **kwargs))


def _error(made: np.ndarray | None, exact: np.ndarray) -> float:
    """Largest absolute difference; for anything but numbers the count of differing elements."""
    if made is None or made.shape != exact.shape:
        return float("inf")
    if exact.dtype.kind not in "fiub":
        return float((made != exact).sum())
    a, b = made.astype(np.float64), exact.astype(np.float64)
    with np.errstate(invalid="ignore"):
        gap = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0))
