"""What a submission may import: a track's distributions, what they require, and nothing else."""

from __future__ import annotations

import functools
import importlib.metadata as metadata
import re
from pathlib import Path

from attnlab.contract import InputError
from attnlab.course.model import Track

TRACKS: dict[Track, tuple[str, ...]] = {
    "numpy": ("numpy", "scipy", "jaxtyping"),
    "numba": ("numpy", "scipy", "jaxtyping", "numba", "threadpoolctl"),
    "torch": ("numpy", "jaxtyping", "torch"),
}
IMPORTS: dict[Track, tuple[str, ...]] = {  # what the server imports before it forks
    "numpy": ("numpy", "jaxtyping"),
    "numba": ("numpy", "jaxtyping", "numba"),
    "torch": ("numpy", "jaxtyping", "torch"),
}
NEVER = ("attnlab", "pytest", "_pytest")


@functools.cache
def importable(track: Track, more: tuple[str, ...] = ()) -> dict[str, Path]:
    """Name on the import path -> file or folder, of the track's distributions and of `more`.

    Raises InputError for a distribution that is not installed, and for attnlab and pytest.
    """
    found: dict[str, Path] = {}
    seen: set[str] = set()
    for name in more:
        if _canonical(name) not in _installed():
            raise InputError(f"packages: {name!r} is not installed here")
    waiting = [*TRACKS[track], *more]
    while waiting:
        name = _canonical(waiting.pop())
        if name in seen or name not in _installed():
            continue
        if name in NEVER:
            raise InputError(f"packages: submissions cannot be given {name}")
        seen.add(name)
        distribution = _installed()[name]
        found |= _top_level(distribution)
        waiting += [r for line in distribution.requires or () if (r := _requirement(line))]
    return found


@functools.cache
def _installed() -> dict[str, metadata.Distribution]:
    pairs = [(d.metadata["Name"], d) for d in metadata.distributions()]
    return {_canonical(name): d for name, d in reversed(pairs) if name}


def _top_level(distribution: metadata.Distribution) -> dict[str, Path]:
    names = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
    paths = {n: Path(str(distribution.locate_file(n))) for n in names if n not in NEVER}
    return {n: p.resolve() for n, p in paths.items() if p.exists() and p.suffix != ".pth"}


def _requirement(line: str) -> str:
    """The distribution that a requirement names; empty for those of extras. Markers for other
    machines name what is not installed here."""
    text, _, marker = line.partition(";")
    match = re.match(r"[\w.-]+", text)
    return match[0] if match and "extra" not in marker else ""


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
