import numpy as np
import pytest
import torch

from mendiff.demo.data import render_good
from mendiff.nets.features import PixelPyramid
from tools.assessment import _as_seen, _taken, assess, draw_category
from tools.camera import photographed
from tools.flaws import FLAWS, flawed
from tools.images import KINDS, generate, generate_batch
from tools.textures import TEXTURES

SIZE = 64


def fresh(*key):
    return np.random.default_rng(key)


def test_image_depends_on_seed_and_number_alone():
    alone = generate(3, 5, SIZE)
    batch = generate_batch(3, 4, 3, SIZE)
    assert torch.equal(torch.from_numpy(alone).permute(2, 0, 1), batch[1])
    assert not torch.equal(batch, generate_batch(4, 4, 3, SIZE))
    assert len({one.numpy().tobytes() for one in generate_batch(0, 0, 40, SIZE)}) == 40


def test_images_leave_the_global_random_numbers_alone(global_rng_untouched):
    with global_rng_untouched():
        generate_batch(0, 0, 20, SIZE)


@pytest.mark.parametrize("size", [32, 75, 128])
def test_images_have_the_size_and_type_asked_for(size):
    for number in range(12):
        image = generate(1, number, size)
        assert (image.shape, image.dtype) == ((size, size, 3), np.uint8)


def test_images_are_wide():
    """In brightness, contrast, colour, sharpness, direction: the middle 80 % span most of what there is."""
    images = generate_batch(0, 0, 300, SIZE).float() / 255
    grey = images.mean(1)
    across, down = grey.diff(dim=2).abs().mean((1, 2)), grey.diff(dim=1).abs().mean((1, 2))
    colour = (images - grey[:, None]).abs().mean((1, 2, 3))
    deviation = grey.flatten(1).std(1)
    for values, low, high in (
        (grey.mean((1, 2)), 0.25, 0.7),
        (deviation, 0.05, 0.2),
        ((across + down) / (deviation + 0.01), 0.3, 1.2),
        (colour, 0.001, 0.04),
        ((across / down.clamp(min=1e-4)).log(), -0.2, 0.2),
    ):
        tenth, ninetieth = values.quantile(0.1), values.quantile(0.9)
        assert tenth < low
        assert ninetieth > high
    assert (deviation < 0.004).float().mean() < 0.05  # hardly any shows nothing


@pytest.mark.parametrize("kind", KINDS, ids=lambda one: one.__name__)
def test_every_kind_fills_the_picture_with_finite_colours(kind):
    for number in range(6):
        image = kind(SIZE, fresh(number))
        assert (image.shape, image.dtype) == ((SIZE, SIZE, 3), np.float32)
        assert 0 <= image.min() <= image.max() <= 1
    assert not np.array_equal(kind(SIZE, fresh(0)), kind(SIZE, fresh(1)))


@pytest.mark.parametrize("texture", TEXTURES, ids=lambda one: one.__name__)
def test_every_texture_has_zero_mean_and_unit_deviation(texture):
    for number in range(6):
        field = texture(SIZE, fresh(number))
        assert (field.shape, field.dtype) == ((SIZE, SIZE), np.float32)
        assert field.mean() == pytest.approx(0, abs=1e-3)
        assert field.std() == pytest.approx(1, abs=1e-2) or not field.any()


@pytest.mark.parametrize("flaw", FLAWS, ids=lambda one: one.__name__)
def test_every_flaw_changes_its_place_far_more_than_the_rest(flaw):
    ground = render_good("tile", fresh(0), SIZE).astype(np.float32) / 255
    inside, outside = [], []
    for number in range(12):
        changed, mask = flaw(ground.copy(), fresh(number))
        assert changed.dtype == mask.dtype == np.float32
        assert np.isfinite(changed).all()
        difference = np.abs(changed - ground).mean(2)
        inside += difference[mask > 0.5].tolist()
        outside += difference[mask <= 0.02].tolist()
    assert len(inside) > 12
    assert np.mean(inside) > 5 * np.mean(outside)


def test_flaws_are_small():
    ground = render_good("fabric", fresh(0), SIZE).astype(np.float32) / 255
    shares = [flawed(ground, fresh(number))[1].mean() for number in range(60)]
    assert np.median(shares) < 0.1
    assert max(shares) < 0.5


def test_camera_keeps_what_is_seen_whichever_way_it_turns_the_picture():
    scene = np.zeros((SIZE, SIZE, 3), np.float32)
    scene[:, : SIZE // 2] = 0.8
    for number in range(20):
        picture = photographed(scene, fresh(number)).mean(2)
        halves = [np.array_split(picture, 2, axis) for axis in (0, 1)]
        assert max(abs(first.mean() - second.mean()) for first, second in halves) > 10


def test_category_is_repeatable_and_its_flaws_can_be_found():
    one, again = draw_category(0, 2), draw_category(0, 2)
    assert torch.equal(one.tests, again.tests)
    assert torch.equal(one.masks.flatten(1).any(1), one.labels)
    found = assess(PixelPyramid(), [one])
    assert 0.5 < found["pixel_auroc"] <= 1


def test_masks_are_turned_as_their_pictures_are():
    mask = np.zeros((SIZE, SIZE), bool)
    mask[4:16, 10:30] = True
    scene = np.where(mask[..., None], np.float32(0.9), np.float32(0.2)).repeat(3, axis=2)
    for camera in range(12):
        picture, seen = _taken(scene, camera).mean(0), _as_seen(mask, camera)[0]
        assert (picture[seen].mean() - picture[~seen].mean()).abs() > 0.05
