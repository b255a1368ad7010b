"""Byte-pair encoding: loses nothing, learns frequent pairs, is deterministic."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.models.tokenizer import Tokenizer, merged

TEXT = "the cat and the dog\n\n    the end, the end: then_the__end 12 34\n" * 3


@settings(deadline=None)
@given(st.text())
def test_decode_undoes_encode(text):
    text = text.encode("utf-8", errors="replace").decode()
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


TOKENIZER = Tokenizer.train(TEXT, 40)


def test_training_merges_frequent_pairs_first():
    assert TOKENIZER.pieces[256] == b"he"  # as frequent as "th"; the smaller bytes win
    assert " the" in [TOKENIZER.decode([i]) for i in TOKENIZER.encode("and the")]
    assert Tokenizer.train(TEXT, 40).merges == TOKENIZER.merges


def test_training_stops_where_nothing_repeats():
    assert len(Tokenizer.train("abcdef", 10)) == 256


def test_merges_run_from_the_left():
    assert merged([1, 1, 1, 2], (1, 1), 9) == [9, 1, 2]


def test_labels_show_what_cannot_be_seen():
    assert [TOKENIZER.label(i) for i in b" \n\ta"] == ["·", "⏎", "⇥", "a"]
    assert TOKENIZER.label(0xC3) == "\\xc3"


def test_save_and_load(tmp_path):
    path = tmp_path / "vocabulary.json"
    TOKENIZER.save(path)
    assert Tokenizer.load(path).merges == TOKENIZER.merges
    for broken in ('{"merges": [[300, 1]]}', "[]", "{", '{"merges": [[1]]}'):
        path.write_text(broken)
        with pytest.raises(ValueError, match="not a byte-pair vocabulary"):
            Tokenizer.load(path)
