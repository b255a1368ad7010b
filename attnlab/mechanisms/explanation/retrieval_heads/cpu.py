"""Retrieval heads on the CPU: a row is read only until it is clear that its maximum lies elsewhere.

The best place that a copy could come from is looked up in the needle first; then the larger weights
of the row are counted, and counting stops at top_k. Most heads look elsewhere, so most rows end
after one chunk, and rows of tokens that are not in the needle are not read at all.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from attnlab.kernels.cpu import scratch
from attnlab.kernels.cpu.flash import flash_attention
from attnlab.kernels.cpu.product import linear
from attnlab.kernels.cpu.runtime import block, contiguous, fetch_add, run_workers, worker
from attnlab.kernels.cpu.scratch import packed
from attnlab.layers.heads import merge_heads, split_heads
from attnlab.layers.rotary import rotate_halves, tables

from . import EXHIBIT, room

CHUNK = 256  # keys between two looks at the count


@EXHIBIT.path
def score_heads(
    prompt_ids: Int[np.ndarray, "n"],
    needle_span: Int[np.ndarray, "2"],
    generated: Int[np.ndarray, "T"],
    attention: Float[np.ndarray, "T layers heads keys"],
    *,
    top_k: int = 1,
    want: frozenset[str] = frozenset(),
) -> dict[str, np.ndarray | None]:
    """See the reference."""
    T, layers, heads, keys = attention.shape
    s, e = (int(place) for place in needle_span)
    event = np.zeros((T, layers, heads), bool)
    run_workers(
        score_rows,
        *(prompt_ids, s, e, generated, attention.reshape(T, layers * heads, keys)),
        *(top_k, event.reshape(T, layers * heads), np.zeros(1, np.int64)),
        workers=None if attention.size > 2**20 else 1,
    )
    per_step = event.astype(attention.dtype) / attention.dtype.type(e - s)
    made: dict[str, np.ndarray | None] = {
        "retrieval_score": per_step.sum(axis=0),
        "per_step": per_step,
        "set_score": None,
    }
    if "set_score" in want:
        copied = np.zeros((layers, heads), np.int64)
        for g in np.unique(generated):
            copied += event[generated == g].any(axis=0)
        needle = len(np.unique(prompt_ids[s:e]))
        made["set_score"] = (copied / needle).astype(attention.dtype)
    return made


@block
def count_larger(row, first, last, value, ties, limit):
    """How many of row[first:last] exceed value (with ties: or equal it); stops at the limit."""
    found = 0
    for i0 in range(first, last, CHUNK):
        part = packed(row[i0 : min(i0 + CHUNK, last)])
        if ties:
            for i in range(part.size):
                found += part[i] >= value
        else:
            for i in range(part.size):
                found += part[i] > value
        if found >= limit:
            break
    return found


@worker
def score_rows(prompt, s, e, generated, attention, top_k, event, counter):
    """event (T, heads) <- whether a copy of g_t lies among the top_k keys of a row; (1)."""
    n, (T, heads, keys) = prompt.size, attention.shape
    while True:
        item = fetch_add(counter, 1)
        if item >= T * heads:
            break
        t, h = item // heads, item % heads
        row, valid = attention[t, h], min(n + t, keys)
        best = -1
        for j in range(s, e):
            if prompt[j] == generated[t] and (best < 0 or row[j] > row[best]):
                best = j
        if best < 0:
            continue
        larger = count_larger(row, 0, best, row[best], True, top_k)
        if larger < top_k:
            larger += count_larger(row, best + 1, valid, row[best], False, top_k - larger)
        event[t, h] = larger < top_k


@EXHIBIT.path
def mask_heads(
    x: Float[np.ndarray, "batch n width"],
    block_heads: Int[np.ndarray, "m"],
    q_proj: Float[np.ndarray, "heads*dim width"],
    k_proj: Float[np.ndarray, "kv_heads*dim width"],
    v_proj: Float[np.ndarray, "kv_heads*dim width"],
    o_proj: Float[np.ndarray, "width heads*dim"],
    *,
    n_heads: int,
    n_kv_heads: int,
    rope_base: float = 10000.0,
    causal: bool = False,
    want: frozenset[str] = frozenset(),
) -> dict[str, np.ndarray | None]:
    """See the reference. A uniform head is a mean of the values: it needs no scores."""
    n, groups = x.shape[1], n_heads // n_kv_heads
    q = split_heads(linear(x, q_proj), n_heads)
    k, v = (split_heads(linear(x, W), n_kv_heads) for W in (k_proj, v_proj))
    turn = tables(np.arange(n), q.shape[-1], rope_base)
    q, k, v = rotate_halves(q, *turn), rotate_halves(k, *turn), contiguous(v)
    O, lse = flash_attention(q, k, v, causal=True)  # (batch, heads, n, dim)
    made: dict[str, np.ndarray | None] = {"out_plain": linear(contiguous(merge_heads(O)), o_proj)}

    values = v[:, block_heads // groups]  # (batch, m, n, dim)
    if causal:
        even = values.cumsum(axis=2, dtype=np.float64) / np.arange(1, n + 1)[:, None]
    else:
        even = values.mean(axis=2, keepdims=True, dtype=np.float64)
    O[:, block_heads] = even
    made["out_masked"] = linear(contiguous(merge_heads(O)), o_proj)

    if want & {"weights_plain", "weights_masked"}:
        S = q @ np.repeat(k, groups, axis=1).swapaxes(2, 3) * x.dtype.type(q.shape[-1] ** -0.5)
        A = np.exp(np.where(np.tri(n, dtype=bool), S - lse[..., None], -np.inf))
        masked = A.copy()
        masked[:, block_heads] = np.tri(n) / np.arange(1, n + 1)[:, None] if causal else 1 / n
        made |= {"weights_plain": A, "weights_masked": masked}
    return made


@EXHIBIT.path
def find_needle(
    needle_ids: Int[np.ndarray, "m"],
    prompts: Int[np.ndarray, "P n"],
    *,
    overlap: float = 0.9,
    rule: str = "first",
) -> dict[str, np.ndarray]:
    """See the reference. Windows slide: each token enters and leaves a count once."""
    distinct = np.unique(needle_ids)
    kinds = len(distinct)
    # fast maths may round a quotient otherwise than the comparison needs: whole numbers do not
    enough = np.count_nonzero(np.arange(kinds + 1) / kinds <= overlap)
    spans = np.full((len(prompts), 2), -1)
    room = scratch.empty((len(prompts), kinds + prompts.shape[1]), np.int64)
    run_workers(
        slide_windows,
        *(needle_ids, distinct, prompts, enough, rule == "aligned"),
        *(room, spans, np.zeros(1, np.int64)),
        workers=None if prompts.size > 2**16 else 1,
    )
    return {"spans": spans}


@worker
def slide_windows(needle, distinct, prompts, enough, aligned, room, spans, counter):
    """spans (P, 2) <- the first, or best aligned, window with `enough` of the needle's tokens."""
    m, n, kinds = needle.size, prompts.shape[1], distinct.size
    while True:
        p = fetch_add(counter, 1)
        if p >= prompts.shape[0]:
            break
        prompt, counts, kind = prompts[p], room[p, :kinds], room[p, kinds:]
        counts[:] = 0
        for i in range(n):
            at = np.searchsorted(distinct, prompt[i])
            kind[i] = at if at < kinds and distinct[at] == prompt[i] else -1
        present, end, best = 0, 0, -1
        for i in range(n):
            while end < min(i + m, n):
                if kind[end] >= 0:
                    present += counts[kind[end]] == 0
                    counts[kind[end]] += 1
                end += 1
            if present >= enough:
                agree = 0
                for j in range(i, end):
                    agree += prompt[j] == needle[j - i]
                if agree > best:
                    best = agree
                    spans[p, 0], spans[p, 1] = i, i + m
                if not aligned:
                    break
            if kind[i] >= 0:
                counts[kind[i]] -= 1
                present -= counts[kind[i]] == 0


@EXHIBIT.path
def insert_needle(
    context_ids: Int[np.ndarray, "n"],
    needle_ids: Int[np.ndarray, "m"],
    depths: Int[np.ndarray, "P"],
    context_length: Int[np.ndarray, ""],
    period_ids: Int[np.ndarray, "periods"],
    buffer: Int[np.ndarray, ""] | None = None,
) -> dict[str, np.ndarray]:
    """See the reference."""
    context = context_ids[: int(context_length) - room(buffer) - len(needle_ids)]
    merged = scratch.empty((len(depths), len(context) + len(needle_ids)), np.int64)
    starts = (len(context) * (depths / 100)).astype(np.int64)
    run_workers(
        merge_rows,
        *(context, needle_ids, starts, period_ids, merged, np.zeros(1, np.int64)),
        workers=None if merged.size > 2**18 else 1,
    )
    return {"merged": merged}


@worker
def merge_rows(context, needle, starts, period_ids, merged, counter):
    """merged (P, c + m) <- context[:k], needle, context[k:]; k goes back from each start."""
    c, m = context.size, needle.size
    while True:
        p = fetch_add(counter, 1)
        if p >= starts.size:
            break
        k = starts[p]
        while 0 < k < c:  # at a depth of 100 % the needle comes last
            ends = False
            for period in period_ids:
                ends |= context[k - 1] == period
            if ends:
                break
            k -= 1
        merged[p, :k] = context[:k]
        merged[p, k : k + m] = needle
        merged[p, k + m :] = context[k:]
