"""What every exhibit declares, and how one of its operations is called.

An `Exhibit` holds one paper and one or more `Operation`s; an operation is a function of named
arrays and options to named arrays. Weights are arrays too: there is no hidden state. Four files
beside the card implement the operations (`reference.py`, `cpu.py`, `cuda.py`, `torch.py`); each
of their functions carries the decorator `EXHIBIT.path`, which checks the arguments against the
declaration and names the results, so that no path ever sees bad input.

    EXHIBIT = Exhibit(
        name="landmark", title="Landmark attention", family="sparse",
        paper=Paper(...), idea="...", operations=(
            Operation(
                "attend",
                inputs=(Array("q", "batch heads n dim"), Array("is_landmark", "batch n", dtype="bool")),
                options=(Option("scale", float, None, "score scale; None is 1/sqrt(dim)"),),
                outputs=(Array("out", "batch heads n dim"),
                         Array("weights", "batch heads n n", optional=True)),
                ...),))

FAQ
- *Dimensions* are names, integers, arithmetic over sizes and integer options (`2*heads`), `_`
  where the size depends on the data, and ` | ` between alternative shapes (`heads m dim | m dim`).
- *when* is a condition over options and the presence of other arrays (`"top_k > 0"`, `"x_next"`):
  where it is true the array is required, where it is false the array is refused.
- *Names that repeat* are families: `Array("x{i}", "1 t{i} c")` is one keyword `x`, a list.
- *want* names the optional outputs a caller would like; the others are None.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

Backend = Literal["numpy", "numba", "cuda", "torch"]
BACKENDS: tuple[Backend, ...] = ("numpy", "numba", "cuda", "torch")
FILES: dict[str, str] = {"numpy": "reference", "numba": "cpu", "cuda": "cuda", "torch": "torch"}
FAMILIES = (
    "dense",
    "editing",
    "sparse",
    "linear",
    "mixer",
    "ranking",
    "training",
    "explanation",
    "llm",
)

REQUIRED: Any = type("REQUIRED", (), {"__repr__": lambda self: "required"})()


class InputError(ValueError):
    """An argument does not fit the declaration; the message names it, what was expected, what came."""


class BackendUnavailable(RuntimeError):
    """The backend that was asked for cannot run here; the message says why."""


@dataclass(frozen=True)
class Paper:
    """Where a mechanism was published. `code` is owner/repository@commit of the authors' code."""

    title: str
    authors: tuple[str, ...]
    year: int
    venue: str = ""
    arxiv: str = ""
    code: str = ""

    @property
    def citation(self) -> str:
        first, more = (*self.authors, "author not yet named")[0], len(self.authors) > 1
        who = f"{first} et al." if more else first
        where = self.venue or (f"arXiv {self.arxiv}" if self.arxiv else "")
        return f"{who} ({self.year}), {self.title}" + (f", {where}" if where else "")

    def bibtex(self, key: str) -> str:
        rows = {
            "title": f"{{{self.title}}}",
            "author": " and ".join(self.authors),
            "year": str(self.year),
        }
        if self.venue:
            rows["booktitle"] = self.venue
        if self.arxiv:
            rows |= {"eprint": self.arxiv, "archivePrefix": "arXiv"}
        body = ",\n".join(f"  {k:13} = {{{v}}}" for k, v in rows.items())
        return f"@{'inproceedings' if self.venue else 'misc'}{{{key},\n{body}\n}}"


@dataclass(frozen=True)
class Array:
    """One named array: shape in named dimensions, kind of numbers, and when it is there.

    dtype is "float" (float32 or float64, one kind throughout a call), "int", "bool", "flag"
    (bool or 0/1 integers) or "text". `finite` refuses NaN and infinity. `weight` marks a
    parameter: what `Operation.module` owns. `each` names the option whose values replace the
    placeholder of a family's name (`ndcg_{k}`). `paths` are those that compute an output, where
    not all of the operation's do: it is None on the others. `ranks` is what the rows of an array
    of indices were ordered by, from the call's arrays and those rows: test vectors that compare
    by "ties" leave the order free among equals.
    """

    name: str
    shape: str = ""
    dtype: Literal["float", "int", "bool", "flag", "text"] = "float"
    optional: bool = False
    weight: bool = False
    when: str = ""
    finite: bool = False
    each: str = ""
    about: str = ""
    paths: frozenset[str] = frozenset(BACKENDS)
    ranks: Callable[[Mapping[str, Any], Any], Any] | None = None

    @property
    def keyword(self) -> str:
        """The Python keyword: a family's name without its placeholder."""
        return self.name.split("{")[0].strip("_.") if "{" in self.name else self.name

    @property
    def family(self) -> bool:
        return "{" in self.name


@dataclass(frozen=True)
class Group:
    """Weights of another operation under one keyword: `Group("layers_{i}_", arrays)` is a list of
    mappings from the arrays' names, `Group("query.", arrays)` one mapping."""

    name: str
    arrays: tuple[Array, ...]
    optional: bool = False
    when: str = ""
    weight: bool = True

    @property
    def keyword(self) -> str:
        return self.name.split("{")[0].strip("_.")

    @property
    def family(self) -> bool:
        return "{" in self.name


@dataclass(frozen=True)
class Option:
    """One keyword that is no array. `type` is int, float, bool, str, list[int] or list[dict] (a
    network's layers); a default of None also allows None; REQUIRED has no default."""

    name: str
    type: Any
    default: Any = REQUIRED
    about: str = ""
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    choices: tuple[Any, ...] | None = None


@dataclass(frozen=True)
class Cost:
    """How work grows. `flops`, `bytes` and `blas` are functions of the call's sizes and options.

    flops counts one multiply-add as two and a causal mask once (half the square); bytes is the
    least traffic (inputs and outputs once, unless the algorithm must re-read); blas is the share
    of the operations that are matrix products. Below `holds_from` no exponent is claimed (an exact
    branch for short inputs, say).
    """

    time: str
    exponent: float
    flops: Callable[[SimpleNamespace], float] | None = None
    bytes: Callable[[SimpleNamespace], float] | None = None
    blas: Callable[[SimpleNamespace], float] | float = 0.0
    grows: str = "tokens"
    size: str = "n"
    memory: str = ""
    memory_exponent: float | None = None
    holds_from: int = 0
    note: str = ""


@dataclass(frozen=True)
class Part:
    """A smaller function on the way to an exercise, graded by itself: one of reference.py's.

    example(n, rng) makes its keyword arguments at size n; None where the function is an operation
    of the exhibit, which brings its own example.
    """

    name: str
    about: str = ""
    example: Callable[[int, np.random.Generator], dict[str, Any]] | None = None


@dataclass(frozen=True)
class Mistake:
    """A common mistake that the sheet names, planted in reference.py: `old` (which occurs there
    exactly once) becomes `new`. Students whose output equals the broken one's are told `says`;
    graders must take points off it."""

    name: str
    old: str
    new: str
    says: str


@dataclass(frozen=True)
class Exercise:
    """What the course adds to an exhibit: difficulty 1-5, expected minutes, hints in three steps.

    The headline operation is asked for, with its `parts` on the way. `questions` have no grade.
    `exponent` replaces the card's where the plain reference grows faster than the paper's
    algorithm; None where cost cannot be graded at a classroom's sizes is said in `no_cost`.
    """

    difficulty: int
    minutes: int
    hints: tuple[str, ...]
    prerequisites: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    questions: tuple[str, ...] = ()
    exponent: float | None = None
    no_cost: str = ""


@dataclass(frozen=True, eq=False)
class Operation:
    """A function of named arrays and options to named arrays, with all that tests, `bench` and the
    command line need to know of it. See the module's example.

    example(n, rng, **sizes) makes inputs (and options, where they matter) of size n in float64;
    its keyword defaults are the small sizes of the tests, `bench_sizes` those of `bench`.
    `vary` lists values of sizes and options that the contract tests draw from. `causal` names
    the dimensions of time, the outputs' first ("n keys"): no output may look ahead along them
    (with an option "causal": when that is on). `batch` names the dimension whose elements must not see each other. `prepare` names the
    operation whose outputs supply inputs that the example leaves out (an index, a cache).
    `state` arrays are taken as inputs and returned, updated, as outputs.
    `refuse` pairs a predicate over the call with the message that refuses it; the message may name
    sizes, options and `{why}`, what the predicate returned.
    """

    name: str
    inputs: tuple[Array | Group, ...]
    outputs: tuple[Array | Group, ...]
    example: Callable[..., dict[str, Any]]
    options: tuple[Option, ...] = ()
    about: str = ""
    equations: tuple[str, ...] = ()
    headline: bool = False
    paths: frozenset[str] = frozenset(BACKENDS)
    cost: Cost | None = None
    gradient: tuple[str, ...] = ()
    no_gradient: str = ""
    causal: str = ""
    batch: str = "batch"
    empty: tuple[str, ...] = ()
    refuse: tuple[tuple[Callable[[Any], Any], str], ...] = ()
    exempt: Mapping[str, str] = field(default_factory=dict)
    vary: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    bench_sizes: Mapping[str, Any] = field(default_factory=dict)
    tolerance: tuple[float, float] = (2e-5, 2e-5)  # rtol, atol of float32 paths
    prepare: str = ""
    state: tuple[Array, ...] = ()
    exhibit: Any = field(
        default=None, repr=False, compare=False
    )  # set by the Exhibit that holds it

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", frozenset(self.paths))

    @functools.cached_property
    def arguments(self) -> tuple[Array | Group, ...]:
        """Every declared input, state included."""
        return (*self.inputs, *self.state)

    @functools.cached_property
    def results(self) -> tuple[Array | Group, ...]:
        """Every declared output, state included."""
        return (*self.outputs, *self.state)

    @functools.cached_property
    def Result(self) -> Any:
        """The named tuple that every path returns, outputs in declared order."""
        title = "".join(part.title() for part in self.name.split("_"))
        return namedtuple(title, [a.keyword for a in self.results])

    @functools.cached_property
    def sizes(self) -> dict[str, Any]:
        """The example's sizes and their small defaults."""
        parameters = list(inspect.signature(self.example).parameters.values())[2:]
        return {p.name: p.default for p in parameters}

    def option(self, name: str) -> Option | None:
        return next((o for o in self.options if o.name == name), None)

    def results_on(self, backend: str) -> tuple[Array | Group, ...]:
        """The outputs that a path computes."""
        return tuple(a for a in self.results if isinstance(a, Group) or backend in a.paths)

    def sample(self, n: int, seed: int = 0, dtype: str = "float64", **sizes: Any) -> dict[str, Any]:
        """Keyword arguments of size n: the example, floats in `dtype`, options among `sizes` set.

        Raises InputError for a name that is neither a size nor an option of this operation.
        """
        options = {k: v for k, v in sizes.items() if k not in self.sizes}
        for name in options:
            if self.option(name) is None:
                known = sorted({*self.sizes, *(o.name for o in self.options)})
                raise InputError(
                    f"{self.name} has no size or option {name!r}; it has {', '.join(known)}"
                )
        drawn = self.example(
            n, np.random.default_rng(seed), **{k: v for k, v in sizes.items() if k in self.sizes}
        )
        return as_dtype(drawn | options, dtype)

    def prepared(
        self, n: int, seed: int = 0, dtype: str = "float64", backend: str = "numpy", **sizes: Any
    ) -> dict[str, Any]:
        """What the preparing operation supplies for size n, made on `backend` where it has that
        path; nothing where no operation prepares. A whole call is `prepared(…) | sample(…)`.
        """
        if not self.prepare:
            return {}
        builder = self.exhibit.operation(self.prepare)
        shared = {k: v for k, v in sizes.items() if k in builder.sizes or builder.option(k)}
        path = backend if backend in builder.paths else "numpy"
        given = builder.sample(n, seed, dtype, **shared)
        made = self.exhibit.run(builder.name, backend=path, want="all", **given)._asdict()
        return {
            a.keyword: made[a.keyword] for a in self.arguments if made.get(a.keyword) is not None
        }

    def module(self, **sizes: Any) -> Any:
        """A torch `nn.Module` that owns the arrays marked as weights (see `attnlab.module`)."""
        from attnlab.module import OperationModule

        return OperationModule(self, sizes)


def as_dtype(value: Any, dtype: str) -> Any:
    """`value` with every floating-point array in it as `dtype`; lists and mappings are entered."""
    if isinstance(value, Mapping):
        return {k: as_dtype(v, dtype) for k, v in value.items()}
    if isinstance(value, list) and any(isinstance(v, np.ndarray | Mapping | list) for v in value):
        return [as_dtype(v, dtype) for v in value]
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value.astype(dtype, copy=False)
    return value


@dataclass(frozen=True, eq=False)
class Exhibit:
    """One paper: its card, its operations, and the way to run them on any backend.

    attention_map says what may be read as this mechanism's attention map, whether its rows sum to
    1, and which output holds it; "none: …" where there is no such thing.
    """

    name: str
    title: str
    family: str
    paper: Paper
    idea: str
    operations: tuple[Operation, ...]
    package: str
    exercise: Exercise | None = None
    notes: tuple[str, ...] = ()
    attention_map: str = ""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(
                f"{self.name}: family {self.family!r} is none of {', '.join(FAMILIES)}"
            )
        for op in self.operations:
            object.__setattr__(op, "exhibit", self)

    @property
    def headline(self) -> Operation:
        return next((op for op in self.operations if op.headline), self.operations[0])

    def operation(self, name: str | None = None) -> Operation:
        """The operation called `name`; the headline for None. Raises InputError with a suggestion."""
        if name is None:
            return self.headline
        for op in self.operations:
            if op.name == name:
                return op
        names = [op.name for op in self.operations]
        raise InputError(
            f"{self.name} has no operation {name!r}{suggest(name, names)} (it has {', '.join(names)})"
        )

    @property
    def backends(self) -> tuple[Backend, ...]:
        return tuple(b for b in BACKENDS if any(b in op.paths for op in self.operations))

    def function(self, operation: str | None, backend: str) -> Callable[..., Any]:
        """The path's function. Raises InputError where the path is not offered, BackendUnavailable
        where this machine cannot run it."""
        op = self.operation(operation)
        if backend not in BACKENDS:
            raise InputError(
                f"backend {backend!r} is none of {', '.join(BACKENDS)}" + suggest(backend, BACKENDS)
            )
        if backend not in op.paths:
            have = ", ".join(b for b in BACKENDS if b in op.paths)
            raise InputError(f"{self.name}.{op.name} has no {backend} path; it has {have}")
        if backend == "cuda":
            from attnlab import hardware

            if why := hardware.reason():
                raise BackendUnavailable(f"backend cuda: {why}")
        return getattr(importlib.import_module(f"{self.package}.{FILES[backend]}"), op.name)

    def run(
        self,
        operation: str | None = None,
        *,
        backend: str = "numpy",
        want: Iterable[str] = (),
        **inputs: Any,
    ) -> Any:
        """Run an operation on one backend, which runs or fails: there is no silent fallback.

        Arrays may be NumPy arrays or torch tensors; what comes back is NumPy, or tensors with
        backend="torch". `want` names optional outputs ("all" for every one).
        """
        return self.function(operation, backend)(want=want, **inputs)

    def path(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator of a path's function: checks the call, converts arrays, names the results.

        The function's name is the operation's and its file says the backend. It takes the
        declared keywords (None for what is absent; `want`, a frozenset, if it declares it) and
        returns a mapping of outputs by keyword.
        """
        from attnlab.checks import convert, restore

        op = self.operation(fn.__name__)
        backend = {v: k for k, v in FILES.items()}[fn.__module__.rsplit(".", 1)[-1]]
        takes_want = "want" in inspect.signature(fn).parameters

        @functools.wraps(fn)
        def call(*args: Any, want: Iterable[str] = (), **kwargs: Any) -> Any:
            kwargs |= dict(zip((a.keyword for a in op.arguments), args, strict=False))
            wanted = wanted_outputs(op, want, backend)
            checked, host = convert(op, kwargs, backend)
            made = fn(**checked, **({"want": wanted} if takes_want else {}))
            return _named(op, made, wanted, lambda value: restore(value, backend, host))

        call.backend = backend  # type: ignore[attr-defined]
        return call


def wanted_outputs(op: Operation, want: Iterable[str], backend: str = "numpy") -> frozenset[str]:
    """The optional outputs asked for; "all" is every one that the path computes. Raises InputError
    for names that are unknown, or not computed there."""
    known = {a.keyword for a in op.results}
    here = {a.keyword for a in op.results_on(backend)}
    wanted = here if want == "all" else set(want)
    for name in wanted - known:
        raise InputError(f"{op.name} has no output {name!r}" + suggest(name, known))
    for name in wanted - here:
        raise InputError(f"{op.name} does not compute {name} on the {backend} path")
    return frozenset(wanted)


def _named(
    op: Operation, made: Mapping[str, Any], wanted: frozenset[str], restore: Callable[[Any], Any]
) -> Any:
    unknown = set(made) - {a.keyword for a in op.results}
    if unknown:
        raise TypeError(f"{op.name} returned undeclared outputs {sorted(unknown)}")
    values = []
    for spec in op.results:
        value = made.get(spec.keyword)
        if value is None and not (spec.optional or spec.when):
            raise TypeError(f"{op.name} did not return {spec.keyword}")
        keep = value is not None and (not spec.optional or spec.keyword in wanted)
        values.append(restore(value) if keep else None)
    return op.Result(*values)


def suggest(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?` or nothing."""
    import difflib

    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""
