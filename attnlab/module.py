"""One generic `nn.Module` for every operation: it owns the arrays marked as weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from attnlab.checks import Call
from attnlab.contract import Array, InputError, Operation, suggest
from attnlab.expressions import evaluate


class OperationModule(nn.Module):
    """An operation as a layer: weights are parameters, options are fixed, inputs are arguments.

        layer = find("lightning").operation("gla").module(num_heads=4, dim=64)
        y = layer(x=x, slopes=slopes(4, layer=0, num_layers=12)).y

    `sizes` gives the dimensions that the weights' shapes name, and options. Weights start from
    N(0, 1/fan_in) with fan_in the last dimension, vectors named *bias from 0, norms from 1.
    Of alternative shapes the first is taken that the operation does not refuse. Weights whose `when` is false under the options are not created; optional weights are created
    only when named in `include`. Raises InputError where a size is missing or unknown.
    """

    def __init__(
        self, operation: Operation, sizes: Mapping[str, Any], include: tuple[str, ...] = ()
    ):
        super().__init__()
        self.operation = operation
        names = {o.name for o in operation.options}
        self.options = {k: v for k, v in sizes.items() if k in names}
        known = {o.name: o.default for o in operation.options} | dict(sizes)
        present = {a.keyword: not a.optional or a.keyword in include for a in operation.inputs}
        for spec in operation.inputs:
            if not isinstance(spec, Array) or not spec.weight or spec.family:
                continue
            if not present[spec.keyword] or (
                spec.when and not evaluate(spec.when, present | known)
            ):
                continue
            shape = _shape(operation, spec, known)
            self.register_parameter(spec.keyword, nn.Parameter(_initial(spec.keyword, shape)))

    def forward(self, *, want: Any = (), **inputs: Any) -> Any:
        """The operation's named tuple, computed on the torch path."""
        weights = dict(self.named_parameters())
        arguments = weights | self.options | inputs
        return self.operation.exhibit.run(
            self.operation.name, backend="torch", want=want, **arguments
        )

    def extra_repr(self) -> str:
        return ", ".join([self.operation.name, *(f"{k}={v}" for k, v in self.options.items())])


def _shape(operation: Operation, spec: Array, known: Mapping[str, Any]) -> tuple[int, ...]:
    """The first of the declared alternatives that no `refuse` predicate turns down for this array
    alone; a predicate that asks for sizes that only a call has cannot tell and is passed over."""
    choices = spec.shape.split(" | ")
    for choice in choices[:-1]:
        shape = tuple(_size(token, known, spec) for token in choice.split())
        arrays = {a.keyword: None for a in operation.inputs}
        call = Call(arrays | {spec.keyword: torch.empty(shape)}, known, {})
        if not any(_holds(predicate, call) for predicate, _ in operation.refuse):
            return shape
    return tuple(_size(token, known, spec) for token in choices[-1].split())


def _holds(predicate: Callable[[Any], Any], call: Call) -> bool:
    try:
        return bool(predicate(call))
    except AttributeError:
        return False


def _size(token: str, known: Mapping[str, Any], spec: Array) -> int:
    try:
        return int(evaluate(token, known))
    except NameError as missing:
        name = str(missing)
        raise InputError(
            f"weight {spec.name} ({spec.shape}) needs the size {name}{suggest(name, known)}"
        ) from None


def _initial(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if "bias" in name or name.startswith("b_"):
        return torch.zeros(shape)
    if len(shape) < 2 and "norm" in name:
        return torch.ones(shape)
    return torch.randn(shape) / (shape[-1] if shape else 1) ** 0.5
