import torch

from mendiff.nets.contrast import Contrast


def test_latents_come_to_zero_mean_and_unit_deviation_over_all_batches_and_back(rng):
    latents = 0.3 + 0.05 * torch.randn(6, 4, 8, 8, generator=rng)
    contrast = Contrast()
    assert torch.equal(contrast(latents), latents)
    for batch in latents.split(2):
        contrast.update(batch)
    contrast.finish()
    scaled = contrast(latents)
    torch.testing.assert_close(scaled.mean(), torch.zeros(()), rtol=0, atol=1e-5)
    torch.testing.assert_close(scaled.std(correction=0), torch.ones(()), rtol=1e-4, atol=0)
    torch.testing.assert_close(contrast.undo(scaled), latents)
    pixels = contrast.pixels
    torch.testing.assert_close(pixels.of(scaled), latents)


def test_images_of_a_single_colour_are_not_divided_by_nothing():
    contrast = Contrast()
    contrast.update(torch.full((2, 3, 4, 4), 0.25))
    contrast.finish()
    assert bool(contrast(torch.full((1, 3, 4, 4), 0.25)).abs().max() < 1e-3)
