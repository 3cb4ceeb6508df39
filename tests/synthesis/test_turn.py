"""Good images turned about their centre."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from mendiff.synthesis.turn import turned


def disc(side=33):
    at = torch.arange(side) - side // 2
    inside = (at[:, None] ** 2 + at**2) < (side / 4) ** 2
    return inside.float().expand(1, 3, -1, -1)


@given(st.integers(0, 10**6))
def test_what_is_round_stays_and_values_stay_in_range(seed):
    made = turned(disc(), torch.Generator().manual_seed(seed))
    assert float((made - disc()).abs().mean()) < 0.06
    assert 0 <= float(made.min()) <= float(made.max()) <= 1


def test_angles_cover_the_circle_and_differ_within_a_batch():
    image = torch.zeros(200, 3, 33, 33)
    image[:, :, 2:6, 16] = 1  # a mark at the top
    made = turned(image, torch.Generator().manual_seed(0))
    at = made[:, 0].flatten(1).argmax(1)
    row, column = at // 33 - 16, at % 33 - 16
    for half in (row < 0, row > 0, column < 0, column > 0):
        assert 60 < int(half.sum()) < 140
