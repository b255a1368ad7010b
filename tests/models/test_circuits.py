"""The circuit models: both paths agree, what is recorded adds up, and the shipped weights know their task."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attnlab.models import circuit_training
from attnlab.models.circuits import (
    CircuitTransformer,
    Configuration,
    ablation,
    load,
    record,
    save,
    shipped,
)
from attnlab.paths import data_dir

SMALL = Configuration("toy", tuple("abcdefgh"), context=9, width=12, layers=2, heads=3, hidden=5)


@pytest.fixture(scope="module")
def model() -> CircuitTransformer:
    return CircuitTransformer(SMALL, seed=4).double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 8, (3, 7)))


def test_the_readable_path_equals_the_fused_one(model, ids) -> None:
    seen = model.trace(ids)
    torch.testing.assert_close(seen.logits, model(ids), atol=1e-12, rtol=0)
    assert seen.weights.shape == (3, 2, 3, 7, 7)
    torch.testing.assert_close(seen.weights.sum(-1), torch.ones(3, 2, 3, 7).double())
    assert (seen.weights.triu(1) == 0).all()


def test_the_residual_stream_is_the_sum_of_what_heads_and_mlps_write(model, ids) -> None:
    seen = model.trace(ids)
    written = seen.heads.sum((1, 2)) + seen.mlps.sum(1)
    torch.testing.assert_close(seen.residual[:, 0] + written, seen.residual[:, -1])


def test_record_gives_a_column_a_head_in_order(model, ids) -> None:
    seen, n = model.trace(ids), 6
    streams = record(model, ids.numpy())
    assert streams.shape == (3, n, 12)
    np.testing.assert_allclose(streams[:, 4], seen.heads[:, 1, 1].mean(1))
    last = record(model, ids.numpy(), at="last", mlps=True)
    assert last.shape == (3, n + 2, 12)
    np.testing.assert_allclose(last[:, 3], seen.mlps[:, 0, -1])
    np.testing.assert_allclose(last[:, 4], seen.heads[:, 1, 0, -1])


def test_decoding_gives_the_rows_and_logits_of_the_whole_sequence(model, ids) -> None:
    seen, prompt = model.trace(ids), ids[0].tolist()
    for cut in (0, 1, 4):
        state = model.prefill(prompt[:cut])
        for t in range(cut, 7):
            logits, rows, state = model.step(prompt[t], state)
            np.testing.assert_allclose(logits, seen.logits[0, t], atol=1e-12)
            np.testing.assert_allclose(rows, seen.weights[0, :, :, t, : t + 1], atol=1e-12)


def test_a_step_leaves_its_state_as_it_was(model) -> None:
    state = model.prefill([1, 2, 3])
    first, _, _ = model.step(4, state)
    model.step(5, state)
    again, _, _ = model.step(4, state)
    np.testing.assert_array_equal(first, again)


def test_masked_heads_attend_uniformly_in_that_step_alone(model) -> None:
    state = model.prefill([1, 2, 3])
    _, rows, after = model.step(4, state, masked_heads=[(1, 2), (0, 0)])
    np.testing.assert_allclose(rows[1, 2], 0.25)
    np.testing.assert_allclose(rows[0, 0], 0.25)
    assert np.ptp(rows[1, 0]) > 1e-6
    _, rows, _ = model.step(5, after)
    assert np.ptp(rows[1, 2]) > 1e-6


def test_masking_everywhere_is_a_uniform_causal_row(model, ids) -> None:
    everywhere = model(ids, masked_heads=[(0, 1)])
    even = torch.ones(7, 7).double().tril() / torch.arange(1, 8)[:, None]

    def edit(layer, weights, written):
        if layer == 0:
            x = model.trace(ids).residual[:, 0]
            v = model.layers[0].qkv(x)[2]
            written[:, 1] = model.layers[0].written(even @ v)[:, 1]
        return written

    torch.testing.assert_close(everywhere, model.trace(ids, edit).logits, atol=1e-12, rtol=0)
    state = model.prefill(ids[0, :-1], masked_heads=[(0, 1)])
    logits, _, _ = model.step(int(ids[0, -1]), state, masked_heads=[(0, 1)])
    np.testing.assert_allclose(logits, everywhere[0, -1], atol=1e-12)


def test_bad_input_is_refused(model) -> None:
    with pytest.raises(ValueError, match=r"head \(2, 0\) does not exist"):
        model.step(1, model.prefill([1]), masked_heads=[(2, 0)])
    with pytest.raises(ValueError, match="10 tokens, but positions were learned up to 9"):
        model.prefill([1] * 10)
    with pytest.raises(ValueError, match="no multiple of heads"):
        CircuitTransformer(Configuration("toy", ("a",), context=3, width=10, heads=3))
    with pytest.raises(ValueError, match="'x' is no word"):
        model.encode("a x")
    with pytest.raises(ValueError, match="no words"):
        model.encode("  ")
    with pytest.raises(ValueError, match="model must be one of"):
        load("no such task")
    with pytest.raises(ValueError, match="task must be one of"):
        circuit_training.train("no such task")
    with pytest.raises(FileNotFoundError):
        load("ioi", "no such folder")


def test_words_of_known_letters_are_read_letter_by_letter(model) -> None:
    assert model.encode("a bad").tolist() == [0, 1, 0, 3]
    assert model.decode([0, 1]) == "a b"


def test_weights_survive_saving(tmp_path) -> None:
    made = CircuitTransformer(SMALL, seed=1).eval()
    save([made], tmp_path)
    again = load("toy", tmp_path)
    assert again.configuration == SMALL
    for a, b in zip(made.parameters(), again.parameters()):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_training_lowers_the_loss_and_repeats() -> None:
    _, losses = circuit_training.train("greater_than", steps=25)
    _, again = circuit_training.train("greater_than", steps=25)
    assert losses == again
    assert np.mean(losses[-5:]) < losses[0] - 0.5


# --- the weights that ship -------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped())
def test_the_shipped_model_knows_its_task(name: str) -> None:
    trained = load(name)
    task = trained.task(200, seed=11)
    assert trained.accuracy(task) > 0.95
    assert circuit_training.untrained(name).accuracy(task) < 0.75
    assert trained.configuration.vocabulary == task.vocabulary


def test_the_shipped_weights_are_small() -> None:
    files = list((data_dir() / "circuit_models").iterdir())
    assert sum(f.stat().st_size for f in files) <= 2 * 1024**2
    assert {f.name for f in files} == {"weights.npz", "CARD.md"}


def test_the_retrieval_model_hangs_on_its_second_layer() -> None:
    trained = load("retrieval")
    worth = ablation(trained, trained.task(200), "flatten")
    top = trained.accuracy(trained.task(200), [(1, h) for h in range(4)])
    assert worth.shape == (2, 4)
    assert top < 0.3
    for lesion in ("zero", "mean"):
        assert ablation(trained, trained.task(100), lesion).max() <= 1
