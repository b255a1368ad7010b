"""Instruction shift: autograd as the oracle, closed forms, brute-force pairs, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attnlab.contract import InputError
from attnlab.registry import find

EXHIBIT = find("instruction_shift")
PATHS = ["numpy", "numba", "torch"]


def run(backend: str, operation: str, **kwargs: Any) -> dict[str, Any]:
    made = EXHIBIT.run(operation, backend=backend, want="all", **kwargs)._asdict()

    def bare(v: Any) -> Any:
        if isinstance(v, dict):
            return {k: bare(x) for k, x in v.items()}
        if isinstance(v, list):
            return [bare(x) for x in v]
        return v.detach().numpy() if hasattr(v, "detach") else v

    return {k: bare(v) for k, v in made.items()}


# --- attribution -----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize(("n", "T"), [(1, 1), (1, 4), (5, 1), (6, 9), (40, 70)])
def test_importance_is_embedding_times_gradient(backend: str, n: int, T: int) -> None:
    """T backward passes through an ordinary forward pass."""
    torch = pytest.importorskip("torch")
    given = EXHIBIT.operation("attribute").sample(n, seed=n + T, response=T, dim=5, vocabulary=9)
    made = run(backend, "attribute", **given)
    w = {k: torch.tensor(given[k]) for k in ("emb", "u", "wq", "wk", "wv", "wo")}
    ids = torch.tensor([1, *given["input_ids"], *given["output_ids"]])
    x = w["emb"][ids].requires_grad_()
    q, k, v = x @ w["wq"].T, x @ w["wk"].T, x @ w["wv"].T
    hidden = torch.ones(len(ids), len(ids)).triu(1).bool()
    A = (q @ k.T / 5**0.5).masked_fill(hidden, -torch.inf).softmax(-1)
    p = ((x + A @ v @ w["wo"].T) @ w["u"].T).softmax(-1)
    for j, y in enumerate(given["output_ids"]):
        np.testing.assert_allclose(made["confidence"][j], p[n + j, y].item(), 1e-9)
        (grad,) = torch.autograd.grad(p[n + j, y], x, retain_graph=True)
        expected = (grad * x)[1 : n + 1].sum(-1).detach()
        np.testing.assert_allclose(made["importance"][:, j], expected, 1e-8, 1e-12)


def levels_of(importance: np.ndarray, L: int, eps: float) -> np.ndarray:
    out = np.zeros_like(importance)
    for i, j in np.ndindex(importance.shape):
        top = max(0.0, importance[:, j].max())
        out[i, j] = min(np.ceil(L * max(importance[i, j], 0.0) / (top + eps)), L)
    return out


def density_of(levels: np.ndarray, b: int, p: float, eps: float) -> np.ndarray:
    rows = [[l for l in row if l > b] for row in levels]
    return np.array([sum(r) / (sum(l**p for l in r) ** (1 / p) + eps) for r in rows])


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize(
    ("L", "b", "p", "eps", "eps_analysis"),
    [(10, 7, 4.0, 1e-7, 1e-9), (10, 0, 1.0, 1e-2, 1e-9), (6, 2, 2.5, 1e-7, 0.3), (100, 40, 3.0, 0.01, 1e-4)],
)  # fmt: skip
def test_levels_density_and_score_with_every_option(
    backend: str, L: int, b: int, p: float, eps: float, eps_analysis: float
) -> None:
    given = EXHIBIT.operation("attribute").sample(7, seed=1, response=11)
    options = {"L": L, "b": b, "p": p, "eps": eps, "eps_analysis": eps_analysis}
    made = run(backend, "attribute", **given, **options)
    importance = run("numpy", "attribute", **given)["importance"]
    np.testing.assert_array_equal(made["levels_0_10"], levels_of(importance, L, eps))
    raw = density_of(levels_of(importance, L, eps), b, p, eps)
    np.testing.assert_allclose(made["density_raw"], raw, 1e-9)
    a = density_of(levels_of(importance, L, eps_analysis), b, p, eps_analysis)
    a = a / (a.max() + 1e-9)
    np.testing.assert_allclose(made["density_normalised"], a, 1e-9)
    mask = given["instruction_mask"]
    score = a[mask].sum() / np.log2(2 + mask.sum())
    np.testing.assert_allclose(made["instruction_score"], score, 1e-9)


@pytest.mark.parametrize("backend", PATHS)
def test_masks_of_nothing_and_of_everything(backend: str) -> None:
    given = EXHIBIT.operation("attribute").sample(6)
    whole = run(backend, "attribute", **given | {"instruction_mask": np.ones(6)})
    total = whole["density_normalised"].sum()
    np.testing.assert_allclose(whole["instruction_score"], total / np.log2(8))
    none = run(backend, "attribute", **given | {"instruction_mask": np.zeros(6, int)})
    assert none["instruction_score"] == 0


@pytest.mark.parametrize("backend", PATHS)
def test_one_response_token_makes_every_hit_dense(backend: str) -> None:
    made = run(backend, "attribute", **EXHIBIT.operation("attribute").sample(9, response=1))
    hit = made["levels_0_10"][:, 0] > 7
    assert hit.any()
    np.testing.assert_allclose(made["density_raw"], hit.astype(float), 1e-6)


# --- density ---------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("m", [1, 2, 5, 16])
def test_a_steady_token_has_density_m_to_the_three_quarters(backend: str, m: int) -> None:
    importance = np.full((2, 16), -1.0)
    importance[0, :m] = 1e-3  # small but steady
    importance[1, 15 if m < 16 else 0] = 50.0  # huge and once
    if m == 16:
        importance[0, 0] = 1e-3
    made = run(backend, "density", importance=importance, thresholds=[7])
    raw = np.array([m - (m == 16), 1.0]) ** 0.75
    np.testing.assert_allclose(made["density_b"][7], raw / raw.max(), 1e-5)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("p", [1.0, 2.5, 4.0])
def test_densities_for_every_threshold(backend: str, p: float) -> None:
    rng = np.random.default_rng(3)
    importance, levels = rng.standard_normal((9, 12)), rng.integers(0, 13, (9, 12)) - 1.0
    made = run(
        backend, "density", importance=importance, levels=levels, L=12, p=p,
        thresholds=[0, 3, 11], prequantised_b=5, eps=1e-6,
    )  # fmt: skip
    for b in (0, 3, 11):
        a = density_of(levels_of(importance, 12, 1e-6), b, p, 1e-6)
        np.testing.assert_allclose(made["density_b"][b], a / (a.max() + 1e-9), 1e-9, 1e-12)
    a = density_of(levels, 5, p, 1e-6)
    np.testing.assert_allclose(made["density_prequantised_b"][5], a / (a.max() + 1e-9), 1e-9)


@pytest.mark.parametrize("backend", PATHS)
def test_what_looks_like_levels_is_not_quantised_again(backend: str) -> None:
    importance = np.array([[10.0, 0, 8], [5, 4, 0]])
    given = run(backend, "density", importance=importance, thresholds=[3])["density_b"][3]
    a = density_of(importance, 3, 4.0, 1e-9)
    np.testing.assert_allclose(given, a / a.max(), 1e-8)
    anew = run(backend, "density", importance=importance, thresholds=[3], detect_levels=False)
    a = density_of(levels_of(importance, 10, 1e-9), 3, 4.0, 1e-9)
    np.testing.assert_allclose(anew["density_b"][3], a / a.max(), 1e-8)
    assert np.abs(given - anew["density_b"][3]).max() > 0.01


@pytest.mark.parametrize("backend", PATHS)
def test_nothing_positive_is_density_0_and_no_nan(backend: str) -> None:
    made = run(backend, "density", importance=-np.ones((4, 3)), levels=np.zeros((4, 3)))
    np.testing.assert_array_equal(made["density_b"][7], 0)
    np.testing.assert_array_equal(made["density_prequantised_b"][7], 0)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_levels_stop_at_L(backend: str, dtype: str) -> None:
    """Above about 1 an eps of 1e-7 is lost in float32, and L x / x may round above L."""
    column = np.geomspace(1, 1e6, 4001).astype(dtype)
    importance = np.stack([column, column / 3])
    made = run(backend, "density", importance=importance, thresholds=[9])
    np.testing.assert_allclose(made["density_b"][9], [1, 0], atol=1e-6)


# --- word patterns ---------------------------------------------------------------------------


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize(("heads", "kv"), [(2, 2), (4, 2), (3, 1)])
def test_pairs_by_plain_search(backend: str, heads: int, kv: int) -> None:
    op = EXHIBIT.operation("word_patterns")
    given = op.sample(30, seed=heads, heads=heads, kv_heads=kv, top_k=15)
    made = run(backend, "word_patterns", **given)
    E, h = given["word_embed_in"] * given["input_norm"], 3
    g = given["static_embed"] / np.linalg.norm(given["static_embed"], axis=1, keepdims=True)
    cosine = g @ g.T
    theta = cosine.mean(1) + 1.96 * cosine.std(1)
    found = 0
    for i in range(heads):
        hq = E @ given["q_proj"][i * h : (i + 1) * h].T
        shared = i // (heads // kv)
        hk = E @ given["k_proj"][shared * h : (shared + 1) * h].T
        N = (hq**2).sum(0) + (hk**2).sum(0)
        np.testing.assert_array_equal(made["head"][i]["dim_order"], np.argsort(-N))
        np.testing.assert_allclose(made["head"][i]["activation"], np.sort(N)[::-1])
        for place, r in enumerate(np.argsort(-N)):
            kept = {
                (int(k), int(q))
                for k in np.argsort(-abs(hk[:, r]))[:15]
                for q in np.argsort(-abs(hq[:, r]))[:15]
                if k != q and hk[k, r] * hq[q, r] > 0
                and cosine[k, q] > max(0, theta[k], theta[q])
            }  # fmt: skip
            row = made["head"][i]["pairs_k_q"][place]
            own = [tuple(int(w) for w in pair) for pair in row if pair[0] >= 0]
            assert set(own) == kept
            order = sorted(kept, key=lambda pair: (-round(cosine[pair], 9), pair))
            assert own == order
            assert (row[len(own) :] == -1).all()
            found += len(own)
    assert found > 5


@pytest.mark.parametrize("backend", PATHS)
def test_feed_forward_words(backend: str) -> None:
    given = EXHIBIT.operation("word_patterns").sample(25, ffn_rank=4, ffn_top_k=6)
    made = run(backend, "word_patterns", **given)
    W = given["down_proj"].T - given["down_proj"].T.mean(0)
    values, vectors = np.linalg.eigh(W.T @ W)
    np.testing.assert_allclose(made["ffn_variance_share"], (values[::-1] / values.sum())[:4])
    E = given["word_embed_out"]
    E = E / np.linalg.norm(E, axis=1, keepdims=True)
    for r in range(4):
        expected = np.argsort(-abs(E @ vectors[:, ::-1][:, r]))[:6]
        np.testing.assert_array_equal(made["ffn_top_words"][r], expected)


@pytest.mark.parametrize("backend", PATHS)
def test_lists_longer_than_the_vocabulary_and_words_without_vectors(backend: str) -> None:
    given = EXHIBIT.operation("word_patterns").sample(5, top_k=1000, ffn_top_k=1000, ffn_rank=1000)
    made = run(backend, "word_patterns", **given | {"static_embed": np.zeros((5, 12))})
    assert made["ffn_top_words"].shape == (6, 5)
    for head in made["head"]:
        assert head["pairs_k_q"].shape == (3, 0, 2)


# --- spans -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_spans_against_slicing(backend: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        text = rng.integers(0, 2, int(rng.integers(1, 25)))
        patterns = np.full((6, 7), -1)
        for row in patterns:
            length = int(rng.integers(1, 8))
            row[:length] = rng.integers(0, 2, length)
        made = run(backend, "locate_spans", text=text, patterns=patterns)["position"]
        for row, position in zip(patterns, made):
            pattern = row[row >= 0].tolist()
            at = [s for s in range(len(text)) if text[s : s + len(pattern)].tolist() == pattern]
            assert position == (at[0] if at else -1)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_an_empty_pattern_is_at_the_start(backend: str) -> None:
    made = run(backend, "locate_spans", text=np.array([4]), patterns=np.array([[-1, -1], [4, -1]]))
    np.testing.assert_array_equal(made["position"], [0, 0])


# --- bad input -------------------------------------------------------------------------------

NAN = np.full((3, 3), np.nan)
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("attribute", {"output_ids": np.zeros(0, int)}, "T must be at least 1"),
    ("attribute", {"input_ids": np.zeros(0, int), "instruction_mask": np.zeros(0)}, "n must be"),
    ("attribute", {"b": 10}, "b: 10 must be below L = 10"),
    ("attribute", {"b": 4, "L": 3}, "below L = 3"),
    ("attribute", {"p": 0.9}, "p must be at least 1"),
    ("attribute", {"emb": np.full((12, 4), np.nan)}, "emb must be finite"),
    ("attribute", {"wo": np.full((4, 4), np.inf)}, "wo must be finite"),
    ("attribute", {"input_ids": np.array([0, 1, 12])}, "input_ids must be in 0..12-1"),
    ("attribute", {"output_ids": np.array([-1])}, "output_ids"),
    ("attribute", {"bos_id": 12}, "bos_id"),
    ("attribute", {"instruction_mask": np.array([0, 1, 2])}, "instruction_mask"),
    ("attribute", {"eps": 0.0}, "eps"),
    ("density", {"importance": np.zeros((3, 0)), "levels": None}, "T must be at least 1"),
    ("density", {"importance": np.zeros((0, 3)), "levels": None}, "n must be at least 1"),
    ("density", {"importance": NAN}, "importance must be finite"),
    ("density", {"levels": NAN}, "levels must be finite"),
    ("density", {"thresholds": [3, 10]}, "thresholds"),
    ("density", {"prequantised_b": 10}, "prequantised_b"),
    ("density", {"p": 0.5}, "p must be at least 1"),
    ("word_patterns", {"n_q_heads": 3, "n_kv_heads": 2, "k_proj": np.zeros((4, 6))}, "do not divide"),
    ("word_patterns", {"static_embed": NAN}, "static_embed must be finite"),
    ("word_patterns", {"top_k": 0}, "top_k"),
    ("locate_spans", {"must_find": True, "patterns": np.array([[8, 9]])}, r"\[8, 9\] is not in"),
    ("locate_spans", {"patterns": np.array([[0, -1, 1]])}, "-1 may only follow"),
    ("locate_spans", {"text": np.zeros(0, int)}, "n must be at least 1"),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "change", "message"), REFUSED)
def test_refused(operation: str, change: dict[str, Any], message: str) -> None:
    op = EXHIBIT.operation(operation)
    for backend in sorted(op.paths - {"cuda"}):
        given = {k: v for k, v in (op.sample(3) | change).items() if v is not None}
        with pytest.raises(InputError, match=message):
            EXHIBIT.run(operation, backend=backend, **given)
