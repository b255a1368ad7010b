"""Tells which exercises a save touches, by looking at the files' times.

Polling works on every file system, network folders included, and a course is a few dozen files.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

POLL = 0.25  # seconds between two looks
SETTLE = 0.15  # seconds without a change before a save counts as finished

Stamps = dict[str, tuple[int, int]]


def stamps(folder: Path) -> Stamps:
    """Each Python file below the folder with its time and size; hidden folders are left out."""
    found: Stamps = {}
    for path in folder.rglob("*.py"):
        relative = path.relative_to(folder)
        if any(part.startswith((".", "__")) for part in relative.parts[:-1]):
            continue
        try:
            state = path.stat()
        except OSError:  # an editor replaces a file: there is a moment without it
            continue
        found[relative.as_posix()] = (state.st_mtime_ns, state.st_size)
    return found


def imported(folder: Path, module: str) -> set[str]:
    """The folder's own files that NAME.py needs, itself included, as paths relative to the folder.

    Imports are read from the text, also those inside functions; nothing is run. Of a file that
    does not parse, only itself is known.
    """
    needed: set[str] = set()
    waiting = [f"{module}.py"]
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        try:
            tree = ast.parse((folder / name).read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            waiting += [f for f in _files(folder, node, name) if f not in needed]
    return needed


def _files(folder: Path, node: ast.AST, importer: str) -> list[str]:
    """Files of the folder that an import statement may read."""
    if isinstance(node, ast.Import):
        dotted = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        package = importer.split("/")[:-1]
        above = package[: len(package) - node.level + 1] if node.level else []
        start = ".".join([*above, *filter(None, [node.module])])
        dotted = [start, *(f"{start}.{alias.name}".strip(".") for alias in node.names)]
    else:
        return []
    paths = [name.replace(".", "/") for name in dotted if name]
    candidates = [f"{p}{end}" for p in paths for end in (".py", "/__init__.py")]
    return [c for c in candidates if (folder / c).is_file()]


class Watcher:
    """Yields the exercises to check again after each save."""

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        *,
        poll: float = POLL,
        settle: float = SETTLE,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.folder, self.names = folder, names
        self.poll, self.settle, self.sleep = poll, settle, sleep
        self.seen = stamps(folder)
        self.needs = {name: imported(folder, name) for name in names}

    def touched(self, changed: set[str]) -> list[str]:
        """The exercises whose files, or files that they import, are among `changed`."""
        touched = []
        for name in self.names:
            # what it needed before and what it needs now: an import may be new, or gone by mistake
            now = imported(self.folder, name)
            before = self.needs.get(name, set())
            self.needs[name] = now
            if changed & (before | now) and (self.folder / f"{name}.py").is_file():
                touched.append(name)
        return touched

    def wait(self) -> set[str]:
        """Block until files change and rest again; the changed files."""
        while (now := stamps(self.folder)) == self.seen:
            self.sleep(self.poll)
        while True:  # editors write in several steps
            self.sleep(self.settle)
            later = stamps(self.folder)
            if later == now:
                break
            now = later
        names = now.keys() | self.seen.keys()
        changed = {name for name in names if now.get(name) != self.seen.get(name)}
        self.seen = now
        return changed

    def __iter__(self) -> Iterator[list[str]]:
        while True:
            if touched := self.touched(self.wait()):
                yield touched
