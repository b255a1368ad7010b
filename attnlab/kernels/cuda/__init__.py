"""Building blocks for Numba CUDA; on a machine without a GPU they run in Numba's simulator.

device        arrays on the device, sizes of blocks
tiles         one TILE x TILE block: loads into shared memory, scores, online softmax
flash         dense attention in memory linear in n: causal, window, mask, bias
landmark      the two-level softmax of blocks and their landmarks; block_cache: decoding
clusters      routing to centroids, attention inside gathered clusters
sortlsh       buckets by signs of projections, attention of sorted blocks with samples
scan          causal linear attention in segments, with decay
matmul        matrix products; reshape: copies that rearrange arrays
reduce        sums and extremes over a block by a tree in shared memory
images        convolutions, pools, resampling, patches; nearest: the K nearest patches
"""
