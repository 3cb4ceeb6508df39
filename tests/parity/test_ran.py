"""RAN's posterior, divergence and loss against the reference implementation of improved DDPM, and PaDiM's
distance; tolerances are those of the file."""

import pytest
import torch

from mendiff.diffusion.posterior import Posterior, hybrid_loss, kl_divergence
from mendiff.diffusion.schedule import NoiseSchedule, linear_schedule, make_schedule
from mendiff.scoring.gaussians import squared_mahalanobis
from mendiff.types import Estimate


@pytest.fixture(scope="module")
def group(reference_group):
    return reference_group("ran/posterior")


@pytest.fixture(scope="module")
def close(group):
    tolerance = group.notes["tolerance"]

    def compare(ours, theirs, among=None):
        # Differences of large numbers that cancel are known no better than those numbers: the tolerance is
        # relative to the largest value of an image, or of `among` where the numbers were cut afterwards.
        limit = tolerance["float64" if theirs.dtype == torch.float64 else "float32"]
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        error, size = (
            one.abs().reshape(len(one), -1).amax(1)
            for one in (ours - theirs, theirs if among is None else among)
        )
        assert bool((error <= limit * size.clamp(min=1)).all()), (error / size).max()

    return compare


@pytest.fixture(scope="module")
def schedule(group):
    """Ours, of the kind and length that the notes state.

    The reference implementation stretches a linear schedule with its length, so that it ends at the same
    noise; ours are of 1000 steps, and so are the constants of make_schedule.
    """
    kind, steps = group.notes["schedule"], group.notes["num_timesteps"]
    if kind == "linear":
        return linear_schedule(steps, 1e-4 * 1000 / steps, 0.02 * 1000 / steps)
    return make_schedule(kind, steps)


@pytest.fixture(scope="module")
def posterior(schedule):
    return Posterior(schedule)


def estimate_of(group, schedule, posterior, clip=False):
    tensors = group.tensors
    eps, between = tensors["model_output"].chunk(2, dim=1)
    x0 = schedule.x0_from_eps(tensors["x_t"], eps, tensors["t"])
    return Estimate(x0.clamp(-1, 1) if clip else x0, eps, posterior.learned_log_var(between, tensors["t"]))


def test_betas_of_the_schedule(group, schedule, close):
    assert len(group.tensors["betas"]) == group.notes["num_timesteps"]
    theirs = NoiseSchedule(torch.cumprod(1 - group.tensors["betas"], dim=0))
    close(schedule.alpha_bar, theirs.alpha_bar)


def test_noisy_images(group, schedule, close):
    tensors = group.tensors
    close(schedule.add_noise(tensors["x0"], tensors["noise"], tensors["t"]), tensors["x_t"])


def test_posterior_of_the_truth(group, posterior, close):
    tensors = group.tensors
    truth = posterior.truth(tensors["x0"], tensors["x_t"], tensors["t"])
    close(truth.mean, tensors["posterior_mean"])
    close(truth.log_var.expand_as(truth.mean), tensors["posterior_log_variance"])


@pytest.mark.parametrize("kind", ["raw", "clipped"])
def test_predicted_step_and_its_divergence(group, schedule, posterior, close, kind):
    tensors, theirs = group.tensors, group.under(f"{kind}.")
    estimate = estimate_of(group, schedule, posterior, clip=kind == "clipped")
    close(estimate.x0, theirs["pred_x0"], among=tensors["raw.pred_x0"])
    predicted = posterior.predicted(tensors["x_t"], estimate, tensors["t"])
    close(predicted.mean, theirs["mean"])
    close(predicted.log_var, theirs["log_variance"])
    truth = posterior.truth(tensors["x0"], tensors["x_t"], tensors["t"])
    close(kl_divergence(truth, predicted), theirs["kl_nats_per_pixel_channel"])


def test_variational_term_and_loss(group, schedule, posterior, close):
    tensors = group.tensors
    x0, x_t, t, noise = (tensors[name] for name in ("x0", "x_t", "t", "noise"))
    estimate = estimate_of(group, schedule, posterior)
    weight = group.notes["num_timesteps"] / 1000
    close(posterior.variational_bits(x0, x_t, estimate, t) * weight, tensors["vb_scaled_bits"])
    mse = (estimate.eps - noise).square().mean((1, 2, 3))
    close(mse, tensors["mse"])
    close(hybrid_loss(posterior, x0, x_t, estimate, t, mse, weight), tensors["loss"])


def test_mahalanobis_distance_and_its_gradient(group, close):
    theirs = group.under("padim.")
    features = theirs["features"].clone().requires_grad_()
    distance = squared_mahalanobis(features, theirs["mean"], theirs["inverse_covariance"])
    close(distance.detach(), theirs["squared_mahalanobis"])
    distance.sum().backward()
    close(features.grad, theirs["gradient"])
