"""Numba building blocks for the CPU paths.

A mechanism's `cpu.py` composes these blocks as module-level functions under one top-level `worker`,
called by `run_workers` on every thread (it compiles in a third of the time of a `kernel` with `prange`):

    runtime       the decorators `kernel`, `worker`, `block`; cache folder, threads, shared counters
    scratch       uninitialised memory that the tests can poison with NaN
    blas          C += A B on tiles with any row stride, without temporaries
    product       many rows times one matrix, on the kernels' own threads
    exp           exp, tanh, sigmoid, silu that LLVM turns into vector instructions
    softmax       row, online (tiled) and segment softmax
    flash         dense attention in memory linear in n: causal, window, mask, bias
    relative      the same with relative-position scores read along diagonals
    clusters      routing to centroids, attention inside gathered clusters
    sortlsh       attention of blocks sorted by bucket, with samples
    landmark      the two-level softmax of blocks and their landmarks; block_cache: decoding
    scan          causal linear attention in chunks, with decay
    topk          top-k of rows and columns, stable counting sort
    hashing       buckets by signs of projections, Gray order
    kmeans        one step of spherical k-means
    kendall       Kendall's tau of many pairs of vectors
    attention_graph  one row of a product of attention matrices, maximum flows through layers
    bilstm        a BiLSTM with additive attention at many points between a text and its baselines
    suffix_array  suffix array, Burrows-Wheeler transform, rank queries

Passing a compiled function as an argument, or closing over one, defeats the cache on disk and costs
seconds in every process: call blocks by their module-level names.
"""
