import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mendiff.synthesis.perlin import perlin_masks, perlin_noise, rotate, thin_masks


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@given(height=st.integers(1, 6), width=st.integers(1, 6), seed=st.integers(0, 1000))
def test_noise_is_zero_on_the_lattice(height, width, seed):
    # With twice as many cells as pixels, every pixel centre lies on a node.
    cells = torch.tensor([[2 * height, 2 * width]])
    noise = perlin_noise(cells, (height, width), seeded(seed))
    torch.testing.assert_close(noise, torch.zeros(1, height, width), rtol=0, atol=1e-5)


@given(seed=st.integers(0, 1000))
def test_noise_at_the_centre_of_one_cell_is_the_mean_of_its_corners(seed):
    angles = 2 * math.pi * torch.rand(4, generator=seeded(seed))
    corners = [
        torch.cos(angle) * (0.5 - right) + torch.sin(angle) * (0.5 - down)
        for angle, (down, right) in zip(angles, [(0, 0), (0, 1), (1, 0), (1, 1)], strict=True)
    ]
    expected = math.sqrt(2) * torch.stack(corners).mean()
    noise = perlin_noise(torch.tensor([[1, 1]]), (1, 1), seeded(seed))
    torch.testing.assert_close(noise[0, 0, 0], expected, rtol=0, atol=1e-6)


@given(seed=st.integers(0, 1000))
def test_corners_fade_into_each_other_by_perlins_quintic(seed):
    angles = 2 * math.pi * torch.rand(4, generator=seeded(seed))
    # One cell of one row and two columns: y = 1/2, x = 1/4, whose fade 6x^5 - 15x^4 + 10x^3 is 53/512.
    corners = [
        torch.cos(angle) * (0.25 - right) + torch.sin(angle) * (0.5 - down)
        for angle, (down, right) in zip(angles, [(0, 0), (0, 1), (1, 0), (1, 1)], strict=True)
    ]
    left, right = (corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2
    expected = math.sqrt(2) * (left + 53 / 512 * (right - left))
    noise = perlin_noise(torch.tensor([[1, 1]]), (1, 2), seeded(seed))
    torch.testing.assert_close(noise[0, 0, 0], expected, rtol=0, atol=1e-6)


@given(y=st.integers(1, 8), x=st.integers(1, 8), seed=st.integers(0, 1000))
def test_noise_is_bounded_and_smooth_across_cells(y, x, seed):
    noise = perlin_noise(torch.tensor([[y, x]]), (128, 128), seeded(seed))
    assert float(noise.abs().max()) <= 1
    # Steepest slope of sqrt(2) (fade * corners): gradient 1, plus fade' <= 1.875 times two corner values.
    steepest = math.sqrt(2) * (1 + 1.875 * 2)
    assert float(noise.diff(dim=1).abs().max()) <= steepest * y / 128
    assert float(noise.diff(dim=2).abs().max()) <= steepest * x / 128


def test_every_image_has_its_own_lattice_of_its_own_size():
    noise = perlin_noise(torch.tensor([[2, 2], [2, 2], [16, 16]]), (64, 64), seeded())
    assert not torch.allclose(noise[0], noise[1])
    roughness = noise.diff(dim=2).abs().mean((1, 2))
    assert float(roughness[2]) > 3 * float(roughness[:2].max())


def test_blob_masks_cover_a_sane_share():
    masks = perlin_masks(300, (64, 64), seeded())
    shares = masks.float().mean((1, 2))
    assert masks.dtype == torch.bool
    assert 0.05 < float(shares.mean()) < 0.35
    assert float(shares.max()) < 0.9
    assert float((shares > 0).float().mean()) > 0.8


def test_thin_masks_are_thin_and_rarely_empty():
    masks = thin_masks(300, (64, 64), seeded()).float()
    shares = masks.mean((1, 2))
    assert 0.002 < float(shares.mean()) < 0.1
    assert float((shares > 0).float().mean()) > 0.8
    eroded = -F.max_pool2d(-masks[:, None], 5, stride=1, padding=2)
    assert float(eroded.sum() / masks.sum()) < 0.05


@pytest.mark.parametrize("draw", [perlin_masks, thin_masks])
def test_masks_are_repeatable_and_leave_the_global_rng_alone(draw, global_rng_untouched):
    with global_rng_untouched():
        first = draw(8, (32, 32), seeded(5))
    assert torch.equal(first, draw(8, (32, 32), seeded(5)))
    assert not torch.equal(first, draw(8, (32, 32), seeded(6)))


def test_rotation_by_nothing_and_by_quarters():
    image = torch.rand(1, 1, 9, 9, generator=seeded())
    for quarters in range(-2, 3):
        turned = rotate(image, torch.tensor([quarters * math.pi / 2]))
        torch.testing.assert_close(turned, torch.rot90(image, quarters, (2, 3)), rtol=0, atol=1e-5)


def test_every_plane_turns_by_its_own_angle():
    images = torch.rand(3, 1, 8, 8, generator=seeded())
    angles = torch.tensor([0.0, 0.4, -1.2])
    alone = [rotate(images[i : i + 1], angles[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(rotate(images, angles), torch.cat(alone), rtol=0, atol=1e-6)
