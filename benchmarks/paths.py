"""Every cpu path against its NumPy reference and its torch path, at the sizes of `bench`'s default.

    python benchmarks/paths.py [NAME…] [--ns 64,256,1024,4096]

Against NumPy at least 3 times, or at least 1 time where over 70 % of the operations are matrix products
by the card's Cost (the share is printed). Against torch a geometric mean of at least 1.0 and no point
under 0.8. What is timed is the path's own function: the check of the arguments that every public call
begins with is the same for all paths and has a column of its own. Calls of one size are interleaved;
the reference is left out where a call would take over --limit seconds. float32.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

import figures

BLAS = 0.7


def main() -> int:
    from attnlab.bench.settings import DEFAULT_SIZES

    parser = figures.parser(__doc__)
    parser.add_argument("names", nargs="*", help="exhibits; all without")
    parser.add_argument("--ns", default=",".join(map(str, DEFAULT_SIZES)), help="sizes")
    parser.add_argument("--limit", type=float, default=2.0, help="seconds of one reference call")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--headline", action="store_true", help="one operation an exhibit")
    asked = parser.parse_args()
    ns = sorted(int(n) for n in asked.ns.split(","))
    from attnlab import registry
    from attnlab.bench.machine import pin_threads

    import numba  # noqa: F401  isort: skip -- loaded before threads are pinned
    import torch  # noqa: F401  isort: skip

    table = figures.start("cpu paths against NumPy and torch: times faster", asked.threads)
    every: list[float] = []
    with pin_threads(asked.threads):
        for exhibit, operation in figures.operations(asked.names):
            if asked.headline and operation != registry.find(exhibit).headline.name:
                continue
            every += one(table, exhibit, operation, ns, asked.limit, asked.repeat)
    if every:
        mean = figures.geometric_mean(every)
        table.add("all against torch: geometric mean", mean, ">= 1", mean >= 1)
    return table.end(asked.json)


def one(
    table: figures.Figures, exhibit: str, operation: str, ns: list[int], limit: float, repeat: int
) -> list[float]:
    """Prints one operation's sizes and adds its figures; the ratios against torch."""
    from attnlab.bench import inputs
    from attnlab.bench.timing import once, time_calls
    from attnlab.checks import check

    target = inputs.Target(exhibit, operation)
    sizes = inputs.sizes_of(target, {})
    paths = [b for b in ("numpy", "numba", "torch") if b in target.op.paths]
    ratios: dict[str, dict[int, float]] = {"numpy": {}, "torch": {}}
    share, open_ = None, set(paths)
    print(f"\n{target.title}")
    for n in ns:
        calls: dict[str, Any] = {}
        given: dict[str, Any] = {}
        try:
            drawn = inputs.draw(target, n, "float32", 0, sizes)
            for backend in paths:
                if backend not in open_:
                    continue
                made, _ = inputs.prepare(target, backend, n, "float32", 0, sizes)
                call = unchecked(target, backend, made | drawn)
                call()
                took = once(call)[0]
                if took * 4 > limit:  # four times the size is next, and may take more than that
                    open_.discard(backend)
                calls[backend], given = call, made | drawn
                share = inputs.cost(target, n, made | drawn, "float32").blas
        except Exception as error:
            print(f"    n = {n:>6}  {type(error).__name__}: {error}")
            continue
        if "numba" not in calls:
            break
        timed = time_calls(calls, repeat)
        checks = time_calls({"check": functools.partial(check, target.op, given)}, repeat)
        line = f"    n = {n:>6}  check {checks['check'].median * 1e3:6.3f} ms"
        for backend, t in timed.items():
            line += f"  {backend} {t.median * 1e3:9.3f} ms"
            if backend != "numba":
                ratios[backend][n] = t.median / timed["numba"].median
                line += f" ({ratios[backend][n]:5.2f} x)"
        print(line, flush=True)
    blas = share is not None and share > BLAS
    least = 1.0 if blas else 3.0
    if ratios["numpy"]:
        worst = min(ratios["numpy"], key=lambda n: ratios["numpy"][n])
        seen = ratios["numpy"][worst]
        note = (
            f"at n = {worst}; BLAS share {share:.0%}"
            if share is not None
            else f"at n = {worst}; BLAS share unknown"
        )
        table.add(f"{target.title} / numpy, least", seen, f">= {least:g}", seen >= least, note)
    if ratios["torch"]:
        worst = min(ratios["torch"], key=lambda n: ratios["torch"][n])
        mean = figures.geometric_mean(ratios["torch"].values())
        table.add(f"{target.title} / torch, geometric mean", mean, ">= 1", mean >= 1)
        seen = ratios["torch"][worst]
        table.add(f"{target.title} / torch, least", seen, ">= 0.8", seen >= 0.8, f"at n = {worst}")
    return list(ratios["torch"].values())


def unchecked(target: Any, backend: str, given: dict[str, Any]) -> Callable[[], Any]:
    """The path's own function on arrays that the contract has checked and converted once."""
    from attnlab import registry
    from attnlab.checks import convert

    public = registry.find(target.exhibit).function(target.operation, backend)
    own = inspect.unwrap(public)
    checked, _ = convert(target.op, given, backend)
    wanted: dict[str, Any] = (
        {"want": frozenset()} if "want" in inspect.signature(own).parameters else {}
    )
    return lambda: own(**checked, **wanted)


if __name__ == "__main__":
    sys.exit(main())
