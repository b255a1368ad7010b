"""A whole data set through everything, one record a text: streamed, resumable, in bounded memory.

A text's record holds scores and every metric; it is on disk, in a file of JSON lines, before the next
window of texts begins. Tables are made from records one by one (summary.py), so that neither the
run nor the tables hold more than a window of texts.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attnlab.contract import InputError
from attnlab.datasets.labelled import Bad, Row, read
from attnlab.explain import agreement, faithfulness, plausibility
from attnlab.explain.attribute import Explained, explain
from attnlab.explain.controls import randomisation, randomised
from attnlab.explain.problem import Output, class_of
from attnlab.explain.registry import METHODS, select
from attnlab.explain.replacement import Replacement
from attnlab.models.classifier import Classifier, Encoded
from attnlab.paths import cache_dir

FLOOR = "random"
WINDOW = 64  # texts that are worked on, and lost when interrupted, together
GRID = 11  # points of a stored curve, from no token gone to all
Record = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What a run is of; a run with the same settings and files can be resumed.

    data, format: as `attnlab.datasets.labelled.read`. limit: how many texts, drawn at random by the
    seed; None takes all. most_tokens: longer texts are left out and counted, as in the study of Neely et al. (240).
    seeds: how many seeds random methods are averaged over.
    """

    data: str
    model: str
    format: str = "auto"
    methods: tuple[str, ...] = ()
    limit: int | None = None
    target: str | None = None
    output: Output = "probability"
    replacement: Replacement = "pad"
    seed: int = 0
    seeds: int = 1
    most_tokens: int = 240
    controls: bool = True

    @property
    def names(self) -> list[str]:
        """The methods, and the floor under them."""
        return list(dict.fromkeys([*(m.name for m in select(self.methods)), FLOOR]))


@dataclass
class Found:
    """What reading the file came to: how many texts there are, which are taken, what was wrong."""

    texts: int = 0
    taken: frozenset[int] | None = None
    bad: int = 0
    first_bad: list[Bad] = field(default_factory=list)

    @property
    def planned(self) -> int:
        return self.texts if self.taken is None else len(self.taken)


def look(settings: Settings) -> Found:
    """Reads the file once: counts, and draws `limit` lines by reservoir sampling (Vitter, 1985)."""
    found = Found()
    drawn: list[int] = []
    rng = random.Random(settings.seed)
    for row in read(settings.data, settings.format):
        if isinstance(row, Bad):
            found.bad += 1
            if len(found.first_bad) < 10:
                found.first_bad.append(row)
            continue
        found.texts += 1
        if settings.limit is None:
            continue
        if len(drawn) < settings.limit:
            drawn.append(row.line)
        elif (place := rng.randrange(found.texts)) < settings.limit:
            drawn[place] = row.line
    found.taken = None if settings.limit is None else frozenset(drawn)
    return found


def rows(settings: Settings, found: Found) -> Iterator[Row]:
    """The texts that are taken, in the file's order."""
    for row in read(settings.data, settings.format):
        if isinstance(row, Row) and (found.taken is None or row.line in found.taken):
            yield row


class Cache:
    """The records of a run: a file of JSON lines in the user's cache."""

    def __init__(self, settings: Settings, model: Classifier) -> None:
        file = Path(settings.data).resolve()
        about = asdict(settings) | {"methods": settings.names, "data": str(file)}
        state = [file.stat().st_size, file.stat().st_mtime_ns, fingerprint(model)]
        key = json.dumps([about, state], sort_keys=True)
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        self.path = cache_dir() / "explain" / f"{name}.jsonl"

    def __iter__(self) -> Iterator[Record]:
        """The records so far, one for each text, also where two runs wrote at once; what was cut off
        is left out."""
        if not self.path.is_file():
            return
        seen: set[int] = set()
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                with suppress(json.JSONDecodeError):
                    record = json.loads(line)
                    if isinstance(record, dict) and record["line"] not in seen:
                        seen.add(record["line"])
                        yield _with_nan(record)

    def begin(self, resume: bool) -> set[int]:
        """The lines that are done already: those of the last run where it is resumed."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            self.path.write_text("", encoding="utf-8")
            return set()
        done: set[int] = set()
        fresh = self.path.with_suffix(".new")
        with fresh.open("w", encoding="utf-8") as file:  # rewritten without a cut last line
            for record in self:
                done.add(record["line"])
                file.write(_line(record))
        fresh.replace(self.path)
        return done

    def add(self, records: list[Record]) -> None:
        """Appends records; they are on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, records)))


def fingerprint(model: Classifier) -> str:
    """A hash of the weights: a model that was trained on is another model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def run(
    settings: Settings,
    model: Classifier,
    found: Found,
    cache: Cache,
    *,
    resume: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Makes every missing record; the number that was there already. KeyboardInterrupt loses one window."""
    target = None if settings.target is None else class_of(model, settings.target)
    done = cache.begin(resume)
    kept = count = len(done)
    progress(count)
    other = randomised(model, settings.seed) if settings.controls else None
    window: list[Row] = []

    def work() -> None:
        nonlocal count, window
        cache.add(examine(settings, model, other, window, target))
        count += len(window)
        window = []
        progress(count)

    for row in rows(settings, found):
        if row.line in done:
            continue
        window.append(row)
        if len(window) == WINDOW:
            work()
    if window:
        work()
    return kept


def examine(
    settings: Settings,
    model: Classifier,
    other: Classifier | None,
    window: list[Row],
    target: int | None,
) -> list[Record]:
    """The records of a window of texts; a text that is left out has a record that says why."""
    records: dict[int, Record] = {}
    texts: list[tuple[Row, Encoded]] = []
    for row in window:
        try:
            encoded = model.encode(row.text)
        except ValueError as error:
            records[row.line] = {"line": row.line, "skipped": str(error)}
            continue
        if len(encoded) > settings.most_tokens:
            why = f"more than {settings.most_tokens} tokens"
            records[row.line] = {"line": row.line, "skipped": why}
        else:
            texts.append((row, encoded))
    if texts:
        for record in _records(settings, model, other, texts, target):
            records[record["line"]] = record
    return [records[row.line] for row in window]


def _records(
    settings: Settings,
    model: Classifier,
    other: Classifier | None,
    texts: list[tuple[Row, Encoded]],
    target: int | None,
) -> list[Record]:
    runs = []
    for seed in range(settings.seed, settings.seed + settings.seeds):
        done = explain(
            model, [e for _, e in texts], settings.names,
            target=target, output=settings.output, seed=seed,
        )  # fmt: skip
        faithful, curves = _faithful(model, done, settings.replacement, seed)
        changed: list[dict[str, float]] = (
            [{} for _ in done]
            if other is None
            else randomisation(other, done, output=settings.output, seed=seed)
        )
        runs.append(
            [
                _metrics(row, one, metrics, points, rho)
                for (row, _), one, metrics, points, rho in zip(
                    texts, done, faithful, curves, changed
                )
            ]
        )
    first = runs[0]
    for place, record in enumerate(first):
        for part in ("agreement", "faithfulness", "curves", "plausibility", "changed"):
            record[part] = _mean([one[place][part] for one in runs])
    return first


def _faithful(
    model: Classifier, done: list[Explained], replacement: Replacement, seed: int
) -> tuple[list[dict[str, dict[str, float]]], list[dict[str, dict[str, list[float]]]]]:
    texts, targets = [one.text for one in done], [one.target for one in done]
    rankings = [
        {name: np.nan_to_num(a.signed, nan=0.0) for name, a in one.attributions.items()}
        for one in done
    ]
    metrics, stored = [], []
    both = faithfulness.curves_and_effects(model, texts, targets, rankings, replacement, seed)
    for one, (curves, effects) in zip(done, both):
        attributions = one.attributions.items()
        metrics.append(
            {
                name: faithfulness.measure(one.text, one.target, a.signed, curves[name], effects)
                for name, a in attributions
            }
        )
        stored.append(
            {
                name: {
                    side: _on_grid(getattr(curves[name], side)[:, one.target])
                    for side in ("deletion", "insertion")
                }
                for name, _ in attributions
            }
        )
    return metrics, stored


def _on_grid(p: np.ndarray) -> list[float]:
    """A curve at equal shares of the tokens, whatever the length of the text."""
    at = np.interp(np.linspace(0, 1, GRID), np.linspace(0, 1, len(p)), p)
    return [round(float(x), 5) for x in at]


def _metrics(
    row: Row,
    one: Explained,
    faithful: dict[str, dict[str, float]],
    curves: dict[str, dict[str, list[float]]],
    changed: dict[str, float],
) -> Record:
    unsigned = [a.unsigned for a in one.attributions.values()]
    upper = np.triu_indices(len(unsigned), 1)
    own = ~one.text.special
    plausible = {}
    if row.rationale is not None:
        words = one.text.words
        rationale = plausibility.by_token(words, row.rationale)[own]
        plausible = {
            name: plausibility.measure(a.unsigned[own], rationale)
            for name, a in one.attributions.items()
        }
    return {
        "line": row.line,
        "text": row.text if len(row.text) <= 400 else row.text[:397] + "...",
        "label": row.label,
        "predicted": one.predicted,
        "target": one.target,
        "probability": float(one.probabilities[one.target]),
        "tokens": len(one.text),
        "seconds": one.seconds,
        "scores": {n: [float(f"{s:.5g}") for s in a.signed] for n, a in one.attributions.items()},
        "agreement": {m: agreement.matrix(unsigned, m)[upper].tolist() for m in agreement.MEASURES},
        "faithfulness": faithful,
        "curves": curves,
        "plausibility": plausible,
        "changed": changed,
    }


def _mean(values: list[Any]) -> Any:
    """The mean over the seeds, number by number; NaN where one is undefined."""
    if len(values) == 1:
        return values[0]
    if isinstance(values[0], dict):
        return {key: _mean([v[key] for v in values]) for key in values[0]}
    if isinstance(values[0], list):
        return [_mean(list(v)) for v in zip(*values)]
    return sum(values) / len(values)


def _line(record: Record) -> str:
    return json.dumps(_without_nan(record), ensure_ascii=False, allow_nan=False) + "\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    return [_without_nan(v) for v in value] if isinstance(value, list) else value


def _with_nan(value: Any) -> Any:
    if value is None:
        return math.nan
    if isinstance(value, dict):
        return {k: _with_nan(v) for k, v in value.items()}
    return [_with_nan(v) for v in value] if isinstance(value, list) else value


def check(settings: Settings) -> None:
    """What can be refused before the model is loaded."""
    if not settings.methods or set(settings.names) == {FLOOR}:
        raise InputError("bench compares methods: name at least one beside the random floor")
    if settings.output not in ("probability", "logit"):
        raise InputError(f"output must be probability or logit, but is {settings.output!r}")
    assert all(name in METHODS for name in settings.names)
