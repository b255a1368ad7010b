"""Text, names and files that hold whatever a student is called and whatever a submission printed."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# What XML 1.0 cannot say and UTF-8 cannot write: control characters, lone surrogates, U+FFFE.
_UNFIT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,79}")
_DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(10))}


def plain(text: object) -> str:
    """The text with every character that cannot be written to XML or UTF-8 as U+FFFD."""
    return _UNFIT.sub("\ufffd", str(text))


def one_line(text: object) -> str:
    return " ".join(plain(text).split())


def number(value: float, digits: int = 4) -> int | float:
    """Rounded, whole numbers as int: 40 rather than 40.0 in a table."""
    rounded = round(float(value), digits)
    return int(rounded) if rounded.is_integer() else rounded


def shown(value: Any, digits: int = 6) -> str:
    """A value of an array in few characters."""
    if isinstance(value, bool) or value is None:
        return str(value)
    return f"{value:.{digits}g}" if isinstance(value, float) else plain(value)


def file_names(students: Iterable[str]) -> dict[str, str]:
    """A file name without suffix for each student: the id where any system can hold it, else what
    is readable of it and eight digits of its hash. No two are alike, upper and lower case apart."""
    ids = sorted(set(students))
    folded = [name.casefold() for name in ids]
    names = {}
    for student, low in zip(ids, folded):
        fit = _SAFE.fullmatch(student) and not student.endswith(".")
        fit = fit and low.split(".")[0] not in _DEVICES and folded.count(low) == 1
        names[student] = student if fit else _hashed(student)
    return names


def _hashed(student: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9]+", "-", student).strip("-")[:40] or "student"
    digest = hashlib.sha256(student.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{readable}-{digest[:8]}"


def write(path: Path, content: str | bytes, encoding: str = "utf-8") -> Path:
    """Write a file whole or not at all: a reader never sees half of it."""
    data = content if isinstance(content, bytes) else content.encode(encoding, "replace")
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(data)
    os.replace(part, path)
    return path
