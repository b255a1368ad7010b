"""What every method must do, and the attention methods against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from golden_models import case
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from small_models import TEXTS, close, problem_of

from attnlab.contract import InputError
from attnlab.explain import METHODS, PathsDiffer, attribute, explain, find
from attnlab.explain.attention import read
from attnlab.explain.deeplift import deep_lift
from attnlab.explain.flow import max_flow
from attnlab.explain.problem import buckets, choose
from attnlab.models.classifier import Classifier, Trace
from attnlab.models.text_transformer import TextTransformer


@pytest.mark.parametrize("method", METHODS)
def test_scores_do_not_depend_on_the_batch(method: str, model: Classifier) -> None:
    together = attribute(model, TEXTS, method, seed=3)
    for text, one in zip(TEXTS, together):
        (alone,) = attribute(model, [text], method, seed=3)
        assert one.signed.shape == (len(model.encode(text)),)
        assert one.signed.dtype == np.float64
        assert np.isfinite(one.signed).all()
        close(one.signed, alone.signed)
        if not METHODS[method].signed:
            assert (one.signed >= 0).all()
        np.testing.assert_array_equal(one.unsigned, np.abs(one.signed))


def test_padding_inside_a_batch_changes_nothing(model: Classifier) -> None:
    """Texts of very different lengths forced into one batch."""
    problem = problem_of(model)
    for method in METHODS.values():
        rows = method.function(problem).detach().numpy()
        for row, text in enumerate(TEXTS):
            (alone,) = attribute(model, [text], method.name)
            close(rows[row, : len(alone.signed)], alone.signed, atol=2e-6)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 200))
@settings(deadline=None)
def test_buckets_hold_every_text_once_within_the_limits(lengths: list[int], tokens: int) -> None:
    found = buckets(lengths, tokens, waste=0.1)
    assert sorted(i for bucket in found for i in bucket) == list(range(len(lengths)))
    for bucket in found:
        own = [lengths[i] for i in bucket]
        assert min(own) >= 0.9 * max(own)
        assert len(own) == 1 or len(own) * max(own) <= tokens


def test_complete_methods_sum_to_the_change_from_the_baseline(model: Classifier) -> None:
    """The quadrature of integrated gradients needs steps: layer norms bend sharply near the baseline."""
    options = {"integrated_gradients": {"n_steps": 800}}
    for one in explain(model, TEXTS, ["integrated_gradients", "kernel_shap"], options=options):
        for attribution in one.attributions.values():
            assert attribution.gap is not None
            assert abs(attribution.gap) < 1e-3, attribution.method


def test_kernel_shap_of_a_short_text_is_the_shapley_value(model: Classifier) -> None:
    text = "good , not dull"
    problem = problem_of(model, [text])
    n = problem.ids.shape[1]

    def value(members: tuple[int, ...]) -> float:
        keep = torch.zeros(1, 1, n, dtype=torch.bool)
        keep[..., list(members)] = True
        return float(problem.values(problem.blend(keep)))

    exact = np.zeros(n)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for size in range(n):
            weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
            for members in itertools.combinations(others, size):
                exact[i] += weight * (value((*members, i)) - value(members))
    (ours,) = attribute(model, [text], "kernel_shap")
    close(ours.signed, exact)


def test_deep_lift_is_complete_where_the_rule_covers_every_nonlinearity() -> None:
    """Linear, ReLU, Linear to one logit: the rescale rule loses nothing."""
    from golden_models import MLP, golden_problem

    arrays = case("attrib_mlp")
    problem = golden_problem(MLP(arrays), arrays, "logit")
    close(deep_lift(problem).sum(1), problem.gain)


def test_rollout_and_flow_agree_with_the_vectors() -> None:
    arrays = case("attn_graph")
    stack = torch.as_tensor(arrays["in/attention"])  # (B, L, H, S, S)
    from attnlab.explain.attention import with_residual

    maps = [with_residual(stack[:, l]) for l in reversed(range(stack.shape[1]))]
    first = torch.zeros(stack.shape[0], stack.shape[-1], dtype=stack.dtype)
    first[:, 0] = 1
    row = first
    for each in maps:
        row = torch.einsum("bq,bqn->bn", row, each)
    np.testing.assert_allclose(row, arrays["out/rollout_cls"], rtol=1e-6, atol=1e-7)
    flows = max_flow(first, maps, torch.ones_like(first, dtype=torch.bool))
    np.testing.assert_allclose(flows, arrays["out/flow_cls"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_flow_is_the_optimum_of_the_linear_programme(layers: int) -> None:
    rng = np.random.default_rng(layers)
    n = 4
    maps = rng.dirichlet(np.full(n, 0.4), size=(layers, n))
    row = rng.dirichlet(np.ones(n))
    ours = max_flow(
        torch.as_tensor(row)[None],
        [torch.as_tensor(m)[None] for m in maps],
        torch.ones(1, n, dtype=torch.bool),
    )[0]
    top, below = row @ maps[0], maps[1:]
    exact = []
    for sink in range(n):
        # variables: source edges, then every map's edges; what enters a node leaves it
        capacity = np.concatenate([top, below.ravel()])
        edges = [(("s", 0), (0, j)) for j in range(n)]
        edges += [
            ((l, j), (l + 1, k)) for l in range(layers - 1) for j in range(n) for k in range(n)
        ]
        goal = (layers - 1, sink)
        inner = [(l, j) for l in range(layers) for j in range(n) if (l, j) != goal]
        balance = np.zeros((len(inner), len(edges)))
        gain = np.zeros(len(edges))
        for e, (a, b) in enumerate(edges):
            if a in inner:
                balance[inner.index(a), e] -= 1  # type: ignore[arg-type]
            if b in inner:
                balance[inner.index(b), e] += 1
            gain[e] = (b == goal) - (a == goal)
        best = linprog(
            -gain, A_eq=balance, b_eq=np.zeros(len(inner)), bounds=[(0, c) for c in capacity]
        )
        exact.append(-best.fun)
    np.testing.assert_allclose(ours, np.array(exact) / sum(exact), atol=1e-9)


def test_the_row_that_is_read_is_found(transformer: Classifier, bilstm: Classifier) -> None:
    shares = read(problem_of(transformer)).queries
    first = torch.zeros_like(shares[0])
    first[:, 0] = 1  # this model classifies from [CLS]
    assert all(torch.equal(share, first) for share in shares)
    assert all(
        torch.equal(share, torch.ones(len(TEXTS), 1)) for share in read(problem_of(bilstm)).queries
    )

    class Averaging(TextTransformer):
        def forward(self, embedded, mask):  # type: ignore[no-untyped-def]
            return self.trace(embedded, mask).logits

        def trace(self, embedded, mask, *, rule="gradient"):  # type: ignore[no-untyped-def]
            trace = super().trace(embedded, mask, rule=rule)
            mean = (trace.hidden[-1] * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            return trace._replace(logits=self.decoder(mean))

    averaging = Averaging(transformer.vocabulary, transformer.labels, transformer.configuration)
    averaging.load_state_dict(transformer.state_dict())
    problem = problem_of(averaging.eval())
    uniform = problem.mask / problem.mask.sum(1, keepdim=True)
    close(read(problem).queries[0], uniform)


def test_attention_of_one_head_and_layer(transformer: Classifier) -> None:
    (one,) = attribute(transformer, TEXTS[:1], "attention", layer=1, head=0)
    trace = problem_of(transformer, TEXTS[:1]).trace()
    close(one.signed, trace.weights[1][0, 0, 0].detach())
    (mean,) = attribute(transformer, TEXTS[:1], "attention")
    close(mean.signed, torch.stack(trace.weights)[:, 0, :, 0].mean((0, 1)).detach())
    with pytest.raises(ValueError, match="layer must be from 0 to 1, but is 2"):
        attribute(transformer, TEXTS[:1], "attention", layer=2)


def test_attention_norm_is_the_norm_of_what_is_moved(transformer: Classifier) -> None:
    trace = problem_of(transformer, TEXTS[:1]).trace()
    norms = [
        torch.einsum("hn,hnd->nd", w[0, :, 0], v[0]).norm(dim=-1)
        for w, v in zip(trace.weights, trace.values)
    ]
    (ours,) = attribute(transformer, TEXTS[:1], "attention_norm")
    close(ours.signed, torch.stack(norms).mean(0).detach())


def test_value_zeroing_by_hand(transformer: Classifier) -> None:
    problem = problem_of(transformer, TEXTS[1:2])
    trace = problem.trace()
    n = problem.ids.shape[1]
    maps = []
    for layer in range(2):
        c = np.zeros((n, n))
        for j in range(n):
            keep = torch.ones(1, n, dtype=torch.bool)
            keep[0, j] = False
            with torch.no_grad():
                out = transformer.block(layer, trace.hidden[layer], problem.mask, keep=keep)
            a, b = out[0].double().numpy(), trace.hidden[layer + 1][0].detach().double().numpy()
            c[:, j] = 1 - (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        maps.append(c / c.sum(1, keepdims=True))
    (ours,) = attribute(transformer, TEXTS[1:2], "value_zeroing")
    np.testing.assert_allclose(ours.signed, (maps[1] @ maps[0])[0], atol=1e-4)


def test_gradient_weighted_attention_by_hand(transformer: Classifier) -> None:
    problem = problem_of(transformer, TEXTS[1:2])
    trace = problem.trace()
    output = choose(trace.logits, problem.target, "probability").sum()
    grads = torch.autograd.grad(output, trace.weights)
    relevance = torch.eye(problem.ids.shape[1])
    for w, g in zip(trace.weights, grads):
        relevance = relevance + (w * g).clamp(min=0).mean(1)[0] @ relevance
    (ours,) = attribute(transformer, TEXTS[1:2], "attention_gradient")
    close(ours.signed, relevance[0].detach())


def test_lrp_conserves_the_logit_of_a_model_without_biases(bilstm: Classifier) -> None:
    import copy

    model = copy.deepcopy(bilstm)
    for name, parameter in model.named_parameters():
        if "bias" in name:
            parameter.data.zero_()
    problem = problem_of(model, TEXTS[:1])
    (ours,) = attribute(model, TEXTS[:1], "lrp")
    logit = choose(model(problem.embedded, problem.mask), problem.target, "logit")
    assert ours.signed.sum() == pytest.approx(logit.item(), rel=1e-4)


def test_another_function_on_the_readable_path_is_noticed(bilstm: Classifier) -> None:
    class Different(type(bilstm)):  # type: ignore[misc]
        def trace(self, *args: object, **options: object) -> Trace:
            trace = super().trace(*args, **options)
            return trace._replace(logits=trace.logits + 1e-3)

    model = Different(bilstm.vocabulary, bilstm.labels, bilstm.configuration).eval()
    for method in ("attention", "rollout", "value_zeroing", "lrp", "attention_gradient"):
        with pytest.raises(PathsDiffer, match="differ from the fast path's"):
            attribute(model, TEXTS, method)
    assert len(attribute(model, TEXTS, "integrated_gradients")) == len(TEXTS)


def test_a_gradient_behind_a_layer_norm_sums_to_zero(transformer: Classifier) -> None:
    """Why the length is taken: every path from the embedding leads through a norm that ignores constants."""
    problem = problem_of(transformer)
    raw = problem.gradient(problem.embedded[None])[0] * problem.mask[..., None]
    assert raw.sum(-1).abs().max() < 1e-5 * raw.norm(dim=-1).max()


def test_a_score_that_is_undefined_stays_undefined(bilstm: Classifier) -> None:
    import copy

    model = copy.deepcopy(bilstm)
    model.embedding.weight.data[model.encode("dull").ids[0]] = torch.nan
    spoilt, clean = attribute(model, ["dull , slow", "a lovely film"], "input_x_gradient", target=0)
    assert np.isnan(spoilt.signed).any()
    assert np.isfinite(clean.signed).all()


def test_targets_and_outputs(transformer: Classifier) -> None:
    by_name = explain(transformer, TEXTS, ["gradient"], target="good")
    by_number = explain(transformer, TEXTS, ["gradient"], target=2)
    each = explain(transformer, TEXTS, ["gradient"], target=[2] * len(TEXTS))
    logit = explain(transformer, TEXTS, ["gradient"], target=2, output="logit")
    for a, b, c, d in zip(by_name, by_number, each, logit):
        assert a.target == b.target == c.target == d.target == 2
        np.testing.assert_array_equal(
            a.attributions["gradient"].signed, b.attributions["gradient"].signed
        )
        np.testing.assert_array_equal(
            a.attributions["gradient"].signed, c.attributions["gradient"].signed
        )
        assert not np.allclose(a.attributions["gradient"].signed, d.attributions["gradient"].signed)
        assert a.probabilities.sum() == pytest.approx(1)


def test_random_scores_follow_the_seed(bilstm: Classifier) -> None:
    first, again, other = (attribute(bilstm, TEXTS, "random", seed=s)[0].signed for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_model_in_training_is_explained_without_dropout(bilstm: Classifier) -> None:
    calm = attribute(bilstm, TEXTS, "gradient")
    bilstm.train()
    try:
        again = attribute(bilstm, TEXTS, "gradient")
        assert bilstm.dropout.training
    finally:
        bilstm.eval()
    for a, b in zip(calm, again):
        np.testing.assert_array_equal(a.signed, b.signed)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"methods": ["integrated_gradient"]}, "did you mean integrated_gradients"),
        ({"methods": []}, "no method is named"),
        ({"target": "goood"}, "did you mean good"),
        ({"target": 7}, "target 7 is none of bad, middling, good"),
        ({"target": [1]}, "target names 1 classes for 5 texts"),
        ({"output": "loss"}, "output must be probability or logit"),
        ({"texts": ["good", " "]}, "text 1: "),
        ({"texts": []}, "at least one text"),
    ],
)
def test_bad_calls_are_refused_by_name(transformer: Classifier, call: dict, message: str) -> None:
    asked = {"texts": TEXTS, "methods": ["gradient"]} | call
    with pytest.raises(InputError, match=message):
        explain(transformer, **asked)


def test_every_method_names_its_source() -> None:
    for name, method in METHODS.items():
        assert find(name) is method
        assert method.source
        assert method.function.__doc__


def test_rounding_is_told_from_another_function(bilstm: Classifier) -> None:
    """Paths that are apart in float32 are compared in float64, where only a true difference stays."""

    class Rounding(type(bilstm)):  # type: ignore[misc]
        def trace(self, *args: object, **options: object) -> Trace:
            trace = super().trace(*args, **options)
            noise = 1e-3 if trace.logits.dtype == torch.float32 else 0.0
            return trace._replace(logits=trace.logits + noise)

    model = Rounding(bilstm.vocabulary, bilstm.labels, bilstm.configuration).eval()
    assert len(attribute(model, TEXTS, "attention")) == len(TEXTS)
    assert len(attribute(model, TEXTS, "lrp")) == len(TEXTS)
    assert next(model.parameters()).dtype == torch.float32
