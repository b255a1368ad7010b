"""Pictures of characters, and their relatives in matplotlib."""

import io

import numpy as np
import pytest
from rich.console import Console

from attnlab import draw
from attnlab.lesson import plots


def shown(picture, width=60, **console) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, **console).print(picture)
    return stream.getvalue()


def test_shades_follow_the_values():
    lines = shown(draw.heat(np.array([[0.0, 0.5], [1.0, 0.0]]))).splitlines()
    assert lines[0].rstrip() == "  ▒▒"
    assert lines[1].rstrip() == "██"


def test_a_heat_map_has_colours_only_where_they_are_wanted(monkeypatch):
    colour = {"force_terminal": True, "color_system": "truecolor"}
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "48;2;" in shown(draw.heat(np.eye(4)), **colour)
    monkeypatch.setenv("NO_COLOR", "1")
    text = shown(draw.heat(np.eye(4)), **colour)
    assert "48;2;" not in text
    assert "██" in text


@pytest.mark.parametrize("shape", [(3, 200), (200, 3), (300, 300), (1, 1)])
@pytest.mark.parametrize("width", [40, 60, 100])
def test_large_matrices_are_pooled_to_fit(shape, width):
    matrix = np.random.default_rng(0).random(shape)
    for console in ({}, {"force_terminal": True, "color_system": "truecolor", "no_color": False}):
        text = shown(draw.heat(matrix), width=width, **console)
        plain = [line for line in text.splitlines() if "\x1b" not in line]
        assert max(map(len, plain), default=0) <= width
        assert len(text.splitlines()) <= 52
    if shape == (300, 300):
        assert "mean of" in text


def test_pooling_is_a_mean_that_leaves_nan_out():
    matrix = np.array([[1.0, 3.0, 5.0], [np.nan, 3.0, np.nan]])
    pooled, down, across = draw._pool(matrix, 1, 2)
    assert (down, across) == (2, 2)
    np.testing.assert_allclose(pooled, [[7 / 3, 5.0]])


def test_names_stand_at_rows_and_columns():
    text = shown(draw.heat(np.eye(2), rows=["query one", "q2"], cols=["ab", "c"], title="T"))
    assert "T\n" in text
    assert "query one ██" in text
    assert text.splitlines()[1].strip() == "a"


def test_series_differ_by_marker():
    text = shown(draw.lines({"dense": [1, 4, 16], "linear": [1, 2, 4]}, x=[1, 2, 4], logx=True))
    for name, marker in (("dense", "●"), ("linear", "▲")):
        assert f"{marker} {name}" in text
        assert text.count(marker) > 1


def test_logarithmic_axes_make_powers_straight():
    x = 2.0 ** np.arange(8)
    text = shown(draw.lines({"": (x, x**2)}, logx=True, logy=True))
    rows = [(i, line.index("●")) for i, line in enumerate(text.splitlines()) if "●" in line]
    lines, columns = np.array(rows[:-1]).T  # the last one is the key below the plot
    straight = np.polyval(np.polyfit(columns, lines, 1), columns)
    assert len(lines) == 8
    assert abs(lines - straight).max() <= 0.6  # half a line of rounding, and a little


def test_unplottable_points_are_left_out():
    assert "no finite points" in shown(draw.lines({"a": [0.0, -1.0]}, logy=True))
    assert "●" in shown(draw.lines({"a": [np.nan, 1.0, 2.0]}))
    with pytest.raises(ValueError, match="shape"):
        draw.lines({"a": [1, 2, 3]}, x=[1, 2])


def test_bars_are_in_proportion():
    text = shown(draw.bars({"a": 10.0, "b": 5.0, "none": 0.0}, "Title", unit="ms"))
    counts = {line.split()[0]: line.count("█") for line in text.splitlines()[1:]}
    assert abs(counts["a"] - 2 * counts["b"]) <= 1
    assert counts["none"] == 0
    assert "10 ms" in text


def test_a_figure_has_an_automatic_terminal_form():
    figure, axes = plots.subplots(1, 3)
    axes[0].imshow(np.eye(3))
    axes[1].bar(["x", "y"], [1.0, 2.0])
    axes[2].plot([1, 2, 3], [1, 4, 9], label="squares")
    text = shown(plots.terminal_form(figure))
    assert "██" in text
    assert "squares" in text
    plots.save(figure)


def test_dark_pictures_exchange_ink_and_paper():
    data, mime, dark = plots.save(plots.lines({"a": [1, 2]}, title="t"))
    assert mime == "image/svg+xml"
    assert plots.INK.encode() in data
    assert plots.INK.encode() not in dark
    assert plots.DARK[plots.INK].encode() in dark


def test_black_text_keeps_its_light_paper():
    figure, ax = plots.subplots()
    ax.text(0, 0, "black", color="black")
    assert plots.save(figure)[2] is None
