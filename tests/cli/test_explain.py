"""`attnlab explain` as its users meet it: a process with arguments, pipes and files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

TEXT = "The plot is thin, but the performances are lovely and never dull."


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


def attnlab(*args: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "attnlab", "explain", *args],
        env=os.environ | {"COLUMNS": "120", "PYTHONIOENCODING": "utf-8"} | env,
        capture_output=True, text=True, input=stdin, timeout=240,
    )  # fmt: skip


def refused(*args: str, **env: str) -> str:
    done = attnlab(*args, **env)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


class Page(HTMLParser):
    """Collects what a page would load, and checks that its tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "img", "path", "polyline"):
            self.open.append(tag)
        self.loaded += [v or "" for k, v in attrs if k in ("src", "href")]
        assert tag != "script"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None: ...

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_text_gets_everything(tmp_path: Path) -> None:
    html, file = tmp_path / "page.html", tmp_path / "all.json"
    done = attnlab(TEXT, "--html", str(html), "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert re.search(
        r"prediction: (negative|positive)  \(negative 0\.\d+, positive 0\.\d+\)", done.stdout
    )
    report = json.loads(file.read_text())
    assert len(report["methods"]) == 18
    for name, one in report["methods"].items():
        assert one["title"] in done.stdout, name
        assert len(one["signed"]) == len(report["tokens"])
        assert one["unsigned"] == [abs(x) for x in one["signed"]]
        assert one["faithfulness"]["comprehensiveness"] is not None
        assert one["max_sensitivity"] is not None
        assert one["seconds"] >= 0
    assert report["predicted"] == report["target"]
    assert sum(report["probabilities"].values()) == pytest.approx(1)
    assert abs(report["methods"]["integrated_gradients"]["completeness_gap"]) < 0.01
    assert report["methods"]["random"]["rho_with_random_weights"] == pytest.approx(1)
    tau = report["agreement"]["kendall_tau"]
    assert [len(row) for row in tau] == [18] * 18
    assert tau[3][7] == tau[7][3]
    page = html.read_text()
    assert Page(page).loaded == []
    assert 'class="f4"' in page
    assert "Value zeroing" in page


def test_methods_targets_and_models() -> None:
    done = attnlab(
        "--model", "transformer", "--method", "attention,rollout", "--method", "lime",
        "--target", "positive", "--output", "logit", "--json", "-", "a", "dull", "film",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert list(report["methods"]) == ["attention", "rollout", "lime", "random"]
    assert (report["target"], report["output"], report["model"]) == (
        "positive",
        "logit",
        "transformer",
    )
    assert report["tokens"] == ["[CLS]", "a", "dull", "film"]
    assert report["special"] == [True, False, False, False]


def test_the_text_may_come_from_a_pipe() -> None:
    done = attnlab("-", "--method", "gradient", "--json", "-", stdin="a lovely\nfilm\n")
    assert json.loads(done.stdout)["text"] == "a lovely film"


@pytest.mark.parametrize("width", ["50", "80", "150"])
def test_any_width_and_no_colour(width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = attnlab(TEXT, "--method", "gradient,attention_gradient", COLUMNS=width)
    assert done.returncode == 0, done.stderr
    assert all(len(line) <= int(width) for line in done.stdout.splitlines())
    for word in ("plot", "thin", "performances"):
        assert word in done.stdout
    forced = attnlab("a film", "--method", "gradient", FORCE_COLOR="1", NO_COLOR="1").stdout
    assert not re.search(r"\x1b\[[0-9;]*[34]8;", forced)
    monkeypatch.delenv("NO_COLOR", raising=False)
    options = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    coloured = attnlab("a film", "--method", "gradient", **options).stdout
    assert re.search(r"\x1b\[[0-9;]*48;", coloured)


def test_bad_calls_get_one_line(tmp_path: Path) -> None:
    assert "did you mean integrated_gradients" in refused(TEXT, "--method", "integrated_gradient")
    assert "did you mean transformer" in refused(TEXT, "--model", "transfomer")
    assert "did you mean positive" in refused(TEXT, "--target", "positiv")
    assert "output must be probability or logit" in refused(TEXT, "--output", "loss")
    assert "did you mean delete" in refused(TEXT, "--replacement", "deleted")
    assert "no word" in refused("  ")
    assert "no folder" in refused(TEXT, "--html", str(tmp_path / "none" / "x.html"))
    assert "is a folder" in refused(TEXT, "--json", str(tmp_path))
    assert "--nonsense" in refused(TEXT, "--nonsense")


def test_help_tells_both_forms_and_needs_no_torch() -> None:
    for args in ((), ("--help",)):
        done = attnlab(*args)
        assert "attnlab explain bench" in done.stdout + done.stderr
        for command in ("text", "bench"):
            assert command in done.stdout + done.stderr
    code = "import sys; from attnlab.cli import main\ntry: main(['explain', '--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit(bool({'torch', 'numba', 'matplotlib'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode
        == 0
    )
