"""CUDA paths in Numba's simulator at tiny sizes, and on a GPU where there is one.

The simulator must be chosen before Numba is imported, hence one subprocess an exhibit. What ran
only there is reported as not run on hardware (see conftest.py), never as passed on a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import properties
import pytest

from attnlab.contract import BackendUnavailable, Operation, as_dtype
from attnlab.registry import exhibits

CUDA = [op for exhibit in exhibits() for op in exhibit.operations if "cuda" in op.paths]
HERE = Path(__file__).parent
SEARCH = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.parametrize("name", sorted({op.exhibit.name for op in CUDA}))
def test_simulated(name: str) -> None:
    simulate(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({op.exhibit.name for op in CUDA}))
def test_simulated_edges(name: str) -> None:
    simulate(name, "--edges")


@pytest.mark.slow
def test_simulated_long() -> None:
    simulate("salient_relevance", "--long")


def simulate(name: str, *flags: str) -> None:
    env = os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": SEARCH}
    done = subprocess.run(
        [sys.executable, str(HERE / "simulate.py"), name, *flags],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert results
    assert results == dict.fromkeys(results, "ok"), "\n".join(
        v for v in results.values() if v != "ok"
    )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", CUDA, ids=lambda op: f"{op.exhibit.name}.{op.name}")
def test_on_gpu(op: Operation, dtype: str) -> None:
    kwargs = properties.arguments(op, n=65, dtype=dtype)
    try:
        made = properties.outputs(op, "cuda", kwargs)
    except BackendUnavailable as why:
        pytest.skip(str(why))
    rtol, atol = op.tolerance if dtype == "float32" else (1e-8, 1e-8)
    properties.close(
        made, properties.reference(op, "cuda", as_dtype(kwargs, "float64")), rtol, atol
    )


def nvvm_home() -> str | None:
    """The folder of a CUDA toolkit whose libNVVM Numba can load; None where there is none."""
    for home in (
        os.environ.get("CUDA_HOME"),
        *map(str, sorted(Path("/usr/local").glob("cuda*"), reverse=True)),
    ):
        if home and any(Path(home).rglob("libnvvm.so*")):
            return home
    return None


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", sorted({op.exhibit.name for op in CUDA}))
def test_compiles_to_ptx(name: str, dtype: str) -> None:
    """Types and shared memory as for real hardware: every kernel goes through NVIDIA's compiler."""
    compile_kernels(name, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name",
    [
        "attention",
        "music_transformer",
        "hyper_attention",
        "moh",
        "landmark",
        "routing",
        "lightning",
    ],
)
def test_wide_heads_compile_to_ptx(name: str, dtype: str) -> None:
    """Heads wider than shared memory, and of a float64 state that does not fit there."""
    dim = {"lightning": 128}.get(name, 400)
    compile_kernels(name, dtype, f"dim={dim}", f"head_dim={dim}")


def compile_kernels(name: str, dtype: str, *sizes: str) -> None:
    home = nvvm_home()
    if home is None:
        pytest.skip("no libNVVM (a CUDA toolkit) to compile kernels with")
    env = os.environ | {"CUDA_HOME": home, "PYTHONPATH": SEARCH}
    done = subprocess.run(
        [sys.executable, str(HERE / "compile_ptx.py"), name, dtype, *sizes],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    failed = [v for v in results.values() if not isinstance(v, int)]
    assert not failed, "\n".join(failed)
    assert all(count > 0 for count in results.values()), results
