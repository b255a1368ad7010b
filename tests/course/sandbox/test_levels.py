"""Which level is chosen, and what the filter says on each architecture."""

from __future__ import annotations

import errno
import struct
import subprocess
import sys

import pytest

from attnlab.contract import InputError
from attnlab.course.inside import seccomp
from attnlab.course.sandbox import LEVELS, available, choose, levels, system


def offer(monkeypatch: pytest.MonkeyPatch, **reasons: str) -> None:
    known = {"bubblewrap": "not installed", "landlock": "no Landlock", "none": ""} | reasons
    monkeypatch.setattr(levels, "available", lambda: known)


def test_the_strongest_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, bubblewrap="", landlock="")
    assert choose() == choose("auto") == "bubblewrap"
    assert choose("landlock") == "landlock"
    offer(monkeypatch, landlock="")
    assert choose() == "landlock"
    with pytest.raises(InputError, match="bubblewrap does not work here: not installed"):
        choose("bubblewrap")


def test_none_must_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch)
    with pytest.raises(InputError, match="--isolation none"):
        choose()
    assert choose("none") == "none"
    with pytest.raises(InputError, match="did you mean"):
        choose("landlok")


def test_reasons_are_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available().keys() == set(LEVELS)
    monkeypatch.setattr(levels.shutil, "which", lambda _: None)
    assert "not installed" in levels._bubblewrap()
    monkeypatch.setattr(levels.shutil, "which", lambda _: "/bin/false")
    assert "fails" in levels._bubblewrap()
    monkeypatch.setattr(levels, "landlock_abi", lambda: 0)
    assert "Landlock" in levels._landlock()
    monkeypatch.setattr(sys, "platform", "darwin")
    levels.available.cache_clear()
    try:
        assert all("needs Linux" in why for why in available().values())
        with pytest.raises(InputError, match="nothing isolates here"):
            choose()
        with pytest.raises(InputError, match="needs Linux"):
            choose("none")
    finally:
        levels.available.cache_clear()


def test_what_is_hidden_is_not_visible() -> None:
    visible = system.visible()
    assert any(place.endswith("/os.py") or "lib" in place for place in visible)
    assert not any("-packages" in place for place in visible)
    for place in system.hidden():
        assert not any(str(place).startswith(v + "/") for v in visible)


def run(rows: list[bytes], number: int, arguments: tuple[int, ...] = (), audit: int = 0) -> int:
    """What a filter answers to a call: BPF by hand."""
    data = struct.pack("<iIQ6Q", number, audit, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    at = value = 0
    while True:
        code, yes, no, k = struct.unpack("<HBBI", rows[at])
        at += 1
        if code == seccomp.LOAD:
            value = struct.unpack_from("<I", data, k)[0]
        elif code == seccomp.RETURN:
            return k
        else:
            test = {seccomp.EQUAL: value == k, seccomp.AT_LEAST: value >= k}
            at += yes if test.get(code, bool(value & k)) else no


@pytest.mark.parametrize("machine", seccomp.MACHINES)
@pytest.mark.parametrize("several", [False, True])
def test_filter(machine: str, several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp.platform, "machine", lambda: machine)
    audit, column = seccomp.MACHINES[machine]
    rows = seccomp.program(1234, processes=several, kills=False, attributes=False)
    refused = seccomp.ERRNO | errno.EPERM

    def call(name: str, *arguments: int) -> int:
        number = seccomp.CALLS[name][column]
        return run(rows, number, arguments, audit) if number is not None else refused

    assert run(rows, 0, (), audit) == seccomp.ALLOW
    assert run(rows, 0, (), 0x40000003) == seccomp.KILL, "another architecture's numbers"
    assert run(rows, seccomp.X32 + 1, (), audit) == seccomp.KILL
    for name in (
        "mount",
        "ptrace",
        "bpf",
        "socket",
        "setns",
        "io_uring_setup",
        "chmod",
        "utimensat",
    ):
        assert call(name) == refused, name
    for name in seccomp.SIGNALS:
        assert call(name, 1234) == seccomp.ALLOW
        assert call(name, 1) == call(name, 2**32 - 1) == refused
    assert call("clone3") == seccomp.ERRNO | errno.ENOSYS
    assert call("clone", seccomp.CLONE_THREAD) == seccomp.ALLOW
    assert call("clone", 17) == (seccomp.ALLOW if several else refused)
    assert call("execve") == (seccomp.ALLOW if several else refused)
    if several:
        assert call("clone", 17 | 0x10000000) == refused, "a user namespace"
    assert call("socketpair", seccomp.AF_UNIX) == seccomp.ALLOW
    assert call("socketpair", 2) == refused
    assert call("prlimit64", 0, 7, 0, 99) == seccomp.ALLOW
    assert call("prlimit64", 0, 7, 1 << 32) == call("prlimit64", 0, 7, 5) == refused
    assert call("prctl", 1) == call("prctl", 36) == refused
    assert call("prctl", 15) == seccomp.ALLOW


ELSEWHERE = """
import os, select, signal, socket, sys, ctypes, subprocess, tempfile, numpy, attnlab.registry
for name in ("fcntl", "resource"):
    sys.modules[name] = None
for module, names in ((signal, "SIGKILL SIGSTOP SIGCONT SIGXCPU pidfd_send_signal"),
                      (os, "pidfd_open O_DIRECTORY O_NOFOLLOW fork getuid"), (select, "poll"),
                      (socket, "AF_UNIX SO_PASSCRED SCM_CREDENTIALS")):
    for name in names.split():
        delattr(module, name)
sys.platform = "win32"
from attnlab.course.sandbox import available
assert all("needs Linux" in why for why in available().values())
"""


def test_the_module_can_be_imported_anywhere() -> None:
    subprocess.run([sys.executable, "-c", ELSEWHERE], check=True, timeout=60)
