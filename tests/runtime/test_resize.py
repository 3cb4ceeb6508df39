import platform

import numpy as np
import pytest

from mendiff.data.images import resize
from mendiff.runtime.resize import resized

SIZES = [(40, 40), (64, 64), (97, 131), (300, 64), (64, 300), (257, 1024), (700, 500), (1000, 33)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [32, 64, 224])
def test_resizing_equals_that_of_the_package(size, side):
    levels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = resize(levels, side).numpy()
    values = np.ascontiguousarray(levels.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)
    found = resized(values, side, side)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-7)
    if platform.machine() == "x86_64":  # every bit counts: the 8-bit pixels seed the noise
        np.testing.assert_array_equal(found, expected)


def test_an_image_of_that_size_stays_as_it_is():
    values = np.random.default_rng(0).random((3, 8, 8), dtype=np.float32)
    assert resized(values, 8, 8) is values
