"""Grading jobs on processes of this machine, none of which can take the others' work along.

Each process has a pipe of its own: when it dies, one job comes back and the process is replaced. A
job that failed is tried again, its exercises one by one, so that the one that did it costs itself
alone; after `TRIES` it comes back as `Failed`. (A `ProcessPoolExecutor` loses every job in flight
with one process, and its thread outlives an interrupted run.)
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from attnlab.course.config import Course
from attnlab.course.model import Grade

TRIES = 3
POLL = 0.3  # seconds between looks at the clock and at `stop`
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

# (student, files, names, course, seed, level) -> grades: `attnlab.course.judge.grade_submission`
Judge = Callable[[str, Mapping[str, bytes], Sequence[str], Course, int, str], list[Grade]]


@dataclass(frozen=True)
class Job:
    """Some exercises of one student. `vectors` are the course's own files, path -> content, where
    the job leaves the machine; without them they are read in the course's folder."""

    student: str
    files: Mapping[str, bytes]
    names: tuple[str, ...]
    course: Course
    seed: int
    level: str
    vectors: Mapping[str, bytes] | None = None

    @property
    def patience(self) -> float:
        """Seconds after which a process that is still at it is taken for stuck: the sandbox ends
        what a submission does long before."""
        limits = self.course.limits
        return 120 + 2 * len(self.names) * (limits.budget + limits.start)


class Failed(NamedTuple):
    """Why a job gave nothing, our fault each time."""

    reason: str


Result = list[dict[str, Any]] | Failed


def grade_job(job: Job, judge: Judge | None = None) -> list[dict[str, Any]]:
    """Grades one job where it is called; what comes back is plain data."""
    from attnlab.course.judge import grade_submission

    judge = judge or grade_submission
    grades = judge(job.student, job.files, job.names, job.course, job.seed, job.level)
    return [grade.to_dict() for grade in grades]


class Backlog:
    """Jobs still to be done; those that failed come back first, split and up to `TRIES` times."""

    def __init__(self, jobs: Iterable[Job]):
        self._waiting = deque((job, 1) for job in jobs)

    def __len__(self) -> int:
        return len(self._waiting)

    def pop(self) -> tuple[Job, int]:
        return self._waiting.popleft()

    def failed(self, job: Job, tries: int, reason: str) -> Iterator[tuple[Job, Failed]]:
        """Puts the job back, or gives it as failed."""
        if tries >= TRIES:
            yield job, Failed(reason)
        else:
            self._waiting.extendleft((replace(job, names=(n,)), tries + 1) for n in job.names)


def run(
    jobs: Iterable[Job],
    workers: int,
    judge: Judge | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Job, Result]]:
    """(job, its grades) as they come, from `workers` processes. Once `stop()` is true nothing new
    is begun: what is done comes out, what is being done is given up."""
    backlog = Backlog(jobs)
    idle = [_Process(judge) for _ in range(max(1, min(workers, len(backlog))))]
    busy: dict[_Process, tuple[Job, int, float]] = {}
    try:
        while (backlog or busy) and not stop():
            while backlog and idle:
                process, (job, tries) = idle.pop(), backlog.pop()
                process.begin(job)
                busy[process] = job, tries, time.monotonic() + job.patience
            for process in _answered(busy, POLL):
                job, tries, _ = busy.pop(process)
                idle.append(process)
                if isinstance(result := process.result(), Failed):
                    yield from backlog.failed(job, tries, result.reason)
                else:
                    yield job, result
            for process, (_, _, late) in busy.items():
                if time.monotonic() > late:
                    process.kill()  # its job comes back as that of any dead process
        for process in _answered(busy, 0):
            if not isinstance(result := process.result(), Failed):
                yield busy[process][0], result
    finally:
        for process in [*idle, *busy]:
            process.end()


def _answered(busy: Iterable[_Process], timeout: float) -> list[_Process]:
    """Those that have a result, or are dead."""
    ready = wait([process.pipe for process in busy], timeout)
    return [process for process in busy if process.pipe in ready]


class _Process:
    """A process that grades, replaced when it is dead."""

    def __init__(self, judge: Judge | None):
        self._judge = judge
        self._start()

    def _start(self) -> None:
        # spawn: a fork would copy this process's threads' locks and the open gradebook
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self._child = spawn.Process(target=_serve, args=(theirs, self._judge))
        with _inherited():
            self._child.start()
        theirs.close()  # so that the pipe ends with the process

    def begin(self, job: Job) -> None:
        if not self._child.is_alive():
            self.pipe.close()
            self._start()
        with contextlib.suppress(OSError):  # it died just now: `result` says so
            self.pipe.send(job)

    def result(self) -> Result:
        """What the process sent, which must be waited for first."""
        try:
            result: Result = self.pipe.recv()
        except (EOFError, OSError):
            self.kill()
            self._child.join()  # its pipe ends before it is dead, and `begin` asks whether it is
            return Failed("the grading process died")
        return result

    def kill(self) -> None:
        self._child.kill()

    def end(self) -> None:
        """At once, whatever it is doing; its sandbox is closed first."""
        self._child.terminate()
        self._child.join(5)
        self._child.kill()
        self._child.join()
        self.pipe.close()


def _serve(pipe: Connection, judge: Judge | None) -> None:
    """Grades the jobs that come through the pipe, until it is closed."""
    _begin()
    while True:
        try:
            job: Job = pipe.recv()
        except EOFError:
            return
        result: Result
        try:
            result = grade_job(job, judge)
        except Exception as error:
            result = Failed(f"{type(error).__name__}: {error}")
        pipe.send(result)


def _begin() -> None:
    """What a grading process does first: it leaves Ctrl-C to the one that records, closes its
    sandbox when asked to end, and does not outlive who started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _leave(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the sandbox is being closed
    raise SystemExit(1)


@contextlib.contextmanager
def _inherited() -> Iterator[None]:
    """What a process started here inherits: one thread for the libraries (there are as many
    processes as cores), and Ctrl-C blocked until it has set its own handler."""
    kept = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    blocked = hasattr(signal, "pthread_sigmask")
    if blocked:
        multiprocessing.resource_tracker.ensure_running()  # else it is started, and unblocks, later
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if blocked:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
