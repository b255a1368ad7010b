"""Internal consistency: the survey's worked sets, what is refused, what must work, both variants."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from attnlab.contract import InputError
from attnlab.registry import find

EXHIBIT = find("internal_consistency")
PATHS = ["numpy", "numba"]
ALL = ["numpy", "numba", "torch"]


def run(backend: str, operation: str, want: Any = "all", **kwargs: Any) -> dict[str, Any]:
    made = EXHIBIT.run(operation, backend=backend, want=want, **kwargs)._asdict()
    return {k: v.detach().numpy() if hasattr(v, "detach") else v for k, v in made.items()}


@pytest.mark.parametrize("backend", PATHS)
def test_worked_numbers_of_the_survey(backend: str) -> None:
    made = run(backend, "consistency", labels=np.array([4, 3, 3, 3, 4]))
    np.testing.assert_allclose(made["neg_variance"], -0.24)
    np.testing.assert_allclose(made["neg_entropy_bits"], -0.971, atol=5e-4)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize(
    "labels", [[7], [2, 2, 2], [-5, -5, 3], [1, 0, 0, 1], [2**62, -(2**62), 2**62]]
)
def test_against_a_counter(backend: str, labels: list[int]) -> None:
    made = run(backend, "consistency", labels=np.array(labels))
    counts = Counter(labels)  # most_common keeps the order of first places
    p = np.array(list(counts.values())) / len(labels)
    assert made["majority"] == counts.most_common(1)[0][0]
    np.testing.assert_allclose(made["neg_entropy_bits"], (p * np.log2(p)).sum())
    np.testing.assert_allclose(made["neg_variance"], -np.var(np.array(labels, float)), atol=1e-12)
    assert made["unique_ratio"] == len(counts) / len(labels)
    assert not np.signbit(made["neg_entropy_bits"]) or len(counts) > 1  # 0.0, not -0.0


@pytest.mark.parametrize("backend", PATHS)
def test_many_questions_at_once(backend: str) -> None:
    labels = np.random.default_rng(0).integers(-3, 3, (9, 8))
    together = run(backend, "consistency", labels=labels)
    for i, row in enumerate(labels):
        for name, value in run("numpy", "consistency", labels=row).items():
            np.testing.assert_allclose(together[name][i], value, atol=1e-12)


@pytest.mark.parametrize("backend", PATHS)
def test_three_signals_elect_three_winners(backend: str) -> None:
    logprobs = np.log([[0.3, 0.3, 0.3], [0.3, 0.3, 0.3], [0.45, 1, 1], [0.9, 0.8, 0.2]])
    made = run(
        backend, "vote", labels=np.array([1, 1, 2, 3]), logprobs=logprobs,
        lengths=np.array([3, 3, 1, 3]),
    )  # fmt: skip
    assert (made["count_winner"], made["joint_winner"], made["mean_winner"]) == (1, 2, 3)
    np.testing.assert_allclose(made["joint"], [0.027, 0.027, 0.45, 0.144])  # padding never counts
    assert made["weights_totals"] is None


@pytest.mark.parametrize("backend", PATHS)
def test_ties_go_to_the_value_met_first(backend: str) -> None:
    made = run(backend, "vote", labels=np.array([5, 1, 1, 5]), weights=np.full(4, 0.5))
    assert made["count_winner"] == made["weights_winner"] == 5
    np.testing.assert_array_equal(made["answers"], [1, 5])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("backend", PATHS)
def test_logits_of_any_size_give_probabilities(backend: str) -> None:
    logits = np.array([[2000.0, 0.0], [0.0, 2000.0], [-np.inf, 1.0], [1000.0, 1000.0]])
    made = run(backend, "vote", labels=np.array([1, 2, 2, 3]), ptrue_logits=logits)
    np.testing.assert_allclose(made["ptrue"], [1, 0, 0, 0.5])


LAYER = EXHIBIT.operation("isolate_head").sample(6, heads=4, groups=2)
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("consistency", {"labels": np.zeros(0, int)}, "labels: dimension n must be at least 1"),
    ("consistency", {"labels": np.array([1.0, np.nan])}, "labels"),
    ("vote", {"labels": np.array([np.nan] * 5)}, "labels"),
    ("vote", {"lengths": np.array([0, 1, 1, 1, 1])}, "lengths"),
    ("vote", {"lengths": np.array([7, 1, 1, 1, 1])}, "lengths"),
    ("vote", {"lengths": None}, "lengths"),
    ("vote", {"logprobs": np.full((5, 6), 1e-6)}, "logprobs"),
    ("vote", {"weights": np.array([1, 1, -1.0, 1, 1])}, "weights"),
    ("vote", {"weights": np.zeros(5)}, "weights"),
    ("vote", {"ptrue_logits": np.full((5, 2), np.nan)}, "ptrue_logits"),
    ("readout", {"answer_ids": np.array([0, 12])}, "answer_ids"),
    ("readout", {"answer_ids": np.array([-1])}, "answer_ids"),
    ("isolate_head", LAYER | {"keep_head": 4}, "keep_head"),
    ("isolate_head", LAYER | {"keep_head": -5}, "keep_head"),
    ("isolate_head", LAYER | {"coefficient": 1.1}, "coefficient"),
    ("isolate_head", LAYER | {"coefficient": -0.1}, "coefficient"),
    ("isolate_head", LAYER | {"n_kv_heads": 4}, "n_kv_heads"),
    (
        "isolate_head",
        LAYER | {"hidden": np.zeros((1, 6, 15)), "Wo": np.zeros((15, 16))}
        | {k: LAYER[k][:, :15] for k in ("Wq", "Wk", "Wv")},
        "width 15",
    ),
    (
        "isolate_head",
        LAYER | {"n_kv_heads": 3, "Wk": np.zeros((12, 16)), "Wv": np.zeros((12, 16))},
        "do not divide",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "change", "message"), REFUSED)
def test_refused(operation: str, change: dict[str, Any], message: str) -> None:
    op = EXHIBIT.operation(operation)
    for backend in sorted(op.paths - {"cuda"}):
        with pytest.raises(InputError, match=message):
            EXHIBIT.run(operation, backend=backend, **op.sample(5) | change)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("c", [0.0, 0.3])
def test_only_the_kept_head_equals_the_scaled_columns_of_Wo(backend: str, c: float) -> None:
    for h in range(-4, 4):
        bare = run(backend, "isolate_head", want=(), **LAYER | {"keep_head": h, "coefficient": c})
        assert bare["attn"] is bare["plain"] is bare["isolated_code"] is None
        m = np.repeat(np.where(np.arange(4) == h % 4, 1, c), 4)
        whole = run("numpy", "isolate_head", **LAYER | {"Wo": LAYER["Wo"] * m, "keep_head": 0})
        np.testing.assert_allclose(bare["isolated_paper"], whole["plain"], 1e-9, 1e-11)


@pytest.mark.parametrize("backend", ALL)
def test_negative_heads_count_from_the_end_in_both_variants(backend: str) -> None:
    a, b = (
        run(backend, "isolate_head", **LAYER | {"keep_head": h, "coefficient": 0.25})
        for h in (-1, 3)
    )
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("backend", ALL)
def test_one_head_and_one_token(backend: str) -> None:
    op = EXHIBIT.operation("isolate_head")
    made = run(backend, "isolate_head", **op.sample(4, heads=1, keep=0))
    np.testing.assert_allclose(made["isolated_paper"], made["plain"], 1e-12)
    one = run(backend, "isolate_head", **op.sample(1))
    np.testing.assert_array_equal(one["attn"], 1)


@pytest.mark.parametrize("backend", ALL)
def test_a_block_diagonal_Wo_makes_the_variants_agree(backend: str) -> None:
    Wo = np.kron(np.eye(4), np.ones((4, 4))) * LAYER["Wo"]
    made = run(backend, "isolate_head", **LAYER | {"Wo": Wo})
    np.testing.assert_allclose(made["isolated_code"], made["isolated_paper"], 1e-9, 1e-12)
    apart = run(backend, "isolate_head", **LAYER)
    assert np.abs(apart["isolated_code"] - apart["isolated_paper"]).max() > 0.01
