"""The author's lint: is an exhibit whole?

Each check is a function from an exhibit to its complaints; none means the check holds.
"""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attnlab import vectors
from attnlab.bench import agreement
from attnlab.checks import convert
from attnlab.contract import (
    BACKENDS,
    FILES,
    Array,
    BackendUnavailable,
    Exhibit,
    InputError,
    Operation,
)
from attnlab.course.answer import answer, broken, load
from attnlab.course.skeleton import asked, functions, reference_source, skeleton
from attnlab.course.tasks import pick
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
    solved = functions(reference_source(exhibit))
    for part in exhibit.exercise.parts if exhibit.exercise else ():
        if part.name not in solved:
            yield f"the exercise's part {part.name} is no function of reference.py"
            return
    text = skeleton(exhibit)
    emptied, namespace = functions(text), vars(load(text, exhibit.name))
    for name in asked(exhibit):
        if ast.get_docstring(emptied[name]) is None:
            yield f"reference.py: {name} has no docstring"
        try:
            namespace[name](**dict.fromkeys(inspect.signature(namespace[name]).parameters))
        except NotImplementedError:
            continue
        yield f"the skeleton still solves {name}"


def exercise(exhibit: Exhibit) -> Iterable[str]:
    """Hints in three steps, parts whose examples run, and mistakes that change the result."""
    found = exhibit.exercise
    if found is None:
        yield "the card has no exercise"
        return
    if len(found.hints) != 3:
        yield f"the card has {len(found.hints)} hints; three are wanted"
    if len(found.mistakes) < 3:
        yield f"the exercise has {len(found.mistakes)} mistakes; three at least are wanted"
    right = load(answer(exhibit)[f"{exhibit.name}.py"].decode(), exhibit.name)
    for part in found.parts:
        if part.example is None and part.name not in {op.name for op in exhibit.operations}:
            yield f"part {part.name} is no operation and has no example"
            continue
        for n in (1, 2, 5):
            try:
                _call(right, exhibit, part.name, n)
            except Exception as error:
                yield f"part {part.name}: its example of size {n} raises {error!r}"
    for mistake in found.mistakes:
        try:
            wrong = load(broken(exhibit, mistake), exhibit.name)
        except (InputError, SyntaxError) as error:
            yield f"{error} (reference.py has changed since? then exercise.py must follow)"
            continue
        names = [op.name for op in exhibit.operations if hasattr(right, op.name)]
        names += [part.name for part in found.parts if part.name not in names]
        if not any(_differ(right, wrong, exhibit, name) for name in names):
            yield f"mistake {mistake.name}: on the examples it changes nothing"


SIZES = (5, 9, 16)  # of the examples on which a mistake must show
DRAWS = 8  # of an operation's options and sizes at each, where the plain examples show nothing


def _differ(right: Any, wrong: Any, exhibit: Exhibit, name: str) -> bool:
    plain: list[tuple[int, dict[str, Any]]] = [(n, {}) for n in SIZES]
    for n, settings in plain + _settings(exhibit, name):
        try:
            expected = _call(right, exhibit, name, n, settings)
        except Exception:
            if settings:
                continue  # values that do not go together
            raise
        try:
            with np.errstate(all="ignore"):
                made = _call(wrong, exhibit, name, n, settings)
            if not same(expected, made):
                return True
        except Exception:
            return True  # a mistake may also crash
    return False


def _operation(exhibit: Exhibit, name: str) -> Operation | None:
    """The operation of that name; None for a helper of the reference."""
    return next((op for op in exhibit.operations if op.name == name), None)


def _settings(exhibit: Exhibit, name: str) -> list[tuple[int, dict[str, Any]]]:
    """Sizes with values drawn from the operation's `vary`: what only some option shows."""
    op = _operation(exhibit, name)
    if op is None or not op.vary:
        return []
    rng = np.random.default_rng(0)
    return [
        (n, {k: pick(values, rng) for k, values in op.vary.items()})
        for n in SIZES
        for _ in range(DRAWS)
    ]


def _call(
    functions: Any, exhibit: Exhibit, name: str, n: int, settings: Mapping[str, Any] | None = None
) -> Any:
    """What a function of a standalone file makes of its example: required outputs alone."""
    op = _operation(exhibit, name)
    if op is None:
        assert exhibit.exercise is not None
        part = next(part for part in exhibit.exercise.parts if part.name == name)
        assert part.example is not None
        return getattr(functions, name)(**part.example(n, np.random.default_rng(n)))
    settings = settings or {}
    kwargs, _ = convert(op, op.prepared(n, **settings) | op.sample(n, **settings), "numpy")
    made = getattr(functions, name)(**kwargs)
    return {a.keyword: made.get(a.keyword) for a in op.results if not a.optional}


def same(a: Any, b: Any) -> bool:
    """Whether two results are equal to rounding; mappings and sequences are entered."""
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    if a is None or isinstance(a, str):
        return bool(a == b)
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape or x.dtype.kind not in "fiub":
        return x.shape == y.shape and bool((x == y).all())
    return bool(np.allclose(x, y, rtol=1e-6, atol=1e-9, equal_nan=True))


def lesson(exhibit: Exhibit) -> Iterable[str]:
    """A lesson with two claims, one with a control. It is not run: `attnlab run lesson NAME` does that."""
    file = lessons_dir() / f"{exhibit.name}.py"
    if not file.is_file():
        yield f"no lessons/{file.name}"
        return
    calls = [
        node
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "claim"
    ]
    if len(calls) < 2:
        yield f"lessons/{file.name} re-creates {len(calls)} of at least 2 claims"
    if not any(keyword.arg == "control" for call in calls for keyword in call.keywords):
        yield f"lessons/{file.name} has no claim with a control that must fail"


def card(exhibit: Exhibit) -> Iterable[str]:
    """The card says what every command needs."""
    for name in ("title", "idea", "family", "attention_map"):
        if not getattr(exhibit, name):
            yield f"{name} is empty"
    if exhibit.idea.startswith("A template:"):
        yield "idea is still the template's; so may be the hints, the mistakes and the lesson"
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
    "exercise": exercise,
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
