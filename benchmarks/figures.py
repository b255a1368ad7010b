"""What the scripts of this folder share: figures with a limit, printed, saved and judged alike.

Each script measures one group of figures with one command and ends with exit code 1 where a figure is
missed. `--json FILE` keeps the numbers. Timings want a quiet machine: the load is printed with them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # a checkout that is not installed works, too


def parser(description: str | None) -> argparse.ArgumentParser:
    """Options every script has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path, help="write the figures to this file")
    made.add_argument("--threads", type=int, default=2, help="threads of every path (2)")
    return made


@dataclass
class Figures:
    """Rows of (what, seen, limit, whether it holds)."""

    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self, what: str, seen: float | None, limit: str, holds: bool | None, note: str = ""
    ) -> None:
        """One figure, printed at once; `holds` None is for what has no limit or could not be measured."""
        self.rows.append({"what": what, "seen": seen, "limit": limit, "holds": holds, "note": note})
        word = {True: "ok", False: "MISSED", None: "–"}[holds]
        value = "not measured" if seen is None or not math.isfinite(seen) else f"{seen:.3g}"
        print(f"{what:<58} {value:>12}  {limit:<14} {word:<6} {note}".rstrip(), flush=True)

    def end(self, path: Path | None) -> int:
        """Saves the figures; 1 where any is missed."""
        missed = sum(row["holds"] is False for row in self.rows)
        judged = sum(row["holds"] is not None for row in self.rows)
        print(f"{judged - missed} of {judged} figures hold")
        if path is not None:
            load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
            table = asdict(self) | {"load": load, "machine": machine()}
            path.write_text(json.dumps(table, indent=1), encoding="utf-8")
        return 1 if missed else 0


def machine(threads: int = 2) -> dict[str, Any]:
    from attnlab.bench.machine import describe

    return describe(threads).as_dict()


def start(title: str, threads: int) -> Figures:
    """Prints what is being measured on what, and how busy that is."""
    from attnlab.bench.machine import describe, power_caveat

    here = describe(threads)
    print(f"{title}\n{here.cpu}, {here.cores} cores, {threads} threads; {power_caveat()}\n")
    return Figures(title)


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def operations(names: Sequence[str] = ()) -> list[tuple[str, str]]:
    """(exhibit, operation) of every operation with a cpu path."""
    from attnlab import registry

    return [
        (exhibit.name, op.name)
        for exhibit in (map(registry.find, names) if names else registry.exhibits())
        for op in exhibit.operations
        if "numba" in op.paths
    ]
