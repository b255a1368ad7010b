"""What the points of a run say together: growth, claims, crossovers, shares of the machine's rates."""

from __future__ import annotations

from dataclasses import dataclass

from attnlab.bench import fit
from attnlab.bench.fit import Crossover, Exponent
from attnlab.bench.inputs import Target
from attnlab.bench.machine import Rates
from attnlab.bench.plan import baseline_of
from attnlab.bench.records import Point, Results
from attnlab.bench.settings import headline_size

OVERHEAD = 0.5  # a point with more fixed cost than this says nothing about growth
SMALLEST_PEAK = 2**20  # bytes: below, pages and counters of the system are what is seen


@dataclass(frozen=True)
class Growth:
    """A fitted exponent beside the card's claim; `used` are the sizes it rests on.

    Where they reach below `claimed_from` the claim is not judged.
    """

    fitted: Exponent
    used: tuple[int, ...]
    left_out: tuple[int, ...]
    claim: float | None
    verdict: str
    claimed_from: int = 0


@dataclass(frozen=True)
class Summary:
    """One series: an operation on a backend."""

    target: Target
    backend: str
    time: Growth | None
    memory: Growth | None
    versus: Crossover | None
    headline: float | None  # seconds at the preset's headline size


@dataclass(frozen=True)
class Shares:
    """Of the machine's measured rates; `bound` names what limits the call."""

    flops: float | None
    bytes: float | None
    of_flops: float | None
    of_bytes: float | None
    bound: str


def shares(point: Point, rates: Rates, dtype: str) -> Shares:
    """FLOP/s and bytes/s of a point, and what they are of what this machine was seen to reach.

    A call that is mostly fixed cost is bound by overhead; else by that of the two rates it uses the
    larger share of.
    """
    flops = point.flops / point.median if point.flops else None
    traffic = point.bytes / point.median if point.bytes else None
    of_flops = flops / rates.flops(dtype) if flops else None
    of_bytes = traffic / rates.copy if traffic else None
    if point.overhead > OVERHEAD:
        bound = "overhead"
    elif of_flops is None and of_bytes is None:
        bound = ""
    else:
        bound = "compute" if (of_flops or 0) >= (of_bytes or 0) else "memory"
    return Shares(flops, traffic, of_flops, of_bytes, bound)


def growth(
    sizes: list[int],
    values: list[float],
    usable: list[bool],
    claim: float | None,
    claimed_from: int = 0,
) -> Growth | None:
    """The exponent over the tail of the usable points; None with fewer than two."""
    kept = fit.tail(sizes, usable)
    if len(kept) < 2:
        return None
    fitted = fit.exponent([sizes[i] for i in kept], [values[i] for i in kept])
    left = tuple(n for n, good in zip(sizes, usable) if not good)
    used = tuple(sizes[i] for i in kept)
    word: str = "" if claim is None else fit.verdict(fitted, claim)
    if claim is not None and min(used) < claimed_from:
        word = "not judged"
    return Growth(fitted, used, left, claim, word, claimed_from)


def targets_of(results: Results) -> list[Target]:
    """What was timed, added baselines last."""
    return sorted(dict.fromkeys(p.target for p in results.points), key=lambda t: t.baseline)


def summarise(results: Results) -> list[Summary]:
    """One summary for each series that has a measured point, in the order of the plan."""
    targets = targets_of(results)
    order = sorted(dict.fromkeys(p.series for p in results.points), key=lambda s: s[0].baseline)
    headline = headline_size(results.settings)
    found = []
    for target, backend in order:
        points = [p for p in results.of(target, backend) if p.measured]
        if not points:
            continue
        ns, card = [p.n for p in points], target.op.cost
        # a card's claim is of the idea; the plain reference in NumPy keeps whatever is easiest to read
        claims = (
            (card.exponent, card.memory_exponent) if card and backend != "numpy" else (None,) * 2
        )
        timed = growth(
            ns,
            [p.median for p in points],
            [p.overhead <= OVERHEAD for p in points],
            claims[0],
            card.holds_from if card else 0,
        )
        peaks = [p for p in points if p.peak is not None]
        memory = growth(
            [p.n for p in peaks],
            [float(max(p.peak or 1, 1)) for p in peaks],
            [(p.peak or 0) >= SMALLEST_PEAK for p in peaks],
            claims[1],
        )
        found.append(
            Summary(
                target,
                backend,
                timed,
                memory,
                _versus(results, points, target, backend, targets),
                next((p.median for p in points if p.n == headline), None),
            )
        )
    return found


def _versus(
    results: Results, points: list[Point], target: Target, backend: str, targets: list[Target]
) -> Crossover | None:
    baseline = baseline_of(target, targets)
    if baseline is None:
        return None
    theirs = {p.n: p for p in results.of(baseline, backend) if p.measured}
    common = [p for p in points if p.n in theirs]
    if not common:
        return None
    return fit.crossover(
        [p.n for p in common], [p.samples for p in common], [theirs[p.n].samples for p in common]
    )
