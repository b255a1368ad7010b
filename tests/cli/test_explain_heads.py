"""`attnlab explain heads` as a subprocess: every model, every form of output, bad calls."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

KINDS = {"retrieval", "induction", "previous", "sink", "entropy"}


def heads(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "attnlab", "explain", "heads", *args],
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "100"} | env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=240,
    )


def document(*args: str) -> dict:
    done = heads(*args, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
    return " ".join(done.stderr.split())


@pytest.mark.parametrize("model", ["retrieval", "induction", "ioi", "docstring"])
def test_a_toy_model_has_heads_that_copy(model: str) -> None:
    made = document("--model", model, "--runs", "10")
    assert made["model"] == model
    assert set(made["scores"]) == KINDS
    assert made["counted"] > 5
    layers, columns = len(made["scores"]["sink"]), len(made["scores"]["sink"][0])
    assert all(len(row) == columns for kind in KINDS for row in made["scores"][kind])
    assert (layers, columns) in ((2, 4), (3, 4))


def test_greater_than_has_no_needle_but_all_other_scores() -> None:
    made = document("--model", "greater_than")
    assert made["scores"]["retrieval"] == [[None] * 4] * 2
    assert "no copies" in made["note"]
    assert made["scores"]["entropy"][0][0] > 0


def test_the_language_model_is_said_not_to_retrieve() -> None:
    done = heads("--model", "language", "--runs", "3")
    assert done.returncode == 0, done.stderr
    assert "none of 3 answers held more than half" in done.stdout
    assert "induction" in done.stdout


def test_terminal_shows_heat_maps_and_what_ablation_costs() -> None:
    done = heads("--model", "retrieval", "--runs", "30", "--ablate", "--top", "1", "--top", "4")
    assert done.returncode == 0, done.stderr
    assert "\x1b[" not in done.stdout
    for words in ("retrieval: share of the needle", "sink: attention", "layer 1", "top 4"):
        assert words in done.stdout
    assert re.search(r"\d+ of 8 heads score at least 0.1", done.stdout)


def test_narrow_terminals_lose_no_heads() -> None:
    done = heads("--model", "retrieval", "--runs", "5", COLUMNS="60")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert done.stdout.count("(1, ") >= 4


def test_ablation_in_json_is_repeatable_and_names_its_heads() -> None:
    arguments = ("--model", "retrieval", "--runs", "20", "--ablate", "--top", "2", "--seed", "3")
    first, second = document(*arguments), document(*arguments)
    assert first == second
    (cost,) = first["ablation"]["without"]
    assert cost["k"] == len(cost["heads"]) == 2
    assert cost["recall"]["n"] == 20
    assert cost["recall"]["value"] <= first["ablation"]["recall"]["value"]
    assert cost["other_recall"]["seeds"] == 3


def test_ranked_by_another_score() -> None:
    made = document("--model", "induction", "--runs", "4", "--ablate", "--by", "previous",
                    "--top", "1", "--draws", "1", "--everywhere", "--same-layers")  # fmt: skip
    assert made["ablation"]["ranked_by"] == "previous"
    assert made["ablation"]["where"] == "prompt and answer"


def test_files_are_written(tmp_path: Path) -> None:
    page, picture = tmp_path / "heads.html", tmp_path / "heads.svg"
    done = heads("--model", "ioi", "--runs", "5", "--html", str(page), "--plot", str(picture))
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert "<svg" in text
    assert "figure > svg { min-width" in text  # legible on a phone: it scrolls
    assert not re.search(r'(src|href)="https?:', text)  # self-contained
    assert "Heads of ioi" in text
    assert picture.read_text().lstrip().startswith("<?xml")


def test_a_hugging_face_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    sizes = transformers.LlamaConfig(
        vocab_size=70, hidden_size=16, intermediate_size=24, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=96,
    )  # fmt: skip
    transformers.LlamaForCausalLM(sizes).save_pretrained(tmp_path / "tiny")
    made = document("--model", str(tmp_path / "tiny"), "--runs", "3")
    assert made["model"] == "tiny"
    assert [len(row) for row in made["scores"]["induction"]] == [4, 4, 4]
    assert made["runs"] == 3
    assert (
        heads("--model", str(tmp_path / "tiny"), "--runs", "1").stderr == ""
    )  # nothing of the library's
    kinds = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 70}
    encoder = transformers.BertConfig(**kinds)
    transformers.BertForSequenceClassification(encoder).save_pretrained(tmp_path / "encoder")
    refused = error_line(heads("--model", str(tmp_path / "encoder")))
    assert "encoder holds no causal model" in refused
    assert "its architecture is BertForSequenceClassification" in refused


def test_bad_calls_are_one_line(tmp_path: Path) -> None:
    assert "did you mean induction" in error_line(heads("--model", "inducton"))
    assert "holds no causal model" in error_line(heads("--model", str(tmp_path)))
    assert "9 heads, but retrieval has 8" in error_line(
        heads("--model", "retrieval", "--ablate", "--top", "9")
    )
    assert "no needle" in error_line(heads("--model", "greater_than", "--ablate"))
    assert "no file" in error_line(heads("--model", "language", "--text", str(tmp_path / "x")))
    assert "must end in" in error_line(heads("--plot", "heads.txt"))
    assert "no folder" in error_line(heads("--html", str(tmp_path / "no" / "x.html")))
    short = tmp_path / "short.txt"
    short.write_text("if")
    assert "at least 16" in error_line(heads("--model", "language", "--text", str(short)))
    assert heads("--by", "nothing").returncode == 2
