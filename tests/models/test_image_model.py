"""The image network: shipped weights, training, saving, and its agreement with the exhibit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from attnlab.contract import InputError
from attnlab.datasets.images import held_out, shapes
from attnlab.models import images
from attnlab.paths import data_dir
from attnlab.registry import find


def test_shipped_weights_read_held_out_digits_as_the_card_says() -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn (extra images)")
    model = images.load()
    pixels, labels = images.enlarged_digits()
    _, rows = held_out(len(labels))
    assert model.accuracy(pixels[rows], labels[rows]) > 0.98
    assert sum(p.stat().st_size for p in (data_dir() / "digits_cnn").iterdir()) < 2 * 1024**2


@pytest.mark.parametrize("backend", ["numpy", "numba", "torch"])
def test_the_exhibit_computes_the_same_logits(backend: str) -> None:
    model = images.load()
    pixels = np.random.default_rng(0).random((3, 1, 24, 24)).astype(np.float32)
    made = find("salient_relevance").run(
        "propagate_relevance", backend=backend, **model.network(pixels)
    )
    np.testing.assert_allclose(np.asarray(made.logits), model.logits(pixels), 1e-4, 1e-4)
    np.testing.assert_array_equal(np.asarray(made.pred), model.predict(pixels))


def test_training_learns_repeats_itself_and_saves(tmp_path: Path) -> None:
    train, test = (
        shapes(np.random.default_rng(s), n, size=16, side=8) for s, n in ((0, 300), (1, 200))
    )
    options = {"epochs": 8, "widths": (6, 8), "hidden": 16, "lr": 8e-3, "batch": 25}
    told: list[float] = []
    model = images.train(train.images, train.labels, progress=told.append, **options)
    before = images.untrained(16, model.classes, widths=(6, 8), hidden=16)
    right = model.accuracy(test.images, test.labels)
    assert right > 0.5 > 0.4 > before.accuracy(test.images, test.labels)
    assert told[-1] == 1
    again = images.train(train.images, train.labels, **options)
    np.testing.assert_array_equal(model.logits(test.images), again.logits(test.images))
    model.save(tmp_path / "new")
    loaded = images.load(tmp_path / "new")
    assert loaded.classes == model.classes
    np.testing.assert_array_equal(model.logits(test.images), loaded.logits(test.images))


def test_unreadable_models(tmp_path: Path) -> None:
    with pytest.raises(images.ModelFileError, match="no image model there"):
        images.load(tmp_path)
    images.load().save(tmp_path)
    about = json.loads((tmp_path / "model.json").read_text())
    for wrong in ("{", json.dumps(about | {"layers": [{}]}), json.dumps(about | {"depth": 2})):
        (tmp_path / "model.json").write_text(wrong)
        with pytest.raises(images.ModelFileError, match="not a readable image model"):
            images.load(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(about))
    (tmp_path / "weights.npz").write_bytes(b"PK\x03\x04nonsense")
    with pytest.raises(images.ModelFileError, match="not a readable image model"):
        images.load(tmp_path)
    with pytest.raises(ValueError, match="pools of 2 do not divide 7"):
        images.cnn(14, 3)


def test_images_are_fitted_to_the_model() -> None:
    model = images.load()
    grey, colour = np.zeros((50, 20)), np.zeros((7, 9, 4))
    grey[:25], colour[..., 1] = 1, 0.5
    tall = images.fitted(grey, model)
    assert tall.shape == (1, 24, 24)
    assert tall[0, 2].min() > 0.99
    assert tall[0, -3].max() < 0.01
    np.testing.assert_allclose(images.fitted(colour, model), 0.587 / 2, rtol=1e-5)
    wide = images.untrained(12, ("a", "b"), channels=3)
    assert images.fitted(grey, wide).shape == (3, 12, 12)


def test_a_network_that_is_dead_has_no_map() -> None:
    model = images.untrained(8, ("a", "b"))
    dead = [{k: 0 * v for k, v in w.items()} for w in model.conv]
    arguments = model.network(np.ones((1, 1, 8, 8))) | {"conv": dead}
    with pytest.raises(InputError, match="constant"):
        find("salient_relevance").run("propagate_relevance", **arguments)
