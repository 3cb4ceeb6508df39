"""The memory bank: distance to the nearest position of good images."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mendiff.errors import InputError
from mendiff.scoring.bank import SKETCH, PatchBank, beyond_unit, covering, distance_to_nearest

CHANNELS = (4, 6)


def layers(count, seed=0, side=8):
    rng = torch.Generator().manual_seed(seed)
    return [
        torch.randn(count, c, side // 2**at, side // 2**at, generator=rng) for at, c in enumerate(CHANNELS)
    ]


def fitted(pool=1, size=1000, images=3):
    bank = PatchBank(CHANNELS, size, pool)
    bank.fit([(layers(images), (64, 64))])
    return bank


def test_known_positions_are_near_and_unknown_positions_are_far():
    bank = fitted()
    assert bank(layers(3), (64, 64)).abs().max() < 2e-3  # half precision
    assert bank(layers(3, seed=1), (64, 64)).mean() > 0.1


def test_only_the_changed_position_is_far():
    bank, seen = fitted(), layers(3)
    seen[0][0, :, 2, 3] *= -1
    distance = bank(seen, (64, 64))
    assert int(distance[0].flatten().argmax()) == 2 * 8 + 3
    distance[0, 0, 2, 3] = 0
    assert distance.abs().max() < 2e-3


@given(st.integers(1, 40), st.floats(0.1, 10))
def test_distances_equal_the_closed_form_at_any_scale(size, scale):
    bank = PatchBank(CHANNELS, size, pool=1)
    bank.fit([([one * scale for one in layers(2)], (64, 64))])
    queries = layers(1, seed=2)
    unit = [torch.nn.functional.normalize(one, dim=1) for one in queries]
    unit[1] = torch.nn.functional.normalize(
        torch.nn.functional.interpolate(queries[1], size=(8, 8), mode="bilinear", align_corners=False), dim=1
    )
    flat = torch.cat(unit, dim=1).flatten(2)[0].T / 2**0.5
    expected = 1 - (flat @ bank.vectors.float().T).amax(1)
    assert torch.allclose(bank(queries, (64, 64)).flatten(), expected, atol=1e-5)


def test_distances_of_near_vectors_keep_their_digits():
    rng = torch.Generator().manual_seed(0)
    known = torch.nn.functional.normalize(torch.randn(500, 400, generator=rng), dim=1).half().float()
    queries = torch.nn.functional.normalize(known + 5e-4 * torch.randn(500, 400, generator=rng), dim=1)
    expected = 1 - (queries.double() * known.double()).sum(1)
    found = distance_to_nearest(queries, known, beyond_unit(known))
    assert 0 < expected.abs().max() < 3e-4
    assert torch.allclose(found.double(), expected, rtol=0, atol=2e-7)  # a plain product: 4.6e-7


def test_distance_does_not_depend_on_the_batch():
    bank, queries = fitted(pool=3), layers(3, seed=1)
    together = bank(queries, (64, 64))
    for row in range(3):
        alone = bank([one[row : row + 1] for one in queries], (64, 64))
        assert torch.allclose(alone[0], together[row], atol=1e-6)


def test_the_grid_is_no_finer_than_eight_pixels_and_no_finer_than_the_features():
    bank = fitted()
    assert bank(layers(1), (32, 32)).shape == (1, 1, 4, 4)
    assert bank(layers(1), (640, 640)).shape == (1, 1, 8, 8)


def test_bank_without_images_is_refused():
    with pytest.raises(InputError, match="at least one good image"):
        PatchBank(CHANNELS, 10).fit([])


@given(st.integers(1, 60), st.integers(1, 60))
def test_covering_positions_are_distinct(known, wanted):
    vectors = torch.nn.functional.normalize(
        torch.randn(known, 5, generator=torch.Generator().manual_seed(known))
    )
    drawn = covering(vectors, wanted, torch.Generator().manual_seed(0))
    assert len(set(drawn.tolist())) == len(drawn) == min(known, wanted)
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < known


@pytest.mark.parametrize("width", [6, SKETCH + 10])
def test_covering_keeps_rare_positions(width):
    rng = torch.Generator().manual_seed(0)
    plain = torch.ones(1, width) + 1e-3 * torch.randn(4000, width, generator=rng)
    rare = torch.randn(10, width, generator=rng)
    vectors = torch.nn.functional.normalize(torch.cat([plain, rare]))
    drawn = covering(vectors, 100, torch.Generator().manual_seed(1))
    assert set(range(4000, 4010)) <= set(drawn.tolist())
    assert len(drawn) == 100


def test_without_an_image_only_its_positions_become_far():
    bank, seen = fitted(), layers(3)

    with bank.without(1):
        distance = bank(seen, (64, 64))

    assert distance[[0, 2]].abs().max() < 2e-3
    assert distance[1].min() > 0.01
    assert bank(seen, (64, 64)).abs().max() < 2e-3


def test_a_bank_of_a_single_image_stays_without_it():
    bank = fitted(images=1)
    with bank.without(0):
        assert bank(layers(1), (64, 64)).abs().max() < 2e-3
