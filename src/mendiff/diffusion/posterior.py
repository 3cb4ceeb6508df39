"""Gaussian posteriors of the reverse process, their KL divergence, and the loss with learned variance.

Source: Nichol & Dhariwal 2021 (improved DDPM), used by RAN. Divergences are in nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mendiff.diffusion.schedule import NoiseSchedule
from mendiff.types import Estimate

GREY_LEVEL = 1 / 255
"""Half the difference of adjacent 8-bit grey levels in [-1,1]."""


@dataclass(frozen=True)
class Gaussian:
    """Independent Gaussians per pixel and channel.

    Attributes:
        mean: (B,c,h,w).
        log_var: natural logarithm of the variance, (B,c,h,w) or broadcastable to it.
    """

    mean: Tensor
    log_var: Tensor


@dataclass(frozen=True)
class Pixels:
    """Conversion of latents to pixels in [-1,1]: mean + std * latents.

    Attributes:
        mean, std: numbers or 0-dimensional tensors.
    """

    mean: float | Tensor
    std: Tensor

    def of(self, latents: Tensor) -> Tensor:
        """Convert latents to pixels in [-1,1], (B,c,h,w)."""
        return self.mean + self.std * latents

    def of_gaussian(self, latents: Gaussian) -> Gaussian:
        """Convert a distribution of latents to the distribution of pixels."""
        return Gaussian(self.of(latents.mean), latents.log_var + 2 * self.std.log())


RAW = Pixels(0.0, torch.ones((), dtype=torch.float32, device="cpu"))
"""The identity: latents are pixels."""


class Posterior:
    """The reverse step from t to t - 1: q(x_{t-1} | x_t, x0), and its prediction with learned variance.

    Args:
        schedule: noise schedule with T timesteps; t = 0 leads to its final alpha_bar.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        alpha_bar = schedule.alpha_bar
        before = torch.cat([alpha_bar.new_tensor([schedule.final_alpha_bar]), alpha_bar[:-1]])
        beta = 1 - alpha_bar / before
        variance = beta * (1 - before) / (1 - alpha_bar)
        # If step 0 ends at x0 its variance is 0; the variance of step 1 is used instead (improved DDPM).
        first = variance[1:2] if len(variance) > 1 and variance[0] == 0 else variance[:1]
        columns = {
            "of_x0": beta * before.sqrt() / (1 - alpha_bar),
            "of_x_t": (1 - before) * (alpha_bar / before).sqrt() / (1 - alpha_bar),
            "least": torch.cat([first, variance[1:]]).clamp(min=1e-20).log(),
            "most": beta.log(),
        }
        self._rows = {name: row for row, name in enumerate(columns)}
        self._by_device = {torch.device("cpu"): torch.stack(list(columns.values()))}

    def truth(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Gaussian:
        """q(x_{t-1} | x_t, x0) (Ho et al. 2020, eq. 6 and 7), its log variance (B,1,1,1)."""
        mean = self._at("of_x0", t, x0) * x0 + self._at("of_x_t", t, x0) * x_t
        return Gaussian(mean, self._at("least", t, x0))

    def learned_log_var(self, between: Tensor, t: Tensor) -> Tensor:
        """Interpolate between the posterior's log variance (-1) and log beta (1), (B,c,h,w) (eq. 15)."""
        share = (between + 1) / 2
        return share * self._at("most", t, between) + (1 - share) * self._at("least", t, between)

    def predicted(self, x_t: Tensor, estimate: Estimate, t: Tensor) -> Gaussian:
        """p_theta(x_{t-1} | x_t) for an estimate; without a log_var the posterior's is used."""
        truth = self.truth(estimate.x0, x_t, t)
        return Gaussian(truth.mean, truth.log_var if estimate.log_var is None else estimate.log_var)

    def variational_bits(
        self, x0: Tensor, x_t: Tensor, estimate: Estimate, t: Tensor, pixels: Pixels = RAW
    ) -> Tensor:
        """The term of the variational bound at t in bits per pixel and channel, (B,).

        KL divergence of true and predicted posterior; at t = 0 the negative log-likelihood of grey levels.
        """
        predicted = self.predicted(x_t, estimate, t)
        divergence = kl_divergence(self.truth(x0, x_t, t), predicted).mean((1, 2, 3))
        decoded = grey_level_nll(pixels.of(x0), pixels.of_gaussian(predicted)).mean((1, 2, 3))
        return torch.where(t == 0, decoded, divergence) / math.log(2)

    def _at(self, name: str, t: Tensor, like: Tensor) -> Tensor:
        """A column of the float64 table at every t, (B,1,1,1), rounded once to the dtype of `like`."""
        table = self._by_device.get(t.device)
        if table is None:
            table = self._by_device[t.device] = self._by_device[torch.device("cpu")].to(t.device)
        return table[self._rows[name]][t][:, None, None, None].to(like.dtype)


def hybrid_loss(
    posterior: Posterior,
    x0: Tensor,
    x_t: Tensor,
    estimate: Estimate,
    t: Tensor,
    error: Tensor,
    vb_weight: float = 1.0,
    pixels: Pixels = RAW,
) -> Tensor:
    """Squared error plus a variational term that trains only the variance, (B,) (Nichol & Dhariwal, eq. 16).

    Args:
        posterior: posterior of the schedule.
        x0: clean latents, (B,c,h,w).
        x_t: noisy latents, (B,c,h,w).
        estimate: the network's estimate at x_t, with log_var.
        t: timesteps, (B,).
        error: squared error of the network's prediction, (B,).
        vb_weight: weight of the variational term, which is in bits per pixel and channel.
        pixels: conversion of latents to pixels.
    """
    frozen = Estimate(estimate.x0.detach(), estimate.eps.detach(), estimate.log_var)
    return error + vb_weight * posterior.variational_bits(x0, x_t, frozen, t, pixels)


def kl_divergence(truth: Gaussian, predicted: Gaussian) -> Tensor:
    """KL(truth || predicted) per pixel and channel in nats, (B,c,h,w), closed form, never negative."""
    ratio = truth.log_var - predicted.log_var
    moved = (truth.mean - predicted.mean).square() * torch.exp(-predicted.log_var)
    return 0.5 * (torch.expm1(ratio) - ratio + moved)


def grey_level_nll(x0: Tensor, predicted: Gaussian) -> Tensor:
    """Negative log-likelihood of x0's grey levels per pixel and channel in nats, (B,c,h,w).

    Args:
        x0: 8-bit pixels scaled to [-1,1]; the lowest and highest level include the tails.
        predicted: predicted distribution of the pixels.
    """
    inverse_std = torch.exp(-0.5 * predicted.log_var)
    from_mean = x0 - predicted.mean
    below_upper = _normal_cdf((from_mean + GREY_LEVEL) * inverse_std)
    below_lower = _normal_cdf((from_mean - GREY_LEVEL) * inverse_std)
    inside = torch.where(x0 > 0.999, 1 - below_lower, below_upper - below_lower)
    probability = torch.where(x0 < -0.999, below_upper, inside)
    return -probability.clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    # The tanh approximation of the reference implementation; its gradient is finite in the tails.
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
