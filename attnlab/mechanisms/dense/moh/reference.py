"""Mixture-of-head attention in NumPy (Jin et al. 2024, section 3), every head computed."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from . import EXHIBIT


def softmax(z: Float[np.ndarray, "*lead m"]) -> Float[np.ndarray, "*lead m"]:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def largest(p: Float[np.ndarray, "*lead m"], K: int) -> Bool[np.ndarray, "*lead m"]:
    """True at the K largest of each row; of equals the lower index comes first."""
    chosen = np.zeros(p.shape, bool)
    np.put_along_axis(chosen, np.argsort(-p, axis=-1, kind="stable")[..., :K], True, axis=-1)
    return chosen


def routed_gates(
    x: Float[np.ndarray, "batch n channels"], W_r: Float[np.ndarray, "routed channels"], K: int
) -> tuple[Float[np.ndarray, "batch n routed"], Float[np.ndarray, ""]]:
    """Equations 1, 2 and 7: gates of the routed heads, K of each token above 0, and aux."""
    p = softmax(x @ W_r.T)  # (1)
    T = largest(p, K)
    r = np.where(T, p, 0)
    r = K * r / np.maximum(r.sum(axis=-1, keepdims=True), np.finfo(x.dtype).eps)  # (2)
    aux = len(W_r) * (T.mean(axis=(0, 1)) * p.mean(axis=(0, 1))).sum()  # (7)
    return r, np.asarray(aux, x.dtype)


def two_stage(
    x: Float[np.ndarray, "batch n channels"],
    W_r: Float[np.ndarray, "routed channels"] | None,
    W_s: Float[np.ndarray, "n_shared channels"] | None,
    W_h: Float[np.ndarray, "2 channels"] | None,
    n_head: int,
    n_shared: int,
    top_k: int,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Equations 1 to 5 and 7: gates (batch, n, n_head) and aux, None where nothing is routed."""
    S, E = n_shared, n_head - n_shared
    s = S * softmax(x @ W_s.T) if W_s is not None else np.ones((*x.shape[:2], S), x.dtype)  # (3)
    if top_k == 0:
        return np.concatenate([s, np.zeros((*x.shape[:2], E), x.dtype)], axis=-1), None

    assert W_r is not None
    r, aux = routed_gates(x, W_r, top_k)
    if W_h is None:
        return r, aux
    a = 2 * softmax(x @ W_h.T)  # (4)
    return np.concatenate([a[..., :1] * s, a[..., 1:] * r], axis=-1), aux  # (5)


@EXHIBIT.path
def gates(
    x: Float[np.ndarray, "batch n channels"],
    W_r: Float[np.ndarray, "routed channels"] | None = None,
    W_s: Float[np.ndarray, "n_shared channels"] | None = None,
    W_h: Float[np.ndarray, "2 channels"] | None = None,
    *,
    n_head: int,
    n_shared: int,
    top_k: int,
) -> dict[str, np.ndarray | None]:
    """The weight of every head for every token, and the load balance (equations 1 to 5 and 7).

    W_r is needed where heads are routed, W_s for two or more shared heads, W_h where both kinds are
    on. Returns gates (batch, n, n_head), shared heads first; aux () where top_k > 0.
    """
    made, aux = two_stage(x, W_r, W_s, W_h, n_head, n_shared, top_k)
    return {"gates": made, "aux": aux}


@EXHIBIT.path
def attend(
    x: Float[np.ndarray, "batch n channels"],
    W_qkv: Float[np.ndarray, "3*n_head*head_dim channels"],
    b_qkv: Float[np.ndarray, "3*n_head*head_dim"] | None = None,
    *,
    W_o: Float[np.ndarray, "channels n_head*head_dim"],
    b_o: Float[np.ndarray, "channels"],
    W_r: Float[np.ndarray, "routed channels"] | None = None,
    W_s: Float[np.ndarray, "n_shared channels"] | None = None,
    W_h: Float[np.ndarray, "2 channels"] | None = None,
    n_head: int,
    n_shared: int,
    top_k: int,
    scale: float | None = None,
) -> dict[str, np.ndarray | None]:
    """Multi-head attention whose heads each token weighs by its own gates (equation 6).

    Parameters
    ----------
    W_qkv, b_qkv    rows of q, k, v, each n_head slices of head_dim = channels / n_head
    n_head, n_shared, top_k   heads, those always on, and those that a token chooses of the rest
    scale           None is 1/sqrt(head_dim)

    Returns
    -------
    y       (batch, n, channels)
    gates   (batch, n, n_head), shared heads first
    heads   (batch, n, n_head, head_dim), before they are gated
    aux     () the load balance, where top_k > 0
    """
    batch, n, channels = x.shape
    qkv = x @ W_qkv.T + (0 if b_qkv is None else b_qkv)
    q, k, v = np.moveaxis(
        qkv.reshape(batch, n, 3, n_head, -1), 2, 0
    )  # (batch, n, n_head, head_dim)
    S = np.einsum("bihd,bjhd->bhij", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    heads = np.einsum("bhij,bjhd->bihd", softmax(S), v)
    g, aux = two_stage(x, W_r, W_s, W_h, n_head, n_shared, top_k)
    y = (g[..., None] * heads).reshape(batch, n, channels) @ W_o.T + b_o  # (6)
    return {"y": y, "gates": g, "heads": heads, "aux": aux}


@EXHIBIT.path
def norm_gates(
    q: Float[np.ndarray, "batch n heads dim"], *, n_shared: int, top_k: int
) -> dict[str, np.ndarray]:
    """Binary gates from the queries' norms, without parameters (the LLaMA router).

    q is what the projection gives, before rotation, shared heads first. Returns gates (batch, n,
    heads) of 0 and 1 and scores (batch, n, heads - n_shared), the softmax of norms in units of
    their unbiased standard deviation over the routed heads.
    """
    norms = np.sqrt((q[:, :, n_shared:] ** 2).sum(axis=-1))
    routed = norms.shape[-1] > 0
    p = softmax(norms / norms.std(axis=-1, ddof=1, keepdims=True)) if routed else norms
    on = np.ones((*q.shape[:2], n_shared), q.dtype)
    chosen = largest(p, top_k).astype(q.dtype)
    return {"gates": np.concatenate([on, chosen], axis=-1), "scores": p}
