"""The simulator's device arrays do what Numba's do, and refuse the rest."""

from __future__ import annotations

import numpy as np
import pytest
from device_array import device_array, to_device

HOST = np.arange(24.0).reshape(2, 3, 4)


def test_cut_and_reshaped() -> None:
    a = to_device(HOST)
    np.testing.assert_array_equal(a[1].reshape(2, 6).copy_to_host(), HOST[1].reshape(2, 6))
    np.testing.assert_array_equal(a[:, 1:].copy_to_host(), HOST[:, 1:])
    assert a[1, 2, 3] == 23
    a[0].host[...] = -1  # what a kernel writes to a part is in the whole
    assert (a.copy_to_host()[0] == -1).all()
    assert HOST[0, 0, 0] == 0


def test_without_axes() -> None:
    made = device_array((), np.float32)
    assert np.isnan(made.copy_to_host())
    assert device_array(1, np.float32).reshape(()).shape == ()


def test_refused() -> None:
    with pytest.raises(NotImplementedError):
        to_device(HOST)[:, 1].reshape(8)
    with pytest.raises(NotImplementedError):
        device_array((2, 0, 6)).reshape(2, 0, 3, 2)
    with pytest.raises(TypeError):
        to_device(HOST) * 2
    with pytest.raises(AttributeError):
        to_device(HOST).max()
