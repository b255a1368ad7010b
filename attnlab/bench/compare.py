"""This run against an earlier one's JSON: faster, slower, or no difference seen."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attnlab.bench import fit
from attnlab.bench.fit import Interval
from attnlab.bench.records import Point, Results

# Two runs differ by more than their samples show (clock, memory layout): smaller differences than
# this are not called differences.
LEAST = 0.03


class CompareError(ValueError):
    """The file to compare with cannot be used; the message says why."""


@dataclass(frozen=True)
class Change:
    """One point in both runs. `ratio` is new time over old, with its bootstrap interval."""

    point: Point
    old: float
    ratio: Interval
    verdict: str


def read(path: Path) -> dict[str, Any]:
    """The earlier run. Raises CompareError naming what is wrong with the file."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CompareError(f"no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CompareError(f"cannot read {path} ({error})") from None
    except json.JSONDecodeError as error:
        raise CompareError(f"{path} is not JSON (line {error.lineno})") from None
    points = table.get("points") if isinstance(table, dict) else None
    if not isinstance(points, list) or table.get("kind") != "attnlab bench":
        raise CompareError(f"{path} is no result of attnlab bench --json")
    needed = {"exhibit", "operation", "causal", "backend", "n", "samples"}
    if not all(isinstance(p, dict) and needed <= p.keys() for p in points):
        raise CompareError(f"{path}: a point lacks one of {', '.join(sorted(needed))}")
    return table


def verdict(new: list[float], old: list[float], seed: int = 0) -> tuple[Interval, str]:
    """(new / old, what can be said).

    A difference is one only if the bootstrap interval of the ratio leaves out 1, the runs' p20–p80
    do not overlap, and it is at least LEAST.
    """
    ratio = fit.ratio(new, old, seed)
    if math.isinf(ratio.high):
        return ratio, "too few samples"
    (new_low, new_high), (old_low, old_high) = (np.quantile(x, (0.2, 0.8)) for x in (new, old))
    if ratio.high < 1 and new_high < old_low and ratio.value <= 1 - LEAST:
        return ratio, "faster"
    if ratio.low > 1 and new_low > old_high and ratio.value >= 1 + LEAST:
        return ratio, "slower"
    return ratio, "no difference seen"


def against(results: Results, earlier: dict[str, Any]) -> tuple[list[Change], list[str]]:
    """Changes of the points in both, and what a reader must know to believe them."""
    old = {
        (p["exhibit"], p["operation"], p["causal"], p["backend"], p["n"]): p["samples"]
        for p in earlier["points"]
        if p["samples"]
    }
    changes = []
    for point in results.points:
        key = (point.exhibit, point.operation, point.causal, point.backend, point.n)
        if point.measured and key in old:
            ratio, word = verdict(point.samples, old[key])
            changes.append(Change(point, statistics.median(old[key]), ratio, word))
    return changes, _caveats(results, earlier, changes)


def _caveats(results: Results, earlier: dict[str, Any], changes: list[Change]) -> list[str]:
    notes = [] if changes else ["no point is in both runs"]
    then, now = earlier.get("machine", {}), results.machine.as_dict()
    differs = [k for k in ("cpu", "cores", "threads", "gpu") if then.get(k) != now.get(k)]
    if differs:
        notes.append(f"the earlier run had another {', '.join(differs)}: this compares machines")
    versions = then.get("versions", {})
    changed = [
        f"{k} {versions.get(k)} → {v}" for k, v in now["versions"].items() if versions.get(k) != v
    ]
    if changed:
        notes.append(f"versions changed: {', '.join(changed)}")
    asked, mine = earlier.get("settings", {}), results.settings
    other = [
        k
        for k, v in {
            "dtype": mine.dtype,
            "sizes_set": dict(mine.sizes_set),
            "seed": mine.seed,
        }.items()
        if k in asked and asked[k] != v
    ]
    if other:
        notes.append(f"the earlier run had other {', '.join(other)}: points are not the same work")
    return notes
