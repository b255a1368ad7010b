"""The simulator's blocks take turns: barriers hold, a missing one shows, errors come out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json
import numpy as np
import simulator
from numba import cuda, float64

simulator.install()

def reversal(barrier):
    @cuda.jit
    def kernel(x, out, fail):
        shared = cuda.shared.array(16, float64)
        i, block = cuda.threadIdx.x, cuda.blockIdx.x
        for turn in range(3):
            shared[i] = x[block, i] + turn
            if barrier:
                cuda.syncthreads()
            out[block, i] += shared[15 - i]
            cuda.syncthreads()
        if fail and i == 7:
            raise ValueError("seven")
        if i < 8:
            return  # those that are left meet at the barrier without it
        cuda.syncthreads()
        cuda.atomic.add(out, (block, 0), 0.0)
    return kernel

x = np.random.default_rng(0).normal(size=(4, 16))

def run(barrier, fail=False):
    out = np.zeros_like(x)
    reversal(barrier)[4, 16](x, out, fail)
    return out

expected = 3 * x[:, ::-1] + 3
try:
    run(True, fail=True)
    said = ""
except ValueError as error:
    said = str(error)
print(json.dumps({
    "right": bool(np.allclose(run(True), expected)),
    "wrong": bool(np.allclose(run(False), expected)),
    "same": bool(np.array_equal(run(False), run(False))),
    "said": said,
}))
"""


def test_turns() -> None:
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": here},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["right"]
    assert told["same"]
    assert not told["wrong"]
    assert "seven" in told["said"]
    assert "tid=[7, 0, 0]" in told["said"]
