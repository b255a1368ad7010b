"""HyperAttention: what is refused, what must work, and the visited pairs by literal loops."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from attnlab.contract import BACKENDS, FILES, InputError
from attnlab.mechanisms.sparse.hyper_attention.plan import problems, segments
from attnlab.registry import find

HYPER = find("hyper_attention")
PATHS = ["numpy", "numba", "torch"]


def path(backend: str) -> Callable[..., Any]:
    """The path's function itself: what it refuses, it refuses before it needs a device."""
    return import_module(f"{HYPER.package}.{FILES[backend]}").attend


def run(backend: str, **kwargs: Any) -> dict[str, Any]:
    made = HYPER.run("attend", backend=backend, **kwargs)._asdict()
    return {k: v.numpy() if hasattr(v, "numpy") else v for k, v in made.items()}


def exact(q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: bool = False) -> np.ndarray:
    S = np.einsum("bhid,bhjd->bhij", q, k) / q.shape[3] ** 0.5
    if causal:
        S = np.where(np.tri(*S.shape[2:], dtype=bool), S, -np.inf)
    A = np.exp(S - S.max(-1, keepdims=True))
    return A / A.sum(-1, keepdims=True) @ v


def rows(k: dict[str, Any], n: int, m: int) -> dict[str, Any]:
    return {"q": np.ones((1, 1, n, 4)), "k": np.ones((1, 1, m, 4)), "v": np.ones((1, 1, m, 4))}


REFUSED = [
    (lambda k: rows(k, 9, 10) | {"causal": True}, "causal needs as many keys"),
    (lambda k: {"v": k["v"][..., :3]}, "dim"),
    (lambda k: {"lsh_num_projs": 31}, "lsh_num_projs must be at most 30"),
    (lambda k: {"block_size": 0}, "block_size must be at least 1"),
    (lambda k: {"sample_size": -1}, "sample_size must be at least 0"),
    (lambda k: {"min_seq_len": 0}, "min_seq_len must be at least 1"),
    (lambda k: rows(k, 10, 1000) | {"block_size": 16}, "do not divide"),
    (lambda k: {"sampled": [np.zeros((2, 2, 4), int)]}, "sampled"),
    (lambda k: {"sampled": [np.zeros((2, 2, 3), int)] * 2}, "sampled"),
    (lambda k: {"sampled": [np.full((2, 2, 3), 17)]}, "beyond the keys"),
    (lambda k: {"sampled": [np.full((2, 2, 3), -1)]}, "negative"),
    (lambda k: {"proj_dir": np.ones((4, 2))}, "lsh_num_projs"),
    (lambda k: {"seed": -1}, "seed must be at least 0"),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_refused(backend: str, change: Callable[..., Any], message: str) -> None:
    kwargs = HYPER.headline.sample(17)
    with pytest.raises(InputError, match=message):
        path(backend)(**kwargs | change(kwargs))


def by_loops(kwargs: dict[str, Any], exclude: bool, hide: bool) -> tuple[np.ndarray, np.ndarray]:
    """Without a mask: every row's list of (key, times it counts), then one softmax over the list."""
    q, k, v, P, b = (kwargs[a] for a in ("q", "k", "v", "proj_dir", "block_size"))
    out, lse = np.zeros_like(q), np.zeros(q.shape[:3])
    n, m = q.shape[2], k.shape[2]
    blocks = -(-m // b)
    per_block = -(-n // b) * b // blocks
    for z in np.ndindex(*q.shape[:2]):
        order = []
        for x in (q[z], k[z]):
            number = [sum(int(r @ P[:, t] > 0) << t for t in range(P.shape[1])) for r in x]
            order.append(sorted(range(len(x)), key=lambda i, c=number: c[i] ^ (c[i] >> 1)))
        for place, i in enumerate(order[0]):
            own = place // per_block
            visited = [(j, 1.0) for j in range(own * b, (own + 1) * b) if j < m or not hide]
            for j in kwargs["sampled"][0][z]:
                if not (exclude and j // b == own):
                    visited.append((j, m / kwargs["sample_size"]))
            total, value = 0.0, np.zeros(q.shape[3])
            for j, times in visited:  # places beyond m are zero rows
                key = order[1][j] if j < m else None
                score = 0.0 if key is None else q[z][i] @ k[z][key] / q.shape[3] ** 0.5
                total += times * np.exp(score)
                value += 0 if key is None else times * np.exp(score) * v[z][key]
            out[z][i], lse[z][i] = value / total, np.log(total)
    return out, lse


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("hide", [False, True])
def test_pairs_by_loops(backend: str, cross: bool, exclude: bool, hide: bool) -> None:
    """No vector masks the padding."""
    kwargs = HYPER.headline.sample(30, seed=2, given=True, cross=cross, sample_size=6)
    made = run(backend, **kwargs, exclude_own_block=exclude, mask_padding=hide)
    out, lse = by_loops(kwargs, exclude, hide)
    np.testing.assert_allclose(made["out"], out, 1e-10, 1e-12)
    np.testing.assert_allclose(made["lse"][..., 0], lse, 1e-10, 1e-12)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("causal", [False, True])
def test_one_block_is_exact(backend: str, causal: bool) -> None:
    """A block as long as the keys leaves nothing to sample, and masked padding leaves no trace."""
    for n in (1, 2, 7, 16):
        kwargs = HYPER.headline.sample(n, block_size=16, min_seq_len=1, causal=causal)
        made = run(backend, **kwargs, mask_padding=True)
        np.testing.assert_allclose(
            made["out"], exact(kwargs["q"], kwargs["k"], kwargs["v"], causal), 1e-10, 1e-12
        )


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("causal", [False, True])
def test_float32_stays_float32(backend: str, causal: bool) -> None:
    made = run(backend, **HYPER.headline.sample(24, dtype="float32", causal=causal))
    assert made["out"].dtype == made["lse"].dtype == np.float32


@pytest.mark.parametrize("backend", PATHS)
def test_padding_counts_as_zero_keys(backend: str) -> None:
    kwargs = HYPER.headline.sample(5, block_size=8, min_seq_len=1)
    padded = [np.pad(kwargs[a], [(0, 0), (0, 0), (0, 3), (0, 0)]) for a in "kv"]
    expected = exact(kwargs["q"], *padded)
    np.testing.assert_allclose(run(backend, **kwargs)["out"], expected, 1e-10, 1e-12)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("causal", [False, True])
def test_no_samples_and_equal_rows(backend: str, causal: bool) -> None:
    """S = 0 works; with equal inputs all rows share a bucket, keep their order, and average v."""
    kwargs = HYPER.headline.sample(24, sample_size=0, causal=causal)
    expected = run("numpy", **kwargs)
    np.testing.assert_allclose(run(backend, **kwargs)["out"], expected["out"], 1e-10, 1e-12)
    kwargs |= {"q": np.ones_like(kwargs["q"]), "k": np.ones_like(kwargs["k"]), "causal": False}
    made = run(backend, **kwargs)
    blocks = kwargs["v"].reshape(2, 2, 6, 4, 4).mean(3)
    np.testing.assert_allclose(made["out"], np.repeat(blocks, 4, axis=2), 1e-10, 1e-12)
    assert len(np.unique(made["q_hash"])) == 1


@pytest.mark.parametrize("causal", [False, True])
def test_a_seed_means_the_same_everywhere(causal: bool) -> None:
    kwargs = HYPER.headline.sample(37, causal=causal)
    first = run("numpy", **kwargs, seed=5)
    for backend in PATHS:
        again = run(backend, **kwargs, seed=5)
        np.testing.assert_allclose(again["out"], first["out"], 1e-10, 1e-12)
        np.testing.assert_array_equal(again["q_hash"], first["q_hash"])
        assert np.abs(run(backend, **kwargs, seed=6)["out"] - first["out"]).max() > 1e-3


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("bits", [-1, 0, 1, 20, 30])
def test_number_of_bits(backend: str, bits: int) -> None:
    kwargs = HYPER.headline.sample(33, causal=True, lsh_num_projs=bits)
    made, expected = run(backend, **kwargs), run("numpy", **kwargs)
    np.testing.assert_allclose(made["out"], expected["out"], 1e-10, 1e-12)
    assert made["k_hash"].max() < max(1, 2 ** max(bits, 0))
    assert bits > 0 or not made["k_hash"].any()


def test_plan_of_the_causal_halving() -> None:
    """Deepest first, lengths rounded up; real rows add up at every level."""
    found = problems(45, 45, causal=True, min_seq_len=12, block_size=8, sample_size=8)
    assert [(p.level, p.queries) for p in found] == [(1, 12), (0, 23)]
    assert problems(16, 16, causal=True, min_seq_len=16, block_size=4, sample_size=4) == []
    assert len(problems(16, 20, causal=False, min_seq_len=16, block_size=4, sample_size=4)) == 1
    for n in range(1, 40):
        for level in range(4):
            first, real = segments(n, level)
            covered = [a + i for a, r in zip(first, real) for i in range(r)]
            assert covered == list(range(n))
