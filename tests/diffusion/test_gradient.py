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


def test_algorithm_1_keeps_and_descends_by_the_roots_of_its_beta(x):
    config = GradientConfig(
        steps=3, every=1, schedule="linear", first_beta=0.04, last_beta=0.0, largest_move=10.0
    )
    walked, expected = gradient_denoise(x, bowl, same, config), x
    for one, beta in zip(walked[1:], (0.04, 0.02, 0.0), strict=True):
        expected = (1 - beta) ** 0.5 * expected - beta**0.5 * (expected - 0.25)
        torch.testing.assert_close(one, expected, rtol=0, atol=3 * GRID)
    assert GradientConfig(steps=1, schedule="linear", first_beta=0.04).factors(1) == (0.96**0.5, 0.2)


def test_the_schedule_of_eq_13_is_the_same_at_every_step():
    config = GradientConfig(steps=5, step_size=0.3, weight_decay=0.99)
    assert {config.factors(step) for step in range(1, 6)} == {(0.99, 0.3)}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"schedule": "cosine"}, "gradient.schedule: expected one of constant, linear, got 'cosine'."),
        ({"first_beta": 1.5}, "gradient.first_beta: expected 0 to 1, got 1.5."),
        ({"last_beta": -0.1}, "gradient.last_beta: expected 0 to 1, got -0.1."),
    ],
)
def test_a_schedule_that_is_none_is_refused(fields, sentence):
    with pytest.raises(InputError) as error:
        GradientConfig(**fields)
    assert str(error.value) == sentence


def test_images_do_not_touch_each_other(x):
    config = GradientConfig(steps=5, every=5)
    together = gradient_denoise(x, bowl, same, config)[-1]
    alone = gradient_denoise(x[1:], bowl, same, config)[-1]
    assert torch.equal(together[1:], alone)


def test_it_works_where_gradients_are_off_and_leaves_no_graph(x):
    with torch.no_grad():
        walked = gradient_denoise(x, bowl, same, GradientConfig(steps=2, every=1))
    assert not walked[-1].requires_grad
    assert float(bowl(walked[-1]).sum()) < float(bowl(x).sum())


@pytest.mark.parametrize("field", ["steps", "every", "reverse_t", "dims", "stride"])
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
