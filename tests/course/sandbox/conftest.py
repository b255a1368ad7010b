"""Levels that work here, as fixtures of the sandbox's tests."""

from __future__ import annotations

import pytest

from attnlab.course.sandbox import available, levels

LEVELS = ("bubblewrap", "landlock", "none")


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> str:
    """Each level; skipped with the reason where it does not work here."""
    if not levels.forks():
        pytest.skip("confined children are Linux'; test_plain has what works here")
    if why := available()[request.param]:
        pytest.skip(f"isolation {request.param}: {why}")
    return request.param


@pytest.fixture(scope="session")
def best() -> str:
    """The strongest level that works here."""
    if not levels.forks():
        pytest.skip("confined children are Linux'; test_plain has what works here")
    return next(name for name in LEVELS if not available()[name])
