"""No timing on a path that disagrees with the reference.

The reference runs in float64 on the same numbers. Where rounding can flip a choice (the nearest
centroid, the sign of a projection), float32 outputs may differ in a few places though the path is
right: then the path must agree in float64, and few elements may differ in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnlab import registry
from attnlab.bench.inputs import Target, prepare
from attnlab.bench.timing import once
from attnlab.contract import BackendUnavailable, as_dtype
from attnlab.flat import numpy_outputs

DOUBLE = 1e-9  # tolerance in float64, relative and absolute
FLIPPED = 0.05  # share of elements that a flipped choice may touch


@dataclass(frozen=True)
class Gate:
    """The verdict on one path; `first` are the seconds of its first call, compilation included."""

    ok: bool
    n: int
    error: float
    tolerance: float
    first: float | None = None
    note: str = ""

    def line(self) -> str:
        if self.note and not self.ok:
            return f"reference check FAILED: {self.note}"
        word = "OK" if self.ok else "FAILED"
        note = f"; {self.note}" if self.note else ""
        return (
            f"reference check {word}: max|Δ| = {self.error:.1e} (tol {self.tolerance:.1e}), "
            f"n = {self.n}{note}"
        )


class Reference:
    """The float64 outputs that the paths of one target are held against, and the inputs they share."""

    def __init__(self, target: Target, n: int, dtype: str, seed: int, sizes: Mapping[str, Any]):
        self.target, self.n, self.dtype = target, n, dtype
        made, _ = prepare(target, "numpy", n, dtype, seed, sizes)
        self.inputs = made | target.op.sample(n, seed, dtype, **sizes)
        self.exact = self.outputs("numpy", as_dtype(self.inputs, "float64"))[1]

    def outputs(self, backend: str, kwargs: dict[str, Any]) -> tuple[float, dict[str, np.ndarray]]:
        """Seconds of the call, and its outputs, flat."""
        function = registry.find(self.target.exhibit).function(self.target.operation, backend)
        seconds, result = once(lambda: function(**kwargs))
        return seconds, numpy_outputs(self.target.op.results, result)

    def check(self, backend: str) -> Gate:
        """The gate of one path. Raises BackendUnavailable where it cannot run here."""
        rtol, atol = self.target.op.tolerance if self.dtype == "float32" else (DOUBLE, DOUBLE)
        try:
            first, made = self.outputs(backend, self.inputs)
            error, tolerance, share, where = compare(made, self.exact, rtol, atol)
            if error <= tolerance:
                return Gate(True, self.n, error, tolerance, first)
            if self.dtype == "float32" and share <= FLIPPED:
                _, double = self.outputs(backend, as_dtype(self.inputs, "float64"))
                exact, limit, _, _ = compare(double, self.exact, DOUBLE, DOUBLE)
                if exact <= limit:
                    note = f"rounding to float32 flips choices ({share:.1%} of {where} differ)"
                    return Gate(True, self.n, exact, limit, first, f"in float64; {note}")
            return Gate(
                False,
                self.n,
                error,
                tolerance,
                first,
                f"{where}: max|Δ| = {error:.1e} (tol {tolerance:.1e}), n = {self.n}",
            )
        except BackendUnavailable:
            raise
        except Exception as problem:  # a path that raises is a red gate, not the end of the run
            words = " ".join(f"{type(problem).__name__}: {problem}".split())
            return Gate(False, self.n, np.inf, 0.0, None, words)


def compare(
    made: Mapping[str, np.ndarray], exact: Mapping[str, np.ndarray], rtol: float, atol: float
) -> tuple[float, float, float, str]:
    """Of the worst output: largest |Δ|, its tolerance atol + rtol max|exact|, the share of elements
    beyond it, and its name. Outputs that are no numbers must be equal."""
    if made.keys() != exact.keys():
        missing = sorted(made.keys() ^ exact.keys())
        return np.inf, atol, 1.0, f"outputs {', '.join(missing)}"
    worst = (0.0, atol, 0.0, "")
    for name, want in exact.items():
        got = made[name]
        if got.shape != want.shape:
            return np.inf, atol, 1.0, f"{name} (shape {got.shape}, not {want.shape})"
        if want.dtype.kind in "iub" and got.dtype.kind in "iub":
            wrong = got != want
            error, limit = (1.0 if wrong.any() else 0.0), 0.0
        elif want.dtype.kind != "f":
            wrong = np.asarray(got != want)
            error, limit = (np.inf if wrong.any() else 0.0), 0.0
        else:
            got, want = np.atleast_1d(got), np.atleast_1d(want)
            with np.errstate(invalid="ignore"):
                gap = np.abs(got.astype(np.float64) - want)
            gap[(got == want) | (np.isnan(got) & np.isnan(want))] = 0  # equal infinities are equal
            gap[np.isnan(gap)] = np.inf
            finite = np.abs(want[np.isfinite(want)])
            limit = atol + rtol * float(finite.max(initial=0.0))
            wrong, error = gap > limit, float(gap.max(initial=0.0))
        share = float(wrong.mean()) if wrong.size else 0.0
        if not worst[3] or _badness(error, limit) > _badness(worst[0], worst[1]):
            worst = (error, limit, share, name)
    return worst


def _badness(error: float, limit: float) -> float:
    """Error as a multiple of its tolerance; outputs that are exactly equal say the least."""
    return error / limit if limit else (np.inf if error else -1.0)
