"""The BiLSTM at many points against torch's LSTM and autograd."""

import numpy as np
import pytest
import torch

from attnlab.kernels.cpu.bilstm import read_points, to_embedding


def weights_of(hidden, width, rng):
    w = {}
    for end in ("l0", "l0_reverse"):
        w[f"enc_weight_ih_{end}"] = rng.standard_normal((4 * hidden, width))
        w[f"enc_weight_hh_{end}"] = rng.standard_normal((4 * hidden, hidden)) / hidden**0.5
        w[f"enc_bias_ih_{end}"], w[f"enc_bias_hh_{end}"] = rng.standard_normal((2, 4 * hidden))
    return w | {
        "att_alignment_layer1_weight": rng.standard_normal((hidden, 2 * hidden)),
        "att_alignment_layer1_bias": rng.standard_normal(hidden),
        "att_alignment_layer2_weight": rng.standard_normal((1, hidden)),
        "dec_weight": rng.standard_normal((1, 2 * hidden)),
        "dec_bias": rng.standard_normal(1),
    }


def by_torch(points, mask, w):
    """(F, attention, hidden states) of a module with these weights."""
    hidden = w["enc_weight_hh_l0"].shape[1]
    lstm = torch.nn.LSTM(points.shape[2], hidden, batch_first=True, bidirectional=True).double()
    for name, value in w.items():
        if name.startswith("enc_"):
            getattr(lstm, name[4:]).data = torch.as_tensor(value)
    t = {k: torch.as_tensor(v) for k, v in w.items()}
    h = lstm(points)[0]
    u = (h @ t["att_alignment_layer1_weight"].T + t["att_alignment_layer1_bias"]).tanh()
    s = (u @ t["att_alignment_layer2_weight"][0]).masked_fill(~torch.as_tensor(mask), -torch.inf)
    alpha = s.softmax(-1)
    c = (alpha[..., None] * h).sum(1)
    return (c @ t["dec_weight"][0] + t["dec_bias"]).sigmoid(), alpha, h


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "hidden", "points", "graded"), [(1, 1, 1, 1), (7, 5, 70, 35)])
def test_points_and_gradients(n, hidden, points, graded, dtype, rng):
    width = 3
    w = {k: v.astype(dtype) for k, v in weights_of(hidden, width, rng).items()}
    x, baselines = rng.standard_normal((n, width)), rng.standard_normal((2, n, width))
    x, baselines = x.astype(dtype), baselines.astype(dtype)
    share, base = rng.random((points, n)).astype(dtype), rng.integers(0, 2, points)
    mask = np.arange(n) < max(1, n - 2)
    made = read_points(x, baselines, share, base, graded, mask, w)
    gradient = to_embedding(made.dz, w)

    at = baselines[base] + share[..., None] * (x - baselines[base])
    at = torch.as_tensor(at.astype(float)).requires_grad_()
    F, alpha, h = by_torch(at, mask, {k: v.astype(float) for k, v in w.items()})
    F.sum().backward()
    close = 2e-5 if dtype == np.float32 else 1e-11
    np.testing.assert_allclose(made.F, F.detach(), atol=close)
    np.testing.assert_allclose(made.alpha, alpha[:graded].detach(), atol=close)
    norm = (alpha * h.norm(dim=-1))[:graded].detach()
    np.testing.assert_allclose(made.norm, norm, atol=close)
    np.testing.assert_allclose(gradient, at.grad[:graded], atol=close)
