"""Pointer networks in PyTorch: torch's own LSTM, pointing in slabs of steps, batched beam search."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call
from torch.nn import LSTM
from torch.nn.functional import log_softmax, pad
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from . import EXHIBIT

SLAB = 2**22  # numbers of the tanh tensor that exist at once


def point(
    K: Float[Tensor, "batch slots hidden"],
    Q: Float[Tensor, "batch steps hidden"],
    v: Float[Tensor, "hidden"],
) -> Float[Tensor, "batch steps slots"]:
    """Equation 3 for all steps, a slab of steps at a time: steps x slots x hidden is too much."""
    step = max(1, SLAB // max(K.numel(), 1))
    slabs = [torch.tanh(K[:, None] + q[:, :, None]) @ v for q in Q.split(step, dim=1)]
    return torch.cat(slabs, dim=1)


def real(lengths: Int[Tensor, "batch"], width: int) -> Tensor:
    """(batch, width) bool: the places below each length."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def cross_entropy(log_p: Tensor, target: Tensor, steps: Tensor) -> Tensor:
    """Equation 5: the mean over the real steps; log_p (batch, steps, slots), steps bool."""
    return -log_p[steps].gather(1, target[steps][:, None]).mean()


def lstm(
    x: Float[Tensor, "batch steps 2"],
    lengths: Int[Tensor, "batch"],
    state: tuple[Tensor, Tensor],
    weights: dict[str, Tensor],
    side: str,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Hidden states (batch, steps, hidden), 0 where padded, and each item's last (h, c)."""
    named = {
        f"{ours}_l0": weights[f"{side}_{name}"]
        for ours, name in (
            ("weight_ih", "Wih"),
            ("weight_hh", "Whh"),
            ("bias_ih", "bih"),
            ("bias_hh", "bhh"),
        )
    }
    hidden = state[0].shape[-1]
    skeleton = LSTM(2, hidden, batch_first=True, device="meta", dtype=x.dtype)
    packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    states, (h, c) = functional_call(skeleton, named, (packed, (state[0][None], state[1][None])))
    padded, _ = pad_packed_sequence(states, batch_first=True, total_length=x.shape[1])
    return padded, (h[0], c[0])


def encode(points: Tensor, n: Tensor, end: Tensor, c0: Tensor, weights: dict[str, Tensor]):
    """E (batch, length+1, hidden) of equation 2 and the last (h, c)."""
    batch = len(points)
    states, last = lstm(points, n, (end.expand(batch, -1), c0.expand(batch, -1)), weights, "enc")
    return torch.cat([end.expand(batch, 1, -1), states], dim=1), last


@EXHIBIT.path
def attend(
    enc: Float[Tensor, "batch n hidden"],
    dec: Float[Tensor, "batch steps hidden"],
    enc_len: Int[Tensor, "batch"],
    dec_len: Int[Tensor, "batch"],
    target: Int[Tensor, "batch steps"] | None = None,
    *,
    W1: Float[Tensor, "hidden hidden"],
    W2: Float[Tensor, "hidden hidden"],
    v: Float[Tensor, "hidden"],
) -> dict[str, Tensor | None]:
    """See the reference."""
    slots, steps = real(enc_len, enc.shape[1])[:, None], real(dec_len, dec.shape[1])
    both = slots & steps[..., None]
    # 0 times what padding holds, NaN perhaps, would reach the weights' gradients
    enc, dec = enc.masked_fill(~slots.mT, 0), dec.masked_fill(~steps[..., None], 0)
    u = point(enc @ W1, dec @ W2, v)
    log_p = log_softmax(u.masked_fill(~slots, -torch.inf), -1)
    return {
        "scores": u.masked_fill(~both, 0),
        "p": log_p.exp().masked_fill(~both, 0),
        "loss": None if target is None else cross_entropy(log_p, target, steps),
    }


@EXHIBIT.path
def forward(
    points: Float[Tensor, "batch length 2"],
    n: Int[Tensor, "batch"],
    target: Int[Tensor, "batch steps"],
    target_len: Int[Tensor, "batch"],
    *,
    start: Float[Tensor, "2"],
    end: Float[Tensor, "hidden"],
    c0: Float[Tensor, "hidden"],
    W1: Float[Tensor, "hidden hidden"],
    W2: Float[Tensor, "hidden hidden"],
    v: Float[Tensor, "hidden"],
    **lstms: Tensor,
) -> dict[str, Tensor]:
    """See the reference."""
    E, last = encode(points, n, end, c0, lstms)
    # what follows the end is padding, whatever it holds
    chosen = (target - 1).clamp(0, points.shape[1] - 1)[..., None].expand(-1, -1, 2)
    x = torch.cat([start.expand(len(points), 1, 2), points.gather(1, chosen)[:, :-1]], dim=1)
    d, _ = lstm(x, target_len, last, lstms, "dec")
    slots, steps = real(n + 1, E.shape[1])[:, None], real(target_len, target.shape[1])
    u = point(E @ W1, d @ W2, v)
    log_p = log_softmax(u.masked_fill(~slots, -torch.inf), -1)
    logits = u.masked_fill(~(slots & steps[..., None]), 0)
    return {"logits": logits, "loss": cross_entropy(log_p, target, steps)}


@EXHIBIT.path
def decode(
    points: Float[Tensor, "batch length 2"],
    n: Int[Tensor, "batch"],
    *,
    start: Float[Tensor, "2"],
    end: Float[Tensor, "hidden"],
    c0: Float[Tensor, "hidden"],
    W1: Float[Tensor, "hidden hidden"],
    W2: Float[Tensor, "hidden hidden"],
    v: Float[Tensor, "hidden"],
    task: str,
    beams: int = 1,
    **lstms: Tensor,
) -> dict[str, Tensor]:
    """See the reference. All items and beams take a step together; finished beams point at 0."""
    with torch.no_grad():
        E, (h, c) = encode(points, n, end, c0, lstms)
        K, (batch, slots) = E @ W1, E.shape[:2]
        rows = torch.arange(batch, device=points.device)[:, None]
        is_point = real(n + 1, slots)[:, None].clone()  # (batch, 1, slots)
        is_point[..., 0] = False
        # One beam lives; each step's winners (batch, beams) name the beam that they continue.
        tokens = torch.zeros(batch, 1, 0, dtype=torch.long, device=points.device)
        unused, cost = is_point, points.new_zeros(batch, 1)
        h, c, x = h[:, None], c[:, None], start.expand(batch, 1, 2)
        while tokens.shape[2] == 0 or not (tokens == 0).any(-1).all():
            h, c = _lstm_step(x, h, c, lstms)
            u = (torch.tanh(K[:, None] + (h @ W2)[:, :, None]) @ v).masked_fill(
                ~_allowed(tokens, unused, task), -torch.inf
            )
            total = (cost[..., None] - log_softmax(u, -1)).nan_to_num(nan=torch.inf)  # dead beams
            order = total.flatten(1).sort(dim=1, stable=True)  # ties: lower beam, lower slot
            best = order.indices[:, :beams]
            cost = order.values[:, :beams]
            source, token = best // slots, best % slots
            tokens = torch.cat([tokens[rows, source], token[..., None]], dim=2)
            unused = unused[rows, source].scatter(2, token[..., None], False)
            h, c = h[rows, source], c[rows, source]
            x = points[rows, (token - 1).clamp(min=0)]
        tokens = pad(tokens[:, 0], (0, 1))
        length = (tokens == 0).int().argmax(1) + 1
        return {"tokens": tokens[:, : int(length.max())], "len": length}


def _lstm_step(
    x: Tensor, h: Tensor, c: Tensor, weights: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Equation 1 of the decoder for (batch, beams, ·)."""
    z = x @ weights["dec_Wih"].T + weights["dec_bih"] + h @ weights["dec_Whh"].T
    i, f, g, o = (z + weights["dec_bhh"]).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _allowed(tokens: Tensor, unused: Tensor, task: str) -> Tensor:
    """(batch, beams, slots) bool: what may follow; see the reference's `allowed`."""
    slots, step = unused.clone(), tokens.shape[2]
    if step == 0:
        return slots
    first = tokens[..., :1]
    finished = ((tokens == 0) | (tokens[..., 1:] == first).any(-1, keepdim=True)).any(-1)
    if task == "tsp":
        home = ~unused.any(-1)
    else:
        home = torch.full_like(finished, step >= 3)
        slots[..., 0] = step >= 3
    slots |= home[..., None] & torch.zeros_like(slots).scatter(2, first, True)
    slots &= ~finished[..., None]
    slots[..., 0] |= finished
    return slots
