"""Retrieval heads in NumPy (Wu et al. 2024): copy events, flattened heads, needles, ROUGE-1."""

from __future__ import annotations

from collections import Counter

import numpy as np
from jaxtyping import Float, Int

from attnlab.layers.heads import merge_heads, split_heads
from attnlab.layers.rotary import rotate_halves, tables

from . import EXHIBIT, room
from .stemmer import words


@EXHIBIT.path
def score_heads(
    prompt_ids: Int[np.ndarray, "n"],
    needle_span: Int[np.ndarray, "2"],
    generated: Int[np.ndarray, "T"],
    attention: Float[np.ndarray, "T layers heads keys"],
    *,
    top_k: int = 1,
) -> dict[str, np.ndarray]:
    """Copy events (1) of every head while the answer is generated, and their share of the needle (2).

    Parameters
    ----------
    needle_span   [s, e), the needle's place in the prompt
    generated     the answer's tokens
    attention     the row behind each of them; n + t of its keys are valid, the rest is not read
    top_k         a copy may be among the k largest weights (the lower key first among equals);
                  a row is one event at most

    Returns
    -------
    retrieval_score  (layers, heads), events / (e - s): above 1 where a token is copied repeatedly
    per_step         (T, layers, heads), its increments
    set_score        (layers, heads), distinct tokens copied / distinct tokens of the needle

    Raises InputError for a needle that is empty, not found (-1, -1) or outside the prompt, rows
    shorter than the prompt, and NaN.
    """
    (s, e), n = needle_span, len(prompt_ids)
    per_step = np.zeros(attention.shape[:3], attention.dtype)
    copied: dict[tuple[int, ...], set[int]] = {
        head: set() for head in np.ndindex(attention.shape[1:3])
    }
    for t, g in enumerate(generated):
        for head in copied:
            row = attention[(t, *head)][: n + t]
            for j in np.argsort(-row, kind="stable")[:top_k]:  # (1)
                if s <= j < e and prompt_ids[j] == g:
                    per_step[t, *head] = 1 / (e - s)
                    copied[head].add(g)
                    break
    needle = set(prompt_ids[s:e])
    shares = [len(tokens) / len(needle) for tokens in copied.values()]
    return {
        "retrieval_score": per_step.sum(axis=0),  # (2), as released
        "per_step": per_step,
        "set_score": np.array(shares, attention.dtype).reshape(attention.shape[1:3]),
    }


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
) -> dict[str, np.ndarray]:
    """(5): a causal layer with rotary positions, whole (plain) and with some heads flattened (masked).

    A flattened head attends uniformly: to all n keys, the future included, as the released code
    has it; to keys j <= i with causal=True. out (batch, n, width), weights (batch, heads, n, n).
    Raises InputError for heads outside 0..n_heads-1 or more of them than there are, for kv heads
    that do not divide the heads, and for odd widths of a head.
    """
    n = x.shape[1]
    q = split_heads(x @ q_proj.T, n_heads)
    k, v = (split_heads(x @ W.T, n_kv_heads) for W in (k_proj, v_proj))
    turn = tables(np.arange(n), q.shape[-1], rope_base)
    q, k = rotate_halves(q, *turn), rotate_halves(k, *turn)
    k, v = (np.repeat(z, n_heads // n_kv_heads, axis=1) for z in (k, v))
    seen = np.tri(n, dtype=bool)

    S = np.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    plain = softmax(np.where(seen, S, -np.inf))
    masked = plain.copy()
    masked[:, block_heads] = softmax(np.where(seen, 0.0, -np.inf) if causal else np.zeros((n, n)))
    made = {"weights_plain": plain, "weights_masked": masked}
    for name, A in (("out_plain", plain), ("out_masked", masked)):
        made[name] = merge_heads(np.einsum("bhij,bhjd->bhid", A, v)) @ o_proj.T
    return made


def softmax(S: np.ndarray) -> np.ndarray:
    A = np.exp(S - S.max(axis=-1, keepdims=True))
    return A / A.sum(axis=-1, keepdims=True)


@EXHIBIT.path
def find_needle(
    needle_ids: Int[np.ndarray, "m"],
    prompts: Int[np.ndarray, "P n"],
    *,
    overlap: float = 0.9,
    rule: str = "first",
) -> dict[str, np.ndarray]:
    """The span (i, i + m) of the needle in each prompt; (-1, -1) where it is not found.

    A window qualifies when it holds more than a share `overlap` of the needle's distinct tokens.
    rule "first" takes the first such window, as released: from 11 distinct tokens on it may start
    one early. "aligned" takes the one that equals the needle at most places. Windows at the end of
    the prompt are cut short, and the span may then end outside.
    """
    m, needle = len(needle_ids), set(needle_ids)
    spans = np.full((len(prompts), 2), -1)
    for row, prompt in enumerate(prompts):
        best = -1
        for i in range(len(prompt)):
            window = prompt[i : i + m]
            if len(needle & set(window)) / len(needle) > overlap:
                agree = int(np.sum(window == needle_ids[: len(window)]))
                if agree > best:
                    best, spans[row] = agree, (i, i + m)
                if rule == "first":
                    break
    return {"spans": spans}


@EXHIBIT.path
def insert_needle(
    context_ids: Int[np.ndarray, "n"],
    needle_ids: Int[np.ndarray, "m"],
    depths: Int[np.ndarray, "P"],
    context_length: Int[np.ndarray, ""],
    period_ids: Int[np.ndarray, "periods"],
    buffer: Int[np.ndarray, ""] | None = None,
) -> dict[str, np.ndarray]:
    """The needle at each depth (per cent of the context), moved back behind a sentence's end.

    The context is cut so that both fit into context_length - buffer tokens. merged (depths, tokens).
    Raises InputError for depths outside 0..100 and where the needle alone does not fit.
    """
    budget = int(context_length) - room(buffer)
    context = context_ids[: budget - len(needle_ids)]
    rows = []
    for p in depths:
        k = int(len(context) * (p / 100))
        while p < 100 and k > 0 and context[k - 1] not in period_ids:
            k -= 1
        rows.append(np.concatenate([context[:k], needle_ids, context[k:]]))
    return {"merged": np.stack(rows)}


@EXHIBIT.path
def rouge1(
    reference: np.ndarray, responses: np.ndarray, *, use_stemmer: bool = True
) -> dict[str, np.ndarray]:
    """ROUGE-1 precision, recall and F of each response, (n, 3), and whether recall exceeds 0.5 (3).

    Counts are clipped: a word of the reference is found as often as it stands there. Without any
    words the measures are 0.
    """
    wanted = Counter(words(str(reference), use_stemmer))
    rows = []
    for response in responses:
        found = Counter(words(str(response), use_stemmer))
        overlap = (wanted & found).total()
        p, r = overlap / max(found.total(), 1), overlap / max(wanted.total(), 1)
        rows.append((p, r, 2 * p * r / (p + r) if p + r > 0 else 0.0))
    scores = np.array(rows)
    return {"rouge1_p_r_f": scores, "success": scores[:, 1] > 0.5}
