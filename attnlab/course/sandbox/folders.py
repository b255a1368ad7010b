"""Folders of sandboxes: made in memory where there is room, measured, removed, swept up after a crash."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from attnlab.course.inside import scratch

PREFIX = "attnlab-sandbox-"
ROOM = 1 << 30  # bytes that a memory file system must have free
DEPTH = 50  # of folders in folders


def make() -> tuple[Path, int]:
    """(a new folder, a lock on it that lasts as long as this process or until it is closed)."""
    base = _base()
    _sweep(base)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    _locked(lock)
    return folder, lock


def discard(folder: Path, lock: int) -> None:
    """Remove a folder and its lock."""
    remove(folder)
    os.close(lock)
    if folder.exists():  # Windows removes no file that is open
        remove(folder)


def _base() -> Path:
    memory = Path("/dev/shm")
    with contextlib.suppress(OSError, AttributeError):
        room = os.statvfs(memory)
        if os.access(memory, os.W_OK) and room.f_bavail * room.f_frsize > ROOM:
            return memory
    return Path(tempfile.gettempdir())


def _sweep(base: Path) -> None:
    """Remove what a process left that was killed: folders of this user that nobody has locked."""
    own = os.getuid() if hasattr(os, "getuid") else None
    for folder in base.glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            if own is not None and folder.stat().st_uid != own:
                continue
            lock = os.open(folder / "lock", os.O_RDWR)
            if _locked(lock):
                discard(folder, lock)
            else:
                os.close(lock)


def _locked(lock: int) -> bool:
    """Lock an open file; False where another process holds it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def folder_bytes(folder: Path, enough: int) -> int:
    """Bytes of the files beneath a folder, counted until there are `enough`; an entry costs 4 KiB,
    and nesting folders too deeply to be counted costs all."""
    total, waiting = 0, [(folder, 0)]
    while waiting and total < enough:
        place, depth = waiting.pop()
        if depth > DEPTH:
            return enough
        with contextlib.suppress(OSError), os.scandir(place) as entries:
            for entry in entries:
                total += 4096 + entry.stat(follow_symlinks=False).st_size
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((Path(entry.path), depth + 1))
                if total >= enough:
                    break
    return total


def remove(folder: Path) -> None:
    """Remove a folder, however deep a submission nested what is in it."""
    try:
        scratch.remove(str(folder), seconds=60)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
