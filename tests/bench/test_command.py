"""`attnlab bench` as its users meet it: a process with arguments, pipes, signals and files."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = [sys.executable, "-c", "from attnlab.cli import main; main()", "bench"]
FAST = ["--backend", "numpy", "--heads", "2", "--dim", "8", "--repeat", "3", "--threads", "1"]


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "ATTNLAB_CACHE_DIR": str(tmp_path / "cache"),
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "PYTHONIOENCODING": "utf-8",
    }


def run(place: dict[str, str], *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, *args], env={**place, **more}, capture_output=True, text=True, timeout=120
    )


def test_help_names_every_option(place: dict[str, str]) -> None:
    done = run(place, "--help")
    assert done.returncode == 0
    for option in (
        "--seq-len",
        "--preset",
        "--backend",
        "--resume",
        "--compare",
        "--json",
        "--plot",
    ):
        assert option in done.stdout
    assert "\x1b" not in done.stdout


def test_a_run_prints_what_it_should(place: dict[str, str], tmp_path: Path) -> None:
    files = {k: tmp_path / f"run.{k}" for k in ("csv", "json", "svg")}
    done = run(
        place, "attention", "--seq-len", "64,128,256,512", *FAST,
        "--csv", str(files["csv"]), "--json", str(files["json"]), "--plot", str(files["svg"]),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress bar where there is no terminal
    for text in (
        "attnlab bench attention --seq-len 64,128,256,512 --backend numpy",
        "reference check OK",
        "sgemm",
        "1st ms",
        "peak MiB",
        "gemm %",
        "time ∝ n^",
        "memory ∝ n^",
        "Not measured: model quality",
        "Vaswani",
    ):
        assert text in done.stdout, text
    assert "\x1b" not in done.stdout

    table = json.loads(files["json"].read_text())
    assert [p["n"] for p in table["points"]] == [64, 128, 256, 512]
    assert all(len(p["samples"]) == 3 for p in table["points"])
    assert all(min(p["samples"]) <= p["median_s"] <= max(p["samples"]) for p in table["points"])
    assert table["complete"]
    assert table["rates"]["sgemm"] > 0
    flops = table["points"][-1]["flops"]
    assert flops == 2 * 2 * 512**2 * 16
    (series,) = table["series"]
    assert series["time_exponent"]["low"] <= series["time_exponent"]["slope"]
    peaks = [p["peak_bytes"] for p in table["points"]]
    assert peaks[-1] > 2 * 512**2 * 4  # the matrix of scores

    rows = list(csv.DictReader(files["csv"].open()))
    assert [int(row["n"]) for row in rows] == [64, 128, 256, 512]
    assert float(rows[0]["median_s"]) == table["points"][0]["median_s"]
    assert files["svg"].read_text().lstrip().startswith("<?xml")


@pytest.mark.parametrize("width", [50, 60])
def test_a_narrow_terminal_is_enough(place: dict[str, str], width: int) -> None:
    done = run(place, "attention", "--size", "32,64", *FAST, "--no-memory", COLUMNS=str(width))
    assert done.returncode == 0, done.stderr
    command, *lines = (line for line in done.stdout.splitlines()[1:])
    assert command.startswith("$ attnlab bench attention")  # one line, so that it can be copied
    assert max(map(len, lines)) <= width
    words = done.stdout.split()
    for word in ("tokens/s", "GFLOP/s", "p20–p80", "bound"):
        assert word in words, f"{word} was broken"


def test_json_on_standard_output_is_nothing_but_json(place: dict[str, str]) -> None:
    done = run(place, "attention", "--seq-len", "16,32", *FAST, "--no-memory", "--json", "-")
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert table["settings"]["sizes_set"] == {"heads": 2, "dim": 8}
    assert table["points"][0]["peak_bytes"] is None


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["atention"], "did you mean attention"),
        (["attention", "--seq-len", "12,x"], "--seq-len: 'x'"),
        (["attention", "--seq-len", "0"], "--seq-len: '0'"),
        (["attention", "--seq-len", "64,,128"], "--seq-len"),
        (["attention", "--preset", "quik"], "did you mean quick"),
        (["attention", "--backend", "nump"], "--backend: 'nump'"),
        (["attention", "--operation", "atend"], "did you mean attend"),
        (["attention", "--dtype", "float16"], "--dtype: 'float16'"),
        (["attention", "--threads", "4096"], "--threads"),
        (["attention", "--budget", "-1"], "--budget"),
        (["attention", "--set", "nonsense=3"], "--set nonsense"),
        (["attention", "--set", "nonsense"], "NAME=VALUE"),
        (["attention", "--set", "causal=maybe"], "causal must be bool, but is 'maybe'"),
        (["attention", "--set", "scale=abc"], "scale must be float, but is 'abc'"),
        (["attention", "--set", "heads=2.5"], "heads must be int, but is 2.5"),
        (["attention", "--set", "batch=-1"], "batch must be at least 0, but is -1"),
        (["lightning", "--set", "block=0"], "takes no block=0: option block must be at least 1"),
        (["attention", "--csv", "no/such/folder/x.csv"], "--csv: no folder"),
        (["attention", "--plot", "x.gif"], "--plot"),
        (["attention", "--compare", "no-such-file.json"], "--compare: no file"),
    ],
)
def test_wrong_arguments_are_one_clear_line(
    place: dict[str, str], args: list[str], text: str
) -> None:
    done = run(place, *args)
    assert done.returncode == 2
    assert text in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_backend_that_was_asked_for_does_not_fall_back(place: dict[str, str]) -> None:
    place = {k: v for k, v in place.items() if k != "NUMBA_ENABLE_CUDASIM"}
    from attnlab.bench.plan import unavailable

    if unavailable("cuda") is None:
        pytest.skip("a CUDA device is here: the missing backend cannot be shown")
    done = run(place, "attention", "--backend", "cuda", "--seq-len", "16")
    assert done.returncode == 2
    assert "--backend cuda cannot run here: no CUDA device" in done.stderr


def test_a_file_that_is_no_earlier_run_is_refused(place: dict[str, str], tmp_path: Path) -> None:
    for name, text, words in (
        ("a.json", "{", "is not JSON"),
        ("b.json", "[]", "is no result of attnlab bench"),
        ("c.json", '{"kind": "attnlab bench", "points": [{"n": 1}]}', "a point lacks"),
    ):
        (tmp_path / name).write_text(text)
        done = run(place, "attention", "--compare", str(tmp_path / name))
        assert done.returncode == 2
        assert words in done.stderr


def test_comparing_with_an_earlier_run(place: dict[str, str], tmp_path: Path) -> None:
    asked = ["attention", "--seq-len", "32,64", *FAST, "--no-memory"]
    file = tmp_path / "old.json"
    assert run(place, *asked, "--json", str(file)).returncode == 0
    table = json.loads(file.read_text())
    for point in table["points"]:
        point["samples"] = [s * 50 for s in point["samples"]]
    file.write_text(json.dumps(table))
    done = run(place, *asked, "--compare", str(file), "--json", "-")
    assert done.returncode == 0, done.stderr
    verdicts = [c["verdict"] for c in json.loads(done.stdout)["comparison"]]
    assert verdicts == ["faster", "faster"]


def test_what_does_not_fit_is_a_row_with_its_reason(place: dict[str, str]) -> None:
    done = run(
        place, "attention", "--seq-len", "32,131072", *FAST, "--no-memory", "--budget", "20", "--json", "-",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout)["points"][-1]
    assert last["n"] == 131072
    assert last["samples"] == []
    assert "would need about" in last["reason"] or "would take about" in last["reason"]


def test_interrupt_keeps_what_is_done_and_resume_goes_on(
    place: dict[str, str], tmp_path: Path
) -> None:
    asked = ["attention", "--seq-len", "16,32,64,128,1024,1536,2048", "--backend", "numpy",
             "--threads", "1", "--repeat", "20", "--no-memory", "--budget", "900"]  # fmt: skip
    process = subprocess.Popen(
        [*RUN, *asked, "--json", str(tmp_path / "cut.json")],
        env=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    state = tmp_path / "cache" / "bench"
    until = time.monotonic() + 60
    while time.monotonic() < until:
        kept = [line for file in state.glob("*.jsonl") for line in file.read_text().splitlines()]
        if sum('"kind": "point"' in line for line in kept) >= 2:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted: " in err
    assert "--budget 900 --json" in err, "the file asked for belongs to the command that goes on"
    assert "--resume" in err
    assert "Traceback" not in err
    cut = json.loads((tmp_path / "cut.json").read_text())
    assert cut["interrupted"]
    assert not cut["complete"]
    assert 2 <= len(cut["points"]) < 7
    assert "reference check OK" in out

    # going on: a shorter repeat would be another command, so cut the work by the budget instead
    done = run(place, *asked[:-1], "8", "--resume", "--json", "-")
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    kept = {p["n"]: p["samples"] for p in cut["points"]}
    assert {p["n"]: p["samples"] for p in table["points"] if p["n"] in kept} == kept
    assert sorted(p["n"] for p in table["points"]) == [16, 32, 64, 128, 1024, 1536, 2048]
    assert any("points are kept from the run before" in note for note in table["notes"])


def test_resume_of_another_command_measures_anew(place: dict[str, str]) -> None:
    asked = ["attention", *FAST, "--no-memory", "--json", "-"]
    assert run(place, *asked, "--seq-len", "16").returncode == 0
    done = run(place, *asked, "--seq-len", "32", "--resume")
    assert done.returncode == 0
    assert any("nothing was kept of this command" in n for n in json.loads(done.stdout)["notes"])
