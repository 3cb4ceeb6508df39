import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from mendiff.diffusion.posterior import Gaussian, Pixels, Posterior, grey_level_nll, kl_divergence
from mendiff.diffusion.schedule import KINDS, NoiseSchedule, make_schedule, scaled_linear_schedule
from mendiff.types import Estimate


@pytest.fixture
def x0(rng):
    return torch.rand(4, 3, 8, 8, generator=rng, dtype=torch.float64) * 2 - 1


@pytest.fixture
def eps(rng):
    return torch.randn(4, 3, 8, 8, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_the_posterior_is_bayes_rule_of_one_noise_step(kind, x0, eps):
    """p(x_{t-1} | x0) p(x_t | x_{t-1}), multiplied out on its own: two Gaussians in x_{t-1}."""
    schedule, t = make_schedule(kind), torch.tensor([1, 20, 400, 900])
    x_t = schedule.add_noise(x0, eps, t)
    got = Posterior(schedule).truth(x0, x_t, t)
    now, before = (schedule.alpha_bar_at(at)[:, None, None, None] for at in (t, t - 1))
    alpha = now / before
    precision = alpha / (1 - alpha) + 1 / (1 - before)
    mean = (alpha.sqrt() * x_t / (1 - alpha) + before.sqrt() * x0 / (1 - before)) / precision
    torch.testing.assert_close(got.mean, mean, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(got.log_var, -precision.log(), rtol=1e-8, atol=1e-8)


def test_the_last_step_lands_on_x0_with_the_variance_of_the_one_before(x0, eps):
    posterior = Posterior(make_schedule("linear"))
    last, first = torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)
    got = posterior.truth(x0, eps, last)
    torch.testing.assert_close(got.mean, x0)
    assert torch.equal(got.log_var, posterior.truth(x0, eps, first).log_var)


def test_a_schedule_that_does_not_end_clean_keeps_its_own_last_variance(x0, eps):
    schedule = scaled_linear_schedule()
    early = NoiseSchedule(schedule.alpha_bar[1:], float(schedule.alpha_bar[0]))
    t = torch.zeros(4, dtype=torch.int64)
    expected = Posterior(schedule).truth(x0, eps, t + 1)
    got = Posterior(early).truth(x0, eps, t)
    torch.testing.assert_close(got.mean, expected.mean)
    torch.testing.assert_close(got.log_var, expected.log_var)


def test_learned_variance_reaches_from_the_posteriors_to_beta(x0):
    schedule, t = make_schedule("linear"), torch.tensor([1, 20, 400, 900])
    posterior = Posterior(schedule)
    ones = torch.ones_like(x0)
    least = posterior.learned_log_var(-ones, t)
    most = posterior.learned_log_var(ones, t)
    torch.testing.assert_close(least, posterior.truth(x0, x0, t).log_var.expand_as(x0))
    beta = 1 - schedule.alpha_bar_at(t) / schedule.alpha_bar_at(t - 1)
    torch.testing.assert_close(most, beta.log()[:, None, None, None].expand_as(x0))
    torch.testing.assert_close(posterior.learned_log_var(0 * ones, t), (least + most) / 2)


@given(*(st.floats(-3, 3) for _ in range(4)))
def test_divergence_is_that_of_torch_and_never_negative(mean, log_var, other_mean, other_log_var):
    one, other = (
        Gaussian(torch.tensor([[[[m]]]], dtype=torch.float64), torch.tensor([[[[v]]]], dtype=torch.float64))
        for m, v in ((mean, log_var), (other_mean, other_log_var))
    )
    got = kl_divergence(one, other)
    theirs = torch_kl(*(Normal(g.mean, (g.log_var / 2).exp()) for g in (one, other)))
    torch.testing.assert_close(got, theirs, rtol=1e-6, atol=1e-9)
    assert float(got) >= 0


@pytest.mark.parametrize("std", [0.003, 0.02, 0.5])
def test_probabilities_of_all_grey_levels_sum_to_one(std):
    levels = (torch.arange(256, dtype=torch.float64) / 127.5 - 1)[:, None, None, None]
    predicted = Gaussian(torch.full_like(levels, 0.3), torch.full_like(levels, 2 * math.log(std)))
    assert float((-grey_level_nll(levels, predicted)).exp().sum()) == pytest.approx(1, abs=1e-6)


def test_a_perfect_estimate_costs_nothing_and_the_likelihood_counts_at_step_0(x0, eps):
    schedule, t = make_schedule("linear"), torch.tensor([0, 20, 400, 900])
    posterior = Posterior(schedule)
    x_t = schedule.add_noise(x0, eps, t)
    perfect = Estimate(x0, eps, posterior.learned_log_var(-torch.ones_like(x0), t))
    bits = posterior.variational_bits(x0, x_t, perfect, t)
    torch.testing.assert_close(bits[1:], torch.zeros(3).double(), rtol=0, atol=1e-9)
    nll = grey_level_nll(x0, posterior.predicted(x_t, perfect, t))[0].mean() / math.log(2)
    torch.testing.assert_close(bits[0], nll)


def test_the_best_constant_variance_is_the_mean_squared_error(x0, eps):
    """Where predictions are off by a known amount, the divergence is least at the variance that says so."""
    schedule, t = make_schedule("linear"), torch.tensor([20, 20, 400, 400])
    posterior = Posterior(schedule)
    x_t = schedule.add_noise(x0, eps, t)
    truth = posterior.truth(x0, x_t, t)
    off = truth.mean + 0.7 * (truth.log_var / 2).exp()
    costs = [
        float(kl_divergence(truth, Gaussian(off, truth.log_var + math.log(1 + spread))).mean())
        for spread in (0.0, 0.3, 0.7**2, 0.7, 1.5)
    ]
    assert min(costs) == costs[2]


def test_the_likelihood_of_grey_levels_does_not_depend_on_the_contrast_of_the_latents(x0, eps):
    """At t = 0 the same pixels get the same bits, whether latents are the pixels or (pixels + 0.2) / 0.1."""
    x0 = (x0 * 127.5).round() / 127.5
    pixels, posterior = (
        Pixels(-0.2, torch.tensor(0.1, dtype=torch.float64)),
        Posterior(make_schedule("linear")),
    )
    t = torch.zeros(4, dtype=torch.int64)
    wide = torch.full_like(x0, math.log(0.01))
    plain = posterior.variational_bits(x0, eps, Estimate(x0 + 0.01, eps, wide), t)
    scaled = [(one + 0.2) / 0.1 for one in (x0, x0 + 0.01)]
    estimate = Estimate(scaled[1], eps, wide - 2 * math.log(0.1))
    got = posterior.variational_bits(scaled[0], eps, estimate, t, pixels)
    torch.testing.assert_close(got, plain)
    assert bool((plain > 0).all())
