"""The fit, the differences, and both wrappers over the registry."""

import time

import numpy as np
import pytest

from attnlab.lesson import measure


def test_fit_finds_the_exponent_of_a_power():
    slope, low, high = measure.fit({n: 3e-6 * n**1.5 for n in (64, 128, 256, 512)})
    assert slope == pytest.approx(1.5)
    assert low <= slope <= high
    assert high - low < 1e-6


def test_fit_interval_is_students():
    """95 % intervals of noisy powers contain the truth about 19 times in 20."""
    rng = np.random.default_rng(0)
    sizes = 2.0 ** np.arange(6, 12)
    inside = 0
    for _ in range(400):
        times = dict(zip(sizes, sizes**2 * np.exp(rng.normal(0, 0.2, 6))))
        _, low, high = measure.fit(times)
        inside += low <= 2 <= high
    assert 0.91 < inside / 400 < 0.99


def test_fit_of_few_points():
    assert measure.fit({2: 1.0, 4: 4.0}) == (pytest.approx(2.0), -np.inf, np.inf)
    assert all(np.isnan(part) for part in measure.fit({2: 1.0}))


def test_distance_sees_what_differs():
    assert measure._distance(np.array([1.0, -np.inf]), np.array([1.5, -np.inf])) == 0.5
    assert measure._distance(np.array([1.0]), np.array([np.nan])) != 0.0
    assert measure._distance(np.array([1, 2]), np.array([1, 2, 3])) == np.inf
    assert measure._distance({"a": [np.zeros(2)]}, {"a": [np.ones(2)]}) == 1.0
    assert measure._distance(np.array(["a"]), np.array(["b"])) == np.inf


def test_cost_of_callables_fits_and_shows(code):
    body = (
        "import time\n"
        "made = lesson.cost({'sleep': lambda n: lambda: time.sleep(n * 1e-4)}, [50, 100, 200, 400],"
        " claimed=1.0, repeat=3)\n"
        "slope, low, high = made['exponent']['sleep']\n"
        "print('slope is about 1:', abs(slope - 1) < 0.2 and low <= slope <= high)"
    )
    result, shown = code(body, quick=True)
    assert result.error is None
    assert [type(p).__name__ for p in result.cells[0].pieces] == [
        "Table", "Table", "Picture", "Printed",
    ]  # fmt: skip
    assert "slope is about 1: True" in shown
    assert "claimed" in shown


def test_cost_stops_a_line_that_is_too_slow(code):
    body = (
        "import time\n"
        "lesson.cost({'a': lambda n: lambda: time.sleep(n * 1e-3)}, [1, 200, 400], budget=1.0)"
    )
    begun = time.perf_counter()
    result, _ = code(body)
    assert 400 not in [row[0] for row in result.cells[0].pieces[0].rows]
    assert time.perf_counter() - begun < 8


def test_compare_runs_the_paths_of_an_exhibit(code):
    """Also: a path that differs shows its error, and one that cannot run its reason."""
    body = 'lesson.compare("attention", n=16, backends=["numpy", "torch"])'
    result, shown = code(body)
    assert result.error is None, result.error
    table = result.cells[0].pieces[0]
    assert [row[0] for row in table.rows] == ["numpy", "torch"]
    assert "against float64" in shown


def test_compare_takes_real_inputs(code):
    body = (
        "x = np.random.default_rng(0).normal(size=(1, 2, 5, 4))\n"
        'made = lesson.compare("attention", inputs={"q": x, "k": x, "v": x}, backends=["numpy"])\n'
        "assert made['numpy']['error'] < 1e-5"
    )
    assert code(body)[0].error is None


def test_unknown_exhibits_are_refused(code):
    assert "attention" in code('lesson.compare("atention")')[0].error.message
