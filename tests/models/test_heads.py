"""Head scores: right on attention that is known, and the shipped model has the heads it is for."""

import numpy as np
import pytest

from attnlab.datasets.python_reference import python_reference
from attnlab.models import heads
from attnlab.models.language import load

TEXT = python_reference().validation


class Known:
    """Stands in for a model: its one head attends wholly to one place, given by a rule."""

    def __init__(self, model, rule):
        self.tokenizer, self.encode, self.rule = model.tokenizer, model.encode, rule

    def attention_weights(self, ids):
        n = len(ids)
        weights = np.zeros((1, 1, n, n), dtype=np.float32)
        for t in range(n):
            weights[0, 0, t, self.rule(np.asarray(ids), t)] = 1
        return weights


@pytest.fixture(scope="module")
def model():
    return load()


def last(ids, t, offset):
    """`offset` places after the last earlier occurrence of token t; itself where there is none."""
    earlier = np.flatnonzero(ids[:t] == ids[t])
    return earlier[-1] + offset if len(earlier) else t


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (lambda ids, t: max(t - 1, 0), "previous"),
        (lambda ids, t: last(ids, t, 1), "induction"),
        (lambda ids, t: last(ids, t, 0), "same"),
        (lambda ids, t: 0, "first"),
    ],
)
def test_a_pure_head_scores_one(model, rule, name):
    scores = heads.head_scores(Known(model, rule), TEXT)._asdict()
    assert scores.pop(name).item() == pytest.approx(1)
    rest = {k: v.item() for k, v in scores.items() if k not in {"word_start", "line_start"}}
    assert max(rest.values()) < 0.1


def test_starts_are_found():
    starts = np.array([True, False, False, True, False])
    expected = np.zeros((5, 5), bool)
    expected[[1, 2], 0] = expected[4, 3] = True
    np.testing.assert_array_equal(heads._began(starts), expected)


def test_a_text_too_short_is_refused(model):
    with pytest.raises(ValueError, match="n = 256"):
        heads.head_scores(model, "short")
