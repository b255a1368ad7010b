"""How kernels are compiled, cached on disk and run on threads.

from attnlab.kernels.cpu.runtime import block, kernel, single_threaded_blas

@block                      # a piece, compiled into whatever calls it
def scale_rows(x, s): ...

@kernel                     # what Python calls: parallel, releases the GIL, cached
def attend_kernel(q, k, v, out): ...

def attend(q, k, v):        # the wrapper
    with single_threaded_blas():
        attend_kernel(q, k, v, out)
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.registry import CPUDispatcher
from numba.core.types.containers import Tuple, UniTuple
from numba.core.types.misc import unliteral
from numba.extending import intrinsic
from numba.np.ufunc import parallel

POISON = os.environ.get("ATTNLAB_POISON", "") == "1"
"""Fill scratch memory with NaN, so that reading what was never written shows. Fixed at import."""

# Without nnan and ninf: masked scores are -inf, and a NaN in the input must reach the output.
FASTMATH = frozenset({"nsz", "arcp", "contract", "afn", "reassoc"})


# Only `prange` is parallel. Otherwise Numba turns every np.zeros and array expression of a kernel
# into a parallel loop of its own, which costs seconds to compile.
PARALLEL = dict.fromkeys(
    ("comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion"), False
) | {"prange": True}


@cache
def cache_dir() -> Path:
    """The folder of the compiled kernels: `ATTNLAB_CACHE_DIR` or the user's cache, then a hash.

    Numba recompiles when a kernel's own file changes, but does not see edits in files that it
    imports, so the folder's name is a hash of everything that goes into the machine code: these
    files, Numba, the processor. CUDA's kernels are no part of it.
    """
    root = os.environ.get("ATTNLAB_CACHE_DIR")
    if root is None:
        import platformdirs

        root = platformdirs.user_cache_dir("attnlab", appauthor=False)
    return Path(root) / "numba" / _fingerprint()


def _fingerprint() -> str:
    import llvmlite.binding as llvm

    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    features = llvm.get_host_cpu_features().flatten()
    for part in (numba.__version__, llvm.get_host_cpu_name(), features, str(POISON)):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


@contextmanager
def _caching_here() -> Iterator[None]:
    """Numba chooses a function's cache folder when it is decorated; other code keeps its own."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(cache_dir())
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


def _compiled(function: Callable | None, options: dict[str, Any]) -> Any:
    if function is None:
        return lambda f: _compiled(f, options)
    with _caching_here():
        return numba.njit(**options)(function)


def kernel(function: Callable | None = None, **options: Any) -> Any:
    """Compile a top-level kernel: parallel (`numba.prange`), nogil, fast maths, cached on disk.

    Bare, or with Numba's options: `@kernel(parallel=False)`.
    """
    defaults = {
        "parallel": dict(PARALLEL),
        "nogil": True,
        "fastmath": set(FASTMATH),
        "no_cfunc_wrapper": True,
    }
    return _compiled(function, {"cache": True, "error_model": "numpy", **defaults, **options})


def block(function: Callable | None = None, **options: Any) -> Any:
    """Compile a building block: called from kernels (LLVM inlines it), cached on disk.

    Bare, or with Numba's options: `@block(fastmath=False)`.
    """
    if function is None:
        return lambda f: block(f, **options)
    defaults = {"nogil": True, "fastmath": set(FASTMATH)}
    targets = {"nopython": True, "boundscheck": None, "error_model": "numpy", **defaults, **options}
    with _caching_here():
        made = _Block(function, targetoptions=targets)
        made.enable_caching()
    return made


class _Block(CPUDispatcher):
    """A compiled function without the entry points for Python and C, a fifth of its compile time.

    Where Python calls one all the same (tests do), a form with an entry point is compiled. That one
    is not cached: both would have the same key.
    """

    def __init__(self, function: Callable, targetoptions: dict[str, Any]) -> None:
        without = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        super().__init__(function, targetoptions=targetoptions | without)
        self._entry: Any = None
        self._asked = targetoptions

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """Numba would compile a form of its own for every constant that is passed."""
        return super().get_call_template(
            [_without_constants(a) for a in args],
            {name: _without_constants(a) for name, a in kws.items()},
        )

    def __call__(self, *args: Any) -> Any:
        if self._entry is None:
            self._entry = CPUDispatcher(self.py_func, targetoptions=self._asked)
        return self._entry(*args)


def _without_constants(kind: Any) -> Any:
    """The Numba type without the values of literals, inside plain tuples (shapes) too."""
    if isinstance(kind, Tuple | UniTuple):
        return Tuple([_without_constants(part) for part in kind])
    return unliteral(kind)


def worker(function: Callable | None = None, **options: Any) -> Any:
    """Compile what each thread of `run_workers` runs: like `kernel`, without `prange`.

    Compiles in a third of the time, because Numba optimises the body of a `prange` loop anew at
    each of the layers that it wraps around it.
    """
    return kernel(function, **{"parallel": False, **options})


# --- threads ---------------------------------------------------------------------------------


def threads() -> int:
    """How many threads the kernels run on.

    Numba is asked only once its own threads run: the question starts them, and with them OpenMP's,
    which torch in the same process would then use whatever it was set to.
    """
    if getattr(parallel, "_is_initialized", True):
        return numba.get_num_threads()
    return numba.config.NUMBA_NUM_THREADS


def set_threads(n: int) -> None:
    """Run the kernels on n threads, 1 <= n <= the cores Numba found; ValueError otherwise."""
    if not 1 <= n <= numba.config.NUMBA_NUM_THREADS:
        raise ValueError(f"threads must be 1 to {numba.config.NUMBA_NUM_THREADS}, not {n}")
    numba.set_num_threads(n)


_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)  # threads do not survive a fork


def run_workers(function: Callable[..., None], *args: Any, workers: int | None = None) -> None:
    """Call a `worker` with the same arguments on several threads at once; return when all are done.

    The arguments hold a counter (`np.zeros(1, np.int64)`), from which each call takes pieces of
    the work with `fetch_add` until none is left; every call must do well if it finds none. The
    calling thread works too, and calls that no thread has begun when it is done are dropped: on
    short inputs nothing waits for a thread to wake up.
    """
    global _pool
    others = (threads() if workers is None else workers) - 1
    if others > 0 and _pool is None:
        _pool = ThreadPoolExecutor(numba.config.NUMBA_NUM_THREADS, "attnlab")
    futures = [_pool.submit(function, *args) for _ in range(others)] if _pool else []
    try:
        function(*args)
    finally:
        for future in futures:
            if not future.cancel():
                future.result()


@intrinsic
def fetch_add(typingctx, counter, value):
    """fetch_add(counter, value): atomically add to the int64 array's first element; the old value.

    Threads that take their next piece of work from one counter finish together even when pieces
    differ in cost (causal tiles) or a core is busy elsewhere.
    """
    if not (isinstance(counter, types.Array) and counter.dtype == types.int64):
        return None

    def codegen(context, builder, signature, args):
        array = cgutils.create_struct_proxy(counter)(context, builder, args[0])
        amount = context.cast(builder, args[1], signature.args[1], types.int64)
        assert isinstance(array.data.type, ir.PointerType)
        return builder.atomic_rmw("add", array.data, amount, "monotonic")

    return types.int64(counter, value), codegen


# --- arrays ----------------------------------------------------------------------------------


def contiguous(array: np.ndarray, dtype: np.typing.DTypeLike | None = None) -> np.ndarray:
    """The array itself if it is C-contiguous, writable and of that dtype, else a copy that is.

    A kernel has one compiled form for each dtype; strided or read-only input would add more.
    """
    return np.require(array, dtype, ["C", "W", "A"])


# --- BLAS ------------------------------------------------------------------------------------


class _BlasLimit:
    """Sets scipy's BLAS, the one that compiled code calls, to one thread while anyone needs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before: list[int] = []

    @cache  # noqa: B019 -- one instance, for the life of the process
    def _libraries(self) -> list[Any]:
        import scipy.linalg.cython_blas  # loads the library that Numba looks up
        from threadpoolctl import ThreadpoolController

        try:
            found = ThreadpoolController().select(user_api="blas").lib_controllers
        except PermissionError:  # a sandbox hides what is loaded: the environment's threads hold
            return []
        # numpy's own copy stays as it is: compiled code never calls it. Where the two share one
        # library (conda, macOS Accelerate), that one is set.
        of_scipy = [lib for lib in found if "numpy.libs" not in Path(lib.filepath).parts]
        assert scipy.linalg.cython_blas is not None
        return of_scipy

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._before = [lib.get_num_threads() for lib in self._libraries()]
                for lib in self._libraries():
                    lib.set_num_threads(1)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                for lib, count in zip(self._libraries(), self._before):
                    lib.set_num_threads(count)


_BLAS_LIMIT = _BlasLimit()


def single_threaded_blas() -> _BlasLimit:
    """A context in which matrix products inside kernels use one thread each.

    Kernels are parallel over tiles already; a BLAS that starts threads of its own inside `prange`
    oversubscribes the cores. Nests, and may be entered from several threads. About 2 µs.
    """
    return _BLAS_LIMIT
