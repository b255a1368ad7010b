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


@pytest.mark.parametrize(
    ("system", "why"), [("darwin", "needs Linux, and this is darwin"), ("linux", "Linux 5.4")]
)
def test_elsewhere_and_on_an_old_kernel_only_none_works(
    system: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(levels, "_pidfd", lambda: False)
    levels.available.cache_clear()
    try:
        assert available()["none"] == ""
        assert why in available()["bubblewrap"]
        assert why in available()["landlock"]
        with pytest.raises(InputError, match="--isolation none") as refused:
            choose()
        assert str(refused.value).count(why) == 1
        with pytest.raises(InputError, match=why):
            choose("landlock")
        assert choose("none") == "none"
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


# run on Linux: what other systems lack is taken away before anything of the course is imported
ELSEWHERE = """
import ctypes, importlib, os, pkgutil, select, signal, socket, subprocess, sys, tempfile
import multiprocessing.connection, multiprocessing.resource_tracker, sqlite3, webbrowser
import numpy, pytest, rich, scipy, typer, attnlab.registry
from importlib import metadata
list(metadata.distributions())
windows = sys.argv[1] == "win32"
for name in ("fcntl", "resource", "pwd", "grp", "termios") if windows else ():
    sys.modules[name] = None
lost = [
    (signal, "pidfd_send_signal"), (os, "pidfd_open sched_getaffinity waitid"),
    (socket, "SO_PASSCRED SCM_CREDENTIALS"),
]
if windows:
    lost += [
        (signal, "SIGKILL SIGSTOP SIGCONT SIGXCPU SIGALRM alarm pthread_sigmask"),
        (os, "O_DIRECTORY O_NOFOLLOW fork getuid killpg statvfs set_blocking sysconf setsid"),
        (select, "poll"), (socket, "AF_UNIX send_fds recv_fds"),
    ]
for module, names in lost:
    for name in names.split():
        delattr(module, name)
def no_library(name, *args, **settings):
    raise OSError(f"no library {name}")
ctypes.CDLL = no_library
sys.platform = sys.argv[1]
import attnlab.course
for module in pkgutil.walk_packages(attnlab.course.__path__, "attnlab.course."):
    if not module.name.startswith("attnlab.course.inside.") or module.name.endswith(".codec"):
        importlib.import_module(module.name)
importlib.import_module("attnlab.cli.course"), importlib.import_module("attnlab.cli.grade")
from attnlab.course.sandbox import Sandbox, available, choose, open_sandbox
from attnlab.course.sandbox.plain import PlainSandbox
from attnlab.course.config import Limits
assert available()["none"] == "" and available()["bubblewrap"] and available()["landlock"]
assert isinstance(open_sandbox({}, "numpy", Limits(), choose("none")), PlainSandbox)
# the other side, as far as it is imported there
sys.path.insert(0, os.path.dirname(importlib.import_module("attnlab.course.inside").__file__))
for name in ("start", "imports", "backends", "codec", "child", "plain"):
    importlib.import_module(name)
import plain
assert (plain.limit({"cpu": 1, "file": 1, "files": 1}) == []) if windows else True
assert not {"confine", "landlock", "seccomp", "forked"} & set(sys.modules)
"""


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_both_sides_can_be_imported_anywhere(system: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, system], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
