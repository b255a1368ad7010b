"""The gradient, SHAP and perturbation methods against the disagreement study's vectors."""

from __future__ import annotations

import numpy as np
import pytest
from golden_models import MLP, Arrays, bilstm, case, golden_problem, tensor

from attnlab.explain import Problem
from attnlab.explain.attention import attention, attention_norm, read
from attnlab.explain.deeplift import deep_lift
from attnlab.explain.gradients import input_x_gradient, integrated_gradients
from attnlab.explain.perturbation import leave_one_out, lime
from attnlab.explain.shap import deep_shap, gradient_shap


def _arrays(name: str) -> tuple[Arrays, Problem]:
    arrays = case(name)
    if name == "attrib_mlp":
        return arrays, golden_problem(MLP(arrays), arrays, "logit")
    return arrays, golden_problem(bilstm(arrays), arrays, "probability")


@pytest.mark.parametrize("name", ["attrib_bilstm", "attrib_mlp"])
def test_methods_agree_with_the_vectors(name: str) -> None:
    arrays, problem = _arrays(name)
    baselines = tensor(arrays["in/baselines2"])
    ours = {
        "intgrad": integrated_gradients(problem),
        "inputxgrad": input_x_gradient(problem),
        "deeplift": deep_lift(problem),
        "deepshap": deep_shap(problem, baselines=baselines),
        "gradshap": gradient_shap(
            problem,
            baselines=baselines,
            coefficients=tensor(arrays["in/shap_coefficients"])[:, None],
            choice=tensor(arrays["in/shap_choice"])[:, None],
        ),
        "ablation": leave_one_out(problem),
        "lime": lime(problem, masks=tensor(arrays["in/lime_masks"] == 1)[:, None]),
    }
    for method, scores in ours.items():
        raw = arrays[f"out/raw_{method}"]
        signed = raw.mean(-1) if method in ("ablation", "lime") else raw.sum(-1)
        np.testing.assert_allclose(scores.numpy(), signed, rtol=1e-6, atol=1e-7, err_msg=method)
        np.testing.assert_allclose(
            scores.abs().numpy(), arrays[f"out/tok_{method}"], rtol=1e-6, atol=1e-7, err_msg=method
        )


def test_attention_of_the_bilstm_agrees_with_the_vectors() -> None:
    arrays, problem = _arrays("attrib_bilstm")
    np.testing.assert_allclose(attention(problem).numpy(), arrays["out/attn_weights"], rtol=1e-6)
    assert read(problem).trace.weights[0].shape == (1, 1, 1, 6)
    np.testing.assert_allclose(attention_norm(problem).numpy(), arrays["out/attn_norms"], rtol=1e-6)
