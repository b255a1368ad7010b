"""What isolation this machine can give, found out by trying it."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import sys

from attnlab.contract import InputError, suggest
from attnlab.course.sandbox import system

LEVELS = ("bubblewrap", "landlock", "none")


@functools.cache
def available() -> dict[str, str]:
    """Level -> "" where it works here, else the reason why not."""
    if forks():
        return {"bubblewrap": _bubblewrap(), "landlock": _landlock(), "none": ""}
    why = f"needs Linux, and this is {sys.platform}; a Linux container or virtual machine has it"
    if sys.platform == "linux":
        why = "needs Linux 5.4 or newer (pidfd_open)"
    return {"bubblewrap": why, "landlock": why, "none": ""}


def forks() -> bool:
    """Whether this is a Linux on which confined children are forked; elsewhere each is a process of
    its own (`plain`), for level none alone."""
    return sys.platform == "linux" and _pidfd()


def choose(asked: str = "auto") -> str:
    """The level to use: the one asked for, or for "auto" the strongest that works.

    Raises InputError where that level does not work here, and for "auto" where nothing isolates:
    running without isolation must be asked for by name.
    """
    if asked not in (*LEVELS, "auto"):
        near = suggest(asked, (*LEVELS, "auto"))
        raise InputError(
            f"isolation must be one of auto, {', '.join(LEVELS)}, but is {asked!r}{near}"
        )
    usable = available()
    if asked != "auto":
        if usable[asked]:
            raise InputError(f"isolation {asked} does not work here: {usable[asked]}")
        return asked
    for level in ("bubblewrap", "landlock"):
        if not usable[level]:
            return level
    why, landlock = usable["bubblewrap"], usable["landlock"]
    if why != landlock:
        why = f"bubblewrap: {why}; landlock: {landlock}; installing bubblewrap helps"
    raise InputError(
        f"isolation: nothing here keeps submissions away from your files ({why}). Your own code, and "
        "what else you trust, runs with --isolation none"
    )


def bubblewrap_version() -> str:
    """What `bwrap --version` says; empty where there is none."""
    program = shutil.which("bwrap")
    if program is None:
        return ""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10)
    return done.stdout.strip()


def landlock_abi() -> int:
    """The kernel's Landlock ABI; 0 where there is none."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, libc.syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))


def _pidfd() -> bool:
    import os

    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def _bubblewrap() -> str:
    program = shutil.which("bwrap")
    if program is None:
        return "bwrap is not installed (package bubblewrap)"
    places = [a for r in system.roots() for a in ("--ro-bind", str(r), str(r))]
    places += [a for target, path in system.links() for a in ("--symlink", target, path)]
    python = str(system.python())
    command = [program, "--unshare-all", "--die-with-parent", "--new-session", *places]
    command += ["--ro-bind", python, python, "--dev", "/dev", "--tmpfs", "/tmp"]
    command += [
        "--cap-drop",
        "ALL",
        "--remount-ro",
        "/dev",
        "--remount-ro",
        "/",
        "--",
        python,
        "-I",
        "-S",
        "-c",
        "print('inside')",
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bwrap does not run ({error})"
    if done.returncode or done.stdout.strip() != "inside":
        said = done.stderr.strip().splitlines()
        return f"bwrap fails: {said[-1] if said else f'exit code {done.returncode}'}"
    return ""


def _landlock() -> str:
    if landlock_abi():
        return ""
    return "this kernel has no Landlock, or it is switched off (needs Linux 5.13, lsm=…,landlock)"
