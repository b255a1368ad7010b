"""A sandbox for work that is trusted, on any system that has Python: a process of its own for each
module, with limits and without isolation.

What a submission does by mistake (endless loops, crashes, floods of output) costs itself; what it
does on purpose is not stopped. Measured times are its process' own word.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from attnlab.contract import InputError
from attnlab.course.config import Limits
from attnlab.course.inside import codec
from attnlab.course.model import Status, Track
from attnlab.course.sandbox import folders, system
from attnlab.course.sandbox.answers import (
    CLOSING,
    TICK,
    Answer,
    Incoming,
    ending,
    most_answered,
    overfull,
    printable,
)
from attnlab.course.sandbox.base import ENVIRONMENT, INSIDE, MIB, STARTING, Sandbox, SandboxError

OUT_OF_MEMORY = 87  # the exit code of a child that says so; `inside.plain`
KEPT = ("PATH", "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC")  # Windows cannot do without


class PlainSandbox(Sandbox):
    """Each child is a process started anew. `holds` names the limits that this system has."""

    def __init__(
        self,
        files: Mapping[str, bytes],
        track: Track,
        limits: Limits,
        level: str = "none",
        packages: tuple[str, ...] = (),
    ):
        if level != "none":
            raise InputError(f"isolation {level} does not work here; only none does")
        super().__init__(files, track, limits, level, packages)
        self._spare: PlainChild | None = None
        self._number = 0

    def child(self) -> PlainChild:
        spare, self._spare = self._spare, None
        return spare if spare is not None and spare.usable else PlainChild(self)

    def kill(self) -> None:
        super().kill()
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    def _start(self) -> None:
        self._spare = PlainChild(self)  # the first session's; tells at once that it works here

    def command(self) -> tuple[list[str], IO[bytes], Path]:
        """(the command, the file that it prints to, its folder) of one more child."""
        assert self._root is not None
        self._number += 1
        folder = self._root / "tmp" / str(self._number)
        folder.mkdir()
        limits = self.limits
        setup = {
            "submission": str(self._root / "submission"),
            "packages": {name: str(path) for name, path in self.packages.items()},
            "imports": self.imports,
            "reply": int(limits.reply * MIB),
            "memory": int(limits.memory * MIB),
            "file": int(max(limits.file * MIB, 2 * limits.output << 10)),
            "files": 256,
            "cpu": int(limits.start + 2 * max(limits.budget, limits.cpu)) + 30,
        }
        told = self._root / "setup.json"
        told.write_text(json.dumps(setup), encoding="utf-8")
        start = str(INSIDE / "start.py")
        command = [str(system.python()), "-I", "-S", "-X", "utf8", start, str(told)]
        return command, (self._root / f"printed-{self._number}").open("wb"), folder


class PlainChild:
    """The trusted end of a process that holds one module. Raises SandboxError where it does not start."""

    def __init__(self, sandbox: PlainSandbox):
        self.sandbox, self.limits = sandbox, sandbox.limits
        command, printed, self.folder = sandbox.command()
        with printed:
            self.output = printed.name
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                bufsize=0,
                cwd=self.folder,
                env=_environment(self.folder),
                **_apart(),
            )
        self.alive = True
        self._limit = most_answered(self.limits)
        try:
            hello = self._ask(b"", STARTING)
            if hello.status:
                said = self._printed().strip().splitlines()
                reason = said[-1] if said else hello.error
                raise SandboxError(f"a process beside the grader does not start: {reason}")
        except BaseException:
            self.close()
            raise
        sandbox.holds = tuple(hello.header["ready"])

    def exchange(
        self, header: dict[str, Any], arrays: Sequence[np.ndarray], seconds: float, cpu: float
    ) -> Answer:
        """Send one request and wait for its answer, at most that long."""
        nonce = secrets.token_hex(8)
        more = {"nonce": nonce, "seconds": seconds, "cpu": cpu}
        answer = self._ask(codec.frame(header | more, arrays), seconds)
        if not answer.status and answer.header.get("nonce") != nonce:
            answer.status, answer.error = "crashed", "it answered what was not asked"
        answer.printed = printable(self._printed())
        answer.cpu = _told(answer)
        if answer.status:
            self.close()
        return answer

    @property
    def usable(self) -> bool:
        """Whether it can be asked."""
        return self.alive and not self._ended()

    def close(self) -> None:
        """End the process, and where the system groups processes those that it started."""
        if not self.alive:
            return
        self.alive = False
        self._kill()
        self._process.wait()
        self._talking.join(CLOSING)
        if not self._talking.is_alive():  # else something that it started holds the link
            for pipe in (self._process.stdin, self._process.stdout):
                cast(FileIO, pipe).close()
        with contextlib.suppress(OSError):
            os.unlink(self.output)
        folders.remove(self.folder)

    drop = close

    def _ask(self, data: bytes, seconds: float) -> Answer:
        """Send bytes and read a frame, in a thread: pipes have no time limit everywhere."""
        answer, text, faults = Answer(), Incoming(self._limit), list[str]()
        talk = threading.Thread(target=self._talk, args=(data, text, faults), daemon=True)
        self._talking = talk
        began = time.monotonic()
        talk.start()
        while talk.is_alive() and not answer.status:
            left = began + seconds - time.monotonic()
            if left <= 0:
                answer.status, answer.error = "timeout", f"took more than {seconds:g} s"
                break
            ended = self._ended()  # before the thread is waited for: its last words are read
            talk.join(CLOSING if ended else min(TICK, left))
            answer.status, answer.error = self._over()
            if ended and talk.is_alive():
                break  # a process that it started holds the link
        answer.wall = time.monotonic() - began
        if not answer.status:  # it may have answered before it was looked at once
            answer.status, answer.error = self._over()
        if not answer.status:
            self._take(answer, text, faults)
        if answer.status:
            self._kill()
            talk.join(CLOSING)
        return answer

    def _talk(self, data: bytes, text: Incoming, faults: list[str]) -> None:
        waiting, sink = memoryview(data), cast(FileIO, self._process.stdin)
        link = _Pipe(cast(FileIO, self._process.stdout))
        with contextlib.suppress(OSError, ValueError):  # it ended: what it said before is read
            while waiting:
                waiting = waiting[sink.write(waiting) :]
        try:
            text.read(link)
        except codec.Malformed as error:
            faults.append(str(error))
        except (OSError, ValueError):
            pass

    def _take(self, answer: Answer, text: Incoming, faults: list[str]) -> None:
        """What came, or why nothing did."""
        try:
            if faults:
                raise codec.Malformed(faults[0])
            if text.complete:
                answer.header = codec.parse(text.header)
                answer.arrays = codec.unpack(text.archive)
                return
        except codec.Malformed as error:
            answer.status, answer.error = "bad value", f"returned {error}"
            return
        answer.status = "crashed"
        try:
            code = self._process.wait(CLOSING)
        except subprocess.TimeoutExpired:
            answer.error = "it closed the connection that answers go over"
            return
        if code == OUT_OF_MEMORY:
            answer.status, answer.error = "memory", "ran out of memory"
        else:
            answer.status, answer.error = ending(code, self._printed().encode())

    def _over(self) -> tuple[Status | str, str]:
        """("", "") while it keeps within output and files."""
        with contextlib.suppress(OSError):
            if os.path.getsize(self.output) > self.limits.output << 10:
                return "output", f"printed more than {self.limits.output} KiB"
        return overfull(self.folder, self.limits)

    def _printed(self) -> str:
        with contextlib.suppress(OSError), open(self.output, "rb") as file:
            return file.read(self.limits.output << 10).decode("utf-8", "replace")
        return ""

    def _ended(self) -> bool:
        return self._process.poll() is not None

    def _kill(self) -> None:
        if os.name == "posix":  # all that it started, also where it has ended itself
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()


class _Pipe:
    """A pipe that is read as a socket is."""

    def __init__(self, pipe: FileIO):
        self.recv, self.recv_into = pipe.read, pipe.readinto


def _apart() -> dict[str, Any]:
    """Settings of a process that Ctrl-C does not reach; on Windows it gets no window either."""
    if os.name == "posix":
        return {"start_new_session": True}
    flags = ("CREATE_NEW_PROCESS_GROUP", "CREATE_NO_WINDOW")
    return {"creationflags": sum(getattr(subprocess, flag) for flag in flags)}


def _environment(folder: Path) -> dict[str, str]:
    names = ("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP", "NUMBA_CACHE_DIR")
    own = dict.fromkeys(names, str(folder))
    kept = {k: os.environ[k] for k in KEPT if os.name != "posix" and k in os.environ}
    return ENVIRONMENT | kept | own


def _told(answer: Answer) -> float:
    """Seconds of CPU time by the child's own word; those of Windows tick too coarsely."""
    said = answer.header.get("seconds" if sys.platform == "win32" else "cpu")
    honest = type(said) is float and math.isfinite(said) and said >= 0
    return cast(float, said) if honest else answer.wall
