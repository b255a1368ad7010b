"""Progressive self-supervised attention: what is refused, what must work, and brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attnlab.contract import InputError
from attnlab.registry import find

PSS = find("pss_attention")
PATHS = ["numpy", "numba", "torch"]


def value(backend: str, operation: str, **kwargs: Any) -> dict[str, Any]:
    def home(v: Any) -> Any:
        if isinstance(v, list):
            return [home(x) for x in v]
        return v.detach().numpy() if hasattr(v, "detach") else v

    made = PSS.run(operation, backend=backend, want="all", **kwargs)._asdict()
    return {k: home(v) for k, v in made.items()}


def mined(backend: str, alphas: Any, **options: Any) -> dict[str, Any]:
    """`mine` on attentions given as nested lists; word ids 1, 2, ..., all words real."""
    alphas = np.array(alphas, float)
    batch, n = alphas.shape[1:]
    wids = np.tile(np.arange(1, n + 1), (batch, 1))
    return value(backend, "mine", alphas=alphas, wids=wids, dist=wids - 1, **options)


REFUSED = [
    ("mine", {"alphas": np.zeros((0, 4, 6))}, "rounds"),
    ("mine", {"alphas": np.full((3, 4, 6), 0.5)}, "sum to 1"),
    ("mine", {"alphas": np.full((3, 4, 6), np.nan)}, "alphas must be finite"),
    ("mine", {"max_entropy_bits": 0.0}, "max_entropy_bits"),
    ("mine", {"max_entropy_bits": -1.0}, "max_entropy_bits"),
    ("mine", {"dist": np.full((4, 6), -1)}, "empty"),
    ("mine", {"dist": np.full((4, 6), -2)}, "dist"),
    ("classify", {"polarity": np.array([0, 1, 3])}, "polarity"),
    ("classify", {"polarity": np.array([0, 1, -1])}, "polarity"),
    ("classify", {"text_length": np.array([6, 1, 0])}, "empty"),
    ("classify", {"text_length": np.array([6, 1, 7])}, "text_length"),
    ("classify", {"text": np.full((3, 6), 20)}, "text"),
    ("classify", {"text": np.full((3, 6), -1)}, "text"),
    ("classify", {"aspect": np.full((3, 2), 20)}, "aspect"),
    ("classify", {"attention_mask": np.full((3, 6), 2)}, "attention_mask"),
    ("classify", {"hops": 0}, "hops"),
    ("classify", {"lam": -0.1}, "lam"),
    ("classify", {"value_norm": "none"}, "value_norm"),
    ("gradient_weights", {"mask": np.full((3, 6), 0.5)}, "mask"),
    ("read_lines", {"lines": np.array(["good/p food", " "])}, "empty"),
    ("read_lines", {"lines": np.array(["no aspect here"])}, "tagged"),
    ("read_lines", {"lines": np.array(["and/or w/people"])}, "tagged"),
    ("evaluate", {"pred": np.full(6, 3)}, "pred"),
    ("evaluate", {"gold": np.full(6, -1)}, "gold"),
]


@pytest.mark.parametrize(("operation", "change", "message"), REFUSED)
def test_refused(operation: str, change: dict[str, Any], message: str) -> None:
    op = PSS.operation(operation)
    for backend in sorted(op.paths - {"cuda"}):
        with pytest.raises(InputError, match=message):
            PSS.run(operation, backend=backend, **op.sample(6) | change)


@pytest.mark.parametrize("backend", PATHS)
def test_equal_words_give_the_first_and_one_word_has_no_entropy(backend: str) -> None:
    made = mined(backend, [[[0.4, 0.4, 0.2], [0.2, 0.4, 0.4]]])
    np.testing.assert_array_equal(made["amask"], [[1, 0, 0], [0, 1, 0]])
    one = mined(backend, [[[-1.0]]])
    assert one["entropy_bits"] == 0
    assert (one["amask"], one["avalue"], one["erased_wids_after"][1]) == (1, 0, 0)


@pytest.mark.parametrize("backend", PATHS)
def test_a_sentence_of_which_nothing_is_left(backend: str) -> None:
    """Two words, three rounds: the third finds nothing, unless as in the released code."""
    peeled = [[[0.9, 0.1]], [[0.0, 1.0]], [[0.0, 0.0]]]
    made = mined(backend, peeled)
    np.testing.assert_array_equal(made["avalue"], [[1, 1]])
    np.testing.assert_array_equal(made["erase_mask_after"][3], [[0, 0]])
    lone = [[[0.0, 1.0]], [[0.0, 0.0]]]
    np.testing.assert_array_equal(mined(backend, lone)["amask"], [[0, 1]])
    released = mined(backend, lone, skip_empty=False)
    np.testing.assert_array_equal(released["amask"], [[1, 1]])
    np.testing.assert_array_equal(released["avalue"], [[0, 1]])


@pytest.mark.parametrize("backend", PATHS)
def test_flat_attention_is_left_alone_and_sixteen_words_are_four_bits(backend: str) -> None:
    flat = np.full((1, 1, 17), 1 / 17)
    assert mined(backend, flat)["amask"].sum() == 0
    assert mined(backend, flat, max_entropy_bits=4.2)["amask"].sum() == 1
    np.testing.assert_allclose(mined(backend, np.full((1, 1, 16), 1 / 16))["entropy_bits"], 4)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_halves_of_halves_have_exact_entropies(backend: str, dtype: str) -> None:
    """An entropy that equals eps extracts nothing: sums of powers of 2 have no rounding to blame."""
    rng = np.random.default_rng(0)
    for words in (2, 5, 8, 14, 22, 30):
        alpha = [1.0]
        while len(alpha) < words:
            half = alpha.pop(int(rng.integers(len(alpha)))) / 2
            alpha += [half, half]
        row = np.zeros((1, 1, 31), dtype)
        row[0, 0, :words] = alpha
        eps = float(-np.sum(np.array(alpha) * np.log2(alpha)))
        ids = np.ones((1, 31), int)
        made = value(backend, "mine", alphas=row, wids=ids, dist=ids, max_entropy_bits=eps)
        assert made["entropy_bits"][0, 0] == eps
        assert not made["amask"].any()


@pytest.mark.parametrize("backend", PATHS)
def test_mining_against_one_vectorised_pass(backend: str) -> None:
    for seed in range(4):
        sample = PSS.operation("mine").sample(23, seed, batch=40, rounds=5, sharpness=1.0)
        eps = 3.0
        made = value(backend, "mine", **sample, max_entropy_bits=eps)
        weight = abs(sample["alphas"])
        bits = -(weight * np.log2(np.where(weight > 0, weight, 1))).sum(-1)
        hit = (
            np.eye(23, dtype=bool)[weight.argmax(-1)]
            & ((bits < eps) & (weight.max(-1) > 0))[..., None]
        )
        np.testing.assert_allclose(made["entropy_bits"], bits, atol=1e-12)
        np.testing.assert_array_equal(made["amask"], hit.any(0))
        np.testing.assert_array_equal(made["avalue"], (hit & (sample["alphas"] > 0)).any(0))
        gone = np.concatenate([np.zeros_like(hit[:1]), np.logical_or.accumulate(hit)])
        real = sample["dist"] >= 0
        np.testing.assert_array_equal(made["erase_mask_after"], real & ~gone)
        np.testing.assert_array_equal(made["erased_wids_after"], np.where(gone, 0, sample["wids"]))


@pytest.mark.parametrize("backend", PATHS)
def test_sentences_are_mined_one_by_one(backend: str) -> None:
    sample = PSS.operation("mine").sample(9, seed=2, batch=6)
    whole = value(backend, "mine", **sample)
    for b in range(6):
        alone = value(
            backend,
            "mine",
            alphas=sample["alphas"][:, b : b + 1],
            wids=sample["wids"][b : b + 1],
            dist=sample["dist"][b : b + 1],
        )
        for name in ("mask", "amask", "avalue", "position_weight"):
            np.testing.assert_array_equal(whole[name][b], alone[name][0])
        np.testing.assert_array_equal(whole["entropy_bits"][:, b], alone["entropy_bits"][:, 0])


@pytest.mark.parametrize("backend", PATHS)
def test_position_weight_ends_at_forty_words(backend: str) -> None:
    dist = np.array([[0, 39, 40, 41, 200, -1]])
    alphas = np.full((1, 1, 6), 0.2)
    alphas[..., -1] = 0
    made = value(backend, "mine", alphas=alphas, wids=np.ones((1, 6), int), dist=dist)
    np.testing.assert_allclose(made["position_weight"], [[1, 1 / 40, 0, 0, 0, 0]], atol=1e-15)


def by_loops(s: dict[str, Any], hops: int, lam: float, norm: str) -> dict[str, Any]:
    """The memory network as the authors write it: -1e9 on hidden words, one sentence at a time."""
    probabilities, alphas, class_losses, attention_losses = [], [], [], []
    for b, ids in enumerate(s["text"]):
        seen = np.arange(len(ids)) < s["text_length"][b]
        if "mask" in s:
            seen = seen & s["mask"][b]
        u = np.mean([s["embedding_B"][a] for a in s["aspect"][b]], axis=0)
        for _ in range(hops):
            scores = np.array([s["embedding_A"][i] @ (u @ s["M"]) for i in ids]) - 1e9 * ~seen
            e = np.exp(scores - scores.max())
            alpha = e / e.sum() if seen.any() else 0 * e
            u = sum(w * s["embedding_C"][i] for w, i in zip(alpha, ids)) + u @ s["H"]
        e = np.exp(u @ s["W"])
        avalue = s["attention_value"][b]
        if norm == "guarded":
            avalue = avalue / max(1, avalue.sum())
        elif norm == "released":
            avalue = avalue / avalue.sum() if avalue.sum() else avalue * np.nan
        probabilities.append(e / e.sum())
        alphas.append(alpha)
        class_losses.append(-np.log(e[s["polarity"][b]] / e.sum()))
        attention_losses.append(((s["attention_mask"][b] * alpha - avalue) ** 2).sum())
    made = {"probabilities": probabilities, "alpha": alphas, "class_loss": np.mean(class_losses)}
    made["attention_loss"] = np.mean(attention_losses)
    made["loss"] = made["class_loss"] + lam * made["attention_loss"]
    return made


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("norm", ["given", "guarded", "released"])
@pytest.mark.parametrize("erased", [False, True])
def test_the_network_by_loops(backend: str, norm: str, erased: bool) -> None:
    for hops in (1, 2, 4):
        s = PSS.headline.sample(11, seed=hops, batch=19, erased=erased)
        s["attention_value"] = (s["attention_value"] > 0) * 1.0  # 0/1, as `mine` returns them
        s["attention_mask"][0] = True
        s["attention_value"][0] = 1
        if norm == "released":  # each sentence needs an active word
            s["attention_value"][:, 0] = 1
        made = value(backend, "classify", **s, hops=hops, lam=0.3, value_norm=norm)
        for name, expected in by_loops(s, hops, 0.3, norm).items():
            np.testing.assert_allclose(made[name], expected, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("backend", PATHS)
def test_no_active_words_cost_the_misleading_alone_and_the_released_code_is_nan(
    backend: str,
) -> None:
    s = PSS.headline.sample(7, seed=3)
    s["attention_value"][:] = 0
    for norm in ("given", "guarded"):
        made = value(backend, "classify", **s, value_norm=norm)
        cost = ((s["attention_mask"] * made["alpha"]) ** 2).sum(1).mean()
        np.testing.assert_allclose(made["attention_loss"], cost)
    assert np.isnan(value(backend, "classify", **s, value_norm="released")["attention_loss"])


@pytest.mark.parametrize("backend", PATHS)
def test_an_erased_sentence_attends_to_nothing(backend: str) -> None:
    s = PSS.headline.sample(5, seed=1) | {"mask": np.ones((3, 5), bool)}
    s["mask"][1] = False
    made = value(backend, "classify", **s)
    np.testing.assert_array_equal(made["alpha"][1], 0)
    u = s["embedding_B"][s["aspect"][1]].mean(0) @ s["H"]
    p = np.exp(u @ s["W"])
    np.testing.assert_allclose(made["probabilities"][1], p / p.sum())
    assert np.isfinite(made["loss"])


def test_an_erased_sentence_has_finite_gradients() -> None:
    import torch

    s = PSS.headline.sample(5, seed=1) | {"mask": np.zeros((3, 5), bool)}
    s["embedding_A"] = torch.tensor(s["embedding_A"], requires_grad=True)
    PSS.run("classify", backend="torch", want=("loss",), **s).loss.backward()
    assert torch.isfinite(s["embedding_A"].grad).all()


def test_the_regulariser_is_least_when_attention_is_even_on_active_words() -> None:
    rng = np.random.default_rng(0)
    amask, avalue = np.array([1, 1, 0, 1, 0]), np.array([0.5, 0.5, 0, 0, 0])
    best = ((amask * avalue - avalue) ** 2).sum()
    drawn = rng.dirichlet(np.ones(5), 2000)
    assert best == 0
    assert (((amask * drawn - avalue) ** 2).sum(1) > best).all()


@pytest.mark.parametrize("backend", PATHS)
def test_gradient_weights_by_loops(backend: str) -> None:
    s = PSS.operation("gradient_weights").sample(8, seed=4, batch=5)
    s["mask"][2, 6:] = False
    s["target_mask"][3] = True  # nothing but the target: no context is left
    made = value(backend, "gradient_weights", **s)["alpha"]
    for b in range(5):
        row = np.zeros(8)
        for i in range(8):
            if s["mask"][b, i] and not s["target_mask"][b, i]:
                row[i] = np.mean([g[b, i] @ s["embedding"][b, i] for g in s["gradients"]])
        low = row.min()
        row = (row - low) * s["mask"][b] * ~s["target_mask"][b]
        np.testing.assert_allclose(made[b], row / row.sum() if row.sum() else row, atol=1e-14)
    np.testing.assert_array_equal(made[3], 0)


def test_reading_cuts_the_tag_and_the_released_reader_eats_letters() -> None:
    lines = np.array(["the pizza/p was great", "no/n onion/n soup/n", "w/people the wine/0"])
    made = PSS.run("read_lines", lines=lines)
    assert made.target_words.tolist() == ["pizza", "no onion soup", "wine"]
    assert made.words.tolist() == ["the pizza was great", "no onion soup", "w/people the wine"]
    assert made.y.tolist() == [1, 0, 2]
    assert made.dist.tolist() == [[1, 0, 1, 2], [0, 1, 2, -1], [2, 1, 0, -1]]
    assert made.beg_end.tolist() == [[1, 2], [0, 3], [2, 3]]
    eaten = PSS.run("read_lines", lines=lines[:2], strip_characters=True)
    assert eaten.target_words.tolist() == ["izza", "o onio soup"]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_scores_by_precision_and_recall(backend: str) -> None:
    rng = np.random.default_rng(1)
    for n in (1, 2, 50, 3000):
        pred, gold = rng.integers(0, 3, (2, n))
        made = value(backend, "evaluate", pred=pred, gold=gold)
        f1 = []
        for c in range(3):
            hits = ((pred == c) & (gold == c)).sum()
            precision = hits / max((pred == c).sum(), 1)
            recall = hits / max((gold == c).sum(), 1)
            f1.append(2 * precision * recall / max(precision + recall, 1e-300))
        np.testing.assert_allclose(made["macro_f1"], np.mean(f1))
        np.testing.assert_allclose(made["accuracy"], (pred == gold).mean())


def test_a_module_learns_its_sentences() -> None:
    import torch

    torch.manual_seed(0)
    net = PSS.headline.module(vocabulary=20, dim=8, hops=2, lam=0.5)
    s = PSS.headline.sample(9, batch=12)
    inputs = {k: torch.as_tensor(v) for k, v in s.items() if k not in dict(net.named_parameters())}
    inputs["attention_value"] = inputs["attention_value"].float()
    adam = torch.optim.Adam(net.parameters(), 0.02)
    losses = []
    for _ in range(60):
        loss = net(**inputs, want=("loss",)).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
