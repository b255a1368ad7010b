"""Attention calibration in PyTorch: the fused operator twice, column sums in blocks of queries."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from . import EXHIBIT, bar

ROWS = 512  # queries a block
FAR = -1e9  # added to a sink's score: its weight underflows to 0


@EXHIBIT.path
def calibrated_attend(
    q: Float[Tensor, "1 h n dim"],
    k: Float[Tensor, "1 h n dim"],
    v: Float[Tensor, "1 h n value_dim"],
    *,
    beta: float = 0.4,
    threshold: float = 0.1,
    alpha: float | None = None,
    heads: list[int] | None = None,
    want: frozenset[str] = frozenset(),
) -> dict[str, Tensor | None]:
    """See the reference. Without the maps nothing of size n x n is stored (gradients aside).

    With rest_k the attention over the other keys alone, (5) reads
    out_k = beta * sum_{t in S'} A[k,t] v_t + (1 - beta * mass_k) * rest_k, where mass_k is row k's
    weight on S': no division by a small rho.
    """
    h, n = q.shape[1:3]
    column_sum, lse = _statistics(q, k)
    mean = column_sum / _visible(n, mean_of=column_sum)
    sinks = later_sinks(mean, threshold, alpha, heads)
    made: dict[str, Tensor | None] = {"column_mean": mean, "sink_mask": sinks}

    if want & {"probs", "probs_calibrated"}:
        A = torch.cat([_rows(q, k, i) for i in range(0, n, ROWS)], dim=2)[0]
        made |= {"probs": A[None], "probs_calibrated": move(A, sinks, beta)[None]}

    most = int(sinks.sum(1).max())
    if most == 0 or beta == 1:
        return made | {"out": scaled_dot_product_attention(q, k, v, is_causal=True)}
    # One more column in q and k carries the mask, so that the fused kernel can stay causal.
    far = torch.where(sinks, FAR, 0.0).to(q.dtype)[None, ..., None]
    rest = scaled_dot_product_attention(
        pad(q, (0, 1), value=1.0), torch.cat([k, far], -1), v, is_causal=True, scale=_scale(q)
    )
    mine, which = sinks.to(torch.int8).sort(dim=1, descending=True, stable=True)
    mine, which = mine[:, :most].bool(), which[:, :most]  # (h, most): sinks first, in order
    at = which[None, ..., None]
    S = q @ k.gather(2, at.expand(1, h, most, k.shape[3])).mT * _scale(q)
    seen = mine[:, None] & (which[:, None] <= torch.arange(n, device=q.device)[:, None])
    a = torch.where(seen, S - lse[..., None], -torch.inf).exp()  # (1, h, n, most)
    mass = a.sum(-1, keepdim=True)
    out = beta * (a @ v.gather(2, at.expand(1, h, most, v.shape[3]))) + (1 - beta * mass) * rest
    # Rows with next to nothing off their sinks are looked at: with rho = 0 they must not change.
    full = mass[0] > 1 - 1e-6
    blocks = []
    for i in range(0, n, ROWS):
        block, ask = out[0, :, i : i + ROWS], full[:, i : i + ROWS]
        if bool(ask.any()):
            A = _rows(q, k, i)[0]
            lone = ask & (torch.where(sinks[:, None], 0, A).sum(-1, keepdim=True) == 0)
            block = torch.where(lone, A @ v[0], block)
        blocks.append(block)
    return made | {"out": torch.cat(blocks, dim=1)[None]}


@EXHIBIT.path
def calibrate(
    A: Float[Tensor, "h n n"],
    *,
    beta: float = 0.4,
    threshold: float = 0.1,
    alpha: float | None = None,
    heads: list[int] | None = None,
    causal: bool = True,
) -> dict[str, Tensor]:
    """See the reference."""
    n = A.shape[1]
    mean = A.sum(1) / (_visible(n, mean_of=A) if causal else n)
    sinks = later_sinks(mean, threshold, alpha, heads)
    return {"column_mean": mean, "sink_mask": sinks, "A_calibrated": move(A, sinks, beta)}


@EXHIBIT.path
def streaming_attend(
    q: Float[Tensor, "1 h 1 dim"],
    k: Float[Tensor, "1 h n dim"],
    v: Float[Tensor, "1 h n value_dim"],
    column_sum: Float[Tensor, "h n"],
    *,
    beta: float = 0.4,
    threshold: float = 0.1,
    alpha: float | None = None,
    heads: list[int] | None = None,
) -> dict[str, Tensor]:
    """See the reference."""
    a = (q @ k.mT * _scale(q)).softmax(-1)[0]  # (h, 1, n)
    column_sum = column_sum + a[:, 0]
    mean = column_sum / _visible(k.shape[2], mean_of=column_sum)
    sinks = later_sinks(mean, threshold, alpha, heads)
    return {
        "sink_mask": sinks,
        "out": (move(a, sinks, beta) @ v[0])[None],
        "column_sum": column_sum,
    }


def later_sinks(
    mean: Float[Tensor, "h n"], threshold: float, alpha: float | None, heads: list[int] | None
) -> Bool[Tensor, "h n"]:
    """(2): S' as a mask, False in heads that are left alone."""
    h, n = mean.shape
    sinks = mean > bar(n, threshold, alpha, torch.finfo(mean.dtype).eps)
    edited = torch.zeros(h, dtype=torch.bool, device=mean.device)
    edited[list(range(h)) if heads is None else heads] = True
    return sinks & (sinks.cumsum(1) > 1) & edited[:, None]


def move(
    A: Float[Tensor, "h rows n"], sinks: Bool[Tensor, "h n"], beta: float
) -> Float[Tensor, "h rows n"]:
    """(3)-(5); a row entirely on sinks stays as it is."""
    on_sinks = torch.where(sinks[:, None], A, 0)  # A - on_sinks would mix their gradients,
    R = torch.where(sinks[:, None], 0, A)  # which are of size 1 and 1 / rho
    free = (1 - beta) * on_sinks.sum(-1, keepdim=True)
    rho = R.sum(-1, keepdim=True)
    given = free * (R / torch.where(rho > 0, rho, 1))  # free / rho has a gradient of 1 / rho^2
    return torch.where(rho > 0, beta * on_sinks + R + given, A)


def _statistics(q: Tensor, k: Tensor) -> tuple[Float[Tensor, "h n"], Float[Tensor, "1 h n"]]:
    """Column sums and log-sum-exp of the causal map, ROWS queries at a time."""
    n = q.shape[2]
    total = q.new_zeros(q.shape[1:3])
    lse = []
    for i in range(0, n, ROWS):
        S = _scores(q, k, i)
        lse.append(S.logsumexp(-1))
        total = total + pad((S - lse[-1][..., None]).exp().sum(2)[0], (0, n - S.shape[-1]))
    return total, torch.cat(lse, dim=2)


def _rows(q: Tensor, k: Tensor, first: int) -> Float[Tensor, "1 h rows n"]:
    S = _scores(q, k, first)
    return pad(S.softmax(-1), (0, q.shape[2] - S.shape[-1]))


def _scores(q: Tensor, k: Tensor, first: int) -> Float[Tensor, "1 h rows seen"]:
    last = min(first + ROWS, q.shape[2])
    S = q[:, :, first:last] @ k[:, :, :last].mT * _scale(q)
    return S + torch.full_like(S[0, 0], -torch.inf).triu(first + 1)


def _scale(q: Tensor) -> float:
    return float(q.shape[3] ** -0.5)


def _visible(n: int, mean_of: Tensor) -> Tensor:
    return torch.arange(n, 0, -1, device=mean_of.device, dtype=mean_of.dtype)
