"""Shared fixtures and the summary that tells what was not run on hardware, and what was exempt."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Scratch memory is poisoned with NaN throughout the tests (kernels/cpu/scratch.py); it must be
# chosen before any kernel is imported, and subprocesses inherit it.
os.environ.setdefault("ATTNLAB_POISON", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(0, str(Path(__file__).parent / "contract"))

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "exempt(reason): the operation is exempt from this property")


def pytest_runtest_setup(item: pytest.Item) -> None:
    mark = item.get_closest_marker("exempt")
    if mark:
        pytest.skip(f"exempt: {mark.args[0]}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = [str(r.longrepr[2]) if isinstance(r.longrepr, tuple) else "" for r in skipped]
    exempt = sum("exempt:" in reason for reason in reasons)
    hardware = sum("no CUDA device" in reason for reason in reasons)
    terminalreporter.write_line(f"exempt from a property, with a written reason: {exempt}")
    if hardware:
        terminalreporter.write_line(f"not run on hardware (no CUDA device): {hardware} checks")
