"""The same jobs through a Dask `distributed` scheduler (extra `attnlab[cluster]`).

Jobs carry all they need (the submission's bytes, the course's settings and vectors, the seed), so
that workers share no disk with this machine; grades come back as plain data and are recorded here.
Workers that die are the scheduler's business: it hands their jobs to others, and a grade counts
when it has arrived. Submissions run in sandboxes on the workers, which are trusted as this process
is: hidden vectors and seeds go over their connections (use tls:// where the network is not yours).

    dask scheduler                                  # prints the address for --scheduler
    dask worker ADDRESS --nworkers 8 --nthreads 1   # on each machine; attnlab is installed there
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

from attnlab import __version__
from attnlab.contract import InputError
from attnlab.course.classroom import try_out
from attnlab.course.config import Course
from attnlab.course.pool import POLL, Backlog, Failed, Job, Judge, Result, grade_job

EXTRA = "pip install 'attnlab[cluster]'"
TIMEOUT = 15.0  # seconds for the scheduler to answer, and for a first worker
DESERTED = 120.0  # seconds without any worker after which the run is given up


class ClusterLost(InputError):
    """The scheduler or every worker went away; what was graded until then is recorded."""


class Cluster:
    """A connection to a scheduler; a context manager. Raises InputError where there is none, where
    it has no workers, and where those have no attnlab or another version."""

    def __init__(self, address: str, timeout: float = TIMEOUT):
        try:
            import distributed
        except ImportError:
            raise InputError(f"--scheduler needs Dask: {EXTRA}") from None
        self.address, self._distributed = address, distributed
        try:
            self.client = self._connect(timeout)
        except (OSError, ValueError, TypeError, ImportError) as error:
            raise InputError(
                f"--scheduler: no Dask scheduler answers at {address} within {timeout:g} s ({_short(error)})"
            ) from None
        try:
            self._wait_for_workers(timeout)
            self.levels = self._check()
        except BaseException:
            self.close()
            raise

    def _connect(self, timeout: float) -> Any:
        try:
            return self._distributed.Client(self.address, timeout=timeout)
        except AssertionError:  # its thread did not start in 10 s, as on a busy machine: once more
            return self._distributed.Client(self.address, timeout=timeout)

    def _wait_for_workers(self, timeout: float) -> None:
        try:
            self.client.wait_for_workers(1, timeout=timeout)
        except TimeoutError:
            raise InputError(
                f"--scheduler: {self.address} has no workers (dask worker {self.address} starts one)"
            ) from None

    def _check(self) -> dict[str, dict[str, str]]:
        """worker -> isolation levels there, as `sandbox.available` tells them."""
        told = self.client.run(_describe, on_error="return")
        levels = {}
        for worker, answer in told.items():
            if isinstance(answer, BaseException):
                raise InputError(
                    f"--scheduler: worker {worker} cannot grade ({_short(answer)}); "
                    f"it needs attnlab {__version__} and {EXTRA}"
                )
            if answer["attnlab"] != __version__:
                raise InputError(
                    f"--scheduler: worker {worker} has attnlab {answer['attnlab']}, this machine {__version__}"
                )
            levels[worker] = answer["levels"]
        return levels

    def choose(self, asked: str = "auto") -> str:
        """The isolation level that every worker can give: the one asked for, for "auto" the
        strongest. Raises InputError."""
        from attnlab.course.sandbox import LEVELS
        from attnlab.course.sandbox import choose as choose_here

        if asked not in (*LEVELS, "auto"):
            choose_here(asked)  # says which there are
        order = [asked] if asked != "auto" else [level for level in LEVELS if level != "none"]
        why = ""
        for level in order:
            lacking = {
                w: levels[level] for w, levels in self.levels.items() if levels.get(level, "?")
            }
            if not lacking:
                return level
            worker, reason = next(iter(lacking.items()))
            why += f"; {level}: {reason} on {worker}"
        rest = "" if asked != "auto" else "; submissions that you trust run with --isolation none"
        raise InputError(f"isolation: not on every worker{why}{rest}")

    def try_out(self, course: Course, tracks: Iterable[str], level: str) -> None:
        """See `classroom.try_out`; on every worker."""
        bare = replace(course, folder=None)
        told = self.client.run(try_out, bare, tuple(tracks), level, on_error="return")
        for worker, answer in told.items():
            if isinstance(answer, BaseException):
                raise InputError(f"--scheduler: no sandbox on worker {worker}: {_short(answer)}")

    def run(
        self,
        jobs: Iterable[Job],
        judge: Judge | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[Job, Result]]:
        """(job, its grades) as they come; see `pool.run`."""
        backlog = Backlog(jobs)
        busy: dict[Any, tuple[Job, int]] = {}
        seen = time.monotonic()
        try:
            while (backlog or busy) and not stop():
                if threads := self._threads():
                    seen = time.monotonic()
                elif time.monotonic() - seen > DESERTED:
                    raise ClusterLost(
                        f"--scheduler: {self.address} has had no worker for {DESERTED:g} s, or does not answer"
                    )
                # not all at once: the scheduler need not hold a whole class's files
                while backlog and len(busy) < 4 * threads:
                    job, tries = backlog.pop()
                    future = self.client.submit(grade_there, packed(job), judge, pure=False)
                    busy[future] = job, tries
                self._wait([*busy])
                for future, result in self._done(busy):
                    job, tries = busy.pop(future)
                    if isinstance(result, Failed):
                        yield from backlog.failed(job, tries, result.reason)
                    else:
                        yield job, result
            for future, result in self._done(busy):
                if not isinstance(result, Failed):
                    yield busy[future][0], result
        finally:
            with contextlib.suppress(Exception):  # a scheduler that went away has nothing to cancel
                self.client.cancel([*busy], force=True)

    def _threads(self) -> int:
        """Of all workers there are now; 0 while the scheduler does not answer."""
        if self.client.status != "running":
            return 0
        try:
            workers = self.client.scheduler_info()["workers"]
        except OSError:
            return 0
        return sum(worker["nthreads"] for worker in workers.values())

    def _wait(self, futures: list[Any]) -> None:
        """Until one is done, for POLL seconds at most."""
        if not futures:
            time.sleep(POLL)
        with contextlib.suppress(TimeoutError, CancelledError):
            self._distributed.wait(futures, timeout=POLL, return_when="FIRST_COMPLETED")

    def _done(self, futures: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
        """Those that are done, with what came of them. Raises ClusterLost where they were dropped."""
        for future in [f for f in futures if f.status != "pending"]:
            if future.status in ("lost", "cancelled"):
                raise ClusterLost(f"--scheduler: the connection to {self.address} was lost")
            with contextlib.suppress(TimeoutError):  # its worker died since: it is made again
                if (error := future.exception(timeout=TIMEOUT)) is not None:
                    yield future, Failed(_short(error))
                else:
                    yield future, list(future.result(timeout=TIMEOUT))

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.client.close(timeout=5)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def grade_there(job: Job, judge: Judge | None = None) -> list[dict[str, Any]]:
    """On a worker: the course's folder is made anew from what the job carries, then it is graded."""
    with tempfile.TemporaryDirectory(prefix="attnlab-course-") as folder:  # 0700: for us alone
        root = Path(folder, job.course.folder or "course")  # items bear the folder's name
        for name, data in (job.vectors or {}).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        return grade_job(replace(job, course=replace(job.course, folder=root)), judge)


def packed(job: Job) -> Job:
    """The job with what its exercises need of the course's folder, of which only the name is left."""
    course, vectors = job.course, {}
    for name in job.names:
        for which in ("hidden", "public"):
            if path := course.vectors(name, which):
                for file in (path, path.with_suffix(".json")):
                    vectors[f"{which}/{file.name}"] = file.read_bytes()
    named = course.folder is not None and course.folder.name not in ("", "..")
    folder = Path(course.folder.name) if named and course.folder else None
    return replace(job, course=replace(course, folder=folder), vectors=vectors)


def _describe() -> dict[str, Any]:
    """What a worker tells of itself."""
    from attnlab.course.sandbox import available

    return {"attnlab": __version__, "levels": available()}


def _short(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
