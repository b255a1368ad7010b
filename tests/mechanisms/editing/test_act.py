"""ACT: what is refused, what must work, the quirks, and the streaming form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attnlab.contract import InputError
from attnlab.mechanisms.editing.act.search import search_heads
from attnlab.registry import find

ACT = find("act")
PATHS = ["numpy", "numba", "torch"]


def brute_force(A: np.ndarray, beta: float, threshold: float, heads: Any) -> np.ndarray:
    """The sheet's equations, entry by entry."""
    made = A.copy()
    n = A.shape[1]
    for h in heads:
        found = [t for t in range(n) if A[h, :, t].sum() / (n - t) > threshold][1:]
        for i in range(n):
            rho = sum(A[h, i, t] for t in range(n) if t not in found)
            free = (1 - beta) * sum(A[h, i, t] for t in found)
            for t in range(n):
                if rho > 0:
                    a = A[h, i, t]
                    made[h, i, t] = beta * a if t in found else a + free * a / rho
    return made


def run(backend: str, operation: str = "calibrated_attend", **kwargs: Any) -> Any:
    made = ACT.run(operation, backend=backend, want="all", **kwargs)
    return made._replace(**{k: v.numpy() for k, v in made._asdict().items() if hasattr(v, "numpy")})


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta": 0.0},
        {"beta": 0.7, "heads": [1]},
        {"alpha": 3.0},
        {"alpha": 1.5, "threshold": 0.9},
        {"threshold": 1e-6},
        {"heads": []},
    ],
    ids=str,
)
def test_against_brute_force(backend: str, options: dict[str, Any]) -> None:
    sample = ACT.operation("calibrated_attend").sample(23, seed=4)
    made = run(backend, **sample, **options)
    threshold = options["alpha"] / 23 if "alpha" in options else options.get("threshold", 0.1)
    want = brute_force(
        made.probs[0], options.get("beta", 0.4), threshold, options.get("heads", range(3))
    )
    np.testing.assert_allclose(made.probs_calibrated[0], want, 1e-10, 1e-12)
    np.testing.assert_allclose(made.out[0], want @ sample["v"][0], 1e-10, 1e-11)
    np.testing.assert_allclose(made.probs_calibrated.sum(-1), 1, 1e-12)


@pytest.mark.parametrize("backend", PATHS)
def test_identities(backend: str) -> None:
    sample = ACT.operation("calibrated_attend").sample(19, seed=2)
    same = run(backend, **sample, beta=1.0)
    np.testing.assert_allclose(same.probs_calibrated, same.probs, 1e-13)
    np.testing.assert_allclose(same.out[0], same.probs[0] @ sample["v"][0], 1e-11, 1e-12)
    none = run(backend, **sample, threshold=2.0)
    assert not none.sink_mask.any()
    np.testing.assert_array_equal(none.probs_calibrated, none.probs)


@pytest.mark.parametrize("backend", PATHS)
def test_tiny_n_has_every_column_above_the_threshold(backend: str) -> None:
    sample = ACT.operation("calibrated_attend").sample(3, seed=1, heads=1)
    made = run(backend, **sample, threshold=1e-9)
    np.testing.assert_array_equal(made.sink_mask, [[False, True, True]])
    np.testing.assert_allclose(made.probs_calibrated[0, 0, 2, 1:], 0.4 * made.probs[0, 0, 2, 1:])


@pytest.mark.parametrize("backend", PATHS)
def test_a_row_entirely_on_sinks_stays_as_it_is(backend: str) -> None:
    n = 8
    q = np.ones((1, 1, n, 1))
    k = np.zeros((1, 1, n, 1))
    k[..., 5, 0] = 1e4  # from row 5 on everything else underflows to exactly 0
    v = np.arange(1.0, n + 1).reshape(1, 1, n, 1)
    made = run(backend, q=q, k=k, v=v, threshold=0.2)
    np.testing.assert_array_equal(np.flatnonzero(made.sink_mask[0]), [5])
    np.testing.assert_array_equal(made.probs_calibrated[0, 0, 5:], made.probs[0, 0, 5:])
    np.testing.assert_allclose(made.out[0, 0, 5:, 0], 6.0)
    assert np.isfinite(made.out).all()


@pytest.mark.parametrize("backend", PATHS)
def test_a_row_almost_entirely_on_sinks_is_accurate_in_float32(backend: str) -> None:
    rng = np.random.default_rng(0)
    q = np.ones((1, 1, 40, 1), np.float32)
    k = 0.1 * rng.standard_normal((1, 1, 40, 1)).astype(np.float32)
    k[..., 9, 0] = 14
    k[..., 0, 0] = 4
    v = rng.standard_normal((1, 1, 40, 3)).astype(np.float32)
    want = run("numpy", q=q.astype("f8"), k=k.astype("f8"), v=v.astype("f8"))
    assert want.sink_mask[0, 9]
    np.testing.assert_allclose(run(backend, q=q, k=k, v=v).out, want.out, 3e-5, 3e-5)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": -0.1}, "beta"),
        ({"beta": 1.1}, "beta"),
        ({"threshold": 0.0}, "threshold"),
        ({"alpha": 0.0}, "alpha"),
        ({"heads": [3]}, "heads"),
        ({"heads": [-1]}, "heads"),
    ],
    ids=str,
)
@pytest.mark.parametrize("operation", ["calibrated_attend", "streaming_attend"])
def test_refused(backend: str, operation: str, change: dict[str, Any], message: str) -> None:
    sample = ACT.operation(operation).sample(6, heads=3)
    with pytest.raises(InputError, match=message):
        ACT.run(operation, backend=backend, **sample, **change)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda A: A[:, :-1], "A"),
        (lambda A: A * 1.01, "sum to 1"),
        (lambda A: np.where(np.eye(6), A + 1, A) - np.eye(6, k=-5) * 1, "negative"),
        (lambda A: A[:, ::-1], "causal"),
        (lambda A: A * np.nan, "finite"),
    ],
)
def test_refused_maps(backend: str, spoil: Any, message: str) -> None:
    A = ACT.operation("calibrate").sample(6)["A"]
    with pytest.raises(InputError, match=message):
        ACT.run("calibrate", backend=backend, A=spoil(A))


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_map_that_is_not_causal(backend: str) -> None:
    A = np.random.default_rng(0).dirichlet(np.full(7, 0.3), (2, 7))
    made = run(backend, "calibrate", A=A, causal=False)
    np.testing.assert_allclose(made.column_mean, A.mean(axis=1))
    np.testing.assert_allclose(made.A_calibrated.sum(-1), 1)


@pytest.mark.parametrize("backend", PATHS)
def test_rows_mostly_on_sinks_hold_the_vectors_tolerance_in_float32(backend: str) -> None:
    for seed in range(6):
        sample = ACT.operation("calibrated_attend").sample(100, seed, "float32", heads=2, dim=32)
        exact = {k: x.astype("f8") for k, x in sample.items()}
        want, made = run("numpy", **exact, beta=0.2), run(backend, **sample, beta=0.2)
        np.testing.assert_array_equal(made.sink_mask, want.sink_mask)
        np.testing.assert_allclose(made.out, want.out, 2e-5, 2e-6)


@pytest.mark.parametrize("backend", PATHS)
def test_streaming_equals_the_last_row_of_the_whole(backend: str) -> None:
    sample = ACT.operation("calibrated_attend").sample(17, seed=7)
    column_sum = np.zeros((3, 0))
    for n in range(1, 18):
        q, k, v = (sample[x][:, :, :n] for x in "qkv")
        column_sum = np.pad(column_sum, ((0, 0), (0, 1)))
        step = run(backend, "streaming_attend", q=q[:, :, -1:], k=k, v=v, column_sum=column_sum)
        whole = run("numpy", q=q, k=k, v=v)
        np.testing.assert_array_equal(step.sink_mask, whole.sink_mask)
        np.testing.assert_allclose(step.out[:, :, 0], whole.out[:, :, -1], 1e-10, 1e-12)
        column_sum = step.column_sum


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize(("n", "threshold"), [(10, 0.1), (20, 0.05), (50, 0.02), (1, 1.0)])
def test_a_mean_that_equals_the_threshold_is_no_sink(
    backend: str, n: int, threshold: float
) -> None:
    q = np.zeros((1, 1, n, 4))  # uniform rows: the last column's mean is 1 / n
    made = run(backend, q=q, k=q, v=np.ones_like(q), threshold=threshold)
    assert not made.sink_mask[0, -1]


def test_gradient_where_next_to_nothing_is_off_the_sinks() -> None:
    import torch

    rng = np.random.default_rng(1)
    q, k = (torch.tensor(x) for x in rng.standard_normal((2, 1, 1, 9, 2)))
    q[..., 0] = 40.0
    k[..., 5, 0] += 4.0  # from row 5 on the other keys share next to nothing
    k[:, :, 6] = k[:, :, 5] + 0.01
    v = torch.tensor(rng.standard_normal((1, 1, 9, 3)))
    seen = torch.ones(9, 9).tril().bool()
    sinks = ACT.run("calibrated_attend", backend="torch", q=q, k=k, v=v).sink_mask[0]
    assert sinks[5:7].all()

    def whole(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        S = torch.where(seen, q @ k.mT * 2**-0.5, -torch.inf)
        a = torch.where(sinks, S.softmax(-1), 0)
        rest = torch.where(sinks, -torch.inf, S).softmax(-1)
        return (0.4 * a + (1 - 0.4 * a.sum(-1, keepdim=True)) * rest) @ v

    cotangent = torch.tensor(rng.standard_normal((1, 1, 9, 3)))
    for output in ("out", "probs_calibrated"):
        leaves = [x.clone().requires_grad_(True) for x in (q, k)]
        made = ACT.run(
            "calibrated_attend", backend="torch", want="all", q=leaves[0], k=leaves[1], v=v
        )
        out = made.out if output == "out" else made.probs_calibrated @ v
        found = torch.autograd.grad((out * cotangent).sum(), leaves)
        want = torch.autograd.grad((whole(*leaves) * cotangent).sum(), leaves)
        for a, b in zip(found, want):
            np.testing.assert_allclose(a, b, 1e-9, 1e-11)


def test_gradient_of_the_edit_through_a_softmax() -> None:
    import torch

    logits = torch.randn(2, 6, 6, dtype=torch.float64, requires_grad=True)

    def edited(logits: torch.Tensor) -> torch.Tensor:
        A = torch.where(torch.ones(6, 6).tril().bool(), logits, -torch.inf).softmax(-1)
        return ACT.run("calibrate", backend="torch", A=A).A_calibrated

    assert torch.autograd.gradcheck(edited, (logits,))


def test_search_keeps_the_heads_that_help() -> None:
    gain = {(2, 0): 0.1, (2, 1): -0.1, (3, 0): 0.0, (3, 1): 0.2}
    tried: list[Any] = []

    def accuracy(heads: list[tuple[int, int]]) -> float:
        tried.append(heads)
        return 0.5 + sum(gain[h] for h in heads)

    assert search_heads(accuracy, list(gain)) == [(2, 0), (3, 1)]
    assert tried == [[], *([h] for h in gain)]
