"""HyperAttention in NumPy (Han et al. 2023; equation numbers of the card)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from . import EXHIBIT
from .plan import Problem, draw_projection, draw_samples, problems


def bucket(
    x: Float[np.ndarray, "batch heads n dim"], P: Float[np.ndarray, "dim r"]
) -> Int[np.ndarray, "batch heads n"]:
    """Signs of r projections as bits of a number, then its Gray code. (1)"""
    bits = np.einsum("bhnd,dr->bhnr", x, P) > 0
    number = (bits << np.arange(P.shape[1])).sum(axis=-1)
    return number ^ (number >> 1)


def exact(q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: np.ndarray, scale: float):
    """(out, lse) of attention with a bias on the scores, -inf where hidden. (2)"""
    S = np.einsum("...id,...jd->...ij", q, k) * scale + bias.astype(q.dtype)
    top = S.max(axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)  # a row that sees nothing has lse -inf, out 0
    E = np.exp(S - top)
    total = E.sum(axis=-1, keepdims=True)
    out = np.einsum("...ij,...jd->...id", E / np.where(total > 0, total, 1), v)
    with np.errstate(divide="ignore"):
        return out, top + np.log(total)


def merge(a1: np.ndarray, l1: np.ndarray, a2: np.ndarray, l2: np.ndarray):
    """(out, lse) over two disjoint sets of keys; l1 is finite. (3)"""
    lse = np.logaddexp(l1, l2)
    c = np.exp(l1 - lse)
    return c * a1 + (1 - c) * a2, lse


def residual(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, idx: np.ndarray, hidden: np.ndarray, scale: float
):
    """(out, lse) of the columns idx (batch, heads, S), which stand for all the keys. (4)

    hidden (batch, heads, n, S) is True where a row must not count a sample.
    """
    keys, samples = k.shape[2], idx.shape[2]
    K, V = (np.take_along_axis(x, idx[..., None], 2) for x in (k, v))
    out, lse = exact(q, K, V, np.where(hidden, -np.inf, 0.0), scale)
    return out, lse + math.log(keys / samples)


def pad(x: np.ndarray, rows: int) -> np.ndarray:
    """Zero rows at the end up to `rows`."""
    return np.pad(x, [(0, 0), (0, 0), (0, rows - x.shape[2]), (0, 0)])


@dataclass
class Settings:
    P: np.ndarray
    samples: Iterator[np.ndarray]  # consumed in drawing order
    scale: float
    block_size: int
    sample_size: int
    min_seq_len: int
    exclude_own_block: bool
    mask_padding: bool


def attend_all(q: np.ndarray, k: np.ndarray, v: np.ndarray, s: Settings):
    """(out, lse) without a mask: sorted blocks and sampled columns."""
    n, m = q.shape[2], k.shape[2]
    if n < s.min_seq_len:
        return exact(q, k, v, np.zeros(()), s.scale)
    plan = Problem(0, n, m, s.block_size, s.sample_size)
    nb, b, qb = plan.blocks, plan.block, plan.query_block

    sort_q = bucket(q, s.P).argsort(axis=-1, kind="stable")[..., None]
    sort_k = bucket(k, s.P).argsort(axis=-1, kind="stable")[..., None]
    q, k, v = (np.take_along_axis(x, i, 2) for x, i in ((q, sort_q), (k, sort_k), (v, sort_k)))

    def blocks(x: np.ndarray, size: int) -> np.ndarray:  # (batch, heads, nb, size, dim)
        return pad(x, nb * size).reshape(*x.shape[:2], nb, size, -1)

    # Zero keys in the last block count as keys of score 0, unless they are hidden.
    padding = (np.arange(nb * b) >= m) & s.mask_padding
    bias = np.where(padding.reshape(nb, 1, b), -np.inf, 0.0)
    block_out, block_lse = exact(blocks(q, qb), blocks(k, b), blocks(v, b), bias, s.scale)
    out, lse = (x.reshape(*q.shape[:2], nb * qb, -1)[:, :, :n] for x in (block_out, block_lse))

    if plan.sampled:
        idx = next(s.samples)  # (batch, heads, S), in sorted key order
        row = np.arange(n)[:, None]
        own = (idx[:, :, None] // b == row // qb) & s.exclude_own_block
        out, lse = merge(out, lse, *residual(q, k, v, idx, own, s.scale))

    back = np.empty_like(sort_q)
    np.put_along_axis(back, sort_q, np.arange(n)[:, None], 2)  # sorted row t is query sort_q[t]
    return np.take_along_axis(out, back, 2), np.take_along_axis(lse, back, 2)


def attend_causal(q: np.ndarray, k: np.ndarray, v: np.ndarray, s: Settings):
    """(out, lse) under a causal mask: two triangles as 2 x heads, and the square below them."""
    batch, heads, n, dim = q.shape
    if n <= s.min_seq_len:
        return exact(q, k, v, np.where(np.tri(n, dtype=bool), 0.0, -np.inf), s.scale)
    half = (n + 1) // 2
    q, k, v = (pad(x, 2 * half) for x in (q, k, v))
    Q, K, V = (x.reshape(batch, 2 * heads, half, dim) for x in (q, k, v))
    out, lse = (x.reshape(batch, heads, 2 * half, -1) for x in attend_causal(Q, K, V, s))
    first, second = slice(0, half), slice(half, None)
    square = attend_all(q[:, :, second], k[:, :, first], v[:, :, first], s)
    low, low_lse = merge(out[:, :, second], lse[:, :, second], *square)
    out = np.concatenate([out[:, :, first], low], axis=2)
    return out[:, :, :n], np.concatenate([lse[:, :, first], low_lse], axis=2)[:, :, :n]


@EXHIBIT.path
def attend(
    q: Float[np.ndarray, "batch heads n dim"],
    k: Float[np.ndarray, "batch heads keys dim"],
    v: Float[np.ndarray, "batch heads keys dim"],
    sampled: list[Int[np.ndarray, "batch _ sample_size"]] | None = None,
    proj_dir: Float[np.ndarray, "dim lsh_num_projs"] | None = None,
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
) -> dict[str, np.ndarray]:
    """Approximate attention from diagonal blocks after sorting and from sampled columns.

    Parameters
    ----------
    q, k, v             (batch, heads, n or keys, dim)
    sampled, proj_dir   columns for each level, deepest first, and hash directions; else from seed
    min_seq_len         shorter problems are exact: n < this, or n <= this when causal
    exclude_own_block   hide samples of the block that a row has seen already
    mask_padding        hide the zero keys that fill up the last block

    Returns
    -------
    out, lse            (batch, heads, n, dim) and (batch, heads, n, 1)
    q_hash, k_hash      buckets of the rows in their given order
    """
    batch, heads, n, dim = q.shape
    if sampled is None:
        plan = problems(
            n, k.shape[2], causal=causal, min_seq_len=min_seq_len,
            block_size=block_size, sample_size=sample_size,
        )  # fmt: skip
        sampled = draw_samples(seed, batch, heads, plan)
    P = draw_projection(seed, dim, lsh_num_projs) if proj_dir is None else proj_dir
    s = Settings(
        P.astype(q.dtype), iter(sampled), dim**-0.5 if scale is None else scale,
        block_size, sample_size, min_seq_len, exclude_own_block, mask_padding,
    )  # fmt: skip
    out, lse = (attend_causal if causal else attend_all)(q, k, v, s)
    return {"out": out, "lse": lse, "q_hash": bucket(q, s.P), "k_hash": bucket(k, s.P)}
