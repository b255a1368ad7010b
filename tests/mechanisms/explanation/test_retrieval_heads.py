"""Retrieval heads: bad input, known values, independent counts, and the released code's quirks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from attnlab.contract import InputError
from attnlab.mechanisms.explanation.retrieval_heads.stemmer import stem, words
from attnlab.registry import find

EXHIBIT = find("retrieval_heads")
HOST = ("numpy", "numba", "torch")
LISTS = ("numpy", "numba")


def run(operation: str, backend: str, **inputs: Any) -> dict[str, np.ndarray]:
    made = EXHIBIT.run(operation, backend=backend, want="all", **inputs)._asdict()
    return {k: np.asarray(v) for k, v in made.items() if v is not None}


def sample(operation: str, n: int = 12, **sizes: Any) -> dict[str, Any]:
    return EXHIBIT.operation(operation).sample(n, **sizes)


# --- refused ---------------------------------------------------------------------------------


def with_nan(kwargs: dict[str, Any]) -> dict[str, Any]:
    attention = kwargs["attention"].copy()
    attention[0, 0, 0, 1] = np.nan
    return {"attention": attention}


REFUSED: tuple[tuple[str, str, Callable[[dict[str, Any]], dict[str, Any]], str], ...] = (
    ("score_heads", "empty needle", lambda k: {"needle_span": np.array([3, 3])}, "at least one"),
    ("score_heads", "reversed span", lambda k: {"needle_span": np.array([5, 3])}, "s < e"),
    ("score_heads", "not found", lambda k: {"needle_span": np.array([-1, -1])}, "not found"),
    ("score_heads", "span too late", lambda k: {"needle_span": np.array([9, 13])}, "outside"),
    ("score_heads", "span too early", lambda k: {"needle_span": np.array([-2, 3])}, "outside"),
    ("score_heads", "short rows", lambda k: {"attention": k["attention"][..., :11]}, "shorter"),
    ("score_heads", "NaN", with_nan, "finite"),
    ("score_heads", "top_k of 0", lambda k: {"top_k": 0}, "at least 1"),
    ("mask_heads", "head too large", lambda k: {"block_heads": np.array([4])}, r"0\.\.4-1"),
    ("mask_heads", "negative head", lambda k: {"block_heads": np.array([-1])}, r"0\.\.4-1"),
    ("mask_heads", "more than all", lambda k: {"block_heads": np.arange(5) % 4}, "5 heads"),
    ("mask_heads", "kv heads", lambda k: {"n_kv_heads": 3}, "n_kv_heads|k_proj"),
    ("mask_heads", "rope base", lambda k: {"rope_base": 0.0}, "above 0"),
    ("find_needle", "empty needle", lambda k: {"needle_ids": np.zeros(0, int)}, "at least 1"),
    ("find_needle", "overlap", lambda k: {"overlap": 1.5}, "at most 1"),
    ("find_needle", "rule", lambda k: {"rule": "last"}, "must be one of"),
    ("insert_needle", "empty needle", lambda k: {"needle_ids": np.zeros(0, int)}, "at least 1"),
    ("insert_needle", "depth", lambda k: {"depths": np.array([50, 101])}, r"0\.\.100"),
    ("insert_needle", "no room", lambda k: {"context_length": np.array(6)}, "no room"),
    ("insert_needle", "no room by default", lambda k: {"buffer": None}, "no room"),
    ("insert_needle", "buffer", lambda k: {"buffer": np.array(-1)}, "negative"),
)


@pytest.mark.parametrize(
    ("operation", "change", "text"),
    [pytest.param(op, change, text, id=f"{op}-{why}") for op, why, change, text in REFUSED],
)
def test_refused(operation: str, change: Callable, text: str) -> None:
    kwargs = sample(operation)
    for backend in EXHIBIT.operation(operation).paths - {"cuda"}:
        with pytest.raises(InputError, match=text):
            run(operation, backend, **kwargs | change(kwargs))


def test_an_odd_width_of_a_head_is_refused() -> None:
    for backend in HOST:
        with pytest.raises(InputError, match="even width"):
            run("mask_heads", backend, **sample("mask_heads", dim=3))


# --- scores ----------------------------------------------------------------------------------


def counted(kwargs: dict[str, Any], top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores counted head by head from sorted (weight, key) pairs: not the reference's way."""
    s, e = kwargs["needle_span"]
    prompt, generated, attention = kwargs["prompt_ids"], kwargs["generated"], kwargs["attention"]
    events, sets = np.zeros(attention.shape[1:3]), np.zeros(attention.shape[1:3])
    for head in np.ndindex(events.shape):
        seen = []
        for t, g in enumerate(generated):
            pairs = sorted((-w, j) for j, w in enumerate(attention[t][head]) if j < len(prompt) + t)
            hits = [j for _, j in pairs[:top_k] if s <= j < e and prompt[j] == g]
            seen += [g] if hits else []
        events[head] = len(seen) / (e - s)
        sets[head] = len(set(seen)) / len(set(prompt[s:e].tolist()))
    return events, sets


@pytest.mark.parametrize("backend", HOST)
@pytest.mark.parametrize("top_k", [1, 2, 5, 100])
def test_scores_equal_an_independent_count(backend: str, top_k: int) -> None:
    for seed in range(5):
        kwargs = EXHIBIT.operation("score_heads").sample(10, seed, steps=7)
        kwargs["prompt_ids"] %= 4  # repeated tokens
        kwargs["generated"] %= 4
        kwargs["attention"] = np.round(kwargs["attention"], 1)  # equal weights: the lower key first
        made = run("score_heads", backend, **kwargs, top_k=top_k)
        events, sets = counted(kwargs, top_k)
        np.testing.assert_allclose(made["retrieval_score"], events, atol=1e-12)
        np.testing.assert_allclose(made["set_score"], sets, atol=1e-12)


def rows(places: list[int], keys: int) -> np.ndarray:
    """One head whose row t has all its weight on places[t]: (T, 1, 1, keys)."""
    return np.eye(keys)[places][:, None, None]


@pytest.mark.parametrize("backend", HOST)
def test_a_token_copied_three_times_scores_three_times_but_is_one_of_the_set(backend: str) -> None:
    made = run(
        "score_heads",
        backend,
        prompt_ids=np.array([9, 1, 2, 9]),
        needle_span=np.array([1, 3]),
        generated=np.array([1, 1, 1]),
        attention=rows([1, 1, 1], 7),
    )
    assert made["retrieval_score"].item() == 1.5
    assert made["set_score"].item() == 0.5


@pytest.mark.parametrize("backend", HOST)
@pytest.mark.parametrize(
    ("place", "generated", "score"),
    [(1, 5, 1.0), (1, 9, 0.0), (0, 9, 0.0), (3, 5, 0.0)],
    ids=["copied", "another token emitted", "sink", "generated part"],
)
def test_a_needle_of_one_token(backend: str, place: int, generated: int, score: float) -> None:
    made = run(
        "score_heads",
        backend,
        prompt_ids=np.array([9, 5, 9]),
        needle_span=np.array([1, 2]),
        generated=np.array([0, generated]),
        attention=rows([0, place], 5),
    )
    assert made["retrieval_score"].item() == score


@pytest.mark.parametrize("backend", HOST)
def test_an_empty_answer_scores_0(backend: str) -> None:
    kwargs = sample("score_heads")
    kwargs |= {"generated": np.zeros(0, int), "attention": np.zeros((0, 2, 3, 12))}
    made = run("score_heads", backend, **kwargs)
    assert made["per_step"].shape == (0, 2, 3)
    assert (made["retrieval_score"] == 0).all()
    assert (made["set_score"] == 0).all()


@pytest.mark.parametrize("backend", HOST)
def test_rows_may_be_longer_than_needed_and_hold_anything_behind_their_end(backend: str) -> None:
    kwargs = sample("score_heads")
    expected = run("score_heads", "numpy", **kwargs)
    longer = np.full((4, 2, 3, 30), 7.0)
    for t in range(4):
        longer[t, ..., : 12 + t] = kwargs["attention"][t, ..., : 12 + t]
    made = run("score_heads", backend, **kwargs | {"attention": longer})
    for name, value in expected.items():
        np.testing.assert_array_equal(made[name], value, err_msg=name)


@pytest.mark.parametrize("backend", HOST)
def test_scores_do_not_need_a_softmax(backend: str) -> None:
    kwargs = sample("score_heads")
    logits = np.log(kwargs["attention"] + 1e-9) - 5
    made = run("score_heads", backend, **kwargs | {"attention": logits})
    expected = run("score_heads", "numpy", **kwargs)
    np.testing.assert_array_equal(made["per_step"], expected["per_step"])


# --- flattened heads -------------------------------------------------------------------------


@pytest.mark.parametrize("backend", HOST)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_flattened_heads_are_uniform_and_the_others_unchanged(
    backend: str, causal: bool, groups: int
) -> None:
    kwargs = sample("mask_heads", n=7, groups=groups) | {"block_heads": np.array([1, 3])}
    made = run("mask_heads", backend, **kwargs, causal=causal)
    even = np.tri(7) / np.arange(1, 8)[:, None] if causal else np.full((7, 7), 1 / 7)
    for head in (1, 3):
        np.testing.assert_allclose(made["weights_masked"][:, head] - even, 0, atol=1e-12)
    for head in (0, 2):
        np.testing.assert_array_equal(
            made["weights_masked"][:, head], made["weights_plain"][:, head]
        )
    assert (np.triu(made["weights_plain"], 1) == 0).all()
    # the output is what the weights say: values of key head h // groups through their slice of Wo
    dim = 4
    values = (kwargs["x"] @ kwargs["v_proj"].T).reshape(2, 7, -1, dim)
    expected = sum(
        made["weights_masked"][:, h]
        @ values[:, :, h // groups]
        @ kwargs["o_proj"][:, h * dim : (h + 1) * dim].T
        for h in range(4)
    )
    np.testing.assert_allclose(made["out_masked"], expected, atol=1e-10)


@pytest.mark.parametrize("backend", HOST)
def test_the_released_mask_lets_the_future_in_and_the_last_query_hides_it(backend: str) -> None:
    kwargs = sample("mask_heads", n=6)
    released = run("mask_heads", backend, **kwargs)["out_masked"]
    kept = run("mask_heads", backend, **kwargs, causal=True)["out_masked"]
    assert np.abs(released - kept)[:, :-1].max() > 1e-3
    np.testing.assert_allclose(released[:, -1], kept[:, -1], atol=1e-12)


@pytest.mark.parametrize("backend", HOST)
def test_nothing_flattened_changes_nothing(backend: str) -> None:
    made = run("mask_heads", backend, **sample("mask_heads", masked=0))
    np.testing.assert_allclose(made["out_masked"], made["out_plain"], atol=1e-12)


def test_a_layer_owns_its_projections() -> None:
    torch = pytest.importorskip("torch")
    kwargs = sample("mask_heads")
    layer = EXHIBIT.operation("mask_heads").module(width=16, dim=4, n_heads=4, n_kv_heads=4)
    out = layer(x=torch.randn(2, 5, 16), block_heads=torch.tensor([0])).out_masked
    out.sum().backward()
    assert {name for name, _ in layer.named_parameters()} == {
        k for k in kwargs if k.endswith("_proj")
    }


# --- needles ---------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", LISTS)
def test_the_released_search_starts_one_early_from_eleven_distinct_tokens(backend: str) -> None:
    for m, early in ((9, 0), (10, 0), (11, 1), (12, 1)):
        needle = 100 + np.arange(m)
        prompt = np.concatenate([np.arange(20), needle, np.arange(5)])[None]
        first = run("find_needle", backend, needle_ids=needle, prompts=prompt)["spans"]
        aligned = run("find_needle", backend, needle_ids=needle, prompts=prompt, rule="aligned")
        assert first.tolist() == [[20 - early, 20 - early + m]]
        assert aligned["spans"].tolist() == [[20, 20 + m]]


@pytest.mark.parametrize("backend", LISTS)
def test_order_inside_the_window_is_ignored_and_aligned_prefers_it(backend: str) -> None:
    prompt = np.array([[0, 3, 2, 1, 0, 1, 2, 3]])
    given = {"needle_ids": np.array([1, 2, 3]), "prompts": prompt}
    assert run("find_needle", backend, **given)["spans"].tolist() == [[1, 4]]
    assert run("find_needle", backend, **given, rule="aligned")["spans"].tolist() == [[5, 8]]


@pytest.mark.parametrize("backend", LISTS)
def test_a_needle_of_one_token_and_one_that_is_longer_than_the_prompt(backend: str) -> None:
    one = run("find_needle", backend, needle_ids=np.array([7]), prompts=np.array([[1, 7], [1, 2]]))
    assert one["spans"].tolist() == [[1, 2], [-1, -1]]
    longer = run("find_needle", backend, needle_ids=np.array([7, 7, 7]), prompts=np.array([[7, 7]]))
    assert longer["spans"].tolist() == [[0, 3]]


@pytest.mark.parametrize("backend", LISTS)
def test_insertion_goes_back_to_the_end_of_a_sentence(backend: str) -> None:
    made = run(
        "insert_needle",
        backend,
        context_ids=np.array([1, 2, 0, 3, 4, 5, 0, 6, 7, 8]),
        needle_ids=np.array([90, 91]),
        depths=np.array([0, 20, 60, 100]),
        context_length=np.array(100),
        buffer=np.array(0),
        period_ids=np.array([0]),
    )["merged"]
    starts = [row.tolist().index(90) for row in made]
    assert starts == [0, 0, 3, 10]
    assert [sorted(row.tolist()) for row in made] == [[0, 0, *range(1, 9), 90, 91]] * 4


@pytest.mark.parametrize("backend", LISTS)
def test_the_buffer_is_200_by_default_and_the_context_is_cut(backend: str) -> None:
    made = run(
        "insert_needle",
        backend,
        context_ids=np.arange(500),
        needle_ids=np.array([900, 901, 902]),
        depths=np.array([100]),
        context_length=np.array(300),
        period_ids=np.array([-5]),
    )["merged"]
    assert made.tolist() == [[*range(97), 900, 901, 902]]


@pytest.mark.parametrize("backend", LISTS)
def test_depths_are_rounded_down_as_floating_point_has_it(backend: str) -> None:
    made = run(
        "insert_needle",
        backend,
        context_ids=np.zeros(100, int),
        needle_ids=np.array([9]),
        depths=np.array([29]),
        context_length=np.array(400),
        period_ids=np.array([0]),
    )["merged"]
    assert made[0].tolist().index(9) == int(100 * (29 / 100)) == 28


# --- words -----------------------------------------------------------------------------------

STEMS = {
    "days": "day", "sunny": "sunni", "ties": "tie", "flies": "fli", "died": "die", "spied": "spi",
    "dying": "die", "skies": "sky", "news": "news", "possibly": "possibl", "happily": "happili",
    "hopefully": "hope", "geologi": "geolog", "apologies": "apolog", "caresses": "caress",
    "ponies": "poni", "agreed": "agre", "plastered": "plaster", "hopping": "hop", "falling": "fall",
    "failing": "fail", "filing": "file", "relational": "relat", "vietnamization": "vietnam",
    "operator": "oper", "electrical": "electr", "adjustment": "adjust", "adoption": "adopt",
    "probate": "probat", "cease": "ceas", "controlling": "control", "is": "is", "by": "by",
    "1997s": "1997", "conventionally": "convent",
}  # fmt: skip


@pytest.mark.parametrize(("word", "expected"), STEMS.items())
def test_stems(word: str, expected: str) -> None:
    assert stem(word) == expected


def test_stems_equal_those_of_nltk() -> None:
    porter = pytest.importorskip("nltk.stem.porter", reason="NLTK is not installed")
    import pydoc_data.topics

    theirs = porter.PorterStemmer()
    for word in {w for text in pydoc_data.topics.topics.values() for w in words(text, False)}:
        assert stem(word) == theirs.stem(word), word


def rouge(reference: str, *responses: str, **options: Any) -> np.ndarray:
    given = {"reference": np.array(reference), "responses": np.array(responses)}
    return run("rouge1", "numpy", **given, **options)["rouge1_p_r_f"]


def test_rouge_counts_are_clipped_and_short_words_are_not_stemmed() -> None:
    np.testing.assert_allclose(rouge("the cat sat", "the the cat")[0], [2 / 3, 2 / 3, 2 / 3])
    np.testing.assert_allclose(rouge("ads run", "ad run")[0, :2], [0.5, 0.5])
    np.testing.assert_allclose(rouge("walking", "walked", use_stemmer=False)[0], 0)
    np.testing.assert_allclose(rouge("walking", "walked")[0], 1)


def test_rouge_of_nothing_is_0_and_punctuation_separates() -> None:
    np.testing.assert_array_equal(rouge("", "a")[0], 0)
    np.testing.assert_array_equal(rouge("...", "?!", "")[:, 0], 0)
    np.testing.assert_allclose(rouge("Dolores-Park, 9 pm", "dolores park 9PM")[0, 1], 0.5)


def test_half_the_words_are_no_success() -> None:
    given = {"reference": np.array("a b"), "responses": np.array(["a", "a b"])}
    assert run("rouge1", "numpy", **given)["success"].tolist() == [False, True]
