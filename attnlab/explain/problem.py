"""What every attribution method is given: texts as one batch, a target, and the model's output.

A `Problem` holds texts of similar length side by side. A method perturbs or differentiates
`problem.embedded` and returns one signed score a token, (batch, n); scores at padding are ignored.
Methods that draw at random draw each text's numbers from the text itself, so that a text's scores
do not depend on the texts that share its batch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attnlab.contract import InputError, suggest
from attnlab.models.classifier import Classifier, Encoded, Rule, Trace, pad

Output = Literal["probability", "logit"]
Target = int | str | None

TOKENS = 2**13  # tokens of a forward pass: enough for large matrix products, little for the cache
PARITY = 1e-5


class PathsDiffer(RuntimeError):
    """The path that shows attention weights computes other logits than the model itself."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A batch of texts and which output of the model is to be explained.

    output: "probability" of the target class (Neely et al., 2022) or its "logit".
    """

    model: Classifier
    texts: tuple[Encoded, ...]
    ids: Int[Tensor, "batch n"]
    mask: Bool[Tensor, "batch n"]
    embedded: Float[Tensor, "batch n width"]
    baseline: Float[Tensor, "batch n width"]
    target: Int[Tensor, "batch"]
    output: Output = "probability"
    seed: int = 0

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        model: Classifier,
        texts: Sequence[Encoded],
        target: Sequence[int] | None = None,
        *,
        output: Output = "probability",
        seed: int = 0,
    ) -> Problem:
        """Embeds the texts; without a target, the predicted classes are explained."""
        ids, mask = pad(texts, model.pad_id)
        embedded = model.embed(ids, mask)
        chosen = model(embedded, mask).argmax(-1) if target is None else torch.as_tensor(target)
        baseline = model.baseline(ids, mask)
        return cls(model, tuple(texts), ids, mask, embedded, baseline, chosen, output, seed)

    def at(self, embedded: Float[Tensor, "batch n width"]) -> Problem:
        """The same question asked of inputs nearby."""
        return replace(self, embedded=embedded)

    def outputs(self, embedded: Float[Tensor, "rows n width"]) -> Float[Tensor, "rows"]:
        """The explained output for one or more copies of the batch: rows = copies * batch."""
        copies = len(embedded) // len(self.ids)
        logits = self.model(embedded, self.mask.repeat(copies, 1))
        return choose(logits, self.target.repeat(copies), self.output)

    @torch.no_grad()
    def values(
        self, embedded: Float[Tensor, "copies batch n width"]
    ) -> Float[Tensor, "copies batch"]:
        """`outputs` without a graph."""
        return self.outputs(embedded.flatten(0, 1)).unflatten(0, embedded.shape[:2])

    def gradient(
        self, embedded: Float[Tensor, "copies batch n width"]
    ) -> Float[Tensor, "copies batch n width"]:
        """The gradient of each row's output with regard to its own input."""
        x = embedded.detach().flatten(0, 1).requires_grad_()
        with torch.enable_grad():
            (grad,) = torch.autograd.grad(self.outputs(x).sum(), x)
        return grad.unflatten(0, embedded.shape[:2])

    def chunks(self, copies: int) -> Iterator[slice]:
        """Cuts `copies` of the batch into passes of about `TOKENS` tokens."""
        step = max(1, TOKENS // self.ids.numel())
        for start in range(0, copies, step):
            yield slice(start, min(start + step, copies))

    def blend(
        self, keep: Bool[Tensor, "copies batch n"], absent: Tensor | None = None
    ) -> Float[Tensor, "copies batch n width"]:
        """Copies in which tokens outside `keep` are replaced by the baseline."""
        return torch.where(
            keep[..., None], self.embedded, self.baseline if absent is None else absent
        )

    def trace(self, rule: Rule = "gradient") -> Trace:
        """The model's readable path, with a graph; PathsDiffer where its logits are not the model's."""
        with torch.enable_grad():
            trace = self.model.trace(self.embedded.detach().requires_grad_(), self.mask, rule=rule)
        self.check(trace, rule)
        return trace

    @torch.no_grad()
    def check(self, trace: Trace, rule: Rule) -> None:
        """Fused kernels return no weights: what a readable path shows counts only if it is the same model.

        The logits must agree within `PARITY`. Where they do not, both paths are compared in float64:
        a network with random weights can make much of float32's rounding, not of float64's.
        """
        error = _distance(trace.logits, self.model(self.embedded, self.mask))
        if not error <= PARITY:
            model, x = copy.deepcopy(self.model).double(), self.embedded.double()
            error = _distance(model.trace(x, self.mask, rule=rule).logits, model(x, self.mask))
        if not error <= PARITY:
            raise PathsDiffer(
                f"{type(self.model).__name__}: the logits of the path with attention weights differ "
                f"from the fast path's by {error:.1e}, more than {PARITY:g}"
            )

    def rng(self, row: int, purpose: str) -> np.random.Generator:
        """Random numbers that depend on the seed, the text and what they are for, on nothing else."""
        text = crc32(np.asarray(self.texts[row].ids, dtype=np.int64).tobytes())
        return np.random.default_rng([self.seed, text, crc32(purpose.encode())])

    @cached_property
    def lengths(self) -> list[int]:
        return [len(text) for text in self.texts]

    @cached_property
    def gain(self) -> Float[Tensor, "batch"]:
        """F(x) - F(x'), what a complete method's scores sum to."""
        both = self.values(torch.stack([self.embedded, self.baseline]))
        return both[0] - both[1]


def _distance(a: Float[Tensor, "batch classes"], b: Float[Tensor, "batch classes"]) -> float:
    """The largest difference, relative where the values are large."""
    return (a - b).abs().max().item() / max(1.0, b.abs().max().item())


def choose(
    logits: Float[Tensor, "rows classes"], target: Int[Tensor, "rows"], output: Output
) -> Float[Tensor, "rows"]:
    """The explained output of each row."""
    if output == "probability":
        logits = logits.softmax(-1)
    return logits.gather(1, target[:, None]).squeeze(1)


def buckets(lengths: Sequence[int], tokens: int = TOKENS, waste: float = 0.1) -> list[list[int]]:
    """Indices of texts that share a batch: similar lengths, at most `tokens` tokens in all.

    waste: how much shorter than a batch's longest text its texts may be.
    """
    found: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[found[-1][0]] if found else 0
        fits = found and longest * (len(found[-1]) + 1) <= tokens
        if fits and lengths[index] >= longest * (1 - waste):
            found[-1].append(index)
        else:
            found.append([index])
    return found


def encode(model: Classifier, texts: Sequence[str | Encoded]) -> list[Encoded]:
    """Texts as the model reads them; InputError names the text that has no token."""
    found = []
    for place, text in enumerate(texts):
        try:
            found.append(model.encode(text) if isinstance(text, str) else text)
        except ValueError as error:
            raise InputError(f"text {place}: {error}") from error
    if not found:
        raise InputError("texts must hold at least one text")
    return found


def class_of(model: Classifier, target: int | str) -> int:
    """The class that a name or a number stands for."""
    labels = [str(label) for label in model.labels]
    if isinstance(target, str) and target in labels:
        return labels.index(target)
    if str(target).isdigit() and int(target) < len(labels):
        return int(target)
    raise InputError(
        f"target {target!r} is none of {', '.join(labels)}{suggest(str(target), labels)}"
    )


@contextmanager
def evaluating(model: Classifier) -> Iterator[None]:
    """Without dropout; the model's mode is put back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
