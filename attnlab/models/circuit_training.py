"""Trains the circuit models: seconds each, one setting a task, all from fixed seeds.

`python -m attnlab.models.circuits train [--task NAME] [--out FOLDER]` and `… report`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attnlab.datasets import circuit_tasks
from attnlab.models.circuits import (
    LOSS_EVERY,
    CircuitTransformer,
    Configuration,
    ablation,
    load,
    losses,
    save,
    shipped,
)
from attnlab.models.sequence import train as fit
from attnlab.paths import data_dir


@dataclass(frozen=True)
class Recipe:
    """How one task's model is made; the rest of the sizes are Configuration's defaults."""

    steps: int
    batch: int = 64
    lr: float = 2e-3
    layers: int = 2
    hidden: int = 0
    seed: int = 0


# The retrieval recipe is that of claim 2: 2 layers, 4 heads, d = 64, AdamW 2e-3, batch 64.
RECIPES = {
    "retrieval": Recipe(steps=2500),
    "induction": Recipe(steps=1500),
    "ioi": Recipe(steps=600),
    "greater_than": Recipe(steps=300, hidden=128),
    "docstring": Recipe(steps=1500, layers=3),
}


def untrained(name: str, seed: int | None = None) -> CircuitTransformer:
    """The model of a task before its first step. ValueError for an unknown name."""
    recipe, sample = _recipe(name), circuit_tasks.task(name, rows=2)
    sizes = Configuration(
        name,
        sample.vocabulary,
        context=sample.positives.shape[1],
        layers=recipe.layers,
        hidden=recipe.hidden,
    )
    return CircuitTransformer(sizes, seed=recipe.seed if seed is None else seed)


def train(
    name: str,
    *,
    steps: int | None = None,
    seed: int | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> tuple[CircuitTransformer, list[float]]:
    """A model trained on one task, and its loss (nats an answer) at every step.

    Every batch is drawn anew, so nothing can be learned by heart. progress(step, steps, loss) is
    called after each step. ValueError for an unknown name.
    """
    recipe = _recipe(name)
    model = untrained(name, seed)

    def batches(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        drawn = circuit_tasks.TASKS[name](rng, recipe.batch)
        return drawn.positives, drawn.labels

    seen = fit(
        model,
        batches,
        recipe.steps if steps is None else steps,
        recipe.lr,
        clip=1.0,
        seed=recipe.seed if seed is None else seed,
        progress=progress,
    )
    return model.requires_grad_(False), seen


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise ValueError(f"task must be one of {', '.join(RECIPES)}, not {name!r}")
    return RECIPES[name]


def report(model: CircuitTransformer, rows: int = 1000) -> str:
    """One line of the card's table: size, accuracy, and what flattening each head costs."""
    task = model.task(rows, seed=1)
    c, size = model.configuration, sum(w.numel() for w in model.state_dict().values())
    worth = ablation(model, task, "flatten")
    order = np.argsort(-worth.ravel())[:3]
    top = ", ".join(f"L{i // c.heads}H{i % c.heads} {worth.ravel()[i]:.2f}" for i in order)
    kind = f"{c.layers} x {c.heads}" + (f", mlp {c.hidden}" if c.hidden else "")
    return f"| {c.task} | {kind} | {size} | {model.accuracy(task):.3f} | {top} |"


def main(arguments: list[str] | None = None) -> None:
    """The command line of `python -m attnlab.models.circuits`."""
    parser = argparse.ArgumentParser(prog="python -m attnlab.models.circuits")
    parser.add_argument("action", choices=("train", "report"))
    parser.add_argument("--task", choices=tuple(RECIPES), help="one task only; all without")
    parser.add_argument("--out", type=Path, default=data_dir() / "circuit_models")
    given = parser.parse_args(arguments)
    names = [given.task] if given.task else list(RECIPES)
    if given.action == "report":
        for name in names:
            print(report(load(name, given.out)))
        return
    others = [name for name in shipped() if name not in names]
    others = others if (given.out / "weights.npz").is_file() else []
    models = {name: load(name, given.out) for name in others}
    curves = {name: losses(name, given.out) for name in others}
    for name in names:
        began = time.process_time()

        def show(step: int, steps: int, loss: float) -> None:
            if step % 250 == 0 or step == steps:
                print(f"{name} {step}/{steps} loss {loss:.4f}", flush=True)  # noqa: B023

        models[name], seen = train(name, progress=show)
        whole = len(seen) // LOSS_EVERY * LOSS_EVERY
        curves[name] = np.reshape(seen[:whole], (-1, LOSS_EVERY)).mean(1)
        print(f"{name}: {time.process_time() - began:.0f} s of CPU time", flush=True)
    ordered = [name for name in RECIPES if name in models]
    path = save(
        [models[name] for name in ordered], given.out, {name: curves[name] for name in ordered}
    )
    print(f"written: {path} ({path.stat().st_size / 1e6:.2f} MB)")
    for name in names:
        print(report(load(name, given.out)))
