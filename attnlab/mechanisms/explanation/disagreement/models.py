"""The two classifiers in NumPy: probability, gradient and DeepLIFT multipliers of many points at once.

`points` is (points, n, width): the same tokens, moved. The mask is that of the one instance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

Weights = Mapping[str, np.ndarray]
Tape = list[tuple[Any, ...]]  # of each step: i, f, g, o, the cell before it, tanh of the cell


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


class Read(NamedTuple):
    """A BiLSTM's pass over the points: P(class 1), attention (7), hidden states, and its tape."""

    F: Float[np.ndarray, "points"]
    alpha: Float[np.ndarray, "points n"]
    h: Float[np.ndarray, "points n 2*hidden"]
    u: Float[np.ndarray, "points n hidden"]
    tapes: tuple[Tape, Tape]


class BiLSTM:
    """A bidirectional LSTM with additive attention, a linear decoder and a sigmoid."""

    def __init__(self, weights: Weights, mask: Bool[np.ndarray, "n"]):
        self.w, self.mask = weights, mask

    def probability(self, points: Float[np.ndarray, "points n width"]) -> np.ndarray:
        return self.read(points).F

    def read(self, points: Float[np.ndarray, "points n width"]) -> Read:
        """(7) on the hidden states of both directions."""
        w = self.w
        forward, tape = lstm(points, w, "l0")
        backward, tape_reverse = lstm(points[:, ::-1], w, "l0_reverse")
        h = np.concatenate([forward, backward[:, ::-1]], axis=2)  # (points, n, 2 hidden)
        u = np.tanh(h @ w["att_alignment_layer1_weight"].T + w["att_alignment_layer1_bias"])
        s = np.where(self.mask, u @ w["att_alignment_layer2_weight"][0], -np.inf)
        alpha = np.exp(s - s.max(1, keepdims=True))
        alpha /= alpha.sum(1, keepdims=True)
        c = np.einsum("pt,pth->ph", alpha, h)
        F = sigmoid(c @ w["dec_weight"][0] + w["dec_bias"][0])
        return Read(F, alpha, h, u, (tape, tape_reverse))

    def gradient(self, points: Float[np.ndarray, "points n width"]) -> np.ndarray:
        """dF/dpoints, by hand: decoder, attention, then back through time in both directions."""
        w, hidden = self.w, self.w["enc_weight_hh_l0"].shape[1]
        F, alpha, h, u, (tape, tape_reverse) = self.read(points)
        dc = (F * (1 - F))[:, None] * w["dec_weight"][0]
        dalpha = np.einsum("pth,ph->pt", h, dc)
        ds = alpha * (dalpha - (alpha * dalpha).sum(1, keepdims=True))
        du = ds[..., None] * w["att_alignment_layer2_weight"][0] * (1 - u**2)
        dh = alpha[..., None] * dc[:, None] + du @ w["att_alignment_layer1_weight"]
        dx = lstm_backward(dh[..., :hidden], tape, w, "l0")
        return dx + lstm_backward(dh[:, ::-1, hidden:], tape_reverse, w, "l0_reverse")[:, ::-1]

    def multipliers(self, x: np.ndarray, baseline: np.ndarray) -> np.ndarray:
        """(3): nothing here is a registered non-linearity, so the multiplier is the gradient at x."""
        return self.gradient(x[None])[0]


def lstm(x: np.ndarray, w: Weights, end: str) -> tuple[np.ndarray, Tape]:
    """Hidden states (points, n, hidden) of one direction, and what its gradient needs."""
    W_ih, W_hh = w[f"enc_weight_ih_{end}"], w[f"enc_weight_hh_{end}"]
    bias = w[f"enc_bias_ih_{end}"] + w[f"enc_bias_hh_{end}"]
    h = c = np.zeros((len(x), W_hh.shape[1]), x.dtype)
    states, tape = [], []
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ W_ih.T + h @ W_hh.T + bias, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        before, c = c, f * c + i * g
        h = o * np.tanh(c)
        states.append(h)
        tape.append((i, f, g, o, before, np.tanh(c)))
    return np.stack(states, axis=1), tape


def lstm_backward(dh: np.ndarray, tape: Tape, w: Weights, end: str) -> np.ndarray:
    """dF/dx (points, n, width) from dF/dh (points, n, hidden)."""
    W_ih, W_hh = w[f"enc_weight_ih_{end}"], w[f"enc_weight_hh_{end}"]
    dx = np.empty((*dh.shape[:2], W_ih.shape[1]), dh.dtype)
    from_later, dc = np.zeros_like(dh[:, 0]), np.zeros_like(dh[:, 0])
    for t in reversed(range(dh.shape[1])):
        i, f, g, o, before, tanh_c = tape[t]
        total = dh[:, t] + from_later
        dc = dc + total * o * (1 - tanh_c**2)
        dz = [dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i * (1 - g**2)]
        z = np.concatenate([*dz, total * tanh_c * o * (1 - o)], axis=1)
        dx[:, t], from_later, dc = z @ W_ih, z @ W_hh, dc * f
    return dx


class MLP:
    """tanh and relu layers on each token, the mean over unmasked tokens, a linear output, a sigmoid."""

    def __init__(self, weights: Weights, mask: Bool[np.ndarray, "n"]):
        self.w = weights
        self.share = mask / mask.sum()  # of each token in the mean

    def read(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        """Inputs and outputs of the three non-linearities: z1, a1, z2, a2, s, F."""
        w = self.w
        z1 = x @ w["l1_weight"].T + w["l1_bias"]
        a1 = np.tanh(z1)
        z2 = a1 @ w["l2_weight"].T + w["l2_bias"]
        a2 = np.maximum(z2, 0)
        s = np.einsum("pth,t,h->p", a2, self.share.astype(x.dtype), w["o_weight"][0])
        s = s + w["o_bias"][0]
        return z1, a1, z2, a2, s, sigmoid(s)

    def probability(self, points: Float[np.ndarray, "points n width"]) -> np.ndarray:
        return self.read(points)[-1]

    def gradient(self, points: Float[np.ndarray, "points n width"]) -> np.ndarray:
        _, a1, z2, _, _, F = self.read(points)
        return self._back(F * (1 - F), (z2 > 0).astype(F.dtype), 1 - a1**2)

    def multipliers(self, x: np.ndarray, baseline: np.ndarray) -> np.ndarray:
        """(3): every local derivative replaced by the slope between the baseline and x."""
        z1, a1, z2, a2, s, F = self.read(x[None])
        y1, b1, y2, b2, r, G = self.read(baseline[None])
        return self._back(
            slope(s, r, F, G, F * (1 - F)),
            slope(z2, y2, a2, b2, (z2 > 0).astype(F.dtype)),
            slope(z1, y1, a1, b1, 1 - a1**2),
        )[0]

    def _back(self, at_output: np.ndarray, at_relu: np.ndarray, at_tanh: np.ndarray) -> np.ndarray:
        w = self.w
        share = self.share.astype(at_output.dtype)
        da2 = at_output[:, None, None] * share[:, None] * w["o_weight"][0]
        return (da2 * at_relu @ w["l2_weight"]) * at_tanh @ w["l1_weight"]


def slope(x: Any, x0: Any, y: Any, y0: Any, derivative: Any) -> Any:
    """Delta_out / Delta_in, and the ordinary derivative where |Delta_in| < 1e-10."""
    step = x - x0
    flat = np.abs(step) < 1e-10
    return np.where(flat, derivative, (y - y0) / np.where(flat, 1, step))
