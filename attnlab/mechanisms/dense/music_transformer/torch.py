"""Relative attention in PyTorch: the skewed products are a bias of torch's fused attention."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from . import EXHIBIT

ROWS = 256


def skew(R: Float[Tensor, "*lead rows columns"]) -> Float[Tensor, "*lead rows columns"]:
    """X[i, j] = R[i, j + rows-1-i]; leftovers of other rows where that is no column."""
    return pad(R, (1, 0)).flatten(-2)[..., R.shape[-2] :].view(R.shape)


def slabs_of(n: int) -> list[tuple[int, int]]:
    """(start, stop) of ROWS queries each: what a slab of scores needs stays in the cache."""
    return [(i, min(i + ROWS, n)) for i in range(0, n, ROWS)]


def last_rows(E: Float[Tensor, "*heads M d"], n: int) -> Float[Tensor, "*heads n d"]:
    """Distances n-1 … 0, zero where the table is shorter."""
    return pad(E, (0, 0, max(n - E.shape[-2], 0), 0))[..., -n:, :]


@EXHIBIT.path
def relative_attend(
    q: Float[Tensor, "batch heads n dim"],
    k: Float[Tensor, "batch heads n dim"],
    v: Float[Tensor, "batch heads n value_dim"],
    rel_k: Float[Tensor, "heads distances dim"] | Float[Tensor, "distances dim"],
    rel_v: Float[Tensor, "heads distances value_dim"]
    | Float[Tensor, "distances value_dim"]
    | None = None,
    *,
    scale: float | None = None,
    want: frozenset[str] = frozenset(),
) -> dict[str, Tensor | None]:
    """See the reference. The bias is made for ROWS queries at a time, and the keys they may see:
    torch's fused kernel reads it as a mask."""
    n, dim = q.shape[2:]
    scale = dim**-0.5 if scale is None else scale

    def bias_of(start: int, stop: int) -> Tensor:  # (batch, heads, stop - start, stop)
        future = torch.ones(stop - start, stop, dtype=torch.bool, device=q.device).triu(start + 1)
        R = (q[:, :, start:stop] * scale) @ last_rows(rel_k, stop).mT
        return skew(R).masked_fill(future, -torch.inf)

    if "weights" not in want and rel_v is None:
        slabs = [
            scaled_dot_product_attention(
                q[:, :, i:j], k[:, :, :j], v[:, :, :j], attn_mask=bias_of(i, j), scale=scale
            )
            for i, j in slabs_of(n)
        ]
        return {"y": torch.cat(slabs, dim=2)}
    bias = bias_of(0, n)
    A = torch.softmax((q * scale) @ k.mT + bias, -1)
    y = A @ v
    if rel_v is not None:  # the weights by distance: skew's inverse
        by_distance = pad(A, (0, 0, 1, 0)).view(*A.shape[:2], n, n + 1)[..., 1:]
        y = y + by_distance @ last_rows(rel_v, n)
    return {"y": y, "weights": A}


@EXHIBIT.path
def relative_attend_local(
    q: Float[Tensor, "batch heads n dim"],
    k: Float[Tensor, "batch heads n dim"],
    v: Float[Tensor, "batch heads n value_dim"],
    rel_k: Float[Tensor, "heads distances dim"] | Float[Tensor, "distances dim"],
    *,
    block_length: int,
    scale: float | None = None,
) -> dict[str, Tensor]:
    """See the reference. All blocks at once: b queries against the 2b keys that end with them."""
    batch, heads, n, dim = q.shape
    b = n if n < 2 * block_length else block_length
    blocks = -(-n // b)
    scale = dim**-0.5 if scale is None else scale

    def windows(x: Tensor) -> Tensor:  # (batch, heads, blocks, 2b, ·)
        return pad(x, (0, 0, b, blocks * b - n)).unfold(2, 2 * b, b).mT

    q = pad(q, (0, 0, 0, blocks * b - n)).view(batch, heads, blocks, b, dim)
    E = last_rows(rel_k, 2 * b)
    bias = skew((q * scale) @ (E if E.ndim == 2 else E[:, None]).mT)  # (…, blocks, b, 2b)
    hidden = torch.ones(b, 2 * b, dtype=torch.bool, device=q.device).triu(b + 1)
    hidden = hidden.expand(blocks, b, 2 * b).clone()
    hidden[0, :, :b] = True  # there is no block before the first
    y = scaled_dot_product_attention(
        q.flatten(0, 1),
        windows(k).flatten(0, 1),
        windows(v).flatten(0, 1),
        attn_mask=bias.masked_fill(hidden, -torch.inf).flatten(0, 1),
        scale=scale,
    )  # (batch·heads, blocks, b, ·)
    return {"y": y.reshape(batch, heads, blocks * b, -1)[:, :, :n]}


@EXHIBIT.path
def relative_attend_bidirectional(
    q: Float[Tensor, "batch heads n dim"],
    k: Float[Tensor, "batch heads n dim"],
    v: Float[Tensor, "batch heads n value_dim"],
    rel_k: Float[Tensor, "heads rows dim"] | Float[Tensor, "rows dim"],
    lengths: Int[Tensor, "batch"] | None = None,
    *,
    scale: float | None = None,
    want: frozenset[str] = frozenset(),
) -> dict[str, Tensor | None]:
    """See the reference."""
    n, dim = q.shape[2:]
    scale = dim**-0.5 if scale is None else scale
    m = (rel_k.shape[-2] + 1) // 2
    E = pad(
        rel_k, (0, 0, n - m, n - m)
    )  # a negative pad crops: (2n-1, dim), offset 0 in the middle
    bias = skew((q * scale) @ E.mT)[..., :n]
    if lengths is not None:
        seen = torch.arange(n, device=q.device) < lengths[:, None, None, None]
        bias = bias.masked_fill(~seen, -torch.inf)
    if "weights" not in want:
        return {"y": scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)}
    A = torch.softmax((q * scale) @ k.mT + bias, -1)
    return {"y": A @ v, "weights": A}
