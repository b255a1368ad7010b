"""A Song of (Dis)agreement: do explanations agree, and does agreement say anything?"""

from __future__ import annotations

from typing import Any

from attnlab.contract import REQUIRED, Array, Cost, Exhibit, Operation, Option, Paper

from .examples import (
    attention_example,
    bigram_example,
    bilstm_example,
    layer_example,
    mlp_example,
    scores_example,
)
from .exercise import EXERCISE

RAW = ("intgrad", "inputxgrad", "deeplift", "deepshap", "gradshap", "ablation", "lime")
COMPARED = ("lime", "intgrad", "deeplift", "gradshap", "deepshap")  # rows of tau_matrix, in order


def no_attention(attention: Any) -> bool:
    """Whether a row is neither a distribution (to 1e-3, what half precision gives) nor all zero."""
    totals = attention.sum(-1)
    fits = (abs(totals - 1) <= 1e-3) | (totals == 0)
    return not bool(fits.all()) or bool(attention.min() < 0)


def blind(mask: Any) -> bool:
    return mask is not None and not bool(mask.any(-1).all())


BLIND = (lambda c: blind(c.mask), "mask: a row is fully masked; every instance needs a real token")
INSTANCES = (
    Array("embedded", "batch n width", finite=True, about="embedded tokens x"),
    Array("baseline", "batch n width", finite=True, about="x': the padding token, embedded"),
    Array("mask", "batch n", dtype="bool", about="True at tokens that the model may use"),
    Array("baselines2", "baselines n width", finite=True, about="of Deep-SHAP and Grad-SHAP"),
    Array("shap_coefficients", "draws", finite=True, about="u_k of (5)"),
    Array("shap_choice", "draws", dtype="int", about="the baseline b_k of each draw"),
    Array("lime_masks", "masks n", dtype="flag", about="z of (6): 1 keeps the token"),
)
BILSTM = (
    *(
        Array(f"enc_{name}_{end}", shape, weight=True)
        for end in ("l0", "l0_reverse")
        for name, shape in (
            ("weight_ih", "4*hidden width"),
            ("weight_hh", "4*hidden hidden"),
            ("bias_ih", "4*hidden"),
            ("bias_hh", "4*hidden"),
        )
    ),
    Array("att_alignment_layer1_weight", "hidden 2*hidden", weight=True, about="W1 of (7)"),
    Array("att_alignment_layer1_bias", "hidden", weight=True, about="b1"),
    Array("att_alignment_layer2_weight", "1 hidden", weight=True, about="w2"),
    Array("dec_weight", "1 2*hidden", weight=True),
    Array("dec_bias", "1", weight=True),
)
MLP = (
    Array("l1_weight", "hidden width", weight=True),
    Array("l1_bias", "hidden", weight=True),
    Array("l2_weight", "hidden hidden", weight=True),
    Array("l2_bias", "hidden", weight=True),
    Array("o_weight", "1 hidden", weight=True),
    Array("o_bias", "1", weight=True),
)
STEPS = (Option("n_steps", int, 50, "Gauss-Legendre nodes of integrated gradients", minimum=1),)
ATTRIBUTION_REFUSED = (
    BLIND,
    (
        lambda c: bool((c.shap_choice < 0).any()) or bool((c.shap_choice >= c.baselines).any()),
        "shap_choice: baselines are numbered 0..{baselines}-1",
    ),
    (
        lambda c: bool((c.shap_coefficients < 0).any()) or bool((c.shap_coefficients > 1).any()),
        "shap_coefficients must be in [0, 1]",
    ),
)
ATTRIBUTIONS = (
    "(2) IG_i = (x_i - x'_i) sum_m w_m dF/dx_i(x' + g_m (x - x')),  g_m = (1+z_m)/2, w_m = omega_m/2",
    "(3) DeepLIFT: backpropagate from F(x) with dout/din of each registered non-linearity replaced",
    "    by (out(x) - out(x')) / (in(x) - in(x')); times (x - x')",
    "(4) Deep-SHAP: the mean of (3) over the baselines",
    "(5) Grad-SHAP: the mean over k of (x - b_k) dF/dx(u_k x + (1 - u_k) b_k)",
    "(6) LIME: minimise sum_z pi (F(x(z)) - b - w.z)^2 + |w|^2,  pi = exp(-(1 - cos(x, x(z)))^2 / 2)",
    "    token score = |sum over the embedding|; |mean| for LIME and ablation",
)


def attributed(prefix: tuple[Array, ...], size: int) -> tuple[Array, ...]:
    """The outputs of an attribution: prediction, raw and token scores, and the agreement matrix."""
    return (
        Array("prediction", "batch 1", about="F(x), a probability"),
        Array("prediction_baseline", "batch 1", about="F(x')"),
        *prefix,
        *(Array(f"raw_{m}", "batch n width") for m in RAW),
        *(Array(f"tok_{m}", "batch n") for m in RAW),
        Array("tau_matrix", f"{size} {size}", about="of instance 0, over its unmasked tokens"),
        Array("undefined", "", dtype="int", optional=True, about="method pairs whose tau is NaN"),
    )


def points(c: Any) -> float:
    """Forward passes of all methods together; a gradient counts as two more."""
    return float(c.batch * (3 * (c.n_steps + c.draws + 1) + c.masks + c.n))


EXHIBIT = Exhibit(
    name="disagreement",
    title="A song of (dis)agreement",
    family="explanation",
    package=__name__,
    paper=Paper(
        title="A Song of (Dis)agreement: Evaluating the Evaluation of Explainable Artificial "
        "Intelligence in Natural Language Processing",
        authors=("Michael Neely", "Stefan F. Schouten", "Maurits Bleeker", "Ana Lucic"),
        year=2022,
        venue="HHAI 2022",
        arxiv="2205.04559",
        code="sfschouten/court-of-xai@6b27ad3",
    ),
    idea=(
        "Attention has been called no explanation because it ranks words unlike other attribution "
        "methods do. The judges are put on trial here: five newer methods are compared with each "
        "other by Kendall's tau, and they hardly agree unless two are versions of one algorithm. "
        "Low agreement therefore proves nothing about attention, and faithfulness has to be "
        "measured by what happens when the words are taken away."
    ),
    attention_map=(
        "avg, rollout_cls and flow_cls: three ways to make one score a token of the maps of "
        "all layers and heads. attn_weights is the one map of the additive attention."
    ),
    operations=(
        Operation(
            "aggregate_attention",
            headline=True,
            about="one score a token from the attention of all layers: average, rollout, flow",
            equations=(
                "(8) A_l = rows of (mean_heads(attn_l) + I) divided by their L1 norm",
                "    R_1 = A_1;  R_l = A_l R_{l-1};  rollout = R_L[0, :]",
                "(9) flow: f_t = maxflow((L,0) -> (0,t)) with capacity A_l[j,k] on (l,j)->(l-1,k);",
                "    f / sum f",
                "(10) average: mean over layers and heads, then the maximum over keys",
            ),
            inputs=(
                Array("attention", "batch layers heads n n", about="rows sum to 1, or all are 0"),
            ),
            outputs=(
                Array("avg", "batch n", about="by query"),
                Array("rollout_cls", "batch n", about="row of token 0"),
                Array(
                    "flow_cls",
                    "batch n",
                    optional=True,
                    paths=frozenset({"numpy", "numba"}),
                    about="from token 0; n maximum flows an instance",
                ),
            ),
            refuse=(
                (
                    lambda c: no_attention(c.attention),
                    "attention: rows must be non-negative and sum to 1, or be all zero (padding)",
                ),
            ),
            example=attention_example,
            vary={
                "batch": (1, 2),
                "layers": (1, 2, 3),
                "heads": (1, 3),
                "padded": (False, True),
            },
            bench_sizes={"batch": 1, "layers": 2, "heads": 1},
            gradient=("attention",),
            cost=Cost(
                time="batch layers heads n^2",
                exponent=2.0,
                flops=lambda c: 5.0 * c.batch * c.layers * c.heads * c.n**2,
                bytes=lambda c: float(c.itemsize * c.batch * c.layers * c.heads * c.n**2),
                memory="batch n beside the input (one row of the rollout; no n x n product)",
                memory_exponent=2.0,
                note="multiplying whole matrices costs n^3; one row of the product is enough",
            ),
        ),
        Operation(
            "agreement",
            about="how alike two score vectors rank their elements: every correlation of the code",
            equations=(
                "(1) tau-b = (C - D) / sqrt((C + D + T_a)(C + D + T_b));  NaN for a constant vector",
                "(11) top-k: over pairs {i, j}, i in top_a, j in top_b: +1 where ordered oppositely,",
                "     +p where tied in exactly one;  1 - 2 distance / max(1, pairs)",
                "(12) weighted tau: pair (i, j) weighs (1 + r_i)^-alpha + (1 + r_j)^-alpha, r the",
                "     falling lexicographic rank by (a, b); the mean with that by (b, a)",
            ),
            inputs=(
                Array("a", "n", finite=True, about="scores"),
                Array("b", "n", finite=True, about="scores of the same elements"),
                Array("ks", "tops", dtype="int", about="sizes of the top-k comparisons"),
                Array("alphas", "exponents", finite=True, about="exponents of the weighted tau"),
            ),
            options=(
                Option("p", float, 0.5, "penalty of `topk` for one-sided ties", above=0, maximum=1),
            ),
            outputs=(
                Array("kendall_tau", ""),
                Array("spearman_rho", ""),
                Array("pearson_r", ""),
                Array("weighted_tau", "exponents"),
                Array("topk_p05", "tops", about="(11), p = 0.5"),
                Array("topk_p10", "tops", about="(11), p = 1"),
                Array(
                    "topk_nonzero", "2", about="(11), p = 0.5, at the smaller count of non-zeros"
                ),
                Array("bucket_order_a", "n", about="bucket positions of a, best first"),
                Array("top3_a", "_", dtype="int", about="items of the three best buckets of a"),
                Array("topk", "tops", optional=True, about="(11) with the option p"),
                Array("undefined", "", dtype="int", optional=True, about="constant vectors"),
            ),
            refuse=(
                (
                    lambda c: c.n < 2,
                    "n: a rank correlation needs at least 2 elements, but n is {n}",
                ),
                (lambda c: bool((c.ks < 1).any()), "ks: the top k needs k of at least 1"),
            ),
            empty=("tops", "exponents"),
            example=scores_example,
            vary={"tied": (False, True), "constant": (False, True), "p": (0.5, 0.2, 1.0)},
            no_gradient="ranks are piecewise constant",
            cost=Cost(
                time="n^2 (tops + exponents)",
                exponent=2.0,
                flops=lambda c: 2.0 * c.n**2 * (3 + c.tops + 2 * c.exponents),
                bytes=lambda c: 2.0 * c.itemsize * c.n,
                grows="elements of the two vectors",
                memory="n",
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "self_attend",
            about="the authors' attention layer, which reports norms and transposes one matrix",
            equations=(
                "alpha_h = softmax_k(q_h . k_h / sqrt(dim)),  masked keys -inf",
                "released: F = v_lin(x) out_lin.weight;  context = concat_h(alpha_h F_h) + b",
                "          norms = |alpha_h[q,k] F_h[k]|",
                "standard: context = concat_h(alpha_h V_h) out_lin.weight^T + b",
                "          norms = |alpha_h[q,k] V_h[k] W_h^T|,  W_h the head's columns of the weight",
            ),
            inputs=(
                Array("x", "batch n wide"),
                Array("mask", "batch n", dtype="bool", optional=True, about="True at real keys"),
                *(
                    Array(f"{name}_lin_{part}", shape, weight=True)
                    for name in ("q", "k", "v", "out")
                    for part, shape in (("weight", "wide wide"), ("bias", "wide"))
                ),
            ),
            options=(
                Option("n_heads", int, REQUIRED, "heads", minimum=1),
                Option(
                    "projection",
                    str,
                    "released",
                    "out_lin.weight as the released code applies it, or as attention does",
                    choices=("released", "standard"),
                ),
            ),
            outputs=(
                Array("context", "batch n wide"),
                Array("weights", "batch n_heads n n", optional=True),
                Array("norms", "batch n_heads n n", optional=True),
            ),
            refuse=(
                (
                    lambda c: c.wide % c.n_heads,
                    "x: a width of {wide} does not divide into {n_heads} heads",
                ),
                BLIND,
            ),
            example=layer_example,
            vary={
                "batch": (1, 3),
                "heads": (1, 3),
                "dim": (1, 4),
                "masked": (True, False),
                "projection": ("released", "standard"),
            },
            bench_sizes={"batch": 1, "heads": 8, "dim": 64},
            gradient=("x", "q_lin_weight", "k_lin_bias", "v_lin_weight", "out_lin_weight"),
            cost=Cost(
                time="batch n wide (n + wide)",
                exponent=2.0,
                flops=lambda c: 4.0 * c.batch * c.n * c.wide * (c.n + 2 * c.wide),
                bytes=lambda c: float(c.itemsize * (2 * c.batch * c.n * c.wide + 4 * c.wide**2)),
                blas=0.9,
                memory="batch n wide (n^2 only if weights or norms are asked for)",
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "attribute_bilstm",
            about="seven attributions of a BiLSTM with additive attention, and how they agree",
            equations=(
                *ATTRIBUTIONS,
                "(7) u_t = tanh(W1 h_t + b1), s_t = w2 . u_t, alpha = softmax over unmasked t,",
                "    c = sum_t alpha_t h_t;  norm variant |alpha_t h_t|",
                "    the non-linearities are functional, so (3) is gradient times (x - x')",
            ),
            paths=frozenset({"numpy", "numba", "torch"}),
            inputs=(*INSTANCES, *BILSTM),
            options=STEPS,
            outputs=attributed(
                (Array("attn_weights", "batch n"), Array("attn_norms", "batch n")), 6
            ),
            refuse=ATTRIBUTION_REFUSED,
            example=bilstm_example,
            vary={
                "batch": (1, 3),
                "hidden": (1, 5),
                "padded": (False, True),
                "masks": (1, 24),
                "n_steps": (1, 7),
            },
            bench_sizes={
                "batch": 1,
                "width": 300,
                "hidden": 128,
                "draws": 5,
                "masks": 1000,
                "n_steps": 50,
            },
            no_gradient="its outputs are derivatives and ranks",
            cost=Cost(
                time="(3 n_steps + masks + n) n hidden^2",
                exponent=1.0,
                flops=lambda c: points(c) * c.n * 2 * (8 * c.hidden**2 + 2 * c.hidden**2),
                bytes=lambda c: float(c.itemsize * c.batch * c.n * c.width),
                blas=0.8,
                note="exponent 2 once n passes the number of LIME's masks: ablation asks n points",
            ),
        ),
        Operation(
            "attribute_mlp",
            about="the same seven of a network whose non-linearities DeepLIFT can see",
            equations=(
                *ATTRIBUTIONS,
                "    F = sigmoid(o . mean over unmasked t of relu(l2 tanh(l1 x_t)))",
            ),
            paths=frozenset({"numpy", "numba", "torch"}),
            inputs=(*INSTANCES, *MLP),
            options=STEPS,
            outputs=attributed((), 5),
            refuse=ATTRIBUTION_REFUSED,
            example=mlp_example,
            vary={
                "batch": (1, 3),
                "hidden": (1, 9),
                "padded": (False, True),
                "masks": (1, 24),
                "n_steps": (1, 7),
            },
            bench_sizes={
                "batch": 1,
                "width": 300,
                "hidden": 128,
                "draws": 5,
                "masks": 1000,
                "n_steps": 50,
            },
            no_gradient="its outputs are derivatives and ranks",
            cost=Cost(
                time="(3 n_steps + masks + n) n hidden (width + hidden)",
                exponent=1.0,
                flops=lambda c: points(c) * c.n * 2 * c.hidden * (c.width + c.hidden),
                bytes=lambda c: float(c.itemsize * c.batch * c.n * c.width),
                blas=0.9,
            ),
        ),
        Operation(
            "faithfulness",
            about="what happens when the words are taken away, and whether people chose the same",
            equations=(
                "P(x) = sigmoid(sum_i w[x_i] + sum_i u[x_i, x_{i+1}])",
                "r_q = the floor(q n) highest scores, only those > 0; none, or the last again: skipped",
                "comprehensiveness = mean_q P(x) - P(x without r_q);  sufficiency = mean_q P(x) - P(r_q)",
                "tau-LOO = tau-b(scores, P(x) - P(x without token i))",
                "AUPRC: trapezoid under precision over recall, from (0, 1)",
            ),
            paths=frozenset({"numpy", "numba"}),
            inputs=(
                Array("token_ids", "n", dtype="int"),
                Array("scores", "n", finite=True, about="an explanation"),
                Array("rationale", "n", dtype="flag", about="1 where a person marked the token"),
                Array("w", "vocabulary", weight=True, about="score of a token"),
                Array("u", "vocabulary vocabulary", weight=True, about="score of a bigram"),
            ),
            options=(
                Option(
                    "thresholds",
                    list[float],
                    [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
                    "shares q of the tokens",
                    above=0,
                    maximum=1,
                ),
                Option("mask_id", int, 0, "token that stands for a removed one", minimum=0),
                Option("top_k_rationale", int, 5, "tokens of the hard rationale", minimum=1),
            ),
            outputs=(
                Array("aopc_comprehensiveness", "", about="high is good; 0 without a rationale"),
                Array("aopc_comprehensiveness_mask", "", about="replaced by mask_id, not deleted"),
                Array("aopc_sufficiency", "", about="low is good; 1 without a rationale"),
                Array("aopc_sufficiency_mask", ""),
                Array("tau_loo", "", about="NaN where undefined"),
                Array("auprc", "", about="NaN where the rationale is empty"),
                Array("token_f1_top5", "", about="of the top_k_rationale highest positive scores"),
                Array("token_iou_top5", ""),
            ),
            refuse=(
                (
                    lambda c: bool((c.token_ids < 0).any() or (c.token_ids >= c.vocabulary).any()),
                    "token_ids must be in 0..{vocabulary}-1",
                ),
                (
                    lambda c: c.mask_id >= c.vocabulary,
                    "mask_id {mask_id} is no token of the vocabulary of {vocabulary}",
                ),
            ),
            example=bigram_example,
            vary={"vocabulary": (3, 30), "top_k_rationale": (1, 5, 50), "mask_id": (0, 2)},
            bench_sizes={"vocabulary": 1000},
            cost=Cost(
                time="n thresholds + n log n",
                exponent=1.0,
                bytes=lambda c: float(c.itemsize * 8 * c.n),
            ),
        ),
    ),
    exercise=EXERCISE,
    notes=(
        "Scores are rounded to 12 significant digits before tau (5 in float32): equal scores in exact "
        "arithmetic must be ties.",
        "The mask hides tokens from attention and from means; the BiLSTM itself reads every position.",
        "Of equal scores the later token is taken first into a rationale, as the released code does.",
    ),
)
