"""Attention rollout of the classification token on the cpu path: how it grows with the text.

    python benchmarks/rollout.py

Attention of 2 layers with one head over n tokens, float32, n from 1024 to 8192 (0.5 GiB at the end).
Every call reads maps that no cache holds any more, as a model's fresh ones are: calls go round copies
of 256 MiB together (small maps in cache would be read faster, and the exponent would show the cache).
Multiplying the layers' matrices costs n^3; the row of one token is a vector going down the layers.
Limit: a time exponent of 2.0 ± 0.15. The product of whole matrices by NumPy is shown beside it.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable

import figures
import numpy as np

SIZES = (1024, 1448, 2048, 2896, 4096, 5792, 8192)
WHOLE = (256, 512, 1024, 2048)
LAYERS = 2
CACHES = 2**28  # bytes, more than any cache holds


def attention(n: int) -> np.ndarray:
    """(1, layers, 1, n, n) rows that sum to 1."""
    drawn = np.random.default_rng(n).random((1, LAYERS, 1, n, n), dtype=np.float32)
    drawn /= drawn.sum(-1, keepdims=True)
    return drawn


def cold(call: Callable[..., np.ndarray], n: int) -> Callable[[], np.ndarray]:
    """`call` on another copy of the maps each time, so many that the caches have forgotten them."""
    first = attention(n)
    copies = itertools.cycle([first] + [first.copy() for _ in range(CACHES // first.nbytes)])
    return lambda: call(next(copies))


def by_products(maps: np.ndarray) -> np.ndarray:
    """The definition: multiply the matrices, then look at one row."""
    n = maps.shape[-1]
    product = np.eye(n, dtype=maps.dtype)
    for layer in range(maps.shape[1]):
        product = (maps[0, layer].mean(0) + np.eye(n, dtype=maps.dtype)) / 2 @ product
    return product[0]


def main() -> int:
    asked = figures.parser(__doc__).parse_args()
    from attnlab.bench.fit import exponent
    from attnlab.bench.machine import pin_threads
    from attnlab.bench.timing import time_calls
    from attnlab.kernels.cpu.attention_graph import rollout_row

    import numba  # noqa: F401  isort: skip -- loaded before threads are pinned

    table = figures.start("Rollout of one token, cpu path", asked.threads)
    with pin_threads(asked.threads):

        def slope(
            what: str, call: Callable[..., np.ndarray], ns: tuple[int, ...], limit: str
        ) -> None:
            timed = time_calls({n: cold(call, n) for n in ns}, repeat=9)
            for n, t in timed.items():
                print(f"    n = {n:>5}  {t.median * 1e3:9.3f} ms")
            found = exponent(ns, [timed[n].median for n in ns])
            holds = abs(found.slope - 2) <= 0.15 if limit else None
            note = f"[{found.low:.2f}, {found.high:.2f}] over n = {ns[0]} … {ns[-1]}"
            table.add(f"{what}: time exponent", found.slope, limit, holds, note)

        few = attention(256)
        error = float(np.abs(rollout_row(few)[0] - by_products(few)).max())
        table.add("error against the product of matrices, n = 256", error, "<= 1e-6", error <= 1e-6)
        slope("a row down the layers", rollout_row, SIZES, "2 ± 0.15")
        slope("the product of matrices", by_products, WHOLE, "")
    return table.end(asked.json)


if __name__ == "__main__":
    sys.exit(main())
