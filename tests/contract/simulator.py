"""Numba's CUDA simulator with one thread of a block running at a time.

Numba's own lets all of a block's threads run at once and polls them: they fight for the
interpreter, and which of them gets it is chance. Here a thread runs until it comes to a barrier or
its end, then another has its turn, in an order drawn anew after each barrier. That is several times
faster, the same every time, and kernels that miss a barrier get other results than the reference.
Arrays and launches are refused where Numba and a device would refuse them.
"""

from __future__ import annotations

import threading
from typing import Any

import device_array
import numpy as np
from numba import cuda
from numba.cuda.simulator import kernel
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

from attnlab.kernels.cuda import device


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


def launch(fn: kernel.FakeCUDAKernel, *args: Any) -> Any:
    """Calls a kernel, which sees the memory of device arrays, or a device function."""
    if not fn._device:
        (x, *others), block = fn.grid_dim, fn.block_dim
        assert x > 0, "a grid without blocks cannot be launched"
        assert all(0 < side < 2**16 for side in others), f"a grid of {fn.grid_dim} is too large"
        assert np.prod(block) <= 1024, f"a block of {block} is too large"
        args = tuple(
            FakeCUDAArray(a.host) if isinstance(a, device_array.DeviceArray) else a for a in args
        )
    return CALL(fn, *args)


CALL = kernel.FakeCUDAKernel.__call__


def install() -> None:
    """From here on the simulator's blocks take turns, and its arrays are as strict as a device's."""
    kernel.BlockManager = Turns
    kernel.FakeCUDAKernel.__call__ = launch
    cuda.device_array, cuda.to_device = device_array.device_array, device_array.to_device
    device.POISON = False  # they are, by device_array
