"""The training windows: text and its next tokens, and random tokens that only their past predicts."""

import torch

from attnlab.models.training import learning_rate, repeated, windows


def test_windows_are_text_and_its_next_tokens():
    torch.manual_seed(0)
    x, y = windows(torch.arange(1000), batch=6, context=32, vocabulary=1000, repeats=0)
    assert x.shape == y.shape == (6, 32)
    assert torch.equal(x + 1, y)
    assert torch.equal(x[:, 1:], y[:, :-1])


def test_repeats_are_known_from_their_past_alone():
    torch.manual_seed(0)
    x, y = repeated(5, 64, 10_000)
    assert torch.equal(x[:, :32], x[:, 32:])
    assert (y[:, :31] == -1).all()
    assert torch.equal(y[:, 31:], torch.cat([x[:, 32:], x[:, :1]], dim=1))


def test_one_window_in_so_many_is_of_repeats():
    torch.manual_seed(0)
    x, y = windows(torch.arange(1000), batch=400, context=32, vocabulary=1000, repeats=4)
    repeats = (y < 0).any(1)
    assert 60 < repeats.sum() < 140
    assert torch.equal(x[~repeats] + 1, y[~repeats])


def test_the_learning_rate_warms_up_and_descends():
    rates = [learning_rate(step, step / 1000) for step in range(1000)]
    assert rates[0] == 0.01
    assert max(rates) == max(rates[90:110])
    assert rates[110:] == sorted(rates[110:], reverse=True)
    assert 0.02 <= rates[-1] < 0.03
