import pytest
import torch

from mendiff.diffusion.gradient import GRID, GradientConfig, gradient_denoise
from mendiff.errors import InputError


def bowl(x):
    """Half the squared distance from 0.25."""
    return 0.5 * (x - 0.25).square().sum((1, 2, 3))


def same(x):
    return x


@pytest.fixture
def x(rng):
    return torch.rand(2, 3, 4, 4, generator=rng) * 2 - 1


def test_without_decay_it_is_gradient_descent(x):
    config = GradientConfig(steps=3, every=1, step_size=0.1, largest_move=1.0, weight_decay=1.0)
    walked = gradient_denoise(x, bowl, same, config)
    assert len(walked) == 4
    for step, one in enumerate(walked):
        torch.testing.assert_close(one, 0.25 + (x - 0.25) * 0.9**step, rtol=0, atol=3 * GRID)


def test_the_reverse_step_follows_every_nth_step_and_sees_the_decayed_image(x):
    seen = []

    def reverse(one):
        seen.append(one)
        return one / 0.9**4

    config = GradientConfig(steps=12, every=4, step_size=0.0, weight_decay=0.9)
    walked = gradient_denoise(x, bowl, reverse, config)
    assert len(seen) == 3
    torch.testing.assert_close(seen[0], x * 0.9**4, rtol=0, atol=4 * GRID)
    for one in walked:
        torch.testing.assert_close(one, x, rtol=0, atol=12 * GRID)


def test_no_pixel_moves_further_than_allowed(x):
    config = GradientConfig(steps=1, every=1, step_size=100.0, largest_move=0.03, weight_decay=1.0)
    moved = gradient_denoise(x, bowl, same, config)[-1] - x
    assert float(moved.abs().max()) == pytest.approx(0.03, abs=GRID)


@pytest.mark.parametrize("field", ["steps", "every", "reverse_timestep", "dims", "stride"])
def test_a_walk_without_steps_is_refused(field):
    with pytest.raises(InputError, match=rf"gradient.{field}: expected at least 1, got 0"):
        GradientConfig(**{field: 0})


def test_differences_far_below_a_grey_level_do_not_grow(x):
    """The energy's gradient changes sign every few hundredths: without a grid, differences would grow."""

    def ripples(one):
        return (50 * one).sin().sum((1, 2, 3))

    config = GradientConfig(steps=40, every=8, step_size=0.05)
    start = x.double()
    walked = gradient_denoise(start, ripples, lambda one: one + 1e-14 * one.cos(), config)
    noisy = gradient_denoise(start + 1e-13, lambda one: ripples(one + 1e-14), same, config)
    torch.testing.assert_close(walked[-1], noisy[-1], rtol=0, atol=1e-12)
