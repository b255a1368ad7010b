"""Device arrays for the simulator that can do what Numba's own can, and no more.

The simulator's arrays are NumPy's in disguise. Real ones have neither arithmetic nor methods like
`max`, are reshaped only where nothing must be copied, and where they hold no elements they can
hardly be cut or reshaped at all. The rules here are Numba's: its own bookkeeping of shapes and
strides, loaded from its file. What is not written yet holds NaN (integers: the smallest).
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np


def _bookkeeping() -> Any:
    """numba.cuda.cudadrv.dummyarray, in whose place the simulator puts an empty module."""
    path = Path(numba.__file__).parent / "cuda" / "cudadrv" / "dummyarray.py"
    spec = importlib.util.spec_from_file_location("dummyarray", path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Shape = _bookkeeping().Array


class Memory(NamedTuple):
    """Bytes on the device; None where an array without elements has no address."""

    data: np.ndarray | None
    start: int = 0

    def view(self, start: int, stop: int) -> Memory:
        if self.data is None:
            if start != stop:
                raise RuntimeError("non-empty slice into empty slice")
            return self
        return Memory(self.data, self.start + start)


class DeviceArray:
    """numba.cuda.cudadrv.devicearray.DeviceNDArray, on the host."""

    __cuda_ndarray__ = True

    def __init__(
        self, shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any, memory: Memory
    ):
        self.shape, self.strides, self.dtype = tuple(shape), tuple(strides), np.dtype(dtype)
        self.ndim, self.size = len(self.shape), math.prod(self.shape)
        self._dummy = Shape.from_desc(0, self.shape, self.strides, self.dtype.itemsize)
        self._memory = memory if self.size else Memory(None)

    @property
    def host(self) -> np.ndarray:
        """The array itself, where the simulator's kernels read and write it."""
        if not self.size:
            return np.empty(self.shape, self.dtype)
        data, start = self._memory
        return np.ndarray(self.shape, self.dtype, data, start, self.strides)

    def is_c_contiguous(self) -> bool:
        return self._dummy.is_c_contig

    def copy_to_host(self) -> np.ndarray:
        return self.host.copy()

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.copy_to_host() if dtype is None else self.copy_to_host().astype(dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def reshape(self, *shape: Any) -> DeviceArray:
        if len(shape) == 1 and isinstance(shape[0], tuple | list):
            shape = tuple(shape[0])
        if shape == self.shape:
            return DeviceArray(self.shape, self.strides, self.dtype, self._memory)
        new, extents = self._dummy.reshape(*shape)
        if extents != [self._dummy.extent]:
            raise NotImplementedError("operation requires copying")
        return DeviceArray(new.shape, new.strides, self.dtype, self._memory)

    def __getitem__(self, item: Any) -> Any:
        new = self._dummy[item]
        extents = list(new.iter_contiguous_extent())
        memory = self._memory.view(*(extents[0] if len(extents) == 1 else new.extent))
        if not new.is_array:
            return DeviceArray((), (), self.dtype, memory).host[()]
        return DeviceArray(new.shape, new.strides, self.dtype, memory)

    def __setitem__(self, item: Any, value: Any) -> None:
        self.host[item] = value.host if isinstance(value, DeviceArray) else value


def device_array(shape: tuple[int, ...] | int, dtype: Any = np.float64) -> DeviceArray:
    """cuda.device_array, filled with what no kernel should read."""
    shape, dtype = (shape,) if isinstance(shape, int) else tuple(shape), np.dtype(dtype)
    strides = [dtype.itemsize]
    for side in reversed(shape[1:]):
        strides.insert(0, strides[0] * side)
    made = np.empty(math.prod(shape), dtype)
    made[...] = np.nan if dtype.kind == "f" else np.iinfo(dtype).min if dtype.kind == "i" else True
    return DeviceArray(shape, tuple(strides[: len(shape)]), dtype, Memory(made.view(np.uint8)))


def to_device(array: Any) -> DeviceArray:
    """cuda.to_device: a copy."""
    if isinstance(array, DeviceArray):
        return array
    copy = np.array(array)
    if not copy.flags.contiguous and not copy.flags.f_contiguous:
        raise ValueError("an array with gaps cannot be copied to the device")
    made = DeviceArray(
        copy.shape, copy.strides, copy.dtype, Memory(np.zeros(copy.nbytes, np.uint8))
    )
    if copy.size:
        made.host[...] = copy
    return made
