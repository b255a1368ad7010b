"""Running what students wrote, in processes that can neither see nor touch the grader.

    with open_sandbox(files, "numpy", Limits(), choose()) as sandbox:
        session = sandbox.load("landmark")               # imports landmark.py in a confined child
        reply = session.call("attend", {"q": q, …})      # arrays in, arrays out, never a pickle

Three levels: `bubblewrap` (own namespaces, read-only system), `landlock` (Linux' file rules) and
`none` (limits alone, only when asked for by name). On Linux the process has limits and no
capabilities at every level, and on x86-64 and 64-bit ARM a system-call filter; elsewhere there is
`none` alone, with the limits that the system has (`plain`).
"""

from __future__ import annotations

from collections.abc import Mapping

from attnlab.contract import InputError
from attnlab.course.config import Limits
from attnlab.course.model import Track
from attnlab.course.sandbox import levels
from attnlab.course.sandbox.base import Sandbox, SandboxError
from attnlab.course.sandbox.levels import LEVELS, available, choose
from attnlab.course.sandbox.session import Reply, Session

__all__ = [
    "LEVELS", "Reply", "Sandbox", "SandboxError", "Session", "available", "choose", "open_sandbox",
]  # fmt: skip


def open_sandbox(
    files: Mapping[str, bytes],
    track: Track,
    limits: Limits,
    level: str,
    packages: tuple[str, ...] = (),
) -> Sandbox:
    """The sandbox of that level as this machine can make it; see `Sandbox`. Raises InputError for an
    unknown level and one that does not work here."""
    if level not in LEVELS:
        raise InputError(f"isolation must be one of {', '.join(LEVELS)}, but is {level!r}")
    if levels.forks():
        from attnlab.course.sandbox.server import ForkingSandbox

        return ForkingSandbox(files, track, limits, level, packages)
    from attnlab.course.sandbox.plain import PlainSandbox

    return PlainSandbox(files, track, limits, level, packages)
