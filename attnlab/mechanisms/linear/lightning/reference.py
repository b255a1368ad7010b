"""Lightning attention and the TransNormerLLM layers around it, in NumPy (Qin et al. 2024)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from attnlab.layers.activations import sigmoid, silu
from attnlab.layers.glu import simple_glu
from attnlab.layers.heads import merge_heads, split_heads
from attnlab.layers.lrpe import lrpe
from attnlab.layers.norms import layer_norm, rms_norm

from . import EXHIBIT


@EXHIBIT.path
def attend(
    q: Float[np.ndarray, "batch heads n dim"],
    k: Float[np.ndarray, "batch heads n dim"],
    v: Float[np.ndarray, "batch heads n value_dim"],
    slopes: Float[np.ndarray, "heads"] | None = None,
    *,
    block: int = 64,
) -> dict[str, np.ndarray]:
    """Causal linear attention with decay, block by block: o_t = sum_{j<=t} lambda^(t-j) (q_t.k_j) v_j.

    Parameters
    ----------
    q, k      queries and keys after their activation; they are not scaled
    v         values
    slopes    rates s >= 0 per head, lambda = exp(-s); None is no decay
    block     rows of a tile; changes the order of the sums, not the result

    Returns
    -------
    o         (batch, heads, n, value_dim), no denominator
    state     (batch, heads, dim, value_dim): KV_n = sum_j lambda^(n-j) k_j v_j^T (j from 1)

    Raises InputError for slopes that are negative or not finite, and for block < 1. Source:
    equations (1) and (2), forward algorithm of the paper.
    """
    batch, heads, n, dim = q.shape
    s = np.zeros(heads, q.dtype) if slopes is None else slopes
    KV = np.zeros((batch, heads, dim, v.shape[3]), q.dtype)
    o = np.empty(v.shape, q.dtype)
    for start in range(0, n, block):
        rows = slice(start, min(start + block, n))
        o[:, :, rows], KV = scan_block(q[:, :, rows], k[:, :, rows], v[:, :, rows], KV, s)
    return {"o": o, "state": KV}


def scan_block(
    Q: Float[np.ndarray, "batch heads m dim"],
    K: Float[np.ndarray, "batch heads m dim"],
    V: Float[np.ndarray, "batch heads m value_dim"],
    KV: Float[np.ndarray, "batch heads dim value_dim"],
    s: Float[np.ndarray, "heads"],
) -> tuple[np.ndarray, np.ndarray]:
    """The m rows of one block: their output (batch, heads, m, value_dim), and KV after them.

    KV holds what came before the block, as of the row before its first.
    """
    m = Q.shape[2]  # the last block may be short
    i = np.arange(m)
    D = np.tril(powers(s, np.maximum(i[:, None] - i, 0)))  # (heads, m, m), lambda^(i-j)
    intra = (np.einsum("bhid,bhjd->bhij", Q, K) * D) @ V
    inter = powers(s, i + 1)[:, :, None] * (Q @ KV)

    late = powers(s, m - 1 - i)[:, :, None] * K  # what is left of each key at the block's end
    KV = powers(s, m)[:, None, None] * KV + np.einsum("bhid,bhie->bhde", late, V)
    return intra + inter, KV


def powers(s: Float[np.ndarray, "heads"], exponent: int | np.ndarray) -> np.ndarray:
    """lambda^exponent (heads, …) as exp(-s * exponent): a quotient of powers would overflow."""
    with np.errstate(over="ignore"):
        return np.exp(-np.multiply.outer(s, np.asarray(exponent, s.dtype)))


@EXHIBIT.path
def gla(
    x: Float[np.ndarray, "batch n dim"],
    w_qkvu: Float[np.ndarray, "4*dim dim"],
    w_out: Float[np.ndarray, "dim dim"],
    slopes: Float[np.ndarray, "num_heads"],
    theta: Float[np.ndarray, "num_heads head_dim"] | None = None,
    pad_mask: Bool[np.ndarray, "batch n"] | None = None,
    x_next: Float[np.ndarray, "batch 1 dim"] | None = None,
    *,
    num_heads: int,
    use_lrpe: bool = False,
    eps: float = 1e-6,
) -> dict[str, np.ndarray]:
    """The gated linear attention layer, equations (5) to (7): y = (SRMS(o) * u) w_out^T.

    Parameters
    ----------
    x         rows of the sequence
    w_qkvu    q, k, v and u of every row, in this order; w_out the way back
    slopes    decay rates (see `slopes.slopes`)
    theta     angles of LRPE, with use_lrpe only
    pad_mask  True where a token is real; padding loses its value, positions do not move
    x_next    one more token, decoded from the state

    Returns
    -------
    y, state            of the sequence; state is (batch, heads, dim/heads or twice that, dim/heads)
    y_next, state_next  one recurrent step (2) at position n, where x_next is given
    """
    q, k, v, u = project(x, w_qkvu, num_heads, theta)
    if pad_mask is not None:
        v = v * pad_mask[:, None, :, None]
    o, state = attend(q, k, v, slopes)
    out = {"y": gated(o, u, w_out, eps), "state": state}
    if x_next is not None:
        q, k, v, u = project(x_next, w_qkvu, num_heads, theta, offset=x.shape[1])
        state = powers(slopes, 1)[:, None, None] * state + np.einsum("bhid,bhie->bhde", k, v)
        out |= {"y_next": gated(q @ state, u, w_out, eps), "state_next": state}
    return out


def project(
    x: np.ndarray, w_qkvu: np.ndarray, num_heads: int, theta: np.ndarray | None, offset: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """q, k, v (batch, heads, n, ·) and the gate u (batch, n, dim) of equations (5) and (6)."""
    q, k, v, u = np.split(x @ w_qkvu.T, 4, axis=-1)
    q, k, v = (split_heads(part, num_heads) for part in (silu(q), silu(k), v))
    if theta is not None:
        q, k = (lrpe(part, theta, offset) for part in (q, k))
    return q, k, v, u


def gated(o: np.ndarray, u: np.ndarray, w_out: np.ndarray, eps: float) -> np.ndarray:
    """(SRMS(o) * u) w_out^T; the norm runs over the merged heads."""
    return (rms_norm(merge_heads(o), eps) * u) @ w_out.T


@EXHIBIT.path
def decoder_layer(
    x: Float[np.ndarray, "batch n dim"],
    w_qkvu: Float[np.ndarray, "4*dim dim"],
    w_out: Float[np.ndarray, "dim dim"],
    slopes: Float[np.ndarray, "num_heads"],
    glu1: Float[np.ndarray, "inner dim"],
    glu2: Float[np.ndarray, "inner dim"],
    glu3: Float[np.ndarray, "dim inner"],
    theta: Float[np.ndarray, "num_heads head_dim"] | None = None,
    *,
    num_heads: int,
    use_lrpe: bool = False,
    eps: float = 1e-6,
) -> dict[str, np.ndarray]:
    """A layer of TransNormerLLM, equation (9): h = x + GLA(SRMS(x)), y = h + SGLU(SRMS(h)).

    Weights as in `gla`, and glu1, glu2, glu3 of the simple gated linear unit (8). Returns h and y,
    both (batch, n, dim).
    """
    layer = {"num_heads": num_heads, "use_lrpe": use_lrpe, "eps": eps}
    h = x + gla(rms_norm(x, eps), w_qkvu, w_out, slopes, theta, **layer).y
    return {"h": h, "y": h + simple_glu(rms_norm(h, eps), glu1, glu2, glu3)}


@EXHIBIT.path
def tnl_attention(
    x: Float[np.ndarray, "batch n dim"],
    q_proj_weight: Float[np.ndarray, "dim dim"],
    k_proj_weight: Float[np.ndarray, "dim dim"],
    v_proj_weight: Float[np.ndarray, "dim dim"],
    o_proj_weight: Float[np.ndarray, "dim dim"],
    output_gate_0_weight: Float[np.ndarray, "dim//num_heads dim"],
    output_gate_1_weight: Float[np.ndarray, "dim dim//num_heads"],
    norm_weight: Float[np.ndarray, "dim"],
    norm_bias: Float[np.ndarray, "dim"],
    slopes: Float[np.ndarray, "num_heads"],
    *,
    num_heads: int,
    ln_eps: float = 1e-5,
) -> dict[str, np.ndarray]:
    """The example module of the authors' repository: y = (LayerNorm(o) * gate) W_o^T.

    It differs from `gla`: silu on v too, an ordinary LayerNorm, and the gate
    sigmoid(W_1 (W_0 x)) of low rank. Returns y (batch, n, dim).
    """
    q, k, v = (
        split_heads(silu(x @ w.T), num_heads) for w in (q_proj_weight, k_proj_weight, v_proj_weight)
    )
    o, _ = attend(q, k, v, slopes)
    gate = sigmoid(x @ output_gate_0_weight.T @ output_gate_1_weight.T)
    y = layer_norm(merge_heads(o), norm_weight, norm_bias, ln_eps) * gate
    return {"y": y @ o_proj_weight.T}
