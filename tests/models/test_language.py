"""The language model: causal, exchangeable attention, trained weights that read English."""

import math

import numpy as np
import pytest
import torch

from attnlab.models.language import Configuration, LanguageModel, causal_attention, load
from attnlab.models.tokenizer import Tokenizer
from attnlab.models.training import QUICK, train

TEXT = "The value of the name is bound to the object in the local namespace. " * 60
SMALL = Configuration(width=32, layers=2, heads=2, hidden=32, context=32, dropout=0.1)


def untrained() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(Tokenizer.train(TEXT, 20), SMALL).eval()


def test_the_future_is_ignored():
    model = untrained()
    ids = model.encode(TEXT)[:40]
    changed = ids.clone()
    changed[20:] = 0
    with torch.no_grad():
        np.testing.assert_allclose(model(ids)[:20], model(changed)[:20], atol=1e-6)


def test_rotary_scores_depend_on_the_distance_alone():
    """Constant queries and keys: the score of (t, s) is a function of t - s."""
    from attnlab.models.language import rotate

    torch.manual_seed(0)
    q, k = (rotate(torch.randn(8).expand(1, 1, 30, 8).double()) for _ in range(2))
    scores = (q @ k.transpose(-1, -2))[0, 0]
    np.testing.assert_allclose(scores[1:, 1:], scores[:-1, :-1], atol=1e-5)
    assert scores[10, 10] != pytest.approx(scores[10, 3])


def test_attention_inputs_weights_and_injection_fit_together():
    model = untrained()
    seen = []

    def attend(q, k, v):
        out = causal_attention(q, k, v)
        seen.append((q, k, v, out))
        return out.detach().numpy()  # what a NumPy path would give back

    ids = model.encode(TEXT)[:24]
    with torch.no_grad():
        expected, got = model(ids), model(ids, attend)
    np.testing.assert_allclose(got, expected, atol=1e-6)

    weights = model.attention_weights(ids)
    assert weights.shape == (2, 2, 24, 24)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert not np.triu(weights, 1).any()
    for layer in range(2):
        arrays = model.attention_inputs(TEXT, layer, n=24)
        q, _, v, out = (t.numpy() for t in seen[layer])
        assert arrays["q"].shape == (1, 2, 24, 16)
        assert all(a.dtype == np.float32 and a.flags.c_contiguous for a in arrays.values())
        np.testing.assert_array_equal(arrays["q"], q)
        np.testing.assert_allclose(weights[layer] @ v[0], out[0], atol=1e-5)


def test_attention_may_be_exchanged_in_one_layer():
    model = untrained()
    ids = model.encode(TEXT)[:16]
    with torch.no_grad():
        plain, same = model(ids), model(ids, {1: causal_attention})
        other = model(ids, {1: lambda q, k, v: torch.zeros_like(v)})
    assert torch.equal(plain, same)
    assert not torch.allclose(plain, other)


def test_loss_is_nats_per_byte_over_all_windows():
    model = untrained()
    text = TEXT[:200]  # longer than one window
    ids = model.encode(text)
    uniform = math.log(len(model.tokenizer)) * (len(ids) - 1)
    after_first = len(text) - model.tokenizer.lengths()[ids[0]]
    assert model.loss(text) == pytest.approx(uniform / after_first, rel=0.05)
    short = text[:40]  # one window: the plain mean cross-entropy
    ids = model.encode(short)
    with torch.no_grad():
        nats = torch.nn.functional.cross_entropy(model(ids[:-1]), ids[1:], reduction="sum")
    after_first = len(short) - model.tokenizer.lengths()[ids[0]]
    assert model.loss(short) == pytest.approx(nats.item() / after_first, rel=1e-5)


def test_save_and_load(tmp_path):
    model = untrained()
    model.save(tmp_path)
    again = load(tmp_path)
    assert again.configuration == model.configuration
    ids = model.encode(TEXT)[:16]
    with torch.no_grad():
        np.testing.assert_allclose(again(ids), model(ids), atol=2e-3)  # float16 weights
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nowhere")
    LanguageModel(model.tokenizer, Configuration(width=16, layers=2, heads=2)).save(tmp_path / "b")
    (tmp_path / "weights.npz").write_bytes((tmp_path / "b" / "weights.npz").read_bytes())
    assert load(tmp_path).configuration.width == 16  # sizes travel with the weights


def test_bad_arguments():
    model = untrained()
    with pytest.raises(ValueError, match=r"layer 2 is not in 0\.\.1"):
        model.attention_inputs(TEXT, 2)
    with pytest.raises(ValueError, match="has only"):
        model.attention_inputs("short", 0, n=100)
    with pytest.raises(ValueError, match="at least 2 tokens"):
        model.loss("")
    with pytest.raises(ValueError, match="multiple of 2"):
        LanguageModel(model.tokenizer, Configuration(width=30, heads=4))
    with pytest.raises(ValueError, match="training needs at least"):
        train("too short a text", steps=1)


def run(steps=24, **options):
    options = {"configuration": SMALL, "merges": 20, "batch": 4, "evaluate_every": 8} | options
    return train(TEXT, steps=steps, **options)


def test_training_is_reproducible_and_learns():
    progress = []
    model = run(progress=progress.append)
    assert progress[-1].step == 24
    assert progress[-1].validation < progress[0].loss
    assert [p.step for p in progress if p.validation is not None] == [8, 16, 24]
    for a, b in zip(model.parameters(), run().parameters()):
        assert torch.equal(a, b)
    assert not torch.equal(model.embedding.weight, run(seed=1).embedding.weight)


def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(tmp_path):
    checkpoint = tmp_path / "state.pt"

    def cut_off(p):
        if p.step == 19:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run(progress=cut_off, checkpoint=checkpoint)
    assert checkpoint.exists()
    steps = []
    resumed = run(progress=lambda p: steps.append(p.step), checkpoint=checkpoint)
    assert steps[0] == 17  # the last checkpoint was at 16
    assert not checkpoint.exists()
    for a, b in zip(resumed.parameters(), run().parameters()):
        assert torch.equal(a, b)


def test_an_interrupt_keeps_the_best_weights():
    def interrupt(p):
        if p.step == 17:
            raise KeyboardInterrupt

    stopped, whole = run(progress=interrupt), run(steps=24)
    assert stopped.loss(TEXT) < untrained().loss(TEXT)
    assert stopped.loss(TEXT) > whole.loss(TEXT)


def test_a_time_budget_is_kept():
    import time

    start, seen = time.monotonic(), []
    model = run(steps=100_000, seconds=1.0, progress=seen.append)
    assert time.monotonic() - start < 5
    assert seen[-1].step < 100_000
    assert model.loss(TEXT) < untrained().loss(TEXT)


def test_the_quick_configuration_is_small():
    assert sum(w.numel() for w in LanguageModel(Tokenizer([]), QUICK).parameters()) < 200_000


@pytest.fixture(scope="module")
def shipped() -> LanguageModel:
    return load()


def test_the_shipped_model_beats_ngrams_on_text_it_never_saw(shipped):
    from attnlab.datasets.python_reference import python_reference
    from attnlab.models.baselines import baselines

    corpus = python_reference()
    bits = shipped.loss(corpus.validation) / math.log(2)
    scores = baselines(*corpus)
    assert bits < scores["byte 5-gram"] < scores["byte bigram"] < scores["byte unigram"]
    assert bits < scores["zlib (window 32 kB)"]
    assert shipped.loss(corpus.train[:20_000]) / math.log(2) < bits


def test_the_shipped_model_reads_any_text_and_writes(shipped):
    text = "Ünïcode, numbers 12345 and code: x = [i for i in range(10)]\n"
    assert shipped.decode(shipped.encode(text)) == text
    assert len(shipped.tokens(text)) == len(shipped.encode(text))
    assert shipped.loss(text) > 0
    written = shipped.continue_text("The value of the", 20)
    assert len(written) > 20
    assert written == shipped.continue_text("The value of the", 20)
    assert written != shipped.continue_text("The value of the", 20, temperature=2.0, seed=1)
