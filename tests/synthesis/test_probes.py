"""Small and faint flaws to measure with."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from mendiff.synthesis.probes import AREAS, LINES, SEEN, VISIBLE, probe, probes


def good():
    coarse = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(0, 1)
    return (fine * 255).round() / 255


@given(st.integers(0, 10**6))
def test_a_flaw_shows_inside_its_mask_and_leaves_most_of_the_image(seed):
    image = good()[0]
    made, mask = probe(image, torch.Generator().manual_seed(seed))
    change = (made - image).abs().amax(0, keepdim=True)
    assert made.shape == image.shape
    assert mask.shape == (1, 64, 64)
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    assert float((change[mask] > VISIBLE).float().mean()) > SEEN
    assert float(mask.float().mean()) < 0.3
    assert torch.equal((made * 255).round() / 255, made)  # as a camera would store it


def test_every_kind_of_flaw_is_drawn_and_the_same_seed_draws_the_same():
    images = good()
    first, second = (probes(images, 60, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert len({tuple(one.flatten().tolist()) for one in first[1]}) == 60
    flaws = [flaw(images[0], torch.Generator().manual_seed(2)) for flaw in (*AREAS, *LINES)]
    assert all(one.shape == images[0].shape for one in flaws)


def test_sizes_and_contrasts_differ_widely():
    images = good()
    made, masks = probes(images, 80, torch.Generator().manual_seed(3))
    area = masks.flatten(1).float().mean(1)
    change = (made - images.repeat(40, 1, 1, 1)).abs().flatten(1).amax(1)
    assert float(area.max() / area.min()) > 10
    assert float(change.max() / change.min()) > 4


def test_images_of_any_size_take_every_flaw():
    image = torch.rand(3, 30, 42, generator=torch.Generator().manual_seed(0))
    for seed in range(40):
        made, mask = probe(image, torch.Generator().manual_seed(seed))
        assert made.shape == image.shape
        assert mask.shape == (1, 30, 42)
