"""Trains the small language model: from a text, with a fixed seed, resumable, stoppable.

Everything random in step s follows from (seed, s), so that a run which was cut off and resumed from
its checkpoint gives the weights that the run in one piece would have given.

One window in `repeats` is not text but random tokens, the second half a copy of the first. Nothing
but the earlier occurrence predicts them; it was hoped that induction heads (Olsson et al.,
"In-context learning and induction heads", 2022) would form on them sooner than on text alone.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import cos, log, pi
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.models.language import Configuration, LanguageModel, load
from attnlab.models.tokenizer import Tokenizer

# A model that 45 seconds on two cores can train.
QUICK = Configuration(width=64, layers=2, heads=4, hidden=128, context=128, dropout=0.0)


@dataclass(frozen=True)
class Progress:
    """Where a training run is; losses in nats per byte, validation None where not measured."""

    step: int
    steps: int
    loss: float
    validation: float | None
    seconds: float


def train(
    text: str,
    *,
    steps: int = 2000,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    validation: str | None = None,
    configuration: Configuration = QUICK,
    merges: int = 768,
    batch: int = 8,
    lr: float = 3e-3,
    weight_decay: float = 0.3,
    repeats: int = 8,
    seconds: float | None = None,
    evaluate_every: int = 100,
    checkpoint: Path | None = None,
) -> LanguageModel:
    """Train on a text and return the weights that did best on the validation text.

    validation: held-out text, by default the last tenth of `text`.
    seconds: stop after this long and finish the learning rate's descent by then; None: all steps.
    checkpoint: a file to resume from where it exists and to keep up to date; removed at the end.
    Ctrl-C ends training early and returns the best weights so far.
    ValueError when the text is shorter than a few windows.
    """
    if validation is None:
        cut = text.rfind("\n", 0, len(text) * 9 // 10) + 1 or len(text) * 9 // 10
        text, validation = text[:cut], text[cut:]
    torch.manual_seed(seed)
    tokenizer = Tokenizer.train(text, merges)
    model = LanguageModel(tokenizer, configuration)
    ids = model.encode(text)
    if len(ids) < 4 * configuration.context or len(model.encode(validation)) < 2:
        raise ValueError(
            f"the text has {len(ids)} tokens; training needs at least {4 * configuration.context}"
        )
    matrices = [w for w in model.parameters() if w.ndim == 2]
    scales = [w for w in model.parameters() if w.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": weight_decay}, {"params": scales, "weight_decay": 0}],
        lr=lr,
        betas=(0.9, 0.98),
    )
    settings = repr(
        (
            crc32(text.encode()),
            merges,
            steps,
            seed,
            configuration,
            batch,
            lr,
            weight_decay,
            repeats,
        )
    )
    bytes_per_token = len(text.encode()) / len(ids)
    best, best_weights, first = float("inf"), copy.deepcopy(model.state_dict()), 0
    if checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state.get("settings") == settings:  # otherwise it is of another run: begin anew
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            first, best, best_weights = state["step"], state["best"], state["best_weights"]

    start, average = time.monotonic(), 0.0
    model.train()
    try:
        for step in range(first, steps):
            elapsed = time.monotonic() - start
            done = step / steps if seconds is None else max(step / steps, elapsed / seconds)
            if done >= 1:
                break
            torch.manual_seed(seed * 1_000_003 + step + 1)
            for group in optimizer.param_groups:
                group["lr"] = lr * learning_rate(step, done)
            x, y = windows(ids, batch, configuration.context, len(tokenizer), repeats)
            loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten(), ignore_index=-1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            average += (loss.item() - average) / min(step - first + 1, 50)

            measured = None
            if (step + 1) % evaluate_every == 0 or step + 1 == steps:
                measured = model.loss(validation)
                if measured < best:
                    best, best_weights = measured, copy.deepcopy(model.state_dict())
                if checkpoint is not None:
                    _write(
                        checkpoint,
                        settings=settings,
                        model=model.state_dict(),
                        optimizer=optimizer.state_dict(),
                        step=step + 1,
                        best=best,
                        best_weights=best_weights,
                    )
            if progress is not None:
                seen = time.monotonic() - start
                progress(Progress(step + 1, steps, average / bytes_per_token, measured, seen))
        if seconds is not None and model.loss(validation) < best:
            best_weights = model.state_dict()
    except KeyboardInterrupt:
        pass  # the reader has seen enough: what was best so far is the result
    else:
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
    model.load_state_dict(best_weights)
    return model.eval()


def learning_rate(step: int, done: float) -> float:
    """Share of the peak rate: 100 steps of warm-up, then a cosine down to 2 per cent."""
    return min((step + 1) / 100, 0.02 + 0.98 * (1 + cos(pi * done)) / 2)


def windows(
    ids: Tensor, batch: int, context: int, vocabulary: int, repeats: int
) -> tuple[Tensor, Tensor]:
    """Random windows (batch, context) and the next tokens; -1 where none is to be predicted."""
    starts = torch.randint(len(ids) - context, (batch, 1))
    w = ids[starts + torch.arange(context + 1)]  # (batch, context + 1)
    x, y = w[:, :-1].clone(), w[:, 1:].clone()
    if repeats:
        rows = torch.rand(batch) < 1 / repeats
        x[rows], y[rows] = repeated(int(rows.sum()), context, vocabulary)
    return x, y


def repeated(batch: int, context: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Windows whose second half copies a first half of random tokens; -1 where none could know."""
    half = context // 2
    w = torch.randint(vocabulary, (batch, half)).repeat(1, 3)[:, : context + 1]
    x, y = w[:, :-1], w[:, 1:].clone()
    y[:, : half - 1] = -1
    return x, y


def _write(path: Path, **state: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half_written = path.with_suffix(".part")
    torch.save(state, half_written)
    os.replace(half_written, path)  # a cut-off write must not spoil the checkpoint


def main() -> None:
    """`python -m attnlab.models.language train`: the shipped weights, from the shipped settings."""
    from rich.progress import Progress as Bar
    from rich.progress import TextColumn, TimeElapsedColumn

    from attnlab.datasets.python_reference import python_reference
    from attnlab.paths import cache_dir, data_dir

    parser = argparse.ArgumentParser(prog="python -m attnlab.models.language")
    commands = parser.add_subparsers(required=True, dest="command", metavar="train | report")
    command = commands.add_parser("train", help="train the shipped model anew")
    command.add_argument("--out", type=Path, default=data_dir() / "language_model")
    command.add_argument("--steps", type=int, default=1500)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--threads", type=int, default=2)
    commands.add_parser("report", help="what the shipped model and simpler ones pay for a text")
    options = parser.parse_args()
    if options.command == "report":
        report(load())
        return
    torch.set_num_threads(options.threads)

    corpus = python_reference()
    state = cache_dir() / f"language_model-{options.steps}-{options.seed}.pt"
    with Bar(
        *Bar.get_default_columns(), TimeElapsedColumn(), TextColumn("{task.fields[note]}")
    ) as bar:
        task = bar.add_task("training", total=options.steps, note="")
        held_out = ["…"]

        def show(p: Progress) -> None:
            if p.validation is not None:
                held_out[0] = f"{p.validation / log(2):.3f}"
            note = f"{p.loss / log(2):.3f} bits a byte, held out {held_out[0]}"
            bar.update(task, completed=p.step, note=note)

        model = train(
            corpus.train,
            validation=corpus.validation,
            steps=options.steps,
            seed=options.seed,
            configuration=Configuration(),
            progress=show,
            checkpoint=state,
        )
    model.save(options.out)
    report(model)
    print(f"weights and vocabulary are in {options.out}")


def report(model: LanguageModel) -> None:
    """Prints bits per byte of the model and of its baselines."""
    from attnlab.datasets.python_reference import python_reference
    from attnlab.models.baselines import baselines

    corpus = python_reference()
    scores = {
        "this model, training text": model.loss(corpus.train) / log(2),
        "this model, held-out text": model.loss(corpus.validation) / log(2),
    }
    for name, bits in (scores | baselines(*corpus)).items():
        print(f"{bits:6.3f} bits a byte  {name}")
