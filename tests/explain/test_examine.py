"""One text through everything."""

from __future__ import annotations

from attnlab.explain.examine import STAGES, examine
from attnlab.models.classifier import Classifier


def test_every_stage_is_told_once_in_order(transformer: Classifier) -> None:
    told: list[str] = []
    one = examine(transformer, "a good film", ["gradient"], sensitivity=1, begin=told.append)
    assert tuple(told) == STAGES
    assert one.methods == ["gradient", "random"]
    assert set(one.faithful) == set(one.changed) == set(one.sensitive) == set(one.methods)
