"""Both wrappers over the registry."""

import time


def test_cost_of_callables_fits_and_shows(code):
    body = (
        "import time\n"
        "made = lesson.cost({'sleep': lambda n: lambda: time.sleep(n * 4e-4)}, [50, 100, 200, 400],"
        " claimed=1.0, repeat=3)\n"
        "slope, low, high = made['exponent']['sleep']\n"
        "print('slope is about 1:', abs(slope - 1) < 0.4 and low <= slope <= high)"
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
