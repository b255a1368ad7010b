"""Run in a subprocess: compile every CUDA kernel of an exhibit to PTX, with no GPU present.

    CUDA_HOME=… python compile_ptx.py NAME float32|float64 [SIZE=NUMBER …]

Numba's compiler needs only libNVVM, so types, shared-memory sizes and intrinsics are checked as
for real hardware (the simulator checks none of them). Launches are replaced by compilation and
device arrays by NumPy arrays, so the paths' own Python runs but computes nothing. Prints one
JSON object: operation -> number of kernels compiled, or what failed.
"""

from __future__ import annotations

import json
import re
import sys
import traceback
from types import SimpleNamespace
from typing import Any

import numpy as np
import properties
from numba import cuda, typeof
from numba.cuda import dispatcher

CAPABILITY = (8, 0)
SINGLE = (
    "attnlab.kernels.cuda.block_cache", "attnlab.kernels.cuda.clusters", "attnlab.kernels.cuda.flash",
    "attnlab.kernels.cuda.images._add_bias", "attnlab.kernels.cuda.images._pool", "attnlab.kernels.cuda.images._taps",
    "attnlab.kernels.cuda.images._unpool", "attnlab.kernels.cuda.landmark", "attnlab.kernels.cuda.matmul",
    "attnlab.kernels.cuda.nearest", "attnlab.kernels.cuda.scan", "attnlab.kernels.cuda.sortlsh",
    "attnlab.layers.cuda", "attnlab.mechanisms.dense.moh.cuda._attention",
    "attnlab.mechanisms.dense.music_transformer", "attnlab.mechanisms.dense.pointer_network.cuda._score",
    "attnlab.mechanisms.mixer.extractors",
)  # fmt: skip


class DeviceArray(np.ndarray):
    """A NumPy array with the few methods of a device array."""

    def copy_to_host(self, ary: Any = None, stream: int = 0) -> np.ndarray:
        return np.zeros(self.shape, self.dtype)

    def copy_to_device(self, ary: Any, stream: int = 0) -> None:
        np.asarray(ary)


def device(array: Any, *_: Any, **__: Any) -> DeviceArray:
    return np.array(array).view(DeviceArray)


def inspect(name: str, ptx: str, doubles: bool) -> None:
    """Raises AssertionError where a block would need more shared memory than it is given unasked,
    or, in the kernels that everything is built of, float32 is computed in float64: most GPUs do
    that at a thirtieth of the speed.
    """
    shared = sum(map(int, re.findall(r"\.shared[^;\n]*\[(\d+)\]", ptx)))
    assert shared <= 48 * 1024, f"{name}: {shared} bytes of shared memory"
    if not doubles and name.startswith(SINGLE):
        found = re.findall(r"\b(?:add|sub|mul|fma|div|cvt|sqrt|rcp)\.[\w.]*f64.*", ptx)
        assert not found, f"{name}: float64 in a float32 kernel: {found[0]}"


def install(compiled: list[str]) -> None:
    """Replace launches, allocation and the device itself."""
    from attnlab import hardware

    hardware.reason = lambda: None
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=CAPABILITY)
    cuda.to_device = device
    cuda.device_array = lambda shape, dtype=np.float64, **_: device(np.zeros(shape, dtype))
    cuda.device_array_like = lambda a, **_: device(np.zeros(a.shape, a.dtype))
    cuda.synchronize = lambda: None

    def launch(self: Any, *args: Any) -> None:
        plain = [np.asarray(a) if isinstance(a, np.ndarray) and a.ndim else a for a in args]
        signature = tuple(typeof(a) for a in plain)
        fn = self.dispatcher.py_func
        ptx, _ = cuda.compile_ptx(fn, signature, cc=CAPABILITY)
        inspect(
            f"{fn.__module__}.{fn.__qualname__}", ptx, any("float64" in str(t) for t in signature)
        )
        compiled.append(fn.__qualname__)

    dispatcher._LaunchConfiguration.__init__ = lambda self, disp, *_: setattr(
        self, "dispatcher", disp
    )  # type: ignore[assignment]
    dispatcher._LaunchConfiguration.__call__ = launch  # type: ignore[method-assign]


def main(name: str, dtype: str, *given: str) -> None:
    """Sizes that an operation does not have leave it as it is."""
    from attnlab.registry import find

    compiled: list[str] = []
    install(compiled)
    results: dict[str, Any] = {}
    for op in (o for o in find(name).operations if "cuda" in o.paths):
        before = len(compiled)
        try:
            sizes = {k: int(v) for k, v in (pair.split("=") for pair in given) if k in op.sizes}
            kwargs = properties.arguments(op, n=17, dtype=dtype, **sizes)
            op.exhibit.run(op.name, backend="cuda", want="all", **kwargs)
            results[op.name] = len(compiled) - before
        except Exception:
            results[op.name] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
