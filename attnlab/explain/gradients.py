"""Attributions from gradients (batch, n, width): products with the input are summed over the width.

A bare gradient is not: behind a layer norm, adding a constant to an embedding changes nothing, so the
gradient's sum over the width is exactly 0. Its length is taken instead, which has no sign.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attnlab.explain.problem import Problem, choose

Scores = Float[Tensor, "batch n"]


def gradient(problem: Problem) -> Scores:
    """|dF/dx|, the length of the gradient (Simonyan, Vedaldi & Zisserman, 2014). Has no sign."""
    return problem.gradient(problem.embedded[None])[0].norm(dim=-1)


def input_x_gradient(problem: Problem) -> Scores:
    """x * dF/dx (Shrikumar, Greenside, Shcherbina & Kundaje, "Not just a black box", 2016)."""
    return (problem.embedded * problem.gradient(problem.embedded[None])[0]).sum(-1)


def integrated_gradients(problem: Problem, *, n_steps: int = 50) -> Scores:
    """(x - x') * the mean gradient on the way from x' to x (Sundararajan, Taly & Yan, 2017).

    The integral is taken by Gauss-Legendre quadrature: sum_m w_m dF/dx (x' + g_m (x - x')).
    """
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, but is {n_steps}")
    z, omega = np.polynomial.legendre.leggauss(n_steps)  # on [-1, 1]
    difference = problem.embedded - problem.baseline
    g, w = (torch.as_tensor(v).to(difference) for v in ((1 + z) / 2, omega / 2))
    total = torch.zeros_like(difference)
    for part in problem.chunks(n_steps):
        points = problem.baseline + g[part, None, None, None] * difference
        total += torch.einsum("k,kbnd->bnd", w[part], problem.gradient(points))
    return (difference * total).sum(-1)


def smoothgrad(problem: Problem, *, n_samples: int = 25, noise: float = 0.15) -> Scores:
    """The length of the mean gradient at noisy copies (Smilkov et al., "SmoothGrad", 2017). Has no sign.

    noise: standard deviation as a share of the range of the text's own embeddings.
    """
    total = torch.zeros_like(problem.embedded)
    draws = torch.zeros(n_samples, *problem.embedded.shape)
    for row, n in enumerate(problem.lengths):
        x = problem.embedded[row, :n]
        normal = problem.rng(row, "smoothgrad").standard_normal((n_samples, *x.shape), np.float32)
        draws[:, row, :n] = torch.as_tensor(normal) * (noise * (x.max() - x.min()).item())
    draws = draws.to(problem.embedded)
    for part in problem.chunks(n_samples):
        total += problem.gradient(problem.embedded + draws[part]).sum(0)
    return (total / n_samples).norm(dim=-1)


def lrp(problem: Problem) -> Scores:
    """Layer-wise relevance propagation, as gradient x input under the rules of the model's trace.

    Attention weights, gates and normalisers count as constants (Arras et al., 2017, for LSTMs; Ali
    et al., "XAI for Transformers", 2022). Relevance starts from the logit whatever `problem.output`
    is: a softmax conserves nothing.
    """
    x = problem.embedded.detach().requires_grad_()
    with torch.enable_grad():
        trace = problem.model.trace(x, problem.mask, rule="lrp")
        output = choose(trace.logits, problem.target, "logit").sum()
        (grad,) = torch.autograd.grad(output, x)
    problem.check(trace, "lrp")
    return (x.detach() * grad).sum(-1)
