"""Kendall's tau of many pairs of vectors on the cpu path against scipy.stats.kendalltau.

    python benchmarks/kendall.py

10 000 pairs of float64 vectors of length 64, half of them with ties; SciPy is called pair by pair, as
its interface asks, the two interleaved. Limits: at least 20 times faster, equal to 1e-12. Also shown:
the time a pair at other lengths, from the n^2 comparisons of short vectors to the sorting of long ones.
"""

from __future__ import annotations

import sys
from functools import partial

import figures
import numpy as np

PAIRS, LENGTH = 10_000, 64
OTHERS = (16, 256, 1024, 4096)


def pairs(count: int, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Related score vectors; every second pair is rounded, so that it has ties."""
    a = rng.standard_normal((count, n))
    b = a + rng.standard_normal((count, n))
    a[::2], b[::2] = np.round(a[::2], 1), np.round(b[::2], 1)
    return a, b


def main() -> int:
    asked = figures.parser(__doc__).parse_args()
    from scipy.stats import kendalltau

    from attnlab.bench.fit import ratio
    from attnlab.bench.machine import pin_threads
    from attnlab.bench.timing import time_calls
    from attnlab.kernels.cpu.kendall import kendall_tau

    import numba  # noqa: F401  isort: skip -- loaded before threads are pinned

    table = figures.start("Kendall's tau, cpu path", asked.threads)
    rng = np.random.default_rng(0)
    a, b = pairs(PAIRS, LENGTH, rng)
    with pin_threads(asked.threads):
        ours = kendall_tau(a, b)
        theirs = np.array([kendalltau(x, y).statistic for x, y in zip(a, b)])
        error = float(np.abs(ours - theirs).max())
        table.add(f"{PAIRS} pairs of length {LENGTH}: error", error, "<= 1e-12", error <= 1e-12)
        timed = time_calls(
            {
                "scipy": lambda: [kendalltau(x, y).statistic for x, y in zip(a, b)],
                "ours": partial(kendall_tau, a, b),
            },
            repeat=5,
        )
        found = ratio(timed["scipy"].samples, timed["ours"].samples)
        table.add(
            "times faster than scipy.stats.kendalltau",
            found.value,
            ">= 20",
            found.value >= 20,
            f"[{found.low:.0f}, {found.high:.0f}]; {timed['ours'].median * 1e3:.1f} ms",
        )
        for n in OTHERS:
            few = 200_000 // n
            each = time_calls({n: partial(kendall_tau, *pairs(few, n, rng))}, repeat=5)[n]
            table.add(f"length {n}: µs a pair", each.median / few * 1e6, "", None)
    return table.end(asked.json)


if __name__ == "__main__":
    sys.exit(main())
