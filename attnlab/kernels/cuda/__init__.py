"""Building blocks for Numba CUDA; on a machine without a GPU they run in Numba's simulator."""
