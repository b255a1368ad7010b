"""A child on a system that is not known: it bounds itself as far as the system lets it.

Nothing here stands in the way of a submission that means harm: it is for those that are trusted,
and keeps their mistakes from costing more than themselves.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import signal
import sys
import threading
import time

import child

OUT_OF_MEMORY = 87  # the exit code that says so
LOOK = 0.05  # seconds between looks at memory
LATE = 10  # seconds after which a call that was not ended from outside ends by itself


class Plain(child.Child):
    """Holds one of the submission's modules."""

    def __init__(self, setup, link):
        super().__init__(setup, link, setup["reply"])
        self.printed = os.dup(2)
        self.requests: queue.SimpleQueue = queue.SimpleQueue()
        holds = limit(setup) + memory(setup["memory"])
        threading.Thread(target=self.listen, daemon=True).start()
        self.send({"ready": holds})

    def listen(self):
        """Take requests in a thread of its own, so that this process ends with the trusted one even
        in the middle of a call: its link ends then."""
        while True:
            self.requests.put(super().next())

    def next(self):
        return self.requests.get()

    def answer(self, request, data):
        with contextlib.suppress(OSError):  # what was printed before is known
            os.ftruncate(self.printed, 0)
            os.lseek(self.printed, 0, os.SEEK_SET)
        ends(request["seconds"], request["cpu"])
        try:
            return super().answer(request, data)
        finally:
            ends(math.inf, math.inf)


def limit(setup):
    """Set what limits this system knows; the names of those that hold."""
    try:
        import resource
    except ImportError:  # Windows
        return []
    wanted = {
        "CPU": ("CPU time", setup["cpu"]),
        "FSIZE": ("size of files", setup["file"]),
        "NOFILE": ("open files", setup["files"]),
        "CORE": ("", 0),
    }
    holds = []
    for name, (words, value) in wanted.items():
        with contextlib.suppress(OSError, ValueError, AttributeError):
            which = getattr(resource, f"RLIMIT_{name}")
            _, hard = resource.getrlimit(which)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (value, value))
            holds += [words] if words else []
    return holds


def memory(most):
    """Bound memory beyond what is in use: as address space where that is known and can be bounded,
    else by looking at what was resident at most."""
    try:
        import resource
    except ImportError:
        return []
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/statm", "rb") as file:
            size = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + most, size + most))
        return ["address space"]
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def look():
        while unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < most:
            time.sleep(LOOK)
        os._exit(OUT_OF_MEMORY)

    threading.Thread(target=look, daemon=True).start()
    return ["resident memory"]


def ends(seconds, cpu):
    """The system ends this process after so many seconds, if the trusted side has not, and after
    so much CPU time from now on."""
    if hasattr(signal, "alarm"):
        signal.alarm(0 if seconds == math.inf else int(seconds) + LATE)
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        soft = hard if cpu == math.inf else int(time.process_time() + cpu) + 1
        if hard != resource.RLIM_INFINITY:
            soft = min(soft, hard)
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
