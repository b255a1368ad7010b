"""Attributions in words: what is quoted, what it covers, and whether a reader can guess from it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from attnlab.contract import InputError
from attnlab.explain.simulate import ModelReader, WordReader, measure, simulated
from attnlab.explain.verbalize import HOWS, NOTHING, StandIn, describe, line, verbalize

TOKENS = ["a", "truly", "lovely", "film", ",", "never", "dull", "or", "long", "at", "all"]
SCORES = [0.02, 0.2, 0.6, -0.05, -0.01, 0.3, -0.2, 0.01, -0.1, -0.01, 0.05]


def say(how: str, tokens: Any = TOKENS, scores: Any = SCORES, **options: Any) -> Any:
    complete = StandIn(k=3) if how == "instruct" else None
    return verbalize(tokens, scores, "positive", how=how, **{"complete": complete} | options)


def test_the_search_quotes_what_scores_and_the_released_one_the_beginning() -> None:
    searched = say("search")
    assert searched.quoted == ("a", "truly", "lovely")
    assert searched.coverage == pytest.approx(0.82 / 1.18)
    late = ["x"] * 6 + ["lovely"] + ["x"] * 3, [-0.1] * 6 + [1.0] + [-0.1] * 3
    assert say("search", *late).quoted == ("lovely",)
    assert say("released", *late).quoted == ("x",) * 5


def test_the_template_lists_the_highest_tokens_with_their_shares() -> None:
    said = say("template", k=2)
    assert said.text == (
        "For positive speak above all » lovely « (51%) and » never « (25%); "
        "5 of 11 tokens speak against it"
    )
    assert said.quoted == ("lovely", "never")
    assert say("template", k=1).text.startswith("For positive speaks above all » lovely « (51%);")


def test_instructions_ask_complete_and_count_what_it_quotes() -> None:
    asked = []

    def complete(prompt: str) -> str:
        asked.append(prompt)
        return "It is positive because of 'lovely', \"Never dull\" and 'wonderful'."

    said = verbalize(TOKENS, SCORES, "positive", how="instruct", complete=complete)
    assert said.quoted == ("lovely", "never", "dull", "wonderful")
    assert said.coverage == pytest.approx(0.9 / 1.18)
    assert said.invented == 0.25
    assert asked == [said.prompt]
    assert "lovely (0.6)" in said.prompt
    assert "the label positive" in said.prompt


@pytest.mark.parametrize("how", HOWS)
def test_coverage_rises_with_k_below_its_ceiling(how: str) -> None:
    rng = np.random.default_rng(3)
    for n in (1, 2, 5, 6, 30):
        tokens = [f"w{i}" for i in range(n)]
        said = say(how, tokens, rng.standard_normal(n) + 0.1)
        cover, ceiling = np.array(said.coverage_at_k), np.array(said.ceiling_at_k)
        assert (np.diff(cover) >= 0).all()
        assert (cover <= ceiling + 1e-12).all()
        assert said.invented == 0 or math.isnan(said.invented)


@pytest.mark.parametrize("how", HOWS)
def test_nothing_speaks_for_it(how: str) -> None:
    for scores in ([-0.5, -1.0, -0.2], [0.0, 0.0, 0.0], [-1.0, 0.0, 0.0]):
        said = say(how, ["not", "my", "film"], scores)
        assert math.isnan(said.coverage)
        assert set(said.coverage_at_k) == {0.0}
        if how in ("search", "template"):
            assert said.text == NOTHING
            assert line(said) == NOTHING


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    "odd", ["'", '"', "»", "«", "(1.0)", "##s", "\n", "", "{placeholder}", "a b"]
)
def test_odd_tokens(how: str, odd: str) -> None:
    said = say(how, ["good", odd, "film", odd], [0.5, 0.4, 0.1, 0.3])
    assert said.text
    assert 0 <= said.coverage <= 1


def test_zero_scores_are_left_out_of_the_search() -> None:
    padded = say("search", ["[CLS]", *TOKENS, "[PAD]", "[PAD]"], [0.0, *SCORES, 0.0, 0.0])
    assert padded.text == say("search").text


def test_backends_say_the_same() -> None:
    for how in ("search", "released"):
        assert say(how, backend="numba") == say(how)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"tokens": TOKENS[:-1]}, "same length"),
        ({"tokens": [], "scores": []}, "at least 1"),
        ({"scores": [math.nan, *SCORES[1:]]}, "finite"),
        ({"how": "serch"}, "did you mean search"),
        ({"how": "instruct", "complete": None}, "needs complete"),
        ({"how": "template", "k": 0}, "at least 1"),
    ],
)
def test_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        say(**{"how": "search"} | change)


def test_the_label_is_hidden_from_the_reader_but_not_from_quotations() -> None:
    def complete(prompt: str) -> str:
        return "The label is 'positive', so Positive, because of 'a positive mood'."

    said = verbalize(["mood"], [1.0], "positive", how="instruct", complete=complete)
    assert said.blind == (
        "The label is {placeholder}, so {placeholder}, because of 'a positive mood'."
    )
    assert "{placeholder}" in say("template").blind


def test_a_line_for_the_terminal() -> None:
    assert describe(TOKENS, np.array(SCORES), "positive").endswith(
        "(69% of what speaks for positive)"
    )


def test_the_stand_in_substitutes_as_often_as_asked() -> None:
    tokens = [f"word{i}" for i in range(20)]
    prompts = [np.random.default_rng(i).random(20) for i in range(200)]
    for share in (0.0, 0.3, 1.0):
        complete = StandIn(k=5, substitutions=share, vocabulary=("zebra",), seed=1)
        said = [verbalize(tokens, s, "a", how="instruct", complete=complete) for s in prompts]
        assert np.mean([v.invented for v in said]) == pytest.approx(share, abs=0.05)
        assert said[0] == verbalize(tokens, prompts[0], "a", how="instruct", complete=complete)
    assert StandIn()("nothing scored here") == "I find no word that explains this decision."


def test_a_reader_guesses_from_quoted_words_alone() -> None:
    texts = ["lovely film", "lovely plot", "dull film", "dull plot"]
    reader = WordReader.fit(texts, ["positive", "positive", "negative", "negative"])
    assert reader.guess(["lovely"]) == "positive"
    assert reader.guess(["dull", "film"]) == "negative"
    assert reader.guess(["film"]) is None
    assert reader.guess(["zebra"]) is None
    said = [say("template", ["lovely", "film"], s) for s in ([1.0, 0.2], [0.0, 1.0], [-1.0, -1.0])]
    assert simulated(said, ["positive"] * 3, reader) == [True, None, None]
    found = measure(said, ["positive"] * 3, reader)
    assert found.simulatability.value == pytest.approx(1 / 3)
    assert found.abstained == 2
    assert found.coverage.n == 2
    assert found.coverage.undefined == 1
    assert found.coverage_at_k[9].value == pytest.approx(1.0)
    assert found.invented.value == 0
    with pytest.raises(InputError, match="two labels"):
        WordReader.fit(texts, ["positive"] * 4)


def test_the_model_reads_what_was_quoted() -> None:
    torch = pytest.importorskip("torch")
    from attnlab.models.classifiers import load

    torch.set_num_threads(1)
    quoted = [["lovely", "wonderful"], [], ["dull", "boring", "awful"], ["great"]]
    expected = ["positive", None, "negative", "positive"]
    for batch in (1, 64):
        assert ModelReader(load("bilstm"), batch).guesses(quoted) == expected
