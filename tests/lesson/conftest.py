"""A sample lesson, and a way to run lessons without a terminal."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from attnlab.lesson import runner, script
from attnlab.lesson.session import Session

SAMPLE = (Path(__file__).parent / "sample.py.txt").read_text(encoding="utf-8")


@pytest.fixture
def sample() -> str:
    return SAMPLE


@pytest.fixture
def run() -> Callable[..., tuple[runner.Run, str]]:
    """run(source, width=80, …) → the run and what a pipe of that width got."""

    def go(source: str, *, width: int = 80, **settings) -> tuple[runner.Run, str]:
        stream = io.StringIO()
        console = Console(file=stream, width=width, highlight=False)
        lesson = script.parse(source, "sample", Path("sample.py"))
        result = runner.run(lesson, Session(console=console, **settings))
        runner.close(console, result)
        return result, stream.getvalue()

    return go


@pytest.fixture
def code(run) -> Callable[..., tuple[runner.Run, str]]:
    """code("lesson.table(…)") runs one cell with the API imported."""
    return lambda body, **settings: run(
        f"# %%\nfrom attnlab import lesson\nimport numpy as np\n{body}\n", **settings
    )
