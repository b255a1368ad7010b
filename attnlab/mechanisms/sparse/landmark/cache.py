"""The bookkeeping of the block cache, which every path does on the host: nothing but integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Layout:
    """What a chunk finds: which blocks are cached, how long the tail is, where all of it stands.

    seen: tokens before the chunk, landmarks counted; block: b; topk: K; capacity: R or None.
    """

    seen: int
    block: int
    topk: int
    capacity: int | None

    @property
    def full(self) -> int:
        """Full blocks ever seen; the cache holds first .. full-1 of them."""
        return self.seen // self.block

    @property
    def first(self) -> int:
        return 0 if self.capacity is None else max(0, self.full - self.capacity)

    @property
    def blocks(self) -> int:
        return self.full - self.first

    @property
    def tail(self) -> int:
        return self.seen % self.block

    @property
    def start(self) -> int:
        """Position of the chunk's first token; the tail stands just before it."""
        return min(self.full, self.topk + 1) * self.block + self.tail

    @property
    def chosen(self) -> int:
        """Blocks retrieved for a query: K, or all there are."""
        return min(self.topk, self.blocks)

    @property
    def slots(self) -> np.ndarray:
        """(blocks,) the K newest blocks have slots 1..K, all older ones share slot 0."""
        return np.maximum(np.arange(self.blocks) - (self.blocks - self.topk) + 1, 0)

    @property
    def landmark_positions(self) -> np.ndarray:
        return self.slots * self.block + self.block - 1

    @property
    def local_positions(self) -> np.ndarray:
        """(tail,) positions of the tail; the chunk's follow from start."""
        return np.arange(self.start - self.tail, self.start)

    def retrieved_positions(self, chosen: np.ndarray) -> np.ndarray:
        """Key positions (..., chosen, block) of blocks numbered in the cache's order, sorted."""
        base = np.where(self.slots[chosen] > 0, self.block, 0)
        rank = np.arange(chosen.shape[-1]) * self.block
        return (base + rank)[..., None] + np.arange(self.block)

    def flags(self, chunk: np.ndarray) -> np.ndarray:
        """is_landmark of a row [retrieved | tail | chunk]: in a tail there is none."""
        retrieved = np.arange(self.chosen * self.block) % self.block == self.block - 1
        return np.concatenate([retrieved, np.zeros(self.tail, bool), np.asarray(chunk, bool)])
