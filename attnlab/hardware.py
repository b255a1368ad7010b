"""Is there a CUDA device, or its simulator, and if not, why not?"""

from __future__ import annotations

import os


def simulated() -> bool:
    """Whether Numba's CUDA simulator was chosen; it must be before numba is first imported."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


def reason() -> str | None:
    """None where CUDA kernels can run, else one sentence that says why they cannot."""
    from numba import cuda

    if simulated():
        return None
    try:
        if cuda.is_available():
            return None
        cuda.detect()
    except Exception as error:
        words = " ".join(str(error).split())
        if "library cannot be found" in words:
            words = "the NVIDIA driver library was not found"
        return f"no CUDA device: {words.rstrip(' :')}"
    return (
        "no CUDA device was found; set NUMBA_ENABLE_CUDASIM=1 before starting Python to run "
        "kernels in Numba's simulator (tiny sizes only)"
    )
