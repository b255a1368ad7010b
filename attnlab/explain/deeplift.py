"""DeepLIFT's rescale rule: differences from a baseline instead of derivatives.

A forward hook gives each element-wise non-linearity y = f(x) the slope (f(x) - f(x')) / (x - x')
between the input and the baseline, which run side by side as one doubled batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.explain.problem import Problem, choose

# Captum's element-wise modules, so that scores compare. GELU, whose rescaled slope can be any
# number near its minimum, is left to its derivative there; `also` adds it.
NONLINEARITIES: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus,
)  # fmt: skip
SAME = 1e-10  # below this difference of inputs the ordinary derivative is used


def rescaled(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """A forward hook for rows [x; x']: the same values, with the slope of the rescale rule."""
    (x,) = inputs
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        local = torch.autograd.grad(type(module).forward(module, point).sum(), point)[0]
    y = output.detach()
    delta_in, delta_out = ((v[: len(v) // 2] - v[len(v) // 2 :]).detach() for v in (x, y))
    same = delta_in.abs() < SAME
    slope = delta_out / torch.where(same, torch.ones_like(delta_in), delta_in)
    slope = torch.where(same.repeat(2, *[1] * (x.ndim - 1)), local, torch.cat([slope, slope]))
    return y + slope * (x - x.detach())


@contextmanager
def hooked(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[None]:
    """The model with the rescale rule at its registered non-linearities."""
    hook: Any = rescaled
    handles = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, kinds)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def multipliers(
    problem: Problem,
    baselines: Float[Tensor, "copies batch n width"],
    also: Sequence[type[nn.Module]] = (),
) -> Float[Tensor, "copies batch n width"]:
    """dF/dx from F(x), with slopes between x and each baseline; the fast path's modules are hooked."""
    copies = len(baselines)
    x = problem.embedded.detach().repeat(copies, 1, 1).requires_grad_()
    with torch.enable_grad(), hooked(problem.model, (*NONLINEARITIES, *also)):
        logits = problem.model(
            torch.cat([x, baselines.flatten(0, 1)]), problem.mask.repeat(2 * copies, 1)
        )
        ours = choose(logits[: len(x)], problem.target.repeat(copies), problem.output)
        (grad,) = torch.autograd.grad(ours.sum(), x)
    return grad.unflatten(0, (copies, -1))


def deep_lift(
    problem: Problem, *, also: Sequence[type[nn.Module]] = ()
) -> Float[Tensor, "batch n"]:
    """multiplier * (x - x') by the rescale rule (Shrikumar, Greenside & Kundaje, 2017).

    Only non-linearities that are modules (nn.Tanh, nn.ReLU …) are seen, as in Captum; where a model
    has none, this is gradient x (x - x').
    """
    multiplier = multipliers(problem, problem.baseline[None], also)[0]
    return (multiplier * (problem.embedded - problem.baseline)).sum(-1)
