"""How many images are held back."""

import pytest

from mendiff.training.split import Identity, choose, split_of


@pytest.mark.parametrize(
    ("count", "kept"), [(2, 1), (3, 1), (4, 2), (5, 2), (7, 3), (8, 4), (27, 4), (100, 15), (1000, 64)]
)
def test_number_of_held_back_images(count, kept):
    assert len(choose(range(count))) == kept


def test_the_parts_of_an_image_are_held_back_together():
    items = [Identity(seed, f"{seed} {part}", part) for seed in range(8, 0, -1) for part in range(3)]
    split = split_of(items)
    whole = split_of([(seed, str(seed)) for seed in range(8, 0, -1)])
    assert (split.held_back, split.data, split.images) == (whole.held_back, whole.data, 8)
    assert [items[at].seed for at in split.held_back_at] == split.held_back * 3
    assert [items[at].part for at in split.held_back_at] == [0] * 4 + [1] * 4 + [2] * 4
    assert all(split.by_name[item.name] == (item.seed in split.held_back) for item in items)
    assert sorted([*split.held_back_at, *split.trained_at]) == list(range(24))


def test_new_images_alternate_with_those_of_an_earlier_fit():
    old, new = list(range(100, 112)), [500, 501, 502]
    split = split_of([(seed, str(seed)) for seed in (*old, *new)], earlier=[100, 101, 500], new=new)
    items = [*old, *new]
    assert split.held_back == [100, 101, 500]
    assert [items[at] for at in split.held_back_at] == [100, 500, 101]
    assert [items[at] for at in split.trained_at][:5] == [501, 102, 502, 103, 104]


def test_held_back_images_of_few_old_and_few_new_images_stay_held_back():
    items = [(seed, str(seed)) for seed in range(6)]
    assert split_of(items, earlier=[4, 5], new=[3, 4, 5]).held_back == [4, 5]
