"""Texts of several lengths, and what the tests of attributions share."""

from __future__ import annotations

import numpy as np

from attnlab.explain import Problem
from attnlab.models.classifier import Classifier

TEXTS = [
    "a lovely film with lovely performances by all",
    "dull , slow and never funny",
    "good",
    "not a good film at all , but never dull",
    "the performances save a slow film",
]


def problem_of(model: Classifier, texts: list[str] = TEXTS, **options: object) -> Problem:
    return Problem.of(model, [model.encode(t) for t in texts], **options)  # type: ignore[arg-type]


def close(ours: object, theirs: object, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-4, atol=atol)
