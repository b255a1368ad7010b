"""Sparse autoencoders for circuits: heads whose vocabulary of codes is their own on a task."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import REQUIRED, Array, Cost, Exhibit, Operation, Option, Paper

from .exercise import EXERCISE


def unit_rows(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """The paper's initial weights: normal rows of length 1."""
    drawn = rng.standard_normal((rows, columns))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def find_example(
    n: int,
    rng: np.random.Generator,
    layers: int = 2,
    heads: int = 2,
    dim: int = 6,
    features: int = 9,
    train: int = 4,
    epochs: int = 1,
    with_truth: bool = True,
) -> dict[str, Any]:
    """n positive prompts, then n negative ones; the last head of the grid is the circuit.

    Its outputs have one direction more to choose from on positives; every other head writes one of
    three directions at random, plus noise.
    """
    N, total = 2 * n, layers * heads
    directions = rng.standard_normal((total, 4, dim))
    choice = rng.integers(0, 3, (N, total))
    choice[:n, -1] = rng.integers(0, 4, n)
    streams = directions[np.arange(total), choice] + 0.3 * rng.standard_normal((N, total, dim))
    truth = {"circuit_heads": np.array([total - 1])} if with_truth and total > 1 else {}
    return {
        "streams": streams,
        "permutation": rng.permutation(N),
        **truth,
        "enc_weight": unit_rows(rng, features, dim),
        "enc_bias": rng.uniform(-1, 1, features) / dim**0.5,
        "dec_weight": unit_rows(rng, dim, features),
        "tied_bias": np.zeros(dim),
        "n_layers": layers,
        "n_heads": heads,
        "n_train": train,
        "n_epochs": epochs,
    }


def score_example(
    n: int,
    rng: np.random.Generator,
    layers: int = 1,
    prompts: int = 16,
    codes: int = 7,
    with_truth: bool = True,
    with_prediction: bool = True,
) -> dict[str, Any]:
    """Codes of `layers` times n heads on some prompts; about a third of the heads are the circuit."""
    total = layers * n
    drawn: dict[str, Any] = {
        "codes": rng.integers(0, codes, (prompts, total)),
        "n_layers": layers,
        "n_heads": n,
    }
    if with_truth and total > 1:
        drawn["circuit_heads"] = rng.permutation(total)[: max(1, total // 3)]
        if with_prediction:
            drawn["median_pred"] = rng.integers(0, 2, (layers, n))
    return drawn


def host(x: Any) -> np.ndarray:
    return x.detach().cpu().numpy() if hasattr(x, "detach") else np.asarray(x)


def one_kind(c: Any) -> bool:
    """Whether every head is of the circuit, or none."""
    if c.circuit_heads is None:
        return False
    return not 0 < len(np.unique(host(c.circuit_heads))) < c.n


ODD = (
    lambda c: c.N % 2,
    "the first half of the N prompts is positive, the second negative: N must be even, but is {N}",
)
GRID = (
    lambda c: c.n != c.n_layers * c.n_heads,
    "head labels must cover the grid: n_layers {n_layers} times n_heads {n_heads} is not n = {n}",
)
HEADS = (
    lambda c: (
        c.circuit_heads is not None
        and not ((host(c.circuit_heads) >= 0) & (host(c.circuit_heads) < c.n)).all()
    ),
    "circuit_heads must be in 0..{n}-1 (a head's number is layer * n_heads + head)",
)
ONE_KIND = (
    one_kind,
    "circuit_heads: the AUC is undefined when all {n} heads are of the circuit, or none",
)
TRUTH = Array(
    "circuit_heads",
    "m",
    dtype="int",
    optional=True,
    about="known circuit; a head's number is layer * n_heads + head. None: no AUC",
)
LAYERS = (
    Option("n_layers", int, REQUIRED, "rows of the grid", minimum=1),
    Option("n_heads", int, REQUIRED, "columns of the grid (heads, one more for MLPs)", minimum=1),
)
NODE = (
    "(5) u_h = |set(c_pos,h) \\ set(c_neg,h)|;  normalised: / |set(c_pos,h) U set(c_neg,h)|",
    "(6) prediction = softmax over the heads of u;  quality = ROC AUC against the known circuit",
)

EXHIBIT = Exhibit(
    name="circuit_sae",
    title="Circuit discovery with sparse autoencoders",
    family="explanation",
    package=__name__,
    paper=Paper(
        title="Sparse Autoencoders Enable Scalable and Reliable Circuit Identification in Language "
        "Models",
        authors=("Charles O'Neill", "Thang Bui"),
        year=2024,
        arxiv="2405.12522",
        code="charlieoneill11/sae-circuits@10fd2e7",
    ),
    idea=(
        "Record what every attention head writes on prompts that need a behaviour and on look-alikes "
        "that cannot show it, train one small sparse autoencoder on ten of them, and replace each "
        "output by the number of its strongest feature. A head that does the work uses codes on the "
        "positives that it never uses on the negatives: counting them ranks the heads, counting "
        "pairs of codes ranks the edges. No ablation is run; seconds replace hours."
    ),
    attention_map=(
        "none: it reads what heads write into the residual stream, not where they look."
    ),
    operations=(
        Operation(
            "find_circuit",
            headline=True,
            about="train the autoencoder on a few prompts, code all, rank the heads by positive-only codes",
            equations=(
                "(1) a = relu((x - t) W_e^T + b_e);  xhat = a W_d^T + t",
                "(2) loss = mean over all elements of (xhat - x)^2 + lambda * mean over rows of ||a||_1",
                "(3) rows w of W_e and W_d have length 1: rescaled before every pass;  g <- g - (g.w) w/||w||",
                "    Adam: betas .9 .999, eps 1e-8",
                "(4) c_{e,h} = argmax_f a_{e,h,f}, the first among equals",
                *NODE,
            ),
            inputs=(
                Array("streams", "N n d", finite=True, about="x: what each head writes, averaged"),
                Array(
                    "permutation", "N", dtype="int", about="the first n_train of it are trained on"
                ),
                TRUTH,
                Array("enc_weight", "F d", weight=True, finite=True, about="W_e"),
                Array("enc_bias", "F", weight=True, finite=True, about="b_e"),
                Array("dec_weight", "d F", weight=True, finite=True, about="W_d"),
                Array("tied_bias", "d", weight=True, finite=True, about="t"),
            ),
            options=(
                *LAYERS,
                Option("n_train", int, 10, "prompts to train on, at most N", minimum=1),
                Option("n_epochs", int, 500, "full-batch steps; 0 leaves the weights", minimum=0),
                Option("lr", float, 1e-3, "of Adam", above=0),
                Option("lam", float, 0.02, "lambda of (2)", minimum=0),
                Option(
                    "dec_unit",
                    str,
                    "rows",
                    "what of W_d has length 1: rows, as in the code, or the dictionary vectors",
                    choices=("rows", "columns"),
                ),
            ),
            outputs=(
                Array("init_activations_first2", "2 n F", about="(1) of the first two prompts"),
                Array("init_reconstruction_first2", "2 n d"),
                Array("init_loss", "", about="(2) over all streams"),
                Array(
                    "train_loss",
                    "n_epochs",
                    about="before each update; only the first is differentiable",
                ),
                Array("trained_enc_weight", "F d"),
                Array("trained_enc_bias", "F"),
                Array("trained_dec_weight", "d F"),
                Array("trained_tied_bias", "d"),
                Array("codes", "N n", dtype="int", about="(4)"),
                Array("code_margin_min", "", about="least gap of a row's two largest activations"),
                Array("node_softmax", "n", about="(6)"),
                Array("node_auc", "", when="circuit_heads", about="ties count half"),
            ),
            refuse=(
                ODD,
                GRID,
                HEADS,
                ONE_KIND,
                (
                    lambda c: (np.sort(host(c.permutation)) != np.arange(c.N)).any(),
                    "permutation must hold each of 0..{N}-1 once",
                ),
            ),
            example=find_example,
            vary={
                "layers": (1, 3),
                "heads": (1, 3),
                "dim": (1, 5),
                "features": (1, 2, 12),
                "train": (1, 10),
                "epochs": (0, 1, 4),
                "with_truth": (True, False),
                "dec_unit": ("rows", "columns"),
                "lam": (0.0, 0.02, 0.5),
            },
            bench_sizes={
                "layers": 4,
                "heads": 8,
                "dim": 64,
                "features": 200,
                "train": 10,
                "epochs": 20,
            },
            gradient=("streams", "enc_weight", "enc_bias", "dec_weight", "tied_bias"),
            cost=Cost(
                time="n_epochs n_train n d F + N n d F",
                exponent=1.0,
                size="N",
                grows="prompts",
                flops=lambda c: float(
                    c.n
                    * c.d
                    * c.F
                    * (10 * c.n_epochs * min(c.n_train, c.N) + 6 * c.N)  # 5 and 3 products
                ),
                bytes=lambda c: float(2 * c.itemsize * c.N * c.n * c.d + 8 * c.N * c.n),
                blas=0.95,
                memory="N n (codes); activations exist in tiles only",
                memory_exponent=1.0,
                note="training does not grow with N: the exponent approaches 1 for many prompts",
            ),
        ),
        Operation(
            "score_codes",
            about="from integer codes to scores of heads (nodes) and of pairs of heads (edges)",
            equations=(
                *NODE,
                "(7) U_gh = # pairs (c_g, c_h) seen together on a positive and on no negative, g != h;",
                "    normalised: / (# pairs on positives + # pairs on negatives)",
                "(8) all n^2 pairs by falling U (equal U: by g n + h), their heads one after the other;",
                "    score_h = how often h stands among the first k;  prediction = softmax",
            ),
            inputs=(
                Array("codes", "N n", dtype="int", about="first half of the prompts positive"),
                TRUTH,
                Array(
                    "median_pred",
                    "n_layers n_heads",
                    dtype="flag",
                    optional=True,
                    about="a prediction to judge by the true F1",
                ),
            ),
            options=(
                *LAYERS,
                Option(
                    "edge_k", list[int], None, "entries kept in (8); None is [n^2 / 2]", minimum=0
                ),
                Option("n_features", int, None, "F; codes must be below it", minimum=1),
            ),
            outputs=(
                Array("unique_pos", "n_layers n_heads", about="(5): codes on positives only"),
                Array("unique_neg", "n_layers n_heads", about="codes on negatives only"),
                Array("unique_pos_norm", "n_layers n_heads"),
                Array("unique_neg_norm", "n_layers n_heads"),
                Array("node_softmax", "n", about="(6)"),
                Array("node_softmax_norm", "n"),
                Array(
                    "node_softmax_across_layer", "n", about="softmax over layers, per head index"
                ),
                Array("node_auc", "", when="circuit_heads"),
                Array("node_auc_norm", "", when="circuit_heads"),
                Array(
                    "node_f1curve_max",
                    "",
                    when="circuit_heads",
                    about="the code's 'F1': harmonic mean of TPR and 1 - FPR",
                ),
                Array("node_f1curve_max_norm", "", when="circuit_heads"),
                Array("node_fpr", "_", when="circuit_heads", about="ROC, from (0, 0)"),
                Array("node_tpr", "_", when="circuit_heads"),
                Array("node_fpr_norm", "_", when="circuit_heads"),
                Array("node_tpr_norm", "_", when="circuit_heads"),
                Array("edge_unique", "n n", about="(7), symmetric, diagonal 0"),
                Array("edge_unique_norm", "n n"),
                Array("edge_pairs_sorted_values", "n*n", about="U in the order of (8)"),
                Array("edge_softmax_k{k}", "n", each="edge_k", about="(8) for every k"),
                Array("edge_auc_k{k}", "", each="edge_k", when="circuit_heads"),
                Array(
                    "f1_precision_recall_tp_fp_tn_fn",
                    "7",
                    when="median_pred",
                    about="of median_pred against the circuit",
                ),
            ),
            refuse=(
                ODD,
                GRID,
                HEADS,
                ONE_KIND,
                (lambda c: c.codes.min() < 0, "codes must not be negative"),
                (
                    lambda c: c.n_features is not None and c.codes.max() >= c.n_features,
                    "codes must be below n_features = {n_features}",
                ),
                (
                    lambda c: c.median_pred is not None and c.circuit_heads is None,
                    "median_pred needs circuit_heads to be judged against",
                ),
            ),
            example=score_example,
            vary={
                "layers": (1, 2),
                "prompts": (2, 30),
                "codes": (1, 5, 200),
                "with_truth": (True, False),
                "with_prediction": (True, False),
                "edge_k": (None, [0, 3, 10**6]),
            },
            bench_sizes={"layers": 1, "prompts": 200, "codes": 200},
            no_gradient="integers in, counts out",
            cost=Cost(
                time="N n^2",
                exponent=2.0,
                grows="heads",
                flops=lambda c: float(c.N * c.n**2 / 2),  # one look-up a prompt and pair
                bytes=lambda c: float(8 * c.N * c.n + 24 * c.n**2),
                memory="n^2 (the scores of the pairs)",
                memory_exponent=2.0,
                note="the authors' code holds n^2 F^2 counts: 6.6 GB for 144 heads and 200 codes",
            ),
        ),
    ),
    exercise=EXERCISE,
    notes=(
        "W_d has shape (d, F) and its rows are normalised, as in the authors' code, whose comment "
        "speaks of dictionary vectors: those are the columns (dec_unit='columns').",
        "AUC is computed from the counts themselves: softmax is monotone and could only underflow.",
        "ROC points are dropped as scikit-learn drops them: where the counts go on by equal steps.",
    ),
)
