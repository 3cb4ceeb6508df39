import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from mendiff.errors import InputError
from mendiff.scoring.maps import (
    cosine_map,
    gaussian_blur,
    gaussian_kernel,
    multi_scale_pixel_map,
    nearest_patch_map,
    object_mask,
    pixel_map,
)

shapes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))
seeds = st.integers(0, 2**31)


def two(shape, seed):
    return torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(u, v):
    return float(u @ v / (u.norm() * v.norm()))


@given(shapes, seeds)
def test_nearest_patch_equals_a_double_loop(shape, seed):
    ours, theirs = two(shape, seed)
    batch, _, height, width = shape
    expected = torch.empty(2, batch, height * width, dtype=torch.float64)
    for b in range(batch):
        u, v = ours[b].flatten(1).T, theirs[b].flatten(1).T
        for i in range(height * width):
            expected[0, b, i] = min(1 - cosine(u[i], other) for other in v)
            expected[1, b, i] = min(1 - cosine(other, v[i]) for other in u)
    expected = expected.view(2, batch, 1, height, width)
    torch.testing.assert_close(nearest_patch_map(ours, theirs), expected[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(nearest_patch_map(ours, theirs, reverse=True), expected[1], rtol=0, atol=1e-12)


@given(shapes, seeds)
def test_cosine_equals_its_formula(shape, seed):
    ours, theirs = two(shape, seed)
    dot = (ours * theirs).sum(1, keepdim=True)
    norms = ours.norm(dim=1, keepdim=True) * theirs.norm(dim=1, keepdim=True)
    torch.testing.assert_close(cosine_map(ours, theirs), 1 - dot / norms, rtol=0, atol=1e-9)


def test_equal_features_have_distance_zero_and_opposite_features_two(rng):
    x = torch.randn(2, 8, 4, 4, generator=rng)
    for distance in (cosine_map, nearest_patch_map):
        torch.testing.assert_close(distance(x, x), torch.zeros(2, 1, 4, 4), rtol=0, atol=1e-6)
    torch.testing.assert_close(cosine_map(x, -x), torch.full((2, 1, 4, 4), 2.0), rtol=0, atol=1e-6)


def test_zero_features_give_finite_maps():
    x = torch.zeros(1, 3, 2, 2)
    for distance in (cosine_map, nearest_patch_map):
        assert torch.equal(distance(x, x), torch.ones(1, 1, 2, 2))


@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    sigma=st.floats(0.3, 8),
    radius=st.integers(0, 30),
    mode=st.sampled_from(["reflect", "symmetric"]),
    seed=seeds,
)
def test_blur_equals_scipy_also_for_kernels_wider_than_the_image(height, width, sigma, radius, mode, seed):
    image = np.random.default_rng(seed).normal(size=(1, 2, height, width))
    # scipy calls the mirror that leaves out the edge pixel "mirror" and the one that repeats it "reflect".
    theirs = {"reflect": "mirror", "symmetric": "reflect"}[mode]
    expected = ndimage.gaussian_filter(
        image, (0, 0, sigma, sigma), mode=theirs, radius=(0, 0, radius, radius)
    )
    blurred = gaussian_blur(torch.from_numpy(image), sigma, 2 * radius + 1, mode=mode)
    np.testing.assert_allclose(blurred.numpy(), expected, rtol=0, atol=1e-10)


def test_blur_reaches_four_sigma_by_default(rng):
    image = torch.randn(1, 1, 40, 40, dtype=torch.float64, generator=rng)
    expected = ndimage.gaussian_filter(image.numpy(), (0, 0, 2, 2), mode="mirror", truncate=4)
    np.testing.assert_allclose(gaussian_blur(image, 2.0).numpy(), expected, rtol=0, atol=1e-12)


def test_no_blur_returns_the_input(rng):
    image = torch.randn(1, 1, 5, 5, generator=rng)
    assert torch.equal(gaussian_blur(image, 0.0, 49), image)


def test_even_kernel_is_refused():
    with pytest.raises(InputError, match="odd kernel length, got 48"):
        gaussian_blur(torch.rand(1, 1, 9, 9), 6.0, 48)


@given(st.floats(0.1, 20), st.integers(0, 30))
def test_kernel_is_normalised_and_symmetric(sigma, radius):
    kernel = gaussian_kernel(sigma, 2 * radius + 1)
    assert float(kernel.sum()) == pytest.approx(1)
    torch.testing.assert_close(kernel, kernel.flip(0), rtol=0, atol=0)
    assert int(kernel.argmax()) == radius


def test_pixel_map_is_the_mean_absolute_difference(rng):
    image, rebuilt = torch.rand(2, 2, 3, 6, 5, generator=rng)
    expected = sum((image - rebuilt)[:, c].abs() for c in range(3))[:, None] / 3
    torch.testing.assert_close(pixel_map(image, rebuilt), expected)


def test_multi_scale_map_ignores_a_colour_shift(rng):
    image = torch.rand(2, 3, 16, 16, generator=rng)
    drift = torch.tensor([0.1, -0.2, 0.05])[:, None, None]
    torch.testing.assert_close(
        multi_scale_pixel_map(image, image + drift), torch.zeros(2, 1, 16, 16), rtol=0, atol=1e-10
    )


def test_multi_scale_map_averages_squared_blurred_residuals(rng):
    residual = torch.randn(1, 3, 17, 17, dtype=torch.float64, generator=rng)
    centred = residual.numpy() - np.median(residual.numpy(), axis=(2, 3), keepdims=True)
    levels = [centred] + [
        ndimage.gaussian_filter(centred, (0, 0, sigma, sigma), mode="mirror", truncate=4) for sigma in (2, 4)
    ]
    expected = np.mean([(level**2).mean(1, keepdims=True) for level in levels], axis=0)
    got = multi_scale_pixel_map(residual, torch.zeros_like(residual))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9)


def test_object_mask_decreases_around_the_part():
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[0, 30:34, 30:34] = True
    mask[1] = True
    weight = object_mask(mask, sigma=2.0)
    assert weight.shape == (2, 1, 64, 64)
    assert weight.dtype == torch.float32
    assert float(weight.min()) >= 0
    assert float(weight.max()) <= 1 + 1e-6
    torch.testing.assert_close(weight[1], torch.ones(1, 64, 64), rtol=0, atol=1e-6)
    assert float(weight[0, 0, 32, 32]) == pytest.approx(1, abs=1e-3)
    row = weight[0, 0, 32, 34:]
    assert bool((row.diff() <= 1e-6).all())
    # Grown by 4 sigma and smoothed over another 4 sigma.
    assert float(row[17:].max()) == 0.0
    assert float(row[7]) > 0.4
