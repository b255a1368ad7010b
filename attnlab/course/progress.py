"""A student's progress: best scores and hints read, kept in one file beside the exercises.

The file is plain JSON, written whole to a temporary file that then takes its place, so that a
reader never meets half of it. One that cannot be read is set aside, never overwritten.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnlab.course.model import Grade

FILE = ".attnlab-progress.json"
VERSION = 1


@dataclass(frozen=True)
class Best:
    """The best check of an exercise on one track: points of those that a student sees."""

    score: float
    points: float
    passed: bool = False  # every item, those without points too
    when: str = ""  # UTC, ISO 8601


@dataclass(frozen=True)
class Entry:
    """What is known of one exercise."""

    hints: int = 0  # read so far
    checks: int = 0
    track: str = ""  # chosen at the start; "" is the course's
    best: dict[str, Best] = field(default_factory=dict)  # by track

    @property
    def top(self) -> Best | None:
        """The best of all tracks."""
        return max(
            self.best.values(),
            key=lambda b: (b.passed, b.score / b.points if b.points else 0.0),
            default=None,
        )

    @property
    def passed(self) -> bool:
        """Every item passed, on some track."""
        return any(best.passed for best in self.best.values())

    @property
    def solved(self) -> bool:
        """All points were reached, whatever items without points say."""
        return any(best.passed or best.score >= best.points > 0 for best in self.best.values())


class Progress:
    """The progress file of a folder, for one course (two courses in one folder do not mix).

    `notes` tells what a user should know: that a damaged file was set aside, that nothing can be
    saved here.
    """

    def __init__(self, folder: Path, course: str = "attnlab"):
        self.folder, self.course = folder, course
        self.file = folder / FILE
        self.notes: list[str] = []
        self._writable = True
        self._entries = self._read()

    def entry(self, name: str) -> Entry:
        return self._entries.get(self.course, {}).get(name, Entry())

    def start(self, name: str, track: str = "") -> None:
        """Remember the track that an exercise was started on."""
        with self._change(name) as entry:
            entry["track"] = track

    def record(self, grade: Grade) -> bool:
        """Count a check and keep it if it is the best; True when it is better than all before."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        passed = grade.status == "graded" and all(
            o.passed for o in grade.outcomes if not o.item.hidden
        )
        new = Best(grade.public_score, grade.public_points, passed and bool(grade.outcomes), now)
        old = self.entry(grade.exercise).best.get(grade.track)
        better = old is None or (new.passed, new.score) > (old.passed, old.score)
        with self._change(grade.exercise) as entry:
            entry["checks"] += 1
            if better:
                entry["best"] = entry["best"] | {grade.track: new}
        return better and (old is not None or new.score > 0)

    def hint(self, name: str, number: int) -> None:
        """Remember that hints up to `number` were read."""
        with self._change(name) as entry:
            entry["hints"] = max(entry["hints"], number)

    @contextlib.contextmanager
    def _change(self, name: str) -> Iterator[dict[str, Any]]:
        """One entry to change; read again first, since a watch may run beside this."""
        with self._locked():
            self._entries = self._read()
            fields = dict(vars(self.entry(name)))
            yield fields
            self._entries.setdefault(self.course, {})[name] = Entry(**fields)
            self._write()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Two processes do not change the file at once, where the system has such locks."""
        try:
            import fcntl

            handle = os.open(self.folder, os.O_RDONLY)
        except (ImportError, OSError):
            yield
            return
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _read(self) -> dict[str, dict[str, Entry]]:
        try:
            text = self.file.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._writable = False  # what cannot be read must not be replaced
            self._note(f"{self.file} cannot be read ({error.strerror}); progress is not kept")
            return {}
        try:
            return _parse(json.loads(text.decode("utf-8")))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            self._set_aside(error)
            return {}

    def _set_aside(self, error: Exception) -> None:
        number = 1
        while (aside := self.file.with_name(f"{FILE}.damaged-{number}")).exists():
            number += 1
        why = f"{self.file} is damaged ({type(error).__name__}: {error})"
        try:
            os.replace(self.file, aside)
        except OSError:
            self._writable = False
            self._note(f"{why}; progress is not kept")
        else:
            self._note(f"{why}; it was kept as {aside.name}, and progress starts anew")

    def _write(self) -> None:
        if not self._writable:
            return
        courses = {
            course: {name: _plain(entry) for name, entry in sorted(entries.items())}
            for course, entries in sorted(self._entries.items())
        }
        text = json.dumps({"version": VERSION, "courses": courses}, indent=1, ensure_ascii=False)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=f"{FILE}.", suffix=".new", dir=self.folder)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(text + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, self.file)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            self._note(f"progress cannot be saved in {self.folder} ({error.strerror})")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _plain(entry: Entry) -> dict[str, Any]:
    return vars(entry) | {"best": {track: vars(best) for track, best in entry.best.items()}}


def _parse(document: dict[str, Any]) -> dict[str, dict[str, Entry]]:
    """The entries of a progress document; any of several errors where it is none."""
    if document["version"] != VERSION:
        raise ValueError(f"version {document['version']!r} is not {VERSION}")
    return {
        str(course): {str(name): _entry(data) for name, data in entries.items()}
        for course, entries in document["courses"].items()
    }


def _entry(data: dict[str, Any]) -> Entry:
    best = {
        str(track): Best(float(b["score"]), float(b["points"]), bool(b["passed"]), str(b["when"]))
        for track, b in data["best"].items()
    }
    return Entry(int(data["hints"]), int(data["checks"]), str(data["track"]), best)
