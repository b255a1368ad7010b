"""Building blocks that the fast paths share: `cpu` for Numba on the CPU, `cuda` for Numba CUDA.

Importing this package imports nothing else; a path file imports the blocks that it composes.
"""
