"""Submissions that solve an exercise, made from the exhibit's own paths, and broken ones.

On the track numpy it is one file, the reference made self-contained. On numba and torch it is
NAME.py and a package `answer_NAME`: a copy, under that name, of the modules that the path needs,
which therefore runs where attnlab cannot be imported.
"""

from __future__ import annotations

import ast
import re
import sys
from types import ModuleType, SimpleNamespace

from attnlab.contract import FILES, Exhibit, InputError, Mistake
from attnlab.course.model import Track
from attnlab.course.skeleton import asked
from attnlab.course.source import Source, module_file, read
from attnlab.course.standalone import standalone


def answer(exhibit: Exhibit, track: Track = "numpy") -> dict[str, bytes]:
    """Path in the submission's folder -> content, for a submission that earns every point.

    Raises InputError for a track that the headline has no path for.
    """
    if track == "numpy":
        return {f"{exhibit.name}.py": standalone(exhibit, asked(exhibit)).encode()}
    if track not in exhibit.headline.paths:
        have = ", ".join(sorted(exhibit.headline.paths))
        raise InputError(
            f"track: {exhibit.name}.{exhibit.headline.name} has no {track} path; it has {have}"
        )
    operations = {op.name for op in exhibit.operations if track in op.paths}
    names = [name for name in asked(exhibit) if name in operations]
    package = f"answer_{exhibit.name}"
    path = f"{exhibit.package}.{FILES[track]}"
    lines = [f'"""{exhibit.title}: the {track} path."""', ""]
    if track == "numba":  # compiled kernels go where Numba's own cache is
        lines += ["import os", "import tempfile", "", "folder = tempfile.gettempdir()"]
        lines += ['folder = os.environ.get("NUMBA_CACHE_DIR", folder)']
        lines += ['os.environ.setdefault("ATTNLAB_CACHE_DIR", folder)', ""]
    lines += [f"from {renamed(path, package)} import {', '.join(names)}", ""]
    lines += [f"__all__ = {names!r}"]
    files = {f"{exhibit.name}.py": ("\n".join(lines) + "\n").encode()}
    for source in closure(path):
        folder = renamed(source.name, package).replace(".", "/")
        file = f"{folder}/__init__.py" if source.package else f"{folder}.py"
        files[file] = renamed(source.text, package).encode()
    return files


def broken(exhibit: Exhibit, mistake: Mistake) -> str:
    """The answer on the track numpy with a mistake planted. Raises InputError as `standalone`."""
    return standalone(exhibit, asked(exhibit), edits=[mistake])


def load(source: str, name: str) -> SimpleNamespace:
    """The functions of a file of our own (an answer, a skeleton, a broken one), by name.

    The text runs in this process: never give it a student's.
    """
    module = ModuleType(f"_attnlab_course_{name}")
    sys.modules[module.__name__] = module  # dataclasses look themselves up there
    try:
        exec(compile(source, f"{name}.py", "exec"), module.__dict__)
    finally:
        del sys.modules[module.__name__]
    own = {k: v for k, v in vars(module).items() if not k.startswith("__")}
    return SimpleNamespace(**own)


def renamed(text: str, package: str) -> str:
    """A text in which the package attnlab goes by another name."""
    return re.sub(r"\battnlab\b", package, text)


def closure(name: str) -> list[Source]:
    """A module of attnlab and all that it imports of attnlab, inside functions too, with the
    packages that they lie in."""
    found: dict[str, Source] = {}
    waiting = [name]
    while waiting:
        module = waiting.pop()
        if module in found or module_file(module) is None:
            continue
        found[module] = source = read(module)
        if "." in module:
            waiting.append(module.rsplit(".", 1)[0])
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Import):
                waiting += [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom):
                origin = source.absolute(node)
                waiting += [origin, *(f"{origin}.{a.name}" for a in node.names)]
    return list(found.values())
