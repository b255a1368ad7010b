"""One text through everything: every method, do they agree, does the model use what they name."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Iterable
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
from attnlab.models.classifier import Classifier, Encoded

FLOOR = "random"


@dataclass
class Examined:
    """Everything about one text.

    agreement: measure -> (methods, methods), in the order of `methods`; NaN where undefined.
    faithful: method -> metric -> value. changed: method -> Spearman's rho with the scores under
    random weights. sensitive: method -> max-sensitivity. words: method -> a sentence.
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
    words: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def methods(self) -> list[str]:
        return list(self.explained.attributions)

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
) -> Examined:
    """Explains one text by the methods and the random floor, and judges each.

    sensitivity: samples of max-sensitivity, 0 leaves it out. controls: whether the methods are also
    run on the same model with random weights. Raises what `explain` raises.
    """
    begun = time.perf_counter()
    check(model, replacement)
    names = list(dict.fromkeys([*methods, FLOOR]))
    explain(model, [text], ["gradient"], target=target)  # the first call is slow; no method's fault
    (one,) = explain(model, [text], names, target=target, output=output, seed=seed)
    labels = tuple(str(label) for label in model.labels)
    found = Examined(text, one, labels, model.attention_map, output, replacement, seed)
    unsigned = [a.unsigned for a in one.attributions.values()]
    found.agreement = {m: agreement.matrix(unsigned, m) for m in measures}
    (found.faithful,) = faithfulness.faithfulness(model, [one], replacement=replacement, seed=seed)
    if controls:
        (found.changed,) = randomisation(randomised(model, seed), [one], output=output, seed=seed)
    if sensitivity:
        with evaluating(model):
            problem = Problem.of(model, [one.text], [one.target], output=output, seed=seed)
            found.sensitive = {
                name: float(
                    faithfulness.max_sensitivity(problem, METHODS[name], samples=sensitivity)[0]
                )
                for name in one.attributions
            }
    found.words = in_words(one, labels)
    found.seconds = time.perf_counter() - begun
    return found


def in_words(one: Explained, labels: tuple[str, ...]) -> dict[str, str]:
    """A sentence for each method, by `verbalize.describe(tokens, signed, label)` where that exists."""
    if importlib.util.find_spec("attnlab.explain.verbalize") is None:
        return {}
    describe = importlib.import_module("attnlab.explain.verbalize").describe
    return {
        name: describe(*_own(one.text, a.signed), labels[one.target])
        for name, a in one.attributions.items()
        if name != FLOOR and np.isfinite(a.signed).all()
    }


def _own(
    text: Encoded, signed: Float[np.ndarray, "n"]
) -> tuple[list[str], Float[np.ndarray, "own"]]:
    keep = ~text.special
    return [t for t, k in zip(text.tokens, keep) if k], signed[keep]
