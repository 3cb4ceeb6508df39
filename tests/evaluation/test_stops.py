"""What stop steps tell of a test set."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from mendiff.evaluation.stops import stop_figures


def masks_of(*sizes):
    """Masks (N,1,8,8) with so many true pixels each."""
    return torch.stack([torch.arange(64).reshape(1, 8, 8) < size for size in sizes])


def test_steps_are_counted_apart_for_good_and_defective_images_from_the_highest_on():
    found = stop_figures(torch.tensor([750, 150, 150, 450]), torch.tensor([True, False, False, True]), None)
    assert found == {"good": {"150": 2}, "defective": {"750": 1, "450": 1}, "area_rank": None}
    assert list(found["defective"]) == ["750", "450"]


def test_larger_defects_that_stop_at_higher_steps_rank_alike():
    labels = torch.tensor([False, True, True, True, True])
    steps = torch.tensor([750, 150, 300, 450, 600])
    assert stop_figures(steps, labels, masks_of(0, 2, 5, 9, 30))["area_rank"] == 1
    assert stop_figures(steps, labels, masks_of(0, 30, 9, 5, 2))["area_rank"] == -1


def test_rank_is_unknown_where_all_stop_alike_or_are_of_one_size_or_are_few():
    labels = torch.ones(4, dtype=torch.bool)
    assert stop_figures(torch.full((4,), 150), labels, masks_of(1, 2, 3, 4))["area_rank"] is None
    assert stop_figures(torch.arange(4), labels, masks_of(7, 7, 7, 7))["area_rank"] is None
    assert stop_figures(torch.arange(3), labels[:3], masks_of(1, 2, 3))["area_rank"] is None


@given(st.lists(st.tuples(st.integers(1, 999), st.integers(0, 64), st.booleans()), min_size=1, max_size=12))
def test_every_image_is_counted_once_and_the_order_of_images_does_not_matter(rows):
    steps, sizes, labels = (list(column) for column in zip(*rows, strict=True))
    there = stop_figures(torch.tensor(steps), torch.tensor(labels), masks_of(*sizes))
    back = stop_figures(torch.tensor(steps[::-1]), torch.tensor(labels[::-1]), masks_of(*sizes[::-1]))
    assert sum(there["good"].values()) + sum(there["defective"].values()) == len(rows)
    assert there["good"] == back["good"]
    assert there["defective"] == back["defective"]
    assert (there["area_rank"] is None) == (back["area_rank"] is None)
    assert there["area_rank"] is None or abs(there["area_rank"] - back["area_rank"]) < 1e-9
