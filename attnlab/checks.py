"""The one check of a call against its declaration, for every exhibit and every path.

`convert` goes through five steps, each with an error that names the argument, what was expected
and what came: names, options, kinds of numbers, conditions (`when`) and dimensions, and what the
operation refuses. It returns the keywords as the backend wants them: NumPy arrays, C-contiguous
NumPy arrays (numba), device arrays (cuda) or tensors (torch).
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from attnlab.contract import REQUIRED, Array, Group, InputError, Operation, Option, suggest
from attnlab.expressions import evaluate, names_in


class Call:
    """A checked call as `refuse` predicates and costs see it: arrays, options and sizes by name."""

    def __init__(
        self, arrays: Mapping[str, Any], options: Mapping[str, Any], sizes: Mapping[str, int]
    ):
        self.arrays, self.options, self.sizes = dict(arrays), dict(options), dict(sizes)

    def __getattr__(self, name: str) -> Any:
        for table in (self.__dict__["arrays"], self.__dict__["options"], self.__dict__["sizes"]):
            if name in table:
                value = table[name]  # device arrays are read on the host
                return value.copy_to_host() if hasattr(value, "copy_to_host") else value
        raise AttributeError(name)


def convert(op: Operation, kwargs: Mapping[str, Any], backend: str) -> tuple[dict[str, Any], bool]:
    """(keywords for the path, whether the caller's arrays live on the host). Raises InputError."""
    call = check(op, kwargs, backend)
    host = not any(_on_device(v) for v in _leaves(call.arrays))
    prepare: Callable[[Any], Any] = {
        "numpy": lambda v: v,
        "numba": lambda v: np.ascontiguousarray(v) if v.ndim else v,
        "cuda": _to_device,
        "torch": _to_tensor,
    }[backend]
    text = {
        spec.keyword for spec in op.arguments if isinstance(spec, Array) and spec.dtype == "text"
    }
    arrays = {k: v if k in text else _map(prepare, v) for k, v in call.arrays.items()}
    return arrays | call.options, host


def check(op: Operation, kwargs: Mapping[str, Any], backend: str = "numpy") -> Call:
    """The call, arrays as NumPy (tensors where backend="torch"). Raises InputError.

    Sizes are found by unifying the dimension names of all arrays; an argument left out is None.
    """
    specs = {spec.keyword: spec for spec in op.arguments}
    known = [*specs, *(o.name for o in op.options)]
    for name in kwargs:
        if name not in known:
            raise InputError(
                f"{op.name} takes no argument {name!r}{suggest(name, known)} (it takes {', '.join(known)})"
            )

    options = {o.name: check_option(o, kwargs.get(o.name, o.default)) for o in op.options}
    given = {k: kwargs[k] for k in specs if kwargs.get(k) is not None}
    _check_presence(op, specs, given, options)

    floats: dict[str, str] = {}
    arrays = {k: _kind(specs[k], v, backend, floats) for k, v in given.items()}
    if len(set(floats.values())) > 1:
        raise InputError(
            "float arrays must share one dtype, but "
            + ", ".join(f"{k} is {v}" for k, v in floats.items())
        )

    sizes = unify(
        (
            (label, shape, leaf)
            for k, v in arrays.items()
            for label, shape, leaf in leaf_shapes(specs[k], k, v)
        ),
        {k: v for k, v in options.items() if isinstance(v, int) and not isinstance(v, bool)},
    )
    for name, size in sizes.items():
        if size == 0 and name not in op.empty and name not in options:
            raise InputError(
                f"{_first_with(name, specs, arrays)}: dimension {name} must be at least 1, but is 0"
            )

    call = Call({k: arrays.get(k) for k in specs}, options, sizes)
    for predicate, message in op.refuse:
        if bool(why := predicate(call)):
            raise InputError(message.format(**call.sizes | call.options | {"why": why}))
    return call


def _first_with(dimension: str, specs: Mapping[str, Any], arrays: Mapping[str, Any]) -> str:
    """The first array with that dimension, as a refusal names it."""
    shapes = (row for k, v in arrays.items() for row in leaf_shapes(specs[k], k, v))
    for label, text, _ in shapes:
        if any(dimension in names_in(token) for token in text.replace("|", " ").split()):
            return label
    return "arrays"


def check_option(option: Option, value: Any) -> Any:
    """The option's value in its declared type. Raises InputError."""
    name = option.name
    if value is REQUIRED:
        raise InputError(f"option {name} is required")
    if value is None:
        if option.default is None or None in (option.choices or ()):
            return None
        raise InputError(f"option {name} must be {_type_name(option.type)}, but is None")
    value = _typed(option, value.item() if isinstance(value, np.generic) else value)
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, float) and not math.isfinite(each):
            raise InputError(f"option {name} must be finite, but is {each}")
        if option.minimum is not None and each < option.minimum:
            raise InputError(f"option {name} must be at least {option.minimum}, but is {each}")
        if option.maximum is not None and each > option.maximum:
            raise InputError(f"option {name} must be at most {option.maximum}, but is {each}")
        if option.above is not None and each <= option.above:
            raise InputError(f"option {name} must be above {option.above}, but is {each}")
    if option.choices is not None and value not in option.choices:
        choices = ", ".join(map(repr, option.choices))
        raise InputError(
            f"option {name} must be one of {choices}, but is {value!r}"
            + suggest(str(value), map(str, option.choices))
        )
    return value


def _typed(option: Option, value: Any) -> Any:
    want = option.type
    if isinstance(value, tuple | np.ndarray):
        value = list(np.asarray(value).tolist())
    if want is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if want in (bool, str, float, dict) and isinstance(value, want):
        return value
    if want is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    item = getattr(want, "__args__", (None,))[0]
    if item is not None and isinstance(value, list):
        inner = Option(option.name, item)
        return [_typed(inner, v) for v in value]
    raise InputError(f"option {option.name} must be {_type_name(want)}, but is {value!r}")


def _type_name(want: Any) -> str:
    return want.__name__ if isinstance(want, type) and not hasattr(want, "__args__") else str(want)


def _check_presence(
    op: Operation, specs: Mapping[str, Any], given: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    present: dict[str, Any] = {k: k in given for k in specs} | dict(options)
    for name, spec in specs.items():
        wanted = evaluate(spec.when, present) if spec.when else True
        if name in given and not wanted:
            raise InputError(f"{name} is not taken here: it needs {spec.when}")
        if name not in given and wanted and not spec.optional:
            why = f" (because {spec.when})" if spec.when else ""
            raise InputError(f"{op.name} needs the array {name}{why}")


def _kind(
    spec: Array | Group, value: Any, backend: str, floats: dict[str, str], label: str = ""
) -> Any:
    """The value with its leaves as arrays of the declared kind; float dtypes noted in `floats`."""
    label = label or spec.keyword
    if isinstance(spec, Group):
        if spec.family and isinstance(value, list | tuple):
            return [_kind(spec, v, backend, floats, f"{label}[{i}]") for i, v in enumerate(value)]
        if not isinstance(value, Mapping):
            raise InputError(f"{label} must be a mapping of arrays, but is {type(value).__name__}")
        inner = {a.name: a for a in spec.arrays}
        for name in value:
            if name not in inner:
                raise InputError(f"{label} has no array {name!r}{suggest(name, inner)}")
        missing = [a.name for a in spec.arrays if a.name not in value and not a.optional]
        if missing:
            raise InputError(f"{label} needs the array {missing[0]}")
        return {k: _kind(inner[k], v, backend, floats, f"{label}[{k!r}]") for k, v in value.items()}
    if spec.family:
        if spec.each and isinstance(value, Mapping):
            return {i: _leaf(spec, v, backend, floats, f"{label}[{i}]") for i, v in value.items()}
        if not isinstance(value, list | tuple):
            raise InputError(f"{label} must be a list of arrays, but is {type(value).__name__}")
        return [_leaf(spec, v, backend, floats, f"{label}[{i}]") for i, v in enumerate(value)]
    return _leaf(spec, value, backend, floats, label)


def _leaf(spec: Array, value: Any, backend: str, floats: dict[str, str], label: str) -> Any:
    if spec.dtype == "text":
        array = np.asarray(value)
        if array.dtype.kind not in "UT" and array.size:
            raise InputError(f"{label} must be text, but is {array.dtype}")
        return array
    tensor = is_tensor(value)
    if not tensor and not isinstance(value, np.ndarray):
        if not _on_device(value):
            value = np.asarray(value, dtype=np.float64 if spec.dtype == "float" else None)
        elif backend in ("numpy", "numba"):
            value = value.copy_to_host()
    if tensor and backend != "torch" and not (backend == "cuda" and value.is_cuda):
        value = value.detach().cpu().numpy()
        tensor = False
    dtype = _dtype_name(value.dtype)
    integer = dtype.startswith(("int", "uint"))
    if spec.dtype == "float":
        allowed = (
            ("float32", "float64", "float16", "bfloat16") if tensor else ("float32", "float64")
        )
        if dtype not in allowed:
            raise InputError(f"{label} must be float32 or float64, but is {dtype}")
        floats[label] = dtype
        if spec.finite and not _finite(value):
            raise InputError(f"{label} must be finite, but holds NaN or infinity")
    elif spec.dtype == "int":
        if not integer:
            raise InputError(f"{label} must be integers, but is {dtype}")
        value = value.long() if tensor else _integers(value)
    elif spec.dtype == "bool" and dtype != "bool":
        raise InputError(f"{label} must be bool, but is {dtype}")
    elif spec.dtype == "flag" and dtype != "bool":
        if bool(((value != 0) & (value != 1)).any()):
            raise InputError(f"{label} must hold only 0 and 1 (or be bool)")
        value = value != 0
    return value


@functools.cache  # NumPy spells the name anew at every call, which short calls would feel
def _dtype_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _integers(value: Any) -> Any:
    return value.astype(np.int64, copy=False) if isinstance(value, np.ndarray) else value


def _finite(value: Any) -> bool:
    # One pass at memory speed: a sum is finite unless an element is not (or it overflows).
    if _on_device(value) and not is_tensor(value):
        value = value.copy_to_host()
    total = value.detach().sum().item() if is_tensor(value) else value.sum()
    if math.isfinite(total):
        return True
    return bool(value.isfinite().all()) if is_tensor(value) else bool(np.isfinite(value).all())


def leaf_shapes(spec: Array | Group, label: str, value: Any) -> Iterator[tuple[str, str, Any]]:
    """(label, shape text, leaf) of every leaf; a family's placeholder becomes the index."""
    if isinstance(spec, Group):
        if isinstance(value, list):
            for i, v in enumerate(value):
                yield from leaf_shapes(spec, f"{label}[{i}]", v)
        else:
            inner = {a.name: a for a in spec.arrays}
            for name, v in value.items():
                yield from leaf_shapes(inner[name], f"{label}[{name!r}]", v)
    elif spec.family:
        placeholder = spec.name[spec.name.index("{") : spec.name.index("}") + 1]
        members = value.items() if isinstance(value, Mapping) else enumerate(value)
        for i, v in members:
            yield f"{label}[{i}]", spec.shape.replace(placeholder, str(i)), v
    else:
        yield label, spec.shape, value


def unify(leaves: Iterator[tuple[str, str, Any]], known: Mapping[str, int]) -> dict[str, int]:
    """Sizes of all dimension names over (label, shape text, array) triples.

    Plain names bind first; an expression with one unknown left is solved for it (it is affine:
    `3*heads*dim`); what remains is compared. Raises InputError naming array and dimension.
    """
    sizes, origin = dict(known), {k: f"option {k}" for k in known}
    later: list[tuple[str, str, str, int]] = []

    def bind(name: str, size: int, label: str, text: str, shape: tuple[int, ...]) -> None:
        if name not in sizes:
            sizes[name], origin[name] = size, label
        elif sizes[name] != size:
            raise InputError(
                f"{label}: dimension {name} is {size}, but {origin[name]} has {name} = {sizes[name]} "
                f"({label} has shape {shape}, expected ({', '.join(text.split())}))"
            )

    for label, text, value in leaves:
        shape = tuple(int(s) for s in value.shape)
        text = _alternative(label, text, shape, sizes)
        for token, size in zip(text.split(), shape):
            if token == "_":
                continue
            if token.isidentifier():
                bind(token, size, label, text, shape)
            else:
                later.append((label, text, token, size))
    while later:
        open_ = [row for row in later if len(names_in(row[2]) - set(sizes)) > 1]
        for label, text, token, size in (row for row in later if row not in open_):
            unknown = names_in(token) - set(sizes)
            if unknown:
                (name,) = unknown
                solved = _solve(token, name, sizes, size)
                if solved is None:
                    raise InputError(
                        f"{label}: dimension {token} is {size}, which no whole {name} gives (expected ({text}))"
                    )
                sizes[name], origin[name] = solved, label
            elif (expected := int(evaluate(token, sizes))) != size:
                raise InputError(
                    f"{label}: dimension {token} is {size}, but must be {expected} (expected ({', '.join(text.split())}))"
                )
        if len(open_) == len(later):
            raise InputError(f"{open_[0][0]}: dimension {open_[0][2]} cannot be worked out")
        later = open_
    return sizes


def _alternative(label: str, text: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> str:
    """The alternative of `a | b` that fits by rank, and by known sizes where ranks tie."""
    choices = [c for c in text.split(" | ") if len(c.split()) == len(shape)]
    if not choices:
        expected = " or ".join(f"({', '.join(c.split())})" for c in text.split(" | "))
        raise InputError(f"{label} must have shape {expected}, but has shape {shape}")
    fits = [c for c in choices if all(sizes.get(t, s) == s for t, s in zip(c.split(), shape))]
    return (fits or choices)[0]


def _solve(token: str, name: str, sizes: Mapping[str, int], size: int) -> int | None:
    at0, at1 = (evaluate(token, {**sizes, name: x}) for x in (0, 1))
    if at1 == at0:
        return None
    x, rest = divmod(size - at0, at1 - at0)
    return (
        int(x)
        if rest == 0 and x >= 0 and evaluate(token, {**sizes, name: int(x)}) == size
        else None
    )


def is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _on_device(value: Any) -> bool:
    if is_tensor(value):
        return bool(value.is_cuda)
    return hasattr(value, "copy_to_host")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for v in value.values():
            yield from _leaves(v)
    elif isinstance(value, list):
        for v in value:
            yield from _leaves(v)
    elif value is not None:
        yield value


def _map(fn: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _map(fn, v) for k, v in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [_map(fn, v) for v in value]
    return None if value is None else fn(value)


def _to_tensor(value: Any) -> Any:
    import torch

    if is_tensor(value):
        return value
    if _on_device(value):
        return torch.as_tensor(value, device="cuda")
    return torch.from_numpy(np.ascontiguousarray(value) if value.ndim else value.copy())


def _to_device(value: Any) -> Any:
    from numba import cuda

    if _on_device(value):
        if is_tensor(value):
            return cuda.as_cuda_array(value.detach().contiguous())
        if _gapless(value):
            return value
        # kernels reshape, which Numba does to arrays without gaps only
        value = value.copy_to_host()
    return cuda.to_device(np.ascontiguousarray(value).reshape(value.shape))


def _gapless(array: Any) -> bool:
    """Whether the elements lie in memory as in a new array."""
    step = array.dtype.itemsize
    for size, stride in zip(reversed(array.shape), reversed(array.strides), strict=True):
        if size != 1 and stride != step:
            return array.size == 0
        step *= size
    return True


def restore(value: Any, backend: str, host: bool) -> Any:
    """Outputs where the caller's arrays were: device arrays come home if the inputs did."""
    if backend == "cuda" and host:
        return _map(
            lambda v: v.copy_to_host() if hasattr(v, "copy_to_host") else np.asarray(v), value
        )
    if backend in ("numpy", "numba"):
        return _map(lambda v: v if isinstance(v, np.ndarray) else np.asarray(v), value)
    return value
