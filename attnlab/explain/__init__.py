"""Explanations of text classifiers, and whether they are any good.

    from attnlab.explain import explain
    done = explain(model, ["a lovely film"], ["attention", "integrated_gradients"])

attribution  problem.py, gradients.py, deeplift.py, shap.py, perturbation.py, attention.py; registry.py
agreement    agreement.py: do methods say the same?
faithfulness faithfulness.py: does the model use what they point at?
plausibility plausibility.py: do people point at the same words?
controls     controls.py: random scores, random weights, models whose answer is known
statistics   statistics.py: intervals and paired tests
maps         maps.py: the attention map of a mechanism that stores none
words        verbalize.py, endpoint.py: in a sentence; simulate.py: does it let a reader guess?
"""

from attnlab.explain.attribute import Attribution, Explained, attribute, explain
from attnlab.explain.problem import PathsDiffer, Problem
from attnlab.explain.registry import METHODS, Method, find

__all__ = [
    "METHODS", "Attribution", "Explained", "Method", "PathsDiffer", "Problem", "attribute", "explain", "find",
]  # fmt: skip
