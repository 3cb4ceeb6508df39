import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mendiff.diffusion.random import PerImageRandom, PredictionNoise, content_seeds

SEEDS = torch.tensor([3, 2**63 - 1, 0, 17])


@pytest.mark.parametrize("kind", [PerImageRandom, PredictionNoise])
def test_rows_depend_on_their_seed_alone(kind):
    like = torch.empty(4, 3, 5, 5)
    together = kind(SEEDS).like(like)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(kind(SEEDS[order]).like(like), together[order])
    for index in range(4):
        alone = kind(SEEDS[index : index + 1]).like(like[:1])
        assert torch.equal(alone[0], together[index])


@pytest.mark.parametrize("kind", [PerImageRandom, PredictionNoise])
def test_successive_draws_continue_each_stream(kind):
    random = kind(SEEDS)
    first, second = random.like(torch.empty(4, 2, 6)), random.like(torch.empty(4, 2, 6))
    assert not torch.equal(first, second)
    again = kind(SEEDS)
    assert torch.equal(first, again.like(torch.empty(4, 2, 6)))
    assert torch.equal(second, again.like(torch.empty(4, 2, 6)))


@pytest.mark.parametrize("kind", [PerImageRandom, PredictionNoise])
def test_draws_are_standard_normal_in_the_asked_dtype(kind):
    drawn = kind(torch.arange(4)).like(torch.empty(4, 3, 50, 50, dtype=torch.float64))
    assert drawn.dtype == torch.float64
    assert abs(float(drawn.mean())) < 0.02
    assert abs(float(drawn.std()) - 1) < 0.02


@pytest.mark.parametrize("draw", [lambda random: random.integers(5, 900), lambda random: random.uniform()])
def test_single_numbers_depend_on_their_seed_alone(draw):
    together = draw(PerImageRandom(SEEDS))
    assert together.shape == (4,)
    assert len(set(together.tolist())) == 4
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(draw(PerImageRandom(SEEDS[order])), together[order])


def test_whole_numbers_and_shares_fill_their_ranges():
    random = PerImageRandom(torch.arange(200))
    assert set(random.integers(3, 6).tolist()) == {3, 4, 5}
    shares = random.uniform()
    assert 0 <= float(shares.min()) < 0.05
    assert 0.95 < float(shares.max()) < 1


def test_global_rng_is_untouched(global_rng_untouched, pictures):
    with global_rng_untouched():
        PerImageRandom(content_seeds(pictures)).like(pictures)


def grey(*levels):
    return torch.tensor(levels, dtype=torch.float32).expand(3, 1, -1)[None] / 255


@given(st.lists(st.integers(0, 255), min_size=2, max_size=12), st.floats(-0.4, 0.4))
def test_noise_below_a_grey_level_keeps_the_seed(levels, noise):
    image = grey(*levels)
    assert torch.equal(content_seeds(image), content_seeds(image + noise / 255))


@given(st.lists(st.integers(0, 254), min_size=2, max_size=12), st.data())
def test_one_grey_level_in_one_value_changes_the_seed(levels, data):
    image = grey(*levels).clone()
    changed = image.clone()
    changed[0, data.draw(st.integers(0, 2)), 0, data.draw(st.integers(0, len(levels) - 1))] += 1 / 255
    assert not torch.equal(content_seeds(image), content_seeds(changed))


def test_equal_content_has_equal_seeds_wherever_it_stands(pictures):
    batch = torch.cat([pictures, pictures.flip(0)])
    seeds = content_seeds(batch)
    assert seeds.shape == (8,)
    assert seeds.dtype == torch.int64
    assert bool((seeds >= 0).all())
    assert torch.equal(seeds[:4], seeds[4:].flip(0))
    assert len(set(seeds.tolist())) == 4
    # A picture's seed must not depend on how its memory is laid out.
    assert torch.equal(content_seeds(pictures.to(memory_format=torch.channels_last)), seeds[:4])
