import pytest
import torch

from mendiff.errors import InputError
from mendiff.synthesis import blend as module
from mendiff.synthesis.blend import (
    SynthesisConfig,
    anomaly_source,
    shuffle_cells,
    synthesize,
    synthesize_each,
)
from mendiff.synthesis.foreground import foreground


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def many(pictures, times=16):
    return pictures.repeat(times, 1, 1, 1)


ALL = SynthesisConfig(share=1.0)


def test_a_share_of_nothing_leaves_images_untouched(pictures):
    image, mask = synthesize(pictures, seeded(), SynthesisConfig(share=0.0))
    assert torch.equal(image, pictures)
    assert not bool(mask.any())


@pytest.mark.parametrize("config", [ALL, SynthesisConfig(share=1.0, thin_share=1.0), SynthesisConfig()])
def test_images_change_only_inside_the_mask_and_stay_pictures(pictures, config):
    before = many(pictures)
    image, mask = synthesize(before, seeded(), config)
    assert image.shape == before.shape
    assert image.dtype == torch.float32
    assert mask.shape == (64, 1, 32, 32)
    assert mask.dtype == torch.bool
    outside = ~mask.expand_as(image)
    assert torch.equal(image[outside], before[outside])
    assert float(image.min()) >= 0
    assert float(image.max()) <= 1
    changed = (image - before).abs().amax((1, 2, 3)) > 1e-3
    assert float(changed.float().mean()) > 0.8 * config.share * 0.8


def test_about_the_asked_share_of_samples_gets_an_anomaly(pictures):
    masks = [synthesize(many(pictures), seeded(seed), SynthesisConfig(share=0.5))[1] for seed in range(4)]
    share = float(torch.cat(masks).flatten(1).any(1).float().mean())
    assert 0.3 < share < 0.6


def test_thin_anomalies_cover_less(pictures):
    images = torch.nn.functional.interpolate(many(pictures), 128)
    _, blobs = synthesize(images, seeded(), ALL)
    _, curves = synthesize(images, seeded(), SynthesisConfig(share=1.0, thin_share=1.0))
    assert bool(curves.any())
    assert float(curves.float().mean()) < 0.5 * float(blobs.float().mean())


def test_anomalies_lie_on_the_part_only():
    image = torch.full((8, 3, 32, 32), 0.1)
    image[:, :, 8:24, 8:24] = 0.9
    for mode in ("bright", "dark", "auto"):
        changed, mask = synthesize(image, seeded(), SynthesisConfig(share=1.0, foreground=mode))
        part = foreground(image, mode)[:, None]
        assert bool(mask.any())
        assert not bool((mask & ~part).any())
        assert torch.equal(changed.masked_select(~part), image.masked_select(~part))


def test_without_blending_the_anomaly_is_the_source_itself(pictures, monkeypatch):
    source = pictures.flip(3)
    monkeypatch.setattr(module, "anomaly_source", lambda *_, **__: source)
    monkeypatch.setattr(module, "MAX_BLEND", 0.0)
    changed, mask = synthesize(pictures, seeded(), ALL)
    assert bool(mask.any())
    torch.testing.assert_close(changed, torch.where(mask, source, pictures), rtol=0, atol=1e-6)


def test_blending_weakens_every_anomaly_but_leaves_some_of_it(pictures, monkeypatch):
    before = many(pictures)
    soft, same = synthesize(before, seeded(), ALL)
    monkeypatch.setattr(module, "MAX_BLEND", 0.0)
    hard, mask = synthesize(before, seeded(), ALL)
    assert torch.equal(mask, same)
    hard, soft = (hard - before).abs(), (soft - before).abs()
    assert bool((soft <= hard + 1e-6).all())
    assert bool((soft >= 0.2 * hard - 1e-6).all())
    assert float(soft.mean()) < 0.9 * float(hard.mean())


def test_half_of_the_anomalies_come_from_textures(pictures):
    images = many(pictures)
    coarse = torch.rand(2, 5, 3, 32, 32, generator=seeded(9))
    one, other = (anomaly_source(images, seeded(), textures=textures) for textures in coarse)
    from_textures = (one - other).abs().amax((1, 2, 3)) > 1e-4
    assert 16 < int(from_textures.sum()) < 48
    shuffled = anomaly_source(images, seeded())
    assert shuffled.shape == images.shape


def test_larger_textures_lend_a_piece_and_smaller_ones_are_refused(pictures):
    images, ramp = many(pictures), torch.linspace(0, 1, 96 * 80).view(1, 96, 80).expand(3, -1, -1)
    pieces = [module._piece(ramp, images[0], seeded(seed)) for seed in range(20)]
    assert {tuple(one.shape) for one in pieces} == {(3, 32, 32)}
    assert len({float(one[0, 0, 0]) for one in pieces}) > 15
    steps = torch.cat([one[0].diff(dim=1) for one in pieces])
    torch.testing.assert_close(steps, torch.full_like(steps, 1 / (96 * 80 - 1)), rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="expected pictures of at least 32x32 pixels, got 16x40"):
        synthesize(images, seeded(), SynthesisConfig(share=1.0), torch.zeros(2, 3, 16, 40))


def test_each_image_has_an_anomaly_of_its_own_whoever_its_neighbours_are(pictures):
    config = SynthesisConfig(share=1.0, thin_share=0.5)
    images, masks = synthesize_each(pictures, [seeded(seed) for seed in range(4)], config, pictures)
    assert images.shape == pictures.shape
    for row in (0, 3):
        image, mask = synthesize(pictures[row : row + 1], seeded(row), config, pictures)
        assert torch.equal(image[0], images[row])
        assert torch.equal(mask[0], masks[row])


def test_synthesis_is_repeatable_and_leaves_inputs_and_the_global_rng_alone(pictures, global_rng_untouched):
    before = pictures.clone()
    config = SynthesisConfig(share=1.0, thin_share=0.5, foreground="auto")
    with global_rng_untouched():
        first = synthesize(pictures, seeded(4), config, pictures)
    assert torch.equal(pictures, before)
    again = synthesize(pictures, seeded(4), config, pictures)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], synthesize(pictures, seeded(5), config, pictures)[0])


def test_shuffling_permutes_cells_and_keeps_them_whole():
    grid, cell = 4, 3
    numbers = torch.arange(grid * grid).view(grid, grid).repeat_interleave(cell, 0).repeat_interleave(cell, 1)
    inner = torch.arange(cell * cell).view(cell, cell).repeat(grid, grid)
    picture = torch.stack([numbers, inner, numbers + inner]).float()
    shuffled = shuffle_cells(picture, grid, seeded())
    assert torch.equal(shuffled[1], picture[1])
    assert torch.equal(shuffled[2], shuffled[0] + shuffled[1])
    cells = shuffled[0].view(grid, cell, grid, cell).permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    assert bool((cells == cells[:, :1]).all())
    assert sorted(cells[:, 0].tolist()) == list(range(grid * grid))
    assert not torch.equal(shuffled, picture)


def test_a_size_that_the_grid_does_not_divide_is_refused():
    with pytest.raises(InputError, match="multiple of the shuffle grid 8, got 32x30"):
        shuffle_cells(torch.rand(3, 32, 30), 8, seeded())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"share": 3.0}, "synthesis.share: expected 0 to 1, got 3.0."),
        (
            {"foreground": "blue"},
            "synthesis.foreground: expected one of none, dark, bright, auto, got 'blue'.",
        ),
    ],
)
def test_bad_settings_are_refused(changes, sentence):
    with pytest.raises(InputError, match=f"^{sentence}$"):
        SynthesisConfig(**changes)
