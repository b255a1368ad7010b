"""`attnlab explain image` as a user runs it: files, digits, outputs, errors."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def attnlab(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "attnlab", "explain", "image", *args],
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "80"} | env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=280,
    )


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """A colour photo of sorts: a black 1 on white paper, not square."""
    paper = np.full((60, 90, 3), 255, np.uint8)
    paper[8:52, 40:50] = 10
    Image.fromarray(paper).save(tmp_path / "one.png")
    return tmp_path / "one.png"


def test_a_file_is_resized_inverted_and_explained(drawn: Path, tmp_path: Path) -> None:
    html, plot = tmp_path / "page.html", tmp_path / "maps.png"
    done = attnlab(str(drawn), "--invert", "--html", str(html), "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    assert "prediction: 1" in done.stdout
    for title in ("image", "relevance (LRP)", "Salient Relevance", "saliency of the image"):
        assert title in done.stdout
    shown = [line for line in done.stdout.splitlines() if str(tmp_path) not in line]
    assert max(map(len, shown)) <= 80  # a path is never broken
    with Image.open(plot) as picture:
        assert picture.size[0] > 1000
    page = html.read_text(encoding="utf-8")
    (inside,) = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    assert base64.b64decode(inside).startswith(b"\x89PNG")
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "one.png" in page


def test_digits_as_json() -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn (extra images)")
    done = attnlab("--digits", "7", "--digits", "30", "--json")
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)["images"]
    assert (first["label"], first["prediction"]) == ("7", "7")
    assert second["source"] == "digit 30"
    relevance, sr_map = np.array(first["relevance"]), np.array(first["sr_map"])
    assert relevance.shape == (1, 24, 24)
    assert sr_map.shape == (24, 24)
    assert 0 <= sr_map.min() < sr_map.max() < 1
    assert all(sr_map[y, x] > 0 for y, x in first["foci"])
    np.testing.assert_allclose(sum(first["probabilities"].values()), 1, rtol=1e-5)
    totals = first["relevance_totals"]
    np.testing.assert_allclose(totals["before layer 0 (conv)"], relevance.sum(), rtol=1e-4)
    np.testing.assert_allclose(  # z+ for linear layers conserves
        totals["before layer 7 (fc)"], max(first["logits"].values()), rtol=1e-4
    )


WRONG: list[tuple[list[str], str]] = [
    ([], "give an image FILE"),
    (["nothing.png"], "no file nothing.png"),
    (["text.png"], "text.png is no image"),
    (["FOLDER"], "cannot read"),
    (["--digits", "1797"], "1797 is outside 0..1796"),
    (["--digits", "seven"], "valid integer"),
    (["one.png", "--model", "nowhere"], "--model: nowhere: no image model there"),
    (["one.png", "--patch", "4"], "patch: 4 is even"),
    (["one.png", "--patch", "25"], "patch: 25 is larger than the image of 24 x 24"),
    (["one.png", "--unpool", "sum"], "option unpool must be one of"),
    (["one.png", "--backend", "nump"], "did you mean"),
    (["one.png", "--plot", "maps.txt"], "must end in .png"),
    (["one.png", "--html", "nowhere/page.html"], "--html: no folder nowhere"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_calls_get_one_line_and_exit_code_2(
    drawn: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    folder = drawn.parent
    monkeypatch.chdir(folder)
    (folder / "text.png").write_text("no image")
    if "--digits" in arguments:
        pytest.importorskip("sklearn", reason="the digits come with scikit-learn (extra images)")
    done = attnlab(*(str(folder) if a == "FOLDER" else a for a in arguments), COLUMNS="200")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert message in " ".join(done.stderr.split())


def test_without_scikit_learn_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "sklearn.py").write_text("raise ModuleNotFoundError(\"No module named 'sklearn'\")")
    done = attnlab("--digits", "1", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "pip install 'attnlab[images]'" in " ".join(done.stderr.split())
