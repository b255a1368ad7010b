"""Our batched methods against Captum, one text at a time, on the same models and the same draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from small_models import TEXTS, close, problem_of
from torch import Tensor

captum = pytest.importorskip("captum.attr", reason="captum is not installed")

from attnlab.explain import Problem, attribute  # noqa: E402
from attnlab.explain.perturbation import lime  # noqa: E402
from attnlab.explain.shap import deep_shap, gradient_shap, kernel_shap  # noqa: E402
from attnlab.models.classifier import Classifier  # noqa: E402


class Wrapped(torch.nn.Module):
    """embedded -> probabilities, of one text without padding; Captum's input is the embedding alone."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, embedded: Tensor) -> Tensor:
        mask = torch.ones(embedded.shape[:2], dtype=torch.bool)
        return self.model(embedded, mask).softmax(-1)


def one_at_a_time(
    model: Classifier, run: Callable[[torch.nn.Module, Tensor, Tensor, int], Tensor]
) -> list[np.ndarray]:
    found = []
    for text in TEXTS:
        problem = problem_of(model, [text])
        raw = run(Wrapped(model), problem.embedded, problem.baseline, int(problem.target))
        found.append(raw.detach().sum(-1)[0].numpy())
    return found


METHODS: dict[str, Any] = {
    "gradient": lambda f, x, b, t: (
        captum.Saliency(f).attribute(x, target=t).norm(dim=-1, keepdim=True)
    ),
    "input_x_gradient": lambda f, x, b, t: captum.InputXGradient(f).attribute(x, target=t),
    "integrated_gradients": lambda f, x, b, t: captum.IntegratedGradients(f).attribute(
        x, baselines=b, target=t, n_steps=50
    ),
    "deep_lift": lambda f, x, b, t: captum.DeepLift(f).attribute(x, baselines=b, target=t),
    "deep_shap": lambda f, x, b, t: captum.DeepLiftShap(f).attribute(
        x, baselines=torch.cat([b, b]), target=t
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", METHODS)
def test_one_batch_gives_what_captum_gives_one_by_one(method: str, model: Classifier) -> None:
    theirs = one_at_a_time(model, METHODS[method])
    for ours, reference in zip(attribute(model, TEXTS, method), theirs):
        close(ours.signed, reference)


@pytest.mark.filterwarnings("ignore")
def test_leave_one_out_is_feature_ablation(model: Classifier) -> None:
    def run(f: torch.nn.Module, x: Tensor, b: Tensor, t: int) -> Tensor:
        tokens = torch.arange(x.shape[1])[None, :, None].expand_as(x)
        ablation = captum.FeatureAblation(f)
        return ablation.attribute(x, baselines=b, target=t, feature_mask=tokens) / x.shape[-1]

    for ours, reference in zip(attribute(model, TEXTS, "leave_one_out"), one_at_a_time(model, run)):
        close(ours.signed, reference)


@pytest.mark.filterwarnings("ignore")
def test_deep_shap_over_several_baselines(model: Classifier) -> None:
    problem = problem_of(model, TEXTS[:1])
    baselines = torch.randn(3, *problem.embedded.shape[1:], generator=torch.manual_seed(4))
    theirs = captum.DeepLiftShap(Wrapped(model)).attribute(
        problem.embedded, baselines=baselines, target=int(problem.target)
    )
    close(deep_shap(problem, baselines=baselines), theirs.detach().sum(-1))


@pytest.mark.filterwarnings("ignore")
def test_gradient_shap_on_shared_draws(model: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of(model, TEXTS[:1])
    baselines = torch.randn(3, *problem.embedded.shape[1:], generator=torch.manual_seed(5))
    u, k = np.random.default_rng(0).random(5), np.array([0, 2, 2, 1, 0])
    monkeypatch.setattr(np.random, "uniform", lambda *a, **kw: u)
    monkeypatch.setattr(np.random, "choice", lambda *a, **kw: k)
    theirs = captum.GradientShap(Wrapped(model)).attribute(
        problem.embedded, baselines=baselines, n_samples=5, stdevs=0.0, target=int(problem.target)
    )
    ours = gradient_shap(
        problem, baselines=baselines,
        coefficients=torch.as_tensor(u)[:, None], choice=torch.as_tensor(k)[:, None],
    )  # fmt: skip
    close(ours, theirs.detach().sum(-1))


def _shared(problem: Problem, samples: int) -> tuple[Tensor, Tensor]:
    masks = torch.rand(samples, problem.ids.shape[1], generator=torch.manual_seed(6)) < 0.5
    return masks, torch.arange(problem.ids.shape[1])[None, :, None].expand_as(problem.embedded)


@pytest.mark.filterwarnings("ignore")
def test_lime_on_shared_draws(model: Classifier) -> None:
    problem = problem_of(model, TEXTS[:1])
    masks, tokens = _shared(problem, 64)
    draws = iter(masks)
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr._core.lime import get_exp_kernel_similarity_function

    theirs = captum.Lime(
        Wrapped(model),
        interpretable_model=SkLearnRidge(alpha=1.0),
        similarity_func=get_exp_kernel_similarity_function("cosine", kernel_width=1.0),
        perturb_func=lambda *a, **kw: next(draws)[None].long(),
    ).attribute(
        problem.embedded, baselines=problem.baseline, target=int(problem.target),
        feature_mask=tokens, n_samples=64,
    )  # fmt: skip
    close(lime(problem, masks=masks[:, None]), theirs[..., 0], atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_kernel_shap_on_shared_draws(model: Classifier) -> None:
    problem = problem_of(model, TEXTS[:1])
    masks, tokens = _shared(problem, 64)
    n = masks.shape[1]
    # Captum forces the empty and the full text in with a weight of a million; ours are exact
    draws = iter(torch.cat([torch.zeros(1, n), torch.ones(1, n), masks.float()]))
    explainer = captum.KernelShap(Wrapped(model))
    explainer.perturb_func = lambda *a, **kw: next(draws)[None].long()
    theirs = explainer.attribute(
        problem.embedded, baselines=problem.baseline, target=int(problem.target),
        feature_mask=tokens, n_samples=66,
    )  # fmt: skip
    close(kernel_shap(problem, masks=masks[:, None]), theirs[..., 0], atol=1e-4)
