"""What a forked process gives up before it imports a submission: limits, capabilities, rights.

Linux only, through ctypes; every step is one that an unprivileged process may take, and none can
be taken back.
"""

from __future__ import annotations

import ctypes
import os
import resource

import landlock
import seccomp

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 24, 38, 47
CAPABILITIES_V3 = 0x20080522
SIGKILL = 9

libc = ctypes.CDLL(None, use_errno=True)


def prctl(option, *arguments):
    """Raises OSError."""
    padded = [ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)[:4]]
    if libc.prctl(ctypes.c_int(option), *padded) < 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}): {os.strerror(ctypes.get_errno())}")


def die_with_parent(parent):
    """The kernel kills this process when the thread that made it ends."""
    prctl(PR_SET_PDEATHSIG, SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def confine(settings):
    """Apply all that `settings` asks for; names of what holds from now on. Raises OSError.

    settings: memory (bytes of address space), file (bytes), cpu (seconds), files (descriptors),
    processes, landlock (None, or what `landlock.restrict` takes), kills (whether processes may
    signal each other: where nobody else is in reach), attributes (whether modes and times of files
    may be changed: where all is read-only).
    """
    holds = ["limits"]
    _limits(settings)
    _drop_capabilities()
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    if settings["landlock"] is not None:
        holds.append(f"landlock ABI {landlock.restrict(libc, **settings['landlock'])}")
    if seccomp.supported():
        seccomp.install(
            libc,
            processes=settings["processes"] > 1,
            kills=settings["kills"],
            attributes=settings["attributes"],
        )
        holds.append("seccomp")
    return holds


def _limits(settings):
    both = {
        resource.RLIMIT_AS: settings["memory"],
        resource.RLIMIT_FSIZE: settings["file"],
        resource.RLIMIT_NOFILE: settings["files"],
        resource.RLIMIT_CPU: settings["cpu"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_MEMLOCK: 0,
    }
    if settings.get("tasks"):  # means nothing to root
        both[resource.RLIMIT_NPROC] = settings["tasks"]
    for which, value in both.items():
        _, hard = resource.getrlimit(which)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


def _drop_capabilities():
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # past the last one, or none to drop
    libc.prctl(PR_CAP_AMBIENT, 4, 0, 0, 0)  # clear all
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_V3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if libc.capset(header, nothing) < 0:
        raise OSError(ctypes.get_errno(), f"capset: {os.strerror(ctypes.get_errno())}")
