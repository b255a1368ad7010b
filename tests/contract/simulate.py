"""Run in a subprocess with NUMBA_ENABLE_CUDASIM=1: an exhibit's CUDA paths at small sizes.

    NUMBA_ENABLE_CUDASIM=1 python simulate.py NAME [--edges | --long]

prints one JSON object: what ran -> "ok" or what differs. That is every golden case and the
operation's example at n = 3 (or the least that its `vary` allows); with --edges the example across
the border of two tiles, n = 9, and the calls of cuda_edges.py; with --long the golden cases that
take minutes.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import properties
import simulator
from cuda_edges import EDGES

from attnlab.contract import Operation
from attnlab.registry import find
from attnlab.vectors import Case, hold, read

GOLDEN = Path(__file__).parent.parent / "golden"
LONG = ("sr_multi", "lrp_alex")
SIZES = {"": (3,), "--edges": (9,), "--long": ()}


def example(op: Operation, n: int) -> None:
    compare(op, properties.arguments(op, n=n), 1e-7, 1e-7)


def edge(op: Operation, label: str) -> None:
    kwargs = properties.arguments(op, n=5)
    kwargs |= EDGES[f"{op.exhibit.name}.{op.name}"](kwargs, np.random.default_rng(0))[label]
    kinds = {a.dtype.name for a in kwargs.values() if isinstance(a, np.ndarray)}
    compare(op, kwargs, *(op.tolerance if "float32" in kinds else (1e-7, 1e-7)))


def compare(op: Operation, kwargs: dict[str, Any], rtol: float, atol: float) -> None:
    made = properties.outputs(op, "cuda", kwargs)
    properties.close(made, properties.reference(op, "cuda", kwargs), rtol, atol)


def main(name: str, flag: str = "") -> None:
    operations = {op.name: op for op in find(name).operations if "cuda" in op.paths}
    file = GOLDEN / f"{name}.npz"
    cases = [c for c in (read(file) if file.exists() else []) if c.operation in operations]
    results: dict[str, str] = {}

    def run(what: str, check: Callable[[], None]) -> None:
        try:
            check()
            results[what] = "ok"
        except Exception:
            results[what] = traceback.format_exc()

    def golden(case: Case) -> None:
        assert not [result for result in hold(case, "cuda") if not result.ok]

    for case in cases:
        if (case.name in LONG) == (flag == "--long") and flag != "--edges":
            run(f"{case.operation}: {case.name}", lambda case=case: golden(case))
    for op in operations.values():
        for n in SIZES[flag]:
            run(f"{op.name}: n = {n}", lambda op=op, n=n: example(op, n))
        draw = EDGES.get(f"{name}.{op.name}") if flag == "--edges" else None
        for label in draw(properties.arguments(op, n=5), np.random.default_rng(0)) if draw else ():
            run(f"{op.name}: {label}", lambda op=op, label=label: edge(op, label))
    print(json.dumps(results))


if __name__ == "__main__":
    simulator.install()
    main(*sys.argv[1:])
