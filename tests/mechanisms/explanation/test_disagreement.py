"""Disagreement: brute force, known values, what is refused, what must work, both projections."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau, pearsonr, spearmanr, weightedtau

from attnlab.contract import InputError
from attnlab.mechanisms.explanation.disagreement.models import MLP, BiLSTM
from attnlab.registry import find

EXHIBIT = find("disagreement")
PATHS = ["numpy", "numba", "torch"]
HOST = ["numpy", "numba"]
ATTRIBUTE = ["attribute_bilstm", "attribute_mlp"]


def run(name: str, backend: str, **kwargs: Any) -> Any:
    """The outputs as NumPy arrays, every optional one among them."""
    made = EXHIBIT.run(name, backend=backend, want="all", **kwargs)
    return made._replace(**{k: np.asarray(v) for k, v in made._asdict().items() if v is not None})


def sample(name: str, n: int = 9, seed: int = 0, **sizes: Any) -> dict[str, Any]:
    return EXHIBIT.operation(name).sample(n, seed, **sizes)


# --- agreement ---------------------------------------------------------------------------------


def vectors(n: int, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    a, b = rng.standard_normal((2, n))
    if kind == "ties":
        a, b = rng.integers(-2, 3, (2, n)).astype(float)
        a[0], b[-1] = -3, 3  # not constant
    elif kind == "zeros":
        a[1:] *= rng.random(n - 1) < 0.4
        b[1:] *= rng.random(n - 1) < 0.6
    return a, b


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("kind", ["plain", "ties", "zeros"])
@pytest.mark.parametrize("n", [2, 5, 13, 40])
def test_correlations_equal_scipy(n: int, kind: str, backend: str) -> None:
    a, b = vectors(n, kind, np.random.default_rng(n))
    alphas = np.array([0.0, 0.5, 1.0, 3.0])
    made = run("agreement", backend, a=a, b=b, ks=np.array([1]), alphas=alphas)
    np.testing.assert_allclose(made.kendall_tau, kendalltau(a, b).statistic, atol=1e-12)
    np.testing.assert_allclose(made.spearman_rho, spearmanr(a, b).statistic, atol=1e-12)
    np.testing.assert_allclose(made.pearson_r, pearsonr(a, b).statistic, atol=1e-12)
    want = [weightedtau(a, b, weigher=lambda r, x=x: (1 + r) ** -x).statistic for x in alphas]
    np.testing.assert_allclose(made.weighted_tau, want, atol=1e-12)


def fagin(a: list[float], b: list[float], k: int, p: float) -> float:
    """(11) pair by pair, from the words of the definition."""

    def buckets(x: list[float]) -> list[int]:
        return [sorted(set(x), reverse=True).index(v) for v in x]

    u, v = buckets(a), buckets(b)
    distance = pairs = 0.0
    for i, j in itertools.combinations(range(len(a)), 2):
        if not ((u[i] < k and v[j] < k) or (u[j] < k and v[i] < k)):
            continue
        pairs += 1
        in_a, in_b = np.sign(u[i] - u[j]), np.sign(v[i] - v[j])
        distance += 1 if in_a * in_b < 0 else p if (in_a == 0) != (in_b == 0) else 0
    return 1 - 2 * distance / max(1, pairs)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("kind", ["plain", "ties", "zeros"])
@pytest.mark.parametrize("p", [0.2, 0.5, 1.0])
def test_top_k_by_the_definition(p: float, kind: str, backend: str) -> None:
    a, b = vectors(14, kind, np.random.default_rng(7))
    ks = np.array([1, 2, 3, 7, 14, 50])
    made = run("agreement", backend, a=a, b=b, ks=ks, alphas=np.zeros(0), p=p)
    x, y = a.tolist(), b.tolist()
    for got, penalty in ((made.topk, p), (made.topk_p05, 0.5), (made.topk_p10, 1.0)):
        np.testing.assert_allclose(got, [fagin(x, y, k, penalty) for k in ks], atol=1e-12)
    nonzero = min(np.count_nonzero(a), np.count_nonzero(b))
    np.testing.assert_allclose(made.topk_nonzero, [fagin(x, y, nonzero, 0.5), nonzero], atol=1e-12)
    best = sorted(set(x), reverse=True)[:3]
    assert made.top3_a.tolist() == [i for i, value in enumerate(x) if value in best]


@pytest.mark.parametrize("backend", PATHS)
def test_constant_vectors_are_nan_and_counted(backend: str) -> None:
    a, flat = np.arange(5.0), np.full(5, 0.3)
    rest = {"ks": np.array([2]), "alphas": np.array([1.0])}
    for x, y, count in ((a, a, 0), (a, flat, 1), (flat, a, 1), (flat, np.zeros(5), 2)):
        made = run("agreement", backend, a=x, b=y, **rest)
        names = ("kendall_tau", "spearman_rho", "pearson_r", "weighted_tau")
        assert [np.isnan(getattr(made, name)).all() for name in names] == [count > 0] * 4
        assert made.undefined == count
        assert np.isfinite(made.topk_p05).all()
    assert run("agreement", backend, a=a, b=-a, **rest).kendall_tau == -1


# --- attention as a graph ----------------------------------------------------------------------


def min_cut(A: np.ndarray, target: int) -> float:
    """The smallest capacity over all ways of cutting (L, 0) from (0, target), by enumeration."""
    layers, n = A.shape[:2]
    free = [(0, k) for k in range(n) if k != target]
    free += [(layer, j) for layer in range(1, layers) for j in range(n)]
    free += [(layers, j) for j in range(1, n)]
    best = math.inf
    for bits in itertools.product((False, True), repeat=len(free)):
        side = dict(zip(free, bits)) | {(layers, 0): True, (0, target): False}
        cut = sum(
            A[layer - 1, j, k]
            for layer in range(1, layers + 1)
            for j in range(n)
            for k in range(n)
            if side[layer, j] and not side[layer - 1, k]
        )
        best = min(best, cut)
    return best


@pytest.mark.parametrize("backend", HOST)
@pytest.mark.parametrize(("layers", "n"), [(1, 3), (2, 3), (3, 3), (2, 4)])
def test_flow_is_the_smallest_cut(layers: int, n: int, backend: str) -> None:
    attention = sample("aggregate_attention", n, layers=layers, batch=1)["attention"]
    attention = np.where(attention < 0.3, 0, attention)  # some edges are missing
    total = attention.sum(-1, keepdims=True)
    attention = np.divide(attention, total, out=np.zeros_like(attention), where=total > 0)
    A = attention.mean(2)[0] + np.eye(n)
    A /= A.sum(-1, keepdims=True)
    cuts = np.array([min_cut(A, t) for t in range(n)])
    made = run("aggregate_attention", backend, attention=attention)
    np.testing.assert_allclose(made.flow_cls[0], cuts / cuts.sum(), atol=1e-12)


@pytest.mark.parametrize("backend", PATHS)
def test_rollout_is_a_row_of_the_product(backend: str) -> None:
    attention = sample("aggregate_attention", 70, layers=4, heads=3)["attention"]
    A = (attention.mean(2) + np.eye(70)) / 2  # (A + I)/2: rows that sum to 1
    whole = A[:, 3] @ A[:, 2] @ A[:, 1] @ A[:, 0]
    row = np.asarray(EXHIBIT.run("aggregate_attention", backend=backend, attention=attention)[1])
    np.testing.assert_allclose(row, whole[:, 0], atol=1e-12)
    np.testing.assert_allclose(row.sum(-1), 1, atol=1e-12)


@pytest.mark.parametrize("backend", PATHS)
def test_small_and_padded_graphs(backend: str) -> None:
    one = run("aggregate_attention", backend, attention=np.ones((1, 3, 2, 1, 1)))
    assert one.avg == one.rollout_cls == 1
    single = sample("aggregate_attention", 5, layers=1)["attention"]
    made = run("aggregate_attention", backend, attention=single)
    first = (single.mean((1, 2))[:, 0] + np.eye(5)[0]) / 2
    np.testing.assert_allclose(made.rollout_cls, first, atol=1e-12)
    padded = np.zeros((1, 2, 1, 3, 3))
    padded[..., :2, :2] = 0.5  # token 2 is padding: it asks nothing and is not asked
    made = run("aggregate_attention", backend, attention=padded)
    assert made.rollout_cls[0, 2] == 0
    if made.flow_cls is not None:
        assert one.flow_cls == 1
        np.testing.assert_allclose(
            run("aggregate_attention", backend, attention=single).flow_cls, first
        )
        assert made.flow_cls[0, 2] == 0


def test_flow_is_not_offered_by_torch() -> None:
    given = sample("aggregate_attention")
    with pytest.raises(InputError, match="flow_cls"):
        EXHIBIT.run("aggregate_attention", backend="torch", want=("flow_cls",), **given)
    assert EXHIBIT.run("aggregate_attention", backend="torch", want="all", **given).flow_cls is None


# --- the attention layer -----------------------------------------------------------------------


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("projection", ["released", "standard"])
def test_attention_layer_token_by_token(projection: str, backend: str) -> None:
    given = sample("self_attend", 6, batch=2, heads=3, dim=4) | {"projection": projection}
    made = run("self_attend", backend, **given)
    x, mask, W = given["x"], given["mask"], given["out_lin_weight"]
    q, k, v = (x @ given[f"{p}_lin_weight"].T + given[f"{p}_lin_bias"] for p in "qkv")
    for b, h, i in itertools.product(range(2), range(3), range(6)):
        part = slice(4 * h, 4 * h + 4)
        score = [math.exp(q[b, i, part] @ k[b, j, part] / 2) * mask[b, j] for j in range(6)]
        alpha = np.array(score) / sum(score)
        np.testing.assert_allclose(made.weights[b, h, i], alpha, atol=1e-12)
        F = (v[b] @ W)[:, part] if projection == "released" else v[b][:, part] @ W.T[part]
        norms = [np.linalg.norm(alpha[j] * F[j]) for j in range(6)]
        np.testing.assert_allclose(made.norms[b, h, i], norms, atol=1e-12)
    alpha = made.weights
    if projection == "released":
        F = (v @ W).reshape(2, 6, 3, 4)
        context = np.einsum("bhij,bjhd->bihd", alpha, F).reshape(2, 6, 12)
    else:
        mixed = np.einsum("bhij,bjhd->bihd", alpha, v.reshape(2, 6, 3, 4)).reshape(2, 6, 12)
        context = mixed @ W.T
    np.testing.assert_allclose(made.context, context + given["out_lin_bias"], atol=1e-12)


@pytest.mark.parametrize("backend", PATHS)
def test_one_head_and_a_symmetric_matrix_hide_the_transpose(backend: str) -> None:
    """With one head and W = W^T both projections agree; each condition alone is not enough."""
    agree = []
    for heads, symmetric in ((1, True), (1, False), (2, True)):
        given = sample("self_attend", 5, heads=heads, dim=8 // heads)
        if symmetric:
            given["out_lin_weight"] = given["out_lin_weight"] + given["out_lin_weight"].T
        both = [
            run("self_attend", backend, **given, projection=p) for p in ("released", "standard")
        ]
        agree.append(np.allclose(both[0].context, both[1].context, atol=1e-9))
    assert agree == [True, False, False]


# --- attributions ------------------------------------------------------------------------------


def model_of(name: str, given: dict[str, Any]) -> Any:
    return (BiLSTM if name == "attribute_bilstm" else MLP)(given, given["mask"][0])


@pytest.mark.parametrize("name", ATTRIBUTE)
def test_gradients_are_slopes(name: str) -> None:
    """The reference's gradients by hand against central differences of its probability."""
    given = sample(name, 5, padded=True)
    model, x = model_of(name, given), given["embedded"][0]
    gradient = model.gradient(x[None])[0]
    for t, d in itertools.product(range(5), range(3)):
        step = np.zeros_like(x)
        step[t, d] = 1e-5
        high, low = model.probability(np.stack([x + step, x - step]))
        np.testing.assert_allclose(gradient[t, d], (high - low) / 2e-5, atol=1e-8)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("name", ATTRIBUTE)
def test_attributions_by_brute_force(name: str, backend: str) -> None:
    """Each method, one point at a time, from the reference's probability and gradient."""
    given = sample(name, 6, batch=1, masks=40, draws=5)
    made = run(name, backend, **given, **{})
    model, x, x0 = model_of(name, given), given["embedded"][0], given["baseline"][0]
    P = lambda point: float(model.probability(point[None])[0])  # noqa: E731
    grad = lambda point: model.gradient(point[None])[0]  # noqa: E731

    z, omega = np.polynomial.legendre.leggauss(given["n_steps"])
    ig = sum(o / 2 * grad(x0 + (1 + s) / 2 * (x - x0)) for s, o in zip(z, omega)) * (x - x0)
    np.testing.assert_allclose(made.raw_intgrad[0], ig, atol=1e-12)
    shap = np.zeros_like(x)
    for u, k in zip(given["shap_coefficients"], given["shap_choice"]):
        b = given["baselines2"][k]
        shap += (x - b) * grad(u * x + (1 - u) * b) / 5
    np.testing.assert_allclose(made.raw_gradshap[0], shap, atol=1e-12)
    np.testing.assert_allclose(made.raw_inputxgrad[0], x * grad(x), atol=1e-12)
    for t in range(6):
        moved = x.copy()
        moved[t] = x0[t]
        np.testing.assert_allclose(made.raw_ablation[0, t], P(x) - P(moved), atol=1e-12)
    np.testing.assert_allclose(made.prediction[0, 0], P(x), atol=1e-12)
    np.testing.assert_allclose(made.prediction_baseline[0, 0], P(x0), atol=1e-12)

    rows, y, pi = [], [], []
    for mask in given["lime_masks"]:
        point = np.where(mask[:, None], x, x0)
        cosine = (x * point).sum() / np.linalg.norm(x) / np.linalg.norm(point)
        rows.append([1.0, *mask])
        y.append(P(point))
        pi.append(math.exp(-((1 - cosine) ** 2) / 2))
    D, W = np.array(rows), np.diag(pi)
    penalty = np.diag([0.0] + [1.0] * 6)  # the intercept is a column of its own, unpenalised
    w = np.linalg.solve(D.T @ W @ D + penalty, D.T @ W @ np.array(y))[1:]
    np.testing.assert_allclose(made.raw_lime[0, :, 0], w, atol=1e-10)
    np.testing.assert_allclose(made.tok_lime[0], np.abs(w), atol=1e-10)
    np.testing.assert_allclose(made.tok_intgrad[0], np.abs(ig.sum(1)), atol=1e-12)

    order = [*(["attn_weights"] if name == "attribute_bilstm" else []), "tok_lime", "tok_intgrad"]
    order += ["tok_deeplift", "tok_gradshap", "tok_deepshap"]
    scores = [[float(f"{v:.12g}") for v in getattr(made, key)[0]] for key in order]
    taus = [[kendalltau(a, b).statistic for b in scores] for a in scores]
    np.testing.assert_allclose(made.tau_matrix, taus, atol=1e-12)
    assert made.undefined == 0


@pytest.mark.parametrize("backend", PATHS)
def test_completeness(backend: str) -> None:
    """IG and DeepLIFT distribute F(x) - F(x') among the tokens, where the rescale rule sees all."""
    made = run("attribute_mlp", backend, **sample("attribute_mlp", 7, n_steps=200))
    gap = (made.prediction - made.prediction_baseline)[:, 0]
    np.testing.assert_allclose(made.raw_deeplift.sum((1, 2)), gap, atol=1e-12)
    np.testing.assert_allclose(made.raw_intgrad.sum((1, 2)), gap, atol=1e-3)
    made = run("attribute_bilstm", backend, **sample("attribute_bilstm", 7, n_steps=60))
    gap = (made.prediction - made.prediction_baseline)[:, 0]
    np.testing.assert_allclose(made.raw_intgrad.sum((1, 2)), gap, atol=1e-9)
    assert np.abs(made.raw_deeplift.sum((1, 2)) - gap).max() > 1e-3  # nothing to rescale there


@pytest.mark.parametrize("backend", PATHS)
def test_deeplift_of_a_bilstm_is_gradient_times_difference(backend: str) -> None:
    given = sample("attribute_bilstm", 6, batch=1)
    given["baselines2"] = np.repeat(given["baseline"], 3, axis=0)
    given["shap_choice"] = given["shap_choice"] % 3
    made = run("attribute_bilstm", backend, **given)
    x, x0 = given["embedded"][0], given["baseline"][0]
    gradient = model_of("attribute_bilstm", given).gradient(x[None])[0]
    np.testing.assert_allclose(made.raw_deeplift[0], gradient * (x - x0), atol=1e-13)
    # equal baselines: Deep-SHAP is DeepLIFT
    np.testing.assert_allclose(made.raw_deepshap, made.raw_deeplift, atol=1e-13)


@pytest.mark.parametrize("backend", PATHS)
def test_equal_input_and_baseline(backend: str) -> None:
    """Nothing to attribute: zeros, constant vectors, NaN taus that are counted."""
    given = sample("attribute_mlp", 4, batch=1)
    given["baseline"] = given["embedded"].copy()
    given["baselines2"] = np.repeat(given["embedded"], 2, axis=0)
    made = run("attribute_mlp", backend, **given)
    for name in ("intgrad", "deeplift", "deepshap", "gradshap", "ablation"):
        assert not getattr(made, f"raw_{name}").any()
    assert np.isnan(made.tau_matrix[np.triu_indices(5, 1)]).all()
    assert made.undefined == 10


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("name", ATTRIBUTE)
def test_one_token_and_padding(name: str, backend: str) -> None:
    made = run(name, backend, **sample(name, 1))
    assert np.isnan(made.tau_matrix).all()
    assert np.isfinite(made.raw_lime).all()
    given = sample(name, 8, batch=1, padded=True)
    made = run(name, backend, **given)
    scores = [made.tok_lime[0, :6], made.tok_intgrad[0, :6]]
    at = 1 if name == "attribute_bilstm" else 0
    tau = kendalltau(*scores).statistic  # of the unmasked tokens alone
    np.testing.assert_allclose(made.tau_matrix[at, at + 1], tau, atol=1e-12)
    if name == "attribute_mlp":
        assert not made.tok_intgrad[0, 6:].any()
    else:
        assert not made.attn_weights[0, 6:].any()


# --- faithfulness ------------------------------------------------------------------------------


def probability(given: dict[str, Any], x: list[int]) -> float:
    logit = sum(given["w"][i] for i in x) + sum(given["u"][i, j] for i, j in itertools.pairwise(x))
    return 1 / (1 + math.exp(-logit))


@pytest.mark.parametrize("backend", HOST)
@pytest.mark.parametrize("seed", range(4))
def test_faithfulness_by_hand(seed: int, backend: str) -> None:
    from sklearn.metrics import auc, precision_recall_curve

    thresholds = [0.15, 0.3, 0.31, 0.9]
    given = sample("faithfulness", 12, seed) | {"thresholds": thresholds, "mask_id": 2}
    if seed == 3:
        given["scores"] = np.round(given["scores"])  # ties: the later token first
    made = run("faithfulness", backend, **given)
    x, s = given["token_ids"].tolist(), given["scores"]
    whole = probability(given, x)
    ranked = sorted(range(12), key=lambda i: (s[i], i), reverse=True)
    sets: list[set[int]] = []
    for q in thresholds:
        r = {i for i in ranked[: int(q * 12)] if s[i] > 0}
        if r and (not sets or r != sets[-1]):
            sets.append(r)
    drops = [
        [
            whole - probability(given, [t for i, t in enumerate(x) if i not in r]),
            whole - probability(given, [2 if i in r else t for i, t in enumerate(x)]),
            whole - probability(given, [t for i, t in enumerate(x) if i in r]),
            whole - probability(given, [t if i in r else 2 for i, t in enumerate(x)]),
        ]
        for r in sets
    ]
    got = [
        made.aopc_comprehensiveness,
        made.aopc_comprehensiveness_mask,
        made.aopc_sufficiency,
        made.aopc_sufficiency_mask,
    ]
    np.testing.assert_allclose(got, np.mean(drops, axis=0), atol=1e-12)
    loo = [round(whole - probability(given, x[:i] + x[i + 1 :]), 12) for i in range(12)]
    np.testing.assert_allclose(made.tau_loo, kendalltau(s, loo).statistic, atol=1e-12)
    precision, recall, _ = precision_recall_curve(given["rationale"], s)
    np.testing.assert_allclose(made.auprc, auc(recall, precision), atol=1e-12)
    hard = {i for i in ranked[:5] if s[i] > 0}
    people = set(np.flatnonzero(given["rationale"]).tolist())
    f1 = 2 * len(hard & people) / (len(hard) + len(people))
    np.testing.assert_allclose(made.token_f1_top5, f1, atol=1e-12)
    np.testing.assert_allclose(made.token_iou_top5, len(hard & people) / len(hard | people))


@pytest.mark.parametrize("backend", HOST)
def test_no_rationale_at_all(backend: str) -> None:
    given = sample("faithfulness", 6) | {"scores": -np.arange(1.0, 7.0)}
    made = run("faithfulness", backend, **given)
    assert made.aopc_comprehensiveness == made.aopc_comprehensiveness_mask == 0
    assert made.aopc_sufficiency == made.aopc_sufficiency_mask == 1
    assert made.token_f1_top5 == made.token_iou_top5 == 0
    given["rationale"] = np.zeros(6, int)
    assert np.isnan(run("faithfulness", backend, **given).auprc)
    given["scores"] = np.zeros(6)
    assert np.isnan(run("faithfulness", backend, **given).tau_loo)  # constant scores


# --- refused -----------------------------------------------------------------------------------


def bad(value: Any, at: Any, new: float) -> Any:
    value = np.array(value)
    value[at] = new
    return value


REFUSED: list[tuple[str, Any, str]] = [
    ("agreement", lambda g: {"b": g["b"][:-1]}, "b"),
    ("agreement", lambda g: {"a": bad(g["a"], 1, np.nan)}, "a must be finite"),
    ("agreement", lambda g: {"b": bad(g["b"], 1, np.inf)}, "b must be finite"),
    ("agreement", lambda g: {"a": g["a"][:1], "b": g["b"][:1]}, "at least 2"),
    ("agreement", lambda g: {"ks": np.array([3, 0])}, "ks"),
    ("agreement", lambda g: {"p": 0.0}, "p must be above 0"),
    ("agreement", lambda g: {"p": 1.5}, "p must be at most 1"),
    ("aggregate_attention", lambda g: {"attention": g["attention"][0]}, "attention"),
    ("aggregate_attention", lambda g: {"attention": g["attention"] * 1.1}, "sum to 1"),
    ("aggregate_attention", lambda g: {"attention": -g["attention"]}, "sum to 1"),
    ("aggregate_attention", lambda g: {"attention": g["attention"][..., :-1]}, "attention"),
    (
        "aggregate_attention",
        lambda g: {"attention": bad(g["attention"], (0, 0, 0, 0, 0), np.nan)},
        "sum to 1",
    ),
    ("self_attend", lambda g: {"mask": bad(g["mask"], 1, False)}, "fully masked"),
    ("self_attend", lambda g: {"n_heads": 3}, "heads"),
    ("self_attend", lambda g: {"n_heads": 0}, "n_heads"),
    ("self_attend", lambda g: {"projection": "transposed"}, "projection"),
    *(
        (name, change, text)
        for name in ATTRIBUTE
        for change, text in (
            (lambda g: {"baseline": g["baseline"][:, :-1]}, "baseline"),
            (lambda g: {"baselines2": g["baselines2"][..., :-1]}, "baselines2"),
            (lambda g: {"baseline": bad(g["baseline"], (0, 0), np.nan)}, "baseline must be finite"),
            (lambda g: {"embedded": bad(g["embedded"], (0, 0), np.inf)}, "embedded must be finite"),
            (lambda g: {"mask": bad(g["mask"], 0, False)}, "fully masked"),
            (lambda g: {"shap_choice": g["shap_choice"] + 9}, "shap_choice"),
            (lambda g: {"shap_choice": g["shap_choice"] - 9}, "shap_choice"),
            (lambda g: {"shap_coefficients": g["shap_coefficients"] + 1}, "shap_coefficients"),
            (lambda g: {"lime_masks": g["lime_masks"] * 2}, "lime_masks"),
            (lambda g: {"n_steps": 0}, "n_steps"),
        )
    ),
    ("faithfulness", lambda g: {"scores": bad(g["scores"], 0, np.nan)}, "scores must be finite"),
    ("faithfulness", lambda g: {"scores": g["scores"][:-1]}, "scores"),
    ("faithfulness", lambda g: {"rationale": g["rationale"] + 1}, "rationale"),
    ("faithfulness", lambda g: {"token_ids": g["token_ids"] + 99}, "token_ids"),
    ("faithfulness", lambda g: {"token_ids": g["token_ids"] - 99}, "token_ids"),
    ("faithfulness", lambda g: {"mask_id": 30}, "mask_id"),
    ("faithfulness", lambda g: {"thresholds": [0.5, 1.5]}, "thresholds"),
    ("faithfulness", lambda g: {"thresholds": [0.0]}, "thresholds"),
    ("faithfulness", lambda g: {"top_k_rationale": 0}, "top_k_rationale"),
]


@pytest.mark.parametrize(
    ("name", "change", "text", "backend"),
    [(*row, b) for row in REFUSED for b in PATHS if b in EXHIBIT.operation(row[0]).paths],
)
def test_refused(name: str, change: Any, text: str, backend: str) -> None:
    given = sample(name, 6)
    with pytest.raises(InputError, match=text):
        EXHIBIT.run(name, backend=backend, **given | change(given))


@pytest.mark.parametrize("backend", ["numpy", "numba", "torch"])
def test_a_model_that_ignores_its_input_ranks_nothing(backend: str) -> None:
    kwargs = sample("attribute_mlp", 7, hidden=5)
    kwargs["o_weight"] = np.zeros_like(kwargs["o_weight"])  # P is the sigmoid of the bias
    made = run("attribute_mlp", backend, **kwargs)
    assert not np.asarray(made.raw_lime).any()
    assert np.isnan(np.asarray(made.tau_matrix)).all()


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_leaving_one_out_ranks_however_small_the_probability(backend: str) -> None:
    given = sample("faithfulness", 12, vocabulary=40)
    given |= {"token_ids": np.arange(1, 13), "u": np.zeros((40, 40))}
    given["w"] = (
        -3 - np.linspace(0, 1, 40) ** 2
    )  # P is about e^-37; leaving out w_i divides it by e^w_i
    tau = run("faithfulness", backend, **given).tau_loo
    expected = kendalltau(given["scores"], given["w"][1:13]).statistic
    np.testing.assert_allclose(tau, expected, 1e-12)
