"""`attnlab explain bench` as a process: real data, broken data, interrupts, pages."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_explain import Page, attnlab, refused

from attnlab.explain import study

WORDS = [
    "a",
    "the",
    "lovely",
    "dull",
    "film",
    "plot",
    "never",
    "good",
    "bad",
    "funny",
    "slow",
    "warm",
    "and",
    "but",
    "with",
    "acting",
]
FAST = ["--method", "attention,gradient,integrated_gradients", "--threads", "1"]


def write_texts(file: Path, count: int, seed: int = 0) -> None:
    rng = random.Random(seed)
    rows = [
        (" ".join(rng.choices(WORDS, k=rng.randint(3, 9))), rng.randint(0, 1)) for _ in range(count)
    ]
    lines = [
        json.dumps({"text": t, "label": l, "rationale": [1] + [0] * (len(t.split()) - 1)})
        for t, l in rows
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    return {"ATTNLAB_CACHE_DIR": str(tmp_path / "cache")}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_texts(tmp_path / "texts.jsonl", 20)
    return tmp_path / "texts.jsonl"


def document(*args: str, **env: str) -> dict:
    done = attnlab("bench", *args, "--json", "-", **env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_tables_intervals_tests_and_controls(
    data: Path, tmp_path: Path, place: dict[str, str]
) -> None:
    html, file = tmp_path / "page.html", tmp_path / "study.json"
    done = attnlab(
        "bench",
        "--data",
        str(data),
        "--threads",
        "1",
        "--html",
        str(html),
        "--json",
        str(file),
        **place,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress bar where there is no terminal
    assert "same family agrees (claim 1)" in done.stdout
    assert "attention is the odd one out (claim 2)" in done.stdout
    narrow = attnlab(
        "bench", "--data", str(data), "--threads", "1", "--resume", COLUMNS="40", **place
    )
    lines = narrow.stdout.splitlines()
    assert not [line for line in lines if "…" in line.strip("… ")]  # no number is cut off
    for word in ("τ-b", "compr.↑", "AUPRC↑", "ρ random", "ms a text"):
        assert word in narrow.stdout
    report = json.loads(file.read_text())
    assert report["texts"] == 20
    assert report["settings"]["methods"][-1] == "random"  # the floor stands beside every result
    assert len(report["settings"]["methods"]) == 9
    for table in report["agreement"].values():
        assert len(table) == 36
        for pair in table:
            assert pair["n"] + pair["undefined"] == 20
            assert pair["seeds"] == 1
            if pair["n"] > 1 and pair["value"] < 0.999:
                assert pair["low"] < pair["value"] < pair["high"]
    same = {(p["a"], p["b"]): p["value"] for p in report["agreement"]["kendall_tau"]}
    assert same["deep_lift", "deep_shap"] == pytest.approx(1)
    for metrics in report["faithfulness"].values():
        assert metrics["comprehensiveness"]["n"] == 20
    assert report["plausibility"]["lime"]["auprc"]["n"] == 20
    tests = report["tests"]["comprehensiveness"]
    assert len(tests) == 36
    assert all(t["p"] <= t["adjusted"] <= 1 for t in tests)
    assert report["rho_with_random_weights"]["random"]["value"] == pytest.approx(1)
    assert report["planted"]["unattended"]["attention"]["value"] == 0
    assert len(report["curves"]["deletion"]["lime"]) == 11
    page = html.read_text()
    assert Page(page).loaded == []
    assert "<svg" in page
    assert "Holm" in page


def test_malformed_lines_are_reported_by_number_and_counted(
    data: Path, place: dict[str, str]
) -> None:
    lines = data.read_text().splitlines()
    lines[3], lines[7] = "{broken", '{"text": "a film"}'
    lines.append('{"text": "... !!", "label": 7}')
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = attnlab("bench", "--data", str(data), *FAST, "--no-controls", **place)
    assert done.returncode == 0, done.stderr
    assert "2 malformed lines left out" in done.stdout
    assert "line 4:" in done.stdout
    assert "line 8:" in done.stdout
    assert "1 texts have a label that the model does not know" in done.stdout


def test_limit_draws_by_the_seed_and_long_texts_are_left_out(
    data: Path, place: dict[str, str]
) -> None:
    def lines(*args: str) -> list[int]:
        done = attnlab(
            "bench", "--data", str(data), *FAST, "--no-controls", "--limit", "6", *args, **place
        )
        assert done.returncode == 0, done.stderr
        found = done.stdout.replace("\n", "").rsplit("every text's record: ", 1)[1].strip()
        return [json.loads(line)["line"] for line in Path(found).read_text().splitlines()]

    first = lines()
    assert len(first) == len(set(first)) == 6
    assert first == sorted(first)
    assert lines() == first != lines("--seed", "1")
    report = document("--data", str(data), *FAST, "--no-controls", "--max-tokens", "5", **place)
    assert sum(report["skipped"].values()) + report["texts"] == 20
    assert report["skipped"]["more than 5 tokens"] > 0


def _without_time(report: dict) -> dict:
    return {k: v for k, v in report.items() if k not in ("seconds_per_text", "wall_seconds")}


def test_an_interrupted_run_resumes_to_the_same_result(tmp_path: Path) -> None:
    data = tmp_path / "many.jsonl"
    write_texts(data, 400)
    args = [
        "--data",
        str(data),
        "--method",
        "gradient,lime,kernel_shap",
        "--threads",
        "1",
        "--no-controls",
    ]
    env = os.environ | {"ATTNLAB_CACHE_DIR": str(tmp_path / "cut"), "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(
        [sys.executable, "-m", "attnlab", "explain", "bench", *args],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 120
    while time.monotonic() < end and not any(
        f.stat().st_size for f in (tmp_path / "cut").rglob("*.jsonl")
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert "--resume" in err
    assert "Traceback" not in err
    (file,) = (tmp_path / "cut").rglob("*.jsonl")
    kept = file.read_text().splitlines()
    assert 64 <= len(kept) < 400
    file.write_text("\n".join(kept) + '\n{"line": 9, "te', encoding="utf-8")  # cut while writing
    resumed = attnlab(
        "bench", *args, "--resume", "--json", "-", ATTNLAB_CACHE_DIR=str(tmp_path / "cut")
    )
    assert resumed.returncode == 0, resumed.stderr
    assert f"{len(kept)} of 400 texts were there already" in " ".join(resumed.stderr.split())
    assert file.read_text().splitlines()[: len(kept)] == kept
    whole = document(*args, ATTNLAB_CACHE_DIR=str(tmp_path / "whole"))
    assert _without_time(json.loads(resumed.stdout)) == _without_time(whole)


def test_a_text_counts_once_where_two_runs_wrote_at_once(tmp_path: Path) -> None:
    cache = study.Cache.__new__(study.Cache)
    cache.path = tmp_path / "both.jsonl"
    cache.path.write_text('{"line": 1, "a": 2.0}\n{"line": 2, "a": null}\n{"line": 1, "a"{"li\n7\n')
    cache.add([{"line": 2, "a": 5.0}, {"line": 1, "a": 2.0}, {"line": 3, "a": 1.0}])
    assert [record["line"] for record in cache] == [1, 2, 3]
    assert cache.begin(resume=True) == {1, 2, 3}
    assert len(cache.path.read_text().splitlines()) == 3


def test_seeds_average_random_methods(data: Path, place: dict[str, str]) -> None:
    args = [
        "--data",
        str(data),
        "--method",
        "integrated_gradients",
        "--no-controls",
        "--threads",
        "1",
    ]
    one, three = (document(*args, "--seeds", n, **place) for n in ("1", "3"))
    a, b = (r["faithfulness"] for r in (one, three))
    assert b["random"]["comprehensiveness"]["seeds"] == 3
    key = "integrated_gradients"
    assert a[key]["comprehensiveness"]["value"] == pytest.approx(
        b[key]["comprehensiveness"]["value"]
    )
    assert a["random"]["comprehensiveness"]["value"] != b["random"]["comprehensiveness"]["value"]


def test_bad_calls_get_one_line(data: Path, tmp_path: Path, place: dict[str, str]) -> None:
    def call(*args: str) -> str:
        return refused("bench", *args, **place)

    assert "no file" in call("--data", str(tmp_path / "none.txt"))
    assert "did you mean jsonl" in call("--data", str(data), "--format", "jsnl")
    assert "at least one beside the random floor" in call("--data", str(data), "--method", "random")
    assert "did you mean mask" in call("--data", str(data), "--replacement", "masc")
    assert "--data" in call()
    empty = tmp_path / "empty.tsv"
    empty.write_text("no label here\n")
    assert "tsv" in call("--data", str(empty)) or "format" in call("--data", str(empty))
    assert "no text to explain" in call("--data", str(empty), "--format", "tsv")
    empty.write_bytes(b"")
    assert "nothing: it is empty" in call("--data", str(empty))
    empty.write_bytes("café\tpos\n".encode("latin-1"))
    assert "line 1: expected UTF-8 text" in call("--data", str(empty))
