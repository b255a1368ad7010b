"""Calls at the edges of what CUDA paths take, for the simulator: ties, empty arrays, rows without weight.

EDGES["exhibit.operation"](kwargs, rng) maps a label to what a call changes in the example's keywords;
a value of None leaves a keyword out. Each is held against the reference in the kind of floats that it has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Changes = dict[str, dict[str, Any]]
EDGES: dict[str, Callable[[dict[str, Any], np.random.Generator], Changes]] = {}
NONE = np.zeros(0, np.int64)


def edges(name: str) -> Any:
    def keep(fn: Any) -> Any:
        EDGES[name] = fn
        return fn

    return keep


@edges("act.calibrated_attend")
def _act(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    one = np.ones((1, 1, 5, 1), np.float32)
    far = (
        one * np.array([0, 90, 0, 0, 0], np.float32)[:, None]
    )  # exp(-90) is small, and its inverse too large
    wide = rng.standard_normal((3, 1, 1, 5, 800))  # more than shared memory holds
    return {
        "next to nothing off the sinks": {"q": one, "k": far, "v": one},
        "rows on sinks alone": {"q": k["q"] * 400, "beta": 0.0, "threshold": 0.01},
        "equal means": {"q": k["q"] * 0, "threshold": 1e-6},
        "many columns": dict(zip("qkv", wide)),
    }


@edges("seal.count_ngrams")
def _seal(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    return {
        "no n-grams": {"ngram_tokens": NONE, "ngram_offsets": np.zeros(1, np.int64)},
        "empty n-grams": {"ngram_tokens": NONE, "ngram_offsets": np.zeros(3, np.int64)},
        "no symbols": {"ngram_tokens": k["ngram_tokens"] + 10**6},
        "no rank structure": {"rank_words": None, "rank_before": None, "rank_zeros": None},
    }


@edges("scan_and_snap.loss")
def _scan_and_snap(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    return {
        "large logits": {"K1": k["K1"] * 900},
        "large scores": {"K2": k["K2"] * 900},
        "one token": {"x": k["x"] * 0, "residual": True, "normalize": False},
    }


@edges("landmark.attend")
def _landmark(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    never = np.zeros_like(k["is_landmark"])
    return {
        "no landmarks": {"is_landmark": never},
        "only landmarks": {"is_landmark": ~never},
        "landmarks anywhere": {"is_landmark": rng.random(never.shape) < 0.5, "scale": -2.0},
        "large scores": {"q": k["q"] * 300},
    }


@edges("landmark.cached_attend")
def _cached(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    none = [flags & False for flags in k["is_landmark"]]
    return {"no full block": {"block": 51, "cache_blocks": 5, "is_landmark": none}}


@edges("landmark.fill_cache")
def _fill(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    return {"no full block": {"block": 51}, "one block kept": {"block": 2, "cache_blocks": 1}}


@edges("landmark.step")
def _step(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    blocks, block = k["block_k"].shape[1:3]
    none = {f"block_{x}": k[f"block_{x}"][:, :0] for x in "kv"}
    return {
        "no block": none | {"seen": np.array(int(k["seen"]) - blocks * block)},
        "more asked for than there are": {"cache_topk": 50},
    }


@edges("routing.attend")
def _routing(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    batch, heads, n, dim = k["q"].shape
    slots = np.zeros((heads, k["means"].shape[1], 0, dim))
    return {
        "every token masked": {"query_mask": np.zeros((batch, n), bool)},
        "equal rows": {"q": np.repeat(k["q"][:, :, :1], n, axis=2)},
        "rows of zeros": {"q": k["q"] * 0, "training": True},
        "equal means": {"means": np.repeat(k["means"][:, :1], k["means"].shape[1], axis=1)},
        "means next to nothing": {"means": k["means"] * 1e-319},
        "large means": {"means": k["means"] * 1e308},
        "windows of all": {"window": 100, "training": True, "ema_decay": 0.0},
        "no slots": {"mem_key": slots, "mem_value": slots},
    }


@edges("routing.kmeans")
def _kmeans(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    return {"equal rows": {"x": k["x"] * 0}, "ties": {"x": np.round(k["x"])}}


@edges("disagreement.aggregate_attention")
def _aggregate(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    return {
        "no attention": {"attention": k["attention"] * 0},
        "only itself": {"attention": k["attention"] * 0 + np.eye(k["attention"].shape[-1])},
    }


@edges("disagreement.agreement")
def _agreement(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    return {
        "nothing asked for": {"ks": NONE, "alphas": np.zeros(0)},
        "constant": {"a": k["a"] * 0, "b": k["b"] * 0},
        "ties": {"a": np.round(k["a"]), "b": np.round(k["b"]), "ks": np.array([1, 2, 10**6])},
        "zeros of both signs": {"a": np.where(rng.random(len(k["a"])) < 0.5, 0.0, -0.0)},
    }


@edges("disagreement.self_attend")
def _self_attend(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    mask = np.zeros(k["x"].shape[:2], bool)
    mask[:, -1] = True
    return {"one real token": {"mask": mask, "projection": "standard"}}


@edges("verbalization.search")
def _search(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    a = k["attributions"]
    return {
        "equal": {"attributions": a * 0 + 1, "behaviour": "corrected"},
        "documents of a token": {"offsets": np.arange(len(a) + 1), "value": 1.0},
        "all negative": {"attributions": -abs(a), "sgn": None, "metric": "variance"},
        "a bank without patterns": {"filter_length": 9, "offsets": np.array([0, len(a)])},
    }


@edges("salient_relevance.salient_map")
def _salient(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    return {
        "flat": {"features": k["features"][:4, :4] * 0},
        "no candidates": {"min_scale": 3.0},
        "one pixel a patch": {"patch": 1, "K": 10**6, "self_match": True},
        "no focus": {"foci_rule": "absolute", "attended_fraction": 1.0},
    }


@edges("circuit_sae.find_circuit")
def _find(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    return {
        "untrained": {"n_epochs": 0},
        "zeros": {"streams": k["streams"] * 0, "enc_weight": k["enc_weight"] * 0},
    }


@edges("circuit_sae.score_codes")
def _codes(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    return {
        "one code": {"codes": k["codes"] * 0, "edge_k": []},
        "large codes": {"codes": k["codes"] * 10**9, "edge_k": [0, 1, 10**6]},
    }


@edges("retrieval_heads.score_heads")
def _score(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    rows = k["attention"]
    return {
        "no answer": {"generated": NONE, "attention": rows[:0]},
        "ties": {"attention": np.round(rows * 4), "top_k": 3},
        "no weight": {"attention": rows * 0},
        "the prompt is the needle": {"needle_span": np.array([0, len(k["prompt_ids"])])},
    }


@edges("retrieval_heads.mask_heads")
def _mask(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    return {"no head": {"block_heads": NONE}, "a head twice": {"block_heads": np.zeros(2, int)}}


@edges("instruction_shift.density")
def _density(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    levels = np.clip(np.round(10 * k["importance"]), 0, 10)
    return {
        "nothing": {"importance": k["importance"] * 0},
        "levels": {"importance": levels, "levels": levels, "thresholds": [0, 9]},
        "no thresholds": {"thresholds": [], "levels": None},
    }


@edges("instruction_shift.word_patterns")
def _patterns(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    return {
        "no pairs": {"q_proj": k["q_proj"] * 0, "static_embed": k["static_embed"] * 0},
        "short lists": {"top_k": 2, "ffn_top_k": 3, "ffn_rank": 1},
    }


@edges("pss_attention.mine")
def _mine(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    words = k["dist"] >= 0
    even = k["alphas"] * 0 + words / words.sum(-1, keepdims=True)
    return {
        "no weight": {"alphas": even * 0, "skip_empty": False},
        "ties": {"alphas": even, "max_entropy_bits": 100.0},
        "the edge of far": {"dist": k["dist"] * 0 + 40},
    }


@edges("pss_attention.classify")
def _classify(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    return {
        "no word": {"mask": np.zeros(k["text"].shape, bool)},
        "large": {"M": k["M"] * 500, "W": k["W"] * 900, "hops": 2},
    }


@edges("pss_attention.gradient_weights")
def _gradients(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    return {"no word": {"mask": k["mask"] * 0}, "flat": {"gradients": k["gradients"] * 0}}


@edges("attention_at.adversarial_step")
def _adversarial(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    mask = rng.random(k["mask"].shape) < 0.5
    mask[0] = False
    return {
        "a sentence without words": {"mask": mask, "variant": "iat", "xi": 5.0},
        "nothing to learn": {"output_weight": k["output_weight"] * 0, "variant": "iat_released"},
        "equal words": {"x": k["x"] * 0, "variant": "iat"},
    }


@edges("attention_at.attend")
def _attend(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    return {
        "a sentence without words": {"mask": k["mask"] & (np.arange(len(k["mask"])) > 0)[:, None]}
    }


@edges("lightning.attend")
def _lightning(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    return {
        "no rows": {name: k[name][:, :, :0] for name in "qkv"},
        "nothing in the batch": {name: k[name][:0] for name in "qkv"},
    }


@edges("lightning.gla")
def _lightning_layer(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    return {
        "no rows": {"x": k["x"][:, :0]},
        "a token after no rows": {"x": k["x"][:, :0], "x_next": k["x"][:, :1]},
    }


@edges("extractors.extract")
def _extractors(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    return {"nothing in the batch": {"x": k["x"][:0]}}


@edges("pointer_network.attend")
def _pointer_network(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    return {"large scores": {"v": k["v"] * 900}}


@edges("attention.attend")
def _attention(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    seen = np.tri(5, 7, dtype=bool)[None, None]
    keys, values = rng.standard_normal((2, 2, 1, 7, 4))
    return {
        "more keys than queries": {"k": keys, "v": values, "causal": True},
        "rows that see nothing": {
            "k": keys,
            "v": values,
            "mask": seen & (np.arange(5) > 1)[:, None],
        },
        "large scores": {"q": k["q"] * 900},
    }


@edges("based.sliding_window_attention")
def _based(k: dict[str, Any], rng: np.random.Generator) -> Changes:
    return {"each row alone": {"left": 0}, "a window beyond the sequence": {"left": 10**6}}
