import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.filters import threshold_otsu

from mendiff.errors import InputError
from mendiff.synthesis.foreground import foreground, grey_levels, otsu_threshold


def spread_between(grey, threshold):
    """Variance between the two sides of a threshold, what Otsu's method makes as large as it can."""
    above = grey > threshold
    weights = above.mean(), 1 - above.mean()
    if min(weights) == 0:
        return 0.0
    return weights[0] * weights[1] * (grey[above].mean() - grey[~above].mean()) ** 2


@given(
    st.integers(0, 2**31),
    st.tuples(st.integers(0, 255), st.integers(0, 255)),
    st.floats(1, 60),
    st.floats(0.05, 0.95),
)
def test_threshold_is_as_good_as_the_one_of_scikit_image(seed, centres, width, share):
    rng = np.random.default_rng(seed)
    centre = np.where(rng.random((24, 24)) < share, *centres)
    grey = np.clip(rng.normal(centre, width).round(), 0, 255).astype(np.int64)
    ours = float(otsu_threshold(torch.from_numpy(grey)[None])[0])
    theirs = threshold_otsu(grey.astype(np.uint8)) if np.ptp(grey) else grey[0, 0]
    assert spread_between(grey, ours) == pytest.approx(spread_between(grey, theirs), rel=1e-9)


def test_masks_of_clear_pictures_equal_those_of_scikit_image(rng):
    grey = (torch.rand(5, 40, 40, generator=rng) * 90).long()
    grey[:, 10:30, 5:25] += 120
    threshold = otsu_threshold(grey)[:, None, None]
    for plane, mask in zip(grey, grey > threshold, strict=True):
        expected = plane.numpy() > threshold_otsu(plane.numpy().astype(np.uint8))
        assert np.array_equal(mask.numpy(), expected)


def test_grey_levels_are_those_of_pillow_up_to_one(rng):
    picture = (torch.rand(16, 16, 3, generator=rng) * 255).round().to(torch.uint8)
    expected = np.asarray(Image.fromarray(picture.numpy()).convert("L")).astype(np.int64)
    ours = grey_levels(picture.permute(2, 0, 1)[None].float() / 255)[0].numpy()
    assert np.abs(ours - expected).max() <= 1


@pytest.fixture
def part():
    """Where the part lies, (1,32,32): touching no border."""
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[:, 9:23, 6:28] = True
    return mask


def painted(mask, part, ground):
    return torch.where(mask[:, None], part, ground).expand(-1, 3, -1, -1).float()


def test_dark_and_bright_are_the_two_sides(part):
    image = painted(part, 0.8, 0.2)
    assert torch.equal(foreground(image, "bright"), part)
    assert torch.equal(foreground(image, "dark"), ~part)
    assert bool(foreground(image, "none").all())


@pytest.mark.parametrize(("inside", "outside"), [(0.8, 0.2), (0.2, 0.8)])
def test_auto_finds_a_part_on_a_plain_ground(part, inside, outside):
    assert torch.equal(foreground(painted(part, inside, outside)), part)


def test_auto_takes_all_of_a_texture(rng):
    texture = torch.rand(2, 3, 32, 32, generator=rng)
    assert bool(foreground(texture).all())
    assert bool(foreground(torch.full((1, 3, 8, 8), 0.5)).all())


def test_every_image_is_decided_on_its_own(part, rng):
    image = torch.cat([painted(part, 0.8, 0.2), torch.rand(1, 3, 32, 32, generator=rng), painted(part, 0, 1)])
    for mode in ("none", "dark", "bright", "auto"):
        alone = [foreground(image[i : i + 1], mode) for i in range(3)]
        assert torch.equal(foreground(image, mode), torch.cat(alone))


def test_an_unknown_mode_is_refused():
    with pytest.raises(InputError, match="none, dark, bright, auto, got 'grey'"):
        foreground(torch.rand(1, 3, 4, 4), "grey")
