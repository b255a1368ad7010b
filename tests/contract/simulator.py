"""Numba's CUDA simulator with one thread of a block running at a time.

Numba's own lets all of a block's threads run at once and polls them: they fight for the
interpreter, and which of them gets it is chance. Here a thread runs until it comes to a barrier or
its end, then another has its turn, in an order drawn anew after each barrier. That is several times
faster, the same every time, and kernels that miss a barrier get other results than the reference.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numba.cuda.simulator import kernel


class Turn(kernel.BlockThread):  # type: ignore[misc]
    """A CUDA thread that runs when it is told to."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.ended = False
        self._go, self._stop = threading.Semaphore(0), threading.Semaphore(0)

    def go(self) -> None:
        """Run until the next barrier or the end. Raises what the kernel raised."""
        if self.ident is None:
            self.start()
        else:
            self._go.release()
        self._stop.acquire()
        if self.exception:
            raise self.exception[0].with_traceback(self.exception[1])

    def run(self) -> None:
        super().run()  # keeps an exception
        self.ended = True
        self._stop.release()

    def syncthreads(self) -> None:
        self._stop.release()
        self._go.acquire()
        if self.abort:
            raise RuntimeError("another thread of the block failed")


class Turns(kernel.BlockManager):  # type: ignore[misc]
    """A block whose threads take turns."""

    def run(self, grid_point: tuple[int, ...], *args: Any) -> None:
        threads = [
            Turn(lambda: self._f(*args), self, grid_point, place, self._debug)
            for place in np.ndindex(*self._block_dim)
        ]
        rng = np.random.default_rng(list(grid_point))
        try:
            while alive := [thread for thread in threads if not thread.ended]:
                for i in rng.permutation(len(alive)):
                    alive[i].go()
        except BaseException:
            for thread in threads:
                thread.abort = True
                thread._go.release()
            raise


def install() -> None:
    """From here on the simulator's blocks take turns."""
    kernel.BlockManager = Turns
