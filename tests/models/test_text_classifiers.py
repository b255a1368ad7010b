"""The BiLSTM and the small transformer: what the laboratory asks of a classifier, and the words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from classifier_checks import TEXTS, batch, check_all
from torch import nn

from attnlab.models.bilstm import BiLSTM
from attnlab.models.text_transformer import TextTransformer
from attnlab.models.words import UNKNOWN, Vocabulary, tokenize


@pytest.fixture(params=[BiLSTM, TextTransformer], ids=lambda kind: kind.kind)
def model(request):
    torch.manual_seed(0)
    model = request.param(Vocabulary.of(TEXTS), ["negative", "positive"])
    for parameter in model.parameters():  # large enough for every non-linearity to bend
        nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        model.embedding.weight[model.pad_id] = 0
    return model.eval()


def test_a_classifier_is_what_the_laboratory_asks_for(model):
    check_all(model)


def test_weights_times_values_are_what_attention_writes(model):
    ids, mask = batch(model)
    trace = model.trace(model.embed(ids, mask), mask)
    for layer, (w, v) in enumerate(zip(trace.weights, trace.values, strict=True)):
        written = (w @ v).sum(1)
        if isinstance(model, BiLSTM):
            expected = trace.hidden[1]
        else:
            block = model.blocks[layer]
            x = block.attention_norm(trace.hidden[layer])
            expected = block.attention(x, mask) - block.attention.output.bias
        torch.testing.assert_close(written, expected, atol=1e-5, rtol=0)


def test_refusals(model):
    with pytest.raises(ValueError, match="no word"):
        model.encode("  \n")
    ids, mask = batch(model)
    mask[1] = False
    with pytest.raises(ValueError, match="row 1 of the mask has no token"):
        model(model.embed(ids, mask), mask)
    with pytest.raises(ValueError, match="two labels"):
        type(model)(model.vocabulary, ["one"])


def test_the_non_linearities_are_modules(model):
    """Methods that hook modules (DeepLIFT) must see every element-wise non-linearity once."""
    seen = []
    for module in model.modules():
        if isinstance(module, nn.Tanh | nn.GELU):
            module.register_forward_hook(lambda m, x, y: seen.append(m))
    ids, mask = batch(model)
    model(model.embed(ids, mask), mask)
    assert len(seen) == len(set(seen)) == model.layers


def test_states_of_the_lstm_equal_one_pass_over_each_text():
    torch.manual_seed(0)
    model = BiLSTM(Vocabulary.of(TEXTS), ["a", "b"]).eval()
    ids, mask = batch(model)
    with torch.no_grad():
        h = model.states(model.embed(ids, mask), mask)
        for row, text in enumerate(TEXTS):
            alone = model.encoder(model.embedding(torch.as_tensor(model.encode(text).ids))[None])[0]
            torch.testing.assert_close(h[row, : alone.shape[1]], alone[0])
        assert h[~mask].abs().max() == 0


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("I don't, won’t.", ["I", "do", "n't", ",", "wo", "n’t", "."]),
        ("It does n't 's", ["It", "does", "n't", "'s"]),
        ("well-made 3.5 stars...", ["well-made", "3.5", "stars", "..."]),
        ("naïve “crème” £9!!", ["naïve", "“", "crème", "”", "£", "9", "!", "!"]),
    ],
)
def test_tokenize(text, tokens):
    found = tokenize(text)
    assert [t.text for t in found] == tokens
    assert [t.word for t in found] == sorted(t.word for t in found)


def test_unknown_words_are_read_by_their_stem():
    vocabulary = Vocabulary(["disappointing", "taste", "made", "good"])
    assert vocabulary.id("Disappointingly") == vocabulary.ids["disappointing"]
    assert vocabulary.id("well-made") == vocabulary.ids["made"]
    assert vocabulary.id("tasteless") == vocabulary.ids[UNKNOWN]  # not its opposite
    assert vocabulary.id("xylophone") == vocabulary.ids[UNKNOWN]


def test_the_vocabulary_survives_a_file(tmp_path):
    vocabulary = Vocabulary.of(TEXTS, others=["extra"])
    vocabulary.save(tmp_path / "words.txt")
    again = Vocabulary.load(tmp_path / "words.txt")
    assert again.words == vocabulary.words
    assert "extra" in again
    assert np.array_equal([again.id("soup")], [vocabulary.id("Soup")])
