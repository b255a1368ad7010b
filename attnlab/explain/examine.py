"""One text through everything: every method, do they agree, does the model use what they name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from attnlab.explain import agreement, faithfulness
from attnlab.explain.attribute import Explained, explain
from attnlab.explain.controls import randomisation, randomised
from attnlab.explain.problem import Output, Problem, Target, evaluating
from attnlab.explain.registry import METHODS
from attnlab.explain.replacement import Replacement, check
from attnlab.explain.simulate import ModelReader
from attnlab.explain.verbalize import Complete, How, Verbalization, line, verbalize
from attnlab.models.classifier import Classifier, Encoded

FLOOR = "random"
STAGES = ("attributions", "faithfulness", "random weights", "sensitivity", "words")
PATIENCE = 2.0  # seconds: max-sensitivity is not measured of methods that would take longer


@dataclass
class Examined:
    """Everything about one text.

    agreement: measure -> (methods, methods), in the order of `methods`; NaN where undefined.
    faithful: method -> metric -> value. changed: method -> Spearman's rho with the scores under
    random weights. sensitive: method -> max-sensitivity. said: method -> its verbalization, and
    guessed: the label that the model gives to the words quoted there, read alone.
    """

    text: str
    explained: Explained
    labels: tuple[str, ...]
    attention_map: str
    output: Output
    replacement: Replacement
    seed: int
    agreement: dict[str, Float[np.ndarray, "methods methods"]] = field(default_factory=dict)
    faithful: dict[str, dict[str, float]] = field(default_factory=dict)
    changed: dict[str, float] = field(default_factory=dict)
    sensitive: dict[str, float] = field(default_factory=dict)
    said: dict[str, Verbalization] = field(default_factory=dict)
    guessed: dict[str, str | None] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def methods(self) -> list[str]:
        return list(self.explained.attributions)

    @property
    def words(self) -> dict[str, str]:
        """A sentence a method."""
        return {name: line(said) for name, said in self.said.items()}

    @property
    def label(self) -> str:
        return self.labels[self.explained.target]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: numbers, lists and strings; NaN is left to the writer."""
        one = self.explained
        return {
            "kind": "attnlab explain",
            "text": self.text,
            "tokens": list(one.text.tokens),
            "special": one.text.special.tolist(),
            "predicted": self.labels[one.predicted],
            "target": self.label,
            "output": self.output,
            "replacement": self.replacement,
            "seed": self.seed,
            "attention_map": self.attention_map,
            "probabilities": dict(zip(self.labels, one.probabilities.tolist())),
            "seconds": self.seconds,
            "methods": {
                name: {
                    "title": METHODS[name].title,
                    "source": METHODS[name].source,
                    "has_sign": METHODS[name].signed,
                    "signed": a.signed.tolist(),
                    "unsigned": a.unsigned.tolist(),
                    "completeness_gap": a.gap,
                    "seconds": one.seconds[name],
                    "faithfulness": self.faithful[name],
                    "max_sensitivity": self.sensitive.get(name),
                    "rho_with_random_weights": self.changed.get(name),
                    "words": self.words.get(name),
                    "verbalization": self.said[name].as_dict() if name in self.said else None,
                    "guessed_from_words": self.guessed.get(name),
                }
                for name, a in one.attributions.items()
            },
            "agreement": {"order": self.methods}
            | {measure: table.tolist() for measure, table in self.agreement.items()},
        }


def examine(
    model: Classifier,
    text: str,
    methods: Iterable[str] = ("all",),
    *,
    target: Target = None,
    output: Output = "probability",
    replacement: Replacement = "pad",
    seed: int = 0,
    measures: Iterable[str] = ("kendall_tau", "top_k_kendall", "spearman", "jaccard"),
    sensitivity: int = 3,
    controls: bool = True,
    how: How = "search",
    complete: Complete | None = None,
    begin: Callable[[str], None] = lambda stage: None,
) -> Examined:
    """Explains one text by the methods and the random floor, and judges each.

    sensitivity: samples of max-sensitivity, 0 leaves it out; NaN for methods that would take more
    than `PATIENCE` seconds. controls: whether the methods are also
    run on the same model with random weights. how, complete: of the verbalization. begin is told
    each of `STAGES` as it begins. Raises what `explain`, `verbalize` and `complete` raise.
    """
    begun = time.perf_counter()
    check(model, replacement)
    begin("attributions")
    names = list(dict.fromkeys([*methods, FLOOR]))
    explain(model, [text], ["gradient"], target=target)  # the first call is slow; no method's fault
    (one,) = explain(model, [text], names, target=target, output=output, seed=seed)
    labels = tuple(str(label) for label in model.labels)
    found = Examined(text, one, labels, model.attention_map, output, replacement, seed)
    unsigned = [a.unsigned for a in one.attributions.values()]
    found.agreement = {m: agreement.matrix(unsigned, m) for m in measures}
    begin("faithfulness")
    (found.faithful,) = faithfulness.faithfulness(model, [one], replacement=replacement, seed=seed)
    begin("random weights")
    if controls:
        (found.changed,) = randomisation(randomised(model, seed), [one], output=output, seed=seed)
    begin("sensitivity")
    if sensitivity:
        with evaluating(model):
            problem = Problem.of(model, [one.text], [one.target], output=output, seed=seed)
            for name, a in one.attributions.items():
                found.sensitive[name] = float("nan")
                if one.seconds[name] * sensitivity <= PATIENCE:
                    known = a.signed[None]
                    (found.sensitive[name],) = faithfulness.max_sensitivity(
                        problem, METHODS[name], samples=sensitivity, before=known
                    ).tolist()
    begin("words")
    found.said = in_words(one, labels, how=how, complete=complete)
    with evaluating(model):
        guesses = ModelReader(model).guesses([said.quoted for said in found.said.values()])
        found.guessed = dict(zip(found.said, guesses))
    found.seconds = time.perf_counter() - begun
    return found


def in_words(
    one: Explained,
    labels: tuple[str, ...],
    *,
    how: How = "search",
    complete: Complete | None = None,
) -> dict[str, Verbalization]:
    """Each method's scores in words; left out where they are not finite, and the random floor's."""
    return {
        name: verbalize(*_own(one.text, a.signed), labels[one.target], how=how, complete=complete)
        for name, a in one.attributions.items()
        if name != FLOOR and np.isfinite(a.signed).all()
    }


def _own(
    text: Encoded, signed: Float[np.ndarray, "n"]
) -> tuple[list[str], Float[np.ndarray, "own"]]:
    keep = ~text.special
    return [t for t, k in zip(text.tokens, keep) if k], signed[keep]
