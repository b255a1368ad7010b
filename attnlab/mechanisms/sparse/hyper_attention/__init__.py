"""HyperAttention: sorted blocks catch the large entries, sampled columns stand for the rest."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from attnlab.contract import Array, Cost, Exhibit, Operation, Option, Paper

from .exercise import EXERCISE
from .plan import draw_projection, draw_samples, of_call, problems, sample_shapes


def example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    heads: int = 2,
    dim: int = 4,
    cross: bool = False,
    given: bool = False,
    causal: bool = False,
    block_size: int = 4,
    sample_size: int = 3,
    min_seq_len: int = 4,
    lsh_num_projs: int = 3,
) -> dict[str, Any]:
    """Normal rows; cross: twice as many key blocks as query blocks (an even block_size, not causal);
    given: projections and samples are passed as arrays instead of drawn from the seed."""
    cross = cross and not causal and block_size % 2 == 0
    keys = 2 * block_size * -(-n // block_size) if cross else n
    k, v = rng.standard_normal((2, batch, heads, keys, dim))
    options = {
        "causal": causal,
        "block_size": block_size,
        "sample_size": sample_size,
        "min_seq_len": min_seq_len,
    }
    drawn = {"q": rng.standard_normal((batch, heads, n, dim)), "k": k, "v": v, **options}
    if given:
        seed = int(rng.integers(2**31))
        if lsh_num_projs > 0:
            drawn["proj_dir"] = draw_projection(seed, dim, lsh_num_projs)
        samples = draw_samples(seed, batch, heads, problems(n, keys, **options))  # type: ignore[arg-type]
        if samples:
            drawn["sampled"] = samples
    return drawn | {"lsh_num_projs": lsh_num_projs}


def wrong_samples(c: Any) -> bool:
    """Whether the sampled arrays are not those that the drawing order asks for."""
    if c.sampled is None:
        return False
    shapes = sample_shapes(c.batch, c.heads, of_call(c))
    return [tuple(int(s) for s in a.shape) for a in c.sampled] != shapes


def outside(c: Any) -> bool:
    """Whether a sampled column is no key of its problem."""
    if c.sampled is None:
        return False
    limits = [p.keys for p in of_call(c) if p.sampled]
    arrays = [a.copy_to_host() if hasattr(a, "copy_to_host") else a for a in c.sampled]
    return any(bool((a < 0).any() or (a >= m).any()) for a, m in zip(arrays, limits))


def visited(c: SimpleNamespace) -> float:
    """Query-key pairs of one head that are computed."""
    found = problems(
        c.n, c.keys, causal=c.causal, min_seq_len=c.min_seq_len,
        block_size=c.block_size, sample_size=c.sample_size,
    )  # fmt: skip
    pairs = float(sum((p.queries << p.level) * (p.block + p.sampled * p.samples) for p in found))
    if not found:
        return c.n * (c.n + 1) / 2 if c.causal else float(c.n * c.keys)
    if c.causal:  # exact leaves below the deepest problem
        leaf, depth = found[0].queries, found[0].level + 1
        pairs += (leaf * (leaf + 1) / 2) * 2**depth
    return pairs


EXHIBIT = Exhibit(
    name="hyper_attention",
    title="HyperAttention",
    family="sparse",
    package=__name__,
    paper=Paper(
        title="HyperAttention: Long-context Attention in Near-Linear Time",
        authors=(
            "Insu Han",
            "Rajesh Jayaram",
            "Amin Karbasi",
            "Vahab Mirrokni",
            "David Woodruff",
            "Amir Zandieh",
        ),
        year=2023,
        venue="ICLR 2024",
        arxiv="2310.05869",
        code="insuhan/hyper-attn@68b91e9",
    ),
    idea=(
        "A few huge entries and very many small ones make up a row of attention, and they are treated "
        "apart. Queries and keys are sorted by a locality-sensitive hash, so that large entries gather in "
        "diagonal blocks, which are computed exactly; the rest of each row is estimated from a few "
        "uniformly sampled columns. A causal mask is handled by halving: the lower left quarter has no "
        "mask, and the two triangles are smaller problems of the same kind."
    ),
    attention_map=(
        "what sorting and sampling left of the softmax: exact ratios inside a block, sampled "
        "keys counted keys/S times each, all others 0. Rows sum to 1. It depends on the "
        "hash's draw; attnlab.explain.maps reads it off by feeding unit vectors as values."
    ),
    operations=(
        Operation(
            "attend",
            headline=True,
            about="approximate attention in near-linear time, with or without a causal mask",
            equations=(
                "bit_t = [x . P_t > 0];  id = sum_t bit_t 2^t;  bucket = id XOR (id >> 1)      (1)",
                "exact(Q,K,V): out = softmax(scale Q K^T) V,  lse = logsumexp(scale Q K^T)     (2)",
                "merge((a1,l1),(a2,l2)): c = 1/(1+exp(l2-l1));  a = c a1 + (1-c) a2;  "
                "l = l1 - log c                                                               (3)",
                "residual: exact attention to the S sampled columns, lse += log(keys/S)        (4)",
                "causal: halves recursively; second half = merge(own half, first half's keys)",
            ),
            inputs=(
                Array("q", "batch heads n dim", about="queries"),
                Array("k", "batch heads keys dim", about="keys"),
                Array("v", "batch heads keys dim", about="values"),
                Array(
                    "sampled{i}",
                    "batch _ _",
                    dtype="int",
                    optional=True,
                    about="(batch, heads*2^level, sample_size) columns in sorted key order, deepest "
                    "level first; drawn from the seed unless given",
                ),
                Array(
                    "proj_dir",
                    "dim lsh_num_projs",
                    optional=True,
                    weight=True,
                    about="hash directions; drawn from the seed unless given",
                ),
            ),
            options=(
                Option("block_size", int, 256, "b, keys of a block", minimum=1),
                Option("sample_size", int, 256, "S, sampled columns; 0 samples nothing", minimum=0),
                Option("min_seq_len", int, 4096, "below this length attention is exact", minimum=1),
                Option("lsh_num_projs", int, 7, "r, bits of the hash; none if r <= 0", maximum=30),
                Option("causal", bool, False, "query i sees keys j <= i"),
                Option("exclude_own_block", bool, True, "no sampled column of the own block"),
                Option("scale", float, None, "score scale; None is 1/sqrt(dim)"),
                Option("mask_padding", bool, False, "hide the zero keys that fill the last block"),
                Option("seed", int, 0, "of the projections and samples not given", minimum=0),
            ),
            outputs=(
                Array("out", "batch heads n dim"),
                Array("lse", "batch heads n 1", about="log of the estimated row sum"),
                Array("q_hash", "batch heads n", dtype="int", about="buckets of the queries"),
                Array("k_hash", "batch heads keys", dtype="int", about="buckets of the keys"),
            ),
            refuse=(
                (
                    lambda c: c.causal and c.n != c.keys,
                    "causal needs as many keys as queries; got k with {keys} and q with {n}",
                ),
                (
                    lambda c: not all(p.divides for p in of_call(c)),
                    "q: {n} queries in blocks of {block_size} do not divide by the number of blocks of "
                    "the {keys} keys",
                ),
                (
                    wrong_samples,
                    "sampled: one array (batch, heads*2^level, sample_size) is needed for every level "
                    "that samples, deepest first",
                ),
                (outside, "sampled: a column is negative or beyond the keys of its level"),
            ),
            example=example,
            vary={
                "batch": (1, 2),
                "heads": (1, 3),
                "dim": (1, 4, 7),
                "cross": (False, True),
                "given": (False, True),
                "causal": (False, True),
                "block_size": (1, 3, 4, 8),
                "sample_size": (0, 1, 5),
                "min_seq_len": (1, 4, 50),
                "lsh_num_projs": (-1, 2, 7),
                "exclude_own_block": (False, True),
                "mask_padding": (False, True),
                "scale": (None, 0.4),
            },
            bench_sizes={
                "batch": 1,
                "heads": 8,
                "dim": 64,
                "block_size": 128,
                "sample_size": 128,
                "min_seq_len": 1024,
                "lsh_num_projs": 7,
            },
            gradient=("q", "k", "v"),
            causal="n keys",
            exempt={
                "causality": "the key block that a query meets depends on the sorted order of all "
                "queries in its half, later ones included; no value flows back"
            },
            cost=Cost(
                time="batch heads n (b + S + log n) dim, times log n if causal",
                exponent=1.1,
                flops=lambda c: (
                    c.batch
                    * c.heads
                    * (
                        4.0 * c.dim * visited(c)
                        + 2.0 * max(c.lsh_num_projs, 0) * c.dim * (c.n + c.keys)
                    )
                ),
                bytes=lambda c: 4.0 * c.itemsize * c.batch * c.heads * c.n * c.dim,
                blas=0.9,
                memory="batch heads n dim",
                memory_exponent=1.0,
                holds_from=8192,
                note="without a mask the exponent is 1; below min_seq_len it is that of attention, 2, and with a "
                "mask 1.3 just above it",
            ),
        ),
    ),
    exercise=EXERCISE,
    notes=(
        "In the authors' float32 and float64 path the mask of own-block samples is ignored: "
        "exclude_own_block=False does the same.",
        "Buckets are sorted by the Gray code of their bits, as the authors do; neighbours in that order "
        "may differ in several bits, since it is the inverse code that has the neighbour property.",
        "The zero rows that fill the last key block count as keys with score 0, as in the authors' code; "
        "mask_padding=True hides them.",
    ),
)
