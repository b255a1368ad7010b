"""Head isolation in PyTorch: the fused attention operator, weights only when asked for."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from . import EXHIBIT


@EXHIBIT.path
def isolate_head(
    hidden: Float[Tensor, "batch n width"],
    cos: Float[Tensor, "n dim"],
    sin: Float[Tensor, "n dim"],
    Wq: Float[Tensor, "heads*dim width"],
    Wk: Float[Tensor, "kv_heads*dim width"],
    Wv: Float[Tensor, "kv_heads*dim width"],
    Wo: Float[Tensor, "width heads*dim"],
    *,
    n_heads: int,
    n_kv_heads: int | None = None,
    keep_head: int,
    coefficient: float = 0.0,
    want: frozenset[str] = frozenset(),
) -> dict[str, Tensor | None]:
    """See the reference. With coefficient 0 and nothing else wanted, one head alone is computed."""
    dim, h = cos.shape[1], keep_head % n_heads
    if coefficient == 0 and not want - {"isolated_paper"}:
        g = h * (Wk.shape[0] // dim) // n_heads
        one, shared = slice(h * dim, (h + 1) * dim), slice(g * dim, (g + 1) * dim)
        q, k, v = _project(hidden, cos, sin, Wq[one], Wk[shared], Wv[shared])
        O = scaled_dot_product_attention(q, k, v, is_causal=True)
        return {"isolated_paper": linear(O[:, 0], Wo[:, one])}

    q, k, v = _project(hidden, cos, sin, Wq, Wk, Wv)
    groups = n_heads // k.shape[1]
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    A = None
    if "attn" in want:
        n = hidden.shape[1]
        seen = torch.ones(n, n, dtype=torch.bool, device=hidden.device).tril()
        A = (q @ k.mT * dim**-0.5).masked_fill(~seen, -torch.inf).softmax(-1)
        O = A @ v
    else:
        O = scaled_dot_product_attention(q, k, v, is_causal=True)
    O = O.transpose(1, 2)  # (batch, n, heads, dim)
    m = torch.full((n_heads, 1), coefficient, dtype=hidden.dtype, device=hidden.device)
    m[h] = 1
    made: dict[str, Tensor | None] = {"isolated_paper": linear((m * O).flatten(2), Wo), "attn": A}
    if want & {"plain", "isolated_code"}:
        plain = linear(O.flatten(2), Wo)
        sliced = plain.unflatten(2, (n_heads, -1))
        made |= {"plain": plain, "isolated_code": (m * sliced).flatten(2)}
    return made


def _project(
    hidden: Tensor, cos: Tensor, sin: Tensor, Wq: Tensor, Wk: Tensor, Wv: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries and keys, and values, (batch, heads, n, dim) each."""
    q, k, v = (linear(hidden, W).unflatten(2, (-1, cos.shape[1])) for W in (Wq, Wk, Wv))
    return _rope(q, cos, sin).transpose(1, 2), _rope(k, cos, sin).transpose(1, 2), v.transpose(1, 2)


def _rope(z: Float[Tensor, "batch n heads dim"], cos: Tensor, sin: Tensor) -> Tensor:
    first, second = z.chunk(2, dim=-1)
    return z * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]
