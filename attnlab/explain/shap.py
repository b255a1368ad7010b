"""Shapley values, approximated: Deep-SHAP, GradientSHAP and KernelSHAP (Lundberg & Lee, 2017)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attnlab.explain.deeplift import multipliers
from attnlab.explain.perturbation import masked_outputs
from attnlab.explain.problem import Problem

Scores = Float[Tensor, "batch n"]
Baselines = Float[Tensor, "baselines n width"]


def _several(problem: Problem, baselines: Baselines | None) -> Float[Tensor, "k batch n width"]:
    """The baselines for every text; without any, the padding baseline alone."""
    if baselines is None:
        return problem.baseline[None]
    if baselines.shape[1:] != problem.embedded.shape[1:]:
        raise ValueError(
            f"baselines must have shape (baselines, {', '.join(map(str, problem.embedded.shape[1:]))}), "
            f"but have {tuple(baselines.shape)}"
        )
    return baselines[:, None].expand(-1, *problem.embedded.shape).to(problem.embedded)


def deep_shap(problem: Problem, *, baselines: Baselines | None = None) -> Scores:
    """The mean of DeepLIFT over a set of baselines (Lundberg & Lee, 2017; Chen et al., 2022).

    Without `baselines` there is one, the padding token's, and Deep-SHAP is DeepLIFT exactly.
    """
    several = _several(problem, baselines)
    total = torch.zeros_like(problem.embedded)
    for part in problem.chunks(len(several)):
        b = several[part]
        total += (multipliers(problem, b) * (problem.embedded - b)).sum(0)
    return (total / len(several)).sum(-1)


def gradient_shap(
    problem: Problem,
    *,
    n_samples: int = 5,
    baselines: Baselines | None = None,
    coefficients: Float[Tensor, "draws batch"] | None = None,
    choice: Int[Tensor, "draws batch"] | None = None,
) -> Scores:
    """The mean of (x - b_k) * dF/dx at a random point between b_k and x (Lundberg & Lee, 2017).

    u_k ~ U(0, 1) and b_k from the baselines with replacement, n_samples = 5 draws as in Captum, no
    noise. `coefficients` (u) and `choice` (k) are drawn where not given.
    """
    several = _several(problem, baselines)
    if coefficients is None or choice is None:
        coefficients, choice = draw_points(problem, n_samples, len(several))
    rows = torch.arange(len(problem.texts))
    total = torch.zeros_like(problem.embedded)
    for part in problem.chunks(len(coefficients)):
        b = several[choice[part], rows]  # (draws, batch, n, width)
        u = coefficients[part, :, None, None].to(b)
        grad = problem.gradient(u * problem.embedded + (1 - u) * b)
        total += ((problem.embedded - b) * grad).sum(0)
    return (total / len(coefficients)).sum(-1)


def draw_points(
    problem: Problem, n_samples: int, baselines: int
) -> tuple[Float[Tensor, "draws batch"], Int[Tensor, "draws batch"]]:
    """u ~ U(0, 1) and the number of a baseline, for every draw of every text."""
    generators = [problem.rng(row, "gradient_shap") for row in range(len(problem.texts))]
    drawn = [(g.random(n_samples), g.integers(baselines, size=n_samples)) for g in generators]
    u, k = (np.stack(part, axis=1) for part in zip(*drawn))
    return torch.as_tensor(u), torch.as_tensor(k)


def kernel_shap(
    problem: Problem,
    *,
    n_samples: int = 512,
    masks: Bool[Tensor, "samples batch n"] | None = None,
) -> Scores:
    """Shapley values by regression on coalitions of tokens (Lundberg & Lee, 2017, theorem 2).

    Coalition sizes s are drawn in proportion to the Shapley kernel, (n - 1) / (s (n - s)), then
    tokens uniformly, each coalition with its complement (Covert & Lee, 2021). The constraint
    sum phi = F(x) - F(x') is solved exactly. Texts with 2^n - 2 <= n_samples are enumerated: exact.
    """
    if masks is None:
        drawn = [_coalitions(problem, row, n_samples) for row in range(len(problem.texts))]
    else:
        drawn = [(masks[:, row], torch.ones(len(masks))) for row in range(len(problem.texts))]
    samples = max(len(z) for z, _ in drawn)
    keep = torch.zeros(samples, *problem.ids.shape, dtype=torch.bool)
    for row, (z, _) in enumerate(drawn):
        keep[: len(z), row, : z.shape[1]] = z
    values, empty = masked_outputs(problem, keep), problem.values(problem.baseline[None])[0]
    scores = torch.zeros(problem.ids.shape, dtype=torch.float64)
    for row, (z, weight) in enumerate(drawn):
        n = problem.lengths[row]
        y = (values[: len(z), row] - empty[row]).double()
        scores[row, :n] = _constrained(
            z[:, :n].double(), weight.double(), y, problem.gain[row].item()
        )
    return scores


def _coalitions(problem: Problem, row: int, samples: int) -> tuple[Tensor, Tensor]:
    """(coalitions, n) bool and their weights: all with the kernel's weight, or a draw of it."""
    n = problem.lengths[row]
    sizes = np.arange(1, n)
    kernel = (n - 1) / (sizes * (n - sizes)) if n > 1 else np.zeros(0)
    if n == 1:
        return torch.zeros(0, 1, dtype=torch.bool), torch.zeros(0)
    if 2**n - 2 <= samples:
        bits = np.arange(1, 2**n - 1)[:, None] >> np.arange(n) & 1
        s = bits.sum(1)
        counts = np.array([1.0, *np.cumprod((n - np.arange(n)) / (np.arange(n) + 1.0))])  # C(n, s)
        return torch.as_tensor(bits == 1), torch.as_tensor(kernel[s - 1] / counts[s])
    rng = problem.rng(row, "kernel_shap")
    half = samples // 2
    size = rng.choice(sizes, p=kernel / kernel.sum(), size=half)
    order = rng.random((half, n)).argsort(1).argsort(1)
    z = order < size[:, None]
    return torch.as_tensor(np.concatenate([z, ~z])), torch.ones(2 * half)


def _constrained(z: Tensor, weight: Tensor, y: Tensor, total: float) -> Float[Tensor, "n"]:
    """argmin sum w (y - z.phi)^2 subject to sum phi = total, of least norm where undetermined."""
    n = z.shape[1]
    if n == 1:
        return torch.full((1,), total, dtype=z.dtype)
    # phi = total/n + B theta with the columns of B orthogonal to 1: the constraint holds for any theta
    basis = torch.linalg.svd(torch.ones(1, n, dtype=z.dtype)).Vh[1:].T  # (n, n - 1)
    root = weight.sqrt()[:, None]
    rest = y - z.sum(1) * (total / n)
    theta = torch.linalg.lstsq(root * (z @ basis), root * rest[:, None], driver="gelsd").solution
    return total / n + (basis @ theta).squeeze(1)
