"""Scan and snap: how attention forms while a one-layer transformer learns next-token prediction."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import REQUIRED, Array, Cost, Exhibit, Operation, Option, Paper

from .exercise import EXERCISE


def loss_example(
    n: int, rng: np.random.Generator, batch: int = 3, vocabulary: int = 11
) -> dict[str, Any]:
    """Sequences of n keys and a last token over a small vocabulary, with normal weights."""
    return {
        "x": rng.integers(0, vocabulary, (batch, n + 1)),
        "label": rng.integers(0, vocabulary, batch),
        "K1": rng.standard_normal((vocabulary, vocabulary)),
        "K2": rng.standard_normal((vocabulary, vocabulary)),
    }


def train_example(
    n: int,
    rng: np.random.Generator,
    batch: int = 4,
    vocabulary: int = 13,
    steps: int = 5,
    with_facts: bool = True,
) -> dict[str, Any]:
    """Batches of sequences of n keys and a last token; two facts to look at afterwards."""
    drawn: dict[str, Any] = {
        "x": rng.integers(0, vocabulary, (steps, batch, n + 1)),
        "label": rng.integers(0, vocabulary, (steps, batch)),
        "M": vocabulary,
        "snapshot_steps": [0, steps - 1],
    }
    if with_facts:
        drawn["fact_probs"] = rng.dirichlet(np.ones(vocabulary), 2)
        drawn["fact_last"] = rng.integers(0, vocabulary, 2)
    return drawn


def population_example(
    n: int, rng: np.random.Generator, facts: int = 3, steps: int = 4
) -> dict[str, Any]:
    """`facts` facts over n tokens."""
    return {
        "fact_probs": rng.dirichlet(np.ones(n), facts),
        "fact_last": rng.integers(0, n, facts),
        "fact_next": rng.integers(0, n, facts),
        "steps": steps,
    }


def outside(ids: Any, tokens: int) -> bool:
    return bool(ids.min() < 0) or bool(ids.max() >= tokens)


def no_distribution(probs: Any) -> bool:
    return bool((probs < 0).any()) or bool((abs(probs.sum(-1) - 1) > 1e-4).any())


SHORT = (lambda c: c.length < 2, "x: sequences need at least one key and a last token; length is 1")
TOKENS = (lambda c: outside(c.x, c.M), "x: token ids must be in 0..{M}-1")
LABELS = (lambda c: outside(c.label, c.M), "label: token ids must be in 0..{M}-1")
FACT_PROBS = (
    lambda c: c.fact_probs is not None and no_distribution(c.fact_probs),
    "fact_probs: rows must be probabilities that sum to 1",
)
FACT_LAST = (
    lambda c: c.fact_last is not None and outside(c.fact_last, c.M),
    "fact_last: token ids must be in 0..{M}-1",
)

FORWARD = (
    "(1) b_i = softmax_i( K2[m, x_i] )             keys x_1..x_{L-1}, m = x_L",
    "(2) u = sum_i b_i e_{x_i};  f = u / ||u||_2",
    "(3) alpha = softmax(K1 f);  J = -mean log alpha[label]",
)
BACKWARD = (
    "(4) g = (alpha - e_n) / B;  dJ/dK1 = sum g f^T;  df = K1^T g;  du = (df - f (f . df)) / ||u||",
    "    ds_i = b_i (du[x_i] - sum_j b_j du[x_j]);  dJ/dK2[m, x_i] += ds_i",
    "(5) v <- momentum v + grad;  K <- K - lr v",
)

EXHIBIT = Exhibit(
    name="scan_and_snap",
    title="Scan and snap training dynamics",
    family="training",
    package=__name__,
    paper=Paper(
        title="Scan and Snap: Understanding Training Dynamics and Token Composition in 1-layer "
        "Transformer",
        authors=("Y. Tian", "Y. Wang", "B. Chen", "S. Du"),
        year=2023,
        venue="NeurIPS 2023",
        arxiv="2305.16380",
        code="facebookresearch/luckmatters@625b5f7",
    ),
    idea=(
        "One attention layer whose query is the last token, a normalisation and a linear decoder "
        "learn the next token by gradient descent, and the dynamics of the token-to-token scores "
        "can be written down. First attention scans: tokens that go with many next tokens lose "
        "score, tokens that go with one gain, the faster the oftener they occur. Then it snaps: "
        "the decoder fits, the gradient dies, and a sparse mixture of tokens stays frozen."
    ),
    attention_map=(
        "c[fact, l] of (6): the share of the last token's attention that goes to distinct token l, the "
        "softmax of scores weighted by how often l occurs. Rows sum to 1. train returns it after the "
        "last step, population_train before each (c_history)."
    ),
    operations=(
        Operation(
            "loss",
            headline=True,
            about="the one-layer transformer's loss on a batch of token sequences",
            equations=FORWARD,
            inputs=(
                Array("x", "batch length", dtype="int", about="token ids; the last is the query"),
                Array("label", "batch", dtype="int", about="next token"),
                Array("K1", "M M", weight=True, about="decoder: logit_k = sum_l K1[k,l] f_l"),
                Array("K2", "M M", weight=True, about="score of key l for last token m: K2[m,l]"),
            ),
            options=(
                Option("normalize", bool, True, "divide u by its L2 norm"),
                Option("attn_include_base_token", bool, False, "attend to the last token too"),
                Option("residual", bool, False, "add the last token's one-hot to u, before norm"),
            ),
            outputs=(Array("loss", "", about="mean over the batch, in nats"),),
            refuse=(SHORT, TOKENS, LABELS),
            example=loss_example,
            vary={
                "batch": (1, 4),
                "vocabulary": (2, 9, 40),
                "normalize": (True, False),
                "attn_include_base_token": (True, False),
                "residual": (True, False),
            },
            bench_sizes={"batch": 64, "vocabulary": 128},
            gradient=("K1", "K2"),
            exempt={"batch": "the loss is one number, the mean over the batch"},
            cost=Cost(
                time="batch (length + M^2)",
                exponent=1.0,
                size="length",
                grows="tokens of a sequence",
                flops=lambda c: float(c.batch * (4 * c.length + 5 * c.M + 2 * c.M**2)),
                bytes=lambda c: float(8 * c.batch * c.length + 2 * c.itemsize * c.M**2),
                blas=lambda c: 2 * c.M**2 / (4 * c.length + 5 * c.M + 2 * c.M**2),
                memory="batch M (tokens are counted; no one-hot vectors)",
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "train",
            about="momentum SGD on given batches from zero weights",
            equations=FORWARD + BACKWARD + ("(6) c_l = P(l|m,n) exp(K2[m,l]) / sum",),
            paths=frozenset({"numpy", "numba", "torch"}),
            inputs=(
                Array("x", "steps batch length", dtype="int", about="one batch a step"),
                Array("label", "steps batch", dtype="int"),
                Array(
                    "fact_probs", "facts M", optional=True, about="P(l|m,n), to be looked at after"
                ),
                Array(
                    "fact_last",
                    "facts",
                    dtype="int",
                    when="fact_probs",
                    about="each fact's last token m",
                ),
            ),
            options=(
                Option("M", int, REQUIRED, "tokens in the vocabulary", minimum=1),
                Option("lr_y", float, 1.0, "learning rate of K1", above=0),
                Option("lr_z", float, 1.0, "learning rate of K2", above=0),
                Option("momentum", float, 0.9, "of both", minimum=0, maximum=1),
                Option(
                    "snapshot_steps", list[int], [], "keep the weights after these steps, from 0"
                ),
            ),
            outputs=(
                Array("losses", "steps", about="each batch's, before its update"),
                Array("K1_snapshots", "_ M M"),
                Array("K2_snapshots", "_ M M"),
                Array("c", "facts M", when="fact_probs", about="(6) after the last step"),
            ),
            refuse=(
                SHORT,
                TOKENS,
                LABELS,
                FACT_PROBS,
                FACT_LAST,
                (
                    lambda c: any(not 0 <= s < c.steps for s in c.snapshot_steps),
                    "snapshot_steps must be in 0..{steps}-1",
                ),
            ),
            example=train_example,
            vary={
                "batch": (1, 5),
                "vocabulary": (4, 17),
                "steps": (1, 6),
                "with_facts": (True, False),
                "momentum": (0.0, 0.9),
                "lr_y": (1.0, 0.3),
                "lr_z": (1.0, 2.0),
            },
            bench_sizes={"batch": 64, "vocabulary": 128, "steps": 10},
            no_gradient="a training rule: the gradients are inside it",
            exempt={"batch": "every step averages over its batch"},
            cost=Cost(
                time="steps batch (length + M^2)",
                exponent=1.0,
                size="length",
                grows="tokens of a sequence",
                flops=lambda c: float(c.steps * c.batch * (6 * c.length + 6 * c.M**2)),
                bytes=lambda c: float(c.steps * (8 * c.batch * c.length + 8 * c.itemsize * c.M**2)),
                blas=lambda c: c.M**2 / (c.length + c.M**2),
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "facts",
            about="the synthetic task: which keys go with which last and next token",
            equations=(
                "tokens: common | common per last token | unique per fact | last | next",
                "P(l|m,n) ~ common_weight on common keys, linspace(unique_min, unique_max) on unique",
            ),
            paths=frozenset({"numpy"}),
            inputs=(),
            options=(
                Option("num_last", int, 2, "last tokens", minimum=1),
                Option("num_next_per_last", int, 2, "facts of each last token", minimum=1),
                Option("num_common", int, 10, "keys common to all facts", minimum=0),
                Option("num_common_per_last", int, 5, "keys common to a last token", minimum=0),
                Option("num_unique_per_next", int, 10, "keys of one fact alone", minimum=0),
                Option("unique_min", float, 0.1, "least weight of a unique key", minimum=0),
                Option("unique_max", float, 1.0, "largest weight of a unique key", minimum=0),
                Option("common_weight", float, 1.0, "weight of both kinds of common", minimum=0),
            ),
            outputs=(
                Array("fact_probs", "facts M", about="P(l|m,n), rows sum to 1"),
                Array("fact_last", "facts", dtype="int", about="m = fact // num_next_per_last"),
                Array("fact_next", "facts", dtype="int", about="n, one a fact"),
            ),
            refuse=(
                (
                    lambda c: (
                        c.common_weight * (c.num_common + c.num_common_per_last)
                        + c.num_unique_per_next * max(c.unique_min, c.unique_max)
                        <= 0
                    ),
                    "no key has any weight: common_weight, unique_max and the counts leave nothing",
                ),
            ),
            example=lambda n, rng, last=2: {"num_unique_per_next": n, "num_last": last},
            vary={"last": (1, 3), "num_common": (0, 4), "num_common_per_last": (0, 2)},
            no_gradient="a generator of data",
        ),
        Operation(
            "population_train",
            about="the dynamics without sampling noise: infinitely long sequences, plain gradient",
            equations=(
                "(6) c_l = P(l|m,n) exp(z_{m,l}) / sum;  f = c / ||c||_2;  alpha = softmax(Y^T f)",
                "(7) dY = eta_Y E[ f (e_n - alpha)^T ]",
                "(8) dz_m = eta_Z E[ diag(c) (I - 1 c^T) (I - f f^T) / ||c||  Y (e_n - alpha) ]",
            ),
            paths=frozenset({"numpy", "numba", "torch"}),
            inputs=(
                Array("fact_probs", "facts M", about="P(l|m,n)"),
                Array("fact_last", "facts", dtype="int", about="m"),
                Array("fact_next", "facts", dtype="int", about="n"),
            ),
            options=(
                Option("eta_y", float, 1.0, "rate of the decoder Y = K1^T", above=0),
                Option("eta_z", float, 1.0, "rate of the attention scores Z", above=0),
                Option("steps", int, REQUIRED, "gradient steps from zero", minimum=1),
            ),
            outputs=(
                Array("Y", "M M", about="after the last step; Y[l,k] scores next token k"),
                Array("Z", "M M", about="Z[m,l] = score of key l for last token m"),
                Array("c_history", "steps facts M", about="(6) before each step"),
                Array("losses", "steps", about="mean over facts of -log alpha[n], before each"),
            ),
            refuse=(
                FACT_PROBS,
                FACT_LAST,
                (
                    lambda c: outside(c.fact_next, c.M),
                    "fact_next: token ids must be in 0..{M}-1",
                ),
            ),
            example=population_example,
            vary={
                "facts": (1, 4),
                "steps": (1, 5),
                "eta_y": (1.0, 5.0),
                "eta_z": (1.0, 0.5),
            },
            bench_sizes={"facts": 16, "steps": 20},
            no_gradient="a training rule: the gradients are inside it",
            cost=Cost(
                time="steps facts M^2",
                exponent=2.0,
                size="M",
                grows="tokens in the vocabulary",
                flops=lambda c: 6.0 * c.steps * c.facts * c.M**2,
                bytes=lambda c: float(c.itemsize * c.steps * (4 * c.M**2 + 2 * c.facts * c.M)),
                blas=0.95,
                memory_exponent=2.0,
            ),
        ),
    ),
    exercise=EXERCISE,
    notes=(
        "The paper analyses gradient flow; its code uses SGD with momentum 0.9, as `train` does.",
        "With residual and normalize both on, the one-hot is added before the norm (our choice).",
    ),
)
