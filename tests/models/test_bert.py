"""BERT in NumPy and in torch against the transformers library; the head; WordPiece."""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import pytest
import torch
from classifier_checks import TEXTS, batch, check_all

from attnlab.models.bert import Bert, pretrained_folder
from attnlab.models.bert_numpy import BertNumpy, Configuration, read_weights
from attnlab.models.wordpiece import SPECIAL, WordPiece

pytest.importorskip("safetensors", reason="safetensors reads the encoder: attnlab[pretrained]")


class Row(NamedTuple):
    text: str
    label: int


THINGS = ("film", "meal", "book", "phone", "hotel", "song")
LIKED = [f"a {word} {thing}" for thing in THINGS for word in ("wonderful", "superb", "lovely")]
HATED = [f"a {word} {thing}" for thing in THINGS for word in ("terrible", "awful", "boring")]


@pytest.fixture(scope="session")
def folder():
    try:
        return pretrained_folder()
    except ModuleNotFoundError as error:
        pytest.skip(f"without the extra: {error}")


@pytest.fixture(scope="session")
def model(folder):
    torch.manual_seed(0)
    return Bert(folder, ["negative", "positive"])


def test_hidden_states_agree_with_the_transformers_library(folder, model):
    transformers = pytest.importorskip("transformers", reason="transformers is the oracle here")
    oracle = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    ids, mask = batch(model)
    with torch.no_grad():
        want = oracle(
            input_ids=ids,
            attention_mask=mask.long(),
            output_hidden_states=True,
            output_attentions=True,
        )
        trace = model.trace(model.embed(ids, mask), mask)
    hidden, weights = BertNumpy.load(folder)(ids.numpy(), mask.numpy())
    assert len(want.hidden_states) == len(trace.hidden) == len(hidden) == 7
    real = mask[..., None]
    for theirs, ours, plain in zip(want.hidden_states, trace.hidden, hidden, strict=True):
        torch.testing.assert_close(ours * real, theirs * real, atol=1e-4, rtol=0)
        torch.testing.assert_close(torch.tensor(plain) * real, theirs * real, atol=1e-4, rtol=0)
    for theirs, ours, plain in zip(want.attentions, trace.weights, weights, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.tensor(plain), theirs, atol=1e-5, rtol=0)


def test_bert_is_what_the_laboratory_asks_for(model):
    check_all(model)


def test_wordpiece_agrees_with_the_transformers_library(folder):
    transformers = pytest.importorskip("transformers", reason="transformers is the oracle here")
    oracle = transformers.AutoTokenizer.from_pretrained(folder)
    ours = WordPiece.load(folder)
    for text in (
        *TEXTS,
        "Naïve CAFÉ, déjà-vu! 漢字 and ひらがな; don't_stop... £9.99 (50%)",
        "antidisestablishmentarianism unaffableness xqzj☃ [MASK] me",
        "zero\u200bwidth\u00a0space\ttab\nnew “quotes” – dash…",
        "x" * 101 + " end",
        "İstanbul ﬁne Ω ß",
    ):
        assert ours.encode(text).ids.tolist() == oracle(text)["input_ids"], text


def test_wordpiece_reads_either_file(folder, tmp_path):
    (tmp_path / "tokenizer.json").write_text(
        (folder / "tokenizer.json").read_text("utf-8"), "utf-8"
    )
    assert WordPiece.load(tmp_path).vocabulary == WordPiece.load(folder).vocabulary
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {}}}')
    with pytest.raises(ValueError, match="BPE"):
        WordPiece.load(tmp_path)


def test_wordpiece_cuts_long_texts_and_refuses_empty_ones():
    tokenizer = WordPiece([*SPECIAL, "a", "##b", "."])
    encoded = tokenizer.encode("ab. " * 10, longest=6)
    assert encoded.tokens == ("[CLS]", "a", "##b", ".", "a", "[SEP]")
    assert encoded.words.tolist() == [-1, 0, 0, 0, 1, -1]
    assert tokenizer.encode("A zz").tokens == ("[CLS]", "a", "[UNK]", "[SEP]")
    with pytest.raises(ValueError, match="no word"):
        tokenizer.encode(" ")
    with pytest.raises(ValueError, match="special tokens"):
        WordPiece(["a"])


def test_the_head_learns_and_classifies(folder):
    torch.manual_seed(1)
    model = Bert(folder, ["negative", "positive"])
    rows = [Row(t, 1) for t in LIKED[:12]] + [Row(t, 0) for t in HATED[:12]]
    held = [Row(t, 1) for t in LIKED[12:]] + [Row(t, 0) for t in HATED[12:]]
    seen = []
    accuracy = model.fit(rows, held, progress=lambda done, of: seen.append((done, of)))
    assert accuracy >= 0.9
    assert seen[-1] == (36, 36)
    ids, mask = batch(model, [r.text for r in held])
    with torch.no_grad():
        found = model(model.embed(ids, mask), mask).argmax(1)
    assert (found == torch.tensor([r.label for r in held])).float().mean() == accuracy
    with pytest.raises(ValueError, match="not one of the 2 labels"):
        model.fit([Row("x", 2)], held)
    with pytest.raises(ValueError, match="validate"):
        model.fit(rows, [])


def test_refusals(model, folder, tmp_path):
    ids = torch.full((1, 513), 5)
    with pytest.raises(ValueError, match="513 tokens"):
        model.embed(ids, ids > 0)
    with pytest.raises(ValueError, match="two labels"):
        Bert(folder, ["one"])
    settings = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"hidden_act": "relu"}))
    with pytest.raises(ValueError, match="relu"):
        Configuration.load(tmp_path)


def test_weights_of_a_classifier_are_read_under_the_encoders_names(tmp_path):
    from safetensors.numpy import save_file

    save_file(
        {
            "bert.embeddings.LayerNorm.gamma": np.ones(3, np.float16),
            "classifier.weight": np.ones((2, 3), np.float32),
        },
        tmp_path / "model.safetensors",
    )
    found = read_weights(tmp_path)
    assert list(found) == ["embeddings.LayerNorm.weight"]
    assert found["embeddings.LayerNorm.weight"].dtype == np.float32
