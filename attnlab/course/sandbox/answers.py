"""What a child answers, read with limits: frames as they come in, text as it may be shown, and how a
process ended in words."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from attnlab.course.config import Limits
from attnlab.course.inside import codec
from attnlab.course.model import Status
from attnlab.course.sandbox import folders

TICK = 0.1  # seconds between looks at CPU time, processes and files
CLOSING = 0.2  # seconds from a process' last file to its end
EXTRA = 4 << 20  # bytes of an answer beyond the limit on what a function returns


def most_answered(limits: Limits) -> int:
    """Bytes of an answer that are read: what a function returns, and changed inputs."""
    return 2 * (int(limits.reply) << 20) + EXTRA


def most_written(limits: Limits) -> int:
    """Bytes that may lie in a temporary folder."""
    return max(64, 4 * limits.file) << 20


def overfull(folder: Path, limits: Limits) -> tuple[Status | str, str]:
    """(status, what happened) where more than that lies in it, else two empty texts."""
    most = most_written(limits)
    if folders.folder_bytes(folder, most) >= most:
        return "crashed", f"wrote more than {most >> 20} MiB to its temporary folder"
    return "", ""


@dataclass
class Answer:
    """What one exchange came to. `status` "" is an answer in `header` and `arrays`, whatever it
    says; else the child is gone and `error` tells why."""

    status: Status | str = ""
    header: dict[str, Any] = field(default_factory=dict)
    arrays: list[np.ndarray] = field(default_factory=list)
    error: str = ""
    printed: str = ""
    wall: float = 0.0
    cpu: float = 0.0


CONTROLS = {i: "\ufffd" for i in (*range(32), *range(127, 160)) if chr(i) not in "\t\n"}


def printable(text: str) -> str:
    """Text that neither a terminal nor a file minds: no control characters, no half characters."""
    whole = text.encode("utf-8", "replace").decode().replace("\r\n", "\n")
    return whole.translate(CONTROLS)


class Link(Protocol):
    """Where a frame comes from: a socket, or a pipe that is read like one."""

    def recv(self, count: int, /) -> bytes: ...
    def recv_into(self, buffer: memoryview, /) -> int: ...


class Incoming:
    """A frame as it comes in; it is never let grow beyond what its limit allows."""

    def __init__(self, limit: int):
        self.limit = limit
        self.start = bytearray()
        self.body: bytearray | None = None
        self.at = self.lengths = 0
        self.split = 0

    @property
    def complete(self) -> bool:
        return self.body is not None and self.at == len(self.body)

    @property
    def header(self) -> bytes:
        return bytes(self.body[: self.split]) if self.body is not None else b""

    @property
    def archive(self) -> bytes:
        return bytes(self.body[self.split :]) if self.body is not None else b""

    def read(self, link: Link) -> bool:
        """Take what is there; False at the end of the stream. Raises Malformed."""
        try:
            while not self.complete:
                if self.body is None:
                    got = link.recv(codec.PREFIX.size - len(self.start))
                    self.start += got
                    if len(self.start) == codec.PREFIX.size:
                        header, archive = codec.prefix(bytes(self.start), self.limit)
                        self.split, self.body = header, bytearray(header + archive)
                    if not got:
                        return False
                else:
                    count = link.recv_into(memoryview(self.body)[self.at :])
                    if not count:
                        return False
                    self.at += count
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        return True


# exit codes by which Windows tells that a process died
WINDOWS = {
    0xC0000005: "a segmentation fault",
    0xC00000FD: "a stack overflow",
    0xC0000409: "aborted",
}


def ending(code: int, printed: bytes) -> tuple[Status, str]:
    """(status, what happened) of a child that ended of itself with an exit code; a signal's number
    below zero is what it died of."""
    if code in WINDOWS:
        return "crashed", f"the process died ({WINDOWS[code]})"
    if code >= 0:
        return "crashed", f"the process ended itself with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if name == "SIGXCPU":
        return "timeout", "took more CPU time than an exercise may"
    if b"bad_alloc" in printed or b"allocate memory" in printed:
        return "memory", "ran out of memory"
    said = {"SIGSEGV": "a segmentation fault", "SIGKILL": "killed", "SIGABRT": "aborted"}
    return "crashed", f"the process died of {name}" + (f" ({said[name]})" if name in said else "")
