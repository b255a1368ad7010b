"""Run in a subprocess with NUMBA_ENABLE_CUDASIM=1: the smallest case of an exhibit's CUDA paths.

    NUMBA_ENABLE_CUDASIM=1 python simulate.py NAME

prints one JSON object: operation -> "ok" or what differs. The size is the operation's example
at n = 3 (or the least that its `vary` allows) and, where a golden case exists, its smallest one.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

import properties
import simulator

from attnlab.registry import find
from attnlab.vectors import hold, read

GOLDEN = Path(__file__).parent.parent / "golden"


def main(name: str) -> None:
    exhibit = find(name)
    results = {}
    file = GOLDEN / f"{name}.npz"
    cases = read(file) if file.exists() else []
    for op in exhibit.operations:
        if "cuda" not in op.paths:
            continue
        try:
            kwargs = properties.arguments(op, n=3)
            properties.close(
                properties.outputs(op, "cuda", kwargs),
                properties.reference(op, "cuda", kwargs),
                1e-7,
                1e-7,
            )
            own = [c for c in cases if c.operation == op.name]
            if own:
                smallest = min(own, key=lambda c: sum(a.size for a in c.arrays["in"].values()))
                assert not [r for r in hold(smallest, "cuda") if not r.ok], smallest.name
            results[op.name] = "ok"
        except Exception:
            results[op.name] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    simulator.install()
    main(sys.argv[1])
