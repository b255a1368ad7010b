"""Internal consistency: how much a model's samples agree, in its heads, tokens and answers."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import REQUIRED, Array, Cost, Exhibit, Operation, Option, Paper

from .exercise import EXERCISE


def labels_example(
    n: int, rng: np.random.Generator, questions: int | None = 3, answers: int = 4
) -> dict[str, Any]:
    """n sampled answers to one question, or to each of several."""
    shape = (n,) if questions is None else (questions, n)
    return {"labels": rng.integers(-1, answers - 1, shape)}


def vote_example(
    n: int,
    rng: np.random.Generator,
    tokens: int = 6,
    answers: int = 4,
    signals: str = "all",
) -> dict[str, Any]:
    """n answers with the signals named: "all", "logprobs" or "none"."""
    drawn: dict[str, Any] = {"labels": rng.integers(-1, answers - 1, n)}
    if signals == "all":
        drawn["weights"] = rng.random(n) + 0.01
        drawn["ptrue_logits"] = rng.standard_normal((n, 2))
    if signals != "none":
        lengths = rng.integers(1, tokens + 1, n)
        padding = np.arange(tokens) >= lengths[:, None]
        drawn["logprobs"] = np.where(padding, 0, np.log(rng.random((n, tokens)) * 0.9 + 0.05))
        drawn["lengths"] = lengths
    return drawn


def isolate_example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    heads: int = 2,
    dim: int = 4,
    groups: int = 1,
    keep: int = 1,
) -> dict[str, Any]:
    """One attention layer of width heads * dim; `groups` query heads share keys where it divides."""
    kv_heads = heads // groups if heads % groups == 0 else heads
    width, half = heads * dim, dim // 2
    angle = np.tile(np.arange(n)[:, None] * 10000.0 ** (-np.arange(half) / half), (1, 2))
    weights = {"Wq": heads * dim, "Wk": kv_heads * dim, "Wv": kv_heads * dim}
    drawn = {k: rng.standard_normal((rows, width)) / width**0.5 for k, rows in weights.items()}
    return {
        "hidden": rng.standard_normal((batch, n, width)),
        "cos": np.cos(angle),
        "sin": np.sin(angle),
        **drawn,
        "Wo": rng.standard_normal((width, heads * dim)) / width**0.5,
        "n_heads": heads,
        "n_kv_heads": kv_heads,
        "keep_head": keep if keep < heads else 0,
    }


def readout_example(
    n: int, rng: np.random.Generator, layers: int = 3, vocabulary: int = 12, answers: int = 5
) -> dict[str, Any]:
    """Last-position logits of n isolated heads in each of some layers."""
    return {
        "logits": rng.standard_normal((layers, n, vocabulary)),
        "answer_ids": rng.permutation(vocabulary)[:answers],
    }


def valid_logprobs(c: Any) -> Any:
    """The log-probabilities, 0 where they are padding."""
    return np.where(np.arange(c.T) < c.lengths[:, None], c.logprobs, 0)


def isolate_flops(c: Any) -> float:
    pairs = c.n * (c.n + 1) / 2
    kept = 1 if c.coefficient == 0 else c.n_heads  # with c = 0 the other heads need no computing
    return float(c.batch * kept * c.dim * (8 * c.n * c.width + 4 * pairs))


AGREEMENT = (
    "(1) neg_variance = -(1/n) sum_i (y_i - mean(Y))^2",
    "(2) neg_entropy_bits = sum over distinct v of p(v) log2 p(v)",
    "(3) unique_ratio = |unique(Y)| / n",
    "(4) majority = argmax_v count(v), the value met first among equals; its share",
)
SCORES = ("weights", "joint", "mean", "min", "ptrue")
NEEDS = {"weights": "weights", "ptrue": "ptrue_logits"}


def vote_outputs() -> tuple[Array, ...]:
    made = [
        Array("answers", "answers", dtype="int", about="distinct labels, ascending"),
        Array("count_totals", "answers"),
        Array("count_winner", "", dtype="int"),
    ]
    for score in SCORES:
        when = NEEDS.get(score, "logprobs")
        made += [
            Array(f"{score}_totals", "answers", when=when),
            Array(f"{score}_winner", "", dtype="int", when=when),
        ]
    made += [Array(s, "n", when=NEEDS.get(s, "logprobs")) for s in SCORES[1:]]
    return tuple(made)


EXHIBIT = Exhibit(
    name="internal_consistency",
    title="Internal consistency and head isolation",
    family="llm",
    package=__name__,
    paper=Paper(
        title="Internal Consistency and Self-Feedback in Large Language Models: A Survey",
        authors=("Xun Liang", "others"),
        year=2024,
        arxiv="2407.14507",
        code="IAAR-Shanghai/ICSFSurvey@2ad23e882e6b8328158b4486fcf5068c88440ed1",
    ),
    idea=(
        "A language model expresses its answer at three depths: in single attention heads, in the "
        "token a decoding strategy picks, and in the final text. Draw several samples at one depth "
        "and measure how far they agree: that costs no gold label and goes with being right, "
        "though it proves nothing. Heads low in the network disagree, decoding agrees most, free "
        "responses drift apart again: the hourglass."
    ),
    attention_map=(
        "attn[h, i, j] of the plain layer: rows sum to 1. In the isolated layer the other "
        "heads' maps are multiplied by the coefficient, their rows then summing to it."
    ),
    operations=(
        Operation(
            "isolate_head",
            headline=True,
            about="one layer's causal rotary attention with every head but one scaled down",
            equations=(
                "(6) q, k = rope(X Wq^T), rope(X Wk^T);  A_j = softmax(q_j k_g(j)^T / sqrt(dim)), causal",
                "    O_j = A_j V_g(j),  g(j) = floor(j / (H / Hkv));  rope(z) = z cos + rot(z) sin",
                "(7) paper: out = concat_j(m_j O_j) Wo^T,  m_h = 1, m_j = c for j != h",
                "(8) code:  Z = concat_j(O_j) Wo^T as (batch, n, H, D/H); slices j != h times c",
            ),
            inputs=(
                Array("hidden", "batch n width", about="X"),
                Array("cos", "n dim", about="rotary table; the dim/2 angles stand twice"),
                Array("sin", "n dim"),
                Array("Wq", "n_heads*dim width", weight=True),
                Array("Wk", "kv_heads*dim width", weight=True),
                Array("Wv", "kv_heads*dim width", weight=True),
                Array("Wo", "width n_heads*dim", weight=True),
            ),
            options=(
                Option("n_heads", int, REQUIRED, "H", minimum=1),
                Option("n_kv_heads", int, None, "Hkv; None is H", minimum=1),
                Option(
                    "keep_head", int, REQUIRED, "h in -H..H-1; negative ones count from the end"
                ),
                Option(
                    "coefficient", float, 0.0, "c: what is left of the others", minimum=0, maximum=1
                ),
            ),
            outputs=(
                Array("plain", "batch n width", optional=True, about="nothing isolated"),
                Array("attn", "batch n_heads n n", optional=True, about="A"),
                Array("isolated_code", "batch n width", optional=True, about="(8)"),
                Array("isolated_paper", "batch n width", about="(7)"),
            ),
            refuse=(
                (
                    lambda c: c.kv_heads != (c.n_kv_heads or c.n_heads),
                    "Wk: it has {kv_heads} key/value heads of {dim}, but n_kv_heads is {n_kv_heads} (n_heads {n_heads})",
                ),
                (
                    lambda c: c.n_heads % c.kv_heads,
                    "n_kv_heads: {kv_heads} do not divide n_heads {n_heads}",
                ),
                (
                    lambda c: c.width % c.n_heads,
                    "hidden: width {width} is not divisible by n_heads {n_heads}",
                ),
                (lambda c: c.dim % 2, "cos: rotary positions need an even dim, but it is {dim}"),
                (
                    lambda c: not -c.n_heads <= c.keep_head < c.n_heads,
                    "keep_head: {keep_head} is outside -{n_heads}..{n_heads}-1",
                ),
            ),
            example=isolate_example,
            vary={
                "batch": (1, 2),
                "heads": (1, 2, 4),
                "dim": (2, 6),
                "groups": (1, 2),
                "keep": (0, 1),
                "coefficient": (0.0, 0.25, 1.0),
            },
            bench_sizes={"batch": 1, "heads": 8, "dim": 64},
            gradient=("hidden", "Wq", "Wk", "Wv", "Wo"),
            causal="n",
            cost=Cost(
                time="batch (n^2 dim + n dim width) for each head computed",
                exponent=2.0,
                flops=isolate_flops,
                bytes=lambda c: float(
                    c.itemsize * (2 * c.batch * c.n * c.width + 4 * c.dim * c.width)
                ),
                blas=0.9,
                memory="batch n width (tiled; n^2 only if attn is asked for)",
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "consistency",
            about="how far the answers sampled for a question agree",
            equations=AGREEMENT,
            paths=frozenset({"numpy", "numba"}),
            inputs=(Array("labels", "n | questions n", dtype="int", about="canonical answer ids"),),
            outputs=(
                Array("neg_variance", " | questions"),
                Array("neg_entropy_bits", " | questions"),
                Array("unique_ratio", " | questions"),
                Array("majority", " | questions", dtype="int"),
                Array("majority_share", " | questions"),
            ),
            example=labels_example,
            vary={"questions": (None, 1, 5), "answers": (1, 3, 50)},
            bench_sizes={"questions": 64},
            batch="questions",
            no_gradient="integers in, statistics out",
            cost=Cost(
                time="questions n log n",
                exponent=1.0,
                grows="samples",
                bytes=lambda c: 8.0 * c.n * getattr(c, "questions", 1),
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "vote",
            about="weighted votes: by count, weight, joint, mean and least token probability, P(True)",
            equations=(
                "(5) S(v) = sum_{i: y_i = v} s_i;  winner argmax_v S(v), the value met first among equals",
                "joint_i = exp(sum_t lp_it), mean_i = (1/L_i) sum_t exp(lp_it), min_i = min_t exp(lp_it)",
                "ptrue_i = softmax(ptrue_logits_i)[0]",
            ),
            paths=frozenset({"numpy", "numba"}),
            inputs=(
                Array("labels", "n", dtype="int", about="canonical answer ids"),
                Array("weights", "n", optional=True, finite=True, about="w_i >= 0"),
                Array("logprobs", "n T", optional=True, about="of each answer's tokens, padded"),
                Array("lengths", "n", dtype="int", when="logprobs", about="L_i in 1..T"),
                Array("ptrue_logits", "n 2", optional=True, about="of (A) True and (B) False"),
            ),
            outputs=vote_outputs(),
            refuse=(
                (
                    lambda c: c.weights is not None and bool((c.weights < 0).any()),
                    "weights must not be negative",
                ),
                (
                    lambda c: c.weights is not None and not c.weights.sum() > 0,
                    "weights must not all be 0",
                ),
                (
                    lambda c: (
                        c.lengths is not None and bool(((c.lengths < 1) | (c.lengths > c.T)).any())
                    ),
                    "lengths must be in 1..{T}",
                ),
                (
                    lambda c: (
                        c.logprobs is not None and not bool((valid_logprobs(c) <= 1e-9).all())
                    ),
                    "logprobs must be log-probabilities: one is positive or NaN",
                ),
                (
                    lambda c: (
                        c.ptrue_logits is not None
                        and not bool((c.ptrue_logits == c.ptrue_logits).all())
                    ),
                    "ptrue_logits must not hold NaN",
                ),
            ),
            example=vote_example,
            vary={"tokens": (1, 7), "answers": (1, 5), "signals": ("all", "logprobs", "none")},
            bench_sizes={"tokens": 16},
            no_gradient="winners of votes",
            cost=Cost(
                time="n T + n log n",
                exponent=1.0,
                grows="samples",
                bytes=lambda c: float(c.n * (32 + c.itemsize * getattr(c, "T", 0))),
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "readout",
            about="answers read from the logits of every layer and isolated head, and their agreement",
            equations=(
                "(9) P = softmax(z) over the whole vocabulary; answer = argmax over the allowed ids",
                "(10) (1)-(4) along the heads of each layer",
                *AGREEMENT,
            ),
            paths=frozenset({"numpy", "numba"}),
            inputs=(
                Array("logits", "L H V", finite=True, about="last position, each layer and head"),
                Array("answer_ids", "K", dtype="int", about="ids of the allowed answers"),
            ),
            outputs=(
                Array("probs", "L H K"),
                Array("answers", "L H", dtype="int", about="position in answer_ids"),
                Array("layer_neg_variance", "L"),
                Array("layer_neg_entropy_bits", "L"),
                Array("layer_unique_ratio", "L"),
                Array("layer_majority", "L", dtype="int"),
                Array("layer_majority_share", "L"),
            ),
            refuse=(
                (
                    lambda c: c.answer_ids.min() < 0 or c.answer_ids.max() >= c.V,
                    "answer_ids must be in 0..{V}-1",
                ),
            ),
            example=readout_example,
            vary={"layers": (1, 4), "answers": (1, 6)},
            bench_sizes={"layers": 16, "vocabulary": 4096, "answers": 10},
            no_gradient="argmax and counts",
            cost=Cost(
                time="L H V",
                exponent=1.0,
                size="H",
                grows="heads",
                flops=lambda c: 4.0 * c.L * c.H * c.V,
                bytes=lambda c: float(c.itemsize * c.L * c.H * c.V),
                memory_exponent=1.0,
            ),
        ),
    ),
    exercise=EXERCISE,
    notes=(
        "The survey speaks of other heads' outputs, its code of slices after Wo: `isolated_paper` "
        "is what `isolate_head` returns, `isolated_code` comes on request.",
        "The entropy runs over distinct answers, as the survey's printed values need.",
    ),
)
