"""Alike submissions are listed whatever they are called and however they are laid out; others not."""

from __future__ import annotations

import csv
import json
import random
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from attnlab.contract import InputError
from attnlab.course import fingerprint
from attnlab.course.answer import answer
from attnlab.course.config import Course
from attnlab.course.fingerprint import WINDOW, K, document, tokenise, winnow
from attnlab.course.outputs import write_all
from attnlab.course.similarity import Similar, among, compare, reached
from attnlab.course.skeleton import skeleton
from attnlab.registry import find

ANN = '''
"""Attention."""
import numpy as np


def stable_softmax(scores):
    """Rows sum to 1."""
    top = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - top)
    return weights / weights.sum(axis=-1, keepdims=True)


def attend(q, k, v, *, scale=None, causal=False, mask=None):
    batch, heads, n, dim = q.shape
    factor = 1 / np.sqrt(dim) if scale is None else scale
    scores = factor * (q @ k.transpose(0, 1, 3, 2))
    if causal:
        allowed = np.tril(np.ones((n, k.shape[2]), dtype=bool), k.shape[2] - n)
        scores = np.where(allowed, scores, -np.inf)
    if mask is not None:
        scores = np.where(mask[:, None, None, :], scores, -np.inf)
    weights = stable_softmax(scores)
    return {"out": weights @ v, "weights": weights}
'''

# Ann's work: other names, other order, other comments, other layout, other constants.
BEN = '''
# my own work!
import numpy


def attend(Q, K, V, *, scale=None, causal=False, mask=None):
    """Here I compute
    attention."""
    b, h, length, width = Q.shape
    c = (1.0 / numpy.sqrt(width) if scale is None
         else scale)
    s = c * (Q @ K.transpose(0, 1, 3, 2))   # all the scores
    if causal:
        ok = numpy.tril(numpy.ones((length, K.shape[2]), dtype=bool), K.shape[2] - length)
        s = numpy.where(ok, s, -numpy.inf)
    if mask is not None:

        s = numpy.where(mask[:, None, None, :], s, -numpy.inf)
    p = soft(s)
    return {'out': p @ V, 'weights': p}


def soft(z):
    m = z.max(axis=-1, keepdims=True)
    e = numpy.exp(z - m); return e / e.sum(axis=-1, keepdims=True)
'''

CAT = '''
import numpy as np


def attend(q, k, v, *, scale=None, causal=False, mask=None):
    """One query after the other."""
    out = np.zeros(q.shape[:3] + v.shape[3:])
    weights = np.zeros(q.shape[:3] + (k.shape[2],))
    offset = k.shape[2] - q.shape[2]
    for b in range(len(q)):
        for h in range(q.shape[1]):
            for i, row in enumerate(q[b, h]):
                keys = np.arange(k.shape[2])
                keep = keys <= i + offset if causal else keys >= 0
                if mask is not None:
                    keep &= mask[b]
                if not keep.any():
                    continue
                logits = np.dot(k[b, h, keep], row) * (scale or row.size ** -0.5)
                p = np.exp(logits - np.max(logits))
                p /= np.sum(p)
                weights[b, h, i, keep] = p
                out[b, h, i] = p @ v[b, h, keep]
    return out, weights
'''

DAN = """
import numpy as np
from scipy.special import softmax


def attend(q, k, v, *, scale=None, causal=False, mask=None):
    d = q.shape[-1]
    if scale is None:
        scale = d ** -0.5
    logits = np.einsum("bhid,bhjd->bhij", q, k) * scale
    hide = np.zeros(logits.shape, dtype=bool)
    if causal:
        hide |= np.triu(np.ones(logits.shape[-2:], dtype=bool), 1 + logits.shape[-1] - logits.shape[-2])
    if mask is not None:
        hide |= ~mask[:, None, None]
    logits[hide] = -1e30
    attention = softmax(logits, axis=-1)
    return dict(out=np.einsum("bhij,bhjd->bhid", attention, v), weights=attention)
"""


@dataclass(frozen=True)
class Sent:
    student: str
    files: dict[str, bytes] = field(default_factory=dict)


def sent(student: str, text: str, name: str = "attention") -> Sent:
    return Sent(student, {f"{name}.py": text.encode()})


def listed(similar: Similar) -> list[tuple[str, str]]:
    return [(p.first.owner, p.second.owner) for p in similar.pairs]


@pytest.fixture(scope="module")
def few() -> Similar:
    """Four own solutions, a disguised copy, a bare skeleton, copied paths."""
    exhibit = find("attention")
    bare = skeleton(exhibit)
    reference = answer(exhibit)["attention.py"].decode()
    renamed = re.sub(r"\bscale\b", "faktor", re.sub(r"#.*", "# mine", reference))
    return compare(
        [
            sent("ann", ANN), sent("ben", BEN), sent("cat", CAT), sent("dan", DAN),
            sent("eve", bare), sent("fay", bare + "\n# nothing yet\n"), sent("gil", renamed),
            Sent("hal", answer(exhibit, "torch")),
        ],
        ["attention"],
        Course(),
    )  # fmt: skip


def test_a_disguised_copy_is_found_and_own_work_is_not(few: Similar) -> None:
    assert ("ann", "ben") in listed(few)
    pair = next(p for p in few.pairs if p.second.owner == "ben")
    assert min(pair.share_first, pair.share_second) >= 0.75
    for own in ("cat", "dan"):
        assert not [p for p in listed(few) if own in p]


def test_bare_skeletons_are_like_nobody(few: Similar) -> None:
    assert not [p for p in listed(few) if "eve" in p or "fay" in p]
    assert few.compared == {"attention": 8}


def test_copies_of_shipped_paths_are_listed(few: Similar) -> None:
    assert ("gil", "attnlab's numpy path") in listed(few)
    assert ("hal", "attnlab's torch path") in listed(few)
    assert {p.first.owner for p in few.pairs if p.shipped} == {"gil", "hal"}


def test_lines_of_both_sides_belong_together(few: Similar) -> None:
    pair = next(p for p in few.pairs if p.second.owner == "ben")
    first, second = ANN.splitlines(), BEN.splitlines()
    longest = pair.blocks[0]
    text = "\n".join(first[longest.first[1] - 1 : longest.first[2]])
    twin = "\n".join(second[longest.second[1] - 1 : longest.second[2]])
    assert "np.tril" in text
    assert "numpy.tril" in twin
    assert sum(b.tokens for b in pair.blocks) > 0.8 * len(pair.first.tokens)


def test_what_a_fifth_of_the_class_has_is_nobodys() -> None:
    """One formula for all, and two who share more than that."""
    body = "def attend(q, k, v):\n    s = q @ k.T / np.sqrt(q.shape[-1])\n    p = np.exp(s - s.max(-1, keepdims=True))\n    return p / p.sum(-1, keepdims=True) @ v\n"
    extra = "def twist(a, b):\n    for i in range(len(a)):\n        while a[i] > b[i] and not b[i] % 3 == 1:\n            a[i], b[i] = b[i] // 2 - a[i], {k: v for k, v in zip(a, b)}[i]\n    return [a.pop() or b for b in a if b is not None] + [*b, lambda x: x ** 2]\n"
    documents = [document(f"s{i:02}", {"x.py": body}) for i in range(40)]
    documents += [document(s, {"x.py": body + extra}) for s in ("yan", "zoe")]
    assert {(p.first.owner, p.second.owner) for p in among("x", documents)} == {("yan", "zoe")}


@pytest.mark.parametrize(
    "broken",
    [
        ANN.replace("return {", "return {{{"), ANN.replace("def attend(", "def attend("*3),
        ANN + "\n    '''never closed", ANN.replace("    if causal", "  if causal"), ANN + "\x00\x0c$?",
    ],
)  # fmt: skip
def test_syntax_errors_do_not_hide_a_copy(broken: str) -> None:
    found = compare([sent("ann", ANN), sent("ben", broken)], ["attention"], Course())
    assert ("ann", "ben") in listed(found)


def test_odd_files_are_read(tmp_path: Path) -> None:
    odd = [
        "",
        "\n",
        "(" * 5000,
        "'''",
        "\xff\xfe".encode("latin-1"),
        b"\0" * 100,
        "x" * 10**6,
        "if" * 9,
    ]
    found = compare(
        [Sent(f"s{i}", {"attention.py": o if isinstance(o, bytes) else o.encode()}) for i, o in enumerate(odd)],
        ["attention", "landmark"],
        Course(),
    )  # fmt: skip
    assert found.pairs == ()
    assert found.compared == {"attention": len(odd), "landmark": 0}


def test_work_moved_to_a_helper_file_is_followed() -> None:
    helper = BEN.replace("attend", "inner")
    files = {
        "attention.py": b"from tools.work import inner as attend\n",
        "tools/work.py": helper.encode(),
        "landmark.py": CAT.encode(),
        "unused.py": CAT.encode(),
    }
    assert set(reached(files, "attention")) == {"attention.py", "tools/work.py"}
    found = compare([sent("ann", ANN), Sent("ben", files)], ["attention"], Course())
    assert ("ann", "ben") in listed(found)
    assert found.pairs[0].blocks[0].second[0] == "tools/work.py"


def test_winnowing_keeps_the_least_of_every_window() -> None:
    rng = random.Random(3)
    for _ in range(200):
        hashes = [rng.randrange(9) for _ in range(rng.randrange(40))]
        windows = range(max(1, len(hashes) - WINDOW + 1)) if hashes else ()
        due = {
            min(range(s, min(len(hashes), s + WINDOW)), key=lambda i: (hashes[i], -i))
            for s in windows
        }
        assert winnow(hashes) == sorted(due)


def test_any_long_run_is_found_wherever_it_stands() -> None:
    """The method's guarantee: K + WINDOW - 1 shared tokens leave a shared fingerprint."""
    rng = random.Random(5)
    words = ["if", "else", "(", ")", "+", "*", "not", "while", "lambda", "[", "]", ":", "in", "is"]
    for _ in range(60):
        run = " ".join(rng.choices(words, k=K + WINDOW - 1))
        texts = [
            " ".join(rng.choices(words, k=rng.randrange(60))) + f" {run} "
            + " ".join(rng.choices(words, k=rng.randrange(60)))
            for _ in range(2)
        ]  # fmt: skip
        a, b = (document("x", {"x.py": text}) for text in texts)
        assert a.marks.keys() & b.marks.keys()


def test_both_lexers_agree_on_python() -> None:
    for name in ("attention", "landmark", "hyper_attention"):
        text = answer(find(name))[f"{name}.py"].decode()
        rough = list(fingerprint._statements(list(fingerprint._rough(text))))
        assert [(t.symbol, t.line) for t in tokenise(text)] == rough


def test_a_class_of_two_hundred_takes_seconds() -> None:
    """2000 files like real ones; measured in processor time, for other tests may run beside."""
    bodies = [
        answer(find(n))[f"{n}.py"].decode() for n in ("attention", "landmark", "act", "based")
    ]
    rng = random.Random(0)
    names = ["attention", "landmark"] * 5

    def vary(text: str) -> str:
        lines = text.splitlines()
        for _ in range(len(lines) // 8):
            lines.insert(rng.randrange(len(lines)), f"# {rng.random()}")
        return "\n".join(lines)

    students = [
        Sent(f"s{i}", {"attention.py": vary(bodies[i % 4]).encode(), "landmark.py": vary(bodies[(i + 1) % 4]).encode()})
        for i in range(60)
    ]  # fmt: skip
    start = time.process_time()
    found = compare(students, names[:2], Course())
    spent = time.process_time() - start
    assert found.compared == {"attention": 60, "landmark": 60}
    assert spent / 120 * 2000 < 50


def test_outputs_of_the_similarity_pass(few: Similar, tmp_path: Path) -> None:
    write_all([], Course(), tmp_path, similar=few)
    with (tmp_path / "similarity.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(few.pairs)
    row = next(r for r in rows if r["second"] == "ben")
    assert float(row["share of first"]) >= 0.75
    assert row["lines of first"].startswith("attention.py ")
    found = json.loads((tmp_path / "similarity.json").read_text())
    assert [p["first"] for p in found["pairs"]] == [r["first"] for r in rows]
    report = (tmp_path / "report.html").read_text()
    assert "Alike submissions" in report
    assert "np.tril" in report
    assert report.count("<details") == len(few.pairs)


def test_a_threshold_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="least"):
        compare([], ["attention"], Course(), least=0)
