"""`compare`: the same inputs on every path. `cost`: time as n grows, with the fitted exponent."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

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
    from attnlab.contract import BACKENDS, BackendUnavailable

    card = registry.find(exhibit)
    op = card.operation(operation)
    given = dict(inputs) if inputs is not None else draw_inputs(op, n, dtype, **sizes)
    given = as_dtype(given, dtype)
    exact = card.run(op.name, backend="numpy", **as_dtype(given, "float64"))
    result, rows, reasons = pieces.Measured(), [], []
    for backend in backends or [b for b in BACKENDS if b in op.paths]:
        call = _caller(card, op.name, backend, given)
        try:
            first, out = _timed(call)
        except BackendUnavailable as reason:
            reasons.append(f"{backend} was not run: {reason}")
            rows.append([backend, "not run", "–", "–"])
            continue
        seconds = statistics.median(_timed(call)[0] for _ in range(repeat))
        error, where = _difference(exact, out)
        result[backend] = {"error": error, "seconds": seconds, "first": first}
        shown = f"{error:.1e}" + (f" ({where})" if where else "")
        rows.append([backend, shown, _seconds(seconds), _seconds(first)])
    title = f"{card.title}: {op.name}, {dtype}, against float64"
    current().emit(pieces.Table(rows, ["path", "largest error", "time", "first call"], title))
    if reasons:
        print("\n".join(reasons))
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
    exponents = {label: fit(of) for label, of in medians.items()}
    _show_cost(medians, exponents, claimed, unit)
    return pieces.Measured(seconds=medians, exponent=exponents)


def fit(times: Mapping[int, float]) -> tuple[float, float, float]:
    """Slope of log time over log n, with the ends of its 95 % confidence interval (Student's t).

    The interval is infinite with two sizes; with one, everything is NaN.
    """
    if len(times) < 2:
        return (float("nan"),) * 3
    x, y = np.log(np.array(list(times))), np.log(np.array(list(times.values())))
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    freedom = len(times) - 2
    if freedom == 0:
        return slope, float("-inf"), float("inf")
    from scipy.stats import t

    rest = y - y.mean() - slope * x
    half = float(t.ppf(0.975, freedom) * np.sqrt(rest @ rest / freedom / (x @ x)))
    return slope, slope - half, slope + half


def draw_inputs(op: Any, n: int, dtype: str = "float32", **sizes: Any) -> dict[str, Any]:
    """Keyword arguments of size n from the operation's example and the run's seed.

    What the operation's `prepare` builds (an index, a cache) is built and filled in.
    """
    seed = current().seed
    drawn = op.sample(n, seed=seed, dtype=dtype, **sizes)
    if op.prepare:
        maker = op.exhibit.operation(op.prepare)
        known = {k: v for k, v in sizes.items() if k in maker.sizes or maker.option(k)}
        made = op.exhibit.run(maker.name, **maker.sample(n, seed=seed, dtype=dtype, **known))
        for spec in op.arguments:
            if spec.keyword not in drawn and hasattr(made, spec.keyword):
                drawn[spec.keyword] = getattr(made, spec.keyword)
    return drawn


def as_dtype(value: Any, dtype: str) -> Any:
    """`value` with every floating-point array in it as `dtype`; lists and mappings are entered."""
    if isinstance(value, Mapping):
        return {key: as_dtype(item, dtype) for key, item in value.items()}
    if isinstance(value, list) and any(not np.isscalar(item) for item in value):
        return [as_dtype(item, dtype) for item in value]
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value.astype(dtype, copy=False)
    return value


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
        return lambda n: _caller(card, op.name, backend, draw_inputs(op, n, dtype, **sizes))

    return {backend: maker(backend) for backend in backends}


def _difference(exact: Any, out: Any) -> tuple[float, str]:
    """Largest absolute difference over all outputs, and the output it is in (where there are several)."""
    worst, where = 0.0, ""
    for name in exact._fields:
        error = _distance(getattr(exact, name), getattr(out, name))
        if error > worst or not np.isfinite(error):
            worst, where = error, name
    several = sum(value is not None for value in exact) > 1
    return worst, where if several else ""


def _distance(exact: Any, got: Any) -> float:
    if exact is None:
        return 0.0
    if isinstance(exact, Mapping):
        return max((_distance(exact[key], got[key]) for key in exact), default=0.0)
    if isinstance(exact, list):
        if len(exact) != len(got):
            return float("inf")
        return max((_distance(a, b) for a, b in zip(exact, got)), default=0.0)
    left = np.asarray(exact)
    right = np.asarray(got.detach().cpu() if hasattr(got, "detach") else got)
    if left.shape != right.shape:
        return float("inf")
    if left.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(left, right) else float("inf")
    # Equal infinities (a masked score) are no difference.
    with np.errstate(invalid="ignore"):
        gap = np.abs(left.astype(float) - right.astype(float))
    same = (left == right) | (_isnan(left) & _isnan(right))
    return float(np.where(same, 0.0, gap).max(initial=0.0))


def _isnan(values: np.ndarray) -> Any:
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)


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
