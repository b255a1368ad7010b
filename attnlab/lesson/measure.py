"""`compare`: the same inputs on every path. `cost`: time as n grows, with the fitted exponent."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from attnlab.contract import Operation, as_dtype
from attnlab.lesson import pieces
from attnlab.lesson.session import current


def compare(
    exhibit: str,
    operation: str | None = None,
    n: int = 128,
    *,
    inputs: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    backends: Sequence[str] | None = None,
    repeat: int = 3,
    **sizes: Any,
) -> pieces.Measured:
    """Runs one operation on every path with the same inputs and shows error and time.

    inputs are keyword arguments of the operation (real activations, say); without them the exhibit's own
    example of size n is drawn with the run's seed. Errors are the largest absolute difference from the
    NumPy reference in float64, over all outputs; times are medians after a first call. A path that this
    machine cannot run is listed with the reason. Returns {backend: {"error", "seconds"}}.
    """
    from attnlab import registry
    from attnlab.bench import agreement

    card = registry.find(exhibit)
    op = card.operation(operation)
    given = as_dtype(dict(inputs) if inputs is not None else draw(op, n, dtype, sizes), dtype)
    result, rows = pieces.Measured(), []
    for row in agreement.run(op, given, backends, repeat, refuse=False):
        if row.reason:
            rows.append([row.backend, "not run", row.reason])
            continue
        where, error = max(row.errors.items(), key=lambda item: item[1])
        result[row.backend] = {"error": error, "seconds": row.seconds, "first": row.first}
        named = f" ({where})" if len(row.errors) > 1 else ""
        rows.append([row.backend, f"{error:.1e}{named}", _seconds(row.seconds or 0.0)])
    title = f"{card.title}: {op.name}, {dtype}, against float64"
    current().emit(pieces.Table(rows, ["path", "largest error", "time"], title))
    return result


def cost(
    what: str | Mapping[str, Callable[[int], Callable[[], Any]]],
    ns: Sequence[int],
    operation: str | None = None,
    *,
    backends: Sequence[str] = ("numba",),
    claimed: float | None = None,
    dtype: str = "float32",
    repeat: int = 5,
    budget: float | None = None,
    unit: str = "n",
    **sizes: Any,
) -> pieces.Measured:
    """Times calls as n grows, fits time ∝ n^slope, and shows a table and a log-log plot.

    what is an exhibit's name (then each of `backends` is a line), or a mapping from a label to a function
    that, given n, prepares inputs and returns the call to time. Rounds are interleaved over all lines and
    sizes; the fit is over the medians, with a 95 % confidence interval from three sizes up. A line stops
    growing when one call takes over a tenth of `budget` seconds (20, or 4 in a quick run).
    Returns {"seconds": {label: {n: median}}, "exponent": {label: (slope, low, high)}}.
    """
    from attnlab.bench.fit import exponent

    makers = _makers(what, operation, backends, dtype, sizes) if isinstance(what, str) else what
    budget = budget or (4.0 if current().quick else 20.0)
    samples: dict[str, dict[int, list[float]]] = {label: {} for label in makers}
    calls: dict[tuple[str, int], Callable[[], Any]] = {}
    begun = time.perf_counter()
    for label, make in makers.items():
        for n in sorted(ns):
            call = make(n)
            call()  # compilation and cold caches are not what is asked here
            took, _ = _timed(call)
            samples[label][n] = [took]
            if took < budget / 50:  # a long call is timed once; its noise is small beside it
                calls[label, n] = call
            if took > budget / 10:
                break
    for _ in range(repeat - 1):
        if time.perf_counter() - begun > budget:
            break
        for (label, n), call in calls.items():
            samples[label][n].append(_timed(call)[0])
    medians = {
        label: {n: statistics.median(times) for n, times in of.items()}
        for label, of in samples.items()
    }
    exponents = {}
    for label, of in medians.items():
        fitted = exponent(list(of), list(of.values()))
        exponents[label] = (fitted.slope, fitted.low, fitted.high)
    _show_cost(medians, exponents, claimed, unit)
    return pieces.Measured(seconds=medians, exponent=exponents)


def draw(op: Operation, n: int, dtype: str, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of size n with the run's seed, what must be prepared included."""
    seed = current().seed
    return op.prepared(n, seed, dtype, **sizes) | op.sample(n, seed, dtype, **sizes)


def _caller(
    card: Any, operation: str, backend: str, inputs: Mapping[str, Any]
) -> Callable[[], Any]:
    return lambda: card.run(operation, backend=backend, **inputs)


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    out = call()
    return time.perf_counter() - begun, out


def _makers(
    name: str, operation: str | None, backends: Sequence[str], dtype: str, sizes: Mapping[str, Any]
) -> dict[str, Callable[[int], Callable[[], Any]]]:
    from attnlab import registry

    card = registry.find(name)
    op = card.operation(operation)

    def maker(backend: str) -> Callable[[int], Callable[[], Any]]:
        return lambda n: _caller(card, op.name, backend, draw(op, n, dtype, sizes))

    return {backend: maker(backend) for backend in backends}


def _seconds(seconds: float) -> str:
    for size, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds / 1e-6:.3g} µs"


def _show_cost(
    medians: dict[str, dict[int, float]],
    exponents: dict[str, tuple[float, float, float]],
    claimed: float | None,
    unit: str,
) -> None:
    from attnlab.lesson import plots, say

    sizes = sorted({n for of in medians.values() for n in of})
    rows: list[list[Any]] = []
    for n in sizes:
        rows.append([n, *(_seconds(of[n]) if n in of else "too slow" for of in medians.values())])
    say.table(rows, [unit, *medians], "Time of one call (median)")
    fits = []
    for label, (slope, low, high) in exponents.items():
        between = f"{low:.2f} … {high:.2f}" if np.isfinite(low) else "needs three sizes"
        fits.append([label, f"{slope:.2f}", between, "–" if claimed is None else f"{claimed:g}"])
    say.table(
        fits, ["line", "exponent", "95 % interval", "claimed"], f"Fitted: time ∝ {unit}^exponent"
    )
    series = {
        label: (np.array(list(of), float), np.array(list(of.values())) * 1e3)
        for label, of in medians.items()
    }
    drawn = plots.lines(series, logx=True, logy=True, xlabel=unit, ylabel="milliseconds")
    slopes = "; ".join(f"{label} grows as {unit}^{s[0]:.2f}" for label, s in exponents.items())
    say.figure(
        drawn,
        caption=f"Time of one call as {unit} grows, both axes logarithmic: {slopes}.",
        alt=f"Log-log plot of milliseconds over {unit} for {', '.join(medians)}; {slopes}",
    )
