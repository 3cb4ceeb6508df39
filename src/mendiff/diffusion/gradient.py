"""Gradient denoising: pull an image towards good features, and let the diffusion model clear the noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mendiff.errors import check_choices, check_count, check_range

GRID = 2.0**-16
"""Pixels in [-1,1] are rounded to multiples of this before every step: 0.002 grey levels."""


@dataclass(frozen=True)
class GradientConfig:
    """How gradient denoising walks (RAN, Alg. 1 and eq. 13).

    Attributes:
        steps: N, gradient steps.
        every: N_d, gradient steps between two reverse-diffusion steps.
        schedule: "constant", x <- omega x - s g (eq. 13), or "linear", x <- sqrt(1 - b_t) x - sqrt(b_t) g
            (Alg. 1) with b_t from `first_beta` at t = 1 to `last_beta` at t = N.
        step_size: s of eq. 13; moves of more than `largest_move` are cut, whatever the schedule.
        largest_move: of a pixel in [-1,1] in one step.
        weight_decay: omega of eq. 13.
        first_beta, last_beta: of Alg. 1, whose b_t the excerpt leaves open. Ours fall: large steps take the
            anomaly away, small ones let the image settle.
        reverse_t: timestep of the reverse-diffusion step, which takes the noise for that of x_t.
        dims: features of the Gaussians, drawn at random from all channels as in PaDiM.
        stride: pixels per position of the Gaussians.
    """

    steps: int = 40
    every: int = 8
    schedule: Literal["constant", "linear"] = "constant"
    step_size: float = 0.05
    largest_move: float = 0.02
    weight_decay: float = 0.9999
    first_beta: float = 0.005
    last_beta: float = 0.0001
    reverse_t: int = 10
    dims: int = 48
    stride: int = 8

    def __post_init__(self) -> None:
        for name in ("steps", "every", "reverse_t", "dims", "stride"):
            check_count(f"gradient.{name}", getattr(self, name), 1, 10_000)
        for name in ("step_size", "largest_move", "weight_decay"):
            check_range(f"gradient.{name}", getattr(self, name), 0)
        for name in ("first_beta", "last_beta"):
            check_range(f"gradient.{name}", getattr(self, name), 0, 1)
        check_choices(self, "gradient.")

    def factors(self, step: int) -> tuple[float, float]:
        """What the image and the gradient are multiplied by in a step from 1 to N: (omega, s) of its own."""
        if self.schedule == "constant":
            return self.weight_decay, self.step_size
        share = (step - 1) / max(self.steps - 1, 1)
        beta = (1 - share) * self.first_beta + share * self.last_beta
        return math.sqrt(1 - beta), math.sqrt(beta)


def gradient_denoise(
    x: Tensor,
    energy: Callable[[Tensor], Tensor],
    reverse: Callable[[Tensor], Tensor],
    config: GradientConfig,
) -> list[Tensor]:
    """Descend an energy with weight decay, with a reverse-diffusion step after every N_d steps.

    Args:
        x: images to start from, (B,c,h,w).
        energy: (B,c,h,w) to (B,), such as the Mahalanobis distance of deep features (eq. 12).
        reverse: one reverse-diffusion step, (B,c,h,w) to the same.
        config: see GradientConfig.

    The walk multiplies differences without bound, since most moves are as large as allowed. So that rounding
    errors, which hang on the number of threads, can't grow, pixels are rounded to GRID before every step: in
    float64 an error of 1e-15 then vanishes, but for the rare pixel that lies that near to the middle between
    two values.

    Returns:
        the images after every reverse step, the start first. Eq. 13 descends; the listing of Alg. 1 omits the
        sign.
    """
    walked = [x]
    for step in range(1, config.steps + 1):
        x = (x / GRID).round() * GRID
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(energy(leaf).sum(), leaf)
        decay, size = config.factors(step)
        x = decay * x - (size * gradient).clamp(-config.largest_move, config.largest_move)
        if step % config.every == 0:
            x = reverse(x)
            walked.append(x)
    return walked
