"""Hugging Face models: small random ones, saved to disk by the test, so that nothing is fetched."""

from __future__ import annotations

import pytest
import torch
from classifier_checks import (
    TEXTS,
    batch,
    check_all,
    check_encoding,
    check_gap,
    check_padding,
)

from attnlab.contract import InputError
from attnlab.models.classifiers import load

transformers = pytest.importorskip("transformers", reason="the extra attnlab[hf] is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="tokenizers comes with attnlab[hf]")

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def words() -> list[str]:
    found = sorted({w.strip(".,").lower() for t in TEXTS for w in t.split()})
    return [*SPECIAL.values(), ".", ",", "'", "##ely", "lov", "didn", "t", *found]


def wordpiece(folder) -> int:
    """A BERT tokenizer of its own in `folder`; the number of its pieces."""
    pieces = {word: i for i, word in enumerate(dict.fromkeys(words()))}
    del pieces["lovely"]
    pieces = {word: i for i, word in enumerate(pieces)}
    model = tokenizers.models.WordPiece(pieces, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", pieces["[CLS]"]), ("[SEP]", pieces["[SEP]"])],
    )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)
    fast.save_pretrained(folder)
    return len(pieces)


def byte_pairs(folder) -> int:
    """A byte-level tokenizer without special tokens around a text."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    )
    fast.save_pretrained(folder)
    return len(fast) + 4  # a reader of the folder may add tokens of its family


def sizes(vocabulary: int, **more) -> dict:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        **more,
    }


def bert(folder):
    config = transformers.BertConfig(**sizes(wordpiece(folder), num_labels=3))
    return transformers.BertForSequenceClassification(config)


def distilbert(folder):
    config = transformers.DistilBertConfig(
        vocab_size=wordpiece(folder),
        dim=32,
        n_layers=2,
        n_heads=4,
        hidden_dim=48,
        max_position_embeddings=64,
    )
    return transformers.DistilBertForSequenceClassification(config)


def llama(folder):
    config = transformers.LlamaConfig(**sizes(byte_pairs(folder), num_key_value_heads=2))
    return transformers.LlamaForCausalLM(config)


def llama_classifier(folder):
    config = transformers.LlamaConfig(**sizes(byte_pairs(folder), num_labels=2, pad_token_id=0))
    return transformers.LlamaForSequenceClassification(config)


def qwen(folder):
    config = transformers.Qwen2Config(**sizes(byte_pairs(folder), num_key_value_heads=2))
    return transformers.Qwen2ForCausalLM(config)


def roberta(folder):
    config = transformers.RobertaConfig(**sizes(wordpiece(folder), pad_token_id=0))
    return transformers.RobertaForSequenceClassification(config)


def gpt2(folder):
    config = transformers.GPT2Config(
        vocab_size=byte_pairs(folder), n_embd=32, n_layer=2, n_head=4, n_positions=64
    )
    return transformers.GPT2LMHeadModel(config)


def electra(folder):
    config = transformers.ElectraConfig(**sizes(wordpiece(folder), embedding_size=32))
    return transformers.ElectraForSequenceClassification(config)


def neox(folder):
    config = transformers.GPTNeoXConfig(**sizes(byte_pairs(folder)))
    return transformers.GPTNeoXForCausalLM(config)


def opt_classifier(folder):
    config = transformers.OPTConfig(
        **sizes(byte_pairs(folder), pad_token_id=0, ffn_dim=48, word_embed_proj_dim=32)
    )
    return transformers.OPTForSequenceClassification(config)


KNOWN = (bert, roberta, distilbert, gpt2, llama, llama_classifier, qwen)
OTHER = (electra, neox, opt_classifier)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """build -> (folder, our model, the library's model)."""
    made = {}

    def get(build):
        if build not in made:
            folder = tmp_path_factory.mktemp(build.__name__)
            torch.manual_seed(0)
            model = build(folder)
            for name, parameter in model.named_parameters():
                if "norm" not in name.lower():
                    torch.nn.init.normal_(parameter, std=0.2)
            model.save_pretrained(folder)
            made[build] = folder, load(folder), model.eval()
        return made[build]

    return get


@pytest.mark.parametrize("build", KNOWN, ids=lambda b: b.__name__)
def test_a_known_family_is_what_the_laboratory_asks_for(saved, build):
    check_all(saved(build)[1])


@pytest.mark.parametrize("build", [*KNOWN, *OTHER], ids=lambda b: b.__name__)
def test_logits_and_maps_are_the_librarys(saved, build):
    _, ours, theirs = saved(build)
    theirs.set_attn_implementation("eager")
    for text in TEXTS:
        ids, mask = batch(ours, [text])
        with torch.no_grad():
            want = theirs(
                input_ids=ids,
                attention_mask=mask.long(),
                output_attentions=True,
                output_hidden_states=True,
            )
            embedded = ours.embed(ids, mask)
            logits, trace = ours(embedded, mask), ours.trace(embedded, mask)
        expected = want.logits[:, -1] if ours.causal else want.logits
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(trace.logits, expected, atol=1e-5, rtol=0)
        for a, b in zip(trace.weights, want.attentions, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
        for a, b in list(zip(trace.hidden, want.hidden_states, strict=True))[:-1]:
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("build", OTHER, ids=lambda b: b.__name__)
def test_another_architecture_gives_what_it_can_and_says_what_not(saved, build):
    model = saved(build)[1]
    check_encoding(model)
    check_padding(model)
    check_gap(model)
    ids, mask = batch(model)
    embedded = model.embed(ids, mask).detach().requires_grad_()
    trace = model.trace(embedded, mask)
    (g,) = torch.autograd.grad(trace.logits[:, 1].sum(), trace.weights[0])
    assert g.abs().max() > 0
    with pytest.raises(NotImplementedError, match="value vectors: not known for the architecture"):
        trace.values[0]
    with pytest.raises(NotImplementedError, match="relevance propagation"):
        model.trace(embedded, mask, rule="lrp")
    with pytest.raises(NotImplementedError, match="one layer alone"):
        model.block(0, embedded, mask)
    assert model.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("build", KNOWN, ids=lambda b: b.__name__)
def test_a_text_beyond_the_positions_is_cut(saved, build):
    model = saved(build)[1]
    ids, mask = batch(model, [" ".join(TEXTS * 20)])
    assert 60 < ids.shape[1] <= 64
    with torch.no_grad():
        assert torch.isfinite(model(model.embed(ids, mask), mask)).all()


def test_a_causal_models_labels_are_its_vocabulary(saved):
    _, model, _ = saved(llama)
    assert len(model.labels) == model.model.config.vocab_size
    assert {"a", "Ġ", "</s>"} < set(model.labels)
    assert model.mask_id is None


def test_a_causal_map_reads_no_future(saved):
    model = saved(llama)[1]
    ids, mask = batch(model)
    mask[0, 0] = False  # nothing for the first row to read: still no NaN
    trace = model.trace(model.embed(ids, mask), mask)
    for weights in trace.weights:
        assert weights.triu(1).abs().max() == 0
        assert torch.isfinite(weights).all()


def test_words_of_a_byte_level_tokenizer(saved):
    model = saved(llama)[1]
    encoded = model.encode("The soup\n was")
    read = ["", "", ""]
    for token, word in zip(encoded.tokens, encoded.words, strict=True):
        read[word] += token.strip("ĠĊ")
    assert read == ["The", "soup", "was"]


def test_labels_are_those_of_the_configuration(saved):
    assert saved(bert)[1].labels == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_refusals(saved, tmp_path):
    model = saved(bert)[1]
    with pytest.raises(ValueError, match="no word"):
        model.encode("")
    transformers.BertModel(model.model.config).save_pretrained(tmp_path / "bare")
    with pytest.raises(InputError, match="BertModel; a sequence classifier or a causal"):
        load(tmp_path / "bare")
    one = transformers.BertConfig(**sizes(20, num_labels=1))
    transformers.BertForSequenceClassification(one).save_pretrained(tmp_path / "one")
    wordpiece(tmp_path / "one")
    with pytest.raises(InputError, match="regression"):
        load(tmp_path / "one")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    with pytest.raises((InputError, ValueError)):
        load(tmp_path / "broken")


def test_damaged_folders_are_refused(saved, tmp_path):
    config = saved(bert)[1].model.config
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "mute")
    with pytest.raises(InputError, match="mute holds no tokenizer"):
        load(tmp_path / "mute")
    wordpiece(tmp_path / "mute")
    load(tmp_path / "mute")
    (tmp_path / "mute" / "model.safetensors").write_bytes(b"abc")
    with pytest.raises(InputError, match="no model could be read from"):
        load(tmp_path / "mute")
