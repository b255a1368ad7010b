"""One submission's sandbox: its files, the confined server that forks for them, its end."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from attnlab.course.config import Limits
from attnlab.course.model import Track
from attnlab.course.sandbox import folders, processes, system
from attnlab.course.sandbox.answers import most_written
from attnlab.course.sandbox.base import ENVIRONMENT, INSIDE, MIB, STARTING, Sandbox, SandboxError
from attnlab.course.sandbox.child import Child


class ForkingSandbox(Sandbox):
    """A server in the sandbox forks a confined child for each module. Linux only.

    Use it from one thread, which must outlive it: the kernel kills the server when the thread that
    started it ends. Raises SandboxError where the server does not start.
    """

    def __init__(
        self,
        files: Mapping[str, bytes],
        track: Track,
        limits: Limits,
        level: str,
        packages: tuple[str, ...] = (),
    ):
        super().__init__(files, track, limits, level, packages)
        self.server_pid = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._reports: dict[int, dict[str, Any]] = {}
        self._number = 0

    def child(self) -> Child:
        return Child(self)

    # what sessions use

    def fork(self, data: socket.socket, output: int) -> int:
        """Start a child that speaks on `data` and prints to `output`; its number."""
        if self._process is None:
            self._start()
        self._number += 1
        limits, landlock = self.limits, None
        if self.level == "landlock":
            landlock = {"read": self._readable(), "write": ["/dev/null"]}
        order = {
            "do": "fork",
            "child": self._number,
            "reply": int(limits.reply * MIB),
            "confine": {
                "memory": processes.address_space(self.server_pid) + int(limits.memory * MIB),
                "file": int(limits.file * MIB),
                "files": 256,
                "cpu": int(limits.start + 2 * max(limits.budget, limits.cpu)) + 10,
                "processes": limits.processes,
                "landlock": landlock,
                "kills": limits.processes > 1 and self.level == "bubblewrap",
                "attributes": self.level == "bubblewrap",
            },
        }
        assert self._control is not None
        try:
            socket.send_fds(self._control, [json.dumps(order).encode()], [data.fileno(), output])
        except OSError as error:
            raise SandboxError(f"the sandbox's server is gone ({error})") from None
        return self._number

    def report(self, number: int, seconds: float = 1.0) -> dict[str, Any] | None:
        """How a child ended, by the server's word; None where the server does not answer in time."""
        deadline = time.monotonic() + seconds
        while number not in self._reports and self._control is not None:
            left = deadline - time.monotonic()
            ready = select.select([self._control], [], [], max(0.0, left))[0]
            if not ready:
                return None
            message, _ = self._receive()
            if message is None:
                return None
            if "ended" in message:
                self._reports[message["ended"]] = message
        return self._reports.pop(number, None)

    def kill(self) -> None:
        """End the server and all that it started, at once. The next call starts another."""
        super().kill()
        process, self._process = self._process, None
        control, self._control = self._control, None
        if process is not None and self.level != "bubblewrap" and self.server_pid:
            processes.kill_below(self.server_pid)
            assert control is not None
            control.close()  # the server, whose all of them are now, waits for each and ends
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
        if process is not None:
            several = self.limits.processes > 1 and self.server_pid
            below = processes.descendants(self.server_pid) if several else []
            process.kill()
            process.wait()
            for pid in [self.server_pid, *below] if self.server_pid else []:
                processes.wait_gone(pid, 2.0)
        if control is not None:
            control.close()
        self.server_pid = 0
        self._reports.clear()
        if self.scratch is not None:  # elsewhere it went with the mount namespace
            folders.remove(self.scratch)
            self.scratch.mkdir()

    def crowded(self) -> bool:
        """Whether more processes run than the limit allows each session."""
        allowed = self.limits.processes * sum(s.alive for s in self._sessions)
        return len(processes.descendants(self.server_pid)) > allowed

    @property
    def scratch(self) -> Path | None:
        """The sessions' temporary folder, where it lies on this machine's own disk."""
        return self._root / "tmp" if self._root and self.level != "bubblewrap" else None

    # starting

    def _prepare(self) -> None:
        super()._prepare()
        assert self._root is not None
        for name in ("packages", "empty"):
            (self._root / name).mkdir()
        cpuinfo = self._root / "cpuinfo"
        with contextlib.suppress(OSError):
            cpuinfo.write_bytes(Path("/proc/cpuinfo").read_bytes())
        for name, real in self.packages.items():
            (self._root / "packages" / name).symlink_to(real)

    def _start(self) -> None:
        if self._root is None:
            self._prepare()
        assert self._root is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        ours.settimeout(STARTING)
        self._control = ours
        with theirs, tempfile.TemporaryFile() as said:
            self._process = subprocess.Popen(
                self._command(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                env=ENVIRONMENT,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )
            theirs.close()
            try:
                ours.send(json.dumps(self._setup()).encode())
                hello, self.server_pid = self._receive()
            except OSError as error:
                hello, problem = None, str(error)
            else:
                problem = "it ended"
            if hello is None:
                text = self._last_words(said)
                self.kill()
                raise SandboxError(f"the sandbox ({self.level}) does not start: {text or problem}")

    def _setup(self) -> dict[str, Any]:
        assert self._root is not None
        inside = self.level == "bubblewrap"
        return {
            "library": "/packages" if inside else str(self._root / "packages"),
            "submission": "/submission" if inside else str(self._root / "submission"),
            "temporary": "/tmp" if inside else str(self._root / "tmp"),
            "imports": self.imports,
            "parent": 0 if inside else os.getpid(),  # bubblewrap sees to that itself
        }

    def _command(self, fd: int) -> list[str]:
        python = str(system.python())
        if self.level != "bubblewrap":
            return [python, "-I", "-S", str(INSIDE / "worker.py"), str(fd)]
        root, args = str(self._root), ["--unshare-all", "--die-with-parent", "--new-session"]
        args += ["--cap-drop", "ALL"]
        for place in system.roots():
            args += ["--ro-bind", str(place), str(place)]
        for target, path in system.links():
            args += ["--symlink", target, path]
        for place in system.hidden():
            args += ["--ro-bind", f"{root}/empty", str(place)]
        for file in system.FILES:
            args += ["--ro-bind-try", file, file]
        args += ["--ro-bind", python, python]
        args += ["--ro-bind-try", f"{root}/cpuinfo", "/proc/cpuinfo"]
        for name, real in self.packages.items():
            args += ["--ro-bind", str(real), f"/packages/{name}"]
        args += [
            "--ro-bind",
            str(INSIDE),
            "/worker",
            "--ro-bind",
            f"{root}/submission",
            "/submission",
        ]
        args += ["--dev", "/dev"]
        if _takes_size():
            args += ["--size", str(most_written(self.limits))]
        args += ["--tmpfs", "/tmp", "--remount-ro", "/dev"]
        if self.limits.processes > 1:  # where semaphores live
            args += [*(["--size", str(16 * MIB)] if _takes_size() else []), "--tmpfs", "/dev/shm"]
        args += ["--remount-ro", "/", "--chdir", "/tmp"]
        program = shutil.which("bwrap") or "bwrap"
        return [program, *args, "--", python, "-I", "-S", "/worker/worker.py", str(fd)]

    def _readable(self) -> list[str]:
        """What Landlock lets a child read."""
        assert self._root is not None
        own = [str(self._root / name) for name in ("submission", "packages", "cpuinfo")]
        devices = ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random", "/proc/cpuinfo"]
        return [*system.visible(), *map(str, self.packages.values()), *own, *devices]

    def _receive(self) -> tuple[dict[str, Any] | None, int]:
        """(the server's next message or None at its end, its process number as seen from here)."""
        assert self._control is not None
        text, ancillary, _, _ = self._control.recvmsg(1 << 20, 1024)
        pid = 0
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                pid = struct.unpack("3i", data[:12])[0]
        return (json.loads(text) if text else None), pid

    def _last_words(self, said: IO[bytes]) -> str:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        said.seek(0)
        lines = said.read(1 << 16).decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""


@functools.cache
def _takes_size() -> bool:
    """Whether this bwrap can bound a tmpfs (0.7 and later)."""
    from attnlab.course.sandbox.levels import bubblewrap_version

    digits = bubblewrap_version().split()[-1:] or ["0"]
    numbers = [int(n) for n in digits[0].split(".")[:2] if n.isdigit()]
    return numbers >= [0, 7]
