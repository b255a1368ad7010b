"""Grades in an SQLite file, each written the moment it is known.

    with Gradebook.open(out) as book:           # out/grades.sqlite, made where it is missing
        seeds = book.seeds(exercises)           # drawn once, kept: a resumed run goes on with them
        graded = book.graded()                  # (student, exercise, track) -> Key
        book.put(grade)                         # one transaction: there whole or not at all
        book.grades()

The file survives a killed process and a power cut at any moment. One process writes at a time (a
second one is refused), anybody may read. `history` keeps every grade that was ever recorded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from attnlab.contract import InputError
from attnlab.course.model import Grade

FILE = "grades.sqlite"
_VERSION = 1
_COLUMNS = (
    "student", "exercise", "track", "status", "score", "points", "public_score", "public_points",
    "hidden_items", "message", "isolation", "seed", "content", "course", "seconds", "faults",
)  # fmt: skip
_TABLES = f"""
CREATE TABLE IF NOT EXISTS grades (
    {", ".join(_COLUMNS)}, graded_at REAL, grade TEXT, PRIMARY KEY (student, exercise, track));
CREATE TABLE IF NOT EXISTS history (
    {", ".join(_COLUMNS)}, graded_at REAL);
CREATE TABLE IF NOT EXISTS seeds (exercise TEXT PRIMARY KEY, seed INTEGER NOT NULL);
"""


class Key(NamedTuple):
    """What a grade depends on: where all are equal, the work need not be graded again."""

    content: str  # hash of the student's files that matter
    course: str  # hash of the course as far as it matters
    seed: int


def seed_of_try(seed: int, tries: int) -> int:
    """The seed of a piece of work handed in again: a report on the first shows answers to inputs that
    the next must not meet. The first try's is the run's own, one for the whole class."""
    if not tries:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} {tries}".encode()).digest()[:6], "big")


class Gradebook:
    """The grades of a class; a context manager."""

    def __init__(self, connection: sqlite3.Connection, lock: IO[str] | None = None):
        self.db = connection
        self._lock = lock

    @classmethod
    def open(cls, folder: str | Path) -> Gradebook:
        """The gradebook of a folder, to write in. Raises InputError when another process writes
        there, when the file is no gradebook or comes from a newer version."""
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = _locked(folder / ".grading.lock")
        except OSError as error:
            raise InputError(f"--out: {error.filename}: {error.strerror}") from None
        if lock is None:
            raise InputError(f"--out: another `attnlab grade` is writing to {folder}")
        book = cls(sqlite3.connect(folder / FILE, timeout=60, isolation_level=None), lock)
        try:
            book._prepare(folder / FILE)
        except BaseException:
            book.close()
            raise
        return book

    @classmethod
    def reading(cls, folder: str | Path) -> Gradebook:
        """The gradebook of a folder, to read in while others write. Raises InputError without one."""
        path = Path(folder) / FILE
        if not path.is_file():
            raise InputError(f"no gradebook {path}")
        return cls(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True))

    def _prepare(self, path: Path) -> None:
        try:
            (version,) = self.db.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise InputError(f"--out: {path} was written by a newer attnlab")
            # where the file system cannot do it SQLite keeps its older journal, which is as safe
            self.db.execute("PRAGMA journal_mode=WAL")
            self.db.execute("PRAGMA synchronous=FULL")
            with self._transaction():
                for statement in _TABLES.split(";"):
                    self.db.execute(statement)
                self.db.execute(f"PRAGMA user_version={_VERSION}")
        except sqlite3.DatabaseError as error:
            raise InputError(f"--out: {path} is no gradebook of attnlab's ({error})") from None

    def seeds(
        self, exercises: Sequence[str], asked: int | None = None, regrade: bool = False
    ) -> dict[str, int]:
        """exercise -> the seed of its fresh inputs, the same for the first try of all students.

        Kept where it was drawn before; `regrade` draws anew. Raises InputError when a seed is
        asked for and grades with another one are there.
        """
        kept = {} if regrade else dict(self.db.execute("SELECT exercise, seed FROM seeds"))
        for name in exercises:
            if asked is not None and kept.get(name, asked) != asked:
                raise InputError(
                    f"--seed: {name} was graded with seed {kept[name]}; "
                    f"--regrade --seed {asked} grades it anew"
                )
        if asked is None:  # an exercise that joins later gets the run's seed
            asked = next(iter(kept.values()), secrets.randbits(48))
        seeds = {name: kept.get(name, asked) for name in exercises}
        with self._transaction():
            self.db.executemany("INSERT OR REPLACE INTO seeds VALUES (?, ?)", seeds.items())
        return seeds

    def put(self, grade: Grade) -> None:
        """Record a grade; an earlier one of the same work is replaced, and stays in `history`."""
        data = grade.to_dict()
        ours = [grade.status, *(o.status for o in grade.outcomes)].count("grader error")
        row = [_storable((data | {"faults": ours})[c]) for c in _COLUMNS] + [time.time()]
        marks = ", ".join("?" * len(row))
        with self._transaction():
            self.db.execute(
                f"INSERT OR REPLACE INTO grades VALUES ({marks}, ?)",
                [*row, json.dumps(data, default=_plain)],
            )
            self.db.execute(f"INSERT INTO history VALUES ({marks})", row)

    def graded(self) -> dict[tuple[str, str, str], Key]:
        """(student, exercise, track) -> what its grade was made from. A grade
        with a failure of the grader's own in it is left out, and so tried again."""
        rows = self.db.execute(
            "SELECT student, exercise, track, content, course, seed FROM grades WHERE faults = 0"
        )
        return {(row[0], row[1], row[2]): Key(*row[3:]) for row in rows}

    def tries(self) -> dict[tuple[str, str, str], list[str]]:
        """(student, exercise, track) -> the contents that were ever graded, in order."""
        found: dict[tuple[str, str, str], list[str]] = {}
        rows = self.db.execute(
            "SELECT student, exercise, track, content FROM history ORDER BY rowid"
        )
        for *work, content in rows:
            contents = found.setdefault((work[0], work[1], work[2]), [])
            if content not in contents:
                contents.append(content)
        return found

    def grades(self, student: str | None = None) -> list[Grade]:
        """The grades, all or of one student, by student and exercise."""
        where, values = ("WHERE student = ?", [student]) if student is not None else ("", [])
        rows = self.db.execute(
            f"SELECT grade FROM grades {where} ORDER BY student, exercise, track", values
        )
        return [Grade.from_dict(json.loads(text)) for (text,) in rows]

    def close(self) -> None:
        self.db.close()
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Gradebook:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")


def _locked(path: Path) -> IO[str] | None:
    """The open file, locked as long as this process lives; None where another holds it."""
    handle = path.open("w")
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # no such locks here: SQLite still keeps the file whole
        pass
    except OSError:
        handle.close()
        return None
    return handle


def _storable(value: Any) -> Any:
    """Text without lone surrogates, which a database cannot hold."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def _plain(value: Any) -> Any:
    """What JSON has no word for: NumPy's numbers and arrays."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
