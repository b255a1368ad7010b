"""Levels that work here, as fixtures of the sandbox's tests."""

from __future__ import annotations

import pytest

from attnlab.course.sandbox import available

LEVELS = ("bubblewrap", "landlock", "none")


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> str:
    """Each level; skipped with the reason where it does not work here."""
    if why := available()[request.param]:
        pytest.skip(f"isolation {request.param}: {why}")
    return request.param


@pytest.fixture(scope="session")
def best() -> str:
    """The strongest level that works here."""
    if available()["none"]:
        pytest.skip(available()["none"])
    return next(name for name in LEVELS if not available()[name])
