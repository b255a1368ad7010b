"""Instruction shift: which prompt tokens steer the whole answer, and which words a head pairs."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from attnlab.contract import (
    REQUIRED,
    Array,
    Cost,
    Exhibit,
    Group,
    Operation,
    Option,
    Paper,
)

from .exercise import EXERCISE


def attribute_example(
    n: int,
    rng: np.random.Generator,
    response: int | None = None,
    dim: int = 4,
    vocabulary: int = 12,
) -> dict[str, Any]:
    """A prompt of n tokens and a response (as many, if not said), weights of a one-layer model."""
    T = n if response is None else response
    weights = {k: rng.standard_normal((dim, dim)) / dim**0.5 for k in ("wq", "wk", "wv", "wo")}
    return {
        "input_ids": rng.integers(0, vocabulary, n),
        "output_ids": rng.integers(0, vocabulary, T),
        "instruction_mask": rng.integers(0, 2, n).astype(bool),
        "emb": rng.standard_normal((vocabulary, dim)),
        "u": rng.standard_normal((vocabulary, dim)),
        **weights,
    }


def density_example(
    n: int, rng: np.random.Generator, response: int | None = None, with_levels: bool = True
) -> dict[str, Any]:
    """Normal importances of n tokens for a response (as long, if not said), and levels beside them."""
    T = n if response is None else response
    drawn: dict[str, Any] = {"importance": rng.standard_normal((n, T))}
    if with_levels:
        drawn["levels"] = rng.integers(0, 11, (n, T)).astype(np.float64)
    return drawn


def patterns_example(
    n: int,
    rng: np.random.Generator,
    heads: int = 2,
    kv_heads: int | None = None,
    dim: int = 3,
    width: int = 6,
    static: int = 12,
    units: int = 11,
) -> dict[str, Any]:
    """A vocabulary of n words, one layer's projections, static vectors in loose topics."""
    kv_heads = heads if kv_heads is None or heads % kv_heads else kv_heads
    topics = rng.standard_normal((max(1, n // 3), static))
    return {
        "word_embed_in": rng.standard_normal((n, width)),
        "word_embed_out": rng.standard_normal((n, width)),
        "static_embed": topics[rng.integers(0, len(topics), n)]
        + 0.3 * rng.standard_normal((n, static)),
        "q_proj": rng.standard_normal((heads * dim, width)),
        "k_proj": rng.standard_normal((kv_heads * dim, width)),
        "input_norm": 1 + 0.1 * rng.standard_normal(width),
        "down_proj": rng.standard_normal((width, units)),
        "n_q_heads": heads,
        "n_kv_heads": kv_heads,
    }


def spans_example(
    n: int, rng: np.random.Generator, spans: int = 3, width: int = 4, alphabet: int = 3
) -> dict[str, Any]:
    """A text over a small alphabet and patterns: pieces of it, and one drawn at random."""
    text = rng.integers(0, alphabet, n)
    patterns = np.full((spans, width), -1)
    for i in range(spans):
        length = int(rng.integers(1, min(width, n) + 1))
        start = int(rng.integers(0, n - length + 1))
        random = rng.integers(0, alphabet, length)
        patterns[i, :length] = random if i == 0 else text[start : start + length]
    return {"text": text, "patterns": patterns}


def pair_cosines(arrays: Mapping[str, Any], pairs: np.ndarray) -> np.ndarray:
    """Cosines (..., P) of word pairs (..., P, 2); -inf at padding."""
    g = arrays["static_embed"]
    length = np.linalg.norm(g, axis=1, keepdims=True)
    g = g / np.where(length > 0, length, 1)
    return np.where(pairs[..., 0] < 0, -np.inf, (g[pairs[..., 0]] * g[pairs[..., 1]]).sum(-1))


def outside(ids: Any, tokens: int) -> bool:
    return bool(ids.min() < 0) or bool(ids.max() >= tokens)


def absent(c: Any) -> str:
    """Which pattern is not in the text; "" if all are."""
    text = np.asarray(c.text)
    for i, row in enumerate(np.asarray(c.patterns)):
        pattern = row[row >= 0]
        starts = range(len(text) - len(pattern) + 1)
        if not any((text[s : s + len(pattern)] == pattern).all() for s in starts):
            return f"pattern {i} {pattern.tolist()}"
    return ""


def holes(patterns: Any) -> bool:
    """Whether a token follows padding in some row."""
    return bool(((patterns[:, 1:] >= 0) & (patterns[:, :-1] < 0)).any())


def attribute_flops(c: SimpleNamespace) -> float:
    seen = c.T * (c.n + (c.T + 1) / 2)  # pairs of a response row and what it may look at
    rows = c.n + c.T
    return float(6 * seen * c.d + 4 * c.T * c.V * c.d + 6 * rows * c.d**2 + 6 * c.T * c.d**2)


IDS = (lambda c: outside(c.input_ids, c.V), "input_ids must be in 0..{V}-1")
ANSWERS = (lambda c: outside(c.output_ids, c.V), "output_ids must be in 0..{V}-1")
QUANTISE = (
    "(2) l_ij = ceil(L max(I_ij, 0) / (max_i max(I_ij, 0) + eps)), column by column; 0 where l <= b",
    "(3) a_i = ||l_i||_1 / (||l_i||_p + eps)",
    "(4) a_i / (max a + 1e-9)",
)
L = Option("L", int, 10, "levels of (2)", minimum=1)
P = Option("p", float, 4.0, "of the norm in (3)", minimum=1)
EPS = "of (2), (3), {}: 1e-7 where the authors generate, 1e-9 where they analyse"

EXHIBIT = Exhibit(
    name="instruction_shift",
    title="The behaviour shift of instruction tuning",
    family="explanation",
    package=__name__,
    paper=Paper(
        title="From Language Modeling to Instruction Following: Understanding the Behavior Shift in "
        "LLMs after Instruction Tuning",
        authors=(
            "Xuansheng Wu",
            "Wenlin Yao",
            "Jianshu Chen",
            "Xiaoman Pan",
            "Xiaoyang Wang",
            "Ninghao Liu",
            "Dong Yu",
        ),
        year=2023,
        venue="NAACL 2024",
        arxiv="2310.00492",
        code="JacksonWuxs/Interpret_Instruction_Tuning_LLMs@52508a0",
    ),
    idea=(
        "Ask of a model and of its instruction-tuned twin how much each prompt token moves the "
        "probability of each response token, and whether it does so steadily or once: a density. "
        "Instruction words become dense with tuning, and denser in answers that follow them. Beside "
        "it, the words that the dimensions of a head pair up, and the principal directions of a "
        "feed-forward layer read as words."
    ),
    attention_map=(
        "importance[i, j] stands in its place: gradient times input of prompt token i for the "
        "probability of response token j. Columns have any sign and sum."
    ),
    operations=(
        Operation(
            "attribute",
            headline=True,
            about="a one-layer causal model's importances of prompt tokens for response tokens, and densities",
            equations=(
                "    x = emb[bos, input, output];  A = softmax_causal(x wq^T (x wk^T)^T / sqrt d)",
                "    h = x + A x wv^T wo^T;  p(y_j) = softmax(h_{n+j-1} u^T)[y_j], bos at 0, j from 1",
                "(1) I_ij = e_i . d p(y_j | x, y_<j) / d e_i",
                *QUANTISE,
                "(5) score = sum over instruction tokens of (4) / log2(2 + their number)",
            ),
            inputs=(
                Array("input_ids", "n", dtype="int", about="the prompt, without bos"),
                Array("output_ids", "T", dtype="int", about="the response y"),
                Array("instruction_mask", "n", dtype="flag", about="which prompt tokens instruct"),
                Array("emb", "V d", weight=True, finite=True),
                Array("u", "V d", weight=True, finite=True, about="unembedding"),
                Array("wq", "d d", weight=True, finite=True),
                Array("wk", "d d", weight=True, finite=True),
                Array("wv", "d d", weight=True, finite=True),
                Array("wo", "d d", weight=True, finite=True),
            ),
            options=(
                L,
                Option("b", int, 7, "levels up to b become 0", minimum=0),
                P,
                Option("bos_id", int, 1, "the token in front", minimum=0),
                Option("eps", float, 1e-7, EPS.format("of density_raw"), above=0),
                Option("eps_analysis", float, 1e-9, EPS.format("of density_normalised"), above=0),
            ),
            outputs=(
                Array("importance", "n T", about="(1), of the probability, not of its logarithm"),
                Array("confidence", "T", about="p(y_j)"),
                Array("levels_0_10", "n T", optional=True, about="(2) before the cut at b"),
                Array("density_raw", "n", about="(3)"),
                Array("density_normalised", "n", about="(2)-(4) with eps_analysis"),
                Array("instruction_score", "", about="(5)"),
            ),
            refuse=(
                IDS,
                ANSWERS,
                (lambda c: c.bos_id >= c.V, "bos_id: {bos_id} is no token of 0..{V}-1"),
                (lambda c: c.b >= c.L, "b: {b} must be below L = {L}, or nothing is left"),
            ),
            example=attribute_example,
            vary={
                "response": (1, 2, 17),
                "dim": (1, 5),
                "vocabulary": (2, 30),
                "b": (0, 7),
                "p": (1.0, 2.5, 4.0),
                "eps": (1e-7, 1e-3),
                "bos_id": (0, 1),
            },
            bench_sizes={"dim": 64, "vocabulary": 512},
            gradient=("emb", "u", "wq", "wk", "wv", "wo"),
            causal="T",
            cost=Cost(
                time="T (n + T) d + T V d in closed form; the T backward passes of a deep model cost "
                "T times a forward pass",
                exponent=2.0,
                grows="tokens of prompt and response",
                flops=attribute_flops,
                bytes=lambda c: float(
                    c.itemsize * (3 * c.n * c.T + 2 * c.V * c.d + 4 * c.d**2) + 8 * (c.n + c.T)
                ),
                blas=0.9,
                memory="n T (the importances)",
                memory_exponent=2.0,
            ),
        ),
        Operation(
            "density",
            about="from importances to how steadily each prompt token matters for the response",
            equations=QUANTISE,
            inputs=(
                Array("importance", "n T", finite=True),
                Array(
                    "levels", "n T", optional=True, finite=True, about="quantised already, only cut"
                ),
            ),
            options=(
                L,
                P,
                Option("thresholds", list[int], [7], "the b of (2), one density each", minimum=0),
                Option("prequantised_b", int, 7, "the b for levels", minimum=0),
                Option("eps", float, 1e-9, EPS.format("(4)"), above=0),
                Option(
                    "detect_levels",
                    bool,
                    True,
                    "take importance for levels where its maximum is L and its minimum 0, as the "
                    "authors' analysis does",
                ),
            ),
            outputs=(
                Array("density_b{b}", "n", each="thresholds", about="(4) for every threshold"),
                Array("density_prequantised_b{b}", "n", each="prequantised_b", when="levels"),
            ),
            refuse=(
                (
                    lambda c: any(b >= c.L for b in c.thresholds),
                    "thresholds: b must be below L = {L}, or nothing is left",
                ),
                (
                    lambda c: c.levels is not None and c.prequantised_b >= c.L,
                    "prequantised_b: {prequantised_b} must be below L = {L}",
                ),
            ),
            example=density_example,
            vary={
                "response": (1, 3, 50),
                "with_levels": (True, False),
                "L": (10, 12, 100),
                "p": (1.0, 3.0, 4.5),
                "thresholds": ([0], [7, 2], []),
                "prequantised_b": (0, 7),
            },
            bench_sizes={"response": 200, "with_levels": False},
            no_gradient="levels are ceilings: piecewise constant",
            cost=Cost(
                time="n T",
                exponent=1.0,
                grows="prompt tokens",
                flops=lambda c: float(6 * c.n * c.T),
                bytes=lambda c: float(2 * c.itemsize * c.n * c.T),
                memory="n (levels are counted, not stored)",
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "word_patterns",
            about="the word pairs of each head's dimensions; the words of a feed-forward layer's directions",
            equations=(
                "    Hq = E (gamma * Wq^T), Hk = E (gamma * Wk^T), of each head;  gamma scales the inputs",
                "(6) N_r = sum_w Hq[w,r]^2 + Hk[w,r]^2;  dimensions by falling N_r",
                "(7) Tq, Tk: the top_k words of largest |Hq[:,r]|, |Hk[:,r]|.  (k, q) in Tk x Tq is kept if",
                "    cos(g_k, g_q) > theta(k), theta(q), 0,  Hk[k,r] Hq[q,r] > 0,  k != q;",
                "    theta(w) = mean + 1.96 std over the first 3000 words v of cos(g_w, g_v)",
                "(c) W = down_proj^T with centred columns = U S V^T;  words by |v_r . Eout[w] / ||Eout[w]|||;",
                "    share_r = S_r^2 / sum S^2",
            ),
            inputs=(
                Array(
                    "word_embed_in", "V d", finite=True, about="E: a word's mean input embedding"
                ),
                Array("word_embed_out", "V d", finite=True, about="Eout"),
                Array("static_embed", "V g", finite=True, about="static word vectors (GloVe)"),
                Array("q_proj", "n_q_heads*h d", weight=True, finite=True),
                Array("k_proj", "n_kv_heads*h d", weight=True, finite=True),
                Array("input_norm", "d", weight=True, finite=True, about="gamma, of the RMSNorm"),
                Array("down_proj", "d m", weight=True, finite=True),
            ),
            options=(
                Option("n_q_heads", int, REQUIRED, "query heads", minimum=1),
                Option("n_kv_heads", int, REQUIRED, "key heads, shared by groups", minimum=1),
                Option("top_k", int, 100, "words of each list, at most V", minimum=1),
                Option("ffn_top_k", int, 50, "words of each direction, at most V", minimum=1),
                Option("ffn_rank", int, 300, "directions, at most min(m, d)", minimum=1),
            ),
            outputs=(
                Group(
                    "head{i}_",
                    (
                        Array("dim_order", "h", dtype="int", about="by falling activation"),
                        Array("activation", "h", about="(6), in that order"),
                        Array(
                            "pairs_k_q",
                            "h _ 2",
                            dtype="int",
                            about="(key word, query word) by falling cosine, then by key word and "
                            "query word; -1 padded",
                            ranks=pair_cosines,
                        ),
                    ),
                    weight=False,
                ),
                Array("ffn_top_words", "_ _", dtype="int", about="(c)"),
                Array("ffn_variance_share", "_"),
            ),
            refuse=(
                (
                    lambda c: c.n_q_heads % c.n_kv_heads,
                    "n_kv_heads: {n_kv_heads} do not divide n_q_heads {n_q_heads}",
                ),
            ),
            example=patterns_example,
            vary={
                "heads": (1, 4),
                "kv_heads": (None, 1, 2),
                "dim": (1, 4),
                "static": (1, 12),
                "units": (8, 20),
                "top_k": (1, 5, 100),
                "ffn_top_k": (1, 50),
                "ffn_rank": (2, 300),
            },
            bench_sizes={"heads": 8, "dim": 64, "width": 256, "static": 50, "units": 512},
            gradient=("word_embed_in", "q_proj", "k_proj", "input_norm", "down_proj"),
            cost=Cost(
                time="V d H h + H h top_k^2 g + m d^2",
                exponent=1.0,
                size="V",
                grows="words",
                flops=lambda c: float(
                    2 * c.V * c.d * (c.n_q_heads + c.n_kv_heads) * c.h
                    + 2 * c.V * c.g * c.g
                    + 2 * c.n_q_heads * c.h * min(c.top_k, c.V) ** 2 * c.g
                    + 4 * c.m * c.d**2
                ),
                bytes=lambda c: float(
                    c.itemsize
                    * (c.V * (2 * c.d + c.g) + (c.n_q_heads + c.n_kv_heads) * c.h * (c.d + c.V))
                ),
                blas=0.8,
                memory="V H h (what each word gives each dimension)",
                memory_exponent=1.0,
                note="the SVD, m d^2, does not grow with the vocabulary",
            ),
        ),
        Operation(
            "locate_spans",
            about="where token patterns first occur in a text (Knuth, Morris and Pratt)",
            equations=(
                "position_i = min { s : text[s : s + len_i] = pattern_i }, -1 if there is none",
            ),
            paths=frozenset({"numpy", "numba"}),
            inputs=(
                Array("text", "n", dtype="int"),
                Array("patterns", "m w", dtype="int", about="padded with -1 at the end"),
            ),
            options=(Option("must_find", bool, False, "refuse patterns that are not in the text"),),
            outputs=(Array("position", "m", dtype="int", about="-1 is absent"),),
            refuse=(
                (
                    lambda c: holes(np.asarray(c.patterns)),
                    "patterns: -1 may only follow the tokens",
                ),
                (
                    lambda c: absent(c) if c.must_find else "",
                    "patterns: {why} is not in the text",
                ),
            ),
            example=spans_example,
            vary={"spans": (1, 4), "width": (1, 6), "alphabet": (1, 2, 9)},
            bench_sizes={"spans": 8, "width": 16},
            no_gradient="integers in, integers out",
            cost=Cost(
                time="m (n + w)",
                exponent=1.0,
                grows="tokens",
                bytes=lambda c: float(8 * c.m * (c.n + c.w)),
                memory_exponent=1.0,
            ),
        ),
    ),
    exercise=EXERCISE,
    notes=(
        "eps differs between the authors' generator (1e-7) and their analysis (1e-9): both are options.",
        "A rounded quotient in (2) may exceed L by its last bit; levels stop at L.",
        "A word without static vector (zeros) has cosine 0 with all words.",
    ),
)
