"""Measures of agreement against the vectors, SciPy and definitions written out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from golden_models import case
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.contract import InputError
from attnlab.explain import agreement
from attnlab.explain.agreement import MEASURES, kendall_taus, matrix, rounded

VECTORS = st.integers(2, 12).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 5), min_size=n, max_size=n)] * 2)
)


@pytest.mark.parametrize("name", ["corr_plain", "corr_ties"])
def test_the_vectors(name: str) -> None:
    arrays = case(name)
    a, b = arrays["in/a"], arrays["in/b"]
    one = {"rtol": 1e-10, "atol": 1e-12}
    np.testing.assert_allclose(agreement.kendall_tau(a, b), arrays["out/kendall_tau"], **one)
    np.testing.assert_allclose(agreement.spearman(a, b), arrays["out/spearman_rho"], **one)
    np.testing.assert_allclose(agreement.pearson(a, b), arrays["out/pearson_r"], **one)
    weighted = [agreement.weighted_tau(a, b, alpha=alpha) for alpha in arrays["in/alphas"]]
    np.testing.assert_allclose(weighted, arrays["out/weighted_tau"], **one)
    for p, expected in ((0.5, "out/topk_p05"), (1.0, "out/topk_p10")):
        ours = [agreement.top_k_kendall(a, b, k=int(k), p=p) for k in arrays["in/ks"]]
        np.testing.assert_allclose(ours, arrays[expected], **one)
    k = min(np.count_nonzero(a), np.count_nonzero(b))
    assert k == arrays["out/topk_nonzero"][1]
    np.testing.assert_allclose(
        agreement.top_k_kendall(a, b, k=k), arrays["out/topk_nonzero"][0], **one
    )
    assert set(np.flatnonzero(agreement.top(a, 3))) == set(arrays["out/top3_a"])


@given(VECTORS)
@settings(deadline=None, max_examples=60)
def test_scipy_says_the_same(pair: tuple[list[int], list[int]]) -> None:
    a, b = (np.array(x, dtype=float) for x in pair)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        for name in ("kendall_tau", "spearman", "pearson", "weighted_tau"):
            assert math.isnan(MEASURES[name].function(a, b))
        return
    assert agreement.kendall_tau(a, b) == pytest.approx(scipy.stats.kendalltau(a, b).statistic)
    assert agreement.spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    assert agreement.pearson(a, b) == pytest.approx(scipy.stats.pearsonr(a, b).statistic)
    assert agreement.weighted_tau(a, b) == pytest.approx(scipy.stats.weightedtau(a, b).statistic)


def _overlap(first: list[int], second: list[int], p: float) -> float:
    n = len(first)
    shared = [len(set(first[:d]) & set(second[:d])) / d for d in range(1, n + 1)]
    return (1 - p) * sum(p ** (d - 1) * s for d, s in enumerate(shared, 1)) + p**n * shared[-1]


def _orders(x: np.ndarray) -> list[list[int]]:
    """Every way to break the ties of a ranking."""
    return [
        list(o) for o in itertools.permutations(range(len(x))) if (np.diff(x[list(o)]) <= 0).all()
    ]


def test_rank_biased_overlap_is_the_mean_over_broken_ties() -> None:
    for a, b in (
        ([4, 3, 2, 1], [4, 2, 3, 1]),
        ([2, 2, 1, 0], [0, 1, 1, 1]),
        ([1, 1, 1, 1], [3, 2, 1, 0]),
    ):
        x, y = np.array(a, float), np.array(b, float)
        each = [_overlap(i, j, 0.8) for i in _orders(x) for j in _orders(y)]
        assert agreement.rank_biased_overlap(x, y, p=0.8) == pytest.approx(np.mean(each))


def test_jaccard_of_the_top() -> None:
    a, b = np.array([5, 4, 3, 2, 1.0]), np.array([5, 1, 3, 2, 4.0])
    assert agreement.jaccard(a, b, k=2) == pytest.approx(1 / 3)
    assert agreement.jaccard(a, b, k=50) == 1


def test_every_measure_of_a_vector_with_itself_is_one() -> None:
    ties, distinct = np.array([0.3, -1, 0.3, 2, 0, 5, 1.5]), np.array([0.3, -1, 0.4, 2, 0, 5, 1.5])
    assert agreement.rank_biased_overlap(distinct, distinct) == pytest.approx(1)
    assert agreement.rank_biased_overlap(ties, ties) < 1
    for name, measure in MEASURES.items():
        x = distinct if name == "rank_biased_overlap" else ties
        assert measure.function(x, x) == pytest.approx(1), name


def test_the_compiled_kernel_and_numpy_are_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, (2, 50, 23)).astype(float)
    a[3] = 1.0
    plain = kendall_taus(a, b)
    monkeypatch.setattr(agreement, "SMALL", 0)
    np.testing.assert_allclose(kendall_taus(a, b), plain, atol=1e-12)
    assert np.isnan(plain[3])


def test_equal_in_exact_arithmetic_is_a_tie() -> None:
    a = np.array([0.1 + 0.2, 0.3, 1.0])
    assert len(np.unique(a)) == 3
    assert len(np.unique(rounded(a))) == 2
    tiny = np.array([0.0, 5e-324, 1e-320, 1e300, np.inf])
    np.testing.assert_allclose(rounded(tiny), tiny, rtol=1e-11)
    assert np.isnan(rounded(np.array([np.nan]))).all()


def test_a_matrix_shows_what_is_undefined() -> None:
    scores = np.array([[1.0, 2, 3], [3, 2, 1], [1, 1, 1], [np.nan, 1, 2]])
    for name in MEASURES:
        table = matrix(scores, name)
        np.testing.assert_array_equal(table, table.T)
        assert table[0, 0] == pytest.approx(1)
        assert np.isnan(table[3]).all()
    tau = matrix(scores)
    assert tau[0, 1] == -1
    assert np.isnan(tau[2]).all()
    assert np.isnan(matrix(np.ones((2, 1)))).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: agreement.kendall_tau([1, 2], [1, 2, 3]), r"\(2,\) and \(3,\)"),
        (lambda: agreement.spearman([1, np.nan], [1, 2]), "a must be finite"),
        (lambda: agreement.jaccard([1, 2], [1, np.inf]), "b must be finite"),
        (lambda: agreement.top_k_kendall([1, 2], [1, 2], k=0), "k must be at least 1"),
        (lambda: agreement.top_k_kendall([1, 2], [1, 2], p=0), r"p must be in \(0, 1\]"),
        (lambda: agreement.rank_biased_overlap([1, 2], [1, 2], p=1), r"p must be in \(0, 1\)"),
        (lambda: matrix(np.ones((2, 3)), "kendal_tau"), "did you mean kendall_tau"),
    ],
)
def test_bad_input_is_refused(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()  # type: ignore[operator]
