"""Submissions as they arrive, one folder or zip a student, read without trusting any of it.

Nothing is unpacked and no link is followed: Python files are read into memory within limits, and
what cannot be taken is named. Only .py files count: data files, notebooks and what editors and
operating systems leave behind stay outside the sandbox.

FAQ
- *The student* is the folder's or zip's name; Canvas's `name_id_…` is kept whole.
- *Wrapped* submissions (a zip that holds one folder that holds the files; a folder that holds one
  zip) are unwrapped.
- *Loose files* as Canvas and Moodle download them (`doejane_12345_67890_landmark.py`,
  `Jane Doe_123_assignsubmission_file_landmark.py`) are gathered by student.
- *Landmark.py* counts as landmark.py where that is not there: some file systems cannot tell.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import stat
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from attnlab.contract import InputError

MIB = 2**20
MAX_FILES = 5_000  # looked at, a submission
MAX_FILE = MIB  # bytes, a Python file
MAX_TOTAL = 8 * MIB  # bytes of Python, a submission
MAX_ARCHIVE = 64 * MIB
MAX_RATIO = 200  # source code shrinks 3 to 10 times
MAX_DEPTH = 20  # folders below each other

_LITTER = {
    "__MACOSX", "__pycache__", "node_modules", "site-packages", "venv", "Thumbs.db", "desktop.ini",
}  # fmt: skip
# a student's single files in a class's download; Canvas numbers those handed in again (-1)
_LOOSE = re.compile(
    r"(?P<who>[^_]+(?:_LATE)?_\d+)_(?P<number>\d+)_(?P<file>[^/]+\.py)"
    r"|(?P<moodle>.+_\d+_assignsubmission_file)_(?P<named>[^/]+\.py)",
    re.I,
)
# what may read another file without naming it in an import
_INDIRECT = re.compile(
    rb"importlib|__import__|runpy|\bexec\b|\bopen\b|glob|listdir|scandir|iterdir|walk|read_(?:text|bytes)|\0"
)
_WORD = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Submission:
    """One student's files: path within the submission (with /) -> bytes.

    `problem` says why nothing could be read at all, `left_out` why single files were not taken.
    """

    student: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    problem: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """A hash of all files."""
        return _hash(self.problem, self.files, self.left_out)

    def fingerprint(self, name: str) -> str:
        """A hash of all that can change exercise `name`'s grade: its file, the helper files, and
        those other exercises' files that these import."""
        from attnlab.registry import names

        others = {f"{other}.py" for other in names()} - {f"{name}.py"}
        kept = {f for f in self.files if f not in others}
        waiting = list(kept)
        while waiting:
            reached = {f for f in others & self.files.keys() if f not in kept}
            reached &= _reaches(self.files[waiting.pop()], reached)
            kept |= reached
            waiting += reached
        own = {k: v for k, v in self.left_out.items() if k == f"{name}.py"}
        return _hash(self.problem, {f: self.files[f] for f in kept}, own)

    def lacks(self, name: str) -> tuple[str, str] | None:
        """("missing" or "malformed", the reason) where exercise `name` has no file to run."""
        file = f"{name}.py"
        if self.problem:
            return "malformed", self.problem
        if file in self.files:
            return None
        if file in self.left_out:
            return "malformed", f"{file} was not taken: {self.left_out[file]}"
        near = sorted(f for f in self.files if name in f.lower())[:3]
        return "missing", f"no {file}" + (f" (there is {', '.join(near)})" if near else "")


def find(folder: str | Path) -> list[Submission]:
    """All submissions of a class, by student. Raises InputError where `folder` holds none."""
    root = Path(folder)
    if not root.is_dir():
        hint = "; unpack it first: it must hold one folder or zip a student"
        raise InputError(
            f"SUBMISSIONS: {root} is no folder" + (hint if root.suffix == ".zip" else "")
        )
    entries, others = _entries(root)
    loose = _loose(others)
    if not entries and not loose:
        python = any(p.suffix == ".py" for p in root.iterdir())
        hint = ", but Python files: is it one student's? Give the folder above" if python else ""
        raise InputError(f"SUBMISSIONS: {root} holds no folder or zip a student{hint}")
    found: dict[str, Submission] = {}
    for made in [*map(_entered, entries), *(_gathered(*each) for each in loose.items())]:
        twin = found.get(made.student)
        if twin is not None and twin.content != made.content:
            made = Submission(made.student, problem="two submissions of this name differ")
        found[made.student] = made
    return sorted(found.values(), key=lambda s: s.student)


def strays(folder: str | Path) -> list[str]:
    """What lies in a class's folder and is nobody's submission: neither folder nor zip."""
    others = _entries(Path(folder))[1]
    return [student_of(p) for p in others if p.is_symlink() or not _LOOSE.fullmatch(p.name)]


def _entered(entry: Path) -> Submission:
    if entry.is_symlink():
        return Submission(student_of(entry), problem="it is a symbolic link: none is followed")
    return read(entry)


def _loose(others: list[Path]) -> dict[str, dict[str, Path]]:
    """Student -> file's name -> path, of single files that bear their student's name. Of a file that
    was handed in again the last one counts."""
    parts = [(p, m) for p in others if (m := _LOOSE.fullmatch(p.name)) and not p.is_symlink()]
    parts.sort(key=lambda part: int(part[1]["number"] or 0))
    found: dict[str, dict[str, Path]] = {}
    students: dict[str, str] = {}
    for path, match in parts:
        who = match["moodle"] or match["who"]
        student = students.setdefault(who, match["moodle"] or f"{who}_{match['number']}")
        name = re.sub(r"-\d+(?=\.py$)", "", match["named"] or match["file"])
        found.setdefault(student, {})[name] = path
    return found


def _gathered(student: str, files: Mapping[str, Path]) -> Submission:
    """One student's single files. Never raises for what a student may have sent."""
    intake = _Intake()
    try:
        for name, path in files.items():
            intake.offer(name, partial(_read_plain, os.fspath(path)))
    except _Unreadable as why:
        return Submission(student_of(Path(student)), problem=str(why))
    return Submission(student_of(Path(student)), *intake.unwrapped())


def read(path: str | Path) -> Submission:
    """One submission. Never raises for what a student may have sent: `problem` tells."""
    path = Path(path)
    student = student_of(path)
    intake = _Intake()
    try:
        if path.is_dir():
            intake.folder(path)
            zips = [p for p in path.iterdir() if _is_zip(p) and not p.is_symlink()]
            if len(zips) == 1 and not intake.files and not intake.left_out:
                intake.archive(zips[0])
        else:
            intake.archive(path)
    except _Unreadable as why:
        return Submission(student, problem=str(why))
    except Exception as error:  # whatever a damaged archive or file system may raise
        return Submission(student, problem=f"cannot be read ({_reason(error)})")
    return Submission(student, *intake.unwrapped())


def student_of(path: Path) -> str:
    """The student's name: the folder's, or the zip's without .zip; printable, composed (NFC)."""
    name = Path(os.path.abspath(path)).name
    name = name[:-4] if name.lower().endswith(".zip") and len(name) > 4 else name
    raw = os.fsencode(name).decode("utf-8", "backslashreplace")
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in raw)
    return unicodedata.normalize("NFC", plain)


class _Unreadable(Exception):
    """Why a submission as a whole cannot be read."""


class _Intake:
    """Takes files one by one and keeps count of them."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.left_out: dict[str, str] = {}
        self.seen = self.total = 0

    def folder(self, root: Path) -> None:
        for name, entry in _walk(root):
            kind = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISLNK(kind):
                self.offer(name, odd="a symbolic link: none is followed")
            elif not stat.S_ISREG(kind):
                self.offer(name, odd="no plain file")
            else:
                self.offer(name, partial(_read_plain, entry.path))

    def archive(self, path: Path) -> None:
        if not path.is_file():
            raise _Unreadable("neither a folder nor a zip")
        if (size := path.stat().st_size) > MAX_ARCHIVE:
            raise _Unreadable(f"the zip has {size / MIB:.0f} MiB, at most {MAX_ARCHIVE // MIB}")
        # counted before the directory is parsed: each of its entries begins with this mark
        if path.read_bytes().count(b"PK\1\2") > 4 * MAX_FILES:
            raise _Unreadable(f"more than {MAX_FILES} files")
        try:
            opened = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise _Unreadable(f"no readable zip ({error})") from None
        with opened:
            for entry in opened.infolist():
                name = entry.filename.replace("\\", "/")  # some Windows tools write these
                if entry.is_dir() or name.endswith("/"):
                    continue
                self.offer(name, partial(_read_member, opened, entry), _odd_member(entry))

    def offer(self, name: str, fetch: Callable[[int], bytes] | None = None, odd: str = "") -> None:
        """Takes one file where it may be taken, notes why where not (`odd`)."""
        self.seen += 1
        if self.seen > MAX_FILES:
            raise _Unreadable(f"more than {MAX_FILES} files")
        if _litter(name) or not (odd or name.lower().endswith(".py")):
            return
        shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        why = odd or _bad_name(name)
        if why or fetch is None:
            self.left_out[shown] = why
            return
        try:
            data = fetch(MAX_FILE + 1)
        except Exception as error:  # a damaged member of a zip, a file without permission
            self.left_out[shown] = f"cannot be read ({_reason(error)})"
            return
        if len(data) > MAX_FILE:
            self.left_out[shown] = f"larger than {MAX_FILE // 1024} KiB"
            return
        self.total += len(data)
        if self.total > MAX_TOTAL:
            raise _Unreadable(f"more than {MAX_TOTAL // MIB} MiB of Python")
        self.files[name] = data

    def unwrapped(self) -> tuple[dict[str, bytes], str, dict[str, str]]:
        """Files, no problem, what was left out: without the folders that wrap everything, and with
        lower-case names where an exercise's file was meant."""
        from attnlab.registry import names

        files, left_out = self.files, self.left_out
        if files and (top := posixpath.commonpath(posixpath.dirname(f) for f in files)):
            files = {f.removeprefix(f"{top}/"): data for f, data in files.items()}
            left_out = {f.removeprefix(f"{top}/"): why for f, why in left_out.items()}
        if not files:  # only what was refused: its names without folders tell whose it is
            left_out = {f.rpartition("/")[2]: why for f, why in left_out.items()}
        for file in [f for f in files if any(str(p) in files for p in PurePosixPath(f).parents)]:
            left_out[file] = "it lies inside what is a file, too"
            del files[file]
        meant = {f"{name}.py" for name in names()}
        for file in sorted(files):
            if file.lower() in meant:
                files.setdefault(file.lower(), files[file])
        return files, "", left_out


def _entries(root: Path) -> tuple[list[Path], list[Path]]:
    """(submissions, anything else) in a class's folder; hidden files and litter are neither."""
    here = [p for p in sorted(root.iterdir()) if not _litter(p.name)]
    mine = [p for p in here if p.is_dir() or _is_zip(p)]
    return mine, [p for p in here if p not in mine]


def _reason(error: Exception) -> str:
    """Without the paths of this machine, which an OSError's text holds."""
    known = isinstance(error, OSError) and error.strerror
    return str(known or f"{type(error).__name__}: {error}")


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip"


def _litter(name: str) -> bool:
    """Left by an editor, an operating system, a package manager."""
    return any(
        part in _LITTER or (part.startswith(".") and part != "..") for part in name.split("/")
    )


def _walk(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every file below root, and links as such; litter is not entered, nor what lies too deep."""
    waiting = [(os.fspath(root), "")]
    while waiting:
        folder, prefix = waiting.pop()
        with os.scandir(folder) as found:
            for entry in found:
                name = prefix + entry.name
                if not entry.is_dir(follow_symlinks=False):
                    yield name, entry
                elif not _litter(entry.name) and name.count("/") < MAX_DEPTH:
                    waiting.append((entry.path, f"{name}/"))


def _bad_name(name: str) -> str:
    """Why a file of that name cannot be taken."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or re.match("[A-Za-z]:", name):
        return "its path leads out of the submission"
    if any(part in ("", ".") for part in parts) or len(parts) > MAX_DEPTH:
        return "its path is not plain"
    if not name.isprintable() or any(len(os.fsencode(part)) > 200 for part in parts):
        return "its name is not printable or too long"  # undecodable bytes are not printable
    return ""


def _read_plain(path: str, limit: int) -> bytes:
    # the file may have been exchanged since it was listed: neither followed nor waited for
    handle = os.open(
        path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    )
    with os.fdopen(handle, "rb") as file:
        return file.read(limit)


def _odd_member(entry: zipfile.ZipInfo) -> str:
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "a symbolic link: none is followed"
    if not entry.filename.lower().endswith(".py"):
        return ""
    if entry.flag_bits & 1:
        raise _Unreadable("the zip is encrypted")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compressed in a way that is not read here (method {entry.compress_type})"
    if entry.file_size > MAX_FILE // 8 and entry.file_size > MAX_RATIO * entry.compress_size:
        return f"a zip bomb: {entry.file_size} bytes from {entry.compress_size}"
    return ""


def _read_member(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> bytes:
    with opened.open(entry) as file:  # never more than asked for, whatever the header says
        return file.read(limit)


def _reaches(source: bytes, files: set[str]) -> set[str]:
    """Which of these top-level files a source may import; all where it may look for them itself.

    No parser runs here: the source is not trusted, and deep nesting can end a process.
    """
    if _INDIRECT.search(source):
        return files
    lines = source.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ").splitlines()
    words = {w.decode() for line in lines if b"import" in line for w in _WORD.findall(line)}
    return {file for file in files if file.removesuffix(".py") in words}


def _hash(problem: str, files: Mapping[str, bytes], left_out: Mapping[str, str]) -> str:
    rows = [problem.encode("utf-8", "backslashreplace")]
    rows += [
        f.encode() + b"\0" + hashlib.sha256(data).digest() for f, data in sorted(files.items())
    ]
    rows += [f"{f}\0{why}".encode() for f, why in sorted(left_out.items())]
    return hashlib.sha256(b"".join(hashlib.sha256(row).digest() for row in rows)).hexdigest()[:16]
