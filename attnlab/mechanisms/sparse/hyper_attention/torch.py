"""HyperAttention in PyTorch: one softmax over [own block | samples], batched over blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from . import EXHIBIT
from .plan import Problem, draw_projection, draw_samples, problems


def bucket(
    x: Float[Tensor, "batch heads n dim"], P: Float[Tensor, "dim r"]
) -> Int[Tensor, "batch heads n"]:
    """Signs of r projections as bits of a number, then its Gray code. (1)"""
    bits = (x.detach() @ P > 0).long()
    number = (bits << torch.arange(P.shape[1], device=x.device)).sum(-1)
    return number ^ (number >> 1)


def gather(x: Tensor, rows: Tensor) -> Tensor:
    return x.gather(2, rows[..., None].expand(-1, -1, -1, x.shape[-1]))


def merge(a1: Tensor, l1: Tensor, a2: Tensor, l2: Tensor) -> tuple[Tensor, Tensor]:
    """(out, lse) over two disjoint sets of keys. (3)"""
    lse = torch.logaddexp(l1, l2)
    c = (l1 - lse).exp()
    return c * a1 + (1 - c) * a2, lse


@dataclass
class Settings:
    P: Tensor
    samples: Iterator[Tensor]  # consumed in drawing order
    scale: float
    block_size: int
    sample_size: int
    min_seq_len: int
    exclude_own_block: bool
    mask_padding: bool


def exact(
    q: Tensor, k: Tensor, v: Tensor, scale: float, hidden: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(out, lse). torch's fused attention has no gradient of lse, so scores are stored. (2)"""
    S = q @ k.mT * scale
    if hidden is not None:
        S = S.masked_fill(hidden, -torch.inf)
    lse = S.logsumexp(-1, keepdim=True)
    return (S - lse).exp() @ v, lse


def attend_all(q: Tensor, k: Tensor, v: Tensor, s: Settings) -> tuple[Tensor, Tensor]:
    """(out, lse) without a mask: sorted blocks and sampled columns in one softmax."""
    n, m, dim = q.shape[2], k.shape[2], q.shape[3]
    if n < s.min_seq_len:
        return exact(q, k, v, s.scale)
    plan = Problem(0, n, m, s.block_size, s.sample_size)
    nb, b, qb = plan.blocks, plan.block, plan.query_block

    sort_q = bucket(q, s.P).argsort(dim=-1, stable=True)
    sort_k = bucket(k, s.P).argsort(dim=-1, stable=True)
    q, k, v = gather(q, sort_q), gather(k, sort_k), gather(v, sort_k)
    Q = pad(q, (0, 0, 0, nb * qb - n)).unflatten(2, (nb, qb))  # (batch, heads, nb, qb, dim)
    K, V = (pad(x, (0, 0, 0, nb * b - m)).unflatten(2, (nb, b)) for x in (k, v))

    S = Q @ K.mT * s.scale
    if s.mask_padding:
        padding = torch.arange(nb * b, device=q.device).view(nb, 1, b) >= m
        S = S.masked_fill(padding, -torch.inf)
    if plan.sampled:
        idx = next(s.samples)  # (batch, heads, S), in sorted key order
        few_k, few_v = gather(k, idx)[:, :, None], gather(v, idx)[:, :, None]
        # log(m/S) on every score is log(m/S) on their log-sum-exp (4)
        rest = Q @ few_k.mT * s.scale - math.log(plan.samples / m)
        if s.exclude_own_block:
            own = (idx // b)[:, :, None] == torch.arange(nb, device=q.device)[:, None]
            rest = rest.masked_fill(own[:, :, :, None], -torch.inf)
        S = torch.cat([S, rest], -1)
    lse = S.logsumexp(-1, keepdim=True)
    p = (S - lse).exp()
    out = p[..., :b] @ V
    if plan.sampled:
        out = out + p[..., b:] @ few_v

    back = sort_q.argsort(-1)  # sorted row t is query sort_q[t]
    out, lse = out.reshape(*q.shape[:2], nb * qb, dim), lse.reshape(*q.shape[:2], nb * qb, 1)
    return gather(out, back), gather(lse, back)


def attend_causal(q: Tensor, k: Tensor, v: Tensor, s: Settings) -> tuple[Tensor, Tensor]:
    """(out, lse) under a causal mask: two triangles as 2 x heads, and the square below them."""
    batch, heads, n, dim = q.shape
    if n <= s.min_seq_len:
        future = torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1)
        return exact(q, k, v, s.scale, future)
    half = (n + 1) // 2
    q, k, v = (pad(x, (0, 0, 0, 2 * half - n)) for x in (q, k, v))
    Q, K, V = (x.reshape(batch, 2 * heads, half, dim) for x in (q, k, v))
    out, lse = (x.reshape(batch, heads, 2 * half, -1) for x in attend_causal(Q, K, V, s))
    square = attend_all(q[:, :, half:], k[:, :, :half], v[:, :, :half], s)
    low, low_lse = merge(out[:, :, half:], lse[:, :, half:], *square)
    out = torch.cat([out[:, :, :half], low], 2)
    return out[:, :, :n], torch.cat([lse[:, :, :half], low_lse], 2)[:, :, :n]


@EXHIBIT.path
def attend(
    q: Float[Tensor, "batch heads n dim"],
    k: Float[Tensor, "batch heads keys dim"],
    v: Float[Tensor, "batch heads keys dim"],
    sampled: list[Int[Tensor, "batch _ sample_size"]] | None = None,
    proj_dir: Float[Tensor, "dim lsh_num_projs"] | None = None,
    *,
    block_size: int = 256,
    sample_size: int = 256,
    min_seq_len: int = 4096,
    lsh_num_projs: int = 7,
    causal: bool = False,
    exclude_own_block: bool = True,
    scale: float | None = None,
    mask_padding: bool = False,
    seed: int = 0,
) -> dict[str, Tensor]:
    """See the reference. Buckets and orders are constants to the gradient."""
    batch, heads, n, dim = q.shape
    if sampled is None:
        plan = problems(
            n, k.shape[2], causal=causal, min_seq_len=min_seq_len,
            block_size=block_size, sample_size=sample_size,
        )  # fmt: skip
        drawn = draw_samples(seed, batch, heads, plan)
        sampled = [torch.as_tensor(a, device=q.device) for a in drawn]
    P = torch.as_tensor(draw_projection(seed, dim, lsh_num_projs)) if proj_dir is None else proj_dir
    s = Settings(
        P.detach().to(q), iter(sampled), dim**-0.5 if scale is None else scale,
        block_size, sample_size, min_seq_len, exclude_own_block, mask_padding,
    )  # fmt: skip
    out, lse = (attend_causal if causal else attend_all)(q, k, v, s)
    return {"out": out, "lse": lse, "q_hash": bucket(q, s.P), "k_hash": bucket(k, s.P)}
