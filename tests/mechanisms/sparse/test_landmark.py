"""Landmark attention: what is refused, what must work, and the equations by literal loops."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from attnlab.contract import BACKENDS, FILES, InputError
from attnlab.registry import find

LANDMARK = find("landmark")
PATHS = ["numpy", "numba", "torch"]


def path(backend: str, operation: str) -> Callable[..., Any]:
    """The path's function itself: what it refuses, it refuses before it needs a device."""
    return getattr(import_module(f"{LANDMARK.package}.{FILES[backend]}"), operation)


def run(backend: str, operation: str, **kwargs: Any) -> Any:
    made = LANDMARK.run(operation, backend=backend, want="all", **kwargs)
    return {
        k: [a.numpy() if hasattr(a, "numpy") else a for a in v]
        if isinstance(v, list)
        else v.numpy()
        if hasattr(v, "numpy")
        else v
        for k, v in made._asdict().items()
    }


def filled(n: int, **sizes: Any) -> dict[str, Any]:
    """Arguments of a step after n tokens."""
    cache = LANDMARK.run("fill_cache", **LANDMARK.operation("fill_cache").sample(n))._asdict()
    return LANDMARK.operation("step").sample(n) | cache | sizes


SAMPLES = {
    "attend": lambda: LANDMARK.operation("attend").sample(9),
    "cached_attend": lambda: LANDMARK.operation("cached_attend").sample(9),
    "fill_cache": lambda: LANDMARK.operation("fill_cache").sample(9),
    "step": lambda: filled(9),
}


def shifted(kwargs: dict[str, Any]) -> dict[str, Any]:
    """A landmark one token before its block's end."""
    flags = np.zeros_like(np.concatenate(kwargs["is_landmark"], axis=1))
    flags[0, kwargs["block"] - 2] = True
    cuts = np.cumsum([f.shape[1] for f in kwargs["is_landmark"]])[:-1]
    return {"is_landmark": np.split(flags, cuts, axis=1)}


REFUSED = [
    ("attend", lambda k: {"is_landmark": k["is_landmark"].astype(int)}, "must be bool"),
    ("attend", lambda k: {"is_landmark": k["is_landmark"][:, :-1]}, "is_landmark"),
    ("cached_attend", lambda k: {"is_landmark": [f[:, :-1] for f in k["is_landmark"]]}, "landmark"),
    ("cached_attend", lambda k: {"is_landmark": k["is_landmark"][:-1]}, "number of chunks"),
    ("cached_attend", lambda k: {"cache_topk": 0}, "cache_topk must be at least 1"),
    ("cached_attend", lambda k: {"block": 1}, "block must be at least 2"),
    ("cached_attend", lambda k: {"cache_blocks": 1}, "must be at least cache_topk"),
    ("cached_attend", lambda k: {"n_head": 3}, "do not divide"),
    ("cached_attend", lambda k: {"n_head": 8}, "even head width"),
    ("cached_attend", lambda k: {"selection": "max_over_head"}, "did you mean"),
    ("cached_attend", shifted, "last token of a block"),
    ("fill_cache", lambda k: {"block": 1}, "block must be at least 2"),
    ("step", lambda k: {"cache_topk": 0}, "cache_topk must be at least 1"),
    ("step", lambda k: {"cache_blocks": 1}, "must be at least cache_topk"),
    ("step", lambda k: {"seen": np.array(13)}, "append_block"),
    ("step", lambda k: {"seen": np.array(-1)}, "negative"),
]


@pytest.mark.parametrize(
    ("backend", "operation", "change", "message"),
    [(b, *row) for row in REFUSED for b in BACKENDS if b in LANDMARK.operation(row[0]).paths],
)
def test_refused(backend: str, operation: str, change: Callable[..., Any], message: str) -> None:
    kwargs = SAMPLES[operation]()
    with pytest.raises(InputError, match=message):
        path(backend, operation)(**kwargs | change(kwargs))


def by_loops(S: np.ndarray, flags: np.ndarray, i: int) -> np.ndarray:
    """Weights of query i from its row of scores, equations (1) to (5), key by key."""
    sec = [int(flags[:j].sum()) for j in range(i + 1)]
    own = [j for j in range(i + 1) if not flags[j] and sec[j] == sec[i]]
    past = [j for j in range(i + 1) if flags[j] and sec[j] < sec[i]]
    w = np.zeros(len(S))
    joint = sum(np.exp(S[j]) for j in own + past)
    for j in own:
        w[j] = np.exp(S[j]) / joint
    for l in past:
        block = [j for j in range(l) if not flags[j] and sec[j] == sec[l]]
        inside = sum(np.exp(S[j]) for j in block)
        for j in block:
            w[j] = np.exp(S[l]) / joint * np.exp(S[j]) / inside
    return w


PATTERNS = {
    "none": "000000000000000",
    "first": "100010000100000",
    "adjacent": "000110000111000",
    "all": "111111111111111",
    "last": "000000000000001",
    "one long block": "000000000000100",
}


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_patterns(backend: str, pattern: str) -> None:
    """Any pattern works, a different one in each row; rows without a key are zeros."""
    flags = np.array([[c == "1" for c in pattern], [c == "1" for c in pattern[::-1]]])
    sample = LANDMARK.headline.sample(len(pattern), seed=4, dim=3) | {"is_landmark": flags}
    made = run(backend, "attend", **sample)
    S = np.einsum("bhid,bhjd->bhij", sample["q"], sample["k"]) / 3**0.5
    W = np.zeros_like(S)
    for b, h, i in np.ndindex(*S.shape[:3]):
        W[b, h, i] = by_loops(S[b, h, i], flags[b], i)
    np.testing.assert_allclose(made["weights"], W, 1e-10, 1e-12)
    np.testing.assert_allclose(made["out"], W @ sample["v"], 1e-10, 1e-12)


@pytest.mark.parametrize("backend", PATHS)
def test_blocks_longer_and_shorter_than_a_tile(backend: str) -> None:
    n = 700
    flags = np.zeros((2, n), bool)
    flags[0, [5, 6, 90, 520, 521, 600]] = True  # a block of 429 keys, longer than a tile
    flags[1, 50::51] = True
    sample = LANDMARK.headline.sample(n, seed=2, heads=1, dim=8) | {"is_landmark": flags}
    expected, made = run("numpy", "attend", **sample), run(backend, "attend", **sample)
    np.testing.assert_allclose(made["out"], expected["out"], 1e-9, 1e-11)
    np.testing.assert_allclose(made["weights"], expected["weights"], 1e-9, 1e-11)


def test_rows_without_a_key_have_zero_gradients() -> None:
    import torch

    sample = LANDMARK.headline.sample(6) | {"is_landmark": np.ones((2, 6), bool)}
    q, k, v = (torch.tensor(sample[a], requires_grad=True) for a in "qkv")
    out = LANDMARK.run(
        "attend", backend="torch", q=q, k=k, v=v, is_landmark=sample["is_landmark"]
    ).out
    out.sum().backward()
    for x in (q, k, v):
        assert torch.equal(x.grad, torch.zeros_like(x))


def turned(x: np.ndarray, position: int) -> np.ndarray:
    """Rotary positions through complex numbers."""
    pairs = x[0::2] + 1j * x[1::2]
    pairs = pairs * np.exp(1j * position * 10000.0 ** (-np.arange(0, len(x), 2) / len(x)))
    return np.stack([pairs.real, pairs.imag], 1).reshape(-1)


def cached_by_loops(kwargs: dict[str, Any]) -> list[np.ndarray]:
    """The sheet's steps a to g, query by query, with lists."""
    heads, b, K, R = (kwargs[o] for o in ("n_head", "block", "cache_topk", "cache_blocks"))
    turn = turned if kwargs["rotary"] else lambda x, position: x
    seen, y = [], []
    for x, flags in zip(kwargs["x"], kwargs["is_landmark"]):
        width = x.shape[2]
        d = width // heads
        new = [np.split((kwargs["w_qkv"] @ row).reshape(3 * heads, d), 3) for row in x[0]]
        full = len(seen) // b
        blocks = [seen[r * b : (r + 1) * b] for r in range(full)][-R:]
        n, tail = len(blocks), seen[full * b :]
        start = min(full, K + 1) * b + len(tail)
        slot = [max(r - (n - K) + 1, 0) for r in range(n)]
        P = np.zeros((heads, len(new), n))
        for h, t, r in np.ndindex(*P.shape):
            door = turn(blocks[r][-1][1][h], slot[r] * b + b - 1)
            P[h, t, r] = turn(new[t][0][h], start + t) @ door / d**0.5
        P = np.exp(P) / np.exp(P).sum(-1, keepdims=True)
        rows = np.zeros((len(new), width))
        for h, t in np.ndindex(heads, len(new)):
            p = {
                "per_token_and_head": P[h, t],
                "max_over_heads": P[:, t].max(0, initial=0),
                "max_over_tokens": P[h].max(0, initial=0),
            }[kwargs["selection"]]
            chosen = sorted(np.argsort(-p, kind="stable")[:K])
            row = []  # (key, value, is_landmark)
            for j, r in enumerate(chosen):
                for i, (_, key, value) in enumerate(blocks[r]):
                    position = (b if slot[r] > 0 else 0) + j * b + i
                    row.append((turn(key[h], position), value[h], i == b - 1))
            for i, (_, key, value) in enumerate(tail):
                row.append((turn(key[h], start - len(tail) + i), value[h], False))
            for i, (_, key, value) in enumerate(new[: t + 1]):
                row.append((turn(key[h], start + i), value[h], bool(flags[0, i])))
            S = np.array([turn(new[t][0][h], start + t) @ key / d**0.5 for key, _, _ in row])
            w = by_loops(S, np.array([f for _, _, f in row]), len(row) - 1)
            rows[t, h * d : (h + 1) * d] = sum(a * v for a, (_, v, _) in zip(w, row))
        y.append(rows @ kwargs["w_out"].T)
        seen += new
    return y


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("selection", ["per_token_and_head", "max_over_heads", "max_over_tokens"])
def test_cached_by_loops(backend: str, selection: str, rotary: bool) -> None:
    kwargs = LANDMARK.operation("cached_attend").sample(
        31, seed=5, chunk=7, block=3, cache_topk=2, spare=2, selection=selection, rotary=rotary
    )
    made = run(backend, "cached_attend", **kwargs)
    for got, expected in zip(made["y"], cached_by_loops(kwargs), strict=True):
        np.testing.assert_allclose(got[0], expected, 1e-9, 1e-11)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("cache_blocks", [None, 3])
def test_steps_are_chunks_of_one_token(backend: str, cache_blocks: int | None) -> None:
    """Decoding through the state, blocks appended when a tail is full, equals cached_attend."""
    n, b, heads, K = 19, 4, 2, 2
    kwargs = LANDMARK.operation("cached_attend").sample(n, seed=1, chunk=1, block=b, cache_topk=K)
    kwargs["cache_blocks"] = cache_blocks or n
    y = run(backend, "cached_attend", **kwargs)["y"]
    tokens = np.concatenate(kwargs["x"], axis=1)[0]
    q, k, v = (tokens @ kwargs["w_qkv"].T).reshape(n, 3, heads, -1).transpose(1, 0, 2, 3)
    empty = np.zeros((heads, 0, b, q.shape[2]))
    blocks = {"block_k": empty, "block_v": empty}
    state: dict[str, Any] = {f"tail_{a}": np.zeros((heads, b, q.shape[2])) for a in "kv"}
    state["seen"] = np.array(0)
    for t in range(n):
        made = run(
            backend, "step", q=q[t], k=k[t], v=v[t], **blocks, **state,
            cache_topk=K, cache_blocks=cache_blocks,
        )  # fmt: skip
        state = {a: made[a] for a in state}
        np.testing.assert_allclose(kwargs["w_out"] @ made["out"].ravel(), y[t][0, 0], 1e-9, 1e-11)
        if int(state["seen"]) % b == 0:
            blocks = LANDMARK.run(
                "append_block", **blocks, full_k=state["tail_k"], full_v=state["tail_v"],
                cache_blocks=cache_blocks,
            )._asdict()  # fmt: skip
    assert blocks["block_k"].shape[1] == (cache_blocks or n // b)
