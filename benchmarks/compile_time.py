"""First call of every cpu path: compiled in a fresh process, then loaded in the next.

    python benchmarks/compile_time.py [NAME…]

Each operation is called once with an empty cache folder (limit 15 s) and once more in a new process
that finds the folder filled (limit 0.3 s). Imports, the module of the path included, come before the
clock starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time

import figures

COMPILE, LOAD = 15.0, 0.3  # seconds
N = 64


def child(exhibit: str, operation: str, dtype: str, threads: int) -> None:
    """Prints seconds and CPU seconds of the first call, and the cache folder, as JSON."""
    from attnlab import registry
    from attnlab.bench.inputs import Target, caller, draw, prepare, sizes_of
    from attnlab.bench.timing import once

    import numba  # isort: skip

    import attnlab.kernels.cpu.runtime as runtime

    numba.set_num_threads(threads)
    with runtime.single_threaded_blas():  # loads the BLAS that kernels call
        pass
    target = Target(exhibit, operation)
    sizes = sizes_of(target, {})
    made, _ = prepare(target, "numpy", N, dtype, 0, sizes)
    kwargs = made | draw(target, N, dtype, 0, sizes)
    call = caller(target, "numba", kwargs, device=False)
    registry.find(exhibit).function(operation, "numba")
    # the folder's name is a hash of the kernels' sources: it tells when they changed in between
    begun = time.process_time()
    took = once(call)[0]
    print(json.dumps([took, time.process_time() - begun, runtime.cache_dir().name]))


def seconds(
    exhibit: str, operation: str, dtype: str, threads: int, cache: str
) -> tuple[float | None, float, str]:
    """Seconds and CPU seconds of the first call in a new process; the cache folder it used."""
    environment = {**os.environ, "ATTNLAB_CACHE_DIR": cache, "ATTNLAB_POISON": ""}
    command = [sys.executable, __file__, "--child", exhibit, operation, dtype, str(threads)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1], file=sys.stderr)
        return None, 0.0, ""
    return tuple(json.loads(done.stdout))


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:5], int(sys.argv[5]))
        return 0
    parser = figures.parser(__doc__)
    parser.add_argument("names", nargs="*", help="exhibits; all without")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    asked = parser.parse_args()
    table = figures.start("First call of each cpu path, seconds", asked.threads)
    begun = time.perf_counter()
    for exhibit, operation in figures.operations(asked.names):
        with tempfile.TemporaryDirectory() as cache:
            work = (exhibit, operation, asked.dtype, asked.threads, cache)
            compiled, cpu_compiled, before = seconds(*work)
            loaded, cpu_loaded, after = seconds(*work)
            changed = "" if before == after else "; kernels were edited meanwhile: compiled again"
            for what, took, cpu, limit in (
                ("compiled", compiled, cpu_compiled, COMPILE),
                ("next process", loaded, cpu_loaded, LOAD),
            ):
                holds = took is not None and took < limit
                table.add(
                    f"{exhibit} {operation}, {what}",
                    took,
                    f"< {limit} s",
                    holds,
                    f"CPU {cpu:.2f} s{changed}",
                )
    compiled = sum(r["seen"] or 0 for r in table.rows if r["what"].endswith("compiled"))
    print(f"compiling all: {compiled:.0f} s; this run: {time.perf_counter() - begun:.0f} s")
    return table.end(asked.json)


if __name__ == "__main__":
    sys.exit(main())
