"""Level none where nothing can be forked or confined, as on macOS and Windows; forced on here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnlab.contract import InputError
from attnlab.course.answer import answer
from attnlab.course.config import Course, Limits
from attnlab.course.judge import Examiner, grade_submission
from attnlab.course.model import Track
from attnlab.course.sandbox import Sandbox, available, choose, levels, open_sandbox, processes
from attnlab.course.sandbox.plain import PlainSandbox
from attnlab.registry import find

SOURCE = b"""
import ctypes
import importlib.metadata
import os
import sys
import time
from collections import namedtuple

import helper
import numpy as np

Pair = namedtuple("Pair", "out weights")
calls = 0

def right(x):
    print("looking at", x.shape)
    return Pair(helper.double(x), {"a": [x[:1]]})

def mutates(x):
    x[:] = 0
    return x

def loops():
    while True:
        pass

def sleeps():
    time.sleep(600)

def leaves():
    sys.exit(0)

def ends():
    os._exit(3)

def faults():
    ctypes.string_at(0)

def floods():
    while True:
        print("x" * 1000)

def floods_and_answers():
    print("x" * 10**6)
    return 1.0

def gigantic():
    return np.ones(100 << 17)

def allocates():
    return float(np.ones(1 << 29).sum())

def fails(x):
    raise ValueError(f"shape {x.shape} is wrong")

def objects():
    return [object()]

def nan(x):
    return np.full_like(x, np.nan)

def writes():
    for i in range(1000):
        with open(f"f{i}", "wb") as file:
            file.write(bytes(1 << 20))
    return 1.0

def forks():
    if os.fork() == 0:
        time.sleep(600)
    return 1.0

def counts():
    global calls
    calls += 1
    return calls

def reads():
    return sys.stdin.read(), os.getcwd()

def version():
    return importlib.metadata.version("numpy"), [m for m in sys.modules if "attnlab" in m]

def environment():
    return " ".join([*os.environ, *os.environ.values()])

def works(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
"""
FILES = {
    "m.py": SOURCE,
    "helper.py": b"def double(x):\n    return 2 * x\n",
    "plain.py": b"mine = 1\n",
    "syntax.py": b"def attend(:\n",
    "imports.py": b"import attnlab\n",
    "leaves.py": b"import os\nos._exit(0)\n",
    "sleeps.py": b"import time\ntime.sleep(600)\n",
}
LIMITS = Limits(wall=20, cpu=20, memory=300, output=64, reply=16)
SHORT = 0.4


@pytest.fixture(scope="module")
def sandbox() -> Iterator[PlainSandbox]:
    with PlainSandbox(FILES, "numpy", LIMITS) as running:
        yield running
        root = running._root
    assert root is not None
    assert not root.exists()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As where nothing forks."""
    monkeypatch.setattr(levels, "forks", lambda: False)
    levels.available.cache_clear()
    yield
    levels.available.cache_clear()


def below(pid: int, count: int | None = None) -> list[int]:
    """Processes below this one, where the system tells them; there must be `count`."""
    found = processes.descendants(pid) if Path("/proc/self/stat").exists() else []
    assert count in (None, len(found)) or not Path("/proc/self/stat").exists()
    return found


def nothing_is_left() -> None:
    assert not below(os.getpid())


def test_values_come_back_as_they_are(sandbox: PlainSandbox) -> None:
    x = np.arange(3.0)
    session = sandbox.load("m")
    assert session.status == "passed", session.message
    assert "right" in session.defined
    reply = session.call("right", {"x": x})
    assert reply.status == "passed", reply
    np.testing.assert_equal(reply.value, {"out": 2 * x, "weights": {"a": [x[:1]]}})
    assert reply.views == {"weights.a.0"}
    assert reply.printed == "looking at (3,)\n"
    assert session.call("nan", {"x": x}).printed == "", "what an earlier call printed is not told"
    reply = session.call("mutates", {"x": x})
    np.testing.assert_equal(reply.inputs, {"x": 0 * x})
    np.testing.assert_equal(x, np.arange(3.0))
    reply = session.call("fails", {"x": x})
    assert (reply.status, reply.error) == ("error", "ValueError: shape (3,) is wrong")
    assert reply.where.startswith("m.py, line ")
    assert session.call("no_such", {}).status == "missing"
    assert session.call("objects", {}).status == "bad value"
    assert np.isnan(session.call("nan", {"x": x}).value).all()
    big = np.random.default_rng(0).standard_normal(1 << 20)  # more than a pipe holds, both ways
    np.testing.assert_equal(session.call("mutates", {"x": big}).inputs["x"], 0 * big)
    assert [session.call("counts", {}).value for _ in range(2)] == [1, 2], "one process"
    text, folder = session.call("reads", {}).value
    assert text == ""
    assert not os.listdir(folder)
    number, ours = session.call("version", {}).value
    assert number == np.__version__
    assert not ours
    told = session.call("environment", {}).value
    assert str(Path.home()) not in told or str(Path.home()) == "/"
    session.close()
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    ("name", "status", "says"),
    [
        ("loops", "timeout", "took more than 0.4 s"),
        ("sleeps", "timeout", "took more than 0.4 s"),
        ("leaves", "error", "SystemExit"),
        ("ends", "crashed", "exit code 3"),
        ("faults", "crashed", "segmentation fault"),
        ("floods", "output", "more than 64 KiB"),
        ("floods_and_answers", "output", "more than 64 KiB"),
        ("gigantic", "bad value", "at most 16 MiB"),
        ("allocates", "memory", ""),
        ("writes", "crashed", "more than 64 MiB"),
    ],
)
def test_faults_cost_themselves(sandbox: PlainSandbox, name: str, status: str, says: str) -> None:
    session, neighbour = sandbox.load("m"), sandbox.load("m")
    assert neighbour.call("counts", {}).value == 1
    seconds = SHORT if status == "timeout" else None
    reply = session.call(name, {}, seconds=seconds)
    assert reply.status == status, reply
    assert says in reply.error
    assert len(reply.printed) <= LIMITS.output << 10
    assert neighbour.call("counts", {}).value == 2
    assert session.call("counts", {}).value == 1, "the next call has a new process"
    assert session.starting > 0
    session.close()
    neighbour.close()
    nothing_is_left()


@pytest.mark.parametrize(
    ("module", "status", "says"),
    [
        ("syntax", "malformed", "SyntaxError"),
        ("imports", "malformed", "No module named 'attnlab'"),
        ("leaves", "crashed", "exit code 0"),
        ("nowhere", "malformed", "no file nowhere.py"),
    ],
)
def test_files_that_do_not_import(
    sandbox: PlainSandbox, module: str, status: str, says: str
) -> None:
    session = sandbox.load(module)
    assert session.status == status
    assert says in session.message
    assert session.call("attend", {}).status == status
    session.close()


def test_an_import_that_takes_too_long() -> None:
    with PlainSandbox(FILES, "numpy", Limits(start=SHORT)) as sandbox:
        assert sandbox.load("sleeps").status == "timeout"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_what_a_submission_started_ends_with_it(sandbox: PlainSandbox) -> None:
    session = sandbox.load("m")
    assert session.call("forks", {}).status == "passed"
    started = below(os.getpid(), 2)
    session.close()
    assert all(processes.wait_gone(pid, 5) for pid in started)


def test_cpu_time_is_bounded_by_the_system() -> None:
    with PlainSandbox(FILES, "numpy", Limits(wall=60, cpu=0.5)) as sandbox:
        session = sandbox.load("m")
        reply = session.call("works", {"seconds": 0.2})
        assert reply.status == "passed"
        assert 0.15 < reply.cpu < 0.6
        assert reply.outside == reply.cpu
        began = time.monotonic()
        reply = session.call("works", {"seconds": 30})
        assert (reply.status, reply.error) == (
            "timeout",
            "took more CPU time than an exercise may",
        )
        assert time.monotonic() - began < 20


WATCHED = """
import sys
sys.path.insert(0, sys.argv[1])
import resource
def refuse(which, limits):
    raise ValueError("not here")
resource.setrlimit = refuse
import plain
assert plain.memory(100 << 20) == ["resident memory"]
import time
held = []
for _ in range(600):
    held.append(bytearray(b"x") * (4 << 20))
    time.sleep(0.005)
"""


def test_memory_is_watched_where_it_cannot_be_limited() -> None:
    """As on macOS, which refuses a limit of address space."""
    from attnlab.course.inside import __file__ as inside
    from attnlab.course.sandbox.plain import OUT_OF_MEMORY

    command = [sys.executable, "-c", WATCHED, str(Path(inside).parent)]
    assert subprocess.run(command, timeout=60).returncode == OUT_OF_MEMORY


def test_its_reply_is_bounded_before_it_is_read(
    sandbox: PlainSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = sandbox.load("m")
    monkeypatch.setattr(session._child, "_limit", 1 << 20)
    reply = session.call("mutates", {"x": np.ones(1 << 20)})
    assert reply.status == "bad value"
    assert "at most 1 MiB" in reply.error
    assert not session.alive


@pytest.mark.parametrize("track", ["numpy", "numba", "torch"])
def test_the_right_answer_scores_in_full(track: Track, elsewhere: None) -> None:
    if track == "torch":
        pytest.importorskip("torch")
    name, course = "attention", Course(track=track)
    sandbox = open_sandbox(answer(find(name), track), track, course.limits, "none")
    assert isinstance(sandbox, PlainSandbox)
    with sandbox:
        examiner = Examiner(sandbox, name, course, track, seed=4)
        grade = examiner.grade("somebody", everything=True)
    wrong = [(o.item.id, o.status, o.message) for o in grade.outcomes if not o.passed]
    assert not wrong
    assert grade.score == pytest.approx(grade.points)
    assert track != "torch" or any(o.item.kind == "gradient" for o in grade.outcomes)
    nothing_is_left()


def test_a_crash_costs_its_items_and_wrong_ones_theirs(elsewhere: None) -> None:
    right = answer(find("attention"))["attention.py"]
    crash = b"""

attend_rightly = attend
def attend(q, k, v, **options):
    import os
    if q.shape[2] == 1:
        os._exit(0)
    return attend_rightly(q, k, v, **options)
"""
    (grade,) = grade_submission(
        "s", {"attention.py": right + crash}, ["attention"], Course(), 3, "none"
    )
    assert (grade.status, grade.isolation) == ("graded", "none")
    assert {o.status for o in grade.outcomes if not o.passed} == {"crashed"}
    assert 0 < grade.score < grade.points


def test_only_none_is_offered(elsewhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    why = available()
    assert why["none"] == ""
    assert "needs Linux, and this is darwin" in why["bubblewrap"]
    assert why["landlock"] == why["bubblewrap"]
    assert choose("none") == "none"
    with pytest.raises(InputError) as refused:
        choose()
    assert str(refused.value).count("darwin") == 1
    assert "Your own code" in str(refused.value)
    assert "--isolation none" in str(refused.value)
    for level in ("bubblewrap", "landlock"):
        with pytest.raises(InputError, match="needs Linux"):
            choose(level)
        with pytest.raises(InputError, match="does not work here"):
            open_sandbox({}, "numpy", Limits(), level)
    with pytest.raises(InputError, match="must be one of"):
        open_sandbox({}, "numpy", Limits(), "jail")


def test_a_process_that_does_not_start_is_our_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    from attnlab.course.sandbox import SandboxError

    def no_numpy(self: Sandbox) -> list[str]:
        return ["no_such_package"]

    monkeypatch.setattr(Sandbox, "imports", property(no_numpy))
    with (
        pytest.raises(SandboxError, match="No module named 'no_such_package'"),
        PlainSandbox(FILES, "numpy", LIMITS),
    ):
        pass
    nothing_is_left()


GRADER = """
import sys
from attnlab.course.sandbox import levels
levels.forks = lambda: False
from attnlab.cli import main
sys.argv = ["attnlab", *sys.argv[1:]]
main()
"""


def attnlab(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """The command, as it is where nothing forks."""
    return subprocess.Popen(
        [sys.executable, "-c", GRADER, *arguments], cwd=cwd, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def test_checking_and_grading_by_command(tmp_path: Path) -> None:
    work = tmp_path / "class" / "anna"
    work.mkdir(parents=True)
    (work / "attention.py").write_bytes(answer(find("attention"))["attention.py"])
    check = ("course", "check", "attention", "--dir", str(work))
    with attnlab(*check, cwd=tmp_path) as done:
        _, said = done.communicate(timeout=120)
    assert done.returncode == 2
    assert "--isolation none" in said
    with attnlab(*check, "--isolation", "none", "--json", cwd=tmp_path) as done:
        told, said = done.communicate(timeout=120)
    assert done.returncode == 0, said
    (grade,) = json.loads(told)
    assert grade["public_score"] == grade["public_points"] == 100
    assert grade["isolation"] == "none"
    options = ("--out", "out", "--only", "attention", "--workers", "1", "--isolation", "none")
    with attnlab("grade", "class", *options, cwd=tmp_path) as done:
        told, said = done.communicate(timeout=120)
    assert done.returncode == 0, told + said
    assert "isolation: none" in told
    assert "submissions can read and write what you can" in said


PYTEST = """
import sys
import pytest
from attnlab.course.sandbox import levels
levels.forks = lambda: False
sys.exit(pytest.main(["-pno:cacheprovider", "-pno:jaxtyping", *sys.argv[1:]]))
"""


def test_pytest_grades_too(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "attention.py").write_bytes(answer(find("attention"))["attention.py"])
    command = [sys.executable, "-c", PYTEST, "--submission", "work", "-k", "attention"]
    settings: dict[str, Any] = {"cwd": tmp_path, "capture_output": True, "text": True}
    done = subprocess.run(command, **settings, timeout=120)
    assert done.returncode == 4
    assert "--isolation none" in done.stderr
    done = subprocess.run([*command, "--isolation", "none"], **settings, timeout=120)
    assert done.returncode == 0, done.stdout
    assert ", isolation none, seed" in done.stdout
    assert "public score 100/100" in done.stdout


LOOP = b"def attend(q, k, v, **options):\n    while True:\n        pass\n"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="nobody tells of processes here")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_grader(how: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "attention.py").write_bytes(LOOP)
    check = ("course", "check", "attention", "--dir", ".", "--isolation", "none")
    with attnlab(*check, cwd=tmp_path) as grader:
        deadline = time.monotonic() + 60
        while not (started := below(grader.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        while processes.cpu_seconds(started[0]) < 1:  # it is past its imports
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(grader.pid, how)
        threading.Thread(target=grader.communicate, daemon=True).start()
        grader.wait(20)
        assert all(processes.wait_gone(pid, 10) for pid in started)
