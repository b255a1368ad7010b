"""Calls into a sandbox: what comes back on each track, and what limits do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from attnlab.contract import InputError
from attnlab.course.config import Limits
from attnlab.course.sandbox import open_sandbox, processes
from attnlab.course.sandbox.packages import importable

PLAIN = b"""
import helper
import numpy as np
from collections import namedtuple
from jaxtyping import Float

Pair = namedtuple("Pair", "out weights")
calls = 0


def mapping(x: Float[np.ndarray, "n"], scale=None, names=()):
    return {"out": helper.double(x), "weights": None, "names": names, "scale": scale}

def named(x):
    return Pair(x + 1, {"a": [x, x[:1]]})

def several(x):
    return x + 1, x + 2

def bare(x):
    return x * 2

def count():
    global calls
    calls += 1
    return calls

def fails(x):
    if True:
        raise ValueError(f"shape {x.shape} is wrong")

def prints(x):
    print("looking at", x.shape)
    return x

def dies():
    import os
    os._exit(3)

def waits(seconds):
    import time
    time.sleep(seconds)
    return 1.0

def works(seconds):
    import time
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass

def allocates(mebibytes):
    return float(np.ones(int(mebibytes) << 17).sum())
"""
FILES = {"plain.py": PLAIN, "helper.py": b"def double(x):\n    return 2 * x\n"}


def test_values_come_back_as_they_are(level: str) -> None:
    x = np.arange(3.0)
    with open_sandbox(FILES, "numpy", Limits(), level) as sandbox:
        session = sandbox.load("plain")
        assert session.status == "passed", session.message
        assert {"mapping", "named", "bare"} <= session.defined
        assert "calls" not in session.defined
        assert level != "landlock" or any("landlock" in held for held in sandbox.holds)

        reply = session.call("mapping", {"x": x, "scale": 0.5, "names": ["a", "b"]})
        assert reply.status == "passed", reply
        np.testing.assert_equal(
            reply.value, {"out": 2 * x, "weights": None, "names": ["a", "b"], "scale": 0.5}
        )
        assert reply.kinds == {"out": "array"}
        np.testing.assert_equal(reply.inputs, {"x": x, "scale": 0.5, "names": ["a", "b"]})

        reply = session.call("named", {"x": x})
        np.testing.assert_equal(reply.value, {"out": x + 1, "weights": {"a": [x, x[:1]]}})
        assert reply.views == {"weights.a.0", "weights.a.1"}
        np.testing.assert_equal(session.call("several", {"x": x}).value, (x + 1, x + 2))
        np.testing.assert_equal(
            session.call("bare", {"x": np.float32([1, 2])}).value, np.float32([2, 4])
        )

        reply = session.call("fails", {"x": x})
        assert (reply.status, reply.error) == ("error", "ValueError: shape (3,) is wrong")
        assert reply.where.startswith("plain.py, line ")
        assert reply.where.endswith(", in fails")
        assert session.call("prints", {"x": x}).printed == "looking at (3,)\n"
        assert session.call("mapping", {"y": x}).status == "error"
        assert session.call("no_such", {}).status == "missing"

        assert [session.call("count", {}).value for _ in range(2)] == [1, 2]
        reply = session.call("dies", {})
        assert reply.status == "crashed"
        assert "exit code 3" in reply.error
        assert session.call("count", {}).value == 1, "a new child starts anew"
        assert sandbox.load("other").status == "malformed"


def test_limits_cost_one_call(best: str) -> None:
    limits = Limits(wall=0.5, cpu=0.5, memory=200)
    with open_sandbox(FILES, "numpy", limits, best) as sandbox:
        session = sandbox.load("plain")
        began = time.monotonic()
        reply = session.call("waits", {"seconds": 60})
        assert (reply.status, reply.error) == ("timeout", "took more than 0.5 s")
        assert time.monotonic() - began < 3
        assert session.call("waits", {"seconds": 0.7}, seconds=10).status == "passed"
        with open_sandbox(FILES, "numpy", Limits(wall=30, cpu=0.3), best) as other:
            reply = other.load("plain").call("works", {"seconds": 10})
            assert (reply.status, reply.error) == ("timeout", "took more than 0.3 s of CPU time")
        assert session.call("allocates", {"mebibytes": 100}, seconds=20).status == "passed"
        assert session.call("allocates", {"mebibytes": 300}, seconds=20).status == "memory"
        assert session.call("bare", {"x": np.ones(1)}).status == "passed"


def test_measured_time(best: str) -> None:
    with open_sandbox(FILES, "numpy", Limits(), best) as sandbox:
        session = sandbox.load("plain")
        reply = session.call("works", {"seconds": 0.2})
        assert 0.19 < reply.cpu < 0.5
        reply = session.call("waits", {"seconds": 0.2})
        assert reply.seconds >= 0.2
        assert reply.cpu < 0.15


def test_files_of_the_submission_win_only_over_themselves(best: str) -> None:
    """A file named numpy.py replaces nobody's NumPy; one named like a part of ours is theirs."""
    files = {
        "numpy.py": b"raise RuntimeError('this is not numpy')",
        "json.py": b"raise RuntimeError('this is not json')",
        "codec.py": b"mine = True",
        "plain.py": b"import numpy as np\nimport codec\ndef f(x):\n    return np.abs(x) * codec.mine\n",
    }
    with open_sandbox(files, "numpy", Limits(), best) as sandbox:
        reply = sandbox.load("plain").call("f", {"x": -np.ones(2)})
        np.testing.assert_array_equal(reply.value, np.ones(2))


@pytest.mark.parametrize("name", ["/etc/x.py", "../x.py", "a/../../x.py", "", "a\0b.py", "n" * 300])
def test_impossible_file_names(name: str, best: str) -> None:
    with (
        pytest.raises(InputError, match="files"),
        open_sandbox({name: b""}, "numpy", Limits(), best),
    ):
        pass


def test_packages() -> None:
    names = importable("numpy")
    assert {"numpy", "scipy"} <= names.keys()
    assert not {"attnlab", "numba", "torch", "pytest", "_pytest"} & importable("numba").keys() - {
        "numba"
    }
    assert "llvmlite" in importable("numba")
    assert "torch" in importable("torch")
    assert "torch" in importable("numpy", ("torch",))
    for name, why in (("attnlab", "cannot be given"), ("no-such-thing", "not installed")):
        with pytest.raises(InputError, match=why):
            importable("numpy", (name,))


def test_numba(level: str) -> None:
    source = b"""
import numba
import numpy as np

@numba.njit(parallel=True)
def total(x):
    s = 0.0
    for i in numba.prange(len(x)):
        s += x[i]
    return s

@numba.njit(cache=True)
def twice(x):
    return 2 * x

def f(x):
    return {"out": twice(x), "total": np.array(total(x))}
"""
    with open_sandbox({"m.py": source}, "numba", Limits(wall=1), level) as sandbox:
        session = sandbox.load("m")
        for n in (5, 7):
            reply = session.call("f", {"x": np.ones(n)})
            assert reply.status == "passed", reply
            np.testing.assert_equal(
                reply.value, {"out": 2 * np.ones(n), "total": np.array(float(n))}
            )
            assert reply.printed == ""


TORCH = b"""
import torch
from typing import NamedTuple

class Out(NamedTuple):
    out: torch.Tensor
    index: torch.Tensor

def attend(q, blocks, flag):
    assert isinstance(q, torch.Tensor) and isinstance(flag, torch.Tensor)
    s = q @ blocks[0]["w"].T + blocks[1]["w"].sum()
    return Out(torch.where(flag, s, 0), s.argmax(-1))

def bare(q):
    return q * q

def pair(q):
    return q.argmax(), q * 3

def detached(q):
    return q.detach() * 2

def array(q):
    return q.detach().numpy()

def in_place(q):
    return q.mul_(2)
"""


def test_torch(best: str) -> None:
    """Tensors in, tensors out; gradients as torch itself gives them."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    q, a, b = rng.standard_normal((3, 4)), rng.standard_normal((2, 4)), rng.standard_normal(3)
    weight, flag = rng.standard_normal((3, 2)), np.array([[True, False]] * 3)
    given = {"q": q, "blocks": [{"w": a}, {"w": b}], "flag": flag}
    with open_sandbox({"m.py": TORCH}, "torch", Limits(start=60, wall=20, cpu=20), best) as sandbox:
        session = sandbox.load("m")
        assert session.status == "passed", session.message
        reply = session.call(
            "attend", given, cotangents={"out": weight, "index": None}, gradient=["q", "blocks"]
        )
        assert reply.status == "passed", reply
        assert reply.kinds == {"out": "tensor", "index": "tensor"}
        tq, ta, tb = (torch.tensor(x, requires_grad=True) for x in (q, a, b))
        s = tq @ ta.T + tb.sum()
        out = torch.where(torch.tensor(flag), s, 0)
        (out * torch.tensor(weight)).sum().backward()
        np.testing.assert_allclose(reply.value["out"], out.detach().numpy())
        np.testing.assert_allclose(reply.gradients["q"], tq.grad.numpy())
        np.testing.assert_allclose(reply.gradients["blocks"][0]["w"], ta.grad.numpy())
        np.testing.assert_allclose(reply.gradients["blocks"][1]["w"], tb.grad.numpy())

        ones = np.ones_like(q)
        reply = session.call("bare", {"q": q}, cotangents={"out": ones}, gradient=["q"])
        np.testing.assert_allclose(reply.gradients["q"], 2 * q)
        reply = session.call("pair", {"q": q}, cotangents={"i": None, "out": ones}, gradient=["q"])
        np.testing.assert_allclose(reply.gradients["q"], 3 * ones)
        reply = session.call("detached", {"q": q}, cotangents={"out": ones}, gradient=["q"])
        np.testing.assert_array_equal(reply.gradients["q"], 0 * ones)
        assert session.call("array", {"q": q}).kinds == {"": "array"}
        assert session.call("in_place", {"q": q}).inputs["q"][0, 0] == 2 * q[0, 0]
        reply = session.call("in_place", {"q": q}, cotangents={"out": ones}, gradient=["q"])
        assert reply.status == "error"
        reply = session.call("array", {"q": q}, cotangents={"out": ones}, gradient=["q"])
        assert reply.status == "bad value"
        assert "ndarray returned where gradients need a tensor" in reply.error


FORKS = b"""
import os
import time

def family(n):
    for _ in range(n):
        if os.fork() == 0:
            os.setsid()
            time.sleep(3600)
    return 1.0

def pool():
    import multiprocessing
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-1, -2])
"""


def test_processes_are_counted_and_none_survives(level: str) -> None:
    with open_sandbox({"m.py": FORKS}, "numpy", Limits(processes=4, wall=20), level) as sandbox:
        session = sandbox.load("m")
        assert session.call("family", {"n": 2}).status == "passed"
        left = processes.descendants(sandbox.server_pid)
        assert len(left) == 3
        session.close()
        assert all(map(processes.gone, left))

        reply = session.call("family", {"n": 300})
        if reply.status == "passed":  # it answered before it was looked at: the next look is enough
            reply = session.call("family", {"n": 0})
        left = processes.descendants(sandbox.server_pid) if sandbox.server_pid else []
        assert (reply.status, reply.error) == ("crashed", "ran more than 4 processes")
        assert not left
        assert session.call("family", {"n": 0}).status == "passed"
        if level == "bubblewrap":
            assert session.call("pool", {}).value == [1, 2]


KILLED = """
import sys
from attnlab.course.config import Limits
from attnlab.course.sandbox import open_sandbox
source = b"def f():\\n    print('in')\\n    while True:\\n        pass\\n"
with open_sandbox({"m.py": source}, "numpy", Limits(), sys.argv[1]) as sandbox:
    session = sandbox.load("m")
    print(sandbox.server_pid, flush=True)
    session.call("f", {}, seconds=600)
"""


def test_nothing_outlives_a_killed_grader(level: str) -> None:
    grader = subprocess.Popen(
        [sys.executable, "-c", KILLED, level], stdout=subprocess.PIPE, text=True
    )
    assert grader.stdout is not None
    server = int(grader.stdout.readline())
    time.sleep(0.3)
    below = [server, *processes.descendants(server)]
    assert len(below) == 2
    os.kill(grader.pid, signal.SIGKILL)
    grader.wait()
    grader.stdout.close()
    assert all(processes.wait_gone(pid, 10) for pid in below)


def test_sandboxes_do_not_meet(best: str) -> None:
    """Two submissions side by side; one ends, the other goes on."""
    one = {"m.py": b"def f():\n    open('mine', 'w').write('1')\n    return 1\n"}
    two = {
        "m.py": b"import os\ndef f():\n    return os.listdir('.'), os.listdir(os.path.dirname(__file__))\n"
    }
    with open_sandbox(two, "numpy", Limits(), best) as second:
        session = second.load("m")
        with open_sandbox(one, "numpy", Limits(), best) as first:
            assert first.load("m").call("f", {}).value == 1
            assert session.call("f", {}).value == ([], ["m.py"])
        assert session.call("f", {}).status == "passed"


def test_what_a_killed_grader_left_is_swept_up(
    best: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attnlab.course.sandbox import folders

    monkeypatch.setattr(folders, "_base", lambda: tmp_path)
    left = tmp_path / f"{folders.PREFIX}left"
    (left / "tmp" / "deep").mkdir(parents=True)
    (left / "lock").touch()
    with open_sandbox(FILES, "numpy", Limits(), best) as running:
        assert not left.exists()
        with open_sandbox(FILES, "numpy", Limits(), best):
            assert len(list(tmp_path.iterdir())) == 2, "a running sandbox's folder stays"
        assert running.load("plain").status == "passed"
    assert not list(tmp_path.iterdir())
