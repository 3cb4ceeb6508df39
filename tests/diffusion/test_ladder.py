import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from mendiff.diffusion.ladder import SPACINGS, ladder, noised_at, remaining
from mendiff.errors import InputError

starts = st.lists(st.integers(1, 1000), min_size=1, max_size=4)
counts = st.integers(1, 60) | st.sampled_from([250, 999, 1000, 1500])


@pytest.mark.parametrize("steps", [2, 5, 7, 10, 15, 16, 25, 50, 100, 250])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("start", [1000, 750])
def test_ladder_equals_diffusers(spacing, start, steps):
    published = DDIMScheduler(num_train_timesteps=start, steps_offset=1, timestep_spacing=spacing)
    published.set_timesteps(steps)
    assert ladder(torch.tensor([start]), steps, spacing)[0].tolist() == published.timesteps.tolist()


@given(starts=starts, steps=counts, spacing=st.sampled_from(SPACINGS), offset=st.integers(0, 1))
def test_ladder_descends_within_its_timesteps(starts, steps, spacing, offset):
    rungs = ladder(torch.tensor(starts), steps, spacing, offset)
    assert rungs.shape == (len(starts), steps)
    assert rungs.dtype == torch.int64
    assert bool((rungs.diff(dim=1) <= 0).all())
    assert bool((rungs >= 0).all())
    assert bool((rungs < torch.tensor(starts)[:, None]).all())


@given(starts=starts, steps=counts, spacing=st.sampled_from(SPACINGS))
def test_every_row_equals_its_own_ladder(starts, steps, spacing):
    together = ladder(torch.tensor(starts), steps, spacing)
    alone = [ladder(torch.tensor([start]), steps, spacing) for start in starts]
    assert torch.equal(together, torch.cat(alone))


@given(start=st.integers(1, 40), steps=st.integers(1, 80))
def test_a_short_leading_row_repeats_its_highest_timestep_alone(start, steps):
    row = ladder(torch.tensor([start]), steps)[0]
    below = row[row < row[0]]
    assert bool((below.diff() < 0).all())
    assert torch.equal(row[len(row) - len(below) :], below)


@given(start=st.integers(1, 1000), steps=counts)
def test_trailing_begins_at_the_highest_timestep(start, steps):
    assert int(ladder(torch.tensor([start]), steps, "trailing")[0, 0]) == start - 1


def test_known_rows():
    t_start = torch.tensor([750, 3, 1])
    assert ladder(t_start, 3).tolist() == [[501, 251, 1], [2, 2, 1], [0, 0, 0]]
    assert ladder(t_start, 3, "trailing").tolist() == [[749, 499, 249], [2, 1, 0], [0, 0, 0]]


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="at least 1 sampling step, got 0"):
        ladder(torch.tensor([10]), 0)
    with pytest.raises(InputError, match="shape \\(B,\\), got \\(1, 1\\)"):
        ladder(torch.tensor([[10]]), 5)
    with pytest.raises(InputError, match="leading, trailing, got 'karras'"):
        ladder(torch.tensor([10]), 5, "karras")


def test_noise_is_asked_for_within_the_ladder_alone():
    first, last = torch.tensor([361, 901, 361, 0]), torch.tensor([399, 999, 400, 0])
    for asked, expected in ((999, [361, 999, 361, 0]), (399, [399, 901, 399, 0]), (0, [361, 901, 361, 0])):
        assert noised_at(first, last, asked).tolist() == expected


@given(starts=starts, steps=counts, data=st.data())
def test_what_remains_of_a_ladder_ends_as_it_does(starts, steps, data):
    rungs = ladder(torch.tensor(starts), steps)
    number = st.integers(0, steps - 1)
    first = data.draw(st.lists(number, min_size=len(starts), max_size=len(starts)))
    left = remaining(rungs, torch.tensor(first))
    assert left.shape == (len(starts), steps - min(first))
    for row, one, at in zip(left.tolist(), rungs.tolist(), first, strict=True):
        missing = at - min(first)
        assert row == [one[at]] * missing + one[at:]
