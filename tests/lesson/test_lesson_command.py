"""`attnlab run lesson` as a process: options, errors, exit codes, plain Python, interrupt."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

COMMAND = [sys.executable, "-c", "from attnlab.cli.run import app; app()", "lesson"]


def lesson(*arguments, cwd, **environment):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=120, encoding="utf-8",
        env={**os.environ, "COLUMNS": "60", "PYTHONIOENCODING": "utf-8", **environment},
    )  # fmt: skip


@pytest.fixture
def own(tmp_path, sample):
    path = tmp_path / "own.py"
    path.write_text(sample, encoding="utf-8")
    return path


def test_every_output_at_once(own, tmp_path):
    done = lesson(
        own, "--quick", "--html", "a.html", "--notebook", "a.ipynb", "--json", "a.json",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 60
    assert (tmp_path / "a.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert json.loads((tmp_path / "a.ipynb").read_text(encoding="utf-8"))["nbformat"] == 4
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["lesson"] == "own"


def test_json_on_standard_output_is_only_json(own, tmp_path):
    done = lesson(own, "--json", "-", "--seed", "7", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert document["seed"] == 7
    assert [claim["verdict"] for claim in document["claims"]] == ["holds", "not tried"]


def test_a_failing_cell_exits_1(tmp_path):
    (tmp_path / "bad.py").write_text("# %%\nprint('so far')\n1 / 0\n")
    done = lesson("bad.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "bad.py:3" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    silent = lesson("bad.py", "--json", "-", cwd=tmp_path)
    assert silent.returncode == 1
    assert json.loads(silent.stdout)["error"].startswith("ZeroDivisionError")
    assert "bad.py:3" in silent.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["atention"], "no lesson called 'atention'"),
        (["own.py", "--text", "none.txt"], "--text: no file none.txt"),
        (["own.py", "--text", "empty.txt"], "--text: empty.txt is empty"),
        (["own.py", "--text", "binary.txt"], "--text: binary.txt is not UTF-8 text"),
        (["own.py", "--html", "none/a.html"], "--html: no folder none"),
        (["own.py", "--seed", "-1"], "--seed"),
        (["own.py", "--threads", "4096"], "--threads: 4096 threads, but this process may use"),
    ],
)
def test_bad_calls_exit_2_and_name_the_option(own, tmp_path, arguments, message):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    done = lesson(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_readers_text_reaches_the_lesson(tmp_path):
    (tmp_path / "t.py").write_text("# %%\nfrom attnlab import lesson\nprint(lesson.text())\n")
    (tmp_path / "mine.txt").write_text("a text of mine", encoding="utf-8")
    assert "a text of mine" in lesson("t.py", "--text", "mine.txt", cwd=tmp_path).stdout


def test_list(tmp_path):
    done = lesson("--list", "--json", "-", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["number"] for row in rows] == list(range(1, len(rows) + 1))
    assert lesson("--list", cwd=tmp_path).returncode == 0


def test_a_lesson_is_plain_python(own, tmp_path):
    done = subprocess.run(
        [sys.executable, own], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "claim 1: holds" in done.stdout
    assert "\x1b" not in done.stdout


def test_threads_reach_numba(tmp_path):
    (tmp_path / "t.py").write_text(
        "# %%\nimport numba\nprint('threads', numba.get_num_threads())\n"
    )
    assert "threads 1" in lesson("t.py", "--threads", "1", cwd=tmp_path).stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_ends_without_a_traceback(tmp_path):
    (tmp_path / "t.py").write_text(
        "# %%\nimport time\nprint('go', flush=True)\n# %%\ntime.sleep(60)\n"
    )
    process = subprocess.Popen(
        [*COMMAND, "t.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    seen = ""
    while "time.sleep" not in seen:
        seen += process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Stopped" in out
    assert "Traceback" not in out + err


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_is_asked(tmp_path):
    import pty
    import select

    (tmp_path / "t.py").write_text(
        "# %%\nfrom attnlab import lesson\n"
        "lesson.predict('Which?', ['left', 'right'], 1, because='so it is')\nprint('after')\n"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "t.py"], cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "80"},
    )  # fmt: skip
    os.close(theirs)
    seen, answered, end = "", False, time.monotonic() + 60
    while time.monotonic() < end:
        if not select.select([ours], [], [], 1)[0]:
            continue
        try:
            seen += os.read(ours, 4096).decode("utf-8", "replace")
        except OSError:  # the other side was closed
            break
        if "your guess" in seen and not answered:
            os.write(ours, b"b\n")
            answered = True
    assert process.wait(timeout=30) == 0
    os.close(ours)
    assert "Right." in seen
    assert "after" in seen
