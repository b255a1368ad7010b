"""Shared fixtures and the summary that tells what was not run on hardware, and what was exempt."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

# Scratch memory is poisoned with NaN throughout the tests (kernels/cpu/scratch.py); it must be
# chosen before any kernel is imported, and subprocesses inherit it.
os.environ.setdefault("ATTNLAB_POISON", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(0, str(Path(__file__).parent / "contract"))

import pytest
from _pytest.mark import deselect_by_keyword


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "exempt(reason): the operation is exempt from this property")


def pytest_runtest_setup(item: pytest.Item) -> None:
    mark = item.get_closest_marker("exempt")
    if mark:
        pytest.skip(f"exempt: {mark.args[0]}")


HARDWARE = pytest.StashKey[int]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Counts the checks that need a GPU before `-m "not gpu"` takes them out, but after -k has: what
    nobody asked for was not left out for want of a GPU."""
    deselect_by_keyword(items, config)
    config.stash[HARDWARE] = sum(item.get_closest_marker("gpu") is not None for item in items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # a worker tells the process that reports
        session.config.workeroutput["hardware"] = session.config.stash.get(HARDWARE, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    node.config.stash[HARDWARE] = getattr(node, "workeroutput", {}).get("hardware", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    stats, config = terminalreporter.stats, terminalreporter.config
    skipped = [r.longrepr[2] for r in stats.get("skipped", []) if isinstance(r.longrepr, tuple)]
    exempt = sum("exempt:" in reason for reason in skipped)
    terminalreporter.write_line(f"exempt from a property, with a written reason: {exempt}")
    wanted = config.stash.get(HARDWARE, 0)
    ran = sum("gpu" in r.keywords for r in [*stats.get("passed", []), *stats.get("failed", [])])
    if wanted > ran:
        terminalreporter.write_line(
            f"not run on hardware: {wanted - ran} checks of the CUDA paths (`make gpu` runs them on a GPU)"
        )
