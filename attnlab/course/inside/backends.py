"""What a track's functions take and return: NumPy arrays, or torch tensors with gradients."""

from __future__ import annotations

from typing import Any

import codec


class Arrays:
    """The functions take and return NumPy arrays."""

    make = None
    tensors = None

    def sources(self, arguments, names):
        return {}

    def gradients(self, value, cotangents, sources):
        return {}


class Tensors:
    """The functions take and return torch tensors; gradients come by torch's autograd."""

    def __init__(self, torch):
        self.torch = torch
        self.tensors = (self.torch.Tensor, self.to_numpy)

    def to_numpy(self, tensor):
        tensor = tensor.detach().resolve_conj().resolve_neg().cpu()
        if tensor.is_sparse or tensor.layout is not self.torch.strided:
            raise codec.Malformed("a tensor that is not dense")
        return (tensor.float() if tensor.dtype is self.torch.bfloat16 else tensor).numpy()

    def make(self, array, kind):
        if kind == "scalar":
            return array[()]
        if array.dtype.kind in "US":
            return array
        return self.torch.from_numpy(array if array.flags.writeable else array.copy())

    def sources(self, arguments, names):
        """The arguments named, as they are, every floating tensor in them asking for gradients."""
        for name in names:
            for tensor in self.leaves(arguments[name]):
                tensor.requires_grad_(True)
        return {name: arguments[name] for name in names}

    def leaves(self, tree):
        if isinstance(tree, self.torch.Tensor):
            return [tree] if tree.is_floating_point() else []
        members = tree.values() if isinstance(tree, dict) else tree
        return [t for m in members for t in self.leaves(m)] if isinstance(tree, dict | list) else []

    def gradients(self, value, cotangents, sources):
        """d sum(output * cotangent) / d source, in the sources' own structure; 0 where none reaches."""
        outputs: list[Any] = []
        weights: list[Any] = []
        for place, (name, cotangent) in enumerate(cotangents.items()):
            if cotangent is not None:
                self.pair(
                    self.pick(value, name, place, len(cotangents)), cotangent, outputs, weights
                )
        leaves = [t for tree in sources.values() for t in self.leaves(tree)]
        found = [None] * len(leaves)
        if outputs and leaves:
            found = self.torch.autograd.grad(outputs, leaves, weights, allow_unused=True)
        at = iter([self.torch.zeros_like(t) if g is None else g for t, g in zip(leaves, found)])
        return {name: self.fill(tree, at) for name, tree in sources.items()}

    def pick(self, value, name, place, count):
        if isinstance(value, self.torch.Tensor) and count == 1:
            return value
        if isinstance(value, dict):
            return value[name]
        if hasattr(value, "_fields") and isinstance(name, str):
            return getattr(value, name)
        return value[name if isinstance(name, int) else place]

    def pair(self, output, cotangent, outputs, weights):
        if isinstance(cotangent, list | tuple | dict):
            for key in cotangent if isinstance(cotangent, dict) else range(len(cotangent)):
                self.pair(output[key], cotangent[key], outputs, weights)
        elif not isinstance(output, self.torch.Tensor):
            kind = type(output).__name__
            raise codec.Malformed(f"{kind} returned where gradients need a tensor")
        elif output.requires_grad:
            outputs.append(output)
            weights.append(cotangent.to(output.dtype).reshape(output.shape))

    def fill(self, tree, gradients):
        if isinstance(tree, dict):
            return {k: self.fill(v, gradients) for k, v in tree.items()}
        if isinstance(tree, list):
            return [self.fill(v, gradients) for v in tree]
        floating = isinstance(tree, self.torch.Tensor) and tree.is_floating_point()
        return next(gradients) if floating else None
