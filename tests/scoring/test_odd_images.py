"""Images that no statistics of good images should have."""

import pytest
import torch
import torch.nn.functional as F

from mendiff.scoring.bank import PatchBank
from mendiff.scoring.odd_images import FEWEST, GROUP, surely_odd

SIDE, CHANNELS = 12, 16


def images(count, seed=0, noise=0.05):
    """Vectors of unit length, (N,P,D), around the same direction at every position."""
    rng = torch.Generator().manual_seed(seed)
    usual = torch.randn(1, SIDE**2, CHANNELS, generator=torch.Generator().manual_seed(99))
    return F.normalize(usual + noise * torch.randn(count, SIDE**2, CHANNELS, generator=rng), dim=-1)


def with_defect(image, seed=0):
    """The image with nine positions of another kind."""
    changed = image.clone()
    kind = torch.randn(9, CHANNELS, generator=torch.Generator().manual_seed(1000 + seed))
    changed[30:39] = F.normalize(kind, dim=-1)
    return changed


@pytest.mark.parametrize("at", [0, 7, 29])
def test_a_defect_among_good_images_is_odd_wherever_it_stands(at):
    known = images(30)
    assert surely_odd(known) == []
    known[at] = with_defect(known[at])
    assert surely_odd(known) == [at]


def test_images_that_share_their_rare_positions_are_not_odd():
    known = images(30)
    known[3], known[20] = with_defect(known[3]), with_defect(known[20])
    assert surely_odd(known) == []


def test_images_of_another_texture_are_not_odd():
    assert surely_odd(torch.cat([images(40), images(3, seed=1, noise=0.6)])) == []


def test_more_odd_images_than_a_few_are_a_kind_of_their_own():
    few, many = images(GROUP), images(GROUP)
    for number in range(2):
        few[number] = with_defect(few[number], number)
    for number in range(3):
        many[number] = with_defect(many[number], number)
    assert surely_odd(few) == [0, 1]
    assert surely_odd(many) == []


def test_among_fewer_images_none_is_odd():
    known = images(FEWEST)
    known[0] = with_defect(known[0])
    assert surely_odd(known) == [0]
    assert surely_odd(known[: FEWEST - 1]) == []


def test_a_memory_bank_leaves_a_defect_out_and_knows_all_other_images():
    known = images(12, noise=0.2)
    known[5] = with_defect(known[5])
    maps = known.transpose(1, 2).unflatten(2, (SIDE, SIDE))
    bank = PatchBank((CHANNELS,), 12 * SIDE**2, pool=1)
    bank.fit([([batch], (256, 256)) for batch in maps.split(4)])
    distance = bank([maps], (256, 256)).flatten(1)
    assert bank.odd == (5,)
    assert float(distance[torch.arange(12) != 5].max()) < 1e-3
    assert float(distance[5, 30:39].min()) > 0.1
    with bank.without(11):
        assert float(bank([maps[11:]], (256, 256)).min()) > 2e-3
        assert float(bank([maps[:5]], (256, 256)).max()) < 1e-3
    bank.fit([([maps[:4]], (256, 256))])
    assert bank.odd == ()
