"""Retrieval heads: which heads copy the needle out of the haystack, and what their loss costs."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import REQUIRED, Array, Cost, Exhibit, Operation, Option, Paper

from .exercise import EXERCISE


def score_example(
    n: int, rng: np.random.Generator, steps: int = 4, layers: int = 2, heads: int = 3
) -> dict[str, Any]:
    """A prompt of n tokens, a needle of a third of it, an answer that copies most of the needle.

    Every other row has its largest weight on a needle token that is right, the others anywhere.
    Behind the valid keys of a row stands what must not be read.
    """
    prompt = rng.integers(0, 50, n)
    start = n // 3
    end = start + max(1, n // 3)
    place = start + rng.integers(0, end - start, steps)
    generated = np.where(rng.random(steps) < 0.8, prompt[place], rng.integers(0, 50, steps))
    attention = rng.dirichlet(np.ones(n + steps), (steps, layers, heads))
    looks = rng.random((steps, layers, heads)) < 0.5
    attention[np.arange(steps), :, :, place] += looks
    valid = np.arange(n + steps) < n + np.arange(steps)[:, None, None, None]
    attention *= valid
    rest = rng.random(attention.shape)
    return {
        "prompt_ids": prompt,
        "needle_span": np.array([start, end]),
        "generated": generated,
        "attention": np.where(valid, attention / attention.sum(-1, keepdims=True), rest),
    }


def mask_example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    heads: int = 4,
    dim: int = 4,
    groups: int = 1,
    masked: int = 2,
) -> dict[str, Any]:
    """A layer of width heads * dim; `groups` query heads share keys where they divide the heads."""
    kv_heads = heads // groups if heads % groups == 0 else heads
    width = heads * dim
    rows = {"q_proj": width, "k_proj": kv_heads * dim, "v_proj": kv_heads * dim, "o_proj": width}
    return {
        "x": rng.standard_normal((batch, n, width)),
        "block_heads": rng.permutation(heads)[:masked],
        **{name: rng.standard_normal((r, width)) / width**0.5 for name, r in rows.items()},
        "n_heads": heads,
        "n_kv_heads": kv_heads,
    }


def find_example(
    n: int, rng: np.random.Generator, prompts: int = 3, needle: int = 3
) -> dict[str, Any]:
    """Prompts of n tokens; all but the last hold the needle, where they are long enough."""
    ids, rows = rng.integers(0, 60, needle), rng.integers(0, 60, (prompts, n))
    for row in rows[:-1] if n >= needle else ():
        start = rng.integers(0, n - needle + 1)
        row[start : start + needle] = ids
    return {"needle_ids": ids, "prompts": rows}


def insert_example(
    n: int, rng: np.random.Generator, depths: int = 4, needle: int = 3
) -> dict[str, Any]:
    """A context of n tokens, every fifth or so the end of a sentence; a budget that cuts it."""
    return {
        "context_ids": rng.integers(0, 10, n),
        "needle_ids": rng.integers(10, 20, needle),
        "depths": rng.integers(0, 101, depths),
        "context_length": np.array(n + needle),
        "period_ids": np.array([3, 7]),
        "buffer": np.array(n // 3),
    }


def rouge_example(n: int, rng: np.random.Generator, words: int = 6) -> dict[str, Any]:
    """n responses over the reference's words and others, in several inflections."""
    pool = ["eating", "sandwiches", "sat", "sunny", "days", "parks", "the", "relational", "happily"]
    responses = [" ".join(rng.choice(pool, rng.integers(0, words + 1))) for _ in range(n)]
    reference = "Eat a sandwich and sit in the park on a sunny day."
    return {"reference": np.array(reference), "responses": np.array(responses)}


def project_flops(c: Any) -> float:
    """Projections, causal attention, and two output projections."""
    pairs = c.n * (c.n + 1) / 2
    inner = c.n_heads * c.dim
    rows = c.batch * c.n * c.width
    return float(rows * (6 * inner + 4 * c.n_kv_heads * c.dim) + 4 * c.batch * inner * pairs)


PROJECTIONS = (
    Array("q_proj", "n_heads*dim width", weight=True),
    Array("k_proj", "n_kv_heads*dim width", weight=True),
    Array("v_proj", "n_kv_heads*dim width", weight=True),
    Array("o_proj", "width n_heads*dim", weight=True),
)

EXHIBIT = Exhibit(
    name="retrieval_heads",
    title="Retrieval heads",
    family="explanation",
    package=__name__,
    paper=Paper(
        title="Retrieval Head Mechanistically Explains Long-Context Factuality",
        authors=("Wenhao Wu", "Yizhong Wang", "Guangxuan Xiao", "Hao Peng", "Yao Fu"),
        year=2024,
        arxiv="2404.15574",
        code="nightdessert/Retrieval_Head@3ac171a",
    ),
    idea=(
        "Hide a sentence in a long text, ask for it, and watch every head while the model answers: "
        "a head that puts its largest weight on the very needle token that is emitted next has "
        "copied it. A few per cent of the heads do nearly all the copying, in every prompt; they "
        "are the retrieval heads. Flatten their attention and the model still writes well, but "
        "makes the fact up."
    ),
    attention_map=(
        "the rows of attention that a decoding step returns, taken as they are. A masked "
        "head's row is uniform over its keys, not zero."
    ),
    operations=(
        Operation(
            "score_heads",
            headline=True,
            about="how much of the needle each head copied into the answer",
            equations=(
                "(1) j = argmax of the row;  copy event: s <= j < e and prompt_j = g_t",
                "(2) score(l, h) = copy events / (e - s);  as sets: |copied tokens| / |needle tokens|",
            ),
            inputs=(
                Array("prompt_ids", "n", dtype="int"),
                Array("needle_span", "2", dtype="int", about="[s, e), half-open"),
                Array("generated", "T", dtype="int", about="g_t, the answer's tokens"),
                Array(
                    "attention",
                    "T layers heads keys",
                    finite=True,
                    about="the row that produced g_t: its first n + t keys are valid",
                ),
            ),
            options=(Option("top_k", int, 1, "a copy may be among the top k keys", minimum=1),),
            outputs=(
                Array("retrieval_score", "layers heads", about="(2); may exceed 1"),
                Array("per_step", "T layers heads", about="the increments of (2)"),
                Array(
                    "set_score",
                    "layers heads",
                    optional=True,
                    about="(2) over sets, as the paper's text has it; at most 1",
                ),
            ),
            empty=("T",),
            refuse=(
                (
                    lambda c: bool((c.needle_span == -1).all()),
                    "needle_span is (-1, -1): the needle was not found in the prompt",
                ),
                (
                    lambda c: bool(c.needle_span[0] >= c.needle_span[1]),
                    "needle_span must hold at least one token: [s, e) needs s < e",
                ),
                (
                    lambda c: bool(c.needle_span[0] < 0 or c.needle_span[1] > c.n),
                    "needle_span lies outside the prompt of {n} tokens",
                ),
                (
                    lambda c: c.T and c.keys < c.n,
                    "attention: rows of {keys} keys are shorter than the prompt of {n} tokens",
                ),
            ),
            example=score_example,
            vary={
                "steps": (1, 5),
                "layers": (1, 3),
                "heads": (1, 4),
                "top_k": (1, 2, 7),
            },
            bench_sizes={"steps": 16, "layers": 8, "heads": 8},
            no_gradient="counts of where maxima lie",
            cost=Cost(
                time="T layers heads n",
                exponent=1.0,
                grows="prompt tokens",
                flops=lambda c: float(c.T * c.layers * c.heads * c.n),
                bytes=lambda c: float(c.itemsize * c.T * c.layers * c.heads * c.keys),
                memory="T layers heads (the rows are given)",
                memory_exponent=0.0,
                note="a row is read only as far as it takes to see that its maximum lies elsewhere",
            ),
        ),
        Operation(
            "mask_heads",
            about="one causal rotary layer, whole and with the attention of some heads made uniform",
            equations=(
                "(5) A_h = uniform for blocked h (its scores become 0), softmax(q k^T / sqrt(dim)) else",
                "    released code: uniform over all n keys, the causal mask is overwritten too",
                "    causal=True: uniform over keys j <= i",
                "    query head i reads key head i // (H / Hkv); rope turns (x_i, x_{i+dim/2})",
            ),
            inputs=(
                Array("x", "batch n width"),
                Array("block_heads", "m", dtype="int", about="query heads to flatten"),
                *PROJECTIONS,
            ),
            options=(
                Option("n_heads", int, REQUIRED, "H", minimum=1),
                Option("n_kv_heads", int, REQUIRED, "Hkv", minimum=1),
                Option("rope_base", float, 10000.0, "base of the rotary angles", above=0),
                Option(
                    "causal",
                    bool,
                    False,
                    "a flattened head keeps the causal mask; without, it sees the future too",
                ),
            ),
            outputs=(
                Array("out_plain", "batch n width"),
                Array("out_masked", "batch n width"),
                Array("weights_plain", "batch n_heads n n", optional=True),
                Array("weights_masked", "batch n_heads n n", optional=True),
            ),
            empty=("m",),
            refuse=(
                (
                    lambda c: c.n_heads % c.n_kv_heads,
                    "n_kv_heads: {n_kv_heads} do not divide n_heads {n_heads}",
                ),
                (
                    lambda c: c.dim % 2,
                    "q_proj: rotary positions need an even width of a head, but it is {dim}",
                ),
                (
                    lambda c: c.m > c.n_heads,
                    "block_heads: {m} heads to flatten, but the layer has n_heads {n_heads}",
                ),
                (
                    lambda c: (
                        c.m
                        and bool((c.block_heads < 0).any() or (c.block_heads >= c.n_heads).any())
                    ),
                    "block_heads must be in 0..{n_heads}-1",
                ),
            ),
            example=mask_example,
            vary={
                "batch": (1, 2),
                "heads": (1, 2, 4),
                "dim": (2, 6),
                "groups": (1, 2),
                "masked": (0, 1, 4),
                "rope_base": (10000.0, 50.0),
                "causal": (False, True),
            },
            bench_sizes={"batch": 1, "heads": 8, "dim": 64},
            gradient=("x", "q_proj", "k_proj", "v_proj", "o_proj"),
            causal="n",
            cost=Cost(
                time="batch heads (n^2 dim + n dim width)",
                exponent=2.0,
                flops=project_flops,
                bytes=lambda c: float(
                    c.itemsize
                    * c.width
                    * (3 * c.batch * c.n + 2 * c.dim * (c.n_heads + c.n_kv_heads))
                ),
                blas=0.9,
                memory="batch n width (tiled; n^2 only if weights are asked for)",
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "find_needle",
            about="where the needle lies in each prompt, by overlap of token sets",
            equations=(
                "first i with |set(prompt[i:i+m]) & set(needle)| / |set(needle)| > overlap;  (i, i+m)",
                "rule=aligned: of all such i the one with most prompt[i+k] = needle[k]",
            ),
            paths=frozenset({"numpy", "numba"}),
            inputs=(
                Array("needle_ids", "m", dtype="int"),
                Array("prompts", "P n", dtype="int"),
            ),
            options=(
                Option("overlap", float, 0.9, "to be exceeded", minimum=0, maximum=1),
                Option(
                    "rule",
                    str,
                    "first",
                    "first (released: often starts one token early) or aligned",
                    choices=("first", "aligned"),
                ),
            ),
            outputs=(Array("spans", "P 2", dtype="int", about="(-1, -1) where not found"),),
            example=find_example,
            vary={
                "prompts": (1, 4),
                "needle": (1, 5, 12),
                "overlap": (0.9, 0.5, 0.0),
                "rule": ("first", "aligned"),
            },
            bench_sizes={"prompts": 8, "needle": 12},
            batch="P",
            no_gradient="integers in, integers out",
            cost=Cost(
                time="P n log m",
                exponent=1.0,
                grows="prompt tokens",
                bytes=lambda c: 8.0 * c.P * c.n,
                memory_exponent=0.0,
                note="the reference builds a set a window: n m",
            ),
        ),
        Operation(
            "insert_needle",
            about="a context cut to its budget, with the needle at each depth after a sentence's end",
            equations=(
                "budget = context_length - buffer;  cut the context to budget - m if c + m > budget",
                "k = int(c p/100), then back until context[k-1] ends a sentence or k = 0;  p = 100: k = c",
                "merged = context[:k] + needle + context[k:]",
            ),
            paths=frozenset({"numpy", "numba"}),
            inputs=(
                Array("context_ids", "n", dtype="int"),
                Array("needle_ids", "m", dtype="int"),
                Array("depths", "P", dtype="int", about="per cent"),
                Array("context_length", "", dtype="int", about="L in tokens"),
                Array("period_ids", "periods", dtype="int", about="ids that end a sentence"),
                Array(
                    "buffer", "", dtype="int", optional=True, about="kept free of L; 200 without"
                ),
            ),
            outputs=(
                Array("merged", "P _", dtype="int", about="-1 behind the end of a shorter row"),
            ),
            empty=("n", "periods"),
            refuse=(
                (
                    lambda c: bool((c.depths < 0).any() or (c.depths > 100).any()),
                    "depths must be in 0..100 per cent",
                ),
                (
                    lambda c: c.buffer is not None and bool(c.buffer < 0),
                    "buffer must not be negative",
                ),
                (
                    lambda c: int(c.context_length) - room(c.buffer) < c.m,
                    "context_length less buffer leaves no room for the needle of {m} tokens",
                ),
            ),
            example=insert_example,
            vary={"depths": (1, 6), "needle": (1, 4)},
            bench_sizes={"depths": 10, "needle": 12},
            batch="P",
            no_gradient="integers in, integers out",
            cost=Cost(
                time="P n",
                exponent=1.0,
                grows="context tokens",
                bytes=lambda c: 8.0 * (c.P + 1) * c.n,
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "rouge1",
            about="ROUGE-1 of answers against the needle's key phrase; a run counts above 0.5 recall",
            equations=(
                "lower case, split on what is no letter or digit, Porter stem of words above 3 letters",
                "overlap = sum_w min(count in answer, count in reference);  P = overlap / answer words",
                "(3) R = overlap / reference words;  F = 2 P R / (P + R);  success: R > 0.5",
            ),
            paths=frozenset({"numpy"}),
            inputs=(
                Array("reference", "", dtype="text"),
                Array("responses", "n", dtype="text"),
            ),
            options=(Option("use_stemmer", bool, True, "Porter stems, in NLTK's variant"),),
            outputs=(
                Array("rouge1_p_r_f", "n 3", about="precision, recall, F"),
                Array("success", "n", dtype="bool"),
            ),
            example=rouge_example,
            vary={"words": (0, 8), "use_stemmer": (True, False)},
            no_gradient="strings in",
            batch="n",
        ),
    ),
    exercise=EXERCISE,
    notes=(
        "The released code counts events, the paper's text a set: `retrieval_score` follows the code, "
        "`set_score` the text.",
        "The released masking overwrites the causal mask too, which is harmless while decoding: "
        "`causal=True` keeps it.",
        "The released search for the needle may stop one token early: `rule='aligned'` does not.",
    ),
)


def room(buffer: Any) -> int:
    """Tokens kept free of the context length: 200 where nothing is said."""
    return 200 if buffer is None else int(buffer)
