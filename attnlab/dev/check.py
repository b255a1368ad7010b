"""The author's lint: is an exhibit whole?

Each check is a function from an exhibit to its complaints; none means the check holds.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from attnlab import vectors
from attnlab.bench import agreement
from attnlab.contract import BACKENDS, FILES, Array, BackendUnavailable, Exhibit
from attnlab.course.skeleton import functions, reference_source, skeleton
from attnlab.paths import lessons_dir, project_root

COMPILE_SECONDS = 6.0  # of all operations in both dtypes, or 64 exhibits cannot be tested


@dataclass(frozen=True)
class Finding:
    """One check of one exhibit; `complaints` is empty where it holds."""

    exhibit: str
    check: str
    complaints: tuple[str, ...]
    note: str = ""

    @property
    def ok(self) -> bool:
        return not self.complaints


def paths(exhibit: Exhibit) -> Iterable[str]:
    """Every path file is there and defines the operations that the card promises."""
    folder = Path(__file__).parents[1].joinpath(*exhibit.package.split(".")[1:])
    for backend in exhibit.backends:
        file = folder / f"{FILES[backend]}.py"
        if not file.is_file():
            yield f"{file.name} is missing"
            continue
        defined = functions(file.read_text(encoding="utf-8"))
        for op in exhibit.operations:
            if (backend in op.paths) != (op.name in defined):
                yield f"{file.name} {'lacks' if backend in op.paths else 'defines the undeclared'} {op.name}"
    if not any(op.paths == set(BACKENDS) for op in exhibit.operations):
        yield "no operation is on all four paths"


def agree(exhibit: Exhibit) -> Iterable[str]:
    """The paths that can run here agree with the reference in float64."""
    for op in exhibit.operations:
        kwargs = agreement.inputs(op, 9, dtype="float64")
        for row in agreement.run(op, kwargs, repeat=1):
            for output, error in row.errors.items():
                if not error <= 1e-8:
                    yield f"{op.name}: {row.backend} differs in {output} by {error:.1e}"


def golden(exhibit: Exhibit) -> Iterable[str]:
    """Test vectors are there and hold."""
    root = project_root()
    file = root / "tests" / "golden" / f"{exhibit.name}.npz" if root else None
    if file is None or not file.is_file():
        yield "no test vectors in tests/golden"
        return
    for row in vectors.run(file):
        if not row.ok:
            yield f"{row.case}: {row.backend} {row.name}: {row.detail}"


def derivable(exhibit: Exhibit) -> Iterable[str]:
    """The exercise's skeleton comes out of the reference, runs, and solves nothing."""
    text = skeleton(exhibit)
    emptied = functions(text)
    solved = functions(reference_source(exhibit))
    namespace: dict[str, object] = {}
    exec(compile(text, f"{exhibit.name}.py", "exec"), namespace)
    for op in exhibit.operations:
        if op.name not in emptied:
            yield f"the skeleton lacks {op.name}"
            continue
        if ast.get_docstring(emptied[op.name]) is None:
            yield f"reference.py: {op.name} has no docstring"
        if ast.dump(ast.Module(emptied[op.name].body, [])) == ast.dump(
            ast.Module(solved[op.name].body, [])
        ):
            yield f"the skeleton still solves {op.name}"
    for part in exhibit.exercise.parts if exhibit.exercise else ():
        if part.name not in emptied:
            yield f"the exercise's part {part.name} is no function of reference.py"


def lesson(exhibit: Exhibit) -> Iterable[str]:
    """A lesson with claims, and three hints."""
    file = lessons_dir() / f"{exhibit.name}.py"
    if not file.is_file():
        yield f"no lessons/{file.name}"
    elif "claim(" not in file.read_text(encoding="utf-8"):
        yield f"lessons/{file.name} re-creates no claim"
    if exhibit.exercise is None:
        yield "the card has no exercise"
    elif len(exhibit.exercise.hints) != 3:
        yield f"the card has {len(exhibit.exercise.hints)} hints; three are wanted"


def card(exhibit: Exhibit) -> Iterable[str]:
    """The card says what every command needs."""
    for name in ("title", "idea", "family", "attention_map"):
        if not getattr(exhibit, name):
            yield f"{name} is empty"
    for op in exhibit.operations:
        if not op.about or not op.equations:
            yield f"{op.name} has no {'about' if not op.about else 'equations'}"
        if not op.gradient and not op.no_gradient and "torch" in op.paths:
            yield f"{op.name} neither lists gradients nor says why there are none"
    headline, cost = exhibit.headline, exhibit.headline.cost
    # what returns whole numbers alone (a search, a count) has no floating-point operations to count
    counts = any(a.dtype == "float" for a in headline.results if isinstance(a, Array))
    if cost is None or cost.bytes is None or (counts and cost.flops is None):
        yield "the headline's cost lacks flops or bytes"


def cited(exhibit: Exhibit) -> Iterable[str]:
    """The paper is cited on the card and every path file says what it is."""
    paper = exhibit.paper
    if not (paper.title and paper.authors and paper.year):
        yield "the paper lacks title, authors or year"
    if not (paper.arxiv or paper.venue):
        yield "the paper has neither a venue nor an arXiv number"
    folder = Path(__file__).parents[1].joinpath(*exhibit.package.split(".")[1:])
    for file in sorted(folder.glob("*.py")):
        if ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) is None:
            yield f"{file.name} has no docstring"


CHECKS: dict[str, Callable[[Exhibit], Iterable[str]]] = {
    "paths": paths,
    "agree": agree,
    "vectors": golden,
    "skeleton": derivable,
    "lesson": lesson,
    "card": card,
    "cited": cited,
}


def examine(exhibit: Exhibit) -> Iterable[Finding]:
    """Every check of one exhibit; one that raises is a complaint, not the end."""
    for name, check in CHECKS.items():
        try:
            complaints = tuple(check(exhibit))
        except BackendUnavailable as why:
            complaints = (str(why),)
        except Exception as error:
            complaints = (f"{type(error).__name__}: {' '.join(str(error).split())}",)
        yield Finding(exhibit.name, name, complaints)


_COMPILE = """
import sys, time
from attnlab.registry import find
from attnlab.bench import agreement
from attnlab.contract import BACKENDS
import attnlab.kernels.cpu.runtime
total = 0.0
for op in find(sys.argv[1]).operations:
    if "numba" not in op.paths:
        continue
    for dtype in ("float32", "float64"):
        kwargs = agreement.inputs(op, 9, dtype=dtype)
        function = op.exhibit.function(op.name, "numba")
        begun = time.perf_counter()
        function(want="all", **kwargs)
        total += time.perf_counter() - begun
print(total)
"""


def compile_seconds(exhibit: Exhibit) -> Finding:
    """First calls of all CPU paths in both dtypes, with an empty cache, in a process of their own."""
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"ATTNLAB_CACHE_DIR": folder}
        done = subprocess.run(
            [sys.executable, "-c", _COMPILE, exhibit.name], env=env, capture_output=True, text=True
        )
    if done.returncode:
        return Finding(exhibit.name, "compile", (done.stderr.strip().splitlines()[-1],))
    seconds = float(done.stdout.split()[-1])
    slow = (
        (f"{seconds:.1f} s, more than {COMPILE_SECONDS:g} s",) if seconds > COMPILE_SECONDS else ()
    )
    return Finding(exhibit.name, "compile", slow, f"{seconds:.1f} s")
