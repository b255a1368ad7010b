"""Routing attention: queries and keys are clustered, and meet only inside their cluster."""

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
    clusters: int | None = None,
    window: int | None = None,
    keys: int | None = None,
    slots: int = 0,
    masked: bool = False,
    shared_qk: bool = False,
    causal: bool = False,
) -> dict[str, Any]:
    """sqrt(n) clusters of sqrt(n) members; `keys` other than n is cross-attention (not when causal)."""
    root = max(1, round(n**0.5))
    cross = keys is not None and not (shared_qk or causal)
    keys = keys if cross and keys else n
    q = rng.standard_normal((batch, heads, n, dim))
    k, v = rng.standard_normal((2, batch, heads, keys, dim))
    means = rng.standard_normal((heads, clusters or root, dim))
    drawn: dict[str, Any] = {
        "q": q,
        "v": v,
        "means": means / np.linalg.norm(means, axis=-1, keepdims=True),
        "window": window or root,
        "shared_qk": shared_qk,
        "causal": causal,
    }
    if not shared_qk:
        drawn["k"] = k
    if slots:
        shape = (2, heads, clusters or root, slots, dim)
        drawn["mem_key"], drawn["mem_value"] = rng.standard_normal(shape)
    if masked:
        drawn["query_mask"] = rng.random((batch, n)) < 0.7
        if cross:
            drawn["key_mask"] = rng.random((batch, keys)) < 0.7
    return drawn


def kmeans_example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    heads: int = 2,
    dim: int = 4,
    clusters: int = 3,
) -> dict[str, Any]:
    """Rows and starting means, independent normal; the means are unit rows."""
    means = rng.standard_normal((heads, clusters, dim))
    return {
        "x": rng.standard_normal((batch, heads, n, dim)),
        "means0": means / np.linalg.norm(means, axis=-1, keepdims=True),
    }


def crosses(c: Any) -> bool:
    """Whether queries and keys are different sequences."""
    return c.context_window is not None or c.keys != c.n


def members(c: SimpleNamespace) -> tuple[float, float]:
    """Queries and keys of one cluster."""
    wide = c.window if c.context_window is None else c.context_window
    return min(c.window, c.n), min(wide, c.keys)


def flops(c: SimpleNamespace) -> float:
    """Similarity of every row with every mean, and clusters of w x w pairs."""
    w, w_k = members(c)
    rows = c.n if c.shared_qk else c.n + c.keys
    inner = 2.0 * rows * c.clusters * c.dim + 4.0 * c.clusters * w * w_k * c.dim
    return c.batch * c.heads * inner


def traffic(c: SimpleNamespace) -> float:
    """Rows once for the routing and the output, gathered rows once a cluster."""
    w, w_k = members(c)
    rows = c.clusters * (w + 2 * w_k) + 2 * (c.n + c.keys)
    return c.itemsize * c.batch * c.heads * c.dim * rows


EXHIBIT = Exhibit(
    name="routing",
    title="Routing Transformer",
    family="sparse",
    package=__name__,
    paper=Paper(
        title="Efficient Content-Based Sparse Attention with Routing Transformers",
        authors=("Aurko Roy", "Mohammad Saffar", "Ashish Vaswani", "David Grangier"),
        year=2020,
        venue="TACL 2021",
        arxiv="2003.05997",
        code="google-research/google-research@0c1bbe5 (routing_transformer)",
    ),
    idea=(
        "Most of a query's weight falls on the few keys that point the same way, so queries and keys are "
        "put on the unit sphere and clustered by one shared set of centroids, learned online by spherical "
        "k-means. A query attends only to the keys of its own cluster, which are the likely ones. Every "
        "centroid takes exactly its w closest members, so the work is sqrt(n) regular blocks of sqrt(n) x "
        "sqrt(n) pairs: n^1.5 instead of n^2."
    ),
    attention_map=(
        "a softmax inside each cluster, averaged over the clusters that hold the query; 0 for "
        "keys outside, and an empty row for a query that no cluster took. "
        "attnlab.explain.maps reads it off by feeding unit vectors as values."
    ),
    operations=(
        Operation(
            "attend",
            headline=True,
            about="attention inside clusters; with training=True also one k-means step of the means",
            equations=(
                "xhat = x / max(||x||, 1e-12)                                                  (1)",
                "sim[x,c] = xhat . mu_c;  bucket(x) = argmax_c sim[x,c]                        (2)",
                "Q_c, K_c = the w queries and w_k keys closest to mu_c                         (3)",
                "s_ij = q_i . k_j / sqrt(dim)  for i in Q_c, j in K_c   (raw q, k)             (4)",
                "out^c_i = sum_j softmax_j(s_ij) v_j over memory slots of c, then K_c          (5)",
                "out_i = sum_{c: i in Q_c} out^c_i / (#{c: i in Q_c} + 1e-5)                   (6)",
                "aux_loss = commitment * mean (xhat - mu_bucket)^2                             (7)",
                "mu'_c = normalise(sum_{bucket(x)=c} xhat);  mu_c <- decay mu_c + (1-decay) mu'_c   (8)",
            ),
            inputs=(
                Array("q", "batch heads n dim", finite=True, about="queries"),
                Array(
                    "k",
                    "batch heads keys dim",
                    finite=True,
                    when="not shared_qk",
                    about="keys; with shared_qk they are q/||q||",
                ),
                Array("v", "batch heads keys dim", finite=True, about="values"),
                Array(
                    "query_mask", "batch n", dtype="bool", optional=True, about="True: real token"
                ),
                Array(
                    "key_mask",
                    "batch keys",
                    dtype="bool",
                    optional=True,
                    about="True: real token; in self-attention the query_mask unless given",
                ),
                Array(
                    "means", "heads clusters dim", finite=True, weight=True, about="unit centroids"
                ),
                Array(
                    "mem_key",
                    "heads clusters slots dim",
                    finite=True,
                    optional=True,
                    weight=True,
                    about="memory slots that every member of a cluster sees",
                ),
                Array(
                    "mem_value",
                    "heads clusters slots dim",
                    finite=True,
                    optional=True,
                    weight=True,
                ),
            ),
            options=(
                Option("window", int, about="w, queries (and keys) of a cluster", minimum=1),
                Option(
                    "context_window",
                    int,
                    None,
                    "w_k, keys of a cluster in cross-attention",
                    minimum=1,
                ),
                Option("causal", bool, False, "query i sees keys at positions j <= i"),
                Option(
                    "shared_qk", bool, False, "keys are normalised queries; self as last resort"
                ),
                Option("commitment", float, 1e-4, "weight of the commitment loss", minimum=0),
                Option("training", bool, False, "also return the updated means"),
                Option("ema_decay", float, 0.999, "decay of the means", minimum=0, maximum=1),
            ),
            outputs=(
                Array("out", "batch heads n dim", about="0 for a query in no cluster"),
                Array("aux_loss", ""),
                Array(
                    "similarity",
                    "batch heads _ clusters",
                    optional=True,
                    about="queries, then keys (queries alone with shared_qk)",
                ),
                Array("q_index", "batch heads clusters _", dtype="int", about="Q_c, ascending"),
                Array(
                    "k_index",
                    "batch heads clusters _",
                    dtype="int",
                    when="not shared_qk",
                    about="K_c, ascending",
                ),
                Array("batch_means", "heads clusters dim", when="training", about="mu' of (8)"),
                Array("means_after", "heads clusters dim", when="training"),
            ),
            refuse=(
                (
                    lambda c: c.causal and crosses(c),
                    "causal needs self-attention: as many keys as queries and no context_window",
                ),
                (
                    lambda c: c.shared_qk and crosses(c),
                    "shared_qk needs self-attention: v must have as many rows as q ({n}), no "
                    "context_window",
                ),
                (
                    lambda c: (c.mem_key is None) != (c.mem_value is None),
                    "mem_key and mem_value come together",
                ),
            ),
            empty=("slots",),
            example=example,
            vary={
                "batch": (1, 2),
                "heads": (1, 3),
                "dim": (2, 4, 7),  # in one dimension all similarities are ties
                "clusters": (None, 1, 5),
                "window": (None, 1, 3, 50),
                "context_window": (None,),
                "keys": (None, 1, 13),
                "slots": (0, 2),
                "masked": (False, True),
                "shared_qk": (False, True),
                "causal": (False, True),
                "training": (False, True),
                "commitment": (1e-4, 0.25),
            },
            bench_sizes={"batch": 1, "heads": 8, "dim": 64},
            gradient=("q", "k", "v", "mem_key", "mem_value"),
            causal="n keys",
            exempt={
                "causality": "which tokens are among the w closest of a cluster depends on later ones; "
                "no value flows back, but the selection does"
            },
            cost=Cost(
                time="batch heads n^1.5 dim (clusters = window = sqrt(n))",
                exponent=1.5,
                flops=flops,
                bytes=traffic,
                blas=0.8,
                memory="batch heads n (clusters + dim)",
                memory_exponent=1.5,
                note="with a fixed window the routing is n^2 dim / w, with fixed clusters attention is "
                "n^2 dim / clusters: only joint sqrt(n) scaling gives 1.5",
            ),
        ),
        Operation(
            "kmeans",
            about="spherical k-means from given means: Lloyd steps without decay",
            equations=(
                "bucket(x) = argmax_c x . mu_c",
                "mu_c <- normalise(sum_{bucket(x)=c} x)   over batch and rows; unchanged where empty",
            ),
            inputs=(
                Array("x", "batch heads n dim", finite=True, about="rows, not normalised"),
                Array("means0", "heads clusters dim", finite=True),
            ),
            options=(Option("iters", int, 10, "Lloyd steps", minimum=0),),
            outputs=(Array("means", "heads clusters dim"),),
            example=kmeans_example,
            vary={
                "batch": (1, 2),
                "heads": (1, 3),
                "dim": (2, 7),
                "clusters": (1, 5),
                "iters": (0, 4),
            },
            bench_sizes={"batch": 1, "heads": 8, "dim": 64, "clusters": 64},
            exempt={"batch": "the means are sums over the batch: every element moves them"},
            no_gradient="assignments are piecewise constant, and the means are not trained by gradient",
            cost=Cost(
                time="iters batch heads n clusters dim",
                exponent=1.0,
                flops=lambda c: 2.0 * c.iters * c.batch * c.heads * c.n * c.clusters * c.dim,
                bytes=lambda c: c.itemsize * c.iters * c.batch * c.heads * c.n * c.dim,
                blas=0.9,
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "rotary",
            about="the positions of queries, keys and values before routing",
            equations=(
                "angle(p,i) = p * 10000^(-2i/dim);  (x_2i, x_2i+1) <- (x_2i cos - x_2i+1 sin, "
                "x_2i+1 cos + x_2i sin)",
            ),
            inputs=(Array("x", "batch heads n dim"),),
            outputs=(Array("rotated", "batch heads n dim"),),
            refuse=((lambda c: c.dim % 2, "x: rotary needs an even width, but dim is {dim}"),),
            example=lambda n, rng, batch=2, heads=2, dim=4: {
                "x": rng.standard_normal((batch, heads, n, dim))
            },
            vary={"batch": (1, 2), "heads": (1, 3), "dim": (2, 6)},
            bench_sizes={"batch": 1, "heads": 8, "dim": 64},
            paths=frozenset({"numpy", "torch"}),
            gradient=("x",),
            cost=Cost(time="batch heads n dim", exponent=1.0, memory_exponent=1.0),
        ),
    ),
    exercise=EXERCISE,
    notes=(
        "The paper's own code normalises rows by layer norm instead of L2 and keeps separate moving sums "
        "and counts of members; here, as in the public PyTorch port, the means are averages of normalised "
        "batch means.",
        "The port rotates the values too before routing (`rotary`), which the paper does not.",
    ),
)
