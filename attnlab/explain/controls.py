"""Controls to stand beside every result: random scores, random weights, known answers.

The random floor is a method like any other ("random" in the registry); planted models are in
planted.py. Here: the same architecture with weights that have learned nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from attnlab.explain.agreement import spearman
from attnlab.explain.attribute import Explained, explain
from attnlab.explain.problem import Output
from attnlab.models.classifier import Classifier


def randomised(model: Classifier, seed: int = 0) -> Classifier:
    """A copy whose weights are each tensor's own values in random order (Adebayo et al., 2018).

    Shuffling keeps every tensor's distribution: what changes is only what was learned. Where all
    values of a tensor are the same (untrained norms), nothing changes. The padding token's
    embedding stays: it stands for "nothing here".
    """
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in other.modules():
            padding = getattr(module, "padding_idx", None)
            for parameter in module.parameters(recurse=False):
                if padding is not None and parameter.ndim == 2:
                    rest = [i for i in range(len(parameter)) if i != padding]
                    parameter[rest] = _shuffled(parameter[rest], generator)
                else:
                    parameter.copy_(_shuffled(parameter, generator))
    return other


def _shuffled(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    places = torch.randperm(values.numel(), generator=generator)
    return values.flatten()[places].reshape(values.shape)


def randomisation(
    other: Classifier,
    explained: Sequence[Explained],
    *,
    output: Output = "probability",
    seed: int = 0,
    options: dict[str, dict[str, Any]] | None = None,
) -> list[dict[str, float]]:
    """Spearman's rho of each method's unsigned scores with those for the same class under `other`.

    other: the model with random weights. A method whose map hardly changes (rho near 1) shows the
    text, not what the model learned (Adebayo et al., "Sanity checks for saliency maps", 2018).
    """
    names = list(explained[0].attributions) if explained else []
    again = explain(
        other, [e.text for e in explained], names,
        target=[e.target for e in explained], output=output, seed=seed, options=options,
    )  # fmt: skip
    return [
        {name: _rho(a.attributions[name].unsigned, b.attributions[name].unsigned) for name in names}
        for a, b in zip(explained, again)
    ]


def _rho(a: np.ndarray, b: np.ndarray) -> float:
    return spearman(a, b) if np.isfinite(a).all() and np.isfinite(b).all() else float("nan")
