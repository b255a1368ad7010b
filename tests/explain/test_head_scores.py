"""Scores and lesions of heads: known attention maps, planted decoders, the shipped models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attnlab.explain import heads as science
from attnlab.explain.decoders import (
    CircuitDecoder,
    HuggingFaceDecoder,
    LanguageDecoder,
    open_decoder,
)
from attnlab.explain.heads import Needle, ablate, entropy, head_scores, needles, run
from attnlab.models.circuit_training import untrained


class Planted:
    """Two layers of two heads; head (1, 0) looks at the last occurrence of the token just read, plus
    one, and the model emits that token if this head is whole; all other heads look at key 0."""

    name, layers, heads, context = "planted", 2, 2, 60
    ids, begin, sampled = np.arange(1, 90_000), (0,), "made up"

    def samples(self, count: int, seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [np.append(0, rng.choice(self.ids, 19, replace=False)) for _ in range(count)]

    def prefill(self, ids: Any, masked_heads: Any = ()) -> Any:
        return list(ids)

    def step(self, token: int, state: Any, masked_heads: Any = ()) -> Any:
        ids = [*state, int(token)]
        before = [j for j, t in enumerate(ids[:-1]) if t == token]
        j = before[-1] + 1 if before else 0
        rows = np.zeros((2, 2, len(ids)))
        rows[..., 0] = 1
        rows[1, 0] = np.eye(len(ids))[j]
        for layer, head in masked_heads:
            rows[layer, head] = 1 / len(ids)
        logits = np.zeros(90_000)
        logits[ids[int(rows[1, 0].argmax())]] = 1
        return logits, rows, ids

    def attention(self, ids: np.ndarray) -> np.ndarray:
        state: list[int] = []
        A = np.zeros((2, 2, len(ids), len(ids)))
        for t, token in enumerate(ids):
            _, rows, state = self.step(int(token), state)
            A[:, :, t, : t + 1] = rows
        return A

    def logits(self, ids: np.ndarray, masked_heads: Any = ()) -> np.ndarray:
        return np.stack([self.step(int(t), ids[:i], masked_heads)[0] for i, t in enumerate(ids)])


def test_the_planted_copying_head_is_found_and_missed() -> None:
    model = Planted()
    tests = needles(model, runs=12, answer=5, haystack=20)
    scores = head_scores(model, tests, prompts=4)
    expected = np.array([[0.0, 0.0], [1.0, 0.0]])
    assert scores.counted == 12
    np.testing.assert_allclose(scores.retrieval, expected, atol=1e-6)
    np.testing.assert_allclose(scores.set, expected, atol=1e-6)
    np.testing.assert_allclose(scores.frequency, expected)
    assert scores.induction[1, 0] > 0.95
    np.testing.assert_allclose(scores.sink[0], 1)
    np.testing.assert_allclose(scores.entropy, 0, atol=1e-12)
    assert scores.top(1) == [(1, 0)]

    cost = ablate(model, tests, scores, ks=(1, 4), draws=2)
    first, all_ = cost.costs
    assert cost.whole.value == 1
    assert first.recall.value < 0.2
    assert first.other_recall is not None
    assert first.other_recall.value == 1
    assert first.difference is not None
    assert first.difference.p < 0.01
    assert all_.other_recall is None  # no heads are left to compare with


def test_a_needle_is_where_it_is_said_to_be_and_ends_the_prompt() -> None:
    model = Planted()
    for test in needles(model, runs=7, answer=4, haystack=16):
        lead = test.prompt[-2:]
        np.testing.assert_array_equal(test.prompt[test.start - 2 : test.start], lead)
        assert len(test.wanted) == 4
        assert test.prompt[0] == 0
    starts = [t.start for t in needles(model, runs=7, answer=4, haystack=16)]
    assert starts[0] == 3
    assert starts == sorted(starts)
    assert starts[-1] == 3 + 16


def test_failed_answers_are_not_counted() -> None:
    model = Planted()
    wrong = [Needle(np.array([0, 5, 6, 7, 8, 9]), 1, 3)]  # 9 was never there before
    scores = head_scores(model, wrong, prompts=2)
    assert (scores.runs, scores.counted) == (1, 0)
    assert np.isnan(scores.retrieval).all()
    with pytest.raises(ValueError, match="not defined"):
        scores.top(1)
    assert scores.top(1, "sink") == [(0, 0)]
    with pytest.raises(ValueError, match="k must be 1 to 4"):
        scores.top(5, "sink")
    with pytest.raises(ValueError, match="no needle tests"):
        ablate(model, [], scores)


def test_entropy_is_0_for_one_key_and_1_for_all_equally() -> None:
    even = np.tri(6) / np.arange(1, 7)[:, None]
    made = entropy(np.stack([even, np.eye(6)])[None])
    np.testing.assert_allclose(made, [[1, 0]], atol=1e-12)


# --- the three decoders ----------------------------------------------------------------------


def decoder_of(kind: str) -> Any:
    if kind == "circuit":
        return CircuitDecoder(untrained("induction").eval().requires_grad_(False))
    if kind == "language":
        return open_decoder("language")
    return tiny_llama()


def tiny_llama() -> HuggingFaceDecoder:
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    sizes = transformers.LlamaConfig(
        vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.4,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(sizes).eval()
    return HuggingFaceDecoder(model, None, "", "tiny")


@pytest.mark.parametrize("kind", ["circuit", "language", "hugging face"])
def test_steps_give_the_rows_and_logits_of_the_whole_sequence(kind: str) -> None:
    decoder = decoder_of(kind)
    ids = np.random.default_rng(1).choice(decoder.ids, 12)
    A, logits = decoder.attention(ids), decoder.logits(ids)
    np.testing.assert_allclose(A.sum(-1), 1, atol=1e-5)
    assert (np.triu(A, 1) == 0).all()
    state = decoder.prefill(ids[:7])
    for t in range(7, 12):
        out, rows, state = decoder.step(int(ids[t]), state)
        np.testing.assert_allclose(out, logits[t], atol=1e-4)
        np.testing.assert_allclose(rows, A[:, :, t, : t + 1], atol=1e-5)


@pytest.mark.parametrize("kind", ["circuit", "language", "hugging face"])
def test_flattened_heads_are_uniform_while_decoding_and_everywhere(kind: str) -> None:
    decoder = decoder_of(kind)
    ids = np.random.default_rng(2).choice(decoder.ids, 10)
    masked = [(0, 1), (1, 3)]
    _, rows, _ = decoder.step(int(ids[-1]), decoder.prefill(ids[:-1]), masked)
    np.testing.assert_allclose(rows[1, 3], 0.1, atol=1e-6)
    np.testing.assert_allclose(rows[0, 1], 0.1, atol=1e-6)
    assert np.ptp(rows[0, 0]) > 1e-6
    # flattened while the prompt is read, too: the logits of a whole sequence with these heads flat
    state = decoder.prefill(ids[:-1], masked)
    out, _, _ = decoder.step(int(ids[-1]), state, masked)
    np.testing.assert_allclose(out, decoder.logits(ids, masked)[-1], atol=1e-4)
    assert np.abs(out - decoder.logits(ids)[-1]).max() > 1e-4
    with pytest.raises(ValueError, match="does not exist"):
        decoder.logits(ids, [(9, 0)])


def test_the_hugging_face_path_equals_the_library() -> None:
    decoder = tiny_llama()
    transformers = pytest.importorskip("transformers")
    again = transformers.LlamaForCausalLM(decoder.model.config)
    again.load_state_dict(decoder.model.state_dict())
    again.set_attn_implementation("eager")
    ids = np.arange(9)
    with torch.no_grad():
        made = again(input_ids=torch.as_tensor(ids)[None], output_attentions=True)
    np.testing.assert_allclose(decoder.logits(ids), made.logits[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(
        decoder.attention(ids), torch.stack(made.attentions)[:, 0].numpy(), atol=1e-5
    )


def test_a_short_text_is_refused() -> None:
    from attnlab.models import language

    with pytest.raises(ValueError, match="at least 16"):
        LanguageDecoder(language.load(), "if")


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(ValueError, match="did you mean induction"):
        open_decoder("inducton")


# --- the shipped models ----------------------------------------------------------------------


def test_the_shipped_models_have_retrieval_heads_in_their_last_layers() -> None:
    decoder = open_decoder("retrieval")
    tests = needles(decoder, runs=60)
    scores = head_scores(decoder, tests, prompts=4)
    assert scores.counted > 55
    assert scores.retrieval[1].min() > scores.retrieval[0].max() + 0.5
    cost = ablate(decoder, tests, scores, ks=(1, 4), draws=1, same_layers=True)
    assert cost.costs[1].recall.value < cost.costs[0].recall.value < cost.whole.value + 1e-9
    assert cost.costs[1].other_recall is None


def test_the_induction_model_copies_whole_needles() -> None:
    decoder = open_decoder("induction")
    tests = needles(decoder, runs=20)
    scores = head_scores(decoder, tests, prompts=4)
    assert scores.recall.value > 0.8
    assert scores.retrieval.max() > 0.5
    assert scores.induction.max() > 0.5
    one = run(decoder, tests[3])
    assert one.attention.shape == (8, 2, 4, len(tests[3].prompt) + 8)
    assert science.copied(one)[0].shape == (2, 4)


def test_greater_than_copies_nothing() -> None:
    decoder = open_decoder("greater_than")
    with pytest.raises(ValueError, match="no copies"):
        needles(decoder)
    scores = head_scores(decoder, [], prompts=3)
    assert np.isnan(scores.retrieval).all()
    assert np.isfinite(scores.entropy).all()
