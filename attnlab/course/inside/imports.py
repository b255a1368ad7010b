"""What is imported before a submission's code is: its track's packages, so that no limit counts them."""

from __future__ import annotations

import importlib
import os
import sys


def packages(names):
    """Import them."""
    for name in names:
        importlib.import_module(name)
    if "torch" in names:
        importlib.import_module("torch").set_num_threads(1)


def hide(folder, submission):
    """The submission takes our own folder's place on the import path: it may have files of the names
    that ours have."""
    for name in [f[:-3] for f in os.listdir(folder) if f.endswith(".py")]:
        sys.modules.pop(name, None)
    sys.path[0] = submission
