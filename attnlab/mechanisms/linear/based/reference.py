"""BASED in NumPy: Taylor linear attention, sliding window, gated short convolution (Arora et al. 2024)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from attnlab.layers.activations import silu
from attnlab.layers.heads import merge_heads, split_heads
from attnlab.layers.rotary import rotate_halves, tables

from . import EXHIBIT


@EXHIBIT.path
def taylor_linear_attention(
    x: Float[np.ndarray, "batch n dim"],
    w_q: Float[np.ndarray, "num_heads*feature_dim dim"],
    w_k: Float[np.ndarray, "num_heads*feature_dim dim"],
    w_v: Float[np.ndarray, "num_heads*head_dim dim"],
    w_o: Float[np.ndarray, "dim num_heads*head_dim"],
    x_next: Float[np.ndarray, "batch steps dim"] | None = None,
    *,
    num_heads: int,
    eps: float = 1e-12,
) -> dict[str, np.ndarray]:
    """Attention whose weights are exp's Taylor polynomial 1 + s + s^2/2: the quadratic form.

    Parameters
    ----------
    x               rows of the sequence
    w_q, w_k        projections to the small feature dimension; w_v, w_o to values and back
    x_next          tokens to decode one after the other from the states
    eps             added to the denominator, which is at least 1/2 already

    Returns
    -------
    y               (batch, n, dim)
    q, k, v         (batch, num_heads, n, ·) projections
    kv_state        (batch, num_heads, head_dim, D'), D' = 1 + d' + d'^2: sum of v phi(k)^T
    k_state         (batch, num_heads, D'): sum of phi(k)
    y_next          (batch, steps, dim), where x_next is given

    Source: equations (1) to (4). The polynomial is at least 1/2 everywhere, so no weight is negative.
    """
    q, k, v = (split_heads(x @ w.T, num_heads) for w in (w_q, w_k, w_v))
    a = taylor_weights(q, k)
    o = np.einsum("bhij,bhje->bhie", a, v) / (a.sum(-1, keepdims=True) + eps)

    phi_k = taylor_map(k)
    KV, z = np.einsum("bhne,bhnp->bhep", v, phi_k), phi_k.sum(2)
    out = {"y": merge_heads(o) @ w_o.T, "q": q, "k": k, "v": v, "kv_state": KV, "k_state": z}
    if x_next is not None:
        out["y_next"] = np.empty_like(x_next)
        for t in range(x_next.shape[1]):  # (4)
            q, k, v = (split_heads(x_next[:, t : t + 1] @ w.T, num_heads) for w in (w_q, w_k, w_v))
            phi_q, phi_k = taylor_map(q)[:, :, 0], taylor_map(k)[:, :, 0]  # (batch, heads, D')
            KV = KV + np.einsum("bhe,bhp->bhep", v[:, :, 0], phi_k)
            z = z + phi_k
            below = np.einsum("bhp,bhp->bh", z, phi_q)[..., None] + eps
            o = np.einsum("bhep,bhp->bhe", KV, phi_q) / below
            out["y_next"][:, t] = merge_heads(o[:, :, None])[:, 0] @ w_o.T
    return out


def taylor_weights(
    q: Float[np.ndarray, "batch heads n feature_dim"],
    k: Float[np.ndarray, "batch heads n feature_dim"],
) -> Float[np.ndarray, "batch heads n n"]:
    """a_tj of equation (3), 0 where key j comes after query t; rows are not normalised."""
    s = np.einsum("bhid,bhjd->bhij", q, k) / q.shape[-1] ** 0.5
    return np.tril(1 + s + s**2 / 2)


def taylor_map(x: Float[np.ndarray, "*rows d"]) -> Float[np.ndarray, "*rows 1+d+d**2"]:
    """phi(x) of equation (1): [1, x / d^(1/4), vec(x x^T) / (sqrt(2) sqrt(d))], vec row-major."""
    d = x.shape[-1]
    pairs = (x[..., :, None] * x[..., None, :]).reshape(*x.shape[:-1], d * d)
    ones = np.ones((*x.shape[:-1], 1), x.dtype)
    return np.concatenate([ones, x / d**0.25, pairs / (2 * d) ** 0.5], axis=-1)


@EXHIBIT.path
def sliding_window_attention(
    q: Float[np.ndarray, "batch heads n dim"],
    k: Float[np.ndarray, "batch heads n dim"],
    v: Float[np.ndarray, "batch heads n dim"],
    *,
    left: int,
    rope: bool = False,
    rope_base: float = 10000.0,
    scale: float | None = None,
) -> dict[str, np.ndarray]:
    """Causal softmax attention to the last left + 1 tokens, equation (6).

    With `rope` queries and keys are first turned by rotary positions, halves convention. `left` is
    half of the `window_size` in the released configurations. Returns o (batch, heads, n, dim).
    """
    n, dim = q.shape[2:]
    if rope:
        cos, sin = tables(np.arange(n), dim, rope_base)
        q, k = rotate_halves(q, cos, sin), rotate_halves(k, cos, sin)
    S = np.einsum("bhid,bhjd->bhij", q, k) * (dim**-0.5 if scale is None else scale)
    back = np.arange(n)[:, None] - np.arange(n)
    S = np.where((back >= 0) & (back <= left), S, -np.inf)
    P = np.exp(S - S.max(-1, keepdims=True))
    return {"o": np.einsum("bhij,bhjd->bhid", P / P.sum(-1, keepdims=True), v)}


@EXHIBIT.path
def base_conv(
    x: Float[np.ndarray, "batch n dim"],
    w_in: Float[np.ndarray, "2*inner dim"],
    b_in: Float[np.ndarray, "2*inner"],
    w_conv: Float[np.ndarray, "inner 1 kernel"],
    w_out: Float[np.ndarray, "dim inner"],
    b_out: Float[np.ndarray, "dim"],
) -> dict[str, np.ndarray]:
    """The gated short convolution, equation (7): y = (silu(conv(u1)) * u2) w_out^T + b_out.

    conv is causal and acts on each channel alone; its last tap meets the current token. Returns y
    (batch, n, dim).
    """
    u1, u2 = np.split(x @ w_in.T + b_in, 2, axis=-1)
    K = w_conv.shape[2]
    padded = np.pad(u1, ((0, 0), (K - 1, 0), (0, 0)))  # u1 is 0 before the sequence
    c = sum(w_conv[:, 0, r] * padded[:, r : r + x.shape[1]] for r in range(K))
    return {"y": (silu(c) * u2) @ w_out.T + b_out}


@EXHIBIT.path
def feature_map(x: Float[np.ndarray, "rows feature_dim"]) -> dict[str, np.ndarray]:
    """Two maps whose inner products are second-order Taylor polynomials of exp.

    phi          (rows, 1+d+d^2): (1), phi(x).phi(y) = 1 + s + s^2/2 with s = x.y / sqrt(d)
    phi_packed   (rows, 1+d+d(d+1)/2): zoology's, each pair once, and s = x.y / d: another kernel
    """
    d = x.shape[1]
    i, j = np.tril_indices(d, -1)  # the strict lower triangle, row by row
    parts = [np.ones((len(x), 1), x.dtype), x / d**0.5, x**2 / (2**0.5 * d), x[:, i] * x[:, j] / d]
    return {"phi": taylor_map(x), "phi_packed": np.concatenate(parts, axis=1)}


@EXHIBIT.path
def mqar(
    keys: Int[np.ndarray, "rows pairs"],
    values: Int[np.ndarray, "rows pairs"],
    gaps: Int[np.ndarray, "rows pairs"],
    *,
    seq_len: int,
) -> dict[str, np.ndarray]:
    """Multi-query associative recall: pairs k0 v0 k1 v1 …, later each key again as a question.

    Key i returns at position 2*pairs + 2*gaps[i], where its value is the label. All other labels
    are -100 (ignored), all other tokens 0 (filler). Returns inputs and labels (rows, seq_len).
    """
    rows, pairs = keys.shape
    inputs = np.zeros((rows, seq_len), np.int64)
    labels = np.full((rows, seq_len), -100, np.int64)
    inputs[:, 0 : 2 * pairs : 2], inputs[:, 1 : 2 * pairs : 2] = keys, values
    asked = 2 * pairs + 2 * gaps
    np.put_along_axis(inputs, asked, keys, axis=1)
    np.put_along_axis(labels, asked, values, axis=1)
    return {"inputs": inputs, "labels": labels}
