"""Verbalization: bad input, snippets found the other way round, sentences known by heart."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from attnlab.contract import InputError
from attnlab.registry import find

EXHIBIT = find("verbalization")
ARRAYS = ("numpy", "numba", "torch")
STRINGS = ("numpy", "numba")


def run(operation: str, backend: str, **inputs: Any) -> dict[str, np.ndarray]:
    made = EXHIBIT.run(operation, backend=backend, want="all", **inputs)._asdict()
    return {k: np.asarray(v) for k, v in made.items() if v is not None}


def sample(operation: str, n: int = 12, **sizes: Any) -> dict[str, Any]:
    return EXHIBIT.operation(operation).sample(n, **sizes)


def text_of(n: int, **attributions: float) -> dict[str, np.ndarray]:
    """n tokens w0, w1, … and attributions, -0.1 where none is given."""
    a = np.full(n, -0.1)
    for name, score in attributions.items():
        a[int(name[1:])] = score
    return {"tokens": np.array([f"w{i}" for i in range(n)]), "attributions": a}


# --- refused ---------------------------------------------------------------------------------


def nan(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"attributions": np.where(np.arange(len(kwargs["attributions"])) == 1, np.nan, 1.0)}


Change = Callable[[dict[str, Any]], dict[str, Any]]
SETTINGS: tuple[tuple[str, Change, str], ...] = (
    ("NaN", nan, "finite"),
    ("largest is 0", lambda k: {"attributions": np.append(-np.ones(11), 0)}, "largest is 0"),
    ("all 0", lambda k: {"attributions": np.zeros(12)}, "largest is 0"),
    ("no top token", lambda k: {"value": 0.08, "metric": "mean"}, "less than one token"),
    ("negative share", lambda k: {"value": -0.4, "metric": "mean"}, "less than one token"),
    ("short filter", lambda k: {"filter_length": 3}, "at least 4"),
    ("metric", lambda k: {"metric": "median"}, "must be one of"),
    ("sign", lambda k: {"sgn": "plus"}, "must be one of"),
    ("behaviour", lambda k: {"behaviour": "mended"}, "must be one of"),
    ("no token", lambda k: {x: v[:0] for x, v in k.items() if np.ndim(v)}, "at least 1"),
)
OWN: tuple[tuple[str, str, Change, str], ...] = (
    ("verbalize", "lengths differ", lambda k: {"tokens": k["tokens"][:-1]}, "dimension n"),
    ("verbalize", "numbers for tokens", lambda k: {"tokens": np.arange(12)}, "must be text"),
    ("search", "offsets late", lambda k: {"offsets": np.array([1, 12])}, "start at 0"),
    ("search", "offsets fall", lambda k: {"offsets": np.array([0, 8, 4, 12])}, "never fall"),
    ("search", "offsets short", lambda k: {"offsets": np.array([0, 8])}, "end at the number"),
    ("search", "empty document", lambda k: {"offsets": np.array([0, 5, 5, 12])}, "document 1 has"),
    (
        "search",
        "a document of zeros",
        lambda k: {"attributions": np.arange(12) // 4 % 2 * 1.0, "offsets": np.array([0, 8, 12])},
        "document 1",
    ),
    (
        "search",
        "a short document",
        lambda k: {"attributions": np.ones(12), "offsets": np.array([0, 10, 12]), "value": 0.4},
        "document 1",
    ),
    ("instruction_prompt", "lengths", lambda k: {"tokens": k["tokens"][:-1]}, "dimension n"),
    ("instruction_prompt", "NaN", lambda k: {"attributions": np.full(14, np.nan)}, "finite"),
    ("instruction_prompt", "data set", lambda k: {"dataset": "sst"}, "must be one of"),
    ("instruction_prompt", "request", lambda k: {"request": "rank"}, "must be one of"),
    ("citation_coverage", "lengths", lambda k: {"tokens": k["tokens"][:-1]}, "dimension n"),
    ("citation_coverage", "NaN", nan, "finite"),
    ("citation_coverage", "source", lambda k: {"source": "gpt"}, "must be one of"),
    ("fleiss_kappa", "one annotator", lambda k: {"ratings": k["ratings"][:, :1]}, "one annotator"),
    ("fleiss_kappa", "no item", lambda k: {"ratings": k["ratings"][:0]}, "at least 1"),
)
ROWS = [(op, *row) for op in ("search", "verbalize") for row in SETTINGS] + list(OWN)


@pytest.mark.parametrize(
    ("operation", "change", "text"),
    [pytest.param(op, change, text, id=f"{op}-{why}") for op, why, change, text in ROWS],
)
def test_refused(operation: str, change: Change, text: str) -> None:
    kwargs = sample(operation, ragged=False) if operation == "search" else sample(operation)
    for backend in EXHIBIT.operation(operation).paths - {"cuda"}:
        with pytest.raises(InputError, match=text):
            run(operation, backend, **kwargs | change(kwargs))


# --- the search ------------------------------------------------------------------------------


def brute_force(
    a: np.ndarray, L: int, metric: str, value: float, sgn: str | None, corrected: bool, kind: str
) -> list[tuple[tuple[int, ...], float]]:
    """From index lists to filters: every list of few tokens is asked whether some filter finds it."""
    n = len(a)
    scaled = (a / abs(a.max())).astype("f4").astype("f8")
    top = int(n * value)
    bound = {
        "mean": lambda: np.mean(sorted(scaled)[n - top :]),
        "quantile": lambda: value * np.std(scaled),
        "variance": lambda: value * np.var(scaled),
    }[metric]()
    W = L if kind == "conv" or L % 2 else L - 1
    found = []
    sizes = range(2, L - 1) if kind == "conv" else range(3, W + 1, 2)
    for J in (J for k in sizes for J in combinations(range(n), k)):
        starts = range(n - W + corrected)
        if kind == "span" and J[-1] - J[0] != len(J) - 1:
            continue
        if kind == "conv":
            windows = [t for t in starts if t <= J[0] and J[-1] < t + W]
        else:
            windows = [t for t in starts if J[0] - t == t + W - 1 - J[-1] >= 0]
        signs = {
            "+": all(scaled[j] >= 0 for j in J),
            "-": len(J) == W and all(scaled[j] < 0 for j in J),
            None: True,
        }
        if windows and signs[sgn] and scaled[list(J)].mean() > bound:
            found.append((J, scaled[list(J)].mean()))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("backend", ARRAYS)
@pytest.mark.parametrize("behaviour", ["released", "corrected"])
@pytest.mark.parametrize("sgn", ["+", "-", None])
@pytest.mark.parametrize("metric", ["mean", "quantile", "variance"])
def test_search_equals_brute_force(
    backend: str, behaviour: str, sgn: str | None, metric: str
) -> None:
    hits = 0
    for L in (4, 5, 6, 7):
        for seed, sign in enumerate(("mixed", "positive", "negative", "mixed")):
            documents = sample("search", 11, metric=metric, sign=sign, seed=seed)
            options = {"filter_length": L, "sgn": sgn, "behaviour": behaviour}
            made = run("search", backend, **documents | options)
            a, edges = documents["attributions"], documents["offsets"]
            settings = (L, metric, documents["value"], sgn, behaviour == "corrected")
            for kind in ("conv", "span"):
                begins = made[f"{kind}_offsets"]
                for d in range(len(edges) - 1):
                    expected = brute_force(a[edges[d] : edges[d + 1]], *settings, kind)
                    rows = slice(begins[d], begins[d + 1])
                    lists = [tuple(j for j in J if j >= 0) for J in made[f"{kind}_indices"][rows]]
                    assert lists == [J for J, _ in expected]
                    values = made[f"{kind}_values"][rows]
                    np.testing.assert_allclose(values, [v for _, v in expected], atol=1e-12)
                    hits += len(lists)
    assert hits or sgn == "-"


@pytest.mark.parametrize("backend", ARRAYS)
def test_a_long_document_crosses_the_stretches_of_the_kernel(backend: str) -> None:
    kwargs = sample("search", 1300, ragged=False)
    made, expected = run("search", backend, **kwargs), run("search", "numpy", **kwargs)
    assert made["conv_indices"][:, 0].max() > 1024 > made["conv_indices"][:, 0].min()
    for name, want in expected.items():
        np.testing.assert_allclose(made[name], want, atol=1e-12)


@pytest.mark.parametrize("backend", ARRAYS)
def test_documents_do_not_see_each_other(backend: str) -> None:
    kwargs = sample("search", 20, documents=3)
    edges = kwargs["offsets"]
    together = run("search", backend, **kwargs)
    for d in range(3):
        own = kwargs["attributions"][edges[d] : edges[d + 1]]
        alone = run("search", backend, **kwargs | {"attributions": own, "offsets": None})
        rows = slice(*together["conv_offsets"][d : d + 2])
        np.testing.assert_array_equal(together["conv_indices"][rows], alone["conv_indices"])


@pytest.mark.parametrize("backend", ARRAYS)
def test_the_last_token_is_found_only_when_corrected(backend: str) -> None:
    a = text_of(9, w7=1.0, w8=1.0)["attributions"]
    released = run("search", backend, attributions=a, value=0.34)
    corrected = run("search", backend, attributions=a, value=0.34, behaviour="corrected")
    assert not len(released["conv_values"])
    assert corrected["conv_indices"].tolist() == [[7, 8, -1]]


@pytest.mark.parametrize("backend", ARRAYS)
@pytest.mark.parametrize("n", [1, 4, 5, 6])
def test_texts_as_short_as_the_filter(backend: str, n: int) -> None:
    a = np.arange(1.0, n + 1)
    for behaviour, least in (("released", 6), ("corrected", 5)):
        made = run("search", backend, attributions=a, metric="quantile", behaviour=behaviour)
        assert (len(made["conv_values"]) > 0) == (n >= least)


@pytest.mark.parametrize("backend", ARRAYS)
def test_equal_attributions_never_exceed_their_mean(backend: str) -> None:
    assert not len(run("search", backend, attributions=np.full(9, 0.3))["conv_values"])
    made = run("search", backend, attributions=np.full(9, 0.3), metric="variance")
    assert len(made["conv_values"]) == len(
        brute_force(np.ones(9), 5, "variance", 0.4, "+", 0, "conv")
    )


@pytest.mark.parametrize("backend", ARRAYS)
def test_zero_counts_as_positive_and_a_gap_may_be_negative(backend: str) -> None:
    a = np.array([-1, 0, 1.0, -1, 1, -1, -1, -1, -1])
    lists = run("search", backend, attributions=a, metric="quantile", value=0.3)["conv_indices"]
    found = [tuple(j for j in J if j >= 0) for J in lists]
    assert found == [(2, 4), (1, 4), (1, 2, 4), (1, 2)]


@pytest.mark.parametrize("backend", ARRAYS)
def test_a_share_above_one_divides_by_more_tokens_than_there_are(backend: str) -> None:
    a = np.array([1.0, 0.5, 0.5, 1.0, 0.5, 0.5, 1.0, 0.5])  # sum 5.5, divided by 12
    made = run("search", backend, attributions=a, value=1.5)
    assert made["conv_values"].min() == 0.5 > 5.5 / 12


# --- sentences -------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", STRINGS)
def test_the_released_summary_names_the_first_tokens_whatever_they_score(backend: str) -> None:
    kwargs = text_of(12, w10=1.0)
    released = run("verbalize", backend, **kwargs)
    assert str(released["summary"]) == (
        "The phrase » w0 w1 w2 w3 w4 « is most important for the prediction"
    )
    corrected = run("verbalize", backend, **kwargs, behaviour="corrected")
    assert str(corrected["summary"]) == "The word » w10 « is most important for the prediction"
    assert corrected["summary_indices"].tolist() == [10]


@pytest.mark.parametrize("backend", STRINGS)
def test_of_equal_snippets_the_first_line_is_said_for_all(backend: str) -> None:
    kwargs = text_of(12, w1=1.0, w2=0.5, w7=0.5, w8=1.0) | {"value": 0.5}
    released = run("verbalize", backend, **kwargs)
    said = released["conv_text"].tolist()
    assert len(said) == 2 == len(released["conv_values"])
    assert said == ["snippet: 'w7 w8 ' contains 50.0% of prediction score."] * 2
    corrected = run("verbalize", backend, **kwargs, behaviour="corrected")["conv_text"].tolist()
    assert [line[10:15] for line in corrected] == ["w7 w8", "w1 w2"]


@pytest.mark.parametrize("backend", STRINGS)
def test_a_snippet_of_the_top_tokens_themselves_is_settled_by_rounding(backend: str) -> None:
    # Mean and threshold are of the same three numbers, summed in two orders, as the authors do.
    a = np.array([-1, -1, 0.23, 0.6, 0.7, -1, -1, -1])
    x = [float(np.float32(v)) / 0.7 for v in (0.23, 0.6, 0.7)]
    least, mean = (x[2] + x[1] + x[0]) / 3, (x[0] + x[1] + x[2]) / 3
    made = run("verbalize", backend, tokens=np.array(list("abcdefgh")), attributions=a)
    assert mean > least
    assert made["conv_values"][1] == made["span_values"][0] == mean


@pytest.mark.parametrize("backend", STRINGS)
def test_nothing_speaks_for_the_prediction(backend: str) -> None:
    kwargs = text_of(9) | {"attributions": -np.arange(1.0, 10)}
    released = run("verbalize", backend, **kwargs)
    assert "most important" in str(released["summary"])
    assert released["conv_text"].tolist() == ["No coherent values found."]
    assert released["conv_indices"].tolist() == [[-1]]
    assert np.isnan(released["conv_values"]).all()
    corrected = run("verbalize", backend, **kwargs, behaviour="corrected")
    assert str(corrected["summary"]) == "No token supports the prediction"
    assert corrected["summary_indices"].tolist() == []
    # Without a sign negative snippets are hits, but of no positive mass they cover nothing.
    unsigned = run("verbalize", backend, **kwargs, sgn=None, value=1.0)
    assert len(unsigned["conv_values"]) > 1
    assert set(unsigned["conv_text"].tolist()) == {"No coherent values found."}
    assert not unsigned["conv_coverage_pct"].any()


@pytest.mark.parametrize("backend", STRINGS)
def test_coverage_by_hand(backend: str) -> None:
    kwargs = text_of(10, w2=0.5, w3=0.2, w5=0.3)
    made = run("verbalize", backend, **kwargs, behaviour="corrected")
    said = [("w2 w5", 80.0), ("w2 w3", 70.0), ("w2 w3 w5", 100.0), ("w3 w5", 50.0)]
    assert made["conv_text"].tolist() == [
        f"snippet: '{words} ' contains {percent}% of prediction score." for words, percent in said
    ]
    np.testing.assert_allclose(made["conv_coverage_pct"], [percent for _, percent in said])
    assert str(made["summary"]) == "The phrase » w2 w3 « is most important for the prediction"
    assert made["order_tokens"][:3].tolist() == ["w2", "w5", "w3"]


def test_spans_of_equal_coverage_hide_one_another_unless_corrected() -> None:
    kwargs = text_of(10, w6=1.0, w8=1.0)
    texts = {
        b: str(run("verbalize", "numpy", **kwargs, behaviour=b)["summary"])
        for b in ("released", "corrected")
    }
    both = "The word » w6 « is most important for the prediction The word » w8 « is most important for the prediction"
    assert texts["corrected"] == both
    # Two single words cover 0 alike: of those with one rank the last stands.
    assert "w6" not in texts["released"]


@pytest.mark.parametrize("backend", STRINGS)
@pytest.mark.parametrize("token", ["'", '"', "»", "«", "{placeholder}", "don't", "."])
def test_tokens_with_quotes(backend: str, token: str) -> None:
    kwargs = text_of(10, w2=0.5, w3=0.4)
    kwargs["tokens"] = np.where(np.arange(10) == 3, token, kwargs["tokens"])
    made = run("verbalize", backend, **kwargs, behaviour="corrected")
    kind = "span" if "." in token else "phrase"
    assert str(made["summary"]) == f"The {kind} » w2 {token} « is most important for the prediction"
    assert made["summary_indices"].tolist() == [2, 3]
    quoted = run("citation_coverage", backend, **kwargs, text=made["summary"], source="template")
    assert np.isfinite(quoted["cov_at_k"]).all()


@pytest.mark.parametrize("backend", STRINGS)
def test_repeated_tokens_are_told_apart_by_their_place(backend: str) -> None:
    kwargs = text_of(10, w2=0.5, w3=0.4)
    made = run(
        "verbalize", backend, **kwargs | {"tokens": np.array(["same"] * 10)}, behaviour="corrected"
    )
    assert made["conv_text"].tolist() == [
        "snippet: 'same same ' contains 100.0% of prediction score."
    ]
    assert made["summary_indices"].tolist() == [2, 3]
    quoted = run(
        "citation_coverage",
        backend,
        tokens=np.array(["same"] * 10),
        attributions=kwargs["attributions"],
        text=made["summary"],
        source="template",
    )
    assert quoted["cov_at_k"][1] == pytest.approx(1.0)


def test_snippets_of_both_searches() -> None:
    kwargs = text_of(12, w3=1.0, w4=0.9, w5=1.0)
    made = run("verbalize", "numba", **kwargs, value=0.5)
    conv = {tuple(J) for J in made["conv_indices"].tolist()}
    span = {tuple(j for j in J if j >= 0) for J in made["span_indices"].tolist()}
    common = {tuple(J) for J in made["common_indices"].tolist()}
    assert common == {(3, 4, 5)} == conv & span


@pytest.mark.parametrize("backend", STRINGS)
def test_the_prompt_has_its_parts_in_order(backend: str) -> None:
    kwargs = {"tokens": np.array(["[CLS]", "fine"]), "attributions": np.array([0, -0.004])}
    made = run("instruction_prompt", backend, **kwargs, dataset="ag_news", label="Sports")
    assert str(made["scored_text"]) == "[CLS] (0.0) fine (-0.0)"
    prompt = str(made["prompt"])
    parts = [
        str(made["scored_text"]),
        "topic classifier",
        "Sports topic",
        "after",
        "nothing but",
        "briefly",
    ]
    places = [prompt.index(part) for part in parts]
    assert places == sorted(places)
    bare = run(
        "instruction_prompt",
        backend,
        **kwargs,
        dataset="imdb",
        label="positive",
        request="saliency",
    )
    assert "(0.0)" not in str(bare["prompt"])
    assert "most important" in str(bare["prompt"])


@pytest.mark.parametrize("backend", STRINGS)
def test_any_quote_closes_any_quote(backend: str) -> None:
    kwargs = {
        "tokens": np.array(["Good", "film", "bad"]),
        "attributions": np.array([0.5, 0.3, -1.0]),
    }
    text = "It says \"good' and '{placeholder}' 'two\nlines'"
    made = run("citation_coverage", backend, **kwargs, text=np.array(text), source="llm")
    assert made["words"].tolist() == ["good", "twolines"]
    np.testing.assert_allclose(made["cov_at_k"], [0.5 / 0.8] * 10)
    np.testing.assert_allclose(made["ceiling_cov_at_k"], [0.5 / 0.8] + [1.0] * 9)
    none = run(
        "citation_coverage",
        backend,
        **kwargs | {"attributions": -np.ones(3)},
        text=np.array(text),
        source="llm",
    )
    assert not none["cov_at_k"].any()
    assert not none["ceiling_cov_at_k"].any()


@pytest.mark.parametrize("backend", STRINGS)
def test_coverage_equals_a_count_word_by_word(backend: str) -> None:
    for seed in range(6):
        kwargs = sample("citation_coverage", 17, seed=seed, quoted=seed)
        made = run("citation_coverage", backend, **kwargs)
        pairs = sorted(
            ((-round(float(x), 2), i) for i, x in enumerate(kwargs["attributions"]) if x > 0)
        )
        named = {str(w).lower() for w in made["words"]}
        for k in range(1, 11):
            cover = -sum(x for x, i in pairs[:k] if kwargs["tokens"][i] in named)
            assert made["cov_at_k"][k - 1] == pytest.approx(cover / -sum(x for x, _ in pairs))


@pytest.mark.parametrize("backend", STRINGS)
def test_kappa_from_pairs_of_annotators(backend: str) -> None:
    for seed in range(5):
        ratings = sample("fleiss_kappa", 9, seed=seed)["ratings"] * 3 - 4
        agree = np.mean([a == b for row in ratings for a, b in combinations(row, 2)])
        chance = sum(np.mean(ratings == c) ** 2 for c in set(ratings.ravel().tolist()))
        made = run("fleiss_kappa", backend, ratings=ratings)
        assert made["fleiss_kappa"] == pytest.approx((agree - chance) / (1 - chance))
        assert made["table"].sum() == ratings.size
    assert np.isnan(run("fleiss_kappa", backend, ratings=np.ones((3, 4), int))["fleiss_kappa"])
