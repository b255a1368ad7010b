"""Wide heads on CUDA: in the simulator, with little shared memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CONTRACT = HERE.parent / "contract"


def run(script: str, **env: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(CONTRACT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, str(HERE / script)],
        env=os.environ | {"PYTHONPATH": path} | env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_slices_of_wide_heads() -> None:
    results = run("cuda_slices.py", NUMBA_ENABLE_CUDASIM="1")
    assert len(results) == 9
    assert results == dict.fromkeys(results, "ok"), "\n".join(
        v for v in results.values() if v != "ok"
    )
