"""How calls are timed: first call apart, interleaved repeats, calibrated inner loops.

    time_paths("attention", ns=[256, 1024], backends=["numpy", "torch"])

Rounds go over all calls in a shuffled order, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# One sample lasts at least this long: shorter calls are repeated in an inner loop.
SAMPLE = 2e-3
# Calls shorter than this are preceded by one that is not timed: it wakes threads and warms caches
# that the other paths, running in between, have cooled.
WARM_BELOW = 20e-3


@dataclass
class Timed:
    """One call's times in seconds: the first call, and the samples (each the mean of `inner` calls)."""

    first: float | None = None
    inner: int = 1
    samples: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def quantiles(self) -> tuple[float, float]:
        """p20 and p80."""
        low, high = np.quantile(self.samples, (0.2, 0.8))
        return float(low), float(high)


@contextmanager
def no_collection() -> Iterator[None]:
    """Garbage is collected before, not during."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def once(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one call, and what it returned."""
    begun = time.perf_counter()
    out = call()
    return time.perf_counter() - begun, out


def calibrate(call: Callable[[], Any], seconds: float) -> int:
    """How many calls make a sample of at least SAMPLE seconds, given how long one took."""
    if seconds >= SAMPLE:
        return 1
    again, _ = once(call)  # the first estimate of a short call is mostly noise
    return max(1, min(1000, round(SAMPLE / max(min(seconds, again), 1e-7))))


def sample(call: Callable[[], Any], inner: int, warm: bool) -> float:
    """Seconds of one call, the mean of `inner` in a row."""
    if warm:
        call()
    begun = time.perf_counter()
    for _ in range(inner):
        call()
    return (time.perf_counter() - begun) / inner


def interleave(
    calls: Sequence[tuple[Callable[[], Any], Timed]],
    repeat: int,
    seed: int = 0,
    spent: Callable[[int, float], bool] | None = None,
) -> None:
    """Adds up to `repeat` samples to each, in rounds of shuffled order.

    `spent(index, seconds)` is told the seconds that a sample took and says whether that call has
    had enough; it gets at least one sample.
    """
    rng = np.random.default_rng(seed)
    open_ = set(range(len(calls)))
    with no_collection():
        for _ in range(repeat):
            for index in rng.permutation(len(calls)):
                if index not in open_:
                    continue
                call, timed = calls[index]
                last = timed.samples[-1] if timed.samples else timed.first or 0.0
                begun = time.perf_counter()
                timed.samples.append(sample(call, timed.inner, last < WARM_BELOW))
                if spent is not None and spent(int(index), time.perf_counter() - begun):
                    open_.discard(index)


def time_calls(
    calls: dict[Any, Callable[[], Any]], repeat: int = 7, seed: int = 0
) -> dict[Any, Timed]:
    """Interleaved times of any calls that take no argument, by name; the first call of each apart."""
    timed = {}
    for name, call in calls.items():
        first, _ = once(call)
        second, _ = once(call)
        timed[name] = Timed(first, calibrate(call, second))
    interleave([(calls[name], timed[name]) for name in calls], repeat, seed)
    return timed


def time_paths(
    exhibit: str,
    operation: str | None = None,
    *,
    ns: Sequence[int],
    backends: Sequence[str] = ("numba", "torch"),
    dtype: str = "float32",
    repeat: int = 7,
    seed: int = 0,
    **sizes: Any,
) -> dict[str, dict[int, Timed]]:
    """Interleaved times of one operation: {backend: {n: Timed}}.

    Sizes and options not given are the card's benchmark sizes. Raises InputError for unknown names,
    BackendUnavailable where a path cannot run here.
    """
    from attnlab import registry
    from attnlab.bench.inputs import Target, caller, draw, prepare

    op = registry.find(exhibit).operation(operation)
    target = Target(exhibit, op.name)
    chosen = dict(op.bench_sizes) | sizes
    calls: dict[tuple[str, int], Callable[[], Any]] = {}
    for n in ns:
        drawn = draw(target, n, dtype, seed, chosen)
        for backend in backends:
            made, _ = prepare(target, backend, n, dtype, seed, chosen)
            calls[backend, n] = caller(target, backend, made | drawn, device=False)
    timed = time_calls(calls, repeat, seed)
    return {b: {n: timed[b, n] for n in ns} for b in backends}
