"""Attention meets perturbations: adversarial training on the scores of attention."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from attnlab.contract import Array, Cost, Exhibit, Operation, Option, Paper

from .exercise import EXERCISE

VARIANTS = ("at", "iat", "iat_released", "rp")


def step_example(
    n: int,
    rng: np.random.Generator,
    batch: int = 3,
    embed: int = 4,
    width: int = 6,
    units: int = 3,
    variant: str = "at",
) -> dict[str, Any]:
    """Sentences of 1..n words with padding, normal embeddings and weights of a trained size."""
    length = rng.integers(1, n + 1, batch)
    length[0] = n
    drawn = {
        "x": rng.standard_normal((batch, n, embed)),
        "mask": np.arange(n) < length[:, None],
        "label": rng.integers(0, 2, batch),
        "pos_weight": np.full((batch, 1), 1.7),
        "encoder_l_weight": rng.standard_normal((width, embed)) / embed**0.5,
        "encoder_l_bias": 0.3 * rng.standard_normal(width),
        "attention_layer_attn_0_weight": rng.standard_normal((units, width)) / width**0.5,
        "attention_layer_attn_0_bias": 0.3 * rng.standard_normal(units),
        "attention_layer_attn_2_weight": rng.standard_normal((1, units)) / units**0.5,
        "output_weight": rng.standard_normal((1, width)),
        "output_bias": rng.standard_normal(1),
        "variant": variant,
    }
    if variant == "rp":
        drawn["direction"] = rng.standard_normal((batch, n))
    return drawn


def attend_example(
    n: int, rng: np.random.Generator, batch: int = 3, width: int = 6, units: int = 3
) -> dict[str, Any]:
    """Hidden states of 1..n words with padding, a question's vector, and four layers' weights."""
    length = rng.integers(1, n + 1, batch)
    length[0] = n
    weights = {
        name: rng.standard_normal((units, width)) / width**0.5
        for name in ("bc_tanh_attn_0_weight", "qa_tanh_attn1p_weight", "qa_tanh_attn1q_weight")
    }
    for layer in ("bc_tanh_attn_0", "qa_tanh_attn1p", "qa_tanh_attn1q"):
        weights[f"{layer}_bias"] = 0.3 * rng.standard_normal(units)
    for layer in ("bc_tanh_attn_2", "qa_tanh_attn2"):
        weights[f"{layer}_weight"] = rng.standard_normal((1, units))
    weights["bc_dot_attn1_weight"] = rng.standard_normal((1, width))
    return {
        "hidden": rng.standard_normal((batch, n, width)),
        "query": rng.standard_normal((batch, width)),
        "mask": np.arange(n) < length[:, None],
    } | weights


def step_flops(c: SimpleNamespace) -> float:
    per_word = c.width * (c.embed + c.units) + c.units + c.width
    return 2.0 * c.batch * c.n * per_word + 40.0 * c.batch * c.n


STEP = (
    "(1) h_t = tanh(We x_t + be);  a~_t = w2 . tanh(W1 h_t + b1)",
    "(2) a = softmax(a~ m) m / (sum of that + 1e-13)",
    "(3) logit = wo . sum_t a_t h_t + bo;  L = mean over the batch of weight BCE(logit, label)",
    "    g_t = dL/da~_t = a_t (v_t - sum_s a_s v_s),  v_t = weight (sigmoid(logit) - label) wo . h_t / B",
    "(4) at: r = xi g / ||g||_2;  loss = L(a~) + lam_adv L(a~ + r), r constant",
    "(5) iat: d_{t,k} = a~_t - a~_k, d_t / ||d_t||_2;  alpha = xi g' / ||g'||, g'_{t,k} = g_t d_{t,k};  r_t = sum_k alpha_{t,k} d_{t,k}",
    "(6) iat_released: r = -xi g / ||g||_2",
    "rp: r = xi direction / ||direction||_2 over the words",
    "I_t = || d logit / d x_t ||_2;  pearson = correlation of a and I over the words",
)

EXHIBIT = Exhibit(
    name="attention_at",
    title="Adversarial training of attention",
    family="training",
    package=__name__,
    paper=Paper(
        title="Attention Meets Perturbations: Robust and Interpretable Attention with Adversarial "
        "Training",
        authors=("Shunsuke Kitada", "Hitoshi Iyatomi"),
        year=2021,
        venue="IEEE Access",
        arxiv="2009.12064",
        code="shunk031/attention-meets-perturbation@d40a5ca",
    ),
    idea=(
        "A classifier's attention can be shaken a lot by tiny changes, which makes it a poor "
        "explanation. So the direction in the space of attention scores that hurts the loss most is "
        "found, a step of fixed length is made along it, before the softmax, and the model is trained "
        "on the clean and the perturbed loss together. An interpretable variant looks for directions "
        "along differences of attention; nothing changes at test time."
    ),
    attention_map=(
        "attention, the softmax over the real words; attention_perturbed is the same after "
        "the adversarial step. Both sum to 1, and to 0 where every word is masked."
    ),
    operations=(
        Operation(
            "adversarial_step",
            headline=True,
            about="one training step's two forward passes, with the perturbation between them",
            equations=STEP,
            inputs=(
                Array("x", "batch n embed", finite=True, about="word embeddings"),
                Array("mask", "batch n", dtype="bool", about="True at words"),
                Array("label", "batch", dtype="int", about="0 or 1"),
                Array(
                    "pos_weight",
                    "batch 1",
                    finite=True,
                    about="weight of label 1 (negatives/positives in training)",
                ),
                Array(
                    "direction",
                    "batch n",
                    when="variant == 'rp'",
                    finite=True,
                    about="normal draws, for the random perturbation",
                ),
                Array("encoder_l_weight", "width embed", weight=True, finite=True),
                Array("encoder_l_bias", "width", weight=True, finite=True),
                Array(
                    "attention_layer_attn_0_weight",
                    "units width",
                    weight=True,
                    finite=True,
                    about="W1",
                ),
                Array("attention_layer_attn_0_bias", "units", weight=True, finite=True),
                Array(
                    "attention_layer_attn_2_weight", "1 units", weight=True, finite=True, about="w2"
                ),
                Array("output_weight", "1 width", weight=True, finite=True, about="wo"),
                Array("output_bias", "1", weight=True, finite=True),
            ),
            options=(
                Option("variant", str, "at", "how the perturbation is found", choices=VARIANTS),
                Option("xi", float, 1.0, "its length", minimum=0),
                Option("lam_adv", float, 1.0, "weight of the perturbed loss", minimum=0),
            ),
            outputs=(
                Array("logit", "batch 1"),
                Array("scores", "batch n", about="a~, before the softmax"),
                Array("attention", "batch n"),
                Array("d_grad", "batch n", about="g"),
                Array("perturbation", "batch n", about="r, a constant for the gradient"),
                Array("attention_perturbed", "batch n"),
                Array("grad_importance", "batch n", optional=True, about="I"),
                Array("pearson", "batch", optional=True, about="NaN where one is constant"),
                Array("loss_total", "", about="L + lam_adv loss_adv"),
                Array("loss_adv", "", about="L(a~ + r)"),
                Array(
                    "dir_normed",
                    "batch batch n",
                    optional=True,
                    when="variant == 'iat_released'",
                    about="the released directions, between instances; they enter nothing else",
                ),
            ),
            refuse=(
                (
                    lambda c: bool(c.label.min() < 0) or bool(c.label.max() > 1),
                    "label: labels must be 0 or 1",
                ),
                (
                    lambda c: c.variant == "iat_released" and c.batch == 1,
                    "variant iat_released needs a batch of at least 2: its directions are "
                    "differences between instances",
                ),
            ),
            example=step_example,
            vary={
                "batch": (2, 4),
                "embed": (1, 5),
                "width": (1, 6, 17),
                "units": (1, 4),
                "variant": VARIANTS,
                "xi": (1.0, 0.0, 3.0),
                "lam_adv": (1.0, 0.5),
            },
            bench_sizes={"batch": 32, "embed": 64, "width": 128, "units": 64},
            gradient=(
                "x",
                "encoder_l_weight",
                "encoder_l_bias",
                "attention_layer_attn_0_weight",
                "attention_layer_attn_0_bias",
                "attention_layer_attn_2_weight",
                "output_weight",
                "output_bias",
            ),
            exempt={
                "gradcheck": "r is held constant, finite differences would move it; tested with the "
                "random perturbation, which does not depend on the weights"
            },
            tolerance=(2e-4, 5e-5),
            cost=Cost(
                time="batch n width (embed + units)",
                exponent=1.0,
                grows="words",
                flops=step_flops,
                bytes=lambda c: float(
                    c.itemsize * (c.batch * c.n * (c.embed + 5) + c.width * (c.embed + c.units + 2))
                ),
                blas=0.9,
                memory="batch n (hidden states are never stored)",
                memory_exponent=1.0,
                note="grad_importance costs as much again; the perturbation alone batch n",
            ),
        ),
        Operation(
            "attend",
            about="the four plain attention layers: one sequence or two, additive or scaled dot",
            equations=(
                "bc_tanh: w2 . tanh(W1 h + b1)              bc_dot: w . h / sqrt(width)",
                "qa_tanh: w2 . tanh(Wp h + bp + Wq q + bq)  qa_dot: h . q / sqrt(width)",
                "(2) a = softmax(a~ m) m / (sum of that + 1e-13)",
            ),
            inputs=(
                Array("hidden", "batch n width", finite=True, about="of the passage"),
                Array("query", "batch width", finite=True, about="of the question"),
                Array("mask", "batch n", dtype="bool", about="True at words"),
                Array("bc_tanh_attn_0_weight", "units width", weight=True, finite=True),
                Array("bc_tanh_attn_0_bias", "units", weight=True, finite=True),
                Array("bc_tanh_attn_2_weight", "1 units", weight=True, finite=True),
                Array("bc_dot_attn1_weight", "1 width", weight=True, finite=True),
                Array("qa_tanh_attn1p_weight", "units width", weight=True, finite=True),
                Array("qa_tanh_attn1p_bias", "units", weight=True, finite=True),
                Array("qa_tanh_attn1q_weight", "units width", weight=True, finite=True),
                Array("qa_tanh_attn1q_bias", "units", weight=True, finite=True),
                Array("qa_tanh_attn2_weight", "1 units", weight=True, finite=True),
            ),
            outputs=tuple(
                Array(name, "batch n") for name in ("bc_tanh", "bc_dot", "qa_tanh", "qa_dot")
            ),
            example=attend_example,
            vary={"batch": (1, 4), "width": (1, 6, 17), "units": (1, 4)},
            bench_sizes={"batch": 32, "width": 128, "units": 64},
            gradient=(
                "hidden",
                "query",
                "bc_tanh_attn_0_weight",
                "bc_tanh_attn_2_weight",
                "bc_dot_attn1_weight",
                "qa_tanh_attn1p_weight",
                "qa_tanh_attn1q_weight",
                "qa_tanh_attn2_weight",
            ),
            cost=Cost(
                time="batch n width units",
                exponent=1.0,
                grows="words",
                flops=lambda c: 4.0 * c.batch * c.n * (c.width * (c.units + 1) + c.units),
                bytes=lambda c: float(
                    c.itemsize * (c.batch * c.n * (c.width + 4) + 3 * c.units * c.width)
                ),
                blas=0.9,
                memory="batch n (the layers' hidden units are never stored)",
                memory_exponent=1.0,
            ),
        ),
    ),
    exercise=EXERCISE,
    notes=(
        "The released iAT takes its gradient where the directions have no effect, with the sign "
        "flipped: (6) lowers the loss, it does not raise it.",
        "The index convention of (5) is ours: the paper's could not be read. With normalised "
        "directions sum_k d_{t,k}^2 = 1, and (5) is (4).",
        "The released step leaves the first pass's gradients uncleared: the optimiser sees "
        "2 L + lam_adv loss_adv = 2 loss_total - lam_adv loss_adv.",
    ),
)
