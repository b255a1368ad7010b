"""The tiny trainer: deterministic by seed, learns what can be learned, respects causality."""

import numpy as np
import pytest
import torch

from attnlab.datasets.synthetic import periodic, ring_retrieval
from attnlab.models.sequence import (
    IGNORED,
    SelfAttention,
    TinyTransformer,
    accuracy,
    consecutive_windows,
    evaluate,
    text_batches,
    train,
)


def tiny(seed=0, **options):
    options = {"width": 16, "context": 24, "layers": 1} | options
    return TinyTransformer(
        12, mixer=lambda: SelfAttention(options["width"], 2), seed=seed, **options
    )


def batches(rng):
    return periodic(rng, 16, 24, period=3)


def test_same_seed_same_model_and_same_course():
    a, b, other = tiny(), tiny(), tiny(seed=1)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))
    assert not torch.equal(a.embedding.weight, other.embedding.weight)
    torch.manual_seed(99)  # what else was drawn before must not matter
    state = torch.random.get_rng_state()
    first = train(a, batches, 5, 3e-3, seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert train(b, batches, 5, 3e-3, seed=4) == first


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_it_learns(optimizer):
    seen = []
    lr = 0.5 if optimizer == "sgd" else 1e-2
    model = tiny(width=32)
    losses = train(model, batches, 120, lr, optimizer=optimizer, progress=lambda *p: seen.append(p))
    assert np.mean(losses[-5:]) < 0.6 * losses[0]
    assert [p[0] for p in seen] == list(range(1, 121))
    assert seen[-1] == (120, 120, losses[-1])
    held_out = periodic(np.random.default_rng(1), 64, 24, period=3)
    assert evaluate(model, *held_out, batch=10) == pytest.approx(evaluate(model, *held_out))
    assert accuracy(model, *held_out) > 2 / 12


def test_accuracy_counts_labelled_positions_alone():
    inputs, labels = ring_retrieval(np.random.default_rng(0), 8)
    model = TinyTransformer(
        24, width=16, mixer=lambda: SelfAttention(16, 2, causal=False), context=16, outputs=6
    )
    with torch.no_grad():
        right = model(torch.as_tensor(inputs)).argmax(-1).numpy()
    labels = np.where(np.arange(16) < 4, right, IGNORED)
    assert accuracy(model, inputs, labels) == 1.0
    labels[:, :2] = (right[:, :2] + 1) % 6
    assert accuracy(model, inputs, labels) == 0.5


@pytest.mark.parametrize("positions", ["learned", "sinusoid", None])
@pytest.mark.parametrize("expand", [0, 4])
def test_a_causal_model_ignores_the_future(positions, expand):
    model = tiny(positions=positions, expand=expand).eval()
    ids = torch.randint(12, (2, 24))
    changed = ids.clone()
    changed[:, 12:] = 0
    with torch.no_grad():
        np.testing.assert_allclose(model(ids)[:, :12], model(changed)[:, :12], atol=1e-6)
        assert model(ids[:, :1]).shape == (2, 1, 12)


def test_positions_beyond_the_context():
    ids = torch.zeros((1, 30), dtype=torch.long)
    with pytest.raises(ValueError, match="n = 30 tokens, but positions were learned up to 24"):
        tiny()(ids)
    assert tiny(positions="sinusoid")(ids).shape == (1, 30, 12)


def test_windows_of_a_text():
    ids = np.arange(50)
    inputs, labels = text_batches(ids, 8, 10)(np.random.default_rng(0))
    assert inputs.shape == (8, 10)
    np.testing.assert_array_equal(inputs + 1, labels)
    inputs, labels = consecutive_windows(ids, 12)
    assert inputs.shape == (4, 12)
    np.testing.assert_array_equal(inputs.ravel(), np.arange(48))
    np.testing.assert_array_equal(inputs + 1, labels)
    for make in (lambda: text_batches(ids, 8, 50), lambda: consecutive_windows(ids, 50)):
        with pytest.raises(ValueError, match="needs 51"):
            make()


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="adamw, adam, sgd"):
        train(tiny(), batches, 1, 0.1, optimizer="lion")
    with pytest.raises(ValueError, match="multiple of heads"):
        SelfAttention(10, 4)
    with pytest.raises(ValueError, match="every label is IGNORED"):
        evaluate(tiny(), np.zeros((1, 4), int), np.full((1, 4), IGNORED))
