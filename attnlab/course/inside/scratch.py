"""Removing what a submission wrote, however it is nested or linked."""

from __future__ import annotations

import os
import time

LOOK = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


def clear(folder: str, keep: set[str], seconds: float) -> bool:
    """Remove what is in a folder, but for the names to keep; whether that was done in time."""
    with os.scandir(folder) as entries:
        for entry in [e for e in entries if e.name not in keep]:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
            elif not remove(entry.path, seconds):
                return False
    return True


def remove(folder: str, seconds: float) -> bool:
    """Remove a folder whose owner has ended; whether that was done in time. Raises OSError.

    It walks by descriptors, one folder at a time, so that neither the length of a path nor the
    depth of a recursion matters; links are removed, never followed.
    """
    deadline = time.monotonic() + seconds
    here = os.open(folder, LOOK)
    try:
        way: list[tuple[str, list[str]]] = [("", _files_removed(here, deadline))]
        while time.monotonic() < deadline:
            name, folders = way[-1]
            if folders:
                inner = os.open(folders[-1], LOOK, dir_fd=here)
                os.close(here)
                here = inner
                way.append((folders.pop(), _files_removed(here, deadline)))
            elif len(way) > 1:
                outer = os.open("..", LOOK, dir_fd=here)
                os.close(here)
                here = outer
                os.rmdir(name, dir_fd=here)
                way.pop()
            else:
                os.rmdir(folder)
                return True
    finally:
        os.close(here)
    return False


def _files_removed(here: int, deadline: float) -> list[str]:
    """The folders in a folder, once everything else in it is gone."""
    folders = []
    with os.scandir(here) as entries:
        for entry in entries:
            if time.monotonic() > deadline:
                break
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=here)
    return folders
