"""What the numbers were measured on: versions, threads, and the machine's own measured rates.

A share of a data-sheet's peak says little about a laptop on battery; a share of what the same
threads reach in the BLAS's matrix product, and in copying memory, says how far a kernel could go.
"""

from __future__ import annotations

import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Machine:
    """Identity of the machine and of the software; equal machines can resume each other's runs."""

    cpu: str
    cores: int
    threads: int
    memory_gib: float
    system: str
    python: str
    versions: dict[str, str]
    gpu: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Rates:
    """Measured with `threads` threads: FLOP/s of matrix products, bytes/s (read + written) of a copy."""

    sgemm: float
    dgemm: float
    copy: float

    def best(self, other: Rates) -> Rates:
        """The higher of each: a rate measured while another program ran is not what can be reached."""
        return Rates(
            max(self.sgemm, other.sgemm), max(self.dgemm, other.dgemm), max(self.copy, other.copy)
        )

    def __str__(self) -> str:
        return (
            f"sgemm {self.sgemm / 1e9:.0f} GFLOP/s, dgemm {self.dgemm / 1e9:.0f} GFLOP/s, "
            f"copy {self.copy / 1e9:.1f} GB/s"
        )

    def flops(self, dtype: str) -> float:
        return self.dgemm if dtype == "float64" else self.sgemm


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(threads: int, device: bool = False) -> Machine:
    """The machine, with `threads` threads in use; `device` names the CUDA device, too."""
    versions = {}
    for package in ("attnlab", "numpy", "numba", "torch"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return Machine(
        cpu=_cpu_model(),
        cores=cores(),
        threads=threads,
        memory_gib=round(total_memory() / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions=versions,
        gpu=_device_name() if device else "",
    )


def _device_name() -> str:
    from attnlab.kernels.cuda.device import simulated

    if simulated():
        return "Numba's simulator (its times mean nothing)"
    from numba import cuda

    name = cuda.get_current_device().name
    return name.decode() if isinstance(name, bytes) else str(name)


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown processor"


def _meminfo(field: str) -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def total_memory() -> int:
    """Bytes of memory; 8 GiB where the system does not say."""
    if (found := _meminfo("MemTotal")) is not None:
        return found
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 8 * 2**30


def available_memory() -> int:
    """Bytes that a new process could use, a container's limit included; half of all where unknown."""
    free = _meminfo("MemAvailable") or total_memory() // 2
    try:  # a container's limit (control groups, version 2)
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        free = min(free, int(limit) - used) if limit != "max" else free
    except (OSError, ValueError):
        pass
    return free


def power_caveat() -> str:
    """What is known of clock and load: they are reported, not controlled."""
    try:
        governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
        known = f"CPU governor {governor}"
    except OSError:
        known = "CPU governor unknown"
    text = f"{known}; clock, power and other programs are not controlled"
    if not hasattr(os, "getloadavg"):
        return text
    load = os.getloadavg()[0]
    busy = "; THE MACHINE IS BUSY: times will be too long" if load > cores() / 2 else ""
    return f"load average {load:.1f}, {text}{busy}"


def pin_threads(threads: int) -> ExitStack:
    """Every library that is loaded uses `threads` threads, until the stack is closed.

    Raises ValueError where Numba was started with fewer.
    """
    import sys

    from threadpoolctl import threadpool_limits

    stack = ExitStack()
    stack.enter_context(threadpool_limits(threads))
    if "numba" in sys.modules:
        import numba

        before = numba.get_num_threads()
        numba.set_num_threads(threads)
        stack.callback(numba.set_num_threads, before)
    if "torch" in sys.modules:
        import torch

        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(threads)
    return stack


def measure_rates(threads: int, seconds: float = 0.3, device: bool = False) -> Rates:
    """The best of as many tries as fit in `seconds` each: the rates that this machine can reach.

    The caller has pinned the threads. `device`: the rates of the CUDA device, by torch; where torch has
    none, the processor's.
    """
    if device:
        import torch

        if torch.cuda.is_available():
            return _device_rates(seconds)
    return Rates(_gemm(np.float32, seconds), _gemm(np.float64, seconds), _copy(threads, seconds))


def _device_rates(seconds: float, n: int = 4096, size: int = 2**30) -> Rates:
    import torch

    def done(call: Any) -> Any:
        def waited() -> None:
            call()
            torch.cuda.synchronize()

        return waited

    def gemm(dtype: Any) -> float:
        a = torch.randn(n, n, device="cuda", dtype=dtype)
        out = torch.empty_like(a)
        return 2 * n**3 / _best(done(lambda: torch.mm(a, a, out=out)), seconds)

    source = torch.ones(size // 4, device="cuda")
    target = torch.empty_like(source)
    copy = 2 * size / _best(done(lambda: target.copy_(source)), seconds)
    return Rates(gemm(torch.float32), gemm(torch.float64), copy)


def _gemm(dtype: Any, seconds: float, n: int = 1024) -> float:
    a = np.random.default_rng(0).standard_normal((n, n)).astype(dtype)
    out = np.empty_like(a)
    return 2 * n**3 / _best(lambda: np.matmul(a, a, out=out), seconds)


def _copy(threads: int, seconds: float, size: int = 128 * 2**20) -> float:
    # 128 MiB is beyond any cache; np.copyto lets go of the interpreter lock, so threads do share it
    source = np.ones(size // 8)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads)))
    with ThreadPoolExecutor(threads) as pool:
        best = _best(lambda: list(pool.map(lambda p: np.copyto(*p), parts)), seconds)
    return 2 * size / best


def _best(call: Any, seconds: float) -> float:
    call()
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        begun = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begun)
    return best
