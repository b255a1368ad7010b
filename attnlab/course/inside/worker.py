"""The process beside a submission: a warm server that forks a child for each of its files.

    PYTHON -I -S worker.py FD     FD is the control socket to the trusted process

The server imports the track's packages once and never a line of the submission. Asked to, it
forks a child (see `forked`), which speaks on a socket of its own. The server alone reports how a
child ended, on the control socket, which no child holds. Nothing in these processes knows what is
expected of a submission.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
import warnings
from typing import Any

CLEARING = 3.0  # seconds that removing a child's files may take
HERE = os.path.dirname(os.path.abspath(__file__))


def prepare(setup: dict[str, Any]) -> Any:
    """Import the track's packages and our own; the modules forked and scratch. Afterwards the import
    path is the submission, Python and the library."""
    sys.dont_write_bytecode = True
    sys.path = [HERE, *sys.path, setup["library"]]
    import confine
    import forked
    import imports
    import scratch

    if setup["parent"]:
        confine.die_with_parent(setup["parent"])
    confine.prctl(confine.PR_SET_DUMPABLE, 0)
    confine.prctl(confine.PR_SET_CHILD_SUBREAPER, 1)
    imports.packages(setup["imports"])
    if "numba" in setup["imports"]:
        warm_numba()
    imports.hide(HERE, setup["submission"])
    return forked, scratch


def warm_numba() -> None:
    """Compile once, so that children start with the compiler's tables filled; and make the lock of
    parallel loops, for which a child could not find a place."""
    import numba
    import numpy as np

    numba.njit(lambda x: x.sum())(np.zeros((2, 2)))
    with warnings.catch_warnings(), contextlib.suppress(ImportError, AttributeError):
        warnings.simplefilter("ignore")
        importlib.import_module("numba.np.ufunc.parallel")._set_init_process_lock()


def serve(control: socket.socket) -> None:
    """Set up, say hello, fork on request, tell who ended; ends when its peer does."""
    setup = json.loads(control.recv(1 << 20))
    forked, scratch = prepare(setup)
    gc.collect()
    gc.freeze()
    control.send(b'{"hello": 1}')
    children: dict[int, tuple[int, int]] = {}  # pidfd -> number, process
    while True:
        ready, _, _ = select.select([control.fileno(), *children], [], [])
        if control.fileno() in ready:
            text, fds, _, _ = socket.recv_fds(control, 1 << 20, 2)
            if not text:
                end({pid for _, pid in children.values()})
            order = json.loads(text)
            pid = os.fork()
            if not pid:
                become(forked.Forked, control, fds, setup, order)
            for fd in fds:
                os.close(fd)
            children[os.pidfd_open(pid)] = order["child"], pid  # a zombie has a descriptor, too
        for fd in [fd for fd in ready if fd in children]:
            number, pid = children.pop(fd)
            os.close(fd)
            _, status = os.waitpid(pid, 0)
            control.send(json.dumps({"ended": number, "status": status}).encode())
            live = {str(number) for number, _ in children.values()}
            if not scratch.clear(setup["temporary"], live, CLEARING):
                os._exit(0)  # the trusted process starts another server, with an empty folder
        reap({pid for _, pid in children.values()})


def become(
    Child: type, control: socket.socket, fds: list[int], setup: dict[str, Any], order: Any
) -> None:
    """The forked process: only standard streams and the socket of its own stay open; never returns."""
    try:
        data, output = fds
        control.close()
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(data, 3)
        os.closerange(4, 4096)
        Child(setup, order, socket.socket(fileno=3)).live()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(70)


def end(mine: set[int]) -> None:
    """End with the children, which are waited for, as whoever inherits them may not."""
    for pid in mine:
        os.kill(pid, signal.SIGKILL)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            os._exit(0)


def reap(mine: set[int]) -> None:
    """Collect adopted processes that ended: those that a child's children left behind."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in mine:
            return
        os.waitpid(ended.si_pid, os.WNOHANG)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
