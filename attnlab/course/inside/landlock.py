"""Landlock: from now on this process reaches only the files it is told of, and no others.

Numbers of the ABI grow with the kernel: 1 files, 2 moving between folders, 3 truncation, 4 TCP,
5 device controls, 6 signals and abstract sockets. What a kernel does not know is left out.
"""

from __future__ import annotations

import ctypes
import os
import stat

CREATE, ADD_RULE, RESTRICT = 444, 445, 446  # the same numbers on every architecture
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
REFER, TRUNCATE, IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15
BIND_TCP, CONNECT_TCP = 1, 2
ABSTRACT_SOCKETS, SIGNALS = 1, 2
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE


class Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version(libc):
    """The kernel's ABI; 0 where Landlock is not there or switched off."""
    return max(0, libc.syscall(CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))


def restrict(libc, read, write):
    """Reading and executing beneath the paths in `read`, everything but devices and executing
    beneath those in `write`; the ABI that holds. Paths that are not there are left out.
    PR_SET_NO_NEW_PRIVS must be set. Raises OSError.
    """
    abi = version(libc)
    if not abi:
        raise OSError("this kernel has no Landlock")
    handled = (1 << 13) - 1
    handled |= REFER if abi >= 2 else 0
    handled |= TRUNCATE if abi >= 3 else 0
    handled |= IOCTL_DEVICE if abi >= 5 else 0
    rules = Ruleset(
        handled,
        BIND_TCP | CONNECT_TCP if abi >= 4 else 0,
        ABSTRACT_SOCKETS | SIGNALS if abi >= 6 else 0,
    )
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _check(libc.syscall(CREATE, ctypes.byref(rules), ctypes.c_size_t(size), 0))
    try:
        for path in read:
            _allow(libc, ruleset, path, handled & (EXECUTE | READ_FILE | READ_DIR))
        devices = 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | IOCTL_DEVICE  # to make, sockets and fifos
        for path in write:
            _allow(libc, ruleset, path, handled & ~EXECUTE & ~devices)
        _check(libc.syscall(RESTRICT, ruleset, ctypes.c_uint32(0)))
    finally:
        os.close(ruleset)
    return abi


def _allow(libc, ruleset, path, rights):
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            rights &= OF_FILES
        rule = Beneath(rights, parent)
        _check(libc.syscall(ADD_RULE, ruleset, 1, ctypes.byref(rule), ctypes.c_uint32(0)))
    finally:
        os.close(parent)


def _check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), f"landlock: {os.strerror(ctypes.get_errno())}")
    return result
