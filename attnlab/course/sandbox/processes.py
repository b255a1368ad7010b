"""Processes as the trusted side sees them, from outside the sandbox; Linux' /proc."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path


def send(pidfd: int, number: int | None = None) -> None:
    """Signal (kill, by default) a process by its descriptor, which no later process can inherit."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL if number is None else number)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, all threads; 0 where it is gone. Its clock's number is made of its own."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def address_space(pid: int) -> int:
    """Bytes of address space; 0 where that cannot be read."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[0]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def descendants(pid: int) -> list[int]:
    """Every process below this one, zombies left out."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                text = Path(f"/proc/{entry}/stat").read_text(errors="replace")
                state, parent = text.rsplit(")", 1)[1].split()[:2]
                if state != "Z":
                    parents.setdefault(int(parent), []).append(int(entry))
    found, waiting = [], [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def kill_below(pid: int) -> None:
    """Kill all below `pid`, which adopts orphans, until nothing is left (or, in the kernel's hands, for 5 s)."""
    deadline = time.monotonic() + 5.0
    while (below := descendants(pid)) and time.monotonic() < deadline:
        for each in below:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(each, signal.SIGKILL)


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return True
    return text.rsplit(")", 1)[1].split()[0] in "ZX"


def wait_gone(pid: int, seconds: float) -> bool:
    """Whether a process ends within that time."""
    deadline = time.monotonic() + seconds
    while not gone(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True
