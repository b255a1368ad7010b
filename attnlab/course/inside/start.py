"""The process beside a submission where nothing can be forked or confined: one for each of its files.

    PYTHON -I -S -X utf8 start.py SETUP     SETUP is a JSON file

Requests come on standard input, answers leave on standard output. Both are put away before a line
of the submission runs: what it prints goes where standard error does, to a file. Any system that
has Python will do.
"""

from __future__ import annotations

import importlib.machinery
import io
import json
import os
import re
import sys
from typing import Any


class Packages:
    """Finds the packages that a submission may import where they are installed, and no others.
    places: name of a file or folder -> its path."""

    def __init__(self, places):
        told = (".dist-info", ".egg-info")
        self.folders = {
            name.partition(".")[0]: os.path.dirname(path)
            for name, path in places.items()
            if not name.endswith(told)
        }
        self.metadata = {
            _plain(name.partition("-")[0]): path
            for name, path in places.items()
            if name.endswith(told)
        }

    def find_spec(self, name, path=None, target=None):
        if path is not None or name not in self.folders:
            return None
        return importlib.machinery.PathFinder.find_spec(name, [self.folders[name]])

    def find_distributions(self, context):
        """What `importlib.metadata.version` reads."""
        import importlib.metadata
        import pathlib

        asked = self.metadata if context.name is None else [_plain(context.name)]
        known = (self.metadata[name] for name in asked if name in self.metadata)
        return map(importlib.metadata.PathDistribution, map(pathlib.Path, known))


def _plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


class Pipes:
    """Standard input and output, put away; read and written as a socket is."""

    def __init__(self):
        self.source, self.sink = io.FileIO(os.dup(0)), io.FileIO(os.dup(1), "w")
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)

    def recv_into(self, view):
        return self.source.readinto(view)

    def sendall(self, data):
        view = memoryview(data)
        while view:
            view = view[self.sink.write(view) :]


def main():
    link: Any = Pipes()
    with open(sys.argv[1], encoding="utf-8") as file:
        setup = json.load(file)
    here = os.path.dirname(os.path.abspath(__file__))
    sys.dont_write_bytecode = True
    sys.path.insert(0, here)
    sys.meta_path.append(Packages(setup["packages"]))
    import imports
    import plain

    imports.packages(setup["imports"])
    imports.hide(here, setup["submission"])
    plain.Plain(setup, link).live()


if __name__ == "__main__":
    main()
