"""Intervals that cover, tests that keep their level, corrections worked by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from attnlab.explain.statistics import Paired, Running, holm, mean, paired_test


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        found = mean(rng.exponential(1.0, 60), seed=trial, resamples=300)
        hits += found.low <= 1.0 <= found.high
    assert 0.86 <= hits / 200 <= 0.99


def test_the_interval_is_as_wide_as_the_t_interval() -> None:
    values = np.random.default_rng(1).normal(3, 2, 200)
    found = mean(values)
    half = stats.t.ppf(0.975, 199) * values.std(ddof=1) / 200**0.5
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.15)


def test_undefined_values_are_counted_not_averaged() -> None:
    found = mean([1.0, np.nan, 3.0, np.inf])
    assert (found.value, found.n, found.undefined) == (2.0, 2, 2)
    nothing = mean([np.nan])
    assert nothing.n == 0
    assert str(nothing) == "–"
    single = mean([4.0])
    assert np.isnan(single.low)
    assert str(single) == "4.000"


def test_seeds_are_averaged_and_texts_resampled() -> None:
    rng = np.random.default_rng(2)
    texts = rng.normal(size=100)
    found = mean(texts + 0.1 * rng.normal(size=(3, 100)))
    assert (found.n, found.seeds) == (100, 3)
    assert found.value == pytest.approx(texts.mean(), abs=0.05)


def test_a_stream_gives_what_the_array_gives() -> None:
    values = np.random.default_rng(3).normal(size=(50, 2))
    running = Running(2)
    for row in values:
        running.add(row)
    first, second = running.means()
    assert first == mean(values[:, 0])
    assert second == mean(values[:, 1])


def test_the_paired_test_is_the_exact_sign_flip_test() -> None:
    a = np.array([3.1, 2.2, 4.5, 1.0, 2.8, 3.3, 0.4, 1.9])
    b = np.array([2.0, 2.5, 3.0, 0.2, 2.9, 1.1, 0.9, 0.3])
    difference = a - b
    sums = [abs(np.dot(s, difference)) for s in itertools.product((1, -1), repeat=8)]
    exact = np.mean([s >= abs(difference.sum()) - 1e-12 for s in sums])
    found = paired_test(a, b)
    assert found.p == pytest.approx(exact, abs=0.02)
    assert found.value == pytest.approx(difference.mean())
    wilcoxon = stats.wilcoxon(a, b).pvalue
    assert abs(found.p - wilcoxon) < 0.1


def test_the_paired_test_keeps_its_level() -> None:
    rng = np.random.default_rng(4)
    ps = [paired_test(*rng.normal(size=(2, 15)), seed=i).p for i in range(150)]
    assert np.mean(np.array(ps) < 0.1) < 0.18
    assert paired_test(np.ones(5), np.ones(5)).p == 1.0


def test_all_pairs_are_corrected_together() -> None:
    rng = np.random.default_rng(5)
    paired = Paired(["low", "high", "same"])
    for _ in range(60):
        x = rng.normal()
        paired.add(np.array([x, x + 1 + 0.2 * rng.normal(), x + 0.05 * rng.normal()]))
    paired.add(np.array([0.0, 1.0, np.nan]))
    tests = {(t.a, t.b): t for t in paired.tests()}
    assert tests["low", "high"].n == 61
    assert tests["low", "same"].n == 60
    assert tests["low", "high"].value == pytest.approx(-1, abs=0.1)
    assert tests["low", "high"].adjusted < 0.001
    assert tests["low", "same"].adjusted > 0.05
    assert all(t.adjusted >= t.p for t in tests.values())


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(
        holm([0.01, 0.04, 0.03, np.nan, 0.005]), [0.03, 0.06, 0.06, np.nan, 0.02]
    )
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])
