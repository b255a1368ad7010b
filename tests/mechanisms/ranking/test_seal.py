"""SEAL: the worked example, what is refused, what must work, and constrained decoding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from attnlab.contract import InputError
from attnlab.mechanisms.ranking.seal.decode import Index, beam_search, ngrams
from attnlab.registry import find

SEAL = find("seal")
PATHS = ["numpy", "numba"]


def ragged(rows: Sequence[Sequence[int]], name: str) -> dict[str, np.ndarray]:
    flat = [t for row in rows for t in row]
    return {
        f"{name}_tokens": np.array(flat, np.int64),
        f"{name}_offsets": np.cumsum([0, *map(len, rows)]),
    }


DOCS = [[4, 5, 6, 7, 2], [5, 6, 5, 6, 2], [9, 2], [4, 5, 6, 7, 2]]


def scored(backend: str, grams: list[list[int]], logprob: list[float], **options: Any) -> Any:
    return SEAL.run(
        "score_documents",
        backend=backend,
        **ragged(options.pop("docs", DOCS), "doc"),
        **ragged(grams, "ngram"),
        logprob=np.array(logprob),
        **options,
    )


def scan_count(docs: list[list[int]], g: list[int]) -> int:
    return sum(d[i : i + len(g)] == list(g) for d in docs for i in range(len(d) - len(g) + 1))


@pytest.mark.parametrize("backend", ["numpy", "numba", "torch"])
@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.parametrize("shift", [1, 10])
def test_counts_against_a_scan(backend: str, prepared: bool, shift: int) -> None:
    grams = [[5], [5, 6], [4, 5, 6, 7], [9], [8], [99, 5], [5, 99], [4, 5, 6, 7, 2, 3, 3, 3], []]
    index = SEAL.run("build_index", backend="numba", **ragged(DOCS, "doc"), shift=shift)._asdict()
    index.pop("suffix_array")
    if not prepared:
        index = {k: v for k, v in index.items() if not k.startswith("rank")}
    made = SEAL.run("count_ngrams", backend=backend, **index, **ragged(grams, "ngram"), shift=shift)
    expected = [scan_count(DOCS, g) for g in grams[:-1]] + [len(index["bwt"])]
    np.testing.assert_array_equal(np.asarray(made.counts), expected)
    absent = np.asarray(made.counts) == 0
    assert (np.asarray(made.ranges)[absent] == 1).all()


@pytest.mark.parametrize("backend", PATHS)
def test_the_worked_example(backend: str) -> None:
    """w(4,5) = 3, w(5,6) = 2, w(6,7) = 1 on D = [4,5,6,7,2] score 4, with overlaps 4.8."""
    from attnlab.mechanisms.ranking.seal import odds

    docs, grams = [[4, 5, 6, 7, 2], [8, 2]], [[4, 5], [5, 6], [6, 7]]
    # the log-probabilities that give those weights with alpha = 1
    N = 7
    P = (1 + 5.0) / (N + 5.0)
    s = [-np.log1p((1 - P) / P * np.exp(-w)) for w in (3.0, 2.0, 1.0)]
    w = odds.ngram_weights(np.array(s), np.ones(3, int), N, 5.0, 1.0)
    np.testing.assert_allclose(w, [3, 2, 1], rtol=1e-7)
    plain = scored(backend, grams, s, docs=docs, alpha=1.0)
    np.testing.assert_allclose(plain.doc_score, [4], rtol=1e-7)
    np.testing.assert_array_equal(plain.kept, [2, 4, 5, 2, 6, 7])
    overlapping = scored(backend, grams, s, docs=docs, alpha=1.0, allow_overlaps=True)
    np.testing.assert_allclose(overlapping.doc_score, [4.8], rtol=1e-7)


@pytest.mark.parametrize("backend", PATHS)
def test_must_work(backend: str) -> None:
    same = scored(backend, [[4, 5]], [-0.1])
    np.testing.assert_array_equal(same.doc_order, [0, 3])  # identical documents, equal scores
    assert same.doc_score[0] == same.doc_score[1]
    none = scored(backend, [[8, 8]], [-0.1])
    assert none.doc_order.size == none.kept.size == 0
    np.testing.assert_array_equal(none.kept_offsets, [0])
    for best in (False, True):  # no n-grams at all
        nothing = scored(
            backend, [], [], unigram_logprob=np.full(9, -2.0), add_best_unigrams_to_ngrams=best
        )
        assert nothing.doc_order.size == nothing.all_ngram_tokens.size == 0
        np.testing.assert_array_equal(nothing.kept_offsets, [0])
    one = scored(backend, [[9]], [-0.1])
    np.testing.assert_array_equal(one.doc_order, [2])
    assert scored(backend, [[4] * 12], [-0.1]).doc_order.size == 0
    sure = scored(backend, [[4, 5]], [0.0], unigram_logprob=np.zeros(10))
    assert np.isfinite(sure.doc_score).all()
    assert scored(backend, [[5, 6]], [-0.1], max_occurrences_1=3).doc_order.size == 0
    assert scored(backend, [[5, 6]], [-0.1], n_docs_complete_score=1).doc_order.size == 1
    twice = scored(backend, [[4, 5], [4, 5]], [-3.0, -0.1])
    np.testing.assert_array_equal(twice.doc_score, same.doc_score)
    zero = scored(backend, [[5, 0]], [-0.1], docs=[[5, 0, 2], [0, 5, 0, 2]])  # token id 0
    np.testing.assert_array_equal(zero.doc_order, [0, 1])


@pytest.mark.parametrize("backend", PATHS)
def test_a_certain_ngram_weighs_what_the_formula_gives_in_floating_point(backend: str) -> None:
    s, P = 0.0 - 1e-10, (2 + 5) / (17 + 5)
    w = ((s + math.log(1 - P)) - (math.log(P) + math.log(1 - math.exp(s)))) ** 2
    made = scored(backend, [[4, 5]], [0.0])
    np.testing.assert_allclose(made.all_ngram_score, [w], rtol=1e-10)


@pytest.mark.parametrize("backend", PATHS)
def test_a_covered_word_that_adds_nothing_is_not_kept(backend: str) -> None:
    docs = [[4, 5, 6, 4, 9, 2], [7, 2]]
    made = scored(backend, [[4, 5]], [-0.1], docs=docs, beta=1.0, unigram_logprob=np.full(10, -0.5))
    np.testing.assert_array_equal(made.kept, [2, 4, 5, 1, 6, 1, 9])  # the second 4 is covered


@pytest.mark.parametrize("backend", PATHS)
def test_padding_outside_the_vocabulary_allows_nothing(backend: str) -> None:
    made = SEAL.run(
        "mask_scores", backend=backend, **ragged(DOCS, "doc"),
        input_ids=np.array([[2, 9, 2], [2, 4, 5]]), scores=np.full((2, 10), -1.0), pad=10,
    )  # fmt: skip
    assert np.isneginf(made.masked[0]).all()
    np.testing.assert_array_equal(np.flatnonzero(made.masked[1] == -1), [6])


@pytest.mark.parametrize("backend", PATHS)
def test_coverage_decides_between_variants_and_two_phrases(backend: str) -> None:
    docs = [[4, 5, 6, 4, 5, 7, 2], [4, 5, 6, 10, 11, 8, 2], [12, 13, 12, 13, 12, 13, 12, 13, 2]]
    grams, logprob = [[4, 5, 6], [4, 5, 7], [10, 11]], [-0.2, -0.25, -0.4]
    stuffed = scored(backend, grams, logprob, docs=docs, beta=0.0)
    assert stuffed.doc_order[0] == 0
    assert scored(backend, grams, logprob, docs=docs, beta=0.8).doc_order[0] == 1


def corpus_without(change: list[list[int]]) -> dict[str, Any]:
    return ragged(change, "doc")


REFUSED: list[tuple[dict[str, Any], str]] = [
    (ragged([[4, 5], [6, 2]], "doc"), "end with eos"),
    (ragged([[2], [6, 2]], "doc"), "empty body"),
    (ragged([[-1, 2]], "doc"), "doc_tokens"),
    ({"doc_offsets": np.array([0, 5, 2])}, "doc_offsets"),
    ({"doc_offsets": np.array([1, 5, 10, 12, 17])}, "doc_offsets"),
]
REFUSED_SCORES: list[tuple[dict[str, Any], str]] = [
    ({"ngram_tokens": np.array([-4, 5])}, "ngram_tokens"),
    ({"ngram_offsets": np.array([0, 3])}, "ngram_offsets"),
    ({"ngram_offsets": np.array([0, 0, 2]), "logprob": np.zeros(2)}, "empty"),
    ({"logprob": np.array([0.1])}, "logprob"),
    ({"logprob": np.array([np.nan])}, "logprob"),
    ({"unigram_logprob": np.array([0.0, 0.1])}, "unigram_logprob"),
    ({"beta": 1.2}, "beta"),
    ({"beta": -0.1}, "beta"),
    ({"smoothing": 0.0}, "smoothing"),
]
BASE = ragged(DOCS, "doc") | ragged([[4, 5]], "ngram") | {"logprob": np.array([-0.1])}


@pytest.mark.parametrize(("change", "message"), REFUSED + REFUSED_SCORES)
@pytest.mark.parametrize("backend", PATHS)
def test_scoring_refuses(backend: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SEAL.run("score_documents", backend=backend, **BASE | change)


@pytest.mark.parametrize(("change", "message"), REFUSED)
@pytest.mark.parametrize("backend", PATHS)
def test_every_reader_of_a_corpus_refuses(
    backend: str, change: dict[str, Any], message: str
) -> None:
    docs = ragged(DOCS, "doc") | change
    with pytest.raises(InputError, match=message):
        SEAL.run("build_index", backend=backend, **docs)
    with pytest.raises(InputError, match=message):
        SEAL.run("query_index", backend=backend, **docs, **ragged([[4]], "ngram"))
    with pytest.raises(InputError, match=message):
        SEAL.run(
            "mask_scores", backend=backend, **docs, input_ids=np.full((1, 1), 2),
            scores=np.zeros((1, 9)),
        )  # fmt: skip


@pytest.mark.parametrize("backend", ["numpy", "numba", "torch"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"C": np.array([0, 3, 2, 9])}, "C must"),
        ({"ngram_tokens": np.array([-1, 5])}, "ngram_tokens"),
        ({"ngram_offsets": np.array([0, 1])}, "ngram_offsets"),
        ({"rank_zeros": None}, "rank_zeros"),
        ({"rank_words": np.zeros((1, 1), int)}, "rank"),
        ({"shift": 0}, "shift"),
    ],
)
def test_counting_refuses(backend: str, change: dict[str, Any], message: str) -> None:
    index = SEAL.run("build_index", **ragged(DOCS, "doc"))._asdict()
    index.pop("suffix_array")
    with pytest.raises(InputError, match=message):
        SEAL.run("count_ngrams", backend=backend, **index | ragged([[4, 5]], "ngram") | change)


class Chain:
    """Log-probabilities from a fixed table: next token given the last one."""

    def __init__(self, seed: int, V: int = 12, ties: bool = False) -> None:
        table = np.log(np.random.default_rng(seed).dirichlet(np.ones(V), V))
        self.table = np.full((V, V), -np.log(V)) if ties else table

    def next_logprobs(self, query_tokens: Any, prefix_tokens: Sequence[int]) -> np.ndarray:
        return self.table[prefix_tokens[-1] if prefix_tokens else 0]


def exhaustive(model: Chain, docs: list[list[int]], beams: int, length: int) -> list[Any]:
    """Beam search by scanning the documents."""
    history, alive = [], [((), 0.0)]
    for _ in range(length):
        found = []
        for y, lp in alive:
            row = model.next_logprobs((), y)
            for t in range(len(row)):
                if scan_count(docs, [*y, t]):
                    found.append((-(lp + row[t]), (*y, t)))
        found = sorted(found)[: 2 * beams]
        history += [(y, -cost) for cost, y in found]
        alive = [(y, -cost) for cost, y in found if y[-1] != 2][:beams]
    return history


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("beams", [1, 3, 40])
def test_beam_search_against_scanning(beams: int, ties: bool) -> None:
    rng = np.random.default_rng(beams)
    docs = [[*rng.integers(3, 11, 9).tolist(), 2] for _ in range(6)]
    index = Index.of(**ragged(docs, "doc"))
    made = beam_search(Chain(1, ties=ties), (), index, beams=beams, length=4)
    want = exhaustive(Chain(1, ties=ties), docs, beams, 4)
    assert [y for y, _ in made] == [y for y, _ in want]
    np.testing.assert_allclose([s for _, s in made], [s for _, s in want])
    assert len(made) <= 2 * beams * 4
    assert all(index.count(y) > 0 for y, _ in made)
    assert all(index.count(g) > 0 for g in ngrams(made, index))


def test_without_the_mask_the_model_makes_things_up() -> None:
    docs = [[3, 4, 5, 6, 2], [7, 8, 2]]
    index = Index.of(**ragged(docs, "doc"))
    free = beam_search(Chain(3), (), index, beams=4, length=3, constrained=False)
    assert any(index.count(y) == 0 for y, _ in free)
    assert ngrams(free, index)


def test_beam_search_ends_where_nothing_goes_on() -> None:
    index = Index.of(**ragged([[3, 4, 2]], "doc"))
    history = beam_search(Chain(0, V=4), (), index, beams=2, length=9)  # 4 is out of the vocabulary
    assert sorted(y for y, _ in history) == [(2,), (3,)]
    with pytest.raises(ValueError, match="beams"):
        beam_search(Chain(0), (), index, beams=0)
