"""The command line as a subprocess: help, output forms, errors and exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parents[1] / "golden"
ANSI = re.compile(r"\x1b\[")


def attnlab(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "attnlab", *args],
        env=os.environ | env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=240,
    )


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a bad call gets; never a traceback."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def test_help_names_every_command() -> None:
    done = attnlab("--help")
    assert done.returncode == 0
    for command in ("list", "show", "compare", "bench", "conform", "doctor", "run", "cache", "dev"):
        assert command in done.stdout


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list"], ["list", "--json"], ["show", "attention"]]
)
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from attnlab.cli import _main; _main(sys.argv[1:]);"
        "heavy = {'torch', 'numba', 'matplotlib', 'scipy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_version() -> None:
    assert re.fullmatch(r"attnlab \d+\.\d+\.\d+\n", attnlab("--version").stdout)


def test_list_json() -> None:
    rows = json.loads(attnlab("list", "--json").stdout)
    assert rows[0]["name"] == "attention"
    keys = {"name", "title", "family", "paper", "operations", "backends", "lesson", "exercise"}
    assert all(keys <= row.keys() for row in rows)
    assert json.loads(attnlab("list", "--family", "dense", "--json").stdout)[0]["family"] == "dense"


def test_unknown_names_are_answered_with_near_ones() -> None:
    assert "did you mean attention" in error_line(attnlab("show", "attnetion"))
    assert "did you mean sparse" in error_line(attnlab("list", "--family", "sparce"))
    assert "did you mean numpy" in error_line(attnlab("show", "attention", "--source", "nump"))
    assert "did you mean attend" in error_line(
        attnlab("compare", "attention", "--operation", "atend")
    )
    error_line(attnlab("shwo", "attention"))


def test_show() -> None:
    card = attnlab("show", "attention").stdout
    assert "A_ij = exp(S_ij)" in card
    assert "def attend" in attnlab("show", "attention", "--source", "numba").stdout
    assert attnlab("show", "attention", "--bibtex").stdout.startswith("@inproceedings{attention,")
    assert json.loads(attnlab("show", "attention", "--json").stdout)["operations"][0]["headline"]


def test_names_stay_whole_on_a_narrow_terminal() -> None:
    for arguments in (["list"], ["run", "lesson", "--list"]):
        assert "internal_consistency" in attnlab(*arguments, COLUMNS="50").stdout


@pytest.mark.parametrize("width", ["40", "60", "200"])
def test_narrow_and_piped_output(width: str) -> None:
    for arguments in (["list"], ["show", "attention"], ["doctor"]):
        done = attnlab(*arguments, COLUMNS=width)
        assert not ANSI.search(done.stdout)
        assert all(len(line) <= int(width) for line in done.stdout.splitlines()), arguments
        assert "…" not in done.stdout, "something was cut off"


def test_no_color_is_respected_even_where_colour_is_forced() -> None:
    forced = attnlab("list", FORCE_COLOR="1", NO_COLOR="1").stdout
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", forced)


def test_compare_reports_every_path() -> None:
    done = attnlab("compare", "attention", "-n", "32", "--json")
    report = json.loads(done.stdout)
    paths = {row["backend"]: row for row in report["paths"]}
    assert set(paths) == {"numpy", "numba", "cuda", "torch"}
    assert max(paths["numba"]["errors"].values()) < 1e-5
    assert paths["cuda"]["reason"] or paths["cuda"]["errors"]
    assert paths["torch"]["seconds"] > 0


def test_compare_on_real_text(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The if statement is used for conditional execution. " * 40)
    report = json.loads(
        attnlab("compare", "attention", "-n", "64", "--text", str(text), "--json").stdout
    )
    assert report["inputs"] == str(text)
    assert "--text" in error_line(
        attnlab("compare", "attention", "--text", str(tmp_path / "none.txt"))
    )
    real = ("compare", "attention", "--text", str(text))
    assert "has only" in error_line(attnlab(*real, "-n", "100000"))
    assert "layer 99" in error_line(attnlab(*real, "--layer", "99", "-n", "8"))
    assert "sliding_window_attention" in error_line(
        attnlab("compare", "based", "--text", str(text), "-n", "8")
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "attention", "-n", "0"], "'--n' / '-n': Input should be greater"),
        (["compare", "attention", "-n", "0"], "but it is '0'"),
        (["bench", "attention", "--repeat=many"], "but it is 'many'"),
        (["compare", "attention", "--layer", "1"], "--layer is a layer of the model"),
        (["compare", "attention", "-o", "atend"], "did you mean attend? (it has attend)"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(arguments: list[str], message: str) -> None:
    assert message in error_line(attnlab(*arguments))


def test_compare_refuses_more_threads_than_cores() -> None:
    assert "--threads" in error_line(attnlab("compare", "attention", "--threads", "999"))


def test_explicit_cuda_fails_with_the_reason_where_there_is_none() -> None:
    done = attnlab("compare", "attention", "-n", "8", "--backend", "cuda", NUMBA_ENABLE_CUDASIM="0")
    if done.returncode == 0:
        pytest.skip("this machine has a CUDA device")
    assert "no CUDA device" in error_line(done)


def test_conform_holds() -> None:
    done = attnlab("conform", str(GOLDEN / "attention.npz"), "--backend", "numpy", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert report["held"] > 0
    assert report["differ"] == 0


def vectors(folder: Path, name: str = "attention", **changed: np.ndarray) -> Path:
    """A copy of attention's vectors with some arrays replaced."""
    with np.load(GOLDEN / "attention.npz") as archive:
        arrays = {k: archive[k] for k in archive.files}
    path = folder / f"{name}.npz"
    np.savez(path, **(arrays | changed))
    path.with_suffix(".json").write_text((GOLDEN / "attention.json").read_text())
    return path


def test_conform_tells_what_differs(tmp_path: Path) -> None:
    with np.load(GOLDEN / "attention.npz") as archive:
        wrong = archive["full/out/out"].copy()
    wrong[0, 1, 2, 3] += 1
    done = attnlab(
        "conform", str(vectors(tmp_path, **{"full/out/out": wrong})), "--backend", "numpy", "--json"
    )
    assert done.returncode == 1
    (row,) = [r for r in json.loads(done.stdout)["rows"] if not r["ok"]]
    assert "(0, 1, 2, 3)" in row["detail"]


def test_conform_refuses_bad_files_with_a_line_each(tmp_path: Path) -> None:
    whole = vectors(tmp_path)
    truncated = tmp_path / "truncated.npz"
    truncated.write_bytes(whole.read_bytes()[:500])
    truncated.with_suffix(".json").write_text(whole.with_suffix(".json").read_text())
    lonely = tmp_path / "lonely.npz"
    lonely.write_bytes(whole.read_bytes())
    pickled = vectors(tmp_path, "pickled", **{"full/in/q": np.array([{}], dtype=object)})
    unknown = vectors(tmp_path, "no_such_exhibit")
    complex_ = vectors(tmp_path, "complex", **{"full/in/q": np.zeros((2, 2, 7, 4), complex)})
    expected = {
        truncated: "not a readable npz",
        lonely: "lonely.json is missing",
        unknown: "no exhibit 'no_such_exhibit'",
        tmp_path / "absent.npz": "no such file",
        tmp_path / "x.txt": "expected a .npz file",
    }
    for path, message in expected.items():
        assert message in error_line(attnlab("conform", str(path)))
    for path, message in {pickled: "pickled", complex_: "dtype complex128"}.items():
        assert message in error_line(attnlab("conform", str(path), "--exhibit", "attention"))
    assert "did you mean numpy" in error_line(attnlab("conform", str(whole), "--backend", "nump"))


def test_conform_blames_the_file_and_goes_on_with_the_next(tmp_path: Path) -> None:
    whole = vectors(tmp_path)
    with np.load(whole) as arrays:
        numbers = arrays["full/in/q"] > 0
    wrong = vectors(tmp_path, "wrong", **{"full/in/q": numbers})
    asked = ("--exhibit", "attention", "--backend", "numpy", "--json")
    done = attnlab("conform", str(wrong), str(whole), *asked)
    assert "wrong.npz: case 'full': q must be float32 or float64" in error_line(done)
    report = json.loads(done.stdout)
    assert len(report["bad_files"]) == 1
    held = {Path(row["file"]).stem: row["case"] for row in report["rows"]}
    assert held.keys() == {"wrong", "attention"}  # the first file's other cases too
    assert report["differ"] == 0


def test_conform_takes_a_pair_by_either_name_once(tmp_path: Path) -> None:
    path = vectors(tmp_path)
    pair = [str(path.with_suffix(".json")), str(path)]
    done = attnlab("conform", *pair, "--backend", "numpy", "--json")
    rows = [(row["case"], row["name"]) for row in json.loads(done.stdout)["rows"]]
    assert done.returncode == 0
    assert len(rows) == len(set(rows)) > 0


def test_doctor() -> None:
    report = json.loads(attnlab("doctor", "--json").stdout)
    rows = {row["what"]: row for row in report["checks"]}
    assert rows["numpy"]["state"] == "ok"
    assert rows["gpu"]["detail"]
    for level in ("bubblewrap", "landlock"):
        row = rows[f"isolation {level}"]
        assert row["state"] == "ok" or (row["detail"] and row["remedy"])
    assert rows["isolation none"]["state"] == "ok"
    assert rows["system-call filter"]["state"] in ("ok", "absent")


def test_doctor_names_what_helps_on_a_system_without_isolation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from attnlab import doctor
    from attnlab.course.sandbox import levels

    monkeypatch.setattr(levels, "forks", lambda: False)
    levels.available.cache_clear()
    try:
        rows = {row["what"]: row for row in doctor._isolation()}
    finally:
        levels.available.cache_clear()
    assert rows["isolation landlock"]["state"] == rows["system-call filter"]["state"] == "absent"
    assert "container" in rows["isolation bubblewrap"]["remedy"]
    assert "--isolation none" in rows["isolation landlock"]["remedy"]
    assert rows["isolation none"]["state"] == "ok"


def test_cache_clear_empties_the_folder(tmp_path: Path) -> None:
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "x").write_bytes(b"0" * 1000)
    done = attnlab("cache", "clear", "--json", ATTNLAB_CACHE_DIR=str(tmp_path))
    assert json.loads(done.stdout) == {"freed_bytes": 1000}
    assert not list(tmp_path.iterdir())


def test_an_interrupted_command_says_so() -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "attnlab", "compare", "attention", "-n", "4096"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:  # the command itself has begun when it imports what computes
        if line.endswith(" numpy\n"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.endswith("Interrupted.\n")
    assert "Traceback" not in err


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m attnlab list | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in done.stderr


def test_interrupted_while_it_is_imported() -> None:
    program = (
        "import runpy, sys\n"
        "class Late:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'attnlab.cli.bench': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Late())\n"
        "sys.argv = ['attnlab', 'list']\n"
        "runpy.run_module('attnlab', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")
