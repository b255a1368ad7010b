"""Scan and snap: what is refused, what must work, options no vector covers, and the dynamics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attnlab.contract import InputError
from attnlab.registry import find

SNAP = find("scan_and_snap")
PATHS = ["numpy", "numba", "torch"]


def value(backend: str, operation: str, **kwargs: Any) -> dict[str, Any]:
    made = SNAP.run(operation, backend=backend, **kwargs)._asdict()
    return {k: v.detach().numpy() if hasattr(v, "detach") else v for k, v in made.items()}


def one_hot_loss(s: dict[str, Any], normalize: bool, base: bool, residual: bool) -> float:
    """The authors' form: one-hot tensors and plain matrix products."""
    X = np.eye(len(s["K1"]))[s["x"]]  # (batch, length, M)
    scores = np.einsum("bm,ml,bil->bi", X[:, -1], s["K2"], X)
    if not base:
        scores, X_keys = scores[:, :-1], X[:, :-1]
    else:
        X_keys = X
    b = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    u = np.einsum("bi,bil->bl", b, X_keys) + residual * X[:, -1]
    f = u / np.linalg.norm(u, axis=1, keepdims=True) if normalize else u
    logits = f @ s["K1"].T
    picked = logits[np.arange(len(f)), s["label"]]
    return float(np.mean(np.log(np.exp(logits).sum(1)) - picked))


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("base", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_every_option_against_one_hot_vectors(
    backend: str, normalize: bool, base: bool, residual: bool
) -> None:
    sample = SNAP.operation("loss").sample(14, seed=5)
    made = value(
        backend,
        "loss",
        **sample,
        normalize=normalize,
        attn_include_base_token=base,
        residual=residual,
    )
    np.testing.assert_allclose(made["loss"], one_hot_loss(sample, normalize, base, residual))


REFUSED = [
    ("loss", {"x": np.zeros((3, 1), int)}, "key"),
    ("loss", {"x": np.full((3, 4), 11)}, "x: token"),
    ("loss", {"x": np.full((3, 4), -1)}, "x: token"),
    ("loss", {"label": np.array([0, 11, 0])}, "label"),
    ("loss", {"K1": np.zeros((11, 10))}, "K1"),
    ("loss", {"K2": np.zeros((10, 10))}, "K2"),
    ("train", {"lr_y": 0.0}, "lr_y"),
    ("train", {"lr_z": -1.0}, "lr_z"),
    ("train", {"snapshot_steps": [5]}, "snapshot_steps"),
    ("train", {"snapshot_steps": [-1]}, "snapshot_steps"),
    ("train", {"fact_probs": np.full((2, 13), 0.1)}, "fact_probs"),
    ("train", {"fact_last": None}, "fact_last"),
    ("train", {"fact_last": np.array([0, 13])}, "fact_last"),
    ("train", {"M": 5}, "M"),
    ("population_train", {"fact_probs": np.full((3, 6), 0.2)}, "fact_probs"),
    ("population_train", {"fact_next": np.array([0, 6, 1])}, "fact_next"),
    ("population_train", {"eta_y": 0.0}, "eta_y"),
    ("population_train", {"steps": 0}, "steps"),
    ("facts", {"common_weight": 0.0, "num_unique_per_next": 0}, "weight"),
]


@pytest.mark.parametrize(("operation", "change", "message"), REFUSED)
def test_refused(operation: str, change: dict[str, Any], message: str) -> None:
    op = SNAP.operation(operation)
    for backend in sorted(op.paths - {"cuda"}):
        with pytest.raises(InputError, match=message):
            SNAP.run(operation, backend=backend, **op.sample(6) | change)


@pytest.mark.parametrize("backend", PATHS)
def test_must_work(backend: str) -> None:
    # a single key (b = 1, no gradient of K2), one sample, one fact, repeated keys, no common keys
    task = SNAP.run("facts", num_last=1, num_next_per_last=1, num_common=0, num_common_per_last=0)
    M = task.fact_probs.shape[1]
    x = np.tile([[[2, M - 2]]], (4, 1, 1))
    made = value(
        backend, "train", x=x, label=np.full((4, 1), M - 1), M=M, snapshot_steps=[3],
        fact_probs=task.fact_probs, fact_last=task.fact_last,
    )  # fmt: skip
    assert (np.diff(made["losses"]) < 0).all()
    np.testing.assert_array_equal(made["K2_snapshots"], 0)
    np.testing.assert_allclose(made["c"], task.fact_probs, atol=1e-15)
    repeated = np.array([[2, 2, 2, 5, M - 2]])
    sample = SNAP.operation("loss").sample(4, vocabulary=M)
    loss = value(backend, "loss", x=repeated, label=np.array([0]), K1=sample["K1"], K2=sample["K2"])
    assert np.isfinite(loss["loss"])


@pytest.mark.parametrize("backend", PATHS)
def test_a_label_of_vanishing_probability_has_a_finite_loss(backend: str) -> None:
    K1 = np.array([[0.0, 5000.0], [0.0, 0.0]])
    made = value(
        backend, "loss", x=np.array([[1, 0]]), label=np.array([1]), K1=K1, K2=np.zeros((2, 2))
    )
    np.testing.assert_allclose(made["loss"], 5000.0)


@pytest.mark.parametrize("backend", PATHS)
def test_snapshots_in_any_order_and_none(backend: str) -> None:
    sample = SNAP.operation("train").sample(7)
    forward = value(backend, "train", **sample | {"snapshot_steps": [1, 4]})
    back = value(backend, "train", **sample | {"snapshot_steps": [4, 1, 4]})
    np.testing.assert_array_equal(back["K1_snapshots"][[1, 0]], forward["K1_snapshots"])
    assert value(backend, "train", **sample | {"snapshot_steps": []})["K1_snapshots"].shape[0] == 0


def test_gradient_of_a_row_of_scores_sums_to_zero() -> None:
    import torch

    sample = SNAP.operation("loss").sample(9)
    K2 = torch.tensor(sample["K2"], requires_grad=True)
    SNAP.run("loss", backend="torch", **sample | {"K2": K2}).loss.backward()
    assert K2.grad is not None
    np.testing.assert_allclose(K2.grad.sum(1), 0, atol=1e-14)
    shifted = sample["K2"] + np.arange(11.0)[:, None]
    np.testing.assert_allclose(
        SNAP.run("loss", **sample | {"K2": shifted}).loss, SNAP.run("loss", **sample).loss
    )


def test_scan_and_snap() -> None:
    """Common tokens lose mass, distinct ones are ordered by how often they occur; then it stops."""
    task = SNAP.run("facts", num_next_per_last=1, num_common_per_last=0)
    made = SNAP.run("population_train", backend="numba", steps=400, **task._asdict())
    c = made.c_history
    common = c[:, 0, :10].sum(1)
    assert common[0] > 0.6 > common[100] > common[-1]
    z = made.Z[task.fact_last[0]]
    assert z[:10].max() < 0 < z[19]
    assert (np.diff(z[10:20]) > 0).all()
    early, late = (np.abs(np.diff(c[s : s + 2], axis=0)).max() for s in (20, 398))
    assert late < early / 5
    assert c[-1].max() < 0.5  # no winner takes all
