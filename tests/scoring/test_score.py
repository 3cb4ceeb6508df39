import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from mendiff.errors import InputError
from mendiff.scoring.score import pooled_max, top_k_mean, top_share_mean


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 50), st.integers(0, 2**31))
def test_top_k_is_the_mean_of_the_largest(height, width, k, seed):
    maps = torch.randn(
        3, 1, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    expected = [np.sort(one.numpy().ravel())[::-1][:k].mean() for one in maps]
    np.testing.assert_allclose(top_k_mean(maps, k).numpy(), expected, rtol=1e-12)


def test_top_share_averages_at_least_one_pixel(rng):
    maps = torch.randn(2, 1, 20, 50, generator=rng)
    assert torch.equal(top_share_mean(maps, 0.02), top_k_mean(maps, 20))
    assert torch.equal(top_share_mean(maps, 1e-9), maps.amax((1, 2, 3)))
    torch.testing.assert_close(top_share_mean(maps, 1.0), maps.mean((1, 2, 3)))


def test_pooling_shrinks_the_map_by_window_minus_one_per_round(rng):
    # 256 pixels would become 200; 8 rounds of 8 need at least 57.
    maps = torch.randn(2, 1, 57, 57, dtype=torch.float64, generator=rng)
    value = maps.numpy()
    for _ in range(8):
        value = ndimage.uniform_filter(value, (1, 1, 8, 8), origin=(0, 0, -4, -4))[..., :-7, :-7]
    assert value.shape == (2, 1, 1, 1)
    np.testing.assert_allclose(pooled_max(maps).numpy(), value[:, 0, 0, 0], atol=1e-12)


def test_pooled_maximum_detects_the_defect_of_each_image():
    maps = torch.zeros(2, 1, 64, 64)
    maps[0, :, 5:40, 5:40] = 1.0
    maps[1, :, 20:62, 20:62] = 3.0
    low, high = pooled_max(maps, window=4, rounds=2).tolist()
    assert low == pytest.approx(1)
    assert high == pytest.approx(3)


def test_map_too_small_for_the_pooling_is_refused():
    assert pooled_max(torch.ones(1, 1, 57, 57)).shape == (1,)
    with pytest.raises(InputError, match=r"image size: expected at least 57 pixels .* got 56; choose larger"):
        pooled_max(torch.ones(1, 1, 60, 56))
