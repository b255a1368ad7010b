"""Progressive self-supervised attention in PyTorch: all sentences and rounds at once."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from . import EXHIBIT

FAR = 40  # words


@EXHIBIT.path
def mine(
    alphas: Float[Tensor, "rounds batch n"],
    wids: Int[Tensor, "batch n"],
    dist: Int[Tensor, "batch n"],
    *,
    max_entropy_bits: float = 4.0,
    skip_empty: bool = True,
) -> dict[str, Tensor | list[Tensor]]:
    """See the reference. A word erased in round k is erased in all later ones: a running maximum."""
    weight = alphas.abs()
    # log2, not ln: 16 equal words must have 4 bits to the last digit, or the cut at eps misses
    bits = torch.where(weight > 0, weight, 1).log2()
    entropy = -(weight * bits).sum(-1)  # (rounds, batch)
    taken = entropy < max_entropy_bits
    at = _first_largest(weight)
    if skip_empty:
        taken = taken & (weight.amax(-1) > 0)
    extracted = torch.zeros_like(weight, dtype=torch.bool).scatter_(-1, at, taken[..., None])
    gone = extracted.cummax(0).values  # (rounds, batch, n)
    real = dist >= 0
    mask = real.to(alphas.dtype)
    weights = (1 - dist.to(alphas.dtype) / FAR).clamp(min=0)
    return {
        "entropy_bits": entropy,
        "mask": mask,
        "amask": gone[-1].to(alphas.dtype),
        "avalue": (extracted & (alphas > 0)).any(0).to(alphas.dtype),
        "position_weight": torch.where(real, weights, 0),
        "erase_mask_after": [mask.clone(), *(mask.masked_fill(g, 0) for g in gone)],
        "erased_wids_after": [wids.clone(), *(wids.masked_fill(g, 0) for g in gone)],
    }


def _first_largest(weight: Float[Tensor, "rounds batch n"]) -> Int[Tensor, "rounds batch 1"]:
    """argmax that takes the first of equals; torch's own promises none."""
    place = torch.arange(weight.shape[-1], device=weight.device)
    largest = weight == weight.amax(-1, keepdim=True)
    return torch.where(largest, place, weight.shape[-1]).amin(-1, keepdim=True)


@EXHIBIT.path
def classify(
    text: Int[Tensor, "batch n"],
    text_length: Int[Tensor, "batch"],
    aspect: Int[Tensor, "batch aspects"],
    polarity: Int[Tensor, "batch"],
    attention_mask: Bool[Tensor, "batch n"],
    attention_value: Float[Tensor, "batch n"],
    embedding_A: Float[Tensor, "vocabulary dim"],
    embedding_B: Float[Tensor, "vocabulary dim"],
    embedding_C: Float[Tensor, "vocabulary dim"],
    M: Float[Tensor, "dim dim"],
    H: Float[Tensor, "dim dim"],
    W: Float[Tensor, "dim 3"],
    mask: Bool[Tensor, "batch n"] | None = None,
    *,
    hops: int = 1,
    lam: float = 1.0,
    value_norm: str = "given",
) -> dict[str, Tensor]:
    """See the reference."""
    hidden = torch.arange(text.shape[1], device=text.device) >= text_length[:, None]
    if mask is not None:
        hidden = hidden | ~mask
    blind = hidden.all(1, keepdim=True)  # sentences of which nothing is left
    A, C = embedding_A[text], embedding_C[text]  # (batch, n, dim)
    u = embedding_B[aspect].mean(1)
    for _ in range(hops):
        scores = torch.bmm(A, (u @ M)[..., None])[..., 0].masked_fill(hidden & ~blind, -torch.inf)
        alpha = scores.softmax(-1).masked_fill(blind, 0)
        u = torch.bmm(alpha[:, None], C)[:, 0] + u @ H
    logits = u @ W
    class_loss = cross_entropy(logits, polarity)
    avalue = attention_value
    if value_norm != "given":
        active = avalue.sum(1, keepdim=True)
        avalue = avalue / (active.clamp(min=1) if value_norm == "guarded" else active)
    attention_loss = (attention_mask * alpha - avalue).square().sum(1).mean()
    return {
        "probabilities": logits.softmax(-1),
        "alpha": alpha,
        "class_loss": class_loss,
        "attention_loss": attention_loss,
        "loss": class_loss + lam * attention_loss,
    }


@EXHIBIT.path
def gradient_weights(
    gradients: Float[Tensor, "passes batch n dim"],
    embedding: Float[Tensor, "batch n dim"],
    mask: Bool[Tensor, "batch n"],
    target_mask: Bool[Tensor, "batch n"],
) -> dict[str, Tensor]:
    """See the reference."""
    away = ~mask | target_mask
    s = (gradients.mean(0) * embedding).sum(-1).masked_fill(away, 0)
    s = (s - s.amin(1, keepdim=True)).masked_fill(away, 0)
    total = s.sum(1, keepdim=True)
    return {"alpha": s / torch.where(total > 0, total, 1)}
