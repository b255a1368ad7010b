"""Many texts, many methods: texts are sorted into batches of similar length and put back in order."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from attnlab.contract import InputError
from attnlab.explain.problem import Output, Problem, Target, buckets, class_of, encode, evaluating
from attnlab.explain.registry import Method, select
from attnlab.models.classifier import Classifier, Encoded


@dataclass(frozen=True)
class Attribution:
    """One method's scores for one text.

    signed: (n,) float64, one a token, special tokens included; for methods without a sign it equals
    `unsigned`. gap: sum of the scores - (F(x) - F(x')), None for methods that do not claim to be
    complete. Not finite where the method is undefined: never replaced in silence.
    """

    method: str
    signed: Float[np.ndarray, "n"]
    gap: float | None = None

    @property
    def unsigned(self) -> Float[np.ndarray, "n"]:
        """The absolute value, taken after the sum over the embedding."""
        return np.abs(self.signed)


@dataclass
class Explained:
    """A text, what the model says of it, and every method's attribution by name.

    probabilities: (classes,). seconds: what each method took, its batch's time shared equally.
    """

    text: Encoded
    target: int
    probabilities: Float[np.ndarray, "classes"]
    attributions: dict[str, Attribution] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def predicted(self) -> int:
        return int(self.probabilities.argmax())


def explain(
    model: Classifier,
    texts: Sequence[str | Encoded],
    methods: Iterable[str] = ("all",),
    *,
    target: Target | Sequence[int] = None,
    output: Output = "probability",
    seed: int = 0,
    options: dict[str, dict[str, Any]] | None = None,
) -> list[Explained]:
    """Explains the target class of every text by every method, in the order of the texts.

    target: a class' number or name for all texts, a number for each, or None: the predicted class.
    options: keyword arguments of single methods, {"lime": {"n_samples": 200}}. InputError for a text
    without tokens and for unknown methods, targets or outputs; PathsDiffer where the path that shows
    attention is not the model's own function.
    """
    chosen = select(methods)
    if output not in ("probability", "logit"):
        raise InputError(f"output must be probability or logit, but is {output!r}")
    encoded = encode(model, texts)
    if target is None or isinstance(target, int | str):
        targets = None if target is None else [class_of(model, target)] * len(encoded)
    elif len(target) != len(encoded):
        raise InputError(f"target names {len(target)} classes for {len(encoded)} texts")
    else:
        targets = [class_of(model, t) for t in target]
    found: list[Explained | None] = [None] * len(encoded)
    with evaluating(model):
        for places in buckets([len(text) for text in encoded]):
            problem = Problem.of(
                model,
                [encoded[i] for i in places],
                None if targets is None else [targets[i] for i in places],
                output=output,
                seed=seed,
            )
            for place, one in zip(places, _explain(problem, chosen, options or {})):
                found[place] = one
    return [one for one in found if one is not None]


def attribute(
    model: Classifier,
    texts: Sequence[str | Encoded],
    method: str,
    *,
    target: Target | Sequence[int] = None,
    output: Output = "probability",
    seed: int = 0,
    **options: Any,
) -> list[Attribution]:
    """One method's attributions; arguments as of `explain`, `options` go to the method."""
    done = explain(
        model, texts, [method], target=target, output=output, seed=seed, options={method: options}
    )
    return [one.attributions[method] for one in done]


def _explain(
    problem: Problem, methods: Sequence[Method], options: dict[str, dict[str, Any]]
) -> list[Explained]:
    with torch.no_grad():
        probabilities = problem.model(problem.embedded, problem.mask).softmax(-1).double().numpy()
    done = [
        Explained(text, int(problem.target[row]), probabilities[row])
        for row, text in enumerate(problem.texts)
    ]
    for method in methods:
        begun = time.perf_counter()
        signed = scores(problem, method, **options.get(method.name, {}))
        seconds = (time.perf_counter() - begun) / len(done)
        for row, one in enumerate(done):
            own = signed[row, : len(one.text)]
            gap = float(own.sum() - problem.gain[row]) if method.complete else None
            one.attributions[method.name] = Attribution(method.name, own, gap)
            one.seconds[method.name] = seconds
    return done


def unavailable(model: Classifier, methods: Iterable[str]) -> dict[str, str]:
    """Which of the methods this model cannot give, with the reason.

    A model of an architecture that is not known inside may lack value vectors, single layers or
    relevance rules; the methods that look inside are tried on two words.
    """
    found = {}
    for method in select(methods):
        if method.family == "attention" or method.name == "lrp":
            try:
                explain(model, ["a b"], [method.name])
            except NotImplementedError as error:
                found[method.name] = str(error)
    return found


def scores(problem: Problem, method: Method, **options: Any) -> Float[np.ndarray, "batch n"]:
    """A method's signed scores as float64, 0 at padding whatever the method left there."""
    with torch.enable_grad():  # also for a caller who works without
        raw = method.function(problem, **options).detach().double()
    return torch.where(problem.mask, raw, torch.zeros_like(raw)).numpy()


def by_word(
    scores: Float[np.ndarray, "n"], words: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "words"]:
    """Sums over the tokens of each whitespace-separated word; special tokens (-1) are left out."""
    count = int(words.max(initial=-1)) + 1
    return np.bincount(words[words >= 0], scores[words >= 0], minlength=count)


def own(text: Encoded) -> Bool[np.ndarray, "n"]:
    """The tokens that are the user's: not special."""
    return ~text.special
