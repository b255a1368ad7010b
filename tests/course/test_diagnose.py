"""What wrong answers look like, in plain language."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from stand_in import examiner, graded, wrapped

from attnlab.course.config import Assignment
from attnlab.course.diagnose import _broken, diagnose, looks
from attnlab.course.skeleton import asked
from attnlab.course.tasks import tasks
from attnlab.registry import find, names

HEADLINE, _ = tasks(find("attention"), "numpy", Assignment("attention"))
QUESTION = HEADLINE.draw(9, 1, {"batch": 3, "heads": 4, "dim": 5, "causal": True})
OUT = QUESTION.expected["out"]  # (3, 4, 9, 5)
NOISE = 1e-6 * np.random.default_rng(0).standard_normal(OUT.shape)


def said(made: np.ndarray) -> str:
    return diagnose(find("attention"), HEADLINE, QUESTION, {"out": made})


def first_row_nan(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a[:, :, 0] = np.nan
    return a


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a * 5**0.5, "sqrt(dim) times"),
        (lambda a: a / 5**0.5, "1/sqrt(dim) times"),
        (lambda a: a / 5, "1/dim times"),
        (lambda a: a * 9, "n times"),
        (lambda a: a * 2, "2 times"),
        (lambda a: a * 1.2345, "1.234"),
        (lambda a: -a, "wrong sign"),
        (lambda a: a + 0.25, "same amount"),
        (lambda a: a * 0, "zero everywhere"),
        (lambda a: a * np.nan, "NaN everywhere"),
        (first_row_nan, "whole rows are NaN"),
        (lambda a: np.where(np.arange(5) == 2, np.nan, a), "values of out are NaN"),
        (lambda a: a.astype(np.int64), "fractions were cut off"),
        (lambda a: (a + NOISE).astype(np.float32), "dtype float32"),
        (lambda a: a + NOISE, "but for rounding"),
        (lambda a: a.transpose(0, 2, 1, 3), "(batch, n, heads, value_dim)"),
        (lambda a: a[:, :, ::-1], "reversed along axis 2 (n)"),
        (lambda a: np.roll(a, 1, 2), "shifted by one along axis 2 (n)"),
        (lambda a: np.roll(a, -1, 2), "belongs at i + 1"),
        (lambda a: a[:, [2, 0, 3, 1]], "right slices along axis 1 (heads)"),
        (lambda a: a[:1], ""),
        (lambda a: a.reshape(12, 9, 5), "shape (3, 4, 9, 5)"),
        (lambda a: a[None], "axis of length 1 is extra"),
        (lambda a: a.sum(1), "sum over axis 1 (heads)"),
        (lambda a: a.mean(0), "mean over axis 0 (batch)"),
        (lambda a: a + (np.arange(9) == 8)[:, None] * a * (1 + np.arange(5)), "the last position of axis 2 (n)"),
        (lambda a: a + (np.arange(9) > 5)[:, None] * a * (1 + np.arange(5)), "right before position 6"),
    ],
)  # fmt: skip
def test_what_any_array_may_suffer(change: Any, words: str) -> None:
    assert words in said(change(OUT))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x * 5, "loss is 5 times what it should be: a sum where a mean"),
        (lambda x: x / 7, "loss is 1/7 of what it should be"),
        (lambda x: x / np.log(2), "loss is 1/log(2) times"),
        (lambda x: -x, "loss has the wrong sign"),
        (lambda x: x * 1.2345, ""),
    ],
)
def test_what_a_single_number_misses_by(change: Any, words: str) -> None:
    task, _ = tasks(find("scan_and_snap"), "numpy", Assignment("scan_and_snap"))
    question = task.draw(9, 3)
    made = diagnose(
        find("scan_and_snap"), task, question, {"loss": change(question.expected["loss"])}
    )
    assert words in made
    assert bool(words) == bool(made)


def test_counts_that_are_off_by_one() -> None:
    task, _ = tasks(find("seal"), "numpy", Assignment("seal"))
    question = task.draw(20, 1)
    made = dict(question.expected) | {"counts": question.expected["counts"] - 1}
    assert "off by the same amount everywhere (-1)" in diagnose(find("seal"), task, question, made)


def test_flags_are_not_told_as_another_order() -> None:
    task, _ = tasks(find("act"), "numpy", Assignment("act"))
    question = task.draw(6, 1)
    flags = question.expected["sink_mask"]
    made = dict(question.expected) | {"sink_mask": ~flags[..., ::-1]}
    assert "order" not in diagnose(find("act"), task, question, made)


def test_a_softmax_over_the_wrong_axis() -> None:
    task, _ = tasks(find("act"), "numpy", Assignment("act"))
    question = task.draw(6, 1)
    scores = np.random.default_rng(0).random((3, 6, 7))
    weights = scores / scores.sum(-1, keepdims=True)
    over = scores / scores.sum(1, keepdims=True)
    for made, words in ((over, "normalise over the other axis"), (weights * 0.9 + weights**2, "")):
        expected = {"column_mean": weights}
        view = question.__class__({}, expected, {}, ("column_mean",))
        assert words in looks(task, view, {"column_mean": made})


def test_outputs_that_changed_places() -> None:
    task, _ = tasks(find("based"), "numpy", Assignment("based"))
    question = task.draw(5, 1, {"feature_dim": 3, "head_dim": 3})
    got = dict(question.expected)
    got["q"], got["k"] = got["k"], got["q"]
    assert "holds what k should hold" in diagnose(find("based"), task, question, got)


def test_a_right_answer_has_no_diagnosis() -> None:
    assert said(OUT) == ""


def test_a_mistake_of_the_card_is_recognised() -> None:
    for name in ("attention", "landmark"):
        exhibit = find(name)
        assert exhibit.exercise is not None
        for number, mistake in enumerate(exhibit.exercise.mistakes):
            made = {own: _broken(name, number, own) for own in asked(exhibit)}
            with np.errstate(all="ignore"):
                grade = graded(name, change=lambda space, made=made: space.update(made))
            told = {o.diagnosis for o in grade.outcomes if o.item.kind != "public"}
            assert mistake.says in told, mistake.name


def test_every_mistake_can_be_planted() -> None:
    for name in names():
        exercise = find(name).exercise
        assert exercise is not None
        for number, _ in enumerate(exercise.mistakes):
            assert _broken(name, number, find(name).headline.name) is not None


def test_no_diagnosis_where_nothing_may_be_told() -> None:
    double = wrapped("attend", lambda f, **a: {"out": 3 * f(**a)["out"]})
    for details, words in (("full", "3 times"), ("actual-only", "3 times"), ("none", "")):
        run = examiner("attention", change=double, details=details)
        item = next(i for i in run.items if i.kind == "fresh")
        diagnosis = run.run(item).diagnosis
        assert words in diagnosis
        assert bool(diagnosis) == bool(words)
