"""Adversarial training of attention: what is refused, what must work, and the three passes by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attnlab.contract import InputError
from attnlab.registry import find

AT = find("attention_at")
STEP = AT.headline
PATHS = ["numpy", "numba", "torch"]
VARIANTS = ["at", "iat", "iat_released", "rp"]


def value(backend: str, operation: str = "adversarial_step", **kwargs: Any) -> dict[str, Any]:
    made = AT.run(operation, backend=backend, want="all", **kwargs)._asdict()
    return {k: v.detach().numpy() if hasattr(v, "detach") else v for k, v in made.items()}


def spoilt(name: str) -> np.ndarray:
    array = np.array(STEP.sample(6)[name])
    array.flat[0] = np.nan
    return array


REFUSED = [
    ({"xi": -0.1}, "xi"),
    ({"lam_adv": -1.0}, "lam_adv"),
    ({"label": np.array([0, 1, 2])}, "label"),
    ({"label": np.array([0, 1, -1])}, "label"),
    ({"variant": "vat"}, "variant"),
    ({"variant": "rp"}, "direction"),
    ({"direction": np.ones((3, 6))}, "direction"),
    ({"x": spoilt("x")}, "x must be finite"),
    ({"pos_weight": spoilt("pos_weight")}, "pos_weight must be finite"),
    ({"output_weight": spoilt("output_weight")}, "output_weight must be finite"),
    ({"mask": np.ones((3, 6))}, "mask must be bool"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
@pytest.mark.parametrize("backend", PATHS)
def test_refused(backend: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AT.run(backend=backend, **STEP.sample(6) | change)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("name", ["hidden", "query", "bc_dot_attn1_weight", "qa_tanh_attn1q_bias"])
def test_layers_refuse_nan(backend: str, name: str) -> None:
    sample = AT.operation("attend").sample(4)
    sample[name].flat[0] = np.nan
    with pytest.raises(InputError, match=f"{name} must be finite"):
        AT.run("attend", backend=backend, **sample)


@pytest.mark.parametrize("backend", PATHS)
def test_a_batch_of_one_has_no_released_iat(backend: str) -> None:
    sample = STEP.sample(6, batch=1)
    with pytest.raises(InputError, match="batch of at least 2"):
        AT.run(backend=backend, **sample | {"variant": "iat_released"})
    assert np.isfinite(value(backend, **sample)["loss_total"])


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fully_masked_row_is_zero_everywhere(backend: str, variant: str) -> None:
    sample = STEP.sample(5, variant=variant)
    sample["mask"][1] = False
    made = value(backend, **sample)
    for name in (
        "attention", "d_grad", "perturbation", "attention_perturbed", "grad_importance"
    ):  # fmt: skip
        np.testing.assert_array_equal(made[name][1], 0, err_msg=name)
    np.testing.assert_allclose(made["logit"][1], sample["output_bias"])
    assert np.isnan(made["pearson"][1])
    assert np.isfinite(made["loss_total"])


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("variant", ["at", "iat", "iat_released"])
def test_one_word_has_gradient_exactly_zero(backend: str, variant: str) -> None:
    for n, seen in ((1, 1), (4, 1)):  # alone, and beside padding
        sample = STEP.sample(n, variant=variant)
        sample["mask"][:] = np.arange(n) < seen
        made = value(backend, **sample)
        np.testing.assert_array_equal(made["d_grad"], 0)
        np.testing.assert_array_equal(made["perturbation"], 0)
        np.testing.assert_allclose(made["attention"][:, 0], 1, atol=1e-12)


@pytest.mark.parametrize("backend", PATHS)
def test_equal_scores_and_equal_words(backend: str) -> None:
    sample = STEP.sample(6)
    sample["mask"][:] = True
    flat = sample | {"attention_layer_attn_0_weight": np.zeros((3, 6))}
    made = value(backend, **flat)
    np.testing.assert_allclose(made["attention"], 1 / 6)
    np.testing.assert_allclose(np.linalg.norm(made["perturbation"], axis=1), 1)
    assert np.isnan(made["pearson"]).all()
    # no differences of scores, no directions of (5)
    np.testing.assert_array_equal(value(backend, **flat | {"variant": "iat"})["perturbation"], 0)
    same = sample | {"x": np.repeat(sample["x"][:, :1], 6, axis=1)}
    # equal rows of a matrix product may differ in their last bit: the floor of the norm keeps that small
    np.testing.assert_allclose(value(backend, **same)["d_grad"], 0, atol=1e-16)
    np.testing.assert_allclose(value(backend, **same)["perturbation"], 0, atol=1e-4)


def three_passes(s: dict[str, Any], variant: str, xi: float, lam: float) -> dict[str, Any]:
    """The published loop: a zero leaf on the scores, backward, the step, forward again."""
    import torch

    t = {k: torch.tensor(v) for k, v in s.items() if isinstance(v, np.ndarray)}
    names = [k for k in STEP.gradient if k != "x"]
    for k in (*names, "x"):
        t[k].requires_grad_(True)
    y, m = t["label"].double(), t["mask"].double()

    def scored() -> Any:
        h = torch.tanh(t["x"] @ t["encoder_l_weight"].T + t["encoder_l_bias"])
        W1, b1 = t["attention_layer_attn_0_weight"], t["attention_layer_attn_0_bias"]
        return h, (torch.tanh(h @ W1.T + b1) @ t["attention_layer_attn_2_weight"].T)[..., 0]

    def rest(h: Any, scores: Any) -> Any:
        p = torch.softmax(scores * m, -1) * m
        a = p / (p.sum(-1, keepdim=True) + 1e-13)
        logit = (a[..., None] * h).sum(1) @ t["output_weight"].T + t["output_bias"]
        weight = torch.where(y == 1, t["pos_weight"][:, 0], 1)
        bce = torch.nn.functional.binary_cross_entropy_with_logits
        return a, logit, bce(logit[:, 0], y, weight=weight)

    h, scores = scored()
    d = torch.zeros_like(scores, requires_grad=True)
    a, logit, L = rest(h, scores + d)
    g = torch.autograd.grad(L, d, retain_graph=True)[0]
    if variant == "iat":
        # alpha_{t,k} on normalised differences, its gradient at 0
        pair = m[:, :, None] * m[:, None]
        gap = (scores[:, :, None] - scores[:, None]).detach() * pair
        gap = torch.nn.functional.normalize(gap, dim=2)
        alpha = torch.zeros_like(gap, requires_grad=True)
        slope = torch.autograd.grad(rest(h, scores + (alpha * gap).sum(2))[2], alpha)[0]
        r = (xi * slope / slope.flatten(1).norm(dim=1)[:, None, None] * gap).sum(2)
    else:
        towards = {"at": g, "iat_released": -g, "rp": t.get("direction", g) * m}[variant]
        r = xi * torch.nn.functional.normalize(towards, dim=1)
    a_perturbed, _, L_adv = rest(*(x + y for x, y in zip(scored(), (0, r.detach()))))
    total = L + lam * L_adv
    sum_of_logits = rest(*scored())[1].sum()
    importance = torch.autograd.grad(sum_of_logits, t["x"])[0].norm(dim=-1)
    made = {
        "logit": logit, "attention": a, "d_grad": g, "perturbation": r, "loss_adv": L_adv,
        "attention_perturbed": a_perturbed, "loss_total": total, "grad_importance": importance,
    }  # fmt: skip
    found = {k: v.detach().numpy() for k, v in made.items()}
    gradients = torch.autograd.grad(total, [t[k] for k in names])
    return found | {f"grad {k}": v.numpy() for k, v in zip(names, gradients)}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("xi", "lam"), [(1.0, 1.0), (0.3, 2.0), (5.0, 0.0), (0.0, 1.0)])
def test_every_variant_against_three_passes(variant: str, xi: float, lam: float) -> None:
    sample = STEP.sample(7, seed=5, batch=4, variant=variant) | {"xi": xi, "lam_adv": lam}
    sample["mask"][:, :2] = True  # two words at least: with one, the gradient is rounding
    expected = three_passes(sample, variant, xi, lam)
    for backend in PATHS:
        made = value(backend, **sample)
        for name in made.keys() & expected.keys():
            np.testing.assert_allclose(made[name], expected[name], 1e-7, 1e-10, err_msg=name)
        for b, seen in enumerate(sample["mask"]):
            pair = made["attention"][b, seen], made["grad_importance"][b, seen]
            np.testing.assert_allclose(made["pearson"][b], np.corrcoef(*pair)[0, 1], rtol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_hold_the_perturbation_constant(variant: str) -> None:
    import torch

    sample = STEP.sample(6, seed=2, variant=variant)
    sample["mask"][:, :2] = True
    names = [k for k in STEP.gradient if k != "x"]
    for k in names:
        sample[k] = torch.tensor(sample[k], requires_grad=True)
    AT.run(backend="torch", **sample).loss_total.backward()
    host = {k: v.detach().numpy() if hasattr(v, "detach") else v for k, v in sample.items()}
    expected = three_passes(host, variant, 1.0, 1.0)
    for k in names:
        np.testing.assert_allclose(
            sample[k].grad.numpy(), expected[f"grad {k}"], 1e-7, 1e-10, err_msg=k
        )


def test_gradcheck_where_the_perturbation_does_not_depend_on_the_weights() -> None:
    import torch

    sample = STEP.sample(4, seed=1, variant="rp")
    weights = {k: torch.tensor(sample[k], requires_grad=True) for k in STEP.gradient}

    def losses(*values: Any) -> Any:
        made = AT.run(backend="torch", **sample | dict(zip(weights, values)))
        return made.loss_total, made.loss_adv, made.attention_perturbed

    assert torch.autograd.gradcheck(losses, tuple(weights.values()), fast_mode=True)


@pytest.mark.parametrize("backend", PATHS)
def test_at_climbs_the_released_iat_descends_and_the_corrected_iat_is_at(backend: str) -> None:
    for seed in range(5):
        sample = STEP.sample(9, seed, batch=6)
        sample["mask"][:, :2] = True
        at, released, corrected = (
            value(backend, **sample | {"variant": v, "xi": 0.1})
            for v in ("at", "iat_released", "iat")
        )
        clean = at["loss_total"] - at["loss_adv"]
        assert at["loss_adv"] > clean > released["loss_adv"]
        np.testing.assert_allclose(at["perturbation"], -released["perturbation"])
        np.testing.assert_allclose(at["perturbation"], corrected["perturbation"], atol=1e-12)
        assert at["dir_normed"] is None
        assert released["dir_normed"].shape == (6, 6, 9)


@pytest.mark.parametrize("backend", PATHS)
def test_a_random_step_does_nothing_on_average_to_first_order(backend: str) -> None:
    """Opposite directions cancel: what is left of their mean falls with the square of the step."""
    sample = STEP.sample(12, seed=3, batch=8, variant="rp")
    clean = value(backend, **sample | {"xi": 0.0})["loss_adv"]
    left = []
    for xi in (1e-2, 1e-3):
        pair = [
            value(backend, **sample | {"xi": xi, "direction": sign * sample["direction"]})
            for sign in (1, -1)
        ]
        left.append(abs(np.mean([p["loss_adv"] for p in pair]) - clean))
        assert abs(pair[0]["loss_adv"] - clean) > 5 * left[-1]
    assert left[1] < left[0] / 50


@pytest.mark.parametrize("backend", PATHS)
def test_confident_predictions_keep_their_gradient(backend: str) -> None:
    """sigmoid(logit) - 1 cancels at label 1; float32 must still point where float64 does."""
    sample = STEP.sample(8, seed=6, batch=4)
    sample["mask"][:] = True
    sample["label"][:] = 1
    sample["output_bias"][:] = 25.0
    single = {
        k: v.astype("f4") if getattr(v, "dtype", None) == "f8" else v for k, v in sample.items()
    }
    fine, coarse = value(backend, **sample), value(backend, **single)
    np.testing.assert_allclose(np.linalg.norm(fine["perturbation"], axis=1), 1)
    np.testing.assert_allclose(coarse["perturbation"], fine["perturbation"], atol=1e-3)


@pytest.mark.parametrize("backend", PATHS)
def test_plain_layers_by_loops(backend: str) -> None:
    s = AT.operation("attend").sample(5, seed=2)
    s["mask"][2] = False
    made = value(backend, "attend", **s)
    for b in range(3):
        q, rows = s["query"][b], s["hidden"][b]
        scores = {
            "bc_tanh": [
                s["bc_tanh_attn_2_weight"][0]
                @ np.tanh(s["bc_tanh_attn_0_weight"] @ h + s["bc_tanh_attn_0_bias"])
                for h in rows
            ],
            "bc_dot": [s["bc_dot_attn1_weight"][0] @ h / 6**0.5 for h in rows],
            "qa_tanh": [
                s["qa_tanh_attn2_weight"][0]
                @ np.tanh(
                    s["qa_tanh_attn1p_weight"] @ h
                    + s["qa_tanh_attn1p_bias"]
                    + s["qa_tanh_attn1q_weight"] @ q
                    + s["qa_tanh_attn1q_bias"]
                )
                for h in rows
            ],
            "qa_dot": [h @ q / 6**0.5 for h in rows],
        }
        for name, row in scores.items():
            e = np.exp(row) * s["mask"][b]
            np.testing.assert_allclose(made[name][b], e / max(e.sum(), 1e-300), 1e-9, err_msg=name)


def test_a_module_owns_the_weights() -> None:
    import torch

    torch.manual_seed(0)
    net = STEP.module(embed=4, width=6, units=3, xi=2.0)
    assert len(list(net.parameters())) == 7
    s = STEP.sample(6, dtype="float32")
    made = net(**{k: torch.from_numpy(s[k]) for k in ("x", "mask", "label", "pos_weight")})
    made.loss_total.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())
