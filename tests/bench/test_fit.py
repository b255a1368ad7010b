"""The statistics on synthetic data: planted exponents, crossings and differences are found."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attnlab.bench import compare, fit
from attnlab.bench.timing import Timed, interleave, time_calls

NS = [256, 512, 1024, 2048, 4096, 8192]


def noisy(
    times: list[float], spread: float = 0.02, samples: int = 15, seed: int = 0
) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    return [list(t * np.exp(spread * rng.standard_normal(samples))) for t in times]


@pytest.mark.parametrize("planted", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0])
def test_exponent_recovers_what_was_planted(planted: float) -> None:
    found = fit.exponent(NS, noisy([1e-9 * n**planted for n in NS]))
    assert found.low < planted < found.high
    assert abs(found.slope - planted) < 0.02
    assert found.high - found.low < 0.1


def test_exponent_interval_covers_the_truth_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        y = np.exp(1.5 * np.log(NS) + 0.1 * rng.standard_normal(len(NS)))
        found = fit.exponent(NS, y)
        hits += found.low < 1.5 < found.high
    assert 0.92 <= hits / 400 <= 0.98


def test_exponent_of_an_exact_law_is_exact() -> None:
    found = fit.exponent([1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0])
    assert found.slope == pytest.approx(2)
    assert found.high - found.low < 1e-9
    assert found.r2 == pytest.approx(1)


def test_two_sizes_have_no_interval_and_one_has_no_slope() -> None:
    two = fit.exponent([1, 2], [1.0, 4.0])
    assert two.slope == pytest.approx(2)
    assert (two.low, two.high) == (-math.inf, math.inf)
    assert math.isnan(fit.exponent([4], [1.0]).slope)
    assert fit.verdict(two, 2) == "undecided"


def test_exponent_refuses_what_has_no_logarithm() -> None:
    with pytest.raises(ValueError, match="positive"):
        fit.exponent([1, 2, 3], [1.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="3 sizes but 2 times"):
        fit.exponent([1, 2, 3], [1.0, 1.0])


def test_the_tail_leaves_out_what_is_unusable_and_what_is_small() -> None:
    ns = [64, 128, 256, 512, 1024, 2048, 4096]
    assert [ns[i] for i in fit.tail(ns)] == [256, 512, 1024, 2048, 4096]
    usable = [n >= 1024 for n in ns]
    assert [ns[i] for i in fit.tail(ns, usable)] == [1024, 2048, 4096]
    assert [ns[i] for i in fit.tail(ns, [n <= 128 for n in ns])] == [64, 128]
    # sizes far apart: three points rather than one
    assert fit.tail([64, 4096, 65536, 2**22]) == [1, 2, 3]


@pytest.mark.parametrize(
    ("interval", "word"),
    [
        ((1.95, 2.05), "PASS"),
        ((2.3, 2.5), "FAIL"),
        ((1.2, 1.5), "below"),
        ((1.7, 2.3), "undecided"),
        ((2.1, 2.2), "undecided"),
    ],
)
def test_verdict_on_a_claim_of_two(interval: tuple[float, float], word: str) -> None:
    low, high = interval
    assert fit.verdict(fit.Exponent((low + high) / 2, low, high, 1.0), 2.0) == word


def test_crossover_is_found_where_it_was_planted() -> None:
    # 1e-6 n^2 against 1e-3 n: they cross at n = 1000
    quadratic = noisy([1e-6 * n**2 for n in NS], seed=1)
    linear = noisy([1e-3 * n for n in NS], seed=2)
    found = fit.crossover(NS, linear, quadratic)
    assert found.where == "at"
    assert found.n is not None
    assert found.n.low < 1000 < found.n.high
    assert found.n.value == pytest.approx(1000, rel=0.05)
    assert found.largest == 8192
    assert found.speedup.low < 8.192 < found.speedup.high


def test_crossover_says_always_and_never() -> None:
    slow, fast = noisy([1e-3 * n for n in NS]), noisy([1e-4 * n for n in NS], seed=3)
    assert fit.crossover(NS, fast, slow).where == "always"
    never = fit.crossover(NS, slow, fast)
    assert never.where == "never"
    assert never.n is None
    assert never.speedup.value == pytest.approx(0.1, rel=0.05)


def test_crossover_in_noise_has_a_wide_interval() -> None:
    base = noisy([1.0] * len(NS), spread=0.3, seed=4)
    other = noisy([1.1, 1.05, 1.0, 0.99, 0.98, 0.97], spread=0.3, seed=5)
    found = fit.crossover(NS, other, base)
    if found.where == "at":
        assert found.n is not None
        assert found.n.high > 2 * found.n.low


def test_ratio_interval_holds_the_ratio() -> None:
    (slow,), (fast,) = noisy([3.0], samples=25), noisy([1.0], samples=25, seed=9)
    found = fit.ratio(slow, fast)
    assert found.low < 3 < found.high
    assert found.high - found.low < 0.2


@pytest.mark.parametrize(
    ("factor", "spread", "word"),
    [
        (1.0, 0.02, "no difference seen"),
        (0.5, 0.02, "faster"),
        (2.0, 0.02, "slower"),
        (1.01, 0.001, "no difference seen"),  # real, but smaller than two runs differ anyway
        (1.2, 0.5, "no difference seen"),  # lost in the noise
    ],
)
def test_comparison_is_noise_aware(factor: float, spread: float, word: str) -> None:
    (old,), (new,) = noisy([1.0], spread, seed=1), noisy([factor], spread, seed=2)
    assert compare.verdict(new, old)[1] == word


def test_equal_runs_hardly_ever_differ() -> None:
    words = [
        compare.verdict(*noisy([1.0, 1.0], 0.05, samples=9, seed=seed))[1] for seed in range(200)
    ]
    assert words.count("no difference seen") >= 190


def test_one_sample_decides_nothing() -> None:
    assert fit.ratio([2.0], [1.0, 1.1, 1.2]).high == math.inf
    found = fit.crossover([1, 2], [[3.0], [1.0]], [[2.0] * 5, [2.0] * 5])
    assert found.n is not None
    assert (found.n.low, found.n.high) == (0.0, math.inf)
    assert compare.verdict([1.0], [9.0, 9.1, 9.2])[1] == "too few samples"


def test_interleaving_takes_every_call_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnlab.bench.timing.WARM_BELOW", 0.0)  # no warming calls in between
    order: list[str] = []
    calls = [(lambda name=name: order.append(name), Timed(first=1.0)) for name in "abc"]
    interleave(calls, repeat=4)
    assert [sorted(order[i : i + 3]) for i in range(0, 12, 3)] == [["a", "b", "c"]] * 4
    assert len({tuple(order[i : i + 3]) for i in range(0, 12, 3)}) > 1  # shuffled
    assert all(len(timed.samples) == 4 for _, timed in calls)


def test_a_call_that_has_had_enough_stops_early() -> None:
    calls = [(lambda: None, Timed(first=1.0)) for _ in range(2)]
    interleave(calls, repeat=5, spent=lambda index, seconds: index == 0)
    assert [len(t.samples) for _, t in calls] == [1, 5]


def test_short_calls_are_repeated_in_an_inner_loop() -> None:
    timed = time_calls({"short": lambda: None}, repeat=3)["short"]
    assert timed.inner > 10
    assert timed.median < 1e-4
    assert len(timed.samples) == 3
