"""The trusted end of one forked child: one exchange at a time, under every limit at once.

The child is believed in nothing. What it sends is bounded before it is read; how it ended is told
by the kernel and the server; between exchanges it is stopped, so that no thread of it runs on.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import socket
import struct
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attnlab.course.inside import codec
from attnlab.course.model import Status
from attnlab.course.sandbox import processes
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
from attnlab.course.sandbox.base import SandboxError

if TYPE_CHECKING:
    from attnlab.course.sandbox.server import ForkingSandbox

CONFINING = 10.0  # seconds a child may take to confine itself


class Child:
    """A process that holds one module of a submission. Raises SandboxError where it cannot be made."""

    def __init__(self, sandbox: ForkingSandbox):
        self.sandbox, self.limits = sandbox, sandbox.limits
        try:
            self._start()
        except SandboxError:  # an earlier child may have ruined the server: once more with another
            sandbox.kill()
            self._start()

    def _start(self) -> None:
        self.link, theirs = socket.socketpair()
        self.link.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.output, write = os.pipe()
        os.set_blocking(self.output, False)
        self.pid, self.pidfd, self.alive = 0, -1, True
        try:
            with theirs:
                self.number = self.sandbox.fork(theirs, write)
        except BaseException:
            self._close()
            raise
        finally:
            os.close(write)
        self._hello()

    def exchange(
        self, header: dict[str, Any], arrays: Sequence[np.ndarray], seconds: float, cpu: float
    ) -> Answer:
        """Send one request and wait for its answer, at most that long."""
        nonce = secrets.token_hex(8)
        waiting = memoryview(codec.frame(header | {"nonce": nonce}, arrays))
        began, spent = time.monotonic(), processes.cpu_seconds(self.pid)
        processes.send(self.pidfd, signal.SIGCONT)
        text, printed, look = Incoming(most_answered(self.limits)), bytearray(), began + TICK
        answer = Answer()
        poll = select.poll()
        poll.register(self.link, select.POLLIN | select.POLLOUT)
        poll.register(self.output, select.POLLIN)
        poll.register(self.pidfd, select.POLLIN)
        while not text.complete and not answer.status:
            now = time.monotonic()
            if now >= began + seconds:
                answer.status, answer.error = "timeout", f"took more than {seconds:g} s"
                break
            if now >= look:
                answer.status, answer.error = self._over(spent, cpu)
                look = now + TICK
                continue
            events = dict(poll.poll(1000 * min(look - now, began + seconds - now) + 1))
            if self.output in events:
                printed += self._drain(len(printed))
                if len(printed) > self.limits.output << 10:
                    answer.status = "output"
                    answer.error = f"printed more than {self.limits.output} KiB"
                elif events[self.output] & select.POLLHUP and not self._ended():
                    poll.unregister(self.output)  # the submission closed it
            at_link = events.get(self.link.fileno(), 0)
            if at_link & select.POLLOUT:
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    waiting = waiting[self.link.send(waiting) :]
                if not waiting:
                    poll.modify(self.link, select.POLLIN)
            if at_link & (select.POLLIN | select.POLLHUP | select.POLLERR) or self._ended():
                try:
                    open_still = text.read(self.link)
                except codec.Malformed as error:
                    answer.status, answer.error = "bad value", f"returned {error}"
                    break
                if not text.complete and (not open_still or self._ended()):
                    answer.status = "crashed"
                    if not select.select([self.pidfd], [], [], CLOSING)[0]:
                        answer.error = "it closed the connection that answers go over"
        answer.wall = time.monotonic() - began
        answer.cpu = max(0.0, processes.cpu_seconds(self.pid) - spent)
        if not answer.status:
            self._take(answer, text, nonce)
        processes.send(self.pidfd, signal.SIGSTOP)
        printed += self._drain(len(printed))
        if answer.status:
            self._end(answer, bytes(printed))
        told = bytes(printed[: self.limits.output << 10]).decode("utf-8", "replace")
        answer.printed = printable(told)
        return answer

    def close(self) -> None:
        """End the child and wait for it; where it may have started others, all of the sandbox."""
        if not self.alive:
            return
        self.alive = False
        processes.send(self.pidfd)
        if self.limits.processes > 1 or self.sandbox.report(self.number) is None:
            self.sandbox.kill()
        self._close()

    @property
    def usable(self) -> bool:
        """Whether it can be asked: it is there, and did not go down with another."""
        return self.alive and not self._ended()

    def drop(self) -> None:
        """Let go: the whole sandbox is about to be killed."""
        processes.send(self.pidfd)
        self._close()

    def _hello(self) -> None:
        """The child's first words: that it is confined; the kernel adds its process number."""
        text, deadline = b"", time.monotonic() + CONFINING
        try:
            while len(text) < codec.PREFIX.size or len(text) < self._whole(text):
                self.link.settimeout(max(0.01, deadline - time.monotonic()))
                more, ancillary, _, _ = self.link.recvmsg(1 << 16, 1024)
                if not more:
                    raise OSError("it ended")
                text += more
                for level, kind, data in ancillary:
                    if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                        self.pid = struct.unpack("3i", data[:12])[0]
            self.sandbox.holds = tuple(codec.parse(text[codec.PREFIX.size :])["ready"])
            self.pidfd = os.pidfd_open(self.pid)
        except (OSError, codec.Malformed, KeyError) as error:
            said = self._drain(0).decode("utf-8", "replace").strip().splitlines()
            self._close()
            raise SandboxError(
                f"a process could not be confined: {said[-1] if said else error}"
            ) from None
        self.link.settimeout(0)

    @staticmethod
    def _whole(text: bytes) -> int:
        return codec.PREFIX.size + sum(codec.prefix(text[: codec.PREFIX.size], 0))

    def _take(self, answer: Answer, text: Incoming, nonce: str) -> None:
        try:
            answer.header = codec.parse(text.header)
            if answer.header.get("nonce") != nonce:
                answer.status, answer.error = "crashed", "it answered what was not asked"
                return
            answer.arrays = codec.unpack(text.archive)
        except codec.Malformed as error:
            answer.status, answer.error = "bad value", f"returned {error}"

    def _over(self, spent: float, cpu: float) -> tuple[Status | str, str]:
        """("", "") while the child keeps within CPU time, processes and files."""
        if processes.cpu_seconds(self.pid) - spent > cpu:
            return "timeout", f"took more than {cpu:g} s of CPU time"
        scratch = self.sandbox.scratch
        if scratch is not None and (full := overfull(scratch, self.limits))[0]:
            return full
        if self.limits.processes > 1 and self.sandbox.crowded():
            return "crashed", f"ran more than {self.limits.processes} processes"
        return "", ""

    def _drain(self, so_far: int) -> bytes:
        """What was printed since; reading ends a little beyond the limit."""
        parts, limit = [], (self.limits.output << 10) + 1 - so_far
        with contextlib.suppress(BlockingIOError):
            while limit > 0 and (part := os.read(self.output, min(limit, 1 << 16))):
                parts.append(part)
                limit -= len(part)
        return b"".join(parts)

    def _ended(self) -> bool:
        return bool(select.select([self.pidfd], [], [], 0)[0])

    def _end(self, answer: Answer, printed: bytes) -> None:
        """Kill what is left and say how it ended."""
        self.alive = False
        processes.send(self.pidfd)
        report = self.sandbox.report(self.number)
        if report is None or self.limits.processes > 1:
            self.sandbox.kill()
        if answer.status == "crashed" and not answer.error:
            if report is None:
                answer.error = "the process and the server beside it are gone"
            else:
                code = os.waitstatus_to_exitcode(report["status"])
                answer.status, answer.error = ending(code, printed)
        self._close()

    def _close(self) -> None:
        self.alive = False
        self.link.close()
        os.close(self.output)
        if self.pidfd >= 0:
            os.close(self.pidfd)
