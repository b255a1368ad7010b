"""Attributions from changed inputs: LIME, leave-one-out; and the random floor."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attnlab.explain.problem import Problem

Scores = Float[Tensor, "batch n"]


def masked_outputs(
    problem: Problem, keep: Bool[Tensor, "samples batch n"]
) -> Float[Tensor, "samples batch"]:
    """F with the tokens outside `keep` replaced by the baseline."""
    parts = [problem.values(problem.blend(keep[part])) for part in problem.chunks(len(keep))]
    return torch.cat(parts) if parts else torch.zeros(0, len(problem.ids))


def lime(
    problem: Problem,
    *,
    n_samples: int = 1000,
    alpha: float = 1.0,
    kernel_width: float = 1.0,
    masks: Bool[Tensor, "samples batch n"] | None = None,
) -> Scores:
    """Weights of a ridge regression on which tokens are there (Ribeiro, Singh & Guestrin, 2016).

    Masks z ~ Bernoulli(1/2)^n; weight pi = exp(-d^2 / (2 kernel_width^2)) with d = 1 - the cosine of
    the flattened embeddings of x and x(z); minimises sum pi (F - b - w.z)^2 + alpha |w|^2, the
    intercept b unpenalised. `masks` are drawn where not given.
    """
    masks = (draw_masks(problem, n_samples) if masks is None else masks) & problem.mask
    y = masked_outputs(problem, masks).double()  # (samples, batch)
    z = masks.double()

    # inner products of x and x(z) are sums over tokens: no copy of x(z) is needed
    x, absent = (
        (v * problem.mask[..., None]).double() for v in (problem.embedded, problem.baseline)
    )
    here, cross, gone = (x * x).sum(-1), (x * absent).sum(-1), (absent * absent).sum(-1)
    with_x = (z * (here - cross)).sum(-1) + cross.sum(-1)  # <x, x(z)>
    norm = (z * (here - gone)).sum(-1) + gone.sum(-1)  # |x(z)|^2
    scale = (norm.clamp(min=0) * here.sum(-1)).sqrt()
    d = 1 - with_x / scale.clamp(min=1e-16)
    pi = torch.exp(-(d**2) / (2 * kernel_width**2))

    share = pi / pi.sum(0)  # centring by the weighted means takes the intercept out
    z = z - torch.einsum("kb,kbn->bn", share, z)
    y = y - (share * y).sum(0)
    weighted = (pi[..., None] * z).permute(1, 2, 0)  # (batch, n, samples)
    gram = weighted @ z.transpose(0, 1)
    right = weighted @ y.T[..., None]
    ridge = alpha * torch.eye(z.shape[-1], dtype=z.dtype)
    return torch.linalg.solve(gram + ridge, right).squeeze(-1)


def draw_masks(problem: Problem, n_samples: int) -> Bool[Tensor, "samples batch n"]:
    """Each token is there or not with equal chance; false at padding."""
    masks = torch.zeros(n_samples, *problem.ids.shape, dtype=torch.bool)
    for row, n in enumerate(problem.lengths):
        bits = problem.rng(row, "lime").integers(0, 2, size=(n_samples, n), dtype="uint8")
        masks[:, row, :n] = torch.as_tensor(bits == 1)
    return masks


def leave_one_out(problem: Problem) -> Scores:
    """F(x) - F(x without token t), the token replaced by the baseline (Li, Monroe & Jurafsky, 2016)."""
    n = problem.ids.shape[1]
    keep = ~torch.eye(n, dtype=torch.bool)[:, None]  # (n, 1, n): copy t lacks token t
    values = masked_outputs(problem, keep.expand(n, *problem.ids.shape))
    return (problem.values(problem.embedded[None]) - values).T


def random(problem: Problem) -> Scores:
    """Standard normal scores that know nothing: the floor under every other method."""
    scores = torch.zeros(problem.ids.shape, dtype=torch.float64)
    for row, n in enumerate(problem.lengths):
        scores[row, :n] = torch.as_tensor(problem.rng(row, "random").standard_normal(n))
    return scores
