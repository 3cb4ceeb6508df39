"""How many images are held back."""

import pytest

from mendiff.training.split import choose


@pytest.mark.parametrize(
    ("count", "kept"), [(2, 1), (3, 1), (4, 2), (5, 2), (7, 3), (8, 4), (27, 4), (100, 15), (1000, 64)]
)
def test_number_of_held_back_images(count, kept):
    assert len(choose(range(count))) == kept
