"""Models whose inside is not known, and models with a vocabulary of classes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import typer

from attnlab.cli import explain as command
from attnlab.explain.attribute import unavailable
from attnlab.explain.examine import examine
from attnlab.explain.report import CLASSES, chances
from attnlab.models.classifier import Classifier


@pytest.fixture
def closed(transformer: Classifier) -> Classifier:
    """A transformer that tells neither its layers nor how relevance passes through them."""
    model = copy.deepcopy(transformer)
    trace = model.trace

    def block(*_: Any, **__: Any) -> Any:
        raise NotImplementedError("single layers: not known")

    def only_gradient(*args: Any, rule: str = "gradient", **rest: Any) -> Any:
        if rule != "gradient":
            raise NotImplementedError("relevance: not known")
        return trace(*args, **rest)

    model.block, model.trace = block, only_gradient  # type: ignore[method-assign, assignment]
    return model


def test_methods_that_look_inside_are_left_out_with_the_reason(closed: Classifier) -> None:
    assert unavailable(closed, ["all"]) == {
        "value_zeroing": "single layers: not known",
        "lrp": "relevance: not known",
    }
    names, left_out = command.given(closed, [], ["all"])
    assert set(left_out) == {"value_zeroing", "lrp"}
    assert "rollout" in names
    assert not set(names) & set(left_out)


def test_a_method_that_was_named_is_refused(closed: Classifier, capsys: Any) -> None:
    with pytest.raises(typer.Exit) as refused:
        command.given(closed, ["gradient", "lrp"], ["all"])
    assert refused.value.exit_code == 2
    assert "--method lrp: relevance: not known" in capsys.readouterr().err


def test_of_many_classes_the_likeliest_are_shown(transformer: Classifier) -> None:
    one = examine(transformer, "a good film", ["gradient"], sensitivity=0, controls=False)
    assert chances(one).count(",") == 2
    one.labels = tuple(f"word{i}" for i in range(50))
    one.explained.probabilities = np.arange(50) / 1225  # type: ignore[misc]
    shown = chances(one)
    assert shown.startswith("word49 0.040, word48")
    assert shown.endswith("… of 50")
    assert shown.count("word") == CLASSES
