"""Landmark attention: one token a block stands at its door, and attention itself retrieves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from attnlab.contract import Array, Cost, Exhibit, Operation, Option, Paper

from .exercise import EXERCISE


def example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    heads: int = 2,
    dim: int = 4,
    block: int = 4,
    irregular: bool = False,
) -> dict[str, Any]:
    """A landmark at the end of every block; irregular: landmarks anywhere, drawn for each row."""
    q, k, v = rng.standard_normal((3, batch, heads, n, dim))
    regular = np.broadcast_to(np.arange(n) % block == block - 1, (batch, n))
    flags = rng.random((batch, n)) < 0.3 if irregular else regular
    return {"q": q, "k": k, "v": v, "is_landmark": np.array(flags)}


def cached_example(
    n: int,
    rng: np.random.Generator,
    chunk: int = 5,
    heads: int = 2,
    dim: int = 4,
    block: int = 4,
    cache_topk: int = 2,
    spare: int = 2,
) -> dict[str, Any]:
    """n tokens in chunks; the cache holds cache_topk + spare blocks."""
    width = heads * dim
    w_qkv = rng.standard_normal((3 * width, width)) * width**-0.5
    w_out = rng.standard_normal((width, width)) * width**-0.5
    tokens = rng.standard_normal((1, n, width))
    flags = np.arange(n)[None] % block == block - 1
    cuts = np.arange(chunk, n, chunk)
    return {
        "x": np.split(tokens, cuts, axis=1),
        "is_landmark": np.split(flags, cuts, axis=1),
        "w_qkv": w_qkv,
        "w_out": w_out,
        "n_head": heads,
        "block": block,
        "cache_topk": cache_topk,
        "cache_blocks": cache_topk + spare,
    }


def history_example(
    n: int, rng: np.random.Generator, heads: int = 2, dim: int = 4, block: int = 4
) -> dict[str, Any]:
    """Keys and values of n tokens, landmarks among them."""
    k, v = rng.standard_normal((2, heads, n, dim))
    return {"k": k, "v": v, "block": block}


def token_example(
    n: int,
    rng: np.random.Generator,
    heads: int = 2,
    dim: int = 4,
    block: int = 4,  # of the cache that fill_cache makes
    cache_topk: int = 2,
) -> dict[str, Any]:
    """The token that follows n tokens."""
    q, k, v = rng.standard_normal((3, heads, dim))
    return {"q": q, "k": k, "v": v, "cache_topk": cache_topk}


def number(scalar: Any) -> int:
    """A scalar array as an integer, wherever the array lives."""
    return int(scalar.copy_to_host() if hasattr(scalar, "copy_to_host") else scalar)


def misplaced(c: Any) -> bool:
    """Whether a landmark stands anywhere but at a block's end, counted over all chunks."""
    position = 0
    for flags in c.is_landmark:
        flags = flags.copy_to_host() if hasattr(flags, "copy_to_host") else flags
        row = np.asarray(flags.cpu() if hasattr(flags, "cpu") else flags)[0]
        at = np.flatnonzero(row) + position
        if (at % c.block != c.block - 1).any():
            return True
        position += len(row)
    return False


def cached_blocks(c: Any) -> int:
    """How many blocks a cache holds after `seen` tokens."""
    full = number(c.seen) // c.block
    return full if c.cache_blocks is None else min(full, c.cache_blocks)


def pairs(c: SimpleNamespace) -> float:
    return c.batch * c.heads * c.n * (c.n + 1) / 2


def tokens(c: SimpleNamespace) -> float:
    """Tokens of all chunks."""
    return sum(size for name, size in vars(c).items() if name[0] == "t" and name[1:].isdigit())


def scored(c: SimpleNamespace) -> float:
    """Dot products and weighted values of one query in a cached chunk, per width."""
    chunk = c.t0
    return c.cache_blocks + 2 * (c.cache_topk * c.block + c.block / 2 + chunk / 2)


def read_tokens(c: SimpleNamespace) -> float:
    """Keys that one cached step scores: the landmarks, the retrieved blocks, the tail."""
    return c.blocks + (c.cache_topk + 1) * c.block


SELECTIONS = ("per_token_and_head", "max_over_heads", "max_over_tokens")
TOPK = Option("cache_topk", int, about="K, blocks retrieved for each query", minimum=1)
SELECTION = Option(
    "selection", str, "per_token_and_head", "who shares the retrieved blocks", choices=SELECTIONS
)
ROTARY = Option("rotary", bool, True, "rotate queries and keys (pairs 2i, 2i+1)")
RETRIEVED = "the block cache: keys before rotary, values; the last token of a block is its landmark"

EXHIBIT = Exhibit(
    name="landmark",
    title="Landmark attention",
    family="sparse",
    package=__name__,
    paper=Paper(
        title="Landmark Attention: Random-Access Infinite Context Length for Transformers",
        authors=("Amirkeivan Mohtashami", "Martin Jaggi"),
        year=2023,
        venue="NeurIPS 2023",
        arxiv="2305.16300",
        code="epfml/landmark-attention@d963e50",
    ),
    idea=(
        "The text is cut into blocks, each closed by one extra token, the landmark, and a key in a past "
        "block can only be reached through the landmark of its block: its weight is the landmark's share "
        "times the key's share inside the block. Landmarks and the tokens of the query's own block "
        "compete in one softmax, so training teaches a landmark to say that its block holds something. "
        "At inference only the landmarks are scored, the best blocks are fetched from a cache however "
        "far back they lie, and retrieval is nothing but the attention itself."
    ),
    attention_map=(
        "weights[i, j], the softmax inside a block times the softmax of the block's landmark: "
        "rows sum to 1, landmarks themselves carry none."
    ),
    operations=(
        Operation(
            "attend",
            headline=True,
            about="training form: causal attention in which past blocks open through their landmarks",
            equations=(
                "sec_j = number of landmarks before j;  L = sec_i                            (1)",
                "O = {j <= i : no landmark, sec_j = L}   own section                         (2)",
                "M = {landmarks before i};  G(l) = {tokens with sec_j = sec_l}               (3)",
                "p = softmax of s_ij = scale * q_i . k_j over O and M together               (4)",
                "w_j = p_j in O;  w_j = p_l * softmax_G(l)(s)_j in G(l);  w_l = 0            (5)",
                "out_i = sum_j w_j v_j                                                       (6)",
            ),
            inputs=(
                Array("q", "batch heads n dim", about="queries"),
                Array("k", "batch heads n dim", about="keys"),
                Array("v", "batch heads n dim", about="values"),
                Array("is_landmark", "batch n", dtype="bool", about="True at landmarks"),
            ),
            options=(Option("scale", float, None, "score scale; None is 1/sqrt(dim)"),),
            outputs=(
                Array("out", "batch heads n dim", about="0 where a query has no key"),
                Array("weights", "batch heads n n", optional=True),
            ),
            example=example,
            vary={
                "batch": (1, 2),
                "heads": (1, 3),
                "dim": (1, 5, 8),
                "block": (2, 3, 7),
                "irregular": (False, True),
                "scale": (None, 0.4, 3.0),
            },
            bench_sizes={"batch": 1, "heads": 8, "dim": 64, "block": 51},
            gradient=("q", "k", "v"),
            causal="n",
            cost=Cost(
                time="batch heads n^2 dim",
                exponent=2.0,
                flops=lambda c: 4.0 * pairs(c) * c.dim,
                bytes=lambda c: c.itemsize * c.batch * c.heads * 4 * c.n * c.dim,
                blas=0.9,
                memory="batch heads n dim (tiled; n^2 only if weights are asked for)",
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "cached_attend",
            about="inference form: a sequence read chunk by chunk through a cache of blocks",
            equations=(
                "start = min(full blocks ever seen, K+1) * b + tail        position of the chunk",
                "slot(r) = max(r - (n-K) + 1, 0)        of cached block r of n, oldest first",
                "chosen = K best of softmax_r(q . rotate(landmark_r, slot(r)*b + b-1) / sqrt(dim))",
                "key positions of the j-th chosen block: (b if slot > 0 else 0) + j*b + (0..b-1)",
                "y = concat_heads(landmark attention over [chosen | tail | chunk]) w_out^T",
            ),
            inputs=(
                Array("x{i}", "1 t{i} width", about="hidden states of chunk i, landmarks inserted"),
                Array("is_landmark{i}", "1 t{i}", dtype="bool", about="True at block ends only"),
                Array("w_qkv", "3*width width", weight=True, about="rows q, then k, then v"),
                Array("w_out", "width width", weight=True),
            ),
            options=(
                Option("n_head", int, about="heads; divides width", minimum=1),
                Option("block", int, 51, "b, block length with its landmark", minimum=2),
                TOPK,
                Option("cache_blocks", int, about="R, blocks kept; the oldest go", minimum=1),
                SELECTION,
                ROTARY,
            ),
            outputs=(
                Array("y{i}", "1 t{i} width"),
                Array("weights{i}", "1 n_head t{i} _", optional=True, about="retrieved|tail|chunk"),
            ),
            refuse=(
                (
                    lambda c: c.width % c.n_head,
                    "option n_head: {n_head} heads do not divide the width {width} of x",
                ),
                (
                    lambda c: c.rotary and (c.width // c.n_head) % 2,
                    "rotary needs an even head width, but {width} / {n_head} is odd",
                ),
                (
                    lambda c: c.cache_blocks < c.cache_topk,
                    "cache_blocks ({cache_blocks}) must be at least cache_topk ({cache_topk})",
                ),
                (
                    lambda c: len(c.x) != len(c.is_landmark),
                    "x and is_landmark must have the same number of chunks",
                ),
                (misplaced, "is_landmark: a landmark must be the last token of a block of {block}"),
            ),
            example=cached_example,
            vary={
                "chunk": (1, 7, 40),
                "heads": (1, 3),
                "dim": (2, 6),
                "block": (2, 3, 5),
                "cache_topk": (1, 2, 4),
                "spare": (0, 1, 20),
                "selection": SELECTIONS,
                "rotary": (False, True),
            },
            bench_sizes={"heads": 8, "dim": 64, "block": 51, "cache_topk": 4, "chunk": 256},
            gradient=("w_qkv", "w_out"),
            cost=Cost(
                time="n (R + K b + chunk) width + n width^2",
                exponent=1.0,
                flops=lambda c: tokens(c) * c.width * (8.0 * c.width + 2.0 * scored(c)),
                bytes=lambda c: (
                    c.itemsize * c.width * (4 * c.width + tokens(c) * (6.0 + scored(c)))
                ),
                blas=lambda c: 8.0 * c.width / (8.0 * c.width + 2.0 * scored(c)),
                memory="n width + heads chunk (R + K b + chunk)",
                memory_exponent=1.0,
                note="linear at a fixed capacity R and chunk; with all blocks kept R grows as n/b",
            ),
        ),
        Operation(
            "fill_cache",
            about="keys and values of a prompt cut into the block cache and its tail",
            equations=(
                "full = floor(n / b);  the newest R full blocks stay, the last n - full*b tokens are "
                "the tail",
            ),
            inputs=(
                Array("k", "heads n dim", about="keys before rotary"),
                Array("v", "heads n dim", about="values"),
            ),
            options=(
                Option("block", int, 51, "b, block length with its landmark", minimum=2),
                Option("cache_blocks", int, None, "R, blocks kept; None keeps all", minimum=1),
            ),
            outputs=(
                Array("block_k", "heads _ block dim"),
                Array("block_v", "heads _ block dim"),
                Array("tail_k", "heads block dim", about="the unfinished block, zeros after it"),
                Array("tail_v", "heads block dim"),
                Array("seen", "", dtype="int", about="n, tokens so far"),
            ),
            example=history_example,
            vary={"heads": (1, 3), "dim": (2, 6), "block": (2, 5), "cache_blocks": (None, 1, 3)},
            bench_sizes={"heads": 8, "dim": 64, "block": 51},
            paths=frozenset({"numpy", "cuda", "torch"}),  # copies: nothing for Numba to speed up
            no_gradient="nothing is computed: keys and values are copied into place",
            cost=Cost(time="heads n dim", exponent=1.0, memory_exponent=1.0),
        ),
        Operation(
            "step",
            about="one token decoded from a block cache; the token that fills its block is a landmark",
            equations=(
                "out = landmark attention of q over [K chosen blocks | tail | own key]",
                "tail <- tail with k, v;  seen <- seen + 1",
            ),
            inputs=(
                Array("q", "heads dim", about="query before rotary"),
                Array("k", "heads dim", about="key before rotary"),
                Array("v", "heads dim"),
                Array("block_k", "heads blocks block dim", about=RETRIEVED),
                Array("block_v", "heads blocks block dim"),
            ),
            state=(
                Array("tail_k", "heads block dim", about="tokens of the unfinished block"),
                Array("tail_v", "heads block dim"),
                Array("seen", "", dtype="int", about="tokens so far; seen % block are in the tail"),
            ),
            options=(
                TOPK,
                Option("cache_blocks", int, None, "R, blocks kept; None keeps all", minimum=1),
                SELECTION,
                ROTARY,
            ),
            outputs=(
                Array("out", "heads dim"),
                Array("weights", "heads _", optional=True, about="retrieved | tail | the token"),
            ),
            refuse=(
                (lambda c: c.block < 2, "block_k: blocks must be of at least 2 tokens"),
                (
                    lambda c: c.rotary and c.dim % 2,
                    "rotary needs an even head width, but dim is {dim}",
                ),
                (
                    lambda c: c.cache_blocks is not None and c.cache_blocks < c.cache_topk,
                    "cache_blocks ({cache_blocks}) must be at least cache_topk ({cache_topk})",
                ),
                (lambda c: number(c.seen) < 0, "seen must not be negative"),
                (
                    lambda c: c.blocks != cached_blocks(c),
                    "block_k holds {blocks} blocks, which does not fit seen and cache_blocks; a tail "
                    "that became full must go through append_block",
                ),
            ),
            prepare="fill_cache",
            empty=("blocks",),
            example=token_example,
            vary={
                "heads": (1, 3),
                "dim": (2, 6),
                "block": (2, 5),
                "cache_topk": (1, 2, 4),
                "cache_blocks": (None, 4),
                "selection": SELECTIONS,
                "rotary": (False, True),
            },
            bench_sizes={"heads": 8, "dim": 64, "block": 51, "cache_topk": 4},
            gradient=("q", "k", "v"),
            cost=Cost(
                time="heads (n/b + K b) dim",
                exponent=1.0,
                flops=lambda c: 2.0 * c.heads * c.dim * (2 * read_tokens(c) - c.blocks),
                bytes=lambda c: c.itemsize * c.heads * c.dim * (2 * read_tokens(c) - c.blocks),
                blas=0.0,
                memory="heads (n/b + K b)",
                note="a constant K b plus a slope of 1/b: the exponent shows only when n >> K b^2",
            ),
        ),
        Operation(
            "append_block",
            about="a tail that became full moves into the block cache; the oldest block leaves",
            equations=("blocks <- newest R of [blocks | tail];  the tail is empty again",),
            inputs=(
                Array("block_k", "heads blocks block dim", about=RETRIEVED),
                Array("block_v", "heads blocks block dim"),
                Array("full_k", "heads block dim", about="a tail of `block` tokens"),
                Array("full_v", "heads block dim"),
            ),
            options=(
                Option("cache_blocks", int, None, "R, blocks kept; None keeps all", minimum=1),
            ),
            outputs=(Array("block_k", "heads _ block dim"), Array("block_v", "heads _ block dim")),
            empty=("blocks",),
            example=lambda n, rng, heads=2, dim=4, block=4: (
                dict(zip(("block_k", "block_v"), rng.standard_normal((2, heads, n, block, dim))))
                | dict(zip(("full_k", "full_v"), rng.standard_normal((2, heads, block, dim))))
            ),
            vary={"heads": (1, 3), "cache_blocks": (None, 1, 3)},
            paths=frozenset({"numpy", "torch"}),
            no_gradient="nothing is computed: keys and values are copied into place",
            cost=Cost(time="heads blocks block dim", exponent=1.0, grows="blocks", size="blocks"),
        ),
    ),
    exercise=EXERCISE,
    notes=(
        "The released code defines the sections by at most max_groups_for_softmax groups (16 by default), "
        "which collide silently beyond that; here their number is free.",
        "Group dropout on landmark probabilities and position jumps at landmarks are not offered.",
    ),
)
