"""How the cpu paths grow with n, and how far they are ahead of plain attention.

    python benchmarks/scaling.py [NAME…]

lightning, based    time exponent within 1.0 ± 0.1 from 1k to 64k; 5 times faster than attention at 16k
routing             within 1.5 ± 0.15, clusters = window = sqrt(n)
hyper_attention     within 1.1 ± 0.2 from 8k (its recursion is short below); 3 times faster than
                    attention at 64k, causal
landmark            its cached step: with blocks of sqrt(n) tokens within 0.5 ± 0.15, with a fixed
                    block at most 1 (a constant K b and a slope of 1/b)

float32, 8 heads, dim 64, attention causal where the other is. Exponents carry their 95 % interval; the
limit is on the fitted value. About 6 minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import figures

LINEAR = [1024 * 2**i for i in range(7)]  # 1k … 64k
LONG = LINEAR[3:]  # from where hyper_attention's card claims an exponent: 8k
SQUARES = [n * n for n in (32, 48, 64, 96, 128, 181, 256)]
STEP = [4096 * 2**i for i in range(7)]  # tokens in the cache: 4k … 256k


def maker(
    exhibit: str, operation: str | None = None, causal: bool | None = None
) -> Callable[..., Any]:
    """make(n, **sizes) -> a call of the cpu path."""
    from attnlab import registry
    from attnlab.bench.inputs import Target, caller, draw, prepare, sizes_of

    target = Target(exhibit, registry.find(exhibit).operation(operation).name, causal)

    def make(n: int, **sizes: Any) -> Callable[[], Any]:
        chosen = sizes_of(target, sizes)
        made, _ = prepare(target, "numba", n, "float32", 0, chosen)
        return caller(target, "numba", made | draw(target, n, "float32", 0, chosen), device=False)

    return make


def growth(
    table: figures.Figures,
    what: str,
    make: Callable[[int], Callable[[], Any]],
    ns: Sequence[int],
    claim: float,
    margin: float,
    at_most: bool = False,
) -> dict[int, float]:
    """Medians by n; the exponent goes into the table."""
    from attnlab.bench.fit import exponent
    from attnlab.bench.timing import time_calls

    timed = time_calls({n: make(n) for n in ns}, repeat=7)
    medians = {n: t.median for n, t in timed.items()}
    for n, seconds in medians.items():
        print(f"    n = {n:>8}  {seconds * 1e3:10.3f} ms")
    found = exponent(ns, list(medians.values()))
    holds = found.slope <= claim + margin and (at_most or found.slope >= claim - margin)
    limit = f"<= {claim + margin:g}" if at_most else f"{claim:g} ± {margin:g}"
    note = f"[{found.low:.2f}, {found.high:.2f}] over n = {ns[0]} … {ns[-1]}"
    table.add(f"{what}: time exponent", found.slope, limit, holds, note)
    return medians


def ahead(
    table: figures.Figures, exhibit: str, n: int, causal: bool | None, limit: float, repeat: int
) -> None:
    """How many times faster than attention, both interleaved."""
    from attnlab import registry
    from attnlab.bench.fit import ratio
    from attnlab.bench.timing import time_calls

    looks_back = bool(causal) or bool(registry.find(exhibit).headline.causal and causal is None)
    calls = {
        "attention": maker("attention", None, looks_back)(n),
        exhibit: maker(exhibit, None, causal)(n),
    }
    timed = time_calls(calls, repeat=repeat)
    found = ratio(timed["attention"].samples, timed[exhibit].samples)
    kind = "causal" if looks_back else "full"
    table.add(
        f"{exhibit}: times faster than attention ({kind}), n = {n}",
        found.value,
        f">= {limit:g}",
        found.value >= limit,
        f"[{found.low:.1f}, {found.high:.1f}]",
    )


def main() -> int:
    parser = figures.parser(__doc__)
    known = ("lightning", "based", "routing", "hyper_attention", "landmark")
    parser.add_argument(
        "names", nargs="*", choices=[*known, []], help=f"of {', '.join(known)}; all without"
    )
    asked = parser.parse_args()
    names = asked.names or known
    from attnlab.bench.machine import pin_threads

    import numba  # noqa: F401  isort: skip -- loaded before threads are pinned

    table = figures.start("Growth with n, cpu paths, float32", asked.threads)
    with pin_threads(asked.threads):
        for name in ("lightning", "based"):
            if name in names:
                growth(table, name, maker(name), LINEAR, 1.0, 0.1)
                ahead(table, name, 16384, None, 5, repeat=5)
        if "routing" in names:
            growth(table, "routing", maker("routing"), SQUARES, 1.5, 0.15)
        if "hyper_attention" in names:
            growth(table, "hyper_attention", maker("hyper_attention", None, True), LONG, 1.1, 0.2)
            ahead(table, "hyper_attention", 65536, True, 3, repeat=1)
        if "landmark" in names:
            step = maker("landmark", "step")
            growth(
                table,
                "landmark step, blocks of sqrt(n)",
                lambda n: step(n, block=round(n**0.5)),
                STEP,
                0.5,
                0.15,
            )
            growth(table, "landmark step, blocks of 51", step, STEP, 1.0, 0.0, at_most=True)
    return table.end(asked.json)


if __name__ == "__main__":
    sys.exit(main())
