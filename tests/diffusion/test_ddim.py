import pytest
import torch
from diffusers import DDIMScheduler

from mendiff.diffusion.ddim import ddim, ddim_step, recorded
from mendiff.diffusion.ladder import ladder
from mendiff.diffusion.schedule import linear_schedule, scaled_linear_schedule
from mendiff.types import Estimate


def nonlinear(schedule):
    """A fixed denoiser: nearly right for standard normal data, with a ripple that depends on x_t and t."""

    def denoise(x_t, t):
        _, s_t = schedule.scales(t, x_t.dtype)
        eps = s_t * x_t + 0.1 * torch.sin(3 * x_t + t[:, None, None, None] / 100)
        return Estimate(schedule.x0_from_eps(x_t, eps, t), eps)

    return denoise


def gaussian(schedule, mu, sigma):
    """The perfect denoiser of data that is N(mu, sigma^2) in every position: the posterior mean."""

    def denoise(x_t, t):
        a_t, s_t = schedule.scales(t, x_t.dtype)
        x0 = mu + a_t * sigma**2 / ((a_t * sigma) ** 2 + s_t**2) * (x_t - a_t * mu)
        return Estimate(x0, schedule.eps_from_x0(x_t, x0, t))

    return denoise


@pytest.mark.parametrize("end_clean", [False, True])
@pytest.mark.parametrize(("spacing", "steps"), [("leading", 10), ("leading", 25), ("trailing", 20)])
def test_whole_trajectory_equals_diffusers(rng, end_clean, spacing, steps):
    schedule = scaled_linear_schedule(end_clean=end_clean)
    published = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=end_clean,
        steps_offset=1,
        timestep_spacing=spacing,
    )
    published.set_timesteps(steps)
    denoise = nonlinear(schedule)
    x = theirs = torch.randn(2, 3, 4, 4, generator=rng)
    ours, seen = [], []
    for t in published.timesteps:
        seen.append(theirs)
        eps = denoise(theirs, t.expand(2)).eps
        theirs = published.step(eps, t, theirs, eta=0.0).prev_sample

    def record(step):
        ours.append(step.x_t)
        return step.estimate

    rungs = ladder(torch.tensor([1000, 1000]), steps, spacing)
    end = ddim(denoise, x, rungs, schedule, edit=record)
    torch.testing.assert_close(torch.stack([*ours, end]), torch.stack([*seen, theirs]), rtol=0, atol=1e-5)


def test_images_on_different_ladders_equal_each_alone(rng):
    schedule = scaled_linear_schedule()
    denoise = nonlinear(schedule)
    x = torch.randn(4, 3, 4, 4, generator=rng)
    rungs = ladder(torch.tensor([1000, 321, 3, 40]), 8)
    together = ddim(denoise, x, rungs, schedule)
    alone = [ddim(denoise, x[i : i + 1], rungs[i : i + 1], schedule) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-6)


def test_a_repeated_rung_leaves_the_image_where_it_is(rng):
    schedule = scaled_linear_schedule()
    denoise = nonlinear(schedule)
    x = torch.randn(1, 3, 4, 4, generator=rng)
    t = torch.tensor([500])
    torch.testing.assert_close(ddim_step(denoise(x, t), t, schedule), x, rtol=0, atol=1e-6)
    once = ddim(denoise, x, torch.tensor([[500, 200]]), schedule)
    padded = ddim(denoise, x, torch.tensor([[500, 500, 500, 200, 200]]), schedule)
    torch.testing.assert_close(padded, once, rtol=0, atol=1e-5)


def test_perfect_gaussian_denoiser_converges_to_the_exact_solution(rng):
    schedule, mu, sigma = linear_schedule(), 1.5, 0.3
    x = torch.randn(1, 1, 64, 64, generator=rng, dtype=torch.float64)
    a_t, s_t = schedule.scales(torch.tensor([999]), torch.float64)
    # The probability-flow ODE of a Gaussian shifts and scales its noise (Song et al. 2021, eq. 13).
    exact = mu + sigma / ((a_t * sigma) ** 2 + s_t**2).sqrt() * (x - a_t * mu)
    errors = []
    for steps in (10, 40, 160):
        rungs = ladder(torch.tensor([1000]), steps, "trailing")
        end = ddim(gaussian(schedule, mu, sigma), x, rungs, schedule)
        errors.append(float((end - exact).abs().max()))
    assert errors[1] < errors[0] / 2
    assert errors[2] < errors[1] / 2
    assert errors[2] < 0.05


def test_perfect_gaussian_denoiser_maps_noise_to_the_data(rng):
    schedule, mu, sigma = linear_schedule(), -0.7, 0.5
    x = torch.randn(1, 4, 100, 100, generator=rng)
    rungs = ladder(torch.tensor([1000]), 200, "trailing")
    end = ddim(gaussian(schedule, mu, sigma), x, rungs, schedule)
    assert float(end.mean()) == pytest.approx(mu, abs=0.02)
    assert float(end.std()) == pytest.approx(sigma, rel=0.03)


def test_the_edited_estimate_is_the_one_that_is_followed(rng):
    schedule = scaled_linear_schedule()
    x = torch.randn(2, 3, 4, 4, generator=rng)
    x0, eps = torch.randn(2, 2, 3, 4, 4, generator=rng)

    def edit(step):
        return Estimate(x0, eps)

    end = ddim(nonlinear(schedule), x, ladder(torch.tensor([100, 900]), 5), schedule, edit)
    expected = schedule.add_noise(x0, eps, torch.tensor([-1, -1]))
    torch.testing.assert_close(end, expected, rtol=0, atol=0)


def test_edit_sees_every_move_and_the_last_one_goes_to_clean(rng):
    schedule, moves = scaled_linear_schedule(), []

    def edit(step):
        moves.append((step.t.tolist(), step.s.tolist()))
        return step.estimate

    rungs = ladder(torch.tensor([300, 2]), 3)
    ddim(nonlinear(schedule), torch.randn(2, 1, 2, 2, generator=rng), rungs, schedule, edit)
    assert moves == [([201, 1], [101, 1]), ([101, 1], [1, 1]), ([1, 1], [-1, -1])]


@pytest.mark.parametrize("edited", [False, True])
def test_a_watched_walk_is_the_same_and_every_step_is_seen_as_it_was_followed(rng, edited):
    schedule = linear_schedule()
    x = torch.randn(2, 3, 4, 4, generator=rng)
    rungs = ladder(torch.tensor([400, 800]), 4)
    edit = (lambda step: Estimate(step.estimate.x0 / 2, step.estimate.eps)) if edited else None
    seen = []
    watch = recorded(edit, seen)
    walked = ddim(nonlinear(schedule), x, rungs, schedule, edit=watch)
    assert torch.equal(walked, ddim(nonlinear(schedule), x, rungs, schedule, edit=edit))
    assert torch.equal(torch.stack([step.t for step in seen], 1), rungs)
    for step, after in zip(seen, [*(step.x_t for step in seen[1:]), walked], strict=True):
        assert torch.equal(ddim_step(step.estimate, step.s, schedule), after)
    assert recorded(edit, None) is edit
