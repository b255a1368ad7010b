"""What every sandbox has: a submission's files, sessions, an end."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from attnlab.contract import InputError
from attnlab.course.config import Limits
from attnlab.course.model import Track
from attnlab.course.sandbox import folders
from attnlab.course.sandbox.answers import Answer
from attnlab.course.sandbox.packages import IMPORTS, importable
from attnlab.course.sandbox.session import Session

INSIDE = Path(__file__).resolve().parents[1] / "inside"
MIB = 1 << 20
STARTING = 60.0  # seconds a server may take over its imports on a busy machine
ENVIRONMENT = {
    "LANG": "C.UTF-8", "HOME": "/tmp", "USER": "student", "LOGNAME": "student", "TMPDIR": "/tmp",
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1",
    # Arrays reuse memory instead of fresh pages, whose faults would bend the growth of time.
    "MALLOC_MMAP_THRESHOLD_": str(32 * MIB), "MALLOC_TRIM_THRESHOLD_": str(1024 * MIB),
}  # fmt: skip
ODD = "\\:" if os.name == "nt" else ""  # what leads out of a folder there


class SandboxError(RuntimeError):
    """The sandbox itself failed: the grader's fault or the machine's, never the submission's."""


class ChildLike(Protocol):
    """A process that holds one module of a submission, seen from the trusted side."""

    alive: bool

    @property
    def usable(self) -> bool:
        """Whether it can be asked."""

    def exchange(
        self, header: dict[str, Any], arrays: Sequence[np.ndarray], seconds: float, cpu: float
    ) -> Answer:
        """Send one request and wait for its answer, at most that long."""

    def close(self) -> None:
        """End it and wait for its end."""

    def drop(self) -> None:
        """Let go: the whole sandbox is about to be killed."""


class Sandbox(ABC):
    """Runs one submission's files on one track. A context manager, made by `open_sandbox`.

    files: relative path -> content. packages: distributions that may be imported besides the
    track's. Raises InputError for impossible file names and unknown packages, SandboxError where no
    process starts.
    """

    def __init__(
        self,
        files: Mapping[str, bytes],
        track: Track,
        limits: Limits,
        level: str,
        packages: tuple[str, ...] = (),
    ):
        self.files, self.track, self.limits, self.level = dict(files), track, limits, level
        self.packages = importable(track, tuple(packages))
        self.holds: tuple[str, ...] = ()  # what a child said of its confinement
        self._root: Path | None = None
        self._sessions: list[Session] = []

    def __enter__(self) -> Sandbox:
        try:
            self._prepare()
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load(self, module: str) -> Session:
        """A child that imports module.py; whatever the submission does wrong is in its status."""
        session = Session(self, module)
        self._sessions.append(session)
        session.open()
        return session

    def close(self) -> None:
        """End every process of this submission and remove its files."""
        self.kill()
        self._sessions.clear()
        if self._root is not None:
            folders.discard(self._root, self._lock)
            self._root = None

    def kill(self) -> None:
        """End all of its processes, at once. The next call starts another."""
        for session in self._sessions:
            session.abandon()

    @abstractmethod
    def child(self) -> ChildLike:
        """A new process, nothing of the submission imported. Raises SandboxError."""

    @abstractmethod
    def _start(self) -> None:
        """Start what runs as long as the sandbox does."""

    @property
    def imports(self) -> list[str]:
        """Packages that are imported before the submission is."""
        return [name for name in IMPORTS[self.track] if name in self.packages]

    def _prepare(self) -> None:
        """Write the submission's files into a new folder."""
        self._root, self._lock = folders.make()
        for name in ("submission", "tmp"):
            (self._root / name).mkdir()
        for name, content in self.files.items():
            parts = PurePosixPath(name).parts
            odd = name.startswith("/") or ".." in parts or "\0" in name or set(name) & set(ODD)
            if not parts or odd:
                raise InputError(f"files: {name!r} is no path inside a submission")
            path = self._root.joinpath("submission", *parts)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            except OSError as error:
                raise InputError(f"files: {name!r} cannot be written ({error.strerror})") from None
