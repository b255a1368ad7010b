"""The gradebook: what was recorded is there, whole, once, whatever happens to the process."""

from __future__ import annotations

import math
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attnlab.contract import InputError
from attnlab.course.gradebook import FILE, Gradebook, Key
from attnlab.course.model import Difference, Grade, Item, Outcome


def a_grade(student: str = "anna", exercise: str = "landmark", earned: float = 30.0) -> Grade:
    wrong = Difference("out", (2, 3), (2, 3), "float64", (0, 1), math.nan, None, (1, 2), math.inf)
    outcomes = (
        Outcome(Item("attend/fresh-1", "attend", "fresh", 40.0), "passed", earned),
        Outcome(Item("attend/hidden-1", "attend", "hidden", 20.0), "wrong", 0.0, "no", wrong),
    )
    return Grade(
        student, exercise, "numpy", outcomes, seed=2**48 - 1, content="c1", course="k1",
        isolation="none", extra={"notes": ["one"]},
    )  # fmt: skip


def test_a_grade_comes_back_as_it_was(tmp_path: Path) -> None:
    with Gradebook.open(tmp_path / "new" / "out") as book:
        book.put(a_grade())
    with Gradebook.reading(tmp_path / "new" / "out") as book:
        (got,) = book.grades()
        assert repr(got) == repr(a_grade())  # repr, for NaN is not equal to itself
        assert book.graded() == {("anna", "landmark", "numpy"): Key("c1", "k1", 2**48 - 1)}
        assert book.grades("ben") == []


def test_columns_can_be_asked_with_sql(tmp_path: Path) -> None:
    with Gradebook.open(tmp_path) as book:
        book.put(a_grade())
        book.put(a_grade("ben", earned=0.0))
        rows = sqlite3.connect(tmp_path / FILE).execute(
            "SELECT student, score, public_points, hidden_items, seed FROM grades ORDER BY score"
        )
        assert rows.fetchall() == [("ben", 0.0, 40.0, 1, 2**48 - 1), ("anna", 30.0, 40.0, 1, 2**48 - 1)]  # fmt: skip


def test_a_new_grade_replaces_and_history_keeps(tmp_path: Path) -> None:
    with Gradebook.open(tmp_path) as book:
        book.put(a_grade(earned=10.0))
        book.put(replace(a_grade(earned=40.0), content="c2"))
        book.put(replace(a_grade(earned=5.0), track="torch"))
        assert [(g.track, g.score) for g in book.grades()] == [("numpy", 40.0), ("torch", 5.0)]
        kept = book.db.execute("SELECT content, score FROM history ORDER BY rowid").fetchall()
        assert kept == [("c1", 10.0), ("c2", 40.0), ("c1", 5.0)]


def test_our_own_failures_are_tried_again(tmp_path: Path) -> None:
    with Gradebook.open(tmp_path) as book:
        book.put(replace(a_grade(), status="grader error", outcomes=()))
        assert book.graded() == {}
        ours = replace(a_grade().outcomes[0], status="grader error")
        book.put(replace(a_grade(), outcomes=(ours,)))
        assert book.graded() == {}
        assert len(book.grades()) == 1


def test_odd_values_are_stored(tmp_path: Path) -> None:
    """Text that no encoding knows and NumPy's numbers stop no batch."""
    outcome = Outcome(
        Item("a/fresh-1", "a", "fresh", 1.0), "wrong", message="\ud800 \0 \x1b[31m",
        difference=Difference("out", got=np.float32(0.5), expected=np.zeros(2), error=np.float64(1)),
    )  # fmt: skip
    with Gradebook.open(tmp_path) as book:
        book.put(Grade("ann\udcffa", "a", "numpy", (outcome,), message="\udcff", seconds=np.float64(2)))  # type: ignore[arg-type]  # fmt: skip
        (got,) = book.grades()
        assert got.outcomes[0].difference.got == 0.5
        assert got.outcomes[0].difference.expected == [0, 0]


def test_seeds_are_drawn_once_and_kept(tmp_path: Path) -> None:
    with Gradebook.open(tmp_path) as book:
        first = book.seeds(["a", "b"])
        assert first["a"] == first["b"]
        assert book.seeds(["b", "c"]) == {"b": first["a"], "c": first["a"]}
        anew = book.seeds(["a"], regrade=True)
        assert anew["a"] != first["a"]
        assert book.seeds(["a", "b"]) == {"a": anew["a"], "b": first["b"]}
    with Gradebook.open(tmp_path) as book:
        assert book.seeds(["a"]) == anew
        with pytest.raises(InputError, match=r"--seed: a was graded with seed .* --regrade"):
            book.seeds(["a"], asked=7)
        assert book.seeds(["a"], asked=anew["a"]) == anew
        assert book.seeds(["a", "d"], asked=7, regrade=True) == {"a": 7, "d": 7}
        assert book.seeds(["e"], asked=9) == {"e": 9}


def test_two_books_draw_different_seeds(tmp_path: Path) -> None:
    with Gradebook.open(tmp_path / "1") as one, Gradebook.open(tmp_path / "2") as two:
        assert one.seeds(["a"]) != two.seeds(["a"])


def test_one_writes_many_read(tmp_path: Path) -> None:
    with Gradebook.open(tmp_path) as book:
        book.put(a_grade())
        with pytest.raises(InputError, match="another `attnlab grade` is writing"):
            Gradebook.open(tmp_path)
        with Gradebook.reading(tmp_path) as reader:
            assert len(reader.grades()) == 1
            book.put(a_grade("ben"))
            assert len(reader.grades()) == 2
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                reader.db.execute("DELETE FROM grades")
    Gradebook.open(tmp_path).close()


def test_refuses_what_is_no_gradebook(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("name,points\nanna,3\n" * 100)
    with pytest.raises(InputError, match="is no gradebook"):
        Gradebook.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--out: .*file"):
        Gradebook.open(tmp_path / "file")
    with pytest.raises(InputError, match="no gradebook"):
        Gradebook.reading(tmp_path / "none")
    with Gradebook.open(tmp_path / "new") as book:
        book.db.execute("PRAGMA user_version=99")
    with pytest.raises(InputError, match="newer"):
        Gradebook.open(tmp_path / "new")


WRITER = """
import sys
from attnlab.course.gradebook import Gradebook
from attnlab.course.model import Grade
with Gradebook.open(sys.argv[1]) as book:
    for i in range(10**6):
        book.put(Grade("s", f"e{i:06}", "numpy", message="x" * 20_000))
        print(i, flush=True)
"""


def test_a_killed_writer_loses_nothing_it_confirmed(tmp_path: Path) -> None:
    """kill -9 while rows are written: those confirmed are there, whole, and the file opens."""
    had = 0
    for wanted in (1, 40, 7):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(wanted):
            confirmed = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.communicate(timeout=60)[0].split()
        had = max(had, confirmed, *map(int, rest), 0)
        with Gradebook.open(tmp_path) as book:  # the lock died with its holder
            assert book.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            rows = {g.exercise: g for g in book.grades()}
            assert {f"e{i:06}" for i in range(had + 1)} <= rows.keys()
            assert all(len(g.message) == 20_000 for g in rows.values())
