"""Running what students wrote, in processes that can neither see nor touch the grader.

    with Sandbox(files, "numpy", Limits(), choose()) as sandbox:
        session = sandbox.load("landmark")               # imports landmark.py in a confined child
        reply = session.call("attend", {"q": q, …})      # arrays in, arrays out, never a pickle

Three levels: `bubblewrap` (own namespaces, read-only system), `landlock` (Linux' file rules) and
`none` (limits alone, only when asked for by name). At every level the process has limits and no
capabilities, and on x86-64 and 64-bit ARM a system-call filter.
"""

from attnlab.course.sandbox.levels import LEVELS, available, choose
from attnlab.course.sandbox.server import Sandbox, SandboxError
from attnlab.course.sandbox.session import Reply, Session

__all__ = ["LEVELS", "Reply", "Sandbox", "SandboxError", "Session", "available", "choose"]
