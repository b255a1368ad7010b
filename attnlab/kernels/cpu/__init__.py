"""Numba building blocks for the CPU paths.

A mechanism's `cpu.py` composes these blocks as module-level functions under one top-level kernel:

    runtime       the decorators `kernel` and `block`, the cache folder, threads, work sharing
    scratch       uninitialised memory that the tests can poison with NaN
    blas          C += A B on tiles with any row stride, without temporaries
    exp           exp, tanh, sigmoid, silu that LLVM turns into vector instructions
    softmax       row, online (tiled) and segment softmax
    flash         dense attention in memory linear in n: causal, window, mask, bias
    relative      the same with relative-position scores read along diagonals
    gather        attention between lists of queries and lists of keys
    scan          causal linear attention in chunks
    topk          top-k of rows and columns, counting sort
    hashing       sign-projection buckets
    kmeans        one step of spherical k-means
    suffix_array  suffix array, Burrows-Wheeler transform, rank queries

Passing a compiled function as an argument, or closing over one, defeats the cache on disk and costs
seconds in every process: call blocks by their module-level names.
"""
