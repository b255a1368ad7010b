"""Gradients on the torch track: those of the submission against those of the exhibit's torch path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from attnlab.course.candidate import Candidate, Verdict, judged
from attnlab.course.difference import compare
from attnlab.course.tasks import RTOL, OperationTask, Question, seed_of
from attnlab.flat import flatten, unflatten

ATOL = 1e-7  # gradients sum over many terms


@dataclass(frozen=True, eq=False)
class Gradient:
    """The gradient of sum(output * cotangent), with a random cotangent for every output that has one."""

    task: OperationTask
    question: Question
    seed: int

    def judge(self, candidate: Candidate) -> Verdict:
        """The answer first, then the gradients."""
        cotangents, expected = self.expected
        names = list(expected)
        task, question = self.task, self.question
        settings: dict[str, Any] = {"cotangents": cotangents, "gradient": names}
        reply, _ = candidate.ask(task.name, question.arguments, **settings)
        if reply.status == "passed" and self._everything(reply.value):
            # a tuple of all outputs: the optional ones among them have no cotangent
            order = [a.keyword for a in task.op.results_on("torch")]
            settings["cotangents"] = {k: cotangents.get(k) for k in order}
            reply, _ = candidate.ask(task.name, question.arguments, **settings)
        verdict = judged(task, question, reply)
        if not verdict.passed:
            return verdict
        made = {k: reply.gradients.get(k) for k in names}
        got = {f"gradient of {k}": v for k, v in made.items() if v is not None}
        want = {f"gradient of {k}": v for k, v in expected.items()}
        if missing := [k for k in names if made[k] is None]:
            return Verdict("wrong", f"no gradient reaches {missing[0]}")
        difference = compare(want, got, RTOL, ATOL)
        if difference is None:
            return verdict
        dead = [k for k in names if np.any(expected[k]) and not np.any(made[k])]
        fault = ""
        if not any(np.any(v) for v in got.values()):
            fault = "no gradient reaches the inputs: is the result detached?"
        elif dead:
            fault = f"no gradient reaches {', '.join(dead)}: detached somewhere on the way?"
        return Verdict("wrong", fault, difference)

    def _everything(self, value: Any) -> bool:
        every = len(self.task.op.results_on("torch"))
        return isinstance(value, tuple) and len(value) == every != len(self.question.required)

    @cached_property
    def expected(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(cotangents by keyword, None where an output has none; gradients by argument), both in
        the course's order of axes."""
        import torch

        op, task = self.task.op, self.task
        rng = np.random.default_rng(self.seed)
        given = dict(self.question.given)
        names = [k for k in op.gradient if isinstance(given.get(k), np.ndarray)]
        leaves = {k: torch.tensor(given[k], requires_grad=True) for k in names}
        result = op.exhibit.run(op.name, backend="torch", **given | leaves)._asdict()
        required = self.question.required
        outputs = flatten([s for s in op.results_on("torch") if s.keyword in required], result)
        live = {k: v for k, v in outputs.items() if v.requires_grad}
        weights = {k: rng.standard_normal(tuple(v.shape)) for k, v in live.items()}
        found: Any = [None] * len(names)
        if live and names:
            loss = torch.stack(
                [(v * torch.from_numpy(weights[k])).sum() for k, v in live.items()]
            ).sum()
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        gradients = {
            k: np.zeros(leaves[k].shape) if g is None else g.numpy() for k, g in zip(names, found)
        }
        sent = {k: task.arranged(k, v) for k, v in weights.items()}
        cotangents: Mapping[str, Any] = unflatten(op.results, sent)
        return (
            {k: cotangents.get(k) for k in required},
            {k: task.arranged(k, v) for k, v in gradients.items()},
        )


def gradient(task: OperationTask, draw: Callable[[], Question], seed: int) -> Gradient:
    """The gradients of a draw, cotangents by the seed."""
    return Gradient(task, draw(), seed_of(seed, "cotangent"))
