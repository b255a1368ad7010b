"""Faithfulness, plausibility and controls: the vectors, hand-worked cases, and models that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_models import case
from small_models import TEXTS, problem_of
from torch import Tensor

from attnlab.contract import InputError
from attnlab.explain import Attribution, Explained, explain, find
from attnlab.explain import faithfulness as faith
from attnlab.explain import plausibility as plaus
from attnlab.explain.controls import randomisation, randomised
from attnlab.explain.planted import KINDS, Planted, instances, precision, recovery
from attnlab.explain.replacement import outcomes
from attnlab.models.classifier import Classifier, Encoded, Trace

ALL = [m for m in find.__globals__["METHODS"] if m != "flow"]


class Bigrams(Classifier):
    """P(1) = sigmoid(sum_i w[x_i] + sum_i u[x_i, x_(i+1)]); an embedding is the id itself."""

    labels, pad_id, layers, attention_map = ("0", "1"), 0, 0, "none"

    def __init__(self, w: np.ndarray, u: np.ndarray, mask_id: int | None) -> None:
        super().__init__()
        self.w, self.u, self.mask_id = torch.as_tensor(w), torch.as_tensor(u), mask_id

    def encode(self, text: str) -> Encoded:
        ids = np.array([int(i) for i in text.split()])
        return Encoded(tuple(text.split()), ids, np.zeros(len(ids), bool), np.arange(len(ids)))

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        return ids[..., None].double()

    def forward(self, embedded: Tensor, mask: Tensor) -> Tensor:
        assert mask.all()
        ids = embedded[..., 0].long()
        z = self.w[ids].sum(1) + self.u[ids[:, :-1], ids[:, 1:]].sum(1)
        return torch.stack([torch.zeros_like(z), z], dim=-1)

    def trace(self, embedded: Tensor, mask: Tensor, *, rule: str = "gradient") -> Trace:
        raise NotImplementedError

    def block(
        self, layer: int, hidden: Tensor, mask: Tensor, *, keep: Tensor | None = None
    ) -> Tensor:
        raise NotImplementedError


def test_the_vectors() -> None:
    arrays = case("faithfulness")
    ids, signed = arrays["in/token_ids"], arrays["in/scores"]
    model = Bigrams(arrays["param/w"], arrays["param/u"], 0)
    text = model.encode(" ".join(map(str, ids)))
    one = Explained(text, 1, np.array([0.0, 1.0]), {"x": Attribution("x", signed)})
    for replacement, suffix in (("delete", ""), ("mask", "_mask")):
        (found,) = faith.faithfulness(model, [one], replacement=replacement)  # type: ignore[arg-type]
        for metric in ("comprehensiveness", "sufficiency"):
            expected = arrays[f"out/aopc_{metric}{suffix}"]
            np.testing.assert_allclose(found["x"][metric], expected, rtol=1e-8, atol=1e-10)
        if replacement == "delete":
            np.testing.assert_allclose(found["x"]["tau_loo"], arrays["out/tau_loo"], rtol=1e-8)
    rationale = arrays["in/rationale"] == 1
    for metric, k in ((plaus.token_f1, "token_f1_top5"), (plaus.token_iou, "token_iou_top5")):
        np.testing.assert_allclose(metric(signed, rationale, k=5), arrays[f"out/{k}"], rtol=1e-8)
    np.testing.assert_allclose(plaus.auprc(signed, rationale), arrays["out/auprc"], rtol=1e-8)


def _additive(weights: list[float]) -> Bigrams:
    n = len(weights) + 1
    return Bigrams(np.array([0.0, *weights]), np.zeros((n, n)), 0)


def test_metrics_by_hand() -> None:
    """Four tokens worth 2, 1, 0 and -1: the curves are sums of what is left."""
    model = _additive([2.0, 1.0, 0.0, -1.0])
    text = model.encode("1 2 3 4")

    def p(z: float) -> float:
        return 1 / (1 + np.exp(-z))

    (one,) = explain(model, [text], ["leave_one_out"])
    one.attributions = {"right": Attribution("right", np.array([2.0, 1.0, 0.0, -1.0]))}
    (found,) = faith.faithfulness(model, [one])
    right = found["right"]
    deletion = np.array([p(2), p(0), p(-1), p(-1), p(0)])
    insertion = np.array([p(0), p(2), p(3), p(3), p(2)])
    # rationales: floor(q * 4) for q = 0.1 … 1, of the two positive tokens: sizes 1 and 2
    assert right["comprehensiveness"] == pytest.approx(np.mean(deletion[0] - deletion[1:3]))
    assert right["sufficiency"] == pytest.approx(np.mean(deletion[0] - insertion[1:3]))
    assert right["deletion_auc"] == pytest.approx(np.trapezoid(deletion, dx=0.25))
    assert right["insertion_auc"] == pytest.approx(np.trapezoid(insertion, dx=0.25))
    assert right["log_odds"] == pytest.approx(np.log(p(0)) - np.log(p(2)))
    assert right["monotonicity"] == 3 / 4  # the token worth -1 comes back first and lowers P
    assert right["decision_flip"] == 1.0  # logits 0 and 0: class 0 wins the tie
    assert right["flip_fraction"] == 0.25
    assert right["tau_loo"] == 1.0


def test_a_text_that_never_flips_and_a_method_that_finds_nothing() -> None:
    model = _additive([0.0, 0.0])
    (one,) = explain(model, ["1 2"], ["random"])
    one.attributions = {"none": Attribution("none", np.array([-1.0, -2.0]))}
    (found,) = faith.faithfulness(model, [one])
    assert (found["none"]["decision_flip"], found["none"]["flip_fraction"]) == (0.0, 1.0)
    assert (found["none"]["comprehensiveness"], found["none"]["sufficiency"]) == (0.0, 1.0)
    assert np.isnan(found["none"]["tau_loo"])  # no token changes anything: undefined, not 0


def test_infidelity_of_the_truth_is_zero_at_any_scale(model: Classifier) -> None:
    """Drops that are sums of token effects are explained by these effects, in any unit."""
    rng = np.random.default_rng(0)
    subsets, truth = rng.random((64, 6)) < 0.5, rng.normal(size=6)
    effects = faith.Effects(truth, subsets, subsets @ truth)
    special = np.zeros(6, dtype=bool)
    assert faith.infidelity(truth, effects, special) < 1e-20
    assert faith.infidelity(100 * truth, effects, special) < 1e-20
    assert faith.infidelity(rng.normal(size=6), effects, special) > 1e-3


def test_scores_that_are_not_finite_give_nan(bilstm: Classifier) -> None:
    (one,) = explain(bilstm, TEXTS[:1], ["gradient", "random"])
    one.attributions["gradient"].signed[0] = np.nan
    (found,) = faith.faithfulness(bilstm, [one])
    assert np.isnan(list(found["gradient"].values())).all()
    assert np.isfinite(list(found["random"].values())).all()


@pytest.mark.parametrize("replacement", ["pad", "mask", "delete"])
def test_outcomes_are_those_of_the_changed_texts(replacement: str, model: Classifier) -> None:
    texts = [model.encode(t) for t in TEXTS]
    rng = np.random.default_rng(1)
    keeps = [rng.random((7, len(t))) < 0.6 for t in texts]
    found = outcomes(model, texts, keeps, replacement)  # type: ignore[arg-type]
    for text, keep, p in zip(texts, keeps, found):
        for row, probabilities in zip(keep | text.special, p):
            ids = text.ids[row] if replacement == "delete" else text.ids.copy()
            if replacement != "delete":
                ids[~row] = model.pad_id if replacement == "pad" else model.mask_id
            ids = ids if len(ids) else np.array([model.pad_id])
            mask = torch.ones(1, len(ids), dtype=torch.bool)
            with torch.no_grad():
                alone = model(model.embed(torch.as_tensor(ids)[None], mask), mask).softmax(-1)
            np.testing.assert_allclose(probabilities, alone[0].numpy(), atol=1e-6)
    same = outcomes(model, texts[:1], [np.repeat(keeps[0][:1], 3, 0)], replacement)[0]  # type: ignore[arg-type]
    assert (same == same[0]).all()


def test_the_replacement_changes_the_numbers(bilstm: Classifier) -> None:
    done = explain(bilstm, TEXTS, ["integrated_gradients"])
    aucs = {
        rule: [f["integrated_gradients"]["deletion_auc"] for f in faith.faithfulness(bilstm, done, replacement=rule)]  # type: ignore[arg-type]
        for rule in ("pad", "mask", "delete")
    }  # fmt: skip
    assert not np.allclose(aucs["pad"], aucs["delete"], atol=1e-4)
    assert not np.allclose(aucs["pad"], aucs["mask"], atol=1e-4)
    with pytest.raises(InputError, match="did you mean delete"):
        faith.faithfulness(bilstm, done, replacement="deleted")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no mask token"):
        outcomes(Bigrams(np.zeros(2), np.zeros((2, 2)), None), [], [], "mask")


def test_max_sensitivity(bilstm: Classifier) -> None:
    problem = problem_of(bilstm)
    assert (faith.max_sensitivity(problem, find("random"), samples=3) == 0).all()
    near = faith.max_sensitivity(problem, find("gradient"), radius=0.01, samples=5)
    far = faith.max_sensitivity(problem, find("gradient"), radius=0.2, samples=5)
    assert (far > near).all()
    assert (near > 0).all()
    with torch.no_grad():
        again = faith.max_sensitivity(problem, find("attention_gradient"), samples=2)
    assert np.isfinite(again).all()


def test_plausibility_by_hand() -> None:
    scores = np.array([0.9, 0.1, 0.8, -1.0, 0.7])
    rationale = np.array([True, True, False, False, False])
    assert plaus.token_f1(scores, rationale) == 0.5  # picks 0 and 2
    assert plaus.token_iou(scores, rationale) == pytest.approx(1 / 3)
    # our span [0, 1) overlaps theirs [0, 2) by a half: precision 1/2, recall 1
    assert plaus.iou_f1(scores, rationale) == pytest.approx(2 / 3)
    assert plaus.spans(np.array([1, 1, 0, 1], bool)) == [(0, 2), (3, 4)]
    for nothing in (np.zeros(5, bool), np.ones(5, bool)):
        assert np.isnan(plaus.auprc(scores, nothing))
    assert np.isnan(plaus.token_f1(scores, np.zeros(5, bool)))
    assert np.isnan(plaus.token_f1(np.full(5, np.nan), rationale))
    with pytest.raises(InputError, match=r"\(5,\) and \(2,\)"):
        plaus.auprc(scores, rationale[:2])


def test_auprc_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, rationale = rng.integers(0, 4, 9).astype(float), rng.random(9) < 0.4
        if rationale.any() and not rationale.all():
            precision_, recall, _ = metrics.precision_recall_curve(rationale, scores)
            assert plaus.auprc(scores, rationale) == pytest.approx(metrics.auc(recall, precision_))


def test_a_rationale_of_words_covers_their_tokens() -> None:
    words = np.array([-1, 0, 0, 1, 2, -1])
    found = plaus.by_token(words, [True, False, True])
    assert found.tolist() == [False, True, True, False, True, False]
    with pytest.raises(InputError, match="of 1 words, the text has 3"):
        plaus.by_token(words, [True])


def test_random_weights_change_the_maps_and_nothing_else(transformer: Classifier) -> None:
    before = [p.clone() for p in transformer.parameters()]
    other = randomised(transformer, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(before, transformer.parameters()))
    weights = dict(other.named_parameters())
    assert torch.equal(weights["embedding.weight"][0], transformer.embedding.weight[0])
    for name, own in transformer.named_parameters():
        torch.testing.assert_close(weights[name].flatten().sort()[0], own.flatten().sort()[0])
    assert not torch.equal(weights["decoder.weight"], transformer.decoder.weight)
    done = explain(transformer, TEXTS, ["integrated_gradients", "random"])
    found = randomisation(other, done)
    assert all(f["random"] == pytest.approx(1) for f in found)  # knows nothing of the model
    assert all(f["integrated_gradients"] < 0.999 for f in found)


@pytest.mark.parametrize("kind", KINDS)
def test_planted_models_use_exactly_the_words_they_say(kind: str) -> None:
    model = Planted(kind)
    for one in instances(kind, 8):
        text = model.encode(one.text)
        relevant, n = np.flatnonzero(one.relevant), len(text)
        keep = np.ones((3, n), dtype=bool)
        keep[1, ~one.relevant] = False  # the relevant words alone
        keep[2, relevant] = False
        p = outcomes(model, [text], [keep])[0][:, 1]
        assert p[0] > 0.9
        assert p[1] > 0.9
        assert p[2] < 0.1
        if kind in ("unattended", "either", "both"):
            assert p[1] == pytest.approx(p[0], abs=1e-6)  # the other words do nothing at all


def test_methods_are_right_and_wrong_where_they_should_be() -> None:
    found = {k: {m: v.mean() for m, v in by.items()} for k, by in recovery(ALL, count=12).items()}
    assert found["attended"]["attention"] == 1
    assert found["unattended"]["attention"] == 0  # it names the decoys
    assert found["unattended"]["leave_one_out"] == 1
    assert found["either"]["leave_one_out"] < 0.4  # each key word alone can be missed
    assert found["either"]["gradient"] < 0.4
    for kind in KINDS:
        for method in ("integrated_gradients", "kernel_shap", "deep_lift", "lime"):
            assert found[kind][method] > 0.95, (kind, method)
        assert found[kind]["random"] < 0.6


def test_precision_counts_ties_as_expected() -> None:
    relevant = np.array([True, False, False, True])
    assert precision(np.array([3.0, 1, 1, 2]), relevant) == 1
    assert precision(np.ones(4), relevant) == 0.5
    assert np.isnan(precision(np.array([np.nan, 1, 1, 2]), relevant))
