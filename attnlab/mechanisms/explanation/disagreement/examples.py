"""Inputs of any size for the operations, drawn from the distributions that the tests use."""

from __future__ import annotations

from typing import Any

import numpy as np


def scores_example(
    n: int, rng: np.random.Generator, tied: bool = False, constant: bool = False
) -> dict[str, Any]:
    """Two related score vectors of at least two elements; `tied` rounds them, so that buckets form."""
    n = max(n, 2)
    a = rng.standard_normal(n)
    b = np.full(n, 0.5) if constant else a + rng.standard_normal(n)
    if tied:
        a, b = np.round(a), np.round(b)
    return {
        "a": a,
        "b": b,
        "ks": np.unique([1, max(1, n // 3), n]),
        "alphas": np.array([0.0, 1.0, 1.5]),
    }


def attention_example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    layers: int = 2,
    heads: int = 2,
    padded: bool = False,
) -> dict[str, Any]:
    """Row-stochastic attention; with `padded` the last query's rows are zero."""
    attention = rng.random((batch, layers, heads, n, n))
    attention /= attention.sum(-1, keepdims=True)
    if padded and n > 1:
        attention[..., -1, :] = 0
    return {"attention": attention}


def layer_example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    heads: int = 2,
    dim: int = 4,
    masked: bool = True,
) -> dict[str, Any]:
    """Tokens and the four projections of a layer with `heads` heads of `dim`; token 0 is real."""
    wide = heads * dim
    drawn: dict[str, Any] = {"x": rng.standard_normal((batch, n, wide)), "n_heads": heads}
    if masked:
        drawn["mask"] = rng.random((batch, n)) < 0.7
        drawn["mask"][:, 0] = True
    for name in ("q", "k", "v", "out"):
        drawn[f"{name}_lin_weight"] = rng.standard_normal((wide, wide)) / wide**0.5
        drawn[f"{name}_lin_bias"] = 0.1 * rng.standard_normal(wide)
    return drawn


def instances(
    n: int,
    rng: np.random.Generator,
    batch: int,
    width: int,
    baselines: int,
    draws: int,
    masks: int,
    padded: bool,
) -> dict[str, Any]:
    """What every attribution is asked about: embedded tokens, baselines and the random draws."""
    mask = np.ones((batch, n), bool)
    if padded:
        mask[:, n - n // 4 :] = False
    return {
        "embedded": rng.standard_normal((batch, n, width)),
        "baseline": np.tile(rng.standard_normal(width), (batch, n, 1)),
        "mask": mask,
        "baselines2": rng.standard_normal((baselines, n, width)),
        "shap_coefficients": rng.random(draws),
        "shap_choice": rng.integers(0, baselines, draws),
        "lime_masks": rng.integers(0, 2, (masks, n)),
    }


def bilstm_example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    width: int = 3,
    hidden: int = 4,
    baselines: int = 2,
    draws: int = 4,
    masks: int = 24,
    padded: bool = False,
    n_steps: int = 6,
) -> dict[str, Any]:
    """A random BiLSTM with additive attention and n tokens to explain."""
    drawn = instances(n, rng, batch, width, baselines, draws, masks, padded)
    for end in ("l0", "l0_reverse"):
        drawn[f"enc_weight_ih_{end}"] = rng.standard_normal((4 * hidden, width)) / width**0.5
        drawn[f"enc_weight_hh_{end}"] = rng.standard_normal((4 * hidden, hidden)) / hidden**0.5
        drawn[f"enc_bias_ih_{end}"] = 0.1 * rng.standard_normal(4 * hidden)
        drawn[f"enc_bias_hh_{end}"] = 0.1 * rng.standard_normal(4 * hidden)
    return drawn | {
        "att_alignment_layer1_weight": rng.standard_normal((hidden, 2 * hidden)) / hidden**0.5,
        "att_alignment_layer1_bias": 0.1 * rng.standard_normal(hidden),
        "att_alignment_layer2_weight": rng.standard_normal((1, hidden)),
        "dec_weight": rng.standard_normal((1, 2 * hidden)),
        "dec_bias": 0.1 * rng.standard_normal(1),
        "n_steps": n_steps,
    }


def mlp_example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    width: int = 3,
    hidden: int = 8,
    baselines: int = 2,
    draws: int = 4,
    masks: int = 24,
    padded: bool = False,
    n_steps: int = 6,
) -> dict[str, Any]:
    """A random token-wise MLP with a mean over tokens, and n tokens to explain."""
    return instances(n, rng, batch, width, baselines, draws, masks, padded) | {
        "l1_weight": rng.standard_normal((hidden, width)) / width**0.5,
        "l1_bias": 0.1 * rng.standard_normal(hidden),
        "l2_weight": rng.standard_normal((hidden, hidden)) / hidden**0.5,
        "l2_bias": 0.5 + 0.1 * rng.standard_normal(hidden),
        "o_weight": rng.standard_normal((1, hidden)),
        "o_bias": 0.1 * rng.standard_normal(1),
        "n_steps": n_steps,
    }


def bigram_example(
    n: int, rng: np.random.Generator, vocabulary: int = 30, top_k_rationale: int = 5
) -> dict[str, Any]:
    """A sentence, scores and a human rationale under a bigram classifier."""
    rationale = rng.integers(0, 2, n)
    rationale[rng.integers(0, n)] = 1
    return {
        "token_ids": rng.integers(1, vocabulary, n),
        "scores": rng.standard_normal(n),
        "rationale": rationale,
        "w": rng.standard_normal(vocabulary) / n**0.5,
        "u": 0.5 * rng.standard_normal((vocabulary, vocabulary)) / n**0.5,
        "top_k_rationale": top_k_rationale,
    }
