"""A real scheduler and two worker processes, one of which is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import fake_judge
import pytest

from attnlab.contract import InputError
from attnlab.course import cluster as clusters
from attnlab.course.answer import answer
from attnlab.course.classroom import grade_class, plan
from attnlab.course.cluster import Cluster, ClusterLost
from attnlab.course.config import Course, read_course
from attnlab.course.gradebook import Gradebook
from attnlab.course.pool import Job
from attnlab.course.sandbox import available
from attnlab.course.skeleton import skeleton
from attnlab.course.submissions import Submission
from attnlab.paths import vectors_dir
from attnlab.registry import find

pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
COURSE = Course(exercises=fake_judge.NAMES)


@dataclass
class Hall:
    """A scheduler and workers as processes of this machine."""

    folder: Path
    log: Path
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.contact = self.folder / "scheduler.json"
        self.scheduler = self._dask("scheduler", "--host", "127.0.0.1", "--port", "0")
        deadline = time.monotonic() + 60
        while not self.contact.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.address = json.loads(self.contact.read_text())["address"]

    def hire(self, count: int = 1) -> None:
        options = ("--nthreads", "1", "--no-nanny", "--local-directory", str(self.folder))
        self.workers += [self._dask("worker", *options) for _ in range(count)]

    def _dask(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *words, "--no-dashboard", "--scheduler-file", str(self.contact)],
            env=os.environ | {
                "PYTHONPATH": str(Path(__file__).parent), "FAKE_LOG": str(self.log), "FAKE_SECONDS": "0.1",
            },
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[Hall]:
    made = Hall(tmp_path, tmp_path / "log")
    yield made
    made.close()


def pupil(i: int) -> Submission:
    texts = {"attention": f"a {i}", "landmark": f"b {i}", "moh": f"c {i}"}
    return Submission(f"s{i:02}", {f"{k}.py": v.encode() for k, v in texts.items()})


def never() -> bool:
    return False


def when(condition: Callable[[], bool], act: Callable[[], object]) -> threading.Thread:
    """Acts as soon as the condition holds."""

    def wait() -> None:
        deadline = time.monotonic() + 60
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_worker_is_killed_during_the_run(hall: Hall, tmp_path: Path) -> None:
    """No grade is lost, none is recorded twice, and all are what one machine gives."""
    hall.hire(2)
    class_ = [pupil(i) for i in range(20)]

    def lines() -> list[str]:
        return hall.log.read_text().splitlines() if hall.log.exists() else []

    def both_work() -> bool:
        return len(lines()) > 8 and len({line.split()[2] for line in lines()}) == 2

    with Gradebook.open(tmp_path / "out") as book, Cluster(hall.address, timeout=60) as cluster:
        cluster.client.wait_for_workers(2, timeout=60)
        work = plan(class_, COURSE, book, seed=5)
        killer = when(both_work, lambda: hall.workers[0].send_signal(signal.SIGKILL))

        def runner(jobs, *, stop):  # type: ignore[no-untyped-def]
            return cluster.run(jobs, fake_judge.judge, stop)

        made = list(grade_class(work, book, runner, "none"))
        killer.join()
        assert hall.workers[0].wait(10) == -signal.SIGKILL
        history = book.db.execute("SELECT student, exercise FROM history").fetchall()
        grades = book.grades()
    pairs = {(s.student, name) for s in class_ for name in fake_judge.NAMES}
    assert set(history) == pairs
    assert len(history) == len(made) == len(pairs) == 60
    assert {g.status for g in grades} == {"graded"}
    job = Job("s07", class_[7].files, fake_judge.NAMES, COURSE, 5, "none")
    here = fake_judge.judge(job.student, job.files, job.names, COURSE, 5, "none")
    assert [g.score for g in grades if g.student == "s07"] == [g.score for g in here]
    workers = Counter(line.split()[2] for line in lines())
    assert len(workers) == 2
    assert min(workers.values()) < max(workers.values())


def test_a_submission_that_kills_its_worker_costs_itself(hall: Hall, tmp_path: Path) -> None:
    """Our own failures are told apart on a cluster, too."""
    hall.hire(1)
    bad = replace(pupil(1), files=pupil(1).files | {"landmark.py": b"raise"})
    with Gradebook.open(tmp_path / "out") as book, Cluster(hall.address, timeout=60) as cluster:
        work = plan([pupil(0), bad], COURSE, book)

        def runner(jobs, *, stop):  # type: ignore[no-untyped-def]
            return cluster.run(jobs, fake_judge.judge, stop)

        made = {(g.student, g.exercise): g for g in grade_class(work, book, runner, "none")}
    lost = made.pop(("s01", "landmark"))
    assert lost.status == "grader error"
    assert lost.extra["note"] == "RuntimeError: the judge is confused"
    assert {g.status for g in made.values()} == {"graded"}
    assert len(made) == 5


@pytest.mark.skipif(
    all(why for level, why in available().items() if level != "none"),
    reason="nothing isolates on this machine",
)
def test_the_command_grades_on_a_cluster(hall: Hall, tmp_path: Path) -> None:
    """Real sandboxes on a worker that shares no folder: the course's hidden vectors reach it."""
    hall.hire(1)
    exhibit = find("attention")
    (tmp_path / "autumn" / "hidden").mkdir(parents=True)
    (tmp_path / "autumn" / "course.toml").write_text('exercises = ["attention"]\n')
    for suffix in ("npz", "json"):
        file = vectors_dir() / f"attention.{suffix}"
        (tmp_path / "autumn" / "hidden" / file.name).write_bytes(file.read_bytes())
    for student, text in (
        ("anna", answer(exhibit)["attention.py"]),
        ("ben", skeleton(exhibit).encode()),
    ):
        (tmp_path / "class" / student).mkdir(parents=True)
        (tmp_path / "class" / student / "attention.py").write_bytes(text)
    words = ["grade", "class", "--out", "out", "--course", "autumn", "--scheduler", hall.address]
    done = subprocess.run(
        [sys.executable, "-m", "attnlab", *words, "--json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["isolation"] != "none"
    assert [g["score"] for g in document["grades"]] == [pytest.approx(100), 0]
    with Gradebook.reading(tmp_path / "out") as book:
        anna, _ = book.grades()
    assert sum(o.item.hidden and o.passed for o in anna.outcomes) == anna.hidden_items > 0


def test_levels_of_isolation_on_the_workers(hall: Hall) -> None:
    hall.hire(1)
    with Cluster(hall.address, timeout=60) as cluster:
        (there,) = cluster.levels.values()
        cluster.levels = {
            "tcp://a": there,
            "tcp://b": there | {"bubblewrap": "not installed", "landlock": ""},
        }
        assert cluster.choose() == "landlock"
        with pytest.raises(InputError, match="bubblewrap: not installed on tcp://b"):
            cluster.choose("bubblewrap")
        cluster.levels["tcp://b"]["landlock"] = "no"
        with pytest.raises(InputError, match="--isolation none"):
            cluster.choose()
        assert cluster.choose("none") == "none"
        with pytest.raises(InputError, match="must be one of"):
            cluster.choose("jail")


@pytest.mark.slow
@pytest.mark.parametrize("who", ["scheduler", "worker"])
def test_the_cluster_goes_away(
    hall: Hall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """The run ends with a word, and what was graded is kept."""
    monkeypatch.setattr(clusters, "DESERTED", 3.0)
    hall.hire(1)
    class_ = [pupil(i) for i in range(9)]
    with Gradebook.open(tmp_path / "out") as book, Cluster(hall.address, timeout=60) as cluster:
        work = plan(class_, COURSE, book)
        seen = []

        def runner(jobs, *, stop):  # type: ignore[no-untyped-def]
            return cluster.run(jobs, fake_judge.judge, stop)

        def see() -> None:
            for grade in grade_class(work, book, runner, "none"):
                seen.append(grade)
                (hall.scheduler if who == "scheduler" else hall.workers[0]).kill()

        with pytest.raises(ClusterLost, match="--scheduler"):
            see()
        assert len(seen) == len(book.grades()) > 0
        assert plan(class_, COURSE, book).done == len(seen)


def test_nobody_answers(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1 "):
        Cluster("tcp://127.0.0.1:1", timeout=1)
    with pytest.raises(InputError, match="--scheduler: no Dask"):
        Cluster("not an address", timeout=1)
    with pytest.raises(InputError, match="has no workers"):
        Cluster(hall.address, timeout=1)
    hall.hire(1)
    monkeypatch.setattr(clusters, "__version__", "9.9")
    with pytest.raises(InputError, match=r"has attnlab .*, this machine 9\.9"):
        Cluster(hall.address, timeout=60)


def test_without_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"attnlab\[cluster\]"):
        Cluster("tcp://127.0.0.1:8786")


def test_the_course_travels_with_the_job(tmp_path: Path) -> None:
    """Settings and vectors, nothing else; the folder's name stays, for items bear it."""
    folder = tmp_path / "autumn"
    (folder / "hidden").mkdir(parents=True)
    (folder / "course.toml").write_text('exercises = ["moh", "landmark"]\n')
    for name in ("moh", "landmark"):
        (folder / "hidden" / f"{name}.npz").write_bytes(name.encode())
        (folder / "hidden" / f"{name}.json").write_text("{}")
    course = read_course(folder)
    job = Job("anna", {}, ("moh",), course, 0, "none")
    sent = clusters.packed(job)
    assert set(sent.vectors or {}) == {"hidden/moh.npz", "hidden/moh.json"}
    assert sent.course.folder == Path("autumn")

    def judge(student, files, names, there, seed, level):  # type: ignore[no-untyped-def]
        assert there.folder != folder
        assert there.folder.name == "autumn"
        assert there.version("moh") == course.version("moh")
        assert there.vectors("landmark", "hidden") is None
        return []

    assert clusters.grade_there(sent, judge) == []
