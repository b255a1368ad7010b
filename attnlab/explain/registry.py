"""The attribution methods by name.

Every method is a function (problem, **options) -> signed scores (batch, n). Unsigned scores are the
absolute value of the signed ones, taken after the sum over the embedding (Neely et al., 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from attnlab.contract import InputError, suggest
from attnlab.explain import attention, deeplift, gradients, perturbation, shap


@dataclass(frozen=True)
class Method:
    """An attribution method.

    signed: whether a negative score means evidence against the target; attention weights and the
    length of a gradient have no sign.
    complete: whether the scores sum to F(x) - F(x'), the change from the baseline.
    """

    name: str
    title: str
    family: str
    source: str
    function: Callable[..., Any]
    signed: bool = True
    complete: bool = False


METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method("attention", "Attention", "attention", "Jain & Wallace 2019; Neely et al. 2022", attention.attention, signed=False),
        Method("attention_norm", "Attention × value norm", "attention", "Kobayashi et al. 2020", attention.attention_norm, signed=False),
        Method("rollout", "Attention rollout", "attention", "Abnar & Zuidema 2020", attention.rollout, signed=False),
        Method("flow", "Attention flow", "attention", "Abnar & Zuidema 2020", attention.flow, signed=False),
        Method("attention_gradient", "Gradient-weighted attention", "attention", "Chefer et al. 2021", attention.attention_gradient, signed=False),
        Method("value_zeroing", "Value zeroing", "attention", "Mohebbi et al. 2023", attention.value_zeroing, signed=False),
        Method("gradient", "Gradient", "gradient", "Simonyan et al. 2014", gradients.gradient, signed=False),
        Method("input_x_gradient", "Input × gradient", "gradient", "Shrikumar et al. 2016", gradients.input_x_gradient),
        Method("integrated_gradients", "Integrated gradients", "gradient", "Sundararajan et al. 2017", gradients.integrated_gradients, complete=True),
        Method("smoothgrad", "SmoothGrad", "gradient", "Smilkov et al. 2017", gradients.smoothgrad, signed=False),
        Method("lrp", "Layer-wise relevance propagation", "gradient", "Arras et al. 2017; Ali et al. 2022", gradients.lrp),
        Method("deep_lift", "DeepLIFT", "gradient", "Shrikumar et al. 2017", deeplift.deep_lift),
        Method("deep_shap", "Deep-SHAP", "Shapley values", "Lundberg & Lee 2017", shap.deep_shap),
        Method("gradient_shap", "GradientSHAP", "Shapley values", "Lundberg & Lee 2017", shap.gradient_shap),
        Method("kernel_shap", "KernelSHAP", "Shapley values", "Lundberg & Lee 2017", shap.kernel_shap, complete=True),
        Method("lime", "LIME", "perturbation", "Ribeiro et al. 2016", perturbation.lime),
        Method("leave_one_out", "Leave one out", "perturbation", "Li et al. 2016", perturbation.leave_one_out),
        Method("random", "Random", "control", "the floor under all others", perturbation.random),
    )
}  # fmt: skip

# The six methods of the disagreement study (Neely et al., 2022).
STUDY = ("attention", "lime", "integrated_gradients", "deep_lift", "gradient_shap", "deep_shap")


def find(name: str) -> Method:
    """A method by name; InputError says what was meant."""
    if name not in METHODS:
        meant = suggest(name, METHODS) or f"; known: {', '.join(METHODS)}"
        raise InputError(f"no method is named {name!r}{meant}")
    return METHODS[name]


def select(names: Iterable[str]) -> list[Method]:
    """Methods in the order asked for, each once; "all" stands for every method."""
    found: dict[str, Method] = {}
    for name in names:
        found |= METHODS if name == "all" else {name: find(name)}
    if not found:
        raise InputError("no method is named")
    return list(found.values())
