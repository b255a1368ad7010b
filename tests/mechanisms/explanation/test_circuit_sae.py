"""Circuits by autoencoders: brute-force counts, curves and training, what is refused, what must work."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from attnlab.contract import InputError
from attnlab.registry import find

EXHIBIT = find("circuit_sae")
FIND, SCORE = EXHIBIT.operation("find_circuit"), EXHIBIT.operation("score_codes")
PATHS = ["numpy", "numba", "torch"]


def run(backend: str, operation: str, **kwargs: Any) -> dict[str, Any]:
    made = EXHIBIT.run(operation, backend=backend, want="all", **kwargs)._asdict()

    def bare(v: Any) -> Any:
        if isinstance(v, dict):
            return {k: bare(x) for k, x in v.items()}
        return v.detach().numpy() if hasattr(v, "detach") else v

    return {k: bare(v) for k, v in made.items()}


def area(scores: np.ndarray, truth: np.ndarray) -> float:
    """The share of (circuit, other) pairs in the right order, ties half."""
    pairs = list(product(scores[truth], scores[~truth]))
    return sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)


# --- scores from codes -----------------------------------------------------------------------


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("seed", range(3))
def test_scores_against_plain_counting(backend: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    N, layers, heads = 14, 2, 3
    n = layers * heads
    codes = rng.integers(0, 4, (N, n))
    circuit = np.array([1, 4])
    truth = np.isin(np.arange(n), circuit)
    made = run(
        backend, "score_codes", codes=codes, circuit_heads=circuit,
        n_layers=layers, n_heads=heads, edge_k=[5, 18],
    )  # fmt: skip
    half, u = N // 2, np.zeros(n)
    for h in range(n):
        pos, neg = set(codes[:half, h]), set(codes[half:, h])
        u[h] = len(pos - neg)
        at = divmod(h, heads)
        assert made["unique_pos"][at] == len(pos - neg)
        assert made["unique_neg"][at] == len(neg - pos)
        np.testing.assert_allclose(made["unique_pos_norm"][at], len(pos - neg) / len(pos | neg))
        np.testing.assert_allclose(made["unique_neg_norm"][at], len(neg - pos) / len(pos | neg))
    np.testing.assert_allclose(made["node_auc"], area(u, truth))
    np.testing.assert_allclose(made["node_softmax"], np.exp(u) / np.exp(u).sum())
    grid = np.exp(u.reshape(layers, heads))
    np.testing.assert_allclose(made["node_softmax_across_layer"], (grid / grid.sum(0)).ravel())
    for g, h in product(range(n), range(n)):
        pos = {(codes[e, g], codes[e, h]) for e in range(half)}
        neg = {(codes[e, g], codes[e, h]) for e in range(half, N)}
        expected = 0 if g == h else len(pos - neg)
        assert made["edge_unique"][g, h] == expected
        np.testing.assert_allclose(
            made["edge_unique_norm"][g, h], expected / (len(pos) + len(neg)), 1e-12
        )
    values = made["edge_unique"].ravel()
    np.testing.assert_array_equal(made["edge_pairs_sorted_values"], np.sort(values)[::-1])
    ranked = sorted(range(n * n), key=lambda i: (-values[i], i))
    entries = [h for i in ranked for h in divmod(i, n)]
    for k in (5, 18):
        s = np.array([entries[:k].count(h) for h in range(n)], float)
        np.testing.assert_allclose(made["edge_softmax_k"][k], np.exp(s) / np.exp(s).sum())
        np.testing.assert_allclose(made["edge_auc_k"][k], area(s, truth))


@pytest.mark.parametrize("backend", PATHS)
def test_edge_scores_lie_within_all_orders_of_the_cut_ties(backend: str) -> None:
    """Whatever the order of equal pairs, a head's count is between the least and the most possible."""
    codes = np.random.default_rng(5).integers(0, 3, (12, 8))
    n, k = 8, 20
    made = run(backend, "score_codes", codes=codes, n_layers=2, n_heads=4, edge_k=[k])
    U = made["edge_unique"].ravel()
    cut = np.sort(U)[::-1][(k - 1) // 2]
    sure = np.flatnonzero(cut < U)
    group = np.flatnonzero(cut == U)
    room = k - 2 * len(sure)
    s = np.log(made["edge_softmax_k"][k])
    s = np.round(s - s.min()).astype(int)  # counts up to a constant
    base = np.bincount(np.concatenate([sure // n, sure % n]), minlength=n)
    first = np.bincount(group // n, minlength=n)
    in_group = first + np.bincount(group % n, minlength=n)
    counts = s + (k - s.sum()) // n
    assert counts.sum() == k
    assert (counts >= base + np.maximum(0, room - (2 * len(group) - in_group))).all()
    assert (counts <= base + np.minimum(in_group, room)).all()


@pytest.mark.parametrize("backend", PATHS)
def test_roc_points_and_both_f1(backend: str) -> None:
    # heads 0..5 with 3, 2, 2, 1, 0, 0 codes of their own on positives; circuit 0, 2, 4
    own = [3, 2, 2, 1, 0, 0]
    codes = np.zeros((6, 6), int)
    for h, count in enumerate(own):
        codes[:count, h] = np.arange(1, count + 1)
    pred = np.array([[1, 1, 1], [0, 0, 0]])
    made = run(
        backend, "score_codes", codes=codes, circuit_heads=np.array([4, 0, 2]), median_pred=pred,
        n_layers=2, n_heads=3,
    )  # fmt: skip
    np.testing.assert_allclose(made["node_tpr"] * 3, [0, 1, 2, 2, 3])
    np.testing.assert_allclose(made["node_fpr"] * 3, [0, 0, 1, 2, 3])
    np.testing.assert_allclose(made["node_auc"], area(np.array(own), np.isin(range(6), [0, 2, 4])))
    np.testing.assert_allclose(made["node_f1curve_max"], 2 / 3)  # TPR 2/3, 1 - FPR 2/3
    np.testing.assert_allclose(
        made["f1_precision_recall_tp_fp_tn_fn"], [2 / 3, 2 / 3, 2 / 3, 2, 1, 2, 1]
    )


@pytest.mark.parametrize("backend", PATHS)
def test_roc_drops_points_like_scikit_learn(backend: str) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for _ in range(10):
        codes = rng.integers(0, 6, (16, 15))
        circuit = rng.permutation(15)[:5]
        made = run(
            backend, "score_codes", codes=codes, circuit_heads=circuit, n_layers=3, n_heads=5
        )
        truth = np.isin(np.arange(15), circuit)
        fpr, tpr, _ = metrics.roc_curve(truth, made["unique_pos"].ravel())
        np.testing.assert_allclose(made["node_fpr"], fpr)
        np.testing.assert_allclose(made["node_tpr"], tpr)


@pytest.mark.parametrize("backend", PATHS)
def test_nothing_unique_and_other_borders(backend: str) -> None:
    dead = run(
        backend, "score_codes", codes=np.zeros((8, 6), int), circuit_heads=np.array([2]),
        n_layers=2, n_heads=3, edge_k=[0, 7, 10**9],
    )  # fmt: skip
    assert dead["node_auc"] == 0.5
    assert not dead["unique_pos"].any()
    assert not dead["edge_unique"].any()
    assert dead["edge_auc_k"][0] == dead["edge_auc_k"][10**9] == 0.5  # k beyond the list keeps all
    np.testing.assert_allclose(dead["node_softmax"], 1 / 6)

    one = run(backend, "score_codes", codes=np.array([[0], [1], [1], [1]]), n_layers=1, n_heads=1)
    assert one["unique_pos"] == 1
    assert one["node_auc"] is None
    np.testing.assert_array_equal(one["edge_unique"], [[0]])

    once = run(backend, "score_codes", codes=np.array([[7, 0], [0, 0]]), n_layers=1, n_heads=2)
    np.testing.assert_array_equal(once["unique_pos"], [[1, 0]])
    np.testing.assert_array_equal(once["edge_unique"], [[0, 1], [1, 0]])

    # MLP rows as one more column of the grid
    mlp = run(backend, "score_codes", codes=np.arange(24).reshape(4, 6), n_layers=2, n_heads=3)
    assert mlp["unique_pos"].shape == (2, 3)


@pytest.mark.parametrize("backend", PATHS)
def test_codes_of_a_wide_range_are_codes_all_the_same(backend: str) -> None:
    codes = np.random.default_rng(1).integers(0, 5, (10, 4))
    a = run(backend, "score_codes", codes=codes, n_layers=2, n_heads=2)
    for numbers in ([3, 70_000, 12, 5_000, 600], [0, 2**62, 2**40, 7, 2**31]):
        wide = np.array(numbers)[codes]
        b = run(backend, "score_codes", codes=wide, n_layers=2, n_heads=2)
        for name in ("unique_pos", "unique_neg_norm", "edge_unique", "edge_unique_norm"):
            np.testing.assert_array_equal(a[name], b[name])


# --- training and coding ---------------------------------------------------------------------


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("dec_unit", ["rows", "columns"])
def test_training_against_torch_modules(backend: str, dec_unit: str) -> None:
    """An autoencoder written as the paper tells it: renormalise, backward, project, Adam."""
    torch = pytest.importorskip("torch")
    given = FIND.sample(6, seed=4, epochs=7, train=5, dec_unit=dec_unit, lam=0.1, lr=0.02)
    made = run(backend, "find_circuit", **given)
    names = ("enc_weight", "enc_bias", "dec_weight", "tied_bias")
    W_e, b_e, W_d, t = w = [torch.tensor(given[k]).requires_grad_() for k in names]
    x = torch.tensor(given["streams"])[given["permutation"][:5]]
    adam = torch.optim.Adam(w, lr=0.02, betas=(0.9, 0.999), eps=1e-8)
    axis = 1 if dec_unit == "rows" else 0

    def rescale() -> None:
        with torch.no_grad():
            W_e.div_(W_e.norm(dim=1, keepdim=True))
            W_d.div_(W_d.norm(dim=axis, keepdim=True))

    for epoch in range(7):
        rescale()
        a = torch.relu((x - t) @ W_e.T + b_e)
        loss = ((a @ W_d.T + t - x) ** 2).mean() + 0.1 * a.abs().sum(-1).mean()
        adam.zero_grad()
        loss.backward()
        for v, d in ((W_e, 1), (W_d, axis)):
            v.grad -= (v.grad * v.data).sum(d, keepdim=True) * v.data
        adam.step()
        np.testing.assert_allclose(made["train_loss"][epoch], loss.item(), 1e-9)
    rescale()
    for name, value in zip(names, w):
        np.testing.assert_allclose(made[f"trained_{name}"], value.detach(), 1e-7, 1e-9)
    a = torch.relu((torch.tensor(given["streams"]) - t) @ W_e.T + b_e).detach().numpy()
    np.testing.assert_array_equal(made["codes"], a.argmax(-1))
    top = np.sort(a, -1)
    np.testing.assert_allclose(
        made["code_margin_min"], (top[..., -1] - top[..., -2]).min(), atol=1e-9
    )
    lengths = np.linalg.norm(made["trained_dec_weight"], axis=axis)
    np.testing.assert_allclose(lengths, 1)


@pytest.mark.parametrize("backend", PATHS)
def test_codes_are_what_score_codes_ranks(backend: str) -> None:
    given = FIND.sample(20, seed=2, layers=2, heads=3, epochs=5)
    found = run(backend, "find_circuit", **given)
    scored = run(
        backend, "score_codes", codes=found["codes"], circuit_heads=given["circuit_heads"],
        n_layers=2, n_heads=3, n_features=9,
    )  # fmt: skip
    np.testing.assert_allclose(found["node_softmax"], scored["node_softmax"])
    np.testing.assert_allclose(found["node_auc"], scored["node_auc"])


@pytest.mark.parametrize("backend", PATHS)
def test_a_dead_autoencoder_codes_everything_0(backend: str) -> None:
    given = FIND.sample(4, epochs=3)
    made = run(backend, "find_circuit", **given | {"enc_bias": np.full(9, -1e3)})
    assert not made["codes"].any()
    assert made["code_margin_min"] == 0
    assert made["node_auc"] == 0.5
    zeros = {k: np.zeros_like(given[k]) for k in ("enc_weight", "enc_bias", "dec_weight")}
    made = run(backend, "find_circuit", **given | zeros)
    assert all(np.isfinite(v).all() for v in made.values())
    assert not made["codes"].any()


@pytest.mark.parametrize("backend", PATHS)
def test_ties_go_to_the_first_feature(backend: str) -> None:
    given = FIND.sample(4, epochs=0, features=6)
    twins = {"enc_weight": np.repeat(given["enc_weight"][:3], 2, axis=0)}
    twins["enc_bias"] = np.repeat(given["enc_bias"][:3], 2)
    made = run(backend, "find_circuit", **given | twins)
    assert not (made["codes"] % 2).any()
    np.testing.assert_allclose(made["code_margin_min"], 0, atol=1e-15)
    assert made["train_loss"].shape == (0,)


@pytest.mark.parametrize("backend", PATHS)
def test_many_rows_cross_every_tile(backend: str) -> None:
    """More rows than a tile, pieces of uneven length, training on all prompts."""
    given = FIND.sample(150, layers=1, heads=3, epochs=2, train=10**6)
    a, b = run(backend, "find_circuit", **given), run("numpy", "find_circuit", **given)
    for name in ("init_loss", "train_loss", "trained_enc_weight", "code_margin_min"):
        np.testing.assert_allclose(a[name], b[name], 1e-9, 1e-11)
    np.testing.assert_array_equal(a["codes"], b["codes"])


# --- bad input -------------------------------------------------------------------------------

STREAMS = FIND.sample(3)
NAN = np.full_like(STREAMS["streams"], np.nan)
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("find_circuit", {"streams": STREAMS["streams"][:5], "permutation": np.arange(5)}, "even"),
    ("find_circuit", {"streams": STREAMS["streams"][:0], "permutation": np.arange(0)}, "N must be"),
    ("find_circuit", {"streams": NAN}, "streams must be finite"),
    ("find_circuit", {"enc_bias": np.full(9, np.inf)}, "enc_bias must be finite"),
    ("find_circuit", {"n_heads": 3}, "cover the grid"),
    ("find_circuit", {"circuit_heads": np.zeros(0, int)}, "m must be at least 1"),
    ("find_circuit", {"circuit_heads": np.arange(4)}, "AUC is undefined"),
    ("find_circuit", {"circuit_heads": np.array([4])}, "circuit_heads"),
    ("find_circuit", {"circuit_heads": np.array([-1])}, "circuit_heads"),
    ("find_circuit", {"permutation": np.array([0, 1, 2, 3, 4, 4])}, "permutation"),
    ("find_circuit", {"n_train": 0}, "n_train"),
    ("find_circuit", {"lr": 0.0}, "lr"),
    ("find_circuit", {"lam": -0.1}, "lam"),
    ("find_circuit", {"dec_unit": "both"}, "dec_unit"),
    ("score_codes", {"codes": np.zeros((5, 3), int)}, "even"),
    ("score_codes", {"codes": np.zeros((0, 3), int)}, "N must be at least 1"),
    ("score_codes", {"codes": np.full((4, 3), -1)}, "negative"),
    ("score_codes", {"codes": np.full((4, 3), 7), "n_features": 7}, "below n_features = 7"),
    ("score_codes", {"codes": np.full((4, 3), np.nan)}, "codes must be integers"),
    ("score_codes", {"n_layers": 2}, "cover the grid"),
    ("score_codes", {"circuit_heads": np.zeros(0, int)}, "m must be at least 1"),
    ("score_codes", {"circuit_heads": np.array([0, 1, 2, 2])}, "AUC is undefined"),
    ("score_codes", {"circuit_heads": np.array([3])}, "circuit_heads"),
    ("score_codes", {"circuit_heads": None}, "median_pred"),
    ("score_codes", {"median_pred": np.full((1, 3), 2)}, "median_pred"),
    ("score_codes", {"edge_k": [-1]}, "edge_k"),
]


@pytest.mark.parametrize(("operation", "change", "message"), REFUSED)
def test_refused(operation: str, change: dict[str, Any], message: str) -> None:
    op = EXHIBIT.operation(operation)
    for backend in PATHS:
        given = {k: v for k, v in (op.sample(3) | change).items() if v is not None}
        if "median_pred" in given and operation == "score_codes" and "n_layers" in change:
            del given["median_pred"]
        with pytest.raises(InputError, match=message):
            EXHIBIT.run(operation, backend=backend, **given)
