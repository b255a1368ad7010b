"""A forked child: it confines itself before it imports anything of the submission's. Linux only."""

from __future__ import annotations

import os

import child
import confine


class Forked(child.Child):
    """A confined process that holds one of the submission's modules."""

    def __init__(self, setup, order, link):
        os.setsid()
        folder = os.path.join(setup["temporary"], str(order["child"]))
        os.mkdir(folder, 0o700)
        os.chdir(folder)
        os.environ |= {"HOME": folder, "TMPDIR": folder, "NUMBA_CACHE_DIR": folder}
        confine.prctl(confine.PR_SET_PDEATHSIG, confine.SIGKILL)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        super().__init__(setup, link, order["reply"])
        settings = order["confine"]
        if settings["landlock"] is not None:
            settings["landlock"]["write"].append(folder)
        self.send({"ready": confine.confine(settings)})
