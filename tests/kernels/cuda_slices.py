"""Run in a subprocess with NUMBA_ENABLE_CUDASIM=1: heads too wide for a block's shared memory.

A few bytes of shared memory make small heads wide: kernels then walk through them in slices of
columns. Prints one JSON object: call -> "ok" or what differs.
"""

from __future__ import annotations

import json
import traceback
from typing import Any

import numpy as np
import properties
import simulator
from numba import cuda

from attnlab.kernels.cuda import device

device.SHARED_BYTES = 800  # before a kernel's file takes it over
from attnlab.registry import find  # noqa: E402

TILE = 4  # the simulator's
HEADS = {"batch": 1, "heads": 2}
CALLS: dict[str, dict[str, Any]] = {
    "attention.attend": HEADS | {"dim": 9, "kv_heads": 1, "causal": True},
    "music_transformer.relative_attend": HEADS | {"dim": 6, "value_dim": 9, "on_values": True},
    "moh.attend": {"batch": 1, "n_head": 2, "head_dim": 9, "n_shared": 1, "top_k": 1},
    "hyper_attention.attend": HEADS | {"dim": 9, "block_size": 4, "sample_size": 3},
    "landmark.attend": HEADS | {"dim": 10, "block": 2},
    "routing.attend": HEADS | {"dim": 10, "keys": 6, "slots": 1},
    "lightning.attend": HEADS
    | {"dim": 7, "value_dim": 5, "block": 4},  # the state alone is too large
}


def call(name: str, sizes: dict[str, Any]) -> None:
    exhibit, _, operation = name.partition(".")
    op = find(exhibit).operation(operation)
    kwargs = properties.arguments(op, n=TILE + 1, **sizes)
    made = properties.outputs(op, "cuda", kwargs)
    properties.close(made, properties.reference(op, "cuda", kwargs), 1e-9, 1e-9)


def hidden_and_undefined() -> None:
    """A row that a bias of -inf hides is 0, its weights too; a NaN makes its row NaN, not 0."""
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 1, 3, 2))
    bias = np.zeros((1, 1, 3, 3))
    bias[0, 0, 0] = -np.inf
    q[0, 0, 1, 0] = np.nan
    run = find("attention").run
    for backend in ("numpy", "cuda"):
        out, weights = run(backend=backend, q=q, k=k, v=v, bias=bias, want=["weights"])
        for made in (out, weights):
            assert (made[0, 0, 0] == 0).all(), backend
            assert np.isnan(made[0, 0, 1]).all(), backend
        np.testing.assert_allclose(weights[0, 0, 2].sum(), 1)


def device_arrays_with_gaps() -> None:
    """Views of arrays on the device are copied: Numba reshapes none that has gaps."""
    rows = np.random.default_rng(0).standard_normal((1, 2, 5, 8))
    sizes = {"block_size": 2, "sample_size": 1, "min_seq_len": 2}
    run = find("hyper_attention").run
    on_device = cuda.to_device(rows)[:, :, :, ::4]
    made = run(backend="cuda", **dict.fromkeys("qkv", on_device), **sizes)
    expected = run(**dict.fromkeys("qkv", rows[:, :, :, ::4]), **sizes)
    np.testing.assert_allclose(made.out.copy_to_host(), expected.out, 1e-9, 1e-9)


def main() -> None:
    simulator.install()
    results = {}
    checks = {name: lambda n=name, s=sizes: call(n, s) for name, sizes in CALLS.items()}
    checks["hidden and undefined rows"] = hidden_and_undefined
    checks["device arrays with gaps"] = device_arrays_with_gaps
    for name, check in checks.items():
        try:
            check()
            results[name] = "ok"
        except Exception:
            results[name] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
