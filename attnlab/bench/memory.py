"""Peak memory of one call, in a process of its own.

A peak only ever grows, so every point gets a fresh process. Importing torch and Numba takes seconds,
so on Linux the processes are forked from a template that has imported them and run nothing; elsewhere
each starts from nothing. In it: draw the inputs, make one call of a small size (libraries, threads and
compiled code are loaded then), give freed memory back, reset the peak, make the one call. What is
reported is the peak less what was resident before the call: outputs and scratch, inputs excluded.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORKS = sys.platform == "linux"


@dataclass(frozen=True)
class Request:
    """One point. `allowed` bytes may be used, inputs included; `seconds` until the process is ended."""

    exhibit: str
    operation: str
    causal: bool | None
    backend: str
    n: int
    warm_n: int
    dtype: str
    seed: int
    threads: int
    sizes: Mapping[str, Any]
    allowed: int
    seconds: float


@dataclass(frozen=True)
class Peak:
    """Bytes, or the reason why there are none. `seconds` is how long that one call took."""

    bytes: int | None
    reason: str = ""
    seconds: float | None = None


class Template:
    """The process that the measuring ones are forked from; close it, or use it as a context."""

    def __init__(self, backends: list[str]):
        self.backends = backends
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Template:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def measure(self, request: Request) -> Peak:
        """The peak of one call."""
        if sys.platform == "win32":
            return Peak(None, "peak memory is not measured on Windows")
        if not FORKS:
            return self._alone(request)
        if self.process is None or self.process.poll() is not None:
            self.process = self._start("--serve", *self.backends)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(asdict(request)) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.close()
            return Peak(None, "the measuring process ended")
        return Peak(**json.loads(answer))

    def _alone(self, request: Request) -> Peak:
        process = self._start("--once")
        try:
            answer, _ = process.communicate(json.dumps(asdict(request)), request.seconds + 20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return Peak(None, _too_slow(request))
        return Peak(**json.loads(answer)) if answer else Peak(None, "the measuring process ended")

    @staticmethod
    def _start(*arguments: str) -> subprocess.Popen[str]:
        # a session of its own: Ctrl-C in the terminal is for the main process, which then closes this
        return subprocess.Popen(
            [sys.executable, "-m", "attnlab.bench.memory", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def close(self) -> None:
        """Ends the template and what it is measuring."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self.process = None


def _too_slow(request: Request) -> str:
    return f"drawing the inputs and two calls took more than {request.seconds:.0f} s"


def _status(field: str) -> int | None:
    """Bytes of a field of /proc/self/status."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak() -> int:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _limit(allowed: int) -> None:
    """Allocations beyond `allowed` fail with a MemoryError instead of taking the machine down."""
    import resource

    used = _status("VmData")
    if used is not None:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_DATA, (used + allowed,) * 2)


def measure_here(request: Request) -> Peak:
    """Measures in this process, which should have done nothing else."""
    from attnlab.bench.inputs import Target, caller, draw, prepare
    from attnlab.bench.machine import pin_threads
    from attnlab.bench.timing import once

    pin_threads(request.threads)
    target = Target(request.exhibit, request.operation, request.causal)

    def arguments(n: int) -> dict[str, Any]:
        rest = (n, request.dtype, request.seed, request.sizes)
        drawn = draw(target, *rest)
        return prepare(target, request.backend, *rest)[0] | drawn

    caller(target, request.backend, arguments(request.warm_n), device=False)()
    if FORKS:
        _limit(request.allowed)
    call = caller(target, request.backend, arguments(request.n), device=False)
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS") if FORKS and _reset_peak() else None
    if before is None:
        before = _peak()
    seconds, out = once(call)
    after = (_status("VmHWM") if FORKS else None) or _peak()
    del out
    return Peak(max(0, after - before), "", seconds)


def _guarded(request: Request) -> Peak:
    try:
        return measure_here(request)
    except MemoryError:
        return Peak(None, _out_of_memory(request))
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        if "alloc" in words.lower() and "memory" in words.lower():  # torch's allocator
            return Peak(None, _out_of_memory(request))
        return Peak(None, words)


def _out_of_memory(request: Request) -> str:
    return f"needs more than the {request.allowed / 2**30:.1f} GiB that could be used"


def _forked(request: Request) -> Peak:
    """The peak, measured in a child of this process."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            with os.fdopen(write, "w") as pipe:
                pipe.write(json.dumps(asdict(_guarded(request))))
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        ready, _, _ = select.select([pipe], [], [], request.seconds)
        answer = pipe.read() if ready else ""
    if not ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not ready:
        return Peak(None, _too_slow(request))
    if answer:
        return Peak(**json.loads(answer))
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Peak(None, _out_of_memory(request))
    return Peak(None, f"the measuring process ended with status {status}")


def _main(arguments: list[str]) -> None:
    if arguments[:1] == ["--once"]:
        print(json.dumps(asdict(_guarded(Request(**json.load(sys.stdin))))))
        return
    import numpy  # noqa: F401 -- the template's purpose is to have these loaded

    if "numba" in arguments:
        pass
    if "torch" in arguments:
        import torch  # noqa: F401
    for line in sys.stdin:
        print(json.dumps(asdict(_forked(Request(**json.loads(line))))), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1:])
