"""The embedded reviews: balance, length, vocabulary, rationales, and that no template wrote them."""

import json
import re
from collections import Counter, defaultdict
from itertools import pairwise
from math import log

import pytest

from attnlab.contract import InputError
from attnlab.datasets.labelled import Row, detect, read
from attnlab.datasets.reviews import DOMAINS, TAGS, LabelledText, reviews
from attnlab.paths import data_dir

FILE = data_dir() / "reviews" / "reviews.jsonl"
ALL = reviews()
SHARES = {"train": (0.68, 0.72), "validation": (0.08, 0.12), "test": (0.18, 0.22)}
NEGATION = re.compile(r"\b(not|no|none|nothing|nobody|never|neither|cannot)\b|n't\b", re.I)
WEAKER = re.compile(r"\b(nor|hardly|seldom|barely|without|rather than)\b", re.I)


def plain_words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def runs(length: int) -> dict[tuple[str, ...], set[str]]:
    """Every run of `length` words, and the reviews it occurs in."""
    found = defaultdict(set)
    for r in ALL:
        words = plain_words(r.text)
        for i in range(len(words) - length + 1):
            found[tuple(words[i : i + length])].add(r.id)
    return found


def marked(r: LabelledText) -> list[str]:
    return [r.text[start:end] for start, end in r.rationale]


def test_there_are_enough_in_every_domain_and_split():
    assert len(ALL) >= 420
    assert {r.domain for r in ALL} == set(DOMAINS)
    for domain in DOMAINS:
        for split, (low, high) in SHARES.items():
            part = reviews(split, domain)
            assert low <= len(part) / len(reviews(domain=domain)) <= high
            assert 2 * sum(r.label for r in part) == len(part), (domain, split)


def test_lengths():
    lengths = [len(r.words()) for r in ALL]
    assert min(lengths) >= 8
    assert max(lengths) <= 45
    assert 17 <= sum(lengths) / len(lengths) <= 25
    sentences = [len(re.findall(r"[.!?]+[\"')]*(?=\s|$)", r.text)) for r in ALL]
    assert set(sentences) == {1, 2, 3}
    by_label = [[n for n, r in zip(lengths, ALL) if r.label == label] for label in (0, 1)]
    means = [sum(n) / len(n) for n in by_label]
    assert abs(means[0] - means[1]) < 1, "the length must not give the label away"


def test_the_vocabulary_is_that_of_many_voices():
    words = Counter(w for r in ALL for w in plain_words(r.text))
    assert len(words) >= 3000
    first = Counter(r.words()[0].lower() for r in ALL)
    assert len(first) >= 200
    assert first.most_common(1)[0][1] <= 0.2 * len(ALL)
    pairs = Counter(tuple(plain_words(r.text)[:2]) for r in ALL)
    assert pairs.most_common(1)[0][1] <= 0.01 * len(ALL)
    assert len({r.aspect for r in ALL}) >= 40


def test_no_two_are_alike():
    assert len({r.id for r in ALL}) == len({r.text.lower() for r in ALL}) == len(ALL)
    assert [run for run, ids in runs(6).items() if len(ids) > 1] == []
    words = [set(plain_words(r.text)) for r in ALL]
    for i, one in enumerate(words):
        for j in range(i):
            overlap = len(one & words[j]) / len(one | words[j])
            assert overlap < 0.5, (ALL[i].text, ALL[j].text)


def test_rationales():
    share = [sum(r.rationale_words()) / len(r.words()) for r in ALL]
    assert all(s > 0 for s in share)
    assert 0.2 <= sum(share) / len(share) <= 0.4
    assert sum(s > 0.8 for s in share) / len(share) < 0.03
    for r in ALL:
        assert 0 <= r.rationale[0][0] < r.rationale[-1][1] <= len(r.text)
        assert all(start < end for start, end in r.rationale)
        assert all(before[1] <= after[0] for before, after in pairwise(r.rationale)), r.id
        for span in marked(r):
            assert span == span.strip(), r.id
            assert re.search(r"\w", span), r.id
        for start, end in r.rationale:  # whole words, punctuation aside
            assert not re.search(r"\w$", r.text[:start]), r.id
            assert not re.match(r"\w", r.text[end:]), r.id


def test_tags():
    for tag in ("negation", "contrast", "irony"):
        having = [r for r in ALL if tag in r.tags]
        assert len(having) >= 0.12 * len(ALL)
        assert 0.4 <= sum(r.label for r in having) / len(having) <= 0.6, (
            "no tag gives the label away"
        )
    for r in ALL:
        assert r.tags
        assert set(r.tags) <= set(TAGS)
        assert "plain" not in r.tags or r.tags == ("plain",)
        if any(NEGATION.search(span) for span in marked(r)):
            assert "negation" in r.tags, r.id
        if "negation" in r.tags:
            assert NEGATION.search(r.text) or WEAKER.search(r.text), r.id


def test_texts_are_clean():
    for r in ALL:
        assert " ".join(r.text.split()) == r.text
        assert r.text.isprintable()
        assert not re.search(r"[\[\]{}<>|]|https?:", r.text), r.id


def test_single_words_tell_something_but_not_all():
    """Naive Bayes over the words of the training split: better than chance, far from perfect."""
    count = {label: Counter() for label in (0, 1)}
    for r in reviews("train"):
        count[r.label].update(set(plain_words(r.text)))
    held_out = reviews("validation") + reviews("test")
    right = 0
    for r in held_out:
        words = set(plain_words(r.text))
        odds = sum(log((count[1][w] + 1) / (count[0][w] + 1)) for w in words)
        right += (odds > 0) == r.label
    assert 0.55 < right / len(held_out) < 0.85


def test_one_review():
    r = LabelledText(
        "It is not bad, at all.", 1, "films", "test", "plot", ((6, 13),), ("negation",), "x"
    )
    assert r.words() == ["It", "is", "not", "bad,", "at", "all."]
    assert r.rationale_words() == (False, False, True, True, False, False)


def test_the_file_is_read_as_a_users_file_would_be():
    assert detect(FILE) == "jsonl"
    assert [r for r in read(FILE) if isinstance(r, Row)] == [
        Row(r.text, r.label, r.rationale_words(), line) for line, r in enumerate(ALL, 1)
    ]
    keys = {tuple(json.loads(line)) for line in FILE.read_text(encoding="utf-8").splitlines()}
    assert keys == {("id", "domain", "split", "label", "aspect", "text", "rationale", "tags")}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(("valid", None), "did you mean validation"), ((None, "film"), "did you mean films")],
)
def test_unknown_names(arguments, says):
    with pytest.raises(InputError, match=says):
        reviews(*arguments)
