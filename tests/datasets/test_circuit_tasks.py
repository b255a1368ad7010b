"""Circuit tasks: what is right after a positive, and why nothing is right after a negative."""

from __future__ import annotations

import numpy as np
import pytest

from attnlab.datasets import circuit_tasks
from attnlab.datasets.circuit_tasks import TASKS, task
from attnlab.datasets.synthetic import IGNORED

ROWS = 60


@pytest.mark.parametrize("name", TASKS)
def test_shapes_and_labels(name: str) -> None:
    made = task(name, ROWS, seed=3)
    n = made.positives.shape[1]
    assert made.positives.shape == made.negatives.shape == made.labels.shape == (ROWS, n)
    assert made.allowed.shape == (ROWS, len(made.vocabulary))
    assert len(set(made.vocabulary)) == len(made.vocabulary)
    for ids in (made.positives, made.negatives):
        assert ids.min() >= 0
        assert ids.max() < len(made.vocabulary)
    assert (made.labels[:, -1] != IGNORED).all()
    assert made.allowed[np.arange(ROWS), made.answers].all()
    assert (made.positives != made.negatives).any(axis=1).all()


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_gives_the_same_prompts(name: str) -> None:
    for a, b in zip(task(name, 5, seed=1), task(name, 5, seed=1)):
        np.testing.assert_array_equal(a, b)
    assert (task(name, 5, seed=1).positives != task(name, 5, seed=2).positives).any()


@pytest.mark.parametrize("name", [n for n in TASKS if n != "greater_than"])
def test_the_answer_is_a_copy_of_its_source(name: str) -> None:
    made = task(name, ROWS)
    np.testing.assert_array_equal(made.positives[np.arange(ROWS), made.source], made.answers)
    assert (made.allowed.sum(axis=1) == 1).all()


def test_retrieval_asks_for_a_key_that_is_there_or_not() -> None:
    made = task("retrieval", ROWS)
    for row in range(ROWS):
        keys = made.positives[row, :-1:2].tolist()
        assert len(set(keys)) == len(keys)
        assert keys[made.source[row] // 2] == made.positives[row, -1]
        assert made.negatives[row, -1] not in keys
    np.testing.assert_array_equal(made.positives[:, :-1], made.negatives[:, :-1])


def test_induction_repeats_one_run_of_tokens_and_negatives_none() -> None:
    made = task("induction", ROWS)
    for row in range(ROWS):
        prompt, labels = made.positives[row], made.labels[row]
        copied = np.flatnonzero(labels != IGNORED)
        begin = made.source[row] - len(copied)
        np.testing.assert_array_equal(prompt[copied], prompt[begin : made.source[row]])
        np.testing.assert_array_equal(labels[copied], prompt[begin + 1 : made.source[row] + 1])
        assert copied[-1] == len(prompt) - 1
        assert len(set(prompt[: copied[0]].tolist())) == copied[0]
        assert len(set(made.negatives[row].tolist())) == len(prompt)


def test_ioi_names_two_people_once_and_twice_or_three_once() -> None:
    made = task("ioi", ROWS)
    names = set(circuit_tasks.NAMES)
    orders = set()
    for row in range(ROWS):
        said = [w for w in made.show(row).split() if w in names]
        assert said[2] in said[:2]
        (once,) = {w for w in said if said.count(w) == 1}
        assert made.vocabulary[made.answers[row]] == once
        orders.add("ABB" if said[1] == said[2] else "BAB")
        assert len({w for w in made.show(row, negative=True).split() if w in names}) == 3
    assert orders == {"ABB", "BAB"}


def test_greater_than_allows_the_first_digits_of_later_years() -> None:
    made = task("greater_than", 400)
    for row in range(400):
        words = made.show(row).split()
        year = int(words[9] + words[10])
        allowed = {made.vocabulary[i] for i in np.flatnonzero(made.allowed[row])}
        assert allowed == {str(later // 10) for later in range(year + 1, 100)}
        assert made.show(row, negative=True).split()[9:11] == ["0", "1"]


def test_docstring_goes_through_the_parameters_in_order() -> None:
    made = task("docstring", ROWS)
    names = set(circuit_tasks.PARAMETERS)
    begins = set()
    for row in range(ROWS):
        said = [w for w in made.show(row).split() if w in names]
        declared, told = said[:5], said[5:]
        begin = declared.index(told[0])
        begins.add(begin)
        assert told == declared[begin : begin + 2]
        assert made.vocabulary[made.answers[row]] == declared[begin + 2]
        negative = [w for w in made.show(row, negative=True).split() if w in names]
        assert len(set(negative)) == 7
    assert begins == {0, 1, 2}


def test_bad_sizes_and_names_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="pairs must be 1 to 31"):
        circuit_tasks.retrieval(rng, 2, pairs=32)
    with pytest.raises(ValueError, match="n must be 11 to 65"):
        circuit_tasks.induction(rng, 2, n=66)
    with pytest.raises(ValueError, match="task must be one of"):
        task("inducton", 2)
