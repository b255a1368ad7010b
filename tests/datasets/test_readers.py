"""Readers on the published files where they are present, and on small good and bad files."""

from pathlib import Path

import numpy as np
import pytest

from attnlab.datasets.chorales import jsb_chorales, serialise
from attnlab.datasets.files import DatasetMissing, FormatError
from attnlab.datasets.python_reference import python_reference
from attnlab.datasets.ranking import cranfield, read_judgements, read_records
from attnlab.datasets.ratings import COLUMNS, movielens
from attnlab.datasets.sentiment import imdb, semeval, sst
from attnlab.datasets.text import shakespeare, wikitext2
from attnlab.paths import shared_data


def published(folder: str):
    """Skips, with the reason, where the published dataset is not beside the checkout."""
    here = shared_data()
    missing = here is None or not (here / folder).is_dir()
    return pytest.mark.skipif(missing, reason=f"no shared/data/{folder} beside this checkout")


@published("shakespeare")
def test_shakespeare():
    text = shakespeare()
    assert (len(text.symbols), len(text.train), len(text.validation)) == (65, 1003854, 111540)
    assert text.decode(text.train[:14]) == "First Citizen:"


@published("wikitext2")
def test_wikitext2():
    paragraphs = wikitext2()
    assert len(paragraphs) == 1841
    assert paragraphs[0][:2] == ["Homarus", "gammarus"]


@published("jsb_chorales")
def test_chorales():
    splits = jsb_chorales()
    assert {k: len(v) for k, v in splits.items()} == {"train": 229, "valid": 76, "test": 77}
    piece = splits["test"][0]
    assert piece[0].tolist() == [65, 60, 57, 53]
    assert serialise(piece)[:5].tolist() == [65, 60, 57, 53, 65]


@published("cranfield")
def test_cranfield():
    documents, queries, judgements = cranfield()
    assert (len(documents), len(queries), sum(map(len, judgements.values()))) == (1400, 225, 1837)
    assert documents[1].authors == "brenckman,m."
    assert queries[1].startswith("what similarity laws must be obeyed")
    assert judgements[1][184] == 2
    # three slips in the published file: what follows a stray marker is still part of the text
    assert any("made for a prandtl number of unity" in d.text for d in documents.values())
    assert set(judgements) <= set(queries)


@published("sst")
@pytest.mark.parametrize(("split", "count"), [("dev", 1101), ("train", 8544)])
def test_sst(split, count):
    trees = sst(split=split)
    assert len(trees) == count
    assert all(0 <= leaf.label <= 4 for leaf in trees[0].leaves())


@published("imdb")
def test_imdb():
    reviews = imdb()
    assert len(reviews) == 1200
    assert {r.label for r in reviews} == {0, 1}
    assert reviews[0].text.startswith("i saw this film opening weekend in australia")


@published("semeval14")
def test_semeval():
    opinions = semeval()
    assert len(opinions) == 3608
    words, aspect, polarity = opinions[0]
    assert (words[aspect], polarity) == (["staff"], -1)
    assert len(semeval(split="Test_Gold")) == 1120


@published("movielens")
def test_movielens():
    ratings = movielens()
    assert (len(ratings.user), len(np.unique(ratings.user))) == (100000, 943)
    assert (np.diff(ratings.time) >= 0).all()
    assert sum(map(len, ratings.histories().values())) == 100000


def test_python_reference_keeps_the_parts_apart():
    corpus = python_reference()
    assert len(corpus.train) > 4 * len(corpus.validation) > 40_000

    def paragraphs(text: str) -> list[str]:
        return [" ".join(p.split()) for p in text.split("\n\n")]

    train = set(paragraphs(corpus.train))
    assert not train & set(paragraphs(corpus.validation))
    assert len(train) == len(paragraphs(corpus.train))


BAD = [  # reader, content, line of the error, what the message must say
    (imdb, "good film\t1\nbad film\t2\n", 2, "label 0 or 1"),
    (imdb, "no label at all\n", 1, "label 0 or 1"),
    (semeval, "The $T$ is nice\nfood\n1\nNo aspect\nfood\n0\n", 4, "one $T$"),
    (semeval, "The $T$ is nice\nfood\n2\n", 3, "polarity"),
    (semeval, "The $T$ is nice\nfood\n", 2, "three lines"),
    (sst, "(2 (2 a) (3 film))\n(2 (2 a) (3 film)\n", 2, "bracket closed"),
    (sst, "(7 film)\n", 1, "label 0-4"),
    (sst, "(2 two words)\n", 1, "one word or parts"),
    (sst, "(2 a) (2 b)\n", 1, "one a line"),
    (sst, "film\n", 1, "a tree"),
    (sst, "", 1, "a tree"),
    (movielens, "user\titem\n", 1, "header"),
    (movielens, "\t".join(COLUMNS) + "\n1\t2\t3\n", 2, "four numbers"),
    (jsb_chorales, '{"train":\n [[[60,]]]}', 2, "JSON"),
    (jsb_chorales, '{"train": [[[60, 200]]]}', 1, "train[0][0]"),
    (jsb_chorales, '{"train": [[[60, 61, 62, 63, 64]]]}', 1, "train[0][0]"),
    (jsb_chorales, "[]", 1, "an object"),
    (wikitext2, "\n = Title = \n", 1, "paragraphs"),
    (shakespeare, "", 1, "text"),
    (read_records, ".I one\n", 1, "number"),
    (read_records, "text\n", 1, "before anything else"),
    (read_records, ".I 1\nno marker\n", 2, ".T .A .B .W"),
    (read_judgements, "1 2 3\n1 2\n", 2, "three integers"),
]


@pytest.mark.parametrize(("reader", "content", "line", "says"), BAD)
def test_a_bad_file_is_refused_by_name_line_and_expectation(tmp_path, reader, content, line, says):
    path = tmp_path / "data.txt"
    path.write_text(content)
    with pytest.raises(FormatError) as caught:
        reader(path)
    assert f"{path}:{line}: expected" in str(caught.value)
    assert says in str(caught.value)


def test_bytes_that_are_no_text_are_refused_by_line(tmp_path):
    path = tmp_path / "data.txt"
    path.write_bytes(b"fine\t1\n\xff\xfe\t1\n")
    with pytest.raises(FormatError, match=r"data\.txt:2: expected UTF-8"):
        imdb(path)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    with pytest.raises(DatasetMissing, match="nowhere"):
        shakespeare(tmp_path / "nowhere.txt")
    monkeypatch.setattr("attnlab.paths.shared_data", lambda: None)
    with pytest.raises(DatasetMissing, match=r"shakespeare/tinyshakespeare\.txt"):
        shakespeare()
    with pytest.raises(DatasetMissing, match=r"cran\.all\.1400"):
        cranfield(tmp_path)


def test_small_files_are_read_whole(tmp_path: Path):
    path = tmp_path / "records"
    path.write_text(".I 3\r\n.T\r\na\r\nb\r\n.W\r\ntext .\r\n.T\r\nstill text\r\n")
    (record,) = read_records(path)
    assert (record.number, record.title, record.text) == (3, "a b", "text . still text")
    path.write_text('{"train": [[[60, 57.0], []]]}')
    assert jsb_chorales(path)["train"][0].tolist() == [[60, 57, 0, 0], [0, 0, 0, 0]]
    path.write_text("The big $T$ was cold\nred soup\n-1\n")
    (opinion,) = semeval(path)
    assert opinion.words == ["The", "big", "red", "soup", "was", "cold"]
    assert opinion.words[opinion.aspect] == ["red", "soup"]
    path.write_text("well, it is good,1\n")
    assert imdb(path)[0] == ("well, it is good", 1)
