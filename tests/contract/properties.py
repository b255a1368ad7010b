"""The properties that every operation must have, written once over the registry.

Each is a function (operation, backend) that raises AssertionError; an operation leaves one out
only with a written reason (`Operation.exempt`), and exemptions are counted in the summary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from attnlab.checks import leaf_shapes, unify
from attnlab.contract import Array, InputError, Operation, as_dtype
from attnlab.course.properties import perturbed
from attnlab.course.trees import tokens
from attnlab.flat import flatten, numpy_outputs

N = 9  # an awkward small size: odd, no multiple of any tile


def arguments(
    op: Operation, n: int = N, seed: int = 0, dtype: str = "float64", **sizes: Any
) -> dict[str, Any]:
    """A sample, with what the preparing operation supplies filled in."""
    return op.prepared(n, seed, dtype, **sizes) | op.sample(n, seed, dtype, **sizes)


def outputs(
    op: Operation, backend: str, kwargs: dict[str, Any], want: Any = "all"
) -> dict[str, np.ndarray]:
    """Flat outputs as NumPy."""
    return numpy_outputs(op.results, op.exhibit.run(op.name, backend=backend, want=want, **kwargs))


def reference(op: Operation, backend: str, kwargs: dict[str, Any]) -> dict[str, np.ndarray]:
    """The reference's outputs that the path computes, too."""
    return outputs(op, "numpy", kwargs, {a.keyword for a in op.results_on(backend)})


def close(made: dict[str, Any], expected: dict[str, Any], rtol: float, atol: float) -> None:
    assert made.keys() == expected.keys(), f"outputs {sorted(made)} instead of {sorted(expected)}"
    for name, want in expected.items():
        if want.dtype.kind in "fc":
            np.testing.assert_allclose(made[name], want, rtol, atol, err_msg=name)
        else:
            np.testing.assert_array_equal(made[name], want, err_msg=name)


def agreement(op: Operation, backend: str, n: int = N, seed: int = 0, **sizes: Any) -> None:
    """In float64 every path equals the reference."""
    kwargs = arguments(op, n, seed, **sizes)
    close(outputs(op, backend, kwargs), reference(op, backend, kwargs), 1e-9, 1e-9)


def float32(op: Operation, backend: str) -> None:
    """In float32 every path is within the operation's tolerance of the float64 reference."""
    kwargs = arguments(op, 33, seed=1, dtype="float32")
    rtol, atol = op.tolerance
    made = outputs(op, backend, kwargs)
    close(made, reference(op, backend, as_dtype(kwargs, "float64")), rtol, atol)
    floats = {k: v.dtype for k, v in made.items() if v.dtype.kind == "f"}
    has_floats = any(v.dtype.kind == "f" for v in _arrays(kwargs))
    assert not has_floats or all(d == np.float32 for d in floats.values()), f"outputs are {floats}"


def causality(op: Operation, backend: str) -> None:
    """Changing the future changes no earlier output."""
    on = {"causal": True} if op.option("causal") else {}
    kwargs = arguments(op, **on)
    time, cut = op.causal.split(), N // 2
    before = outputs(op, backend, kwargs)
    after = outputs(op, backend, _moved(op, kwargs, time, slice(cut, None), **on))
    seen = 0
    for name, spec in _declared(op, before):
        axes = [i for i, token in enumerate(tokens(spec.shape, before[name])) if token == time[0]]
        if axes:
            past = (slice(None),) * axes[0] + (slice(0, cut),)
            np.testing.assert_allclose(
                after[name][past], before[name][past], 1e-12, 1e-12, err_msg=name
            )
            seen += 1
    assert seen, f"{op.name}: no output has the dimension {time[0]}"


def batch(op: Operation, backend: str) -> None:
    """Changing one batch element changes no other."""
    kwargs = arguments(op)
    before = outputs(op, backend, kwargs)
    after = outputs(op, backend, _moved(op, kwargs, [op.batch], slice(0, 1)))
    seen = 0
    for name, spec in _declared(op, before):
        axes = [i for i, token in enumerate(tokens(spec.shape, before[name])) if token == op.batch]
        if axes:
            others = (slice(None),) * axes[0] + (slice(1, None),)
            # an axis whose size depends on the data is padded to the longest element
            free = tokens(spec.shape, before[name])
            both = tuple(
                slice(min(x, y) if token == "_" else None)
                for token, x, y in zip(free, before[name].shape, after[name].shape)
            )
            np.testing.assert_array_equal(
                after[name][both][others], before[name][both][others], err_msg=name
            )
            seen += before[name][others].size
    assert seen, f"{op.name}: the example has no second batch element"


def determinism(op: Operation, backend: str) -> None:
    """Two runs give the same bits."""
    kwargs = arguments(op)
    first, second = outputs(op, backend, kwargs), outputs(op, backend, kwargs)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def untouched(op: Operation, backend: str) -> None:
    """Inputs are never written to, and outputs are no views of them."""
    kwargs = arguments(op)
    copies = [a.copy() for a in _arrays(kwargs)]
    result = op.exhibit.run(op.name, backend=backend, want="all", **kwargs)
    for value in flatten(op.results, result._asdict()).values():
        value = value.detach().numpy() if hasattr(value, "detach") else value
        if value.flags.writeable and value.dtype.kind in "fiub":
            value[...] = 0
    for array, copy in zip(_arrays(kwargs), copies):
        np.testing.assert_array_equal(array, copy)


def strided(op: Operation, backend: str) -> None:
    """Views with gaps and reversed strides work like their contiguous copies."""
    kwargs = arguments(op)
    gappy = _map(lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a, kwargs)
    close(outputs(op, backend, gappy), outputs(op, backend, kwargs), 1e-12, 1e-12)


def single(op: Operation, backend: str) -> None:
    """n = 1 works."""
    agreement(op, backend, n=1)


def want_nothing(op: Operation, backend: str) -> None:
    """Optional outputs that nobody wants are None; the others stay the same."""
    kwargs = arguments(op)
    bare = outputs(op, backend, kwargs, want=())
    assert not set(bare) & {a.name for a in op.results if a.optional}
    full = outputs(op, backend, kwargs)
    close(bare, {k: full[k] for k in bare}, 1e-9, 1e-9)


def shapes(op: Operation, backend: str) -> None:
    """Outputs have the declared shapes."""
    kwargs = arguments(op)
    result = op.exhibit.run(op.name, backend=backend, want="all", **kwargs)._asdict()
    options = {o.name: kwargs.get(o.name, o.default) for o in op.options}
    leaves: list[Any] = []
    for table, specs in ((kwargs, op.arguments), (result, op.results)):
        for spec in specs:
            if table.get(spec.keyword) is not None:
                value = table[spec.keyword]
                value = value if isinstance(value, list | dict) else _numpy(value)
                leaves += leaf_shapes(spec, spec.keyword, value)
    unify(iter(leaves), {k: v for k, v in options.items() if type(v) is int})


def refusal(op: Operation, backend: str) -> None:
    """A wrong shape, a wrong kind and an unknown keyword are refused by name, with InputError."""
    kwargs = arguments(op)
    shared = _shared_dimensions(op, kwargs)
    for spec in op.inputs:
        if not isinstance(spec, Array) or spec.family or kwargs.get(spec.name) is None:
            continue
        array = np.asarray(kwargs[spec.name])
        for axis, token in enumerate(tokens(spec.shape, array)):
            if token in shared:
                longer = np.concatenate([array, np.take(array, [0], axis)], axis)
                _refused(op, backend, kwargs | {spec.name: longer}, (spec.name, *shared[token]))
        _refused(
            op,
            backend,
            kwargs | {spec.name: np.zeros((1, *array.shape, 1), array.dtype)},
            (spec.name,),
        )
        if array.dtype.kind in "fib":
            wrong = np.full(
                array.shape,
                0.5 if spec.dtype in ("int", "flag", "bool") else 1,
                "f8" if spec.dtype in ("int", "flag", "bool") else "i8",
            )
            _refused(op, backend, kwargs | {spec.name: wrong}, (spec.name,))
    _refused(op, backend, kwargs | {"no_such_keyword": 1}, ("no_such_keyword",))


def gradcheck(op: Operation, backend: str) -> None:
    """Analytic gradients equal finite differences (torch only)."""
    import torch

    kwargs = arguments(op, n=5, seed=3)
    tensors = {
        k: torch.tensor(kwargs[k], dtype=torch.float64, requires_grad=True)
        for k in op.gradient
        if kwargs.get(k) is not None
    }
    assert tensors, f"{op.name}: the example has none of {op.gradient}"

    def loss(*values: Any) -> Any:
        result = op.exhibit.run(
            op.name, backend="torch", **{**kwargs, **dict(zip(tensors, values))}
        )
        flat = flatten(op.results, result._asdict()).values()
        return tuple(v for v in flat if v.dtype.is_floating_point and v.requires_grad)

    assert torch.autograd.gradcheck(loss, tuple(tensors.values()), fast_mode=True, nondet_tol=1e-12)


def _refused(op: Operation, backend: str, kwargs: dict[str, Any], names: tuple[str, ...]) -> None:
    try:
        op.exhibit.run(op.name, backend=backend, **kwargs)
    except InputError as error:
        assert any(name in str(error) for name in names), f"{error} names none of {names}"
        return
    raise AssertionError(f"{op.name} accepted a wrong {names[0]}")


def _shared_dimensions(op: Operation, kwargs: dict[str, Any]) -> dict[str, list[str]]:
    """Plain dimension names that stand in two arrays -> those arrays."""
    where: dict[str, list[str]] = {}
    for spec in op.inputs:
        if isinstance(spec, Array) and not spec.family and kwargs.get(spec.name) is not None:
            for token in set(tokens(spec.shape, np.asarray(kwargs[spec.name]))):
                where.setdefault(token, []).append(spec.name)
    return {t: names for t, names in where.items() if t.isidentifier() and len(names) > 1}


def _moved(
    op: Operation, kwargs: dict[str, Any], dims: list[str], where: slice, **sizes: Any
) -> dict[str, Any]:
    """Other inputs at `where` along the named dimensions, the same elsewhere."""
    return perturbed(op, kwargs, arguments(op, seed=99, **sizes), dims, where)


def _declared(op: Operation, flat: dict[str, Any]) -> Iterator[tuple[str, Array]]:
    for spec in op.results:
        if spec.name in flat:
            yield spec.name, spec


def _numpy(value: Any) -> Any:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)


def _map(fn: Any, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return fn(value)
    if isinstance(value, dict):
        return {k: _map(fn, v) for k, v in value.items()}
    if isinstance(value, list) and any(isinstance(v, np.ndarray | dict) for v in value):
        return [_map(fn, v) for v in value]
    return value


def _arrays(value: Any) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    _map(lambda a: found.append(a) or a, value)
    return found


# name -> (property, backends it applies to, whether it applies to an operation at all)
PROPERTIES: dict[str, tuple[Any, tuple[str, ...], Any]] = {
    "float32": (float32, ("numba", "torch"), lambda op: True),
    "causality": (causality, ("numpy", "numba", "torch"), lambda op: bool(op.causal)),
    "batch": (
        batch,
        ("numpy", "numba", "torch"),
        lambda op: any(op.batch in _words(a) for a in op.inputs),
    ),
    "determinism": (determinism, ("numpy", "numba", "torch"), lambda op: True),
    "untouched": (untouched, ("numpy", "numba", "torch"), lambda op: True),
    "strided": (strided, ("numpy", "numba", "torch"), lambda op: True),
    "single": (single, ("numba", "torch"), lambda op: True),
    "want": (
        want_nothing,
        ("numpy", "numba", "torch"),
        lambda op: any(a.optional for a in op.results),
    ),
    "shapes": (shapes, ("numpy", "numba", "torch"), lambda op: True),
    "refusal": (refusal, ("numpy", "numba", "torch"), lambda op: True),
    "gradcheck": (gradcheck, ("torch",), lambda op: bool(op.gradient)),
}


def _words(spec: Any) -> list[str]:
    return spec.shape.split() if isinstance(spec, Array) else []
