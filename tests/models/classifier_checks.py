"""What every classifier must hold to be explained; each model's tests call these."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from attnlab.models.classifier import Classifier, Trace, pad

TEXTS = (
    "The soup was cold, and the waiter didn't care.",
    "Lovely.",
    "I wanted to hate this film but its last hour is a quiet, honest marvel of acting.",
)


def batch(model: Classifier, texts=TEXTS) -> tuple[Tensor, Tensor]:
    return pad([model.encode(text) for text in texts], model.pad_id)


def check_encoding(model: Classifier) -> None:
    for text in TEXTS:
        encoded = model.encode(text)
        words = text.split()
        assert encoded.ids.dtype == np.int64
        assert len(encoded.tokens) == len(encoded.special) == len(encoded.words) == len(encoded)
        assert (encoded.words[encoded.special] == -1).all()
        own = encoded.words[~encoded.special]
        assert (np.diff(own) >= 0).all()
        assert set(own) == set(range(len(words))), "every word has a token"


def check_padding(model: Classifier, atol: float = 1e-5) -> None:
    """An instance's logits are those that it has alone, and masked tokens do not matter."""
    ids, mask = batch(model)
    with torch.no_grad():
        together = model(model.embed(ids, mask), mask)
        for row, text in enumerate(TEXTS):
            i, m = batch(model, [text])
            torch.testing.assert_close(
                model(model.embed(i, m), m)[0], together[row], atol=atol, rtol=0
            )
        embedded = model.embed(ids, mask)
        noise = torch.where(mask[..., None], embedded, torch.randn_like(embedded))
        torch.testing.assert_close(model(noise, mask), together, atol=atol, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-4, "the model reads its input"


def check_gap(model: Classifier, atol: float = 1e-5) -> None:
    """A token masked in the middle has no influence, on neither path."""
    ids, mask = batch(model)
    mask[2, 3] = False
    with torch.no_grad():
        embedded = model.embed(ids, mask)
        other = embedded.clone()
        other[2, 3] += 1
        a, b = model(embedded, mask), model(other, mask)
        c = model.trace(other, mask).logits
    torch.testing.assert_close(a, b, atol=atol, rtol=0)
    torch.testing.assert_close(a, c, atol=atol, rtol=0)


def check_trace(model: Classifier, atol: float = 1e-5) -> Trace:
    """The trace's logits are the fast path's, its maps are maps, its blocks follow each other."""
    ids, mask = batch(model)
    with torch.no_grad():
        embedded = model.embed(ids, mask)
        fast, trace = model(embedded, mask), model.trace(embedded, mask)
        lrp = model.trace(embedded, mask, rule="lrp")
        torch.testing.assert_close(trace.logits, fast, atol=atol, rtol=0)
        torch.testing.assert_close(lrp.logits, fast, atol=atol, rtol=0)
        assert len(trace.weights) == len(trace.values) == model.layers
        assert len(trace.hidden) == model.layers + 1
        for layer, (weights, values) in enumerate(zip(trace.weights, trace.values, strict=True)):
            rows, n = mask.shape
            assert weights.shape[0] == rows
            assert weights.shape[3] == n
            assert values.shape[:3] == (rows, weights.shape[1], n)
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]))
            assert weights.masked_select(~mask[:, None, None]).abs().max() == 0
            out = model.block(layer, trace.hidden[layer], mask)
            read = mask if out.shape[1] == n else mask[:, :1]
            torch.testing.assert_close(out[read], trace.hidden[layer + 1][read], atol=atol, rtol=0)
            everything = model.block(layer, trace.hidden[layer], mask, keep=mask)
            torch.testing.assert_close(everything[read], out[read], atol=atol, rtol=0)
            less = mask.clone()
            less[:, 1] = False
            assert (model.block(layer, trace.hidden[layer], mask, keep=less) - out).abs().max() > 0
    return trace


def check_gradients(model: Classifier, atol: float = 1e-5) -> None:
    """Both paths have the same gradient; rule "lrp" has another, and nothing but that."""
    ids, mask = batch(model)
    embedded = model.embed(ids, mask).detach().requires_grad_()
    (fast,) = torch.autograd.grad(model(embedded, mask)[:, 1].sum(), embedded)
    (slow,) = torch.autograd.grad(model.trace(embedded, mask).logits[:, 1].sum(), embedded)
    (lrp,) = torch.autograd.grad(
        model.trace(embedded, mask, rule="lrp").logits[:, 1].sum(), embedded
    )
    torch.testing.assert_close(fast, slow, atol=atol, rtol=0)
    assert (lrp - fast).abs().max() > 1e-6
    trace = model.trace(embedded, mask)
    weights = torch.autograd.grad(trace.logits[:, 1].sum(), trace.weights, retain_graph=True)
    assert all(w.abs().max() > 0 for w in weights), "the maps are part of the graph"


def check_conservation(model: Classifier, atol: float = 1e-4) -> None:
    """Without biases, gradient x input under rule "lrp" sums to the logit."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name:
                parameter.zero_()
    ids, mask = batch(model)
    embedded = model.embed(ids, mask).detach().requires_grad_()
    logits = model.trace(embedded, mask, rule="lrp").logits
    for target in range(min(2, logits.shape[1])):
        (g,) = torch.autograd.grad(logits[:, target].sum(), embedded, retain_graph=True)
        total = (g * embedded).sum((1, 2))
        torch.testing.assert_close(total, logits[:, target], atol=atol, rtol=1e-4)
    assert logits.abs().max() > 1e-3, "there is something to conserve"
    model.load_state_dict(before)


def check_all(model: Classifier) -> None:
    check_encoding(model)
    check_padding(model)
    check_gap(model)
    check_trace(model)
    check_gradients(model)
    check_conservation(model)
